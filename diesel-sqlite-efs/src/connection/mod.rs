//! The connection: Diesel's traits over `SqliteConnection`, opened through the VFS.

mod cursor;
pub(crate) mod diagnosis;
pub(crate) mod hold;
#[cfg(feature = "migrations")]
mod migrations;
mod open;
mod passed_on;
#[cfg(feature = "r2d2")]
pub(crate) mod pool;
mod retry;
mod state;
mod transaction_manager;
mod transaction_state;
mod transactions;

use std::fmt;
use std::time::{Duration, Instant};

use diesel::connection::{
    CacheSize, Connection, ConnectionSealed, DefaultLoadingMode, Instrumentation, LoadConnection,
    MultiConnectionHelper, SimpleConnection, TransactionManager, TransactionManagerStatus,
    WithMetadataLookup,
};
use diesel::dsl::{Find, Update};
use diesel::expression::{MixedAggregates, QueryMetadata, ValidGrouping, is_aggregate};
use diesel::migration::{CREATE_MIGRATIONS_TABLE, MigrationConnection};
use diesel::prelude::*;
use diesel::query_builder::{AsChangeset, IntoUpdateTarget, Query, QueryFragment, QueryId};
use diesel::query_dsl::UpdateAndFetchResults;
use diesel::query_dsl::methods::{ExecuteDsl, FindDsl, LoadQuery};
use diesel::sql_types::TypeMetadata;
use diesel::sqlite::{Sqlite, SqliteConnection};

pub use self::cursor::EfsCursor;
use self::open::{Opener, establishing};
use self::state::ConnectionState;
pub use self::transaction_manager::EfsTransactionManager;
pub use self::transaction_state::TransactionState;
use crate::config::EfsConfig;
use crate::error::{ConnectError, LockError, LockName};
use crate::telemetry::stats::LockStats;

/// A [`SqliteConnection`] to a database on a network file system that many hosts write to.
///
/// It takes the write lock of the database when SQLite first needs to write in a transaction, and
/// releases it when the transaction ends; what only reads takes no lock and sends no request.
/// Everything else is Diesel's: the query builder, `sql_query`, transactions, migrations, pools.
///
/// # Opening
/// [`establish`](Connection::establish) takes a URL with the settings as parameters, and the
/// environment for what the URL does not say; [`connect`](Self::connect) takes an [`EfsConfig`].
/// Opening sends no request and takes no lock, unless a crashed writer has left a hot journal.
///
/// ```
/// use diesel::prelude::*;
/// use diesel_sqlite_efs::EfsSqliteConnection;
///
/// # let directory = std::env::temp_dir().join(format!("efs-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let path = directory.join("app.db");
/// # let path = path.display();
/// // In production: "/mnt/efs/app.db?lock_table=app-locks"
/// let mut conn = EfsSqliteConnection::establish(&format!("{path}?lock=local"))?;
/// diesel::sql_query("CREATE TABLE visits (page TEXT NOT NULL)").execute(&mut conn)?;
/// conn.transaction(|conn| {
///     diesel::sql_query("INSERT INTO visits VALUES ('home')").execute(conn)
/// })?;
/// # drop(conn);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What the lock has to say arrives as [`diesel::result::Error::DatabaseError`]. Errors of kind
/// `SerializationFailure` mean: nothing was changed, run the whole transaction again.
/// [`last_lock_error`](Self::last_lock_error) has the typed value.
///
/// After a statement whose failure made SQLite end the transaction, all statements until the end
/// of the transaction's closure fail with [`LockError::Aborted`], so that nothing it still does
/// can reach the database by itself.
///
/// # Threads and runtimes
/// Like Diesel's connections it is used by one thread at a time and blocks it. Inside a tokio
/// runtime use `spawn_blocking`, or diesel-async's `SyncConnectionWrapper`. Do not open and close
/// the database file in the same process by other means than SQLite: closing any descriptor of a
/// file drops the process's POSIX locks on it (<https://sqlite.org/howtocorrupt.html>).
pub struct EfsSqliteConnection {
    /// Dropped first: closing it ends a transaction and releases its lease.
    inner: SqliteConnection,
    state: ConnectionState,
}

/// Connections may be handed from thread to thread, as pools do.
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<EfsSqliteConnection>();
};

impl EfsSqliteConnection {
    /// Opens the database as configured; what the configuration does not say is taken from the
    /// environment.
    ///
    /// # Errors
    /// [`ConnectError::Config`] names the setting or what is wrong with the file;
    /// [`ConnectError::Lock`] means that a hot journal had to be rolled back first and the lock
    /// was not to be had: try again if it [is retryable](LockError::is_retryable).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection, InMemoryLockStore};
    ///
    /// # let path = std::env::temp_dir().join(format!("efs-doc-connect-{}.db", std::process::id()));
    /// let config = EfsConfig::new(&path).lock_store(Arc::new(InMemoryLockStore::new()));
    /// let conn = EfsSqliteConnection::connect(&config)?;
    /// # drop(conn);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(config: &EfsConfig) -> Result<Self, ConnectError> {
        Self::open(&Opener::new(config)?)
    }

    fn open(opener: &Opener) -> Result<Self, ConnectError> {
        let (inner, state) = opener.open()?;
        Ok(Self { inner, state })
    }

    /// No statement waits for locks beyond this moment, and no write is begun that cannot end
    /// before it; `None` for no such limit, the default.
    ///
    /// A write makes three requests to the lock table. What is left
    /// has to suffice for them at the pace of the fastest answer so far, else the write fails with
    /// [`LockError::DeadlinePassed`]: the margin only refuses what cannot succeed, so that one slow
    /// answer does not keep later writes out. Give it the end of a Lambda invocation, less the time
    /// that the application's last steps and the file operations of a large commit need.
    ///
    /// A transaction that has begun to write is not ended by it: cut short, its outcome would be
    /// known no sooner.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        if let Some(lock) = self.state.lock() {
            lock.set_deadline(deadline);
        }
    }

    /// How long a statement waits for locks before it fails, in place of the setting
    /// `lock_timeout`. `PRAGMA busy_timeout = <milliseconds>` does the same.
    ///
    /// Zero means one attempt, which fails at once if another holds the lock. Where the timeout is
    /// shorter than an answer of the lock table may take, the first answer is awaited for up to 1 s,
    /// and no longer than the [deadline](Self::set_deadline).
    pub fn set_lock_timeout(&mut self, timeout: Duration) {
        if let Some(lock) = self.state.lock() {
            lock.set_timeout(timeout);
        }
    }

    /// Does ahead of time what the first write would do before its first request to DynamoDB:
    /// reads the AWS configuration, finds credentials, sets up TLS. Nothing is sent to the lock
    /// table. Does nothing for other stores.
    ///
    /// # Errors
    /// [`LockError::Store`] says what is missing in the AWS configuration.
    pub fn warm_up(&mut self) -> Result<(), LockError> {
        self.state.warm_up()
    }

    /// The last error that the lock caused on this connection, if any.
    ///
    /// Most have made a statement fail before. [`LockError::NotReleased`] has not: what it follows
    /// is done, but other writers wait for the lease's end.
    pub fn last_lock_error(&self) -> Option<&LockError> {
        self.state.last_lock_error()
    }

    /// Why the last statement failed (or BEGIN, COMMIT, the acquisition of the lock), if the lock was
    /// the cause: the typed value behind the error that Diesel returned, also where a layer above has
    /// made a text of it, as Diesel's migrations do. A rollback since then does not change it.
    ///
    /// `None` after a statement that succeeded, or failed for a reason of its own.
    pub fn lock_failure(&self) -> Option<&LockError> {
        self.state.lock_failure()
    }

    /// What the lock has cost this connection so far.
    pub fn lock_stats(&self) -> LockStats {
        (self.state.lock()).map_or_else(LockStats::default, |lock| lock.client().stats())
    }

    /// Which lock keeps other writers out: its key and its table, for who wants to look at the item.
    /// `None` where no table is asked: a database without a lock, such as `:memory:`, and `lock=local`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection, InMemoryLockStore};
    ///
    /// # let path = std::env::temp_dir().join(format!("efs-doc-name-{}.db", std::process::id()));
    /// let config = EfsConfig::new(&path).lock_key("app");
    /// let conn = EfsSqliteConnection::connect(&config.clone().lock_local())?;
    /// assert_eq!(conn.lock_name(), None);
    /// # drop(conn);
    /// let store = Arc::new(InMemoryLockStore::new());
    /// let conn = EfsSqliteConnection::connect(&config.lock_store(store))?;
    /// assert_eq!(conn.lock_name().map(|lock| lock.key.as_str()), Some("app"));
    /// # drop(conn);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_name(&self) -> Option<&LockName> {
        let lock = self.state.lock()?;
        (!lock.is_local()).then(|| &**lock.lock_name())
    }

    /// Diesel's own connection underneath, still protected by the VFS: for what Diesel offers for
    /// `SqliteConnection` alone: `get_results` of a batch insert with RETURNING, and the
    /// `register_impl` of SQL functions.
    ///
    /// Errors of the lock arrive as SQLite's ("database is locked", "disk I/O error") through it.
    /// Transactions are best begun and ended on the outer connection, which keeps account of them;
    /// one that is begun here inside an outer one is a savepoint of it. Once SQLite has ended the
    /// outer transaction by itself, nothing can be written here either until its closure ends.
    pub fn sqlite_mut(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }
}

impl SimpleConnection for EfsSqliteConnection {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        (self.state).run(&mut self.inner, |inner| inner.batch_execute(query))
    }
}

impl ConnectionSealed for EfsSqliteConnection {}

impl Connection for EfsSqliteConnection {
    type Backend = Sqlite;
    type TransactionManager = EfsTransactionManager;

    /// Opens the database at a path, a `file:` or `sqlite://` URL, with settings as its
    /// parameters: see [`EfsConfig`].
    fn establish(database_url: &str) -> ConnectionResult<Self> {
        establishing(database_url, || {
            let config = EfsConfig::from_url(database_url).map_err(ConnectError::from)?;
            Ok(Self::connect(&config)?)
        })
    }

    fn execute_returning_count<T>(&mut self, source: &T) -> QueryResult<usize>
    where
        T: QueryFragment<Sqlite> + QueryId,
    {
        (self.state).run(&mut self.inner, |inner| {
            inner.execute_returning_count(source)
        })
    }

    fn transaction_state(&mut self) -> &mut TransactionState {
        self.state.transaction()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.inner.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.inner.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.inner.set_prepared_statement_cache_size(size);
    }
}

impl TransactionManager<EfsSqliteConnection> for EfsTransactionManager {
    type TransactionStateData = TransactionState;

    fn begin_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        Self::begin(&mut conn.inner, &mut conn.state, "BEGIN")
    }

    fn rollback_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        Self::rollback(&mut conn.inner, &mut conn.state)
    }

    fn commit_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        Self::commit(&mut conn.inner, &mut conn.state)
    }

    fn transaction_manager_status_mut(
        conn: &mut EfsSqliteConnection,
    ) -> &mut TransactionManagerStatus {
        conn.state.transaction().levels()
    }
}

impl LoadConnection<DefaultLoadingMode> for EfsSqliteConnection {
    type Cursor<'conn, 'query> = EfsCursor<'conn, 'query>;
    type Row<'conn, 'query> = <SqliteConnection as LoadConnection>::Row<'conn, 'query>;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> QueryResult<EfsCursor<'conn, 'query>>
    where
        T: Query + QueryFragment<Sqlite> + QueryId + 'query,
        Sqlite: QueryMetadata<T::SqlType>,
    {
        self.state.report_wait(&mut self.inner, None);
        self.state.begin_statement()?;
        match LoadConnection::load(&mut self.inner, source) {
            Ok(rows) => Ok(EfsCursor::new(rows, &mut self.state)),
            Err(error) => self.state.finish_statement(Err(error)),
        }
    }
}

impl WithMetadataLookup for EfsSqliteConnection {
    fn metadata_lookup(&mut self) -> &mut <Sqlite as TypeMetadata>::MetadataLookup {
        self.inner.metadata_lookup()
    }
}

impl MultiConnectionHelper for EfsSqliteConnection {
    fn to_any<'a>(
        lookup: &mut <Sqlite as TypeMetadata>::MetadataLookup,
    ) -> &mut (dyn std::any::Any + 'a) {
        lookup
    }

    fn from_any(
        lookup: &mut dyn std::any::Any,
    ) -> Option<&mut <Sqlite as TypeMetadata>::MetadataLookup> {
        lookup.downcast_mut()
    }
}

impl MigrationConnection for EfsSqliteConnection {
    fn setup(&mut self) -> QueryResult<usize> {
        diesel::sql_query(CREATE_MIGRATIONS_TABLE).execute(self)
    }
}

/// What `save_changes` needs, as Diesel does it for `SqliteConnection`.
impl<'b, Changes, Output> UpdateAndFetchResults<Changes, Output> for EfsSqliteConnection
where
    Changes: Copy + Identifiable,
    Changes:
        AsChangeset<Target = <Changes as diesel::associations::HasTable>::Table> + IntoUpdateTarget,
    Changes::Table: FindDsl<Changes::Id>,
    Update<Changes, Changes>: ExecuteDsl<EfsSqliteConnection>,
    Find<Changes::Table, Changes::Id>: LoadQuery<'b, EfsSqliteConnection, Output>,
    <Changes::Table as Table>::AllColumns: ValidGrouping<()>,
    <<Changes::Table as Table>::AllColumns as ValidGrouping<()>>::IsAggregate:
        MixedAggregates<is_aggregate::No, Output = is_aggregate::No>,
{
    fn update_and_fetch(&mut self, changeset: Changes) -> QueryResult<Output> {
        diesel::update(changeset).set(changeset).execute(self)?;
        FindDsl::find(Changes::table(), changeset.id()).get_result(self)
    }
}

impl fmt::Debug for EfsSqliteConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfsSqliteConnection")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
