//! The state of a lease: its phase, for how long it is valid, and the commit record in its item.
//!
//! All transitions are here, as pure functions: no clock is read and nothing is sent. docs/design.md
//! has them as a drawing ("The life of a lease").
//!
//! | from | event | to |
//! |---|---|---|
//! | | [`granted`](LeaseState::granted) | held |
//! | held | [`renewed`](LeaseState::renewed), [`confirmed`](LeaseState::confirmed) | held, for longer |
//! | held | [`expire`](LeaseState::expire), once its validity is over; [`lose`](LeaseState::lose) | lost |
//! | held, lost | [`release`](LeaseState::release) | released |
//! | held, lost | [`hand_off`](LeaseState::hand_off) | released; the next holder has the state before |
//!
//! A lost lease stays lost, a released one released. What becomes of the item at the release depends
//! on the commit record alone ([`AtRelease`]).

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::HolderInfo;
use crate::store::JournalId;

/// What is known of a lease.
#[derive(Debug, Clone)]
pub(crate) struct LeaseState {
    phase: Phase,
    /// Of the last put that was answered.
    validity: Validity,
    /// The latest end that was asked for: `expires_at` of the item, or of one on its way.
    latest_end: u64,
    record: CommitRecord,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Held,
    Lost(Loss),
    Released,
}

/// Why a lease is lost.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loss {
    /// Its time is up, by a clock of this host.
    NotRenewedInTime,
    /// Its successor's item is in the table.
    TakenOver(HolderInfo),
    /// There is no item in the table.
    ItemGone,
    /// The store did not answer a commit in time, or refused to serve it.
    NotConfirmed(String),
    /// Its user knows better than the clocks.
    Invalidated(String),
}

/// For how long a put is good, counted from before it was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) from: Timestamp,
    /// The store's time then, in seconds of the Unix epoch.
    pub(crate) began: f64,
    pub(crate) good_for: Duration,
}

/// The commit record in the item, and its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommitRecord {
    Absent,
    /// The journal is gone.
    Settled(JournalId),
    /// The journal may still be there.
    Pending(JournalId),
    /// Nobody knows whether the last record was written; before it there was this one.
    Unknown(Option<JournalId>),
}

/// What becomes of the item when the lease is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtRelease {
    Delete,
    /// It stays, expired, as a tombstone: the journal that its record names may still be there.
    Tombstone(JournalId),
    /// It stays as it is: what its record says is not known.
    Leave,
}

impl LeaseState {
    /// A new lease, by an item with this end, with the commit record of the item that it replaced.
    pub(crate) fn granted(validity: Validity, end: u64, record: Option<JournalId>) -> Self {
        Self {
            phase: Phase::Held,
            validity,
            latest_end: end,
            record: record.map_or(CommitRecord::Absent, CommitRecord::Pending),
        }
    }

    /// Why it is lost, if it is.
    pub(crate) fn loss(&self) -> Option<&Loss> {
        match &self.phase {
            Phase::Lost(loss) => Some(loss),
            Phase::Held | Phase::Released => None,
        }
    }

    pub(crate) fn is_released(&self) -> bool {
        self.phase == Phase::Released
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    pub(crate) fn latest_end(&self) -> u64 {
        self.latest_end
    }

    /// The commit record in the item, as far as is known.
    pub(crate) fn record(&self) -> Option<JournalId> {
        match self.record {
            CommitRecord::Absent => None,
            CommitRecord::Settled(id) | CommitRecord::Pending(id) => Some(id),
            CommitRecord::Unknown(before) => before,
        }
    }

    pub(crate) fn at_release(&self) -> AtRelease {
        match self.record {
            CommitRecord::Absent | CommitRecord::Settled(_) => AtRelease::Delete,
            CommitRecord::Pending(id) => AtRelease::Tombstone(id),
            CommitRecord::Unknown(_) => AtRelease::Leave,
        }
    }

    /// Whether another transaction of this process may go on with it: nothing of the last one is left
    /// to be settled. Its time may be up all the same ([`expire`](Self::expire)).
    pub(crate) fn may_be_handed_off(&self) -> bool {
        self.phase == Phase::Held && self.at_release() == AtRelease::Delete
    }

    /// In what time a renewal is due, counted in periods from the last grant; `None`: never.
    pub(crate) fn renewal_due_in(&self, now: Timestamp, period: Duration) -> Option<Duration> {
        // Of the shortest leases whole seconds and the margin may leave less than that period.
        let period = period.min(self.validity.good_for / 2);
        (self.phase == Phase::Held)
            .then(|| period.saturating_sub(now.elapsed_since(self.validity.from)))
    }

    /// The clocks show `now`: the lease is lost if its time is up. Whether that is news.
    pub(crate) fn expire(&mut self, now: Timestamp) -> bool {
        self.validity.left(now).is_zero() && self.lose(Loss::NotRenewedInTime)
    }

    /// The lease is lost; the first reason counts. Whether that is news.
    pub(crate) fn lose(&mut self, loss: Loss) -> bool {
        let is_news = self.phase == Phase::Held;
        if is_news {
            self.phase = Phase::Lost(loss);
        }
        is_news
    }

    /// An item with this end was stored, or is on its way.
    pub(crate) fn asked_until(&mut self, end: u64) {
        self.latest_end = self.latest_end.max(end);
    }

    /// The item was replaced by one with this end, which may be earlier.
    pub(crate) fn end_corrected(&mut self, end: u64) {
        self.latest_end = end;
    }

    /// A put was answered that extends the lease.
    pub(crate) fn renewed(&mut self, validity: Validity) {
        self.validity = validity;
    }

    /// A put was answered that records the end of this journal, if it is known, and extends the
    /// lease.
    pub(crate) fn confirmed(&mut self, validity: Validity, journal: Option<JournalId>) {
        self.validity = validity;
        if let Some(journal) = journal {
            self.record = CommitRecord::Pending(journal);
        }
    }

    /// A put that would have changed the record was not answered.
    pub(crate) fn record_unknown(&mut self) {
        self.record = CommitRecord::Unknown(self.record());
    }

    /// The journal that the record names is gone. What is not known stays unknown: the item may name
    /// another.
    pub(crate) fn record_settled(&mut self) {
        if let CommitRecord::Pending(id) = self.record {
            self.record = CommitRecord::Settled(id);
        }
    }

    /// The lease ends. What becomes of its item; `None` if the lease has ended before.
    pub(crate) fn release(&mut self) -> Option<AtRelease> {
        let at_release = self.at_release();
        let before = std::mem::replace(&mut self.phase, Phase::Released);
        (before != Phase::Released).then_some(at_release)
    }

    /// The lease ends for its holder, and goes on with another in the state that is returned.
    pub(crate) fn hand_off(&mut self) -> Self {
        let handed_off = self.clone();
        self.phase = Phase::Released;
        handed_off
    }
}

impl Validity {
    /// What is left of it, by the faster of both clocks.
    pub(crate) fn left(&self, now: Timestamp) -> Duration {
        self.good_for.saturating_sub(now.elapsed_since(self.from))
    }

    /// The store's time now at least: by the clock that is never set.
    pub(crate) fn store_time(&self, now: Timestamp) -> f64 {
        let passed = now.monotonic.saturating_sub(self.from.monotonic);
        self.began + passed.as_secs_f64()
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRenewedInTime => f.write_str(
                "it was not renewed in time (a frozen, stopped or overloaded process, or a store out of reach)",
            ),
            Self::TakenOver(successor) => write!(f, "it was taken over by {successor}"),
            Self::ItemGone => f.write_str("its item is gone"),
            Self::NotConfirmed(failure) => write!(f, "the store did not confirm: {failure}"),
            Self::Invalidated(reason) => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GOOD_FOR: Duration = Duration::from_secs(8);
    const MINE: JournalId = JournalId([1; 4]);
    const PREDECESSORS: JournalId = JournalId([2; 4]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp {
            monotonic: Duration::from_secs(seconds),
            wall: Duration::from_secs(1_000_000 + seconds),
        }
    }

    fn validity(from: u64) -> Validity {
        Validity {
            from: at(from),
            began: 1_000_000.0 + from as f64,
            good_for: GOOD_FOR,
        }
    }

    fn granted(record: Option<JournalId>) -> LeaseState {
        LeaseState::granted(validity(0), 1_000_010, record)
    }

    #[test]
    fn a_lease_is_lost_when_its_time_is_up_and_not_before() {
        let mut state = granted(None);
        assert!(!state.expire(at(7)));
        assert_eq!(state.loss(), None);
        assert!(state.expire(at(8)));
        assert_eq!(state.loss(), Some(&Loss::NotRenewedInTime));
        assert!(!state.expire(at(9)), "no news");
    }

    #[test]
    fn either_clock_ends_a_lease() {
        for now in [
            Timestamp {
                wall: at(8).wall,
                ..at(0)
            },
            Timestamp {
                monotonic: at(8).monotonic,
                ..at(0)
            },
        ] {
            assert!(granted(None).expire(now));
        }
    }

    #[test]
    fn a_lost_lease_stays_lost_for_its_first_reason() {
        let mut state = granted(None);
        assert!(state.lose(Loss::ItemGone));
        assert!(!state.lose(Loss::NotRenewedInTime));
        state.renewed(validity(5));
        state.confirmed(validity(6), Some(MINE));
        assert_eq!(state.loss(), Some(&Loss::ItemGone));
        assert_eq!(state.renewal_due_in(at(6), SECOND), None);
    }

    #[test]
    fn a_released_lease_is_neither_lost_nor_released_again() {
        let mut state = granted(None);
        assert_eq!(state.release(), Some(AtRelease::Delete));
        assert_eq!(state.release(), None);
        assert!(!state.lose(Loss::ItemGone) && !state.expire(at(100)));
        assert_eq!(state.loss(), None);
        assert_eq!(state.renewal_due_in(at(0), SECOND), None);
        let mut lost = granted(None);
        lost.lose(Loss::ItemGone);
        assert_eq!(lost.release(), Some(AtRelease::Delete));
    }

    #[test]
    fn a_renewal_is_due_a_period_after_the_last_grant_or_in_the_middle_of_a_short_one() {
        let mut state = granted(None);
        assert_eq!(state.renewal_due_in(at(1), 3 * SECOND), Some(2 * SECOND));
        assert_eq!(
            state.renewal_due_in(at(7), 3 * SECOND),
            Some(Duration::ZERO)
        );
        assert_eq!(state.renewal_due_in(at(0), 60 * SECOND), Some(4 * SECOND));
        state.renewed(validity(7));
        assert_eq!(state.renewal_due_in(at(7), 3 * SECOND), Some(3 * SECOND));
    }

    #[test]
    fn an_item_stays_while_the_journal_of_its_record_may_be_there() {
        let mut state = granted(Some(PREDECESSORS));
        assert_eq!(state.at_release(), AtRelease::Tombstone(PREDECESSORS));
        assert!(!state.may_be_handed_off());
        state.record_settled();
        assert_eq!(state.at_release(), AtRelease::Delete);
        assert_eq!(
            state.record(),
            Some(PREDECESSORS),
            "it is still in the item"
        );
        assert!(state.may_be_handed_off());
        state.confirmed(validity(1), None);
        assert_eq!(
            state.at_release(),
            AtRelease::Delete,
            "no journal was named"
        );
        state.confirmed(validity(1), Some(MINE));
        assert_eq!(state.at_release(), AtRelease::Tombstone(MINE));
    }

    #[test]
    fn an_item_is_left_as_it_is_where_its_record_is_not_known() {
        let mut state = granted(Some(PREDECESSORS));
        state.record_unknown();
        assert_eq!(state.record(), Some(PREDECESSORS));
        state.record_settled();
        assert!(!state.may_be_handed_off());
        assert_eq!(state.release(), Some(AtRelease::Leave));
    }

    #[test]
    fn a_lease_that_is_handed_off_goes_on_as_it_was() {
        let mut state = granted(None);
        state.confirmed(validity(2), Some(MINE));
        state.record_settled();
        let mut next = state.hand_off();
        assert!(state.is_released());
        assert!(!next.is_released() && next.may_be_handed_off());
        assert_eq!((next.record(), next.latest_end()), (Some(MINE), 1_000_010));
        assert!(!next.expire(at(9)) && next.expire(at(10)));
        // One that is lost meanwhile goes on as a lost one.
        state = granted(None);
        state.lose(Loss::ItemGone);
        assert_eq!(state.hand_off().loss(), Some(&Loss::ItemGone));
    }

    #[test]
    fn an_end_is_brought_forward_by_a_correction_alone() {
        let mut state = granted(None);
        state.asked_until(1_000_005);
        assert_eq!(state.latest_end(), 1_000_010);
        state.asked_until(1_000_020);
        state.end_corrected(1_000_015);
        assert_eq!(state.latest_end(), 1_000_015);
    }
}
