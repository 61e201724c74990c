//! What the time is by the store's clock, as far as its answers tell.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::{Clock, Timestamp};

/// How much faster or slower than the store's a host's clock may run: the most by which NTP slews
/// one.
const DRIFT: f64 = 500e-6;

/// The store's clock, known as an interval.
///
/// A `Date` header has a resolution of one second: an answer dated `d` to a request that was sent at
/// `s` and arrived at `r` proves that the store's clock showed less than `d + 1` at `s` and at least
/// `d` at `r`. Each answer narrows what is known; between answers it widens by [`DRIFT`].
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    known: Mutex<Option<Known>>,
}

/// What the answers have proved, at a moment of this host's clock.
#[derive(Debug, Clone)]
struct Known {
    clock: Clock,
    at: Timestamp,
    bounds: StoreTime,
}

/// The store's time in seconds of the Unix epoch, as two bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StoreTime {
    pub(crate) earliest: f64,
    pub(crate) latest: f64,
}

impl ServerClock {
    /// The store's time at `moment`; `None` while no answer was dated.
    pub(crate) fn bounds(&self, clock: &Clock, moment: Timestamp) -> Option<StoreTime> {
        let known = self.known();
        let known = known.as_ref().filter(|known| known.clock.is_same(clock))?;
        Some(known.at(moment))
    }

    /// The store's time at `moment`, at best: this host's wall clock, but `at_least`, as far as the
    /// answers allow.
    pub(crate) fn estimate(&self, clock: &Clock, moment: Timestamp, at_least: f64) -> f64 {
        let wall = moment.wall.as_secs_f64().max(at_least);
        (self.bounds(clock, moment)).map_or(wall, |bounds| bounds.nearest(wall))
    }

    /// Takes in the date of an answer to a request sent at `sent` that arrived at `received`.
    ///
    /// Returns the store's time at `sent` at the latest; `None` while no answer was dated.
    pub(crate) fn learn(
        &self,
        clock: &Clock,
        sent: Timestamp,
        received: Timestamp,
        date: Option<SystemTime>,
    ) -> Option<f64> {
        let Some(date) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) else {
            return Some(self.bounds(clock, sent)?.latest);
        };
        let date = date.as_secs() as f64;
        let shown = StoreTime {
            earliest: date,
            latest: date + 1.0 + most_passed(sent, received),
        };
        let mut known = self.known();
        let before = known.as_ref().filter(|known| known.clock.is_same(clock));
        let bounds = before
            .and_then(|known| known.at(received).both(shown))
            // A clock stood still or was set, or an answer was dated wrongly: the last one counts.
            .unwrap_or(shown);
        let now_known = Known {
            clock: clock.clone(),
            at: received,
            bounds,
        };
        // A wall clock that was set meanwhile says nothing of the time before.
        let latest = now_known.at(sent).latest.min(date + 1.0);
        *known = Some(now_known);
        Some(latest)
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn at(&self, moment: Timestamp) -> StoreTime {
        let StoreTime { earliest, latest } = self.bounds;
        // Another answer may have come in since.
        if moment.monotonic < self.at.monotonic {
            StoreTime {
                earliest: earliest - most_passed(moment, self.at),
                latest: latest - least_passed(moment, self.at),
            }
        } else {
            StoreTime {
                earliest: earliest + least_passed(self.at, moment),
                latest: latest + most_passed(self.at, moment),
            }
        }
    }
}

impl StoreTime {
    /// What both say; `None` if they contradict each other.
    fn both(self, other: Self) -> Option<Self> {
        let both = Self {
            earliest: self.earliest.max(other.earliest),
            latest: self.latest.min(other.latest),
        };
        (both.earliest <= both.latest).then_some(both)
    }

    fn nearest(self, time: f64) -> f64 {
        time.max(self.earliest).min(self.latest)
    }
}

/// The store's clock has gone on by at most this: a host's monotonic clock may have stood still,
/// its wall clock shows it then.
fn most_passed(from: Timestamp, to: Timestamp) -> f64 {
    to.elapsed_since(from).as_secs_f64() * (1.0 + DRIFT)
}

/// The store's clock has gone on by at least this: a wall clock may have been set.
fn least_passed(from: Timestamp, to: Timestamp) -> f64 {
    let passed = to.monotonic.saturating_sub(from.monotonic);
    passed.as_secs_f64() * (1.0 - DRIFT)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A host whose wall clock is ahead of the store's by `skew`, at the store's time `time`.
    fn moment(time: f64, skew: f64) -> Timestamp {
        let seconds = Duration::from_secs_f64;
        Timestamp::new(seconds(time), seconds(time + skew))
    }

    fn date(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn answered(clock: &ServerClock, sent: f64, dated: u64, received: f64, skew: f64) -> f64 {
        let (sent, received) = (moment(sent, skew), moment(received, skew));
        (clock.learn(&Clock::system(), sent, received, date(dated))).expect("it was dated")
    }

    fn bounds(clock: &ServerClock, time: f64, skew: f64) -> StoreTime {
        let bounds = clock.bounds(&Clock::system(), moment(time, skew));
        bounds.expect("an answer was dated")
    }

    #[test]
    fn answers_narrow_the_interval_down_and_keep_the_time_within() {
        for skew in [0.0, -3_600.0, 3_600.0, 0.7] {
            let clock = ServerClock::default();
            let mut width = f64::INFINITY;
            for tenth in 0..40 {
                // Each answer takes 0.05 s, and is dated after 0.02 s.
                let sent = 5_000.0 + f64::from(tenth) * 1.13;
                let latest = answered(&clock, sent, (sent + 0.02) as u64, sent + 0.05, skew);
                assert!(sent <= latest && latest < sent + 1.03, "{sent}: {latest}");
                let now = sent + 0.05;
                let known = bounds(&clock, now, skew);
                assert!(known.earliest <= now && now <= known.latest, "{known:?}");
                width = known.latest - known.earliest;
            }
            assert!(width < 0.2, "{width}");
        }
    }

    #[test]
    fn between_answers_it_widens() {
        let clock = ServerClock::default();
        answered(&clock, 5_000.0, 5_000, 5_000.0, 0.0);
        let known = bounds(&clock, 6_000.0, 0.0);
        assert!((known.earliest - 5_999.5).abs() < 1e-6, "{known:?}");
        assert!((known.latest - 6_001.5).abs() < 1e-6, "{known:?}");
    }

    #[test]
    fn a_right_wall_clock_is_the_estimate_and_one_that_is_off_goes_as_far_as_it_may() {
        for (skew, estimate) in [(0.0, 5_000.25), (3_600.0, 5_001.01), (-3_600.0, 5_000.0)] {
            let clock = ServerClock::default();
            let now = moment(5_000.25, skew);
            assert_eq!(
                clock.estimate(&Clock::system(), now, 0.0),
                now.wall.as_secs_f64()
            );
            answered(&clock, 5_000.24, 5_000, 5_000.25, skew);
            let shown = clock.estimate(&Clock::system(), now, 0.0);
            assert!((shown - estimate).abs() < 1e-3, "{skew}: {shown}");
        }
    }

    #[test]
    fn an_answer_that_contradicts_what_was_known_counts_alone() {
        let clock = ServerClock::default();
        answered(&clock, 5_000.0, 5_000, 5_000.1, 0.0);
        // The host's clocks stood still for a minute.
        answered(&clock, 5_001.0, 5_061, 5_001.1, 0.0);
        let known = bounds(&clock, 5_001.1, 0.0);
        assert_eq!(known.earliest, 5_061.0);
        assert!((known.latest - 5_062.1).abs() < 1e-3, "{known:?}");
    }

    #[test]
    fn a_wall_clock_that_is_set_moves_the_latest_time_alone() {
        let clock = ServerClock::default();
        answered(&clock, 5_000.0, 5_000, 5_000.0, 0.0);
        let ahead = bounds(&clock, 5_001.0, 60.0);
        assert!((ahead.earliest - 5_001.0).abs() < 1e-2, "{ahead:?}");
        assert!((ahead.latest - 5_062.0).abs() < 0.1, "{ahead:?}");
        let behind = bounds(&clock, 5_001.0, -60.0);
        assert!((behind.earliest - 5_001.0).abs() < 1e-2, "{behind:?}");
        assert!((behind.latest - 5_002.0).abs() < 1e-2, "{behind:?}");
    }

    #[test]
    fn what_was_known_of_a_moment_before_the_last_answer() {
        let clock = ServerClock::default();
        answered(&clock, 5_000.0, 5_000, 5_000.0, 0.0);
        answered(&clock, 5_003.0, 5_003, 5_003.0, 0.0);
        let known = bounds(&clock, 5_001.0, 0.0);
        assert!((known.earliest - 5_001.0).abs() < 1e-2, "{known:?}");
        assert!((known.latest - 5_002.0).abs() < 1e-2, "{known:?}");
    }

    #[test]
    fn an_answer_without_a_date_teaches_nothing_and_another_clock_knows_nothing() {
        let clock = ServerClock::default();
        let now = moment(5.0, 0.0);
        assert_eq!(clock.learn(&Clock::system(), now, now, None), None);
        assert_eq!(clock.bounds(&Clock::system(), now), None);
        assert_eq!(clock.estimate(&Clock::system(), now, 0.0), 5.0);
        clock.learn(&Clock::system(), now, now, date(5));
        let other = crate::clock::ManualClock::new(now).clock();
        assert_eq!(clock.bounds(&other, now), None);
    }
}
