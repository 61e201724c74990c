//! What the lock protocol asks of a store: one conditional write and one conditional delete.

pub(crate) mod dynamodb;
mod local;
mod memory;

use std::fmt;
use std::time::{Duration, SystemTime};

pub use self::dynamodb::DynamoDbLockStore;
pub(crate) use self::local::LocalLockStore;
pub use self::memory::InMemoryLockStore;
use crate::error::StoreError;

/// A table of lock items with conditional writes.
///
/// The protocol needs two operations, each atomic for its key: [`put`](Self::put) replaces a whole
/// item if a condition on the old one holds, [`delete`](Self::delete) removes it if it is still
/// ours. [`DynamoDbLockStore`] maps them to `PutItem` and `DeleteItem`;
/// [`InMemoryLockStore`] keeps them in the process, for tests.
///
/// # For implementors
/// - Calls block. They come from any thread, also from inside a tokio runtime, and several at once.
/// - `give_up_after` bounds the whole call, retries included. A call that runs longer delays the
///   caller, but breaks no guarantee: leases count from before the call.
/// - Answer [`PutAnswer::Refused`] only if the condition was evaluated and failed. Where it is not
///   known whether the write was applied, return an error whose
///   [`StoreError::outcome_unknown`] is true.
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

    /// Does ahead of time what the first request would have to do before it can be sent. Nothing,
    /// unless the store says otherwise.
    ///
    /// # Errors
    /// What would keep the first request from being sent.
    fn warm_up(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The item that grants a lease, as we write it.
///
/// The Python package django_sqlite_efs uses the first three attributes under the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockItem {
    /// Attribute `pk` (S), the table's primary key: one value for each database.
    pub key: String,
    /// Attribute `lock_id` (S): a UUID, new for each acquisition and the same in all its attempts.
    pub lock_id: String,
    /// Attribute `expires_at` (N): when the lease ends, in whole seconds of the Unix epoch by the
    /// store's clock. An integer, so that it can serve as the table's TTL attribute.
    pub expires_at: u64,
    /// Attribute `holder` (S): a name for people; nothing is decided by it.
    pub holder: String,
    /// Attribute `acquired_at` (N): when this lease began, epoch seconds; for people.
    pub acquired_at: u64,
    /// Attribute `committed` (S, absent if none): the last transaction that was committed under
    /// this item and whose journal may still stand beside the database.
    pub committed: Option<JournalId>,
    /// Attribute `waited` (N, whole milliseconds, absent if none): for how long those who get the
    /// lease have to wait for it, as its holder has found. Others place their attempts by it;
    /// nothing that protects data does.
    pub waited: Option<Duration>,
}

/// Which rollback journal a commit record speaks of: the nonce in bytes 12..16 of its header.
///
/// SQLite draws a new one for each journal (<https://sqlite.org/fileformat2.html#the_rollback_journal>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JournalId(pub [u8; 4]);

impl fmt::Display for JournalId {
    /// Eight hexadecimal digits, as stored in the attribute `committed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl std::str::FromStr for JournalId {
    type Err = std::num::ParseIntError;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(hex, 16).map(|nonce| Self(nonce.to_be_bytes()))
    }
}

/// What must hold for the stored item before it is replaced.
///
/// Every condition names the commit record (`committed`) that it expects, so that a request which
/// was delayed on its way can never wipe out the record of a later one; and none but
/// [`Ended`](Self::Ended) brings the end of our own lease forward, so that such a request cannot make
/// others find it expired while its holder counts on a later renewal.
#[derive(Debug, Clone, Copy)]
pub enum PutCondition<'a> {
    /// There is no item, or it is ours already.
    FreeOrOurs,
    /// The item is ours, and its record is still `recorded`, or already the new item's.
    Ours {
        /// The commit record that our last write left in the item.
        recorded: Option<JournalId>,
    },
    /// The item is ours with the new item's record, whatever its end: for the put that leaves it,
    /// expired, to our successor.
    Ended,
    /// The item is still the one that was seen (`lock_id`, `expires_at` and `committed` all equal,
    /// an absent `committed` still absent), or it is ours already.
    Unchanged(&'a SeenItem),
    /// There is no item, it has expired (`expires_at < :now`, the Python package's condition), or
    /// it is ours already; for stores that do not return the item they refused for.
    FreeOrExpired {
        /// Epoch seconds.
        now: u64,
    },
}

impl PutCondition<'_> {
    /// Whether the condition holds for `current` when `new` is to be written: the meaning that
    /// every store has to give it.
    ///
    /// # Ours
    /// An item is ours if `lock_id` is the new item's, `committed` is what the new item says, and
    /// `expires_at` is not later than the new item's.
    ///
    /// # Errors
    /// [`StoreError::MalformedItem`] if `expires_at` has to be compared and is no time.
    pub fn holds(&self, current: Option<&SeenItem>, new: &LockItem) -> Result<bool, StoreError> {
        let Some(current) = current else {
            return Ok(matches!(
                self,
                Self::FreeOrOurs | Self::FreeOrExpired { .. }
            ));
        };
        let mine = current.lock_id == new.lock_id;
        let has_new_record = current.committed == new.committed;
        let ends_no_later = mine && current.expires_at_seconds()? <= new.expires_at as f64;
        Ok((ends_no_later && has_new_record)
            || match self {
                Self::FreeOrOurs => false,
                Self::Ours { recorded } => ends_no_later && current.committed == *recorded,
                Self::Ended => mine && has_new_record,
                Self::Unchanged(seen) => {
                    current.lock_id == seen.lock_id
                        && current.expires_at == seen.expires_at
                        && current.committed == seen.committed
                }
                Self::FreeOrExpired { now } => current.expires_at_seconds()? < *now as f64,
            })
    }
}

/// A stored item, as somebody wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenItem {
    /// Attribute `lock_id`.
    pub lock_id: String,
    /// Attribute `expires_at`, exactly as stored: the Python package writes 28 digits, and a
    /// takeover must name the very value.
    pub expires_at: String,
    /// Attribute `holder`; the Python package writes none.
    pub holder: Option<String>,
    /// Attribute `acquired_at`, epoch seconds; the Python package writes none.
    pub acquired_at: Option<u64>,
    /// Attribute `committed`.
    pub committed: Option<JournalId>,
    /// Attribute `waited`, to the millisecond; the Python package writes none.
    pub waited: Option<Duration>,
}

impl SeenItem {
    /// The end of the lease in seconds of the Unix epoch.
    ///
    /// # Errors
    /// [`StoreError::MalformedItem`] if the value is no number, is negative, or cannot be meant
    /// in seconds (milliseconds, for one).
    pub fn expires_at_seconds(&self) -> Result<f64, StoreError> {
        /// 5138-11-16: later than any lease, earlier than any date in milliseconds since 1973.
        const LATEST: f64 = 1e11;
        let malformed = |problem: String| StoreError::MalformedItem {
            attribute: "expires_at",
            problem,
        };
        let seconds: f64 = (self.expires_at.parse())
            .map_err(|_| malformed(format!("`{}` is not a number", self.expires_at)))?;
        if !seconds.is_finite() || seconds < 0.0 {
            return Err(malformed(format!("`{}` is not a time", self.expires_at)));
        }
        if seconds >= LATEST {
            return Err(malformed(format!(
                "`{}` is not in seconds (milliseconds?)",
                self.expires_at
            )));
        }
        Ok(seconds)
    }
}

/// What came of a [`LockStore::put`].
#[derive(Debug, Clone, PartialEq)]
pub enum PutAnswer {
    /// The item was written.
    Stored {
        /// What it replaced, if the store tells and there was anything.
        previous: Option<SeenItem>,
        /// The store's clock when it answered, to the second, if it tells.
        date: Option<SystemTime>,
    },
    /// The condition did not hold; nothing was written.
    Refused {
        /// The item that stood in the way, if the store tells.
        current: Option<SeenItem>,
        /// The store's clock when it answered, to the second, if it tells.
        date: Option<SystemTime>,
    },
}

/// What came of a [`LockStore::delete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteAnswer {
    /// The item was ours and is gone.
    Deleted,
    /// The item was not ours, or there was none; nothing was changed.
    NotOurs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_but_the_last_put_brings_the_end_of_our_own_lease_forward() {
        let item = |expires_at| LockItem {
            key: String::new(),
            lock_id: "us".to_owned(),
            expires_at,
            holder: String::new(),
            acquired_at: 0,
            committed: None,
            waited: None,
        };
        let current = SeenItem::from(&item(2_000_000_003));
        let holds = |condition: PutCondition<'_>, expires_at| {
            condition.holds(Some(&current), &item(expires_at)).unwrap()
        };
        for condition in [
            PutCondition::FreeOrOurs,
            PutCondition::Ours { recorded: None },
            PutCondition::FreeOrExpired { now: 0 },
        ] {
            assert!(!holds(condition, 2_000_000_000), "{condition:?}");
            assert!(holds(condition, 2_000_000_003), "{condition:?}");
        }
        assert!(holds(PutCondition::Ended, 1));
        assert!(holds(PutCondition::Unchanged(&current), 2_000_000_000));
    }
}
