//! The rollback journal beside the database, and the writer that it belongs to.

use std::path::Path;

use diesel_sqlite_efs::admin::{JournalStatus, journal_status};
use diesel_sqlite_efs::{JournalId, StoredItem};

use crate::holder::{self, Lock};
use crate::output::Finding;

/// What is known of the writer that the journal may belong to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writer<'a> {
    /// `lock=local`: no table knows the writer.
    NoTable,
    /// The table does not answer, or not with a readable item.
    Unknown,
    /// The writer holds the lock.
    Holding(&'a StoredItem),
    /// The lock is free; the item that the last holder left, if any.
    Gone(Option<&'a StoredItem>),
}

impl<'a> Writer<'a> {
    pub(super) fn of(lock: &'a Lock) -> Self {
        match lock {
            Lock::Held(seen) => Self::Holding(seen),
            Lock::Expired(seen) => Self::Gone(Some(seen)),
            Lock::Free => Self::Gone(None),
            Lock::Malformed(..) | Lock::Hidden => Self::Unknown,
        }
    }
}

/// What the journal beside `file` means, given what is known of the writer.
pub(super) fn examine(file: Option<&Path>, writer: Writer<'_>) -> Option<Finding> {
    const NAME: &str = "hot journal";
    let journal = match journal_status(file?) {
        Ok(JournalStatus::Absent) => return Some(Finding::ok(NAME, "none")),
        Ok(JournalStatus::Cold) => {
            let text = "none; there is a journal, but its transaction has written nothing yet";
            return Some(Finding::ok(NAME, text));
        }
        Ok(JournalStatus::Hot(journal)) => journal,
        Err(error) => {
            let text = format!("the journal cannot be read: {error}");
            let remedy = "give this user the right to read it";
            return Some(Finding::failure(NAME, text, remedy));
        }
    };
    Some(hot(NAME, journal, writer))
}

fn hot(name: &'static str, journal: JournalId, writer: Writer<'_>) -> Finding {
    const SETTLE: &str =
        "run `efs-sqlite check`, or open any connection: it is settled under the lock";
    match writer {
        Writer::Holding(seen) if seen.committed == Some(journal) => Finding::ok(
            name,
            format!(
                "{journal}: its transaction is recorded as committed, and {} is deleting it, or has died",
                holder::name(seen)
            ),
        ),
        Writer::Holding(seen) => Finding::ok(
            name,
            format!(
                "{journal}: {} holds the lock and is committing, or has died in it",
                holder::name(seen)
            ),
        ),
        Writer::Gone(Some(seen)) if seen.committed == Some(journal) => Finding::warning(
            name,
            format!(
                "{journal}: left by {}, its transaction is recorded as committed and will be kept",
                holder::name(seen)
            ),
            SETTLE,
        ),
        Writer::Gone(Some(seen)) => Finding::warning(
            name,
            format!(
                "{journal}: left in mid-commit by {} or a writer before it, its transaction will be rolled back",
                holder::name(seen)
            ),
            SETTLE,
        ),
        Writer::Gone(None) => Finding::warning(
            name,
            format!(
                "{journal}: nobody holds the lock: either a writer that does not use it is at work, or a writer has died in mid-commit and its transaction will be rolled back"
            ),
            SETTLE,
        ),
        Writer::NoTable => Finding::warning(
            name,
            format!("{journal}: a commit in progress, or left by a writer that has died in one"),
            SETTLE,
        ),
        Writer::Unknown => Finding::warning(
            name,
            format!("{journal}: its writer is unknown without the lock table"),
            "see the findings on the lock table",
        ),
    }
}
