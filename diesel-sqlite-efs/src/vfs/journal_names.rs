//! Finds the owner of a journal name that SQLite passes to `xOpen`, `xDelete` and `xAccess`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::write_lock::WriteLock;

/// The locks of the open main files, by the address of their journal's name: SQLite passes that
/// same pointer (<https://sqlite.org/c3ref/filename_database.html>). Every transaction of every
/// thread looks up its lock here; there are as many entries as open connections.
static LOCKS: RwLock<BTreeMap<usize, Arc<WriteLock>>> = RwLock::new(BTreeMap::new());

/// The lock of the open main file whose journal has the name at this address.
pub(super) fn lock_of_journal(address: usize) -> Option<Arc<WriteLock>> {
    let locks = LOCKS.read().unwrap_or_else(PoisonError::into_inner);
    locks.get(&address).cloned()
}

/// An entry that lasts as long as the main file is open.
#[derive(Debug)]
pub(super) struct JournalName {
    address: usize,
}

impl JournalName {
    pub(super) fn register(address: usize, lock: Arc<WriteLock>) -> Self {
        // Dropped with the table unlocked, as the last one releases a lease.
        let replaced = LOCKS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address, lock);
        drop(replaced);
        Self { address }
    }
}

impl Drop for JournalName {
    fn drop(&mut self) {
        // As above.
        let removed = LOCKS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.address);
        drop(removed);
    }
}
