//! Two locks for one file: whoever would take another lock than the first writer is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use integration::emulator::Emulator;
use integration::proxy::{Action, Operation, Purpose, Rule};

use crate::fixtures::workers::{Failure, LONG, WorkerProcess, WorkersFixture, proxy};

const CREATE: &str = "execute CREATE TABLE note (text TEXT)";
const WRITE: &str = "execute INSERT INTO note VALUES ('here')";
const COUNT: &str = "query SELECT count(*) FROM note";
const OTHER_KEY: &str = "lock_key=another-key";

#[test]
fn another_key_is_refused_by_both_names_and_with_the_remedy() {
    let fixture = WorkersFixture::new("keys-opened");
    fixture.open("").ok(CREATE);
    let failure = refused(&fixture, OTHER_KEY);
    for part in [
        &fixture.key(),
        "`another-key`",
        "in the table `keys-opened`",
        "set the same",
        &format!("delete {}", key_file(&fixture).display()),
    ] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
    assert!(!failure.retryable);
    // The first key still works, and costs no look at the file more than at opening.
    let mut again = fixture.open("");
    again.ok(WRITE);
    assert_eq!(again.ok(COUNT), "1");
    fixture.assert_whole();
}

#[test]
fn another_table_is_refused() {
    let fixture = WorkersFixture::new("keys-table");
    fixture.open("").ok(CREATE);
    let url = format!(
        "{}?lock_table=keys-table-2",
        fixture.scratch.database().display()
    );
    let failure = WorkerProcess::start(Emulator::shared().endpoint(), &["database", &url])
        .err()
        .expect("two tables");
    assert!(failure.message.contains("`keys-table-2`"), "{failure:?}");
    assert!(failure.message.contains("`keys-table`"), "{failure:?}");
}

#[test]
fn whoever_opened_under_another_key_before_the_first_write_is_refused_at_its_own() {
    let fixture = WorkersFixture::new("keys-early");
    let mut one = fixture.open("");
    let mut other = fixture.open(OTHER_KEY);
    one.ok(CREATE);
    assert_eq!(other.ok(COUNT), "0", "a reader does no harm");
    for command in [WRITE, "immediate"] {
        let failure = other.fails(command);
        assert_eq!(failure.kind, "Config", "{failure:?}");
        assert!(!failure.retryable);
        assert!(failure.message.contains("`another-key`"), "{failure:?}");
        assert!(failure.message.contains(&fixture.key()), "{failure:?}");
    }
    one.ok(WRITE);
    assert_eq!(one.ok(COUNT), "1");
    fixture.assert_whole();
}

#[test]
fn of_two_first_writers_under_two_keys_one_may_write() {
    let fixture = WorkersFixture::without_file_locks("keys-race");
    create_plainly(&fixture);
    let proxies = [proxy(), proxy()];
    let mut processes = [
        fixture.open_behind(&proxies[0], ""),
        fixture.open_behind(&proxies[1], OTHER_KEY),
    ];
    // Both are granted their leases, neither has heard of it.
    let grants = proxies
        .each_ref()
        .map(|proxy| proxy.rule(Rule::put(Action::HoldAnswer).nth(1)));
    for process in &mut processes {
        process.tell(WRITE);
    }
    for grant in &grants {
        grant.wait_for_hits(1, LONG);
    }
    for grant in &grants {
        grant.release();
    }
    let answers = processes.each_ref().map(WorkerProcess::answer);
    let refusals: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(refusals.len(), 1, "{answers:?}");
    assert_eq!(refusals[0].kind, "Config", "{answers:?}");
    let winner = usize::from(answers[0].is_err());
    assert_eq!(processes[winner].ok(COUNT), "1");
    assert_eq!(
        fixture.table.count().expect("a count"),
        0,
        "both are released"
    );
}

#[test]
fn under_another_key_nobody_rolls_a_writers_journal_back() {
    let fixture = WorkersFixture::without_file_locks("keys-recovery");
    create_plainly(&fixture);
    let mut other = fixture.open(OTHER_KEY);
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "lock_expiration=60");
    // And what repeats it, on a slow machine.
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold));
    writer.tell(WRITE);
    confirmation.wait_for_hits(1, LONG);
    let before = fixture.files();
    assert!(before.1.is_some(), "a hot journal stands");
    for command in [COUNT, WRITE] {
        let failure = other.fails(command);
        assert_eq!(failure.kind, "Config", "{failure:?}");
    }
    refused(&fixture, OTHER_KEY);
    assert_eq!(fixture.files(), before);
    confirmation.release();
    writer.answer().expect("its commit");
    assert_eq!(fixture.open("").ok(COUNT), "1");
    fixture.assert_whole();
}

#[test]
fn the_file_is_for_people_whole_and_readable_by_all() {
    let fixture = WorkersFixture::new("keys-file");
    let mut writer = fixture.open("");
    assert!(!key_file(&fixture).exists(), "opening writes nothing");
    writer.ok(CREATE);
    let text = fs::read_to_string(key_file(&fixture)).expect("a file");
    assert!(
        text.starts_with("# The lock that protects the database"),
        "{text}"
    );
    assert!(text.contains("\ntable: keys-file\n"), "{text}");
    assert!(
        text.ends_with(&format!("key: {}\n", fixture.key())),
        "{text}"
    );
    let metadata = key_file(&fixture).metadata().expect("metadata");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_eq!(metadata.nlink(), 1);
    let names = fs::read_dir(fixture.scratch.directory()).expect("a directory");
    assert_eq!(names.count(), 2, "nothing else is left");
}

#[test]
fn a_link_to_the_database_is_the_same_database_and_so_needs_the_same_key() {
    let fixture = WorkersFixture::new("keys-link");
    fixture.open("").ok(CREATE);
    let link = fixture.scratch.file("link.db");
    symlink(fixture.scratch.database(), &link).expect("a link");
    let open = |parameters: &str| {
        let url = format!("{}?lock_table=keys-link{parameters}", link.display());
        WorkerProcess::start(Emulator::shared().endpoint(), &["database", &url])
    };
    let failure = open("").err().expect("the default key goes by the path");
    assert!(failure.message.contains("link.db`"), "{failure:?}");
    assert!(failure.message.contains(&fixture.key()), "{failure:?}");
    let mut same =
        open(&format!("&lock_key={}", fixture.key().replace('#', "%23"))).expect("the same key");
    same.ok(WRITE);
    fixture.assert_whole();
}

#[test]
fn a_local_open_of_a_database_under_a_lock_is_refused_and_of_its_copy_alone_is_not() {
    let fixture = WorkersFixture::new("keys-local");
    fixture.open("").ok(CREATE);
    let open = |path: PathBuf| {
        let url = format!("{}?lock=local", path.display());
        WorkerProcess::start(Emulator::shared().endpoint(), &["database", &url])
    };
    let failure = open(fixture.scratch.database().to_owned())
        .err()
        .expect("it has a lock");
    for part in ["`lock=local`", &fixture.key(), "if this is a copy, delete"] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
    let copy = fixture.scratch.file("copy.db");
    fs::copy(fixture.scratch.database(), &copy).expect("a copy");
    open(copy).expect("a copy").ok(WRITE);
    assert!(!fixture.scratch.file("copy.db-lock-key").exists());
}

#[test]
fn the_key_is_changed_by_deleting_the_file() {
    let fixture = WorkersFixture::new("keys-change");
    fixture.open("").ok(CREATE);
    refused(&fixture, OTHER_KEY);
    fs::remove_file(key_file(&fixture)).expect("the file goes");
    let mut other = fixture.open(OTHER_KEY);
    other.ok(WRITE);
    assert_eq!(other.ok(COUNT), "1");
    let failure = refused(&fixture, "");
    assert!(
        failure
            .message
            .contains("is protected by the lock key `another-key`")
    );
}

#[test]
fn a_database_of_the_python_package_has_no_such_file_and_loses_nothing() {
    let fixture = WorkersFixture::new("keys-python");
    let mut plain = create_plainly(&fixture);
    let mut ours = fixture.open("");
    assert_eq!(ours.ok(COUNT), "0");
    assert!(!key_file(&fixture).exists(), "reading writes nothing");
    ours.ok(WRITE);
    plain
        .batch_execute("INSERT INTO note VALUES ('there')")
        .expect("the file means nothing to others");
    assert_eq!(ours.ok(COUNT), "2");
    fixture.assert_whole();
}

#[test]
fn what_keeps_the_file_from_being_understood_keeps_the_database_from_being_opened() {
    let fixture = WorkersFixture::new("keys-garbage");
    fixture.open("").ok(CREATE);
    fs::write(key_file(&fixture), "table: keys-garbage\n").expect("a file");
    let failure = refused(&fixture, "");
    assert!(
        failure.message.contains("cannot be understood; delete it"),
        "{failure:?}"
    );
}

#[test]
fn a_refusal_asks_for_no_lease() {
    let fixture = WorkersFixture::new("keys-requests");
    fixture.open("").ok(CREATE);
    let proxy = proxy();
    assert!(fixture.try_open(&proxy.endpoint(), OTHER_KEY, &[]).is_err());
    assert_eq!(proxy.count(&Operation::PutItem), 0);
}

/// As by a program without this crate.
fn create_plainly(fixture: &WorkersFixture) -> SqliteConnection {
    let path = fixture.scratch.database().display().to_string();
    let mut plain = SqliteConnection::establish(&path).expect("a database");
    let created = plain.batch_execute("CREATE TABLE note (text TEXT)");
    created.expect("a table");
    plain
}

fn key_file(fixture: &WorkersFixture) -> PathBuf {
    let mut name = fixture.scratch.database().as_os_str().to_owned();
    name.push("-lock-key");
    name.into()
}

#[track_caller]
fn refused(fixture: &WorkersFixture, parameters: &str) -> Failure {
    let opened = fixture.try_open(Emulator::shared().endpoint(), parameters, &[]);
    opened.err().expect("another lock protects the database")
}
