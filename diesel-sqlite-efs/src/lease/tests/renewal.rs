//! Renewal in the background, against the end of the lease.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{KEY, client};
use crate::clock::ManualClock;
use crate::lease::LockClient;
use crate::store::{InMemoryLockStore, JournalId, PutCondition};
use crate::testing::{HookedStore, Put};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_lease_that_was_released_is_not_renewed_any_more() {
    let store = Arc::new(InMemoryLockStore::new());
    let client = client(store.clone());
    let lease = client.acquire(KEY, Duration::from_secs(1)).unwrap();
    // Its item stays, for the record of a journal that is still there.
    lease.confirm(Some(JournalId([1, 2, 3, 4]))).unwrap();
    // The renewer has found it due, and comes too late.
    let inner = lease.inner().clone();
    lease.release().unwrap();
    let left = store.item(KEY);
    assert_eq!(left.as_ref().unwrap().expires_at, "1");
    let requests = client.stats().requests;
    inner.renew_if_free();
    assert_eq!(client.stats().requests, requests);
    assert_eq!(store.item(KEY), left);
}

/// A lease that is the last user of its store, whose renewal is under way.
#[test]
fn a_lease_that_outlives_its_client_is_renewed_and_released_after_a_renewal_under_way() {
    const EXPIRATION: Duration = Duration::from_secs(3);
    let (came, renewal_came) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel();
    let clock = ManualClock::standing_still();
    let table = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
    let may_answer = Mutex::new(may_answer);
    // Says when a renewal has come, and does not answer it before it may.
    let store = HookedStore::new(table.clone(), move |put: Put<'_>| {
        if matches!(put.condition, PutCondition::Ours { .. }) {
            came.send(()).expect("the test waits for it");
            let may_answer = may_answer.lock().expect("no panic");
            may_answer.recv().expect("the test allows it");
        }
        put.pass_on()
    });
    let weak_store = Arc::downgrade(&store);
    let client = LockClient::builder()
        .lock_store(store)
        .lock_expiration(EXPIRATION)
        .clock(clock.clock())
        .build()
        .unwrap();
    let lease = client.try_acquire(KEY).unwrap().expect("it is free");
    drop(client);
    // The renewer looks at it after its renewal period at the latest.
    clock.advance(Duration::from_secs(1));
    renewal_came.recv_timeout(LONG).unwrap();
    let inner = lease.inner().clone();
    assert!(!inner.renew_if_free(), "one request at a time");
    drop(inner);
    let released = thread::spawn(move || lease.release());
    answer.send(()).unwrap();
    released.join().unwrap().unwrap();
    assert_eq!(table.item(KEY), None);
    let began = Instant::now();
    while weak_store.strong_count() > 0 {
        assert!(began.elapsed() < LONG, "the renewer keeps the store");
        thread::yield_now();
    }
}
