//! Getting the lease: one attempt, or as many as fit into a timeout.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::backoff::Backoff;
use super::lease::{Lease, LeaseInner, LocalQueue, Settled, Turn};
use super::registry::Registry;
use super::requests::{ItemDraft, LeaseContext, PutOutcome};
use super::wait_policy::{Refusal, Tuning, WaitPolicy};
use crate::clock::{Timestamp, from_unix_seconds};
use crate::error::{HolderInfo, LockError, StoreError};
use crate::store::{JournalId, PutAnswer, PutCondition, StoredItem};
use crate::telemetry::events::LockSpan;

/// One acquisition, however many attempts it takes.
///
/// All attempts have the same `lock_id`, so that a grant whose answer was lost is recognised. An
/// acquisition that ends without a lease removes an item that it may have left.
#[derive(Debug)]
pub(crate) struct Acquisition {
    context: LeaseContext,
    registry: Arc<Registry>,
    queue: Arc<LocalQueue>,
    turn: Option<Turn>,
    lock_id: String,
    /// The caller's span, which the spans of the acquisition and its lease belong to.
    caller: LockSpan,
    begun: Instant,
    attempts: u32,
    waited: bool,
    unanswered: Unanswered,
    /// The latest end of an item that it may have left; epoch seconds. The next put is not to end
    /// before that: the table would take it for one that was delayed.
    latest_end: u64,
    /// What the last request took; zero before the first.
    round_trip: Duration,
    policy: WaitPolicy,
    /// For asks that were not answered, or whose answer says nothing of the others.
    backoff: Option<Backoff>,
    random: fastrand::Rng,
    /// The last ask, if it was refused and no pause has followed it yet.
    refusal: Option<Refusal>,
    /// The item that the last attempt was refused for.
    current_holder: Option<StoredItem>,
    /// Why the last attempt was not answered.
    last_failure: Option<StoreError>,
}

/// How long an acquisition may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AcquireLimits {
    pub(crate) until: Instant,
    pub(crate) max_attempts: Option<u32>,
}

/// What this acquisition may have left in the table: by puts whose answers were lost, or that were
/// stored and did not lead to a lease.
#[derive(Debug, Clone, PartialEq)]
enum Unanswered {
    Nothing,
    /// An item of ours without a commit record.
    Item,
    /// An item of ours with the commit record of the item that it replaced.
    ItemWithRecord(JournalId),
    /// An item of ours in place of one with a commit record, which only we know now. It may be in
    /// the table again, by a put whose answer was lost.
    WipedRecord {
        written: Box<StoredItem>,
        previous: Box<StoredItem>,
    },
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
    /// What an answer may take on a busy host: a request that was given less and timed out says
    /// little about the store.
    pub(crate) const MIN_USEFUL_TIMEOUT: Duration = Duration::from_millis(250);

    pub(crate) fn new(context: LeaseContext, registry: Arc<Registry>) -> Self {
        let begun = Instant::now();
        let last = registry.recent_wait(&context.name.key);
        Self {
            queue: registry.queue(&context.name.key),
            context,
            registry,
            turn: None,
            lock_id: Uuid::new_v4().to_string(),
            caller: LockSpan::current(),
            begun,
            attempts: 0,
            waited: false,
            unanswered: Unanswered::Nothing,
            latest_end: 0,
            round_trip: Duration::ZERO,
            policy: WaitPolicy::new(Tuning::CHOSEN, begun, last),
            backoff: None,
            random: fastrand::Rng::new(),
            refusal: None,
            current_holder: None,
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

    /// As [`try_once`](Self::try_once) for a caller that can wait: does not ask if others are to be
    /// let in first, because this process had the lease just now and they have waited longer.
    pub(crate) fn try_in_turn(&mut self, give_up_after: Duration) -> Result<Attempt, LockError> {
        match self.policy.first_ask(&mut self.random) {
            None => self.try_once(give_up_after),
            Some(_) => Ok(Attempt::Refused { free_in: None }),
        }
    }

    /// As [`try_in_turn`](Self::try_in_turn); `None` if the caller should [`wait`](Self::wait) for the
    /// lease, after a refusal or without an answer.
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

    /// Until when others are to be let in first, if they are: by what this process has seen while
    /// this acquisition was in its queue.
    fn lets_others_in_until(&mut self) -> Option<Instant> {
        let last = self.registry.recent_wait(&self.context.name.key)?;
        WaitPolicy::new(Tuning::CHOSEN, Instant::now(), Some(last)).first_ask(&mut self.random)
    }

    /// Lets others of this process ask in the meantime; [`wait`](Self::wait) queues again.
    pub(crate) fn leave_queue(&mut self) {
        self.turn = None;
    }

    /// Waits for the lease, first in this process's queue, then at the store.
    pub(crate) fn wait(&mut self, limits: AcquireLimits) -> Result<Lease, LockError> {
        let span = self.context.events().wait_span(&self.caller);
        span.in_scope(|| self.count_wait(limits))
    }

    fn count_wait(&mut self, limits: AcquireLimits) -> Result<Lease, LockError> {
        if !self.waited {
            self.waited = true;
            self.context.counters.count(|stats| stats.waits += 1);
            let held_by = self.current_holder.as_ref().map(HolderInfo::from);
            self.context
                .events()
                .waiting(self.attempts, held_by.as_ref());
        }
        let began = Instant::now();
        let result = self.wait_in_queue(limits);
        (self.context.counters).count(|stats| stats.waited += began.elapsed());
        result
    }

    fn wait_in_queue(&mut self, limits: AcquireLimits) -> Result<Lease, LockError> {
        // The lease was another's just now: asking again at once would be answered the same.
        let mut next_ask = (self.attempts > 0).then(|| self.next_ask(None, limits.until));
        loop {
            let left = limits.until.saturating_duration_since(Instant::now());
            let turn = match self.turn.take() {
                Some(turn) => turn,
                None => match self.queue.enter(left) {
                    None => return Err(self.gave_up()),
                    Some((turn, None)) => {
                        next_ask = next_ask.max(self.lets_others_in_until());
                        turn
                    }
                    Some((turn, Some(lease))) => match self.reuse_local_lease(lease, turn) {
                        Ok(lease) => return Ok(lease),
                        Err(turn) => turn,
                    },
                },
            };
            let attempts_are_used_up =
                (limits.max_attempts).is_some_and(|most| self.attempts >= most);
            // The last attempt of all is made as late as its answer allows.
            let round_trip = self
                .round_trip
                .max(self.context.times.fastest_answer().unwrap_or_default());
            let latest = left.saturating_sub(round_trip * 2);
            if attempts_are_used_up || (self.attempts > 0 && latest.is_zero()) {
                return Err(self.gave_up());
            }
            let pause = next_ask.map(|at| at.saturating_duration_since(Instant::now()));
            thread::sleep(pause.unwrap_or_default().min(latest));
            let left = limits.until.saturating_duration_since(Instant::now());
            let free_in = match self.attempt(turn, left) {
                Ok(Attempt::Granted(lease)) => return Ok(lease),
                Ok(Attempt::Refused { free_in }) => {
                    self.last_failure = None;
                    free_in
                }
                Err(failure) if failure.is_transient() => {
                    // A request that had no time left says less than an attempt before it.
                    let cut_short = matches!(failure, StoreError::Timeout { .. })
                        && left < Self::MIN_USEFUL_TIMEOUT;
                    if self.attempts == 1 || !cut_short {
                        self.last_failure = Some(failure);
                    }
                    None
                }
                Err(failure) => return Err(self.failed(failure)),
            };
            next_ask = Some(self.next_ask(free_in, limits.until));
        }
    }

    /// When to ask again; `free_in` is when the other's lease ends at the latest.
    fn next_ask(&mut self, free_in: Option<Duration>, until: Instant) -> Instant {
        let now = Instant::now();
        let round_trip = self.round_trip;
        let backoff = self.backoff.get_or_insert_with(|| Backoff::new(round_trip));
        let fallback = now + backoff.next_pause(free_in, &mut self.random);
        let refusal = self.refusal.take();
        let next = (refusal.as_ref())
            .and_then(|refusal| self.policy.next_ask(refusal, now, until, &mut self.random));
        match (next, free_in) {
            (None, _) => fallback,
            (Some(next), None) => next,
            (Some(next), Some(free_in)) => next.min(now + free_in.max(Backoff::SHORTEST)),
        }
    }

    /// The refusal of the last attempt, as an error.
    pub(crate) fn busy(&self) -> LockError {
        LockError::Busy {
            lock: self.context.name.clone(),
            holder: self.current_holder.as_ref().map(HolderInfo::from),
            waited: self.begun.elapsed(),
            attempts: self.attempts,
        }
    }

    /// Why there is no lease: the last attempt failed, or another has it.
    fn gave_up(&self) -> LockError {
        // Without an attempt nothing was learnt: another of this process had the turn.
        if self.attempts > 0
            && let Some(wait) = self.policy.gave_up(Instant::now())
        {
            self.registry.remember(&self.context.name.key, wait);
        }
        match &self.last_failure {
            Some(failure) => self.failed(failure.clone()),
            None => self.busy(),
        }
    }

    fn failed(&self, source: StoreError) -> LockError {
        self.context.store_error(source)
    }

    /// One attempt: a put that is granted if the key is free, and if the other's lease has expired, a
    /// second one that takes it over. The turn is kept if it was refused.
    fn attempt(&mut self, turn: Turn, give_up_after: Duration) -> Result<Attempt, StoreError> {
        self.attempts += 1;
        self.context.counters.count(|stats| stats.attempts += 1);
        let asked = Instant::now();
        if let Unanswered::WipedRecord { written, previous } = self.unanswered.clone() {
            return self.take_over(asked, turn, &written, &previous, give_up_after);
        }
        let outcome = self.put(None, PutCondition::FreeOrOurs, give_up_after)?;
        let current = match outcome.answer {
            PutAnswer::Stored { .. } => {
                return self.granted(asked, outcome, None, turn, give_up_after);
            }
            PutAnswer::Refused { current, .. } => current,
        };
        let (earliest, likely) = self.store_time(outcome.received);
        let Some(current) = current else {
            return self.attempt_blind(asked, turn, earliest, give_up_after);
        };
        // Our own, where the answer to a takeover was lost that had kept its predecessor's record.
        let ours = current.lock_id == self.lock_id;
        if ours {
            self.unanswered =
                (current.committed).map_or(Unanswered::Item, Unanswered::ItemWithRecord);
        }
        let end = current.expires_at_seconds()?;
        if end > earliest && !ours {
            self.was_refused(asked, Some(current));
            self.turn = Some(turn);
            // An answer that is dated later shows whether it has expired.
            let free_in = if end > likely {
                end - likely
            } else {
                end - earliest
            };
            return Ok(Attempt::Refused {
                free_in: Some(Duration::from_secs_f64(free_in)),
            });
        }
        self.take_over(asked, turn, &current, &current, give_up_after)
    }

    /// Puts in the place of the item `found`, with the commit record of `predecessor`: the same, unless
    /// a put of ours has wiped the record out and the next did not bring it back.
    fn take_over(
        &mut self,
        asked: Instant,
        turn: Turn,
        found: &StoredItem,
        predecessor: &StoredItem,
        give_up_after: Duration,
    ) -> Result<Attempt, StoreError> {
        let condition = PutCondition::Unchanged(found);
        let outcome = self.put(predecessor.committed, condition, give_up_after)?;
        match outcome.answer {
            PutAnswer::Stored { .. } => self.granted(
                asked,
                outcome,
                Some(predecessor.clone()),
                turn,
                give_up_after,
            ),
            PutAnswer::Refused { current, .. } => Ok(self.refused(asked, turn, current)),
        }
    }

    /// The store does not say whose lease it is: the Python package's condition decides.
    fn attempt_blind(
        &mut self,
        asked: Instant,
        turn: Turn,
        now: f64,
        give_up_after: Duration,
    ) -> Result<Attempt, StoreError> {
        let condition = PutCondition::free_or_expired(from_unix_seconds(now as u64));
        let outcome = self.put(None, condition, give_up_after)?;
        match &outcome.answer {
            PutAnswer::Stored { previous, .. } => {
                let previous = previous.clone();
                self.granted(asked, outcome, previous, turn, give_up_after)
            }
            PutAnswer::Refused { .. } => Ok(self.refused(asked, turn, None)),
        }
    }

    fn refused(&mut self, asked: Instant, turn: Turn, current: Option<StoredItem>) -> Attempt {
        self.was_refused(asked, current);
        self.turn = Some(turn);
        Attempt::Refused { free_in: None }
    }

    fn was_refused(&mut self, asked: Instant, current: Option<StoredItem>) {
        let holder = |item: &Option<StoredItem>| item.as_ref().map(|item| item.lock_id.clone());
        self.refusal = Some(Refusal {
            sent: asked,
            waited: current.as_ref().and_then(|item| item.waited),
            same_holder: current.is_some() && holder(&current) == holder(&self.current_holder),
        });
        // A store that does not say who holds it now has not said before.
        self.current_holder = current;
    }

    /// The time by the store's clock: at the earliest, which an item must have expired by to be taken
    /// over, and at best.
    fn store_time(&self, received: Timestamp) -> (f64, f64) {
        /// Hosts' clocks are taken to agree to within this where the store's is not known.
        const ALLOWANCE_WITHOUT_DATE: f64 = 2.0;
        let LeaseContext { clock, times, .. } = &self.context;
        let likely = times.server_clock.estimate(clock, received, 0.0);
        let bounds = times.server_clock.bounds(clock, received);
        let earliest = bounds.map_or(likely - ALLOWANCE_WITHOUT_DATE, |bounds| bounds.earliest);
        (earliest, likely)
    }

    fn put(
        &mut self,
        committed: Option<JournalId>,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutOutcome, StoreError> {
        let draft = ItemDraft {
            lock_id: &self.lock_id,
            acquired_at: None,
            committed,
            waited: Some(self.policy.usual_wait(Instant::now())),
            since: None,
            not_before: self.latest_end,
        };
        let dated = self.context.date(&draft);
        let end = dated.end();
        let result = self.context.put(dated, condition, give_up_after);
        match &result {
            Ok(outcome) => {
                self.unanswered = Unanswered::Nothing;
                self.round_trip = outcome.round_trip;
            }
            Err(error) if error.outcome_unknown() => {
                let before = std::mem::replace(&mut self.unanswered, Unanswered::Nothing);
                self.unanswered = before.after_lost_answer(committed);
                self.latest_end = end;
            }
            Err(_) => {}
        }
        result
    }

    fn granted(
        &mut self,
        asked: Instant,
        outcome: PutOutcome,
        taken_from: Option<StoredItem>,
        turn: Turn,
        give_up_after: Duration,
    ) -> Result<Attempt, StoreError> {
        let record = taken_from.as_ref().and_then(|item| item.committed);
        let inner = LeaseInner::granted(self.context.clone(), &self.caller, &outcome, record);
        let waited = outcome.item.waited.unwrap_or_default();
        let written = StoredItem::from(&outcome.item);
        match inner.settle(outcome, record, give_up_after) {
            Settled::Good(_) => {}
            Settled::Lost(current) => return Ok(self.refused(asked, turn, current)),
            Settled::Failed {
                has_record,
                failure,
                ..
            } => {
                // It is no lease, to be handed off or released: the next attempt finds the item.
                self.latest_end = inner.latest_end();
                self.unanswered = match (record, taken_from) {
                    (Some(_), Some(previous)) if !has_record => Unanswered::WipedRecord {
                        written: Box::new(written),
                        previous: Box::new(previous),
                    },
                    (Some(record), _) => Unanswered::ItemWithRecord(record),
                    (None, _) => Unanswered::Item,
                };
                self.turn = Some(turn);
                return Err(failure);
            }
        }
        let lease = Lease::new(Arc::new(inner), turn, self.registry.clone());
        let wait = self.policy.granted(waited, Instant::now());
        self.registry.remember(&self.context.name.key, wait);
        self.context.counters.count(|stats| {
            stats.acquisitions += 1;
            stats.takeovers += u64::from(taken_from.is_some());
        });
        lease.inner().in_span(|| {
            if let Some(from) = &taken_from {
                self.context.events().taken_over(&HolderInfo::from(from));
            }
            self.acquired();
        });
        self.keep_renewed(&lease);
        Ok(Attempt::Granted(lease))
    }

    /// Goes on with a lease that another transaction of this process has handed off; if it cannot,
    /// releases it to the store and returns the turn.
    fn reuse_local_lease(&mut self, before: Arc<LeaseInner>, turn: Turn) -> Result<Lease, Turn> {
        // Its times mean nothing by another clock.
        let is_usable = before.has_clock_of(&self.context);
        let inner = match is_usable {
            true => {
                let context = self.context.clone();
                Arc::new(LeaseInner::handed_off(&before, context, &self.caller))
            }
            false => before,
        };
        // Where it ended while clocks stood still, the commit's confirmation will show that.
        if !is_usable || inner.remaining().is_zero() {
            // A failure is reported as an event; the lease expires by itself.
            let _ = inner.release_to_store();
            return Err(turn);
        }
        let lease = Lease::new(inner, turn, self.registry.clone());
        self.context.counters.count(|stats| {
            stats.acquisitions += 1;
            stats.hand_offs += 1;
        });
        lease.inner().in_span(|| self.acquired());
        self.keep_renewed(&lease);
        Ok(lease)
    }

    fn keep_renewed(&self, lease: &Lease) {
        let terms = &self.context.terms;
        if terms.max_hold > terms.renewal_period() {
            self.registry.renewer.watch(lease.inner());
        }
    }

    fn acquired(&self) {
        (self.context.events()).acquired(self.attempts, self.begun.elapsed());
    }
}

impl Acquisition {
    /// Removes what it has left in the table; a commit record stays.
    fn take_back(&self) -> Result<(), StoreError> {
        let context = &self.context;
        let tombstone = |record, condition: PutCondition<'_>| {
            let now = context.clock.now();
            let acquired_at = (context.times.server_clock).estimate(&context.clock, now, 0.0);
            context.put_tombstone(&self.lock_id, acquired_at as u64, record, condition)
        };
        match &self.unanswered {
            Unanswered::Nothing => Ok(()),
            Unanswered::Item => context.delete(&self.lock_id).map(drop),
            // The journal that the record names is still there: the next holder must know.
            Unanswered::ItemWithRecord(record) => tombstone(*record, PutCondition::Ended).map(drop),
            Unanswered::WipedRecord { written, previous } => {
                let Some(record) = previous.committed else {
                    return context.delete(&self.lock_id).map(drop);
                };
                match tombstone(record, PutCondition::Unchanged(written))? {
                    PutAnswer::Stored { .. } => Ok(()),
                    PutAnswer::Refused { .. } => tombstone(record, PutCondition::Ended).map(drop),
                }
            }
        }
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        /// How often a record that only we know is written, where trying again may help.
        const ATTEMPTS_FOR_A_RECORD: u32 = 5;
        const PAUSE: Duration = Duration::from_millis(50);
        let is_needed = matches!(self.unanswered, Unanswered::WipedRecord { .. });
        let mut attempt = 1;
        let error = loop {
            match self.take_back() {
                Ok(()) => return,
                Err(error)
                    if is_needed && error.is_transient() && attempt < ATTEMPTS_FOR_A_RECORD =>
                {
                    thread::sleep(PAUSE * attempt);
                    attempt += 1;
                }
                Err(error) => break error,
            }
        };
        self.context.events().release_failed(&error.to_string());
    }
}

impl Unanswered {
    /// The answer to one more put was lost, which had this record.
    fn after_lost_answer(self, record: Option<JournalId>) -> Self {
        match (record, self) {
            (_, wiped @ Self::WipedRecord { .. }) => wiped,
            (Some(record), _) => Self::ItemWithRecord(record),
            // An earlier takeover may have been applied: its record must not be deleted.
            (None, Self::ItemWithRecord(record)) => Self::ItemWithRecord(record),
            (None, Self::Nothing | Self::Item) => Self::Item,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_may_be_in_the_table_is_remembered() {
        const RECORD: JournalId = JournalId([1; 4]);
        let item = Unanswered::Nothing.after_lost_answer(None);
        assert_eq!(item, Unanswered::Item);
        let with_record = item.after_lost_answer(Some(RECORD));
        assert_eq!(with_record, Unanswered::ItemWithRecord(RECORD));
        assert_eq!(with_record.clone().after_lost_answer(None), with_record);
    }
}
