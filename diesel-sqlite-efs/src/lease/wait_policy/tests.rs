//! What a waiter does at each age.

use super::*;

const TUNING: Tuning = Tuning::CHOSEN;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A waiter that is refused at each ask, by a new holder each time, whose items tell `waited`.
struct Unlucky {
    policy: WaitPolicy,
    begun: Instant,
    until: Instant,
    random: fastrand::Rng,
    round_trip: Duration,
}

impl Unlucky {
    fn new(timeout: Duration, seed: u64) -> Self {
        let begun = Instant::now();
        Self {
            policy: WaitPolicy::new(TUNING, begun, None),
            begun,
            until: begun + timeout,
            random: fastrand::Rng::with_seed(seed),
            round_trip: 7 * MS,
        }
    }

    /// The ages at its asks, the first at once, up to an age.
    fn asks(&mut self, waited: Duration, same_holder: bool, up_to: Duration) -> Vec<Duration> {
        let mut ages = Vec::new();
        let mut at = self.begun;
        while at - self.begun <= up_to {
            ages.push(at - self.begun);
            let refusal = Refusal {
                sent: at,
                waited: Some(waited),
                same_holder: same_holder && ages.len() > 1,
            };
            let answered = at + self.round_trip;
            at = (self.policy)
                .next_ask(&refusal, answered, self.until, &mut self.random)
                .expect("a wait is known");
        }
        ages
    }
}

#[test]
fn asks_are_few_while_young_and_frequent_when_as_old_as_others_were() {
    let (mut young, mut old) = (0, 0);
    for seed in 0..100 {
        let asks = Unlucky::new(60 * SECOND, seed).asks(2 * SECOND, false, 3 * SECOND);
        young += asks.iter().filter(|age| **age < SECOND).count();
        old += asks.iter().filter(|age| **age >= 2 * SECOND).count();
    }
    // The first, at once, and perhaps a look in between.
    assert!(
        young <= 200,
        "{young} asks of 100 waiters below half the usual wait"
    );
    assert!(
        old > 1_000,
        "{old} asks of 100 waiters older than others were"
    );
}

#[test]
fn by_the_usual_wait_a_waiter_has_asked_as_often_however_long_that_is() {
    for wait in [200 * MS, SECOND, 10 * SECOND, 100 * SECOND] {
        let asks: usize = (0..200)
            .map(|seed| {
                Unlucky::new(1_000 * SECOND, seed)
                    .asks(wait, false, wait)
                    .len()
            })
            .sum();
        let each = asks as f64 / 200.0;
        assert!((1.5..=6.0).contains(&each), "{each} asks in {wait:?}");
    }
}

#[test]
fn a_deadline_counts_as_the_end_of_the_usual_wait() {
    // Others wait for half a minute, this one has three seconds.
    let asked_late: usize = (0..100)
        .map(|seed| {
            let asks = Unlucky::new(3 * SECOND, seed).asks(30 * SECOND, false, 3 * SECOND);
            asks.iter().filter(|age| **age > 2 * SECOND).count()
        })
        .sum();
    assert!(
        asked_late >= 100,
        "{asked_late} asks in the last second of 100 waiters"
    );
}

#[test]
fn a_holder_that_stays_is_asked_less_and_less_often_down_to_the_longest_pause() {
    for seed in 0..50 {
        let asks = Unlucky::new(600 * SECOND, seed).asks(Duration::ZERO, true, 10 * SECOND);
        let early = asks.iter().filter(|age| **age < SECOND).count();
        assert!(early < 40, "{early} asks in the first second");
        let pauses: Vec<_> = asks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let late = &pauses[pauses.len() - 5..];
        assert!(late.iter().all(|pause| *pause > 200 * MS), "{late:?}");
        // With a round trip, and with what is drawn.
        assert!(late.iter().all(|pause| *pause < 10 * SECOND), "{late:?}");
    }
}

#[test]
fn nothing_is_known_where_nobody_tells() {
    let begun = Instant::now();
    let mut policy = WaitPolicy::new(TUNING, begun, None);
    let refusal = Refusal {
        sent: begun,
        waited: None,
        same_holder: false,
    };
    let mut random = fastrand::Rng::with_seed(1);
    assert_eq!(policy.first_ask(&mut random), None, "at once");
    let next = policy.next_ask(&refusal, begun + MS, begun + SECOND, &mut random);
    assert_eq!(next, None, "backoff decides");
}

/// What a process remembers that waited for `wait` among others until now.
fn served_after(wait: Duration, now: Instant) -> RecentWait {
    let begun = now - wait;
    let mut policy = WaitPolicy::new(TUNING, begun, None);
    let refusal = Refusal {
        sent: begun,
        waited: Some(wait),
        same_holder: false,
    };
    policy.next_ask(
        &refusal,
        begun + MS,
        now + SECOND,
        &mut fastrand::Rng::with_seed(1),
    );
    policy.granted(policy.usual_wait(now), now)
}

#[test]
fn who_was_served_in_turn_lets_others_in_first_and_not_for_long() {
    let served = Instant::now();
    for (wait, most) in [
        (40 * MS, 40 * MS),
        (200 * MS, 210 * MS),
        (10 * SECOND, 250 * MS),
    ] {
        let begun = served + MS;
        let policy = WaitPolicy::new(TUNING, begun, Some(served_after(wait, served)));
        for seed in 0..50 {
            let first =
                (policy.first_ask(&mut fastrand::Rng::with_seed(seed))).expect("not at once");
            assert!(
                first > begun + wait.min(250 * MS) / 2,
                "{:?}",
                first - begun
            );
            assert!(first <= begun + most, "{:?}", first - begun);
        }
    }
}

#[test]
fn who_was_alone_or_comes_back_late_asks_at_once() {
    let now = Instant::now();
    let alone = WaitPolicy::new(TUNING, now, None).granted(Duration::ZERO, now);
    let late = served_after(200 * MS, now - 401 * MS);
    let after_a_while = served_after(200 * MS, now - 220 * MS);
    for last in [alone, late, after_a_while] {
        let policy = WaitPolicy::new(TUNING, now, Some(last));
        assert_eq!(
            policy.first_ask(&mut fastrand::Rng::with_seed(1)),
            None,
            "{last:?}"
        );
    }
}

#[test]
fn who_gave_up_and_tries_again_has_waited_all_along() {
    let begun = Instant::now();
    let gave_up = begun + 3 * SECOND;
    let mut policy = WaitPolicy::new(TUNING, begun, None);
    let refusal = Refusal {
        sent: begun,
        waited: Some(4 * SECOND),
        same_holder: false,
    };
    let mut random = fastrand::Rng::with_seed(1);
    policy.next_ask(&refusal, begun + MS, gave_up, &mut random);
    let last = policy.gave_up(gave_up);
    let again = WaitPolicy::new(TUNING, gave_up + MS, last);
    // It tells others of its whole wait, weighed with what it was told.
    let told = again.usual_wait(begun + 8 * SECOND);
    assert!(told >= 4_900 * MS && told <= 5_100 * MS, "{told:?}");
    // Long after, nobody remembers.
    let much_later = WaitPolicy::new(TUNING, gave_up + 9 * SECOND, last);
    assert_eq!(much_later.first_ask(&mut random), None);
    assert_eq!(much_later.usual_wait(gave_up + 9 * SECOND), Duration::ZERO);
}

#[test]
fn what_is_told_follows_what_was_waited() {
    let begun = Instant::now();
    let mut told = Duration::ZERO;
    for _ in 0..20 {
        let mut policy = WaitPolicy::new(TUNING, begun, None);
        let refusal = Refusal {
            sent: begun,
            waited: Some(told),
            same_holder: false,
        };
        policy.next_ask(
            &refusal,
            begun + MS,
            begun + SECOND,
            &mut fastrand::Rng::new(),
        );
        let next = policy.usual_wait(begun + SECOND);
        assert!(next > told && next <= SECOND);
        told = next;
    }
    assert!(told > 990 * MS, "{told:?}");
    // A grant at once tells of an end.
    let last = WaitPolicy::new(TUNING, begun, None).granted(told, begun);
    let alone = WaitPolicy::new(TUNING, begun + MS, Some(last));
    assert!(alone.usual_wait(begun + MS) < told * 4 / 5);
}
