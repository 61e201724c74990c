//! What the files beside a database say. They are read outside SQLite; nothing is changed.

use std::io;
use std::path::Path;

use super::fs_kind::{FileSystem, network_file_system};
use super::lock_identity::{KeyFile, LockIdMatch, OwnLock};
use super::rollback_journal::Journal;
pub use super::rollback_journal::JournalStatus;
use crate::error::{ConfigError, LockName};

/// Looks for the rollback journal of the database at this path, links resolved. On a network file
/// system the name is looked up again.
///
/// # Errors
/// Those of the file system.
pub fn journal_status(database: &Path) -> io::Result<JournalStatus> {
    let mut path = database.as_os_str().to_owned();
    path.push("-journal");
    let file_system = match network_file_system(database)? {
        None => FileSystem::Local,
        Some(_) => FileSystem::Shared,
    };
    Journal::new(path.into(), file_system).status()
}

/// Whether the file `<database>-lock-key` names this lock; `None` means `lock=local`. `false` if
/// there is no such file. The path is the database's, links resolved.
///
/// # Errors
/// [`ConfigError::OtherLock`] if it names another lock; [`ConfigError::Database`] if it cannot be
/// read or understood.
pub fn check_lock_key_file(database: &Path, lock: Option<&LockName>) -> Result<bool, ConfigError> {
    let own = lock.map_or(OwnLock::Local, OwnLock::Item);
    Ok(KeyFile::beside(database).look(own)? == LockIdMatch::Ours)
}
