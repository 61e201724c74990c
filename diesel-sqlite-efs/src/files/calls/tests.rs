//! Each call fails once, in each way that a file system may fail it, while a connection is opened,
//! reads and writes. Acknowledged data is there, other data is there as a whole or not at all, the
//! error says so, and the connection works afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use rustix::io::Errno;
use tempfile::TempDir;

use self::faults::Fault;
use super::Call;
use crate::clock::{ManualClock, Timestamp};
use crate::config::{EfsConfig, ReadCheck};
use crate::connection::EfsSqliteConnection;
use crate::store::{InMemoryLockStore, LockStore, StoredItem};
use crate::testing::{HookedStore, Put};

const KEY: &str = "database#files";
const LEASE: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(1_800_000_000);

/// Counts the calls of one thread, and makes them fail.
pub(super) mod faults {
    use std::cell::RefCell;
    use std::io;

    use rustix::io::Errno;

    use super::super::Call;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Fault {
        NotDone(Errno),
        DoneBut(Errno),
    }

    #[derive(Debug, Default)]
    struct Plan {
        made: Vec<Call>,
        at: Option<(usize, Fault)>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(in super::super) fn call<T>(
        call: Call,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let fault = PLAN.with_borrow_mut(|plan| {
            let plan = plan.as_mut()?;
            plan.made.push(call);
            let (at, fault) = plan.at?;
            (at + 1 == plan.made.len()).then_some(fault)
        });
        match fault {
            None => make(),
            Some(Fault::NotDone(error)) => Err(error.into()),
            Some(Fault::DoneBut(error)) => make().and(Err(error.into())),
        }
    }

    /// Runs `work` with the fault at that call, counted from 0; returns the calls that were made.
    pub(super) fn with<T>(at: Option<(usize, Fault)>, work: impl FnOnce() -> T) -> (T, Vec<Call>) {
        let plan = Plan {
            made: Vec::new(),
            at,
        };
        PLAN.set(Some(plan));
        let result = work();
        let plan = PLAN.take().expect("nothing else sets it");
        (result, plan.made)
    }
}

impl Call {
    /// The ways in which it can fail without a false statement about what is there.
    fn faults(self) -> &'static [Fault] {
        use Fault::{DoneBut, NotDone};
        match self {
            Self::Open | Self::OpenDirectory | Self::Look => {
                &[NotDone(Errno::IO), NotDone(Errno::ACCESS)]
            }
            Self::Create => &[
                NotDone(Errno::IO),
                NotDone(Errno::ACCESS),
                NotDone(Errno::NOSPC),
            ],
            Self::Write => &[NotDone(Errno::IO), NotDone(Errno::NOSPC)],
            Self::Read | Self::Sync | Self::DropPages => &[NotDone(Errno::IO)],
            // A network file system repeats a call that got no answer.
            Self::Link => &[
                NotDone(Errno::IO),
                NotDone(Errno::ACCESS),
                NotDone(Errno::PERM),
                DoneBut(Errno::IO),
                DoneBut(Errno::EXIST),
            ],
            Self::Remove => &[
                NotDone(Errno::IO),
                NotDone(Errno::ACCESS),
                DoneBut(Errno::IO),
                DoneBut(Errno::NOENT),
            ],
        }
    }
}

#[test]
fn every_call_of_a_first_write_may_fail() {
    let mut template = furnished();
    template.files.remove(Path::new("app.db-lock-key"));
    let called = explore(&template, 0);
    for call in [Call::Create, Call::Write, Call::Sync, Call::Link] {
        assert!(called.contains(&call), "{called:?}");
    }
}

#[test]
fn every_call_of_a_write_may_fail() {
    let called = explore(&furnished(), 0);
    assert!(called.contains(&Call::DropPages), "{called:?}");
}

#[test]
fn every_call_of_a_recovery_may_fail() {
    let [hot, _] = crashed();
    explore(&hot, 0);
}

#[test]
fn every_call_at_the_journal_of_a_finished_transaction_may_fail() {
    let [_, finished] = crashed();
    let called = explore(&finished, 100);
    assert!(called.contains(&Call::Remove), "{called:?}");
}

#[test]
fn every_call_at_a_journal_that_never_became_hot_may_fail() {
    let mut template = furnished();
    (template.files).insert("app.db-journal".into(), vec![0; 512]);
    let called = explore(&template, 0);
    assert!(called.contains(&Call::Remove), "{called:?}");
}

/// The files that are there before.
#[derive(Debug, Clone)]
struct Template {
    files: BTreeMap<PathBuf, Vec<u8>>,
    item: Option<StoredItem>,
}

/// A directory, a lock table and a clock.
struct World {
    directory: TempDir,
    table: Arc<InMemoryLockStore>,
    clock: ManualClock,
    read_check: ReadCheck,
}

impl World {
    fn new(template: &Template, read_check: ReadCheck) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in &template.files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let clock = ManualClock::new(Timestamp::new(Duration::from_secs(1), START));
        let table = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
        table.set_item(KEY, template.item.clone());
        Self {
            directory,
            table,
            clock,
            read_check,
        }
    }

    fn config(&self, store: Arc<dyn LockStore>) -> EfsConfig {
        EfsConfig::new(self.directory.path().join("app.db"))
            .lock_store(store)
            .lock_key(KEY)
            .lock_expiration(LEASE)
            .lock_max_hold(LEASE)
            .lock_timeout(Duration::from_millis(20))
            .lock_read_check(self.read_check)
            .assume_network_file_system(true)
            .clock(self.clock.clock())
    }

    fn connect(&self) -> ConnectionResult<EfsSqliteConnection> {
        EfsSqliteConnection::connect(&self.config(self.table.clone())).map_err(Into::into)
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

/// One row, of value 1.
fn furnished() -> Template {
    let empty = Template {
        files: BTreeMap::new(),
        item: None,
    };
    let world = World::new(&empty, ReadCheck::Counter);
    let mut conn = world.connect().unwrap();
    conn.batch_execute("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)")
        .unwrap();
    drop(conn);
    Template {
        files: world.files(),
        item: world.table.item(KEY),
    }
}

/// The files that a writer of the value 100 leaves when it dies before its commit is recorded, and
/// after.
fn crashed() -> [Template; 2] {
    let world = Arc::new(World::new(&furnished(), ReadCheck::Counter));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let look = {
        let (world, seen) = (world.clone(), seen.clone());
        move || {
            let mut item = world.table.item(KEY);
            if let Some(item) = &mut item {
                item.expires_at = (START - LEASE).as_secs().to_string();
            }
            let files = world.files();
            seen.lock().unwrap().push(Template { files, item });
        }
    };
    // Takes a copy before and after the request that records a commit.
    let store = HookedStore::new(world.table.clone(), move |put: Put<'_>| {
        let records = put.item.committed.is_some();
        if records {
            look();
        }
        let answer = put.pass_on();
        if records {
            look();
        }
        answer
    });
    let mut conn = EfsSqliteConnection::connect(&world.config(store)).unwrap();
    conn.batch_execute("INSERT INTO t VALUES (100)").unwrap();
    drop(conn);
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.truncate(2);
    let journal = Path::new("app.db-journal");
    assert!(seen.iter().all(|seen| seen.files.contains_key(journal)));
    seen.try_into().unwrap()
}

/// Opens, reads, and writes the value 10.
fn run(world: &World) -> (Option<EfsSqliteConnection>, Result<(), String>) {
    let mut conn = match world.connect() {
        Ok(conn) => conn,
        Err(error) => return (None, Err(error.to_string())),
    };
    let result = sum(&mut conn)
        .and_then(|_| conn.batch_execute("INSERT INTO t VALUES (10)"))
        .map_err(|error| error.to_string());
    (Some(conn), result)
}

fn sum(conn: &mut EfsSqliteConnection) -> QueryResult<i64> {
    sql::<BigInt>("SELECT sum(n) FROM t").get_result(conn)
}

/// All calls, all faults; the calls that an undisturbed run makes. `recovered` is the change of a
/// crashed transaction that must be kept.
#[track_caller]
fn explore(template: &Template, recovered: i64) -> Vec<Call> {
    let mut all = Vec::new();
    let mut failures = Vec::new();
    for read_check in [ReadCheck::Counter, ReadCheck::Reopen] {
        let world = World::new(template, read_check);
        let ((_, result), calls) = faults::with(None, || run(&world));
        result.unwrap();
        let mut cases = 0;
        for (at, call) in calls.iter().enumerate() {
            for fault in call.faults() {
                cases += 1;
                if let Err(failure) = visit(template, read_check, at, *call, *fault, recovered) {
                    failures.push(format!("{read_check:?} {at} {call:?} {fault:?}: {failure}"));
                }
            }
        }
        println!("{read_check:?}: {} calls, {cases} faults", calls.len());
        all.extend(calls);
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
    all
}

fn visit(
    template: &Template,
    read_check: ReadCheck,
    at: usize,
    call: Call,
    fault: Fault,
    recovered: i64,
) -> Result<(), String> {
    let world = World::new(template, read_check);
    let ((conn, told), calls) = faults::with(Some((at, fault)), || run(&world));
    if calls.get(at) != Some(&call) {
        return Err(format!("another call: {:?}", calls.get(at)));
    }
    if let Err(error) = &told
        && !error.contains("app.db")
    {
        return Err(format!("does not say of what database: {error}"));
    }
    world.clock.advance(LEASE * 2);
    // The same connection goes on working.
    let told_text = format!("; told: {told:?}");
    let failed =
        |doing: &str, error: &dyn std::fmt::Display| format!("{doing}: {error}{told_text}");
    let mut again = 0;
    let patient = Duration::from_secs(20);
    if let Some(mut conn) = conn {
        conn.set_lock_timeout(patient);
        conn.batch_execute("INSERT INTO t VALUES (1000)")
            .map_err(|error| failed("the same connection", &error))?;
        again = 1000;
    }
    let mut other = world.connect().map_err(|error| failed("another", &error))?;
    other.set_lock_timeout(patient);
    let found = sum(&mut other).map_err(|error| failed("another reads", &error))?;
    let added = found - 1 - recovered - again;
    let right = match &told {
        Ok(()) => added == 10,
        Err(error) if error.contains("outcome of the commit is unknown") => {
            added == 0 || added == 10
        }
        Err(_) => added == 0,
    };
    if !right {
        return Err(failed("the sum is", &found));
    }
    other
        .batch_execute("INSERT INTO t VALUES (10000)")
        .map_err(|error| failed("another writes", &error))?;
    let integrity: String = sql::<Text>("PRAGMA integrity_check")
        .get_result(&mut other)
        .map_err(|error| failed("integrity_check", &error))?;
    if integrity != "ok" {
        return Err(failed("integrity_check", &integrity));
    }
    drop(other);
    if let Some(item) = world.table.item(KEY) {
        return Err(failed("the item is left", &format!("{item:?}")));
    }
    let mut left: Vec<_> = world.files().into_keys().collect();
    // A draft of the key file that could not be removed does no harm.
    left.retain(|name| {
        let is_draft = name.to_string_lossy().contains("-lock-key.");
        !(is_draft && call == Call::Remove)
    });
    if left != [Path::new("app.db"), Path::new("app.db-lock-key")] {
        return Err(failed("left", &format!("{left:?}")));
    }
    Ok(())
}
