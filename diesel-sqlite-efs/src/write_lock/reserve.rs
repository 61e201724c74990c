//! The lease for a transaction's first write, and whether the state that it has read may be written
//! over.

use std::time::{Duration, Instant};

use super::lock::{Busy, WriteLock};
use super::state::{BusyReason, HoldState, OwnJournal, Purpose, State};
use crate::error::LockError;
use crate::files::file_version::{FileState, FileVersion};
use crate::lease::acquire::{Acquisition, Attempt};

impl WriteLock {
    /// A request for RESERVED, or for EXCLUSIVE straight from SHARED: asks the store once, unless
    /// the lease is in hand already. Never waits: SHARED is held, which would block the holder.
    pub(crate) fn try_reserve(&self, purpose: Purpose) -> Result<(), Busy> {
        let rolled_back = self.update(|state| {
            state.own_journal = OwnJournal::None;
            state.notices.asked_to_write |= matches!(purpose, Purpose::Write { .. });
            let by = state.transaction.rolled_back_by()?;
            state.fail_first(LockError::Aborted {
                cause: by.cause().to_owned(),
                retryable: false,
            });
            Some(())
        });
        if rolled_back.is_some() {
            return self.busy(BusyReason::Fatal);
        }
        let lease = self.update(|state| state.lease_for_transaction());
        match lease.map(|lease| lease.loss()) {
            Some(None) => {
                if let Err(error) = self.check_deadline() {
                    return self.give_up_reserving(error);
                }
                return Ok(());
            }
            Some(Some(loss)) => {
                let lost = self.update(|state| {
                    state.lost(loss);
                    state.keep_for(HoldState::Parked);
                    // Else what was promised to hold over several transactions is broken.
                    (!state.is_pinned()).then(|| state.take_lease())
                });
                match lost {
                    None => return self.busy(BusyReason::Fatal),
                    Some(lease) => drop(lease),
                }
            }
            None => {}
        }
        if let Err(error) = self.check_deadline() {
            self.update(|state| state.fail(error));
            return self.busy(BusyReason::Fatal);
        }
        self.ask_for_lease(purpose)
    }

    /// One attempt at the store, no longer than it may take with SHARED held.
    fn ask_for_lease(&self, purpose: Purpose) -> Result<(), Busy> {
        let (earlier, until, can_wait) = self.update(|state| {
            let earlier = state.unanswered.take();
            (earlier, state.answer_until(), !state.timeout.is_zero())
        });
        let mut acquisition =
            earlier.unwrap_or_else(|| Box::new(self.client.begin_named(self.name.clone())));
        let Some(longest) = self.time_under_shared(purpose) else {
            return self.busy(BusyReason::Unanswered(acquisition, purpose));
        };
        let left = until.saturating_duration_since(Instant::now());
        let attempt = match purpose {
            Purpose::Write { has_read: false } if can_wait => {
                acquisition.try_in_turn(left.min(longest))
            }
            // What is refused here is not waited for.
            _ => acquisition.try_once(left.min(longest)),
        };
        match attempt {
            Ok(Attempt::Granted(lease)) => {
                self.update(|state| state.install_lease(lease, HoldState::Transaction));
                Ok(())
            }
            Ok(Attempt::Refused { .. }) => {
                acquisition.leave_queue();
                let busy = acquisition.busy();
                let reason = match purpose {
                    Purpose::Write { has_read: false } => BusyReason::Lease(acquisition),
                    Purpose::Write { has_read: true } => BusyReason::Fatal,
                    Purpose::Recovery => BusyReason::Recovery(busy.clone()),
                };
                self.put_off(reason, busy)
            }
            // A request that was cut off is repeated where there is time for it.
            Err(error) if error.is_retryable() || error.is_unreachable() => {
                let error = self.unless_hurried(error);
                let reason = match purpose {
                    Purpose::Write { has_read: true } => {
                        self.update(|state| state.unanswered = Some(acquisition));
                        BusyReason::Fatal
                    }
                    _ => BusyReason::Unanswered(acquisition, purpose),
                };
                self.put_off(reason, error)
            }
            Err(error) => {
                self.update(|state| state.fail(error));
                self.busy(BusyReason::Fatal)
            }
        }
    }

    /// How long the store may be asked with SHARED held, which keeps every holder from committing;
    /// `None` if it is to be asked once SHARED is dropped, in the busy handler.
    ///
    /// As long as a fast answer takes, and not at all where an answer takes longer or the last did
    /// not come. Where SQLite will not call the busy handler there is no other time, so that an answer
    /// is given what it may take on a busy host, until one has not come.
    fn time_under_shared(&self, purpose: Purpose) -> Option<Duration> {
        /// Of the fastest answer so far: nearly all others are faster than this.
        const OF_FASTEST: u32 = 3;
        /// The same where answers take a few milliseconds, as they do within a Region: below this
        /// it is the host that is slow.
        const FLOOR: Duration = Duration::from_millis(50);
        /// Also for the first request of a process, which may have to set up TLS: what is cut off
        /// costs a second put. If the store is silent, it happens once.
        const LONGEST: Duration = Acquisition::MIN_USEFUL_TIMEOUT;
        /// For answers from far away.
        const LONGEST_WITHOUT_HANDLER: Duration = Duration::from_secs(1);
        let is_silent = self.client.store_is_silent();
        let fast = (self.client.fastest_answer())
            .map_or(LONGEST, |fastest| (fastest * OF_FASTEST).max(FLOOR));
        match purpose {
            Purpose::Write { has_read: true } => Some(match is_silent {
                true => fast.min(LONGEST_WITHOUT_HANDLER),
                false => fast.clamp(LONGEST, LONGEST_WITHOUT_HANDLER),
            }),
            _ => (!is_silent && fast <= LONGEST).then_some(fast),
        }
    }

    /// The error of an attempt that was not answered: what our own impatience has ended says less
    /// than what was in the way before.
    pub(super) fn unless_hurried(&self, error: LockError) -> LockError {
        let until = self.update(State::wait_until);
        let left = until.saturating_duration_since(Instant::now());
        if left >= Acquisition::MIN_USEFUL_TIMEOUT || !error.is_timeout() {
            return error;
        }
        let known = self.update(|state| {
            let polling = state.wait.poll.as_ref().map(|poll| poll.since);
            (state.notices.error.take(), polling)
        });
        match known {
            (Some(busy @ LockError::Busy { .. }), _) => busy,
            (None, Some(since)) => LockError::FileLocked {
                lock: self.name.clone(),
                waited: since.elapsed(),
            },
            _ => error,
        }
    }

    /// There is no lease at once: what the busy handler is to do, if SQLite calls it, and the error
    /// if not.
    fn put_off(&self, reason: BusyReason, error: LockError) -> Result<(), Busy> {
        self.update(|state| state.fail(error));
        self.busy(reason)
    }

    /// With the lease and RESERVED in hand: whether the state that the transaction has read is
    /// the current one, so that it may be written over.
    ///
    /// `current` is the state of the file now.
    pub(crate) fn validate_snapshot(
        &self,
        read: FileVersion,
        current: FileState,
        purpose: Purpose,
    ) -> Result<(), Busy> {
        let settled = (self.settle_lock_identity())
            .and_then(|()| self.settle_leftover(current == FileState::Empty));
        let hot = match settled {
            Ok(hot) => hot,
            Err(error) => return self.give_up_reserving(error),
        };
        let is_current = match current {
            FileState::Empty => read == FileVersion::default(),
            FileState::Version(current) => read == current,
        };
        if is_current && !hot {
            self.update(|state| state.end_wait());
            return Ok(());
        }
        let stale = LockError::StaleSnapshot {
            lock: self.name.clone(),
        };
        if purpose == (Purpose::Write { has_read: false }) {
            // Released and asked for again, the lease might go to another every time.
            self.update(|state| {
                state.fail(stale);
                state.keep_for(HoldState::AwaitingHandler);
            });
            self.busy(BusyReason::StaleSnapshot)
        } else {
            self.give_up_reserving(stale)
        }
    }

    /// SQLite's file locks refused SHARED, or the EXCLUSIVE of a commit, for which the lease is
    /// kept while the busy handler waits for readers.
    pub(crate) fn file_locked(&self) {
        let _ = self.busy(BusyReason::FileLock);
    }

    /// SQLite's file locks refused what the lease had just been acquired for.
    pub(crate) fn reserve_refused_by_file(&self) {
        self.release_unless_pinned();
        self.file_locked();
    }

    fn give_up_reserving(&self, error: LockError) -> Result<(), Busy> {
        self.update(|state| state.fail(error));
        self.release_unless_pinned();
        self.busy(BusyReason::Fatal)
    }

    fn busy(&self, reason: BusyReason) -> Result<(), Busy> {
        // An acquisition that is given up may send a request.
        drop(self.update(|state| state.busy(reason)));
        Err(Busy)
    }

    /// Whether a write that is begun now can end before the deadline.
    pub(super) fn check_deadline(&self) -> Result<(), LockError> {
        match self.update(|state| state.deadline) {
            Some(deadline) if deadline <= self.earliest_end(Instant::now()) => {
                Err(LockError::DeadlinePassed {
                    lock: self.name.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// When a write that is begun at `start` ends at the earliest: its requests take at least as
    /// long as the fastest answer so far, each.
    fn earliest_end(&self, start: Instant) -> Instant {
        /// To acquire the lease, to confirm the commit, to release.
        const REQUESTS: u32 = 3;
        start + self.client.fastest_answer().unwrap_or_default() * REQUESTS
    }

    /// Whether a transaction that begins at this moment can end before the deadline.
    pub(crate) fn is_in_time(&self, start: Instant, writes: bool) -> bool {
        let earliest_end = if writes {
            self.earliest_end(start)
        } else {
            start
        };
        (self.update(|state| state.deadline)).is_none_or(|deadline| earliest_end < deadline)
    }
}
