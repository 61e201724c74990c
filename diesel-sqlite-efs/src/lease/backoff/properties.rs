//! The pauses of any acquisition. See `url/properties.rs` for how to repeat a run.

use proptest::prelude::*;

use super::*;

/// Nanoseconds that a multiplication by a fraction may round up.
const ROUNDING: Duration = Duration::from_nanos(1);

fn round_trips() -> impl Strategy<Value = Duration> {
    (0..3_000_000_u64).prop_map(Duration::from_micros)
}

fn ends() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0..2_000_000_u64).prop_map(Duration::from_micros))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_pause_is_longer_than_its_bound_the_cap_and_the_lease_in_the_way(
        round_trip in round_trips(),
        ends in prop::collection::vec(ends(), 1..60),
    ) {
        let mut backoff = Backoff::new(round_trip);
        // Written out once more, from the documentation.
        let first = round_trip.max(Duration::from_millis(2)).min(Duration::from_millis(250));
        let cap = (first * 20).min(Duration::from_millis(250));
        let mut bound = first;
        for free_in in ends {
            let pause = backoff.next_pause(free_in, &mut fastrand::Rng::new());
            prop_assert!(pause <= bound + ROUNDING, "{pause:?} of {bound:?}");
            if let Some(free_in) = free_in {
                prop_assert!(pause <= free_in.max(Duration::from_millis(2)), "{pause:?}");
            }
            bound = (bound * 2).min(cap);
        }
    }

    #[test]
    fn pauses_are_spread_over_their_whole_bound_which_doubles_up_to_the_cap(
        round_trip in round_trips(),
        step in 0..9_u32,
    ) {
        const DRAWS: u32 = 400;
        let first = round_trip.max(Duration::from_millis(2)).min(Duration::from_millis(250));
        let cap = (first * 20).min(Duration::from_millis(250));
        let bound = (first * 2_u32.pow(step)).min(cap);
        let mut pauses: Vec<_> = (0..DRAWS)
            .map(|_| {
                let mut backoff = Backoff::new(round_trip);
                for _ in 0..step {
                    backoff.next_pause(None, &mut fastrand::Rng::new());
                }
                backoff.next_pause(None, &mut fastrand::Rng::new())
            })
            .collect();
        pauses.sort_unstable();
        // Of 400 even draws none below or above a tenth: once in 10^18 runs.
        prop_assert!(pauses[0] < bound / 10, "{:?} of {bound:?}", pauses[0]);
        let longest = pauses[pauses.len() - 1];
        prop_assert!(longest > bound * 9 / 10 && longest <= bound + ROUNDING, "{longest:?} of {bound:?}");
        // The mean's deviation is a seventieth of the bound.
        let mean = pauses.iter().sum::<Duration>() / DRAWS;
        prop_assert!(mean > bound * 2 / 5 && mean < bound * 3 / 5, "{mean:?} of {bound:?}");
    }
}
