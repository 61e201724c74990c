//! The blocking lock client: leases from a lock table, with or without a database.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, FOREVER};
use crate::error::{LockError, LockName, StoreError};
use crate::events::Speaker;
use crate::lease::acquisition::{Acquisition, Attempt, Patience};
use crate::lease::shared::Shared;
use crate::lease::{Desk, Lease, LeaseTerms, renewal_period};
use crate::stats::{Counters, LockStats};
use crate::store::{DynamoDbLockStore, LockStore};

/// A client of a DynamoDB lock table: acquires, renews and releases leases, blocking the caller.
///
/// [`EfsSqliteConnection`](crate::EfsSqliteConnection) uses one by itself. On its own it serves
/// for other work that only one process may do at a time.
///
/// Cloning is cheap; clones share the counters, and all clients of one store the thread that renews leases.
/// All methods may be called from any thread, also inside a tokio runtime, where they block the
/// worker thread like any blocking call: use `spawn_blocking`.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use diesel_sqlite_efs::{DynamoDbLockClient, InMemoryLockStore};
///
/// // `DynamoDbLockClient::new("locks")` takes the table `locks` of the environment's AWS account.
/// let client = DynamoDbLockClient::with_store(Arc::new(InMemoryLockStore::new()))
///     .lease_duration(Duration::from_secs(30));
/// let lease = client.acquire("nightly-report", Duration::from_secs(3))?;
/// assert!(client.try_acquire("nightly-report")?.is_none());
/// lease.renew()?;
/// lease.release()?;
/// # Ok::<(), diesel_sqlite_efs::LockError>(())
/// ```
#[derive(Clone)]
pub struct DynamoDbLockClient {
    store: Arc<dyn LockStore>,
    clock: Clock,
    shared: Arc<Shared>,
    terms: Arc<LeaseTerms>,
    counters: Arc<Counters>,
    database: PathBuf,
}

impl DynamoDbLockClient {
    /// The default [`lease_duration`](Self::lease_duration).
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
    /// The default [`max_hold`](Self::max_hold): the longest that a Lambda function can run.
    pub const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(900);

    /// A client of the named table, in the AWS account, region and endpoint of the environment.
    ///
    /// Nothing of AWS is touched before the first lease or [`warm_up`](Self::warm_up).
    pub fn new(table: impl Into<String>) -> Self {
        Self::with_store(Arc::new(DynamoDbLockStore::new(table)))
    }

    /// A client of any store, such as an [`InMemoryLockStore`](crate::InMemoryLockStore).
    pub fn with_store(store: Arc<dyn LockStore>) -> Self {
        Self {
            shared: Shared::of(&store),
            store,
            clock: Clock::system(),
            terms: Arc::new(LeaseTerms {
                duration: Self::DEFAULT_LEASE,
                max_hold: Self::DEFAULT_MAX_HOLD,
                holder: format!("process {}", std::process::id()),
            }),
            counters: Arc::default(),
            database: PathBuf::new(),
        }
    }

    /// For how long an item grants the lease, unless it is renewed. Default: 10 s, long against a
    /// write transaction and short to wait for after a crash. Less than 2 s is taken for 2 s, as
    /// others judge the end to the second; more than 100 years for 100 years.
    #[must_use]
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        const SHORTEST: Duration = Duration::from_secs(2);
        self.terms_mut().duration = duration.clamp(SHORTEST, FOREVER);
        self
    }

    /// After what time since its acquisition a lease is no longer renewed by itself; zero: it never
    /// is. Default: 15 min.
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.terms_mut().max_hold = max_hold;
        self
    }

    /// The name written into the item, for people. Default: the process id.
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.terms_mut().holder = holder.into();
        self
    }

    /// Where the time is read from; for tests.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    fn terms_mut(&mut self) -> &mut LeaseTerms {
        Arc::make_mut(&mut self.terms)
    }

    /// The same client, for one connection: with counters of its own and the database's name in
    /// its errors.
    pub(crate) fn for_database(&self, database: PathBuf) -> Self {
        Self {
            database,
            counters: Arc::default(),
            ..self.clone()
        }
    }

    /// Asks once. `None` if somebody else holds the lease.
    ///
    /// # Errors
    /// [`LockError::Store`] if the store could not answer.
    pub fn try_acquire(&self, key: &str) -> Result<Option<Lease>, LockError> {
        /// One request and its repetition on a fresh connection.
        const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
        match self.begin(key).try_once(GIVE_UP_AFTER)? {
            Attempt::Granted(lease) => Ok(Some(self.keep(lease))),
            Attempt::Refused { .. } => Ok(None),
        }
    }

    /// Waits for the lease, at most for `timeout`: first in order behind this process's other
    /// requests for the same key, then asking the store, the more often the longer it has waited.
    ///
    /// # Errors
    /// [`LockError::Busy`] if somebody else still holds it; trying again is safe.
    /// [`LockError::Store`], at once where waiting cannot help, if the store could not answer.
    pub fn acquire(&self, key: &str, timeout: Duration) -> Result<Lease, LockError> {
        let patience = Patience {
            until: Instant::now() + timeout.min(FOREVER),
            max_attempts: None,
        };
        let mut acquisition = self.begin(key);
        let lease = match acquisition.try_before_waiting(timeout)? {
            Some(lease) => lease,
            None => acquisition.wait(patience)?,
        };
        Ok(self.keep(lease))
    }

    /// Does ahead of time what the first lease would do before its first request: for DynamoDB,
    /// reads the AWS configuration, finds credentials, sets up TLS. Nothing is sent to the table.
    ///
    /// # Errors
    /// What is missing in the configuration. Trying again helps once that is mended.
    pub fn warm_up(&self) -> Result<(), StoreError> {
        self.store.warm_up()
    }

    /// An acquisition of `key`, nothing asked yet.
    pub(crate) fn begin(&self, key: &str) -> Acquisition {
        Acquisition::new(Desk {
            store: self.store.clone(),
            clock: self.clock.clone(),
            shared: self.shared.clone(),
            terms: self.terms.clone(),
            counters: self.counters.clone(),
            name: self.lock_name(key),
        })
    }

    /// Lets the next acquisition ask at once, whoever had to wait before.
    #[cfg(test)]
    pub(crate) fn forget_others(&self) {
        self.shared.forget_all();
    }

    /// Renews the lease while it is held.
    pub(crate) fn keep(&self, lease: Lease) -> Lease {
        if self.terms.max_hold > renewal_period(self.terms.duration) {
            self.shared.keeper.watch(&lease);
        }
        lease
    }

    /// What a request to the store takes at least, as far as is known: the fastest answer so far.
    pub(crate) fn fastest_answer(&self) -> Duration {
        self.shared.fastest_answer()
    }

    /// A transaction is run again.
    pub(crate) fn count_retry(&self) {
        self.counters.count(|stats| stats.retries += 1);
    }

    /// Who speaks in the events about `key`.
    pub(crate) fn speaker<'a>(&'a self, key: &'a str) -> Speaker<'a> {
        Speaker {
            key,
            holder: &self.terms.holder,
        }
    }

    pub(crate) fn lock_name(&self, key: &str) -> Arc<LockName> {
        Arc::new(LockName {
            database: self.database.clone(),
            key: key.to_owned(),
            table: self.store.table().to_owned(),
        })
    }

    /// What the leases of this client have cost so far.
    pub fn stats(&self) -> LockStats {
        self.counters.get()
    }
}

impl fmt::Debug for DynamoDbLockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbLockClient")
            .field("store", &self.store)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::InMemoryLockStore;

    #[test]
    fn a_lease_that_is_asked_for_too_short_or_too_long_is_good_all_the_same() {
        let clock = ManualClock::standing_still();
        let store = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
        for (asked, taken) in [(Duration::ZERO, 2), (Duration::MAX, FOREVER.as_secs())] {
            for max_hold in [Duration::ZERO, Duration::MAX] {
                let client = DynamoDbLockClient::with_store(store.clone())
                    .lease_duration(asked)
                    .max_hold(max_hold)
                    .clock(clock.clock());
                let lease = client.acquire("key", Duration::ZERO).unwrap();
                assert!(lease.is_valid(), "{asked:?}");
                lease.renew().unwrap();
                let item = store.item("key").expect("it is held");
                let end = item.expires_at_seconds().expect("others can judge it");
                assert_eq!(end, (1_000_000 + taken) as f64, "{asked:?}");
                lease.release().unwrap();
            }
        }
    }
}
