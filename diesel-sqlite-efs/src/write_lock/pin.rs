//! The lease taken ahead of a transaction, and kept over several.

use std::time::{Duration, Instant};

use super::lock::WriteLock;
use super::state::{HoldState, State};
use crate::error::LockError;
use crate::lease::Lease;
use crate::lease::acquire::AcquireLimits;

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
                let until = self.update(|state| {
                    // What an earlier acquisition has waited is no concern of this one.
                    state.end_wait();
                    let until = state.wait_until();
                    state.end_wait();
                    until
                });
                let limits = AcquireLimits {
                    until: limit.map_or(until, |limit| limit.min(until)),
                    max_attempts: self.max_attempts,
                };
                match self.acquire(limits, round, wanted) {
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
        round: Option<Duration>,
        mut wanted: impl FnMut() -> bool,
    ) -> Result<Option<Lease>, LockError> {
        let mut acquisition = self.client.begin_named(self.name.clone());
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
