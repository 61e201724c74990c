//! Connection pools: r2d2's, with Diesel's manager or our own.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::r2d2::{Error, ManageConnection, Pool, R2D2Connection};
use diesel::result::{ConnectionError, QueryResult};

use super::EfsSqliteConnection;
use super::open::Opener;
use super::transaction_manager::EfsTransactionManager;
use crate::config::EfsConfig;
use crate::error::{ConfigError, ConnectError};

/// Opens the connections of an r2d2 [`Pool`] from an [`EfsConfig`].
///
/// Diesel's `ConnectionManager<EfsSqliteConnection>` does so from a URL, and serves as well. This
/// one takes every setting, reads the environment once, reports a wrong setting at once instead of
/// when r2d2's time to connect is over, and keeps one lock client, with its HTTPS connections and
/// credentials, for as long as the pool lives, whether or not a connection is open.
///
/// ```
/// use std::sync::Arc;
/// use diesel::prelude::*;
/// use diesel_sqlite_efs::{EfsConfig, EfsConnectionManager, InMemoryLockStore};
///
/// # let path = std::env::temp_dir().join(format!("efs-doc-pool-{}.db", std::process::id()));
/// let config = EfsConfig::new(&path).lock_store(Arc::new(InMemoryLockStore::new()));
/// let pool = EfsConnectionManager::new(&config)?.pool(4)?;
/// let mut conn = pool.get()?;
/// diesel::sql_query("CREATE TABLE visits (page TEXT NOT NULL)").execute(&mut conn)?;
/// # drop((conn, pool));
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How many connections
/// One for each thread that uses the database at the same time, and no more: they read at the same
/// time, but write one after another, here as everywhere. On Lambda that is 1, since a sandbox
/// serves one invocation at a time. Those that wait for the lock do so in the order in which they
/// asked, without asking DynamoDB for what a connection next to them holds.
///
/// # What is given out
/// A connection that comes back is closed, and another opened when one is needed, if it has lost a
/// lease, has met a failure of the file system ([`LockError::LeaseLost`], [`File`],
/// [`OutcomeUnknown`], SQLite's "disk I/O error"), is in a transaction, however that was begun, or
/// comes from a thread that panics. Closing it rolls the transaction back and releases its lease.
/// Everything else, such as [`Busy`] and [`StaleSnapshot`], leaves it as good as it was.
///
/// Settings that a connection was given last for as long as it does: a pool passes a
/// [lock timeout](EfsSqliteConnection::set_lock_timeout) on to the next user. A
/// [deadline](EfsSqliteConnection::set_deadline) ends when the connection comes back, as it is that
/// of one invocation, and so does a [hold](EfsSqliteConnection::hold_write_lock) of the write lock.
///
/// # Errors
/// A pool's own error ([`PoolError`](diesel::r2d2::PoolError)) says that no connection became free,
/// or could be opened, in time; it holds the reason of the last that could not. It says nothing
/// about the lock, which is asked for when something is written.
///
/// r2d2 opens connections on threads of its own and tries again, with growing pauses, until its
/// `connection_timeout` is over; it logs each failure with the crate `log`.
///
/// [`LockError::LeaseLost`]: crate::LockError::LeaseLost
/// [`File`]: crate::LockError::File
/// [`OutcomeUnknown`]: crate::LockError::OutcomeUnknown
/// [`Busy`]: crate::LockError::Busy
/// [`StaleSnapshot`]: crate::LockError::StaleSnapshot
pub struct EfsConnectionManager {
    opener: Opener,
    /// Opened before the pool was there to ask for it.
    first: Mutex<Option<EfsSqliteConnection>>,
}

impl EfsConnectionManager {
    /// A manager for a pool that is built by r2d2's [`Pool::builder`]. Nothing is opened yet.
    ///
    /// What the configuration does not say is taken from the environment as it is now.
    ///
    /// # Errors
    /// A setting that is missing, unknown or cannot be used. Trying again does not help.
    pub fn new(config: &EfsConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            opener: Opener::new(config)?,
            first: Mutex::default(),
        })
    }

    /// A pool of at most this many connections that suits a database file.
    ///
    /// The first connection is opened at once, in this thread, so that a file that cannot be used
    /// is reported here and now, with the reason. The others are opened when they are needed
    /// (r2d2 would open all of them ahead), and given out without a test: while a connection is
    /// idle, it holds nothing that it could lose. All else is r2d2's default: among it 30 s as the
    /// time to wait for a connection, for which [`Pool::get_timeout`] sets another.
    ///
    /// # Panics
    /// If `max_size` is zero, as r2d2 does.
    ///
    /// # Errors
    /// As [`EfsSqliteConnection::connect`].
    pub fn pool(self, max_size: u32) -> Result<Pool<Self>, ConnectError> {
        let builder = Pool::builder()
            .max_size(max_size)
            .min_idle(Some(0))
            .test_on_check_out(false);
        let first = EfsSqliteConnection::open(&self.opener)?;
        *self.first() = Some(first);
        Ok(builder.build_unchecked(self))
    }

    fn first(&self) -> std::sync::MutexGuard<'_, Option<EfsSqliteConnection>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ManageConnection for EfsConnectionManager {
    type Connection = EfsSqliteConnection;
    /// Diesel's, so that customizers written for its own manager fit.
    type Error = Error;

    fn connect(&self) -> Result<EfsSqliteConnection, Error> {
        if let Some(first) = self.first().take() {
            return Ok(first);
        }
        let opened = EfsSqliteConnection::open(&self.opener);
        opened.map_err(|error| Error::ConnectionError(ConnectionError::from(error)))
    }

    /// Asks SQLite for something that touches neither the file nor the lock table.
    fn is_valid(&self, conn: &mut EfsSqliteConnection) -> Result<(), Error> {
        conn.ping().map_err(Error::QueryError)
    }

    fn has_broken(&self, conn: &mut EfsSqliteConnection) -> bool {
        conn.set_deadline(None);
        thread::panicking() || conn.is_broken()
    }
}

impl fmt::Debug for EfsConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfsConnectionManager")
            .field("opener", &self.opener)
            .finish_non_exhaustive()
    }
}

/// For every pool that goes by this trait: Diesel's `ConnectionManager`, ours, diesel-async's.
impl R2D2Connection for EfsSqliteConnection {
    /// Asks SQLite for something that touches neither the file nor the lock table.
    fn ping(&mut self) -> QueryResult<()> {
        self.batch_execute("SELECT 1")
    }

    /// Whether the connection has lost a lease, has met a failure of the file system, or has a
    /// transaction open, except Diesel's test transaction.
    ///
    /// Pools ask when a connection comes back, or before it is given out again. So it ends what its
    /// user [holds](EfsSqliteConnection::hold_write_lock) outside a transaction; otherwise it sends no
    /// request.
    fn is_broken(&mut self) -> bool {
        self.state.end_holds();
        if EfsTransactionManager::is_broken_transaction_manager(self) || self.state.is_broken() {
            return true;
        }
        let in_test_transaction = self.state.transaction().depth().is_some();
        !in_test_transaction && self.state.is_in_unknown_transaction(&mut self.inner)
    }
}
