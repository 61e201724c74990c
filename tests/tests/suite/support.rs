//! One database and one lock table in this process, used as if by several hosts.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::BigInt;
use diesel::sqlite::Sqlite;
use diesel_sqlite_efs::testing::{Delete, Hook, HookedStore, Put};
use diesel_sqlite_efs::{
    DeleteAnswer, EfsConfig, EfsSqliteConnection, InMemoryLockStore, ManualClock, PutAnswer,
    PutCondition, StoreError, StoredItem, Timestamp,
};
use integration::scratch::Scratch;

/// The lease of all connections here: longer than any test takes, unless it moves the clock.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// Longer than any test waits: who waits at all waits this long.
pub(crate) const VERY_LONG: Duration = Duration::from_secs(3_600);

/// A directory with a database, which is not there yet, and the lock table that protects it.
#[derive(Debug)]
pub(crate) struct Site {
    scratch: Scratch,
    table: Arc<InMemoryLockStore>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            scratch: Scratch::new().expect("a directory"),
            table: Arc::default(),
        }
    }

    /// As [`new`](Self::new), with an empty table `t (id INTEGER PRIMARY KEY, n INTEGER)`.
    pub(crate) fn with_table() -> Self {
        let site = Self::new();
        let mut conn = site.host().connect();
        conn.batch_execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
            .expect("a table");
        site
    }

    /// A host of its own: its connections share nothing with those of others but the database and
    /// the lock table.
    pub(crate) fn host(&self) -> Host {
        Host {
            path: self.scratch.database().to_owned(),
            store: RecordingStore::new(self.table.clone(), Recording::default()),
        }
    }

    /// The item that grants the lease on the database, if there is one.
    pub(crate) fn item(&self) -> Option<StoredItem> {
        self.table.item(&self.key())
    }

    /// Puts another holder's item, good for a minute, in the place of whatever is there.
    pub(crate) fn give_lease_to_another(&self) {
        self.table.set_item(&self.key(), Some(foreign_item()));
    }

    pub(crate) fn remove_item(&self) {
        self.table.set_item(&self.key(), None);
    }

    /// For a fault that is to happen inside a request: see [`Recording::before`].
    pub(crate) fn stealing(&self) -> impl FnMut() + Send + 'static {
        let (table, key) = (self.table.clone(), self.key());
        move || table.set_item(&key, Some(foreign_item()))
    }

    /// Frees the lease, whoever has it.
    pub(crate) fn freeing(&self) -> impl FnOnce() + Send + use<> {
        let (table, key) = (self.table.clone(), self.key());
        move || table.set_item(&key, None)
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Neither lock nor journal: nobody has to wait for or clear up after anybody.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.item(), None, "the lock item is still there");
        let journal = self.scratch.journal();
        assert!(!journal.exists(), "the rollback journal is still there");
    }

    pub(crate) fn key(&self) -> String {
        format!("database#{}", self.scratch.database().display())
    }
}

/// One process's view of the lock table, and the way to the database.
#[derive(Debug)]
pub(crate) struct Host {
    path: PathBuf,
    pub(crate) store: Arc<RecordingStore>,
}

impl Host {
    pub(crate) fn config(&self) -> EfsConfig {
        EfsConfig::new(&self.path)
            .lock_store(self.store.clone())
            .lock_expiration(LEASE)
    }

    /// With SQLite's file locks turned off: only the lease keeps writers apart, and readers are
    /// never in the way.
    pub(crate) fn config_without_file_locks(&self) -> EfsConfig {
        self.config().base_vfs("unix-none")
    }

    pub(crate) fn connect(&self) -> EfsSqliteConnection {
        connect(&self.config())
    }

    pub(crate) fn connect_without_file_locks(&self) -> EfsSqliteConnection {
        connect(&self.config_without_file_locks())
    }
}

/// Adds a row to the [`Site::with_table`]'s table.
pub(crate) fn insert(conn: &mut EfsSqliteConnection, n: i64) -> QueryResult<usize> {
    execute(conn, &format!("INSERT INTO t (n) VALUES ({n})"))
}

#[track_caller]
pub(crate) fn connect(config: &EfsConfig) -> EfsSqliteConnection {
    EfsSqliteConnection::connect(config).unwrap_or_else(|error| panic!("{error}"))
}

/// A request to the lock table, by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// A put that a free key grants.
    Acquire,
    /// A put in the place of an expired item.
    TakeOver,
    /// A put in the place of our own item: it renews the lease or confirms a journal's end.
    Confirm,
    /// A delete of our own item.
    Release,
}

/// The requests of a transaction that writes.
pub(crate) const CHANGE: [Call; 3] = [Call::Acquire, Call::Confirm, Call::Release];

/// A lock table in this process that records what is asked of it, and in which a test can let
/// something happen just before a request.
pub(crate) type RecordingStore = HookedStore<Recording>;

/// What a [`RecordingStore`] does with a request.
#[derive(Default)]
pub(crate) struct Recording {
    state: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    calls: Vec<Call>,
    fault: Option<Fault>,
}

struct Fault {
    before: Call,
    /// Whose request it has to be; anybody's if there is none.
    by: Option<ThreadId>,
    happening: Box<dyn FnMut() + Send>,
}

impl Recording {
    /// The requests since this was last asked.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.recorded().calls)
    }

    /// Lets this happen before the next request of that kind, once.
    pub(crate) fn before(&self, call: Call, happening: impl FnMut() + Send + 'static) {
        self.plan(call, None, happening);
    }

    /// The same for a request of this thread's. A short lease may be renewed on a busy machine before
    /// its transaction is confirmed, by the same kind of request from another thread.
    pub(crate) fn before_own(&self, call: Call, happening: impl FnMut() + Send + 'static) {
        self.plan(call, Some(thread::current().id()), happening);
    }

    fn plan(&self, before: Call, by: Option<ThreadId>, happening: impl FnMut() + Send + 'static) {
        self.recorded().fault = Some(Fault {
            before,
            by,
            happening: Box::new(happening),
        });
    }

    /// That the request came for which [`before`](Self::before) was called.
    #[track_caller]
    pub(crate) fn assert_fault_was_reached(&self) {
        assert!(self.recorded().fault.is_none(), "no such request was made");
    }

    fn record(&self, call: Call) {
        let mut recorded = self.recorded();
        recorded.calls.push(call);
        let caller = thread::current().id();
        let fault = (recorded.fault)
            .take_if(|fault| fault.before == call && fault.by.is_none_or(|by| by == caller));
        drop(recorded);
        if let Some(mut fault) = fault {
            (fault.happening)();
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hook for Recording {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self.record(match put.condition {
            PutCondition::FreeOrOurs | PutCondition::FreeOrExpired { .. } => Call::Acquire,
            PutCondition::Unchanged(_) => Call::TakeOver,
            PutCondition::Ours { .. } | PutCondition::Ended => Call::Confirm,
            other => unreachable!("{other:?}"),
        });
        put.pass_on()
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        self.record(Call::Release);
        delete.pass_on()
    }
}

/// An item of somebody who holds the lease for another minute.
fn foreign_item() -> StoredItem {
    let now = since_epoch();
    StoredItem::new("of-another", (now + LEASE).as_secs().to_string())
        .with_holder("another host")
        .with_acquired_at(UNIX_EPOCH + now)
}

/// A clock that shows the true time until the test moves it.
pub(crate) fn manual_clock() -> ManualClock {
    ManualClock::new(Timestamp::new(Duration::from_secs(1), since_epoch()))
}

fn since_epoch() -> Duration {
    (SystemTime::now().duration_since(UNIX_EPOCH)).expect("a clock that is set")
}

/// Runs one statement through the query interface.
pub(crate) fn execute(conn: &mut EfsSqliteConnection, statement: &str) -> QueryResult<usize> {
    diesel::sql_query(statement).execute(conn)
}

/// All values of a query's only column.
pub(crate) fn numbers<C>(conn: &mut C, query: &str) -> QueryResult<Vec<i64>>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    sql::<BigInt>(query).load(conn)
}

/// The numbers in table `t`, as another host sees them.
#[track_caller]
pub(crate) fn committed(site: &Site) -> Vec<i64> {
    let mut conn = site.host().connect();
    numbers(&mut conn, "SELECT n FROM t ORDER BY id").unwrap_or_else(|error| panic!("{error}"))
}

/// A retryable failure: nothing was changed, run the transaction again.
#[track_caller]
pub(crate) fn assert_serialization_failure<T: fmt::Debug>(result: QueryResult<T>) {
    assert!(
        matches!(
            result,
            Err(Error::DatabaseError(
                DatabaseErrorKind::SerializationFailure,
                _
            ))
        ),
        "{result:?}"
    );
}

/// What a connection tells of its last failure.
macro_rules! assert_lock_error {
    ($conn:expr, $variant:ident) => {
        let error = $conn.last_lock_error();
        assert!(
            matches!(error, Some(diesel_sqlite_efs::LockError::$variant { .. })),
            "{error:?}"
        );
    };
}
pub(crate) use assert_lock_error;

/// No transaction is open in SQLite, and a new one can be written and committed.
#[track_caller]
pub(crate) fn assert_usable(conn: &mut EfsSqliteConnection) {
    let result = conn.batch_execute("BEGIN; PRAGMA user_version = 1; COMMIT");
    assert_eq!(result, Ok(()));
}
