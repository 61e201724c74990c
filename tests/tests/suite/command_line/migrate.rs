//! `efs-sqlite migrate`: under one lease, by one of many, and what a failure leaves.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use integration::emulator::Emulator;
use integration::process::Worker;
use integration::proxy::{Action, Operation, Purpose, Rule};

use super::{DONE, Ran, UNKNOWN, USAGE, WRONG, program, run, run_at, url};
use crate::fixtures::workers::{LONG, WorkersFixture, proxy};

const TABLES: &str = "query SELECT group_concat(name, ' ') FROM \
    (SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '!_!_%' ESCAPE '!' ORDER BY name)";

/// The workspace's own migrations.
pub(super) fn directory() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    path.display().to_string()
}

/// Two small migrations in the fixture's directory.
fn small(fixture: &WorkersFixture) -> String {
    add(
        fixture,
        "2025-01-01-000000_first",
        "CREATE TABLE first (id INTEGER)",
        "DROP TABLE first",
    );
    add(
        fixture,
        "2025-01-02-000000_second",
        "CREATE TABLE second (id INTEGER)",
        "DROP TABLE second",
    )
}

fn add(fixture: &WorkersFixture, name: &str, up: &str, down: &str) -> String {
    let directory = fixture.scratch.file("migrations");
    let migration = directory.join(name);
    fs::create_dir_all(&migration).expect("a directory");
    fs::write(migration.join("up.sql"), up).expect("a file");
    fs::write(migration.join("down.sql"), down).expect("a file");
    directory.display().to_string()
}

fn migrate(fixture: &WorkersFixture, directory: &str, arguments: &[&str]) -> Ran {
    let url = url(fixture, "");
    let mut all = vec!["migrate", "--migration-dir", directory];
    all.extend(arguments);
    all.push(&url);
    run(&all)
}

#[test]
fn migrations_are_run_listed_reverted_and_redone() {
    let fixture = WorkersFixture::new("migrate-all");
    let directory = small(&fixture);
    let names = "2025-01-01-000000_first\n2025-01-02-000000_second\n";
    // Listing creates nothing.
    migrate(&fixture, &directory, &["pending"])
        .expect(WRONG)
        .complains("there is no file");
    assert!(!fixture.scratch.database().exists());
    fixture.open("").ok("execute CREATE TABLE note (text TEXT)");
    let ran = migrate(&fixture, &directory, &["pending"]).expect(WRONG);
    assert_eq!(ran.stdout, names);

    let ran = migrate(&fixture, &directory, &["run"]).expect(DONE);
    ran.says("running 2025-01-01-000000_first\n  done in ");
    ran.says("2 migrations run\n");
    assert_eq!(fixture.open("").ok(TABLES), "first note second");
    assert_eq!(
        migrate(&fixture, &directory, &["pending"])
            .expect(DONE)
            .stdout,
        ""
    );
    migrate(&fixture, &directory, &["run"])
        .expect(DONE)
        .says("no migration is pending");

    let ran = migrate(&fixture, &directory, &["redo"]).expect(DONE);
    ran.says("reverting 2025-01-02-000000_second");
    ran.says("running 2025-01-02-000000_second");
    migrate(&fixture, &directory, &["revert"]).expect(DONE);
    assert_eq!(fixture.open("").ok(TABLES), "first note");
    migrate(&fixture, &directory, &["run"]).expect(DONE);
    migrate(&fixture, &directory, &["revert", "--all"])
        .expect(DONE)
        .says("2 migrations reverted");
    assert_eq!(fixture.open("").ok(TABLES), "note");
    migrate(&fixture, &directory, &["revert"])
        .expect(WRONG)
        .complains("no migration has been run");
    fixture.assert_whole();
}

#[test]
fn a_whole_run_has_one_lease_and_none_if_nothing_is_pending() {
    let fixture = WorkersFixture::new("migrate-lease");
    let proxy = proxy();
    let url = url(&fixture, "");
    let arguments = ["migrate", "run", &url, "--migration-dir", &directory()];
    run_at(&proxy.endpoint(), &arguments).expect(DONE);
    assert_eq!(proxy.count(&Operation::DeleteItem), 1, "one release");
    proxy.forget_requests();
    run_at(&proxy.endpoint(), &arguments)
        .expect(DONE)
        .says("no migration is pending");
    assert_eq!(proxy.requests().len(), 0);
    fixture.assert_whole();
}

#[test]
fn of_many_that_start_at_once_one_applies_and_none_fails() {
    const MANY: usize = 8;
    let fixture = WorkersFixture::new("migrate-many");
    let directory = small(&fixture);
    let url = url(&fixture, "lock_timeout=60");
    let runs: Vec<_> = std::thread::scope(|scope| {
        let start = || run(&["migrate", "run", &url, "--migration-dir", &directory]);
        let started: Vec<_> = (0..MANY).map(|_| scope.spawn(start)).collect();
        started
            .into_iter()
            .map(|run| run.join().expect("it runs").expect(DONE))
            .collect()
    });
    let applied: Vec<_> = runs
        .iter()
        .filter(|ran| ran.stdout.contains("running"))
        .collect();
    assert_eq!(applied.len(), 1, "{runs:?}");
    applied[0].says("2 migrations run");
    assert_eq!(fixture.open("").ok(TABLES), "first second");
    fixture.assert_whole();
}

#[test]
fn a_migration_that_fails_is_named_and_undone_and_those_before_it_stay() {
    let fixture = WorkersFixture::new("migrate-fails");
    small(&fixture);
    let bad = "CREATE TABLE third (id INTEGER); INSERT INTO nowhere VALUES (1)";
    let directory = add(&fixture, "2025-01-03-000000_third", bad, "");
    let ran = migrate(&fixture, &directory, &["run"]).expect(WRONG);
    ran.complains("2025-01-03-000000_third");
    ran.complains("no such table: nowhere");
    assert_eq!(fixture.open("").ok(TABLES), "first second");
    let ran = migrate(&fixture, &directory, &["pending"]).expect(WRONG);
    assert_eq!(ran.stdout, "2025-01-03-000000_third\n");
    fixture.assert_whole();
}

#[test]
fn a_run_that_is_killed_half_way_is_finished_by_the_next() {
    let fixture = WorkersFixture::new("migrate-killed");
    let directory = small(&fixture);
    let proxy = proxy();
    // The commits of Diesel's own table and of the first migration; then the second's.
    let commit = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold).from(3));
    let short = url(&fixture, "lock_expiration=6");
    let mut command = program(&proxy.endpoint());
    command.args(["migrate", "run", &short, "--migration-dir", &directory]);
    let mut killed = Worker::spawn(&mut command).expect("it starts");
    commit.wait_for_hits(1, LONG);
    assert!(fixture.has_journal());
    killed.kill().expect("it is killed");

    let patient = url(&fixture, "lock_timeout=30");
    let ran = run(&["migrate", "run", &patient, "--migration-dir", &directory]).expect(DONE);
    assert!(!ran.stdout.contains("first"), "it was committed: {ran:?}");
    ran.says("running 2025-01-02-000000_second");
    assert_eq!(fixture.open("").ok(TABLES), "first second");
    fixture.assert_whole();
}

#[test]
fn a_commit_of_unknown_outcome_has_a_status_of_its_own() {
    let fixture = WorkersFixture::new("migrate-unknown");
    let directory = small(&fixture);
    let proxy = proxy();
    proxy.rule(Rule::put_to(Purpose::Record, Action::SilenceAnswer));
    let url = url(&fixture, "lock_expiration=6");
    let ran = run_at(
        &proxy.endpoint(),
        &["migrate", "run", &url, "--migration-dir", &directory],
    );
    ran.expect(UNKNOWN)
        .complains("the outcome of the commit is unknown");
}

#[test]
fn what_is_to_be_reverted_has_to_be_there_before_anything_is() {
    let fixture = WorkersFixture::new("migrate-gone");
    let directory = small(&fixture);
    migrate(&fixture, &directory, &["run"]).expect(DONE);
    fs::remove_dir_all(fixture.scratch.file("migrations/2025-01-01-000000_first")).expect("gone");
    let ran = migrate(&fixture, &directory, &["revert", "-n", "2"]).expect(WRONG);
    ran.complains("20250101000000");
    ran.complains("nothing was reverted");
    assert_eq!(fixture.open("").ok(TABLES), "first second");
    migrate(&fixture, &directory, &["revert"]).expect(DONE);
    assert_eq!(fixture.open("").ok(TABLES), "first");
}

#[test]
fn migrations_are_found_where_diesels_tool_finds_them() {
    let fixture = WorkersFixture::new("migrate-found");
    small(&fixture);
    let below = fixture.scratch.file("src");
    fs::create_dir(&below).expect("a directory");
    let run_in = |directory: &Path| {
        let mut command = program(Emulator::shared().endpoint());
        command.args(["migrate", "run", &url(&fixture, "")]);
        let output = command.current_dir(directory).stdin(Stdio::null()).output();
        Ran::from(output.expect("it runs"))
    };
    run_in(Path::new("/"))
        .expect(USAGE)
        .complains("give --migration-dir");
    run_in(&below).expect(DONE).says("2 migrations run");
}
