//! Instructions beside Diesel's own connection, by callgrind: what the kernel does is not among them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use integration::build;
use integration::scratch::Scratch;

use super::is_usable;

/// Rows of 120 bytes: 60 pages.
const ROWS: u32 = 2_000;

/// What is repeated how often in two runs, whose difference is counted.
struct Work {
    name: &'static str,
    times: [u32; 2],
    what: &'static str,
}

const SELECT: Work = Work {
    name: "select",
    times: [500, 1_500],
    what: "point SELECT, each a transaction",
};
const SELECT_IN_TRANSACTION: Work = Work {
    name: "select-in-transaction",
    times: [500, 1_500],
    what: "point SELECT, all in one transaction",
};
const UPDATE: Work = Work {
    name: "update",
    times: [50, 150],
    what: "UPDATE of one row, each a transaction",
};
const SCAN: Work = Work {
    name: "scan",
    times: [3, 9],
    what: "scan of a table that SQLite has not cached",
};
const ROWS_LOADED: Work = Work {
    name: "rows",
    times: [3, 9],
    what: "all rows of a table, loaded",
};
const INSERT: Work = Work {
    name: "insert",
    times: [2_000, 6_000],
    what: "INSERT, all in one transaction",
};

/// By what part a ratio may differ from the one that is written down: compilers and C libraries do.
const TOLERANCE: f64 = 0.04;

/// How many times Diesel's own instructions this crate's connection takes, with `lock=local`.
const RATIOS: &[(&Work, &str, f64)] = &[
    (&SELECT, "off", 1.11),
    (&SELECT, "counter", 1.18),
    (&SELECT_IN_TRANSACTION, "off", 1.06),
    (&UPDATE, "off", 2.04),
    (&SCAN, "off", 1.01),
    (&SCAN, "counter", 1.04),
    (&ROWS_LOADED, "off", 1.01),
    (&INSERT, "off", 1.06),
];

#[test]
fn instructions_are_in_proportion_to_those_of_diesels_own_connection() {
    if !is_usable("valgrind", &["--version"]) {
        return;
    }
    let counting = Counting::new();
    let mut wrong = Vec::new();
    let mut plain: Option<(&str, u64)> = None;
    for (work, check, expected) in RATIOS {
        let theirs = match plain {
            Some((name, instructions)) if name == work.name => instructions,
            _ => counting.instructions("plain", "", work),
        };
        plain = Some((work.name, theirs));
        let parameters = format!("?lock=local&lock_read_check={check}");
        let ours = counting.instructions("ours", &parameters, work);
        let ratio = ours as f64 / theirs as f64;
        println!("{} | {check} | {theirs} | {ours} | {ratio:.3}", work.what);
        if (ratio / expected - 1.0).abs() > TOLERANCE {
            wrong.push(format!(
                "{}, {check}: {ratio:.3}, not {expected}",
                work.what
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}; what has become better wants its new number here",
        wrong.join("; ")
    );
}

struct Counting {
    program: PathBuf,
    scratch: Scratch,
}

impl Counting {
    /// Builds the program, and a database for it.
    fn new() -> Self {
        let program = build::counted().unwrap_or_else(|error| panic!("{error}"));
        let scratch = Scratch::new().expect("a directory");
        let furnished = Command::new(&program)
            .arg("plain")
            .arg(scratch.database())
            .args(["furnish", &ROWS.to_string()])
            .status();
        assert!(furnished.is_ok_and(|status| status.success()));
        Self { program, scratch }
    }

    /// Of the work once, with this kind of connection.
    fn instructions(&self, kind: &str, parameters: &str, work: &Work) -> u64 {
        let [few, many] = (work.times).map(|times| self.run(kind, parameters, work.name, times));
        (many - few) / u64::from(work.times[1] - work.times[0])
    }

    /// Of a whole process, on a copy of the database.
    fn run(&self, kind: &str, parameters: &str, work: &str, times: u32) -> u64 {
        let copy = self.scratch.file("copy.sqlite3");
        fs::copy(self.scratch.database(), &copy).expect("a copy");
        let output = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg("--callgrind-out-file=/dev/null")
            .arg(&self.program)
            .args([kind, &format!("{}{parameters}", copy.display()), work])
            .arg(times.to_string())
            .output()
            .expect("valgrind runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let collected = told.lines().find_map(|line| {
            let (_, number) = line.split_once("Collected : ")?;
            number.trim().parse().ok()
        });
        collected.unwrap_or_else(|| panic!("no number of instructions: {told}"))
    }
}
