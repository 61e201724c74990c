//! Transactions that take the lock first, repeat themselves, or share one lease.

use std::time::Instant;

use diesel::connection::TransactionManager;
use diesel::result::{Error, QueryResult};

use super::EfsSqliteConnection;
use super::retry::Repeats;
use super::state::Pin;
use super::transaction_manager::EfsTransactionManager;

impl EfsSqliteConnection {
    /// Runs a transaction begun with `BEGIN IMMEDIATE`: the lock is taken before it begins,
    /// waiting for it if need be, so that nothing it reads can be out of date when it writes.
    ///
    /// Use it for transactions that read first and then write. Begun the ordinary way they fail
    /// with a retryable error if somebody has written in between.
    ///
    /// # Errors
    /// [`diesel::result::Error::AlreadyInTransaction`] inside a transaction; otherwise as
    /// [`transaction`](diesel::Connection::transaction).
    pub fn immediate_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.locked_transaction("BEGIN IMMEDIATE", None, f)
    }

    /// Runs a transaction begun with `BEGIN EXCLUSIVE`: as
    /// [`immediate_transaction`](Self::immediate_transaction), and readers on this host are kept
    /// out from the beginning.
    ///
    /// # Errors
    /// As [`immediate_transaction`](Self::immediate_transaction).
    pub fn exclusive_transaction<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        self.locked_transaction("BEGIN EXCLUSIVE", None, f)
    }

    /// Runs a transaction, and runs it again after failures of the lock that a repeat may mend:
    /// the lock was held by another, the state that it had read was no longer current, a read met a
    /// commit in progress, the lease was lost, the lock table was overloaded. Each run is rolled
    /// back before the next, so the closure must have no effects beside the database.
    ///
    /// # What is repeated
    /// A run whose last statement (BEGIN and COMMIT included) failed with a [`LockError`] that
    /// [is retryable], whatever type of error the closure makes of it.
    /// The closure's own errors are not: neither one that follows a statement that succeeded, nor a
    /// `SerializationFailure` that the application has made itself. [`LockError::OutcomeUnknown`]
    /// is never repeated, for the transaction may be committed. Of failures of
    /// [`sqlite_mut`](Self::sqlite_mut) only those count that have ended the transaction.
    ///
    /// # How it begins
    /// The first time like [`transaction`], so that what only reads takes no lock. A run that had asked to write is repeated like
    /// [`immediate_transaction`](Self::immediate_transaction): it takes the lock, in order behind
    /// the waiting connections of this process, before it reads, and cannot be overtaken again. If
    /// most runs write after reading, `immediate_transaction` saves the first failure.
    ///
    /// # How long
    /// No run is begun, nor waits for the lock to begin, once the time to wait for locks
    /// (`lock_timeout`, [`set_lock_timeout`](Self::set_lock_timeout)) has passed since the first
    /// failure, less what the first run had waited for the lock. So all runs together wait about as
    /// long as a single statement would; the time that the first has worked is not counted, so that
    /// a long transaction that lost its lease at the end gets its second run. Nor is a run begun that
    /// cannot end before the [deadline](Self::set_deadline). (`lock_max_attempts` limits each
    /// acquisition, not the runs.) Between runs it pauses, at random, at first for about a request's
    /// time and at most for 250 ms.
    ///
    /// How often it ran is told by `retries` in [`lock_stats`](Self::lock_stats) and by the events
    /// `transaction.retried` and `transaction.gave_up`.
    ///
    /// ```
    /// use diesel::prelude::*;
    /// # use std::sync::Arc;
    /// # use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection, InMemoryLockStore};
    /// # diesel::table! { accounts (id) { id -> Integer, balance -> BigInt, } }
    /// # let path = std::env::temp_dir().join(format!("efs-doc-retry-{}.db", std::process::id()));
    /// # let config = EfsConfig::new(&path).lock_store(Arc::new(InMemoryLockStore::new()));
    /// # let mut conn = EfsSqliteConnection::connect(&config)?;
    /// # diesel::sql_query("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT)").execute(&mut conn)?;
    /// # diesel::sql_query("INSERT INTO accounts VALUES (1, 100)").execute(&mut conn)?;
    /// let left = conn.retrying_transaction(|conn| {
    ///     let account = accounts::table.find(1);
    ///     let balance: i64 = account.select(accounts::balance).get_result(conn)?;
    ///     if balance < 30 {
    ///         return Err(diesel::result::Error::RollbackTransaction); // Not repeated.
    ///     }
    ///     diesel::update(account).set(accounts::balance.eq(balance - 30)).execute(conn)?;
    ///     Ok(balance - 30)
    /// })?;
    /// assert_eq!(left, 70);
    /// # drop(conn);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Of the last run; what it says of the time waited and of attempts is about all runs.
    /// [`diesel::result::Error::AlreadyInTransaction`] inside a transaction: only
    /// a whole transaction can be run again. Inside [`with_write_lock`](Self::with_write_lock) a
    /// lost lease is not repeated, as the lock cannot be taken again before its end.
    ///
    /// [`LockError`]: crate::LockError
    /// [is retryable]: crate::LockError::is_retryable
    /// [`LockError::OutcomeUnknown`]: crate::LockError::OutcomeUnknown
    /// [`transaction`]: diesel::Connection::transaction
    pub fn retrying_transaction<T, E, F>(&mut self, mut f: F) -> Result<T, E>
    where
        F: FnMut(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        EfsTransactionManager::refuse_nesting(&mut self.state)?;
        let mut repeats = Repeats::new(&mut self.state);
        let mut result = EfsTransactionManager::transaction(self, &mut f);
        while result.is_err() && repeats.pause(&mut self.state) {
            result = match repeats.first_lock() {
                // Asking only after it has read, it could be overtaken again.
                Some(until) => self.locked_transaction("BEGIN IMMEDIATE", Some(until), &mut f),
                None => EfsTransactionManager::transaction(self, &mut f),
            };
        }
        self.state.set_earlier_runs(None);
        result
    }

    /// Takes the write lock, waiting for it if need be, and holds it while `f` runs: for several
    /// transactions that nobody else's write may come between, at the price of one acquisition.
    ///
    /// The lease is renewed meanwhile, up to the setting `lock_max_hold`. If it is lost all the
    /// same, every further write in `f` fails. On a database without a lock, such as `:memory:`,
    /// `f` is simply run.
    ///
    /// # Errors
    /// [`diesel::result::Error::AlreadyInTransaction`] inside a transaction;
    /// [`LockError::Busy`](crate::LockError::Busy) and the other errors of an acquisition, as
    /// Diesel's error; and those of `f`.
    pub fn with_write_lock<T, E, F>(&mut self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        if self.state.transaction().depth().is_some() {
            // Waiting with a read lock held would keep the holder from committing.
            return Err(Error::AlreadyInTransaction.into());
        }
        let _pin = self.pin(None)?;
        f(self)
    }

    /// Runs a transaction for which the lock is taken before it begins; `limit` is until when to
    /// wait for it, if that is sooner than usual.
    fn locked_transaction<T, E, F>(
        &mut self,
        begin: &str,
        limit: Option<Instant>,
        f: F,
    ) -> Result<T, E>
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: From<Error>,
    {
        EfsTransactionManager::refuse_nesting(&mut self.state)?;
        {
            let _until_reserved = self.pin(limit)?;
            EfsTransactionManager::begin(&mut self.inner, &mut self.state, begin)?;
        }
        // As Diesel's `transaction` goes on.
        match f(self) {
            Ok(value) => {
                EfsTransactionManager::commit_transaction(self)?;
                Ok(value)
            }
            Err(error) => match EfsTransactionManager::rollback_transaction(self) {
                // What made the closure fail is of more interest.
                Ok(()) | Err(Error::BrokenTransactionManager) => Err(error),
                Err(rollback_error) => Err(rollback_error.into()),
            },
        }
    }

    fn pin(&mut self, limit: Option<Instant>) -> QueryResult<Pin> {
        self.state.pin(&mut self.inner, limit)
    }
}
