//! Counters of the lock: of a connection, of a lock client, and of the process.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// What the write lock has cost: a connection since it was opened
/// ([`EfsSqliteConnection::lock_stats`](crate::EfsSqliteConnection::lock_stats)), a client since it
/// was made ([`LockClient::stats`](crate::LockClient::stats)), or the process
/// since it began ([`process_lock_stats`]).
///
/// The counters only grow: the difference of two readings is what happened in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStats {
    /// Leases that were granted, by the store or within this process.
    pub acquisitions: u64,
    /// Those of them that another connection of this process handed off, without a request to the
    /// store.
    pub hand_offs: u64,
    /// How often the store was asked for a lease, refusals included.
    pub attempts: u64,
    /// Acquisitions that had to wait, successful or not.
    pub waits: u64,
    /// The time spent waiting for leases.
    pub waited: Duration,
    /// The time for which leases were held, until they were released.
    pub held: Duration,
    /// Leases taken over from a holder that let them expire.
    pub takeovers: u64,
    /// Renewals of a lease during a long transaction.
    pub renewals: u64,
    /// Commits and other ends of a journal that the store confirmed.
    pub confirmations: u64,
    /// Leases that were lost while they were held.
    pub losses: u64,
    /// How often `retrying_transaction` ran its closure again: three times for a transaction that
    /// took four attempts.
    pub retries: u64,
    /// Requests to the store, of any kind; retries inside a store are not counted.
    pub requests: u64,
}

/// Shared by everything that acts for one connection.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<LockStats>);

/// All connections and lock clients of this process, including closed ones.
static PROCESS: LazyLock<Counters> = LazyLock::new(Counters::default);

/// What the write lock has cost this process: all its connections and lock clients together,
/// including closed ones.
///
/// For process-wide metrics; cheap enough to read at any time, from any thread.
///
/// ```
/// use std::time::Duration;
/// use diesel_sqlite_efs::process_lock_stats;
///
/// let before = process_lock_stats();
/// # let store = std::sync::Arc::new(diesel_sqlite_efs::InMemoryLockStore::new());
/// # let client = diesel_sqlite_efs::LockClient::builder().lock_store(store).build()?;
/// client.acquire("nightly-report", Duration::from_secs(3))?.release()?;
/// assert_eq!(process_lock_stats().acquisitions - before.acquisitions, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn process_lock_stats() -> LockStats {
    PROCESS.get()
}

impl Counters {
    /// Counts for this connection and for the process.
    pub(crate) fn count(&self, change: impl Fn(&mut LockStats)) {
        for counters in [self, &PROCESS] {
            change(&mut counters.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn get(&self) -> LockStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
