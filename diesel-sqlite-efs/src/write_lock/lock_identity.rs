//! One lock for one database: the file that names it.

use std::io::ErrorKind;

use super::lock::WriteLock;
use super::state::LockIdentity;
use crate::error::{ConfigError, LockError};
use crate::files::lock_identity::{LockIdMatch, OwnLock};

impl WriteLock {
    /// Whether another lock than ours protects the database, as far as this host knows; asked once,
    /// when it is opened.
    pub(crate) fn check_lock_identity(&self) -> Result<(), ConfigError> {
        if let Some(files) = self.files.get()
            && files.key_file.look(self.own_lock())? == LockIdMatch::Ours
        {
            self.identity_is_checked();
        }
        Ok(())
    }

    /// With the lease in hand, before anything is changed: the same by a fresh look, and the file
    /// is created if there is none. Nothing, once it has been seen.
    pub(super) fn settle_lock_identity(&self) -> Result<(), LockError> {
        let Some(files) = self.files.get() else {
            return Ok(());
        };
        if self.update(|state| state.identity) == LockIdentity::Checked {
            return Ok(());
        }
        let look = || {
            files.journal.refresh_name();
            (files.key_file.look(self.own_lock())).map_err(LockError::Config)
        };
        if look()? == LockIdMatch::Ours || self.is_local() {
            self.identity_is_checked();
            return Ok(());
        }
        match files.key_file.create(&self.name) {
            // Somebody else may have been faster.
            Ok(()) => {
                if look()? == LockIdMatch::Ours {
                    self.identity_is_checked();
                }
            }
            // Most often there can be no journal either, and SQLite will say why. A file system
            // without links refuses for good, and goes without this check.
            Err(error) => {
                let for_good = [ErrorKind::PermissionDenied, ErrorKind::Unsupported];
                if for_good.contains(&error.kind()) {
                    self.identity_is_checked();
                }
            }
        }
        Ok(())
    }

    fn identity_is_checked(&self) {
        self.update(|state| state.identity = LockIdentity::Checked);
    }

    fn own_lock(&self) -> OwnLock<'_> {
        if self.is_local() {
            OwnLock::Local
        } else {
            OwnLock::Item(&self.name)
        }
    }
}
