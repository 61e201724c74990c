//! What the other processes do: prepare the database, write, read, audit.

use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diesel::result::{DatabaseErrorKind, Error};
use quickstart::ledger;

use crate::access::{Access, in_words};
use crate::args::{Task, Work};
use crate::locked::Locked;
use crate::message::{GO, Message};
use crate::unlocked::Unlocked;
use crate::with_causes;

/// How often a reader tells what it has read.
const READS_REPORTED_EVERY: Duration = Duration::from_millis(100);

/// After a failure without guarantees: what is broken stays broken, and need not be asked ten
/// thousand times a second.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Does the work and tells the parent about it. The exit status says only whether the parent was
/// there to be told; whether the work went well is in the messages.
pub(crate) fn main(work: &Work) -> ExitCode {
    let told = match work.table {
        Some(_) => run::<Locked>(work),
        None => run::<Unlocked>(work),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run<A: Access>(work: &Work) -> io::Result<()> {
    let conn = match A::open(work) {
        Ok(conn) => conn,
        Err(error) => return failed(with_causes(&*error)),
    };
    match work.task {
        Task::Prepare => prepare::<A>(conn),
        Task::Audit => audit::<A>(conn, &work.name),
        Task::Write => match Stop::after_go()? {
            Some(stop) => Session::<A> { work, conn, stop }.write(),
            None => Ok(()),
        },
        Task::Read => match Stop::after_go()? {
            Some(stop) => Session::<A> { work, conn, stop }.read(),
            None => Ok(()),
        },
    }
}

fn prepare<A: Access>(mut conn: A::Connection) -> io::Result<()> {
    match ledger::is_of_another_application(&mut conn) {
        Ok(false) => {}
        Ok(true) => {
            let problem = "the database holds the tables of another application";
            return failed(problem.to_owned());
        }
        Err(error) => return failed(in_words(&error)),
    }
    match A::migrate(&mut conn) {
        Ok(()) => done::<A>(&conn),
        Err(error) => failed(with_causes(&*error)),
    }
}

fn audit<A: Access>(mut conn: A::Connection, prefix: &str) -> io::Result<()> {
    let conn = &mut conn;
    match ledger::entries(conn, prefix) {
        Ok(entries) => {
            for (writer, sequences) in entries {
                Message::Found { writer, sequences }.send()?;
            }
        }
        Err(error) => failed(in_words(&error))?,
    }
    Message::Audited {
        snapshot: ledger::read(conn).map_err(|error| in_words(&error)),
        duplicates: ledger::duplicates(conn).map_err(|error| in_words(&error)),
        integrity: ledger::integrity(conn).map_err(|error| in_words(&error)),
    }
    .send()?;
    done::<A>(conn)
}

/// A writer or reader at work.
struct Session<'a, A: Access> {
    work: &'a Work,
    conn: A::Connection,
    stop: Stop,
}

impl<A: Access> Session<'_, A> {
    fn write(mut self) -> io::Result<()> {
        for sequence in 1.. {
            let asked = Instant::now();
            let mut retries = 0;
            let wait = loop {
                if self.stop.requested() {
                    return done::<A>(&self.conn);
                }
                let mut wait = Duration::ZERO;
                let written = A::write(&mut self.conn, |conn| {
                    wait = asked.elapsed();
                    ledger::write(conn, &self.work.name, sequence)
                });
                match written {
                    Ok(()) => break Some(wait),
                    Err(error) if is_retryable(&error) => retries += 1,
                    Err(error) if A::GUARDED => return failed(in_words(&error)),
                    Err(error) => {
                        self.start_afresh(&error)?;
                        break None;
                    }
                }
            };
            if let Some(wait) = wait {
                Message::Written {
                    sequence,
                    wait_micros: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
                    retries,
                }
                .send()?;
            }
        }
        Ok(())
    }

    fn read(mut self) -> io::Result<()> {
        let mut reads = Reads::default();
        while !self.stop.requested() {
            match ledger::read(&mut self.conn) {
                Ok(snapshot) if snapshot.is_whole() => reads.whole += 1,
                Ok(snapshot) => {
                    reads.torn += 1;
                    reads.example = Some(snapshot.to_string());
                }
                Err(error) if is_retryable(&error) => reads.retries += 1,
                Err(error) if A::GUARDED => {
                    reads.send()?;
                    return failed(in_words(&error));
                }
                Err(error) => self.start_afresh(&error)?,
            }
            if reads.since.elapsed() >= READS_REPORTED_EVERY {
                std::mem::take(&mut reads).send()?;
            }
        }
        reads.send()?;
        done::<A>(&self.conn)
    }

    /// Tells of the failure and opens the database again, for as long as that takes.
    fn start_afresh(&mut self, error: &Error) -> io::Result<()> {
        failed(in_words(error))?;
        while !self.stop.requested() {
            thread::sleep(PAUSE_AFTER_FAILURE);
            match A::open(self.work) {
                Ok(conn) => {
                    self.conn = conn;
                    break;
                }
                Err(error) => failed(with_causes(&*error))?,
            }
        }
        Ok(())
    }
}

/// Reads that the parent was not told of yet.
struct Reads {
    since: Instant,
    whole: u64,
    torn: u64,
    retries: u64,
    example: Option<String>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            whole: 0,
            torn: 0,
            retries: 0,
            example: None,
        }
    }
}

impl Reads {
    fn send(self) -> io::Result<()> {
        Message::Read {
            whole: self.whole,
            torn: self.torn,
            retries: self.retries,
            example: self.example,
        }
        .send()
    }
}

/// Whether the parent has asked for the end.
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells the parent that all is ready and waits for its word; none if it wants nothing done.
    fn after_go() -> io::Result<Option<Self>> {
        Message::Ready.send()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        if line.trim_end() != GO {
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let requested = Arc::clone(&stop);
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                // Nothing more is sent; this returns when the parent closes the pipe, or dies.
                let _ = io::stdin().read_to_end(&mut Vec::new());
                requested.store(true, Ordering::Relaxed);
            })?;
        Ok(Some(Self(stop)))
    }

    fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn is_retryable(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)
    )
}

fn failed(error: String) -> io::Result<()> {
    Message::Failed { error }.send()
}

fn done<A: Access>(conn: &A::Connection) -> io::Result<()> {
    Message::Done {
        lock_requests: A::lock_requests(conn),
    }
    .send()
}
