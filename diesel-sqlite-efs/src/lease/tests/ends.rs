//! The ends of items, by clocks that are off, slow answers and answers that fail: never two leases
//! valid at once, and nothing that was recorded is forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::KEY;
use crate::clock::{ManualClock, Timestamp, unix_seconds};
use crate::error::StoreError;
use crate::lease::registry::Registry;
use crate::lease::{Confirmed, Lease, LockClient, ReleaseOutcome, Unconfirmed};
use crate::store::{
    DeleteAnswer, InMemoryLockStore, JournalId, LockItem, LockStore, PutAnswer, PutCondition,
    StoredItem,
};
use crate::testing::{Delete, Hook, HookedStore, Put};

const RECORD: JournalId = JournalId([1, 2, 3, 4]);
const LEASE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: f64 = 3_600.0;

/// Clocks from 3 s behind to 3 s ahead at both hosts, answers of all speeds: a holder's lease is
/// over before the put is applied that takes it over, and soon afterwards it is.
#[test]
fn whatever_clocks_and_answers_do_no_two_leases_are_valid_at_once() {
    const SKEWS: [f64; 8] = [-3.0, -1.3, -0.5, 0.0, 0.9, 2.0, 3.0, -HOUR];
    const WAYS: [[u64; 2]; 5] = [[0, 0], [5, 5], [790, 10], [10, 790], [900, 900]];
    let (mut cases, mut granted) = (0, 0);
    for seconds in [2, 3, 4, 10] {
        for phase in [0, 300, 950] {
            for holders_skew in SKEWS {
                for takers_skew in SKEWS {
                    for way in WAYS {
                        for renewals in [0, 2] {
                            let case = format!(
                                "{seconds} s, {phase} ms, {holders_skew} s, {takers_skew} s, {way:?}, {renewals}"
                            );
                            let world = World::new(phase);
                            let lease = Duration::from_secs(seconds);
                            let holder = world.host(holders_skew, lease, way);
                            let taker = world.host(takers_skew, lease, WAYS[cases % WAYS.len()]);
                            cases += 1;
                            let Ok(Some(lease)) = holder.client.try_acquire(KEY) else {
                                continue;
                            };
                            granted += 1;
                            world.take_over(&holder, lease, &taker, renewals, &case);
                        }
                    }
                }
            }
        }
    }
    println!("{granted} of {cases} cases");
    assert!(granted * 10 >= cases * 9, "{granted} of {cases}");
}

/// One request of a holder whose clock is off fails: before it is applied, after that, or it is
/// applied only when the other host asks.
#[test]
fn whatever_becomes_of_a_request_no_two_leases_are_valid_at_once() {
    for fault in [Fault::Throttled, Fault::AnswerLost, Fault::Late] {
        for nth in 0..5 {
            for skew in [-HOUR, -5.0, 0.0, 5.0, HOUR] {
                for step in [-HOUR, 0.0, HOUR] {
                    let case = format!("{fault:?} at {nth}, {skew} s, then {step} s");
                    let world = World::new(300);
                    let holder = world.host(skew, LEASE, [5, 5]);
                    let taker = world.host(0.0, LEASE, [5, 5]);
                    holder.fault_at(nth, fault);
                    let Ok(lease) = holder.client.acquire(KEY, LONG) else {
                        continue;
                    };
                    holder.step(step);
                    world.take_over(&holder, lease, &taker, 4, &case);
                }
            }
        }
    }
}

#[test]
fn with_a_right_clock_a_short_lease_is_long_enough_to_work_with_and_grows_with_each_answer() {
    for (seconds, at_first) in [(2, 400), (3, 1_200), (4, 1_900), (10, 6_900)] {
        for phase in (0..1_000).step_by(90) {
            let world = World::new(phase);
            let host = world.host(0.0, Duration::from_secs(seconds), [5, 5]);
            let lease = host.client.try_acquire(KEY).unwrap().expect("it is free");
            let remaining = lease.remaining();
            let at_first = Duration::from_millis(at_first);
            assert!(
                remaining >= at_first,
                "{seconds} s at {phase}: {remaining:?}"
            );
            let first = host.puts();
            assert!(first <= 2, "{first} puts");
            for _ in 0..10 {
                world.pass(Duration::from_millis(270));
                lease.renew().unwrap();
            }
            assert_eq!(host.puts(), first + 10, "no end had to be corrected");
        }
    }
}

#[test]
fn a_commit_whose_item_cannot_be_put_right_is_recorded_all_the_same() {
    for fault in [Fault::Throttled, Fault::Denied, Fault::AnswerLost] {
        for (frozen, confirmed) in [(3, Confirmed::InTime), (3_600, Confirmed::TooLate)] {
            let world = World::new(0);
            let host = world.host(0.0, LEASE, [0, 0]);
            let lease = host.client.try_acquire(KEY).unwrap().expect("it is free");
            // Both of its clocks stand still meanwhile.
            world.time.advance(Duration::from_secs(frozen));
            host.fault_at(1, fault);
            let result = lease.confirm(Some(RECORD)).expect("it is recorded");
            assert_eq!(result, confirmed, "{fault:?} after {frozen} s");
            assert_eq!(lease.recorded(), Some(RECORD));
            assert_eq!(world.item().unwrap().committed, Some(RECORD));
        }
    }
}

#[test]
fn a_commit_that_is_refused_after_a_lost_answer_leaves_the_item_to_its_holder() {
    let world = World::new(0);
    let host = world.host(0.0, LEASE, [0, 0]);
    let lease = host.client.try_acquire(KEY).unwrap().expect("it is free");
    host.fault_at(0, Fault::AnswerLost);
    host.fault_at(1, Fault::TakenOver);
    let result = lease.confirm(Some(RECORD));
    assert!(matches!(result, Err(Unconfirmed::Unknown(_))), "{result:?}");
    lease.record_settled();
    let requests = host.client.stats().requests;
    let outcome = lease.release_with_outcome().unwrap();
    assert_eq!(outcome, ReleaseOutcome::Ours);
    assert_eq!(host.client.stats().requests, requests, "its item is left");
}

#[test]
fn a_renewal_whose_end_cannot_be_put_right_is_good_for_no_longer_than_its_item() {
    let world = World::new(0);
    let host = world.host(0.0, LEASE, [0, 0]);
    let lease = host.client.try_acquire(KEY).unwrap().expect("it is free");
    world.time.advance(Duration::from_secs(3_600));
    host.fault_at(1, Fault::Throttled);
    lease.renew().unwrap_err();
    assert!(!lease.is_valid(), "its item has expired");
}

#[test]
fn an_acquisition_whose_item_cannot_be_put_right_is_tried_again_under_the_same_lock_id() {
    for fault in [Fault::Throttled, Fault::AnswerLost] {
        let world = World::new(0);
        let host = world.host(-HOUR, LEASE, [0, 0]);
        host.fault_at(1, fault);
        let lease = host.client.acquire(KEY, LONG).unwrap();
        let ids = host.way().log.clone();
        assert!(ids.len() > 2, "it was corrected: {ids:?}");
        assert!(ids.iter().all(|id| id == lease.lock_id()), "{ids:?}");
        assert_eq!(host.way().deleted, [""; 0], "nothing of it was deleted");
        assert!(lease.remaining() > SECOND * 6);
    }
}

#[test]
fn a_lease_whose_item_cannot_be_put_right_is_not_handed_off() {
    let world = World::new(0);
    let host = world.host(-HOUR, LEASE, [0, 0]);
    // The first put waits until another is in the queue.
    host.way().waits_for_queue = true;
    host.fault_at(1, Fault::Denied);
    let (first, second) = (host.client.clone(), host.client.clone());
    let first = thread::spawn(move || first.try_acquire(KEY).map(drop));
    let store: Arc<dyn LockStore> = host.store.clone();
    let queue = Registry::of(&store).queue(KEY);
    while host.puts() == 0 {
        thread::yield_now();
    }
    let second = thread::spawn(move || second.acquire(KEY, LONG));
    while queue.waiting() == 0 {
        thread::yield_now();
    }
    host.way().waits_for_queue = false;
    first.join().unwrap().unwrap_err();
    let lease = second.join().unwrap().unwrap();
    assert_eq!(host.client.stats().hand_offs, 0);
    let deleted = host.way().deleted.clone();
    assert!(
        !deleted.contains(&lease.lock_id().to_owned()),
        "{deleted:?}"
    );
    assert_eq!(world.item().unwrap().lock_id, lease.lock_id());
}

/// A store that does not show the item for which it refuses.
#[test]
fn a_record_that_a_blind_put_has_wiped_is_written_again_or_left_to_the_next() {
    for fault in [Fault::Throttled, Fault::AnswerLost, Fault::Denied] {
        let world = World::new(0);
        let host = world.host(0.0, LEASE, [0, 0]);
        host.way().hides = true;
        let leave_record = || {
            let item = StoredItem::new("predecessor", "1").with_committed(RECORD);
            world.table.set_item(KEY, Some(item));
            host.way().faults.clear();
        };

        leave_record();
        let lease = host
            .client
            .try_acquire(KEY)
            .unwrap()
            .expect("it has expired");
        assert_eq!(lease.recorded(), Some(RECORD));
        assert_eq!(world.item().unwrap().committed, Some(RECORD));
        lease.confirm(None).expect("the record is in the item");
        drop(lease);

        leave_record();
        // The first put is refused, the second wipes the record, the third fails.
        host.fault_at(2, fault);
        host.client.try_acquire(KEY).unwrap_err();
        let item = world.item().expect("a tombstone");
        assert_eq!((item.committed, &*item.expires_at), (Some(RECORD), "1"));

        if fault != Fault::Denied {
            leave_record();
            host.fault_at(2, fault);
            host.fault_at(3, fault);
            let lease = host.client.acquire(KEY, LONG).unwrap();
            assert_eq!(lease.recorded(), Some(RECORD));
            assert_eq!(world.item().unwrap().committed, Some(RECORD));
            lease.confirm(None).expect("the record is in the item");
        }
    }
}

#[test]
fn a_tombstone_for_a_wiped_record_is_tried_until_it_is_written() {
    let world = World::new(0);
    let host = world.host(0.0, LEASE, [0, 0]);
    host.way().hides = true;
    let item = StoredItem::new("predecessor", "1").with_committed(RECORD);
    world.table.set_item(KEY, Some(item));
    for nth in 2..5 {
        host.fault_at(nth, Fault::Throttled);
    }
    host.client.try_acquire(KEY).unwrap_err();
    let item = world.item().expect("a tombstone");
    assert_eq!((item.committed, &*item.expires_at), (Some(RECORD), "1"));
}

/// What becomes of a put.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Throttled,
    Denied,
    AnswerLost,
    /// It is applied when the next host asks; its sender hears nothing.
    Late,
    /// Another has taken over just before.
    TakenOver,
}

/// The lock table, which knows the true time, and the hosts.
struct World {
    table: Arc<InMemoryLockStore>,
    time: ManualClock,
    clocks: Arc<Mutex<Vec<ManualClock>>>,
    late: Arc<Mutex<VecDeque<(LockItem, StoredItem)>>>,
}

struct Host {
    client: LockClient,
    clock: ManualClock,
    store: Arc<HookedStore<Way>>,
}

/// A host's way to the table.
struct Way {
    table: Arc<InMemoryLockStore>,
    clocks: Arc<Mutex<Vec<ManualClock>>>,
    late: Arc<Mutex<VecDeque<(LockItem, StoredItem)>>>,
    /// In milliseconds, there and back.
    takes: [u64; 2],
    state: Mutex<WayState>,
}

#[derive(Default)]
struct WayState {
    faults: Vec<(usize, Fault)>,
    /// The `lock_id`s of puts, and of deletes.
    log: Vec<String>,
    deleted: Vec<String>,
    hides: bool,
    waits_for_queue: bool,
    /// The lease that must be over when a put of this host is stored.
    rival: Option<Arc<Lease>>,
}

impl World {
    /// So many milliseconds after the beginning of a second.
    fn new(phase: u64) -> Self {
        let start = Duration::from_millis(1_800_000_000_000 + phase);
        let time = ManualClock::new(Timestamp::new(LONG, start));
        Self {
            table: Arc::new(InMemoryLockStore::with_clock(time.clock())),
            clocks: Arc::new(Mutex::new(vec![time.clone()])),
            time,
            late: Arc::default(),
        }
    }

    /// Time goes by for the table and all hosts.
    fn pass(&self, time: Duration) {
        pass(&self.clocks, time);
    }

    fn item(&self) -> Option<StoredItem> {
        self.table.item(KEY)
    }

    fn host(&self, skew: f64, lease: Duration, takes: [u64; 2]) -> Host {
        let wall = self.time.now().wall.as_secs_f64() + skew;
        let clock = ManualClock::new(Timestamp::new(SECOND, Duration::from_secs_f64(wall)));
        self.clocks.lock().unwrap().push(clock.clone());
        let way = Way {
            table: self.table.clone(),
            clocks: self.clocks.clone(),
            late: self.late.clone(),
            takes,
            state: Mutex::default(),
        };
        let store = HookedStore::new(self.table.clone(), way);
        let client = LockClient::builder()
            .lock_store(store.clone())
            .lock_expiration(lease)
            .without_renewal()
            .clock(clock.clock())
            .build()
            .unwrap();
        Host {
            client,
            clock,
            store,
        }
    }

    /// The holder renews a few times and then dies; the other asks all the time.
    fn take_over(&self, holder: &Host, lease: Lease, taker: &Host, renewals: u32, case: &str) {
        let lease = Arc::new(lease);
        taker.way().rival = Some(lease.clone());
        for _ in 0..renewals {
            self.pass(Duration::from_millis(370));
            let _ = lease.renew();
            if let Some(taken) = taker.client.try_acquire(KEY).unwrap() {
                assert!(!lease.is_valid(), "{case}: two holders");
                drop(taken);
                break;
            }
        }
        let mut tries = 0;
        while taker.client.try_acquire(KEY).unwrap().is_none() {
            tries += 1;
            // An end that could not be brought forward is as late as the clock that it is by.
            if holder.is_faulty() && tries > 200 {
                break;
            }
            let end = self
                .item()
                .map(|item| item.expires_at.parse::<u64>().unwrap());
            let now = unix_seconds(self.time.now().system_time());
            assert!(end.is_none_or(|end| now <= end + 4), "{case}: not free");
            assert!(tries < 500, "{case}: never free");
            self.pass(Duration::from_millis(110));
        }
        taker.way().rival = None;
        self.table.set_item(KEY, None);
    }
}

impl Host {
    fn way(&self) -> MutexGuard<'_, WayState> {
        self.store.state.lock().unwrap()
    }

    /// The `nth` put from now, from zero.
    fn fault_at(&self, nth: usize, fault: Fault) {
        let mut way = self.way();
        let nth = way.log.len() + nth;
        way.faults.push((nth, fault));
    }

    fn is_faulty(&self) -> bool {
        !self.way().faults.is_empty()
    }

    fn puts(&self) -> usize {
        self.way().log.len()
    }

    fn step(&self, seconds: f64) {
        let now = self.clock.now();
        let wall = Duration::from_secs_f64(now.wall.as_secs_f64() + seconds);
        self.clock.set(Timestamp::new(now.monotonic, wall));
    }
}

impl Hook for Way {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        let (fault, hides) = {
            let mut state = self.state.lock().unwrap();
            let nth = state.log.len();
            state.log.push(put.item.lock_id.clone());
            let fault = state.faults.iter().find(|(at, _)| *at == nth);
            (fault.map(|(_, fault)| *fault), state.hides)
        };
        while self.state.lock().unwrap().waits_for_queue {
            thread::yield_now();
        }
        pass(&self.clocks, Duration::from_millis(self.takes[0]));
        let lost = || StoreError::timeout("test", "here", put.give_up_after);
        match fault {
            Some(Fault::Throttled) => return Err(StoreError::throttled("test", "too much")),
            Some(Fault::Denied) => return Err(StoreError::rejected("denied")),
            Some(Fault::Late) => {
                if let PutCondition::Unchanged(written) = put.condition {
                    let late = (put.item.clone(), written.clone());
                    self.late.lock().unwrap().push_back(late);
                }
                return Err(lost());
            }
            Some(Fault::TakenOver) => {
                let other = StoredItem::new("another", "9999999999");
                let answer = PutAnswer::refused(Some(other));
                return Ok(answer);
            }
            Some(Fault::AnswerLost) => {
                put.pass_on()?;
                return Err(lost());
            }
            None => {}
        }
        let rival = self.state.lock().unwrap().rival.clone();
        if rival.is_some() {
            for (item, written) in self.late.lock().unwrap().drain(..) {
                let condition = PutCondition::Unchanged(&written);
                self.table.put(&item, condition, LONG)?;
            }
        }
        let answer = put.pass_on()?;
        if let (PutAnswer::Stored { .. }, Some(rival)) = (&answer, rival) {
            assert!(!rival.is_valid(), "two holders");
        }
        pass(&self.clocks, Duration::from_millis(self.takes[1]));
        let (PutAnswer::Stored { date, .. } | PutAnswer::Refused { date, .. }) = &answer;
        let date = *date;
        Ok(match answer {
            PutAnswer::Refused { .. } if hides => PutAnswer::refused(None).with_date(date),
            answer => answer,
        })
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        let lock_id = delete.lock_id.to_owned();
        self.state.lock().unwrap().deleted.push(lock_id);
        delete.pass_on()
    }
}

fn pass(clocks: &Mutex<Vec<ManualClock>>, time: Duration) {
    for clock in clocks.lock().unwrap().iter() {
        clock.advance(time);
    }
}
