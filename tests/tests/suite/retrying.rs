//! What `retrying_transaction` repeats, what it does not, how often, and what it leaves behind.

use std::env;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection, ReadCheck};
use integration::dynamodb::env_for;
use integration::emulator::Emulator;
use integration::process::{Worker, ignored_test};

use crate::events::{Fields, events_of, recorder};
use crate::fixtures::hosts::{
    CHANGE, Call, HostsFixture, LEASE, VERY_LONG, assert_lock_error, assert_serialization_failure,
    assert_usable, committed, connect, execute, insert, manual_clock, numbers,
};
use crate::fixtures::workers::{LONG, WorkersFixture};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

fn patient(config: EfsConfig) -> EfsSqliteConnection {
    connect(&config.lock_timeout(VERY_LONG))
}

fn select(conn: &mut EfsSqliteConnection) -> QueryResult<Vec<i64>> {
    numbers(conn, "SELECT n FROM t ORDER BY id")
}

/// Begins, commits and rollbacks from now on.
fn log_transactions(conn: &mut EfsSqliteConnection) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let query = query.to_string();
            if ["BEGIN", "COMMIT", "ROLLBACK"]
                .iter()
                .any(|word| query.starts_with(word))
            {
                seen.lock().expect("no panic").push(query);
            }
        }
    });
    log
}

#[test]
fn a_transaction_that_was_overtaken_is_run_again_with_the_lock_taken_first() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = patient(host.config_without_file_locks());
    let mut other = fixture.host().connect_without_file_locks();
    let log = log_transactions(&mut conn);
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        let before = select(conn)?.len();
        if runs == 1 {
            assert_eq!(insert(&mut other, 10), Ok(1));
        } else {
            assert_eq!(
                host.store.take_calls(),
                [Call::Acquire, Call::Release, Call::Acquire]
            );
        }
        insert(conn, 20)?;
        Ok::<_, Error>(before)
    });
    assert_eq!(
        result,
        Ok(1),
        "the second run sees what had overtaken the first"
    );
    assert_eq!(runs, 2);
    assert_eq!(host.store.take_calls(), CHANGE[1..]);
    assert_eq!(
        *log.lock().expect("no panic"),
        ["BEGIN", "ROLLBACK", "BEGIN IMMEDIATE", "COMMIT"]
    );
    assert_eq!(conn.lock_stats().retries, 1);
    fixture.assert_committed(&[10, 20]);
}

#[test]
fn a_lock_that_becomes_free_between_two_runs_is_taken_before_the_next_reads() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = patient(host.config());
    let result = conn.retrying_transaction(|conn| {
        select(conn)?;
        if fixture.item().is_some() {
            return insert(conn, 1);
        }
        fixture.give_lease_to_another();
        let refused = insert(conn, 1);
        fixture.remove_item();
        refused
    });
    assert_eq!(result, Ok(1));
    let calls = [&[Call::Acquire], &CHANGE[..]].concat();
    assert_eq!(host.store.take_calls(), calls);
    fixture.assert_committed(&[1]);
}

#[test]
fn what_only_reads_takes_no_lock_however_often_it_is_run() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let config = host.config_without_file_locks();
    let mut conn = patient(config.lock_read_check(ReadCheck::Counter));
    let mut other = fixture.host().connect_without_file_locks();
    other
        .batch_execute("CREATE TABLE far (n INTEGER)")
        .expect("a table");
    let log = log_transactions(&mut conn);
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        if runs <= 2 {
            assert_eq!(insert(&mut other, runs), Ok(1));
        }
        // From a page that is not in the cache.
        conn.batch_execute("SELECT * FROM far")?;
        select(conn)
    });
    assert_eq!(result, Ok(vec![1, 2]));
    assert_lock_error!(conn, TornRead);
    assert_eq!(runs, 3);
    assert_eq!(host.store.take_calls(), []);
    let begun = log.lock().expect("no panic").join(" ");
    assert_eq!(begun, "BEGIN ROLLBACK BEGIN ROLLBACK BEGIN COMMIT");
}

#[test]
fn a_transaction_that_lost_its_lease_is_run_again_and_happens_once() {
    let ways_to_lose: [fn(&HostsFixture, &diesel_sqlite_efs::ManualClock); 2] = [
        |_, clock| clock.advance(LEASE),
        |fixture, _| fixture.remove_item(),
    ];
    for lose in ways_to_lose {
        for swallow in [false, true] {
            let (fixture, clock) = (HostsFixture::with_table(), manual_clock());
            let config = fixture.host().config().clock(clock.clock());
            let mut conn = patient(config);
            let mut runs = 0;
            let result = conn.retrying_transaction(|conn| {
                runs += 1;
                insert(conn, runs)?;
                if runs == 1 {
                    lose(&fixture, &clock);
                    let again = insert(conn, 100);
                    // What a closure makes of it changes nothing: the transaction is over.
                    return if swallow { Ok(0) } else { again };
                }
                Ok::<_, Error>(2)
            });
            assert_eq!((result, runs), (Ok(2), 2));
            fixture.assert_committed(&[2]);
        }
    }
}

#[test]
fn the_cause_counts_whatever_the_closure_makes_of_it() {
    #[derive(Debug, PartialEq)]
    struct Unspecific;
    impl From<Error> for Unspecific {
        fn from(_: Error) -> Self {
            Self
        }
    }
    let fixture = HostsFixture::with_table();
    let mut conn = patient(fixture.host().config_without_file_locks());
    let mut other = fixture.host().connect_without_file_locks();
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        if runs == 1 {
            assert_eq!(insert(&mut other, 1), Ok(1));
        }
        // The rollback of the savepoint comes after the failure.
        conn.transaction(|conn| insert(conn, 2))
            .map_err(|_| Unspecific)
    });
    assert_eq!((result, runs), (Ok(1), 2));
}

/// The time of the first run is the application's own.
#[test]
fn a_first_run_longer_than_the_timeout_gets_its_second() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let fixture = HostsFixture::with_table();
    let mut conn = connect(&fixture.host().config().lock_timeout(TIMEOUT));
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        insert(conn, runs)?;
        if runs == 1 {
            thread::sleep(TIMEOUT * 2);
            fixture.remove_item();
        }
        Ok::<_, Error>(runs)
    });
    assert_eq!(result, Ok(2));
    assert_eq!(committed(&fixture), [2]);
}

#[test]
fn threads_that_read_and_then_write_lose_no_update() {
    const THREADS: usize = 6;
    const UPDATES: usize = 8;
    let fixture = HostsFixture::with_table();
    assert_eq!(insert(&mut fixture.host().connect(), 0), Ok(1));
    let all_have_read = Barrier::new(THREADS);
    let retries = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    // A host of its own: nobody queues next to it.
                    let mut conn = patient(fixture.host().config());
                    let mut runs = 0;
                    for _ in 0..UPDATES {
                        let result = conn.retrying_transaction(|conn| {
                            runs += 1;
                            let n = select(conn)?[0];
                            if runs == 1 {
                                all_have_read.wait();
                            }
                            execute(conn, &format!("UPDATE t SET n = {}", n + 1))
                        });
                        assert_eq!(result, Ok(1));
                    }
                    conn.lock_stats().retries
                })
            })
            .collect();
        let threads = threads.into_iter();
        threads
            .map(|thread| thread.join().expect("no panic"))
            .sum::<u64>()
    });
    let sum = i64::try_from(THREADS * UPDATES).expect("a small number");
    assert_eq!(committed(&fixture), [sum]);
    // Of those that have read the first state one can write.
    assert!(retries >= THREADS as u64 - 1, "{retries}");
    fixture.assert_nothing_left();
}

/// On DynamoDB, with SQLite's file locks and without them.
#[test]
fn processes_that_read_and_then_write_lose_no_update() {
    const PROCESSES: usize = 4;
    for (fixture, base_vfs) in [
        (WorkersFixture::new("retrying-processes"), "unix"),
        (
            WorkersFixture::without_file_locks("retrying-without-file-locks"),
            "unix-none",
        ),
    ] {
        let mut setup = fixture.open("");
        setup.ok("batch CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t (n) VALUES (0)");
        drop(setup);
        let mut processes: Vec<_> = (0..PROCESSES)
            .map(|_| {
                let mut command = ignored_test("retrying::child");
                command
                    .envs(env_for(Emulator::shared().endpoint()))
                    .env("SQLITE_LOCK_DYNAMODB_TABLE", fixture.table.name())
                    .env("RETRYING_DATABASE", fixture.scratch.database())
                    .env("RETRYING_VFS", base_vfs);
                Worker::spawn(&mut command).expect("the process starts")
            })
            .collect();
        for process in &processes {
            let line = process.line_where(LONG * 4, |line| line.contains("has read"));
            line.expect("it reads");
        }
        for process in &mut processes {
            process.send("go on").expect("it listens");
        }
        let mut retries = 0;
        for process in &mut processes {
            let line = process.line_where(LONG * 4, |line| line.contains("retries: "));
            let line = line.expect("it succeeds");
            let (_, number) = line.split_once("retries: ").expect("a number");
            retries += number.trim().parse::<u64>().expect("a number");
            let status = process.wait(LONG).expect("it ends");
            assert!(status.success(), "{status}");
        }
        // Of those that have read the first state one can write.
        assert!(retries >= PROCESSES as u64 - 1, "{retries}");
        let mut auditor = fixture.open("");
        let sum = (PROCESSES * CHILD_UPDATES).to_string();
        assert_eq!(auditor.ok("query SELECT n FROM t"), sum);
        drop(auditor);
        fixture.assert_whole();
    }
}

const CHILD_UPDATES: usize = 10;

#[test]
#[ignore = "not a test: the process that a test starts"]
fn child() {
    let database = env::var_os("RETRYING_DATABASE").expect("a path");
    let vfs = env::var("RETRYING_VFS").expect("a name");
    let read_check = if vfs == "unix-none" {
        ReadCheck::Counter
    } else {
        ReadCheck::Off
    };
    let config = EfsConfig::new(database)
        .base_vfs(vfs)
        .lock_read_check(read_check);
    let mut conn = connect(&config.lock_timeout(LONG * 4));
    let mut runs = 0;
    for _ in 0..CHILD_UPDATES {
        let result = conn.retrying_transaction(|conn| {
            runs += 1;
            let n = select(conn)?[0];
            if runs == 1 {
                println!("has read");
                let mut go_on = String::new();
                io::stdin().read_line(&mut go_on).expect("the test tells");
            }
            execute(conn, &format!("UPDATE t SET n = {}", n + 1))
        });
        assert_eq!(result, Ok(1));
    }
    println!("retries: {}", conn.lock_stats().retries);
}

#[test]
fn errors_of_the_closure_are_not_repeated() {
    type Body = fn(&mut EfsSqliteConnection) -> QueryResult<usize>;
    fn built_by_the_application() -> Error {
        let information = Box::new("built by the application".to_owned());
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, information)
    }
    let bodies: [(&str, Body); 5] = [
        ("a rollback", |_| Err(Error::RollbackTransaction)),
        ("after a write", |conn| {
            insert(conn, 1)?;
            Err(Error::NotFound)
        }),
        ("built by the application", |conn| {
            insert(conn, 1)?;
            Err(built_by_the_application())
        }),
        ("a constraint", |conn| {
            execute(conn, "INSERT INTO t (id) VALUES (1), (1)")
        }),
        ("a mistake", |conn| execute(conn, "no SQL")),
    ];
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    for (what, body) in bodies {
        let mut runs = 0;
        let result = conn.retrying_transaction(|conn| {
            runs += 1;
            body(conn)
        });
        assert!(result.is_err(), "{what}");
        assert_eq!(runs, 1, "{what}");
        if what == "built by the application" {
            assert_eq!(result, Err(built_by_the_application()));
        }
        fixture.assert_nothing_left();
    }
    assert_eq!(conn.lock_stats().retries, 0);
    assert_eq!(committed(&fixture), [0; 0]);
}

#[test]
fn a_failure_of_the_lock_that_the_closure_got_over_is_not_the_cause() {
    let fixture = HostsFixture::with_table();
    let mut conn = patient(fixture.host().config_without_file_locks());
    let mut other = fixture.host().connect_without_file_locks();
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        assert_eq!(insert(&mut other, 1), Ok(1));
        assert_serialization_failure(insert(conn, 2));
        select(conn)?;
        Err::<(), _>(Error::NotFound)
    });
    assert_eq!((result, runs), (Err(Error::NotFound), 1));
    // Nor is one of a transaction before it.
    let result: QueryResult<()> = conn.retrying_transaction(|_| Err(Error::RollbackTransaction));
    assert_eq!(result, Err(Error::RollbackTransaction));
    assert_eq!(conn.lock_stats().retries, 0);
    fixture.assert_nothing_left();
}

#[test]
fn an_unknown_outcome_is_not_repeated() {
    /// The shortest that there is: the connection has to wait for its end.
    const SHORT_LEASE: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let config = host.config().lock_expiration(SHORT_LEASE);
    let mut conn = patient(config);
    (host.store).before_own(Call::Confirm, || panic!("by the store"));
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        insert(conn, 1)
    });
    assert!(result.is_err(), "{result:?}");
    assert_lock_error!(conn, OutcomeUnknown);
    assert_eq!(runs, 1);
}

#[test]
fn what_waiting_cannot_cure_is_not_repeated() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    host.store.before(Call::Acquire, || panic!("by the store"));
    let result = conn.retrying_transaction(|conn| insert(conn, 1));
    assert!(result.is_err(), "{result:?}");
    assert_eq!(
        host.store
            .take_calls()
            .iter()
            .filter(|call| **call == Call::Acquire)
            .count(),
        1
    );
    assert_eq!(conn.retrying_transaction(|conn| insert(conn, 2)), Ok(1));
    assert_eq!(committed(&fixture), [2]);
}

#[test]
fn a_database_in_memory_has_nothing_to_repeat() {
    let mut conn = connect(&EfsConfig::new(":memory:"));
    conn.batch_execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        .expect("a table");
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        insert(conn, 1)?;
        Err::<(), _>(Error::RollbackTransaction)
    });
    assert_eq!((result, runs), (Err(Error::RollbackTransaction), 1));
    assert_eq!(conn.retrying_transaction(|conn| insert(conn, 2)), Ok(1));
    assert_eq!(select(&mut conn), Ok(vec![2]));
}

/// A first run that has waited as long as it may is the last.
#[test]
fn who_has_waited_for_the_whole_timeout_gives_up() {
    let fixture = HostsFixture::with_table();
    fixture.give_lease_to_another();
    let mut conn = connect(
        &fixture
            .host()
            .config()
            .lock_timeout(Duration::from_millis(300)),
    );
    let mut runs = 0;
    let began = Instant::now();
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        insert(conn, 1)
    });
    assert_serialization_failure(result);
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!(runs, 1);
    assert_lock_error!(conn, Busy);
    fixture.remove_item();
    fixture.assert_nothing_left();
    assert_usable(&mut conn);
}

/// A transaction that has read fails at once; its repeats wait for the rest of the time.
#[test]
fn repeats_wait_no_longer_than_the_timeout_and_leave_nothing() {
    recorder();
    /// Between a failure and its repeat a busy machine may do nothing for a moment.
    const TIMEOUT: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::new();
    let with_key = || fixture.host().config().lock_key("retrying-gives-up");
    let mut holding = connect(&with_key());
    let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)";
    holding.batch_execute(table).expect("a table");
    let mut conn = connect(&with_key().lock_timeout(TIMEOUT));
    holding.batch_execute("BEGIN IMMEDIATE").expect("the lock");
    let mut runs = 0;
    let began = Instant::now();
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        insert(conn, 1)
    });
    assert_serialization_failure(result);
    let elapsed = began.elapsed();
    assert!(elapsed >= TIMEOUT / 2, "{elapsed:?}");
    assert!(elapsed < TIMEOUT * 40, "{elapsed:?}");
    assert_eq!(
        runs, 1,
        "the repeat did not get the lock that it begins with"
    );
    assert_eq!(conn.lock_stats().retries, 1);
    let told = |name: &str| -> Vec<Fields> {
        let events = events_of("retrying-gives-up").into_iter();
        events.filter(|event| event["event"] == name).collect()
    };
    let retried = told("transaction.retried");
    assert_eq!(retried.len(), 1);
    assert_eq!(retried[0]["attempt"], "2");
    assert!(
        retried[0]["error"].contains("the write lock is held by"),
        "{retried:?}"
    );
    let gave_up = told("transaction.gave_up");
    assert_eq!(gave_up.len(), 1);
    assert_eq!(gave_up[0]["attempts"], "2");
    holding.batch_execute("COMMIT").expect("an end");
    assert_usable(&mut conn);
}

#[test]
fn no_run_begins_that_cannot_end_before_the_deadline() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = patient(host.config_without_file_locks());
    let mut other = fixture.host().connect_without_file_locks();
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        assert_eq!(insert(&mut other, 1), Ok(1));
        let stale = insert(conn, 2);
        conn.set_deadline(Some(Instant::now()));
        stale
    });
    // The cause, and not that there is no time left to cure it.
    assert_serialization_failure(result);
    assert_eq!((runs, conn.lock_stats().retries), (1, 0));
    assert_lock_error!(conn, StaleSnapshot);
    fixture.assert_committed(&[1]);
}

#[test]
fn a_retrying_transaction_inside_a_transaction_is_refused_and_so_is_what_cannot_be_inside_it() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.transaction(|conn| {
        insert(conn, 1)?;
        let refused: QueryResult<()> = conn.retrying_transaction(|_| panic!("it is run"));
        assert_eq!(refused, Err(Error::AlreadyInTransaction));
        insert(conn, 2)
    });
    assert_eq!(result, Ok(1));
    let result = conn.retrying_transaction(|conn| {
        let nested: [QueryResult<()>; 3] = [
            conn.retrying_transaction(|_| panic!("it is run")),
            conn.with_write_lock(|_| panic!("it is run")),
            conn.immediate_transaction(|_| panic!("it is run")),
        ];
        for refused in nested {
            assert_eq!(refused, Err(Error::AlreadyInTransaction));
        }
        conn.transaction(|conn| insert(conn, 3))
    });
    assert_eq!(result, Ok(1));
    assert_eq!(host.store.take_calls(), [CHANGE, CHANGE].concat());
    fixture.assert_committed(&[1, 2, 3]);
}

#[test]
fn all_kinds_of_transactions_and_migrations_share_one_lease_inside_with_write_lock() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.with_write_lock(|conn| {
        conn.retrying_transaction(|conn| {
            select(conn)?;
            insert(conn, 1)
        })?;
        conn.immediate_transaction(|conn| insert(conn, 2))?;
        conn.exclusive_transaction(|conn| insert(conn, 3))?;
        conn.with_write_lock(|conn| conn.retrying_transaction(|conn| insert(conn, 4)))?;
        assert_eq!(
            host.store.take_calls(),
            [&[Call::Acquire], &[Call::Confirm; 4][..]].concat()
        );
        let applied = conn.run_migrations(MIGRATIONS).expect("migrations").len();
        assert!(applied >= 2);
        // Diesel's table of migrations, then each migration's transaction.
        assert_eq!(host.store.take_calls(), vec![Call::Confirm; applied + 1]);
        assert_eq!(conn.run_migrations(MIGRATIONS).expect("none").len(), 0);
        Ok::<_, Error>(())
    });
    assert_eq!(result, Ok(()));
    assert_eq!(host.store.take_calls(), [Call::Release]);
    fixture.assert_committed(&[1, 2, 3, 4]);
}

#[test]
fn migrations_inside_a_transaction_belong_to_it() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let undone: QueryResult<()> = conn.retrying_transaction(|conn| {
        let applied = conn.run_migrations(MIGRATIONS).expect("migrations");
        assert!(applied.len() >= 2);
        Err(Error::RollbackTransaction)
    });
    assert_eq!(undone, Err(Error::RollbackTransaction));
    fixture.assert_nothing_left();
    host.store.take_calls();
    let result = conn.retrying_transaction(|conn| {
        let applied = conn.run_migrations(MIGRATIONS).expect("migrations again");
        assert!(applied.len() >= 2);
        insert(conn, 1)
    });
    assert_eq!(result, Ok(1));
    assert_eq!(host.store.take_calls(), CHANGE);
    fixture.assert_nothing_left();
}

/// The lock was promised for all of the outer closure: it cannot be taken again inside it.
#[test]
fn a_lease_lost_under_with_write_lock_is_not_repeated_inside_it() {
    let (fixture, clock) = (HostsFixture::with_table(), manual_clock());
    let config = fixture.host().config().clock(clock.clock());
    let mut conn = patient(config);
    let mut runs = 0;
    let result = conn.with_write_lock(|conn| {
        conn.retrying_transaction(|conn| {
            runs += 1;
            insert(conn, 1)?;
            clock.advance(LEASE);
            insert(conn, 2)
        })
    });
    assert_serialization_failure(result);
    assert_eq!(runs, 1);
    // Around it, it can.
    assert_eq!(
        conn.with_write_lock(|conn| conn.retrying_transaction(|conn| insert(conn, 3))),
        Ok(1)
    );
    fixture.assert_committed(&[3]);
}

#[test]
fn a_panic_in_a_repeat_leaves_nothing_once_the_connection_is_dropped() {
    let fixture = HostsFixture::with_table();
    let mut conn = patient(fixture.host().config_without_file_locks());
    let mut other = fixture.host().connect_without_file_locks();
    let mut runs = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        conn.retrying_transaction(|conn| {
            runs += 1;
            select(conn)?;
            if runs == 1 {
                assert_eq!(insert(&mut other, 1), Ok(1));
            }
            insert(conn, 2)?;
            assert!(fixture.item().is_some());
            if runs == 2 {
                panic!("in the second run");
            }
            Ok::<_, Error>(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(runs, 2);
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), [1]);
}

/// The longest that a caller can say.
#[test]
fn a_timeout_without_end_is_one() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect_without_file_locks();
    conn.set_lock_timeout(Duration::MAX);
    let mut other = fixture.host().connect_without_file_locks();
    let mut runs = 0;
    let result = conn.retrying_transaction(|conn| {
        runs += 1;
        select(conn)?;
        if runs == 1 {
            assert_eq!(insert(&mut other, 1), Ok(1));
        }
        insert(conn, 2)
    });
    assert_eq!((result, runs), (Ok(1), 2));
    assert_eq!(insert(&mut conn, 3), Ok(1));
}

/// Neither the last run's share of the wait, nor its attempts alone.
#[test]
fn an_error_after_several_runs_speaks_of_all_of_them() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = connect(&host.config().lock_timeout(TIMEOUT));
    fixture.give_lease_to_another();
    let began = Instant::now();
    let mut first = None;
    let result = conn.retrying_transaction(|conn| {
        select(conn)?;
        let result = insert(conn, 1);
        first = first.or(Some(began.elapsed()));
        result
    });
    let elapsed = began.elapsed();
    let message = result.expect_err("the lease is another's").to_string();
    let asked = host.store.take_calls().len();
    assert!(asked > 1, "the first run asks once, the second waits");
    let (_, gave_up) = message.split_once("after ").expect("how long");
    let (waited, rest) = gave_up.split_once(" ms").expect("a unit");
    let waited = Duration::from_millis(waited.parse().expect("a number"));
    assert!(waited <= elapsed, "{message}, after {elapsed:?}");
    let since_first = elapsed - first.expect("a run");
    assert!(
        waited + Duration::from_millis(100) >= since_first,
        "{message}, after {elapsed:?}"
    );
    assert!(
        rest.contains(&format!(" {asked} attempt")),
        "{asked}: {message}"
    );
    // And of its own alone once that is over.
    conn.set_lock_timeout(Duration::from_millis(1));
    let message = insert(&mut conn, 1).expect_err("it still is").to_string();
    let asked = host.store.take_calls().len();
    assert!(
        message.contains(&format!(" {asked} attempt")),
        "{asked}: {message}"
    );
}
