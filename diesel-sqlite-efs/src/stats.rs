//! Counters of what the lock cost a connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the write lock has cost, since the connection (or the client) was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStats {
    /// Leases that were granted.
    pub acquisitions: u64,
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
    /// Times that `retrying_transaction` ran its closure again: of a transaction that took four
    /// attempts, three.
    pub retries: u64,
    /// Requests to the store, of any kind; retries inside a store are not seen here.
    pub requests: u64,
}

/// Shared by everything that acts for one connection.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<LockStats>);

impl Counters {
    pub(crate) fn count(&self, change: impl FnOnce(&mut LockStats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn get(&self) -> LockStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
