//! The write lease: one item in the store, held for a while, renewed, confirmed at commit, released.

pub(crate) mod acquisition;
pub(crate) mod backoff;
pub(crate) mod hand_on;
pub(crate) mod keeper;
pub(crate) mod pace;
pub(crate) mod queue;
pub(crate) mod server_clock;
pub(crate) mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::hand_on::Turn;
use self::shared::Shared;
use crate::clock::{Clock, Timestamp, from_unix_seconds, unix_seconds};
use crate::error::{HolderInfo, LockError, LockName, StoreError, panic_message};
use crate::events::{LockSpan, Speaker};
use crate::stats::Counters;
use crate::store::{
    DeleteAnswer, JournalId, LockItem, LockStore, PutAnswer, PutCondition, StoredItem,
};

/// How leases are taken and held; the same for all leases of a client.
#[derive(Debug, Clone)]
pub(crate) struct LeaseTerms {
    /// For how long the item grants the lease.
    pub(crate) duration: Duration,
    /// No renewal goes on beyond this time since the acquisition.
    pub(crate) max_hold: Duration,
    /// The name written into the item, for people.
    pub(crate) holder: String,
}

impl LeaseTerms {
    /// The time by which a holder stops before its item says so.
    ///
    /// It covers clocks that run at different speeds and the second that a `Date` header leaves
    /// open on either side. Leases shorter than 8 s give up a quarter, and so rely on clocks of
    /// hosts that agree to within an eighth of the lease.
    fn safety_margin(&self) -> Duration {
        (self.duration / 4).min(Duration::from_secs(2))
    }
}

/// When a lease of this duration is due for renewal, counted from the last grant: after a third,
/// so that one renewal may fail, and no sooner than a slow request takes.
pub(crate) fn renewal_period(duration: Duration) -> Duration {
    const SLOW_REQUEST: Duration = Duration::from_secs(1);
    (duration / 3).max(SLOW_REQUEST)
}

/// What a lease needs for its requests.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) store: Arc<dyn LockStore>,
    pub(crate) clock: Clock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) terms: Arc<LeaseTerms>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) name: Arc<LockName>,
}

impl Desk {
    pub(crate) fn speaker(&self) -> Speaker<'_> {
        Speaker {
            key: &self.name.key,
            holder: &self.terms.holder,
        }
    }

    /// One put, sent now, that would hold until the span it returns ends.
    fn put(
        &self,
        draft: &ItemDraft<'_>,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<Sent, StoreError> {
        let sent = self.clock.now();
        // A wall clock that was set back must not end an item early that others go by.
        let at_least = draft.since.map_or(0.0, |span| span.store_time(sent));
        let began = self.shared.server_clock.at(sent).max(at_least);
        let from_now = (began + self.terms.duration.as_secs_f64()).floor();
        let expires_at = from_now.max(draft.not_before as f64);
        let item = LockItem {
            key: self.name.key.clone(),
            lock_id: draft.lock_id.to_owned(),
            expires_at: from_unix_seconds(expires_at as u64),
            holder: self.terms.holder.clone(),
            acquired_at: from_unix_seconds(draft.acquired_at.unwrap_or(began as u64)),
            committed: draft.committed,
            waited: draft.waited,
        };
        let asked = Instant::now();
        let answer = self.ask(|store| store.put(&item, condition, give_up_after))?;
        self.shared.answered_in(asked.elapsed());
        let received = self.clock.now();
        let (PutAnswer::Stored { date, .. } | PutAnswer::Refused { date, .. }) = &answer;
        let clock_error = (self.shared.server_clock).learn(began, sent, received, *date);
        let good_for = Duration::from_secs_f64((expires_at - began).max(0.0));
        let good_for = good_for.min(self.terms.duration);
        Ok(Sent {
            answer,
            span: Span {
                from: sent,
                began,
                good_for: good_for.saturating_sub(self.terms.safety_margin()),
            },
            item,
            round_trip: received.elapsed_since(sent),
            received,
            clock_was_wrong: clock_error > self.terms.safety_margin() / 4,
        })
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
}

/// The parts of an item that differ from put to put.
struct ItemDraft<'a> {
    lock_id: &'a str,
    /// `None` for the first put: now.
    acquired_at: Option<u64>,
    committed: Option<JournalId>,
    waited: Option<Duration>,
    /// The put before it, if its time can be relied on.
    since: Option<Span>,
    /// The end is not brought forward from here; epoch seconds.
    not_before: u64,
}

/// A put that was answered.
struct Sent {
    answer: PutAnswer,
    span: Span,
    item: LockItem,
    round_trip: Duration,
    received: Timestamp,
    /// The item's `expires_at` was computed from a clock that turned out to be off by too much.
    clock_was_wrong: bool,
}

impl Sent {
    /// Whether the item now stands with an `expires_at` that others must not go by.
    fn stored_a_wrong_end(&self) -> bool {
        matches!(self.answer, PutAnswer::Stored { .. }) && self.clock_was_wrong
    }
}

/// For how long a put is good, counted from before it was sent.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Timestamp,
    /// The store's time then, in seconds of the Unix epoch.
    began: f64,
    good_for: Duration,
}

impl Span {
    fn left(&self, now: Timestamp) -> Duration {
        self.good_for.saturating_sub(now.elapsed_since(self.from))
    }

    /// The store's time now at least: by the clock that is never set.
    fn store_time(&self, now: Timestamp) -> f64 {
        let passed = now.monotonic.saturating_sub(self.from.monotonic);
        self.began + passed.as_secs_f64()
    }
}

/// A write lease, from its grant to its release.
///
/// Dropping it releases it, as far as that is possible, in at most about a second;
/// [`release`](Self::release) does the same and tells of a failure.
#[derive(Debug)]
pub struct Lease {
    held: Arc<Held>,
    /// Kept until the item is gone, so that the next in this process is not refused by it.
    turn: Option<Turn>,
}

/// What the holder and the renewing thread share.
#[derive(Debug)]
pub(crate) struct Held {
    span: LockSpan,
    desk: Desk,
    lock_id: String,
    acquired_at: u64,
    /// What the item tells of the wait for the lease.
    waited: Option<Duration>,
    begun: Timestamp,
    /// When the store granted it, to whichever connection of this process.
    granted: Timestamp,
    state: Mutex<State>,
    /// One request at a time: an answer must not speak of a state that another one has changed.
    request: Mutex<()>,
}

#[derive(Debug, Clone)]
struct State {
    span: Span,
    /// The latest end that we have asked for: `expires_at` of the item, or of one on its way.
    end: u64,
    /// The commit record in the item.
    recorded: Option<JournalId>,
    at_release: AtRelease,
    lost: Option<String>,
    released: bool,
}

/// The end of a journal is recorded: the transaction is finished, whoever removes the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// The lease is still good: the journal is ours to remove.
    InTime,
    /// The lease has ended meanwhile: what stands there may be our successor's journal.
    TooLate,
}

/// What becomes of the item when the lease is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtRelease {
    /// It is removed.
    Remove,
    /// It stays, expired: the journal that its record speaks of may still stand.
    Retire,
    /// It stays as it is: nobody knows whether the last record was written.
    Leave,
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenBack {
    Ours,
    /// The item was gone already, or another's.
    NotOurs,
}

/// Why the end of a journal was not confirmed.
#[derive(Debug)]
pub(crate) enum Unconfirmed {
    /// Not recorded, and never will be: the lease is lost or the store refused to serve us.
    Refused(LockError),
    /// It may be recorded.
    Unknown(String),
}

impl Lease {
    /// How often a failing release is tried again.
    const RELEASE_ATTEMPTS: u32 = 3;
    /// The longest that one attempt at a release may take.
    const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

    /// The value of `pk` that this lease locks.
    pub fn key(&self) -> &str {
        &self.held.desk.name.key
    }

    /// The item's `lock_id`.
    pub fn lock_id(&self) -> &str {
        &self.held.lock_id
    }

    /// For how much longer the lease is good without a renewal, by both clocks of this host, less
    /// the safety margin; zero once it is lost.
    ///
    /// The margin is a quarter of the lease, at most 2 s: it keeps a holder from acting while
    /// others may already take over.
    pub fn remaining(&self) -> Duration {
        self.held.remaining()
    }

    /// Whether the lease is good now. Once false it stays false.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Extends the lease by its full duration from now.
    ///
    /// The client does this by itself for leases that are held longer than a third of their
    /// duration, up to the client's longest hold.
    ///
    /// # Errors
    /// [`LockError::LeaseLost`] if it has ended or belongs to somebody else; it cannot be renewed
    /// then. [`LockError::Store`] if the store failed: nothing was extended, trying again is safe.
    pub fn renew(&self) -> Result<(), LockError> {
        let _one_at_a_time = self.held.one_request();
        self.held.renew()
    }

    /// Ends the lease and removes its item, unless another connection of this process waits for it
    /// and gets it at once, together with the item.
    ///
    /// # Errors
    /// [`LockError::NotReleased`] if the item could not be removed, in three attempts where trying
    /// again may help: it then runs out by itself after at most the lease's duration. A lease that
    /// was lost before is released without an error.
    pub fn release(self) -> Result<(), LockError> {
        self.give_back().map(drop)
    }

    /// As [`release`](Self::release), and tells whether the item still was ours.
    pub(crate) fn give_back(self) -> Result<GivenBack, LockError> {
        match self.hand_on() {
            Ok(()) => Ok(GivenBack::Ours),
            Err(lease) => lease.send_back(),
        }
    }

    /// Why the lease is no longer good, if it is not.
    pub(crate) fn loss(&self) -> Option<LockError> {
        let mut state = self.held.state();
        self.held.check(&mut state).err()
    }

    /// Takes the lease for lost: something shows that somebody else holds it now, whatever the
    /// clocks say.
    pub(crate) fn forfeit(&self, reason: &str) {
        let mut state = self.held.state();
        self.held.lose(&mut state, reason);
    }

    /// The commit record that was found in the item that we took over, or that we have written.
    pub(crate) fn recorded(&self) -> Option<JournalId> {
        self.held.state().recorded
    }

    /// The journal that the record speaks of is gone: the item is no longer needed.
    pub(crate) fn record_settled(&self) {
        self.held.state().at_release = AtRelease::Remove;
    }

    /// Records in the item that the transaction with this journal is finished, and renews the
    /// lease with the same request. Asks again where an answer is lost, until the lease ends.
    pub(crate) fn confirm(&self, journal: Option<JournalId>) -> Result<Confirmed, Unconfirmed> {
        let _one_at_a_time = self.held.one_request();
        self.held.confirm(journal)
    }

    /// Ends the lease at the store, whoever waits in this process: what ended a while ago may be
    /// lost by now, unnoticed where clocks stood still.
    pub(crate) fn send_back(mut self) -> Result<GivenBack, LockError> {
        let result = self.held.release();
        self.turn = None;
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.held.state().released {
            let lease = Self {
                held: self.held.clone(),
                turn: self.turn.take(),
            };
            // The failure is reported as an event; the lease runs out by itself.
            let _ = lease.give_back();
        }
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_request(&self) -> MutexGuard<'_, ()> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remaining(&self) -> Duration {
        let mut state = self.state();
        match self.check(&mut state) {
            Ok(()) => state.span.left(self.desk.clock.now()),
            Err(_) => Duration::ZERO,
        }
    }

    /// Whether the lease is good now; if it is not, this latches.
    fn check(&self, state: &mut State) -> Result<(), LockError> {
        if state.lost.is_none() && state.span.left(self.desk.clock.now()).is_zero() {
            self.lose(
                state,
                "it was not renewed in time (a frozen, stopped or overloaded process, or a store out of reach)",
            );
        }
        match &state.lost {
            None => Ok(()),
            Some(reason) => Err(LockError::LeaseLost {
                lock: self.desk.name.clone(),
                reason: reason.clone(),
            }),
        }
    }

    fn lose(&self, state: &mut State, reason: &str) {
        if state.lost.is_none() && !state.released {
            state.lost = Some(reason.to_owned());
            self.desk.counters.count(|stats| stats.losses += 1);
            let held = self.desk.clock.now().elapsed_since(self.begun);
            (self.span).in_scope(|| self.desk.speaker().lost(held, reason));
        }
    }

    /// Somebody else's item stands where ours did.
    fn lose_to(&self, state: &mut State, current: Option<&StoredItem>) {
        let reason = match current {
            Some(item) => format!("it was taken over by {}", HolderInfo::from(item)),
            None => "its item is gone".to_owned(),
        };
        self.lose(state, &reason);
    }

    fn put_again(
        &self,
        recorded: Option<JournalId>,
        committed: Option<JournalId>,
        since: Option<Span>,
        give_up_after: Duration,
    ) -> Result<Sent, StoreError> {
        let draft = ItemDraft {
            lock_id: &self.lock_id,
            acquired_at: Some(self.acquired_at),
            committed,
            waited: self.waited,
            since,
            not_before: self.state().end,
        };
        let sent = (self.desk).put(&draft, PutCondition::Ours { recorded }, give_up_after)?;
        if sent.stored_a_wrong_end() {
            return self.put_right(&sent.item, committed, give_up_after);
        }
        let mut state = self.state();
        state.end = state.end.max(unix_seconds(sent.item.expires_at));
        Ok(sent)
    }

    /// Replaces the item that we have just written by one with the right time: the answer has told
    /// it. Others judge by the item, so the lease must not rest on the wrong one.
    fn put_right(
        &self,
        written: &LockItem,
        committed: Option<JournalId>,
        give_up_after: Duration,
    ) -> Result<Sent, StoreError> {
        /// One suffices, unless an answer's date was wrong.
        const MOST_ATTEMPTS: u32 = 3;
        let mut sent = self.replace(written, committed, give_up_after)?;
        for _ in 1..MOST_ATTEMPTS {
            if sent.stored_a_wrong_end() {
                sent = self.replace(&sent.item, committed, give_up_after)?;
            }
        }
        if sent.stored_a_wrong_end() {
            let reason = "the dates of the lock table's answers contradict each other";
            self.lose(&mut self.state(), reason);
        }
        Ok(sent)
    }

    /// Replaces an item of ours, named by what it holds, by one that ends by the clock as it is
    /// known now.
    fn replace(
        &self,
        written: &LockItem,
        committed: Option<JournalId>,
        give_up_after: Duration,
    ) -> Result<Sent, StoreError> {
        let draft = ItemDraft {
            lock_id: &self.lock_id,
            acquired_at: Some(self.acquired_at),
            committed,
            waited: self.waited,
            since: None,
            not_before: 0,
        };
        let written = StoredItem::from(written);
        let sent = (self.desk).put(&draft, PutCondition::Unchanged(&written), give_up_after)?;
        self.state().end = unix_seconds(sent.item.expires_at);
        Ok(sent)
    }

    /// Writes the item once more, with the right time and record: what others see as its end must be
    /// right by the store's clock before it is relied on.
    ///
    /// Needs the right to make a request ([`one_request`](Self::one_request)).
    fn correct(
        &self,
        written: &LockItem,
        recorded: Option<JournalId>,
        give_up_after: Duration,
    ) -> Result<(), StoreError> {
        let sent = self.put_right(written, recorded, give_up_after)?;
        let mut state = self.state();
        match sent.answer {
            PutAnswer::Stored { .. } => state.span = sent.span,
            PutAnswer::Refused { ref current, .. } => self.lose_to(&mut state, current.as_ref()),
        }
        Ok(())
    }

    /// Needs the right to make a request ([`one_request`](Self::one_request)).
    fn renew(&self) -> Result<(), LockError> {
        let (recorded, span) = {
            let mut state = self.state();
            if state.released {
                // The keeper came too late: an item that was left for its record must stay expired.
                return Ok(());
            }
            self.check(&mut state)?;
            (state.recorded, state.span)
        };
        let left = span.left(self.desk.clock.now());
        let sent = match self.put_again(recorded, recorded, Some(span), left) {
            Ok(sent) => sent,
            Err(source) => {
                (self.span).in_scope(|| self.desk.speaker().renewal_failed(&source.to_string()));
                return Err(self.desk.store_error(source));
            }
        };
        let mut state = self.state();
        match &sent.answer {
            PutAnswer::Refused { current, .. } => self.lose_to(&mut state, current.as_ref()),
            PutAnswer::Stored { .. } => {
                // An answer that came after the lease had ended extends nothing.
                self.check(&mut state)?;
                state.span = sent.span;
                self.desk.counters.count(|stats| stats.renewals += 1);
                let held = self.desk.clock.now().elapsed_since(self.begun);
                (self.span).in_scope(|| self.desk.speaker().renewed(held));
            }
        }
        self.check(&mut state)
    }

    /// Needs the right to make a request ([`one_request`](Self::one_request)).
    fn confirm(&self, journal: Option<JournalId>) -> Result<Confirmed, Unconfirmed> {
        /// The pause before asking again; a lost answer costs a timeout, this adds little.
        const PAUSE: Duration = Duration::from_millis(20);
        let started = self.desk.clock.now();
        let recorded = {
            let mut state = self.state();
            self.check(&mut state).map_err(Unconfirmed::Refused)?;
            state.recorded
        };
        let committed = journal.or(recorded);
        let mut maybe_recorded = false;
        loop {
            let left = self.remaining();
            let since = Some(self.state().span);
            let failure = match self.put_again(recorded, committed, since, left) {
                Ok(Sent {
                    answer: PutAnswer::Stored { .. },
                    span,
                    ..
                }) => {
                    let mut state = self.state();
                    state.span = span;
                    state.recorded = committed;
                    if journal.is_some() {
                        state.at_release = AtRelease::Retire;
                    }
                    self.desk.counters.count(|stats| stats.confirmations += 1);
                    let took = self.desk.clock.now().elapsed_since(started);
                    (self.span).in_scope(|| self.desk.speaker().confirmed(took));
                    return Ok(match self.check(&mut state) {
                        Ok(()) => Confirmed::InTime,
                        Err(_) => Confirmed::TooLate,
                    });
                }
                Ok(Sent {
                    answer: PutAnswer::Refused { current, .. },
                    ..
                }) => {
                    let mut state = self.state();
                    self.lose_to(&mut state, current.as_ref());
                    return Err(match self.check(&mut state) {
                        Err(lost) if !maybe_recorded => Unconfirmed::Refused(lost),
                        // An earlier request may have been recorded before somebody took over;
                        // that successor then treats the journal as finished.
                        _ => Unconfirmed::Unknown(
                            "the answer to the commit request was lost, and the lease was taken over since".to_owned(),
                        ),
                    });
                }
                Err(failure) => failure,
            };
            maybe_recorded |= failure.outcome_unknown();
            let worth_asking =
                failure.is_transient() || matches!(failure, StoreError::Unreachable { .. });
            if !worth_asking || self.remaining() <= PAUSE {
                let mut state = self.state();
                self.lose(&mut state, &format!("the store did not confirm: {failure}"));
                if maybe_recorded {
                    state.at_release = AtRelease::Leave;
                    return Err(Unconfirmed::Unknown(failure.to_string()));
                }
                return Err(Unconfirmed::Refused(self.desk.store_error(failure)));
            }
            thread::sleep(PAUSE);
        }
    }

    fn release(&self) -> Result<GivenBack, LockError> {
        let _one_at_a_time = self.one_request();
        let (recorded, at_release) = {
            let mut state = self.state();
            if std::mem::replace(&mut state.released, true) {
                return Ok(GivenBack::Ours);
            }
            (state.recorded, state.at_release)
        };
        let held = self.desk.clock.now().elapsed_since(self.begun);
        self.desk.counters.count(|stats| stats.held += held);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = match at_release {
                AtRelease::Remove => self.remove(),
                AtRelease::Retire => self.retire(recorded),
                AtRelease::Leave => Ok(GivenBack::Ours),
            };
            match result {
                Ok(given_back) => {
                    (self.span).in_scope(|| self.desk.speaker().released(held));
                    return Ok(given_back);
                }
                Err(error) if attempt < Lease::RELEASE_ATTEMPTS && error.is_transient() => {}
                Err(source) => {
                    (self.span).in_scope(|| {
                        self.desk.speaker().release_failed(&source.to_string());
                    });
                    return Err(LockError::NotReleased {
                        lock: self.desk.name.clone(),
                        source,
                    });
                }
            }
        }
    }

    /// Removes the item, if it is still ours.
    fn remove(&self) -> Result<GivenBack, StoreError> {
        let answer = self.desk.remove(&self.lock_id)?;
        Ok(match answer {
            DeleteAnswer::Deleted => GivenBack::Ours,
            DeleteAnswer::NotOurs => GivenBack::NotOurs,
        })
    }

    /// Leaves the item behind, expired, for the record that our successor needs.
    fn retire(&self, recorded: Option<JournalId>) -> Result<GivenBack, StoreError> {
        let answer = (self.desk).retire(&self.lock_id, self.acquired_at, recorded)?;
        Ok(match answer {
            PutAnswer::Stored { .. } => GivenBack::Ours,
            // A successor has taken over the record with the item.
            PutAnswer::Refused { .. } => GivenBack::NotOurs,
        })
    }
}

impl Desk {
    /// Puts an item of ours that has ended and lasts.
    fn retire(
        &self,
        lock_id: &str,
        acquired_at: u64,
        recorded: Option<JournalId>,
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
            committed: recorded,
            // Nobody is in the way of the next.
            waited: None,
        };
        self.ask(|store| store.put(&item, PutCondition::Ended, Lease::RELEASE_TIMEOUT))
    }

    /// Removes the item, if it bears this `lock_id`.
    fn remove(&self, lock_id: &str) -> Result<DeleteAnswer, StoreError> {
        self.ask(|store| store.delete(&self.name.key, lock_id, Lease::RELEASE_TIMEOUT))
    }

    pub(crate) fn store_error(&self, source: StoreError) -> LockError {
        LockError::Store {
            lock: self.name.clone(),
            source,
        }
    }
}
