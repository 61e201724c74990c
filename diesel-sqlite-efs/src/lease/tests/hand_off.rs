//! Handing a lease off inside this process: the next in the queue gets it without a request.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{KEY, client_with_clock};
use crate::clock::{Clock, ManualClock};
use crate::error::LockError;
use crate::lease::lease::LeaseInner;
use crate::lease::registry::Registry;
use crate::lease::{Lease, LockClient};
use crate::store::{InMemoryLockStore, JournalId, LockStore};

const LONG: Duration = Duration::from_secs(60);

struct Process {
    store: Arc<InMemoryLockStore>,
    clock: ManualClock,
}

impl Process {
    fn new() -> Self {
        let clock = ManualClock::standing_still();
        Self {
            store: Arc::new(InMemoryLockStore::with_clock(clock.clock())),
            clock,
        }
    }

    fn client(&self) -> LockClient {
        client_with_clock(self.store.clone(), self.clock.clock())
    }

    /// Another connection asks for the lease, and is in the queue for it when this returns.
    fn next_in_queue(&self, client: &LockClient) -> JoinHandle<Result<Lease, LockError>> {
        let store: Arc<dyn LockStore> = self.store.clone();
        let queue = Registry::of(&store).queue(KEY);
        let client = client.clone();
        let thread = thread::spawn(move || client.acquire(KEY, LONG));
        while queue.waiting() == 0 {
            thread::yield_now();
        }
        thread
    }
}

fn hand_off(mut lease: Lease) {
    assert!(lease.hand_off(), "another waits");
}

#[test]
fn the_next_in_the_queue_gets_the_lease_without_a_request() {
    let process = Process::new();
    let (first, second) = (process.client(), process.client());
    let lease = first.try_acquire(KEY).unwrap().expect("it is free");
    let lock_id = lease.lock_id().to_owned();
    let next = process.next_in_queue(&second);
    hand_off(lease);
    let lease = next.join().unwrap().unwrap();
    assert_eq!(lease.lock_id(), lock_id);
    assert_eq!(process.store.item(KEY).unwrap().lock_id, lock_id);
    lease.release().unwrap();
    assert_eq!(process.store.item(KEY), None);
    let (first, second) = (first.stats(), second.stats());
    assert_eq!((first.acquisitions, first.requests), (1, 1), "one put");
    assert_eq!((second.acquisitions, second.hand_offs), (1, 1));
    assert_eq!((second.attempts, second.requests), (0, 1), "one delete");
}

#[test]
fn the_record_goes_with_it() {
    let process = Process::new();
    let (first, second) = (process.client(), process.client());
    let lease = first.try_acquire(KEY).unwrap().expect("it is free");
    let records = [JournalId([1; 4]), JournalId([2; 4])];
    lease.confirm(Some(records[0])).unwrap();
    lease.record_settled();
    let next = process.next_in_queue(&second);
    hand_off(lease);
    let lease = next.join().unwrap().unwrap();
    assert_eq!(lease.recorded(), Some(records[0]));
    lease.confirm(Some(records[1])).unwrap();
    let committed = process.store.item(KEY).unwrap().committed;
    assert_eq!(committed, Some(records[1]));
}

#[test]
fn a_lease_that_may_not_stay_in_the_process_is_released_to_the_store() {
    let process = Process::new();
    let client = process.client();
    let goes_back = |because: &str, prepare: &dyn Fn(&Lease)| {
        let mut lease = client.acquire(KEY, LONG).unwrap();
        let lock_id = lease.lock_id().to_owned();
        prepare(&lease);
        let next = process.next_in_queue(&client);
        assert!(!lease.hand_off(), "{because}");
        drop(lease);
        if let Some(mut item) = process.store.item(KEY) {
            // Left for its record, or lost: its end comes.
            item.expires_at = "1".to_owned();
            item.committed = None;
            process.store.set_item(KEY, Some(item));
        }
        let lease = next.join().unwrap().unwrap();
        assert_ne!(lease.lock_id(), lock_id, "{because}");
    };
    goes_back("its round is over", &|_| {
        process.clock.advance(LeaseInner::LONGEST_ROUND)
    });
    goes_back("it is lost", &|lease| lease.invalidate("for a test"));
    goes_back("its journal may still stand", &|lease| {
        lease.confirm(Some(JournalId([7; 4]))).unwrap();
    });
    assert_eq!(client.stats().hand_offs, 0);
}

#[test]
fn a_connection_with_another_clock_asks_the_store() {
    let process = Process::new();
    let (first, second) = (
        process.client(),
        client_with_clock(process.store.clone(), Clock::system()),
    );
    let lease = first.try_acquire(KEY).unwrap().expect("it is free");
    let lock_id = lease.lock_id().to_owned();
    let next = process.next_in_queue(&second);
    hand_off(lease);
    let lease = next.join().unwrap().unwrap();
    assert_ne!(lease.lock_id(), lock_id);
    assert_eq!(second.stats().hand_offs, 0);
}

#[test]
fn who_is_handed_a_lease_that_it_cannot_use_keeps_its_place_in_the_queue() {
    let process = Process::new();
    let (first, third) = (process.client(), process.client());
    let second = client_with_clock(process.store.clone(), Clock::system());
    let lease = first.try_acquire(KEY).unwrap().expect("it is free");
    let store: Arc<dyn LockStore> = process.store.clone();
    let queue = Registry::of(&store).queue(KEY);
    let second = process.next_in_queue(&second);
    let third = thread::spawn(move || third.acquire(KEY, LONG));
    while queue.waiting() < 2 {
        thread::yield_now();
    }
    hand_off(lease);
    let lease = second.join().unwrap().unwrap();
    assert_eq!(queue.waiting(), 1, "the third still waits");
    lease.release().unwrap();
    third.join().unwrap().unwrap().release().unwrap();
}
