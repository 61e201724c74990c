//! What an operation costs, counted rather than timed: the same numbers on any machine, so that they
//! are bounds. Plain SQLite (Diesel's own connection in the same journal mode) is counted beside it.
//!
//! The tables go to standard output with `--nocapture`; `docs/benchmarks-file-operations.md` has
//! them. Skipped, saying why, where the tools are missing (`tests/install-packages.sh`); never where
//! `CI=true`.

pub(crate) mod file_operations;
mod instructions;

use std::env;
use std::io::{self, Write};
use std::process::Command;

/// Whether `program`, with these arguments, does what it is to do here; says why not.
fn is_usable(program: &str, arguments: &[&str]) -> bool {
    let tried = Command::new(program).args(arguments).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let obstacle = format!("there is no `{program}`, or no right to use it");
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{obstacle}; tests/install-packages.sh installs what is missing"
    );
    // Not `eprintln!`, which the test harness would keep to itself. Nobody to tell is no failure.
    let _ = writeln!(io::stderr(), "skipped: counts: {obstacle}");
    false
}
