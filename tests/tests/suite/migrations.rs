//! Migrations under the lock: one process applies them, whoever dies or races.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{BoxableConnection, Connection, SimpleConnection};
use diesel::migration::{
    Migration, MigrationMetadata, MigrationName, MigrationSource, MigrationVersion, Result,
};
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{
    EmbeddedMigrations, FileBasedMigrations, HarnessWithOutput, MigrationHarness, embed_migrations,
};
use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection};
use integration::process::wait_until;
use integration::proxy::{Action, Purpose, Rule};

use crate::fixtures::hosts::{Call, HostsFixture, assert_lock_error, connect, execute, numbers};
use crate::fixtures::workers::{LONG, WorkerProcess, WorkersFixture, proxy};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");
/// The same, for processes.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
const COUNT: usize = 3;
const RECORDED: &str = "query SELECT count(*) FROM __diesel_schema_migrations";

#[test]
fn of_twenty_processes_on_an_empty_file_one_applies_and_none_fails() {
    let fixture = WorkersFixture::new("migrations-twenty");
    let mut processes: Vec<WorkerProcess> =
        (0..20).map(|_| fixture.open("lock_timeout=60")).collect();
    for process in &mut processes {
        process.tell(&format!("migrate {DIRECTORY}"));
    }
    let answers: Vec<_> = processes.iter().map(WorkerProcess::answer).collect();
    let applied: Vec<usize> = (answers.into_iter())
        .map(|answer| answer.expect("no failure").parse().expect("a number"))
        .collect();
    let own: Vec<_> = applied.iter().filter(|applied| **applied > 0).collect();
    assert_eq!(own, [&COUNT], "one has applied them all");
    for process in &mut processes {
        assert_eq!(process.ok(RECORDED), COUNT.to_string());
    }
    drop(processes);
    fixture.assert_whole();
}

#[test]
fn through_diesels_own_harness_nothing_is_applied_twice() {
    let fixture = WorkersFixture::new("migrations-plainly");
    let mut processes: Vec<WorkerProcess> =
        (0..8).map(|_| fixture.open("lock_timeout=60")).collect();
    for process in &mut processes {
        process.tell(&format!("migrate-plainly {DIRECTORY}"));
    }
    for process in &processes {
        if let Err(failure) = process.answer() {
            let undone = ["already exists", "duplicate column name"];
            let is_of_the_race = undone.iter().any(|text| failure.message.contains(text));
            assert!(failure.retryable || is_of_the_race, "{failure:?}");
        }
    }
    for process in &mut processes {
        process.ok(&format!("migrate-plainly {DIRECTORY}"));
        assert_eq!(process.ok(RECORDED), COUNT.to_string());
    }
    drop(processes);
    fixture.assert_whole();
}

#[test]
fn a_migration_killed_at_its_commit_point_is_undone_and_applied_by_the_next() {
    // The commits of a run: the table of migrations, and each migration.
    for (killed_at, left) in [(2, COUNT), (3, COUNT - 1)] {
        let fixture = WorkersFixture::new(&format!("migrations-killed-{killed_at}"));
        let proxy = proxy();
        let mut process =
            fixture.open_behind(&proxy, "lock_expiration=60&lock_holder=the-dead-one");
        let commit = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold).from(killed_at));
        process.tell(&format!("migrate {DIRECTORY}"));
        commit.wait_for_hits(1, LONG);
        process.kill();
        let (_, journal) = fixture.files();
        let first_byte = journal.expect("a journal").first().copied();
        assert_ne!(first_byte, Some(0), "the journal is hot");

        let migrate = format!("migrate {DIRECTORY}");
        // What the dead one's lease is worth is for DynamoDB's clock to say; here for the test.
        fixture.table.delete(&fixture.key()).expect("the item goes");
        let mut next = fixture.open("");
        assert_eq!(next.ok(&migrate), left.to_string());
        assert_eq!(next.ok(RECORDED), COUNT.to_string());
        assert_eq!(next.ok("query SELECT count(*) FROM account"), "8");
        drop(next);
        fixture.assert_whole();
    }
}

#[test]
fn while_a_dead_processs_lease_runs_the_error_names_it_and_may_be_tried_again() {
    let fixture = WorkersFixture::new("migrations-dead");
    let proxy = proxy();
    let mut process = fixture.open_behind(&proxy, "lock_expiration=60&lock_holder=the-dead-one");
    let mut next = fixture.open("lock_timeout=1&lock_migration_timeout=1");
    let commit = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold).from(2));
    process.tell(&format!("migrate {DIRECTORY}"));
    commit.wait_for_hits(1, LONG);
    process.kill();
    let failure = next.busy(&format!("migrate {DIRECTORY}"));
    assert!(failure.retryable, "{failure:?}");
    assert!(failure.message.contains("`the-dead-one`"), "{failure:?}");
    fixture.table.delete(&fixture.key()).expect("the item goes");
    next.ok(&format!("migrate {DIRECTORY}"));
    drop(next);
    fixture.assert_whole();
}

/// The first of two processes at 80 ms a request takes longer than a statement would wait.
#[test]
fn whoever_comes_second_waits_for_a_process_that_is_at_its_migrations() {
    let fixture = WorkersFixture::new("migrations-slow");
    let (far, further) = (proxy(), proxy());
    // The oldest rule that applies is followed.
    let commit = far.rule(Rule::put_to(Purpose::Record, Action::Hold).from(2));
    for proxy in [&far, &further] {
        proxy.rule(Rule::any(Action::Delay(Duration::from_millis(80))));
    }
    let mut first = fixture.open_behind(&far, "lock_expiration=60&lock_holder=the-first");
    let mut second = fixture.open_behind(&further, "lock_timeout=1");
    first.tell(&format!("migrate {DIRECTORY}"));
    commit.wait_for_hits(1, LONG);
    let asked = further.requests().len();
    let began = Instant::now();
    second.tell(&format!("migrate {DIRECTORY}"));
    wait_until(
        LONG,
        "the second has waited for longer than a statement",
        || further.requests().len() > asked + 4 && began.elapsed() > Duration::from_secs(2),
    );
    assert_eq!(second.answered(), None);
    commit.release();
    commit.remove();
    let first = first.answer();
    let second = second.answer().expect("it waits");
    assert_eq!(first, Ok(COUNT.to_string()));
    assert_eq!(second, "0");
    let mut auditor = fixture.open("");
    assert_eq!(auditor.ok(RECORDED), COUNT.to_string());
    drop(auditor);
    fixture.assert_whole();
}

/// A table that is silent says nothing about anybody who is alive.
#[test]
fn a_table_that_does_not_answer_is_waited_for_no_longer_than_by_a_statement() {
    let fixture = WorkersFixture::new("migrations-silent");
    let proxy = proxy();
    let mut process = fixture.open_behind(&proxy, "lock_timeout=1");
    proxy.rule(Rule::any(Action::Silence));
    let failure = process.fails(&format!("migrate {DIRECTORY}"));
    assert_eq!(failure.kind, "Store", "{failure:?}");
    assert!(failure.retryable, "{failure:?}");
}

#[test]
fn with_nothing_to_do_no_lease_is_taken_and_no_request_sent() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = host.connect();
    // Nothing to revert on an empty file.
    let reverted = conn.revert_migrations(MIGRATIONS, usize::MAX);
    assert_eq!(reverted.expect("none").len(), 0);
    assert_eq!(host.store.take_calls(), []);
    conn.run_migrations(MIGRATIONS).expect("migrations");
    host.store.take_calls();
    assert_eq!(conn.run_migrations(MIGRATIONS).expect("none").len(), 0);
    let reverted = conn.revert_migrations(MIGRATIONS, 0);
    assert_eq!(reverted.expect("none").len(), 0);
    assert_eq!(host.store.take_calls(), []);
}

#[test]
fn running_reverting_and_running_again_take_one_lease_each() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = host.connect();
    let mut in_one_lease = |change: fn(&mut EfsSqliteConnection) -> usize| {
        let changed = change(&mut conn);
        let calls = host.store.take_calls();
        let leases = (calls.iter()).filter(|call| **call != Call::Confirm);
        assert!(leases.eq([&Call::Acquire, &Call::Release]), "{calls:?}");
        changed
    };
    let applied = in_one_lease(|conn| {
        let applied = conn.run_migrations(MIGRATIONS);
        applied.expect("migrations").len()
    });
    assert_eq!(applied, COUNT);
    // Redo.
    in_one_lease(|conn| {
        conn.with_write_lock(|conn| {
            let mut reverted = conn.revert_migrations(MIGRATIONS, 2)?;
            assert_eq!(reverted.len(), 2);
            assert!(reverted[0] > reverted[1], "the last first");
            reverted.reverse();
            assert_eq!(conn.run_migrations(MIGRATIONS)?, reverted);
            Result::Ok(2)
        })
        .expect("migrations")
    });
    let reverted = in_one_lease(|conn| {
        let reverted = conn.revert_migrations(MIGRATIONS, usize::MAX);
        reverted.expect("migrations").len()
    });
    assert_eq!(reverted, COUNT);
    // Diesel's harness with output, in a lease that it does not know of.
    let applied = in_one_lease(|conn| {
        conn.with_write_lock(|conn| {
            let mut output = Vec::new();
            let mut harness = HarnessWithOutput::new(conn, &mut output);
            let applied = harness.run_pending_migrations(MIGRATIONS)?.len();
            let output = String::from_utf8(output)?;
            assert_eq!(output.matches("Running migration").count(), applied);
            Result::Ok(applied)
        })
        .expect("migrations")
    });
    assert_eq!(applied, COUNT);
    fixture.assert_nothing_left();
}

#[test]
fn what_is_pending_is_read_again_under_the_lock() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = host.connect();
    let mut other = fixture.host().connect();
    host.store.before(Call::Acquire, move || {
        other.run_migrations(MIGRATIONS).expect("the lock is free");
    });
    assert_eq!(conn.run_migrations(MIGRATIONS).expect("none").len(), 0);
    host.store.assert_fault_was_reached();
    fixture.assert_nothing_left();
}

#[test]
fn who_waits_for_the_lock_leaves_once_another_has_applied_them() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = connect(&host.config().lock_timeout(LONG));
    fixture.give_lease_to_another();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| conn.run_migrations(MIGRATIONS).expect("none").len());
        wait_until(LONG, "somebody waits", || {
            host.store.take_calls().contains(&Call::Acquire)
        });
        // Holds the lease, as far as the waiting one can see.
        let path = fixture.scratch().database().to_str().expect("a path");
        let mut holder = SqliteConnection::establish(path).expect("a connection");
        holder
            .batch_execute("PRAGMA busy_timeout = 20000")
            .expect("a setting");
        holder
            .run_pending_migrations(MIGRATIONS)
            .expect("migrations");
        assert_eq!(waiting.join().expect("no panic"), 0);
    });
    assert!(
        fixture.item().is_some(),
        "the lease was another's all along"
    );
}

/// One migration, written in Rust.
#[derive(Clone)]
struct Scripted {
    run: fn(&mut EfsSqliteConnection) -> Result<()>,
}

struct Named(&'static str);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl MigrationName for Named {
    fn version(&self) -> MigrationVersion<'_> {
        MigrationVersion::from(self.0)
    }
}

struct InTransaction;

impl MigrationMetadata for InTransaction {}

impl Migration<Sqlite> for Scripted {
    fn run(&self, conn: &mut dyn BoxableConnection<Sqlite>) -> Result<()> {
        let conn = conn.downcast_mut().expect("our connection");
        (self.run)(conn)
    }
    fn revert(&self, _: &mut dyn BoxableConnection<Sqlite>) -> Result<()> {
        Ok(())
    }
    fn metadata(&self) -> &dyn MigrationMetadata {
        &InTransaction
    }
    fn name(&self) -> &dyn MigrationName {
        &Named("20260101000000")
    }
}

impl MigrationSource<Sqlite> for Scripted {
    fn migrations(&self) -> Result<Vec<Box<dyn Migration<Sqlite>>>> {
        Ok(vec![Box::new(self.clone())])
    }
}

#[test]
fn a_long_migration_keeps_its_lease_by_renewal() {
    let fixture = HostsFixture::with_table();
    let mut conn = connect(
        &fixture
            .host()
            .config()
            .lock_expiration(Duration::from_secs(5)),
    );
    let long = Scripted {
        run: |conn| {
            execute(conn, "INSERT INTO t (n) VALUES (1)")?;
            wait_until(LONG, "the lease is renewed twice", || {
                conn.lock_stats().renewals >= 2
            });
            Ok(())
        },
    };
    conn.run_migrations(long).expect("the migration");
    let stats = conn.lock_stats();
    assert_eq!((stats.acquisitions, stats.losses), (1, 0));
    fixture.assert_nothing_left();
}

#[test]
fn a_migration_that_loses_its_lease_is_undone_and_its_error_may_be_tried_again() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let losing = Scripted {
        run: |conn| {
            execute(conn, "INSERT INTO t (n) VALUES (1)")?;
            Ok(())
        },
    };
    // The table of migrations is there already: the next to be confirmed is the migration.
    conn.applied_migrations().expect("none");
    host.store.before(Call::Confirm, fixture.stealing());
    let error = conn
        .run_migrations(losing.clone())
        .expect_err("the lease is lost");
    host.store.assert_fault_was_reached();
    let error = error.downcast_ref::<Error>();
    let retryable = matches!(
        error,
        Some(Error::DatabaseError(
            DatabaseErrorKind::SerializationFailure,
            _
        ))
    );
    assert!(retryable, "{error:?}");
    assert_lock_error!(conn, LeaseLost);
    fixture.remove_item();
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM t"), Ok(vec![0]));
    assert_eq!(conn.run_migrations(losing).expect("now").len(), 1);
    fixture.assert_nothing_left();
}

#[test]
fn migrations_outside_a_transaction_run_under_the_lease() {
    let fixture = HostsFixture::with_table();
    let directory = fixture.scratch().file("migrations");
    for (name, sql, metadata) in [
        (
            "2026-01-01-000000_fill",
            "INSERT INTO t (n) SELECT 1 FROM (SELECT 1 UNION SELECT 2)",
            "",
        ),
        (
            "2026-01-02-000000_vacuum",
            "VACUUM",
            "run_in_transaction = false",
        ),
        ("2026-01-03-000000_more", "INSERT INTO t (n) VALUES (3)", ""),
    ] {
        let directory = directory.join(name);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("up.sql"), sql).expect("a file");
        if !metadata.is_empty() {
            fs::write(directory.join("metadata.toml"), metadata).expect("a file");
        }
    }
    let source = || FileBasedMigrations::from_path(&directory).expect("migrations");
    let host = fixture.host();
    for mut conn in [host.connect(), connect(&EfsConfig::new(":memory:"))] {
        if conn.lock_stats().requests == 0 {
            conn.batch_execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER)")
                .expect("a table");
        }
        host.store.take_calls();
        let applied = conn.run_migrations(source()).expect("migrations");
        assert_eq!(applied.len(), 3);
        let calls = host.store.take_calls();
        let acquired = calls.iter().filter(|call| **call == Call::Acquire).count();
        assert!(acquired <= 1, "{calls:?}");
        assert_eq!(numbers(&mut conn, "SELECT count(*) FROM t"), Ok(vec![3]));
    }
    fixture.assert_nothing_left();
}

#[test]
fn inside_a_test_transaction_they_run_as_with_diesels_connection() {
    let fixture = HostsFixture::new();
    for config in [fixture.host().config(), EfsConfig::new(":memory:")] {
        let mut conn = connect(&config);
        conn.test_transaction(|conn| {
            let applied = conn.run_migrations(MIGRATIONS).expect("migrations");
            assert_eq!(applied.len(), COUNT);
            let reverted = conn.revert_migrations(MIGRATIONS, usize::MAX);
            assert_eq!(reverted.expect("migrations").len(), COUNT);
            diesel::QueryResult::Ok(())
        });
        assert_eq!(
            numbers(&mut conn, "SELECT count(*) FROM sqlite_schema"),
            Ok(vec![0])
        );
    }
    fixture.assert_nothing_left();
}

#[test]
fn a_race_through_diesels_own_harness_fails_as_with_diesels_own_connection() {
    fn race<C: MigrationHarness<Sqlite>>(mut first: C, mut second: C) -> String {
        let pending = first.pending_migrations(MIGRATIONS).expect("migrations");
        let applied = second.run_pending_migrations(MIGRATIONS);
        assert_eq!(applied.expect("migrations").len(), COUNT);
        let error = first.run_migration(&pending[0]).expect_err("a table");
        assert_eq!(first.applied_migrations().expect("migrations").len(), COUNT);
        error.to_string()
    }
    let (fixture, plain) = (HostsFixture::new(), HostsFixture::new());
    let ours = race(fixture.host().connect(), fixture.host().connect());
    assert!(ours.contains("already exists"), "{ours}");
    let path = plain.scratch().database().display().to_string();
    let open = || SqliteConnection::establish(&path).expect("a connection");
    assert_eq!(ours, race(open(), open()));
    fixture.assert_nothing_left();
}
