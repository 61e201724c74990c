//! Pools give out sound connections, in order, and leave no lock, whatever their users do.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{InstrumentationEvent, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::r2d2::{
    ConnectionManager, CustomizeConnection, ManageConnection, Pool, PooledConnection,
    TestCustomizer,
};
use diesel::result::Error;
use diesel_sqlite_efs::{
    ConfigError, ConnectError, EfsConfig, EfsConnectionManager, EfsSqliteConnection,
    EfsTransactionManager, LockError, ReadCheck,
};
use integration::dynamodb::env_for;
use integration::process::{Worker, ignored_test, wait_until};
use integration::proxy::{Operation, Proxy, Purpose, Request};
use integration::recording::{self, Fault, HOLDER, Plan, Recorder};

use crate::events::{events_of, recorder};
use crate::fixtures::hosts::{
    Call, Host, HostsFixture, LEASE, assert_lock_error, assert_serialization_failure,
    assert_usable, committed, connect, execute, insert, manual_clock, numbers,
};
use crate::fixtures::workers::{LONG, WorkersFixture, proxy};

type EfsPool = Pool<EfsConnectionManager>;
type Pooled = PooledConnection<EfsConnectionManager>;

const NOTHING: [i64; 0] = [];

#[track_caller]
fn pool_of(config: &EfsConfig, size: u32) -> EfsPool {
    let manager = EfsConnectionManager::new(config).unwrap_or_else(|error| panic!("{error}"));
    manager.pool(size).unwrap_or_else(|error| panic!("{error}"))
}

fn pool(host: &Host, size: u32) -> EfsPool {
    pool_of(&host.config().lock_timeout(LONG * 10), size)
}

#[track_caller]
fn get(pool: &EfsPool) -> Pooled {
    pool.get().unwrap_or_else(|error| panic!("{error}"))
}

/// Marks a connection, so that it is known when it is given out again.
fn mark(conn: &mut EfsSqliteConnection) {
    let marked = conn.batch_execute("CREATE TEMP TABLE marked (n)");
    assert_eq!(marked, Ok(()));
}

fn is_marked(conn: &mut EfsSqliteConnection) -> bool {
    let marks = "SELECT count(*) FROM sqlite_temp_schema WHERE name = 'marked'";
    numbers(conn, marks) == Ok(vec![1])
}

/// Whether a connection is given out again after this was done with it.
#[track_caller]
fn is_given_out_again(pool: &EfsPool, use_it: impl FnOnce(&mut EfsSqliteConnection)) -> bool {
    let mut conn = get(pool);
    mark(&mut conn);
    use_it(&mut conn);
    drop(conn);
    let mut next = get(pool);
    // Whatever was done before.
    assert_eq!(next.batch_execute("BEGIN; SELECT 1; COMMIT"), Ok(()));
    is_marked(&mut next)
}

#[test]
fn a_connection_that_was_merely_refused_is_given_out_again() {
    type Use = fn(&HostsFixture, &mut EfsSqliteConnection);
    let uses: [(&str, Use); 10] = [
        ("nothing", |_, _| ()),
        ("a write", |_, conn| assert_eq!(insert(conn, 1), Ok(1))),
        ("busy", |fixture, conn| {
            fixture.give_lease_to_another();
            conn.set_lock_timeout(Duration::from_millis(20));
            assert_serialization_failure(insert(conn, 1));
            assert_lock_error!(conn, Busy);
            fixture.remove_item();
        }),
        ("file locked", |fixture, conn| {
            let mut reader = fixture.host().connect();
            reader
                .batch_execute("BEGIN; SELECT * FROM t")
                .expect("a reader");
            conn.set_lock_timeout(Duration::from_millis(20));
            assert_serialization_failure(insert(conn, 1));
            assert_lock_error!(conn, FileLocked);
        }),
        ("rolled back", |_, conn| {
            let result = conn.transaction(|conn| {
                insert(conn, 1)?;
                Err::<(), _>(Error::RollbackTransaction)
            });
            assert_eq!(result, Err(Error::RollbackTransaction));
        }),
        ("constraint", |_, conn| {
            let result = execute(conn, "INSERT INTO t (id) VALUES (9), (9)");
            assert!(result.is_err());
        }),
        ("refused pragma", |_, conn| {
            assert!(conn.batch_execute("PRAGMA journal_mode = WAL").is_err());
        }),
        ("transaction by statement", |_, conn| {
            let script = "BEGIN; INSERT INTO t (n) VALUES (1); COMMIT; SAVEPOINT a; RELEASE a";
            assert_eq!(conn.batch_execute(script), Ok(()));
        }),
        ("transaction of the inner connection", |_, conn| {
            let inner = conn.sqlite_mut();
            let result = inner.transaction(|conn| conn.batch_execute("SELECT * FROM t"));
            assert_eq!(result, Ok::<_, Error>(()));
        }),
        ("deadline", |_, conn| {
            conn.set_deadline(Some(Instant::now()));
            assert!(insert(conn, 1).is_err());
            assert_lock_error!(conn, DeadlinePassed);
        }),
    ];
    for (what, use_it) in uses {
        let fixture = HostsFixture::with_table();
        let pool = pool(&fixture.host(), 1);
        assert!(
            is_given_out_again(&pool, |conn| use_it(&fixture, conn)),
            "{what}"
        );
        assert_eq!(insert(&mut get(&pool), 2), Ok(1), "{what}");
        fixture.assert_nothing_left();
    }
}

/// Where file locks do nothing: what they would have kept out.
#[test]
fn a_connection_that_read_what_is_no_longer_current_is_given_out_again() {
    let fixture = HostsFixture::with_table();
    let mut other = fixture.host().connect_without_file_locks();
    other
        .batch_execute("CREATE TABLE far (n INTEGER)")
        .expect("a table");
    let config = fixture.host().config_without_file_locks();
    let pool = pool_of(&config.lock_read_check(ReadCheck::Counter), 1);
    let again = is_given_out_again(&pool, |conn| {
        let stale = conn.transaction(|conn| {
            numbers(conn, "SELECT n FROM t")?;
            assert_eq!(insert(&mut other, 1), Ok(1));
            insert(conn, 2)
        });
        assert_serialization_failure(stale);
        assert_lock_error!(conn, StaleSnapshot);
        let torn = conn.transaction(|conn| {
            numbers(conn, "SELECT n FROM t")?;
            assert_eq!(insert(&mut other, 1), Ok(1));
            numbers(conn, "SELECT n FROM far")
        });
        assert_serialization_failure(torn);
        assert_lock_error!(conn, TornRead);
    });
    assert!(again);
    assert_eq!(insert(&mut get(&pool), 3), Ok(1));
}

#[test]
fn a_connection_in_a_transaction_is_not_given_out_again_however_it_was_begun() {
    type Use = fn(&mut EfsSqliteConnection);
    let uses: [(&str, Use); 7] = [
        ("transaction manager", |conn| {
            EfsTransactionManager::begin_transaction(conn).expect("a transaction");
        }),
        ("nested", |conn| {
            EfsTransactionManager::begin_transaction(conn).expect("a transaction");
            EfsTransactionManager::begin_transaction(conn).expect("a savepoint");
            insert(conn, 1).expect("a write");
        }),
        ("begin by statement", |conn| {
            conn.batch_execute("BEGIN").expect("a transaction");
        }),
        ("begin by statement, and a read", |conn| {
            conn.batch_execute("BEGIN; SELECT * FROM t")
                .expect("a transaction");
        }),
        ("begin by statement, and a write", |conn| {
            execute(conn, "BEGIN IMMEDIATE").expect("a transaction");
            insert(conn, 1).expect("a write");
        }),
        ("savepoint by statement", |conn| {
            conn.batch_execute("SAVEPOINT a").expect("a savepoint");
        }),
        ("inner connection", |conn| {
            conn.sqlite_mut()
                .batch_execute("BEGIN")
                .expect("a transaction");
        }),
    ];
    for (what, use_it) in uses {
        let fixture = HostsFixture::with_table();
        let pool = pool(&fixture.host(), 1);
        assert!(!is_given_out_again(&pool, use_it), "{what}");
        fixture.assert_nothing_left();
        assert_eq!(committed(&fixture), NOTHING, "{what}");
    }
}

/// As Diesel's `TestCustomizer` has it: every user of the pool is in it.
#[test]
fn a_test_transaction_stays_with_its_connection() {
    let fixture = HostsFixture::with_table();
    let manager = EfsConnectionManager::new(&fixture.host().config()).expect("a manager");
    let customizer: Box<dyn CustomizeConnection<_, _>> = Box::new(TestCustomizer);
    let pool = Pool::builder()
        .max_size(1)
        .connection_customizer(customizer)
        .build(manager);
    let pool = pool.expect("a pool");
    let again = is_given_out_again_in_test(&pool);
    assert!(again);
    drop(pool);
    // The thread of r2d2's that has opened the connection may be the last to let go of the pool.
    wait_until(LONG, "the connection is closed", || {
        fixture.item().is_none()
    });
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), NOTHING);
}

fn is_given_out_again_in_test(pool: &EfsPool) -> bool {
    let mut conn = get(pool);
    mark(&mut conn);
    assert_eq!(insert(&mut conn, 1), Ok(1));
    drop(conn);
    let mut next = get(pool);
    assert_eq!(numbers(&mut *next, "SELECT n FROM t"), Ok(vec![1]));
    is_marked(&mut next)
}

#[test]
fn a_connection_that_lost_its_lease_is_not_given_out_again() {
    let ways_to_lose: [fn(&HostsFixture, &diesel_sqlite_efs::ManualClock); 3] = [
        |_, clock| clock.advance(LEASE),
        |fixture, _| fixture.remove_item(),
        |fixture, _| fixture.give_lease_to_another(),
    ];
    for lose in ways_to_lose {
        for rolls_back in [false, true] {
            let (fixture, clock) = (HostsFixture::with_table(), manual_clock());
            let pool = pool_of(&fixture.host().config().clock(clock.clock()), 1);
            let again = is_given_out_again(&pool, |conn| {
                let result = conn.transaction(|conn| {
                    insert(conn, 1)?;
                    lose(&fixture, &clock);
                    match rolls_back {
                        // Succeeds, although the lease is lost.
                        true => Err(Error::RollbackTransaction),
                        false => Ok(()),
                    }
                });
                assert_eq!(result == Err(Error::RollbackTransaction), rolls_back);
                assert!(result.is_err());
                // A journal that became hot is rolled back by the next connection.
                fixture.remove_item();
            });
            assert!(!again, "rolls back: {rolls_back}");
            assert_eq!(insert(&mut get(&pool), 2), Ok(1));
            assert_eq!(committed(&fixture), [2]);
        }
    }
}

#[test]
fn a_connection_whose_loss_was_seen_by_the_inner_one_alone_is_not_given_out_again() {
    let (fixture, clock) = (HostsFixture::with_table(), manual_clock());
    let pool = pool_of(&fixture.host().config().clock(clock.clock()), 1);
    let again = is_given_out_again(&pool, |conn| {
        let result = conn.sqlite_mut().transaction(|conn| {
            conn.batch_execute("INSERT INTO t (n) VALUES (1)")?;
            clock.advance(LEASE);
            Ok::<_, Error>(())
        });
        assert!(result.is_err());
    });
    assert!(!again);
    assert_eq!(committed(&fixture), NOTHING);
}

#[test]
fn a_connection_whose_commit_is_unknown_is_not_given_out_again() {
    /// The shortest that there is: the connection has to wait for its end.
    const SHORT_LEASE: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let pool = pool_of(&host.config().lock_expiration(SHORT_LEASE), 1);
    let again = is_given_out_again(&pool, |conn| {
        (host.store).before_own(Call::Confirm, || panic!("by the store"));
        assert!(insert(conn, 1).is_err());
        assert_lock_error!(conn, OutcomeUnknown);
        fixture.remove_item();
    });
    assert!(!again);
}

#[test]
fn a_connection_that_saw_an_io_error_is_not_given_out_again() {
    recording::register();
    let operations = {
        let fixture = HostsFixture::with_table();
        let recorder = Recorder::install(HOLDER, fixture.scratch().database());
        let mut conn = connect(&fixture.host().config().base_vfs(HOLDER));
        recorder.plan(Plan::Watch);
        assert_eq!(insert(&mut conn, 1), Ok(1));
        recorder.operations()
    };
    assert!(operations.len() > 10, "{operations:?}");
    let mut failures = 0;
    for (at, operation) in operations.iter().enumerate() {
        let fixture = HostsFixture::with_table();
        let recorder = Recorder::install(HOLDER, fixture.scratch().database());
        let pool = pool_of(&fixture.host().config().base_vfs(HOLDER), 1);
        let mut succeeded = false;
        let again = is_given_out_again(&pool, |conn| {
            let (fault, lasting) = (Fault::Io, false);
            recorder.plan(Plan::Fail { at, fault, lasting });
            succeeded = insert(conn, 1).is_ok();
            recorder.plan(Plan::Watch);
        });
        // SQLite does without some operations.
        failures += usize::from(!succeeded);
        assert_eq!(again, succeeded, "{operation:?} failed at {at}");
        drop(pool);
        fixture.remove_item();
    }
    assert!(failures > 5, "{failures} of {}", operations.len());
}

#[test]
fn a_panic_in_a_pooled_transaction_leaves_no_lock_and_the_pool_goes_on() {
    type Use = fn(&mut EfsSqliteConnection) -> QueryResult<()>;
    fn panic_after_a_write(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
        insert(conn, 1)?;
        panic!("in mid-transaction");
    }
    let uses: [Use; 4] = [
        |conn| conn.transaction(panic_after_a_write),
        |conn| conn.immediate_transaction(panic_after_a_write),
        |conn| conn.retrying_transaction(panic_after_a_write),
        |conn| conn.with_write_lock(|conn| conn.transaction(panic_after_a_write)),
    ];
    for use_it in uses {
        let fixture = HostsFixture::with_table();
        let pool = pool(&fixture.host(), 1);
        let thread = thread::spawn({
            let pool = pool.clone();
            move || use_it(&mut get(&pool))
        });
        assert!(thread.join().is_err());
        fixture.assert_nothing_left();
        assert_eq!(insert(&mut get(&pool), 2), Ok(1));
        // Caught before the connection comes back: it is in a transaction.
        let mut conn = get(&pool);
        assert!(catch_unwind(AssertUnwindSafe(|| use_it(&mut conn))).is_err());
        drop(conn);
        fixture.assert_nothing_left();
        assert_eq!(insert(&mut get(&pool), 3), Ok(1));
        assert_eq!(committed(&fixture), [2, 3]);
    }
}

#[test]
fn a_pool_that_is_dropped_in_mid_transaction_leaves_no_lock() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture.host(), 2);
    let idle = get(&pool);
    let mut conn = get(&pool);
    drop(idle);
    EfsTransactionManager::begin_transaction(&mut *conn).expect("a transaction");
    assert_eq!(insert(&mut conn, 1), Ok(1));
    drop(pool);
    assert!(fixture.item().is_some(), "the transaction goes on");
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), NOTHING);
}

#[test]
fn a_pooled_connection_that_is_leaked_blocks_others_for_the_longest_hold_and_a_lease() {
    const SHORT: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::with_table();
    // SQLite's file locks last as long as the process.
    let config = || {
        fixture
            .host()
            .config_without_file_locks()
            .lock_expiration(SHORT)
    };
    let pool = pool_of(&config().lock_max_hold(SHORT), 2);
    let mut idle = get(&pool);
    assert_eq!(insert(&mut idle, 1), Ok(1));
    mem::forget(idle);
    let mut conn = get(&pool);
    conn.batch_execute("BEGIN IMMEDIATE")
        .expect("a transaction");
    assert_eq!(insert(&mut conn, 2), Ok(1));
    mem::forget(conn);
    let mut other = connect(&config().lock_timeout(LONG));
    assert_eq!(insert(&mut other, 3), Ok(1));
    assert_eq!(other.lock_stats().takeovers, 1);
    assert_eq!(
        numbers(&mut other, "SELECT n FROM t ORDER BY id"),
        Ok(vec![1, 3])
    );
    assert_eq!(
        pool.state().connections,
        2,
        "their places in the pool are lost"
    );
}

#[test]
fn a_deadline_ends_with_its_user_and_settings_stay() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture.host(), 1);
    let mut conn = get(&pool);
    mark(&mut conn);
    conn.set_deadline(Some(Instant::now()));
    assert!(insert(&mut conn, 1).is_err());
    drop(conn);
    let mut conn = get(&pool);
    assert!(is_marked(&mut conn));
    assert_eq!(insert(&mut conn, 2), Ok(1));
}

#[test]
fn giving_out_and_taking_back_makes_no_requests_and_sets_nothing_again() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let manager = EfsConnectionManager::new(&host.config()).expect("a manager");
    let pool = Pool::builder()
        .max_size(1)
        .test_on_check_out(true)
        .build(manager);
    let pool = pool.expect("a pool");
    let mut conn = get(&pool);
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            seen.lock().expect("no panic").push(query.to_string());
        }
    });
    drop(conn);
    for _ in 0..3 {
        drop(get(&pool));
    }
    assert_eq!(host.store.take_calls(), []);
    assert_eq!(*log.lock().expect("no panic"), ["SELECT 1"; 3]);
    let mut conn = get(&pool);
    for (pragma, value) in [("cache_spill", 0), ("synchronous", 3), ("temp_store", 2)] {
        let read = format!("SELECT * FROM pragma_{pragma}");
        assert_eq!(numbers(&mut *conn, &read), Ok(vec![value]), "{pragma}");
    }
}

#[test]
fn a_pool_is_there_with_one_connection_and_opens_more_when_they_are_needed() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture.host(), 3);
    assert_eq!(pool.state().connections, 0, "none is given to r2d2 yet");
    let one = get(&pool);
    assert_eq!(pool.state().connections, 1);
    let two = get(&pool);
    drop((one, two));
    for _ in 0..5 {
        drop(get(&pool));
    }
    assert_eq!(pool.state().connections, 2);
}

#[test]
fn thirty_two_threads_on_eight_connections_lose_nothing_and_ask_for_nothing_in_vain() {
    const THREADS: usize = 32;
    const WRITES: usize = 5;
    let fixture = HostsFixture::with_table();
    assert_eq!(insert(&mut fixture.host().connect(), 0), Ok(1));
    let host = fixture.host();
    let pool = pool(&host, 8);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..WRITES {
                    let mut conn = get(pool);
                    let result = match number % 2 {
                        0 => execute(&mut conn, "UPDATE t SET n = n + 1"),
                        _ => conn.immediate_transaction(|conn| {
                            let n = numbers(conn, "SELECT n FROM t")?[0];
                            execute(conn, &format!("UPDATE t SET n = {}", n + 1))
                        }),
                    };
                    assert_eq!(result, Ok(1));
                }
            });
        }
    });
    let writes = THREADS * WRITES;
    assert_eq!(
        committed(&fixture),
        [i64::try_from(writes).expect("a small number")]
    );
    assert_asked_for_as_many(&host.store.take_calls(), writes);
    assert!(pool.state().connections <= 8);
    fixture.assert_nothing_left();
}

#[test]
fn connections_of_a_pool_get_the_lock_in_the_order_in_which_they_asked() {
    const WAITERS: usize = 6;
    recorder();
    let key = "pools-in-order";
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let config = host.config().lock_key(key).lock_timeout(LONG * 10);
    let pool = pool_of(&config, 8);
    let mut holder = get(&pool);
    holder
        .batch_execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); BEGIN IMMEDIATE")
        .expect("the lock");
    host.store.take_calls();
    thread::scope(|scope| {
        for number in 0..WAITERS {
            let (tell, told) = mpsc::channel();
            let pool = &pool;
            scope.spawn(move || {
                let mut conn = get(pool);
                tell.send(rustix::thread::gettid().as_raw_nonzero())
                    .expect("the test listens");
                let n = i64::try_from(number).expect("a small number");
                assert_eq!(conn.immediate_transaction(|conn| insert(conn, n)), Ok(1));
            });
            let waiter = told.recv().expect("a waiter");
            wait_until(LONG, "it stands in line", || {
                let waiting = events_of(key);
                let waiting = waiting
                    .iter()
                    .filter(|event| event["event"] == "lock.waiting");
                waiting.count() > number && is_asleep(waiter.get())
            });
        }
        assert_eq!(
            host.store.take_calls(),
            [],
            "they wait for one next to them"
        );
        holder.batch_execute("COMMIT").expect("an end");
    });
    let order = numbers(&mut *holder, "SELECT n FROM t ORDER BY id");
    assert_eq!(order, Ok(vec![0, 1, 2, 3, 4, 5]));
    assert_asked_for_as_many(
        &[&[Call::Acquire][..], &host.store.take_calls()].concat(),
        WAITERS,
    );
}

/// Each write was confirmed, under leases that were asked for in turn: a lease that is handed off in
/// the process is asked for once.
#[track_caller]
fn assert_asked_for_as_many(calls: &[Call], writes: usize) {
    let confirmed = calls.iter().filter(|call| **call == Call::Confirm);
    assert_eq!(confirmed.count(), writes, "{calls:?}");
    for lease in calls.split_inclusive(|call| *call == Call::Release) {
        let (first, rest) = lease.split_first().expect("a call");
        let (last, confirmations) = rest.split_last().expect("a release");
        assert_eq!((first, last), (&Call::Acquire, &Call::Release), "{calls:?}");
        let are_confirmations = confirmations.iter().all(|call| *call == Call::Confirm);
        assert!(are_confirmations, "{calls:?}");
    }
}

/// Whether a thread of this process waits for something.
fn is_asleep(thread: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    let after_name = status.rsplit(')').next().unwrap_or_default();
    after_name.trim_start().starts_with('S')
}

#[test]
fn a_timeout_of_the_pool_is_another_error_than_one_of_the_lock() {
    let fixture = HostsFixture::with_table();
    let pool = pool_of(
        &fixture
            .host()
            .config()
            .lock_timeout(Duration::from_millis(50)),
        1,
    );
    let mut conn = get(&pool);
    let no_connection = pool
        .get_timeout(Duration::from_millis(50))
        .expect_err("none is free");
    assert_eq!(
        no_connection.to_string(),
        "timed out waiting for connection"
    );
    fixture.give_lease_to_another();
    let no_lock = insert(&mut conn, 1);
    let text = no_lock.as_ref().map_err(ToString::to_string);
    assert!(text.is_err_and(|text| text.contains("the write lock is held by `another host`")));
    assert_serialization_failure(no_lock);
    drop(conn);
    // Nobody asks for the lock to be given a connection.
    assert!(pool.get_timeout(LONG).is_ok());
}

#[test]
fn what_is_wrong_with_settings_or_file_is_told_at_once() {
    let fixture = HostsFixture::new();
    let path = fixture.scratch().database();
    let without_table = EfsConnectionManager::new(&EfsConfig::new(path));
    assert!(
        matches!(without_table, Err(ConfigError::NoTable)),
        "{without_table:?}"
    );
    let wrong = EfsConfig::new(path)
        .lock_local()
        .lock_timeout(Duration::ZERO);
    let wrong = EfsConnectionManager::new(&wrong);
    assert!(
        matches!(wrong, Err(ConfigError::InvalidValue { .. })),
        "{wrong:?}"
    );
    let missing = EfsConfig::new(fixture.scratch().file("missing/app.db")).lock_local();
    let manager = EfsConnectionManager::new(&missing).expect("settings that may be right");
    let error = manager.pool(4).expect_err("no such directory");
    assert!(matches!(error, ConnectError::Config(_)), "{error:?}");
    assert!(
        error.to_string().contains("is the file system mounted?"),
        "{error}"
    );

    // r2d2 tells the reason when its time is over.
    let manager = EfsConnectionManager::new(&missing).expect("settings that may be right");
    let short = Duration::from_millis(300);
    let error = Pool::builder()
        .connection_timeout(short)
        .build(manager)
        .expect_err("a timeout");
    assert!(
        error.to_string().contains("is the file system mounted?"),
        "{error}"
    );
}

/// The one case in which opening a connection asks for the lock.
#[test]
fn a_pool_behind_a_hot_journal_says_who_holds_the_lock() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let unfinished = conn.transaction(|conn| {
        insert(conn, 1)?;
        fixture.give_lease_to_another();
        Ok::<_, Error>(())
    });
    assert_serialization_failure(unfinished);
    assert!(fixture.scratch().journal().exists());
    let short = Duration::from_millis(200);
    let config = fixture.host().config().lock_timeout(short);
    let manager = || EfsConnectionManager::new(&config).expect("a manager");
    let error = manager().pool(1).expect_err("the lock is held");
    let is_busy =
        matches!(&error, ConnectError::Lock(busy @ LockError::Busy { .. }) if busy.is_retryable());
    assert!(is_busy, "{error:?}");
    let error = Pool::builder()
        .connection_timeout(short * 5)
        .build(manager());
    let error = error.expect_err("the lock is held").to_string();
    assert!(
        error.contains("the write lock is held by `another host`"),
        "{error}"
    );

    fixture.remove_item();
    let pool = manager().pool(1).expect("a pool");
    assert_eq!(insert(&mut get(&pool), 2), Ok(1));
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), [2]);
}

#[test]
fn a_manager_may_be_used_without_a_pool() {
    let fixture = HostsFixture::with_table();
    let manager = EfsConnectionManager::new(&fixture.host().config()).expect("a manager");
    let mut conn = manager.connect().expect("a connection");
    assert!(manager.is_valid(&mut conn).is_ok());
    assert!(!manager.has_broken(&mut conn));
    assert_usable(&mut conn);
}

/// What a pool in a process of its own asks of DynamoDB.
fn requests_of_a_pool(table: &str, kind: &str, url_parameters: bool) -> (WorkersFixture, Proxy) {
    let (fixture, proxy) = (WorkersFixture::new(table), proxy());
    let path = fixture.scratch.database().display().to_string();
    let mut command = ignored_test("pools::child");
    command
        .envs(env_for(&proxy.endpoint()))
        .env("POOL_KIND", kind);
    if url_parameters {
        let url = format!("{path}?lock_table={table}&lock_timeout=60&lock_holder=from-url");
        command.env("POOL_URL", url);
    } else {
        command
            .env("POOL_URL", path)
            .env("SQLITE_LOCK_DYNAMODB_TABLE", table)
            .env("SQLITE_LOCK_TIMEOUT", "60")
            .env("SQLITE_LOCK_HOLDER", "from-environment");
    }
    let mut process = Worker::spawn(&mut command).expect("the process starts");
    let status = process.wait(LONG * 2).expect("it ends");
    assert!(status.success(), "{status}");
    (fixture, proxy)
}

/// The requests without those that repeat one: a busy machine may not hear an answer in time.
fn each_once(proxy: &Proxy) -> Vec<Request> {
    let mut seen = HashSet::new();
    let mut requests = proxy.requests();
    requests.retain(|request| {
        let (item, values) = (
            &request.body["Item"],
            &request.body["ExpressionAttributeValues"],
        );
        let what = match request.operation {
            Operation::DeleteItem => values.to_string(),
            // The times in it may be others.
            _ => format!("{} {}", item["lock_id"], item["committed"]),
        };
        seen.insert((request.operation.clone(), request.purpose(), what))
    });
    requests
}

const CHILD_THREADS: usize = 6;
const CHILD_WRITES: usize = 3;

#[test]
#[ignore = "not a test: the process that other tests start"]
fn child() {
    fn serve<M>(pool: &Pool<M>)
    where
        M: ManageConnection<Connection = EfsSqliteConnection>,
    {
        let mut conn = pool.get().expect("a connection");
        conn.batch_execute("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)")
            .expect("a table");
        drop(conn);
        thread::scope(|scope| {
            for _ in 0..CHILD_THREADS {
                scope.spawn(|| {
                    for _ in 0..CHILD_WRITES {
                        let mut conn = pool.get().expect("a connection");
                        let result = conn.immediate_transaction(|conn| {
                            let n = numbers(conn, "SELECT n FROM t")?[0];
                            execute(conn, &format!("UPDATE t SET n = {}", n + 1))
                        });
                        assert_eq!(result, Ok(1));
                    }
                });
            }
        });
    }
    let url = env::var("POOL_URL").expect("a URL");
    match env::var("POOL_KIND").as_deref() {
        Ok("diesel") => {
            let manager = ConnectionManager::<EfsSqliteConnection>::new(url);
            serve(&Pool::builder().max_size(4).build(manager).expect("a pool"));
        }
        Ok("ours") => serve(&pool_of(&EfsConfig::from_url(&url).expect("a URL"), 4)),
        other => panic!("which pool is {other:?}?"),
    }
}

#[test]
fn pools_from_url_and_environment_ask_dynamodb_at_most_three_times_for_each_write() {
    for (table, kind, url_parameters) in [
        ("pools-diesel-url", "diesel", true),
        ("pools-diesel-environment", "diesel", false),
        ("pools-ours-url", "ours", true),
        ("pools-ours-environment", "ours", false),
    ] {
        let (fixture, proxy) = requests_of_a_pool(table, kind, url_parameters);
        // The schema, in two transactions, and the updates.
        let writes = 2 + CHILD_THREADS * CHILD_WRITES;
        let requests = each_once(&proxy);
        let releases = |request: &&Request| request.operation == Operation::DeleteItem;
        let leases = requests.iter().filter(releases).count();
        assert!(leases <= writes, "{table}: {leases}");
        // One to acquire each lease, one to confirm each write.
        let count = |purpose: Purpose| {
            let are = requests
                .iter()
                .filter(|request| request.purpose() == Some(purpose));
            are.count()
        };
        assert_eq!(count(Purpose::Acquire), leases, "{table}");
        assert_eq!(count(Purpose::Record), writes, "{table}");
        // And those that keep a lease, if a busy machine takes seconds over it.
        let all = leases + writes + leases + count(Purpose::Renew);
        assert_eq!(requests.len(), all, "{table}");
        let refused = requests
            .iter()
            .filter(|request| request.status != Some(200));
        assert_eq!(refused.count(), 0, "{table}");
        let holders: HashSet<_> = (requests.iter())
            .filter_map(|request| {
                request.body["Item"]["holder"]["S"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect();
        let holder = if url_parameters {
            "from-url"
        } else {
            "from-environment"
        };
        assert_eq!(holders, HashSet::from([holder.to_owned()]), "{table}");
        let mut auditor = fixture.open("");
        let sum = (CHILD_THREADS * CHILD_WRITES).to_string();
        assert_eq!(auditor.ok("query SELECT n FROM t"), sum);
        drop(auditor);
        fixture.assert_whole();
    }
}

/// What a handler of a real application does: one statement at a time.
const COMMITS: usize = 7;

#[test]
fn a_handler_of_seven_commits_sends_9_requests_while_it_holds_the_lock_instead_of_21() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let pool = pool(&host, 2);
    let handle = |conn: &mut Pooled| {
        for n in 0..COMMITS {
            insert(conn, n as i64).expect("a write");
        }
    };
    let mut conn = get(&pool);
    host.store.take_calls();
    handle(&mut conn);
    assert_eq!(host.store.take_calls().len(), 3 * COMMITS);
    let held = conn.hold_write_lock().expect("the lock is free");
    handle(&mut conn);
    // Nobody else comes in between.
    let other = connect(
        &fixture
            .host()
            .config()
            .lock_timeout(Duration::from_millis(1)),
    );
    assert_eq!(drop_refused(other), "Busy");
    held.release().expect("a release");
    let calls = host.store.take_calls();
    assert_eq!(calls.len(), COMMITS + 2, "{calls:?}");
    fixture.assert_nothing_left();
}

fn drop_refused(mut other: EfsSqliteConnection) -> &'static str {
    insert(&mut other, 0).expect_err("it is held");
    match other.last_lock_error() {
        Some(LockError::Busy { .. }) => "Busy",
        _ => "another",
    }
}

#[test]
fn a_hold_ends_at_the_latest_when_its_connection_comes_back_and_its_guard_is_of_no_more_use() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture.host(), 1);
    let mut guards = Vec::new();
    let given_again = is_given_out_again(&pool, |conn| {
        guards.push(conn.hold_write_lock().expect("the lock is free"));
        insert(conn, 1).expect("a write");
    });
    assert!(given_again, "it is as good as new");
    fixture.assert_nothing_left();
    // The next user's hold is its own.
    let mut conn = get(&pool);
    let held = conn.hold_write_lock().expect("the lock is free");
    drop(guards);
    assert!(
        fixture.item().is_some(),
        "an old guard has ended a hold of somebody else's"
    );
    insert(&mut conn, 2).expect("a write");
    // With Diesel's own manager as well.
    drop(held);
    drop(conn);
    drop(pool);
    fixture.assert_nothing_left();
    let manager = diesel::r2d2::ConnectionManager::<EfsSqliteConnection>::new(":memory:");
    let mut conn = fixture.host().connect();
    let held = conn.hold_write_lock().expect("the lock is free");
    assert!(!diesel::r2d2::ManageConnection::has_broken(
        &manager, &mut conn
    ));
    fixture.assert_nothing_left();
    drop((conn, held));
}

#[test]
fn a_hold_ends_with_its_connection_and_on_whatever_thread_its_guard_is_dropped() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let held = conn.hold_write_lock().expect("the lock is free");
    drop(conn);
    fixture.assert_nothing_left();
    drop(held);
    let mut conn = fixture.host().connect();
    let held = conn.hold_write_lock().expect("the lock is free");
    thread::spawn(move || drop(held)).join().expect("no panic");
    fixture.assert_nothing_left();
    // In the middle of a transaction it ends with that.
    let held = conn.hold_write_lock().expect("the lock is free");
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        drop(held);
        assert!(fixture.item().is_some());
        insert(conn, 2)
    });
    assert_eq!(result, Ok(1));
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), [1, 2]);
    let refused = conn.transaction(|conn| conn.hold_write_lock().map(drop));
    assert_eq!(refused, Err(diesel::result::Error::AlreadyInTransaction));
    let mut memory = EfsSqliteConnection::establish(":memory:").expect("a database");
    memory
        .hold_write_lock()
        .expect("nothing to hold")
        .release()
        .expect("nothing to do");
}

/// As a future that is cancelled does: its guard goes while its connection still works.
#[test]
fn a_guard_that_is_dropped_while_its_connection_writes_loses_no_write() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    for n in 0..100 {
        let held = conn.hold_write_lock().expect("the lock is free");
        thread::scope(|scope| {
            scope.spawn(move || drop(held));
            insert(&mut conn, n).expect("a write");
        });
    }
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture).len(), 100);
}
