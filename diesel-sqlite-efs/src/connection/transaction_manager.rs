//! Begin, commit and rollback, also of what SQLite has ended by itself.

use std::num::NonZeroU32;

use diesel::connection::{
    AnsiTransactionManager, Connection, InstrumentationEvent, SimpleConnection,
    TransactionDepthChange, TransactionManager,
};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sqlite::SqliteConnection;

use super::state::ConnectionState;
use super::transaction_state::{Abort, Transaction, is_retryable};
use crate::write_lock::RolledBackBy;

/// Begins, commits and rolls back transactions and savepoints of an
/// [`EfsSqliteConnection`](crate::EfsSqliteConnection).
///
/// It differs from Diesel's own in keeping account of what SQLite does by itself: after an I/O
/// error, such as a refused write of a lost lease, SQLite rolls the whole transaction back and
/// goes on in autocommit mode. The transaction then counts as aborted, and nothing runs in it any
/// more, until its outermost level is rolled back.
#[derive(Debug)]
pub struct EfsTransactionManager;

/// The outermost level, which is SQLite's transaction; the others are savepoints.
const OUTERMOST: NonZeroU32 = NonZeroU32::MIN;

/// The implementation of Diesel's trait, for a connection in its two parts.
impl EfsTransactionManager {
    /// For transactions that are no savepoint: fails inside a transaction.
    pub(super) fn refuse_nesting(state: &mut ConnectionState) -> QueryResult<()> {
        match state.transaction().levels().transaction_depth()? {
            Some(_) => Err(Error::AlreadyInTransaction),
            None => Ok(()),
        }
    }

    /// Begins a transaction with `sql`, or a savepoint inside one.
    pub(super) fn begin(
        inner: &mut SqliteConnection,
        state: &mut ConnectionState,
        sql: &str,
    ) -> QueryResult<()> {
        let depth = state.transaction().levels().transaction_depth()?;
        let new_depth = depth.map_or(OUTERMOST, |depth| depth.saturating_add(1));
        (inner.instrumentation())
            .on_connection_event(InstrumentationEvent::begin_transaction(new_depth));
        match depth {
            None => state.run_control(inner, sql)?,
            Some(depth) => {
                let savepoint = format!("SAVEPOINT diesel_savepoint_{depth}");
                state.run(inner, |inner| inner.batch_execute(&savepoint))?;
            }
        }
        state.change_depth(inner, TransactionDepthChange::IncreaseDepth)
    }

    pub(super) fn rollback(
        inner: &mut SqliteConnection,
        state: &mut ConnectionState,
    ) -> QueryResult<()> {
        let depth = open_levels(state)?;
        (inner.instrumentation())
            .on_connection_event(InstrumentationEvent::rollback_transaction(depth));
        state.note_rollback();
        let sql = match depth {
            OUTERMOST => "ROLLBACK".to_owned(),
            level => format!("ROLLBACK TO SAVEPOINT diesel_savepoint_{}", level.get() - 1),
        };
        if let Transaction::Aborted(_, &Abort { by, .. }) = state.transaction().now() {
            return end_aborted(inner, state, &sql, by);
        }
        let Err(error) = state.run_rollback(inner, &sql) else {
            return leave(inner, state);
        };
        if !has_ended_for_diesel(inner) {
            // Whether a transaction is still open cannot be known: a pool must not reuse it.
            state.transaction().fail();
        } else {
            abort_outer_levels(state, &error);
            leave(inner, state)?;
        }
        Err(error)
    }

    pub(super) fn commit(
        inner: &mut SqliteConnection,
        state: &mut ConnectionState,
    ) -> QueryResult<()> {
        let depth = open_levels(state)?;
        (inner.instrumentation())
            .on_connection_event(InstrumentationEvent::commit_transaction(depth));
        state.note_rollback();
        let sql = match depth {
            OUTERMOST => "COMMIT".to_owned(),
            level => format!("RELEASE SAVEPOINT diesel_savepoint_{}", level.get() - 1),
        };
        if let Transaction::Aborted(_, abort) = state.transaction().now() {
            let (by, error) = (abort.by, abort.error());
            end_aborted(inner, state, &sql, by)?;
            return Err(error.into());
        }
        let Err(commit_error) = state.run_control(inner, &sql) else {
            return leave(inner, state);
        };
        // SQLite may have rolled back, or left the transaction open (readers in the way, a deferred
        // constraint): then it is for us to end it.
        if state.is_rolled_back() {
            abort_outer_levels(state, &commit_error);
            leave(inner, state)?;
            return Err(commit_error);
        }
        match Self::rollback(inner, state) {
            Err(rollback_error) if state.transaction().now() == Transaction::InError => {
                Err(Error::RollbackErrorOnCommit {
                    rollback_error: Box::new(rollback_error),
                    commit_error: Box::new(commit_error),
                })
            }
            // There was nothing to roll back.
            Ok(()) | Err(_) => Err(commit_error),
        }
    }
}

fn open_levels(state: &mut ConnectionState) -> QueryResult<NonZeroU32> {
    let depth = state.transaction().levels().transaction_depth()?;
    depth.ok_or(Error::NotInTransaction)
}

/// Ends a level of a transaction that is rolled back already.
///
/// After a ROLLBACK of the application's own SQLite is asked all the same: its error is what
/// Diesel's connection would fail with. After one of SQLite's the caller knows from the statement
/// that failed. The closure may have begun another transaction since, by Diesel's own connection
/// underneath: nothing of that is to stay open.
fn end_aborted(
    inner: &mut SqliteConnection,
    state: &mut ConnectionState,
    sql: &str,
    by: RolledBackBy,
) -> QueryResult<()> {
    let is_outermost = state.transaction().depth() == Some(OUTERMOST);
    let result = match by {
        RolledBackBy::Statement => state.run_rollback(inner, sql),
        RolledBackBy::Sqlite if is_outermost => state.run_rollback(inner, "ROLLBACK"),
        RolledBackBy::Sqlite => Ok(()),
    };
    match result {
        Err(error) if is_outermost && !says_that_none_is_open(&error) => {
            state.transaction().fail();
            Err(error)
        }
        Err(error) if by == RolledBackBy::Statement => {
            leave(inner, state)?;
            Err(error)
        }
        Ok(()) | Err(_) => leave(inner, state),
    }
}

/// Whether SQLite refuses to end a transaction because none is open. Diesel passes its text on, and no
/// code.
fn says_that_none_is_open(error: &Error) -> bool {
    const MESSAGES: [&str; 2] = [
        "cannot commit - no transaction is active",
        "cannot rollback - no transaction is active",
    ];
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::Unknown, information)
            if MESSAGES.contains(&information.message())
    )
}

/// The end of a savepoint has failed because no transaction is open any more: the levels around it
/// have yet to end.
fn abort_outer_levels(state: &mut ConnectionState, error: &Error) {
    state.transaction().abort(Abort {
        by: RolledBackBy::Sqlite,
        cause: error.to_string(),
        retryable: is_retryable(error),
    });
}

/// Whether Diesel found, after a statement that failed, that SQLite has no transaction open. Older
/// versions of Diesel do not look.
fn has_ended_for_diesel(inner: &mut SqliteConnection) -> bool {
    let levels = AnsiTransactionManager::transaction_manager_status_mut(inner);
    matches!(levels.transaction_depth(), Ok(None))
}

/// Ends a level that SQLite has ended, or could not commit.
fn leave(inner: &mut SqliteConnection, state: &mut ConnectionState) -> QueryResult<()> {
    state.change_depth(inner, TransactionDepthChange::DecreaseDepth)
}
