//! When to ask for a lease again: the longer a waiter has waited, the more often it asks.
//!
//! There is no list of those who wait. Each item says how long its holder had to wait, so each waiter
//! knows about how long the wait is, and places its own asks by that: few while it is young, most of
//! them at the age at which others were served. So an acquisition asks about as often however many
//! wait, and the one that has waited longest asks most. `docs/fairness.md` shows what comes of that;
//! its simulation runs this code.

use std::time::{Duration, Instant};

/// The numbers of the policy; [`CHOSEN`](Self::CHOSEN) are the ones in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// How many asks a waiter has placed by the time it has waited as long as others did.
    pub asks: f64,
    /// The asks placed grow with this power of the age.
    pub power: f64,
    /// Each step to the next ask is drawn evenly from one less this to one plus this.
    pub spread: f64,
    /// An age counts for no more than this many usual waits.
    pub oldest: f64,
    /// What a holder's own wait weighs in what its item tells; the rest is what it knew before.
    pub gain: f64,
    /// A pause is at least this share of the time that the same holder has been in the way; less
    /// while that is short against the usual wait.
    pub same_holder_backoff: f64,
    /// A waiter that has been due for long has misjudged how many wait: a pause is then at least this
    /// share of the age beyond [`oldest`](Self::oldest) times that at which it was first due.
    pub overdue_backoff: f64,
    /// No pause is made longer than this by [`overdue_backoff`](Self::overdue_backoff).
    pub longest_overdue_backoff: Duration,
    /// A pause is at most this, or the share below of the usual wait or of our own time.
    pub longest: Duration,
    /// See [`longest`](Self::longest).
    pub longest_share: f64,
}

impl Tuning {
    /// Found by sweeps over waiters, round trips and holds: the fewest requests that serve as many
    /// as exponential backoff did, with an even share for each.
    pub const CHOSEN: Self = Self {
        asks: 2.0,
        power: 14.0,
        spread: 0.4,
        oldest: 2.0,
        gain: 0.25,
        same_holder_backoff: 0.25,
        overdue_backoff: 0.5,
        longest_overdue_backoff: Duration::from_millis(30),
        longest: Duration::from_millis(250),
        longest_share: 0.5,
    };

    /// One, more or less.
    #[inline]
    fn step(&self, random: &mut fastrand::Rng) -> f64 {
        1.0 + self.spread * (2.0 * random.f64() - 1.0)
    }

    /// The age for the next ask of one who asked at `age`, where others had waited for `wait`.
    ///
    /// With `asks * (age / wait) ^ power` placed by any age, the next one is due when that has
    /// grown by one, more or less.
    #[inline]
    fn next_age(&self, age: f64, wait: f64, random: &mut fastrand::Rng) -> f64 {
        let step = self.step(random);
        wait * ((age / wait).powf(self.power) + step / self.asks).powf(1.0 / self.power)
    }
}

/// What a process remembers of its last acquisition of a key.
#[derive(Debug, Clone, Copy)]
pub struct RecentWait {
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

impl RecentWait {
    /// Whether those who waited then may wait still.
    #[inline]
    pub fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ended) <= self.wait * 2
    }
}

/// A refused ask.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// When it was asked.
    pub sent: Instant,
    /// How long its holder had waited, as the item in the way says.
    pub waited: Option<Duration>,
    /// Our last ask was refused for the same holder.
    pub same_holder: bool,
}

/// The asks of one acquisition.
#[derive(Debug, Clone)]
pub struct WaitPolicy {
    tuning: Tuning,
    begun: Instant,
    /// When this process began to want the lease; an acquisition given up counts.
    since: Instant,
    /// When this process last had the lease, if it owes others their turn.
    served: Option<Instant>,
    /// The wait that is usual now, if any item has announced it.
    wait: Option<Duration>,
    was_refused: bool,
    /// When the holder in the way was first met.
    met: Option<Instant>,
    /// The age at which it first asked as one who has waited as long as others did.
    due: Option<f64>,
}

impl WaitPolicy {
    /// An item that says it waited longer is not believed.
    const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

    /// The policy of an acquisition that begins now, after the `last` one of this process.
    #[inline]
    pub fn new(tuning: Tuning, begun: Instant, last: Option<RecentWait>) -> Self {
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
    /// A process that had the lease just now, and had to wait for it, takes its place behind the
    /// others; but they may have left, so it does not hold back for long.
    #[inline]
    pub fn first_ask(&self, random: &mut fastrand::Rng) -> Option<Instant> {
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
    #[inline]
    pub fn next_ask(
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
        let announced = refusal.waited.map(|waited| waited.min(Self::LONGEST_WAIT));
        self.wait = announced.or(self.wait);
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
            let backoff = (age - due * tuning.oldest) * tuning.overdue_backoff;
            let longest = tuning.longest_overdue_backoff.as_secs_f64();
            pause = pause.max(backoff.min(longest) * tuning.step(random));
        }
        // A waiter whose time is nearly up asks like one that has waited as long as others did.
        let time = seconds(self.begun, until);
        if time > 0.0 {
            let age = seconds(self.begun, refusal.sent);
            pause = pause.min(tuning.next_age(age, time, random) - age);
        }
        let longest = tuning.longest.as_secs_f64();
        pause = pause.min(longest.max(wait.min(time) * tuning.longest_share));
        // A holder that stays is asked less and less often, down to the longest pause.
        let shortest = (met * tuning.same_holder_backoff * (met / wait).min(1.0)).min(longest);
        // By rounding it may be a little less than nothing.
        let next = refusal.sent + Duration::from_secs_f64(pause.max(0.0));
        Some(next.max(now + Duration::from_secs_f64(shortest)))
    }

    /// The wait for the lease that an item put now announces to the others.
    #[inline]
    pub fn usual_wait(&self, now: Instant) -> Duration {
        let own = now.saturating_duration_since(self.since);
        match self.wait {
            Some(wait) => wait.mul_f64(1.0 - self.tuning.gain) + own.mul_f64(self.tuning.gain),
            None => own,
        }
    }

    /// The lease was granted by an item that announces `wait`.
    #[inline]
    pub fn granted(&self, wait: Duration, now: Instant) -> RecentWait {
        RecentWait {
            wait,
            ended: now,
            outcome: match self.was_refused {
                true => Outcome::GrantedInTurn,
                false => Outcome::GrantedAtOnce,
            },
        }
    }

    /// The time was up. Nothing to remember if no item has said how long others waited.
    #[inline]
    pub fn gave_up(&self, now: Instant) -> Option<RecentWait> {
        Some(RecentWait {
            wait: self.wait?,
            ended: now,
            outcome: Outcome::GaveUp { since: self.since },
        })
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
