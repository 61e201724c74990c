//! A lease in hand: renewed, confirmed at commit, handed off or released.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::local_queue;
use super::phase::{AtRelease, LeaseState, Loss, Validity};
use super::requests::{ItemDraft, ItemEnd, LeaseContext, PutOutcome, RequestSlot, SlotGuard};
use crate::clock::{FOREVER, Timestamp, unix_seconds};
use crate::error::{HolderInfo, LockError, StoreError};
use crate::store::{DeleteAnswer, JournalId, PutAnswer, PutCondition, StoredItem};
use crate::telemetry::events::LockSpan;

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

/// An item of ours that was stored, once its end and record are right or cannot be put right.
#[derive(Debug)]
pub(crate) enum Settled {
    /// It is right, or at most ends later than it should.
    Good(Validity),
    /// It ends too soon for its holder to work with, or lacks its record.
    Failed {
        /// For how long it is good nevertheless.
        validity: Validity,
        has_record: bool,
        failure: StoreError,
    },
    /// It is gone, or another's, by now.
    Lost(Option<StoredItem>),
}

/// What came of writing the item of a lease once more.
#[derive(Debug)]
enum Rewritten {
    Stored {
        validity: Validity,
        /// Why it ends too soon.
        flaw: Option<StoreError>,
    },
    /// The lease is lost.
    Refused,
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
    /// The margin is a quarter of the lease, at most 2 s (of leases over 2,000 s, a thousandth): it
    /// keeps a holder from acting while others may already take over. A store that dates its answers
    /// to the second leaves up to two more seconds open at first; each answer narrows them down.
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
        // Not with the slot taken: a subscriber that hears of a loss may ask for this.
        self.inner.check()?;
        self.inner.renew(self.inner.slot.take())
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
        self.inner.check().err()
    }

    /// Takes the lease for lost, whatever the clocks show: something shows that another process
    /// holds it now.
    pub(crate) fn invalidate(&self, reason: &str) {
        self.inner.lose(Loss::Invalidated(reason.to_owned()));
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
        let (item, validity) = (&outcome.item, outcome.validity);
        Self {
            span: context.events().held_span(caller),
            context,
            lock_id: item.lock_id.clone(),
            acquired_at: unix_seconds(item.acquired_at),
            waited: item.waited,
            begun: validity.from,
            granted: validity.from,
            state: Mutex::new(LeaseState::granted(
                validity,
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
        let may_stay = self.state().may_be_handed_off();
        may_stay
            && self.context.clock.now().elapsed_since(self.granted) < Self::LONGEST_ROUND
            && self.check().is_ok()
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

    /// Changes the state. A loss is reported once the state is unlocked: whoever hears of it may ask
    /// about the lease.
    fn update<T>(&self, change: impl FnOnce(&mut LeaseState) -> T) -> T {
        let mut state = self.state();
        let was_lost = state.loss().is_some();
        let result = change(&mut state);
        let news = (state.loss().filter(|_| !was_lost)).map(ToString::to_string);
        drop(state);
        if let Some(reason) = news {
            self.context.counters.count(|stats| stats.losses += 1);
            self.in_span(|| self.context.events().lost(self.held_for(), &reason));
        }
        result
    }

    pub(crate) fn remaining(&self) -> Duration {
        let now = self.context.clock.now();
        self.update(|state| {
            state.expire(now);
            match state.loss() {
                None => state.validity().left(now),
                Some(_) => Duration::ZERO,
            }
        })
    }

    /// Whether the lease is valid now; if it is not, this latches.
    fn check(&self) -> Result<(), LockError> {
        let now = self.context.clock.now();
        let loss = self.update(|state| {
            state.expire(now);
            state.loss().map(ToString::to_string)
        });
        loss.map_or(Ok(()), |reason| {
            Err(LockError::LeaseLost {
                lock: self.context.name.clone(),
                reason,
            })
        })
    }

    fn lose(&self, loss: Loss) {
        self.update(|state| state.lose(loss));
    }

    /// A put was refused: the table has another item than ours, or none.
    fn lost_to_successor(&self, current: Option<&StoredItem>) {
        self.lose(current.map_or(Loss::ItemGone, |item| {
            Loss::TakenOver(HolderInfo::from(item))
        }));
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
        (self.slot.try_take()).is_some_and(|slot| self.renew(slot).is_ok())
    }

    fn renew(&self, slot: SlotGuard<'_>) -> Result<(), LockError> {
        let (record, validity) = {
            let state = self.state();
            if state.is_released() {
                // The renewer came too late: a tombstone must stay expired.
                return Ok(());
            }
            (state.record(), state.validity())
        };
        self.check()?;
        let left = validity.left(self.context.clock.now());
        let failure = match self.put_again(record, record, validity, left, &slot) {
            Ok(Rewritten::Refused) => return self.check(),
            Ok(Rewritten::Stored { validity, flaw }) => {
                // An answer that came after the lease had ended extends nothing.
                self.check()?;
                self.update(|state| state.renewed(validity));
                flaw
            }
            Err(failure) => Some(failure),
        };
        drop(slot);
        if let Some(source) = failure {
            self.in_span(|| self.context.events().renewal_failed(&source.to_string()));
            return Err(self.context.store_error(source));
        }
        self.context.counters.count(|stats| stats.renewals += 1);
        self.in_span(|| self.context.events().renewed(self.held_for()));
        self.check()
    }

    fn confirm(
        &self,
        journal: Option<JournalId>,
        slot: &SlotGuard<'_>,
    ) -> Result<Confirmed, Unconfirmed> {
        /// The pause before asking again; a lost answer costs a timeout, this adds little.
        const PAUSE: Duration = Duration::from_millis(20);
        let started = self.context.clock.now();
        self.check().map_err(Unconfirmed::Refused)?;
        let recorded = self.state().record();
        let committed = journal.or(recorded);
        let mut maybe_recorded = false;
        loop {
            let left = self.remaining();
            let since = self.state().validity();
            let failure = match self.put_again(recorded, committed, since, left, slot) {
                // It is recorded, whatever became of the item's end.
                Ok(Rewritten::Stored { validity, .. }) => {
                    self.update(|state| state.confirmed(validity, journal));
                    self.context
                        .counters
                        .count(|stats| stats.confirmations += 1);
                    let took = self.context.clock.now().elapsed_since(started);
                    self.in_span(|| self.context.events().confirmed(took));
                    return Ok(match self.check() {
                        Ok(()) => Confirmed::InTime,
                        Err(_) => Confirmed::TooLate,
                    });
                }
                Ok(Rewritten::Refused) => {
                    return Err(match self.check() {
                        Err(lost) if !maybe_recorded => Unconfirmed::Refused(lost),
                        // An earlier request may have been recorded before the successor took over,
                        // who then treats the journal as finished.
                        _ => {
                            self.update(LeaseState::record_unknown);
                            Unconfirmed::Unknown(
                                "the answer to the commit request was lost, and the lease was taken over since".to_owned(),
                            )
                        }
                    });
                }
                Err(failure) => failure,
            };
            maybe_recorded |= failure.outcome_unknown();
            let worth_asking =
                failure.is_transient() || matches!(failure, StoreError::Unreachable { .. });
            if !worth_asking || self.remaining() <= PAUSE {
                if maybe_recorded {
                    self.update(LeaseState::record_unknown);
                }
                self.lose(Loss::NotConfirmed(failure.to_string()));
                return Err(match maybe_recorded {
                    true => Unconfirmed::Unknown(failure.to_string()),
                    false => Unconfirmed::Refused(self.context.store_error(failure)),
                });
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
                let answer = context.put_tombstone(
                    &self.lock_id,
                    self.acquired_at,
                    record,
                    PutCondition::Ended,
                )?;
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
    ) -> Result<Rewritten, StoreError> {
        let until = Instant::now() + give_up_after.min(FOREVER);
        let dated = self.context.date(&ItemDraft {
            since: Some(since),
            not_before: self.state().latest_end(),
            ..self.draft(committed)
        });
        let end = dated.end();
        let condition = PutCondition::Ours { recorded };
        let outcome =
            (self.context.put(dated, condition, give_up_after)).inspect_err(|failure| {
                if failure.outcome_unknown() {
                    self.state().asked_until(end);
                }
            })?;
        if let PutAnswer::Refused { current, .. } = &outcome.answer {
            self.lost_to_successor(current.as_ref());
            return Ok(Rewritten::Refused);
        }
        self.state().asked_until(end);
        let shown = outcome.validity;
        Ok(
            match self.put_right(outcome, committed, true, until, slot) {
                Settled::Good(validity) => Rewritten::Stored {
                    validity,
                    flaw: None,
                },
                Settled::Failed {
                    validity, failure, ..
                } => Rewritten::Stored {
                    validity,
                    flaw: Some(failure),
                },
                // What was stored before counts: it may have been the record of a commit.
                Settled::Lost(current) => {
                    self.lost_to_successor(current.as_ref());
                    Rewritten::Stored {
                        validity: shown,
                        flaw: None,
                    }
                }
            },
        )
    }

    /// Makes sure that the item that the lease was granted by has the right end and record. The
    /// lease does not exist before that.
    pub(crate) fn settle(
        &self,
        stored: PutOutcome,
        record: Option<JournalId>,
        give_up_after: Duration,
    ) -> Settled {
        let until = Instant::now() + give_up_after.min(FOREVER);
        let has_record = stored.item.committed == record;
        let settled = self.put_right(stored, record, has_record, until, &self.slot.take());
        if let Settled::Good(validity) = settled {
            self.update(|state| state.renewed(validity));
        }
        settled
    }

    /// The latest end that its item may have; epoch seconds.
    pub(crate) fn latest_end(&self) -> u64 {
        self.state().latest_end()
    }

    /// Replaces an item of ours that was just stored, if it has a wrong end by what its answer shows
    /// of the store's clock, or lacks its record.
    fn put_right(
        &self,
        mut stored: PutOutcome,
        committed: Option<JournalId>,
        mut has_record: bool,
        until: Instant,
        _: &SlotGuard<'_>,
    ) -> Settled {
        /// One suffices, unless an answer's date was wrong or a clock was set meanwhile.
        const MOST_ATTEMPTS: u32 = 3;
        for _ in 0..MOST_ATTEMPTS {
            if has_record && stored.end() == ItemEnd::Good {
                break;
            }
            let dated = self.context.date(&ItemDraft {
                not_before: self.context.full_end(),
                ..self.draft(committed)
            });
            let end = dated.end();
            let written = StoredItem::from(&stored.item);
            let left = until.saturating_duration_since(Instant::now());
            let condition = PutCondition::Unchanged(&written);
            let failure = match self.context.put(dated, condition, left) {
                Ok(outcome) if outcome.is_stored() => {
                    self.state().end_corrected(end);
                    has_record = true;
                    stored = outcome;
                    continue;
                }
                Ok(outcome) => {
                    let (PutAnswer::Refused { current, .. }
                    | PutAnswer::Stored {
                        previous: current, ..
                    }) = outcome.answer;
                    return Settled::Lost(current);
                }
                Err(failure) => failure,
            };
            let mut validity = stored.validity;
            if failure.outcome_unknown() {
                let stored_end = unix_seconds(stored.item.expires_at);
                validity = stored.validity_until(stored_end.min(end));
                // Should it arrive later, it must not find the item that it names.
                self.state().asked_until(end.max(stored_end + 1));
            }
            if has_record && stored.end() == ItemEnd::TooLate {
                // It costs others time if we die, and is tried again with the next put.
                return Settled::Good(validity);
            }
            return Settled::Failed {
                validity,
                has_record,
                failure,
            };
        }
        let validity = stored.validity;
        if stored.end() == ItemEnd::TooSoon {
            return Settled::Failed {
                validity,
                has_record,
                failure: StoreError::other(
                    "the dates of the lock table's answers contradict each other",
                ),
            };
        }
        Settled::Good(validity)
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
