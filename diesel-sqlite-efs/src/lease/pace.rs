//! When to ask for a lease again: the longer a waiter has waited, the more often it asks.
//!
//! Nobody keeps a list of those who wait. Each item tells how long its holder had to wait, so each
//! waiter knows about how long the wait is, and places its own asks by that: few while it is young,
//! most of them at the age at which others were served. The asks of one acquisition are therefore
//! about as many however many wait, and who has waited longest asks most. `docs/fairness.md` shows
//! what becomes of that; the simulation there includes this very file, which needs nothing of the
//! crate.

use std::time::{Duration, Instant};

/// The numbers of the policy; [`CHOSEN`](Self::CHOSEN) are the ones in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tuning {
    /// How many asks a waiter has placed by the time it has waited as long as others did.
    pub(crate) asks: f64,
    /// The asks placed grow with this power of the age.
    pub(crate) power: f64,
    /// Each step to the next ask is drawn evenly from one less this to one plus this.
    pub(crate) spread: f64,
    /// An age counts for no more than this many usual waits.
    pub(crate) oldest: f64,
    /// What a holder's own wait weighs in what its item tells; the rest is what it knew before.
    pub(crate) gain: f64,
    /// A pause is at least this share of the time that the same holder has been in the way; less
    /// while that is short against the usual wait.
    pub(crate) patience: f64,
    /// Who has been due for long has misjudged how many wait: a pause is then at least this share of
    /// the age beyond [`oldest`](Self::oldest) times that at which it was first due.
    pub(crate) humility: f64,
    /// The most that is added to a pause for that.
    pub(crate) humblest: Duration,
    /// A pause is at most this, or the share below of the usual wait or of our own time.
    pub(crate) longest: Duration,
    /// See [`longest`](Self::longest).
    pub(crate) longest_share: f64,
}

impl Tuning {
    /// Found by sweeps over waiters, round trips and holds: the fewest requests that serve as many
    /// as exponential backoff did, with an even share for each.
    pub(crate) const CHOSEN: Self = Self {
        asks: 2.0,
        power: 14.0,
        spread: 0.4,
        oldest: 2.0,
        gain: 0.25,
        patience: 0.25,
        humility: 0.5,
        humblest: Duration::from_millis(30),
        longest: Duration::from_millis(250),
        longest_share: 0.5,
    };

    /// One, more or less.
    fn step(&self, random: &mut fastrand::Rng) -> f64 {
        1.0 + self.spread * (2.0 * random.f64() - 1.0)
    }

    /// The age for the next ask of one who asked at `age`, where others had waited for `wait`.
    ///
    /// With `asks * (age / wait) ^ power` placed by any age, the next one is due when that has
    /// grown by one, more or less.
    fn next_age(&self, age: f64, wait: f64, random: &mut fastrand::Rng) -> f64 {
        let step = self.step(random);
        wait * ((age / wait).powf(self.power) + step / self.asks).powf(1.0 / self.power)
    }
}

/// What a process remembers of its last acquisition of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experience {
    /// The wait that was usual then.
    wait: Duration,
    ended: Instant,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Granted at the first ask: nobody else was there.
    GrantedAtOnce,
    /// Granted while others waited, as far as can be told.
    GrantedInTurn,
    /// In vain, after a wait that began then.
    GaveUp { since: Instant },
}

impl Experience {
    /// Whether those who waited then may wait still.
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ended) <= self.wait * 2
    }
}

/// A refused ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) sent: Instant,
    /// What the item in the way tells of its holder's wait.
    pub(crate) waited: Option<Duration>,
    /// Our last ask was refused for the same holder.
    pub(crate) same_holder: bool,
}

/// The asks of one acquisition.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    tuning: Tuning,
    begun: Instant,
    /// When this process began to want the lease; an acquisition given up counts.
    since: Instant,
    /// When this process last had the lease, if it owes others their turn.
    served: Option<Instant>,
    /// The wait that is usual now, if anybody has told.
    wait: Option<Duration>,
    was_refused: bool,
    /// When the holder in the way was first met.
    met: Option<Instant>,
    /// The age at which it first asked as one who has waited as long as others did.
    due: Option<f64>,
}

impl Pace {
    /// No item is believed that tells of a longer wait.
    const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

    pub(crate) fn new(tuning: Tuning, begun: Instant, last: Option<Experience>) -> Self {
        let last = last.filter(|last| last.is_recent(begun));
        let outcome = last.map(|last| last.outcome);
        Self {
            tuning,
            begun,
            since: match outcome {
                Some(Outcome::GaveUp { since }) => since,
                _ => begun,
            },
            served: (last.filter(|_| outcome == Some(Outcome::GrantedInTurn)))
                .map(|last| last.ended),
            wait: last.map(|last| last.wait),
            was_refused: false,
            met: None,
            due: None,
        }
    }

    /// When to ask for the first time, if not at once.
    ///
    /// Who had the lease just now, and had to wait for it, takes its place behind the others; but
    /// they may have left, so it does not hold back for long.
    pub(crate) fn first_ask(&self, random: &mut fastrand::Rng) -> Option<Instant> {
        let (Some(wait), false) = (self.wait.filter(|wait| !wait.is_zero()), self.was_refused)
        else {
            return None;
        };
        let from = match self.served {
            Some(served) => served,
            None if self.since < self.begun => self.since,
            None => return None,
        };
        let age = self.tuning.next_age(0.0, wait.as_secs_f64(), random);
        let due = from + Duration::from_secs_f64(age);
        (due > self.begun).then(|| due.min(self.begun + self.tuning.longest))
    }

    /// When to ask again, if anything is known about the others. `until` is when our time is up.
    pub(crate) fn next_ask(
        &mut self,
        refusal: &Refusal,
        now: Instant,
        until: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Instant> {
        self.was_refused = true;
        if !refusal.same_holder {
            self.met = Some(refusal.sent);
        }
        let told = refusal.waited.map(|waited| waited.min(Self::LONGEST_WAIT));
        self.wait = told.or(self.wait);
        let wait = self.wait?.as_secs_f64();
        let tuning = self.tuning;
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();

        // It asked at this age, which was answered later. Nobody has waited for no time at all, and a
        // holder that stays makes the wait longer than it told.
        let age = seconds(self.since, refusal.sent);
        let met = seconds(self.met.unwrap_or(refusal.sent), now);
        let wait = wait
            .max(met)
            .max(seconds(self.since, now) / tuning.oldest)
            .max(1e-6);
        let mut pause = tuning.next_age(age, wait, random) - age;
        if age >= wait {
            let due = *self.due.get_or_insert(age);
            let humble = (age - due * tuning.oldest) * tuning.humility;
            let humblest = tuning.humblest.as_secs_f64();
            pause = pause.max(humble.min(humblest) * tuning.step(random));
        }
        // Whose time is nearly up asks as one who has waited as long as others did.
        let time = seconds(self.begun, until);
        if time > 0.0 {
            let age = seconds(self.begun, refusal.sent);
            pause = pause.min(tuning.next_age(age, time, random) - age);
        }
        let longest = tuning.longest.as_secs_f64();
        pause = pause.min(longest.max(wait.min(time) * tuning.longest_share));
        // A holder that stays is asked less and less often, down to the longest pause.
        let shortest = (met * tuning.patience * (met / wait).min(1.0)).min(longest);
        // By rounding it may be a little less than nothing.
        let next = refusal.sent + Duration::from_secs_f64(pause.max(0.0));
        Some(next.max(now + Duration::from_secs_f64(shortest)))
    }

    /// What an item put now tells others: how long who gets the lease has to wait.
    pub(crate) fn usual_wait(&self, now: Instant) -> Duration {
        let own = now.saturating_duration_since(self.since);
        match self.wait {
            Some(wait) => wait.mul_f64(1.0 - self.tuning.gain) + own.mul_f64(self.tuning.gain),
            None => own,
        }
    }

    /// The lease was granted by an item that tells `wait`.
    pub(crate) fn granted(&self, wait: Duration, now: Instant) -> Experience {
        Experience {
            wait,
            ended: now,
            outcome: match self.was_refused {
                true => Outcome::GrantedInTurn,
                false => Outcome::GrantedAtOnce,
            },
        }
    }

    /// The time was up; nothing to remember if nobody has told how long others waited.
    pub(crate) fn gave_up(&self, now: Instant) -> Option<Experience> {
        Some(Experience {
            wait: self.wait?,
            ended: now,
            outcome: Outcome::GaveUp { since: self.since },
        })
    }
}

#[cfg(test)]
#[path = "pace/properties.rs"] // From wherever this file is included.
mod properties;

#[cfg(test)]
#[path = "pace/tests.rs"]
mod tests;
