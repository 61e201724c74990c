//! The system calls on the database, its journal and their directory, as `strace` sees them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use integration::emulator::Emulator;

use super::is_usable;
use crate::fixtures::workers::{WorkerProcess, WorkersFixture};

/// A system call and what it is made on, as `pread64 database`.
type Operation = String;
type Counts = BTreeMap<Operation, usize>;

pub(crate) const SELECT: &str = "query SELECT n FROM item WHERE id = 1";
pub(crate) const UPDATE: &str = "execute UPDATE item SET n = n + 1 WHERE id = 1";
pub(crate) const FURNISH: &str = "batch CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER); \
     INSERT INTO item VALUES (1, 0), (2, 0)";
/// What this crate sets for its connections.
pub(crate) const SAME_MODE: &str =
    "batch PRAGMA synchronous=EXTRA; PRAGMA temp_store=MEMORY; PRAGMA cache_spill=OFF";

/// What is counted, each on a connection that has done it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A point SELECT in a transaction of its own.
    Read,
    /// Three of them in one transaction.
    Reads,
    /// An UPDATE of one row in a transaction of its own.
    Write,
    /// Two of them in one transaction that takes the lock before it begins.
    Writes,
}

impl Work {
    const ALL: [Self; 4] = [Self::Read, Self::Reads, Self::Write, Self::Writes];

    /// The worker's commands, `plain` those of the one with Diesel's own connection.
    fn commands(self, plain: bool) -> Vec<&'static str> {
        match self {
            Self::Read => vec![SELECT],
            Self::Write => vec![UPDATE],
            Self::Reads if plain => vec!["batch BEGIN", SELECT, SELECT, SELECT, "commit"],
            Self::Reads => vec!["begin", SELECT, SELECT, SELECT, "commit"],
            Self::Writes => vec!["immediate", UPDATE, UPDATE, "commit"],
        }
    }
}

#[test]
fn a_transaction_makes_no_file_operations_but_plain_sqlites_and_those_the_guarantees_need() {
    if !is_usable("strace", &["-o", "/dev/null", "true"]) {
        return;
    }
    let fixture = WorkersFixture::new("counts-file-operations");
    fixture.open("").ok(FURNISH);
    let plain = count(&fixture, true, &["plain", &path(&fixture)]);
    for (work, counts) in &plain {
        println!("plain SQLite | {work:?} | {}", total(counts));
    }
    // With the lock in DynamoDB, then by SQLite's file locks alone.
    let with_table = format!("lock_table={}", fixture.table.name());
    let mut modes = vec![
        (with_table.clone(), "off"),
        (with_table.clone(), "counter"),
        (with_table, "reopen"),
    ];
    for check in ["off", "counter", "reopen"] {
        modes.push(("lock=local".to_owned(), check));
    }
    let mut wrong = Vec::new();
    for (parameters, check) in modes {
        let key_file = fixture.scratch.file("database.sqlite3-lock-key");
        if parameters == "lock=local" && key_file.exists() {
            // It names the table, which `lock=local` must not go past.
            fs::remove_file(key_file).expect("the key file can be removed");
        }
        let url = format!("{}?{parameters}&lock_read_check={check}", path(&fixture));
        let ours = count(&fixture, false, &["database", &url]);
        for ((work, ours), (_, plain)) in ours.iter().zip(&plain) {
            let found = beyond(ours, plain);
            println!(
                "{parameters} {check} | {work:?} | {} | {found:?}",
                total(ours)
            );
            let expected = expected(*work, check);
            if found != expected {
                wrong.push(format!(
                    "{parameters} {check} {work:?}: {found:#?}, not {expected:#?}"
                ));
            }
        }
    }
    for extra in EXTRAS {
        let Extra {
            by,
            with,
            operation,
            number,
            why,
        } = extra;
        println!(
            "{by:?} | {} | {operation} | {number:+} | {why}",
            with.join(", ")
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An operation that plain SQLite does not make, or does make and this crate does not.
struct Extra {
    /// By the first UPDATE of a transaction, or by every transaction.
    by: By,
    /// With these read checks.
    with: &'static [&'static str],
    operation: &'static str,
    number: isize,
    why: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    EachTransaction,
    FirstWrite,
}

const ALWAYS: &[&str] = &["off", "counter", "reopen"];

/// All of them, each with its reason; in the order in which they come.
const EXTRAS: &[Extra] = &[
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "pread64 database",
        number: 1,
        why: "the version, from the server, before anything else is read",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "statx database",
        number: 1,
        why: "the file's size, from the server",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "openat directory",
        number: 1,
        why: "SQLite's look for a hot journal: the name looked up afresh",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "close directory",
        number: 1,
        why: "as above",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "openat journal",
        number: 1,
        why: "SQLite's look for a hot journal: what can be opened is there",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "stat journal",
        number: -1,
        why: "the look above is in its place",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "openat directory",
        number: 1,
        why: "the read check: the name looked up afresh",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "close directory",
        number: 1,
        why: "as above",
    },
    Extra {
        by: By::EachTransaction,
        with: &["counter"],
        operation: "statx journal",
        number: 1,
        why: "the read check, after the version was read: no commit is in progress",
    },
    Extra {
        by: By::EachTransaction,
        with: &["reopen"],
        operation: "openat journal",
        number: 1,
        why: "as above: what can be opened is there",
    },
    Extra {
        by: By::FirstWrite,
        with: &["reopen"],
        operation: "openat database",
        number: 1,
        why: "with the lease in hand: a fresh open, to drop cached pages by",
    },
    Extra {
        by: By::FirstWrite,
        with: &["reopen"],
        operation: "fadvise64 database",
        number: 1,
        why: "drops them",
    },
    Extra {
        by: By::FirstWrite,
        with: &["reopen"],
        operation: "close database",
        number: 1,
        why: "at the end, when no lock is held",
    },
    Extra {
        by: By::FirstWrite,
        with: ALWAYS,
        operation: "pread64 database",
        number: 1,
        why: "with the lease in hand: the version is the one that was read (no lost update)",
    },
    Extra {
        by: By::FirstWrite,
        with: &["reopen"],
        operation: "openat directory",
        number: 1,
        why: "with the lease in hand: the journal's name looked up afresh",
    },
    Extra {
        by: By::FirstWrite,
        with: &["reopen"],
        operation: "close directory",
        number: 1,
        why: "as above",
    },
    Extra {
        by: By::FirstWrite,
        with: ALWAYS,
        operation: "openat journal",
        number: 1,
        why: "with the lease in hand: no hot journal stands (recovery under the lock)",
    },
    Extra {
        by: By::FirstWrite,
        with: ALWAYS,
        operation: "pread64 database",
        number: 1,
        why: "with our journal in place: it would restore the current state (a stale holder does no harm)",
    },
];

/// By how many operations ours goes beyond plain SQLite's.
fn expected(work: Work, check: &str) -> Vec<(Operation, isize)> {
    let writes = matches!(work, Work::Write | Work::Writes);
    let mut sum = BTreeMap::new();
    for extra in EXTRAS {
        if extra.with.contains(&check) && (writes || extra.by == By::EachTransaction) {
            *sum.entry(extra.operation.to_owned()).or_default() += extra.number;
        }
    }
    sum.into_iter().filter(|(_, number)| *number != 0).collect()
}

fn path(fixture: &WorkersFixture) -> String {
    fixture.scratch.database().display().to_string()
}

/// What each work costs a process with these arguments.
fn count(fixture: &WorkersFixture, plain: bool, arguments: &[&str]) -> Vec<(Work, Counts)> {
    let log = fixture.scratch.file("strace");
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-qq",
            "-y",
            "-s",
            "0",
            "-e",
            "trace=%file,%desc",
            "-o",
        ])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_worker"));
    let endpoint = Emulator::shared().endpoint();
    let mut process =
        WorkerProcess::start_through(command, endpoint, arguments).expect("the database opens");
    // One when it was open.
    let mut answers = 1;
    let mut ask = |command: &str| {
        process.ok(command);
        answers += 1;
        answers
    };
    let mut last = 1;
    if plain {
        last = ask(SAME_MODE);
    }
    let mut spans = Vec::new();
    for work in Work::ALL {
        let commands = work.commands(plain);
        let warm = commands.iter().fold(last, |_, command| ask(command));
        last = commands.iter().fold(warm, |_, command| ask(command));
        spans.push((work, warm..last));
    }
    process.finish();
    let log = Log::read(&log, fixture.scratch.database());
    (spans.into_iter())
        .map(|(work, span)| (work, log.between_answers(span)))
        .collect()
}

/// What a process did on the files, answer by answer.
struct Log(Vec<Counts>);

impl Log {
    fn read(log: &Path, database: &Path) -> Self {
        let log = fs::read_to_string(log).expect("strace's log");
        let mut spans = vec![Counts::new()];
        for line in log.lines() {
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            if call.starts_with("write(1<") {
                spans.push(Counts::new());
            } else if let (Some(operation), Some(span)) =
                (operation(call, database), spans.last_mut())
            {
                *span.entry(operation).or_default() += 1;
            }
        }
        Self(spans)
    }

    /// `answers` are numbers of answers: what was done after the first and before the last.
    fn between_answers(&self, answers: Range<usize>) -> Counts {
        let mut sum = Counts::new();
        for (operation, number) in self.0[answers].iter().flatten() {
            *sum.entry(operation.clone()).or_default() += number;
        }
        sum
    }
}

/// What a line of `strace` says, if it is about the database's files.
fn operation(line: &str, database: &Path) -> Option<Operation> {
    // The end of a call that another thread's has interrupted; its beginning was counted.
    if line.starts_with("<...") {
        return None;
    }
    let (name, arguments) = line.split_once('(')?;
    // Unoptimised, the standard library looks whether what it closes is open; SQLite gives its
    // journal to the database's owner where it runs as root.
    if arguments.contains("F_GETFD") || name == "fchown" {
        return None;
    }
    let database = database.display().to_string();
    let at = arguments.find(&database);
    let object = match at.map(|at| &arguments[at + database.len()..]) {
        Some(rest) if rest.starts_with("-journal") => "journal",
        Some(rest) if rest.starts_with("-wal") => "log",
        Some(rest) if rest.starts_with('-') => "other",
        Some(_) => "database",
        None => {
            let (directory, _) = database.rsplit_once('/')?;
            arguments.contains(directory).then_some("directory")?
        }
    };
    // Machines and C libraries have several names for the same.
    let name = match name {
        "newfstatat" | "fstatat64" if arguments.contains("AT_EMPTY_PATH") => "fstat",
        "newfstatat" | "fstatat64" | "lstat" => "stat",
        "open" => "openat",
        "unlinkat" => "unlink",
        name => name,
    };
    Some(format!("{name} {object}"))
}

/// What is different, by how many.
fn beyond(ours: &Counts, plain: &Counts) -> Vec<(Operation, isize)> {
    let mut difference = BTreeMap::new();
    for (counts, sign) in [(ours, 1), (plain, -1)] {
        for (operation, number) in counts {
            let number = isize::try_from(*number).expect("few operations");
            *difference.entry(operation.clone()).or_default() += sign * number;
        }
    }
    difference.into_iter().filter(|(_, n)| *n != 0).collect()
}

fn total(counts: &Counts) -> usize {
    counts.values().sum()
}
