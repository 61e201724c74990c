//! Why a command did not do its work, and what the process's status says of it.

use std::io;
use std::process::ExitCode;

use crate::error::{ConfigError, ConnectError, LockError, StoreError};

/// What a command that did its work has to say by the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The report says what is wrong.
    Wrong,
    /// Somebody holds the lock.
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

/// Why a command did not do its work. Each carries the text for people.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something is wrong that somebody has to mend.
    Broken(String),
    /// Wrong arguments or settings: nothing was tried.
    Usage(String),
    /// The same again later is safe and may succeed.
    Busy(String),
    /// It may have been done or not.
    Unknown(String),
    /// Nobody reads our output.
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
            ConnectError::Diesel(error) => Self::Broken(error.to_string()),
        }
    }
}
