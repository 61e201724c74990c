//! When to try again where nothing is known of others: exponential backoff with full jitter.

use std::time::Duration;

/// The pauses between attempts: at SQLite's file locks, at transactions that are run again, and at
/// the store when an answer was lost or tells nothing of the others ([`WaitPolicy`](super::wait_policy::WaitPolicy) otherwise).
///
/// The bound starts at about one round trip, as the store cannot change faster than we can see it,
/// doubles with each refusal, and is capped; each pause is drawn evenly between zero and the bound
/// ("full jitter", <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Debug, Clone)]
pub struct Backoff {
    bound: Duration,
    cap: Duration,
}

impl Backoff {
    /// The least first bound, for stores inside the process.
    pub const SHORTEST: Duration = Duration::from_millis(2);
    /// The cap in round trips: a waiter then asks about once in ten of them.
    const CAP_IN_ROUND_TRIPS: u32 = 20;
    /// No cap above this: a lock that became free is seen within a fraction of a second.
    const LONGEST: Duration = Duration::from_millis(250);

    /// For a store that answered its last request in `round_trip`.
    #[inline]
    pub fn new(round_trip: Duration) -> Self {
        let bound = round_trip.clamp(Self::SHORTEST, Self::LONGEST);
        Self {
            bound,
            cap: (bound * Self::CAP_IN_ROUND_TRIPS).min(Self::LONGEST),
        }
    }

    /// The next pause; `free_in` is when the lease that stands in the way ends at the latest.
    #[inline]
    pub fn next_pause(
        &mut self,
        free_in: Option<Duration>,
        random: &mut fastrand::Rng,
    ) -> Duration {
        let pause = self.bound.mul_f64(random.f64());
        self.bound = (self.bound * 2).min(self.cap);
        free_in.map_or(pause, |free_in| pause.min(free_in.max(Self::SHORTEST)))
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_round_trip_to_the_cap_and_are_spread_out() {
        let round_trip = Duration::from_millis(5);
        let longest_of = |steps: usize| {
            let pauses = (0..500).map(|_| {
                let mut backoff = Backoff::new(round_trip);
                for _ in 0..steps {
                    backoff.next_pause(None, &mut fastrand::Rng::new());
                }
                backoff.next_pause(None, &mut fastrand::Rng::new())
            });
            let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
            for pause in pauses {
                (least, most) = (least.min(pause), most.max(pause));
            }
            assert!(least < most / 4, "full jitter reaches down to zero");
            most
        };
        assert!(longest_of(0) <= round_trip);
        let third = longest_of(2);
        assert!(third > round_trip * 3 && third <= round_trip * 4);
        let late = longest_of(40);
        assert!(late > round_trip * 18 && late <= round_trip * 20);
    }

    #[test]
    fn a_lease_about_to_end_is_asked_for_when_it_ends() {
        let mut backoff = Backoff::new(Duration::from_millis(200));
        for _ in 0..50 {
            assert!(
                backoff.next_pause(Some(Duration::from_millis(3)), &mut fastrand::Rng::new())
                    <= Duration::from_millis(3)
            );
        }
    }
}
