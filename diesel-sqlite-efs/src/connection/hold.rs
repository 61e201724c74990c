//! The write lock held by value, over as many transactions as its owner makes.

use std::fmt;

use diesel::result::{Error, QueryResult};

use super::EfsSqliteConnection;
use super::state::Pin;
use crate::error::LockError;

/// The write lock of one connection, held until this is dropped or [released](Self::release): see
/// [`hold_write_lock`](EfsSqliteConnection::hold_write_lock).
#[must_use = "the lock is released once this is dropped"]
pub struct HeldWriteLock {
    pin: Pin,
}

/// An async handler keeps it while its connection works on another thread.
const _: () = {
    const fn assert_shareable<T: Send + Sync + 'static>() {}
    assert_shareable::<HeldWriteLock>();
};

impl EfsSqliteConnection {
    /// Takes the write lock, waiting for it if need be, and holds it until the guard that is returned
    /// is dropped: for a request that writes many times, one statement or transaction after another.
    /// They share one lease: n commits cost n + 2 requests to the lock table instead of 3 n.
    ///
    /// Unlike [`with_write_lock`](Self::with_write_lock) it needs no closure. The guard borrows
    /// nothing, so that an async handler can keep it over several calls, with a pooled connection or
    /// diesel-async's `SyncConnectionWrapper`; it may be dropped on any thread.
    ///
    /// # How long
    /// The lease is renewed meanwhile, up to the setting `lock_max_hold`; if it is lost all the same,
    /// every further write fails until the guard is dropped. It ends
    /// - when the guard is dropped or released; in the middle of a transaction, with that;
    /// - when the connection is closed;
    /// - when the connection comes back to an r2d2 pool, which asks then whether it is broken. The
    ///   pools of diesel-async do not ask: with them drop the guard no later than the connection.
    ///
    /// The guard of a hold that has ended so does nothing any more, whoever uses the connection then.
    ///
    /// All other writers of the database wait meanwhile, in this process and elsewhere: hold it for
    /// the writes of one request, and not while waiting for anything else. A guard that is forgotten
    /// (`std::mem::forget`) outside a pool keeps them out until `lock_max_hold` and the lease are over.
    ///
    /// On a database without a lock, such as `:memory:`, it does nothing.
    ///
    /// ```
    /// use diesel::prelude::*;
    /// # use std::sync::Arc;
    /// # use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection, InMemoryLockStore};
    /// # let path = std::env::temp_dir().join(format!("efs-doc-hold-{}.db", std::process::id()));
    /// # let config = EfsConfig::new(&path).lock_store(Arc::new(InMemoryLockStore::new()));
    /// # let mut conn = EfsSqliteConnection::connect(&config)?;
    /// let held = conn.hold_write_lock()?;
    /// diesel::sql_query("CREATE TABLE visits (page TEXT)").execute(&mut conn)?;
    /// diesel::sql_query("INSERT INTO visits VALUES ('home')").execute(&mut conn)?;
    /// diesel::sql_query("INSERT INTO visits VALUES ('help')").execute(&mut conn)?;
    /// held.release()?;
    /// assert_eq!(conn.lock_stats().requests, 3 + 2, "a put and a delete beside the commits");
    /// # drop(conn);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AlreadyInTransaction`](diesel::result::Error::AlreadyInTransaction) inside a transaction;
    /// [`LockError::Busy`] and the other errors of an acquisition, as Diesel's error.
    pub fn hold_write_lock(&mut self) -> QueryResult<HeldWriteLock> {
        if self.state.transaction().depth().is_some() {
            // Waiting with a read lock held would keep the holder from committing.
            return Err(Error::AlreadyInTransaction);
        }
        let pin = self.state.pin(&mut self.inner, None)?;
        Ok(HeldWriteLock { pin })
    }
}

impl HeldWriteLock {
    /// Releases the lock now, or at the end of the transaction that is under way.
    ///
    /// # Errors
    /// Why the lease could not be released: others wait until it ends. Nothing needs to be repeated.
    pub fn release(self) -> Result<(), LockError> {
        self.pin.release()
    }
}

impl fmt::Debug for HeldWriteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldWriteLock").finish_non_exhaustive()
    }
}
