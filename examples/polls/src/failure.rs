//! What a refused lock, a lost row and a panic are in HTTP.

use axum::http::StatusCode;
use diesel::r2d2::PoolError;
use diesel::result::Error;
use diesel_sqlite_efs::LockError;
use tokio::task::JoinError;

/// What a client is told to wait. Most transactions are over in a fraction of it.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request came to nothing, as its client may know it. The log has the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is nothing by this name.
    NotFound,
    /// Somebody else is writing, or there was no time left: again, in a moment.
    Busy,
    /// Whether it was written is not known. Safe to repeat with the same idempotency key.
    Unknown,
    /// Nothing the client could mend.
    Internal,
}

impl Failure {
    /// Of a statement. `last` is what the lock said last on this connection.
    pub(crate) fn query(error: Error, last: Option<&LockError>) -> Self {
        if matches!(error, Error::NotFound) {
            return Self::NotFound;
        }
        // A connection remembers its last lock error: it explains this failure if it is what Diesel was told.
        let Some(lock) = last.filter(|lock| is_told_by(&error, lock)) else {
            tracing::error!(%error, "a statement failed");
            return Self::Internal;
        };
        match lock {
            LockError::DeadlinePassed { .. } => {
                tracing::warn!(%error, "no time left to write");
                Self::Busy
            }
            LockError::OutcomeUnknown { .. } => {
                tracing::error!(%error, "a commit's outcome is unknown");
                Self::Unknown
            }
            lock if lock.is_retryable() => {
                tracing::warn!(%error, "the database is busy");
                Self::Busy
            }
            _ => {
                tracing::error!(%error, "the lock cannot be used");
                Self::Internal
            }
        }
    }

    /// Of the pool: no connection came free, or could be opened, before the deadline.
    pub(crate) fn pool(error: PoolError) -> Self {
        tracing::warn!(%error, "no connection");
        Self::Busy
    }

    /// Of a blocking task that panicked.
    pub(crate) fn died(error: &JoinError) -> Self {
        tracing::error!(%error, "a blocking task died");
        Self::Internal
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Busy | Self::Unknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The header `Retry-After`, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Busy | Self::Unknown => Some(RETRY_AFTER_SECONDS),
            Self::NotFound | Self::Internal => None,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::NotFound => "There is nothing here.",
            Self::Busy => {
                "Somebody else is writing just now, and nothing was changed. Try again in a moment."
            }
            Self::Unknown => {
                "It is not known yet whether this was saved. A vote may be sent again, it counts once; \
                 otherwise look first."
            }
            Self::Internal => "Something is wrong on our side. It has been noted.",
        }
    }
}

fn is_told_by(error: &Error, lock: &LockError) -> bool {
    match error {
        Error::DatabaseError(_, told) => told.message() == lock.to_string(),
        Error::RollbackErrorOnCommit { commit_error, .. } => is_told_by(commit_error, lock),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diesel::result::DatabaseErrorKind;
    use diesel_sqlite_efs::LockName;

    use super::*;

    fn lock() -> Arc<LockName> {
        let lock = LockName::new("database#/mnt/efs/polls.db", "polls-locks");
        Arc::new(lock.with_database("/mnt/efs/polls.db"))
    }

    fn told(lock: &LockError) -> Error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(lock.to_string()))
    }

    #[test]
    fn a_lock_that_may_be_had_later_is_503() {
        for error in [
            LockError::stale_snapshot(lock()),
            LockError::deadline_passed(lock()),
            LockError::outcome_unknown(lock(), "no answer"),
        ] {
            let failure = Failure::query(told(&error), Some(&error));
            assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE, "{error}");
            assert!(failure.retry_after().is_some(), "{error}");
        }
    }

    #[test]
    fn an_earlier_lock_error_does_not_explain_another_failure() {
        let earlier = LockError::stale_snapshot(lock());
        let failure = Failure::query(
            Error::DatabaseError(DatabaseErrorKind::CheckViolation, Box::new(String::new())),
            Some(&earlier),
        );
        assert_eq!(failure, Failure::Internal);
    }
}
