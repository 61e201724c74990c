//! One lock for one database: the file that names it.

use super::*;

impl Gate {
    /// Whether another lock than ours protects the database, as far as this host knows; asked once,
    /// when it is opened.
    pub(crate) fn check_key_file(&self) -> Result<(), ConfigError> {
        let Some(files) = self.files.get() else {
            return Ok(());
        };
        let found = files.key_file.look(self.own_lock())?;
        self.state().key_file_is_settled = found == LockIdMatch::Ours;
        Ok(())
    }

    /// With the lease in hand, before anything is changed: the same by a fresh look, and the file
    /// is created if there is none. Nothing, once it has been seen.
    pub(super) fn settle_key_file(&self) -> Result<(), LockError> {
        let mut state = self.state();
        let Some(files) = self.files.get() else {
            return Ok(());
        };
        if state.key_file_is_settled {
            return Ok(());
        }
        files.journal.refresh_name();
        let found = files.key_file.look(self.own_lock());
        if found.map_err(LockError::Config)? == LockIdMatch::Absent && !self.is_local {
            if let Err(error) = files.key_file.create(&self.lock) {
                // Most often there can be no journal either, and SQLite will say why. A file system
                // without links refuses for good, and goes without this check.
                let for_good = [ErrorKind::PermissionDenied, ErrorKind::Unsupported];
                state.key_file_is_settled = for_good.contains(&error.kind());
                return Ok(());
            }
            // Somebody else may have been faster.
            files.journal.refresh_name();
            let found = files.key_file.look(self.own_lock());
            state.key_file_is_settled = found.map_err(LockError::Config)? == LockIdMatch::Ours;
            return Ok(());
        }
        state.key_file_is_settled = true;
        Ok(())
    }

    fn own_lock(&self) -> OwnLock<'_> {
        if self.is_local {
            OwnLock::Local
        } else {
            OwnLock::Item(&self.lock)
        }
    }
}
