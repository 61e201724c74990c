//! A process whose instructions are counted: so many times the same work, on this crate's connection
//! or on Diesel's own, on a file that is there.
//!
//! `counted ours|plain URL WORK TIMES`. What a process costs by itself is found by running it with two
//! numbers.

use std::env;
use std::process::ExitCode;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::prelude::*;
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_sqlite_efs::EfsSqliteConnection;

use self::schema::item;

mod schema {
    diesel::table! {
        item (id) {
            id -> Integer,
            n -> Integer,
            filler -> Text,
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [kind, url, work, times] = arguments.as_slice() else {
        eprintln!("usage: counted ours|plain URL WORK TIMES");
        return ExitCode::FAILURE;
    };
    match run(kind, url, work, times) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(kind: &str, url: &str, work: &str, times: &str) -> Outcome {
    let times = times.parse()?;
    if kind == "ours" {
        return repeat(&mut EfsSqliteConnection::establish(url)?, work, times);
    }
    let mut conn = SqliteConnection::establish(url)?;
    // What this crate sets for its connections.
    conn.batch_execute(
        "PRAGMA synchronous=EXTRA; PRAGMA temp_store=MEMORY; PRAGMA cache_spill=OFF; \
         PRAGMA cache_size=-65536",
    )?;
    repeat(&mut conn, work, times)
}

fn repeat<C>(conn: &mut C, work: &str, times: i32) -> Outcome
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    match work {
        "furnish" => {
            conn.batch_execute(
                "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, filler TEXT NOT NULL)",
            )?;
            insert(conn, times)?;
        }
        "select" => {
            for round in 0..times {
                let id = 1 + round % 50;
                let _: i32 = item::table.find(id).select(item::n).get_result(conn)?;
            }
        }
        "select-in-transaction" => conn.transaction(|conn| repeat(conn, "select", times))?,
        "update" => {
            for round in 0..times {
                let row = item::table.find(1 + round % 50);
                diesel::update(row).set(item::n.eq(round)).execute(conn)?;
            }
        }
        // All pages, past SQLite's cache.
        "scan" => {
            for _ in 0..times {
                conn.batch_execute("PRAGMA shrink_memory")?;
                let sum: Option<i64> = item::table.select(diesel::dsl::sum(item::n)).first(conn)?;
                assert!(sum.is_some());
            }
        }
        "rows" => {
            for _ in 0..times {
                let rows: Vec<(i32, i32, String)> = item::table.load(conn)?;
                assert!(!rows.is_empty());
            }
        }
        "insert" => insert(conn, times)?,
        other => return Err(format!("unknown work `{other}`").into()),
    }
    Ok(())
}

/// So many rows in one transaction.
fn insert<C>(conn: &mut C, times: i32) -> Outcome
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let filler = "x".repeat(100);
    conn.transaction::<_, diesel::result::Error, _>(|conn| {
        for n in 0..times {
            diesel::insert_into(item::table)
                .values((item::n.eq(n), item::filler.eq(&filler)))
                .execute(conn)?;
        }
        Ok(())
    })?;
    Ok(())
}
