//! For tools that examine a database and its lock, or set one up. The program `efs-sqlite` uses it.
//!
//! Connections need none of it.
//!
//! - [`EffectiveSettings`]: the settings that result from an [`EfsConfig`], its URL and the
//!   environment.
//! - [`LockTable`]: the table and its items, beyond what the lock protocol needs.
//! - [`journal_status`], [`check_lock_key_file`]: the files beside a database.
//! - [`network_file_system`], [`access_problem`], [`leftover_wal`]: what would prevent a connection
//!   from being opened.
//! - [`error_chain`]: an error with all its causes, for a person.
//!
//! # The database file itself
//! Nothing here opens it: closing any descriptor of a file drops the process's POSIX locks on it
//! (<https://sqlite.org/howtocorrupt.html>, section 2.2). Read the file other than through SQLite
//! only in a process that has no connection to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::url::{Database, OpenMode};
use crate::config::{EfsConfig, StoreChoice};
use crate::connection::diagnosis;
pub use crate::error::error_chain;
use crate::error::{ConfigError, LockName, Problem, Utc};
use crate::files::fs_kind;
pub use crate::files::fs_kind::NetworkFileSystem;
pub use crate::files::inspect::{JournalStatus, check_lock_key_file, journal_status};
pub use crate::store::dynamodb::lock_table::{
    Deletion, ItemLookup, LockTable, Probe, ProbeMethod, RawItem, TableSummary, TimeToLive,
};

/// The settings with which a connection would be opened, as far as tools need them.
///
/// ```
/// use diesel_sqlite_efs::EfsConfig;
/// use diesel_sqlite_efs::admin::EffectiveSettings;
///
/// let config = EfsConfig::from_url("/mnt/efs/app.db?lock_table=app-locks")?;
/// let lock = EffectiveSettings::of(&config)?.lock.expect("a lock table is set");
/// assert_eq!(lock.key, "database#/mnt/efs/app.db");
/// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveSettings {
    /// The database file, as given; `None` for a database in memory or a temporary one.
    pub path: Option<PathBuf>,
    /// The lock; `None` with `lock=local`, and for a database in memory or a temporary one.
    pub lock: Option<LockName>,
    /// How long a lease lasts unless it is renewed: [`EfsConfig::lock_expiration`].
    pub lock_expiration: Duration,
    /// How long a write waits for the lock: [`EfsConfig::lock_timeout`].
    pub lock_timeout: Duration,
    /// What the connection may do with the file.
    pub access: FileAccess,
}

/// What a connection may do with the database file: `mode` in the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// `mode=ro`.
    ReadOnly,
    /// `mode=rw`.
    ReadWrite,
    /// Without `mode`, or with `mode=rwc`.
    ReadWriteCreate,
}

impl EffectiveSettings {
    /// From the methods called on `config`, its URL and the process's environment.
    ///
    /// # Errors
    /// The errors with which [`EfsSqliteConnection::connect`](crate::EfsSqliteConnection::connect)
    /// refuses settings, before it looks at the file.
    pub fn of(config: &EfsConfig) -> Result<Self, ConfigError> {
        let settings = config.resolve()?;
        let (path, mode) = match settings.database {
            Database::File { path, mode, .. } => (Some(path), mode),
            Database::Memory { .. } => (None, None),
        };
        let table = match &settings.store {
            StoreChoice::Local => None,
            StoreChoice::DynamoDb { table } => Some(table.clone()),
            StoreChoice::Custom(store) => Some(store.table().to_owned()),
        };
        Ok(Self {
            lock: table.map(|table| LockName {
                database: path.clone().unwrap_or_default(),
                key: settings.key,
                table,
            }),
            path,
            lock_expiration: settings.terms.expiration,
            lock_timeout: settings.timeout,
            access: match mode {
                Some(OpenMode::ReadOnly) => FileAccess::ReadOnly,
                Some(OpenMode::ReadWrite) => FileAccess::ReadWrite,
                Some(OpenMode::ReadWriteCreate | OpenMode::Memory) | None => {
                    FileAccess::ReadWriteCreate
                }
            },
        })
    }
}

/// The kind of file system that holds `path`, if several hosts may share it. If `path` does not
/// exist, its directory is examined.
///
/// # Errors
/// Those of the file system.
pub fn network_file_system(path: &Path) -> io::Result<Option<NetworkFileSystem>> {
    fs_kind::network_file_system(path)
}

/// What prevents this process from reading and writing the database at `path` and from creating its
/// journal. A file that does not exist is no problem if it `may_be_created`.
pub fn access_problem(path: &Path, may_be_created: bool) -> Option<Problem> {
    diagnosis::obstacle(path, may_be_created)
}

/// The problem of a write-ahead log (`<database>-wal`) beside the database, if there is one: the
/// database is or was in WAL mode.
pub fn leftover_wal(database: &Path) -> Option<Problem> {
    diagnosis::leftover_log(database)
}

/// A time in the format of this crate's errors: `2026-11-22T08:25:00Z`.
pub fn utc(time: SystemTime) -> impl fmt::Display {
    Utc((time.duration_since(UNIX_EPOCH)).map_or(0.0, |since| since.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_yet_to_be_created_is_no_problem() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.db");
        assert_eq!(access_problem(&path, true), None);
        assert!(access_problem(&path, false).is_some());
        let nowhere = directory.path().join("nowhere").join("app.db");
        let problem = access_problem(&nowhere, true).expect("its directory does not exist");
        assert_eq!(problem.remedy(), Some("is the file system mounted?"));
    }
}
