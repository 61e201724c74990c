//! What the connection asks and is told: where statements begin and end, what went wrong, what is
//! refused.

use std::time::{Duration, Instant};

use super::lock::WriteLock;
use super::state::{HoldState, State, Waited};
use super::transaction::RolledBackBy;
use crate::clock::FOREVER;
use crate::error::{ConfigError, LockError};
use crate::files::file_version::FileFormat;

/// Statements.
impl WriteLock {
    /// A statement begins: errors of earlier ones are no longer its concern.
    #[inline]
    pub(crate) fn statement_begins(&self) {
        if self.needs_attention() {
            drop(self.update(|state| state.statement_begins()));
        }
    }

    /// A statement has ended. SQLite may have done without the busy handler, or without the write
    /// that the lease was parked for: what was to go on ends here.
    #[inline]
    pub(crate) fn statement_ended(&self) {
        if !self.needs_attention() {
            return;
        }
        drop(self.update(|state| {
            state.end_wait();
            state.take_busy_reason(false)
        }));
        self.release_unless_in_use();
    }

    /// What the lock had to do with the failure of the statement, if anything.
    pub(crate) fn take_error(&self) -> Option<LockError> {
        self.update(|state| state.notices.error.take())
    }

    /// Why the lock is still in the table although the transaction has ended.
    #[inline]
    pub(crate) fn take_not_released(&self) -> Option<LockError> {
        self.take(|state| state.notices.not_released.take())
    }

    /// How long was waited for the lease since this was last asked, if at all.
    #[inline]
    pub(crate) fn take_waited(&self) -> Option<Waited> {
        self.take(|state| state.notices.waited.take())
    }

    #[inline]
    fn take<T>(&self, take: impl FnOnce(&mut State) -> Option<T>) -> Option<T> {
        self.needs_attention().then(|| self.update(take)).flatten()
    }

    /// The statement would go round the lock: it is refused, for this reason.
    pub(crate) fn refuse_statement(&self, reason: ConfigError) {
        self.update(|state| state.notices.refused = Some(reason));
    }

    /// What was asked of SQLite that would go round the lock, if that is why the statement failed.
    pub(crate) fn take_refused(&self) -> Option<ConfigError> {
        self.update(|state| state.notices.refused.take())
    }

    /// A loss that SQLite rolled back for without telling: it commits a statement that was not run
    /// to its end when the statement is reset, where Diesel does not look for errors.
    #[inline]
    pub(crate) fn take_hidden_loss(&self) -> Option<LockError> {
        self.take(|state| {
            let is_loss = matches!(
                state.notices.error,
                Some(LockError::LeaseLost { .. } | LockError::OutcomeUnknown { .. })
            );
            let error = &mut state.notices.error;
            error.take_if(|_| is_loss && state.transaction.has_rolled_back())
        })
    }

    /// Whether a write was asked for since this was last asked.
    pub(crate) fn take_asked_to_write(&self) -> bool {
        self.update(|state| std::mem::take(&mut state.notices.asked_to_write))
    }
}

/// Transactions.
impl WriteLock {
    /// Whether a transaction that writes is under way.
    pub(crate) fn is_writing(&self) -> bool {
        !self.is_at_rest() && self.look(State::hold_state) == Some(HoldState::Transaction)
    }

    /// SQLite has ended a transaction by a rollback.
    pub(crate) fn rolled_back(&self) {
        self.update(|state| state.transaction.rolled_back());
    }

    /// Whether the connection has a transaction open, by its own account.
    pub(crate) fn set_in_transaction(&self, open: bool) {
        self.update(|state| state.transaction.set_open(open));
    }

    /// A statement that begins a transaction was prepared, by whomever.
    pub(crate) fn begin_prepared(&self) {
        self.update(|state| state.transaction.begin_prepared());
    }

    /// A ROLLBACK was prepared, by whomever.
    pub(crate) fn rollback_prepared(&self) {
        self.update(|state| state.transaction.rollback_prepared());
    }

    /// Who has rolled back the transaction that the connection has open, if anybody has.
    #[inline]
    pub(crate) fn rolled_back_by(&self) -> Option<RolledBackBy> {
        self.take(|state| state.transaction.rolled_back_by())
    }

    /// Whether a transaction may be open that the connection's own account does not know of, as far
    /// as is known without asking SQLite.
    #[cfg(feature = "r2d2")]
    pub(crate) fn may_have_begun(&self) -> bool {
        self.look(|state| state.transaction.is_unknown())
    }

    /// SQLite was asked: no transaction is open.
    #[cfg(feature = "r2d2")]
    pub(crate) fn nothing_is_begun(&self) {
        self.update(|state| state.transaction.none_is_open());
    }
}

/// The connection.
impl WriteLock {
    /// Whether the connection has lost a lease or met a failure of the file system.
    #[cfg(feature = "r2d2")]
    pub(crate) fn is_broken(&self) -> bool {
        self.look(State::is_broken)
    }

    /// Whether a lease is in hand, be it pinned or a transaction's.
    #[cfg(feature = "r2d2")]
    pub(crate) fn is_holding(&self) -> bool {
        self.look(State::hold_state).is_some()
    }

    /// Whether the lease that somebody further up has pinned is lost: nothing can be written until
    /// the pin is gone.
    pub(crate) fn has_lost_its_pin(&self) -> bool {
        self.look(State::is_pinned) && self.with_lease(|lease| lease.loss()).flatten().is_some()
    }

    /// The beginning of the database was read.
    pub(crate) fn saw_header(&self, header: &[u8]) {
        if let Some(format) = FileFormat::of_header(header) {
            self.update(|state| state.format = Some(format));
        }
    }

    /// What the beginning of the database says; `None` if it is empty or was not read.
    pub(crate) fn file_format(&self) -> Option<FileFormat> {
        self.look(|state| state.format)
    }

    /// The longest that a statement waits for locks.
    pub(crate) fn timeout(&self) -> Duration {
        self.look(|state| state.timeout)
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.update(|state| state.timeout = timeout.min(FOREVER));
    }

    /// No waiting goes on beyond this moment.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        self.update(|state| state.deadline = deadline);
    }
}
