//! What happens to the processes: all of it drawn from one seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use integration::proxy::{Action, Answer, Date, Operation, Rule};

use crate::worker::LEASE;

/// How long a request or its answer may be on its way.
pub(crate) const LONGEST_DELAY: Duration = LEASE.saturating_add(Duration::from_secs(1));

#[derive(Debug)]
pub(crate) struct Chaos {
    random: Rng,
    /// How many processes it can happen to.
    processes: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Blow {
    /// SIGKILL, and another process in its place.
    Kill { process: usize },
    /// It gets no more memory, and another process takes its place a little later.
    Starve { process: usize },
    /// SIGSTOP, mostly for longer than a lease, then SIGCONT.
    Pause { process: usize, time: Duration },
    /// The process's wall clock is off by so many seconds from now on.
    Step { process: usize, seconds: i64 },
    /// The next requests to DynamoDB meet this.
    Fault { name: &'static str, rule: Rule },
    /// DynamoDB is away.
    Outage { time: Duration },
}

impl Chaos {
    pub(crate) fn new(seed: u64, processes: usize) -> Self {
        Self {
            random: Rng::with_seed(seed),
            processes,
        }
    }

    /// The next blow, and how long after the one before.
    pub(crate) fn next(&mut self) -> (Duration, Blow) {
        let after = self.time(0.1, 0.9);
        let process = self.random.usize(..self.processes);
        let blow = match self.random.u8(..100) {
            0..20 => Blow::Kill { process },
            20..25 => Blow::Starve { process },
            25..45 => Blow::Pause {
                process,
                time: LEASE.mul_f64(0.5 + 1.5 * self.random.f64()),
            },
            45..60 => Blow::Step {
                process,
                seconds: [0, 1, -1, 5, -5, 3_600, -3_600][self.random.usize(..7)],
            },
            60..97 => self.fault(),
            _ => Blow::Outage {
                time: self.time(0.5, 4.0),
            },
        };
        (after, blow)
    }

    fn fault(&mut self) -> Blow {
        let (name, action) = match self.random.u8(..11) {
            0 => ("silence", Action::Silence),
            1 => ("cut", Action::Cut),
            2 => ("delay", Action::Delay(self.time(0.05, 1.0))),
            3 => (
                "delay beyond the lease",
                Action::Delay(LONGEST_DELAY - self.time(0.0, 1.0)),
            ),
            4 => ("answer cut", Action::CutAnswer),
            5 => ("answer lost", Action::SilenceAnswer),
            6 => ("duplicate", Action::Duplicate),
            7 => ("no date", Action::Date(Date::Absent)),
            8 => ("throttled", Action::Answer(Answer::throttled())),
            9 => ("500", Action::Answer(Answer::internal_error())),
            _ => (
                "500 in place of the answer",
                Action::ReplaceAnswer(Answer::internal_error()),
            ),
        };
        let rule = match self.random.u8(..4) {
            0 => Rule::on(Operation::DeleteItem, action),
            1 | 2 => Rule::put(action),
            _ => Rule::any(action),
        };
        Blow::Fault {
            name,
            rule: rule.next(self.random.u64(1..=3)),
        }
    }

    fn time(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + (most - least) * self.random.f64())
    }
}

impl Blow {
    /// Whom it hits, if it is a process.
    pub(crate) fn process(&self) -> Option<usize> {
        match self {
            Self::Kill { process }
            | Self::Starve { process }
            | Self::Pause { process, .. }
            | Self::Step { process, .. } => Some(*process),
            Self::Fault { .. } | Self::Outage { .. } => None,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { process } => write!(f, "process {process} killed"),
            Self::Starve { process } => write!(f, "process {process} starved"),
            Self::Pause { process, time } => write!(f, "process {process} stopped for {time:.1?}"),
            Self::Step { process, seconds } => write!(f, "process {process}'s clock {seconds:+} s"),
            Self::Fault { name, .. } => write!(f, "fault: {name}"),
            Self::Outage { time } => write!(f, "DynamoDB away for {time:.1?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_what_happens() {
        let blows = |seed| {
            let mut chaos = Chaos::new(seed, 6);
            let blow = |_| {
                let (after, blow) = chaos.next();
                format!("{after:?} {blow}")
            };
            (0..200).map(blow).collect::<Vec<_>>()
        };
        assert_eq!(blows(1), blows(1));
        assert_ne!(blows(1), blows(2));
        let kinds = ["killed", "starved", "stopped", "clock", "fault", "away"];
        assert!(
            kinds
                .iter()
                .all(|kind| blows(1).iter().any(|blow| blow.contains(kind)))
        );
    }
}
