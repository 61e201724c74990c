//! One process: which steps it can take, and what each does.

#[cfg(test)]
pub(crate) mod telling;

use crate::store::{Answer, LONG_EXPIRED};
use crate::{Action, Delivery, Item, Journal, PROCESSES, Protocol, Request, Set, State, Turn, bit};

/// The most turns that one process can have: a set has a bit for each.
pub(crate) const MOST_TURNS: u8 = 2;

/// What a process knows, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Process {
    turns_begun: u8,
    phase: Phase,
    /// How many puts it has sent for this lease; each one's end has its number.
    puts: u8,
    /// Up to which put its own clocks have passed the ends.
    passed: u8,
    /// The put that its lease rests on; 0 without a lease.
    span: u8,
    lost: bool,
    clocks_stand_still: bool,
    /// The record in the item, as far as it knows.
    recorded: Option<Turn>,
    at_release: AtRelease,
    purpose: Purpose,
    /// An answer to the request under way was lost.
    unanswered: bool,
    attempt: u8,
    /// The pages as they were before it changed them.
    before: [Set; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Phase {
    #[default]
    Idle,
    Asking,
    Asked(Answer),
    TakingOver(Item),
    TookOver(Item, Answer),
    Waiting,
    /// The answer to the last put was lost.
    Unanswered,
    Looking,
    Creating,
    /// Its journal is there, empty.
    Created,
    Heating,
    Writing(usize),
    /// The lease was good when it was last looked at.
    Checked(usize),
    Restoring(usize),
    Confirming,
    Confirmed(Answer),
    Deleting,
    Settled,
    Releasing,
}

/// What the journal's end is the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Purpose {
    #[default]
    Commit,
    Rollback,
    Recovery(Turn),
    /// The removal of a journal that never became hot.
    Leftover(Turn),
    /// None yet: somebody else's hot journal stands, and is about to be rolled back.
    BeforeRecovery,
}

/// What only some runs come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Takeover,
    RolledBackByASuccessor,
    FinishedByASuccessor,
    AcknowledgedTooLate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum AtRelease {
    #[default]
    Delete,
    Tombstone,
    Leave,
}

impl Process {
    fn is_valid(&self) -> bool {
        self.span > self.passed && !self.lost
    }

    fn end_turn(&mut self) {
        *self = Self {
            turns_begun: self.turns_begun,
            ..Self::default()
        };
    }

    fn begin_turn(&mut self) {
        self.turns_begun += 1;
        self.phase = Phase::Asking;
    }
}

impl Protocol {
    /// The steps that a process can take now.
    pub(crate) fn actions_of(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[number];
        let left = &state.left;
        if process.phase == Phase::Idle {
            // Interchangeable processes begin in order.
            let is_next = number == 0
                || self.turns[number] != self.turns[number - 1]
                || state.processes[number - 1].turns_begun > 0;
            if process.turns_begun < self.turns[number] && is_next {
                actions.push(Action::Step(number));
            }
            return;
        }
        match process.phase {
            Phase::Idle => {}
            Phase::Waiting => {
                let worth_asking =
                    (state.item).is_none_or(|item| self.is_for_the_taking(state, number, item));
                if worth_asking {
                    actions.push(Action::Step(number));
                }
            }
            Phase::Asked(Answer::Refused(Some(item))) => {
                if self.is_for_the_taking(state, number, item) {
                    actions.push(Action::Step(number));
                } else {
                    actions.extend([Action::Wait(number), Action::Expire(number)]);
                    if left.stopped_clocks > 0 && self.may_be_outrun(state, item) {
                        actions.push(Action::OutrunStoppedClocks(number));
                    }
                }
            }
            Phase::Unanswered => actions.extend([Action::Step(number), Action::GiveUp(number)]),
            Phase::Settled => actions.extend([Action::Step(number), Action::GoOn(number)]),
            _ => actions.push(Action::Step(number)),
        }
        let sends = match process.phase {
            Phase::Asking | Phase::TakingOver(_) => true,
            Phase::Releasing if left.losses > 0 => {
                actions.push(Action::LoseRequest(number));
                false
            }
            Phase::Confirming => self.rules.commit_confirmed && process.is_valid(),
            _ => false,
        };
        if sends && left.duplicates > 0 {
            actions.push(Action::SendTwice(number));
        }
        if sends && left.losses > 0 {
            actions.extend([Action::LoseAnswer(number), Action::LoseRequest(number)]);
        }
        if process.phase == Phase::Writing(1) && left.rollbacks > 0 {
            actions.push(Action::RollBack(number));
        }
        // One request at a time for a lease.
        let may_renew = process.is_valid() && !matches!(process.phase, Phase::Confirmed(_));
        if may_renew && left.renewals > 0 {
            actions.push(Action::Renew(number, Delivery::Answered));
            if left.duplicates > 0 {
                actions.push(Action::Renew(number, Delivery::Twice));
            }
            if left.losses > 0 {
                actions.push(Action::Renew(number, Delivery::AnswerLost));
                actions.push(Action::Renew(number, Delivery::Late));
            }
        }
        // Time is let pass where somebody looks at it.
        let looks_at_the_clock = matches!(
            process.phase,
            Phase::Creating | Phase::Writing(_) | Phase::Confirming | Phase::Confirmed(_)
        );
        if looks_at_the_clock && process.is_valid() {
            actions.push(Action::LeaseEnds(number));
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(number));
        }
    }

    /// Whether the item may be taken: expired as far as anyone can tell, or our own.
    fn is_for_the_taking(&self, state: &State, number: usize, item: Item) -> bool {
        let process = &state.processes[number];
        let is_own = item.turn == turn(number, process) && item.attempt == process.attempt;
        let owner = owner(state, item);
        let owner_is_gone =
            owner.phase == Phase::Idle || owner.turns_begun - 1 != item.turn % MOST_TURNS;
        let expired = item.end == LONG_EXPIRED
            || owner_is_gone
            || owner.clocks_stand_still && self.may_be_outrun(state, item)
            || item.end <= owner.passed;
        expired || is_own && self.rules.own_item_recognised
    }

    /// Whether an owner whose clocks stand still may be paused for long where it is.
    fn may_be_outrun(&self, state: &State, item: Item) -> bool {
        let owner = owner(state, item);
        let deletes_next = owner.phase == Phase::Confirmed(Answer::Stored)
            && !matches!(
                owner.purpose,
                Purpose::Leftover(_) | Purpose::BeforeRecovery
            );
        self.windows.before_the_deletion || !deletes_next
    }

    pub(crate) fn act(&self, state: &mut State, number: usize, action: Action) {
        let mut process = state.processes[number];
        let me = turn(number, &process);
        match action {
            Action::Step(_) => self.step(state, number, &mut process),
            Action::SendTwice(_) => {
                state.left.duplicates -= 1;
                self.send(state, me, &mut process, Delivery::Twice);
            }
            Action::LoseAnswer(_) => {
                state.left.losses -= 1;
                self.send(state, me, &mut process, Delivery::AnswerLost);
            }
            Action::LoseRequest(_) => {
                state.left.losses -= 1;
                self.send(state, me, &mut process, Delivery::Late);
            }
            Action::Wait(_) => {
                if let Phase::Asked(Answer::Refused(Some(item))) = process.phase
                    && item.turn == me
                {
                    state.noted.waits_for_itself = true;
                }
                wait(state, me, &mut process);
            }
            Action::RollBack(_) => {
                state.left.rollbacks -= 1;
                state.failed |= bit(me);
                process.purpose = Purpose::Rollback;
                process.phase = Phase::Restoring(0);
            }
            Action::GoOn(_) => {
                process.purpose = Purpose::Commit;
                process.phase = Phase::Looking;
            }
            Action::GiveUp(_) => {
                let keeps = self.rules.giving_up_keeps_the_record && process.recorded.is_some();
                let request = if keeps {
                    retire(me, &process)
                } else {
                    Request::Delete(me)
                };
                state.apply(&request, &self.rules);
                process.end_turn();
            }
            Action::Renew(_, delivery) => self.renew(state, me, &mut process, delivery),
            Action::LeaseEnds(_) => process.passed = process.span,
            Action::Expire(_) | Action::OutrunStoppedClocks(_) => {
                let Phase::Asked(Answer::Refused(Some(seen))) = process.phase else {
                    return;
                };
                let owner = usize::from(seen.turn / MOST_TURNS);
                let owner = if owner == number {
                    &mut process
                } else {
                    &mut state.processes[owner]
                };
                if state.file_lock == Some(seen.turn) {
                    state.file_lock = None;
                }
                if action == Action::Expire(number) {
                    owner.passed = owner.passed.max(seen.end);
                } else {
                    state.left.stopped_clocks -= 1;
                    owner.clocks_stand_still = true;
                }
                process.phase = Phase::TakingOver(seen);
            }
            Action::Crash(_) => {
                state.left.crashes -= 1;
                process.end_turn();
            }
            Action::Arrive(_) => {}
        }
        state.processes[number] = process;
    }

    fn step(&self, state: &mut State, number: usize, process: &mut Process) {
        if process.phase == Phase::Idle {
            return process.begin_turn();
        }
        let me = turn(number, process);
        match process.phase {
            Phase::Idle => {}
            Phase::Asking | Phase::TakingOver(_) | Phase::Releasing => {
                self.send(state, me, process, Delivery::Answered);
            }
            Phase::Waiting => process.phase = Phase::Asking,
            Phase::Unanswered => {
                process.phase = Phase::Asking;
                process.attempt += u8::from(!self.rules.stable_lock_id);
            }
            Phase::Asked(Answer::Stored) => granted(process, None),
            Phase::Asked(Answer::Refused(seen)) => match seen {
                Some(seen) => process.phase = Phase::TakingOver(seen),
                None => wait(state, me, process),
            },
            Phase::TookOver(seen, Answer::Stored) => granted(process, seen.committed),
            Phase::TookOver(_, Answer::Refused(_)) => wait(state, me, process),
            Phase::Looking if self.file_is_locked(state, number) => lose(state, me, process),
            Phase::Looking => self.look(state, me, process),
            Phase::Creating => self.create(state, me, process),
            Phase::Created => {
                if self.stands_as_admitted(state, process) {
                    process.phase = Phase::Heating;
                } else {
                    lose(state, me, process);
                }
            }
            Phase::Heating => {
                if self.fence(state, me, process) {
                    note_stale(state, me);
                    if let Some(journal) = &mut state.journal
                        && journal.of == me
                    {
                        journal.is_hot = true;
                    }
                    process.phase = Phase::Writing(0);
                }
            }
            Phase::Writing(page) => {
                if self.fence(state, me, process) {
                    process.phase = Phase::Checked(page);
                    if !self.windows.before_a_write {
                        self.write(state, me, process);
                    }
                }
            }
            Phase::Checked(_) => self.write(state, me, process),
            Phase::Restoring(page) => {
                if self.fence(state, me, process) {
                    process.phase = Phase::Checked(page);
                    if !self.windows.before_a_write {
                        self.write(state, me, process);
                    }
                }
            }
            Phase::Confirming => self.confirm(state, me, process),
            Phase::Confirmed(answer) => self.confirmed(state, me, process, answer),
            Phase::Deleting => delete(state, me, process),
            Phase::Settled => process.phase = Phase::Releasing,
        }
    }

    /// Sends the request that is due; what comes back is looked at in the next step.
    fn send(&self, state: &mut State, me: Turn, process: &mut Process, delivery: Delivery) {
        let phase = process.phase;
        let request = match phase {
            Phase::Asking => Request::Acquire(next_item(me, process, None)),
            Phase::TakingOver(seen) => Request::TakeOver {
                item: next_item(me, process, seen.committed),
                seen,
            },
            Phase::Confirming => Request::Update {
                recorded: process.recorded,
                item: next_item(me, process, to_record(me, process)),
            },
            _ => match process.at_release {
                AtRelease::Leave => return process.end_turn(),
                AtRelease::Tombstone if self.rules.record_outlives_the_lease => retire(me, process),
                AtRelease::Tombstone | AtRelease::Delete => Request::Delete(me),
            },
        };
        let answer = self.deliver(state, request, delivery);
        process.phase = match (phase, answer) {
            (Phase::Asking, Some(answer)) => Phase::Asked(answer),
            (Phase::TakingOver(seen), Some(answer)) => Phase::TookOver(seen, answer),
            (Phase::Confirming, Some(answer)) => Phase::Confirmed(answer),
            (Phase::Confirming, None) => {
                process.unanswered = true;
                Phase::Confirming
            }
            (Phase::Asking, None) => Phase::Unanswered,
            (Phase::TakingOver(seen), None) => {
                process.recorded = seen.committed;
                Phase::Unanswered
            }
            _ => return process.end_turn(),
        };
    }

    fn deliver(&self, state: &mut State, request: Request, delivery: Delivery) -> Option<Answer> {
        // A release that arrives late is that of a process that was paused before it.
        let is_release = matches!(request, Request::Delete(_) | Request::Retire { .. });
        if matches!(delivery, Delivery::Twice | Delivery::Late) && !is_release {
            state.late.push(request);
            state.late.sort_unstable();
        }
        if delivery == Delivery::Late {
            return None;
        }
        let answer = state.apply(&request, &self.rules);
        (delivery != Delivery::AnswerLost).then_some(answer)
    }

    fn renew(&self, state: &mut State, me: Turn, process: &mut Process, delivery: Delivery) {
        state.left.renewals -= 1;
        match delivery {
            Delivery::Answered => {}
            Delivery::Twice => state.left.duplicates -= 1,
            Delivery::AnswerLost | Delivery::Late => state.left.losses -= 1,
        }
        let request = Request::Update {
            recorded: process.recorded,
            item: next_item(me, process, process.recorded),
        };
        match self.deliver(state, request, delivery) {
            None => {}
            Some(Answer::Stored) => process.span = process.puts,
            Some(Answer::Refused(_)) => process.lost = true,
        }
    }

    /// Whether the lease is still good; if not, the transaction has failed.
    fn fence(&self, state: &mut State, me: Turn, process: &mut Process) -> bool {
        if process.is_valid() || !self.rules.fence {
            return true;
        }
        lose(state, me, process);
        false
    }

    fn create(&self, state: &mut State, me: Turn, process: &mut Process) {
        if !self.fence(state, me, process) {
            return;
        }
        match state.journal {
            Some(journal) if !journal.is_hot => {
                process.purpose = Purpose::Leftover(journal.of);
                process.phase = Phase::Confirming;
                return;
            }
            Some(_) => return lose(state, me, process),
            None => {}
        }
        if !self.cold_journals && !self.stands_as_admitted(state, process) {
            return lose(state, me, process);
        }
        note_stale(state, me);
        state.journal = Some(Journal {
            of: me,
            is_hot: !self.cold_journals,
            before: process.before,
        });
        process.phase = if self.cold_journals {
            Phase::Created
        } else {
            Phase::Writing(0)
        };
    }

    /// With its journal created: whether the database is still what the transaction has read.
    fn stands_as_admitted(&self, state: &State, process: &Process) -> bool {
        !self.rules.journal_needs_the_state_it_restores || state.pages == process.before
    }

    /// With the lease in hand: what the last transaction has left.
    fn look(&self, state: &mut State, me: Turn, process: &mut Process) {
        state.file_lock = Some(me);
        let must_roll_back = (state.journal)
            .is_some_and(|journal| journal.is_hot && process.recorded != Some(journal.of));
        if must_roll_back && self.rules.recovery_confirmed && self.rules.commit_confirmed {
            process.purpose = Purpose::BeforeRecovery;
            process.phase = Phase::Confirming;
        } else {
            settle(state, me, process);
        }
    }

    /// Writes the page that the lease was checked for.
    fn write(&self, state: &mut State, me: Turn, process: &mut Process) {
        let Phase::Checked(page) = process.phase else {
            return;
        };
        if self.file_locks && state.file_lock != Some(me) {
            // An I/O error: SQLite gives up and leaves the journal to whoever comes next.
            return lose(state, me, process);
        }
        note_stale(state, me);
        let writes = process.purpose == Purpose::Commit;
        state.pages[page] = process.before[page] | if writes { bit(me) } else { 0 };
        process.phase = match (page, writes) {
            (0, true) => Phase::Writing(1),
            (0, false) => Phase::Restoring(1),
            _ => Phase::Confirming,
        };
    }

    fn confirm(&self, state: &mut State, me: Turn, process: &mut Process) {
        if !process.is_valid() && process.unanswered {
            process.lost = true;
            process.at_release = AtRelease::Leave;
            process.phase = Phase::Releasing;
            return;
        }
        if !self.fence(state, me, process) {
            return;
        }
        if self.rules.commit_confirmed {
            self.send(state, me, process, Delivery::Answered);
        } else {
            delete(state, me, process);
        }
    }

    fn confirmed(&self, state: &mut State, me: Turn, process: &mut Process, answer: Answer) {
        if answer != Answer::Stored {
            process.lost = true;
            return match process.unanswered {
                true => process.phase = Phase::Releasing,
                false => lose(state, me, process),
            };
        }
        process.unanswered = false;
        process.span = process.puts;
        process.recorded = to_record(me, process);
        if let Purpose::Leftover(found) = process.purpose {
            let is_hot = state.journal.is_some_and(|journal| journal.is_hot);
            let is_the_one = state.journal.is_some_and(|journal| journal.of == found);
            if !is_hot
                && (is_the_one || !self.rules.leftover_is_the_one_found)
                && (process.is_valid() || !self.rules.leftover_needs_a_good_lease)
            {
                state.noted.robbed |= !is_the_one && state.journal.is_some();
                remove_journal(state, me);
                process.purpose = Purpose::Commit;
                process.phase = Phase::Creating;
            } else {
                lose(state, me, process);
            }
            return;
        }
        if process.purpose == Purpose::BeforeRecovery {
            if self.fence(state, me, process) {
                process.purpose = Purpose::Commit;
                settle(state, me, process);
            }
            return;
        }
        process.at_release = AtRelease::Tombstone;
        if process.is_valid() {
            process.phase = Phase::Deleting;
            if !self.windows.before_the_deletion {
                delete(state, me, process);
            }
        } else {
            process.lost = true;
            if process.purpose == Purpose::Commit {
                state.acknowledged |= bit(me);
            }
            process.phase = Phase::Releasing;
        }
    }

    /// Whether another keeps us out by its file lock, which it loses when it is paused for longer
    /// than its lease.
    fn file_is_locked(&self, state: &State, number: usize) -> bool {
        self.file_locks
            && (state.processes.iter().enumerate()).any(|(other, process)| {
                other != number
                    && state.file_lock == Some(turn(other, process))
                    && !matches!(process.phase, Phase::Idle | Phase::Releasing)
            })
    }

    /// What the model should come to, to be worth anything.
    pub(crate) fn shows(&self, state: &State, scene: Scene) -> bool {
        (state.processes.iter().enumerate()).any(|(number, process)| match scene {
            Scene::Takeover => matches!(process.phase, Phase::TookOver(_, Answer::Stored)),
            Scene::RolledBackByASuccessor => process.phase == Phase::Settled,
            Scene::FinishedByASuccessor => {
                process.phase == Phase::Looking
                    && (state.journal).is_some_and(|j| process.recorded == Some(j.of))
            }
            Scene::AcknowledgedTooLate => {
                process.phase == Phase::Releasing
                    && process.lost
                    && state.acknowledged & bit(turn(number, process)) != 0
            }
        })
    }

    pub(crate) fn all_are_served(&self, state: &State) -> bool {
        (state.processes.iter().zip(self.turns))
            .all(|(process, turns)| process.phase == Phase::Idle && process.turns_begun == turns)
    }
}

impl State {
    /// How many processes hold the lease by their own clocks, where these run.
    pub(crate) fn valid_holders(&self) -> usize {
        (self.processes.iter())
            .filter(|process| process.is_valid() && !process.clocks_stand_still)
            .count()
    }
}

fn turn(number: usize, process: &Process) -> Turn {
    debug_assert!(number < PROCESSES);
    number as Turn * MOST_TURNS + process.turns_begun.saturating_sub(1)
}

/// Whose process it is, or was.
fn owner(state: &State, item: Item) -> &Process {
    &state.processes[usize::from(item.turn / MOST_TURNS)]
}

fn next_item(me: Turn, process: &mut Process, committed: Option<Turn>) -> Item {
    process.puts += 1;
    Item {
        turn: me,
        attempt: process.attempt,
        end: process.puts,
        committed,
    }
}

fn retire(me: Turn, process: &Process) -> Request {
    Request::Retire {
        item: Item {
            turn: me,
            attempt: process.attempt,
            end: LONG_EXPIRED,
            committed: process.recorded,
        },
    }
}

/// The record that the confirmation writes.
fn to_record(me: Turn, process: &Process) -> Option<Turn> {
    match process.purpose {
        Purpose::Commit | Purpose::Rollback => Some(me),
        Purpose::Recovery(other) => Some(other),
        Purpose::Leftover(_) | Purpose::BeforeRecovery => process.recorded,
    }
}

fn granted(process: &mut Process, recorded: Option<Turn>) {
    process.span = process.puts;
    process.recorded = recorded;
    process.at_release = match recorded {
        Some(_) => AtRelease::Tombstone,
        None => AtRelease::Delete,
    };
    process.phase = Phase::Looking;
}

fn wait(state: &State, me: Turn, process: &mut Process) {
    process.phase = Phase::Waiting;
    let is_mine = |request: &Request| match request {
        Request::Acquire(item) => item.turn == me,
        Request::TakeOver { item, seen } => item.turn == me || seen.turn == me,
        _ => false,
    };
    let has_seen_mine = |other: &Process| match other.phase {
        Phase::Asked(Answer::Refused(Some(item)))
        | Phase::TakingOver(item)
        | Phase::TookOver(item, _) => item.turn == me,
        _ => false,
    };
    let nothing_is_out = !state.late.iter().any(is_mine)
        && !state.processes.iter().any(has_seen_mine)
        && state.item.is_none_or(|item| item.turn != me);
    if nothing_is_out {
        // Nobody has seen an end of ours: the count may begin again.
        (process.puts, process.passed, process.attempt) = (0, 0, 0);
    }
}

/// The transaction has failed, and its caller is told to try again.
fn lose(state: &mut State, me: Turn, process: &mut Process) {
    process.lost = true;
    if matches!(
        process.purpose,
        Purpose::Commit | Purpose::Leftover(_) | Purpose::BeforeRecovery
    ) {
        state.failed |= bit(me);
    }
    process.phase = Phase::Releasing;
}

/// Begins to roll a hot journal back, or to write where there is none.
fn settle(state: &mut State, me: Turn, process: &mut Process) {
    match state.journal {
        Some(journal) if journal.is_hot && process.recorded != Some(journal.of) => {
            process.purpose = Purpose::Recovery(journal.of);
            process.before = journal.before;
            process.phase = Phase::Restoring(0);
            return;
        }
        Some(journal) if journal.is_hot => {
            // Harmless even if it is late.
            state.journal = None;
        }
        _ => {}
    }
    process.at_release = AtRelease::Delete;
    process.before = state.pages;
    process.phase = Phase::Creating;
    if state.newest == Some(me) {
        let [first, second] = state.pages;
        state.noted.torn |= first != second;
        state.noted.undone |= state.acknowledged & !first != 0;
        state.noted.resurrected |= state.failed & first != 0;
    }
}

/// Ends the journal, and with it the transaction.
fn delete(state: &mut State, me: Turn, process: &mut Process) {
    remove_journal(state, me);
    process.at_release = AtRelease::Delete;
    process.phase = Phase::Releasing;
    match process.purpose {
        Purpose::Commit => state.acknowledged |= bit(me),
        Purpose::Rollback | Purpose::Leftover(_) | Purpose::BeforeRecovery => {}
        Purpose::Recovery(_) => {
            process.phase = Phase::Settled;
        }
    }
}

/// By its name, whosever it is.
fn remove_journal(state: &mut State, me: Turn) {
    note_stale(state, me);
    state.journal = None;
}

fn note_stale(state: &mut State, me: Turn) {
    state.noted.stale_write |= state.newest != Some(me);
}
