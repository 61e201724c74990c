//! What can be asked for on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Lets many processes write one SQLite file, and shows what became of their writes.
///
/// Without any option this starts a DynamoDB emulator of its own and works on a database in a
/// temporary directory.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = EXIT_STATUS)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

const EXIT_STATUS: &str = "\
Exit status:
    0  every guarantee held; with --no-lock: it ran, whatever broke
    1  a guarantee was broken, or a worker failed
    2  it could not be run: wrong options, no database, no lock table
  130  interrupted by Ctrl-C, and nothing broken until then";

/// The options of the command that people type.
#[derive(Debug, ClapArgs)]
pub(crate) struct Options {
    /// How many processes write
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) writers: u16,

    /// How many processes read
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub(crate) readers: u16,

    /// For how long
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,

    /// The database: a new file, or that of an earlier run [default: a temporary one]
    ///
    /// Several hosts may work on the same file at the same time, each with its own quickstart,
    /// given the same --table and path.
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,

    /// The lock table; without --endpoint, in AWS as the environment says, and no emulator
    ///
    /// The table must exist already there: key `pk` (S).
    #[arg(long, value_name = "NAME", value_parser = table_name)]
    pub(crate) table: Option<String>,

    /// A DynamoDB emulator that runs already, instead of one of its own
    ///
    /// It is given made-up credentials, and the lock table is created there if it is missing.
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub(crate) endpoint: Option<String>,

    /// The same work with Diesel's own connection and no locks at all, to see what breaks
    ///
    /// Uses SQLite's VFS `unix-none`: a file system whose file locks do nothing. Only on a new
    /// database, which will not be worth keeping.
    #[arg(long, conflicts_with_all = ["table", "endpoint"])]
    pub(crate) no_lock: bool,
}

/// What this process is, if not the one that people start.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// One of the processes that the quickstart starts
    #[command(hide = true)]
    Worker(Work),
}

/// What a worker does, and on which database.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Work {
    /// The kind of work
    pub(crate) task: Task,

    /// By this name its writes are found again
    #[arg(long)]
    pub(crate) name: String,

    /// The database
    #[arg(long)]
    pub(crate) db: PathBuf,

    /// The lock table; without it, no locks
    #[arg(long)]
    pub(crate) table: Option<String>,
}

/// The kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// Runs the migrations.
    Prepare,
    /// Writes until it is told to stop.
    Write,
    /// Reads until it is told to stop.
    Read,
    /// Looks at everything once.
    Audit,
}

fn table_name(name: &str) -> Result<String, String> {
    let characters_fit =
        (name.chars()).all(|c| c.is_ascii_alphanumeric() || ['_', '-', '.'].contains(&c));
    if name.starts_with("arn:") || characters_fit && (3..=255).contains(&name.len()) {
        Ok(name.to_owned())
    } else {
        Err("a table's name has 3 to 255 letters, digits, `_`, `-` or `.`".to_owned())
    }
}

fn endpoint(url: &str) -> Result<String, String> {
    let host = (url.strip_prefix("http://")).or_else(|| url.strip_prefix("https://"));
    if host.is_some_and(|host| !host.is_empty()) {
        Ok(url.to_owned())
    } else {
        Err("not of the form http://HOST:PORT".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn wrong_options_are_refused() {
        for wrong in [
            "--writers=0",
            "--writers=many",
            "--seconds=0",
            "--table=t",
            "--table=with space",
            "--endpoint=localhost:8000",
            "--no-lock --table=locks",
        ] {
            let args = std::iter::once("quickstart").chain(wrong.split(' ').take(2));
            assert!(Args::try_parse_from(args).is_err(), "{wrong}");
        }
    }
}
