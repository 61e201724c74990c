//! The lock item: as a holder writes it, and as it is stored in the table.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::unix_seconds;
use crate::error::{HolderInfo, StoreError};

/// The item that grants a lease, as its holder writes it.
///
/// The Python package django_sqlite_efs uses the first three attributes under the same names.
/// [`StoredItem::from`] returns the item to store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockItem {
    /// Attribute `pk` (S), the table's primary key: one value for each database.
    pub key: String,
    /// Attribute `lock_id` (S): a UUID, new for each acquisition and the same in all its attempts.
    pub lock_id: String,
    /// Attribute `expires_at` (N): when the lease ends by the store's clock. Stored in whole
    /// seconds of the Unix epoch, rounded down: an integer, so that it can serve as the table's TTL
    /// attribute.
    pub expires_at: SystemTime,
    /// Attribute `holder` (S): display name of the holder; the lock does not depend on it.
    pub holder: String,
    /// Attribute `acquired_at` (N): when this lease began, in whole seconds of the Unix epoch; the
    /// lock does not depend on it.
    pub acquired_at: SystemTime,
    /// Attribute `committed` (S, absent if none): the last transaction that was committed under
    /// this item and whose journal may still be beside the database.
    pub committed: Option<JournalId>,
    /// Attribute `waited` (N, whole milliseconds, absent if none): how long processes usually wait
    /// for the lease, as its holder has observed. Other processes schedule their attempts by it;
    /// nothing that protects data depends on it.
    pub waited: Option<Duration>,
}

impl LockItem {
    /// An item without a holder's name that was acquired at the beginning of 1970; set the other
    /// fields by assignment.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use diesel_sqlite_efs::LockItem;
    ///
    /// let now = SystemTime::now();
    /// let mut item = LockItem::new("database#app.db", "a UUID", now + Duration::from_secs(10));
    /// item.holder = "nightly report".to_owned();
    /// item.acquired_at = now;
    /// ```
    pub fn new(key: impl Into<String>, lock_id: impl Into<String>, expires_at: SystemTime) -> Self {
        Self {
            key: key.into(),
            lock_id: lock_id.into(),
            expires_at,
            holder: String::new(),
            acquired_at: UNIX_EPOCH,
            committed: None,
            waited: None,
        }
    }
}

/// Identifies a rollback journal in a commit record: the nonce in bytes 12..16 of its header.
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

/// An item as it is stored, written by this crate or by the Python package.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredItem {
    /// Attribute `lock_id`.
    pub lock_id: String,
    /// Attribute `expires_at`: its digits exactly as stored, in seconds of the Unix epoch. The
    /// Python package writes 28 digits, and a takeover must name that exact value.
    /// [`lease_end`](Self::lease_end) parses them.
    pub expires_at: String,
    /// Attribute `holder`; the Python package writes none.
    pub holder: Option<String>,
    /// Attribute `acquired_at`; the Python package writes none.
    pub acquired_at: Option<SystemTime>,
    /// Attribute `committed`.
    pub committed: Option<JournalId>,
    /// Attribute `waited`, to the millisecond; the Python package writes none.
    pub waited: Option<Duration>,
}

impl StoredItem {
    /// An item with the two attributes that every writer sets; set the others with the `with_`
    /// methods or, where they may be absent, by assignment.
    ///
    /// ```
    /// use diesel_sqlite_efs::StoredItem;
    ///
    /// let item = StoredItem::new("a UUID", "1795335900").with_holder("nightly report");
    /// assert!(item.lease_end().is_ok());
    /// ```
    pub fn new(lock_id: impl Into<String>, expires_at: impl Into<String>) -> Self {
        Self {
            lock_id: lock_id.into(),
            expires_at: expires_at.into(),
            holder: None,
            acquired_at: None,
            committed: None,
            waited: None,
        }
    }

    /// With the attribute `holder`.
    #[must_use]
    pub fn with_holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// With the attribute `acquired_at`.
    #[must_use]
    pub fn with_acquired_at(mut self, acquired_at: SystemTime) -> Self {
        self.acquired_at = Some(acquired_at);
        self
    }

    /// With the attribute `committed`.
    #[must_use]
    pub fn with_committed(mut self, journal: JournalId) -> Self {
        self.committed = Some(journal);
        self
    }

    /// With the attribute `waited`.
    #[must_use]
    pub fn with_waited(mut self, waited: Duration) -> Self {
        self.waited = Some(waited);
        self
    }

    /// When the lease ends, by the store's clock.
    ///
    /// # Errors
    /// [`StoreError::MalformedItem`] if `expires_at` is not a number, is negative, or is too large
    /// for seconds (milliseconds, for example).
    pub fn lease_end(&self) -> Result<SystemTime, StoreError> {
        Ok(UNIX_EPOCH + Duration::from_secs_f64(self.expires_at_seconds()?))
    }

    /// [`lease_end`](Self::lease_end) in seconds of the Unix epoch.
    pub(crate) fn expires_at_seconds(&self) -> Result<f64, StoreError> {
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

impl From<&LockItem> for StoredItem {
    fn from(item: &LockItem) -> Self {
        Self {
            lock_id: item.lock_id.clone(),
            expires_at: unix_seconds(item.expires_at).to_string(),
            holder: Some(item.holder.clone()),
            acquired_at: Some(item.acquired_at),
            committed: item.committed,
            waited: item.waited,
        }
    }
}

impl From<&StoredItem> for HolderInfo {
    fn from(item: &StoredItem) -> Self {
        Self {
            name: item.holder.clone(),
            since: item.acquired_at,
            until: item.lease_end().ok(),
        }
    }
}
