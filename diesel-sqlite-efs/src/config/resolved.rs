//! The settings in effect for a connection.

use std::sync::Arc;
use std::time::Duration;

use super::lease_terms::LeaseTerms;
use super::url::Database;
use super::values::{ReadCheck, Synchronous};
use crate::clock::Clock;
use crate::store::LockStore;

/// All settings of a connection, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) database: Database,
    /// [`StoreChoice::Local`] for a database in memory, whatever is configured.
    pub(crate) store: StoreChoice,
    pub(crate) terms: LeaseTerms,
    /// How long a write waits for the lease.
    pub(crate) timeout: Duration,
    /// How long migrations wait for the lease.
    pub(crate) migration_timeout: Duration,
    /// How often a write asks for the lease; `None` is without limit.
    pub(crate) max_attempts: Option<u32>,
    pub(crate) key: String,
    /// `None`: as the file system requires.
    pub(crate) read_check: Option<ReadCheck>,
    pub(crate) synchronous: Synchronous,
    pub(crate) cache_size: CacheSize,
    pub(crate) base_vfs: String,
    pub(crate) clock: Clock,
    /// Whether the file system is a network file system, if the caller says so.
    pub(crate) network_override: Option<bool>,
}

impl Settings {
    /// The URI with which SQLite opens the database through the VFS of that name.
    pub(crate) fn sqlite_uri(&self, vfs: &str) -> String {
        self.database.sqlite_uri(vfs)
    }
}

/// What grants leases.
#[derive(Debug, Clone)]
pub(crate) enum StoreChoice {
    DynamoDb { table: String },
    Local,
    Custom(Arc<dyn LockStore>),
}

/// How large the page cache may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheSize {
    Bytes(u64),
    Pages(u32),
}

impl CacheSize {
    /// The value of `PRAGMA cache_size`: pages, or KiB as a negative number
    /// (<https://sqlite.org/pragma.html#pragma_cache_size>).
    pub(crate) fn pragma(self) -> i64 {
        match self {
            Self::Bytes(bytes) => -i64::try_from(bytes / 1024).unwrap_or(i64::MAX),
            Self::Pages(pages) => i64::from(pages),
        }
    }
}
