//! Two locks for one file: whoever would take another lock than the first writer is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use integration::emulator::Emulator;
use integration::proxy::{Action, Operation, Purpose, Rule};

use crate::worker::{Failure, LONG, Process, Stage, proxy};

const CREATE: &str = "execute CREATE TABLE note (text TEXT)";
const WRITE: &str = "execute INSERT INTO note VALUES ('here')";
const COUNT: &str = "query SELECT count(*) FROM note";
const OTHER_KEY: &str = "lock_key=another-key";

#[test]
fn another_key_is_refused_by_both_names_and_with_the_remedy() {
    let stage = Stage::new("keys-opened");
    stage.open("").ok(CREATE);
    let failure = refused(&stage, OTHER_KEY);
    for part in [
        &stage.key(),
        "`another-key`",
        "in the table `keys-opened`",
        "set the same",
        &format!("delete {}", key_file(&stage).display()),
    ] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
    assert!(!failure.retryable);
    // The first key still works, and costs no look at the file more than at opening.
    let mut again = stage.open("");
    again.ok(WRITE);
    assert_eq!(again.ok(COUNT), "1");
    stage.assert_whole();
}

#[test]
fn another_table_is_refused() {
    let stage = Stage::new("keys-table");
    stage.open("").ok(CREATE);
    let url = format!(
        "{}?lock_table=keys-table-2",
        stage.scratch.database().display()
    );
    let failure = Process::start(Emulator::shared().endpoint(), &["database", &url])
        .err()
        .expect("two tables");
    assert!(failure.message.contains("`keys-table-2`"), "{failure:?}");
    assert!(failure.message.contains("`keys-table`"), "{failure:?}");
}

#[test]
fn whoever_opened_under_another_key_before_the_first_write_is_refused_at_its_own() {
    let stage = Stage::new("keys-early");
    let mut one = stage.open("");
    let mut other = stage.open(OTHER_KEY);
    one.ok(CREATE);
    assert_eq!(other.ok(COUNT), "0", "a reader does no harm");
    for command in [WRITE, "immediate"] {
        let failure = other.fails(command);
        assert_eq!(failure.kind, "Config", "{failure:?}");
        assert!(!failure.retryable);
        assert!(failure.message.contains("`another-key`"), "{failure:?}");
        assert!(failure.message.contains(&stage.key()), "{failure:?}");
    }
    one.ok(WRITE);
    assert_eq!(one.ok(COUNT), "1");
    stage.assert_whole();
}

#[test]
fn of_two_first_writers_under_two_keys_one_may_write() {
    let stage = Stage::without_file_locks("keys-race");
    create_plainly(&stage);
    let proxies = [proxy(), proxy()];
    let mut processes = [
        stage.open_behind(&proxies[0], ""),
        stage.open_behind(&proxies[1], OTHER_KEY),
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
    let answers = processes.each_ref().map(Process::answer);
    let refusals: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(refusals.len(), 1, "{answers:?}");
    assert_eq!(refusals[0].kind, "Config", "{answers:?}");
    let winner = usize::from(answers[0].is_err());
    assert_eq!(processes[winner].ok(COUNT), "1");
    assert_eq!(
        stage.table.count().expect("a count"),
        0,
        "both are released"
    );
}

#[test]
fn under_another_key_nobody_rolls_a_writers_journal_back() {
    let stage = Stage::without_file_locks("keys-recovery");
    create_plainly(&stage);
    let mut other = stage.open(OTHER_KEY);
    let proxy = proxy();
    let mut writer = stage.open_behind(&proxy, "lock_expiration=60");
    // And what repeats it, on a slow machine.
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold));
    writer.tell(WRITE);
    confirmation.wait_for_hits(1, LONG);
    let before = stage.files();
    assert!(before.1.is_some(), "a hot journal stands");
    for command in [COUNT, WRITE] {
        let failure = other.fails(command);
        assert_eq!(failure.kind, "Config", "{failure:?}");
    }
    refused(&stage, OTHER_KEY);
    assert_eq!(stage.files(), before);
    confirmation.release();
    writer.answer().expect("its commit");
    assert_eq!(stage.open("").ok(COUNT), "1");
    stage.assert_whole();
}

#[test]
fn the_file_is_for_people_whole_and_readable_by_all() {
    let stage = Stage::new("keys-file");
    let mut writer = stage.open("");
    assert!(!key_file(&stage).exists(), "opening writes nothing");
    writer.ok(CREATE);
    let text = fs::read_to_string(key_file(&stage)).expect("a file");
    assert!(
        text.starts_with("# The lock that protects the database"),
        "{text}"
    );
    assert!(text.contains("\ntable: keys-file\n"), "{text}");
    assert!(text.ends_with(&format!("key: {}\n", stage.key())), "{text}");
    let metadata = key_file(&stage).metadata().expect("metadata");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_eq!(metadata.nlink(), 1);
    let names = fs::read_dir(stage.scratch.directory()).expect("a directory");
    assert_eq!(names.count(), 2, "nothing else is left");
}

#[test]
fn a_link_to_the_database_is_the_same_database_and_so_needs_the_same_key() {
    let stage = Stage::new("keys-link");
    stage.open("").ok(CREATE);
    let link = stage.scratch.file("link.db");
    symlink(stage.scratch.database(), &link).expect("a link");
    let open = |parameters: &str| {
        let url = format!("{}?lock_table=keys-link{parameters}", link.display());
        Process::start(Emulator::shared().endpoint(), &["database", &url])
    };
    let failure = open("").err().expect("the default key goes by the path");
    assert!(failure.message.contains("link.db`"), "{failure:?}");
    assert!(failure.message.contains(&stage.key()), "{failure:?}");
    let mut same =
        open(&format!("&lock_key={}", stage.key().replace('#', "%23"))).expect("the same key");
    same.ok(WRITE);
    stage.assert_whole();
}

#[test]
fn a_local_open_of_a_database_under_a_lock_is_refused_and_of_its_copy_alone_is_not() {
    let stage = Stage::new("keys-local");
    stage.open("").ok(CREATE);
    let open = |path: PathBuf| {
        let url = format!("{}?lock=local", path.display());
        Process::start(Emulator::shared().endpoint(), &["database", &url])
    };
    let failure = open(stage.scratch.database().to_owned())
        .err()
        .expect("it has a lock");
    for part in ["`lock=local`", &stage.key(), "if this is a copy, delete"] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
    let copy = stage.scratch.file("copy.db");
    fs::copy(stage.scratch.database(), &copy).expect("a copy");
    open(copy).expect("a copy").ok(WRITE);
    assert!(!stage.scratch.file("copy.db-lock-key").exists());
}

#[test]
fn the_key_is_changed_by_deleting_the_file() {
    let stage = Stage::new("keys-change");
    stage.open("").ok(CREATE);
    refused(&stage, OTHER_KEY);
    fs::remove_file(key_file(&stage)).expect("the file goes");
    let mut other = stage.open(OTHER_KEY);
    other.ok(WRITE);
    assert_eq!(other.ok(COUNT), "1");
    let failure = refused(&stage, "");
    assert!(
        failure
            .message
            .contains("is protected by the lock key `another-key`")
    );
}

#[test]
fn a_database_of_the_python_package_has_no_such_file_and_loses_nothing() {
    let stage = Stage::new("keys-python");
    let mut plain = create_plainly(&stage);
    let mut ours = stage.open("");
    assert_eq!(ours.ok(COUNT), "0");
    assert!(!key_file(&stage).exists(), "reading writes nothing");
    ours.ok(WRITE);
    plain
        .batch_execute("INSERT INTO note VALUES ('there')")
        .expect("the file means nothing to others");
    assert_eq!(ours.ok(COUNT), "2");
    stage.assert_whole();
}

#[test]
fn what_keeps_the_file_from_being_understood_keeps_the_database_from_being_opened() {
    let stage = Stage::new("keys-garbage");
    stage.open("").ok(CREATE);
    fs::write(key_file(&stage), "table: keys-garbage\n").expect("a file");
    let failure = refused(&stage, "");
    assert!(
        failure.message.contains("cannot be understood; delete it"),
        "{failure:?}"
    );
}

#[test]
fn a_refusal_asks_for_no_lease() {
    let stage = Stage::new("keys-requests");
    stage.open("").ok(CREATE);
    let proxy = proxy();
    assert!(stage.try_open(&proxy.endpoint(), OTHER_KEY, &[]).is_err());
    assert_eq!(proxy.count(&Operation::PutItem), 0);
}

/// As by a program without this crate.
fn create_plainly(stage: &Stage) -> SqliteConnection {
    let path = stage.scratch.database().display().to_string();
    let mut plain = SqliteConnection::establish(&path).expect("a database");
    let created = plain.batch_execute("CREATE TABLE note (text TEXT)");
    created.expect("a table");
    plain
}

fn key_file(stage: &Stage) -> PathBuf {
    let mut name = stage.scratch.database().as_os_str().to_owned();
    name.push("-lock-key");
    name.into()
}

#[track_caller]
fn refused(stage: &Stage, parameters: &str) -> Failure {
    let opened = stage.try_open(Emulator::shared().endpoint(), parameters, &[]);
    opened.err().expect("another lock protects the database")
}
