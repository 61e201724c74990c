//! Errors of opening a connection: its settings, its file, its lock.

use diesel::result::ConnectionError;
use thiserror::Error;

use super::config::ConfigError;
use super::lock::LockError;

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
