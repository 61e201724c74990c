//! The program `efs-sqlite`: examines a database and its lock, and runs maintenance work under the
//! lock. Its manual is the repository's `docs/command-line.md`.
//!
//! The library exports only [`main`], for packages that build the program under another name. For
//! other tools, [`diesel_sqlite_efs::admin`] is public.

mod args;
mod check;
mod create_table;
mod doctor;
mod failure;
mod holder;
mod migrate;
mod output;
mod status;
mod target;
mod unlock;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Runs the command in the process's arguments, and returns the exit status of the process.
///
/// Not for use inside another program: it reads the arguments and the environment, writes to
/// standard output, and reads database files outside SQLite, which is safe only in a process that
/// has none open.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors", too, and go to standard output with status 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output;
    match run(&args.command, &output) {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.into()
        }
    }
}

fn run(command: &Command, output: &Output) -> Result<Outcome, Failure> {
    match command {
        Command::Doctor(args) => doctor::run(args, output),
        Command::Status(args) => status::run(args, output),
        Command::Unlock(args) => unlock::run(args, output),
        Command::CreateTable(args) => create_table::run(args, output),
        Command::Migrate(args) => migrate::run(args, output),
        Command::Check(args) => check::run(args, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "efs-sqlite", &mut script);
            Ok(std::io::stdout()
                .write_all(&script)
                .map(|()| Outcome::Done)?)
        }
        Command::Man { command } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(described(command.as_deref())?).render(&mut page)?;
            Ok(std::io::stdout().write_all(&page).map(|()| Outcome::Done)?)
        }
    }
}

/// The definition of the program, or of one of its commands.
fn described(command: Option<&str>) -> Result<clap::Command, Failure> {
    let mut program = Args::command();
    let Some(name) = command else {
        return Ok(program);
    };
    // Gives the commands their full names.
    program.build();
    match program.find_subcommand(name) {
        Some(found) => Ok(found.clone()),
        None => Err(Failure::Usage(format!(
            "there is no command `{name}`; see --help"
        ))),
    }
}
