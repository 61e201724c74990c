//! The asks of any acquisition. See `url/properties.rs` for how to repeat a run.

use proptest::prelude::*;

use super::*;

/// Whatever an item may tell, also one that was written by a program gone wrong.
fn waits() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of(prop_oneof![
        (0..10_000_u64).prop_map(Duration::from_millis),
        Just(Duration::ZERO),
        Just(Duration::from_millis(u64::MAX)),
        Just(Duration::MAX),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_items_tell_the_next_ask_is_not_before_now_nor_after_half_of_our_time(
        seed in any::<u64>(),
        timeout in (1..40_000_u64).prop_map(Duration::from_millis),
        refusals in prop::collection::vec(
            (waits(), any::<bool>(), (0..50_000_u64).prop_map(Duration::from_micros)),
            1..60,
        ),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let begun = Instant::now();
        let until = begun + timeout;
        let mut policy = WaitPolicy::new(Tuning::CHOSEN, begun, None);
        let mut sent = begun;
        for (waited, same_holder, round_trip) in refusals {
            let now = sent + round_trip;
            let refusal = Refusal { sent, waited, same_holder };
            let Some(next) = policy.next_ask(&refusal, now, until, &mut random) else {
                prop_assert!(policy.wait.is_none(), "a wait was told");
                continue;
            };
            prop_assert!(next >= now);
            // A quarter of a second, as it may be drawn for a holder that stays.
            let pause = next - now;
            let longest = Duration::from_millis(250).max(timeout / 2);
            prop_assert!(pause <= longest, "{pause:?} at {:?} of {timeout:?}", now - begun);
            sent = next;
        }
        // Nor does it keep the process from its next acquisition for long.
        let served = policy.granted(policy.usual_wait(sent), sent);
        for last in [Some(served), policy.gave_up(sent)] {
            let again = WaitPolicy::new(Tuning::CHOSEN, sent, last);
            if let Some(first) = again.first_ask(&mut random) {
                prop_assert!(first - sent <= Duration::from_millis(250));
            }
        }
    }
}
