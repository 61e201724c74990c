//! A bb8 pool of diesel-async connections inside tokio: tasks that write at the same time, and one
//! that is given up in the middle of its transaction.

use std::error::Error;
use std::future::pending;
use std::time::Duration;

use diesel::prelude::*;
use diesel::result::Error::QueryBuilderError;
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::schema::counter;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");
const TASKS: i64 = 20;

mod schema {
    diesel::table! {
        counter (id) {
            id -> BigInt,
            value -> BigInt,
        }
    }
}

type Failure = Box<dyn Error + Send + Sync>;
type Connection = SyncConnectionWrapper<EfsSqliteConnection>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("app.db");
    // On EFS: /mnt/efs/app.db?lock_table=app-locks
    let url = format!("{}?lock=local&lock_timeout=30", path.display());
    let manager = AsyncDieselConnectionManager::<Connection>::new(url);
    let pool = Pool::builder().max_size(4).build(manager).await?;

    let mut conn = pool.get().await?;
    let migrate = |conn: &mut EfsSqliteConnection| {
        let applied = conn.run_migrations(MIGRATIONS).map_err(QueryBuilderError)?;
        Ok(applied.len())
    };
    let applied = conn.spawn_blocking(migrate).await?;
    println!("{applied} migrations applied");
    drop(conn);

    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(count(pool.clone())))
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("{TASKS} tasks have counted");

    let given_up = tokio::time::timeout(Duration::from_millis(100), count_and_hang(&pool)).await;
    if given_up.is_ok() {
        return Err("the transaction was not given up".into());
    }
    println!("one transaction was given up after its update");

    // The pool has closed the connection: the lock is free, and the update is undone.
    count(pool.clone()).await?;
    let mut conn = pool.get().await?;
    let value: i64 = counter::table
        .select(counter::value)
        .first(&mut *conn)
        .await?;
    println!("the counter says {value}");
    if value != TASKS + 1 {
        return Err(format!("it should say {}", TASKS + 1).into());
    }
    Ok(())
}

/// A whole transaction as one blocking task, which nothing can cut in two.
async fn count(pool: Pool<Connection>) -> Result<(), Failure> {
    let mut conn = pool.get().await?;
    Ok(conn.spawn_blocking(blocking::count).await?)
}

/// Diesel's own traits, whose methods have the names of diesel-async's.
mod blocking {
    use diesel::prelude::*;
    use diesel_sqlite_efs::EfsSqliteConnection;

    use crate::schema::counter;

    /// Reads, then writes: so the lock is taken first.
    pub(super) fn count(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        conn.immediate_transaction(|conn| {
            let value: i64 = counter::table.select(counter::value).first(conn)?;
            diesel::update(counter::table)
                .set(counter::value.eq(value + 1))
                .execute(conn)?;
            Ok(())
        })
    }
}

/// A transaction over several awaits, the last of which never ends: the lock is held meanwhile.
async fn count_and_hang(pool: &Pool<Connection>) -> Result<(), Failure> {
    let mut conn = pool.get().await?;
    conn.transaction(async |conn| {
        diesel::update(counter::table)
            .set(counter::value.eq(counter::value + 1))
            .execute(conn)
            .await?;
        pending().await
    })
    .await
}
