//! A run in words: who does what, what it changes, and what it would do next.

use super::{Answer, MOST_TURNS, Phase, Process, Purpose};
use crate::{Action, Delivery, Item, Set, State, Turn};

/// The steps that lead through these states, a line for each.
pub(crate) fn tell(path: &[(State, Option<Action>)]) -> Vec<String> {
    path.windows(2)
        .filter_map(|pair| match pair {
            [(before, Some(action)), (after, _)] => Some(tell_step(before, *action, after)),
            _ => None,
        })
        .collect()
}

fn tell_step(before: &State, action: Action, after: &State) -> String {
    let Some((number, what)) = doing(before, action) else {
        let Action::Arrive(request) = action else {
            return format!("{action:?}");
        };
        let changes = changes(before, after).join("; ");
        return format!("-  a late request arrives: {request:?}; {changes}");
    };
    let mut told = changes(before, after);
    let next = &after.processes[number];
    if next.phase != before.processes[number].phase {
        told.push(format!("next it {}", doing_in(next)));
    }
    format!("{}  {what:<52} {}", letter(number), told.join("; "))
}

/// Who does it, and what.
fn doing(state: &State, action: Action) -> Option<(usize, String)> {
    let lost = |number: usize, how: &str| {
        let process = &state.processes[number];
        (number, format!("{} ({how})", doing_in(process)))
    };
    let told = |number: usize, what: &str| (number, what.to_owned());
    Some(match action {
        Action::Step(number) => (number, doing_in(&state.processes[number])),
        Action::Wait(number) => told(number, "takes that lease for good, and waits"),
        Action::RollBack(number) => told(number, "decides to roll back"),
        Action::GoOn(number) => told(number, "goes on to write under the same lease"),
        Action::GiveUp(number) => told(number, "gives the acquisition up"),
        Action::SendTwice(number) => lost(number, "a copy arrives later"),
        Action::LoseAnswer(number) => lost(number, "the answer is lost"),
        Action::LoseRequest(number) => lost(number, "the request is lost, or late"),
        Action::Renew(number, delivery) => {
            let how = match delivery {
                Delivery::Answered => "renews its lease",
                Delivery::Twice => "renews its lease (a copy arrives later)",
                Delivery::AnswerLost => "renews its lease (the answer is lost)",
                Delivery::Late => "renews its lease (the request is lost, or late)",
            };
            told(number, how)
        }
        Action::LeaseEnds(number) => told(number, "its clocks pass the end of its lease"),
        Action::Expire(number) => {
            told(number, "finds that lease expired, as its owner's clocks do")
        }
        Action::OutrunStoppedClocks(number) => told(
            number,
            "finds that lease expired; its owner's clocks stand still",
        ),
        Action::Crash(number) => told(number, "DIES"),
        Action::Arrive(_) => return None,
    })
}

/// What a process does in the phase that it is in.
fn doing_in(process: &Process) -> String {
    let page = |page: usize| page + 1;
    match process.phase {
        Phase::Idle => "begins, or has ended".to_owned(),
        Phase::Asking => "asks for the lease".to_owned(),
        Phase::Asked(Answer::Stored) => "hears that it is granted".to_owned(),
        Phase::Asked(Answer::Refused(Some(item))) => {
            format!("hears that {} has it", item_text(item))
        }
        Phase::Asked(Answer::Refused(None)) => "hears that it is refused".to_owned(),
        Phase::TakingOver(item) => format!("takes over from {}", item_text(item)),
        Phase::TookOver(_, Answer::Stored) => "hears that it has taken over".to_owned(),
        Phase::TookOver(_, Answer::Refused(_)) => "hears that it has not taken over".to_owned(),
        Phase::Waiting => "ends its pause".to_owned(),
        Phase::Unanswered => "has heard nothing, and will ask again".to_owned(),
        Phase::Looking => "locks the file, looks for a journal".to_owned(),
        Phase::Creating => "creates its journal".to_owned(),
        Phase::Created => "looks at the database once more".to_owned(),
        Phase::Heating => "completes its journal's header".to_owned(),
        Phase::Writing(number) => format!("checks its lease, writes page {}", page(number)),
        Phase::Checked(number) => format!("writes page {}, checked before", page(number)),
        Phase::Restoring(number) => format!("checks its lease, restores page {}", page(number)),
        Phase::Confirming => match process.purpose {
            Purpose::Commit => "asks the store to record its commit".to_owned(),
            Purpose::Rollback => "asks the store to record its rollback".to_owned(),
            Purpose::Recovery(of) => {
                format!("asks the store to record that {} is undone", name(of))
            }
            Purpose::Leftover(_) => "asks the store before it removes a leftover".to_owned(),
            Purpose::BeforeRecovery => "asks the store before it rolls back".to_owned(),
        },
        Phase::Confirmed(Answer::Stored) => "hears that the store has confirmed".to_owned(),
        Phase::Confirmed(Answer::Refused(_)) => "hears that the store refuses".to_owned(),
        Phase::Deleting => "deletes the journal".to_owned(),
        Phase::Settled => "has rolled back, and goes".to_owned(),
        Phase::Releasing => "releases the lease".to_owned(),
    }
}

/// What all can see, and what callers were told.
fn changes(before: &State, after: &State) -> Vec<String> {
    let mut told = Vec::new();
    if before.item != after.item {
        told.push(match after.item {
            Some(item) => format!("item: {}", item_text(item)),
            None => "item: none".to_owned(),
        });
    }
    if before.journal != after.journal {
        told.push(match after.journal {
            Some(journal) => format!(
                "journal: {}'s, {}, back to {} {}",
                name(journal.of),
                if journal.is_hot { "hot" } else { "cold" },
                set(journal.before[0]),
                set(journal.before[1])
            ),
            None => "journal: none".to_owned(),
        });
    }
    if before.pages != after.pages {
        let [first, second] = after.pages;
        told.push(format!("pages: {} {}", set(first), set(second)));
    }
    if before.file_lock != after.file_lock {
        told.push(match after.file_lock {
            Some(turn) => format!("file lock: {}'s", name(turn)),
            None => "file lock: lost".to_owned(),
        });
    }
    if before.acknowledged != after.acknowledged {
        told.push(format!("ACKNOWLEDGED: {}", set(after.acknowledged)));
    }
    if before.failed != after.failed {
        told.push(format!("failed: {}", set(after.failed)));
    }
    told
}

fn item_text(item: Item) -> String {
    let committed = match item.committed {
        Some(turn) => format!(", record {}", name(turn)),
        None => String::new(),
    };
    match item.end {
        crate::store::LONG_EXPIRED => format!("{} (expired{committed})", name(item.turn)),
        end => format!("{} (put {end}{committed})", name(item.turn)),
    }
}

fn letter(process: usize) -> char {
    ['A', 'B', 'C'].get(process).copied().unwrap_or('?')
}

/// A process, and which of its turns if it is not the first.
fn name(turn: Turn) -> String {
    let letter = letter(usize::from(turn / MOST_TURNS));
    match turn % MOST_TURNS {
        0 => letter.to_string(),
        later => format!("{letter}{}", later + 1),
    }
}

fn set(turns: Set) -> String {
    let names = (0..Set::BITS as Turn).filter(|turn| turns & crate::bit(*turn) != 0);
    format!("{{{}}}", names.map(name).collect::<Vec<_>>().join(" "))
}
