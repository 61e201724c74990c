//! What the search shows: nothing goes wrong, and without any one rule something does.

use std::env;
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
    let mut wrong = SAFETY.to_vec();
    wrong.push(SERVED);
    assert_eq!(search(what, model, &wrong), None, "{what}");
}

#[track_caller]
fn fails(what: &str, model: Protocol, expected: &[&'static str]) {
    let found = search(what, model, expected);
    assert!(found.is_some(), "{what}: none of {expected:?} is violated");
}

/// Where a rule is needed only if something else goes wrong, too: that this alone does no harm.
#[track_caller]
fn fails_for_want_of_a_rule(what: &str, model: Protocol, rules: Rules, expected: &[&'static str]) {
    assert_eq!(
        search(&format!("{what}, with the rule"), model.clone(), expected),
        None
    );
    fails(what, Protocol { rules, ..model }, expected);
}

#[test]
fn nothing_goes_wrong_among_three_processes() {
    for (what, limits) in [
        (
            "three, a crash",
            Limits {
                crashes: 1,
                ..QUIET
            },
        ),
        (
            "three, a rollback",
            Limits {
                rollbacks: 1,
                ..QUIET
            },
        ),
        (
            "three, a renewal",
            Limits {
                renewals: 1,
                ..QUIET
            },
        ),
    ] {
        holds(what, Protocol { limits, ..THREE });
    }
}

#[test]
fn nothing_goes_wrong_among_two_processes_in_worse_surroundings() {
    let limits = Limits {
        crashes: 1,
        losses: 1,
        renewals: 1,
        ..QUIET
    };
    holds(
        "two, a crash, a loss, a renewal",
        Protocol { limits, ..TWO },
    );
    let late = Limits {
        duplicates: 1,
        losses: 1,
        renewals: 1,
        ..QUIET
    };
    holds(
        "two, a duplicate, a loss, a renewal",
        Protocol {
            limits: late,
            ..TWO
        },
    );
    let limits = Limits {
        crashes: 1,
        losses: 1,
        rollbacks: 1,
        ..QUIET
    };
    let two = Protocol {
        cold_journals: true,
        ..TWO
    };
    holds(
        "two, a crash, a loss, a rollback, cold journals",
        Protocol { limits, ..two },
    );
}

/// `cargo test -p protocol-model -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_in_the_long_form() {
    let cold = Protocol {
        cold_journals: true,
        ..THREE
    };
    let two_turns = Protocol {
        turns: [2, 2, 0],
        ..TWO
    };
    for (what, model, limits) in [
        (
            "three, two crashes, cold journals",
            cold,
            Limits {
                crashes: 2,
                ..QUIET
            },
        ),
        (
            "three, a crash, a renewal",
            THREE,
            Limits {
                crashes: 1,
                renewals: 1,
                ..QUIET
            },
        ),
        (
            "three, a duplicate",
            THREE,
            Limits {
                duplicates: 1,
                ..QUIET
            },
        ),
        ("three, a loss", THREE, Limits { losses: 1, ..QUIET }),
        (
            "two, two losses, a duplicate, a renewal",
            TWO,
            Limits {
                losses: 2,
                duplicates: 1,
                renewals: 1,
                ..QUIET
            },
        ),
        (
            "two with two turns, a crash",
            two_turns,
            Limits {
                crashes: 1,
                ..QUIET
            },
        ),
    ] {
        holds(what, Protocol { limits, ..model });
    }
}

/// In surroundings with too many states for all to be looked at: each search ends after
/// `EFS_MODEL_STEPS` steps, all that can be taken from the beginning on. The output says how deep
/// that is.
#[track_caller]
fn holds_as_far_as_the_search_goes(what: &str, model: Protocol) {
    const MOST_STEPS: usize = 40_000_000;
    let most_steps = env::var("EFS_MODEL_STEPS").map_or(MOST_STEPS, |number| {
        number.parse().expect("EFS_MODEL_STEPS is a number")
    });
    let mut wrong = SAFETY.to_vec();
    wrong.push(SERVED);
    let found = search_among(most_steps, what, model, &wrong);
    assert_eq!(found, None, "{what}");
}

#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_as_far_as_the_search_goes_among_three() {
    let limits = Limits {
        crashes: 1,
        losses: 1,
        ..QUIET
    };
    holds_as_far_as_the_search_goes("three, a crash, a loss", Protocol { limits, ..THREE });
}

#[test]
#[ignore = "takes minutes and some GB"]
fn nothing_goes_wrong_as_far_as_the_search_goes_in_two_turns() {
    let limits = Limits {
        crashes: 1,
        losses: 1,
        ..QUIET
    };
    let two_turns = Protocol {
        turns: [2, 2, 0],
        limits,
        ..TWO
    };
    holds_as_far_as_the_search_goes("two with two turns, a crash, a loss", two_turns);
}

/// One rule left out.
fn without(leave_out: impl Fn(&mut Rules)) -> Rules {
    let mut rules = Rules::ALL;
    leave_out(&mut rules);
    rules
}

#[test]
fn without_the_fence_a_stale_holder_tears_the_database() {
    let rules = without(|rules| rules.fence = false);
    fails("no fence", Protocol { rules, ..TWO }, &[ALWAYS_RECOVERABLE]);
}

#[test]
fn without_a_stable_lock_id_a_lost_answer_costs_a_lease() {
    let rules = without(|rules| rules.stable_lock_id = false);
    let limits = Limits { losses: 1, ..QUIET };
    fails(
        "no stable lock_id",
        Protocol {
            rules,
            limits,
            ..TWO
        },
        &[OWN_ITEM],
    );
}

#[test]
fn without_a_name_in_the_takeover_two_take_the_same_lease_over() {
    let rules = without(|rules| rules.takeover_names_the_holder = false);
    fails(
        "takeover names nobody",
        Protocol { rules, ..THREE },
        &[ONE_HOLDER],
    );
}

#[test]
fn without_the_end_in_the_takeover_a_renewed_lease_is_taken() {
    let rules = without(|rules| rules.takeover_names_the_end = false);
    let limits = Limits {
        losses: 1,
        renewals: 1,
        ..QUIET
    };
    fails(
        "takeover names no end",
        Protocol {
            rules,
            limits,
            ..THREE
        },
        &[ONE_HOLDER],
    );
}

#[test]
fn without_the_record_in_puts_a_late_one_undoes_a_commit() {
    let rules = without(|rules| {
        rules.puts_name_the_record = false;
        // Otherwise the late put is refused because its end is earlier.
        rules.ends_only_grow = false;
    });
    let limits = Limits {
        losses: 1,
        renewals: 1,
        ..QUIET
    };
    fails(
        "puts name no record",
        Protocol {
            rules,
            limits,
            ..TWO
        },
        &[NEVER_UNDONE, ALWAYS_RECOVERABLE],
    );
}

#[test]
fn without_the_confirmation_stopped_clocks_undo_a_commit() {
    let limits = Limits {
        stopped_clocks: 1,
        ..QUIET
    };
    let model = Protocol {
        limits,
        file_locks: true,
        ..TWO
    };
    let rules = without(|rules| rules.commit_confirmed = false);
    fails_for_want_of_a_rule("commit by clock", model, rules, &SEEN);
}

#[test]
fn without_an_item_that_outlives_the_lease_a_commit_is_undone() {
    let rules = without(|rules| rules.record_outlives_the_lease = false);
    fails(
        "record dropped with the lease",
        Protocol { rules, ..TWO },
        &[ALWAYS_RECOVERABLE],
    );
}

#[test]
fn without_growing_ends_a_late_request_makes_two_holders() {
    let rules = without(|rules| rules.ends_only_grow = false);
    let limits = Limits {
        duplicates: 1,
        renewals: 1,
        ..QUIET
    };
    fails(
        "ends may shrink",
        Protocol {
            rules,
            limits,
            ..TWO
        },
        &[ONE_HOLDER],
    );
}

#[test]
fn without_knowing_its_own_item_a_takeover_waits_for_itself() {
    let rules = without(|rules| rules.own_item_recognised = false);
    let limits = Limits { losses: 1, ..QUIET };
    fails(
        "own item unknown",
        Protocol {
            rules,
            limits,
            ..TWO
        },
        &[OWN_ITEM],
    );
}

#[test]
fn giving_up_must_not_drop_the_record_of_a_predecessor() {
    let rules = without(|rules| rules.giving_up_keeps_the_record = false);
    let limits = Limits { losses: 1, ..QUIET };
    fails(
        "record dropped when giving up",
        Protocol {
            rules,
            limits,
            ..TWO
        },
        &[ALWAYS_RECOVERABLE],
    );
}

#[test]
fn a_leftover_must_not_be_removed_after_the_lease() {
    let rules = without(|rules| rules.leftover_needs_a_good_lease = false);
    let limits = Limits {
        crashes: 1,
        ..QUIET
    };
    let model = Protocol {
        limits,
        cold_journals: true,
        ..THREE
    };
    fails(
        "leftover removed too late",
        Protocol { rules, ..model },
        &[NO_STALE_WRITE],
    );
}

#[test]
fn a_thawed_holder_does_not_remove_its_successors_journal_as_a_leftover() {
    let limits = Limits {
        stopped_clocks: 1,
        ..QUIET
    };
    let model = Protocol {
        limits,
        cold_journals: true,
        ..THREE
    };
    // To the last of its 7.5 million states it finds nothing either, in a minute; without the
    // rule, what goes wrong is among the first half million.
    let what = "leftover that was found";
    let found = search_among(3_000_000, what, model.clone(), &[NEVER_ROBBED]);
    assert_eq!(found, None);
    let rules = without(|rules| rules.leftover_is_the_one_found = false);
    fails(
        "whatever is there by then",
        Protocol { rules, ..model },
        &[NEVER_ROBBED],
    );
}

#[test]
fn the_window_between_record_and_deletion_needs_a_successor_that_does_not_finish() {
    let windows = Windows {
        before_the_deletion: true,
        ..Windows::default()
    };
    let two = Protocol { windows, ..TWO };
    assert_eq!(
        search("late deletion, successor finishes", two, &SEEN),
        None
    );
    let three = Protocol { windows, ..THREE };
    fails("late deletion, successor does not", three, &[NEVER_TORN]);
}

#[test]
fn the_window_between_check_and_write_needs_file_locks_that_do_nothing() {
    let windows = Windows {
        before_a_write: true,
        ..Windows::default()
    };
    let model = Protocol { windows, ..THREE };
    fails("late write, no file locks", model.clone(), &SEEN);
    let model = Protocol {
        file_locks: true,
        ..model
    };
    assert_eq!(search("late write, file locks", model, &SEEN), None);
}

/// Where file locks work, clocks that stand still leave one window open.
#[test]
fn stopped_clocks_do_no_harm_but_between_record_and_deletion() {
    let limits = Limits {
        stopped_clocks: 1,
        ..QUIET
    };
    let model = Protocol {
        limits,
        file_locks: true,
        ..THREE
    };
    let wrong = [&SEEN[..], &[ALWAYS_RECOVERABLE, ONE_HOLDER, SERVED]].concat();
    assert_eq!(search("stopped clocks", model.clone(), &wrong), None);
    let windows = Windows {
        before_the_deletion: true,
        ..Windows::default()
    };
    let model = Protocol { windows, ..model };
    fails("stopped clocks, late deletion", model, &[NEVER_TORN]);
}

#[test]
fn without_asking_first_a_thawed_holder_undoes_what_its_successor_has_recorded() {
    let limits = Limits {
        stopped_clocks: 1,
        ..QUIET
    };
    let model = Protocol {
        rules: without(|rules| rules.recovery_confirmed = false),
        limits,
        file_locks: true,
        ..THREE
    };
    fails("recovery not confirmed", model, &[NEVER_UNDONE]);
}

#[test]
fn without_a_second_look_a_thawed_holders_journal_undoes_its_successor() {
    let limits = Limits {
        stopped_clocks: 1,
        ..QUIET
    };
    let model = Protocol {
        rules: without(|rules| rules.journal_needs_the_state_it_restores = false),
        limits,
        file_locks: true,
        ..THREE
    };
    fails("journal of an older state", model, &[NEVER_UNDONE]);
}
