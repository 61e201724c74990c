//! A database and a lock table behind a proxy that adds a fixed delay, for one case.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use integration::dynamodb::{LockTable, env_for};
use integration::emulator::Emulator;
use integration::proxy::{Action, Operation, Proxy, Rule};
use integration::python;
use integration::scratch::Scratch;
use serde::{Deserialize, Serialize};

use benchmarks::figures::percentile;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// The lock table of every case.
pub(crate) const TABLE: &str = "benchmark-locks";

/// What both packages are told: for how long a lease lasts, in seconds, and a wait.
const LEASE: &str = "10";

/// Where the databases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// The system's directory for temporary files.
    Disk,
    /// A file system in memory, whose syncs take no time.
    Memory,
}

impl Place {
    pub(crate) fn scratch(self) -> io::Result<Scratch> {
        match self {
            Self::Disk => Scratch::new(),
            Self::Memory => Scratch::in_memory(),
        }
    }

    /// What it takes to write a page and have it synced: the median of fifty times.
    pub(crate) fn sync(self) -> io::Result<Duration> {
        let scratch = self.scratch()?;
        let mut file = File::create(scratch.file("page"))?;
        let mut times = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            file.write_all(&[1; 4096])?;
            file.sync_all()?;
            times.push(begun.elapsed());
        }
        times.sort();
        Ok(percentile(&times, 50))
    }
}

/// One emulator for all cases of a run.
pub(crate) struct Bench {
    emulator: Emulator,
    delay: Duration,
    place: Place,
    /// This very program. Asked for once: a part that builds the workspace may replace it, and the
    /// system then calls it deleted.
    program: PathBuf,
}

impl Bench {
    /// Starts the emulator; requests will take `delay` longer than it needs.
    pub(crate) fn new(delay: Duration, place: Place) -> Outcome<Self> {
        let emulator = Emulator::start()?;
        LockTable::create(emulator.endpoint(), TABLE)?;
        Ok(Self {
            emulator,
            delay,
            place,
            program: env::current_exe()?,
        })
    }

    /// A new database with the table `counter`, and a proxy of its own.
    pub(crate) fn fixture(&self) -> Outcome<BenchFixture> {
        self.fixture_with(self.delay)
    }

    /// The same with another delay.
    pub(crate) fn fixture_with(&self, delay: Duration) -> Outcome<BenchFixture> {
        let proxy = Proxy::start(self.emulator.endpoint())?;
        if !delay.is_zero() {
            proxy.rule(Rule::any(Action::Delay(delay)));
        }
        let scratch = self.place.scratch()?;
        let mut conn = plain(scratch.database())?;
        conn.batch_execute(
            "CREATE TABLE counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
             INSERT INTO counter VALUES (1, 0);",
        )?;
        let program = self.program.clone();
        Ok(BenchFixture {
            scratch,
            proxy,
            program,
        })
    }

    /// What a request takes as a client sees it: the median of fifty reads of an item.
    pub(crate) fn round_trip(&self) -> Outcome<Duration> {
        let fixture = self.fixture()?;
        let table = LockTable::open(&fixture.proxy.endpoint(), TABLE)?;
        table.item("nobody's")?;
        let mut times = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            table.item("nobody's")?;
            times.push(begun.elapsed());
        }
        times.sort();
        Ok(percentile(&times, 50))
    }
}

/// A case's database and proxy.
pub(crate) struct BenchFixture {
    scratch: Scratch,
    pub(crate) proxy: Proxy,
    program: PathBuf,
}

impl BenchFixture {
    pub(crate) fn database(&self) -> &Path {
        self.scratch.database()
    }

    /// The URL by which the crate opens the database, with the defaults of both packages and
    /// these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        let database = self.database().display();
        format!("{database}?lock_table={TABLE}&lock_expiration={LEASE}&{parameters}")
    }

    /// A command with the environment that leads to its proxy, for either package.
    pub(crate) fn command(&self, mut command: Command) -> Command {
        command
            .envs(env_for(&self.proxy.endpoint()))
            .env("SQLITE_LOCK_DYNAMODB_TABLE", TABLE)
            .env("SQLITE_LOCK_EXPIRATION", LEASE)
            // boto3 knows no `AWS_REGION`.
            .env("AWS_DEFAULT_REGION", "us-east-1");
        command
    }

    /// A process of this very program, in the role of a worker.
    pub(crate) fn worker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        self.command(command)
    }

    /// A process of the Python package, on its database.
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = python::interpreter();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        command.arg(scripts.join(script)).arg(self.database());
        command.args(arguments);
        self.command(command)
    }

    /// The number that every write adds one to, read by Diesel's own connection.
    pub(crate) fn counter(&self) -> Outcome<i64> {
        diesel::table! { counter (id) { id -> BigInt, n -> BigInt, } }
        let mut conn = plain(self.database())?;
        Ok(counter::table.select(counter::n).first(&mut conn)?)
    }

    /// The requests since the last were forgotten.
    pub(crate) fn requests(&self) -> Requests {
        let mut requests = Requests::default();
        for request in self.proxy.requests() {
            let refused = request.error.as_deref() == Some("ConditionalCheckFailedException");
            let count = match request.operation {
                Operation::PutItem if refused => &mut requests.refused,
                Operation::PutItem => &mut requests.puts,
                Operation::DeleteItem => &mut requests.deletes,
                Operation::Other(_) => &mut requests.others,
            };
            *count += 1;
        }
        requests
    }
}

/// Requests that reached DynamoDB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Requests {
    /// Puts that were applied: leases granted, commits confirmed.
    pub(crate) puts: u64,
    /// Puts whose condition did not hold.
    pub(crate) refused: u64,
    pub(crate) deletes: u64,
    pub(crate) others: u64,
}

impl Requests {
    pub(crate) fn all(self) -> u64 {
        self.puts + self.refused + self.deletes + self.others
    }
}

fn plain(database: &Path) -> Outcome<SqliteConnection> {
    let url = database.to_str().ok_or("a database's path is no text")?;
    let mut conn = SqliteConnection::establish(url)?;
    // A process of the case may just be closing its file.
    conn.batch_execute("PRAGMA busy_timeout=10000")?;
    Ok(conn)
}
