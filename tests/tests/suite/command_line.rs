//! The program `efs-sqlite`: what it says, what it does, what it leaves alone, and its exit status.

mod doctor;
mod locks;
mod migrate;

use std::env;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use integration::dynamodb::env_for;
use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Proxy, Purpose, Rule};
use serde_json::Value;

use crate::fixtures::workers::{LONG, WorkerProcess, WorkersFixture, proxy};

/// Exit statuses, as documented.
const DONE: i32 = 0;
const WRONG: i32 = 1;
const USAGE: i32 = 2;
const BUSY: i32 = 3;
const UNKNOWN: i32 = 4;

/// A run of the program that has ended.
#[derive(Debug)]
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn says(&self, part: &str) {
        assert!(self.stdout.contains(part), "{part}: {self:?}");
    }

    #[track_caller]
    fn complains(&self, part: &str) {
        assert!(self.stderr.contains(part), "{part}: {self:?}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().expect("no signal"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// The program, with no settings but the way to the endpoint.
fn program(endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_command-line"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let is_ours = text.starts_with("SQLITE_LOCK_") || text.starts_with("AWS_");
        if is_ours || ["DATABASE_URL", "MIGRATION_DIRECTORY", "CLICOLOR_FORCE"].contains(&&*text) {
            command.env_remove(name);
        }
    }
    command.envs(env_for(endpoint)).stdin(Stdio::null());
    command
}

fn run_at(endpoint: &str, arguments: &[&str]) -> Ran {
    let ran = program(endpoint).args(arguments).output();
    ran.expect("the program runs").into()
}

fn run(arguments: &[&str]) -> Ran {
    run_at(Emulator::shared().endpoint(), arguments)
}

/// The database of a fixture, as the program is given it.
fn url(fixture: &WorkersFixture, parameters: &str) -> String {
    let path = fixture.scratch.database().display();
    format!("{path}?lock_table={}&{parameters}", fixture.table.name())
}

/// A fixture whose database has a table.
fn furnished(name: &str) -> WorkersFixture {
    let fixture = WorkersFixture::new(name);
    fixture.open("").ok("execute CREATE TABLE note (text TEXT)");
    fixture
}

/// A writer that was killed at its commit point: its pages are written, its journal is hot. With
/// `HoldAnswer` its commit is recorded in the item, with `Hold` it is not.
fn kill_writer(fixture: &WorkersFixture, parameters: &str, action: Action) {
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, parameters);
    let is_recorded = matches!(action, Action::HoldAnswer);
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, action));
    const WRITE: &str = "execute INSERT INTO note VALUES ('there')";
    writer.tell(WRITE);
    wait_until(LONG * 2, "it is at its commit point", || {
        // A busy machine may lose a short lease on the way there.
        if let Some(answer) = writer.answered() {
            let failure = answer.expect_err("it is held at its commit point");
            assert!(failure.retryable, "{failure:?}");
            writer.tell(WRITE);
        }
        confirmation.hits() > 0
    });
    if is_recorded {
        wait_until(LONG, "the commit is recorded", || {
            fixture.attribute("committed").is_some()
        });
    }
    writer.kill();
    assert!(fixture.has_journal());
}

/// A process that holds the lock.
fn holder(fixture: &WorkersFixture, parameters: &str) -> WorkerProcess {
    let mut process = fixture.open(&format!(
        "lock_expiration=60&lock_holder=somebody&{parameters}"
    ));
    process.ok("immediate");
    process
}

/// Everything that could have been changed: the names in the directory, the files, the item.
fn everything(fixture: &WorkersFixture) -> impl PartialEq + std::fmt::Debug + use<> {
    let entries = std::fs::read_dir(fixture.scratch.directory()).expect("a directory");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let modified = path
                .metadata()
                .expect("metadata")
                .modified()
                .expect("a time");
            let content = std::fs::read(&path).expect("a file");
            (path, modified, content)
        })
        .collect();
    files.sort();
    (
        files,
        fixture
            .table
            .item(&fixture.key())
            .expect("the table answers"),
    )
}

fn denying(proxy: &Proxy, operation: &str) {
    use integration::proxy::{Answer, Operation};
    let answer = Action::Answer(Answer::access_denied(&format!("dynamodb:{operation}")));
    let operation = match operation {
        "PutItem" => Operation::PutItem,
        "DeleteItem" => Operation::DeleteItem,
        other => Operation::Other(other.to_owned()),
    };
    proxy.rule(Rule::on(operation, answer));
}

#[test]
fn wrong_arguments_and_settings_are_told_with_the_remedy_and_status_2() {
    let table = "lock_table=command-usage";
    let cases: &[(&[&str], &str)] = &[
        (&["stauts"], "a similar subcommand exists: 'status'"),
        (&["status"], "give DATABASE, or set DATABASE_URL"),
        (
            &["status", "/tmp/a.db"],
            "no lock table is set: give `lock_table=NAME`",
        ),
        (
            &["status", "/tmp/a.db?lock_tabel=x"],
            "did you mean `lock_table`?",
        ),
        (
            &["check", ":memory:"],
            "in memory, or a temporary one, has no lock",
        ),
        (&["status", "/tmp/a.db?lock=local"], "`lock=local` is set"),
        (
            &["status", &format!("/tmp/a.db?{table}"), "--for", "soon"],
            "give seconds",
        ),
        (&["create-table"], "give --table NAME"),
        (
            &["create-table", "--table", "a b"],
            "for --table: give the name of a DynamoDB table",
        ),
        (&["man", "unlokc"], "there is no command `unlokc`"),
        (
            &["migrate", "run", "/tmp/a.db", "--migration-dir", "/no/such"],
            "no migrations in /no/such",
        ),
    ];
    for (arguments, text) in cases {
        run(arguments).expect(USAGE).complains(text);
    }
}

#[test]
fn the_database_may_come_from_the_environment() {
    let fixture = furnished("command-environment");
    let ran = program(Emulator::shared().endpoint())
        .args(["status"])
        .env("DATABASE_URL", fixture.scratch.database())
        .env("SQLITE_LOCK_DYNAMODB_TABLE", "command-environment")
        .output();
    Ran::from(ran.expect("it runs"))
        .expect(DONE)
        .says("lock     free");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    run(&["completions", "bash"])
        .expect(DONE)
        .says("create-table");
    run(&["man"]).expect(DONE).says(".TH efs-sqlite");
    let page = run(&["man", "doctor"]).expect(DONE);
    page.says(".TH efs-sqlite-doctor");
    page.says("DATABASE_URL");
}

#[test]
fn a_whole_database_passes_the_check_and_leaves_no_lock() {
    let fixture = furnished("command-check");
    let ran = run(&["check", &url(&fixture, "")]).expect(DONE);
    assert_eq!(ran.stdout, "integrity_check: ok\nforeign_key_check: ok\n");
    fixture.assert_whole();
}

#[test]
fn the_check_finds_rows_that_refer_to_nothing() {
    let fixture = WorkersFixture::new("command-orphans");
    let mut writer = fixture.open("");
    writer.ok("execute CREATE TABLE parent (id INTEGER PRIMARY KEY)");
    writer.ok("execute CREATE TABLE child (parent INTEGER REFERENCES parent)");
    writer.ok("batch PRAGMA foreign_keys = OFF");
    writer.ok("execute INSERT INTO child VALUES (7)");
    let ran = run(&["check", &url(&fixture, "")]).expect(WRONG);
    ran.says("integrity_check: ok");
    ran.says("foreign_key_check: row 1 of child refers to no row of parent");
}

#[test]
fn the_check_finds_a_damaged_page() {
    let fixture = furnished("command-damage");
    fixture
        .open("")
        .ok("execute CREATE INDEX damaged ON note (text)");
    // The last page is the index's: empty, and so a header of a few bytes.
    let mut content = std::fs::read(fixture.scratch.database()).expect("a database");
    let page = content.len() - 4096;
    content[page..page + 8].fill(0xff);
    std::fs::write(fixture.scratch.database(), content).expect("a damaged database");
    let ran = run(&["check", &url(&fixture, "")]).expect(WRONG);
    assert!(!ran.stdout.contains("integrity_check: ok"), "{ran:?}");
}

#[test]
fn what_needs_the_lock_waits_for_it_and_then_says_who_holds_it_with_status_3() {
    let fixture = furnished("command-busy");
    let mut holder = holder(&fixture, "");
    let url = url(&fixture, "lock_timeout=30&lock_max_attempts=1");
    for arguments in [
        &["check", &url][..],
        &[
            "migrate",
            "run",
            &url,
            "--migration-dir",
            &migrate::directory(),
        ],
    ] {
        run(arguments)
            .expect(BUSY)
            .complains("the write lock is held by `somebody`");
    }
    holder.ok("rollback");
    run(&["check", &url]).expect(DONE);
    fixture.assert_whole();
}

#[test]
fn files_that_are_no_database_are_refused_by_name() {
    let fixture = furnished("command-files");
    let file = |name: &str, content: &[u8]| {
        std::fs::write(fixture.scratch.file(name), content).expect("a file");
        format!(
            "{}?lock_table=command-files",
            fixture.scratch.file(name).display()
        )
    };
    let mut wal = std::fs::read(fixture.scratch.database()).expect("a database");
    (wal[18], wal[19]) = (2, 2);
    for (url, text) in [
        (file("garbage.db", &[b'x'; 5000]), "not a SQLite database"),
        (file("wal.db", &wal), "in WAL mode"),
        (
            "/no/such/directory/a.db?lock_table=command-files".to_owned(),
            "there is no file",
        ),
    ] {
        let before = Path::new(url.split('?').next().expect("a path"))
            .metadata()
            .ok();
        run(&["check", &url]).expect(WRONG).complains(text);
        let after = Path::new(url.split('?').next().expect("a path"))
            .metadata()
            .ok();
        assert_eq!(before.map(|it| it.len()), after.map(|it| it.len()));
    }
}
