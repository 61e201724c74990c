//! What the lock cost is counted, for a connection and for the process, and Diesel's instrumentation
//! is told of each wait.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use diesel::connection::{
    Connection, Instrumentation, InstrumentationEvent, SimpleConnection,
    set_default_instrumentation,
};
use diesel_sqlite_efs::{EfsSqliteConnection, process_lock_stats};
use integration::process::wait_until;

use crate::fixtures::hosts::{Call, Host, HostsFixture, connect, execute};
use crate::fixtures::workers::LONG;

/// A query's text; `None` if it begins, else whether it has failed.
type Query = (String, Option<bool>);

/// What an instrumentation was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Query>>>);

impl Told {
    fn by(conn: &mut EfsSqliteConnection) -> Self {
        let told = Self::default();
        let sink = told.clone();
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            let line = match event {
                InstrumentationEvent::StartQuery { query, .. } => (query.to_string(), None),
                InstrumentationEvent::FinishQuery { query, error, .. } => {
                    (query.to_string(), Some(error.is_some()))
                }
                _ => return,
            };
            sink.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        });
        told
    }

    /// The events about waits, without their milliseconds.
    fn waits(&self) -> Vec<Query> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (told.iter())
            .filter_map(|(text, failed)| {
                let rest = text.strip_prefix("-- waited ")?;
                let (millis, rest) = rest.split_once(' ').expect("a number and its unit");
                millis.parse::<u64>().expect("a number");
                Some((rest.to_owned(), *failed))
            })
            .collect()
    }
}

/// Frees the lease once it was asked for twice, the first time in vain.
fn free_after_a_refusal(fixture: &HostsFixture, host: &Host) -> impl FnOnce() + Send + use<> {
    let (freeing, store) = (fixture.freeing(), host.store.clone());
    move || {
        let mut asked = 0;
        wait_until(LONG, "somebody asks again", || {
            asked += store.take_calls().len();
            asked >= 2
        });
        freeing();
    }
}

#[test]
fn diesels_instrumentation_is_told_of_each_wait_and_of_nothing_else() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = connect(&host.config().lock_timeout(LONG));
    let told = Told::by(&mut conn);
    execute(&mut conn, "INSERT INTO t (n) VALUES (1)").expect("nobody is in the way");
    assert_eq!(told.waits(), []);

    let text = format!("ms for the write lock `{}`", fixture.key());
    let granted = [(text.clone(), None), (text.clone(), Some(false))];
    // In the middle of a statement, before a transaction begins, and before several.
    let ways: [fn(&mut EfsSqliteConnection); 3] = [
        |conn| {
            execute(conn, "INSERT INTO t (n) VALUES (2)").expect("it is free");
        },
        |conn| {
            conn.immediate_transaction(|_| diesel::QueryResult::Ok(()))
                .expect("it is free");
        },
        |conn| {
            conn.with_write_lock(|_| diesel::QueryResult::Ok(()))
                .expect("it is free");
        },
    ];
    for (number, write) in ways.into_iter().enumerate() {
        fixture.give_lease_to_another();
        host.store.take_calls();
        let freeing = free_after_a_refusal(&fixture, &host);
        thread::scope(|scope| {
            scope.spawn(freeing);
            write(&mut conn);
        });
        assert_eq!(told.waits()[2 * number..], granted);
    }

    fixture.give_lease_to_another();
    conn.set_lock_timeout(Duration::from_millis(1));
    execute(&mut conn, "INSERT INTO t (n) VALUES (3)").expect_err("it is not free");
    assert_eq!(
        told.waits()[6..],
        [(text.clone(), None), (text, Some(true))]
    );
}

/// What default instrumentations of this thread have seen: the number of the instance, and what.
type Seen = Vec<(usize, String)>;

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Diesel's default for the whole process: sees nothing in threads that have not asked for it.
fn default_instrumentation() -> Option<Box<dyn Instrumentation>> {
    static INSTANCES: AtomicUsize = AtomicUsize::new(0);
    if SEEN.with_borrow(Option::is_none) {
        return None;
    }
    let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
    Some(Box::new(move |event: InstrumentationEvent<'_>| {
        let what = match event {
            InstrumentationEvent::StartEstablishConnection { url, .. } => format!("start {url}"),
            InstrumentationEvent::FinishEstablishConnection { url, error, .. } => {
                format!("finish {url}, failed: {}", error.is_some())
            }
            InstrumentationEvent::StartQuery { query, .. } => format!("start {query}"),
            _ => return,
        };
        SEEN.with_borrow_mut(|seen| seen.get_or_insert_default().push((instance, what)));
    }))
}

#[test]
fn diesels_instrumentation_is_told_of_the_opening_with_the_applications_own_url() {
    let fixture = HostsFixture::new();
    let path = fixture.scratch().database();
    let local = format!("{}?lock=local&lock_timeout=2", path.display());
    let wrong = format!("{}?lock=local&lock_timeuot=2", path.display());
    set_default_instrumentation(default_instrumentation).expect("it is set");
    for (url, opens) in [(":memory:", true), (&local, true), (&wrong, false)] {
        SEEN.set(Some(Vec::new()));
        let opened = EfsSqliteConnection::establish(url);
        assert_eq!(opened.is_ok(), opens, "{url}");
        if let Ok(mut conn) = opened {
            conn.batch_execute("SELECT 1").expect("a query");
        }
        let seen = SEEN.take().expect("it is set");
        let (own, start) = seen.first().expect("an event");
        assert_eq!(*start, format!("start {url}"));
        let own: Vec<_> = (seen.iter())
            .filter(|(instance, _)| instance == own)
            .collect();
        assert_eq!(own[1].1, format!("finish {url}, failed: {}", !opens));
        // It stays with the connection.
        let queries: Vec<_> = own[2..].iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(queries, if opens { &["start SELECT 1"][..] } else { &[] });
    }
}

#[test]
fn what_the_lock_cost_is_counted_for_the_connection_and_for_the_process() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    host.store.take_calls();
    let (own, all) = (conn.lock_stats(), process_lock_stats());
    conn.batch_execute("INSERT INTO t (n) VALUES (1)")
        .expect("nobody is in the way");
    assert_eq!(
        host.store.take_calls(),
        [Call::Acquire, Call::Confirm, Call::Release]
    );
    let stats = conn.lock_stats();
    assert_eq!(stats.requests - own.requests, 3);
    assert_eq!(stats.acquisitions - own.acquisitions, 1);
    assert_eq!(stats.confirmations - own.confirmations, 1);
    assert!(stats.held > own.held);

    // Another connection has counters of its own, and stays counted when it is closed.
    let mut other = host.connect();
    assert_eq!(other.lock_stats().acquisitions, 0);
    other
        .batch_execute("INSERT INTO t (n) VALUES (2)")
        .expect("nobody is in the way");
    drop(other);
    assert_eq!(conn.lock_stats(), stats);
    // Other tests of this process count as well.
    let process = process_lock_stats();
    assert!(process.acquisitions - all.acquisitions >= 2);
    assert!(process.requests - all.requests >= 6);
    assert!(process.held - all.held >= stats.held - own.held);
}
