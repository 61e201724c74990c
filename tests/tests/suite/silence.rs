//! A host whose requests are not answered is in nobody's way: no request that may take long is
//! awaited while a file lock is held. And a timeout of zero means one attempt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{Connection, SimpleConnection};
use diesel::prelude::*;
use diesel_sqlite_efs::testing::{Delete, Hook, HookedStore, Put};
use diesel_sqlite_efs::{
    DeleteAnswer, EfsConfig, EfsSqliteConnection, InMemoryLockStore, PutAnswer, PutCondition,
    StoreError,
};
use integration::proxy::{Action, Purpose, Rule};
use integration::scratch::Scratch;

use crate::fixtures::hosts::{
    LEASE, VERY_LONG, assert_lock_error, assert_serialization_failure, connect, insert, numbers,
};
use crate::fixtures::workers::{LONG, WorkersFixture, number_before, proxy};

/// What may be spent with SHARED held: a host that is cut off costs each commit of the others no
/// more than this.
const FAST: Duration = Duration::from_millis(250);

/// A lock table whose answers to acquiring puts come late or never.
#[derive(Default)]
struct Slow(Mutex<SlowState>);

#[derive(Default)]
struct SlowState {
    /// How long an answer takes; `None`: none comes.
    answers_in: Option<Duration>,
    /// Tries to commit by the connection of another host.
    commit: Option<Box<dyn FnMut() -> QueryResult<()> + Send>>,
    /// For each acquiring put how long it may take, and whether others could commit meanwhile.
    puts: Vec<(Duration, bool)>,
    /// For each delete whether others could commit meanwhile.
    deletes: Vec<bool>,
}

impl Slow {
    fn state(&self) -> std::sync::MutexGuard<'_, SlowState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlowState {
    fn others_can_commit(&mut self) -> bool {
        self.commit.as_mut().is_none_or(|commit| commit().is_ok())
    }
}

impl Hook for Slow {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        if !matches!(put.condition, PutCondition::FreeOrOurs) {
            return put.pass_on();
        }
        let mut state = self.state();
        let can_commit = state.others_can_commit();
        state.puts.push((put.give_up_after, can_commit));
        match state.answers_in {
            Some(time) if time <= put.give_up_after => {
                thread::sleep(time);
                put.pass_on()
            }
            _ => {
                thread::sleep(put.give_up_after.min(FAST));
                Err(StoreError::timeout("a table", "slow", put.give_up_after))
            }
        }
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        let mut state = self.state();
        let can_commit = state.others_can_commit();
        state.deletes.push(can_commit);
        delete.pass_on()
    }
}

/// A database that one host writes to behind a slow table, and another without a lock table in the way.
struct Place {
    scratch: Scratch,
    table: Arc<InMemoryLockStore>,
    slow: Arc<HookedStore<Slow>>,
}

impl Place {
    fn new(answers_in: Option<Duration>) -> Self {
        let scratch = Scratch::new().expect("a directory");
        let table = Arc::<InMemoryLockStore>::default();
        let slow = HookedStore::new(table.clone(), Slow::default());
        slow.state().answers_in = answers_in;
        let place = Self {
            scratch,
            table,
            slow,
        };
        let table = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)";
        (place.other().batch_execute(table)).expect("a table");
        place
    }

    fn config(&self) -> EfsConfig {
        EfsConfig::new(self.scratch.database())
            .lock_store(self.slow.clone())
            .lock_expiration(LEASE)
    }

    /// By file locks alone, which is what a SHARED lock would keep out.
    fn other(&self) -> SqliteConnection {
        let path = self.scratch.database().to_str().expect("a path");
        SqliteConnection::establish(path).expect("a connection")
    }

    /// Another host commits, or tries to, while the table is asked.
    fn commit_while_asking(&self) {
        let mut other = self.other();
        self.slow.state().commit = Some(Box::new(move || {
            other.batch_execute("CREATE TABLE IF NOT EXISTS u (n); INSERT INTO u VALUES (1)")
        }));
    }

    /// Asserts that whatever was asked in others' way could not take long.
    #[track_caller]
    fn assert_nobody_was_in_the_way(&self) {
        let state = self.slow.state();
        let in_the_way = state.puts.iter().filter(|(_, can_commit)| !can_commit);
        let longest = in_the_way.map(|(time, _)| *time).max();
        assert!(longest.is_none_or(|time| time <= FAST), "{:?}", state.puts);
        assert!(
            state.deletes.iter().all(|can_commit| *can_commit),
            "a delete with SHARED held"
        );
    }
}

#[test]
fn a_write_awaits_a_silent_table_without_a_file_lock() {
    let place = Place::new(None);
    let mut conn = connect(&place.config().lock_timeout(Duration::from_secs(2)));
    place.commit_while_asking();
    assert_serialization_failure(insert(&mut conn, 1));
    assert_lock_error!(conn, Store);
    let puts = place.slow.state().puts.clone();
    assert!(puts.iter().any(|(_, can_commit)| *can_commit), "{puts:?}");
    place.assert_nobody_was_in_the_way();
    // And once more, for what is known of the table by now.
    assert_serialization_failure(insert(&mut conn, 1));
    place.assert_nobody_was_in_the_way();
}

#[test]
fn an_acquisition_goes_on_in_the_busy_handler_and_recognises_its_own_put() {
    let place = Place::new(Some(FAST * 2));
    let mut conn = connect(&place.config().lock_timeout(VERY_LONG));
    assert_eq!(insert(&mut conn, 1), Ok(1));
    let puts = place.slow.state().puts.clone();
    assert_eq!(puts.len(), 2, "the second was answered: {puts:?}");
    assert_eq!(
        place
            .table
            .item(&format!("database#{}", place.scratch.database().display())),
        None
    );
    // What is known of the table is not asked for again.
    assert_eq!(insert(&mut conn, 2), Ok(1));
}

#[test]
fn a_write_that_has_read_fails_soon_and_its_put_is_cleared_away_without_a_file_lock() {
    let place = Place::new(None);
    let mut conn = connect(&place.config().lock_timeout(VERY_LONG));
    place.commit_while_asking();
    for _ in 0..3 {
        let result = conn.transaction(|conn| {
            numbers(conn, "SELECT n FROM t")?;
            insert(conn, 1)
        });
        assert_serialization_failure(result);
        assert_lock_error!(conn, Store);
    }
    let state = place.slow.state();
    assert_eq!(state.puts.len(), 3, "one attempt each");
    assert_eq!(state.deletes.len(), 3, "each put may have been stored");
    drop(state);
    place.assert_nobody_was_in_the_way();
}

#[test]
fn a_second_attempt_of_a_transaction_recognises_the_put_of_the_first() {
    let place = Place::new(None);
    let mut conn = connect(&place.config().lock_timeout(VERY_LONG));
    let result = conn.transaction(|conn| {
        numbers(conn, "SELECT n FROM t")?;
        assert_serialization_failure(insert(conn, 1));
        place.slow.state().answers_in = Some(Duration::ZERO);
        insert(conn, 2)
    });
    assert_eq!(result, Ok(1));
}

#[test]
fn a_timeout_of_zero_is_one_attempt_that_is_given_time_for_its_answer() {
    const ANSWER: Duration = Duration::from_millis(300);
    type Setting = fn(&mut EfsSqliteConnection);
    let settings: [Setting; 4] = [
        |conn| conn.set_lock_timeout(Duration::ZERO),
        |conn| conn.set_lock_timeout(Duration::from_millis(1)),
        |conn| {
            conn.batch_execute("PRAGMA busy_timeout = 0")
                .expect("a setting")
        },
        |conn| {
            conn.batch_execute("PRAGMA busy_timeout = 20")
                .expect("a setting")
        },
    ];
    type Write = fn(&mut EfsSqliteConnection) -> QueryResult<usize>;
    let writes: [Write; 4] = [
        |conn| insert(conn, 1),
        |conn| conn.immediate_transaction(|conn| insert(conn, 1)),
        |conn| conn.with_write_lock(|conn| insert(conn, 1)),
        |conn| conn.transaction(|conn| insert(conn, 1)),
    ];
    for setting in settings {
        for write in writes {
            let place = Place::new(Some(ANSWER));
            let mut conn = connect(&place.config());
            setting(&mut conn);
            assert_eq!(write(&mut conn), Ok(1));
            // Refused by an answer, not by a want of time for one.
            let key = format!("database#{}", place.scratch.database().display());
            let mut holding = connect(&place.config().lock_store(place.table.clone()));
            holding
                .batch_execute("BEGIN IMMEDIATE")
                .expect("the lock is free");
            assert!(place.table.item(&key).is_some());
            let begun = Instant::now();
            assert_serialization_failure(write(&mut conn));
            assert_lock_error!(conn, Busy);
            assert!(
                begun.elapsed() < LONG,
                "it does not wait for the lease's end"
            );
            holding.batch_execute("ROLLBACK").expect("it ends");
        }
    }
}

#[test]
fn a_timeout_of_zero_does_not_outlast_the_deadline_nor_a_silent_table() {
    let place = Place::new(None);
    let mut conn = connect(&place.config());
    conn.set_lock_timeout(Duration::ZERO);
    assert_serialization_failure(insert(&mut conn, 1));
    assert_lock_error!(conn, Store);
    let longest = |place: &Place| {
        place
            .slow
            .state()
            .puts
            .drain(..)
            .map(|(time, _)| time)
            .max()
    };
    assert!(longest(&place) <= Some(Duration::from_secs(1)));
    conn.set_deadline(Some(Instant::now() + Duration::from_millis(100)));
    insert(&mut conn, 1).expect_err("there is no answer");
    assert!(longest(&place) <= Some(Duration::from_millis(100)));
}

#[test]
fn five_hosts_without_a_route_to_the_table_leave_a_healthy_writer_its_pace() {
    /// Long enough to commit often on a busy machine.
    const SECONDS: u64 = 4;
    let fixture = WorkersFixture::new("silence-five");
    let mut healthy = fixture.open("lock_timeout=60");
    healthy.ok("create-ledger");
    let write = format!("write-ledger healthy {SECONDS}");
    let alone = number_before(&healthy.ok(&write), "acknowledged");
    let cut_off = proxy();
    let silence = cut_off.rule(Rule::any(Action::Silence));
    let silent: Vec<_> = (0..5)
        .map(|_| fixture.open_behind(&cut_off, "lock_timeout=1"))
        .collect();
    healthy.ok("execute DELETE FROM entry");
    healthy.ok("execute UPDATE counter SET value = 0");
    let is_over = AtomicBool::new(false);
    let beside = thread::scope(|scope| {
        for mut process in silent {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    process.fails("execute UPDATE account SET balance = 0");
                }
            });
        }
        silence.wait_for_hits(5, LONG);
        let beside = healthy.ask(&write);
        is_over.store(true, Ordering::Relaxed);
        number_before(&beside.expect("no failure"), "acknowledged")
    });
    println!("{alone} commits alone, {beside} beside five");
    assert!(
        beside * 3 > alone,
        "{alone} commits alone, {beside} beside five hosts that are cut off"
    );
}

#[test]
fn a_reader_that_is_cut_off_does_not_keep_a_writer_from_a_recovery() {
    let fixture = WorkersFixture::new("silence-recovery");
    fixture.open("").ok("create-ledger");
    let between = proxy();
    let mut holder = fixture.open_behind(&between, "lock_expiration=60");
    let confirmation = between.rule(Rule::put_to(Purpose::Record, Action::Hold));
    let cut_off = proxy();
    let mut silent: Vec<_> = (0..3)
        .map(|_| fixture.open_behind(&cut_off, "lock_timeout=60"))
        .collect();
    let mut healthy = fixture.open("lock_timeout=10");
    holder.tell("execute UPDATE account SET balance = balance + 1");
    confirmation.wait_for_hits(1, LONG);
    holder.kill();
    assert!(fixture.has_journal(), "it is hot");
    fixture.table.delete(&fixture.key()).expect("the item goes");
    let silence = cut_off.rule(Rule::any(Action::Silence));
    for process in &mut silent {
        process.tell("query SELECT sum(balance) FROM account");
    }
    silence.wait_for_hits(3, LONG);
    healthy.ok("execute UPDATE account SET balance = balance");
    // Without a journal they need no lease.
    for process in silent {
        assert_eq!(process.answer(), Ok("8000".to_owned()));
    }
}
