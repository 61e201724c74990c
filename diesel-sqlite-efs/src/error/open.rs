//! A connection cannot be opened: its settings, its file, its lock.

use std::path::PathBuf;

use diesel::result::ConnectionError;
use thiserror::Error;

use super::LockError;

/// What is wrong with the settings or with the database file. Nothing was changed; trying again does
/// not help until it is fixed.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL holds a parameter that does not exist.
    #[error("unknown parameter `{name}` in the database URL{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    #[non_exhaustive]
    UnknownParameter {
        /// As written.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// An environment variable begins with `SQLITE_LOCK_` and does not exist.
    #[error("unknown environment variable `{name}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    #[non_exhaustive]
    UnknownVariable {
        /// As set.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// A setting of an earlier version.
    #[error("{setting} is no longer a setting: {instead}")]
    #[non_exhaustive]
    RemovedSetting {
        /// Its name and where it was given, such as "`lock_commit` in the database URL".
        setting: String,
        /// What became of it and what to do.
        instead: &'static str,
    },
    /// A value that the setting cannot take.
    #[error("invalid value `{value}` for {setting}: {problem}")]
    #[non_exhaustive]
    InvalidValue {
        /// The setting and where the value came from, such as
        /// "`lock_timeout` in the database URL".
        setting: String,
        /// As written.
        value: String,
        /// What would be valid.
        problem: String,
    },
    /// No lock table is set.
    #[error(
        "no lock table is set: give `lock_table=NAME` in the URL, set SQLITE_LOCK_DYNAMODB_TABLE, or use `lock=local` if only this machine opens the database"
    )]
    NoTable,
    /// The URL is not one of a database file.
    #[error("invalid database URL `{url}`: {problem}")]
    #[non_exhaustive]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A SQLite URI parameter that would bypass the lock.
    #[error("the URL parameter `{name}` is refused: {reason}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    /// A statement that would bypass the lock.
    #[error("{statement} is refused: {reason}")]
    #[non_exhaustive]
    ForbiddenStatement {
        /// What was asked for.
        statement: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The database file cannot be used.
    #[error("cannot open {}: {problem}", path.display())]
    #[non_exhaustive]
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
    /// A hot journal had to be rolled back first, and the lock could not be acquired. See
    /// [`LockError::is_retryable`].
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
