//! Lock errors: which lock, who holds it, and why it could not be acquired or was lost.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind};
use thiserror::Error;

use super::config::ConfigError;
use super::problem::Problem;
use super::store::StoreError;
use crate::clock::unix_seconds;

/// Which lock an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LockName {
    /// The database file; empty for a [`LockClient`](crate::LockClient) used on its own.
    pub database: PathBuf,
    /// The value of `pk`.
    pub key: String,
    /// The lock table.
    pub table: String,
}

impl LockName {
    /// The lock with this key in this table, without a database.
    pub fn new(key: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            database: PathBuf::new(),
            key: key.into(),
            table: table.into(),
        }
    }

    /// The lock of a database file.
    #[must_use]
    pub fn with_database(mut self, path: impl Into<PathBuf>) -> Self {
        self.database = path.into();
        self
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.database.as_os_str().is_empty() {
            write!(f, "database {}, ", self.database.display())?;
        }
        write!(f, "key `{}`, table `{}`", self.key, self.table)
    }
}

/// The holder of a lease, as far as the lock item says. By default nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HolderInfo {
    /// The holder's name; `None` for the Python package, which writes none.
    pub name: Option<String>,
    /// When the lease began, to the second.
    pub since: Option<SystemTime>,
    /// When the lease ends unless it is renewed, by the store's clock.
    pub until: Option<SystemTime>,
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name.as_deref().unwrap_or("unnamed"))?;
        if let Some(since) = self.since {
            write!(f, " since {}", Utc::at(since))?;
        }
        if let Some(until) = self.until {
            write!(f, " until {}", Utc::at(until))?;
        }
        Ok(())
    }
}

/// A time of the Unix epoch, shown as `2026-11-22T08:25:00Z`.
pub(crate) struct Utc(pub(crate) f64);

impl Utc {
    pub(crate) fn at(time: SystemTime) -> Self {
        Self(unix_seconds(time) as f64)
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 as u64;
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        // Civil from days, counted in 400-year eras that begin on 1 March.
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            second_of_day / 3_600,
            second_of_day / 60 % 60,
            second_of_day % 60
        )
    }
}

/// Why a write did not happen, or is not known to have happened.
///
/// Inside Diesel it arrives as [`diesel::result::Error::DatabaseError`]: of kind
/// `SerializationFailure` if [`is_retryable`](Self::is_retryable), else `Unknown`. The value itself
/// is kept for [`EfsSqliteConnection::last_lock_error`](crate::EfsSqliteConnection::last_lock_error).
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError {
    /// Another connection holds the lease. Nothing was changed; trying again is safe.
    #[error(
        "the write lock is held by {}; gave up after {} ms and {attempts} attempt(s) ({lock})",
        holder.as_ref().map_or_else(|| "another connection".to_owned(), ToString::to_string),
        waited.as_millis()
    )]
    #[non_exhaustive]
    Busy {
        /// Which lock.
        lock: Arc<LockName>,
        /// The holder, if known.
        holder: Option<HolderInfo>,
        /// How long we waited.
        waited: Duration,
        /// How often the store was asked.
        attempts: u32,
    },
    /// The deadline set with [`set_deadline`](crate::EfsSqliteConnection::set_deadline) has passed,
    /// or leaves less time than the requests of a write take at the fastest: the write was not
    /// started. Trying again needs a later deadline.
    #[error("not enough time before the deadline; the write was not started ({lock})")]
    #[non_exhaustive]
    DeadlinePassed {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// SQLite's own file locks are held by others: readers, or a writer outside this crate. Nothing
    /// was changed; trying again is safe.
    #[error(
        "the database file is locked by another process; gave up after {} ms ({lock})",
        waited.as_millis()
    )]
    #[non_exhaustive]
    FileLocked {
        /// Which lock.
        lock: Arc<LockName>,
        /// How long we waited.
        waited: Duration,
    },
    /// The lease ended, or has another holder now. The transaction was rolled back or will be by
    /// the next writer; nothing of it becomes visible. Trying again is safe.
    #[error("the write lease was lost: {reason}; the transaction is rolled back ({lock})")]
    #[non_exhaustive]
    LeaseLost {
        /// Which lock.
        lock: Arc<LockName>,
        /// How it was lost.
        reason: String,
    },
    /// Another writer has changed the state that the transaction had read before it asked to write.
    /// Nothing was changed; running the whole transaction again is safe.
    #[error("the transaction read a state that is no longer current; run it again ({lock})")]
    #[non_exhaustive]
    StaleSnapshot {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// A read met a commit in progress, which file locks should have prevented. Running the whole
    /// transaction again is safe.
    #[error("a page changed while the transaction was reading; run it again ({lock})")]
    #[non_exhaustive]
    TornRead {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// The store cannot grant the lease, or refuses to confirm a commit under it. See [`StoreError`]
    /// for the cause and what to do. Nothing was changed.
    #[error("cannot take or keep the write lock: {source} ({lock})")]
    #[non_exhaustive]
    Store {
        /// Which lock.
        lock: Arc<LockName>,
        /// The cause.
        source: StoreError,
    },
    /// The transaction has ended, committed or not, but the lock item could not be deleted. No
    /// statement fails because of it: see
    /// [`last_lock_error`](crate::EfsSqliteConnection::last_lock_error).
    #[error(
        "the lock was not released and blocks other writers until its lease has run out: {source} ({lock})"
    )]
    #[non_exhaustive]
    NotReleased {
        /// Which lock.
        lock: Arc<LockName>,
        /// The cause.
        source: StoreError,
    },
    /// The database's files cannot be used as they are: they are not writable, the disk is full,
    /// the database was switched to WAL mode, the file system fails. Nothing was changed.
    #[error("the database's files cannot be used: {reason} ({lock})")]
    #[non_exhaustive]
    File {
        /// Which lock.
        lock: Arc<LockName>,
        /// What is wrong and, where there is a remedy, what to do.
        reason: Problem,
    },
    /// The commit was neither confirmed nor refused before the lease ended. The transaction may or
    /// may not be committed: check before trying again.
    #[error(
        "the outcome of the commit is unknown: {reason}; the transaction is either whole or not there at all, read before trying again ({lock})"
    )]
    #[non_exhaustive]
    OutcomeUnknown {
        /// Which lock.
        lock: Arc<LockName>,
        /// What happened.
        reason: String,
    },
    /// The settings do not fit the database: another lock protects it. Nothing was changed.
    #[error(transparent)]
    Config(ConfigError),
    /// The transaction had already ended with the given error; this statement was not run.
    #[error("the transaction has been rolled back, this statement was not run: {cause}")]
    #[non_exhaustive]
    Aborted {
        /// What ended the transaction.
        cause: String,
        /// Whether running the whole transaction again is safe and may succeed.
        retryable: bool,
    },
}

/// For tests of how an application handles these errors; those of the crate have all details.
impl LockError {
    /// A [`Busy`](Self::Busy) without a holder, after one attempt and no waiting.
    pub fn busy(lock: impl Into<Arc<LockName>>) -> Self {
        Self::Busy {
            lock: lock.into(),
            holder: None,
            waited: Duration::ZERO,
            attempts: 1,
        }
    }

    /// A [`DeadlinePassed`](Self::DeadlinePassed).
    pub fn deadline_passed(lock: impl Into<Arc<LockName>>) -> Self {
        Self::DeadlinePassed { lock: lock.into() }
    }

    /// A [`StaleSnapshot`](Self::StaleSnapshot).
    pub fn stale_snapshot(lock: impl Into<Arc<LockName>>) -> Self {
        Self::StaleSnapshot { lock: lock.into() }
    }

    /// An [`OutcomeUnknown`](Self::OutcomeUnknown).
    pub fn outcome_unknown(lock: impl Into<Arc<LockName>>, reason: impl Into<String>) -> Self {
        Self::OutcomeUnknown {
            lock: lock.into(),
            reason: reason.into(),
        }
    }
}

impl LockError {
    /// Whether running the whole transaction again is safe and can be expected to succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::FileLocked { .. }
            | Self::LeaseLost { .. }
            | Self::StaleSnapshot { .. }
            | Self::TornRead { .. } => true,
            Self::Store { source, .. } => source.is_transient(),
            Self::Aborted { retryable, .. } => *retryable,
            Self::DeadlinePassed { .. }
            | Self::NotReleased { .. }
            | Self::File { .. }
            | Self::Config(_)
            | Self::OutcomeUnknown { .. } => false,
        }
    }

    /// Whether the connection that met this error should be replaced: it lost its lease, or the
    /// file system failed.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::LeaseLost { .. } | Self::File { .. } | Self::OutcomeUnknown { .. }
        )
    }

    /// How long the failed wait lasted.
    pub(crate) fn waited(&self) -> Duration {
        match self {
            Self::Busy { waited, .. } | Self::FileLocked { waited, .. } => *waited,
            _ => Duration::ZERO,
        }
    }

    /// The same at the end of several waits that have lasted so long together, with so many attempts
    /// before the last one.
    pub(crate) fn after(mut self, all: Duration, earlier: u32) -> Self {
        match &mut self {
            Self::Busy {
                waited, attempts, ..
            } => {
                *waited = all.max(*waited);
                *attempts = attempts.saturating_add(earlier);
            }
            Self::FileLocked { waited, .. } => *waited = all.max(*waited),
            _ => {}
        }
        self
    }

    /// How often the store was asked in vain.
    pub(crate) fn attempts(&self) -> u32 {
        match self {
            Self::Busy { attempts, .. } => *attempts,
            _ => 0,
        }
    }

    /// Whether no connection to the store could be made or kept, as when a request is cut off.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: StoreError::Unreachable { .. },
                ..
            }
        )
    }

    /// Whether the store did not answer in time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: StoreError::Timeout { .. },
                ..
            }
        )
    }

    /// The lock that the error is about.
    pub fn lock(&self) -> Option<&LockName> {
        match self {
            Self::Busy { lock, .. }
            | Self::DeadlinePassed { lock }
            | Self::FileLocked { lock, .. }
            | Self::LeaseLost { lock, .. }
            | Self::StaleSnapshot { lock }
            | Self::TornRead { lock }
            | Self::Store { lock, .. }
            | Self::NotReleased { lock, .. }
            | Self::File { lock, .. }
            | Self::OutcomeUnknown { lock, .. } => Some(lock),
            Self::Aborted { .. } | Self::Config(_) => None,
        }
    }

    /// What to fix before trying again, if it is something that a person can fix.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Store { source, .. } | Self::NotReleased { source, .. } => source.remedy(),
            Self::File { reason, .. } => reason.remedy().map(str::to_owned),
            Self::Config(error) => error.remedy(),
            _ => None,
        }
    }

    fn hint(&self) -> &'static str {
        if self.is_retryable() {
            "Run the whole transaction again."
        } else if matches!(self, Self::OutcomeUnknown { .. }) {
            "Read what is stored before you run the transaction again."
        } else if matches!(self, Self::NotReleased { .. }) {
            "The transaction is over and need not be repeated; fix the cause."
        } else {
            "Fix the cause; trying again at once will not help."
        }
    }
}

impl From<LockError> for diesel::result::Error {
    fn from(error: LockError) -> Self {
        let kind = if error.is_retryable() {
            DatabaseErrorKind::SerializationFailure
        } else {
            DatabaseErrorKind::Unknown
        };
        Self::DatabaseError(kind, Box::new(LockErrorInformation::new(error)))
    }
}

/// A [`LockError`] as Diesel's error information.
struct LockErrorInformation {
    error: LockError,
    message: String,
    details: Option<String>,
}

impl LockErrorInformation {
    fn new(error: LockError) -> Self {
        Self {
            message: error.to_string(),
            details: error.lock().map(ToString::to_string),
            error,
        }
    }
}

impl DatabaseErrorInformation for LockErrorInformation {
    fn message(&self) -> &str {
        &self.message
    }
    fn details(&self) -> Option<&str> {
        self.details.as_deref()
    }
    fn hint(&self) -> Option<&str> {
        Some(self.error.hint())
    }
    fn table_name(&self) -> Option<&str> {
        None
    }
    fn column_name(&self) -> Option<&str> {
        None
    }
    fn constraint_name(&self) -> Option<&str> {
        None
    }
    fn statement_position(&self) -> Option<i32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(Utc(0.0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Utc(951_782_400.0).to_string(), "2000-02-29T00:00:00Z");
        assert_eq!(Utc(1_795_335_900.9).to_string(), "2026-11-22T08:25:00Z");
    }

    #[test]
    fn retryable_lock_errors_become_serialization_failures() {
        let lock = Arc::new(LockName {
            database: "/mnt/efs/app.db".into(),
            key: "database#app.db".into(),
            table: "locks".into(),
        });
        let kind = |error: LockError| match error.into() {
            diesel::result::Error::DatabaseError(kind, information) => {
                (kind, information.hint().map(str::to_owned))
            }
            other => panic!("unexpected {other:?}"),
        };
        let (retryable, hint) = kind(LockError::StaleSnapshot { lock: lock.clone() });
        assert!(matches!(retryable, DatabaseErrorKind::SerializationFailure));
        assert_eq!(hint.as_deref(), Some("Run the whole transaction again."));
        let (fatal, _) = kind(LockError::Store {
            lock,
            source: StoreError::NoRegion,
        });
        assert!(matches!(fatal, DatabaseErrorKind::Unknown));
    }
}
