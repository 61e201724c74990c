//! What a write lock knows, as states with their transitions. No I/O: whatever a transition takes
//! out of the state comes back to the caller, who drops it once the state is unlocked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::transaction::Transaction;
use crate::error::{ConfigError, LockError};
use crate::files::file_version::FileFormat;
use crate::lease::Lease;
use crate::lease::acquire::Acquisition;
use crate::lease::backoff::Backoff;
use crate::store::JournalId;

#[derive(Debug)]
pub(super) struct State {
    /// How long a statement waits.
    pub(super) timeout: Duration,
    /// No waiting goes on beyond this moment.
    pub(super) deadline: Option<Instant>,
    hold: Option<Hold>,
    /// How many leases there were before the one in hand.
    holds: u64,
    pub(super) own_journal: OwnJournal,
    pub(super) wait: Wait,
    /// What the transaction that holds SHARED has asked the store in vain. Its next attempt goes on
    /// with it; if there is none, it ends once SHARED is dropped, as that takes a request.
    pub(super) unanswered: Option<Box<Acquisition>>,
    pub(super) transaction: Transaction,
    pub(super) notices: Notices,
    pub(super) page_cache: PageCache,
    condition: Condition,
    pub(super) format: Option<FileFormat>,
    pub(super) identity: LockIdentity,
}

/// The lease in hand, for whom it is kept.
#[derive(Debug)]
struct Hold {
    lease: Arc<Lease>,
    state: HoldState,
    /// How many callers want it kept beyond the transaction.
    pins: u32,
}

/// What a transaction wants the lease for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To write; `has_read` if it has read before, so that SQLite will not call the busy handler.
    Write { has_read: bool },
    /// To roll back a hot journal.
    Recovery,
}

/// One pin of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PinId(u64);

/// What the lease in hand is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldState {
    /// Granted too late for the snapshot: SQLite will drop SHARED, which must not release it, and
    /// call the busy handler.
    AwaitingHandler,
    /// SQLite has not yet come back to ask for RESERVED, or is between two transactions.
    Parked,
    /// RESERVED or more is held, or being asked for.
    Transaction,
}

/// The rollback journal of the transaction under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnJournal {
    /// None whose header was written or read.
    None,
    /// Its first header was written or, in a recovery, read.
    Open(JournalId),
    /// What still comes cannot change the outcome.
    Ended,
}

impl OwnJournal {
    /// A header was written: the first one names the journal.
    pub(super) fn begun(&mut self, id: JournalId) {
        if *self == Self::None {
            *self = Self::Open(id);
        }
    }

    /// The journal to record as finished, if there is one.
    pub(super) fn id(self) -> Option<JournalId> {
        match self {
            Self::Open(id) => Some(id),
            Self::None | Self::Ended => None,
        }
    }
}

/// What SQLite's busy handler is to do, over several calls.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// Until when the statement under way may wait; set by its first need to.
    until: Option<Instant>,
    /// Why SQLite was last told that the database is busy.
    reason: Option<BusyReason>,
    /// How it polls what it cannot wait for otherwise.
    pub(super) poll: Option<Poll>,
}

/// Why the database was reported busy, which tells the busy handler what to wait for.
#[derive(Debug)]
pub(super) enum BusyReason {
    /// Another holds the lease; the acquisition goes on in the busy handler.
    Lease(Box<Acquisition>),
    /// The store has not answered in the time that can be spent with SHARED held; the acquisition
    /// goes on in the busy handler.
    Unanswered(Box<Acquisition>, Purpose),
    /// A hot journal exists and another holds the lease: its owner rolls it back, or our turn comes
    /// when the lease ends. A reader does not queue for the lease.
    Recovery(LockError),
    /// The lease is in hand, only the snapshot was out of date: try again at once.
    StaleSnapshot,
    /// SQLite's file locks.
    FileLock,
    /// Waiting cannot help.
    Fatal,
}

/// The pauses over several calls of the busy handler.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) since: Instant,
    pub(super) pauses: u32,
    pub(super) backoff: Backoff,
}

/// What the connection is to be told.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// What the lock had to do with the failure of the statement under way.
    pub(super) error: Option<LockError>,
    /// The last lease could not be released.
    pub(super) not_released: Option<LockError>,
    /// How long was waited for the lease since this was last asked.
    pub(super) waited: Option<Waited>,
    /// What was refused because it would go round the lock.
    pub(super) refused: Option<ConfigError>,
    /// A write was asked for since this was last asked.
    pub(super) asked_to_write: bool,
}

/// A wait for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) time: Duration,
    /// It was given up.
    pub(crate) in_vain: bool,
}

/// The pages that SQLite has cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageCache {
    Trusted,
    /// Some may never have been committed.
    Suspect,
}

/// Whether the connection may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Sound,
    /// A lease was lost or the file system failed: a new connection is safer than this one. Never
    /// left again.
    Broken,
}

/// Whether the lock is known to be the one that protects the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockIdentity {
    Unchecked,
    Checked,
}

/// Whether there is anything that a statement has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// No lease, and nothing to tell.
    None,
    /// The lease of the transaction under way, and nothing else.
    Writing,
    Needed,
}

/// Limits and bookkeeping.
impl State {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            deadline: None,
            hold: None,
            holds: 0,
            own_journal: OwnJournal::None,
            wait: Wait::default(),
            unanswered: None,
            transaction: Transaction::default(),
            notices: Notices::default(),
            page_cache: PageCache::Trusted,
            condition: Condition::Sound,
            format: None,
            identity: LockIdentity::Unchecked,
        }
    }

    pub(super) fn attention(&self) -> Attention {
        let is_needed = self.notices.error.is_some()
            || self.notices.not_released.is_some()
            || self.notices.waited.is_some()
            || self.notices.refused.is_some()
            || self.wait.until.is_some()
            || self.wait.reason.is_some()
            || self.wait.poll.is_some()
            || self.unanswered.is_some()
            || self.transaction.needs_attention()
            || self.own_journal == OwnJournal::Ended
            || self.page_cache == PageCache::Suspect;
        match &self.hold {
            _ if is_needed => Attention::Needed,
            None => Attention::None,
            Some(hold) if hold.state == HoldState::Transaction => Attention::Writing,
            Some(_) => Attention::Needed,
        }
    }

    #[cfg(any(feature = "r2d2", test))]
    pub(super) fn is_broken(&self) -> bool {
        self.condition == Condition::Broken
    }

    /// A statement begins: errors of earlier ones are no longer its concern.
    #[must_use]
    pub(super) fn statement_begins(&mut self) -> Option<BusyReason> {
        self.notices.error = None;
        self.notices.refused = None;
        self.transaction.statement_begins();
        std::mem::take(&mut self.wait).reason
    }
}

/// The lease.
impl State {
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.hold.as_ref().map(|hold| hold.lease.clone())
    }

    pub(super) fn hold_state(&self) -> Option<HoldState> {
        self.hold.as_ref().map(|hold| hold.state)
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.pins > 0)
    }

    /// The lease was granted. SQLite's file locks may still be in the way.
    pub(super) fn install_lease(&mut self, lease: Lease, state: HoldState) {
        self.notices.error = None;
        self.holds += 1;
        self.hold = Some(Hold {
            lease: Arc::new(lease),
            state,
            pins: 0,
        });
    }

    /// The lease, which a transaction has from here on.
    pub(super) fn lease_for_transaction(&mut self) -> Option<Arc<Lease>> {
        self.keep_for(HoldState::Transaction);
        self.lease()
    }

    pub(super) fn keep_for(&mut self, state: HoldState) {
        if let Some(hold) = &mut self.hold {
            hold.state = state;
        }
    }

    /// Keeps the lease in hand beyond the transaction. The pin is of this lease alone.
    pub(super) fn pin(&mut self) -> PinId {
        if let Some(hold) = &mut self.hold {
            hold.pins += 1;
        }
        PinId(self.holds)
    }

    #[cfg(test)]
    pub(super) fn current_pin(&self) -> PinId {
        PinId(self.holds)
    }

    /// Ends a pin. The lease to be released, if no other pin and no transaction has it; the
    /// transaction ends with it otherwise. Nothing to do for a pin of an earlier lease.
    #[must_use]
    pub(super) fn unpin(&mut self, pin: PinId) -> Option<Arc<Lease>> {
        let hold = self.hold.as_mut().filter(|_| pin.0 == self.holds)?;
        hold.pins = hold.pins.saturating_sub(1);
        let is_free = hold.pins == 0 && hold.state != HoldState::Transaction;
        is_free.then(|| self.take_lease()).flatten()
    }

    /// Ends all pins, unless a transaction has the lease.
    #[cfg(feature = "r2d2")]
    #[must_use]
    pub(super) fn unpin_all(&mut self) -> Option<Arc<Lease>> {
        let hold = self.hold.as_mut()?;
        if hold.pins == 0 || hold.state == HoldState::Transaction {
            return None;
        }
        self.take_lease()
    }

    /// The lease, to be released; it is kept, for the next transaction, where it is pinned.
    #[must_use]
    pub(super) fn take_lease_unless_pinned(&mut self) -> Option<Arc<Lease>> {
        if self.is_pinned() {
            self.keep_for(HoldState::Parked);
            return None;
        }
        self.take_lease()
    }

    #[must_use]
    pub(super) fn take_lease(&mut self) -> Option<Arc<Lease>> {
        self.hold.take().map(|hold| hold.lease)
    }
}

/// Waiting.
impl State {
    /// Until when to wait, counted from the statement's first need to.
    pub(super) fn wait_until(&mut self) -> Instant {
        let timeout = self.timeout;
        let until = *(self.wait.until).get_or_insert_with(|| Instant::now() + timeout);
        self.deadline.map_or(until, |deadline| until.min(deadline))
    }

    /// Until when to wait for the first answer of the store: a timeout that is too short for one,
    /// down to zero, still means an attempt.
    pub(super) fn answer_until(&mut self) -> Instant {
        /// As long as one request may take, be it the first of the process.
        const ONE_ATTEMPT: Duration = Duration::from_secs(1);
        let until = self.wait_until();
        let was_answered = matches!(self.notices.error, Some(LockError::Busy { .. }));
        let is_short = self.timeout < Acquisition::MIN_USEFUL_TIMEOUT && !was_answered;
        let (true, Some(own)) = (is_short, self.wait.until) else {
            return until;
        };
        let until = own + ONE_ATTEMPT.saturating_sub(self.timeout);
        self.deadline.map_or(until, |deadline| until.min(deadline))
    }

    /// Whether the time to wait is over.
    pub(super) fn is_over(&mut self) -> bool {
        self.wait_until() <= Instant::now()
    }

    /// What is waited for from here on has its own time.
    pub(super) fn end_wait(&mut self) {
        self.wait.until = None;
    }

    /// SQLite is told that the database is busy. Returns the reason before.
    #[must_use]
    pub(super) fn busy(&mut self, reason: BusyReason) -> Option<BusyReason> {
        if matches!(reason, BusyReason::Fatal) {
            self.end_wait();
        }
        self.wait.reason.replace(reason)
    }

    /// SQLite calls the busy handler; `first` for this wait. Returns what it waits for.
    pub(super) fn take_busy_reason(&mut self, first: bool) -> Option<BusyReason> {
        if first {
            self.wait.poll = None;
            let asks = |reason: &BusyReason| {
                matches!(reason, BusyReason::Lease(_) | BusyReason::Unanswered(..))
            };
            if !self.wait.reason.as_ref().is_some_and(asks) {
                // Nothing has been waited for yet; an earlier statement may have set it.
                self.end_wait();
            }
        }
        self.wait.reason.take()
    }

    pub(super) fn has_waited(&mut self, time: Duration, in_vain: bool) {
        let before = (self.notices.waited).map_or(Duration::ZERO, |waited| waited.time);
        self.notices.waited = Some(Waited {
            time: before + time,
            in_vain,
        });
    }
}

/// Failures.
impl State {
    /// The cause of the statement's failure, in the place of what was known before.
    pub(super) fn fail(&mut self, error: LockError) {
        self.notices.error = None;
        self.fail_first(error);
    }

    /// A cause of the statement's failure. The first is the one to report.
    pub(super) fn fail_first(&mut self, error: LockError) {
        if error.breaks_connection() {
            self.condition = Condition::Broken;
        }
        self.notices.error.get_or_insert(error);
    }

    /// The lease was lost, or may have been.
    pub(super) fn lost(&mut self, error: LockError) {
        self.may_have_been_overtaken();
        self.fail_first(error);
    }

    /// Somebody else may have written since the lease was granted, whatever our clocks say.
    pub(super) fn may_have_been_overtaken(&mut self) {
        self.condition = Condition::Broken;
        self.page_cache = PageCache::Suspect;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: JournalId = JournalId([1; 4]);
    const SECOND: JournalId = JournalId([2; 4]);

    fn state() -> State {
        State::new(Duration::from_secs(1))
    }

    fn aborted(cause: &str) -> LockError {
        LockError::Aborted {
            cause: cause.to_owned(),
            retryable: false,
        }
    }

    #[test]
    fn the_first_header_names_the_journal_and_its_end_is_final() {
        let mut journal = OwnJournal::None;
        assert_eq!(journal.id(), None);
        journal.begun(FIRST);
        journal.begun(SECOND);
        assert_eq!(journal, OwnJournal::Open(FIRST));
        assert_eq!(journal.id(), Some(FIRST));
        journal = OwnJournal::Ended;
        journal.begun(SECOND);
        assert_eq!((journal, journal.id()), (OwnJournal::Ended, None));
    }

    #[test]
    fn the_first_cause_of_a_failure_is_kept_unless_it_is_replaced() {
        let mut state = state();
        state.fail_first(aborted("first"));
        state.fail_first(aborted("second"));
        assert_eq!(state.notices.error, Some(aborted("first")));
        state.fail(aborted("third"));
        assert_eq!(state.notices.error, Some(aborted("third")));
        assert!(!state.is_broken());
    }

    #[test]
    fn a_connection_that_was_overtaken_is_broken_and_stays_so() {
        let mut state = state();
        state.lost(aborted("any"));
        assert!(state.is_broken());
        assert_eq!(state.page_cache, PageCache::Suspect);
        assert!(state.statement_begins().is_none());
        assert!(state.is_broken());
        assert_eq!(state.notices.error, None);
    }

    #[test]
    fn a_statement_has_to_look_at_whatever_it_may_be_told() {
        assert_eq!(state().attention(), Attention::None);
        let told = |change: fn(&mut State)| {
            let mut state = state();
            change(&mut state);
            state.attention()
        };
        for change in [
            (|state| state.fail(aborted("any"))) as fn(&mut State),
            |state| state.notices.not_released = Some(aborted("any")),
            |state| state.has_waited(Duration::ZERO, false),
            |state| state.notices.refused = Some(ConfigError::NoTable),
            |state| {
                let _ = state.wait_until();
            },
            |state| drop(state.busy(BusyReason::FileLock)),
            |state| state.may_have_been_overtaken(),
            |state| state.transaction.rollback_prepared(),
            |state| state.own_journal = OwnJournal::Ended,
        ] {
            assert_eq!(told(change), Attention::Needed);
        }
        // These nobody has to be told.
        for change in [
            (|state| state.transaction.begin_prepared()) as fn(&mut State),
            |state| state.transaction.set_open(true),
            |state| state.notices.asked_to_write = true,
            |state| state.own_journal.begun(FIRST),
        ] {
            assert_eq!(told(change), Attention::None);
        }
    }

    #[test]
    fn the_time_to_wait_is_the_statements_and_ends_at_the_deadline() {
        let mut state = state();
        let until = state.wait_until();
        assert_eq!(state.wait_until(), until, "one wait, one time");
        let deadline = until - Duration::from_millis(500);
        state.deadline = Some(deadline);
        assert_eq!(state.wait_until(), deadline);
        assert!(state.busy(BusyReason::Fatal).is_none());
        state.deadline = None;
        assert!(state.wait_until() >= until, "a new wait");
    }

    #[test]
    fn waits_add_up_until_they_are_reported() {
        let mut state = state();
        state.has_waited(Duration::from_millis(20), true);
        state.has_waited(Duration::from_millis(30), false);
        let waited = state.notices.waited.expect("it waited");
        assert_eq!((waited.time.as_millis(), waited.in_vain), (50, false));
    }
}
