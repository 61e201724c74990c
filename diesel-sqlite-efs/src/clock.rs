//! The only source of time, so that tests can stop it or let it jump.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest wait: a time this far away can still be computed.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A time as whole seconds of the Unix epoch, rounded down; zero before 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    (time.duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs())
}

/// This many seconds after the beginning of 1970, or the latest time that can be represented.
pub(crate) fn from_unix_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(i64::MAX.unsigned_abs()))
}

/// Both clocks of a host, read at the same time.
///
/// A lease is over as soon as *either* clock says so: the monotonic clock may stop while a sandbox
/// is frozen, and NTP may step the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timestamp {
    /// Time since some fixed, arbitrary point; never goes back.
    pub monotonic: Duration,
    /// Time since the Unix epoch, as this host believes it to be.
    pub wall: Duration,
}

impl Timestamp {
    /// `monotonic` since an arbitrary point, `wall` since the Unix epoch.
    pub const fn new(monotonic: Duration, wall: Duration) -> Self {
        Self { monotonic, wall }
    }

    /// The longer of the two times that have passed since `earlier`; zero where a clock went back.
    pub fn elapsed_since(&self, earlier: Timestamp) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        let wall = self.wall.saturating_sub(earlier.wall);
        monotonic.max(wall)
    }

    /// The wall clock's time.
    pub fn system_time(&self) -> SystemTime {
        UNIX_EPOCH + self.wall
    }
}

/// Where the crate reads the time from: this host's clocks, or a [`ManualClock`].
///
/// Cloning is cheap. Clones show the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(ManualClock),
}

impl Clock {
    /// The host's monotonic and wall clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Both clocks now.
    pub fn now(&self) -> Timestamp {
        /// One for the process: connections compare times when they hand off a lease.
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.0 {
            Source::System => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH);
                Timestamp::new(ORIGIN.elapsed(), wall.unwrap_or_default())
            }
            Source::Manual(clock) => clock.now(),
        }
    }

    /// Whether both show the same time, so that their times can be compared.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::System, Source::System) => true,
            (Source::Manual(ours), Source::Manual(theirs)) => {
                Arc::ptr_eq(&ours.current, &theirs.current)
            }
            _ => false,
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
        match &self.0 {
            Source::System => f.write_str("Clock::system"),
            Source::Manual(clock) => clock.fmt(f),
        }
    }
}

/// A clock for tests: it does not move until the test moves it.
///
/// Cloning is cheap. Clones, and the [`Clock`]s that [`clock`](Self::clock) returns, show the same
/// time.
///
/// ```
/// use std::time::Duration;
/// use diesel_sqlite_efs::{ManualClock, Timestamp};
///
/// let time = ManualClock::new(Timestamp::new(Duration::ZERO, Duration::from_secs(1_000_000)));
/// let clock = time.clock(); // for `EfsConfig::clock`
/// time.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().monotonic, Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct ManualClock {
    current: Arc<Mutex<Timestamp>>,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self {
            current: Arc::new(Mutex::new(start)),
        }
    }

    /// One that shows 1,000,000 s since the Unix epoch.
    #[cfg(test)]
    pub(crate) fn standing_still() -> Self {
        Self::new(Timestamp::new(
            Duration::ZERO,
            Duration::from_secs(1_000_000),
        ))
    }

    /// This clock, to be read from.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }

    /// The time that it shows.
    pub fn now(&self) -> Timestamp {
        *self.current()
    }

    /// Advances the monotonic and the wall clock by the same time, as in a process that was frozen.
    pub fn advance(&self, time: Duration) {
        let mut current = self.current();
        *current = Timestamp::new(current.monotonic + time, current.wall + time);
    }

    /// Sets both clocks, each forwards or backwards, as when NTP steps a wall clock.
    pub fn set(&self, time: Timestamp) {
        *self.current() = time;
    }

    fn current(&self) -> MutexGuard<'_, Timestamp> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_is_the_longer_of_the_two_clocks() {
        let second = Duration::from_secs;
        let start = Timestamp::new(second(5), second(1_000));
        let frozen = Timestamp::new(second(6), second(1_060));
        let stepped_back = Timestamp::new(second(9), second(400));
        assert_eq!(frozen.elapsed_since(start), second(60));
        assert_eq!(stepped_back.elapsed_since(start), second(4));
    }

    #[test]
    fn clones_of_a_manual_clock_show_the_same_time() {
        let time = ManualClock::new(Timestamp::new(Duration::ZERO, Duration::from_secs(7)));
        let (twin, clock) = (time.clone(), time.clock());
        time.advance(Duration::from_secs(3));
        assert_eq!(twin.now().wall, Duration::from_secs(10));
        assert_eq!(clock.now(), twin.now());
        assert!(clock.is_same(&twin.clock()));
        assert!(!clock.is_same(&ManualClock::new(time.now()).clock()));
    }
}
