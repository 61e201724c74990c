//! Transactions end as they should: when they are nested, aborted, interrupted, or lose the lease.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{
    InstrumentationEvent, LoadConnection, SimpleConnection, TransactionManager,
};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::BigInt;
use diesel::sqlite::Sqlite;
use diesel_sqlite_efs::{
    ConnectError, EfsConfig, EfsSqliteConnection, EfsTransactionManager, LockError, StoreError,
};

use crate::fixtures::hosts::{
    CHANGE, Call, HostsFixture, LEASE, VERY_LONG, assert_lock_error, assert_serialization_failure,
    assert_usable, committed, connect, execute, insert, manual_clock, numbers,
};

const NOTHING: [i64; 0] = [];

/// The shortest that SQLite waits for file locks where a test wants it to give up.
const BRIEF: Duration = Duration::from_millis(50);

/// What a test makes a transaction fail with.
fn roll_back<T>() -> QueryResult<T> {
    Err(Error::RollbackTransaction)
}

#[test]
fn an_inner_rollback_undoes_the_inner_changes_alone() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        let inner: QueryResult<()> = conn.transaction(|conn| {
            insert(conn, 2)?;
            conn.transaction(|conn| insert(conn, 3))?;
            roll_back()
        });
        assert_eq!(inner, Err(Error::RollbackTransaction));
        insert(conn, 4)
    });
    assert_eq!(result, Ok(1));
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_committed(&[1, 4]);
}

#[test]
fn an_outer_rollback_undoes_what_inner_transactions_committed() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result: QueryResult<()> = conn.transaction(|conn| {
        conn.transaction(|conn| insert(conn, 1))?;
        insert(conn, 2)?;
        roll_back()
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
}

#[test]
fn savepoints_of_the_caller_work() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    // Outside a transaction a savepoint begins one, and its release commits it.
    let result = conn.batch_execute(
        "SAVEPOINT a; INSERT INTO t (n) VALUES (1);
         SAVEPOINT b; INSERT INTO t (n) VALUES (2); ROLLBACK TO b; RELEASE b",
    );
    assert_eq!(result, Ok(()));
    assert!(fixture.item().is_some());
    assert_eq!(conn.batch_execute("RELEASE a"), Ok(()));
    fixture.assert_committed(&[1]);
}

#[test]
fn a_script_may_begin_and_commit_by_itself() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let script = "BEGIN IMMEDIATE;
                  INSERT INTO t (n) VALUES (1); INSERT INTO t (n) VALUES (2);
                  COMMIT;
                  BEGIN; DELETE FROM t; ROLLBACK";
    assert_eq!(conn.batch_execute(script), Ok(()));
    assert_eq!(host.store.take_calls(), [CHANGE, CHANGE].concat());
    fixture.assert_committed(&[1, 2]);
}

#[test]
fn begin_commit_and_rollback_work_as_queries() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let mut run = |statement| execute(&mut conn, statement).map(drop);
    for (end, lease_is_held) in [("COMMIT", true), ("ROLLBACK", true), ("END", true)] {
        assert_eq!(run("BEGIN"), Ok(()));
        assert_eq!(fixture.item(), None);
        assert_eq!(run("INSERT INTO t (n) VALUES (1)"), Ok(()));
        assert_eq!(fixture.item().is_some(), lease_is_held);
        assert_eq!(run(end), Ok(()));
        fixture.assert_nothing_left();
    }
    assert_eq!(committed(&fixture), [1, 1]);
}

#[test]
fn begin_and_rollback_as_queries_are_seen_by_nobody_else() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    assert_eq!(execute(&mut conn, "BEGIN"), Ok(0));
    assert_eq!(insert(&mut conn, 1), Ok(1));
    assert_eq!(committed(&fixture), NOTHING);
    assert_eq!(execute(&mut conn, "ROLLBACK").map(drop), Ok(()));
    assert_eq!(committed(&fixture), NOTHING);
}

#[test]
fn a_rollback_by_statement_inside_a_transaction_aborts_it() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        conn.batch_execute("ROLLBACK")?;
        let ignored = insert(conn, 2);
        assert!(ignored.is_err(), "{ignored:?}");
        Ok::<_, Error>(())
    });
    assert!(result.is_err(), "{result:?}");
    let result = conn.transaction(|conn| {
        let ignored = conn.batch_execute("ROLLBACK; INSERT INTO t (n) VALUES (3)");
        assert!(ignored.is_err(), "{ignored:?}");
        let ignored = conn.batch_execute("BEGIN; INSERT INTO t (n) VALUES (4); COMMIT");
        assert!(ignored.is_err(), "{ignored:?}");
        Ok::<_, Error>(())
    });
    assert!(result.is_err(), "{result:?}");
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
}

/// What a transaction comes to whose closure runs `script` and then fails or succeeds.
fn after_a_script<C>(conn: &mut C, script: &str, end: QueryResult<()>) -> QueryResult<()>
where
    C: Connection<Backend = Sqlite>,
{
    conn.batch_execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER)")?;
    conn.transaction(|conn| {
        conn.batch_execute("INSERT INTO t (n) VALUES (1)")?;
        conn.batch_execute(script)?;
        end
    })
}

#[test]
fn a_rollback_after_one_by_statement_fails_as_with_diesels_own_connection() {
    let fixture = HostsFixture::new();
    let mut plain = SqliteConnection::establish(":memory:").expect("a connection");
    for script in ["ROLLBACK", "rollback transaction", "ROLLBACK; SELECT 1"] {
        let expected = after_a_script(&mut plain, script, Err(Error::NotFound));
        let is_sqlites = matches!(expected, Err(Error::DatabaseError(..)));
        assert!(is_sqlites, "{script}: {expected:?}");
        // What older versions of Diesel do not get over.
        plain = SqliteConnection::establish(":memory:").expect("a connection");
        for mut conn in [
            fixture.host().connect(),
            connect(&EfsConfig::new(":memory:")),
        ] {
            let result = after_a_script(&mut conn, script, Err(Error::NotFound));
            assert_eq!(result, expected, "{script}");
            assert_eq!(numbers(&mut conn, "SELECT n FROM t"), Ok(vec![]));
        }
        fixture.assert_nothing_left();
    }
}

#[test]
fn a_commit_after_a_rollback_by_statement_fails_with_sqlites_error() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let result = after_a_script(&mut conn, "ROLLBACK", Ok(()));
    let Err(Error::DatabaseError(DatabaseErrorKind::Unknown, information)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(
        information.message(),
        "cannot commit - no transaction is active"
    );
    let nested: QueryResult<()> = conn.transaction(|conn| {
        let inner = after_a_script(conn, "ROLLBACK", Err(Error::NotFound));
        assert!(matches!(inner, Err(Error::DatabaseError(..))), "{inner:?}");
        assert!(insert(conn, 2).is_err());
        roll_back()
    });
    assert!(
        matches!(nested, Err(Error::DatabaseError(..))),
        "{nested:?}"
    );
    assert_eq!(conn.transaction(|conn| insert(conn, 3)), Ok(1));
    fixture.assert_committed(&[3]);
}

#[test]
fn a_rollback_of_sqlites_own_is_not_taken_for_one_by_statement() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    // A ROLLBACK was prepared in the same transaction, but none was run.
    let result: QueryResult<()> = conn.transaction(|conn| {
        execute(conn, "EXPLAIN ROLLBACK")?;
        execute(conn, "INSERT INTO t VALUES (1, 1)")?;
        let conflict = execute(conn, "INSERT OR ROLLBACK INTO t VALUES (1, 2)");
        assert!(conflict.is_err(), "{conflict:?}");
        roll_back()
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
}

/// How a lease ends before its transaction does.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The process stood still past its lease.
    Frozen,
    /// Another took the lease over while our clocks stood still.
    TakenOver,
    /// Somebody deleted the item.
    Deleted,
}

/// A connection whose transactions lose their lease when it is told to.
struct Loser {
    fixture: HostsFixture,
    clock: diesel_sqlite_efs::ManualClock,
    loss: Loss,
}

impl Loser {
    const ALL: [Loss; 3] = [Loss::Frozen, Loss::TakenOver, Loss::Deleted];

    fn new(loss: Loss) -> Self {
        Self {
            fixture: HostsFixture::with_table(),
            clock: manual_clock(),
            loss,
        }
    }

    fn connect(&self) -> EfsSqliteConnection {
        connect(&self.fixture.host().config().clock(self.clock.clock()))
    }

    fn lose(&self) {
        assert!(self.fixture.item().is_some(), "a lease to be lost");
        match self.loss {
            Loss::Frozen => self.clock.advance(LEASE),
            Loss::TakenOver => self.fixture.give_lease_to_another(),
            Loss::Deleted => self.fixture.remove_item(),
        }
    }

    /// Nothing but what was there before, the other's lease untouched, and once that has ended
    /// the same connection writes again.
    fn assert_no_harm_done(&self, conn: &mut EfsSqliteConnection, expected: &[i64]) {
        let item = self.fixture.item();
        match self.loss {
            Loss::Frozen | Loss::Deleted => assert_eq!(item, None),
            Loss::TakenOver => {
                assert_eq!(item.map(|item| item.lock_id), Some("of-another".into()));
                // A journal that became hot is rolled back under a lease alone.
                self.fixture.remove_item();
            }
        }
        assert_eq!(committed(&self.fixture), expected, "{:?}", self.loss);
        assert_eq!(insert(conn, 100), Ok(1), "{:?}", self.loss);
        assert_eq!(committed(&self.fixture), [expected, &[100]].concat());
        self.fixture.assert_nothing_left();
    }
}

#[test]
fn a_commit_without_the_lease_rolls_back() {
    for loss in Loser::ALL {
        let loser = Loser::new(loss);
        let mut conn = loser.connect();
        let result = conn.transaction(|conn| {
            insert(conn, 1)?;
            loser.lose();
            Ok(())
        });
        assert_serialization_failure(result);
        assert_lock_error!(conn, LeaseLost);
        loser.assert_no_harm_done(&mut conn, &[]);
    }
}

#[test]
fn a_commit_without_the_lease_rolls_back_in_every_form() {
    let forms: [fn(&mut EfsSqliteConnection) -> QueryResult<()>; 4] = [
        |conn| execute(conn, "COMMIT").map(drop),
        |conn| conn.batch_execute("COMMIT"),
        |conn| conn.batch_execute("INSERT INTO t (n) VALUES (2); COMMIT"),
        |conn| conn.batch_execute("RELEASE s; COMMIT"),
    ];
    for loss in Loser::ALL {
        for commit in forms {
            let loser = Loser::new(loss);
            let mut conn = loser.connect();
            let begin = "BEGIN; SAVEPOINT s; INSERT INTO t (n) VALUES (1)";
            assert_eq!(conn.batch_execute(begin), Ok(()));
            loser.lose();
            assert_serialization_failure(commit(&mut conn));
            assert_lock_error!(conn, LeaseLost);
            loser.assert_no_harm_done(&mut conn, &[]);
        }
    }
}

#[test]
fn a_reader_before_a_hot_journal_tells_how_long_it_waited_for_whom() {
    let loser = Loser::new(Loss::TakenOver);
    let mut conn = loser.connect();
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        loser.lose();
        Ok(())
    });
    assert_serialization_failure(result);
    let fixture = &loser.fixture;
    assert!(fixture.scratch().journal().exists());

    let timeout = 4 * BRIEF;
    let refused = EfsSqliteConnection::connect(&fixture.host().config().lock_timeout(timeout));
    let Err(ConnectError::Lock(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.is_retryable());
    let LockError::Busy {
        holder,
        waited,
        attempts,
        ..
    } = error
    else {
        panic!("{error}");
    };
    let name = holder.and_then(|holder| holder.name);
    assert_eq!(name.as_deref(), Some("another host"));
    assert!(waited >= timeout / 4, "{waited:?}");
    assert!(attempts > 1, "{attempts}");

    // The journal is still there for whoever gets the lease.
    fixture.remove_item();
    assert_eq!(committed(fixture), NOTHING);
    fixture.assert_nothing_left();
}

#[test]
fn a_rollback_without_the_lease_succeeds_and_touches_nothing() {
    for loss in Loser::ALL {
        let loser = Loser::new(loss);
        let mut conn = loser.connect();
        let result: QueryResult<()> = conn.transaction(|conn| {
            insert(conn, 1)?;
            loser.lose();
            roll_back()
        });
        assert_eq!(result, Err(Error::RollbackTransaction), "{loss:?}");
        loser.assert_no_harm_done(&mut conn, &[]);
    }
}

#[test]
fn nothing_that_a_closure_does_after_a_swallowed_loss_reaches_the_database() {
    let loser = Loser::new(Loss::Frozen);
    let mut conn = loser.connect();
    assert_eq!(conn.batch_execute("CREATE TABLE u (n INTEGER)"), Ok(()));
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        loser.lose();
        // The first page that is not in the journal yet: its write is refused.
        assert_serialization_failure(execute(conn, "INSERT INTO u VALUES (2)"));
        assert_lock_error!(conn, LeaseLost);
        assert_serialization_failure(insert(conn, 3));
        assert_serialization_failure(conn.batch_execute("INSERT INTO t (n) VALUES (4)"));
        assert_serialization_failure(numbers(conn, "INSERT INTO t (n) VALUES (5) RETURNING n"));
        assert_serialization_failure(numbers(conn, "SELECT n FROM t"));
        let inner = conn.transaction(|conn| insert(conn, 6));
        assert_serialization_failure(inner);
        Ok(())
    });
    assert_serialization_failure(result);
    loser.assert_no_harm_done(&mut conn, &[]);
}

#[test]
fn a_loss_swallowed_in_an_inner_transaction_ends_the_outer_one() {
    let loser = Loser::new(Loss::Frozen);
    let mut conn = loser.connect();
    assert_eq!(conn.batch_execute("CREATE TABLE u (n INTEGER)"), Ok(()));
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        let inner = conn.transaction(|conn| {
            insert(conn, 2)?;
            loser.lose();
            execute(conn, "INSERT INTO u VALUES (3)")
        });
        assert_serialization_failure(inner);
        // Another level, opened and closed after the end.
        let inner = conn.transaction(|_| Ok::<_, Error>(()));
        assert_serialization_failure(inner);
        assert_serialization_failure(insert(conn, 4));
        Ok(())
    });
    assert_serialization_failure(result);
    loser.assert_no_harm_done(&mut conn, &[]);
}

#[test]
fn a_loss_seen_through_the_inner_connection_ends_the_transaction_too() {
    let loser = Loser::new(Loss::Frozen);
    let mut conn = loser.connect();
    assert_eq!(conn.batch_execute("CREATE TABLE u (n INTEGER)"), Ok(()));
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        loser.lose();
        let ignored = conn.sqlite_mut().batch_execute("INSERT INTO u VALUES (2)");
        assert!(ignored.is_err(), "{ignored:?}");
        assert_serialization_failure(insert(conn, 3));
        assert_lock_error!(conn, LeaseLost);
        Ok::<_, Error>(())
    });
    assert_serialization_failure(result);
    loser.assert_no_harm_done(&mut conn, &[]);
}

#[test]
fn an_error_of_sqlite_that_ends_the_transaction_ends_it_for_the_closure() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let result = conn.transaction(|conn| {
        execute(conn, "INSERT INTO t VALUES (1, 1)")?;
        let conflict = execute(conn, "INSERT OR ROLLBACK INTO t VALUES (1, 2)");
        let is_conflict = matches!(
            conflict,
            Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))
        );
        assert!(is_conflict, "{conflict:?}");
        let ignored = insert(conn, 3);
        assert!(ignored.is_err(), "{ignored:?}");
        let ignored = conn.transaction(|conn| insert(conn, 4));
        assert!(ignored.is_err(), "{ignored:?}");
        Ok::<_, Error>(())
    });
    assert!(result.is_err(), "{result:?}");
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
}

#[test]
fn a_transaction_that_a_constraint_ended_is_not_called_retryable() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    // An earlier transaction failed for the lock's sake.
    fixture.give_lease_to_another();
    conn.set_lock_timeout(BRIEF);
    assert_serialization_failure(insert(&mut conn, 0));
    fixture.remove_item();

    let result = conn.transaction(|conn| {
        execute(conn, "INSERT INTO t VALUES (1, 1)")?;
        let conflict = execute(conn, "INSERT OR ROLLBACK INTO t VALUES (1, 2)");
        assert!(conflict.is_err(), "{conflict:?}");
        Ok::<_, Error>(())
    });
    let Err(Error::DatabaseError(kind, information)) = result else {
        panic!("{result:?}");
    };
    assert!(matches!(kind, DatabaseErrorKind::Unknown), "{kind:?}");
    assert!(
        information.message().contains("UNIQUE constraint failed"),
        "{}",
        information.message()
    );
}

#[test]
fn the_inner_connection_writes_nothing_either_once_the_transaction_has_ended() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.transaction(|conn| {
        execute(conn, "INSERT INTO t VALUES (1, 1)")?;
        let conflict = execute(conn, "INSERT OR ROLLBACK INTO t VALUES (1, 2)");
        assert!(conflict.is_err(), "{conflict:?}");
        host.store.take_calls();
        let write = "INSERT INTO t (n) VALUES (3)";
        for script in [write, "BEGIN IMMEDIATE"] {
            let ignored = conn.sqlite_mut().batch_execute(script);
            assert!(ignored.is_err(), "{script}: {ignored:?}");
        }
        let inner = conn.sqlite_mut();
        let ignored = inner.transaction(|inner| inner.batch_execute(write));
        assert!(ignored.is_err(), "{ignored:?}");
        assert_eq!(host.store.take_calls(), []);
        Ok::<_, Error>(())
    });
    assert!(result.is_err(), "{result:?}");
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
    assert_eq!(conn.sqlite_mut().batch_execute("DELETE FROM t"), Ok(()));
}

#[test]
fn a_transaction_of_the_inner_connection_is_a_savepoint_of_the_outer_one() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let add = |inner: &mut SqliteConnection, n: i32| {
        inner.batch_execute(&format!("INSERT INTO t (n) VALUES ({n})"))
    };
    let result: QueryResult<()> = conn.transaction(|conn| {
        conn.sqlite_mut().transaction(|inner| add(inner, 1))?;
        let undone: QueryResult<()> = conn.sqlite_mut().transaction(|inner| {
            add(inner, 2)?;
            roll_back()
        });
        assert_eq!(undone, Err(Error::RollbackTransaction));
        conn.transaction(|conn| {
            conn.sqlite_mut().transaction(|inner| add(inner, 3))?;
            insert(conn, 4)
        })?;
        Ok(())
    });
    assert_eq!(result, Ok(()));
    fixture.assert_committed(&[1, 3, 4]);
    // And one of its own where there is none.
    let alone = conn.sqlite_mut().transaction(|inner| add(inner, 5));
    assert_eq!(alone, Ok(()));
    fixture.assert_committed(&[1, 3, 4, 5]);
}

#[test]
fn a_returned_row_is_committed_or_an_error() {
    let insert = "INSERT INTO t (n) VALUES (1), (2) RETURNING n";
    let forms: [fn(&mut EfsSqliteConnection, &str) -> QueryResult<()>; 5] = [
        |conn, insert| sql::<BigInt>(insert).get_result::<i64>(conn).map(drop),
        |conn, insert| sql::<BigInt>(insert).load::<i64>(conn).map(drop),
        |conn, insert| execute(conn, insert).map(drop),
        |conn, insert| conn.batch_execute(insert),
        |conn, insert| {
            let mut rows = conn.load(sql::<BigInt>(insert))?;
            let first = rows.next().expect("a row or an error");
            first.map(drop)
        },
    ];
    for run in forms {
        let fixture = HostsFixture::with_table();
        let host = fixture.host();
        let mut conn = host.connect();
        host.store.before(Call::Confirm, fixture.stealing());
        assert_serialization_failure(run(&mut conn, insert));
        host.store.assert_fault_was_reached();
        assert_lock_error!(conn, LeaseLost);
        fixture.remove_item();
        assert_eq!(committed(&fixture), NOTHING);
        assert_eq!(run(&mut conn, insert), Ok(()));
        fixture.assert_committed(&[1, 2]);
    }
}

#[test]
fn a_returned_row_is_committed_or_an_error_by_this_hosts_clocks_too() {
    diesel::define_sql_function! { fn freeze() -> diesel::sql_types::Integer; }
    let forms: [fn(&mut EfsSqliteConnection, &str) -> QueryResult<()>; 3] = [
        |conn, insert| sql::<BigInt>(insert).get_result::<i64>(conn).map(drop),
        |conn, insert| sql::<BigInt>(insert).load::<i64>(conn).map(drop),
        |conn, insert| execute(conn, insert).map(drop),
    ];
    for run in forms {
        let fixture = HostsFixture::with_table();
        let clock = manual_clock();
        let mut conn = connect(&fixture.host().config().clock(clock.clock()));
        // The rows are written when RETURNING is evaluated, and not committed yet.
        freeze_utils::register_impl(conn.sqlite_mut(), move || {
            clock.advance(LEASE);
            0
        })
        .expect("a function");
        let insert = "INSERT INTO t (n) VALUES (1) RETURNING freeze()";
        assert_serialization_failure(run(&mut conn, insert));
        assert_lock_error!(conn, LeaseLost);
        assert_eq!(committed(&fixture), NOTHING);
        assert_eq!(fixture.item(), None);
        assert_usable(&mut conn);
        fixture.assert_nothing_left();
    }
}

#[test]
fn a_returning_statement_is_run_once_however_its_rows_are_taken() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let query = || sql::<BigInt>("INSERT INTO t (n) VALUES (1), (2) RETURNING n");
    let mut rows = conn.load(query()).expect("rows");
    assert_eq!(rows.by_ref().count(), 2);
    assert!(rows.next().is_none(), "an end stays an end");
    drop(rows);
    assert_eq!(host.store.take_calls(), CHANGE);
    assert_eq!(query().load::<i64>(&mut conn), Ok(vec![1, 2]));
    assert_eq!(host.store.take_calls(), CHANGE);
    // Inside a transaction rows come as SQLite makes them, and no more of them are made.
    let result = conn.transaction(|conn| {
        let mut rows = conn.load(query())?;
        assert_eq!(rows.by_ref().count(), 2);
        assert!(rows.next().is_none(), "an end stays an end");
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    assert_eq!(committed(&fixture), [1, 2, 1, 2, 1, 2]);
}

#[test]
fn a_query_that_is_dropped_half_way_leaves_no_lock() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    assert_eq!(
        conn.batch_execute("INSERT INTO t (n) VALUES (1), (2)"),
        Ok(())
    );
    let mut rows = conn.load(sql::<BigInt>("SELECT n FROM t")).expect("rows");
    assert!(matches!(rows.next(), Some(Ok(_))));
    drop(rows);
    // A SHARED lock that was still held would keep this commit waiting until it fails.
    let mut other = connect(&fixture.host().config().lock_timeout(BRIEF));
    assert_eq!(insert(&mut other, 3), Ok(1));
}

#[test]
fn a_commit_that_a_deferred_constraint_refuses_ends_the_transaction() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let schema = "PRAGMA foreign_keys = ON;
                  CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)";
    assert_eq!(conn.batch_execute(schema), Ok(()));
    host.store.take_calls();
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        execute(conn, "INSERT INTO child VALUES (99)")
    });
    let is_violation = matches!(
        result,
        Err(Error::DatabaseError(
            DatabaseErrorKind::ForeignKeyViolation,
            _
        ))
    );
    assert!(is_violation, "{result:?}");
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_committed(&NOTHING);
    assert_usable(&mut conn);
}

#[test]
fn a_writer_without_this_crate_is_waited_for_no_longer_than_the_timeout() {
    let fixture = HostsFixture::with_table();
    let mut other =
        SqliteConnection::establish(&fixture.scratch().database().display().to_string())
            .expect("a connection of Diesel's own");
    assert_eq!(other.batch_execute("BEGIN IMMEDIATE"), Ok(()));
    let mut conn = fixture.host().connect();
    conn.set_lock_timeout(BRIEF);
    for _ in 0..2 {
        // Each attempt is granted the lease, and finds the file locked.
        assert_serialization_failure(insert(&mut conn, 1));
        assert_lock_error!(conn, FileLocked);
        assert_eq!(fixture.item(), None);
    }
    // Also by Diesel's own connection, which says when a statement begins to nobody.
    for _ in 0..2 {
        let refused = conn
            .sqlite_mut()
            .batch_execute("INSERT INTO t (n) VALUES (1)");
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(other.batch_execute("COMMIT"), Ok(()));
    let granted = conn
        .sqlite_mut()
        .batch_execute("INSERT INTO t (n) VALUES (1)");
    assert_eq!(granted, Ok(()));
    assert_eq!(insert(&mut conn, 2), Ok(1));
    fixture.assert_committed(&[1, 2]);
}

#[test]
fn a_commit_that_readers_keep_waiting_ends_the_transaction() {
    let fixture = HostsFixture::with_table();
    let mut reader = fixture.host().connect();
    assert_eq!(reader.batch_execute("BEGIN; SELECT * FROM t"), Ok(()));

    let mut conn = connect(&fixture.host().config().lock_timeout(BRIEF));
    let in_a_transaction = conn.transaction(|conn| insert(conn, 1));
    assert_serialization_failure(in_a_transaction);
    assert_lock_error!(conn, FileLocked);
    fixture.assert_nothing_left();
    let by_itself = insert(&mut conn, 2);
    assert_serialization_failure(by_itself);
    fixture.assert_nothing_left();
    let returning = numbers(&mut conn, "INSERT INTO t (n) VALUES (3) RETURNING n");
    assert_serialization_failure(returning);
    fixture.assert_nothing_left();

    assert_eq!(reader.batch_execute("COMMIT"), Ok(()));
    assert_usable(&mut conn);
    assert_eq!(committed(&fixture), NOTHING);
}

#[test]
fn a_commit_that_readers_keep_waiting_does_not_end_with_write_lock() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut reader = fixture.host().connect();
    let mut conn = connect(&host.config().lock_timeout(BRIEF));
    let result = conn.with_write_lock(|conn| {
        reader.batch_execute("BEGIN; SELECT * FROM t")?;
        assert_serialization_failure(conn.transaction(|conn| insert(conn, 1)));
        assert!(fixture.item().is_some());
        assert!(!fixture.scratch().journal().exists());
        reader.batch_execute("COMMIT")?;
        conn.transaction(|conn| insert(conn, 2))
    });
    assert_eq!(result, Ok(1));
    // One for the rollback, one for the commit.
    let calls = [Call::Acquire, Call::Confirm, Call::Confirm, Call::Release];
    assert_eq!(host.store.take_calls(), calls);
    fixture.assert_committed(&[2]);
}

#[test]
fn a_commit_by_statement_that_readers_keep_waiting_may_be_tried_again() {
    let fixture = HostsFixture::with_table();
    let mut reader = fixture.host().connect();
    assert_eq!(reader.batch_execute("BEGIN; SELECT * FROM t"), Ok(()));

    // As SQLite has it: the transaction stays open, and so does its lease.
    let mut conn = connect(&fixture.host().config().lock_timeout(BRIEF));
    let script = "BEGIN; INSERT INTO t (n) VALUES (1)";
    assert_eq!(conn.batch_execute(script), Ok(()));
    assert_serialization_failure(conn.batch_execute("COMMIT"));
    assert!(fixture.item().is_some());

    assert_eq!(reader.batch_execute("COMMIT"), Ok(()));
    assert_eq!(conn.batch_execute("COMMIT"), Ok(()));
    fixture.assert_committed(&[1]);
}

#[test]
fn a_snapshot_that_is_out_of_date_cannot_be_written_over() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let config = host.config_without_file_locks().lock_timeout(VERY_LONG);
    let mut conn = connect(&config);
    let mut other = fixture.host().connect_without_file_locks();
    assert_eq!(insert(&mut other, 10), Ok(1));

    let increment = |conn: &mut EfsSqliteConnection| execute(conn, "UPDATE t SET n = n + 1");
    let result = conn.transaction(|conn| {
        assert_eq!(numbers(conn, "SELECT n FROM t")?, [10]);
        assert_eq!(increment(&mut other), Ok(1));
        let error = increment(conn);
        fixture.assert_nothing_left();
        error
    });
    assert_serialization_failure(result);
    assert_lock_error!(conn, StaleSnapshot);
    assert_eq!(conn.lock_stats().waits, 0);

    let again = conn.transaction(|conn| {
        assert_eq!(numbers(conn, "SELECT n FROM t")?, [11]);
        increment(conn)
    });
    assert_eq!(again, Ok(1));
    fixture.assert_committed(&[12]);
}

#[test]
fn a_transaction_that_has_read_does_not_wait_for_the_lease() {
    let fixture = HostsFixture::with_table();
    let mut conn = connect(&fixture.host().config().lock_timeout(VERY_LONG));
    let mut other = fixture.host().connect();
    assert_eq!(other.batch_execute("BEGIN IMMEDIATE"), Ok(()));

    let result = conn.transaction(|conn| {
        numbers(conn, "SELECT n FROM t")?;
        insert(conn, 1)
    });
    assert_serialization_failure(result);
    assert_lock_error!(conn, Busy);
    assert_eq!(conn.lock_stats().waits, 0);

    assert_eq!(other.batch_execute("COMMIT"), Ok(()));
    let again = conn.transaction(|conn| {
        numbers(conn, "SELECT n FROM t")?;
        insert(conn, 1)
    });
    assert_eq!(again, Ok(1));
    fixture.assert_nothing_left();
}

#[test]
fn a_stale_snapshot_whose_error_is_swallowed_still_changes_nothing() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect_without_file_locks();
    let mut other = fixture.host().connect_without_file_locks();
    let result = conn.transaction(|conn| {
        numbers(conn, "SELECT n FROM t")?;
        assert_eq!(insert(&mut other, 1), Ok(1));
        // SQLite keeps the transaction open: its reads stay what they were, no write succeeds.
        assert_serialization_failure(insert(conn, 2));
        assert_serialization_failure(insert(conn, 3));
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    fixture.assert_committed(&[1]);
}

#[test]
fn transactions_begun_with_the_lock_take_it_before_they_begin() {
    type Transaction =
        fn(&mut EfsSqliteConnection, &dyn Fn(&mut EfsSqliteConnection)) -> QueryResult<()>;
    let kinds: [(&str, Transaction); 2] = [
        ("BEGIN IMMEDIATE", |conn, body| {
            conn.immediate_transaction(|conn| {
                body(conn);
                insert(conn, 1).map(drop)
            })
        }),
        ("BEGIN EXCLUSIVE", |conn, body| {
            conn.exclusive_transaction(|conn| {
                body(conn);
                insert(conn, 1).map(drop)
            })
        }),
    ];
    for (begin, transaction) in kinds {
        let fixture = HostsFixture::with_table();
        let host = fixture.host();
        let mut conn = host.connect();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, store) = (seen.clone(), host.store.clone());
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                log.lock()
                    .expect("no panic")
                    .push((query.to_string(), store.take_calls()));
            }
        });
        let result = transaction(&mut conn, &|conn| {
            assert!(fixture.item().is_some());
            let nested = conn.immediate_transaction(|_| Ok::<_, Error>(()));
            assert_eq!(nested, Err(Error::AlreadyInTransaction));
        });
        assert_eq!(result, Ok(()));
        let seen = seen.lock().expect("no panic");
        assert_eq!(seen[0], (begin.to_owned(), vec![Call::Acquire]));
        assert_eq!(host.store.take_calls(), CHANGE[1..]);
        fixture.assert_committed(&[1]);
    }
}

#[test]
fn with_write_lock_is_one_lease_over_several_transactions() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.with_write_lock(|conn| {
        assert_eq!(host.store.take_calls(), [Call::Acquire]);
        conn.transaction(|conn| insert(conn, 1))?;
        assert!(fixture.item().is_some());
        numbers(conn, "SELECT n FROM t")?;
        let rolled_back: QueryResult<()> = conn.transaction(|conn| {
            insert(conn, 2)?;
            roll_back()
        });
        assert_eq!(rolled_back, Err(Error::RollbackTransaction));
        insert(conn, 3)
    });
    assert_eq!(result, Ok(1));
    let confirmed = [Call::Confirm, Call::Confirm, Call::Confirm, Call::Release];
    assert_eq!(host.store.take_calls(), confirmed);
    fixture.assert_committed(&[1, 3]);
}

#[test]
fn with_write_lock_nests_and_the_outermost_releases() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.with_write_lock(|conn| {
        conn.with_write_lock(|conn| insert(conn, 1))?;
        assert!(fixture.item().is_some());
        conn.immediate_transaction(|conn| insert(conn, 2))?;
        assert!(fixture.item().is_some());
        let failed: QueryResult<()> = conn.with_write_lock(|_| roll_back());
        assert_eq!(failed, Err(Error::RollbackTransaction));
        assert!(fixture.item().is_some());
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    let calls = [Call::Acquire, Call::Confirm, Call::Confirm, Call::Release];
    assert_eq!(host.store.take_calls(), calls);
    fixture.assert_nothing_left();
}

/// It might have to wait, with a read lock that would keep the holder from committing.
#[test]
fn with_write_lock_inside_a_transaction_is_refused_without_asking() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.transaction(|conn| {
        numbers(conn, "SELECT n FROM t")?;
        let refused = conn.with_write_lock(|conn| insert(conn, 1));
        assert_eq!(refused, Err(Error::AlreadyInTransaction));
        assert_eq!(host.store.take_calls(), []);
        insert(conn, 2)
    });
    assert_eq!(result, Ok(1));
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_committed(&[2]);
}

#[test]
fn a_lease_lost_under_with_write_lock_fails_every_further_write_in_it() {
    let loser = Loser::new(Loss::Frozen);
    let mut conn = loser.connect();
    let result = conn.with_write_lock(|conn| {
        insert(conn, 1)?;
        loser.lose();
        assert_serialization_failure(insert(conn, 2));
        assert_lock_error!(conn, LeaseLost);
        assert_serialization_failure(conn.transaction(|conn| insert(conn, 3)));
        assert_serialization_failure(conn.with_write_lock(|conn| insert(conn, 4)));
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    loser.assert_no_harm_done(&mut conn, &[1]);
}

/// Runs what panics, and tells its message.
fn panic_of<T>(body: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(_) => panic!("it did not panic"),
        Err(panic) => (panic.downcast_ref::<&str>())
            .map_or_else(|| "no message".to_owned(), |message| (*message).to_owned()),
    }
}

#[test]
fn a_panic_inside_a_transaction_leaves_nothing_once_the_connection_is_dropped() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let message = panic_of(|| {
        conn.transaction(|conn| -> QueryResult<()> {
            insert(conn, 1)?;
            panic!("in mid-transaction");
        })
    });
    assert_eq!(message, "in mid-transaction");
    assert!(diesel::r2d2::R2D2Connection::is_broken(&mut conn));
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), NOTHING);
}

#[test]
fn a_panic_inside_with_write_lock_releases_it() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let message = panic_of(|| {
        conn.with_write_lock(|conn| -> QueryResult<()> {
            insert(conn, 1)?;
            panic!("between transactions");
        })
    });
    assert_eq!(message, "between transactions");
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), [1]);
    assert_usable(&mut conn);
}

#[test]
fn a_connection_dropped_in_mid_transaction_releases_the_lease() {
    let fixture = HostsFixture::with_table();
    let begins: [fn(&mut EfsSqliteConnection) -> QueryResult<()>; 3] = [
        EfsTransactionManager::begin_transaction,
        |conn| conn.batch_execute("BEGIN IMMEDIATE"),
        |conn| {
            EfsTransactionManager::begin_transaction(conn)?;
            EfsTransactionManager::begin_transaction(conn)
        },
    ];
    for begin in begins {
        let mut conn = fixture.host().connect();
        assert_eq!(begin(&mut conn), Ok(()));
        assert_eq!(insert(&mut conn, 1), Ok(1));
        assert!(fixture.item().is_some());
        drop(conn);
        fixture.assert_nothing_left();
    }
    assert_eq!(committed(&fixture), NOTHING);
}

fn assert_store_panicked(result: QueryResult<usize>, conn: &EfsSqliteConnection) {
    let is_unknown = matches!(
        result,
        Err(Error::DatabaseError(DatabaseErrorKind::Unknown, _))
    );
    assert!(is_unknown, "{result:?}");
    let error = conn.last_lock_error();
    let is_panic = matches!(
        error,
        Some(LockError::Store {
            source: StoreError::Panicked { .. },
            ..
        })
    );
    assert!(is_panic, "{error:?}");
}

#[test]
fn a_lock_store_that_panics_when_asked_for_the_lease_is_an_error() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    host.store.before(Call::Acquire, || panic!("by the store"));
    let result = insert(&mut conn, 1);
    assert_store_panicked(result, &conn);
    // Whether the item was written before the panic is not known: it is removed.
    assert_eq!(host.store.take_calls(), [Call::Acquire, Call::Release]);
    fixture.assert_nothing_left();

    host.store.before(Call::Acquire, || panic!("by the store"));
    let result = conn.transaction(|conn| insert(conn, 1));
    assert_store_panicked(result, &conn);
    fixture.assert_nothing_left();

    assert_eq!(insert(&mut conn, 2), Ok(1));
    fixture.assert_committed(&[2]);
}

#[test]
fn a_lock_store_that_panics_at_the_commit_point_leaves_the_outcome_unknown() {
    /// The shortest that there is: the connection has to wait for its end.
    const SHORT_LEASE: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = connect(&host.config().lock_expiration(SHORT_LEASE));
    (host.store).before_own(Call::Confirm, || panic!("by the store"));
    let result = insert(&mut conn, 1);
    let is_unknown = matches!(
        result,
        Err(Error::DatabaseError(DatabaseErrorKind::Unknown, _))
    );
    assert!(is_unknown, "{result:?}");
    assert_lock_error!(conn, OutcomeUnknown);
    // The item says whether the journal counts, so it stays until it runs out.
    assert!(fixture.item().is_some());
    conn.set_lock_timeout(VERY_LONG);
    assert_eq!(insert(&mut conn, 2), Ok(1));
    assert_eq!(committed(&fixture), [2], "the panic came before the record");
    fixture.assert_nothing_left();
}

#[test]
fn a_lock_store_that_panics_at_the_release_does_not_undo_the_commit() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    host.store.before(Call::Release, || panic!("by the store"));
    assert_eq!(insert(&mut conn, 1), Ok(1));
    host.store.assert_fault_was_reached();
    assert_eq!(committed(&fixture), [1]);
    // It runs out by itself.
    assert!(fixture.item().is_some());
    fixture.remove_item();
    assert_usable(&mut conn);
}

#[track_caller]
fn assert_refused(conn: &mut EfsSqliteConnection, statement: &str, reason: &str) {
    for result in [
        conn.batch_execute(statement),
        execute(conn, statement).map(drop),
    ] {
        let Err(error) = result else {
            panic!("`{statement}` was carried out");
        };
        let message = error.to_string();
        assert!(message.contains(reason), "`{statement}`: {message}");
    }
}

#[test]
fn pragmas_that_undermine_the_lock_are_refused_with_the_reason() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    for (pragma, reason) in [
        ("PRAGMA journal_mode = WAL", "shared memory"),
        ("PRAGMA main.journal_mode = WAL", "shared memory"),
        ("PRAGMA journal_mode = TRUNCATE", "one journal file"),
        ("PRAGMA journal_mode = persist", "one journal file"),
        ("PRAGMA journal_mode = MEMORY", "torn"),
        ("PRAGMA journal_mode(OFF)", "torn"),
        ("PRAGMA synchronous = OFF", "on disk"),
        ("PRAGMA synchronous = 'normal'", "synchronous=normal"),
        ("PRAGMA locking_mode = EXCLUSIVE", "without a lease"),
        ("PRAGMA cache_spill = ON", "uncommitted"),
        ("PRAGMA temp.cache_spill = ON", "leave the schema out"),
        ("PRAGMA temp.busy_timeout = 5", "leave the schema out"),
    ] {
        assert_refused(&mut conn, pragma, reason);
    }
    assert_eq!(host.store.take_calls(), []);
    assert_eq!(insert(&mut conn, 1), Ok(1));
    assert_eq!(committed(&fixture), [1]);
}

#[test]
fn refused_pragmas_change_nothing() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    for pragma in [
        "PRAGMA synchronous = OFF",
        "PRAGMA synchronous = 4",
        "PRAGMA synchronous = 8",
        "PRAGMA synchronous = 'ful'",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA cache_spill = 1",
        "PRAGMA journal_mode = TRUNCATE",
        // Some hold for the whole connection whatever schema they name.
        "ATTACH ':memory:' AS other",
        "PRAGMA other.cache_spill = ON",
        "PRAGMA temp.cache_spill = ON",
        "PRAGMA other.cache_spill = 100",
        "PRAGMA temp.locking_mode = EXCLUSIVE",
        "PRAGMA other.synchronous = OFF",
    ] {
        // Some are no values at all; none may have an effect.
        let _ = conn.batch_execute(pragma);
    }
    let text = |conn: &mut EfsSqliteConnection, query: &str| {
        sql::<diesel::sql_types::Text>(query).get_result::<String>(conn)
    };
    let extra = 3;
    assert_eq!(
        numbers(&mut conn, "SELECT synchronous FROM pragma_synchronous"),
        Ok(vec![extra])
    );
    assert_eq!(
        numbers(&mut conn, "SELECT cache_spill FROM pragma_cache_spill"),
        Ok(vec![0])
    );
    assert_eq!(
        text(&mut conn, "SELECT locking_mode FROM pragma_locking_mode"),
        Ok("normal".to_owned())
    );
    assert_eq!(
        text(&mut conn, "SELECT journal_mode FROM pragma_journal_mode"),
        Ok("delete".to_owned())
    );
}

#[test]
fn the_lock_is_the_cause_of_a_failure_only_where_it_made_the_last_statement_fail() {
    let fixture = HostsFixture::with_table();
    let mut conn = connect(&fixture.host().config().lock_timeout(BRIEF));
    fixture.give_lease_to_another();
    assert_serialization_failure(insert(&mut conn, 1));
    assert!(matches!(conn.lock_failure(), Some(LockError::Busy { .. })));
    assert_eq!(numbers(&mut conn, "SELECT 1"), Ok(vec![1]));
    assert_eq!(conn.lock_failure(), None);
    assert!(numbers(&mut conn, "SELECT nothing").is_err());
    assert_eq!(conn.lock_failure(), None);
    assert!(conn.last_lock_error().is_some(), "it is the last one still");

    // The rollback that follows leaves it as it is.
    let failed = conn.transaction(|conn| insert(conn, 1));
    assert_serialization_failure(failed);
    assert!(conn.lock_failure().is_some());
}

#[test]
fn busy_timeout_sets_how_long_the_lock_is_waited_for() {
    let fixture = HostsFixture::with_table();
    let mut conn = connect(&fixture.host().config().lock_timeout(VERY_LONG));
    let timeout = sql::<BigInt>("PRAGMA busy_timeout = 50").get_result::<i64>(&mut conn);
    assert_eq!(timeout, Ok(50));
    let timeout = sql::<BigInt>("PRAGMA busy_timeout").get_result::<i64>(&mut conn);
    assert_eq!(timeout, Ok(50));

    fixture.give_lease_to_another();
    assert_serialization_failure(insert(&mut conn, 1));
    let Some(LockError::Busy { waited, holder, .. }) = conn.last_lock_error() else {
        panic!("{:?}", conn.last_lock_error());
    };
    assert!(*waited < VERY_LONG / 2, "{waited:?}");
    let name = holder.as_ref().and_then(|holder| holder.name.as_deref());
    assert_eq!(name, Some("another host"));
    // The handler is still ours: the lease that has become free is found.
    fixture.remove_item();
    assert_eq!(insert(&mut conn, 1), Ok(1));
}

#[test]
fn a_second_file_is_not_attached_unless_nobody_writes_it() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let second = fixture.scratch().file("second.sqlite3");
    let second = second.display();
    drop(connect(
        &EfsConfig::new(fixture.scratch().file("second.sqlite3")).lock_local(),
    ));
    for name in [
        format!("'{second}'"),
        format!("'file:{second}'"),
        format!("'file:{second}?mode=rwc'"),
        format!("'file:{second}?mode=ro&vfs=unix'"),
        format!("'{second}' || ''"),
        // The name that SQLite itself uses for another purpose.
        "'x'".to_owned(),
        "x".to_owned(),
    ] {
        let attach = format!("ATTACH {name} AS second");
        assert_refused(&mut conn, &attach, "a lease of its own");
    }
    for (name, schema) in [
        ("':memory:'".to_owned(), "in_memory"),
        ("''".to_owned(), "temporary"),
        (format!("'file:{second}?mode=ro'"), "read_only"),
    ] {
        let attach = format!("ATTACH {name} AS {schema}");
        assert_eq!(conn.batch_execute(&attach), Ok(()), "{attach}");
    }
    let script = "CREATE TABLE in_memory.x (n INTEGER); INSERT INTO in_memory.x VALUES (1)";
    assert_eq!(conn.batch_execute(script), Ok(()));
    assert_eq!(
        numbers(&mut conn, "SELECT count(*) FROM read_only.sqlite_schema"),
        Ok(vec![0])
    );
    let write = conn.batch_execute("CREATE TABLE read_only.x (n INTEGER)");
    assert!(write.is_err(), "{write:?}");
    assert_eq!(host.store.take_calls(), []);

    let both =
        "BEGIN; INSERT INTO t (n) SELECT n FROM in_memory.x; DELETE FROM in_memory.x; COMMIT";
    assert_eq!(conn.batch_execute(both), Ok(()));
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_committed(&[1]);
}

#[test]
fn vacuum_gives_back_the_space_of_deleted_rows() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let fill = "CREATE TABLE big (data BLOB);
                WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 100)
                INSERT INTO big SELECT zeroblob(10000) FROM i;
                DROP TABLE big";
    assert_eq!(conn.batch_execute(fill), Ok(()));
    let size = || {
        (fixture.scratch().database().metadata())
            .expect("a database")
            .len()
    };
    let before = size();
    assert!(before > 1_000_000);
    assert_eq!(conn.batch_execute("VACUUM"), Ok(()));
    assert!(size() < before / 10);
    fixture.assert_nothing_left();
    assert_usable(&mut conn);
}

#[test]
fn a_vacuum_that_loses_its_lease_at_the_commit_point_is_undone_by_the_next_writer() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let fill = "CREATE TABLE big (data BLOB);
                WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 100)
                INSERT INTO big SELECT randomblob(10000) FROM i;
                DELETE FROM big WHERE rowid % 2 = 0;
                INSERT INTO t (n) VALUES (1)";
    assert_eq!(conn.batch_execute(fill), Ok(()));
    let image = || std::fs::read(fixture.scratch().database()).expect("a database");
    let before = image();
    host.store.before(Call::Confirm, fixture.stealing());
    assert_serialization_failure(conn.batch_execute("VACUUM"));
    host.store.assert_fault_was_reached();
    assert_lock_error!(conn, LeaseLost);
    assert!(fixture.scratch().journal().exists());
    fixture.remove_item();

    let mut other = fixture.host().connect();
    assert_eq!(numbers(&mut other, "SELECT n FROM t"), Ok(vec![1]));
    assert!(image() == before, "the rollback restores every byte");
    fixture.assert_nothing_left();
    assert_eq!(conn.batch_execute("VACUUM"), Ok(()));
    assert!(image().len() < before.len() * 2 / 3);
    let sum = "SELECT sum(length(data)) FROM big";
    assert_eq!(numbers(&mut other, sum), Ok(vec![500_000]));
    let ok = sql::<diesel::sql_types::Text>("PRAGMA integrity_check").get_result(&mut other);
    assert_eq!(ok, Ok("ok".to_owned()));
    fixture.assert_nothing_left();
}

#[test]
fn schema_changes_are_rolled_back_like_any_others() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let result: QueryResult<()> = conn.transaction(|conn| {
        conn.batch_execute(
            "CREATE TABLE u (n INTEGER); CREATE INDEX t_n ON t (n); ALTER TABLE t RENAME TO s",
        )?;
        insert(conn, 1).expect_err("the table has another name");
        execute(conn, "INSERT INTO s (n) VALUES (1)")?;
        roll_back()
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    assert_eq!(committed(&fixture), NOTHING);
    let schema = numbers(&mut conn, "SELECT count(*) FROM sqlite_schema");
    assert_eq!(schema, Ok(vec![1]));
    fixture.assert_nothing_left();
}

#[test]
fn no_page_reaches_the_file_before_the_commit_however_large_the_transaction() {
    let fixture = HostsFixture::with_table();
    let mut conn = connect(&fixture.host().config().cache_size_pages(10));
    let database = fixture.scratch().database();
    let before = std::fs::read(database).expect("a database");
    let result = conn.transaction(|conn| {
        conn.batch_execute("CREATE TABLE big (data BLOB)")?;
        execute(
            conn,
            "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 500)
             INSERT INTO big SELECT randomblob(10000) FROM i",
        )?;
        let uncommitted = std::fs::metadata(database).expect("a database").len();
        assert_eq!(uncommitted, before.len() as u64);
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    let size = std::fs::metadata(database).expect("a database").len();
    assert!(size > 5_000_000, "{size}");
    let mut other = fixture.host().connect();
    let sum = numbers(&mut other, "SELECT sum(length(data)) FROM big");
    assert_eq!(sum, Ok(vec![5_000_000]));
    let result: QueryResult<()> = conn.transaction(|conn| {
        execute(conn, "UPDATE big SET data = zeroblob(10000)")?;
        roll_back()
    });
    assert_eq!(result, Err(Error::RollbackTransaction));
    let zeroed = "SELECT count(*) FROM big WHERE data = zeroblob(10000)";
    assert_eq!(numbers(&mut conn, zeroed), Ok(vec![0]));
    assert_eq!(numbers(&mut other, zeroed), Ok(vec![0]));
    fixture.assert_nothing_left();
}

#[test]
fn a_database_in_memory_takes_no_lock() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    for path in [":memory:", ""] {
        let config = EfsConfig::new(path).lock_store(host.store.clone());
        let mut conn = connect(&config);
        let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)";
        assert_eq!(conn.batch_execute(table), Ok(()));
        assert_eq!(insert(&mut conn, 1), Ok(1));
        let result = conn.with_write_lock(|conn| {
            conn.immediate_transaction(|conn| {
                insert(conn, 2)?;
                let inner: QueryResult<()> = conn.transaction(|conn| {
                    insert(conn, 3)?;
                    roll_back()
                });
                assert_eq!(inner, Err(Error::RollbackTransaction));
                Ok::<_, Error>(())
            })
        });
        assert_eq!(result, Ok(()));
        assert_eq!(numbers(&mut conn, "SELECT n FROM t"), Ok(vec![1, 2]));
        assert_eq!(conn.warm_up(), Ok(()));
        assert_eq!(conn.lock_stats(), diesel_sqlite_efs::LockStats::default());
    }
    assert_eq!(host.store.take_calls(), []);
}

#[test]
fn a_transaction_in_memory_that_sqlite_has_ended_is_an_error() {
    let mut conn = connect(&EfsConfig::new(":memory:"));
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)";
    assert_eq!(conn.batch_execute(table), Ok(()));
    let result = conn.transaction(|conn| {
        execute(conn, "INSERT INTO t VALUES (1, 1)")?;
        let conflict = execute(conn, "INSERT OR ROLLBACK INTO t VALUES (1, 2)");
        assert!(conflict.is_err(), "{conflict:?}");
        // As with Diesel's own connection, which this is: there is no lock to keep account of.
        insert(conn, 3)
    });
    assert!(result.is_err(), "{result:?}");
    assert_usable(&mut conn);
}

#[test]
fn a_serialized_database_replaces_the_file_until_the_connection_is_closed() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    assert_eq!(insert(&mut conn, 1), Ok(1));
    let serialized = conn.serialize_database_to_buffer();
    assert!(serialized.starts_with(b"SQLite format 3\0"));
    let result = conn.deserialize_readonly_database_from_buffer(&serialized);
    assert_eq!(result, Ok(()));
    assert_eq!(numbers(&mut conn, "SELECT n FROM t"), Ok(vec![1]));
    let write = insert(&mut conn, 2);
    assert!(write.is_err(), "{write:?}");
    conn.set_lock_timeout(BRIEF);
    let pragma = conn.batch_execute("PRAGMA busy_timeout = 10");
    assert_eq!(pragma, Ok(()));
    assert_refused(
        &mut conn,
        "ATTACH 'elsewhere' AS second",
        "a lease of its own",
    );
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), [1]);
}

#[test]
fn a_database_in_memory_is_deserialized_into_the_wrapper() {
    let fixture = HostsFixture::with_table();
    let mut file = fixture.host().connect();
    assert_eq!(insert(&mut file, 1), Ok(1));
    let serialized = file.serialize_database_to_buffer();
    let mut conn = connect(&EfsConfig::new(":memory:"));
    let result = conn.deserialize_readonly_database_from_buffer(&serialized);
    assert_eq!(result, Ok(()));
    assert_eq!(numbers(&mut conn, "SELECT n FROM t"), Ok(vec![1]));
}

#[test]
fn connections_whose_insides_are_swapped_stay_under_their_own_files_locks() {
    let (one, two) = (HostsFixture::with_table(), HostsFixture::with_table());
    let mut first = one.host().connect();
    let mut second = two.host().connect();
    std::mem::swap(first.sqlite_mut(), second.sqlite_mut());
    assert_eq!(insert(&mut first, 2), Ok(1));
    assert_eq!(insert(&mut second, 1), Ok(1));
    drop(first);
    assert_eq!(second.transaction(|conn| insert(conn, 11)), Ok(1));
    drop(second);
    assert_eq!(committed(&one), [1, 11]);
    assert_eq!(committed(&two), [2]);
    one.assert_nothing_left();
    two.assert_nothing_left();
}

#[test]
fn a_connection_replaced_inside_with_write_lock_releases_the_lease_and_does_not_panic() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let result = conn.with_write_lock(|conn| {
        insert(conn, 1)?;
        *conn.sqlite_mut() = SqliteConnection::establish(":memory:").expect("a database");
        fixture.assert_nothing_left();
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    assert_eq!(committed(&fixture), [1]);
}
