//! Kills, pauses, cuts off and confuses the writers of one file at random, and checks all along what
//! became of their writes.
//!
//! `run` is the parent: it starts the processes, lets `chaos` have its way with them, holds what they
//! say against the `model`, and prints the report. `worker` is what the processes do; what they say
//! is `told`.

mod chaos;
mod model;
mod run;
mod told;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Lets processes write and read one SQLite file while they are killed, stopped for longer than
/// their lease, cut off from DynamoDB and given wrong clocks, and checks what was acknowledged
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = EXIT_STATUS)]
struct Args {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    role: Option<Role>,
}

const EXIT_STATUS: &str = "\
Exit status:
    0  every guarantee held
    1  a guarantee was broken
    2  it could not be run";

#[derive(Debug, ClapArgs)]
struct Options {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u32,

    /// For how long, instead of --minutes
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<u32>,

    /// How many processes write
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,

    /// How many processes read
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    readers: u16,

    /// What happens to whom, and when: that of an earlier run, to see the same again [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Options {
    fn duration(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(self.minutes.saturating_mul(60));
        Duration::from_secs(seconds.into())
    }
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One of the processes that the soak starts
    #[command(hide = true)]
    Worker(Work),
}

#[derive(Debug, ClapArgs)]
struct Work {
    task: Task,

    /// By this name its writes are found again
    #[arg(long)]
    name: String,

    #[arg(long)]
    db: PathBuf,

    #[arg(long)]
    table: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Writes until its standard input is closed.
    Write,
    /// Reads until its standard input is closed.
    Read,
    /// Looks at everything, once for each line of its standard input.
    Audit,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Role::Worker(work)) = args.role {
        return worker::main(&work);
    }
    match run::run(&args.options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
