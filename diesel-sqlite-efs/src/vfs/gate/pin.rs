//! The lease taken ahead of a transaction, and kept over several.

use std::time::{Duration, Instant};

use super::{Gate, Tenure};
use crate::error::LockError;
use crate::lease::Lease;
use crate::lease::acquire::AcquireLimits;

impl Gate {
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
        let mut state = self.state();
        if let Some(hold) = &state.hold {
            if let Some(loss) = hold.lease.loss() {
                state.lost(loss.clone());
                return Err(loss);
            }
        } else {
            self.check_deadline(&state)?;
            // What an earlier acquisition has waited is no concern of this one.
            state.until = None;
            let mut limits = state.limits(self.max_attempts);
            limits.until = limit.map_or(limits.until, |limit| limit.min(limits.until));
            drop(state);
            let result = self.acquire(limits, round, wanted);
            state = self.state();
            match result {
                Ok(Some(lease)) => state.take_up(lease, Tenure::Parked),
                Ok(None) => {
                    state.until = None;
                    return Ok(false);
                }
                Err(error) => {
                    state.error = Some(error.clone());
                    return Err(error);
                }
            }
            state.until = None;
        }
        state.pins += 1;
        Ok(true)
    }

    /// The lease, or none if it is no longer wanted, which is asked after each round of waiting.
    fn acquire(
        &self,
        limits: AcquireLimits,
        round: Option<Duration>,
        mut wanted: impl FnMut() -> bool,
    ) -> Result<Option<Lease>, LockError> {
        let mut acquisition = self.client.begin(&self.lock.key);
        let give_up_after = limits.until.saturating_duration_since(Instant::now());
        if let Some(lease) = acquisition.try_before_waiting(give_up_after)? {
            return Ok(Some(lease));
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
            self.state().has_waited(began, result.is_err());
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
        let mut state = self.state();
        // Zero already if the file was closed meanwhile, through `sqlite()`.
        state.pins = state.pins.saturating_sub(1);
        state.unpark();
    }
}
