//! A lock table in this process behind a hook, for tests: the hook sees each request, and may delay
//! it, act before and after it, or answer it itself.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StoreError;
use crate::store::{DeleteAnswer, InMemoryLockStore, LockItem, LockStore, PutAnswer, PutCondition};

/// A lock table whose requests go through a hook. Dereferences to the hook, so that a test can ask
/// it what it has seen.
pub struct HookedStore<H> {
    /// The table that answers the requests.
    pub table: Arc<InMemoryLockStore>,
    hook: H,
}

/// Handles each request; a closure handles puts and passes all deletes on.
pub trait Hook: Send + Sync + 'static {
    /// Answers a put.
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError>;

    /// Answers a delete: passes it on, unless the hook says otherwise.
    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        delete.pass_on()
    }
}

/// A [`LockStore::put`].
#[derive(Debug)]
pub struct Put<'a> {
    /// The item to write.
    pub item: &'a LockItem,
    /// What must hold for the stored item.
    pub condition: PutCondition<'a>,
    /// Bounds the whole call.
    pub give_up_after: Duration,
    table: &'a InMemoryLockStore,
}

/// A [`LockStore::delete`].
#[derive(Debug)]
pub struct Delete<'a> {
    key: &'a str,
    /// Whose item is to be removed.
    pub lock_id: &'a str,
    give_up_after: Duration,
    table: &'a InMemoryLockStore,
}

impl<H: Hook> HookedStore<H> {
    /// A store with its own hook, over a table that others may share.
    pub fn new(table: Arc<InMemoryLockStore>, hook: H) -> Arc<Self> {
        Arc::new(Self { table, hook })
    }
}

impl Put<'_> {
    /// What the table answers.
    pub fn pass_on(&self) -> Result<PutAnswer, StoreError> {
        (self.table).put(self.item, self.condition, self.give_up_after)
    }
}

impl Delete<'_> {
    /// What the table answers.
    pub fn pass_on(&self) -> Result<DeleteAnswer, StoreError> {
        (self.table).delete(self.key, self.lock_id, self.give_up_after)
    }
}

impl<F> Hook for F
where
    F: Fn(Put<'_>) -> Result<PutAnswer, StoreError> + Send + Sync + 'static,
{
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self(put)
    }
}

impl<H> Deref for HookedStore<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hook
    }
}

impl<H> fmt::Debug for HookedStore<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f.debug_struct("HookedStore").field("table", &self.table)).finish_non_exhaustive()
    }
}

impl<H: Hook> LockStore for HookedStore<H> {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        self.hook.put(Put {
            item,
            condition,
            give_up_after,
            table: &self.table,
        })
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        self.hook.delete(Delete {
            key,
            lock_id,
            give_up_after,
            table: &self.table,
        })
    }

    fn table(&self) -> &str {
        self.table.table()
    }
}
