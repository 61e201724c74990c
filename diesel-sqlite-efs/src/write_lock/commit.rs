//! While the transaction writes: its fence, its journal, and the commit point.

use super::lock::{Refused, WriteLock};
use super::state::OwnJournal;
use crate::error::LockError;
use crate::files::file_version::FileVersion;
use crate::lease::{Confirmed, Unconfirmed};
use crate::store::JournalId;

/// What to do with a journal that SQLite wants deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EndOfJournal {
    Remove,
    /// The commit is recorded, the rest is our successor's: report success and touch nothing.
    Leave,
    Refuse,
}

impl WriteLock {
    /// Whether a write, a truncation or a sync may still proceed.
    pub(crate) fn fence(&self) -> Result<(), Refused> {
        let loss = match self.with_lease(|lease| lease.loss()) {
            Some(None) => return Ok(()),
            Some(Some(loss)) => loss,
            None => self.lease_lost("it is not held"),
        };
        self.update(|state| state.lost(loss));
        Err(Refused)
    }

    /// Whether the database may be truncated; `None` after the commit point, where a truncation
    /// that does not happen leaves only unused pages at the end of the file.
    ///
    /// There it comes after the request that confirmed the commit, and a successor may have made
    /// the file longer since: one more request, which only VACUUM has to make, tells.
    pub(crate) fn fence_truncation(&self) -> Option<Result<(), Refused>> {
        if !self.has_ended() {
            return Some(self.fence());
        }
        let confirmed = self.ask_store(None).and_then(|_| self.fence());
        confirmed.ok().map(Ok)
    }

    /// The first header of this transaction's journal was written.
    pub(crate) fn journal_begun(&self, id: JournalId) {
        self.update(|state| state.own_journal.begun(id));
    }

    /// This transaction's journal was created, empty: whether the database is still as it was when
    /// its snapshot was validated.
    ///
    /// A machine whose clocks stood still in between may have missed a successor's whole
    /// transaction. Its journal would bring back the state before that one, and stay if the file
    /// system then refuses its writes. From now on a successor has to remove this journal before it
    /// writes anything, so this one look is enough.
    pub(crate) fn journal_created(
        &self,
        validated: FileVersion,
        current: FileVersion,
    ) -> Result<(), Refused> {
        if validated == current {
            return Ok(());
        }
        self.lost_to_successor("somebody else has changed the database");
        Err(Refused)
    }

    /// The journals show that somebody else writes or has written, whatever the clocks say.
    pub(crate) fn lost_to_successor(&self, reason: &str) {
        self.with_lease(|lease| lease.invalidate(reason));
        self.update(|state| state.lost(self.lease_lost(reason)));
    }

    /// The commit point, or the end of a rollback: the journal is about to be deleted.
    pub(crate) fn end_journal(&self) -> EndOfJournal {
        if self.fence().is_err() {
            return EndOfJournal::Refuse;
        }
        let journal = self.look(|state| state.own_journal.id());
        match self.ask_store(journal) {
            Ok(Confirmed::InTime) => EndOfJournal::Remove,
            Ok(Confirmed::TooLate) => {
                self.update(|state| {
                    state.own_journal = OwnJournal::Ended;
                    state.may_have_been_overtaken();
                });
                EndOfJournal::Leave
            }
            Err(Refused) => EndOfJournal::Refuse,
        }
    }

    /// Asks the store whether we still hold the lease, and records a journal as finished.
    pub(super) fn ask_store(&self, journal: Option<JournalId>) -> Result<Confirmed, Refused> {
        let error = match self.with_lease(|lease| lease.confirm(journal)) {
            Some(Ok(confirmed)) => return Ok(confirmed),
            Some(Err(Unconfirmed::Refused(error))) => error,
            Some(Err(Unconfirmed::Unknown(reason))) => LockError::OutcomeUnknown {
                lock: self.name.clone(),
                reason,
            },
            None => self.lease_lost("it is not held"),
        };
        self.update(|state| state.lost(error));
        Err(Refused)
    }

    /// The journal is gone.
    pub(crate) fn journal_removed(&self) {
        self.update(|state| state.own_journal = OwnJournal::Ended);
        self.with_lease(|lease| lease.record_settled());
    }

    /// The journal could not be deleted.
    pub(crate) fn journal_not_removed(&self, problem: &str) {
        let reason = format!(
            "the end of the transaction is recorded, but its rollback journal could not be deleted ({problem}); the next writer will delete it and keep the transaction"
        );
        self.update(|state| {
            state.may_have_been_overtaken();
            state.fail(LockError::OutcomeUnknown {
                lock: self.name.clone(),
                reason,
            });
        });
    }

    /// No lock is held any more: what the journal was is of no concern to the next transaction.
    pub(crate) fn transaction_ended(&self) {
        if self.needs_attention() {
            let unanswered = self.update(|state| {
                state.own_journal = OwnJournal::None;
                state.unanswered.take()
            });
            // It may send a request.
            drop(unanswered);
        }
    }

    /// Whether this transaction's journal has ended: a file lock that cannot be given up changes
    /// nothing about the outcome.
    pub(crate) fn has_ended(&self) -> bool {
        self.look(|state| state.own_journal == OwnJournal::Ended)
    }
}
