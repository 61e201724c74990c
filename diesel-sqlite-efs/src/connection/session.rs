//! What a connection keeps beside SQLite: its gate, its transaction, and what went wrong last.

use std::sync::Arc;
use std::time::Instant;

use diesel::result::{DatabaseErrorKind, Error, QueryResult};

use super::diagnosis::diagnose;
use crate::error::LockError;
use crate::transaction::{TransactionState, is_retryable};
use crate::vfs::gate::{Gate, Waited};

/// The connection's side of the lock.
#[derive(Debug)]
pub(crate) struct Session {
    /// `None` for databases that nobody else can write to.
    gate: Option<Arc<Gate>>,
    transaction: TransactionState,
    last_lock_error: Option<LockError>,
    /// Why the last statement failed, if the lock was the cause.
    lock_failure: Option<LockError>,
    /// An error was seen after which a new connection is safer than this one.
    is_broken: bool,
}

/// Keeps the lease until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin(Option<Arc<Gate>>);

impl Session {
    pub(crate) fn new(gate: Option<Arc<Gate>>) -> Self {
        Self {
            gate,
            transaction: TransactionState::default(),
            last_lock_error: None,
            lock_failure: None,
            is_broken: false,
        }
    }

    pub(crate) fn gate(&self) -> Option<&Gate> {
        self.gate.as_deref()
    }

    pub(crate) fn transaction(&mut self) -> &mut TransactionState {
        &mut self.transaction
    }

    pub(crate) fn last_lock_error(&self) -> Option<&LockError> {
        self.last_lock_error.as_ref()
    }

    pub(crate) fn warm_up(&self) -> Result<(), LockError> {
        let Some(gate) = &self.gate else {
            return Ok(());
        };
        gate.client().warm_up().map_err(|source| LockError::Store {
            lock: gate.lock_name().clone(),
            source,
        })
    }

    /// The lock's key and how long was waited for it since this was last asked, if at all.
    #[inline]
    pub(crate) fn take_waited(&self) -> Option<(Waited, &str)> {
        let gate = self.gate()?;
        Some((gate.take_waited()?, &gate.lock_name().key))
    }

    /// Acquires the lease and holds it until the pin is dropped, unless it is no longer wanted
    /// while this waits for it.
    #[cfg(feature = "migrations")]
    pub(crate) fn pin_while(
        gate: Option<Arc<Gate>>,
        wanted: impl FnMut() -> bool,
    ) -> Result<Option<Pin>, LockError> {
        let pinned = match &gate {
            Some(gate) => gate.pin_while(wanted)?,
            None => true,
        };
        Ok(pinned.then_some(Pin(gate)))
    }

    /// The gate, to be used while the connection runs statements.
    #[cfg(feature = "migrations")]
    pub(crate) fn shared_gate(&self) -> Option<Arc<Gate>> {
        self.gate.clone()
    }

    /// Acquires the lease, waiting for it, not beyond `limit` if there is one, and holds it until
    /// the pin is dropped.
    pub(crate) fn pin(&mut self, limit: Option<Instant>) -> QueryResult<Pin> {
        self.lock_failure = None;
        if let Some(gate) = &self.gate
            && let Err(error) = gate.pin(limit)
        {
            return Err(self.lock_failed(error));
        }
        Ok(Pin(self.gate.clone()))
    }

    /// Why the last statement (or BEGIN, COMMIT, acquisition) failed, if the lock was the cause. A
    /// rollback since then changes nothing about it.
    pub(crate) fn lock_failure(&self) -> Option<&LockError> {
        self.lock_failure.as_ref()
    }

    /// The same, if running the transaction again may succeed.
    pub(crate) fn retry_cause(&self) -> Option<&LockError> {
        self.lock_failure().filter(|error| error.is_retryable())
    }

    /// Whether the connection has lost a lease or met a failure of the file system, ever.
    #[cfg(feature = "r2d2")]
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken || self.gate().is_some_and(Gate::is_broken)
    }

    /// Whether a statement may run: not in a transaction that SQLite has ended already.
    #[inline]
    pub(crate) fn begin_statement(&mut self) -> QueryResult<()> {
        self.note_end_of_transaction(None);
        if let Some(aborted) = self.transaction.aborted() {
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
    pub(crate) fn finish_statement<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let result = self.finish_control(result);
        self.note_end_of_transaction(result.as_ref().err());
        result
    }

    /// A statement that begins or commits a transaction is about to run.
    #[inline]
    pub(crate) fn begin_control(&mut self) {
        self.lock_failure = None;
        self.begin_rollback();
    }

    /// A rollback is about to run: what it follows is the failure that counts.
    #[inline]
    pub(crate) fn begin_rollback(&mut self) {
        if let Some(gate) = &self.gate {
            gate.statement_begins();
        }
    }

    /// A statement ran that may have committed something.
    #[inline]
    pub(crate) fn finish_control<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let result = self.translate(result)?;
        match self.gate().and_then(Gate::take_hidden_loss) {
            Some(loss) => Err(self.lock_failed(loss)),
            None => Ok(result),
        }
    }

    /// Puts the lock's error in the place of SQLite's, where it is the cause.
    pub(crate) fn translate<T>(&mut self, result: QueryResult<T>) -> QueryResult<T> {
        let Some(gate) = &self.gate else {
            self.is_broken |= result.as_ref().err().is_some_and(is_failure_of_files);
            return result;
        };
        gate.statement_ended();
        if let Some(error) = gate.take_not_released() {
            self.last_lock_error = Some(error);
        }
        let Err(error) = &result else {
            return result;
        };
        let lock_error = gate.take_error();
        if let Some(forbidden) = gate.take_forbidden() {
            let message = Box::new(forbidden.to_string());
            return Err(Error::DatabaseError(DatabaseErrorKind::Unknown, message));
        }
        match lock_error
            .filter(|_| may_be_the_locks(error))
            .or_else(|| explain(gate, error))
        {
            Some(lock_error) => Err(self.lock_failed(lock_error)),
            None => {
                self.is_broken |= is_failure_of_files(error);
                result
            }
        }
    }

    /// Whether a statement has written in autocommit mode, so that it commits when it ends.
    pub(crate) fn will_autocommit(&self) -> bool {
        self.transaction.depth().is_none() && self.gate().is_some_and(Gate::is_writing)
    }

    /// A transaction or a savepoint was begun or ended.
    pub(crate) fn depth_changed(&self) {
        if let Some(gate) = &self.gate {
            gate.set_in_transaction(self.transaction.depth().is_some());
        }
    }

    /// Whether SQLite has rolled back since this was last asked.
    pub(crate) fn take_rolled_back(&self) -> bool {
        self.gate().is_some_and(Gate::take_rolled_back)
    }

    /// Looks whether SQLite has ended the transaction, through [`sqlite`] perhaps.
    ///
    /// [`sqlite`]: crate::EfsSqliteConnection::sqlite
    pub(crate) fn note_end(&mut self) {
        self.note_end_of_transaction(None);
    }

    /// If SQLite has ended the transaction by itself, nothing more may happen in it.
    #[inline]
    fn note_end_of_transaction(&mut self, cause: Option<&Error>) {
        let Some(gate) = &self.gate else {
            return;
        };
        if !gate.take_rolled_back() || self.transaction.depth().is_none() {
            return;
        }
        let (cause, retryable) = match (cause, gate.take_error()) {
            (Some(cause), _) => (cause.to_string(), is_retryable(cause)),
            (None, Some(error)) => {
                let told = (error.to_string(), error.is_retryable());
                self.remember(error);
                told
            }
            (None, None) => ("SQLite rolled it back".to_owned(), false),
        };
        self.transaction.abort(cause, retryable);
    }

    pub(crate) fn lock_failed(&mut self, error: LockError) -> Error {
        self.remember(error.clone());
        error.into()
    }

    fn remember(&mut self, error: LockError) {
        self.lock_failure = Some(error.clone());
        self.is_broken |= error.breaks_connection();
        self.last_lock_error = Some(error);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.unpin();
        }
    }
}

/// What is the matter with the database's files, if that made a statement fail.
fn explain(gate: &Gate, error: &Error) -> Option<LockError> {
    let Error::DatabaseError(DatabaseErrorKind::Unknown, information) = error else {
        return None;
    };
    let lock = gate.lock_name();
    let reason = diagnose(information.message(), &lock.database, gate.file_format())?;
    let lock = lock.clone();
    Some(LockError::File { lock, reason })
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
