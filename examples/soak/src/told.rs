//! What the processes tell the parent: one JSON value a line on standard output.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use quickstart::ledger::Snapshot;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// The first attempt at this write begins.
    Begun {
        sequence: i64,
    },
    /// `COMMIT` was successful.
    Written {
        sequence: i64,
    },
    /// It failed for good: nothing of it may be found.
    Refused {
        sequence: i64,
        error: String,
    },
    /// Whether it was committed is not known, says the error.
    Unknown {
        sequence: i64,
    },
    /// Reads since the last such message.
    Read {
        whole: u64,
        retries: u64,
    },
    /// Something that must not be.
    Broken {
        what: String,
    },
    Audited(Box<Audit>),
}

/// All that is in the database, and what SQLite says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Audit {
    pub(crate) snapshot: Snapshot,
    /// Entries made from the same value of the counter.
    pub(crate) duplicates: i64,
    pub(crate) integrity: Vec<String>,
    /// The entries of each writer.
    pub(crate) found: BTreeMap<String, Runs>,
}

/// Numbers of which most follow one another: the first and the last of each run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runs(Vec<(i64, i64)>);

impl Runs {
    pub(crate) fn of(numbers: &BTreeSet<i64>) -> Self {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => runs.push((*number, *number)),
            }
        }
        Self(runs)
    }

    pub(crate) fn contains(&self, number: i64) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (first..=last).contains(&&number))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i64> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl Told {
    /// # Errors
    /// If the parent is gone.
    pub(crate) fn send(&self) -> io::Result<()> {
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        io::stdout().lock().write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_numbers_that_they_were_made_of() {
        let numbers = BTreeSet::from([1, 2, 3, 5, 9, 10]);
        let runs = Runs::of(&numbers);
        assert_eq!(runs, Runs(vec![(1, 3), (5, 5), (9, 10)]));
        assert_eq!(runs.iter().collect::<BTreeSet<_>>(), numbers);
        assert!(runs.contains(10) && !runs.contains(4));
    }
}
