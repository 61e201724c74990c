//! A connection that does what it is told, and a ledger that shows what was lost or torn.

use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::prelude::*;
use diesel::result::Error;
use diesel::row::{Field, NamedRow, Row};
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection};

use crate::console::{Answer, Console, Failure, is_retryable};
use crate::{Options, migrations};

/// The counter is the number of entries, and the balances add up to 8000.
pub(crate) const LEDGER: &str =
    include_str!("../../../../migrations/2025-01-15-100100_create_ledger/up.sql");
const ACCOUNTS: i64 = 8;
const SUM: i64 = 8_000;

pub(crate) fn serve(url: &str, options: &Options, console: &mut Console) {
    let config = match EfsConfig::from_url(url) {
        Ok(config) => config.clock(options.clock()),
        Err(error) => return console.answer(Err(Failure::other(error))),
    };
    let config = match options.get("base-vfs") {
        Some(name) => config.base_vfs(name),
        None => config,
    };
    let mut conn = match open(&config) {
        Ok(conn) => conn,
        Err(failure) => return console.answer(Err(failure)),
    };
    console.answer(Ok("open".to_owned()));
    while let Some(command) = console.next() {
        if command == "reopen" {
            drop(conn);
            conn = match open(&config) {
                Ok(conn) => conn,
                Err(failure) => return console.answer(Err(failure)),
            };
            console.answer(Ok("open".to_owned()));
        } else {
            let answer = run(&mut conn, &command, console);
            console.answer(answer);
        }
    }
}

fn open(config: &EfsConfig) -> Result<EfsSqliteConnection, Failure> {
    use diesel_sqlite_efs::ConnectError;
    EfsSqliteConnection::connect(config).map_err(|error| match &error {
        ConnectError::Lock(error) => Failure::from(error),
        other => Failure::other(other),
    })
}

fn run(conn: &mut EfsSqliteConnection, command: &str, console: &mut Console) -> Answer {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    if let Some(answer) = migrations::run(conn, verb, rest) {
        return answer;
    }
    let result = match verb {
        "execute" => sql_query(rest).execute(conn).map(|rows| rows.to_string()),
        "batch" => conn.batch_execute(rest).map(|()| String::new()),
        "query" => query(conn, rest),
        "time" => time(conn, rest),
        "begin" => ended(conn.transaction(|conn| transaction(conn, console))),
        "immediate" => ended(conn.immediate_transaction(|conn| transaction(conn, console))),
        "create-ledger" => conn.batch_execute(LEDGER).map(|()| String::new()),
        "write-ledger" => write_ledger(conn, rest),
        "read-ledger" => read_ledger(conn, rest),
        "last-lock-error" => {
            return match conn.last_lock_error() {
                Some(error) => Err(error.into()),
                None => Ok("none".to_owned()),
            };
        }
        "exhaust" => return exhaust(),
        "stats" => Ok(format!("{:?}", conn.lock_stats())),
        _ => return Err(Failure::other(format!("unknown command `{verb}`"))),
    };
    result.map_err(|error| Failure::of_diesel(&error, conn.last_lock_error()))
}

/// Runs commands in a transaction, up to `commit` or `rollback`, whose answer is the transaction's.
fn transaction(conn: &mut EfsSqliteConnection, console: &mut Console) -> QueryResult<()> {
    console.answer(Ok("begun".to_owned()));
    while let Some(command) = console.next() {
        match command.as_str() {
            "commit" => return Ok(()),
            "rollback" => return Err(Error::RollbackTransaction),
            other => {
                let answer = run(conn, other, console);
                console.answer(answer);
            }
        }
    }
    Err(Error::RollbackTransaction)
}

fn ended(result: QueryResult<()>) -> QueryResult<String> {
    match result {
        Ok(()) => Ok("committed".to_owned()),
        Err(Error::RollbackTransaction) => Ok("rolled back".to_owned()),
        Err(error) => Err(error),
    }
}

/// Takes memory until there is none, which ends the process: to be told only to one that may have
/// no more.
fn exhaust() -> Answer {
    const MORE_THAN_IS_LEFT: usize = 256 << 20;
    let mut taken = Vec::new();
    while taken.len() < MORE_THAN_IS_LEFT {
        taken.extend_from_slice(std::hint::black_box(&[1; 4096]));
    }
    Err(Failure::other("there is memory left"))
}

/// The rows, each its columns with `|` between, with `; ` between the rows.
pub(crate) fn query<C>(conn: &mut C, sql: &str) -> QueryResult<String>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    struct Line(String);
    impl QueryableByName<Sqlite> for Line {
        fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> deserialize::Result<Self> {
            let columns = (0..row.field_count()).map(|index| {
                let field = Row::get(row, index).ok_or("no such column")?;
                <Option<String> as FromSql<Nullable<Text>, Sqlite>>::from_nullable_sql(
                    field.value(),
                )
                .map(|text: Option<String>| text.unwrap_or_else(|| "NULL".to_owned()))
            });
            let columns: deserialize::Result<Vec<_>> = columns.collect();
            Ok(Self(columns?.join("|")))
        }
    }
    let lines: Vec<Line> = sql_query(sql).load(conn)?;
    let lines: Vec<_> = lines.into_iter().map(|line| line.0).collect();
    Ok(lines.join("; "))
}

/// `TIMES SQL`: runs the query so often; answers how many nanoseconds the fastest run took, which
/// other processes have disturbed least.
fn time(conn: &mut EfsSqliteConnection, arguments: &str) -> QueryResult<String> {
    let (times, sql) = arguments.split_once(' ').unwrap_or(("1", arguments));
    let times: u32 = times.parse().unwrap_or(1);
    let mut fastest = Duration::MAX;
    for _ in 0..times {
        let begun = Instant::now();
        query(conn, sql)?;
        fastest = fastest.min(begun.elapsed());
    }
    Ok(fastest.as_nanos().to_string())
}

diesel::table! {
    counter (id) {
        id -> BigInt,
        value -> BigInt,
    }
}

diesel::table! {
    entry (writer, sequence) {
        writer -> Text,
        sequence -> BigInt,
        counter_value -> BigInt,
    }
}

diesel::table! {
    account (id) {
        id -> BigInt,
        balance -> BigInt,
    }
}

/// `WRITER SECONDS`: writes for so long; answers how many writes were acknowledged.
fn write_ledger(conn: &mut EfsSqliteConnection, arguments: &str) -> QueryResult<String> {
    let (writer, seconds) = arguments.split_once(' ').unwrap_or((arguments, "1"));
    let until = until(seconds);
    let (mut acknowledged, mut retries) = (0, 0);
    let mut tried = false;
    while Instant::now() < until {
        let sequence = acknowledged + 1;
        // Every fourth write begins as a reader does, and may find that it has read too early.
        let written = if sequence % 4 == 0 && !tried {
            conn.transaction(|conn| write_entry(conn, writer, sequence))
        } else {
            conn.immediate_transaction(|conn| write_entry(conn, writer, sequence))
        };
        tried = written.is_err();
        match written {
            Ok(()) => acknowledged += 1,
            Err(error) if is_retryable(&error) => retries += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{acknowledged} acknowledged, {retries} retries"))
}

/// Reads, changes here, and writes back: whoever writes over another's write in between loses it.
pub(crate) fn write_entry<C>(conn: &mut C, writer: &str, sequence: i64) -> QueryResult<()>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let value: i64 = counter::table.select(counter::value).first(conn)?;
    diesel::update(counter::table)
        .set(counter::value.eq(value + 1))
        .execute(conn)?;
    diesel::insert_into(entry::table)
        .values((
            entry::writer.eq(writer),
            entry::sequence.eq(sequence),
            entry::counter_value.eq(value + 1),
        ))
        .execute(conn)?;
    let (from, to) = (1 + value % ACCOUNTS, 1 + (value + 1) % ACCOUNTS);
    for (id, change) in [(from, -1), (to, 1)] {
        let account = account::table.find(id);
        let balance: i64 = account.select(account::balance).first(conn)?;
        diesel::update(account)
            .set(account::balance.eq(balance + change))
            .execute(conn)?;
    }
    Ok(())
}

/// `SECONDS`: reads for so long; answers how many reads were whole and how many were torn.
fn read_ledger(conn: &mut EfsSqliteConnection, seconds: &str) -> QueryResult<String> {
    let until = until(seconds);
    let (mut whole, mut torn, mut retries) = (0, 0, 0);
    while Instant::now() < until {
        match conn.transaction(is_whole) {
            Ok(true) => whole += 1,
            Ok(false) => torn += 1,
            Err(error) if is_retryable(&error) => retries += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{whole} whole, {torn} torn, {retries} retries"))
}

/// Whether the balances, the entries and the counter fit each other; for a transaction.
pub(crate) fn is_whole<C>(conn: &mut C) -> QueryResult<bool>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let balances: Vec<i64> = account::table.select(account::balance).load(conn)?;
    // Gives a writer time to commit between the two.
    thread::sleep(Duration::from_millis(1));
    let entries: i64 = entry::table.count().get_result(conn)?;
    let counter: i64 = counter::table.select(counter::value).first(conn)?;
    Ok(balances.iter().sum::<i64>() == SUM && counter == entries)
}

pub(crate) fn until(seconds: &str) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds.parse().unwrap_or(1.0))
}
