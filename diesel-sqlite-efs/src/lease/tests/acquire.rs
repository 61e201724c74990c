//! Acquisitions whose answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{KEY, client};
use crate::error::StoreError;
use crate::lease::acquire::{AcquireLimits, Attempt};
use crate::store::{InMemoryLockStore, JournalId, PutAnswer, PutCondition, StoredItem};
use crate::testing::{Hook, HookedStore, Put};

const RECORD: Option<JournalId> = Some(JournalId([1, 2, 3, 4]));

/// Applies every put, and loses the answers to takeovers, so many times. An item is in the way that
/// has expired and bears a record.
fn losing_takeovers(times: u32) -> Arc<HookedStore<impl Hook>> {
    let table = Arc::new(InMemoryLockStore::new());
    let item = StoredItem {
        lock_id: "predecessor".to_owned(),
        expires_at: "1".to_owned(),
        holder: None,
        acquired_at: None,
        committed: RECORD,
        waited: None,
    };
    table.set_item(KEY, Some(item));
    let left = AtomicU32::new(times);
    HookedStore::new(table, move |put: Put<'_>| {
        let answer = put.pass_on()?;
        let is_takeover = matches!(put.condition, PutCondition::Unchanged(_));
        let now_left = left.load(Ordering::SeqCst);
        // From the first on, all answers are lost.
        if now_left > 0 && (is_takeover || now_left != times) {
            left.store(now_left - 1, Ordering::SeqCst);
            return Err(StoreError::timeout("test", "here", put.give_up_after));
        }
        Ok(answer)
    })
}

#[test]
fn a_lost_answer_to_a_takeover_costs_a_retry_and_not_a_lease() {
    let store = losing_takeovers(1);
    let client = client(store.clone());
    let lease = client.acquire(KEY, Duration::from_secs(2)).unwrap();
    assert_eq!(lease.recorded(), RECORD, "the record comes with the lease");
    let item = store.table.item(KEY).unwrap();
    assert_eq!(item.lock_id, lease.lock_id());
}

#[test]
fn giving_up_after_a_takeover_leaves_the_record_to_the_next() {
    let store = losing_takeovers(u32::MAX);
    let client = client(store.clone());
    client.acquire(KEY, Duration::from_millis(30)).unwrap_err();
    let item = store.table.item(KEY).expect("the record's item");
    assert_eq!(item.committed, RECORD);
    assert_eq!(item.expires_at, "1", "nobody has to wait for it");
}

/// Counts the puts, and refuses so many of them for another's item.
struct Contended {
    puts: AtomicU32,
    refused_still: AtomicU32,
    waited: Option<Duration>,
}

impl Contended {
    fn new(refused: u32, waited: Option<Duration>) -> Arc<HookedStore<Self>> {
        let contended = Self {
            puts: AtomicU32::new(0),
            refused_still: AtomicU32::new(refused),
            waited,
        };
        HookedStore::new(Arc::default(), contended)
    }

    fn puts(&self) -> u32 {
        self.puts.load(Ordering::SeqCst)
    }
}

impl Hook for Contended {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let left = self.refused_still.load(Ordering::SeqCst);
        if left == 0 {
            return put.pass_on();
        }
        self.refused_still.store(left - 1, Ordering::SeqCst);
        let current = StoredItem {
            lock_id: format!("another {left}"),
            expires_at: "9999999999".to_owned(),
            holder: None,
            acquired_at: None,
            committed: None,
            waited: self.waited,
        };
        Ok(PutAnswer::Refused {
            current: Some(current),
            date: None,
        })
    }
}

#[test]
fn an_item_tells_what_its_holder_waited_and_keeps_telling() {
    let usual = Duration::from_millis(40);
    let store = Contended::new(2, Some(usual));
    let client = client(store.clone());
    let lease = client.acquire(KEY, Duration::from_secs(5)).unwrap();
    let told = store.table.item(KEY).unwrap().waited.expect("it tells");
    assert!(
        told >= usual * 3 / 4 && told < Duration::from_secs(5),
        "{told:?}"
    );
    lease.renew().unwrap();
    assert_eq!(store.table.item(KEY).unwrap().waited, Some(told));
    lease.confirm(RECORD).unwrap();
    assert_eq!(store.table.item(KEY).unwrap().waited, Some(told));
}

#[test]
fn who_was_alone_asks_once_and_at_once_each_time() {
    let store = Contended::new(0, None);
    let client = client(store.clone());
    for nth in 1..=10 {
        let lease = client.acquire(KEY, Duration::from_secs(5)).unwrap();
        assert_eq!(store.puts(), nth);
        lease.release().unwrap();
    }
    assert_eq!(client.stats().waits, 0);
}

#[test]
fn who_was_served_in_turn_waits_before_it_asks_again_and_who_cannot_wait_does_not() {
    // The others' wait is so long that their turn lasts beyond any delay of this test.
    let usual = Duration::from_secs(1_000);
    let store = Contended::new(1, Some(usual));
    let client = client(store.clone());
    let refused = client.try_acquire(KEY).unwrap();
    assert!(refused.is_none());
    store.refused_still.store(1, Ordering::SeqCst);
    (client.acquire(KEY, Duration::from_millis(100)).unwrap())
        .release()
        .unwrap();
    let before = store.puts();

    let mut acquisition = client.begin(KEY);
    let attempt = acquisition.try_in_turn(Duration::from_secs(1)).unwrap();
    assert!(matches!(attempt, Attempt::Refused { free_in: None }));
    assert_eq!(store.puts(), before, "it has not asked");

    let mut hurried = client.begin(KEY);
    let attempt = hurried.try_once(Duration::from_secs(1)).unwrap();
    assert!(matches!(attempt, Attempt::Granted(_)));
    drop(attempt);
    let before = store.puts();

    let until = Instant::now() + Duration::from_secs(60);
    let limits = AcquireLimits {
        until,
        max_attempts: Some(1),
    };
    let lease = acquisition.wait(limits).expect("nobody is there");
    assert_eq!(store.puts(), before + 1);
    lease.release().unwrap();
}

/// The longest timeout that there is.
#[test]
fn a_wait_without_end_is_one() {
    let client = client(Arc::new(InMemoryLockStore::new()));
    let lease = client.acquire(KEY, Duration::MAX).unwrap();
    lease.release().unwrap();
}
