//! The same ledger on Diesel's own connection: what becomes of it without this crate.

use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sqlite::SqliteConnection;

use crate::console::{Answer, Console, Failure};
use crate::database::{LEDGER, is_whole, query, until, write_entry};

/// After a failure: what is broken stays broken, and need not be asked a thousand times a second.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(2);

pub(crate) fn serve(path: &str, console: &mut Console) {
    let opened = SqliteConnection::establish(path).and_then(|mut conn| {
        conn.batch_execute("PRAGMA busy_timeout=2000")
            .map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(conn)
    });
    let mut conn = match opened {
        Ok(conn) => conn,
        Err(error) => return console.answer(Err(Failure::other(error))),
    };
    console.answer(Ok("open".to_owned()));
    while let Some(command) = console.next() {
        let answer = run(&mut conn, &command);
        console.answer(answer);
    }
}

fn run(conn: &mut SqliteConnection, command: &str) -> Answer {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let result = match verb {
        "execute" => sql_query(rest).execute(conn).map(|rows| rows.to_string()),
        "batch" => conn.batch_execute(rest).map(|()| String::new()),
        "create-ledger" => conn.batch_execute(LEDGER).map(|()| String::new()),
        "immediate" => conn
            .batch_execute("BEGIN IMMEDIATE")
            .map(|()| String::new()),
        "commit" => commit(conn).map(|()| String::new()),
        "query" => query(conn, rest),
        "write-ledger" => return Ok(write_ledger(conn, rest)),
        "read-ledger" => return Ok(read_ledger(conn, rest)),
        _ => return Err(Failure::other(format!("unknown command `{verb}`"))),
    };
    result.map_err(|error| Failure::of_diesel(&error, None))
}

/// As Diesel's own transactions, which roll back what cannot be committed.
fn commit(conn: &mut SqliteConnection) -> QueryResult<()> {
    let committed = conn.batch_execute("COMMIT");
    if committed.is_err() {
        // There may be nothing left to roll back; the first error is the one that tells.
        let _ = conn.batch_execute("ROLLBACK");
    }
    committed
}

/// `WRITER SECONDS`: writes for so long, whatever fails.
fn write_ledger(conn: &mut SqliteConnection, arguments: &str) -> String {
    let (writer, seconds) = arguments.split_once(' ').unwrap_or((arguments, "1"));
    let until = until(seconds);
    let (mut acknowledged, mut failed) = (0, 0);
    for sequence in 1.. {
        if Instant::now() >= until {
            break;
        }
        match conn.immediate_transaction(|conn| write_entry(conn, writer, sequence)) {
            Ok(()) => acknowledged += 1,
            Err(_) => {
                failed += 1;
                thread::sleep(PAUSE_AFTER_FAILURE);
            }
        }
    }
    format!("{acknowledged} acknowledged, {failed} failed")
}

/// `SECONDS`: reads for so long, whatever fails.
fn read_ledger(conn: &mut SqliteConnection, seconds: &str) -> String {
    let until = until(seconds);
    let (mut whole, mut torn, mut failed) = (0, 0, 0);
    while Instant::now() < until {
        match conn.transaction(is_whole) {
            Ok(true) => whole += 1,
            Ok(false) => torn += 1,
            Err(_) => {
                failed += 1;
                thread::sleep(PAUSE_AFTER_FAILURE);
            }
        }
    }
    format!("{whole} whole, {torn} torn, {failed} failed")
}
