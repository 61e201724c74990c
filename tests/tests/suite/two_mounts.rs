//! Two hosts on one directory, as far as one machine can be two: two FUSE mounts of it in two mount
//! name spaces, at the same path. File locks do not cross, and each side's caches are only
//! close-to-open.
//!
//! What plain SQLite makes of the same is told on standard error. `EFS_TESTS=long` makes the loads
//! last longer. Skipped, saying why, where not root, without `/dev/fuse` or without bindfs
//! (`tests/install-packages.sh`); never where `CI=true`.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::dynamodb::LockTable;
use integration::emulator::Emulator;
use integration::options::load_seconds;
use integration::process::Worker;
use integration::proxy::{Action, Proxy, Purpose, Rule};
use integration::scratch::Scratch;

use crate::fixtures::workers::{
    LONG, WorkerProcess, WorkersFixture, assert_ledger, number_before, proxy,
};

/// Attributes are remembered for an hour, and so are the pages that they speak of, until the file is
/// opened again; names are not remembered.
const CLOSE_TO_OPEN: &str = "entry_timeout=0,attr_timeout=3600";
/// What FUSE does unless told otherwise; names are remembered as well.
const A_SECOND: &str = "entry_timeout=1,attr_timeout=1";

/// Names, with what they stand for, are remembered for as long as the test takes.
const NAMES_LIE: &str = "entry_timeout=3600,attr_timeout=3600";

const WRITERS_EACH: usize = 2;
const READERS_EACH: usize = 1;

#[test]
fn plain_sqlite_loses_an_update_there() {
    let Some(mounts) = Mounts::new("two-mounts-baseline", CLOSE_TO_OPEN) else {
        return;
    };
    let [one, other] = &mounts.sides;
    let mut here = mounts.plain(one);
    here.ok("batch CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (1)");
    let mut there = mounts.plain(other);
    assert_eq!(there.ok("query SELECT value FROM counter"), "1");
    here.ok("execute UPDATE counter SET value = value + 1");
    // Its cached page was locked by nobody, and nobody has told it of the change.
    there.ok("execute UPDATE counter SET value = value + 1");
    assert_eq!(there.ok("query SELECT value FROM counter"), "2");

    let mut here = Mounts::new("two-mounts-baseline-load", CLOSE_TO_OPEN);
    let load = here.as_mut().map(Mounts::plain_load).unwrap_or_default();
    tell(&format!(
        "plain SQLite on two mounts: an update lost; under load {load}"
    ));
}

#[test]
fn an_update_from_an_old_cache_is_refused_or_made_from_the_new_state() {
    let Some(mounts) = Mounts::new("two-mounts-update", CLOSE_TO_OPEN) else {
        return;
    };
    let [one, other] = &mounts.sides;
    for check in ["off", "counter", "reopen"] {
        let parameters = format!("lock_read_check={check}");
        let mut here = mounts.open(one, &parameters);
        here.ok(
            "batch DROP TABLE IF EXISTS counter; CREATE TABLE counter (value INTEGER); \
                 INSERT INTO counter VALUES (1)",
        );
        let mut there = mounts.open(other, &parameters);
        assert_eq!(there.ok("query SELECT value FROM counter"), "1");
        there.ok("execute UPDATE counter SET value = value + 1");
        here.ok("execute UPDATE counter SET value = value + 1");
        there.ok("execute UPDATE counter SET value = value + 1");
        assert_eq!(there.ok("query SELECT value FROM counter"), "4", "{check}");
    }
    mounts.assert_whole();
}

#[test]
fn a_read_past_the_caches_sees_what_the_other_side_has_just_committed() {
    let Some(mounts) = Mounts::new("two-mounts-fresh", CLOSE_TO_OPEN) else {
        return;
    };
    let [mut here, mut there] = mounts.sides.each_ref().map(|side| mounts.open(side, ""));
    here.ok("batch CREATE TABLE t (n INTEGER, filler BLOB); INSERT INTO t VALUES (0, NULL)");
    for n in 1..=20 {
        // The file grows as well: what the other side remembers of its size is too little.
        here.ok("execute INSERT INTO t VALUES (1, zeroblob(5000))");
        assert_eq!(there.ok("query SELECT sum(n) FROM t"), n.to_string());
        assert_eq!(
            there.ok("query SELECT count(*) FROM t WHERE length(filler) = 5000"),
            n.to_string()
        );
    }
    // A transaction that has begun is told if it can no longer go on reading its state.
    there.ok("begin");
    there.ok("query SELECT count(*) FROM t");
    here.ok("execute UPDATE t SET filler = randomblob(5000)");
    let failure = there.fails("query SELECT sum(length(hex(filler))) FROM t");
    failure.assert_retryable("TornRead");
    there.ok("rollback");
    mounts.assert_whole();
}

/// SQLite takes an empty journal for none; this one is remembered as empty when it is hot.
#[test]
fn a_hot_journal_is_seen_although_its_name_is_remembered_for_an_empty_file() {
    let Some(mounts) = Mounts::new("two-mounts-hot", NAMES_LIE) else {
        return;
    };
    let [one, other] = &mounts.sides;
    mounts
        .open(one, "")
        .ok("batch CREATE TABLE item (state TEXT, filler BLOB); \
        INSERT INTO item SELECT 'old', zeroblob(2000) FROM pragma_function_list LIMIT 40");
    let mut reader = mounts.open(other, "");
    fs::write(mounts.journal(), "").expect("an empty journal");
    assert_eq!(
        reader.ok("query SELECT state, count(*) FROM item GROUP BY state"),
        "old|40"
    );

    let proxy = proxy();
    let mut writer = mounts.open_behind(one, &proxy, "lock_expiration=6");
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::Hold));
    writer.tell("execute UPDATE item SET state = 'new'");
    confirmation.wait_for_hits(1, LONG);
    let journal = fs::read(mounts.journal()).expect("a journal");
    assert_ne!(journal.first(), Some(&0), "the journal is hot");
    writer.kill();
    assert_eq!(
        reader.ok("query SELECT state, count(*) FROM item GROUP BY state"),
        "old|40"
    );
    mounts.assert_whole();
}

#[test]
fn a_journal_is_created_although_its_name_is_remembered_for_one_that_is_gone() {
    let Some(mounts) = Mounts::new("two-mounts-gone", NAMES_LIE) else {
        return;
    };
    let [one, other] = &mounts.sides;
    mounts
        .open(one, "")
        .ok("batch CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (1)");
    let mut there = mounts.open(other, "");
    for content in ["", "not hot: its first byte is not that of a header"] {
        let content = content.replacen('n', "\0", 1);
        fs::write(mounts.journal(), content).expect("a journal");
        there.ok("query SELECT value FROM counter");
        fs::remove_file(mounts.journal()).expect("it goes");
        there.ok("query SELECT value FROM counter");
        there.ok("execute UPDATE counter SET value = value + 1");
    }
    assert_eq!(
        mounts.open(one, "").ok("query SELECT value FROM counter"),
        "3"
    );
    mounts.assert_whole();
}

#[test]
fn nothing_is_lost_or_torn_where_caches_are_close_to_open() {
    if let Some(mounts) = Mounts::new("two-mounts-close-to-open", CLOSE_TO_OPEN) {
        mounts.all_is_kept(4);
    }
}

#[test]
fn nothing_is_lost_or_torn_where_caches_lie_for_a_second() {
    if let Some(mounts) = Mounts::new("two-mounts-second", A_SECOND) {
        mounts.all_is_kept(4);
    }
}

/// `cargo test -p integration --release --test suite -- --ignored --nocapture checks_of_reads`
#[test]
#[ignore = "a measurement"]
fn what_checks_of_reads_cost() {
    const PAGES: u32 = 1_000;
    type Open<'a> = &'a dyn Fn(&str) -> WorkerProcess;
    let fixture = WorkersFixture::new("two-mounts-cost");
    let mounts = Mounts::new("two-mounts-cost-fuse", CLOSE_TO_OPEN);
    let local = |parameters: &str| fixture.open(parameters);
    let fuse = mounts
        .as_ref()
        .map(|mounts| move |parameters: &str| mounts.open(&mounts.sides[0], parameters));
    let mut places: Vec<(&str, Open<'_>)> = vec![("local", &local)];
    if let Some(fuse) = &fuse {
        places.push(("FUSE", fuse));
    }
    for (place, open) in places {
        open("").ok(&format!(
            "batch CREATE TABLE filler (content BLOB); CREATE TABLE one (n INTEGER); \
             INSERT INTO one VALUES (1); \
             WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n LIMIT {PAGES}) \
             INSERT INTO filler SELECT zeroblob(3500) FROM n"
        ));
        for check in ["off", "counter", "reopen"] {
            // Ten pages of cache: each scan reads every page again.
            let mut process = open(&format!("lock_read_check={check}&cache_size_pages=10"));
            let mut measure = |times: u32, query: &str| -> f64 {
                let nanos = process.ok(&format!("time {times} {query}"));
                nanos.parse::<f64>().expect("a number") / 1_000.0
            };
            measure(10, "SELECT count(*) FROM filler");
            let page = measure(20, "SELECT count(*) FROM filler") / f64::from(PAGES);
            let transaction = measure(2_000, "SELECT n FROM one");
            println!("{place} {check}: {page:.2} µs a page, {transaction:.0} µs a transaction");
        }
    }
}

/// The two mounts, and what is behind them.
struct Mounts {
    // Ended before the directory is deleted.
    sides: [Side; 2],
    source: PathBuf,
    database: PathBuf,
    table: LockTable,
    _scratch: Scratch,
}

/// A mount name space, kept by a process.
struct Side {
    keeper: Worker,
}

impl Mounts {
    /// `None`, saying why, where there can be no such mounts.
    fn new(table: &str, options: &str) -> Option<Self> {
        if let Some(obstacle) = obstacle() {
            assert!(
                env::var("CI").as_deref() != Ok("true"),
                "{obstacle}; tests/install-packages.sh installs what is missing"
            );
            tell(&format!("skipped: two FUSE mounts: {obstacle}"));
            return None;
        }
        let scratch = Scratch::new().expect("a directory");
        let (source, mount) = (scratch.file("source"), scratch.file("mount"));
        for directory in [&source, &mount] {
            fs::create_dir(directory).expect("a directory");
        }
        Some(Self {
            sides: [(); 2].map(|()| Side::mount(&source, &mount, options)),
            database: mount.join("database.sqlite3"),
            source,
            table: LockTable::create(Emulator::shared().endpoint(), table).expect("a lock table"),
            _scratch: scratch,
        })
    }

    fn open(&self, side: &Side, parameters: &str) -> WorkerProcess {
        self.open_at(side, Emulator::shared().endpoint(), parameters)
    }

    fn open_behind(&self, side: &Side, proxy: &Proxy, parameters: &str) -> WorkerProcess {
        self.open_at(side, &proxy.endpoint(), parameters)
    }

    fn open_at(&self, side: &Side, endpoint: &str, parameters: &str) -> WorkerProcess {
        let url = format!(
            "{}?lock_table={}&lock_timeout=30&{parameters}",
            self.database.display(),
            self.table.name()
        );
        side.start(endpoint, &["database", &url])
    }

    /// Diesel's own connection.
    fn plain(&self, side: &Side) -> WorkerProcess {
        let path = self.database.display().to_string();
        side.start(Emulator::shared().endpoint(), &["plain", &path])
    }

    /// Writers and readers of plain SQLite on both sides; in words, what became of it.
    fn plain_load(&mut self) -> String {
        self.open(&self.sides[0], "").ok("create-ledger");
        let (written, read) = self.work(|side| self.plain(side), load_seconds(2));
        let mut auditor = WorkerProcess::start(
            Emulator::shared().endpoint(),
            &[
                "plain",
                &self.source.join("database.sqlite3").display().to_string(),
            ],
        )
        .expect("the file opens");
        let mut audit = |query: &str| match auditor.ask(&format!("query {query}")) {
            Ok(text) => text.chars().take(60).collect(),
            Err(failure) => failure.message,
        };
        format!(
            "{} acknowledged, counter {}, {} found, {} reads torn, integrity_check: {}",
            sum(&written, "acknowledged"),
            audit("SELECT value FROM counter"),
            audit("SELECT count(*) FROM entry NOT INDEXED"),
            sum(&read, "torn"),
            audit("PRAGMA integrity_check(1)"),
        )
    }

    /// Lets writers and readers work on both sides at once; what they answer.
    fn work(
        &self,
        open: impl Fn(&Side) -> WorkerProcess,
        seconds: u32,
    ) -> (Vec<String>, Vec<String>) {
        let on_both = |count: usize| -> Vec<WorkerProcess> {
            let sides = self.sides.iter().cycle().take(2 * count);
            sides.map(&open).collect()
        };
        let (mut writers, mut readers) = (on_both(WRITERS_EACH), on_both(READERS_EACH));
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.tell(&format!("write-ledger writer-{number} {seconds}"));
        }
        for reader in &mut readers {
            reader.tell(&format!("read-ledger {seconds}"));
        }
        let answers = |processes: Vec<WorkerProcess>| {
            let answer =
                |process: &WorkerProcess| process.answer().expect("no error but retryable ones");
            processes.iter().map(answer).collect()
        };
        (answers(writers), answers(readers))
    }

    fn all_is_kept(&self, short_seconds: u32) {
        self.open(&self.sides[0], "").ok("create-ledger");
        let (written, read) = self.work(|side| self.open(side, ""), load_seconds(short_seconds));
        tell(&format!("two mounts: {written:?}, {read:?}"));
        for answer in &read {
            assert_eq!(number_before(answer, "torn"), 0, "{answer}");
            assert!(number_before(answer, "whole") > 0, "{answer}");
        }
        let acknowledged: Vec<_> = (written.iter())
            .map(|answer| number_before(answer, "acknowledged"))
            .collect();
        // Which sides have written is told above; a busy machine may leave one out.
        assert!(acknowledged.iter().any(|writes| *writes > 0), "{written:?}");
        for side in &self.sides {
            assert_ledger(&mut self.open(side, ""), &acknowledged);
        }
        self.assert_whole();
    }

    /// On both sides and in the directory itself nothing is wrong, and nothing is left behind.
    fn assert_whole(&self) {
        for side in &self.sides {
            let mut auditor = self.open(side, "");
            assert_eq!(auditor.ok("query PRAGMA integrity_check"), "ok");
        }
        assert_eq!(
            self.table.count().expect("a count"),
            0,
            "a lock item is left"
        );
        assert!(!self.journal().exists(), "a journal is left");
    }

    /// As it is, past both mounts.
    fn journal(&self) -> PathBuf {
        self.source.join("database.sqlite3-journal")
    }
}

impl Side {
    fn mount(source: &Path, mount: &Path, options: &str) -> Self {
        // What is started there ends with its first process, and the mount with the name space.
        let script = r#"bindfs --no-allow-other -o "$0" "$1" "$2" && echo mounted && cat"#;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                script,
                options,
            ])
            .args([source, mount]);
        let keeper = Worker::spawn(&mut command).expect("unshare runs");
        assert_eq!(keeper.line(LONG).as_deref(), Ok("mounted"));
        Self { keeper }
    }

    /// A worker that sees this side's mount.
    fn start(&self, endpoint: &str, arguments: &[&str]) -> WorkerProcess {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .arg(env!("CARGO_BIN_EXE_worker"));
        WorkerProcess::start_through(command, endpoint, arguments).expect("the database opens")
    }
}

/// Why there can be no two mounts here.
fn obstacle() -> Option<String> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("only root may mount".to_owned());
    }
    ["bindfs", "unshare", "nsenter"]
        .into_iter()
        .find_map(|program| {
            let tried = Command::new(program).arg("--version").output();
            (!tried.is_ok_and(|output| output.status.success()))
                .then(|| format!("there is no `{program}`"))
        })
}

/// Not `eprintln!`, which the test harness would keep to itself.
fn tell(line: &str) {
    // Nobody to tell is no failure.
    let _ = writeln!(io::stderr(), "{line}");
}

fn sum(answers: &[String], word: &str) -> u64 {
    answers
        .iter()
        .map(|answer| number_before(answer, word))
        .sum()
}
