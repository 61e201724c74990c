//! Inside tokio: the blocking connection on every kind of thread, and diesel-async's wrapper, whose
//! futures may be dropped at any time.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use diesel::prelude::*;
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection,
};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, RunQueryDsl};
use diesel_sqlite_efs::EfsSqliteConnection;
use integration::emulator::Emulator;
use integration::process::wait_until;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::fixtures::hosts::{Call, HostsFixture, committed, connect, execute};
use crate::fixtures::workers::{LONG, WorkersFixture};

type Wrapped = SyncConnectionWrapper<EfsSqliteConnection>;

diesel::table! {
    t (id) {
        id -> BigInt,
        n -> BigInt,
    }
}

#[test]
fn a_connection_works_on_every_kind_of_thread_of_a_runtime() {
    let fixture = WorkersFixture::new("async-threads");
    fixture.open("").ok("batch CREATE TABLE t (n INTEGER)");
    let places = [
        "current-thread",
        "multi-thread",
        "worker-thread",
        "block-in-place",
        "spawn-blocking",
    ];
    for place in places {
        let endpoint = Emulator::shared().endpoint();
        let runtime = format!("runtime={place}");
        let open = |parameters| fixture.try_open(endpoint, parameters, &[&runtime]);
        let mut conn = open("lock_timeout=20&lock_expiration=10").expect("the database opens");
        conn.ok("execute INSERT INTO t VALUES (1)");
        // Waits for a holder in another process.
        let mut holder = fixture.open("lock_expiration=10");
        holder.ok("immediate");
        conn.tell("immediate");
        thread::sleep(Duration::from_millis(50));
        holder.ok("execute INSERT INTO t VALUES (2)");
        holder.ok("commit");
        conn.answer().expect("the lock is free");
        conn.ok("execute INSERT INTO t VALUES (3)");
        conn.ok("commit");
        // Closed inside the runtime, and in the middle of a transaction.
        conn.ok("reopen");
        conn.ok("batch BEGIN IMMEDIATE; INSERT INTO t VALUES (4)");
        conn.finish();
        holder.finish();
        let mut auditor = fixture.open("");
        assert_eq!(auditor.ok("query SELECT n FROM t"), "1; 2; 3", "{place}");
        auditor.ok("execute DELETE FROM t");
        drop(auditor);
        fixture.assert_whole();
    }
}

/// A pool of connections to the fixture's database, by its own lock table.
async fn pool(fixture: &HostsFixture) -> Pool<Wrapped> {
    let config = fixture.host().config().lock_timeout(LONG);
    let mut manager = ManagerConfig::default();
    manager.custom_setup = Box::new(move |_| {
        let config = config.clone();
        Box::pin(async move {
            let conn = tokio::task::spawn_blocking(move || connect(&config)).await;
            Ok(Wrapped::new(conn.expect("a connection")))
        })
    });
    let manager = AsyncDieselConnectionManager::new_with_config("by the configuration", manager);
    Pool::builder()
        .max_size(2)
        .build(manager)
        .await
        .expect("a pool")
}

async fn insert(conn: &mut Wrapped, n: i64) -> QueryResult<usize> {
    diesel::insert_into(t::table)
        .values(t::n.eq(n))
        .execute(conn)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pool_reads_writes_and_runs_transactions() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture).await;
    let mut conn = pool.get().await.expect("a connection");
    insert(&mut conn, 1).await.expect("an insert");
    let result = conn
        .transaction(async |conn| {
            insert(conn, 2).await?;
            Err::<(), _>(diesel::result::Error::RollbackTransaction)
        })
        .await;
    assert!(result.is_err());
    let found: Vec<i64> = t::table
        .select(t::n)
        .load(&mut *conn)
        .await
        .expect("a query");
    assert_eq!(found, [1]);
    fixture.assert_nothing_left();
}

/// What a closure could not hold: several calls with an await in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_holds_the_lock_over_several_awaits_until_its_guard_is_dropped() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture).await;
    let mut conn = pool.get().await.expect("a connection");
    let held = conn.spawn_blocking(|conn| conn.hold_write_lock()).await;
    let held = held.expect("the lock is free");
    for n in 0..7 {
        insert(&mut conn, n).await.expect("an insert");
        assert!(fixture.item().is_some(), "it is held");
    }
    drop(held);
    fixture.assert_nothing_left();
    // diesel-async's pools do not ask the connection when it comes back: the guard decides alone.
    let held = conn.spawn_blocking(|conn| conn.hold_write_lock()).await;
    insert(&mut conn, 7).await.expect("an insert");
    drop(conn);
    assert!(fixture.item().is_some(), "it is held");
    drop(held.expect("the lock was free"));
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transaction_dropped_between_two_statements_leaves_neither_lock_nor_half_of_it() {
    let fixture = HostsFixture::with_table();
    let pool = pool(&fixture).await;
    let (written, reached) = oneshot::channel();
    let task = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut conn = pool.get().await.expect("a connection");
            conn.transaction(async |conn| {
                insert(conn, 1).await?;
                written.send(()).expect("somebody waits");
                pending::<QueryResult<()>>().await
            })
            .await
        }
    });
    reached.await.expect("the row is written");
    assert!(fixture.item().is_some(), "the lock is held");
    task.abort();
    assert!(task.await.expect_err("it was dropped").is_cancelled());
    // The pool has closed the connection.
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), Vec::<i64>::new());
    let mut conn = pool.get().await.expect("another connection");
    insert(&mut conn, 2).await.expect("an insert");
    assert_eq!(committed(&fixture), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_statement_dropped_while_it_waits_for_the_lock_is_seen_to_its_end() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = Wrapped::new(connect(&host.config().lock_timeout(Duration::from_secs(2))));
    fixture.give_lease_to_another();
    host.store.take_calls();
    let given_up = timeout(Duration::from_millis(50), insert(&mut conn, 1)).await;
    assert!(given_up.is_err(), "it was dropped");
    assert!(host.store.take_calls().contains(&Call::Acquire));
    // It has ended: the connection can be used at once.
    fixture.remove_item();
    insert(&mut conn, 2).await.expect("an insert");
    fixture.assert_committed(&[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transaction_that_is_one_blocking_task_is_never_cut_in_two() {
    let fixture = HostsFixture::with_table();
    let mut conn = Wrapped::new(fixture.host().connect());
    let (begun, reached) = oneshot::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let transaction = conn.spawn_blocking(move |conn| {
        conn.immediate_transaction(|conn| {
            execute(conn, "INSERT INTO t (n) VALUES (1)")?;
            begun.send(()).expect("somebody waits");
            wait.recv().expect("somebody goes on");
            execute(conn, "INSERT INTO t (n) VALUES (2)")
        })
    });
    let mut transaction = Box::pin(transaction);
    tokio::select! {
        biased;
        result = &mut transaction => panic!("it waits: {result:?}"),
        reached = reached => reached.expect("the first row is written"),
    }
    let dropping = thread::spawn(move || go_on.send(()));
    drop(transaction);
    dropping.join().expect("no panic").expect("it waits");
    // Dropping its future has waited for its end.
    fixture.assert_committed(&[1, 2]);
    insert(&mut conn, 3).await.expect("the connection works");
}

/// Not right, and documented: who keeps the connection keeps the transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_kept_beyond_a_dropped_transaction_holds_the_lock_until_it_is_dropped() {
    let fixture = HostsFixture::with_table();
    let mut conn = Wrapped::new(fixture.host().connect());
    let (written, reached) = oneshot::channel();
    let transaction = conn.transaction(async |conn| {
        insert(conn, 1).await?;
        written.send(()).expect("somebody waits");
        pending::<QueryResult<()>>().await
    });
    tokio::select! {
        result = transaction => panic!("it hangs: {result:?}"),
        reached = reached => reached.expect("the row is written"),
    }
    assert!(fixture.item().is_some());
    assert!(conn.is_broken(), "a pool would close it");
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(committed(&fixture), Vec::<i64>::new());
}

/// What the page says of diesel-async and the current-thread runtime; if this fails, it has become
/// better.
#[tokio::test]
async fn on_a_current_thread_runtime_dropping_a_running_statement_panics_and_leaves_nothing() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = Wrapped::new(connect(&host.config().lock_timeout(Duration::from_secs(2))));
    fixture.give_lease_to_another();
    let mut statement = Box::pin(insert(&mut conn, 1));
    let running = timeout(Duration::from_millis(10), &mut statement).await;
    assert!(running.is_err(), "it waits for the lock");
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(statement)));
    assert!(dropped.is_err());
    drop(conn);
    fixture.remove_item();
    // The statement goes on, on its thread, and may find the lock free.
    wait_until(LONG, "the statement has ended", || {
        fixture.item().is_none() && Arc::strong_count(&host.store) == 1
    });
    fixture.assert_nothing_left();
}

#[tokio::test]
async fn a_blocking_task_whose_future_is_dropped_runs_to_its_end_and_closes_its_connection() {
    let fixture = HostsFixture::with_table();
    let mut conn = fixture.host().connect();
    let (begun, reached) = oneshot::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let task = tokio::task::spawn_blocking(move || {
        conn.immediate_transaction(|conn| {
            begun.send(()).expect("somebody waits");
            wait.recv().expect("somebody goes on");
            execute(conn, "INSERT INTO t (n) VALUES (1)")
        })
    });
    tokio::select! {
        result = task => panic!("it waits: {result:?}"),
        reached = reached => reached.expect("the transaction is begun"),
    }
    assert!(fixture.item().is_some());
    go_on.send(()).expect("it waits");
    wait_until(LONG, "the transaction has ended", || {
        fixture.item().is_none()
    });
    fixture.assert_committed(&[1]);
}
