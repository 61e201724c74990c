//! A lease in hand: renewed, confirmed at commit, handed off or released.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::local_queue;
use super::phase::{AtRelease, LeaseState, Loss, Validity};
use super::requests::{ItemDraft, LeaseContext, PutOutcome, RequestSlot, SlotGuard};
use crate::clock::{Timestamp, unix_seconds};
use crate::error::{HolderInfo, LockError, StoreError};
use crate::events::LockSpan;
use crate::store::{DeleteAnswer, JournalId, LockItem, PutAnswer, PutCondition, StoredItem};

/// A write lease: while it is valid, no other process holds the lock.
///
/// [`LockClient`](crate::LockClient) grants it, and renews it in the background while it is held.
/// Dropping it releases it, as far as that is possible, within about a second and a half;
/// [`release`](Self::release) does the same and reports a failure.
///
/// A lease can end before it is released: the process was frozen, or the store could not be reached
/// for too long. It never becomes valid again then. So check it right before each step that nobody
/// else may do at the same time:
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
/// # let store = Arc::new(InMemoryLockStore::new());
/// # let client = LockClient::builder().lock_store(store).build()?;
/// let lease = client.acquire("nightly-report", Duration::from_secs(3))?;
/// for part in ["sales", "stock"] {
///     if !lease.is_valid() {
///         return Err("another process may have taken over".into());
///     }
///     println!("{part}: no other process is doing this");
/// }
/// lease.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a lease is released as soon as it is dropped"]
pub struct Lease {
    inner: Arc<LeaseInner>,
    /// Kept until the item is gone, so that the next in this process is not refused by it. `None`
    /// once the lease is released or handed off.
    turn: Option<Turn>,
    /// What all users of the store share, its renewing thread above all: it goes on when the last
    /// client is gone.
    _shared: Arc<dyn Any + Send + Sync>,
}

/// Those who wait in this process for one key; a lease may be handed off to the next of them.
pub(crate) type LocalQueue = local_queue::LocalQueue<Arc<LeaseInner>>;
pub(crate) type Turn = local_queue::Turn<Arc<LeaseInner>>;

/// What the holder and the renewing thread share.
#[derive(Debug)]
pub(crate) struct LeaseInner {
    span: LockSpan,
    context: LeaseContext,
    lock_id: String,
    acquired_at: u64,
    /// What the item tells of the wait for the lease.
    waited: Option<Duration>,
    begun: Timestamp,
    /// When the store granted it, to whichever connection of this process.
    granted: Timestamp,
    /// Not locked while the store is asked.
    state: Mutex<LeaseState>,
    slot: RequestSlot,
}

/// The end of a journal is recorded: the transaction is finished, whoever removes the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// The lease is still good: the journal is ours to remove.
    InTime,
    /// The lease has ended meanwhile: a journal beside the database may be our successor's.
    TooLate,
}

/// Why the end of a journal was not confirmed.
#[derive(Debug)]
pub(crate) enum Unconfirmed {
    /// Not recorded, and never will be: the lease is lost or the store refused to serve us.
    Refused(LockError),
    /// It may be recorded.
    Unknown(String),
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseOutcome {
    Ours,
    /// The item was gone already, or another's.
    NotOurs,
}

impl Lease {
    pub(crate) fn new(
        inner: Arc<LeaseInner>,
        turn: Turn,
        shared: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            inner,
            turn: Some(turn),
            _shared: shared,
        }
    }

    pub(crate) fn inner(&self) -> &Arc<LeaseInner> {
        &self.inner
    }

    /// The key that is locked: the value of `pk` in the lock table.
    pub fn key(&self) -> &str {
        &self.inner.context.name.key
    }

    /// The item's `lock_id`: a UUID that no other lease has had, but those that were handed off
    /// inside this process without a request.
    pub fn lock_id(&self) -> &str {
        &self.inner.lock_id
    }

    /// For how much longer the lease is valid without a renewal, by both clocks of this host, less
    /// a safety margin; zero once it is lost.
    ///
    /// The margin is a quarter of the lease, at most 2 s: it keeps a holder from acting while
    /// others may already take over.
    pub fn remaining(&self) -> Duration {
        self.inner.remaining()
    }

    /// Whether the lease is valid now. Once false it stays false.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Extends the lease to its full length from now, by one request.
    ///
    /// There is rarely a need to: the client renews leases in the background, after a third of their
    /// length but not before a second, until they are released or
    /// [`lock_max_hold`](crate::LockClientBuilder::lock_max_hold) has passed. A renewal makes sure,
    /// now, that nobody has taken over.
    ///
    /// # Errors
    /// [`LockError::LeaseLost`] if the lease has ended or belongs to another process: it cannot be
    /// renewed any more. [`LockError::Store`] if the store failed: nothing was extended, and trying
    /// again is safe.
    pub fn renew(&self) -> Result<(), LockError> {
        self.inner.renew(&self.inner.slot.take())
    }

    /// Ends the lease and removes its item. If another thread of this process waits for the same
    /// key, it may get the lease instead, together with the item.
    ///
    /// # Errors
    /// [`LockError::NotReleased`] if the item could not be removed, in up to three attempts of half
    /// a second each: it then blocks others until it expires. Nothing can be tried again. No error
    /// if the lease was lost before.
    pub fn release(self) -> Result<(), LockError> {
        self.release_with_outcome().map(drop)
    }

    /// As [`release`](Self::release), and says whether the item still was ours.
    pub(crate) fn release_with_outcome(mut self) -> Result<ReleaseOutcome, LockError> {
        self.end()
    }

    fn end(&mut self) -> Result<ReleaseOutcome, LockError> {
        if self.hand_off() {
            return Ok(ReleaseOutcome::Ours);
        }
        let result = self.inner.release_to_store();
        self.turn = None;
        result
    }

    /// Hands the lease off to the next in this process's queue. False if nobody waits there, or if
    /// it has to be released to the store.
    ///
    /// No request is made: `lock_id` and commit record stay, and the next goes on as a second
    /// transaction under one lease does.
    pub(super) fn hand_off(&mut self) -> bool {
        let may_stay = self.inner.may_be_handed_off();
        let Some(turn) = self.turn.take_if(|_| may_stay) else {
            return false;
        };
        match turn.hand_off(self.inner.clone()) {
            Ok(()) => true,
            Err((turn, _)) => {
                self.turn = Some(turn);
                false
            }
        }
    }

    /// Why the lease is no longer valid, if it is not.
    pub(crate) fn loss(&self) -> Option<LockError> {
        self.inner.check(&mut self.inner.state()).err()
    }

    /// Takes the lease for lost, whatever the clocks show: something shows that another process
    /// holds it now.
    pub(crate) fn invalidate(&self, reason: &str) {
        let loss = Loss::Invalidated(reason.to_owned());
        self.inner.lose(&mut self.inner.state(), loss);
    }

    /// The commit record that was found in the item that we took over, or that we have written.
    pub(crate) fn recorded(&self) -> Option<JournalId> {
        self.inner.state().record()
    }

    /// The journal that the record names is gone: the item is no longer needed.
    pub(crate) fn record_settled(&self) {
        self.inner.state().record_settled();
    }

    /// Records in the item that the transaction with this journal is finished, and renews the
    /// lease with the same request. Asks again where an answer is lost, until the lease ends.
    pub(crate) fn confirm(&self, journal: Option<JournalId>) -> Result<Confirmed, Unconfirmed> {
        self.inner.confirm(journal, &self.inner.slot.take())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.turn.is_some() {
            // A failure is reported as an event; the lease expires by itself.
            let _ = self.end();
        }
    }
}

/// How a lease begins, and goes on in this process.
impl LeaseInner {
    /// How long leases are handed off inside this process before others may have theirs.
    ///
    /// Long against the two round trips at either end, which are all that it saves; short against
    /// the 10 s that a writer waits by default, where several processes do the same.
    pub(super) const LONGEST_ROUND: Duration = Duration::from_millis(100);

    /// A lease that was granted by a put, with the commit record of the item that it replaced.
    pub(crate) fn granted(
        context: LeaseContext,
        caller: &LockSpan,
        outcome: &PutOutcome,
        record: Option<JournalId>,
    ) -> Self {
        let PutOutcome { item, validity, .. } = outcome;
        Self {
            span: context.events().held_span(caller),
            context,
            lock_id: item.lock_id.clone(),
            acquired_at: unix_seconds(item.acquired_at),
            waited: item.waited,
            begun: validity.from,
            granted: validity.from,
            state: Mutex::new(LeaseState::granted(
                *validity,
                unix_seconds(item.expires_at),
                record,
            )),
            slot: RequestSlot::default(),
        }
    }

    /// The same lease for its next holder in this process; it ends for the one before.
    pub(crate) fn handed_off(before: &Self, context: LeaseContext, caller: &LockSpan) -> Self {
        Self {
            span: context.events().held_span(caller),
            lock_id: before.lock_id.clone(),
            acquired_at: before.acquired_at,
            waited: before.waited,
            begun: context.clock.now(),
            granted: before.granted,
            state: Mutex::new(before.end_here()),
            slot: RequestSlot::default(),
            context,
        }
    }

    /// Whether another clock shows the same time, so that it can tell when this lease ends.
    pub(crate) fn has_clock_of(&self, context: &LeaseContext) -> bool {
        self.context.clock.is_same(&context.clock)
    }

    /// The events of `f` belong to the lease's span.
    pub(crate) fn in_span<T>(&self, f: impl FnOnce() -> T) -> T {
        self.span.in_scope(f)
    }

    /// Whether the lease may go on in this process: it is valid, nothing of its last transaction is
    /// left to be settled, and others need not wait for too long.
    fn may_be_handed_off(&self) -> bool {
        let mut state = self.state();
        state.may_be_handed_off()
            && self.context.clock.now().elapsed_since(self.granted) < Self::LONGEST_ROUND
            && self.check(&mut state).is_ok()
    }

    /// Ends the lease for this holder: it goes on with the next, in the state returned.
    fn end_here(&self) -> LeaseState {
        // A renewal under way changes it.
        let _slot = self.slot.take();
        let handed_off = self.state().hand_off();
        let held = self.count_held();
        self.in_span(|| self.context.events().handed_off(held));
        handed_off
    }
}

/// Whether it is good.
impl LeaseInner {
    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remaining(&self) -> Duration {
        let mut state = self.state();
        match self.check(&mut state) {
            Ok(()) => state.validity().left(self.context.clock.now()),
            Err(_) => Duration::ZERO,
        }
    }

    /// Whether the lease is valid now; if it is not, this latches.
    fn check(&self, state: &mut LeaseState) -> Result<(), LockError> {
        if state.expire(self.context.clock.now()) {
            self.report_loss(state);
        }
        match state.loss() {
            None => Ok(()),
            Some(loss) => Err(LockError::LeaseLost {
                lock: self.context.name.clone(),
                reason: loss.to_string(),
            }),
        }
    }

    fn lose(&self, state: &mut LeaseState, loss: Loss) {
        if state.lose(loss) {
            self.report_loss(state);
        }
    }

    /// A put was refused: the table has another item than ours, or none.
    fn lost_to_successor(&self, state: &mut LeaseState, current: Option<&StoredItem>) {
        let loss = current.map_or(Loss::ItemGone, |item| {
            Loss::TakenOver(HolderInfo::from(item))
        });
        self.lose(state, loss);
    }

    fn report_loss(&self, state: &LeaseState) {
        let reason = state.loss().map(ToString::to_string).unwrap_or_default();
        self.context.counters.count(|stats| stats.losses += 1);
        self.in_span(|| self.context.events().lost(self.held_for(), &reason));
    }

    fn held_for(&self) -> Duration {
        self.context.clock.now().elapsed_since(self.begun)
    }

    /// At the end of the lease, however it ends.
    fn count_held(&self) -> Duration {
        let held = self.held_for();
        self.context.counters.count(|stats| stats.held += held);
        held
    }

    /// In what time the lease is to be renewed; `None` if it never will be.
    pub(crate) fn next_renewal(&self) -> Option<Duration> {
        let now = self.context.clock.now();
        let terms = &self.context.terms;
        if now.elapsed_since(self.begun) >= terms.max_hold {
            return None;
        }
        self.state().renewal_due_in(now, terms.renewal_period())
    }
}

/// Its requests, which need the slot.
impl LeaseInner {
    /// Renews, unless another request of the lease is under way: that one extends it as well.
    /// Whether it was renewed.
    pub(crate) fn renew_if_free(&self) -> bool {
        (self.slot.try_take()).is_some_and(|slot| self.renew(&slot).is_ok())
    }

    fn renew(&self, slot: &SlotGuard<'_>) -> Result<(), LockError> {
        let (record, validity) = {
            let mut state = self.state();
            if state.is_released() {
                // The renewer came too late: a tombstone must stay expired.
                return Ok(());
            }
            self.check(&mut state)?;
            (state.record(), state.validity())
        };
        let left = validity.left(self.context.clock.now());
        let outcome = match self.put_again(record, record, validity, left, slot) {
            Ok(outcome) => outcome,
            Err(source) => {
                self.in_span(|| self.context.events().renewal_failed(&source.to_string()));
                return Err(self.context.store_error(source));
            }
        };
        let mut state = self.state();
        match &outcome.answer {
            PutAnswer::Refused { current, .. } => {
                self.lost_to_successor(&mut state, current.as_ref());
            }
            PutAnswer::Stored { .. } => {
                // An answer that came after the lease had ended extends nothing.
                self.check(&mut state)?;
                state.renewed(outcome.validity);
                self.context.counters.count(|stats| stats.renewals += 1);
                self.in_span(|| self.context.events().renewed(self.held_for()));
            }
        }
        self.check(&mut state)
    }

    fn confirm(
        &self,
        journal: Option<JournalId>,
        slot: &SlotGuard<'_>,
    ) -> Result<Confirmed, Unconfirmed> {
        /// The pause before asking again; a lost answer costs a timeout, this adds little.
        const PAUSE: Duration = Duration::from_millis(20);
        let started = self.context.clock.now();
        let recorded = {
            let mut state = self.state();
            self.check(&mut state).map_err(Unconfirmed::Refused)?;
            state.record()
        };
        let committed = journal.or(recorded);
        let mut maybe_recorded = false;
        loop {
            let left = self.remaining();
            let since = self.state().validity();
            let failure = match self.put_again(recorded, committed, since, left, slot) {
                Ok(PutOutcome {
                    answer: PutAnswer::Stored { .. },
                    validity,
                    ..
                }) => {
                    let mut state = self.state();
                    state.confirmed(validity, journal);
                    self.context
                        .counters
                        .count(|stats| stats.confirmations += 1);
                    let took = self.context.clock.now().elapsed_since(started);
                    self.in_span(|| self.context.events().confirmed(took));
                    return Ok(match self.check(&mut state) {
                        Ok(()) => Confirmed::InTime,
                        Err(_) => Confirmed::TooLate,
                    });
                }
                Ok(PutOutcome {
                    answer: PutAnswer::Refused { current, .. },
                    ..
                }) => {
                    let mut state = self.state();
                    self.lost_to_successor(&mut state, current.as_ref());
                    return Err(match self.check(&mut state) {
                        Err(lost) if !maybe_recorded => Unconfirmed::Refused(lost),
                        // An earlier request may have been recorded before the successor took over,
                        // who then treats the journal as finished.
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
                self.lose(&mut state, Loss::NotConfirmed(failure.to_string()));
                if maybe_recorded {
                    state.record_unknown();
                    return Err(Unconfirmed::Unknown(failure.to_string()));
                }
                return Err(Unconfirmed::Refused(self.context.store_error(failure)));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends the lease at the store, whoever waits in this process.
    pub(crate) fn release_to_store(&self) -> Result<ReleaseOutcome, LockError> {
        /// How often a release is tried, where trying again may help.
        const ATTEMPTS: u32 = 3;
        let _slot = self.slot.take();
        let Some(at_release) = self.state().release() else {
            return Ok(ReleaseOutcome::Ours);
        };
        let held = self.count_held();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.end_item(at_release) {
                Ok(outcome) => {
                    self.in_span(|| self.context.events().released(held));
                    return Ok(outcome);
                }
                Err(error) if attempt < ATTEMPTS && error.is_transient() => {}
                Err(source) => {
                    self.in_span(|| self.context.events().release_failed(&source.to_string()));
                    return Err(LockError::NotReleased {
                        lock: self.context.name.clone(),
                        source,
                    });
                }
            }
        }
    }

    fn end_item(&self, at_release: AtRelease) -> Result<ReleaseOutcome, StoreError> {
        let is_ours = match at_release {
            AtRelease::Delete => {
                let answer = self.context.delete(&self.lock_id)?;
                answer == DeleteAnswer::Deleted
            }
            AtRelease::Tombstone(record) => {
                let context = &self.context;
                let answer = context.put_tombstone(&self.lock_id, self.acquired_at, record)?;
                // A successor has taken over the record with the item.
                matches!(answer, PutAnswer::Stored { .. })
            }
            AtRelease::Leave => true,
        };
        Ok(match is_ours {
            true => ReleaseOutcome::Ours,
            false => ReleaseOutcome::NotOurs,
        })
    }

    fn put_again(
        &self,
        recorded: Option<JournalId>,
        committed: Option<JournalId>,
        since: Validity,
        give_up_after: Duration,
        slot: &SlotGuard<'_>,
    ) -> Result<PutOutcome, StoreError> {
        let draft = ItemDraft {
            since: Some(since),
            not_before: self.state().latest_end(),
            ..self.draft(committed)
        };
        let condition = PutCondition::Ours { recorded };
        let outcome = self.context.put(&draft, condition, give_up_after)?;
        if outcome.stored_a_wrong_end() {
            return self.correct_end(&outcome.item, committed, give_up_after, slot);
        }
        self.state()
            .asked_until(unix_seconds(outcome.item.expires_at));
        Ok(outcome)
    }

    /// Writes the granting item once more, with the right end and record: others judge by its end,
    /// so it must be right by the store's clock before the lease is relied on.
    pub(crate) fn correct(
        &self,
        written: &LockItem,
        record: Option<JournalId>,
        give_up_after: Duration,
    ) -> Result<(), StoreError> {
        let outcome = self.correct_end(written, record, give_up_after, &self.slot.take())?;
        let mut state = self.state();
        match &outcome.answer {
            PutAnswer::Stored { .. } => state.renewed(outcome.validity),
            PutAnswer::Refused { current, .. } => {
                self.lost_to_successor(&mut state, current.as_ref());
            }
        }
        Ok(())
    }

    /// Replaces the item that we have just written by one with the right end, which the answer has
    /// shown.
    fn correct_end(
        &self,
        written: &LockItem,
        committed: Option<JournalId>,
        give_up_after: Duration,
        _: &SlotGuard<'_>,
    ) -> Result<PutOutcome, StoreError> {
        /// One suffices, unless an answer's date was wrong.
        const MOST_ATTEMPTS: u32 = 3;
        let mut outcome = self.replace(written, committed, give_up_after)?;
        for _ in 1..MOST_ATTEMPTS {
            if outcome.stored_a_wrong_end() {
                outcome = self.replace(&outcome.item, committed, give_up_after)?;
            }
        }
        if outcome.stored_a_wrong_end() {
            self.lose(&mut self.state(), Loss::ContradictoryDates);
        }
        Ok(outcome)
    }

    /// Replaces an item of ours, named by its attributes, by one that ends by the clock as it is
    /// known now.
    fn replace(
        &self,
        written: &LockItem,
        committed: Option<JournalId>,
        give_up_after: Duration,
    ) -> Result<PutOutcome, StoreError> {
        let written = StoredItem::from(written);
        let condition = PutCondition::Unchanged(&written);
        let outcome = (self.context).put(&self.draft(committed), condition, give_up_after)?;
        self.state()
            .end_corrected(unix_seconds(outcome.item.expires_at));
        Ok(outcome)
    }

    fn draft(&self, committed: Option<JournalId>) -> ItemDraft<'_> {
        ItemDraft {
            lock_id: &self.lock_id,
            acquired_at: Some(self.acquired_at),
            committed,
            waited: self.waited,
            since: None,
            not_before: 0,
        }
    }
}
