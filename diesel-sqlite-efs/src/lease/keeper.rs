//! The thread that renews long-held leases.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Held, Lease, renewal_period};

/// One for each store: its thread starts with the first lease, and is joined when the last client
/// is dropped.
///
/// No guarantee rests on it: a lease that it does not renew in time is lost, by the clocks of
/// whoever holds it.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    duties: Arc<Duties>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Duties {
    work: Mutex<Work>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    watched: Vec<Weak<Held>>,
    /// When the thread next looks at the watched leases by itself; `None`: when it is woken.
    looks_at: Option<Instant>,
    closing: bool,
}

impl Keeper {
    /// Renews the lease while it is held.
    pub(crate) fn watch(&self, lease: &Lease) {
        let mut work = self.duties.work();
        work.watched.push(Arc::downgrade(&lease.held));
        let now = Instant::now();
        let due = lease.held.next_renewal().map(|left| now + left);
        if due.is_some_and(|due| work.looks_at.is_none_or(|looks_at| due < looks_at)) {
            self.duties.wake.notify_one();
        }
        drop(work);
        self.ensure_thread();
    }

    /// Without a thread nothing is renewed, which costs long transactions their lease.
    fn ensure_thread(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let duties = self.duties.clone();
            let name = "efs-lease-keeper".to_owned();
            *thread = (thread::Builder::new().name(name))
                .spawn(move || duties.run())
                .ok();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.duties.work().closing = true;
        self.duties.wake.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // The keeper itself may be the last to let go, of a lease that it has just released.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
        {
            // A panic on that thread has been printed; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

impl Duties {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.work();
        loop {
            if work.closing {
                return;
            }
            let watched = std::mem::take(&mut work.watched);
            drop(work);
            let (watched, next) = Self::mind(&watched);
            work = self.work();
            let has_news = !work.watched.is_empty() || work.closing;
            work.watched.extend(watched);
            if has_news {
                continue;
            }
            let now = Instant::now();
            work.looks_at = next.map(|next| now + next);
            work = match next {
                Some(next) => {
                    (self.wake.wait_timeout(work, next))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
            work.looks_at = Some(Instant::now());
        }
    }

    /// Renews a lease that is due. Returns those that will be, and in what time the next is.
    ///
    /// Not with the work locked: who lets go of a lease last releases it, and with it may go all
    /// that the store's clients share, the keeper included.
    fn mind(watched: &[Weak<Held>]) -> (Vec<Weak<Held>>, Option<Duration>) {
        let leases: Vec<Arc<Held>> = watched.iter().filter_map(Weak::upgrade).collect();
        let is_due = |held: &&Arc<Held>| held.next_renewal() == Some(Duration::ZERO);
        if let Some(held) = leases.iter().find(is_due) {
            held.renew_if_free();
        }
        let mut next: Option<Duration> = None;
        let watched = leases.iter().filter_map(|held| {
            let left = held.next_renewal()?;
            next = Some(next.map_or(left, |next| next.min(left)));
            Some(Arc::downgrade(held))
        });
        (watched.collect(), next)
    }
}

impl Held {
    /// In what time the lease is to be renewed; `None` if it never will be.
    fn next_renewal(&self) -> Option<Duration> {
        let now = self.desk.clock.now();
        let terms = &self.desk.terms;
        let state = self.state();
        let over = state.released || state.lost.is_some();
        if over || now.elapsed_since(self.begun) >= terms.max_hold {
            return None;
        }
        let since_grant = now.elapsed_since(state.span.from);
        // Of the shortest leases whole seconds and the margin may leave less than that period.
        let period = renewal_period(terms.duration).min(state.span.good_for / 2);
        Some(period.saturating_sub(since_grant))
    }

    /// Renews, unless a request of the lease's own is under way: it will extend it as well.
    fn renew_if_free(&self) {
        /// After a failure, or while another request is under way.
        const PAUSE: Duration = Duration::from_millis(50);
        let renewed = match self.request.try_lock() {
            Ok(_one_at_a_time) => self.renew().is_ok(),
            Err(_) => false,
        };
        if !renewed {
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::client::DynamoDbLockClient;
    use crate::clock::ManualClock;
    use crate::store::hooked::{HookedStore, Put};
    use crate::store::{InMemoryLockStore, JournalId, PutCondition};

    #[test]
    fn every_lease_that_settings_accept_lasts_two_renewal_periods() {
        for milliseconds in (2_000..5_000).chain([10_000, 86_400_000]) {
            let lease = Duration::from_millis(milliseconds);
            assert!(lease >= 2 * renewal_period(lease), "{lease:?}");
        }
    }

    #[test]
    fn a_lease_that_was_released_is_not_renewed_any_more() {
        let store = Arc::new(InMemoryLockStore::new());
        let client = DynamoDbLockClient::with_store(store.clone());
        let lease = client.acquire("key", Duration::from_secs(1)).unwrap();
        // Its item stays, for the record of a journal that is still there.
        lease.confirm(Some(JournalId([1, 2, 3, 4]))).unwrap();
        // The keeper has found it due, and comes too late.
        let held = lease.held.clone();
        lease.release().unwrap();
        let left = store.item("key");
        assert_eq!(left.as_ref().unwrap().expires_at, "1");
        let requests = client.stats().requests;
        held.renew_if_free();
        assert_eq!(client.stats().requests, requests);
        assert_eq!(store.item("key"), left);
    }

    #[test]
    fn the_keeper_may_be_the_last_to_let_go_of_a_lease_and_of_the_store() {
        const SHORT_LEASE: Duration = Duration::from_secs(3);
        let (came, renewal_came) = mpsc::channel();
        let (answer, may_answer) = mpsc::channel();
        let clock = ManualClock::standing_still();
        let table = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
        let may_answer = Mutex::new(may_answer);
        // Tells when a renewal has come, and does not answer it before it may.
        let store = HookedStore::new(table, move |put: Put<'_>| {
            if matches!(put.condition, PutCondition::Ours { .. }) {
                came.send(()).expect("the test waits for it");
                let may_answer = may_answer.lock().expect("no panic");
                may_answer.recv().expect("the test allows it");
            }
            put.pass_on()
        });
        let client = DynamoDbLockClient::with_store(store)
            .lease_duration(SHORT_LEASE)
            .clock(clock.clock());
        let lease = client.try_acquire("key").unwrap().expect("it is free");
        let duties = Arc::downgrade(&lease.held.desk.shared.keeper.duties);
        // The keeper looks at it after its renewal period at the latest.
        clock.advance(renewal_period(SHORT_LEASE));
        renewal_came.recv().unwrap();
        // Released already, as far as dropping it is concerned: that would wait for the renewal.
        lease.held.state().released = true;
        drop((lease, client));
        answer.send(()).unwrap();
        let began = Instant::now();
        while duties.strong_count() > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "its thread waits"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}
