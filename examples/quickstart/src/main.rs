//! Many processes write one SQLite file, and a sceptic counts what became of their writes.
//!
//! `args` says what can be asked for. `run` is the parent: it starts the emulator and the workers,
//! takes down what they claim, and has the database audited. `worker` is what the other processes
//! do, on a connection that is `locked` or `unlocked`; the library's `ledger` is what they write. They tell the
//! parent by `message`s, and `report` prints what it makes of them.

mod access;
mod args;
mod locked;
mod message;
mod report;
mod run;
mod unlocked;
mod worker;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Role};
use crate::run::Outcome;

/// What happened, as an exit status; `--help` lists them.
const BROKEN: u8 = 1;
const NOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Worker(work)) => return worker::main(&work),
        None => run::run(&args.options),
    };
    match outcome {
        Ok(Outcome::Held) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::from(BROKEN),
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("quickstart: {}", with_causes(&*error));
            ExitCode::from(NOT_RUN)
        }
    }
}

/// An error and what caused it, on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
