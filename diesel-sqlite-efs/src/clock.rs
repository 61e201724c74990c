//! The one source of time, so that tests can hold it still or let it jump.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest that anybody waits: a moment so far away can still be computed.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Both clocks of this host, read at one moment.
///
/// A lease is over as soon as *either* clock says so: the monotonic one may stand still while a
/// sandbox is frozen, the wall clock may be stepped by NTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since some fixed, arbitrary point; never goes back.
    pub monotonic: Duration,
    /// Time since the Unix epoch, as this host believes it to be.
    pub wall: Duration,
}

impl Moment {
    /// The longer of the two times that have passed since `earlier`; zero where a clock went back.
    pub fn elapsed_since(&self, earlier: Moment) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        let wall = self.wall.saturating_sub(earlier.wall);
        monotonic.max(wall)
    }
}

/// Where the crate reads the time from: this host's clocks, or a clock that a test moves.
///
/// Cloning is cheap; clones of a manual clock show the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Mutex<Moment>>),
}

impl Clock {
    /// The host's monotonic and wall clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`advance`](Self::advance) or [`set`](Self::set) moves it.
    pub fn manual(start: Moment) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(start))))
    }

    /// One that shows 1,000,000 s since the Unix epoch.
    #[cfg(test)]
    pub(crate) fn standing_still() -> Self {
        Self::manual(Moment {
            monotonic: Duration::ZERO,
            wall: Duration::from_secs(1_000_000),
        })
    }

    /// Both clocks now.
    pub fn now(&self) -> Moment {
        /// One for the process: connections compare moments when they hand a lease on.
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.0 {
            Source::System => Moment {
                monotonic: ORIGIN.elapsed(),
                wall: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            },
            Source::Manual(moment) => *moment.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Whether both show the same time, so that moments read from one mean the same to the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::System, Source::System) => true,
            (Source::Manual(ours), Source::Manual(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }

    /// Lets the same time pass on both clocks of a manual clock; no effect on the system's.
    pub fn advance(&self, time: Duration) {
        let now = self.now();
        self.set(Moment {
            monotonic: now.monotonic + time,
            wall: now.wall + time,
        });
    }

    /// Sets both clocks of a manual clock, forwards or back; no effect on the system's.
    pub fn set(&self, moment: Moment) {
        if let Source::Manual(current) = &self.0 {
            *current.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock::system",
            Source::Manual(_) => "Clock::manual",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_is_the_longer_of_the_two_clocks() {
        let second = Duration::from_secs;
        let start = Moment {
            monotonic: second(5),
            wall: second(1_000),
        };
        let frozen = Moment {
            monotonic: second(6),
            wall: second(1_060),
        };
        let stepped_back = Moment {
            monotonic: second(9),
            wall: second(400),
        };
        assert_eq!(frozen.elapsed_since(start), second(60));
        assert_eq!(stepped_back.elapsed_since(start), second(4));
    }

    #[test]
    fn clones_of_a_manual_clock_show_the_same_time() {
        let clock = Clock::manual(Moment {
            monotonic: Duration::ZERO,
            wall: Duration::from_secs(7),
        });
        let twin = clock.clone();
        clock.advance(Duration::from_secs(3));
        assert_eq!(twin.now().wall, Duration::from_secs(10));
    }
}
