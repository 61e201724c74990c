//! The interface between the lock protocol and a store.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::condition::PutCondition;
use super::item::{LockItem, StoredItem};
use crate::error::StoreError;

/// A table of lock items with conditional writes.
///
/// The protocol needs two operations, each atomic for its key: [`put`](Self::put) replaces a whole
/// item if a condition on the old one holds, [`delete`](Self::delete) removes it if it is still
/// ours. [`DynamoDbLockStore`](crate::DynamoDbLockStore) maps them to `PutItem` and `DeleteItem`; [`InMemoryLockStore`](crate::InMemoryLockStore) keeps
/// the items in the process, for tests.
///
/// ```
/// use std::{collections::HashMap, sync::Mutex, time::Duration};
/// use diesel_sqlite_efs::{
///     DeleteAnswer, LockItem, LockStore, PutAnswer, PutCondition, StoreError, StoredItem,
/// };
///
/// #[derive(Debug, Default)]
/// struct MyStore(Mutex<HashMap<String, StoredItem>>);
///
/// impl LockStore for MyStore {
///     fn put(
///         &self,
///         item: &LockItem,
///         condition: PutCondition<'_>,
///         _give_up_after: Duration,
///     ) -> Result<PutAnswer, StoreError> {
///         let mut items = self.0.lock().map_err(|e| StoreError::other(e.to_string()))?;
///         let current = items.get(&item.key);
///         if !condition.holds(current, item)? {
///             return Ok(PutAnswer::refused(current.cloned()));
///         }
///         let previous = items.insert(item.key.clone(), StoredItem::from(item));
///         Ok(PutAnswer::stored(previous))
///     }
///
///     fn delete(
///         &self,
///         key: &str,
///         lock_id: &str,
///         _give_up_after: Duration,
///     ) -> Result<DeleteAnswer, StoreError> {
///         let mut items = self.0.lock().map_err(|e| StoreError::other(e.to_string()))?;
///         if items.get(key).is_none_or(|item| item.lock_id != lock_id) {
///             return Ok(DeleteAnswer::NotOurs);
///         }
///         items.remove(key);
///         Ok(DeleteAnswer::Deleted)
///     }
///
///     fn table(&self) -> &str {
///         "my store"
///     }
/// }
/// ```
///
/// # For implementors
/// - Calls block. They may come from any thread, including from inside a tokio runtime, and several
///   at once.
/// - `give_up_after` bounds the whole call, retries included. A call that runs longer delays the
///   caller, but breaks no guarantee: leases count from before the call.
/// - Answer [`PutAnswer::Refused`] only if the condition was evaluated and failed. If it is not
///   known whether the write was applied, return an error whose [`StoreError::outcome_unknown`] is
///   true: [`StoreError::timeout`], [`StoreError::unreachable`] or [`StoreError::other`].
/// - Return the item that was replaced or for which the condition did not hold, and the store's
///   clock, if the store can. Without them the takeover of an expired lease relies on the hosts'
///   clocks.
/// - A panic is caught by the caller and reported as [`StoreError::Panicked`].
pub trait LockStore: Send + Sync + fmt::Debug + 'static {
    /// Replaces the whole item at `item.key` if `condition` holds for what is stored there.
    ///
    /// # Errors
    /// Any [`StoreError`]; trying again is safe, because every condition recognises the
    /// `lock_id` of a write that was applied although its answer was lost.
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError>;

    /// Removes the item at `key` if its `lock_id` is the one given.
    ///
    /// # Errors
    /// Any [`StoreError`]; trying again is safe.
    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError>;

    /// The table's name, for error messages.
    fn table(&self) -> &str;

    /// Does in advance what the first request would have to do before it can be sent. Does nothing
    /// by default.
    ///
    /// # Errors
    /// What would prevent the first request from being sent.
    fn warm_up(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The answer to a [`LockStore::put`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutAnswer {
    /// The item was written.
    #[non_exhaustive]
    Stored {
        /// The replaced item, if there was one and the store returns it.
        previous: Option<StoredItem>,
        /// The store's clock at the answer, to the second, if the store returns it.
        date: Option<SystemTime>,
    },
    /// The condition did not hold; nothing was written.
    #[non_exhaustive]
    Refused {
        /// The item for which it did not hold, if the store returns it.
        current: Option<StoredItem>,
        /// The store's clock at the answer, to the second, if the store returns it.
        date: Option<SystemTime>,
    },
}

impl PutAnswer {
    /// The item was written and replaced `previous`.
    pub fn stored(previous: Option<StoredItem>) -> Self {
        Self::Stored {
            previous,
            date: None,
        }
    }

    /// The condition did not hold for `current`; nothing was written.
    pub fn refused(current: Option<StoredItem>) -> Self {
        Self::Refused {
            current,
            date: None,
        }
    }

    /// Adds the store's clock at the answer.
    ///
    /// This clock dates leases, so that hosts whose own clocks disagree agree on a lease's end.
    /// Without it, the clocks of all hosts must agree to within 2 s.
    #[must_use]
    pub fn with_date(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        let (Self::Stored { date, .. } | Self::Refused { date, .. }) = &mut self;
        *date = at.into();
        self
    }
}

/// The answer to a [`LockStore::delete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteAnswer {
    /// The item was ours and is gone.
    Deleted,
    /// The item was not ours, or there was none; nothing was changed.
    NotOurs,
}
