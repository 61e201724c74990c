//! The lease taken ahead of a transaction, and kept over several.

use std::time::{Duration, Instant};

use super::lock::WriteLock;
use super::state::{HoldState, PinId, State};
use crate::error::LockError;
use crate::lease::Lease;
use crate::lease::acquire::{AcquireLimits, Attempt};

/// How long to wait for the lease, and in which steps.
#[derive(Debug, Clone, Copy)]
struct Patience {
    limits: AcquireLimits,
    /// Until when to wait for the first answer.
    answer_until: Instant,
    /// After how long to ask whether the lease is still wanted.
    round: Option<Duration>,
}

impl WriteLock {
    /// Acquires the lease ahead of a transaction, waiting for it, not beyond `limit` if there is
    /// one, and keeps it until [`unpin`](Self::unpin).
    pub(crate) fn pin(&self, limit: Option<Instant>) -> Result<PinId, LockError> {
        let (until, answer_until) = self.times();
        let patience = Patience {
            limits: AcquireLimits {
                until: limit.map_or(until, |limit| limit.min(until)),
                max_attempts: self.max_attempts,
            },
            answer_until: limit.map_or(answer_until, |limit| limit.min(answer_until)),
            round: None,
        };
        match self.pin_patiently(patience, |_, _| true)? {
            Some(pin) => Ok(pin),
            None => Err(self.lease_lost("it is not wanted any more")),
        }
    }

    /// As [`pin`](Self::pin), for as long as migrations wait, and asks now and then, with why there is
    /// no lease yet and how long it was waited for, whether it is still wanted; not pinned if it is
    /// not.
    #[cfg(feature = "migrations")]
    pub(crate) fn pin_while(
        &self,
        wanted: impl FnMut(&LockError, Duration) -> bool,
    ) -> Result<Option<PinId>, LockError> {
        /// Long against a request, short for who waits for somebody else's migration.
        const ROUND: Duration = Duration::from_millis(250);
        let (_, answer_until) = self.times();
        let until = Instant::now() + self.migration_timeout;
        let deadline = self.update(|state| state.deadline);
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        let patience = Patience {
            limits: AcquireLimits {
                until,
                max_attempts: None,
            },
            answer_until: answer_until.min(until),
            round: Some(ROUND),
        };
        self.pin_patiently(patience, wanted)
    }

    /// Until when a wait that begins now goes on, and until when for its first answer.
    fn times(&self) -> (Instant, Instant) {
        self.update(|state| {
            // What an earlier acquisition has waited is no concern of this one.
            state.end_wait();
            state.notices.error = None;
            let times = (state.wait_until(), state.answer_until());
            state.end_wait();
            times
        })
    }

    fn pin_patiently(
        &self,
        patience: Patience,
        wanted: impl FnMut(&LockError, Duration) -> bool,
    ) -> Result<Option<PinId>, LockError> {
        match self.with_lease(|lease| lease.loss()) {
            Some(None) => {}
            Some(Some(loss)) => {
                self.update(|state| state.lost(loss.clone()));
                return Err(loss);
            }
            None => {
                self.check_deadline()?;
                match self.acquire(patience, wanted) {
                    Ok(Some(lease)) => {
                        self.update(|state| state.install_lease(lease, HoldState::Parked));
                    }
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        self.update(|state| state.fail(error.clone()));
                        return Err(error);
                    }
                }
            }
        }
        Ok(Some(self.update(State::pin)))
    }

    /// The lease, or none if it is no longer wanted, which is asked after each round of waiting.
    fn acquire(
        &self,
        patience: Patience,
        mut wanted: impl FnMut(&LockError, Duration) -> bool,
    ) -> Result<Option<Lease>, LockError> {
        const LONGEST_ROUND: Duration = Duration::from_secs(4);
        let Patience {
            limits,
            answer_until,
            mut round,
        } = patience;
        let mut acquisition = self.client.begin_named(self.name.clone());
        let begun = Instant::now();
        let give_up_after = answer_until.saturating_duration_since(begun);
        let can_wait = limits.until > begun;
        let first = match can_wait {
            true => acquisition.try_in_turn(give_up_after),
            false => acquisition.try_once(give_up_after),
        };
        match first {
            Ok(Attempt::Granted(lease)) => return Ok(Some(lease)),
            Ok(Attempt::Refused { .. }) if !can_wait => return Err(acquisition.busy()),
            Err(error) if !can_wait || !error.is_retryable() => return Err(error),
            Ok(Attempt::Refused { .. }) | Err(_) => {}
        }
        // A holder may be waited for, a store that is silent no longer than by any statement.
        let mut silent_since = begun;
        let mut attempts = acquisition.busy().attempts();
        loop {
            let began = Instant::now();
            let end_of_round = round.map_or(limits.until, |round| limits.until.min(began + round));
            let result = acquisition.wait(AcquireLimits {
                until: end_of_round,
                ..limits
            });
            self.update(|state| state.has_waited(began.elapsed(), result.is_err()));
            let error = match result {
                Ok(lease) => return Ok(Some(lease)),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            acquisition.leave_queue();
            if !wanted(&error, begun.elapsed()) {
                return Ok(None);
            }
            if matches!(error, LockError::Busy { .. }) {
                silent_since = Instant::now();
                // Too short for an answer from far away, it would never be asked.
                if error.attempts() == attempts {
                    round = round.map(|round| (round * 2).min(LONGEST_ROUND));
                }
                attempts = error.attempts();
            }
            if end_of_round >= limits.until || silent_since.elapsed() >= self.timeout() {
                return Err(error);
            }
        }
    }

    /// Lets the lease end with the transaction, or now if none is under way.
    pub(crate) fn unpin(&self, pin: PinId) {
        self.release(self.update(|state| state.unpin(pin)));
    }

    /// As [`unpin`](Self::unpin), but returns why the lease could not be released.
    pub(crate) fn try_unpin(&self, pin: PinId) -> Result<(), LockError> {
        let lease = self.update(|state| state.unpin(pin));
        self.try_release(lease)
    }

    /// Ends all pins and releases the lease, unless a transaction has it.
    #[cfg(feature = "r2d2")]
    pub(crate) fn unpin_all(&self) {
        self.release(self.update(State::unpin_all));
    }

    /// Ends one pin of the lease in hand.
    #[cfg(test)]
    pub(crate) fn unpin_current(&self) {
        self.unpin(self.look(State::current_pin));
    }
}
