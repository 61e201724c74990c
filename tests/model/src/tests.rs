//! What the search shows: nothing goes wrong, and without any one rule something does.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries};

use super::process::telling::tell;
use super::*;

const SAFETY: [&str; 8] = [
    ONE_HOLDER,
    NEVER_ROBBED,
    NO_STALE_WRITE,
    NEVER_TORN,
    NEVER_UNDONE,
    NEVER_RESURRECTED,
    ALWAYS_RECOVERABLE,
    OWN_ITEM,
];

/// What whoever comes next would see, as against what might have happened.
const SEEN: [&str; 3] = [NEVER_TORN, NEVER_UNDONE, NEVER_RESURRECTED];

const QUIET: Limits = Limits {
    crashes: 0,
    losses: 0,
    duplicates: 0,
    renewals: 0,
    stopped_clocks: 0,
    rollbacks: 0,
};

const THREE: Protocol = Protocol {
    rules: Rules::ALL,
    limits: QUIET,
    windows: Windows {
        before_a_write: false,
        before_the_deletion: false,
    },
    turns: [1; PROCESSES],
    file_locks: false,
    cold_journals: false,
};

const TWO: Protocol = Protocol {
    turns: [1, 1, 0],
    ..THREE
};

impl Protocol {
    /// The same but for this.
    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Searches until one of `wrong` is found, or to the last state. The counterexample, printed.
fn search(what: &str, model: Protocol, wrong: &[&'static str]) -> Option<&'static str> {
    search_among(usize::MAX, what, model, wrong)
}

/// The same, but ends when so many steps have been looked at, the shortest runs first.
fn search_among(
    most_steps: usize,
    what: &str,
    model: Protocol,
    wrong: &[&'static str],
) -> Option<&'static str> {
    let began = Instant::now();
    let wrong_names = wrong.iter().copied().collect();
    let checker = (model.clone().checker().threads(2))
        .finish_when(HasDiscoveries::AnyOf(wrong_names))
        .target_state_count(most_steps)
        .spawn_bfs()
        .join();
    let ended = checker.state_count() >= most_steps;
    println!(
        "{what}: {} states, {} steps deep{}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        if ended { ", there it was ended" } else { "" },
        began.elapsed().as_secs_f64()
    );
    let discoveries = checker.discoveries();
    for name in discoveries.keys().filter(|name| !wrong.contains(name)) {
        println!("  met: {name}");
    }
    let found = wrong.iter().find(|name| discoveries.contains_key(*name))?;
    println!("  NOT {found}:");
    for line in tell(&discoveries[found].clone().into_vec()) {
        println!("    {line}");
    }
    Some(found)
}

#[track_caller]
fn holds(what: &str, model: Protocol) {
    holds_among(usize::MAX, what, model);
}

#[track_caller]
fn holds_among(most_steps: usize, what: &str, model: Protocol) {
    let wrong = [&SAFETY[..], &[SERVED]].concat();
    let found = search_among(most_steps, what, model, &wrong);
    assert_eq!(found, None, "{what}");
}

#[track_caller]
fn fails(what: &str, model: Protocol, expected: &[&'static str]) {
    let found = search(what, model, expected);
    assert!(found.is_some(), "{what}: none of {expected:?} is violated");
}

#[test]
fn nothing_goes_wrong_among_three_processes() {
    holds("three, a crash", THREE.but(|it| it.limits.crashes = 1));
    holds("three, a rollback", THREE.but(|it| it.limits.rollbacks = 1));
    holds("three, a renewal", THREE.but(|it| it.limits.renewals = 1));
}

#[test]
fn nothing_goes_wrong_among_two_processes_in_worse_surroundings() {
    holds(
        "two, a crash, a loss, a renewal",
        TWO.but(|it| {
            it.limits.crashes = 1;
            it.limits.losses = 1;
            it.limits.renewals = 1;
        }),
    );
    holds(
        "two, a duplicate, a loss, a renewal",
        TWO.but(|it| {
            it.limits.duplicates = 1;
            it.limits.losses = 1;
            it.limits.renewals = 1;
        }),
    );
    holds(
        "two, a crash, a loss, a rollback, cold journals",
        TWO.but(|it| {
            it.limits.crashes = 1;
            it.limits.losses = 1;
            it.limits.rollbacks = 1;
            it.cold_journals = true;
        }),
    );
}

/// `cargo test -p protocol-model -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_in_the_long_form() {
    holds(
        "three, two crashes, cold journals",
        THREE.but(|it| {
            it.limits.crashes = 2;
            it.cold_journals = true;
        }),
    );
    holds(
        "three, a crash, a renewal",
        THREE.but(|it| {
            it.limits.crashes = 1;
            it.limits.renewals = 1;
        }),
    );
    holds(
        "three, a duplicate",
        THREE.but(|it| it.limits.duplicates = 1),
    );
    holds("three, a loss", THREE.but(|it| it.limits.losses = 1));
    holds(
        "two, two losses, a duplicate, a renewal",
        TWO.but(|it| {
            it.limits.losses = 2;
            it.limits.duplicates = 1;
            it.limits.renewals = 1;
        }),
    );
    holds(
        "two with two turns, a crash",
        TWO.but(|it| {
            it.turns = [2, 2, 0];
            it.limits.crashes = 1;
        }),
    );
}

/// In surroundings with too many states for all to be looked at: each search ends after `MOST_STEPS`
/// steps, all that can be taken from the beginning on. The output says how deep that is.
#[track_caller]
fn holds_as_far_as_the_search_goes(what: &str, model: Protocol) {
    const MOST_STEPS: usize = 40_000_000;
    holds_among(MOST_STEPS, what, model);
}

#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_as_far_as_the_search_goes_among_three() {
    let model = THREE.but(|it| {
        it.limits.crashes = 1;
        it.limits.losses = 1;
    });
    holds_as_far_as_the_search_goes("three, a crash, a loss", model);
}

#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_as_far_as_the_search_goes_in_two_turns() {
    let model = TWO.but(|it| {
        it.turns = [2, 2, 0];
        it.limits.crashes = 1;
        it.limits.losses = 1;
    });
    holds_as_far_as_the_search_goes("two with two turns, a crash, a loss", model);
}

#[test]
fn without_the_fence_a_stale_holder_tears_the_database() {
    let model = TWO.but(|it| it.rules.fence = false);
    fails("no fence", model, &[ALWAYS_RECOVERABLE]);
}

#[test]
fn without_a_stable_lock_id_a_lost_answer_costs_a_lease() {
    let model = TWO.but(|it| {
        it.rules.stable_lock_id = false;
        it.limits.losses = 1;
    });
    fails("no stable lock_id", model, &[OWN_ITEM]);
}

#[test]
fn without_a_name_in_the_takeover_two_take_the_same_lease_over() {
    let model = THREE.but(|it| it.rules.takeover_names_the_holder = false);
    fails("takeover names nobody", model, &[ONE_HOLDER]);
}

#[test]
fn without_the_end_in_the_takeover_a_renewed_lease_is_taken() {
    let model = THREE.but(|it| {
        it.rules.takeover_names_the_end = false;
        it.limits.losses = 1;
        it.limits.renewals = 1;
    });
    fails("takeover names no end", model, &[ONE_HOLDER]);
}

#[test]
fn without_the_record_in_puts_a_late_one_undoes_a_commit() {
    let model = TWO.but(|it| {
        it.rules.puts_name_the_record = false;
        // Otherwise the late put is refused because its end is earlier.
        it.rules.ends_only_grow = false;
        it.limits.losses = 1;
        it.limits.renewals = 1;
    });
    let expected = [NEVER_UNDONE, ALWAYS_RECOVERABLE];
    fails("puts name no record", model, &expected);
}

/// With the rule, stopped clocks alone do no harm.
#[test]
fn without_the_confirmation_stopped_clocks_undo_a_commit() {
    let model = TWO.but(|it| {
        it.limits.stopped_clocks = 1;
        it.file_locks = true;
    });
    let with_the_rule = search("stopped clocks, with the rule", model.clone(), &SEEN);
    assert_eq!(with_the_rule, None);
    let model = model.but(|it| it.rules.commit_confirmed = false);
    fails("commit not confirmed", model, &SEEN);
}

#[test]
fn without_an_item_that_outlives_the_lease_a_commit_is_undone() {
    let model = TWO.but(|it| it.rules.record_outlives_the_lease = false);
    fails(
        "record dropped with the lease",
        model,
        &[ALWAYS_RECOVERABLE],
    );
}

#[test]
fn without_growing_ends_a_late_request_makes_two_holders() {
    let model = TWO.but(|it| {
        it.rules.ends_only_grow = false;
        it.limits.duplicates = 1;
        it.limits.renewals = 1;
    });
    fails("ends may shrink", model, &[ONE_HOLDER]);
}

#[test]
fn without_knowing_its_own_item_a_takeover_waits_for_itself() {
    let model = TWO.but(|it| {
        it.rules.own_item_recognised = false;
        it.limits.losses = 1;
    });
    fails("own item unknown", model, &[OWN_ITEM]);
}

#[test]
fn giving_up_must_not_drop_the_record_of_a_predecessor() {
    let model = TWO.but(|it| {
        it.rules.giving_up_keeps_the_record = false;
        it.limits.losses = 1;
    });
    fails(
        "record dropped when giving up",
        model,
        &[ALWAYS_RECOVERABLE],
    );
}

#[test]
fn a_leftover_must_not_be_removed_after_the_lease() {
    let model = THREE.but(|it| {
        it.rules.leftover_needs_a_good_lease = false;
        it.limits.crashes = 1;
        it.cold_journals = true;
    });
    fails("leftover removed too late", model, &[NO_STALE_WRITE]);
}

#[test]
fn a_thawed_holder_does_not_remove_its_successors_journal_as_a_leftover() {
    let model = THREE.but(|it| {
        it.limits.stopped_clocks = 1;
        it.cold_journals = true;
    });
    // To the last of its 7.5 million states it finds nothing either, in a minute; without the
    // rule, what goes wrong is among the first half million.
    let what = "leftover that was found";
    let found = search_among(3_000_000, what, model.clone(), &[NEVER_ROBBED]);
    assert_eq!(found, None);
    let model = model.but(|it| it.rules.leftover_is_the_one_found = false);
    fails("whatever is there by then", model, &[NEVER_ROBBED]);
}

#[test]
fn the_window_between_record_and_deletion_needs_a_successor_that_does_not_finish() {
    let opened = |model: Protocol| model.but(|it| it.windows.before_the_deletion = true);
    let what = "late deletion, successor finishes";
    assert_eq!(search(what, opened(TWO), &SEEN), None);
    let what = "late deletion, successor does not";
    fails(what, opened(THREE), &[NEVER_TORN]);
}

#[test]
fn the_window_between_check_and_write_needs_file_locks_that_do_nothing() {
    let model = THREE.but(|it| it.windows.before_a_write = true);
    fails("late write, no file locks", model.clone(), &SEEN);
    let model = model.but(|it| it.file_locks = true);
    assert_eq!(search("late write, file locks", model, &SEEN), None);
}

/// Where file locks work, and a clock may stand still.
fn with_a_stopped_clock() -> Protocol {
    THREE.but(|it| {
        it.limits.stopped_clocks = 1;
        it.file_locks = true;
    })
}

/// One window is left open.
#[test]
fn stopped_clocks_do_no_harm_but_between_record_and_deletion() {
    let model = with_a_stopped_clock();
    let wrong = [&SEEN[..], &[ALWAYS_RECOVERABLE, ONE_HOLDER, SERVED]].concat();
    assert_eq!(search("stopped clocks", model.clone(), &wrong), None);
    let model = model.but(|it| it.windows.before_the_deletion = true);
    fails("stopped clocks, late deletion", model, &[NEVER_TORN]);
}

#[test]
fn without_asking_first_a_thawed_holder_undoes_what_its_successor_has_recorded() {
    let model = with_a_stopped_clock().but(|it| it.rules.recovery_confirmed = false);
    fails("recovery not confirmed", model, &[NEVER_UNDONE]);
}

#[test]
fn without_a_second_look_a_thawed_holders_journal_undoes_its_successor() {
    let model =
        with_a_stopped_clock().but(|it| it.rules.journal_needs_the_state_it_restores = false);
    fails("journal of an older state", model, &[NEVER_UNDONE]);
}
