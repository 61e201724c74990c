//! What transaction a connection has open, by its own account.

use std::num::NonZeroU32;

use diesel::connection::{TransactionDepthChange, TransactionManagerStatus};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};

use crate::error::LockError;
use crate::write_lock::RolledBackBy;

/// The transactions of a connection.
///
/// Diesel's traits read and write the account of the levels, so that it is Diesel's type; what
/// that type cannot say, that SQLite has ended the transaction below the levels, stands beside it.
#[derive(Debug, Default)]
pub struct TransactionState {
    levels: TransactionManagerStatus,
    /// Only while levels are open.
    abort: Option<Abort>,
}

/// The transaction as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction<'a> {
    None,
    Open(NonZeroU32),
    /// It was rolled back, while so many levels of it have not ended yet: nothing may run in them.
    Aborted(NonZeroU32, &'a Abort),
    /// The end of a transaction has failed: nobody knows what is open.
    InError,
}

/// Why a transaction is over before its levels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Abort {
    pub(super) by: RolledBackBy,
    pub(super) cause: String,
    /// Running the whole transaction again may help.
    pub(super) retryable: bool,
}

impl TransactionState {
    pub(super) fn now(&self) -> Transaction<'_> {
        match (self.levels.transaction_depth(), &self.abort) {
            (Err(_), _) => Transaction::InError,
            (Ok(None), _) => Transaction::None,
            (Ok(Some(depth)), None) => Transaction::Open(depth),
            (Ok(Some(depth)), Some(abort)) => Transaction::Aborted(depth, abort),
        }
    }

    /// How many levels are open; `None` outside a transaction, and in error.
    pub(super) fn depth(&self) -> Option<NonZeroU32> {
        self.levels.transaction_depth().ok().flatten()
    }

    /// Diesel's account, for its traits.
    pub(super) fn levels(&mut self) -> &mut TransactionManagerStatus {
        &mut self.levels
    }

    /// A level was begun or has ended.
    pub(super) fn change_depth(&mut self, change: TransactionDepthChange) -> QueryResult<()> {
        match &mut self.levels {
            TransactionManagerStatus::Valid(valid) => valid.change_transaction_depth(change)?,
            TransactionManagerStatus::InError => return Err(Error::BrokenTransactionManager),
        }
        if self.depth().is_none() {
            self.abort = None;
        }
        Ok(())
    }

    /// The open transaction is over; the first cause stays.
    pub(super) fn abort(&mut self, abort: Abort) {
        if matches!(self.now(), Transaction::Open(_)) {
            self.abort = Some(abort);
        }
    }

    /// The transaction could not be ended.
    pub(super) fn fail(&mut self) {
        self.levels.set_in_error();
        self.abort = None;
    }
}

impl Abort {
    /// The error for whatever is still attempted in the transaction.
    pub(super) fn error(&self) -> LockError {
        LockError::Aborted {
            cause: self.cause.clone(),
            retryable: self.retryable,
        }
    }
}

/// Whether running the whole transaction again is safe and can be expected to succeed.
pub(super) fn is_retryable(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionDepthChange::{DecreaseDepth, IncreaseDepth};

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn abort(cause: &str) -> Abort {
        Abort {
            by: RolledBackBy::Sqlite,
            cause: cause.to_owned(),
            retryable: false,
        }
    }

    #[test]
    fn an_aborted_transaction_stays_so_until_its_outermost_level_has_ended() {
        let mut state = TransactionState::default();
        state.abort(abort("none is open"));
        assert_eq!(state.now(), Transaction::None);
        for _ in 0..2 {
            state.change_depth(IncreaseDepth).expect("a level");
        }
        state.abort(abort("first"));
        state.abort(abort("second"));
        let first = abort("first");
        assert_eq!(
            state.now(),
            Transaction::Aborted(ONE.saturating_add(1), &first)
        );
        state.change_depth(DecreaseDepth).expect("a level");
        assert_eq!(state.now(), Transaction::Aborted(ONE, &first));
        state.change_depth(DecreaseDepth).expect("a level");
        assert_eq!(state.now(), Transaction::None);
        state.change_depth(IncreaseDepth).expect("a level");
        assert_eq!(state.now(), Transaction::Open(ONE));
        state
            .change_depth(DecreaseDepth)
            .expect("the level that was begun");
        assert!(state.change_depth(DecreaseDepth).is_err());
    }

    #[test]
    fn a_transaction_that_could_not_be_ended_is_in_error_from_then_on() {
        let mut state = TransactionState::default();
        state.change_depth(IncreaseDepth).expect("a level");
        state.abort(abort("rolled back"));
        state.fail();
        state.abort(abort("later"));
        assert_eq!(state.now(), Transaction::InError);
        assert_eq!(state.depth(), None);
        assert!(state.change_depth(IncreaseDepth).is_err());
    }
}
