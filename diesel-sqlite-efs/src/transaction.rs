//! The transaction manager: begin, commit and rollback, with an account of its own.

use std::num::NonZeroU32;
use std::time::Instant;

use diesel::connection::{
    Connection, InstrumentationEvent, SimpleConnection, TransactionDepthChange, TransactionManager,
    TransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};

use crate::connection::EfsSqliteConnection;
use crate::error::LockError;

/// Begins, commits and rolls back transactions and savepoints of an [`EfsSqliteConnection`].
///
/// It differs from Diesel's own in keeping account of what SQLite does by itself: after an I/O
/// error, such as a refused write of a lost lease, SQLite rolls the whole transaction back and
/// goes on in autocommit mode. The transaction then counts as aborted, and nothing runs in it any
/// more, until its outermost level is rolled back.
#[derive(Debug)]
pub struct EfsTransactionManager;

/// The transactions of a connection.
#[derive(Debug, Default)]
pub struct TransactionState {
    status: TransactionManagerStatus,
    aborted: Option<Aborted>,
}

/// SQLite ended the transaction by itself.
#[derive(Debug, Clone)]
struct Aborted {
    cause: String,
    retryable: bool,
}

impl TransactionState {
    /// Whether an end of a transaction has failed, so that nobody knows what is open.
    pub(crate) fn is_in_error(&self) -> bool {
        self.status.transaction_depth().is_err()
    }

    /// How many levels are open; `None` outside a transaction.
    pub(crate) fn depth(&self) -> Option<NonZeroU32> {
        self.status.transaction_depth().ok().flatten()
    }

    /// The error for whatever is still attempted in a transaction that has ended.
    pub(crate) fn aborted(&self) -> Option<LockError> {
        self.aborted.as_ref().map(|aborted| LockError::Aborted {
            cause: aborted.cause.clone(),
            retryable: aborted.retryable,
        })
    }

    pub(crate) fn abort(&mut self, cause: String, retryable: bool) {
        self.aborted.get_or_insert(Aborted { cause, retryable });
    }

    fn change_depth(&mut self, change: TransactionDepthChange) -> QueryResult<()> {
        match &mut self.status {
            TransactionManagerStatus::Valid(valid) => valid.change_transaction_depth(change)?,
            TransactionManagerStatus::InError => return Err(Error::BrokenTransactionManager),
        }
        if self.depth().is_none() {
            self.aborted = None;
        }
        Ok(())
    }
}

impl EfsTransactionManager {
    /// Runs a transaction for which the lock is taken before it begins; `limit` is until when to
    /// wait for it, if that is sooner than usual.
    pub(crate) fn locked_transaction<T, E, F>(
        conn: &mut EfsSqliteConnection,
        begin: &str,
        limit: Option<Instant>,
        f: F,
    ) -> Result<T, E>
    where
        F: FnOnce(&mut EfsSqliteConnection) -> Result<T, E>,
        E: From<Error>,
    {
        Self::refuse_nesting(conn)?;
        {
            let _until_reserved = conn.pin(limit)?;
            Self::begin(conn, begin)?;
        }
        Self::finish(conn, f)
    }

    /// For what is no savepoint: fails inside a transaction.
    pub(crate) fn refuse_nesting(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        match conn.transaction_state().status.transaction_depth()? {
            Some(_) => Err(Error::AlreadyInTransaction),
            None => Ok(()),
        }
    }

    fn begin(conn: &mut EfsSqliteConnection, sql: &str) -> QueryResult<()> {
        let depth = conn.transaction_state().status.transaction_depth()?;
        let new_depth = depth.map_or(NonZeroU32::MIN, |depth| depth.saturating_add(1));
        (conn.instrumentation())
            .on_connection_event(InstrumentationEvent::begin_transaction(new_depth));
        if depth.is_none() {
            conn.session().take_rolled_back();
            conn.run_control(sql)?;
        } else {
            conn.batch_execute(sql)?;
        }
        Self::change_depth(conn, TransactionDepthChange::IncreaseDepth)
    }

    /// Runs the transaction's closure and ends the transaction accordingly.
    fn finish<T, E, F>(conn: &mut EfsSqliteConnection, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut EfsSqliteConnection) -> Result<T, E>,
        E: From<Error>,
    {
        match f(conn) {
            Ok(value) => {
                Self::commit_transaction(conn)?;
                Ok(value)
            }
            Err(error) => match Self::rollback_transaction(conn) {
                // What made the closure fail is of more interest.
                Ok(()) | Err(Error::BrokenTransactionManager) => Err(error),
                Err(rollback_error) => Err(rollback_error.into()),
            },
        }
    }

    /// Ends a level of a transaction all of which SQLite has rolled back. The closure may have begun
    /// another since, by Diesel's own connection underneath: nothing of that is to stay open.
    fn leave_aborted(conn: &mut EfsSqliteConnection, depth: NonZeroU32) -> QueryResult<()> {
        if depth == NonZeroU32::MIN
            && let Err(error) = conn.run_rollback("ROLLBACK")
            && !error.to_string().contains("no transaction is active")
        {
            conn.transaction_state().status.set_in_error();
            return Err(error);
        }
        Self::leave(conn)
    }

    /// Ends a transaction that SQLite has ended, or could not commit.
    fn leave(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        conn.session().take_rolled_back();
        Self::change_depth(conn, TransactionDepthChange::DecreaseDepth)
    }

    fn change_depth(
        conn: &mut EfsSqliteConnection,
        change: TransactionDepthChange,
    ) -> QueryResult<()> {
        conn.transaction_state().change_depth(change)?;
        conn.depth_changed(change);
        Ok(())
    }
}

impl TransactionManager<EfsSqliteConnection> for EfsTransactionManager {
    type TransactionStateData = TransactionState;

    fn transaction<F, R, E>(conn: &mut EfsSqliteConnection, callback: F) -> Result<R, E>
    where
        F: FnOnce(&mut EfsSqliteConnection) -> Result<R, E>,
        E: From<Error>,
    {
        Self::begin_transaction(conn)?;
        Self::finish(conn, callback)
    }

    fn begin_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        match conn.transaction_state().status.transaction_depth()? {
            None => Self::begin(conn, "BEGIN"),
            Some(depth) => Self::begin(conn, &format!("SAVEPOINT diesel_savepoint_{depth}")),
        }
    }

    fn rollback_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        let depth = conn.transaction_state().status.transaction_depth()?;
        let depth = depth.ok_or(Error::NotInTransaction)?;
        (conn.instrumentation())
            .on_connection_event(InstrumentationEvent::rollback_transaction(depth));
        conn.session().note_end();
        if conn.transaction_state().aborted.is_some() {
            return Self::leave_aborted(conn, depth);
        }
        let result = match depth.get() {
            1 => conn.run_rollback("ROLLBACK"),
            level => conn.run_rollback(&format!(
                "ROLLBACK TO SAVEPOINT diesel_savepoint_{}",
                level - 1
            )),
        };
        match result {
            Ok(()) => Self::leave(conn),
            Err(error) => {
                // Whether a transaction is still open cannot be known: a pool must not reuse it.
                conn.transaction_state().status.set_in_error();
                Err(error)
            }
        }
    }

    fn commit_transaction(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        let depth = conn.transaction_state().status.transaction_depth()?;
        let depth = depth.ok_or(Error::NotInTransaction)?;
        (conn.instrumentation())
            .on_connection_event(InstrumentationEvent::commit_transaction(depth));
        conn.session().note_end();
        if let Some(aborted) = conn.transaction_state().aborted() {
            Self::leave_aborted(conn, depth)?;
            return Err(aborted.into());
        }
        let result = match depth.get() {
            1 => conn.run_control("COMMIT"),
            level => conn.run_control(&format!("RELEASE SAVEPOINT diesel_savepoint_{}", level - 1)),
        };
        let Err(commit_error) = result else {
            return Self::leave(conn);
        };
        // SQLite may have rolled back, or left the transaction open (readers in the way, a deferred
        // constraint): then it is for us to end it.
        if conn.session().take_rolled_back() {
            if depth.get() > 1 {
                let retryable = is_retryable(&commit_error);
                conn.transaction_state()
                    .abort(commit_error.to_string(), retryable);
            }
            Self::leave(conn)?;
            return Err(commit_error);
        }
        match Self::rollback_transaction(conn) {
            Ok(()) => Err(commit_error),
            Err(rollback_error) => Err(Error::RollbackErrorOnCommit {
                rollback_error: Box::new(rollback_error),
                commit_error: Box::new(commit_error),
            }),
        }
    }

    fn transaction_manager_status_mut(
        conn: &mut EfsSqliteConnection,
    ) -> &mut TransactionManagerStatus {
        &mut conn.transaction_state().status
    }
}

/// Whether running the whole transaction again is safe and can be expected to succeed.
pub(crate) fn is_retryable(error: &Error) -> bool {
    use diesel::result::DatabaseErrorKind::SerializationFailure;
    matches!(error, Error::DatabaseError(SerializationFailure, _))
}
