//! What the workers tell the parent: one JSON value a line on standard output.

use std::collections::BTreeSet;
use std::io::{self, Write};

use quickstart::ledger::Snapshot;
use serde::{Deserialize, Serialize};

/// The line by which the parent starts the work of a worker that is ready.
///
/// It stops the work by closing the worker's standard input, which is also what happens when the
/// parent dies.
pub(crate) const GO: &str = "go";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The database is open. A worker that writes or reads waits for [`GO`] now.
    Ready,
    /// `COMMIT` was successful. What is said here must be found at the end.
    Written {
        sequence: i64,
        /// From the first attempt to the beginning of the transaction that was committed.
        wait_micros: u64,
        /// Attempts that failed with an error that says to try again.
        retries: u32,
    },
    /// Reads since the last such message.
    Read {
        whole: u64,
        torn: u64,
        retries: u64,
        /// One of the torn ones.
        example: Option<String>,
    },
    /// Something failed that should not, in words.
    Failed { error: String },
    /// What one writer's entries in the database are; from an audit.
    Found {
        writer: String,
        sequences: BTreeSet<i64>,
    },
    /// What else an audit found; each part on its own, because any may be unreadable.
    Audited {
        snapshot: Result<Snapshot, String>,
        duplicates: Result<i64, String>,
        /// The lines of `PRAGMA integrity_check`.
        integrity: Result<Vec<String>, String>,
    },
    /// The last message of a worker that ended as it should.
    Done {
        /// Requests to DynamoDB; none without locks.
        lock_requests: Option<u64>,
    },
}

impl Message {
    /// Writes the message to standard output.
    ///
    /// # Errors
    /// If the parent is gone.
    pub(crate) fn send(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()
    }
}
