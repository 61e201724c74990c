//! Waiting, in SQLite's busy handler: no file lock is held there.

use super::*;

impl Gate {
    /// Whether SQLite should try again. `first` begins a new wait.
    pub(crate) fn wait(&self, first: bool) -> bool {
        /// The first pause before file locks are asked for again: another's commit is short.
        const FILE_LOCK_POLL: Duration = Duration::from_millis(1);
        /// The first pause of a reader before it asks the store again whether it may roll back.
        const RECOVERY_POLL: Duration = Duration::from_millis(20);
        let mut state = self.state();
        if first {
            state.poll = None;
            if !matches!(state.block, Some(Block::Lease(_))) {
                // Nothing has been waited for yet; an earlier statement may have set it.
                state.until = None;
            }
        }
        match state.block.take() {
            Some(Block::Lease(mut acquisition)) => {
                let limits = state.limits(self.max_attempts);
                drop(state);
                let began = Instant::now();
                let result = acquisition.wait(limits);
                let mut state = self.state();
                state.has_waited(began, result.is_err());
                match result {
                    Ok(lease) => {
                        state.take_up(lease, Tenure::Parked);
                        true
                    }
                    Err(error) => {
                        state.error = Some(error);
                        state.until = None;
                        false
                    }
                }
            }
            Some(Block::Stale) if state.until() <= Instant::now() => self.give_up(state),
            Some(Block::Stale) => {
                state.error = None;
                state.set_tenure(Tenure::Parked);
                true
            }
            Some(Block::Recovery(mut error)) => {
                // Each attempt, one before the first pause and one after each, is an acquisition of
                // its own; the error speaks of all of them.
                if let (
                    Some(poll),
                    LockError::Busy {
                        waited, attempts, ..
                    },
                ) = (&state.poll, &mut error)
                {
                    *waited = poll.since.elapsed();
                    *attempts = poll.pauses + 1;
                }
                state.error = Some(error);
                let began = Instant::now();
                let again = self.pause(state, RECOVERY_POLL);
                self.state().has_waited(began, !again);
                again
            }
            Some(Block::File) | None => {
                state.error = None;
                self.pause(state, FILE_LOCK_POLL)
            }
            Some(Block::Fatal) => false,
        }
    }

    /// Sleeps a little, unless the time is up: the statement's, or the lease's where one is held.
    fn pause(&self, mut state: MutexGuard<'_, State>, first_pause: Duration) -> bool {
        let now = Instant::now();
        let poll = state.poll.get_or_insert_with(|| Poll {
            since: now,
            pauses: 0,
            backoff: Backoff::new(first_pause),
        });
        poll.pauses += 1;
        let pause = (poll.backoff.next_pause(None, &mut fastrand::Rng::new())).max(first_pause / 4);
        let mut left = state.until().saturating_duration_since(now);
        if let Some(hold) = &state.hold {
            left = left.min(hold.lease.remaining());
        }
        if pause >= left {
            return self.give_up(state);
        }
        drop(state);
        thread::sleep(pause);
        true
    }

    /// Ends a wait in vain: SQLite will report that the database is busy.
    fn give_up(&self, mut state: MutexGuard<'_, State>) -> bool {
        let waited = (state.poll.take()).map_or(Duration::ZERO, |poll| poll.since.elapsed());
        state.error.get_or_insert(LockError::FileLocked {
            lock: self.lock.clone(),
            waited,
        });
        state.until = None;
        state.unpark();
        false
    }
}
