//! What a lease puts and deletes, and what the answers mean. One request at a time for each lease.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::phase::Validity;
use super::server_clock::ServerClock;
use crate::clock::{Clock, Timestamp, from_unix_seconds, unix_seconds};
use crate::config::LeaseTerms;
use crate::error::{LockError, LockName, StoreError, panic_message};
use crate::store::{DeleteAnswer, JournalId, LockItem, LockStore, PutAnswer, PutCondition};
use crate::telemetry::events::Events;
use crate::telemetry::stats::Counters;

/// The longest that one request of a release may take.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a lease needs for its requests.
#[derive(Debug, Clone)]
pub(crate) struct LeaseContext {
    pub(crate) store: Arc<dyn LockStore>,
    pub(crate) clock: Clock,
    pub(crate) times: Arc<StoreTimes>,
    pub(crate) terms: Arc<LeaseTerms>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) name: Arc<LockName>,
}

/// What its answers have shown of a store, to all its users in this process.
#[derive(Debug, Default)]
pub(crate) struct StoreTimes {
    pub(crate) server_clock: ServerClock,
    fastest_answer: Mutex<Option<Duration>>,
    /// The last put was not answered.
    is_silent: AtomicBool,
}

/// The parts of an item that differ from put to put.
pub(crate) struct ItemDraft<'a> {
    pub(crate) lock_id: &'a str,
    /// `None` for the first put: now.
    pub(crate) acquired_at: Option<u64>,
    pub(crate) committed: Option<JournalId>,
    pub(crate) waited: Option<Duration>,
    /// Of the put before it.
    pub(crate) since: Option<Validity>,
    /// The end is not brought forward from here; epoch seconds.
    pub(crate) not_before: u64,
}

/// An item that is about to be put, with the moment from which it counts.
pub(crate) struct DatedItem {
    pub(crate) item: LockItem,
    sent: Timestamp,
    /// The store's time at that moment, at best.
    began: f64,
}

/// A put that was answered.
pub(crate) struct PutOutcome {
    pub(crate) answer: PutAnswer,
    pub(crate) item: LockItem,
    pub(crate) round_trip: Duration,
    pub(crate) received: Timestamp,
    /// For how long it is good, if it was stored.
    pub(crate) validity: Validity,
    /// The store's time when it was sent, at the latest.
    latest: f64,
    terms: Arc<LeaseTerms>,
}

/// What an item's end is like, by what its answer has shown of the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemEnd {
    Good,
    /// It leaves its holder too little time to work with, or none.
    TooSoon,
    /// If its holder dies, others wait for longer than they should.
    TooLate,
}

impl DatedItem {
    /// Its end, in seconds of the Unix epoch.
    pub(crate) fn end(&self) -> u64 {
        unix_seconds(self.item.expires_at)
    }
}

impl PutOutcome {
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.answer, PutAnswer::Stored { .. })
    }

    /// For how long it is good if the item ends at `end`.
    pub(crate) fn validity_until(&self, end: u64) -> Validity {
        Validity {
            good_for: good_for(end, self.latest, &self.terms),
            ..self.validity
        }
    }

    pub(crate) fn end(&self) -> ItemEnd {
        /// More than a correction leaves open: the fraction of a second that it is rounded up by,
        /// and the second of a date.
        const TOLERANCE: f64 = 2.0;
        let terms = &self.terms;
        let lasts = unix_seconds(self.item.expires_at) as f64 - self.latest;
        let full = terms.expiration - terms.safety_margin();
        if self.validity.good_for < full / 4 {
            ItemEnd::TooSoon
        } else if lasts > terms.expiration.as_secs_f64() + TOLERANCE {
            ItemEnd::TooLate
        } else {
            ItemEnd::Good
        }
    }
}

/// How long a lease is good whose item ends at `end`, both in seconds of the store's clock: as long
/// as that clock shows, even if it was `latest` when the item was sent, that the end has not come
/// within the safety margin.
fn good_for(end: u64, latest: f64, terms: &LeaseTerms) -> Duration {
    let left = Duration::from_secs_f64((end as f64 - latest).max(0.0));
    (left.min(terms.expiration)).saturating_sub(terms.safety_margin())
}

impl LeaseContext {
    pub(crate) fn events(&self) -> Events<'_> {
        Events {
            key: &self.name.key,
            holder: &self.terms.holder,
        }
    }

    /// The item to put now.
    pub(crate) fn date(&self, draft: &ItemDraft<'_>) -> DatedItem {
        let sent = self.clock.now();
        // A wall clock that was set back must not end an item early that others go by.
        let at_least = (draft.since).map_or(0.0, |validity| validity.store_time(sent));
        let server_clock = &self.times.server_clock;
        let began = server_clock.estimate(&self.clock, sent, at_least);
        let from_now = (began + self.terms.expiration.as_secs_f64()).floor();
        let expires_at = (from_now as u64).max(draft.not_before);
        let item = LockItem {
            key: self.name.key.clone(),
            lock_id: draft.lock_id.to_owned(),
            expires_at: from_unix_seconds(expires_at),
            holder: self.terms.holder.clone(),
            acquired_at: from_unix_seconds(draft.acquired_at.unwrap_or(began as u64)),
            committed: draft.committed,
            waited: draft.waited,
        };
        DatedItem { item, sent, began }
    }

    /// The end of an item that lasts for the full lease from now, whatever the time is.
    pub(crate) fn full_end(&self) -> u64 {
        let now = self.clock.now();
        let latest = (self.times.server_clock.bounds(&self.clock, now))
            .map_or(now.wall.as_secs_f64(), |bounds| bounds.latest);
        (latest + self.terms.expiration.as_secs_f64()).ceil() as u64
    }

    /// One put, sent now.
    pub(crate) fn put(
        &self,
        dated: DatedItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutOutcome, StoreError> {
        let DatedItem { item, sent, began } = dated;
        let asked = Instant::now();
        let answer = self.ask(|store| store.put(&item, condition, give_up_after));
        (self.times.is_silent).store(answer.is_err(), Ordering::Relaxed);
        let answer = answer?;
        self.times.answered_in(asked.elapsed());
        let received = self.clock.now();
        let (PutAnswer::Stored { date, .. } | PutAnswer::Refused { date, .. }) = &answer;
        // Without any date the hosts' clocks are trusted.
        let latest = (self.times.server_clock)
            .learn(&self.clock, sent, received, *date)
            .unwrap_or(began);
        Ok(PutOutcome {
            answer,
            round_trip: received.elapsed_since(sent),
            received,
            validity: Validity {
                from: sent,
                began,
                good_for: good_for(unix_seconds(item.expires_at), latest, &self.terms),
            },
            item,
            latest,
            terms: self.terms.clone(),
        })
    }

    /// Replaces the item with this `lock_id` by a tombstone: one that has expired, and lasts.
    pub(crate) fn put_tombstone(
        &self,
        lock_id: &str,
        acquired_at: u64,
        record: JournalId,
        condition: PutCondition<'_>,
    ) -> Result<PutAnswer, StoreError> {
        /// Expired by any clock, and too long ago for DynamoDB to remove the item: it leaves alone
        /// what expired more than five years back
        /// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/time-to-live-ttl-before-you-start.html>).
        const LONG_EXPIRED: u64 = 1;
        let item = LockItem {
            key: self.name.key.clone(),
            lock_id: lock_id.to_owned(),
            expires_at: from_unix_seconds(LONG_EXPIRED),
            holder: self.terms.holder.clone(),
            acquired_at: from_unix_seconds(acquired_at),
            committed: Some(record),
            // Nobody is in the way of the next.
            waited: None,
        };
        self.ask(|store| store.put(&item, condition, RELEASE_TIMEOUT))
    }

    /// Deletes the item, if it has this `lock_id`.
    pub(crate) fn delete(&self, lock_id: &str) -> Result<DeleteAnswer, StoreError> {
        self.ask(|store| store.delete(&self.name.key, lock_id, RELEASE_TIMEOUT))
    }

    /// Counts a request, makes it, and turns a panic in the store's code into an error.
    fn ask<T>(
        &self,
        request: impl FnOnce(&dyn LockStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.counters.count(|stats| stats.requests += 1);
        catch_unwind(AssertUnwindSafe(|| request(&*self.store))).unwrap_or_else(|panic| {
            Err(StoreError::Panicked {
                message: panic_message(&*panic),
            })
        })
    }

    pub(crate) fn store_error(&self, source: StoreError) -> LockError {
        LockError::Store {
            lock: self.name.clone(),
            source,
        }
    }
}

impl StoreTimes {
    /// A request was answered in this time.
    fn answered_in(&self, took: Duration) {
        let mut fastest = (self.fastest_answer.lock()).unwrap_or_else(PoisonError::into_inner);
        *fastest = Some(fastest.map_or(took, |fastest| fastest.min(took)));
    }

    /// Whether the last put was not answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// What a request takes at least; `None` while none was answered.
    pub(crate) fn fastest_answer(&self) -> Option<Duration> {
        *(self.fastest_answer.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets one request of a lease be under way at a time: an answer must not be about a state that
/// another one has changed.
#[derive(Debug, Default)]
pub(crate) struct RequestSlot {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

/// The right to make a request, until it is dropped. No mutex is locked meanwhile.
#[derive(Debug)]
#[must_use = "the slot is free again once this is dropped"]
pub(crate) struct SlotGuard<'a>(&'a RequestSlot);

impl RequestSlot {
    /// Waits until no other request is under way.
    pub(crate) fn take(&self) -> SlotGuard<'_> {
        let is_taken = (self.freed)
            .wait_while(self.is_taken(), |is_taken| *is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        self.guard(is_taken)
    }

    /// `None` while another request is under way.
    pub(crate) fn try_take(&self) -> Option<SlotGuard<'_>> {
        let is_taken = self.is_taken();
        (!*is_taken).then(|| self.guard(is_taken))
    }

    fn guard(&self, mut is_taken: MutexGuard<'_, bool>) -> SlotGuard<'_> {
        *is_taken = true;
        SlotGuard(self)
    }

    fn is_taken(&self) -> MutexGuard<'_, bool> {
        (self.is_taken.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        *self.0.is_taken() = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_request_at_a_time_has_the_slot() {
        let slot = RequestSlot::default();
        let first = slot.take();
        assert!(slot.try_take().is_none());
        thread::scope(|scope| {
            let second = scope.spawn(|| drop(slot.take()));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
        assert!(slot.try_take().is_some());
    }

    #[test]
    fn a_request_that_panics_frees_the_slot() {
        let slot = RequestSlot::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _slot = slot.take();
            panic!("a request");
        }));
        assert!(panicked.is_err());
        assert!(slot.try_take().is_some());
    }
}
