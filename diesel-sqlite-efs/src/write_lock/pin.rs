//! The lease taken ahead of a transaction, and kept over several.

use std::time::{Duration, Instant};

use super::lock::WriteLock;
use super::state::{HoldState, State};
use crate::error::LockError;
use crate::lease::Lease;
use crate::lease::acquire::{AcquireLimits, Attempt};

impl WriteLock {
    /// Acquires the lease ahead of a transaction, waiting for it, not beyond `limit` if there is
    /// one, and keeps it until [`unpin`](Self::unpin).
    pub(crate) fn pin(&self, limit: Option<Instant>) -> Result<(), LockError> {
        self.pin_in_rounds(limit, None, || true).map(drop)
    }

    /// As [`pin`](Self::pin), and asks now and then, while it waits, whether the lease is still
    /// wanted; not pinned if it is not.
    #[cfg(feature = "migrations")]
    pub(crate) fn pin_while(&self, wanted: impl FnMut() -> bool) -> Result<bool, LockError> {
        /// Long against a request, short for who waits for somebody else's migration.
        const ROUND: Duration = Duration::from_millis(250);
        self.pin_in_rounds(None, Some(ROUND), wanted)
    }

    fn pin_in_rounds(
        &self,
        limit: Option<Instant>,
        round: Option<Duration>,
        wanted: impl FnMut() -> bool,
    ) -> Result<bool, LockError> {
        match self.with_lease(|lease| lease.loss()) {
            Some(None) => {}
            Some(Some(loss)) => {
                self.update(|state| state.lost(loss.clone()));
                return Err(loss);
            }
            None => {
                self.check_deadline()?;
                let (until, answer_until) = self.update(|state| {
                    // What an earlier acquisition has waited is no concern of this one.
                    state.end_wait();
                    state.notices.error = None;
                    let times = (state.wait_until(), state.answer_until());
                    state.end_wait();
                    times
                });
                let limits = AcquireLimits {
                    until: limit.map_or(until, |limit| limit.min(until)),
                    max_attempts: self.max_attempts,
                };
                let answer_until = limit.map_or(answer_until, |limit| limit.min(answer_until));
                match self.acquire(limits, answer_until, round, wanted) {
                    Ok(Some(lease)) => {
                        self.update(|state| state.install_lease(lease, HoldState::Parked));
                    }
                    Ok(None) => return Ok(false),
                    Err(error) => {
                        self.update(|state| state.fail(error.clone()));
                        return Err(error);
                    }
                }
            }
        }
        self.update(State::pin);
        Ok(true)
    }

    /// The lease, or none if it is no longer wanted, which is asked after each round of waiting.
    fn acquire(
        &self,
        limits: AcquireLimits,
        answer_until: Instant,
        round: Option<Duration>,
        mut wanted: impl FnMut() -> bool,
    ) -> Result<Option<Lease>, LockError> {
        let mut acquisition = self.client.begin(&self.name.key);
        let now = Instant::now();
        let give_up_after = answer_until.saturating_duration_since(now);
        let can_wait = limits.until > now;
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
        loop {
            let end_of_round = match (round, limits.max_attempts) {
                (Some(round), None) => limits.until.min(Instant::now() + round),
                // Each round ends with an attempt: where they are counted there is but one.
                _ => limits.until,
            };
            let began = Instant::now();
            let result = acquisition.wait(AcquireLimits {
                until: end_of_round,
                ..limits
            });
            self.update(|state| state.has_waited(began.elapsed(), result.is_err()));
            match result {
                Ok(lease) => return Ok(Some(lease)),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => {
                    acquisition.leave_queue();
                    if !wanted() {
                        return Ok(None);
                    }
                    if end_of_round >= limits.until {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Lets the lease end with the transaction, or now if none is under way.
    pub(crate) fn unpin(&self) {
        self.update(State::unpin);
        self.release_unless_in_use();
    }
}
