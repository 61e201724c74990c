//! Why a command failed, and the exit status for it.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use diesel_sqlite_efs::admin::error_chain;
use diesel_sqlite_efs::{ConfigError, ConnectError, EfsSqliteConnection, LockError, StoreError};

/// The result of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The report says what is wrong.
    Wrong,
    /// Another process holds the lock.
    Held,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Wrong => 1,
            Outcome::Held => 3,
        })
    }
}

/// Why a command failed. Each variant carries the text for the user.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong that a person must fix.
    Broken(String),
    /// Wrong arguments or settings: nothing was tried.
    Usage(String),
    /// Running the command again later is safe and may succeed.
    Busy(String),
    /// The work may have been done or not.
    Unknown(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(match failure {
            Failure::Broken(_) | Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Busy(_) => 3,
            Failure::Unknown(_) => 4,
        })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let text = error.to_string();
        match error {
            ConfigError::Database { .. } | ConfigError::ForbiddenStatement { .. } => {
                Self::Broken(text)
            }
            _ => Self::Usage(text),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            Self::Busy(error.to_string())
        } else {
            Self::Broken(error.to_string())
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let text = error.to_string();
        match error {
            LockError::Config(error) => error.into(),
            LockError::OutcomeUnknown { .. } => Self::Unknown(text),
            _ if error.is_retryable() => Self::Busy(text),
            _ => Self::Broken(text),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Config(error) => error.into(),
            ConnectError::Lock(error) => error.into(),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// The failure behind an error of a statement on `conn`: the lock's, if it was the cause.
pub(crate) fn failure_of(conn: &EfsSqliteConnection, error: &dyn Error) -> Failure {
    match conn.lock_failure() {
        Some(lock) => lock.clone().into(),
        None => Failure::Broken(error_chain(error)),
    }
}
