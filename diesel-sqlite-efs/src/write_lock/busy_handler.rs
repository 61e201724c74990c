//! Waiting, in SQLite's busy handler: no file lock is held there.

use std::thread;
use std::time::{Duration, Instant};

use super::lock::WriteLock;
use super::state::{BusyReason, HoldState, Poll, Purpose, State};
use crate::error::LockError;
use crate::lease::acquire::{AcquireLimits, Acquisition, Attempt};
use crate::lease::backoff::Backoff;

impl WriteLock {
    /// Whether SQLite should try again. `first` begins a new wait.
    pub(crate) fn wait(&self, first: bool) -> bool {
        /// The first pause before file locks are asked for again: another's commit is short.
        const FILE_LOCK_POLL: Duration = Duration::from_millis(1);
        match self.update(|state| state.take_busy_reason(first)) {
            Some(BusyReason::Lease(acquisition)) => self.wait_for_lease(*acquisition),
            Some(BusyReason::Unanswered(acquisition, purpose)) => {
                self.wait_for_answer(*acquisition, purpose)
            }
            Some(BusyReason::StaleSnapshot) => {
                // To try again with the lease in hand is no wait.
                if self.update(State::answer_until) <= Instant::now() {
                    return self.give_up();
                }
                self.update(|state| {
                    state.notices.error = None;
                    state.keep_for(HoldState::Parked);
                });
                true
            }
            Some(BusyReason::Recovery(error)) => self.wait_for_recovery(error),
            Some(BusyReason::FileLock) | None => {
                self.update(|state| state.notices.error = None);
                self.pause(FILE_LOCK_POLL)
            }
            Some(BusyReason::Fatal) => false,
        }
    }

    /// Goes on with an acquisition that was not answered with SHARED held: one attempt that is given
    /// time, and then as after any refusal.
    fn wait_for_answer(&self, mut acquisition: Acquisition, purpose: Purpose) -> bool {
        let until = self.update(State::answer_until);
        let left = until.saturating_duration_since(Instant::now());
        let error = match acquisition.try_once(left) {
            Ok(Attempt::Granted(lease)) => {
                self.update(|state| state.install_lease(lease, HoldState::Parked));
                return true;
            }
            Ok(Attempt::Refused { .. }) => acquisition.busy(),
            Err(error) if error.is_retryable() => self.unless_hurried(error),
            Err(error) => return self.failed(error),
        };
        if purpose == Purpose::Recovery {
            drop(acquisition);
            return self.wait_for_recovery(error);
        }
        if self.update(State::is_over) {
            return self.failed(error);
        }
        self.update(|state| state.fail(error));
        self.wait_for_lease(acquisition)
    }

    fn wait_for_recovery(&self, error: LockError) -> bool {
        /// The first pause of a reader before it asks the store again whether it may roll back.
        const RECOVERY_POLL: Duration = Duration::from_millis(20);
        self.update(|state| {
            // Each attempt, one before the first pause and one after each, is an acquisition of its
            // own.
            let polled = (state.wait.poll.as_ref()).map(|poll| (poll.since.elapsed(), poll.pauses));
            state.fail(match polled {
                Some((waited, earlier)) => error.after(waited, earlier),
                None => error,
            });
        });
        let began = Instant::now();
        let again = self.pause(RECOVERY_POLL);
        self.update(|state| state.has_waited(began.elapsed(), !again));
        again
    }

    /// The statement fails for this.
    fn failed(&self, error: LockError) -> bool {
        self.update(|state| {
            state.fail(error);
            state.end_wait();
        });
        false
    }

    fn wait_for_lease(&self, mut acquisition: Acquisition) -> bool {
        if self.update(|state| state.timeout.is_zero()) {
            return self.failed(acquisition.busy());
        }
        let limits = AcquireLimits {
            until: self.update(State::wait_until),
            max_attempts: self.max_attempts,
        };
        let began = Instant::now();
        let result = acquisition.wait(limits);
        self.update(|state| state.has_waited(began.elapsed(), result.is_err()));
        match result {
            Ok(lease) => {
                self.update(|state| state.install_lease(lease, HoldState::Parked));
                true
            }
            Err(error) => self.failed(error),
        }
    }

    /// Sleeps a little, unless the time is up: the statement's, or the lease's where one is held.
    fn pause(&self, first_pause: Duration) -> bool {
        let now = Instant::now();
        let (pause, until) = self.update(|state| {
            let poll = state.wait.poll.get_or_insert_with(|| Poll {
                since: now,
                pauses: 0,
                backoff: Backoff::new(first_pause),
            });
            poll.pauses += 1;
            let pause = poll.backoff.next_pause(None, &mut fastrand::Rng::new());
            (pause.max(first_pause / 4), state.wait_until())
        });
        let left = until.saturating_duration_since(now);
        let lease_left = self.with_lease(|lease| lease.remaining());
        if pause >= lease_left.map_or(left, |lease_left| left.min(lease_left)) {
            return self.give_up();
        }
        thread::sleep(pause);
        true
    }

    /// Ends a wait in vain: SQLite will report that the database is busy.
    fn give_up(&self) -> bool {
        self.update(|state| {
            let poll = state.wait.poll.take();
            state.fail_first(LockError::FileLocked {
                lock: self.name.clone(),
                waited: poll.map_or(Duration::ZERO, |poll| poll.since.elapsed()),
            });
            state.end_wait();
        });
        self.release_unless_in_use();
        false
    }
}
