//! A process that does one thing after the other, as it is told.

use std::error::Error;
use std::io;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::contention::worker::counter;
use crate::fixture::Outcome;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Obeys until the parent closes the pipe.
pub(crate) fn serve(url: &str) -> Outcome<()> {
    let mut conn = EfsSqliteConnection::establish(url)?;
    conn.run_migrations(MIGRATIONS)
        .map_err(|error| error.to_string())?;
    // Keeps the client of the lock table while the other connections come and go.
    let _first = conn;
    let mut conn = None;
    for line in io::stdin().lines() {
        match line?.as_str() {
            "open" => conn = Some(EfsSqliteConnection::establish(url)?),
            "close" => conn = None,
            verb => {
                let conn = conn.as_mut().ok_or("no connection is open")?;
                act(conn, verb).map_err(|error| error.to_string())?;
            }
        }
        println!("done");
    }
    Ok(())
}

fn act(conn: &mut EfsSqliteConnection, verb: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    match verb {
        "read" => read(conn).map(drop)?,
        "read-transaction" => conn.transaction(|conn| {
            read(conn)?;
            read(conn).map(drop)
        })?,
        "cte-read" => {
            let sql = "WITH one AS (SELECT n FROM counter WHERE id = 1) SELECT n FROM one";
            #[derive(QueryableByName)]
            struct Row {
                #[diesel(sql_type = BigInt)]
                n: i64,
            }
            let row: Row = diesel::sql_query(sql).get_result(conn)?;
            std::hint::black_box(row.n);
        }
        "pragma-read" => {
            #[derive(QueryableByName)]
            struct Row {
                #[diesel(sql_type = Integer)]
                user_version: i32,
            }
            let row: Row = diesel::sql_query("PRAGMA user_version").get_result(conn)?;
            std::hint::black_box(row.user_version);
        }
        "pending-migrations" => {
            let run = conn.run_migrations(MIGRATIONS)?;
            if !run.is_empty() {
                return Err("a migration was pending".into());
            }
        }
        "write" => add_one(conn)?,
        "write-transaction" => conn.immediate_transaction(two_writes)?,
        "write-lock" => conn.with_write_lock(|conn| {
            (0..5).try_for_each(|_| conn.immediate_transaction(two_writes))
        })?,
        other => return Err(format!("unknown command `{other}`").into()),
    }
    Ok(())
}

fn read(conn: &mut EfsSqliteConnection) -> QueryResult<i64> {
    counter::table.select(counter::n).first(conn)
}

fn add_one(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
    diesel::update(counter::table)
        .set(counter::n.eq(counter::n + 1))
        .execute(conn)
        .map(drop)
}

fn two_writes(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
    read(conn)?;
    add_one(conn)?;
    add_one(conn)
}
