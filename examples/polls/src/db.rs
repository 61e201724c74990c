//! The database: pooled connections, blocking work off the async threads, and a deadline for it.

use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::r2d2::Pool;
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use diesel_sqlite_efs::{
    ConfigError, ConnectError, EfsConfig, EfsConnectionManager, EfsSqliteConnection, LockError,
    LockName,
};
use thiserror::Error;

use crate::failure::Failure;
use crate::invocation::Deadline;
use crate::samples;

/// The schema, from the workspace's directory of migrations.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// How long a start waits for the lock: others may be at their migrations.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(8);

/// Why there is no database to work with.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot take a connection from the pool")]
    Pool(#[from] diesel::r2d2::PoolError),
    #[error("cannot bring the schema up to date: {0}")]
    Migration(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot prepare the database: {0}")]
    Query(#[from] diesel::result::Error),
}

/// The pools. Cloning them is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    readers: Pool<EfsConnectionManager>,
    /// Apart, so that those who wait for the lock keep no reader from a connection; the same pool
    /// where there is one connection in all.
    writers: Pool<EfsConnectionManager>,
}

impl Database {
    /// Opens the file, applies what is pending of the migrations, and fills a database that is new.
    ///
    /// All pending migrations run under one lease; if none is pending, no request is made. So every
    /// process may do this at every start. Returns the lock's name as well, if it has a table.
    pub(crate) fn open(
        config: &EfsConfig,
        connections: u32,
        samples: bool,
    ) -> Result<(Self, Option<LockName>), OpenError> {
        // A connection of its own: it waits longer than requests should.
        let patient = config
            .clone()
            .lock_timeout(MIGRATION_TIMEOUT)
            .lock_migration_timeout(MIGRATION_TIMEOUT);
        let mut conn = EfsSqliteConnection::connect(&patient)?;
        let applied = (conn.run_migrations(MIGRATIONS)).map_err(OpenError::Migration)?;
        for migration in &applied {
            tracing::info!(%migration, "applied");
        }
        if samples && !applied.is_empty() {
            samples::insert_if_empty(&mut conn)?;
        }
        let name = conn.lock_name().cloned();
        drop(conn);
        let pool = |connections| -> Result<_, OpenError> {
            Ok(EfsConnectionManager::new(config)?.pool(connections)?)
        };
        let writers = pool(connections.div_ceil(2))?;
        let readers = match connections {
            1 => writers.clone(),
            _ => pool(connections / 2)?,
        };
        Ok((Self { readers, writers }, name))
    }

    /// Does ahead of time what the first write would do before its first request to DynamoDB.
    pub(crate) fn warm_up(&self) -> Result<(), OpenError> {
        let mut conn = self.writers.get()?;
        Ok(conn.warm_up()?)
    }

    /// Runs `work`, which only reads; see [`write`](Self::write).
    pub(crate) async fn read<T, F>(&self, deadline: Deadline, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&mut EfsSqliteConnection) -> QueryResult<T> + Send + 'static,
    {
        run(self.readers.clone(), deadline, work).await
    }

    /// Runs `work` with a connection on a thread where blocking does no harm, and waits for its end.
    ///
    /// - Waiting for a connection and for the lock ends at the deadline, and no write is begun that
    ///   could not end before it: the process is not frozen, nor killed, inside a transaction.
    /// - The future must not be given up for a timeout: the work would go on without it. Nothing here
    ///   does; the deadline bounds the work itself.
    /// - If `work` panics, its connection is closed on the way: the transaction is rolled back and
    ///   the lock released before this returns.
    pub(crate) async fn write<T, F>(&self, deadline: Deadline, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&mut EfsSqliteConnection) -> QueryResult<T> + Send + 'static,
    {
        run(self.writers.clone(), deadline, work).await
    }

    /// Whether all migrations that this program knows are applied. Only reads.
    pub(crate) fn is_current(conn: &mut EfsSqliteConnection) -> QueryResult<bool> {
        diesel::table! {
            __diesel_schema_migrations (version) { version -> Text, run_on -> Timestamp, }
        }
        let applied: Vec<String> = __diesel_schema_migrations::table
            .select(__diesel_schema_migrations::version)
            .load(conn)?;
        let known: Vec<Box<dyn Migration<Sqlite>>> = MIGRATIONS
            .migrations()
            .map_err(diesel::result::Error::QueryBuilderError)?;
        let mut versions = known
            .iter()
            .map(|migration| migration.name().version().to_string());
        Ok(versions.all(|version| applied.contains(&version)))
    }
}

async fn run<T, F>(
    pool: Pool<EfsConnectionManager>,
    deadline: Deadline,
    work: F,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&mut EfsSqliteConnection) -> QueryResult<T> + Send + 'static,
{
    let span = tracing::Span::current();
    let task = tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let mut conn = pool.get_timeout(deadline.left()).map_err(Failure::pool)?;
        conn.set_deadline(Some(deadline.instant()));
        work(&mut conn).map_err(|error| Failure::query(error, conn.last_lock_error()))
    });
    task.await.unwrap_or_else(|died| Err(Failure::died(&died)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use axum::http::StatusCode;
    use diesel_sqlite_efs::{InMemoryLockStore, LockClient, StoredItem};
    use tempfile::TempDir;

    use super::*;
    use crate::schema::question;

    const KEY: &str = "db";

    struct DatabaseFixture {
        database: Database,
        store: Arc<InMemoryLockStore>,
        _directory: TempDir,
    }

    fn fixture() -> DatabaseFixture {
        fixture_with(1)
    }

    fn fixture_with(connections: u32) -> DatabaseFixture {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(InMemoryLockStore::new());
        let config = EfsConfig::new(directory.path().join("polls.db"))
            .lock_store(store.clone())
            .lock_key(KEY)
            .lock_timeout(Duration::from_secs(60));
        let (database, _) = Database::open(&config, connections, false).expect("a database");
        DatabaseFixture {
            database,
            store,
            _directory: directory,
        }
    }

    fn insert(conn: &mut EfsSqliteConnection) -> QueryResult<usize> {
        diesel::insert_into(question::table)
            .values(question::text.eq("?"))
            .execute(conn)
    }

    #[tokio::test]
    async fn after_a_panic_in_a_transaction_nothing_is_written_and_the_lock_is_free() {
        let fixture = fixture();
        let (database, store) = (&fixture.database, &fixture.store);
        let held = store.clone();
        let work = move |conn: &mut EfsSqliteConnection| {
            conn.immediate_transaction(|conn| {
                insert(conn)?;
                assert!(held.item(KEY).is_some(), "the lock is held");
                panic!("on purpose")
            })
        };
        let died = database.write::<(), _>(Deadline::after(Duration::from_secs(60)), work);
        let failure = died.await.expect_err("a failure");
        assert_eq!(failure.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(store.item(KEY), None, "released before the answer");
        let soon = Deadline::after(Duration::from_secs(60));
        let count = database.read(soon, |conn| question::table.count().get_result::<i64>(conn));
        assert_eq!(
            count.await,
            Ok(0),
            "rolled back, and the pool has a connection"
        );
    }

    #[tokio::test]
    async fn waiting_for_the_lock_ends_at_the_deadline_and_not_at_the_lock_timeout() {
        let fixture = fixture();
        let (database, store) = (&fixture.database, &fixture.store);
        let item = StoredItem::new("somebody", "4000000000");
        store.set_item(KEY, Some(item));
        let begun = Instant::now();
        let refused = database.write(Deadline::after(Duration::from_millis(300)), insert);
        let failure = refused.await.expect_err("a failure");
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(failure.retry_after().is_some());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_connection_that_comes_too_late_is_busy_and_not_an_error() {
        let fixture = fixture();
        let database = &fixture.database;
        let only = database.writers.get().expect("the only one");
        let refused = database.write(Deadline::after(Duration::from_millis(50)), insert);
        let failure = refused.await.expect_err("a failure");
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(only);
    }

    #[tokio::test]
    async fn writers_that_wait_for_the_lock_keep_no_reader_waiting() {
        let fixture = fixture_with(4);
        let database = &fixture.database;
        let builder = LockClient::builder().lock_store(fixture.store.clone());
        let client = builder.build().expect("a client");
        let lease = client.try_acquire(KEY).expect("the store").expect("free");
        let soon = || Deadline::after(Duration::from_secs(60));
        let writers: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn({
                    let database = database.clone();
                    async move { database.write(soon(), insert).await }
                })
            })
            .collect();
        while database.writers.state().idle_connections > 0
            || database.writers.state().connections < 2
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let count =
            |conn: &mut EfsSqliteConnection| question::table.count().get_result::<i64>(conn);
        for _ in 0..8 {
            assert_eq!(database.read(soon(), count).await, Ok(0));
        }
        lease.release().expect("the store");
        for writer in writers {
            assert_eq!(writer.await.expect("no panic"), Ok(1));
        }
        assert_eq!(database.read(soon(), count).await, Ok(8));
    }

    #[tokio::test]
    async fn a_schema_that_lacks_a_migration_is_not_current() {
        let fixture = fixture();
        let database = &fixture.database;
        let soon = || Deadline::after(Duration::from_secs(60));
        assert_eq!(database.read(soon(), Database::is_current).await, Ok(true));
        let forget = |conn: &mut EfsSqliteConnection| {
            let sql = "DELETE FROM __diesel_schema_migrations WHERE version = '20250115100050'";
            diesel::sql_query(sql).execute(conn)
        };
        assert_eq!(database.write(soon(), forget).await, Ok(1));
        assert_eq!(database.read(soon(), Database::is_current).await, Ok(false));
    }
}
