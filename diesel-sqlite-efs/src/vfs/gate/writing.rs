//! While the transaction writes: its fence, its journal, and the commit point.

use super::{EndOfJournal, Gate, Refused};
use crate::error::LockError;
use crate::lease::{Confirmed, Unconfirmed};
use crate::store::JournalId;
use crate::vfs::journal::{Journal, Standing};
use crate::vfs::snapshot::FileVersion;

impl Gate {
    /// Whether a write, a truncation or a sync may still proceed.
    pub(crate) fn fence(&self) -> Result<(), Refused> {
        let loss = match &self.look().hold {
            Some(hold) => hold.lease.loss(),
            None => Some(self.lease_lost("it is not held")),
        };
        match loss {
            None => Ok(()),
            Some(loss) => {
                self.state().lost(loss);
                Err(Refused)
            }
        }
    }

    /// Whether the database may be truncated; `None` after the commit point, where a truncation
    /// that does not happen leaves only unused pages at the end of the file.
    ///
    /// There it comes after the request that confirmed the commit, and a successor may have made
    /// the file longer since: one more request, which only VACUUM has to make, tells.
    pub(crate) fn fence_truncation(&self) -> Option<Result<(), Refused>> {
        if !self.look().ended {
            return Some(self.fence());
        }
        let confirmed = self.ask_store(None).and_then(|_| self.fence());
        confirmed.ok().map(Ok)
    }

    /// The first header of this transaction's journal was written.
    pub(crate) fn journal_begun(&self, id: JournalId) {
        self.state().journal_id.get_or_insert(id);
    }

    /// A journal stands where this transaction's was to be created: it makes way if it is a
    /// leftover that never became hot.
    ///
    /// It is one if it stood there before the store confirmed that we hold the lease, and still
    /// does afterwards. What a machine whose clocks stood still finds after the answer alone may be
    /// the journal of its successor.
    pub(crate) fn remove_cold_leftover(&self) -> Result<(), Refused> {
        self.fence()?;
        let Some(journal) = self.journal() else {
            return Err(Refused);
        };
        let unreadable = |error| {
            self.file_failed(format!("the rollback journal cannot be examined: {error}"));
            Refused
        };
        let found = journal.find().map_err(unreadable)?;
        self.ask_store(None)?;
        // The answer may have come after the lease's end.
        self.fence()?;
        let removed = match found.standing() {
            Standing::Absent | Standing::Cold => journal.remove_found(&found).map_err(|error| {
                let reason = format!("a leftover rollback journal cannot be removed: {error}");
                self.file_failed(reason);
                Refused
            })?,
            Standing::Hot(_) => false,
        };
        if !removed {
            self.supplanted("another writer's journal stands beside the database");
            return Err(Refused);
        }
        Ok(())
    }

    /// This transaction's journal was created, empty: whether the database is still as it was
    /// admitted.
    ///
    /// A machine whose clocks stood still in between may have missed a successor's whole
    /// transaction. Its journal would bring back the state before that one, and stay if the file
    /// system then refuses its writes. From now on a successor has to remove this journal before it
    /// writes anything, so this one look is enough.
    pub(crate) fn journal_created(
        &self,
        admitted: FileVersion,
        current: FileVersion,
    ) -> Result<(), Refused> {
        if admitted == current {
            return Ok(());
        }
        self.supplanted("somebody else has changed the database");
        Err(Refused)
    }

    /// A hot journal was to be rolled back and could not be opened. Where it is gone, somebody else
    /// has rolled it back.
    pub(crate) fn recovery_journal_not_opened(&self) {
        let standing = self.journal().map(Journal::standing);
        if matches!(standing, Some(Ok(Standing::Absent))) {
            self.supplanted("somebody else has rolled the journal back");
        }
    }

    /// The journals show that somebody else writes or has written, whatever the clocks say.
    pub(crate) fn supplanted(&self, reason: &str) {
        let mut state = self.state();
        if let Some(hold) = &state.hold {
            hold.lease.invalidate(reason);
        }
        state.lost(self.lease_lost(reason));
    }

    /// The commit point, or the end of a rollback: the journal is about to be deleted.
    pub(crate) fn end_journal(&self) -> EndOfJournal {
        if self.fence().is_err() {
            return EndOfJournal::Refuse;
        }
        let journal_id = self.state().journal_id;
        match self.ask_store(journal_id) {
            Ok(Confirmed::InTime) => EndOfJournal::Remove,
            Ok(Confirmed::TooLate) => {
                let mut state = self.state();
                state.ended = true;
                state.cache_is_suspect = true;
                state.is_broken = true;
                EndOfJournal::Leave
            }
            Err(Refused) => EndOfJournal::Refuse,
        }
    }

    /// Asks the store whether we still hold the lease, and records a journal as finished.
    pub(super) fn ask_store(&self, journal_id: Option<JournalId>) -> Result<Confirmed, Refused> {
        let mut state = self.state();
        let Some(hold) = &state.hold else {
            state.lost(self.lease_lost("it is not held"));
            return Err(Refused);
        };
        match hold.lease.confirm(journal_id) {
            Ok(confirmed) => Ok(confirmed),
            Err(Unconfirmed::Refused(error)) => {
                state.lost(error);
                Err(Refused)
            }
            Err(Unconfirmed::Unknown(reason)) => {
                state.lost(LockError::OutcomeUnknown {
                    lock: self.lock.clone(),
                    reason,
                });
                Err(Refused)
            }
        }
    }

    /// The journal is gone.
    pub(crate) fn journal_removed(&self) {
        let mut state = self.state();
        state.ended = true;
        if let Some(hold) = &state.hold {
            hold.lease.record_settled();
        }
    }

    /// The journal could not be deleted.
    pub(crate) fn journal_not_removed(&self, problem: &str) {
        let reason = format!(
            "the end of the transaction is recorded, but its rollback journal could not be deleted ({problem}); the next writer will delete it and keep the transaction"
        );
        let mut state = self.state();
        state.cache_is_suspect = true;
        state.is_broken = true;
        state.error = Some(LockError::OutcomeUnknown {
            lock: self.lock.clone(),
            reason,
        });
    }
}
