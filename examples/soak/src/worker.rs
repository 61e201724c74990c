//! What the processes do: write, read, audit.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diesel::result::{DatabaseErrorKind, Error};
use diesel_sqlite_efs::{Clock, EfsConfig, EfsSqliteConnection, LockError, ReadCheck, Timestamp};
use integration::clock;
use quickstart::ledger;

use crate::told::{Audit, Runs, Told};
use crate::{Task, Work};

/// As short as is allowed with some room, so that many end.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Longer than a dead writer's lease.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure that will not be over at once, such as DynamoDB being away.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);
const READS_TOLD_EVERY: Duration = Duration::from_millis(200);

/// Does the work until there is nobody left to be told.
pub(crate) fn main(work: &Work) -> ExitCode {
    let orders = Orders::default();
    let clock = orders.clock();
    let threads = threads_of(&work.name);
    let connect = || loop {
        let config = EfsConfig::new(&work.db)
            .lock_table(&work.table)
            .lock_expiration(LEASE)
            .lock_timeout(LOCK_TIMEOUT)
            .lock_read_check(ReadCheck::Counter)
            .lock_holder(&work.name)
            .clock(clock.clone());
        match EfsSqliteConnection::connect(&config) {
            Ok(conn) => return conn,
            // A dead writer's journal, and DynamoDB away: as with any first statement.
            Err(_) => thread::sleep(PAUSE_AFTER_FAILURE),
        }
    };
    let told = match work.task {
        Task::Audit => audit(&mut connect()),
        Task::Write => {
            orders.listen();
            thread::scope(|scope| {
                let threads = (1..=threads).map(|first| {
                    let (connect, orders) = (&connect, &orders);
                    let sequences = (i64::from(first)..).step_by(threads.into());
                    scope.spawn(move || write(&mut connect(), &work.name, sequences, orders))
                });
                let threads: Vec<_> = threads.collect();
                // A panic has been printed, and is told as this process's failure.
                let mut told = threads.into_iter().map(|thread| thread.join());
                told.try_for_each(|told| told.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            })
        }
        Task::Read => {
            orders.listen();
            read(&mut connect(), &orders)
        }
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// How many threads of a process write, each with a connection of its own: every other process hands
/// its leases on among them.
fn threads_of(name: &str) -> u8 {
    let number = name.split('.').next();
    let number: u16 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
    if number.is_multiple_of(2) { 3 } else { 1 }
}

/// Those of the process's writes, one after the other.
fn write(
    conn: &mut EfsSqliteConnection,
    name: &str,
    sequences: impl Iterator<Item = i64>,
    orders: &Orders,
) -> io::Result<()> {
    for sequence in sequences {
        Told::Begun { sequence }.send()?;
        loop {
            if orders.end() {
                return Ok(());
            }
            // Every fourth begins as a reader does, and may find that it has read too early.
            let written = if fastrand::u8(..4) == 0 {
                diesel::Connection::transaction(conn, |conn| ledger::write(conn, name, sequence))
            } else {
                conn.immediate_transaction(|conn| ledger::write(conn, name, sequence))
            };
            match written {
                Ok(()) => Told::Written { sequence }.send()?,
                Err(error) if is_retryable(&error) => continue,
                Err(error) => {
                    let unknown = matches!(
                        conn.last_lock_error(),
                        Some(LockError::OutcomeUnknown { .. })
                    );
                    if unknown {
                        Told::Unknown { sequence }.send()?;
                    } else {
                        let error = error.to_string();
                        Told::Refused { sequence, error }.send()?;
                    }
                    thread::sleep(PAUSE_AFTER_FAILURE);
                }
            }
            break;
        }
    }
    Ok(())
}

fn read(conn: &mut EfsSqliteConnection, orders: &Orders) -> io::Result<()> {
    let (mut whole, mut retries) = (0, 0);
    let mut told = Instant::now();
    let mut newest = 0;
    while !orders.end() {
        match ledger::read(conn) {
            Ok(snapshot) if !snapshot.is_whole() => Told::Broken {
                what: format!("a torn read: {snapshot}"),
            }
            .send()?,
            Ok(snapshot) if snapshot.counter < newest => Told::Broken {
                what: format!("the counter was {newest} and then {}", snapshot.counter),
            }
            .send()?,
            Ok(snapshot) => {
                whole += 1;
                newest = snapshot.counter;
            }
            Err(error) => {
                retries += 1;
                if !is_retryable(&error) {
                    thread::sleep(PAUSE_AFTER_FAILURE);
                }
            }
        }
        if told.elapsed() >= READS_TOLD_EVERY {
            Told::Read { whole, retries }.send()?;
            (whole, retries) = (0, 0);
            told = Instant::now();
        }
    }
    Told::Read { whole, retries }.send()
}

fn audit(conn: &mut EfsSqliteConnection) -> io::Result<()> {
    if let Err(error) = conn.run_migrations(ledger::MIGRATIONS) {
        let what = format!("the database cannot be set up: {error}");
        return Told::Broken { what }.send();
    }
    for line in io::stdin().lock().lines() {
        line?;
        let audit = loop {
            match look(conn) {
                Ok(audit) => break audit,
                Err(Error::DatabaseError(_, information))
                    if information.message().contains("malformed") =>
                {
                    let what = format!("the auditor reads: {}", information.message());
                    Told::Broken { what }.send()?;
                }
                // A dead writer's journal, and DynamoDB away.
                Err(_) => {}
            }
            thread::sleep(PAUSE_AFTER_FAILURE);
        };
        Told::Audited(Box::new(audit)).send()?;
    }
    Ok(())
}

fn look(conn: &mut EfsSqliteConnection) -> diesel::QueryResult<Audit> {
    diesel::Connection::transaction(conn, |conn| {
        let entries = ledger::entries(conn, "")?.into_iter();
        Ok(Audit {
            snapshot: ledger::read(conn)?,
            duplicates: ledger::duplicates(conn)?,
            integrity: ledger::integrity(conn)?,
            found: entries
                .map(|(name, numbers)| (name, Runs::of(&numbers)))
                .collect(),
        })
    })
}

fn is_retryable(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)
    )
}

/// What the parent wants: an end, or another time of day.
#[derive(Debug, Default)]
struct Orders {
    end: Arc<AtomicBool>,
    /// How far the wall clock is off, in seconds.
    offset: Arc<AtomicI64>,
}

impl Orders {
    /// Follows the system's clocks, the wall clock at the distance that the parent wants.
    fn clock(&self) -> Clock {
        let start = Instant::now();
        let offset = Arc::clone(&self.offset);
        clock::following(move || {
            let wall = (SystemTime::now().duration_since(UNIX_EPOCH)).unwrap_or_default();
            let offset = offset.load(Ordering::Relaxed);
            let by = Duration::from_secs(offset.unsigned_abs());
            let wall = if offset < 0 {
                wall.saturating_sub(by)
            } else {
                wall + by
            };
            Timestamp::new(start.elapsed(), wall)
        })
    }

    fn listen(&self) {
        let (end, offset) = (Arc::clone(&self.end), Arc::clone(&self.offset));
        thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if let Ok(seconds) = line.parse() {
                    offset.store(seconds, Ordering::Relaxed);
                }
            }
            end.store(true, Ordering::Relaxed);
        });
    }

    fn end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }
}
