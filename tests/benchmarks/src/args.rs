//! What can be asked for on the command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::contention::worker::Work;
use crate::fixture::Place;

/// Measures diesel-sqlite-efs beside the Python package and Diesel's own connection.
///
/// Starts a DynamoDB emulator of its own and a proxy that adds a fixed delay to each request. What
/// was measured is kept below the target directory, so that a part can be measured anew; the report,
/// docs/benchmarks.md and its drawings, is written from all of it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// The options of the command that people type.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Options {
    /// A sample of everything, under a minute; the report goes below the target directory
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only this; may be given several times [default: everything]
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<Part>,

    /// Of contention, only the cases that have this in their names
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,

    /// Of contention, so many seconds for each case
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: Option<u64>,

    /// The databases are on a file system in memory: where the disk is not quiet
    #[arg(long)]
    pub(crate) in_memory: bool,

    /// Of contention, the cases that are held to bars run so often, and the round of the median rate counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,

    /// What the proxy adds to each request
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) delay_ms: u64,

    /// Measures nothing and writes the report of what was measured before
    #[arg(long, conflicts_with = "parts")]
    pub(crate) report: bool,
}

impl Options {
    pub(crate) fn place(&self) -> Place {
        if self.in_memory {
            Place::Memory
        } else {
            Place::Disk
        }
    }

    pub(crate) fn parts(&self) -> Vec<Part> {
        match (self.report, self.parts.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => Part::value_variants().to_vec(),
            (false, false) => self.parts.clone(),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Requests to DynamoDB, and how many of them a caller waits for
    Requests,
    /// One write transaction from the call to the answer
    Timeline,
    /// A process's first row and first write, its memory and its size
    ColdStart,
    /// The work of one process beside Diesel's own connection
    OneProcess,
    /// Many processes, beside the Python package
    Contention,
}

impl Part {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Requests => "requests to DynamoDB",
            Self::Timeline => "one write transaction",
            Self::ColdStart => "cold start",
            Self::OneProcess => "one process",
            Self::Contention => "contention",
        }
    }
}

/// What this process is, if not the one that people start.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// One of the processes of the contention cases
    #[command(hide = true)]
    Contender(Work),
    /// Does one thing after the other while its requests are counted
    #[command(hide = true)]
    Actor {
        /// The database, with the settings
        url: String,
    },
    /// Records what its transactions do
    #[command(hide = true)]
    TimelineOf {
        /// The database, with the settings
        url: String,
        /// How many
        transactions: usize,
    },
}
