//! A database, a lock table and a clock for one case, and those who use them.

use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_sqlite_efs::testing::{Delete, Hook, HookedStore, Put};
use diesel_sqlite_efs::{
    ConnectError, DeleteAnswer, EfsConfig, EfsSqliteConnection, InMemoryLockStore, ManualClock,
    PutAnswer, PutCondition, ReadCheck, StoreError, StoredItem, Timestamp,
};
use integration::recording::{Crash, HOLDER, OTHER, Plan, Recorder};
use integration::scratch::Scratch;

use crate::fixtures::hosts::execute;

const LEASE: Duration = Duration::from_secs(60);
/// The crate's thread that sends requests in the background.
const RENEWER: &str = "efs-lease-renewer";
/// By the store's clock, a leftover's lease is over.
const START: Duration = Duration::from_secs(1_800_000_000);
pub(super) const KEY: &str = "database#every-point";

/// What a case begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Template {
    database: Vec<u8>,
    journal: Option<Vec<u8>>,
    item: Option<StoredItem>,
}

impl Template {
    pub(super) fn is_new(&self) -> bool {
        self.database.is_empty()
    }
}

/// The settings that a pass is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The defaults.
    Plain,
    /// `assume_network_file_system(true)`, on all hosts.
    Network,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Network];
}

/// One database and its lock table.
#[derive(Debug)]
pub(super) struct RecordedFixture {
    scratch: Scratch,
    table: Arc<InMemoryLockStore>,
    /// Of the store, and of all hosts but a frozen one.
    clock: ManualClock,
    mode: Mode,
    /// It begins with an empty database.
    pub(super) new: bool,
}

impl RecordedFixture {
    pub(super) fn new(template: &Template) -> Arc<Self> {
        Self::in_mode(template, Mode::Plain)
    }

    pub(super) fn in_mode(template: &Template, mode: Mode) -> Arc<Self> {
        integration::recording::register();
        let scratch = Scratch::in_memory().expect("a directory");
        fs::write(scratch.database(), &template.database).expect("a database");
        if let Some(journal) = &template.journal {
            fs::write(scratch.journal(), journal).expect("a journal");
        }
        let clock = clock();
        let table = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
        table.set_item(KEY, template.item.clone());
        Arc::new(Self {
            scratch,
            table,
            clock,
            mode,
            new: template.is_new(),
        })
    }

    /// As the fixture is left, its leases over.
    pub(super) fn into_template(self: Arc<Self>) -> Template {
        let item = self.table.item(KEY).map(|mut item| {
            item.expires_at = (START - LEASE).as_secs().to_string();
            item
        });
        Template {
            database: fs::read(self.scratch.database()).expect("a database"),
            journal: fs::read(self.scratch.journal()).ok(),
            item,
        }
    }

    /// All leases end.
    pub(super) fn let_leases_end(&self) {
        self.clock.advance(LEASE * 2);
    }

    /// The host under test, with a clock of its own if that can stand still.
    pub(super) fn holder(&self, frozen: bool) -> RecordedHost {
        let clock = if frozen { clock() } else { self.clock.clone() };
        let recorder = Recorder::install(HOLDER, self.scratch.database());
        self.host(HOLDER, clock, Some(recorder))
    }

    /// A host whose operations are numbered.
    pub(super) fn successor(&self) -> RecordedHost {
        let recorder = Recorder::install(OTHER, self.scratch.database());
        self.host(OTHER, self.clock.clone(), Some(recorder))
    }

    /// A host that nothing happens to.
    pub(super) fn bystander(&self) -> RecordedHost {
        // A thread of the crate may still have the store of a host that has crashed in hand, and
        // its recorder with it.
        Recorder::forget(OTHER, self.scratch.database());
        self.host(OTHER, self.clock.clone(), None)
    }

    fn host(&self, vfs: &str, clock: ManualClock, recorder: Option<Arc<Recorder>>) -> RecordedHost {
        let numbered = Numbered {
            recorder: recorder.clone(),
        };
        let store = HookedStore::new(self.table.clone(), numbered);
        let config = EfsConfig::new(self.scratch.database())
            .lock_store(store)
            .lock_key(KEY)
            .lock_expiration(LEASE)
            .lock_max_hold(LEASE)
            .lock_timeout(Duration::from_secs(20))
            .lock_read_check(ReadCheck::Counter)
            .clock(clock.clock())
            .base_vfs(vfs);
        let config = match self.mode {
            Mode::Network => config.assume_network_file_system(true),
            Mode::Plain => config,
        };
        RecordedHost { config, recorder }
    }

    /// What the journal holds that stands there; no two transactions' are alike.
    pub(super) fn journal(&self) -> Option<Vec<u8>> {
        fs::read(self.scratch.journal()).ok()
    }

    /// Neither lock nor journal is left.
    pub(super) fn leftovers(&self) -> Result<(), String> {
        if let Some(item) = self.table.item(KEY) {
            return Err(format!("the lock item is left: {item:?}"));
        }
        if self.scratch.journal().exists() {
            return Err("the rollback journal is left".to_owned());
        }
        Ok(())
    }
}

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::new(Duration::from_secs(1), START))
}

/// A process, and what it does to its files.
#[derive(Debug)]
pub(super) struct RecordedHost {
    config: EfsConfig,
    recorder: Option<Arc<Recorder>>,
}

impl RecordedHost {
    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        self.recorder.as_ref().expect("a host that is watched")
    }

    pub(super) fn connect(&self) -> Result<EfsSqliteConnection, ConnectError> {
        EfsSqliteConnection::connect(&self.config)
    }

    /// Gives up soon where the lock is not to be had.
    pub(super) fn impatient(mut self) -> Self {
        self.config = self.config.lock_timeout(Duration::from_millis(20));
        self
    }
}

/// Numbers the requests to the lock table with the file operations.
///
/// Renewals are not numbered: they come at any time.
struct Numbered {
    recorder: Option<Arc<Recorder>>,
}

impl Numbered {
    fn numbered<T>(
        &self,
        name: &'static str,
        request: impl FnOnce() -> Result<T, StoreError>,
        grants: impl FnOnce(&T) -> bool,
    ) -> Result<T, StoreError> {
        let Some(recorder) = &self.recorder else {
            return request();
        };
        let gone = || StoreError::rejected("the process is gone");
        if thread::current().name() == Some(RENEWER) {
            return match recorder.crashed() {
                true => Err(gone()),
                false => request(),
            };
        }
        if !recorder.request(name) {
            return Err(gone());
        }
        let answer = request()?;
        recorder.answered(name, grants(&answer));
        Ok(answer)
    }
}

impl Hook for Numbered {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        let (name, acquires) = match put.condition {
            PutCondition::Ours { .. } => ("confirm", false),
            PutCondition::FreeOrOurs | PutCondition::FreeOrExpired { .. } => ("acquire", true),
            PutCondition::Unchanged(_) => ("take over", true),
            PutCondition::Ended => ("retire", false),
            other => unreachable!("{other:?}"),
        };
        self.numbered(
            name,
            || put.pass_on(),
            |answer| acquires && matches!(answer, PutAnswer::Stored { .. }),
        )
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        self.numbered("release", || delete.pass_on(), |_| false)
    }
}

/// Whether a transaction's changes are in the database, by what is known outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Outcome {
    Applied,
    NotApplied,
    Unknown,
}

impl Outcome {
    pub(super) fn told<T>(result: &Result<T, String>) -> Self {
        match result {
            Ok(_) => Self::Applied,
            Err(error) if error.contains("outcome of the commit is unknown") => Self::Unknown,
            Err(_) => Self::NotApplied,
        }
    }
}

/// What the successor does while the holder is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Conduct {
    Nothing,
    Commits,
    /// Is in mid-transaction, its journal not hot.
    Writes,
    /// Is in mid-commit, its journal hot, some of its pages written.
    IsCommitting,
    CrashesWriting,
    CrashesCommitting,
}

impl Conduct {
    pub(super) const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Commits,
        Self::Writes,
        Self::IsCommitting,
        Self::CrashesWriting,
        Self::CrashesCommitting,
    ];

    /// Whether its journal stands there while the holder goes on.
    pub(super) fn leaves_a_journal(self) -> bool {
        !matches!(self, Self::Nothing | Self::Commits)
    }

    /// Whether it dies before its commit is recorded.
    pub(super) fn crashes(self) -> bool {
        matches!(self, Self::CrashesWriting | Self::CrashesCommitting)
    }
}

/// How many pages a successor writes before it pauses or crashes in its commit.
const PAGES: usize = 2;

/// Another host, on a thread of its own.
#[derive(Debug)]
pub(super) struct Successor {
    thread: JoinHandle<Result<(), String>>,
    go_on: Sender<()>,
}

impl Successor {
    /// Comes back when the successor is where it is to be.
    pub(super) fn start(fixture: &Arc<RecordedFixture>, conduct: Conduct) -> Option<Self> {
        if conduct == Conduct::Nothing {
            return None;
        }
        let (arrived, arrival) = channel();
        let (go_on, signal) = channel();
        let fixture = fixture.clone();
        let thread = thread::spawn(move || Self::run(&fixture, conduct, arrived, signal));
        // An error: it has come to its end.
        let _ = arrival.recv();
        Some(Self { thread, go_on })
    }

    /// What became of it; a crash before the commit is recorded is a failure.
    pub(super) fn finish(self) -> Result<(), String> {
        // An error: it waits no more.
        let _ = self.go_on.send(());
        self.thread.join().expect("no panic")
    }

    fn run(
        fixture: &RecordedFixture,
        conduct: Conduct,
        arrived: Sender<()>,
        go_on: Receiver<()>,
    ) -> Result<(), String> {
        let host = fixture.successor();
        let mut conn = host.connect().map_err(|error| error.to_string())?;
        let recorder = host.recorder();
        // Kept until the end, at which the holder goes on in all other cases.
        let stop = {
            let go_on = Arc::new(Mutex::new(go_on));
            move || {
                // Errors: nobody waits any more.
                let _ = arrived.send(());
                let _ = go_on.lock().expect("no panic").recv();
            }
        };
        let result = conn.transaction(|conn| {
            write_as_successor(conn, fixture.new)?;
            let leaves = Crash::KeepsAll;
            match conduct {
                Conduct::Writes => stop(),
                Conduct::IsCommitting => recorder.plan(Plan::PauseInCommit {
                    pages: PAGES,
                    meanwhile: Box::new(stop.clone()),
                }),
                Conduct::CrashesWriting => recorder.crash(leaves),
                Conduct::CrashesCommitting => recorder.plan(Plan::CrashInCommit {
                    pages: PAGES,
                    leaves,
                }),
                Conduct::Nothing | Conduct::Commits => {}
            }
            QueryResult::Ok(())
        });
        if conduct.crashes() != recorder.crashed() {
            return Err(format!("the successor did not get there: {result:?}"));
        }
        drop(conn);
        drop(stop);
        result.map_err(|error| error.to_string())
    }
}

/// Touches the pages of all rows, but nothing that a holder's transaction changes. In an empty
/// database it creates the tables first.
pub(super) fn write_as_successor(conn: &mut EfsSqliteConnection, new: bool) -> QueryResult<()> {
    if new {
        conn.batch_execute(
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER, m INTEGER, filler BLOB); \
             CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, who TEXT); \
             INSERT OR IGNORE INTO t VALUES (1, 0, 0, zeroblob(1000))",
        )?;
    }
    execute(conn, "UPDATE t SET m = m + 1")?;
    execute(conn, "INSERT INTO log (who) VALUES ('s')")?;
    Ok(())
}

/// Writes to the log alone.
pub(super) fn log(conn: &mut EfsSqliteConnection, who: &str, new: bool) -> QueryResult<()> {
    if new {
        let table = "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, who TEXT)";
        execute(conn, table)?;
    }
    execute(conn, &format!("INSERT INTO log (who) VALUES ('{who}')")).map(drop)
}

/// A database that a crashed writer has left.
pub(super) fn left_by_a_crash(template: &Template, plan: Plan) -> Template {
    let fixture = RecordedFixture::new(template);
    let host = fixture.successor();
    let mut conn = host.connect().expect("a connection");
    let recorder = host.recorder();
    let result = conn.transaction(|conn| {
        write_as_successor(conn, fixture.new)?;
        recorder.plan(plan);
        QueryResult::Ok(())
    });
    result.expect_err("a crash");
    assert!(recorder.crashed());
    drop(conn);
    fixture.into_template()
}

/// What is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// What holders change.
    pub(super) rows: String,
    /// How many successors' transactions are there; an error says how one is there in part.
    pub(super) successors: Result<i64, String>,
    /// How often holders have written once more.
    pub(super) again: i64,
}

impl Seen {
    pub(super) fn by(conn: &mut EfsSqliteConnection, new: bool) -> QueryResult<Self> {
        if new {
            return Self::of_new(conn);
        }
        let text = |conn: &mut EfsSqliteConnection, query: &str| {
            sql::<Text>(query).get_result::<String>(conn)
        };
        let number = |conn: &mut EfsSqliteConnection, query: &str| {
            sql::<BigInt>(query).get_result::<i64>(conn)
        };
        let rows = text(
            conn,
            "SELECT (SELECT group_concat(id || ':' || n || ':' || length(filler)) FROM (SELECT * FROM t ORDER BY id)) \
             || (SELECT group_concat(sql) FROM (SELECT * FROM sqlite_master ORDER BY name))",
        )?;
        let logged = number(conn, "SELECT count(*) FROM log WHERE who = 's'")?;
        let (least, most) = (
            number(conn, "SELECT min(m) FROM t")?,
            number(conn, "SELECT max(m) FROM t")?,
        );
        let again = number(conn, "SELECT count(*) FROM log WHERE who = 'h'")?;
        let successors = if (least, most) == (logged, logged) {
            Ok(logged)
        } else {
            Err(format!(
                "{logged} in the log, {least} to {most} in the rows"
            ))
        };
        Ok(Self {
            rows,
            successors,
            again,
        })
    }

    /// The same in a database that was empty: holders create the table `first`, of one row.
    fn of_new(conn: &mut EfsSqliteConnection) -> QueryResult<Self> {
        let mut count = |query: &str| sql::<BigInt>(query).get_result::<i64>(conn);
        let mut rows_of = |table: &str, what: &str, others: &str| {
            let there = count(&format!(
                "SELECT count(*) FROM sqlite_master WHERE name = '{table}'"
            ))?;
            match there {
                0 => Ok(None),
                _ => count(&format!("SELECT {what} FROM {table} {others}")).map(Some),
            }
        };
        let first = rows_of("first", "count(*)", "")?;
        let logged = rows_of("log", "count(*)", "WHERE who = 's'")?;
        let in_rows = rows_of("t", "sum(m)", "")?;
        let again = rows_of("log", "count(*)", "WHERE who = 'h'")?;
        let (logged, in_rows) = (logged.unwrap_or(0), in_rows.unwrap_or(0));
        Ok(Self {
            rows: format!("{first:?}"),
            successors: if logged == in_rows {
                Ok(logged)
            } else {
                Err(format!("{logged} in the log, {in_rows} in the rows"))
            },
            again: again.unwrap_or(0),
        })
    }
}

/// Some pages of rows, with indexes, and free pages for VACUUM to remove.
pub(super) fn furnished() -> Template {
    let fixture = RecordedFixture::new(&Template::default());
    let mut conn = fixture.bystander().connect().expect("a connection");
    conn.batch_execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, m INTEGER, filler BLOB); \
         CREATE INDEX t_n ON t (n); \
         CREATE INDEX t_m ON t (m); \
         CREATE TABLE log (id INTEGER PRIMARY KEY, who TEXT); \
         WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 24) \
         INSERT INTO t (n, m, filler) SELECT i, 0, zeroblob(1000) FROM i; \
         DELETE FROM t WHERE id > 16",
    )
    .expect("tables");
    drop(conn);
    fixture.into_template()
}

#[test]
fn a_host_that_nothing_happens_to_is_not_taken_for_one_that_has_crashed() {
    let fixture = RecordedFixture::new(&furnished());
    let crashed = fixture.successor();
    let conn = crashed.connect().expect("a connection");
    crashed.recorder().crash(Crash::KeepsAll);
    drop(conn);
    crashed.connect().map(drop).expect_err("it is gone");
    let mut conn = fixture.bystander().connect().expect("a connection");
    Seen::by(&mut conn, false).expect("a readable database");
}
