//! A rollback journal that another transaction has left: who may roll it back, remove it, or must
//! leave it.

use super::lock::{Refused, WriteLock};
use super::state::OwnJournal;
use crate::error::LockError;
use crate::files::rollback_journal::{Journal, JournalStatus};

impl WriteLock {
    /// With the lease in hand, before a hot journal is rolled back: removes it instead if the
    /// item says that its transaction is finished, and remembers which one it is otherwise.
    ///
    /// The store confirms the lease before it lets SQLite roll back, with the file's EXCLUSIVE lock
    /// in hand: a machine whose clocks stood still since the grant would otherwise undo, by what it
    /// knows of an older item, what its successor has committed.
    pub(crate) fn before_recovery(&self) -> Result<(), Refused> {
        let settled = (self.settle_lock_identity()).and_then(|()| self.settle_leftover(false));
        self.update(|state| state.end_wait());
        let hot = settled.map_err(|error| {
            self.update(|state| state.fail(error));
            self.release_unless_pinned();
            Refused
        })?;
        if hot {
            self.ask_store(None)?;
            self.fence()?;
        }
        Ok(())
    }

    /// Looks at a journal that another transaction has left. One that the item says is finished is
    /// removed, as is one beside an empty database, which SQLite deletes too. Whether a hot one
    /// remains.
    pub(super) fn settle_leftover(&self, database_is_empty: bool) -> Result<bool, LockError> {
        let Some(journal) = self.journal() else {
            return Ok(false);
        };
        let Some(recorded) = self.with_lease(|lease| lease.recorded()) else {
            return Ok(false);
        };
        let found = (journal.find()).map_err(|error| {
            self.file_error(format!("the rollback journal cannot be examined: {error}"))
        })?;
        if let JournalStatus::Hot(id) = found.status() {
            let is_finished = recorded == Some(id);
            if !is_finished && !database_is_empty {
                self.update(|state| state.own_journal = OwnJournal::Open(id));
                return Ok(true);
            }
            if !is_finished {
                self.confirm_emptiness()?;
            }
            if let Some(loss) = self.with_lease(|lease| lease.loss()).flatten() {
                self.update(|state| state.lost(loss.clone()));
                return Err(loss);
            }
            let removed = (journal.remove_found(&found)).map_err(|error| {
                self.file_error(format!(
                    "the rollback journal of a finished transaction cannot be removed: {error}"
                ))
            })?;
            if !removed {
                let reason = "another journal stands beside the database by now";
                self.lost_to_successor(reason);
                return Err(self.lease_lost(reason));
            }
        }
        self.with_lease(|lease| lease.record_settled());
        Ok(false)
    }

    /// The database was empty, and a hot journal stands beside it: asks the store whether the lease
    /// is still ours. If not, database and journal may be a successor's, which clocks that stood
    /// still do not show.
    fn confirm_emptiness(&self) -> Result<(), LockError> {
        self.ask_store(None).map(drop).map_err(|Refused| {
            let cause = self.update(|state| state.notices.error.clone());
            cause.unwrap_or_else(|| self.lease_lost("the store has not confirmed it"))
        })
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
        let found = journal.find().map_err(|error| {
            self.file_failed(format!("the rollback journal cannot be examined: {error}"));
            Refused
        })?;
        self.ask_store(None)?;
        // The answer may have come after the lease's end.
        self.fence()?;
        let removed = match found.status() {
            JournalStatus::Absent | JournalStatus::Cold => {
                journal.remove_found(&found).map_err(|error| {
                    let reason = format!("a leftover rollback journal cannot be removed: {error}");
                    self.file_failed(reason);
                    Refused
                })?
            }
            JournalStatus::Hot(_) => false,
        };
        if !removed {
            self.lost_to_successor("another writer's journal stands beside the database");
            return Err(Refused);
        }
        Ok(())
    }

    /// A hot journal was to be rolled back and could not be opened. Where it is gone, somebody else
    /// has rolled it back.
    pub(crate) fn recovery_journal_not_opened(&self) {
        let status = self.journal().map(Journal::status);
        if matches!(status, Some(Ok(JournalStatus::Absent))) {
            self.lost_to_successor("somebody else has rolled the journal back");
        }
    }
}
