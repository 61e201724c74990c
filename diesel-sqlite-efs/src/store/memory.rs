//! A lock table inside the process, for tests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{DeleteAnswer, LockItem, LockStore, PutAnswer, PutCondition, StoredItem};
use crate::clock::Clock;
use crate::error::StoreError;

/// A lock table in this process, with the same rules as DynamoDB, without network or AWS.
///
/// Give one instance, in an [`Arc`](std::sync::Arc), to all connections that should exclude each
/// other. It is meant for the tests of applications: it does not exclude other processes.
#[derive(Debug, Default)]
pub struct InMemoryLockStore {
    items: Mutex<HashMap<String, StoredItem>>,
    clock: Clock,
}

impl InMemoryLockStore {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table with its own clock `clock`, by which leases expire.
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            items: Mutex::default(),
            clock,
        }
    }

    /// The item at `key`, as it is stored now.
    pub fn item(&self, key: &str) -> Option<StoredItem> {
        self.items().get(key).cloned()
    }

    /// Stores an item unconditionally, outside the lock protocol, or removes it.
    pub fn set_item(&self, key: &str, item: Option<StoredItem>) {
        match item {
            Some(item) => self.items().insert(key.to_owned(), item),
            None => self.items().remove(key),
        };
    }

    fn items(&self) -> std::sync::MutexGuard<'_, HashMap<String, StoredItem>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockStore for InMemoryLockStore {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        _give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        let date = self.clock.now().system_time();
        let mut items = self.items();
        let current = items.get(&item.key);
        if !condition.holds(current, item)? {
            return Ok(PutAnswer::refused(current.cloned()).with_date(date));
        }
        let previous = items.insert(item.key.clone(), StoredItem::from(item));
        Ok(PutAnswer::stored(previous).with_date(date))
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        _give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        let mut items = self.items();
        if items.get(key).is_some_and(|item| item.lock_id == lock_id) {
            items.remove(key);
            Ok(DeleteAnswer::Deleted)
        } else {
            Ok(DeleteAnswer::NotOurs)
        }
    }

    fn table(&self) -> &str {
        "in-memory"
    }
}
