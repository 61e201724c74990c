//! The policies: what a process knows, and when it asks.

use std::time::{Duration, Instant};

use diesel_sqlite_efs::testing::{Backoff, RecentWait, Refusal, Tuning, WaitPolicy};

/// By what rule a process asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy(Kind);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Paced(Tuning),
    Backoff,
    Python,
}

impl Policy {
    /// The crate's.
    pub const PACED: Self = Self(Kind::Paced(Tuning::CHOSEN));
    /// The crate's before that: exponential backoff with full jitter.
    pub const BACKOFF: Self = Self(Kind::Backoff);
    /// The Python package's: pauses of 50, 100, 150 ms and so on, ten attempts at most. It does not
    /// confirm its commits, and its items say nothing about waits.
    pub const PYTHON: Self = Self(Kind::Python);

    /// The crate's with other numbers, by the names of its fields; times in seconds.
    ///
    /// # Errors
    /// The name that is unknown.
    pub fn tuned(numbers: &[(&str, f64)]) -> Result<Self, String> {
        let mut tuning = Tuning::CHOSEN;
        for &(name, value) in numbers {
            match name {
                "asks" => tuning.asks = value,
                "power" => tuning.power = value,
                "spread" => tuning.spread = value,
                "oldest" => tuning.oldest = value,
                "gain" => tuning.gain = value,
                "same_holder_backoff" => tuning.same_holder_backoff = value,
                "longest_overdue_backoff" => {
                    tuning.longest_overdue_backoff = Duration::from_secs_f64(value)
                }
                "overdue_backoff" => tuning.overdue_backoff = value,
                "longest" => tuning.longest = Duration::from_secs_f64(value),
                "longest_share" => tuning.longest_share = value,
                _ => return Err(format!("the policy has no `{name}`")),
            }
        }
        Ok(Self(Kind::Paced(tuning)))
    }

    /// The name used in tables and plots.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Paced(_) => "paced",
            Kind::Backoff => "backoff",
            Kind::Python => "Python package",
        }
    }

    /// Whether a holder asks the store before it commits, and holds the lease until the answer.
    pub(crate) fn confirms_commits(&self) -> bool {
        self.0 != Kind::Python
    }

    pub(crate) fn waiter(&self, random: fastrand::Rng) -> Waiter {
        let (begun, until) = (Instant::now(), Instant::now());
        Waiter {
            kind: self.0,
            random,
            recent_wait: None,
            acquisition: Acquisition {
                until,
                policy: WaitPolicy::new(Tuning::CHOSEN, begun, None),
                backoff: None,
                holder: None,
                attempts: 0,
            },
        }
    }
}

/// One process: what it remembers, and its acquisition.
///
/// What it does with the crate's policy is what `lease/acquire.rs` does.
#[derive(Debug)]
pub(crate) struct Waiter {
    kind: Kind,
    random: fastrand::Rng,
    recent_wait: Option<RecentWait>,
    acquisition: Acquisition,
}

#[derive(Debug)]
struct Acquisition {
    until: Instant,
    policy: WaitPolicy,
    backoff: Option<Backoff>,
    /// Who was in the way at the last ask that was answered.
    holder: Option<u64>,
    attempts: u32,
}

/// What an answer tells of the item in the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CurrentHolder {
    pub(crate) holder: u64,
    pub(crate) waited: Option<Duration>,
}

impl Waiter {
    /// A new acquisition; when to ask first.
    pub(crate) fn begin(&mut self, now: Instant, until: Instant) -> Instant {
        let tuning = match self.kind {
            Kind::Paced(tuning) => tuning,
            Kind::Backoff | Kind::Python => Tuning::CHOSEN,
        };
        self.acquisition = Acquisition {
            until,
            policy: WaitPolicy::new(tuning, now, self.recent_wait),
            backoff: None,
            holder: None,
            attempts: 0,
        };
        let first_ask = match self.kind {
            Kind::Paced(_) => self.acquisition.policy.first_ask(&mut self.random),
            Kind::Backoff | Kind::Python => None,
        };
        first_ask.unwrap_or(now)
    }

    /// What an item that is put now tells.
    pub(crate) fn usual_wait(&self, now: Instant) -> Option<Duration> {
        match self.kind {
            Kind::Paced(_) => Some(self.acquisition.policy.usual_wait(now)),
            Kind::Backoff | Kind::Python => None,
        }
    }

    /// When to ask again after an ask that was refused, or, with nothing in the way, throttled.
    /// None: the time is up.
    pub(crate) fn next_ask(
        &mut self,
        sent: Instant,
        now: Instant,
        current_holder: Option<CurrentHolder>,
    ) -> Option<Instant> {
        let acquisition = &mut self.acquisition;
        acquisition.attempts += 1;
        let round_trip = now.saturating_duration_since(sent);
        let left = acquisition.until.saturating_duration_since(now);
        if self.kind == Kind::Python {
            /// As configured unless otherwise said.
            const MOST_ATTEMPTS: u32 = 10;
            let pause = Duration::from_millis(50) * acquisition.attempts;
            let goes_on = acquisition.attempts < MOST_ATTEMPTS && pause < left;
            return goes_on.then_some(now + pause);
        }
        // The last attempt of all is made as late as its answer allows.
        let latest = left.saturating_sub(round_trip * 2);
        if latest.is_zero() {
            return None;
        }
        let backoff = (acquisition.backoff).get_or_insert_with(|| Backoff::new(round_trip));
        let mut next = now + backoff.next_pause(None, &mut self.random);
        if let (Kind::Paced(_), Some(current_holder)) = (self.kind, current_holder) {
            let refusal = Refusal {
                sent,
                waited: current_holder.waited,
                same_holder: acquisition.holder.replace(current_holder.holder)
                    == Some(current_holder.holder),
            };
            let (policy, until) = (&mut acquisition.policy, acquisition.until);
            next = (policy.next_ask(&refusal, now, until, &mut self.random)).unwrap_or(next);
        }
        Some(next.clamp(now, now + latest))
    }

    /// The item tells others `waited`.
    pub(crate) fn granted(&mut self, waited: Option<Duration>, now: Instant) {
        if let Some(waited) = waited {
            self.recent_wait = Some(self.acquisition.policy.granted(waited, now));
        }
    }

    pub(crate) fn gave_up(&mut self, now: Instant) {
        self.recent_wait = self.acquisition.policy.gave_up(now).or(self.recent_wait);
    }
}
