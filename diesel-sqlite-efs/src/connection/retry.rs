//! Whether a transaction that failed is run again, and when.

use std::thread;
use std::time::{Duration, Instant};

use super::state::{ConnectionState, EarlierRuns};
use super::transaction_state::Transaction;
use crate::error::LockError;
use crate::lease::backoff::Backoff;

/// Whether the lock was the cause of the failure, and a run from the start may fare better.
fn is_worth_repeating(state: &mut ConnectionState) -> bool {
    let is_cause = state.retry_cause().is_some();
    let is_promise_broken = state.lock().is_some_and(|lock| lock.has_lost_its_pin());
    is_cause && !is_promise_broken && state.transaction().now() != Transaction::InError
}

/// The runs of one transaction so far.
#[derive(Debug)]
pub(super) struct Repeats {
    runs_done: u32,
    /// What the connection had waited for leases, ever, when the first run began.
    waited_before: Duration,
    first_failure: Option<Instant>,
    /// When the first run began to wait.
    waits_since: Option<Instant>,
    /// How often the store was asked in all runs.
    attempts: u32,
    /// No run begins after this.
    until: Option<Instant>,
    backoff: Option<Backoff>,
    /// A run has asked to write.
    writes: bool,
}

impl Repeats {
    /// Before the first run.
    pub(super) fn new(state: &mut ConnectionState) -> Self {
        state.set_earlier_runs(None);
        let waited_before = state.lock().map(|lock| {
            // What earlier statements have asked for is no concern of this transaction.
            lock.take_asked_to_write();
            lock.client().stats().waited
        });
        Self {
            runs_done: 0,
            waited_before: waited_before.unwrap_or_default(),
            first_failure: None,
            waits_since: None,
            attempts: 0,
            until: None,
            backoff: None,
            writes: false,
        }
    }

    /// Until when the next run waits for the lock, which it takes before it begins; `None` if it
    /// begins without.
    pub(super) fn first_lock(&self) -> Option<Instant> {
        self.until.filter(|_| self.writes)
    }

    /// After a failed run: pauses and counts the next one, if the lock was the cause and there is
    /// time for it.
    pub(super) fn pause(&mut self, state: &mut ConnectionState) -> bool {
        if !is_worth_repeating(state) {
            return false;
        }
        let Some(lock) = state.lock() else {
            return false;
        };
        let (client, key) = (lock.client(), &lock.lock_name().key);
        let cause = state.retry_cause();
        let told = cause.map(ToString::to_string).unwrap_or_default();
        let now = Instant::now();
        self.runs_done += 1;
        self.writes |= lock.take_asked_to_write();
        let first_failure = *self.first_failure.get_or_insert(now);
        // For leases, or for SQLite's file locks.
        let for_files = cause.map(LockError::waited).unwrap_or_default();
        let for_leases = client.stats().waited.saturating_sub(self.waited_before);
        let waited = for_leases.max(for_files);
        let until =
            *(self.until).get_or_insert_with(|| now + lock.timeout().saturating_sub(waited));
        let since =
            *(self.waits_since).get_or_insert_with(|| now.checked_sub(waited).unwrap_or(now));
        // An error of a later run speaks of those before it already.
        self.attempts = cause.map_or(0, LockError::attempts).max(self.attempts);
        let runs = EarlierRuns {
            since,
            attempts: self.attempts,
        };
        let round_trip = client.fastest_answer().unwrap_or_default();
        let backoff = self.backoff.get_or_insert_with(|| Backoff::new(round_trip));
        let pause = backoff.next_pause(None, &mut fastrand::Rng::new());
        let start = now + pause;
        if start >= until || !lock.is_in_time(start, self.writes) {
            let spent = first_failure.elapsed();
            client
                .events(key)
                .transaction_gave_up(self.runs_done, spent, &told);
            return false;
        }
        thread::sleep(pause);
        client.count_retry();
        let attempt = self.runs_done + 1;
        client
            .events(key)
            .transaction_retried(attempt, pause, &told);
        state.set_earlier_runs(Some(runs));
        true
    }
}
