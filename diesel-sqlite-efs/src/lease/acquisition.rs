//! Getting the lease: one attempt, or as many as fit into a timeout.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::backoff::Backoff;
use super::hand_on::{Queue, Turn};
use super::pace::{Pace, Refusal, Tuning};
use super::{AtRelease, Desk, Held, ItemDraft, Lease, Sent, State};
use crate::clock::{Timestamp, from_unix_seconds, unix_seconds};
use crate::error::{HolderInfo, LockError, StoreError};
use crate::events::LockSpan;
use crate::store::{JournalId, PutAnswer, PutCondition, StoredItem};

/// One acquisition, however many attempts it takes.
///
/// All attempts bear the same `lock_id`, so that a grant whose answer was lost is recognised. An
/// acquisition that ends without a lease removes an item that it may have left.
#[derive(Debug)]
pub(crate) struct Acquisition {
    desk: Desk,
    queue: Arc<Queue>,
    turn: Option<Turn>,
    lock_id: String,
    /// The caller's span, which the spans of the acquisition and its lease belong to.
    caller: LockSpan,
    begun: Instant,
    attempts: u32,
    waited: bool,
    /// The answer to a put with this record was lost, and none since told what became of it.
    maybe_applied: Option<Option<JournalId>>,
    /// What the last request took; zero before the first.
    round_trip: Duration,
    pace: Pace,
    /// For asks that were not answered, or whose answer tells nothing of the others.
    backoff: Option<Backoff>,
    random: fastrand::Rng,
    /// The last ask, if it was refused and no pause has followed it yet.
    refusal: Option<Refusal>,
    /// What stood in the way at the last attempt that was answered.
    in_the_way: Option<StoredItem>,
    /// Why the last attempt was not.
    last_failure: Option<StoreError>,
}

/// How long an acquisition may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) until: Instant,
    pub(crate) max_attempts: Option<u32>,
}

/// What came of an attempt that did not fail.
#[derive(Debug)]
pub(crate) enum Attempt {
    Granted(Lease),
    /// Another holds the lease; `free_in` is when it ends at the latest, if known.
    Refused {
        free_in: Option<Duration>,
    },
}

impl Acquisition {
    /// What an answer may take on a busy host.
    pub(crate) const FAIR_TIME: Duration = Duration::from_millis(250);

    pub(crate) fn new(desk: Desk) -> Self {
        let begun = Instant::now();
        let pace = Pace::new(
            Tuning::CHOSEN,
            begun,
            desk.shared.experience(&desk.name.key),
        );
        Self {
            queue: desk.shared.queue(&desk.name.key),
            desk,
            turn: None,
            lock_id: Uuid::new_v4().to_string(),
            caller: LockSpan::current(),
            begun,
            attempts: 0,
            waited: false,
            maybe_applied: None,
            round_trip: Duration::ZERO,
            pace,
            backoff: None,
            random: fastrand::Rng::new(),
            refusal: None,
            in_the_way: None,
            last_failure: None,
        }
    }

    /// Asks once, and not at all if a connection of this process holds or awaits the lease.
    pub(crate) fn try_once(&mut self, give_up_after: Duration) -> Result<Attempt, LockError> {
        match self.turn.take().or_else(|| self.queue.try_enter()) {
            None => Ok(Attempt::Refused { free_in: None }),
            Some(turn) => self.attempt(turn, give_up_after).map_err(|failure| {
                self.last_failure = Some(failure.clone());
                self.failed(failure)
            }),
        }
    }

    /// As [`try_once`](Self::try_once) for one who can wait: does not ask if others are to be let
    /// in first, because this process had the lease just now and they have waited longer.
    pub(crate) fn try_in_turn(&mut self, give_up_after: Duration) -> Result<Attempt, LockError> {
        match self.pace.first_ask(&mut self.random) {
            None => self.try_once(give_up_after),
            Some(_) => Ok(Attempt::Refused { free_in: None }),
        }
    }

    /// As [`try_in_turn`](Self::try_in_turn); `None` if the lease is to be [waited](Self::wait) for,
    /// be it refused or not answered.
    pub(crate) fn try_before_waiting(
        &mut self,
        give_up_after: Duration,
    ) -> Result<Option<Lease>, LockError> {
        match self.try_in_turn(give_up_after) {
            Ok(Attempt::Granted(lease)) => Ok(Some(lease)),
            Err(error) if !error.is_retryable() => Err(error),
            Ok(Attempt::Refused { .. }) | Err(_) => Ok(None),
        }
    }

    /// Until when others are to be let in first, if they are: by what this process has met while
    /// this acquisition stood in its line.
    fn lets_others_in_until(&mut self) -> Option<Instant> {
        let last = self.desk.shared.experience(&self.desk.name.key)?;
        Pace::new(Tuning::CHOSEN, Instant::now(), Some(last)).first_ask(&mut self.random)
    }

    /// Lets others of this process ask in the meantime; [`wait`](Self::wait) queues again.
    pub(crate) fn step_aside(&mut self) {
        self.turn = None;
    }

    /// Waits for the lease, first in this process's line, then at the store.
    pub(crate) fn wait(&mut self, patience: Patience) -> Result<Lease, LockError> {
        let span = self.desk.speaker().wait_span(&self.caller);
        span.in_scope(|| self.count_wait(patience))
    }

    fn count_wait(&mut self, patience: Patience) -> Result<Lease, LockError> {
        if !self.waited {
            self.waited = true;
            self.desk.counters.count(|stats| stats.waits += 1);
            let held_by = self.in_the_way.as_ref().map(HolderInfo::from);
            self.desk.speaker().waiting(self.attempts, held_by.as_ref());
        }
        let began = Instant::now();
        let result = self.wait_in_line(patience);
        (self.desk.counters).count(|stats| stats.waited += began.elapsed());
        result
    }

    fn wait_in_line(&mut self, patience: Patience) -> Result<Lease, LockError> {
        // Somebody stood in the way just now: asking again at once would be answered the same.
        let mut next_ask = (self.attempts > 0).then(|| self.next_ask(None, patience.until));
        loop {
            let left = patience.until.saturating_duration_since(Instant::now());
            let turn = match self.turn.take() {
                Some(turn) => turn,
                None => match self.queue.enter(left) {
                    None => return Err(self.gave_up()),
                    Some((turn, None)) => {
                        next_ask = next_ask.max(self.lets_others_in_until());
                        turn
                    }
                    Some((turn, Some(lease))) => match self.adopt(lease.with(turn)) {
                        Some(lease) => return Ok(lease),
                        None => continue,
                    },
                },
            };
            let attempts_are_used_up =
                (patience.max_attempts).is_some_and(|most| self.attempts >= most);
            // The last attempt of all is made as late as its answer allows.
            let round_trip = self.round_trip.max(self.desk.shared.fastest_answer());
            let latest = left.saturating_sub(round_trip * 2);
            if attempts_are_used_up || (self.attempts > 0 && latest.is_zero()) {
                return Err(self.gave_up());
            }
            let pause = next_ask.map(|at| at.saturating_duration_since(Instant::now()));
            thread::sleep(pause.unwrap_or_default().min(latest));
            let left = patience.until.saturating_duration_since(Instant::now());
            let free_in = match self.attempt(turn, left) {
                Ok(Attempt::Granted(lease)) => return Ok(lease),
                Ok(Attempt::Refused { free_in }) => {
                    self.last_failure = None;
                    free_in
                }
                Err(failure) if failure.is_transient() => {
                    // What our own impatience has ended tells less than an attempt before it.
                    let cut_short =
                        matches!(failure, StoreError::Timeout { .. }) && left < Self::FAIR_TIME;
                    if self.attempts == 1 || !cut_short {
                        self.last_failure = Some(failure);
                    }
                    None
                }
                Err(failure) => return Err(self.failed(failure)),
            };
            next_ask = Some(self.next_ask(free_in, patience.until));
        }
    }

    /// When to ask again; `free_in` is when the lease that stands in the way ends at the latest.
    fn next_ask(&mut self, free_in: Option<Duration>, until: Instant) -> Instant {
        let now = Instant::now();
        let round_trip = self.round_trip;
        let backoff = self.backoff.get_or_insert_with(|| Backoff::new(round_trip));
        let fallback = now + backoff.next_pause(free_in, &mut self.random);
        let refusal = self.refusal.take();
        let next = (refusal.as_ref())
            .and_then(|refusal| self.pace.next_ask(refusal, now, until, &mut self.random));
        match (next, free_in) {
            (None, _) => fallback,
            (Some(next), None) => next,
            (Some(next), Some(free_in)) => next.min(now + free_in.max(Backoff::SHORTEST)),
        }
    }

    /// The refusal of the last attempt, as an error.
    pub(crate) fn busy(&self) -> LockError {
        LockError::Busy {
            lock: self.desk.name.clone(),
            holder: self.in_the_way.as_ref().map(HolderInfo::from),
            waited: self.begun.elapsed(),
            attempts: self.attempts,
        }
    }

    /// Why there is no lease: the last attempt failed, or somebody stood in the way.
    fn gave_up(&self) -> LockError {
        // Who never asked has learnt nothing: another of this process had the turn.
        let experience = (self.attempts > 0).then(|| self.pace.gave_up(Instant::now()));
        if let Some(experience) = experience.flatten() {
            (self.desk.shared).remember(&self.desk.name.key, experience);
        }
        match &self.last_failure {
            Some(failure) => self.failed(failure.clone()),
            None => self.busy(),
        }
    }

    fn failed(&self, source: StoreError) -> LockError {
        self.desk.store_error(source)
    }

    /// One attempt: a put that a free key grants, and if the lease in the way has expired, a
    /// second one that takes it over. The turn is kept if it was refused.
    fn attempt(&mut self, turn: Turn, give_up_after: Duration) -> Result<Attempt, StoreError> {
        self.attempts += 1;
        self.desk.counters.count(|stats| stats.attempts += 1);
        let asked = Instant::now();
        let sent = self.put(None, PutCondition::FreeOrOurs, give_up_after)?;
        let (current, date) = match sent.answer {
            PutAnswer::Stored { .. } => return self.granted(sent, None, turn, give_up_after),
            PutAnswer::Refused { current, date } => (current, date),
        };
        let now = self.store_time(sent.received, date);
        let Some(current) = current else {
            return self.attempt_blind(asked, turn, now, give_up_after);
        };
        let free_in = current.expires_at_seconds()? - now;
        // Our own, where the answer to a takeover was lost that had kept its predecessor's record.
        let ours = current.lock_id == self.lock_id;
        if free_in > 0.0 && !ours {
            self.was_refused(asked, Some(current));
            self.turn = Some(turn);
            return Ok(Attempt::Refused {
                free_in: Some(Duration::from_secs_f64(free_in)),
            });
        }
        let takeover = PutCondition::Unchanged(&current);
        let sent = self.put(current.committed, takeover, give_up_after)?;
        match sent.answer {
            PutAnswer::Stored { .. } => self.granted(sent, Some(current), turn, give_up_after),
            PutAnswer::Refused { ref current, .. } => {
                self.was_refused(asked, current.clone());
                self.turn = Some(turn);
                Ok(Attempt::Refused { free_in: None })
            }
        }
    }

    /// The store does not say what stands in the way: the Python package's condition decides.
    fn attempt_blind(
        &mut self,
        asked: Instant,
        turn: Turn,
        now: f64,
        give_up_after: Duration,
    ) -> Result<Attempt, StoreError> {
        let condition = PutCondition::free_or_expired(from_unix_seconds(now as u64));
        let sent = self.put(None, condition, give_up_after)?;
        match &sent.answer {
            PutAnswer::Stored { previous, .. } => {
                let previous = previous.clone();
                self.granted(sent, previous, turn, give_up_after)
            }
            PutAnswer::Refused { .. } => {
                self.was_refused(asked, None);
                self.turn = Some(turn);
                Ok(Attempt::Refused { free_in: None })
            }
        }
    }

    fn was_refused(&mut self, asked: Instant, current: Option<StoredItem>) {
        let holder = |item: &Option<StoredItem>| item.as_ref().map(|item| item.lock_id.clone());
        self.refusal = Some(Refusal {
            sent: asked,
            waited: current.as_ref().and_then(|item| item.waited),
            same_holder: current.is_some() && holder(&current) == holder(&self.in_the_way),
        });
        // A store that does not tell who holds it now has not told before.
        self.in_the_way = current;
    }

    /// The time by the store's clock; later than it is by no more than the skew we allow for.
    fn store_time(&self, received: Timestamp, date: Option<SystemTime>) -> f64 {
        /// Hosts' clocks are taken to agree to within this where the store's is not known.
        const ALLOWANCE_WITHOUT_DATE: f64 = 2.0;
        let estimate = self.desk.shared.server_clock.at(received);
        match date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) {
            // The host's clock may have been stepped since the request was sent.
            Some(date) => estimate.min(date.as_secs_f64() + 1.0),
            None => estimate - ALLOWANCE_WITHOUT_DATE,
        }
    }

    fn put(
        &mut self,
        committed: Option<JournalId>,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<Sent, StoreError> {
        let draft = ItemDraft {
            lock_id: &self.lock_id,
            acquired_at: None,
            committed,
            waited: Some(self.pace.usual_wait(Instant::now())),
            since: None,
            not_before: 0,
        };
        let result = self.desk.put(&draft, condition, give_up_after);
        match &result {
            Ok(sent) => {
                self.maybe_applied = None;
                self.round_trip = sent.round_trip;
            }
            Err(error) if error.outcome_unknown() => {
                // An earlier takeover may stand, with a record that must not be deleted.
                self.maybe_applied = Some(committed.or(self.maybe_applied.flatten()));
            }
            Err(_) => {}
        }
        result
    }

    fn granted(
        &mut self,
        sent: Sent,
        taken_from: Option<StoredItem>,
        turn: Turn,
        give_up_after: Duration,
    ) -> Result<Attempt, StoreError> {
        let recorded = taken_from.as_ref().and_then(|item| item.committed);
        let held = Held {
            span: self.desk.speaker().held_span(&self.caller),
            desk: self.desk.clone(),
            lock_id: self.lock_id.clone(),
            acquired_at: unix_seconds(sent.item.acquired_at),
            waited: sent.item.waited,
            begun: sent.span.from,
            granted: sent.span.from,
            state: Mutex::new(State {
                span: sent.span,
                end: unix_seconds(sent.item.expires_at),
                recorded,
                at_release: match recorded {
                    Some(_) => AtRelease::Retire,
                    None => AtRelease::Remove,
                },
                lost: None,
                released: false,
            }),
            request: Mutex::default(),
        };
        let lease = Lease {
            held: Arc::new(held),
            turn: Some(turn),
        };
        // A record that a blind put has wiped must stand again, too.
        let blind = matches!(&sent.answer, PutAnswer::Stored { previous: Some(old), .. } if old.committed != recorded);
        if sent.clock_was_wrong || blind {
            lease.held.correct(&sent.item, recorded, give_up_after)?;
        }
        let waited = sent.item.waited.unwrap_or_default();
        let experience = self.pace.granted(waited, Instant::now());
        (self.desk.shared).remember(&self.desk.name.key, experience);
        self.desk.counters.count(|stats| {
            stats.acquisitions += 1;
            stats.takeovers += u64::from(taken_from.is_some());
        });
        lease.held.span.in_scope(|| {
            if let Some(from) = &taken_from {
                self.desk.speaker().taken_over(&HolderInfo::from(from));
            }
            self.acquired();
        });
        Ok(Attempt::Granted(lease))
    }

    /// Goes on with a lease that another transaction of this process has left; sends it back if it
    /// cannot.
    fn adopt(&mut self, mut left: Lease) -> Option<Lease> {
        // Its moments mean nothing by another clock.
        let is_usable = left.held.desk.clock.is_same(&self.desk.clock);
        let lease = match is_usable {
            true => Lease {
                turn: left.turn.take(),
                held: Arc::new(self.held_from(&left.held)),
            },
            false => left,
        };
        // Where it ended while clocks stood still, the commit's confirmation will show that.
        if !is_usable || !lease.is_valid() {
            // A failure is reported as an event; the lease runs out by itself.
            let _ = lease.send_back();
            return None;
        }
        self.desk.counters.count(|stats| {
            stats.acquisitions += 1;
            stats.handovers += 1;
        });
        (lease.held.span).in_scope(|| self.acquired());
        Some(lease)
    }

    /// The same lease, for this acquisition.
    fn held_from(&self, before: &Held) -> Held {
        Held {
            span: self.desk.speaker().held_span(&self.caller),
            desk: self.desk.clone(),
            lock_id: before.lock_id.clone(),
            acquired_at: before.acquired_at,
            waited: before.waited,
            begun: self.desk.clock.now(),
            granted: before.granted,
            state: Mutex::new(before.end_here()),
            request: Mutex::default(),
        }
    }

    fn acquired(&self) {
        (self.desk.speaker()).acquired(self.attempts, self.begun.elapsed());
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        let Some(recorded) = self.maybe_applied else {
            return;
        };
        let result = match recorded {
            None => self.desk.remove(&self.lock_id).map(drop),
            // The journal that the record speaks of still stands: who comes next must know.
            Some(_) => {
                let acquired_at = self.desk.shared.server_clock.at(self.desk.clock.now()) as u64;
                (self.desk.retire(&self.lock_id, acquired_at, recorded)).map(drop)
            }
        };
        if let Err(error) = result {
            self.desk.speaker().release_failed(&error.to_string());
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
