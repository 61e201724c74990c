//! Processes of the Python package and of this crate on one file, by one lock table: what holds, and
//! what that package does not allow.

use std::process::Command;
use std::thread;
use std::time::Duration;

use integration::dynamodb::env_for;
use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Purpose, Rule};
use integration::python;

use crate::fixtures::workers::{LONG, WorkerProcess, WorkersFixture, number_before, proxy};

const ADD_ONE: &str = "execute UPDATE counter SET value = value + 1";
const ADD_TEN: &str = "execute UPDATE counter SET value = value + 10";
const VALUE: &str = "query SELECT value FROM counter";
/// Longer than a test takes.
const LONG_LEASE: &str = "60";
/// Short to wait for, and long enough to reach the commit point on a busy machine.
const SHORT_LEASE: &str = "5";
const PATIENT: &str = "lock_timeout=20&lock_expiration=60";
/// Long enough to be answered on a busy machine.
const IMPATIENT: &str = "lock_timeout=2";

#[test]
fn each_waits_for_the_others_lease() {
    let fixture = furnished(WorkersFixture::new("python-both-ways"));
    let mut ours = fixture.open(IMPATIENT);
    let mut theirs = python(&fixture, LONG_LEASE, "timeout=1");

    theirs.ok("begin");
    theirs.ok(ADD_ONE);
    let failure = ours.busy(ADD_ONE);
    failure.assert_retryable("Busy");
    assert_eq!(theirs.ok("commit"), "committed");
    ours.ok(ADD_ONE);

    ours.ok("begin");
    ours.ok(ADD_ONE);
    assert_eq!(theirs.fails(ADD_ONE).kind, "DatabaseBusy");
    ours.ok("commit");
    theirs.ok(ADD_ONE);

    assert_eq!(ours.ok(VALUE), "4");
    fixture.assert_whole();
}

#[test]
fn a_killed_python_process_blocks_for_its_lease_and_leaves_nothing_of_its_transaction() {
    let fixture = furnished(WorkersFixture::new("python-killed"));
    let mut theirs = python(&fixture, SHORT_LEASE, "timeout=3");
    theirs.ok("begin");
    theirs.ok(ADD_TEN);
    theirs.kill();
    let mut ours = fixture.open(PATIENT);
    ours.ok(ADD_ONE);
    assert!(ours.ok("stats").contains("takeovers: 1"));
    assert_eq!(ours.ok(VALUE), "1");
    fixture.assert_whole();
}

#[test]
fn a_python_process_rolls_back_what_a_killed_process_of_ours_has_left() {
    let fixture = furnished(WorkersFixture::new("python-after-a-kill"));
    let proxy = proxy();
    let mut ours = fixture.open_behind(&proxy, &format!("lock_expiration={SHORT_LEASE}"));
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold));
    ours.tell(ADD_TEN);
    confirmation.wait_for_hits(1, LONG);
    ours.kill();
    assert!(
        fixture.has_journal(),
        "its pages are written, and its journal is hot"
    );
    fixture.wait_until_expired();
    python(&fixture, LONG_LEASE, "timeout=3").ok(ADD_ONE);
    assert_eq!(fixture.open("").ok(VALUE), "1");
    fixture.assert_whole();
}

#[test]
fn a_frozen_process_of_ours_does_its_python_successor_no_harm() {
    let fixture = furnished(WorkersFixture::without_file_locks("python-after-a-freeze"));
    let mut ours = fixture.open(&format!("lock_expiration={SHORT_LEASE}"));
    ours.ok("begin");
    ours.ok(ADD_TEN);
    ours.pause();
    fixture.wait_until_expired();
    python(&fixture, LONG_LEASE, "timeout=3").ok(ADD_ONE);
    ours.resume();
    let failure = ours.fails("commit");
    failure.assert_retryable("LeaseLost");
    assert_eq!(ours.ok(VALUE), "1");
    ours.ok(ADD_ONE);
    fixture.assert_whole();
}

/// The commit record protects among processes of ours: that package replaces the item, and it is gone.
#[test]
fn a_python_successor_undoes_a_recorded_commit_whose_outcome_is_told_as_unknown() {
    let fixture = furnished(WorkersFixture::without_file_locks(
        "python-drops-the-record",
    ));
    let proxy = proxy();
    let mut ours = fixture.open_behind(&proxy, &format!("lock_expiration={SHORT_LEASE}"));
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::HoldAnswer));
    ours.tell(ADD_TEN);
    confirmation.wait_for_hits(1, LONG);
    wait_until(LONG, "the commit is recorded", || {
        fixture.attribute("committed").is_some()
    });
    ours.pause();
    fixture.wait_until_expired();
    python(&fixture, LONG_LEASE, "timeout=3").ok(ADD_ONE);
    confirmation.release();
    ours.resume();
    let failure = ours.answer().expect_err("its successor has undone it");
    assert_eq!(failure.kind, "OutcomeUnknown", "{failure:?}");
    assert_eq!(ours.ok(VALUE), "1");
    fixture.assert_whole();
}

/// What stops a Python process that is frozen past its lease is SQLite's file lock, which it still holds.
#[test]
fn a_frozen_python_process_is_stopped_by_file_locks_where_they_work() {
    let fixture = furnished(WorkersFixture::new("python-frozen"));
    let mut theirs = python(&fixture, SHORT_LEASE, "timeout=3");
    theirs.ok("begin");
    theirs.ok(ADD_TEN);
    theirs.pause();
    fixture.wait_until_expired();
    let mut ours = fixture.open("lock_timeout=2");
    let mut failure = ours.fails(ADD_ONE);
    // A busy machine may let no answer of the store come in time.
    wait_until(LONG * 2, "the store is heard", || {
        let is_unheard = failure.kind == "Store" && failure.retryable;
        if is_unheard {
            failure = ours.fails(ADD_ONE);
        }
        !is_unheard
    });
    failure.assert_retryable("FileLocked");
    theirs.resume();
    // Refuses the commit for its lost lease; whether the row is there it leaves to chance.
    assert_eq!(theirs.fails("commit").kind, "LockRequired");
    drop(theirs);
    // On its way out it may have taken the lock once more.
    ours.ok("query PRAGMA busy_timeout = 20000");
    ours.ok(ADD_ONE);
    let value = ours.ok(VALUE);
    assert!(["1", "11"].contains(&value.as_str()), "{value}");
    fixture.assert_whole();
}

/// Where they do not work, nothing stops it: it has no fence and compares no snapshot.
#[test]
fn a_frozen_python_process_writes_over_its_successor_where_file_locks_do_nothing() {
    let fixture = furnished(WorkersFixture::without_file_locks("python-has-no-fence"));
    let mut theirs = python(&fixture, SHORT_LEASE, "timeout=3");
    theirs.ok("begin");
    theirs.ok(ADD_ONE);
    theirs.pause();
    fixture.wait_until_expired();
    let mut ours = fixture.open(PATIENT);
    ours.ok(ADD_TEN);
    assert_eq!(ours.ok(VALUE), "10");
    theirs.resume();
    // Its journal is gone, which its successor had to take for one of a dead writer.
    assert!(theirs.ask("commit").is_err());
    drop(theirs);
    assert_eq!(
        fixture.open("").ok(VALUE),
        "1",
        "our acknowledged write is lost"
    );
}

/// Writers and readers of both kinds, and one of each killed while it may hold the lock.
#[test]
fn a_mixed_fleet_loses_nothing_though_processes_are_killed() {
    /// Of a process that is stopped by a busy machine for longer than its lease nothing holds on the
    /// other side, which has no fence.
    const LEASE: &str = "8";
    const SECONDS: u32 = 12;
    let fixture = WorkersFixture::new("python-fleet");
    let parameters = format!("lock_expiration={LEASE}&lock_timeout=30");
    fixture.open("").ok("create-ledger");
    let ours = |_| fixture.open(&parameters);
    let theirs = |_| python(&fixture, LEASE, "timeout=30");
    let mut writers: Vec<(String, WorkerProcess)> = Vec::new();
    writers.extend((0..3).map(|n| (format!("ours-{n}"), ours(n))));
    writers.extend((0..3).map(|n| (format!("theirs-{n}"), theirs(n))));
    let mut readers = vec![ours(0), theirs(0)];
    for (name, writer) in &mut writers {
        writer.tell(&format!("write-ledger {name} {SECONDS}"));
    }
    for reader in &mut readers {
        reader.tell(&format!("read-ledger {SECONDS}"));
    }
    let mut victims = vec![writers.remove(3), writers.remove(0)];
    for victims_turn in [false, true] {
        // An item of ours names its holder, one of theirs does not.
        wait_until(LONG, "one of the victim's kind holds the lock", || {
            fixture.attribute("lock_id").is_some()
                && fixture.attribute("holder").is_some() == victims_turn
        });
        let (_, victim) = victims.remove(0);
        victim.kill();
        thread::sleep(Duration::from_secs(1));
    }

    let mut auditor = fixture.open(PATIENT);
    let mut acknowledged = Vec::new();
    for (name, writer) in &writers {
        let answer = writer.answer().expect("no error but retryable ones");
        acknowledged.push((name, number_before(&answer, "acknowledged")));
    }
    for reader in &readers {
        let answer = reader.answer().expect("no error but retryable ones");
        assert_eq!(number_before(&answer, "torn"), 0, "{answer}");
        assert!(number_before(&answer, "whole") > 0, "{answer}");
    }
    drop((writers.iter(), readers));
    println!("acknowledged: {acknowledged:?}");
    for (name, count) in &acknowledged {
        let of = format!("query SELECT count(*) FROM entry WHERE writer = '{name}'");
        assert_eq!(auditor.ok(&of), count.to_string(), "{name}");
    }
    for kind in ["ours", "theirs"] {
        let written = acknowledged
            .iter()
            .filter(|(name, _)| name.starts_with(kind));
        assert!(
            written.map(|(_, count)| count).sum::<u64>() > 0,
            "{acknowledged:?}"
        );
    }
    // No update was written over, the killed ones' included.
    let counted = "query SELECT (SELECT value FROM counter) = count(*), \
                   count(DISTINCT counter_value) = count(*) FROM entry";
    assert_eq!(auditor.ok(counted), "1|1");
    assert_eq!(auditor.ok("query SELECT sum(balance) FROM account"), "8000");
    drop(auditor);
    drop(writers);
    fixture.assert_whole();
}

/// A table of one counter that says 0.
fn furnished(fixture: WorkersFixture) -> WorkersFixture {
    let create = "CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (0)";
    fixture.open("").ok(&format!("batch {create}"));
    fixture
}

/// A process of the Python package with a connection to the fixture's database.
#[track_caller]
fn python(fixture: &WorkersFixture, lease: &str, timeout: &str) -> WorkerProcess {
    let mut command: Command = python::worker();
    command
        .arg(fixture.scratch.database())
        .arg(timeout)
        .envs(env_for(Emulator::shared().endpoint()))
        .env("AWS_DEFAULT_REGION", "eu-central-1")
        .env("SQLITE_LOCK_DYNAMODB_TABLE", fixture.table.name())
        .env("SQLITE_LOCK_EXPIRATION", lease)
        // As many as fit into the timeout.
        .env("SQLITE_LOCK_MAX_ATTEMPTS", "100000");
    WorkerProcess::start_by(&mut command).expect("the database opens")
}
