//! What can go wrong, layer by layer: with the store, with the lease, with the settings.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::{ConnectionError, DatabaseErrorInformation, DatabaseErrorKind};
use thiserror::Error;

/// Why a [`LockStore`](crate::LockStore) could not answer.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the action on the table.
    #[error(
        "access denied to {action}: {message}; allow {} on the lock table",
        to_allow(action)
    )]
    AccessDenied {
        /// `dynamodb:PutItem` or `dynamodb:DeleteItem`; of the program `efs-sqlite` also others.
        action: &'static str,
        /// What the service said.
        message: String,
    },
    /// There is no such table in this account and region.
    #[error(
        "the lock table does not exist: {message}; create it, or check its name and AWS_REGION"
    )]
    TableMissing {
        /// What the service said.
        message: String,
    },
    /// The table is not keyed by `pk`, or the request does not fit it for another reason.
    #[error(
        "the lock table does not fit: {message}; its primary key must be the string attribute `pk`, without a sort key"
    )]
    TableSchema {
        /// What the service said.
        message: String,
    },
    /// The AWS SDK found no usable credentials, or the service did not accept them.
    #[error(
        "no valid AWS credentials: {message}; give the function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials {
        /// What the SDK or the service said.
        message: String,
    },
    /// The AWS configuration cannot be used: an endpoint that is not a URL, for one. Nothing was
    /// sent.
    #[error("DynamoDB is misconfigured: {message}")]
    Misconfigured {
        /// What is wrong and what to do.
        message: String,
    },
    /// The AWS SDK found no region.
    #[error("no AWS region is configured; set AWS_REGION")]
    NoRegion,
    /// No connection to the endpoint.
    #[error(
        "cannot reach DynamoDB at {endpoint}: {message}; inside a VPC, add a gateway endpoint for DynamoDB to the function's subnets"
    )]
    Unreachable {
        /// The URL, or the service and region.
        endpoint: String,
        /// What failed.
        message: String,
    },
    /// The endpoint accepted the request but did not answer in time.
    #[error(
        "no answer from DynamoDB at {endpoint} within {} ms; if it stays so, look for what drops the packets: security groups, routes, a proxy",
        after.as_millis()
    )]
    Timeout {
        /// The URL, or the service and region.
        endpoint: String,
        /// How long we waited.
        after: Duration,
    },
    /// The table or the account is over its capacity.
    #[error("DynamoDB throttles requests to the lock table: {message}; use on-demand capacity")]
    Throttled {
        /// What the service said.
        message: String,
    },
    /// Any other answer that is not the one we need.
    #[error("DynamoDB answered {status}{}: {message}", code.as_deref().map(|c| format!(" {c}")).unwrap_or_default())]
    Service {
        /// HTTP status.
        status: u16,
        /// DynamoDB's error code, if the answer had one.
        code: Option<String>,
        /// What the service said.
        message: String,
    },
    /// The lock item lacks an attribute or holds a value that no lock client writes.
    #[error(
        "the lock item's attribute `{attribute}` is malformed: {problem}; if no writer is running, delete the item"
    )]
    MalformedItem {
        /// The attribute's name.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store's code panicked.
    #[error("the lock store panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// What has to be allowed where this action was refused: the lock needs both of its two.
fn to_allow(action: &'static str) -> &'static str {
    match action {
        "dynamodb:PutItem" | "dynamodb:DeleteItem" => "dynamodb:PutItem and dynamodb:DeleteItem",
        other => other,
    }
}

impl StoreError {
    /// Whether the same request may well succeed a moment later: throttling, a server error, a
    /// lost answer. False for what only a person can mend (permissions, table, credentials, an
    /// endpoint that no connection reaches).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Timeout { .. } => true,
            Self::Service { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether the write may have been applied although no answer came.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Panicked { .. } => true,
            // Only the service's own "no" says that nothing was written; a success whose body
            // nobody understands does not.
            Self::Service { status, .. } => !(400..500).contains(status),
            _ => false,
        }
    }
}

/// Which lock an error speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockName {
    /// The database file; empty for a [`DynamoDbLockClient`](crate::DynamoDbLockClient) used on
    /// its own.
    pub database: PathBuf,
    /// The value of `pk`.
    pub key: String,
    /// The lock table.
    pub table: String,
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.database.as_os_str().is_empty() {
            write!(f, "database {}, ", self.database.display())?;
        }
        write!(f, "key `{}`, table `{}`", self.key, self.table)
    }
}

/// Who holds a lease, as far as its item tells.
#[derive(Debug, Clone, PartialEq)]
pub struct HolderInfo {
    /// The holder's name; `None` for the Python package, which writes none.
    pub name: Option<String>,
    /// Since when, epoch seconds.
    pub since: Option<u64>,
    /// Until when unless it is renewed, epoch seconds.
    pub until: Option<f64>,
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name.as_deref().unwrap_or("unnamed"))?;
        if let Some(since) = self.since {
            write!(f, " since {}", Utc(since as f64))?;
        }
        if let Some(until) = self.until {
            write!(f, " until {}", Utc(until))?;
        }
        Ok(())
    }
}

/// A time of the Unix epoch, shown as `2026-11-22T08:25:00Z`.
pub(crate) struct Utc(pub(crate) f64);

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
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum LockError {
    /// Another connection holds the lease. Nothing was changed; trying again is safe.
    #[error(
        "the database is being written by {}; gave up after {} ms and {attempts} attempt(s) ({lock})",
        holder.as_ref().map_or_else(|| "another connection".to_owned(), ToString::to_string),
        waited.as_millis()
    )]
    Busy {
        /// Which lock.
        lock: Arc<LockName>,
        /// Who holds it, if known.
        holder: Option<HolderInfo>,
        /// How long we waited.
        waited: Duration,
        /// How often the store was asked.
        attempts: u32,
    },
    /// The deadline set with [`set_deadline`](crate::EfsSqliteConnection::set_deadline) has passed,
    /// or leaves less time than the requests of a write take at the fastest: the write was not
    /// begun. Trying again needs a later deadline.
    #[error("the deadline has passed or is too near, the write was not begun ({lock})")]
    DeadlinePassed {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// SQLite's own file locks were in the way: readers, or a writer outside this crate. Nothing
    /// was changed; trying again is safe.
    #[error(
        "the database file is locked by another process; gave up after {} ms ({lock})",
        waited.as_millis()
    )]
    FileLocked {
        /// Which lock.
        lock: Arc<LockName>,
        /// How long we waited.
        waited: Duration,
    },
    /// The lease ended, or somebody else holds it now. The transaction was rolled back or will be
    /// by the next writer; nothing of it will be seen. Trying again is safe.
    #[error("the write lease was lost: {reason}; the transaction is rolled back ({lock})")]
    LeaseLost {
        /// Which lock.
        lock: Arc<LockName>,
        /// How it was lost.
        reason: String,
    },
    /// The transaction had read a state that somebody has changed since, and now asked to write.
    /// Nothing was changed; trying the whole transaction again is safe.
    #[error("the transaction read a state that is no longer current; run it again ({lock})")]
    StaleSnapshot {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// A read met a commit in progress, which file locks should have kept out. Trying the whole
    /// transaction again is safe.
    #[error("a page changed while the transaction was reading; run it again ({lock})")]
    TornRead {
        /// Which lock.
        lock: Arc<LockName>,
    },
    /// The store cannot grant the lease, or refuses to confirm a commit under it. See [`StoreError`]
    /// for the cause and what to do. Nothing was changed.
    #[error("cannot take or keep the write lock: {source} ({lock})")]
    Store {
        /// Which lock.
        lock: Arc<LockName>,
        /// The cause.
        source: StoreError,
    },
    /// The transaction is over, whatever became of it, but the lock item could not be removed.
    /// No statement fails for it: look for it in
    /// [`last_lock_error`](crate::EfsSqliteConnection::last_lock_error).
    #[error(
        "the lock was not released and blocks other writers until its lease has run out: {source} ({lock})"
    )]
    NotReleased {
        /// Which lock.
        lock: Arc<LockName>,
        /// The cause.
        source: StoreError,
    },
    /// The database's files cannot be used as they are: they cannot be written to, the disk is
    /// full, somebody has switched the database to WAL mode, the file system fails. Nothing was
    /// changed.
    #[error("the database's files cannot be used: {reason} ({lock})")]
    File {
        /// Which lock.
        lock: Arc<LockName>,
        /// What is wrong and, where there is a remedy, what to do.
        reason: String,
    },
    /// The commit could not be confirmed, nor refuted, before the lease ended. The transaction may
    /// be committed or not; look before trying again.
    #[error(
        "the outcome of the commit is unknown: {reason}; the transaction is either whole or not there at all, read before trying again ({lock})"
    )]
    OutcomeUnknown {
        /// Which lock.
        lock: Arc<LockName>,
        /// What happened.
        reason: String,
    },
    /// The settings do not fit the database: another lock protects it. Nothing was changed.
    #[error(transparent)]
    Config(ConfigError),
    /// The transaction ended before, by the error that is given; this statement was not run.
    #[error("the transaction has been rolled back, this statement was not run: {cause}")]
    Aborted {
        /// What ended the transaction.
        cause: String,
        /// Whether running the whole transaction again is safe and may succeed.
        retryable: bool,
    },
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

    /// Whether a new connection is safer than the one that has met this: its lease was lost under
    /// it, or the file system has failed it.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::LeaseLost { .. } | Self::File { .. } | Self::OutcomeUnknown { .. }
        )
    }

    /// How long was waited in vain.
    pub(crate) fn waited(&self) -> Duration {
        match self {
            Self::Busy { waited, .. } | Self::FileLocked { waited, .. } => *waited,
            _ => Duration::ZERO,
        }
    }

    /// Whether an answer of the store did not come in time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: StoreError::Timeout { .. },
                ..
            }
        )
    }

    /// Which lock the error speaks of.
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

    fn hint(&self) -> &'static str {
        if self.is_retryable() {
            "Run the whole transaction again."
        } else if matches!(self, Self::OutcomeUnknown { .. }) {
            "Read what is stored before you run the transaction again."
        } else if matches!(self, Self::NotReleased { .. }) {
            "The transaction is over and need not be repeated; mend the cause."
        } else {
            "Mend the cause; trying again at once will not help."
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

/// What is wrong with the settings or with the database file; trying again does not help.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL holds a parameter that is none of ours.
    #[error("unknown parameter `{name}` in the database URL{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownParameter {
        /// As written.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// An environment variable that begins like ours is none of ours.
    #[error("unknown environment variable `{name}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownVariable {
        /// As set.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// A value that the setting cannot take.
    #[error("invalid value `{value}` for {setting}: {problem}")]
    InvalidValue {
        /// The setting and where the value came from, such as
        /// "`lock_timeout` in the database URL".
        setting: String,
        /// As written.
        value: String,
        /// What would be valid.
        problem: String,
    },
    /// No lock table was named.
    #[error(
        "no lock table is set: give `lock_table=NAME` in the URL, set SQLITE_LOCK_DYNAMODB_TABLE, or use `lock=local` if only this machine opens the database"
    )]
    NoTable,
    /// The URL is not one of a database file.
    #[error("invalid database URL `{url}`: {problem}")]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A SQLite URI parameter that would go round the lock.
    #[error("the URL parameter `{name}` is refused: {reason}")]
    ForbiddenParameter {
        /// `vfs`, `nolock`, `immutable`, `cache`, ..
        name: String,
        /// Why.
        reason: String,
    },
    /// `lock=local` on a file system that several machines share.
    #[error(
        "`lock=local` is refused for {}: it is on a network file system ({file_system}), where SQLite's file locks alone do not protect the database; set a lock table", path.display()
    )]
    LocalLockOnNetwork {
        /// The database.
        path: PathBuf,
        /// `nfs`, `smb`, `fuse`, ..
        file_system: String,
    },
    /// Another lock protects the database than the one that is set. Writers that take different
    /// locks do not keep each other out, so the first of them leaves a file beside the database
    /// that names its own.
    #[error(
        "{} is protected by {recorded}, but {configured} is set, and who takes another lock is not kept out: set the same; or, to change the lock for all, or if this is a copy, delete {} while no process has the database open", path.display(), file.display()
    )]
    OtherLock {
        /// The database.
        path: PathBuf,
        /// The lock that protects it: its key and table.
        recorded: String,
        /// The one that is set: its key and table, or `lock=local`.
        configured: String,
        /// The file that names the first.
        file: PathBuf,
    },
    /// A statement that would go round the lock.
    #[error("{statement} is refused: {reason}")]
    ForbiddenStatement {
        /// What was asked for.
        statement: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The database file cannot be used.
    #[error("cannot open {}: {problem}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Why a connection could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The settings or the database file are not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A hot journal had to be rolled back first and the lock was not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Diesel or SQLite failed.
    #[error(transparent)]
    Diesel(#[from] ConnectionError),
}

impl From<ConnectError> for ConnectionError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Config(error) => Self::BadConnection(error.to_string()),
            ConnectError::Lock(error) => Self::CouldntSetupConfiguration(error.into()),
            ConnectError::Diesel(error) => error,
        }
    }
}

/// The message of a panic, whatever its payload.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    (payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// An error and everything below it in one line, as the SDK hides causes in `source`.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
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
