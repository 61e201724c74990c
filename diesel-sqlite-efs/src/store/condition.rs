//! The conditions under which a put replaces the stored item.

use std::time::SystemTime;

use super::item::{JournalId, LockItem, StoredItem};
use crate::clock::unix_seconds;
use crate::error::StoreError;

/// What must hold for the stored item before it is replaced.
///
/// Every condition names the commit record (`committed`) that it expects, so that a delayed request
/// can never remove the record of a later one. Only [`Ended`](Self::Ended) makes our own lease end
/// earlier, so that a delayed request cannot make others find it expired while its holder relies on
/// a later renewal.
///
/// A later version may add conditions. A store that decides by [`holds`](Self::holds) need not know
/// them; one that translates conditions answers an unknown one with [`StoreError::rejected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutCondition<'a> {
    /// There is no item, or it is ours already.
    FreeOrOurs,
    /// The item is ours, and its record is still `recorded`, or already the new item's.
    #[non_exhaustive]
    Ours {
        /// The commit record that our last write left in the item.
        recorded: Option<JournalId>,
    },
    /// The item is ours with the new item's record, whatever its end: for the put that leaves it,
    /// expired, for our successor.
    Ended,
    /// The item is still the one that was seen (`lock_id`, `expires_at` and `committed` all equal,
    /// an absent `committed` still absent), or it is ours already.
    Unchanged(&'a StoredItem),
    /// There is no item, it has expired (`expires_at < :now`, the Python package's condition), or
    /// it is ours already; for stores that do not return the item for which they refused.
    #[non_exhaustive]
    FreeOrExpired {
        /// Compared in whole seconds of the Unix epoch, rounded down.
        now: SystemTime,
    },
}

impl PutCondition<'_> {
    /// [`Ours`](Self::Ours).
    pub const fn ours(recorded: Option<JournalId>) -> Self {
        Self::Ours { recorded }
    }

    /// [`FreeOrExpired`](Self::FreeOrExpired).
    pub const fn free_or_expired(now: SystemTime) -> Self {
        Self::FreeOrExpired { now }
    }

    /// Whether the condition holds for `current` when `new` is to be written. Every store must
    /// implement this meaning.
    ///
    /// # Ours
    /// An item is ours if its `lock_id` and `committed` are the new item's, and its `expires_at` is
    /// not later than the new item's.
    ///
    /// # Errors
    /// [`StoreError::MalformedItem`] if `expires_at` has to be compared and is not a time.
    pub fn holds(&self, current: Option<&StoredItem>, new: &LockItem) -> Result<bool, StoreError> {
        let Some(current) = current else {
            return Ok(matches!(
                self,
                Self::FreeOrOurs | Self::FreeOrExpired { .. }
            ));
        };
        let mine = current.lock_id == new.lock_id;
        let has_new_record = current.committed == new.committed;
        let new_end = unix_seconds(new.expires_at) as f64;
        let ends_no_later = mine && current.expires_at_seconds()? <= new_end;
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
                Self::FreeOrExpired { now } => {
                    current.expires_at_seconds()? < unix_seconds(*now) as f64
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::from_unix_seconds;

    #[test]
    fn only_the_last_put_brings_the_end_of_our_own_lease_forward() {
        let item = |expires_at| LockItem::new("", "us", from_unix_seconds(expires_at));
        let mut current = StoredItem::from(&item(2_000_000_003));
        current.holder = None;
        let holds = |condition: PutCondition<'_>, expires_at| {
            condition.holds(Some(&current), &item(expires_at)).unwrap()
        };
        for condition in [
            PutCondition::FreeOrOurs,
            PutCondition::ours(None),
            PutCondition::free_or_expired(UNIX_EPOCH),
        ] {
            assert!(!holds(condition, 2_000_000_000), "{condition:?}");
            assert!(holds(condition, 2_000_000_003), "{condition:?}");
        }
        assert!(holds(PutCondition::Ended, 1));
        assert!(holds(PutCondition::Unchanged(&current), 2_000_000_000));
    }
}
