//! What the time is by the store's clock, as far as its answers tell.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::Timestamp;

/// An estimate of the store's clock: this host's wall clock plus an offset.
///
/// A `Date` header has a resolution of one second, so an answer proves no more than that the
/// offset lies in an interval of one second and a round trip. The offset moves only as far as an
/// answer forces it to: on a host whose clock is right it stays zero, and on one that is an hour
/// off the first answer reveals it.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    offset_seconds: Mutex<f64>,
}

impl ServerClock {
    /// The store's time at `moment`, in seconds of the Unix epoch.
    pub(crate) fn at(&self, moment: Timestamp) -> f64 {
        moment.wall.as_secs_f64()
            + *self
                .offset_seconds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the date of an answer to a request sent at `sent` that arrived at `received`.
    ///
    /// Returns by how much `taken_for`, what the time was taken for when it was sent, was wrong at
    /// least.
    pub(crate) fn learn(
        &self,
        taken_for: f64,
        sent: Timestamp,
        received: Timestamp,
        date: Option<SystemTime>,
    ) -> Duration {
        let Some(date) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) else {
            return Duration::ZERO;
        };
        let date = date.as_secs() as f64;
        let earliest = date - received.wall.as_secs_f64();
        let latest = date + 1.0 - sent.wall.as_secs_f64();
        let mut offset = (self.offset_seconds.lock()).unwrap_or_else(PoisonError::into_inner);
        // A wall clock that was stepped back between the two moments leaves no interval.
        *offset = offset.clamp(earliest, latest.max(earliest));
        let took = received.elapsed_since(sent).as_secs_f64();
        let wrong_by = (taken_for - (date + 1.0)).max(date - took - taken_for);
        Duration::from_secs_f64(wrong_by.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall: f64) -> Timestamp {
        Timestamp::new(Duration::ZERO, Duration::from_secs_f64(wall))
    }

    fn date(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_right_clock_is_left_alone() {
        let clock = ServerClock::default();
        for tenth in 0..100 {
            let now = 1_000.0 + f64::from(tenth) / 10.0;
            let wrong_by = clock.learn(now, moment(now), moment(now + 0.005), date(now as u64));
            assert_eq!(wrong_by, Duration::ZERO);
        }
        assert_eq!(clock.at(moment(2_000.0)), 2_000.0);
    }

    #[test]
    fn a_clock_that_is_an_hour_off_is_corrected_to_within_a_second_by_one_answer() {
        for skew in [-3_600.0, 3_600.0] {
            let clock = ServerClock::default();
            let local = 50_000.25 + skew;
            let wrong_by = clock.learn(local, moment(local), moment(local + 0.01), date(50_000));
            assert!((wrong_by.as_secs_f64() - 3_600.0).abs() < 1.0);
            assert!((clock.at(moment(local)) - 50_000.25).abs() < 1.0);
        }
    }

    #[test]
    fn an_answer_without_a_date_teaches_nothing() {
        let clock = ServerClock::default();
        assert_eq!(
            clock.learn(5.0, moment(5.0), moment(5.0), None),
            Duration::ZERO
        );
        assert_eq!(clock.at(moment(5.0)), 5.0);
    }
}
