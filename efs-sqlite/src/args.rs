//! The command line's arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::failure::Failure;

/// SQLite on a network file system under a DynamoDB lock: examines and maintains the database
///
/// DATABASE is what the application passes to its connection: a path, a `file:` or `sqlite://` URL,
/// with settings as parameters. Other settings come from the environment
/// (SQLITE_LOCK_DYNAMODB_TABLE and the others); region, credentials and endpoint from where the AWS
/// SDK looks for them.
#[derive(Debug, Parser)]
#[command(name = "efs-sqlite", bin_name = "efs-sqlite", version, propagate_version = true, after_long_help = EXIT_STATUS)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  done; nothing is wrong
  1  something is wrong: the report or the error says what
  2  wrong arguments or settings; nothing was tried
  3  another holds the lock, or the lock table is busy for now: the same again later is safe
  4  not known whether it was done: look before trying again";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Examines file system, database, lock table and clock, and changes nothing
    Doctor(Doctor),
    /// Shows who holds the lock; exit status 3 if it is held
    Status(Status),
    /// Deletes the lock item of a writer that is gone, after confirmation
    Unlock(Unlock),
    /// Creates the lock table, or checks that it is correct
    CreateTable(CreateTable),
    /// Runs and reverts migrations under the lock
    Migrate(Migrate),
    /// Runs SQLite's integrity_check and foreign_key_check under the lock
    Check(Database),
    /// Prints a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Prints a manual page (roff)
    Man {
        /// The command; without it, the page of the program
        command: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Database {
    /// The database: a path or URL, exactly as the application gives it
    ///
    /// The default lock key contains the path as written, so another spelling is another lock. The
    /// default is the environment variable DATABASE_URL.
    #[arg(value_name = "DATABASE", env = "DATABASE_URL")]
    url: Option<String>,
}

impl Database {
    /// # Errors
    /// If neither the argument nor the variable is set.
    pub(crate) fn url(&self) -> Result<&str, Failure> {
        let missing = || {
            Failure::Usage("no database is named; give DATABASE, or set DATABASE_URL".to_owned())
        };
        self.url.as_deref().ok_or_else(missing)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Keep checking, twice a second, and count how often each holder was seen
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,

    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Unlock {
    #[command(flatten)]
    pub(crate) database: Database,

    /// Do not ask for confirmation
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateTable {
    /// The database whose settings name the table, without --table
    #[arg(value_name = "DATABASE", env = "DATABASE_URL")]
    pub(crate) url: Option<String>,

    /// The table's name or ARN
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,

    /// How long to wait until a new table is active
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Migrate {
    /// The directory of migrations [default: `migrations` here or in a directory above]
    #[arg(
        long,
        value_name = "DIRECTORY",
        env = "MIGRATION_DIRECTORY",
        global = true
    )]
    pub(crate) migration_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs all pending migrations under one lease
    Run(Database),
    /// Reverts the last migration, or several
    Revert(Revert),
    /// Reverts the last migration, or several, and runs them again
    Redo(Revert),
    /// Lists pending migrations; exit status 1 if there are any
    Pending(Database),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Revert {
    #[command(flatten)]
    pub(crate) database: Database,

    /// How many migrations
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) number: u32,

    /// All migrations that have been run
    #[arg(long, short, conflicts_with = "number")]
    pub(crate) all: bool,
}

/// Seconds, whole or with a decimal point, up to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    (seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds)))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds from 0 to 86400, such as `10` or `0.5`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }
}
