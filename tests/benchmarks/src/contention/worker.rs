//! A process that writes when it is told to, and says how that went.
//!
//! `ready` is its first line. Told `warm`, each of its threads writes once; told `go SECONDS`, they
//! write for so long. The answer is one line: a [`Tally`] for each thread.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::prelude::*;
use diesel_sqlite_efs::{EfsConfig, EfsConnectionManager, EfsSqliteConnection};
use serde::{Deserialize, Serialize};

use crate::fixture::Outcome;

diesel::table! {
    /// The number that every write adds one to.
    counter (id) {
        /// 1.
        id -> BigInt,
        /// The number of writes.
        n -> BigInt,
    }
}

/// What one writer has done. The Python worker writes the same.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// For each acknowledged write: how long the call took, and after what time it ended, in
    /// microseconds.
    pub(crate) written: Vec<(u64, u64)>,
    /// Errors, by their text up to the first colon or digit.
    pub(crate) failed: Vec<String>,
}

/// What a worker is started with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Work {
    /// The database, with the settings
    url: String,
    /// Milliseconds for which each transaction is open; 0: one statement in autocommit mode
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
    /// Threads that share a pool of as many connections; 0: one connection, no pool
    #[arg(long, default_value_t = 0)]
    threads: u32,
}

impl Work {
    pub(crate) fn serve(&self) -> Outcome<()> {
        if self.threads == 0 {
            let mut conn = EfsSqliteConnection::establish(&self.url)?;
            return obey(|until| vec![self.write_until(until, |write| write(&mut conn))]);
        }
        let config = EfsConfig::from_url(&self.url)?;
        let pool = EfsConnectionManager::new(&config)?.pool(self.threads)?;
        obey(|until| {
            thread::scope(|scope| {
                let writer = || {
                    self.write_until(until, |write| {
                        let mut conn = pool.get().map_err(|error| {
                            diesel::result::Error::QueryBuilderError(Box::new(error))
                        })?;
                        write(&mut conn)
                    })
                };
                let writers: Vec<_> = (0..self.threads).map(|_| scope.spawn(writer)).collect();
                let joined = writers.into_iter().map(|writer| writer.join());
                joined
                    .map(|tally| tally.expect("a writer does not panic"))
                    .collect()
            })
        })
    }

    /// Writes at least once.
    fn write_until(
        &self,
        until: Instant,
        mut with_connection: impl FnMut(
            &dyn Fn(&mut EfsSqliteConnection) -> QueryResult<()>,
        ) -> QueryResult<()>,
    ) -> Tally {
        let mut tally = Tally::default();
        let started = Instant::now();
        loop {
            let begun = Instant::now();
            match with_connection(&|conn| self.write(conn)) {
                Ok(()) => {
                    (tally.written).push((micros(begun.elapsed()), micros(started.elapsed())))
                }
                Err(error) => {
                    let text = error.to_string();
                    let end = text.find(|c: char| c == ':' || c.is_ascii_digit());
                    tally
                        .failed
                        .push(text[..end.unwrap_or(text.len())].to_owned());
                }
            }
            if Instant::now() >= until {
                return tally;
            }
        }
    }

    fn write(&self, conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        let add_one = diesel::update(counter::table).set(counter::n.eq(counter::n + 1));
        if self.hold_ms == 0 {
            return add_one.execute(conn).map(drop);
        }
        conn.immediate_transaction(|conn| {
            add_one.execute(conn)?;
            thread::sleep(Duration::from_millis(self.hold_ms));
            Ok(())
        })
    }
}

/// Until the parent closes the pipe.
fn obey(mut write_until: impl FnMut(Instant) -> Vec<Tally>) -> Outcome<()> {
    println!("ready");
    for line in io::stdin().lines() {
        let line = line?;
        let for_so_long = match line.split_once(' ') {
            Some(("go", seconds)) => Duration::from_secs_f64(seconds.parse()?),
            None if line == "warm" => Duration::ZERO,
            _ => return Err(format!("unknown command `{line}`").into()),
        };
        let tallies = write_until(Instant::now() + for_so_long);
        println!("{}", serde_json::to_string(&tallies)?);
    }
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
