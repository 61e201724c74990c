//! Whose journal a name is that SQLite passes to `xOpen`, `xDelete` and `xAccess`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::gate::Gate;

/// The gates of the open main files, by the address of their journal's name: SQLite passes that
/// very pointer (<https://sqlite.org/c3ref/filename_database.html>). Every transaction asks here,
/// of every thread; there are as many entries as open connections.
static GATES: RwLock<BTreeMap<usize, Arc<Gate>>> = RwLock::new(BTreeMap::new());

/// The gate of the open main file whose journal has the name at this address.
pub(super) fn gate_of_journal(address: usize) -> Option<Arc<Gate>> {
    let gates = GATES.read().unwrap_or_else(PoisonError::into_inner);
    gates.get(&address).cloned()
}

/// An entry for as long as the main file is open.
#[derive(Debug)]
pub(super) struct JournalName {
    address: usize,
}

impl JournalName {
    pub(super) fn register(address: usize, gate: Arc<Gate>) -> Self {
        let mut gates = GATES.write().unwrap_or_else(PoisonError::into_inner);
        gates.insert(address, gate);
        Self { address }
    }
}

impl Drop for JournalName {
    fn drop(&mut self) {
        let mut gates = GATES.write().unwrap_or_else(PoisonError::into_inner);
        gates.remove(&self.address);
    }
}
