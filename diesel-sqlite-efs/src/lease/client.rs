//! The blocking lock client: leases from a lock table, with or without a database.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acquire::{AcquireLimits, Acquisition, Attempt};
use super::lease::Lease;
use super::registry::Registry;
use super::requests::LeaseContext;
use crate::clock::{Clock, FOREVER};
use crate::config::{GivenTerms, LeaseTerms, client_table};
use crate::error::{ConfigError, LockError, LockName, StoreError};
use crate::store::{DynamoDbLockStore, LockStore};
use crate::telemetry::events::Events;
use crate::telemetry::stats::{Counters, LockStats};

/// A client of a lock table: acquires leases, each for a key, and keeps them renewed.
///
/// [`EfsSqliteConnection`](crate::EfsSqliteConnection) has one of its own. Use a client directly for
/// other work that only one process may do at a time, such as a nightly report.
///
/// Clones are cheap and share their statistics. All methods block, and may be called from any
/// thread. Inside a tokio runtime they block the worker thread like any blocking call: use
/// `spawn_blocking`.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
///
/// let client = LockClient::builder()
///     // In production: `.lock_table("sqlite-locks")`.
///     .lock_store(Arc::new(InMemoryLockStore::new()))
///     .lock_expiration(Duration::from_secs(30))
///     .build()?;
/// let lease = client.acquire("nightly-report", Duration::from_secs(3))?;
/// assert!(client.try_acquire("nightly-report")?.is_none());
/// lease.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LockClient {
    store: Arc<dyn LockStore>,
    clock: Clock,
    registry: Arc<Registry>,
    terms: Arc<LeaseTerms>,
    counters: Arc<Counters>,
    database: PathBuf,
}

/// Options of a [`LockClient`], named and checked like those of [`EfsConfig`](crate::EfsConfig).
///
/// Required is one of [`lock_table`](Self::lock_table) and [`lock_store`](Self::lock_store). The
/// environment variables of `EfsConfig` are not read.
///
/// ```
/// use std::time::Duration;
/// use diesel_sqlite_efs::{ConfigError, LockClient};
///
/// let client = LockClient::builder()
///     .lock_table("sqlite-locks")
///     .lock_holder("nightly report")
///     .build()?;
/// let too_short = LockClient::builder()
///     .lock_table("sqlite-locks")
///     .lock_expiration(Duration::from_secs(1));
/// assert!(matches!(too_short.build(), Err(ConfigError::InvalidValue { .. })));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until a client is built with them"]
pub struct LockClientBuilder {
    place: Option<Place>,
    terms: GivenTerms,
    clock: Clock,
    #[cfg(any(test, feature = "testing"))]
    is_never_renewed: bool,
}

/// Where the leases are.
#[derive(Debug, Clone)]
enum Place {
    Table(String),
    Store(Arc<dyn LockStore>),
}

impl LockClientBuilder {
    /// The DynamoDB table that holds the locks, by name or ARN, in the AWS account, region and
    /// endpoint of the environment. The last call of this and [`lock_store`](Self::lock_store)
    /// counts.
    ///
    /// A table that databases use as well is fine: a lock is its table and its key.
    ///
    /// ```
    /// # use diesel_sqlite_efs::LockClient;
    /// let client = LockClient::builder().lock_table("sqlite-locks").build()?;
    /// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
    /// ```
    pub fn lock_table(mut self, name: impl Into<String>) -> Self {
        self.place = Some(Place::Table(name.into()));
        self
    }

    /// A lock store of any kind, such as an [`InMemoryLockStore`](crate::InMemoryLockStore) in tests.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
    /// let store = Arc::new(InMemoryLockStore::new());
    /// let client = LockClient::builder().lock_store(store).build()?;
    /// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
    /// ```
    pub fn lock_store(mut self, store: Arc<dyn LockStore>) -> Self {
        self.place = Some(Place::Store(store));
        self
    }

    /// How long a lease lasts unless it is renewed: 2 seconds to 1 day; 5 seconds by default, long
    /// against most work and short to wait for after a crash.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use diesel_sqlite_efs::LockClient;
    /// let builder = LockClient::builder().lock_expiration(Duration::from_secs(30));
    /// ```
    pub fn lock_expiration(mut self, expiration: Duration) -> Self {
        self.terms.expiration = Some(expiration);
        self
    }

    /// How long a lease may be held by renewals in the background: from
    /// [`lock_expiration`](Self::lock_expiration) to 1 day; by default 900 seconds, the longest time
    /// that a Lambda function can run, or the lease if that is longer. It keeps a lease that was
    /// forgotten from blocking the others for ever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use diesel_sqlite_efs::LockClient;
    /// let builder = LockClient::builder().lock_max_hold(Duration::from_secs(3_600));
    /// ```
    pub fn lock_max_hold(mut self, max_hold: Duration) -> Self {
        self.terms.max_hold = Some(max_hold);
        self
    }

    /// The display name of this process in the lock item and in the errors of those who wait: 1 to
    /// 1024 bytes without control characters. By default, on Lambda the function's name and its
    /// sandbox, elsewhere the host's name and the process id.
    ///
    /// ```
    /// # use diesel_sqlite_efs::LockClient;
    /// let builder = LockClient::builder().lock_holder("nightly report");
    /// ```
    pub fn lock_holder(mut self, holder: impl Into<String>) -> Self {
        self.terms.holder = Some(holder.into());
        self
    }

    /// Where the time is read from; the system's clocks by default. For tests, a clock that the test
    /// moves.
    ///
    /// ```
    /// # use diesel_sqlite_efs::{Clock, LockClient};
    /// let builder = LockClient::builder().clock(Clock::system());
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Leases are not renewed in the background, so that a test decides when it happens.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn without_renewal(mut self) -> Self {
        self.is_never_renewed = true;
        self
    }

    /// The client. Nothing of AWS is touched before the first lease or
    /// [`warm_up`](LockClient::warm_up).
    ///
    /// # Errors
    /// [`ConfigError::InvalidValue`] for a value that its option does not accept, or if neither a
    /// table nor a store is given. Trying again does not help.
    ///
    /// ```
    /// # use diesel_sqlite_efs::LockClient;
    /// let error = LockClient::builder().build().unwrap_err();
    /// assert!(error.to_string().contains("lock_table"));
    /// ```
    pub fn build(self) -> Result<LockClient, ConfigError> {
        let terms = self.terms.resolve_for_client()?;
        #[cfg(any(test, feature = "testing"))]
        let terms = LeaseTerms {
            max_hold: match self.is_never_renewed {
                true => Duration::ZERO,
                false => terms.max_hold,
            },
            ..terms
        };
        let store = match self.place {
            Some(Place::Store(store)) => store,
            Some(Place::Table(name)) => dynamodb(client_table(Some(name))?),
            None => dynamodb(client_table(None)?),
        };
        Ok(LockClient::new(store, terms, self.clock))
    }
}

fn dynamodb(table: String) -> Arc<dyn LockStore> {
    Arc::new(DynamoDbLockStore::new(table))
}

impl LockClient {
    /// Options for a new client.
    ///
    /// ```
    /// # use diesel_sqlite_efs::LockClient;
    /// let client = LockClient::builder().lock_table("sqlite-locks").build()?;
    /// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
    /// ```
    pub fn builder() -> LockClientBuilder {
        LockClientBuilder::default()
    }

    /// A client with terms that were checked before.
    pub(crate) fn new(store: Arc<dyn LockStore>, terms: LeaseTerms, clock: Clock) -> Self {
        Self {
            registry: Registry::of(&store),
            store,
            clock,
            terms: Arc::new(terms),
            counters: Arc::default(),
            database: PathBuf::new(),
        }
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

    /// Asks for the lease once, without waiting. `None` if another holds it, or if another thread of
    /// this process holds it or waits for it.
    ///
    /// Bind the result: no lint warns of an `Option` that is dropped at once, and its lease with it.
    ///
    /// # Errors
    /// [`LockError::Store`] if the store did not answer within 3 s, or refused to serve us. Trying
    /// again is safe; whether it can help, [`LockError::is_retryable`] says.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
    /// # let store = Arc::new(InMemoryLockStore::new());
    /// # let client = LockClient::builder().lock_store(store).build()?;
    /// match client.try_acquire("nightly-report")? {
    ///     Some(lease) => lease.release()?,
    ///     None => println!("another process is at it"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_acquire(&self, key: &str) -> Result<Option<Lease>, LockError> {
        /// One request and its repetition on a fresh connection.
        const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
        match self.begin(key).try_once(GIVE_UP_AFTER)? {
            Attempt::Granted(lease) => Ok(Some(lease)),
            Attempt::Refused { .. } => Ok(None),
        }
    }

    /// Waits for the lease, at most for `timeout`: first in order behind this process's other
    /// requests for the same key, then asking the store, the more often the longer it has waited.
    ///
    /// # Errors
    /// [`LockError::Busy`] if another still holds the lease: trying again is safe.
    /// [`LockError::Store`] if the store could not answer, at once where waiting cannot help: trying
    /// again is safe.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient, LockError};
    /// # let store = Arc::new(InMemoryLockStore::new());
    /// # let client = LockClient::builder().lock_store(store).build()?;
    /// let lease = client.acquire("nightly-report", Duration::from_secs(3))?;
    /// let error = client.acquire("nightly-report", Duration::from_millis(1)).unwrap_err();
    /// assert!(matches!(error, LockError::Busy { .. }) && error.is_retryable());
    /// lease.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire(&self, key: &str, timeout: Duration) -> Result<Lease, LockError> {
        let limits = AcquireLimits {
            until: Instant::now() + timeout.min(FOREVER),
            max_attempts: None,
        };
        let mut acquisition = self.begin(key);
        match acquisition.try_before_waiting(timeout)? {
            Some(lease) => Ok(lease),
            None => acquisition.wait(limits),
        }
    }

    /// Does ahead of time what the first lease would do before its first request: for DynamoDB,
    /// reads the AWS configuration, finds credentials, sets up TLS. Nothing is sent to the table.
    ///
    /// # Errors
    /// What is missing in the configuration. Trying again helps once that is fixed.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
    /// # let store = Arc::new(InMemoryLockStore::new());
    /// # let client = LockClient::builder().lock_store(store).build()?;
    /// client.warm_up()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn warm_up(&self) -> Result<(), StoreError> {
        self.store.warm_up()
    }

    /// What the leases of this client and its clones have cost so far.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
    /// # let store = Arc::new(InMemoryLockStore::new());
    /// # let client = LockClient::builder().lock_store(store).build()?;
    /// client.acquire("nightly-report", Duration::ZERO)?.release()?;
    /// assert_eq!(client.stats().requests, 2, "a put and a delete");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> LockStats {
        self.counters.get()
    }

    /// An acquisition of `key`, nothing asked yet.
    pub(crate) fn begin(&self, key: &str) -> Acquisition {
        self.begin_named(self.lock_name(key))
    }

    /// The same of the lock with this name.
    pub(crate) fn begin_named(&self, name: Arc<LockName>) -> Acquisition {
        let context = LeaseContext {
            store: self.store.clone(),
            clock: self.clock.clone(),
            times: self.registry.times.clone(),
            terms: self.terms.clone(),
            counters: self.counters.clone(),
            name,
        };
        Acquisition::new(context, self.registry.clone())
    }

    /// Lets the next acquisition ask at once, whoever had to wait before.
    #[cfg(test)]
    pub(crate) fn forget_others(&self) {
        self.registry.forget_waits();
    }

    /// What a request to the store takes at least, as far as is known: the fastest answer so far.
    pub(crate) fn fastest_answer(&self) -> Option<Duration> {
        self.registry.times.fastest_answer()
    }

    /// Whether this process's last put was not answered.
    pub(crate) fn store_is_silent(&self) -> bool {
        self.registry.times.is_silent()
    }

    /// A transaction is run again.
    pub(crate) fn count_retry(&self) {
        self.counters.count(|stats| stats.retries += 1);
    }

    /// The events about `key`.
    pub(crate) fn events<'a>(&'a self, key: &'a str) -> Events<'a> {
        Events {
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
}

impl fmt::Debug for LockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockClient")
            .field("store", &self.store)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EfsConfig;
    use crate::clock::ManualClock;
    use crate::store::InMemoryLockStore;

    #[test]
    fn a_client_refuses_the_terms_that_a_connection_refuses() {
        let store = Arc::new(InMemoryLockStore::new());
        let seconds = [0, 1, 2, 5, 10, 86_400, 86_401, u64::MAX].map(Duration::from_secs);
        for expiration in seconds {
            for max_hold in seconds {
                let client = LockClient::builder()
                    .lock_store(store.clone())
                    .lock_expiration(expiration)
                    .lock_max_hold(max_hold)
                    .build();
                let config = EfsConfig::new("app.db")
                    .lock_store(store.clone())
                    .lock_expiration(expiration)
                    .lock_max_hold(max_hold)
                    .resolve_in([]);
                let ours = client.as_ref().map(|client| (*client.terms).clone());
                let theirs = config.map(|settings| settings.terms);
                let case = format!("{expiration:?}, {max_hold:?}");
                match (ours, theirs) {
                    (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{case}"),
                    (Err(ours), Err(theirs)) => assert_eq!(
                        ours.to_string()
                            .replace("LockClientBuilder::", "EfsConfig::"),
                        theirs.to_string()
                    ),
                    other => panic!("{case}: {other:?}"),
                }
            }
        }
        let refusal = |builder: LockClientBuilder| builder.build().unwrap_err().to_string();
        let long_name = LockClient::builder().lock_store(store).lock_holder("\n");
        assert!(refusal(long_name).contains("LockClientBuilder::lock_holder"));
        let bad_table = LockClient::builder().lock_table("a table");
        assert!(refusal(bad_table).contains("LockClientBuilder::lock_table"));
        assert!(refusal(LockClient::builder()).contains("name the lock table"));
    }

    /// As with `lock=local`.
    #[test]
    fn the_longest_lease_that_is_never_renewed_is_valid() {
        let clock = ManualClock::standing_still();
        let store = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
        let terms = LeaseTerms {
            expiration: FOREVER,
            max_hold: Duration::ZERO,
            holder: "a test".to_owned(),
        };
        let client = LockClient::new(store.clone(), terms, clock.clock());
        let lease = client.acquire("key", Duration::ZERO).unwrap();
        assert!(lease.is_valid());
        lease.renew().unwrap();
        let item = store.item("key").expect("it is held");
        let end = item.expires_at_seconds().expect("others can judge it");
        assert_eq!(end, (1_000_000 + FOREVER.as_secs()) as f64);
        lease.release().unwrap();
    }
}
