//! What a connection keeps beside Diesel's own: its lock, its transaction, and what went wrong last.

use std::sync::Arc;
#[cfg(feature = "migrations")]
use std::time::Duration;
use std::time::Instant;

use diesel::connection::{
    AnsiTransactionManager, Connection, InstrumentationEvent, SimpleConnection, StrQueryHelper,
    TransactionDepthChange, TransactionManager, TransactionManagerStatus,
};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sqlite::SqliteConnection;

use super::diagnosis::diagnose;
use super::transaction_state::{Abort, Transaction, TransactionState, is_retryable};
use crate::error::LockError;
use crate::write_lock::{PinId, RolledBackBy, Waited, WriteLock};

/// The connection's side of the lock.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// `None` for databases that nobody else can write to.
    lock: Option<Arc<WriteLock>>,
    transaction: TransactionState,
    last_lock_error: Option<LockError>,
    /// Why the last statement failed, if the lock was the cause.
    lock_failure: Option<LockError>,
    /// The runs of the transaction that is being run again.
    earlier_runs: Option<EarlierRuns>,
    /// An error was seen after which a new connection is safer than this one.
    is_broken: bool,
}

/// What the runs before this one of a transaction have cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlierRuns {
    /// When the first of them began to wait.
    pub(super) since: Instant,
    /// How often the store was asked.
    pub(super) attempts: u32,
}

/// Keeps the lease until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Pin(Option<(Arc<WriteLock>, PinId)>);

impl ConnectionState {
    pub(super) fn new(lock: Option<Arc<WriteLock>>) -> Self {
        Self {
            lock,
            transaction: TransactionState::default(),
            last_lock_error: None,
            lock_failure: None,
            earlier_runs: None,
            is_broken: false,
        }
    }

    pub(super) fn lock(&self) -> Option<&WriteLock> {
        self.lock.as_deref()
    }

    pub(super) fn transaction(&mut self) -> &mut TransactionState {
        &mut self.transaction
    }

    pub(super) fn last_lock_error(&self) -> Option<&LockError> {
        self.last_lock_error.as_ref()
    }

    pub(super) fn warm_up(&self) -> Result<(), LockError> {
        let Some(lock) = &self.lock else {
            return Ok(());
        };
        lock.client().warm_up().map_err(|source| LockError::Store {
            lock: lock.lock_name().clone(),
            source,
        })
    }

    /// The lock, to be used while the connection runs statements.
    #[cfg(feature = "migrations")]
    pub(super) fn shared_lock(&self) -> Option<Arc<WriteLock>> {
        self.lock.clone()
    }

    /// Acquires the lease, waiting for it, not beyond `limit` if there is one, and holds it until
    /// the pin is dropped.
    pub(super) fn pin(
        &mut self,
        inner: &mut SqliteConnection,
        limit: Option<Instant>,
    ) -> QueryResult<Pin> {
        self.lock_failure = None;
        let lock = self.lock.clone();
        let result = lock.map(|lock| lock.pin(limit).map(|pin| (lock, pin)));
        self.report_acquisition(inner, result.transpose()).map(Pin)
    }

    /// The lease was acquired ahead of a statement, or not.
    pub(super) fn report_acquisition<T>(
        &mut self,
        inner: &mut SqliteConnection,
        result: Result<T, LockError>,
    ) -> QueryResult<T> {
        let result = result.map_err(|error| self.lock_failed(error));
        self.report_wait(inner, result.as_ref().err());
        result
    }

    /// Tells Diesel's instrumentation how long was waited for the lock, if at all: as a query of
    /// its own, since there is no event for it. Told afterwards, as SQLite waits in the middle of a
    /// statement, where the instrumentation is in use; so the text says how long it was.
    #[inline]
    pub(super) fn report_wait(&self, inner: &mut SqliteConnection, error: Option<&Error>) {
        let Some((waited, lock)) = self
            .lock()
            .and_then(|lock| Some((lock.take_waited()?, lock)))
        else {
            return;
        };
        let text = wait_text(waited, lock);
        let query = StrQueryHelper::new(&text);
        let instrumentation = inner.instrumentation();
        instrumentation.on_connection_event(InstrumentationEvent::start_query(&query));
        instrumentation.on_connection_event(InstrumentationEvent::finish_query(
            &query,
            error.filter(|_| waited.in_vain),
        ));
    }

    /// Runs statements that belong to a transaction: none once it is aborted.
    pub(super) fn run<T>(
        &mut self,
        inner: &mut SqliteConnection,
        f: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        self.report_wait(inner, None);
        self.begin_statement()?;
        let result = f(inner);
        let result = self.finish_statement(result);
        self.report_wait(inner, result.as_ref().err());
        result
    }

    /// Runs what begins or commits a transaction.
    pub(super) fn run_control(
        &mut self,
        inner: &mut SqliteConnection,
        sql: &str,
    ) -> QueryResult<()> {
        self.begin_control();
        let result = inner.batch_execute(sql);
        let result = self.finish_control(result);
        self.report_wait(inner, result.as_ref().err());
        result
    }

    /// Runs a rollback: what it follows is the failure that counts, and what a lost lease makes of
    /// its last steps is no longer of interest.
    pub(super) fn run_rollback(
        &mut self,
        inner: &mut SqliteConnection,
        sql: &str,
    ) -> QueryResult<()> {
        self.begin_rollback();
        let result = inner.batch_execute(sql);
        self.translate(result)
    }

    /// A transaction or savepoint was begun or has ended: tells Diesel's own account, so that a
    /// transaction begun on the inner connection is nested in ours, and the lock.
    pub(super) fn change_depth(
        &mut self,
        inner: &mut SqliteConnection,
        change: TransactionDepthChange,
    ) -> QueryResult<()> {
        self.transaction.change_depth(change)?;
        let levels = AnsiTransactionManager::transaction_manager_status_mut(inner);
        if let TransactionManagerStatus::Valid(levels) = levels {
            // It fails only if that account is out of step already: Diesel has seen SQLite end the
            // transaction, or the caller has ended it there.
            let _ = levels.change_transaction_depth(change);
        }
        if let Some(lock) = &self.lock {
            lock.set_in_transaction(self.transaction.depth().is_some());
        }
        Ok(())
    }

    /// Why the last statement (or BEGIN, COMMIT, acquisition) failed, if the lock was the cause. A
    /// rollback since then changes nothing about it.
    pub(super) fn lock_failure(&self) -> Option<&LockError> {
        self.lock_failure.as_ref()
    }

    /// The same, if running the transaction again may succeed.
    pub(super) fn retry_cause(&self) -> Option<&LockError> {
        self.lock_failure().filter(|error| error.is_retryable())
    }

    /// From here on errors speak of these runs as well; `None`: of their own alone.
    pub(super) fn set_earlier_runs(&mut self, runs: Option<EarlierRuns>) {
        self.earlier_runs = runs;
    }

    /// Ends the holds that are left over from the connection's user.
    #[cfg(feature = "r2d2")]
    pub(super) fn end_holds(&self) {
        if let Some(lock) = self.lock() {
            lock.unpin_all();
        }
    }

    /// Whether the connection has lost a lease or met a failure of the file system, ever.
    #[cfg(feature = "r2d2")]
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken || self.lock().is_some_and(WriteLock::is_broken)
    }

    /// Whether SQLite has a transaction open, or a lease is in hand, although none is by Diesel's
    /// account: begun by a statement of the application, or on the inner connection.
    #[cfg(feature = "r2d2")]
    pub(super) fn is_in_unknown_transaction(&self, inner: &mut SqliteConnection) -> bool {
        let Some(lock) = self.lock() else {
            return false;
        };
        if lock.is_holding() {
            return true;
        }
        if lock.may_have_begun() {
            // SQLite refuses to begin a transaction in another. This one touches no file.
            if inner.batch_execute("BEGIN; ROLLBACK").is_err() {
                return true;
            }
            lock.nothing_is_begun();
        }
        false
    }

    /// Whether a statement may run: not in a transaction that was rolled back already.
    #[inline]
    pub(super) fn begin_statement(&mut self) -> QueryResult<()> {
        self.note_rollback();
        if let Transaction::Aborted(_, abort) = self.transaction.now() {
            let aborted = abort.error();
            // What ended the transaction says more, where it is known.
            let is_same = |known: &LockError| known.is_retryable() == aborted.is_retryable();
            if !self.lock_failure.as_ref().is_some_and(is_same) {
                self.lock_failure = Some(aborted.clone());
            }
            return Err(aborted.into());
        }
        self.begin_control();
        Ok(())
    }

    /// A statement ran: translates what the lock had to do with its failure.
    #[inline]
    pub(super) fn finish_statement<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let result = self.finish_control(result);
        self.note_rollback_by(result.as_ref().err());
        result
    }

    /// A statement that begins or commits a transaction is about to run.
    #[inline]
    fn begin_control(&mut self) {
        self.lock_failure = None;
        self.begin_rollback();
    }

    /// A rollback is about to run: what it follows is the failure that counts.
    #[inline]
    fn begin_rollback(&mut self) {
        if let Some(lock) = &self.lock {
            lock.statement_begins();
        }
    }

    /// A statement ran that may have committed something.
    #[inline]
    fn finish_control<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let result = self.translate(result)?;
        match self.lock().and_then(WriteLock::take_hidden_loss) {
            Some(loss) => Err(self.lock_failed(loss)),
            None => Ok(result),
        }
    }

    /// Puts the lock's error in the place of SQLite's, where it is the cause.
    fn translate<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let Some(lock) = &self.lock else {
            self.is_broken |= result.as_ref().err().is_some_and(is_failure_of_files);
            return result;
        };
        lock.statement_ended();
        if let Some(error) = lock.take_not_released() {
            self.last_lock_error = Some(error);
        }
        let Err(error) = &result else {
            return result;
        };
        let lock_error = lock.take_error();
        if let Some(forbidden) = lock.take_refused() {
            let message = Box::new(forbidden.to_string());
            return Err(Error::DatabaseError(DatabaseErrorKind::Unknown, message));
        }
        match lock_error
            .filter(|_| may_be_the_locks(error))
            .or_else(|| explain(lock, error))
        {
            Some(lock_error) => Err(self.lock_failed(lock_error)),
            None => {
                self.is_broken |= is_failure_of_files(error);
                result
            }
        }
    }

    /// Whether a statement has written in autocommit mode, so that it commits when it ends.
    pub(super) fn will_autocommit(&self) -> bool {
        self.transaction.depth().is_none() && self.lock().is_some_and(WriteLock::is_writing)
    }

    /// Whether the open transaction was rolled back, by whomever.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.lock().and_then(WriteLock::rolled_back_by).is_some()
    }

    /// Looks whether the open transaction was rolled back, on the inner connection perhaps.
    #[inline]
    pub(super) fn note_rollback(&mut self) {
        self.note_rollback_by(None);
    }

    /// If the transaction was rolled back, nothing more may happen in it.
    #[inline]
    fn note_rollback_by(&mut self, failure: Option<&Error>) {
        let Some(lock) = &self.lock else {
            return;
        };
        let Some(by) = lock.rolled_back_by() else {
            return;
        };
        if !matches!(self.transaction.now(), Transaction::Open(_)) {
            return;
        }
        let (cause, retryable) = match (by, failure) {
            (RolledBackBy::Statement, _) => (by.cause().to_owned(), false),
            (RolledBackBy::Sqlite, Some(failure)) => (failure.to_string(), is_retryable(failure)),
            (RolledBackBy::Sqlite, None) => match lock.take_error() {
                Some(error) => {
                    let told = (error.to_string(), error.is_retryable());
                    self.remember(error);
                    told
                }
                None => (by.cause().to_owned(), false),
            },
        };
        self.transaction.abort(Abort {
            by,
            cause,
            retryable,
        });
    }

    fn lock_failed(&mut self, error: LockError) -> Error {
        let error = match self.earlier_runs {
            Some(runs) => error.after(runs.since.elapsed(), runs.attempts),
            None => error,
        };
        self.remember(error.clone());
        error.into()
    }

    fn remember(&mut self, error: LockError) {
        self.lock_failure = Some(error.clone());
        self.is_broken |= error.breaks_connection();
        self.last_lock_error = Some(error);
    }
}

impl Pin {
    /// Acquires the lease, waiting for it, unless it is no longer wanted meanwhile.
    #[cfg(feature = "migrations")]
    pub(super) fn acquire_while(
        lock: Option<Arc<WriteLock>>,
        wanted: impl FnMut(&LockError, Duration) -> bool,
    ) -> Result<Option<Self>, LockError> {
        let Some(lock) = lock else {
            return Ok(Some(Self(None)));
        };
        let pin = lock.pin_while(wanted)?;
        Ok(pin.map(|pin| Self(Some((lock, pin)))))
    }

    /// Lets the lease end; why it could not be released, if it was to be.
    pub(super) fn release(mut self) -> Result<(), LockError> {
        (self.0.take()).map_or(Ok(()), |(lock, pin)| lock.try_unpin(pin))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some((lock, pin)) = self.0.take() {
            lock.unpin(pin);
        }
    }
}

#[cold]
fn wait_text(waited: Waited, lock: &WriteLock) -> String {
    format!(
        "-- waited {} ms for the write lock `{}`",
        waited.time.as_millis(),
        lock.lock_name().key
    )
}

/// What is the matter with the database's files, if that made a statement fail.
fn explain(lock: &WriteLock, error: &Error) -> Option<LockError> {
    let Error::DatabaseError(DatabaseErrorKind::Unknown, information) = error else {
        return None;
    };
    let name = lock.lock_name();
    let reason = diagnose(information.message(), &name.database, lock.file_format())?;
    Some(LockError::File {
        lock: name.clone(),
        reason,
    })
}

/// Whether SQLite could not open, read or write its files, or found in them what cannot be.
fn is_failure_of_files(error: &Error) -> bool {
    const MESSAGES: [&str; 3] = [
        "disk I/O error",
        "unable to open database file",
        "database disk image is malformed",
    ];
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::Unknown, information)
            if MESSAGES.contains(&information.message())
    )
}

/// Whether a statement failed in a way that a refusal of ours can show: Diesel keeps SQLite's
/// message (<https://sqlite.org/rescode.html>), but not its code.
fn may_be_the_locks(error: &Error) -> bool {
    const MESSAGES: [&str; 6] = [
        "database is locked",
        "disk I/O error",
        "database or disk is full",
        "unable to open database file",
        // What a stale holder may read before it notices.
        "database disk image is malformed",
        "file is not a database",
    ];
    match error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, information) => {
            MESSAGES.contains(&information.message())
        }
        _ => false,
    }
}
