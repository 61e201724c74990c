//! What the files beside a database say by themselves. Read outside SQLite; nothing is changed.

use std::io;
use std::path::Path;

use super::journal::{Journal, Standing};
use super::key_file::{Found, KeyFile, OwnLock};
use super::netfs::{FileSystem, network_file_system};
use crate::error::{ConfigError, LockName};
use crate::store::JournalId;

/// What stands at the path of a database's rollback journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalStatus {
    /// No journal.
    Absent,
    /// A journal whose header was never completed: nothing has been written to the database yet.
    Cold,
    /// A hot journal (<https://sqlite.org/lockingv3.html#hot_journals>): a commit is in progress, or
    /// a writer died in one.
    Hot(JournalId),
}

/// Looks for the rollback journal of the database at this path, links resolved. On a network file
/// system the name is looked up afresh.
///
/// # Errors
/// Of the file system.
pub fn journal_status(database: &Path) -> io::Result<JournalStatus> {
    let mut path = database.as_os_str().to_owned();
    path.push("-journal");
    let file_system = match network_file_system(database) {
        Ok(None) => FileSystem::Local,
        _ => FileSystem::Shared,
    };
    Ok(match Journal::new(path.into(), file_system).standing()? {
        Standing::Absent => JournalStatus::Absent,
        Standing::Cold => JournalStatus::Cold,
        Standing::Hot(journal) => JournalStatus::Hot(journal),
    })
}

/// Whether the file `<database>-lock-key` names this lock; `None` is `lock=local`. `false` if there
/// is no such file. The path is the database's, links resolved.
///
/// # Errors
/// [`ConfigError::OtherLock`] if it names another lock; [`ConfigError::Database`] if it cannot be
/// read or understood.
pub fn check_lock_key_file(database: &Path, lock: Option<&LockName>) -> Result<bool, ConfigError> {
    let own = lock.map_or(OwnLock::Local, OwnLock::Item);
    Ok(KeyFile::beside(database).look(own)? == Found::Ours)
}
