//! The lock protocol as a state machine, small enough to be searched to its last state.
//!
//! Processes share one lock item and one database of two pages with a rollback journal. Each turn
//! of a process is one acquisition with one transaction: acquire or take over, look at a leftover
//! journal, roll it back or remove it, create a journal, write both pages, confirm, delete the
//! journal, release. Between any two steps others may act, so every process is paused at every
//! point for every time. On top of that come, as many as [`Limits`] allow: crashes, answers that
//! are lost, requests that arrive late or twice, renewals, clocks that stand still.
//!
//! What the store does with a put is not modelled but asked of the crate: `PutCondition::holds`.
//!
//! Time has no numbers. Each put of a lease has an end, later than those of the puts before it. Its
//! owner's clocks pass these ends in order ([`Action::LeaseEnds`], [`Action::Expire`]); others may take a lease for
//! expired once its owner's clocks have passed its end, which is what safety margin and allowance
//! for skew are there for. If the owner has crashed or its clocks stand still, they may at any time.
//! That covers clocks that differ by no more than the margin; clocks that differ by more are
//! clocks that stand still.
//!
//! A page holds the set of transactions whose changes it shows, so that one look at it tells what
//! was lost.

mod process;
mod store;

#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::process::{Process, Scene};
pub use self::store::{Item, Request};

/// How many processes there are.
pub const PROCESSES: usize = 3;

/// One acquisition, its transaction and its journal: what `lock_id` and the journal's nonce tell
/// apart.
pub type Turn = u8;

/// A set of transactions, a bit for each turn.
pub type Set = u8;

/// The protocol, with parts that can be left out to see what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Each write asks whether the lease is still good by the local clocks.
    pub fence: bool,
    /// All attempts of an acquisition bear one `lock_id`.
    pub stable_lock_id: bool,
    /// A takeover's condition names the `lock_id` that was seen; without, it names nothing.
    pub takeover_names_the_holder: bool,
    /// It names `expires_at` as well.
    pub takeover_names_the_end: bool,
    /// Conditions name the commit record.
    pub puts_name_the_record: bool,
    /// The end of a journal is recorded in the item before the journal is deleted.
    pub commit_confirmed: bool,
    /// The item outlives the lease while its record is needed.
    pub record_outlives_the_lease: bool,
    /// A put that arrives late brings no end forward.
    pub ends_only_grow: bool,
    /// An item with our own `lock_id` in the way is ours, whatever its record.
    pub own_item_recognised: bool,
    /// An acquisition that gives up leaves a record that it has taken over.
    pub giving_up_keeps_the_record: bool,
    /// A cold leftover is removed only if the lease is still good when the store has confirmed it.
    pub leftover_needs_a_good_lease: bool,
    /// And only if it is the one that was found before the store was asked.
    pub leftover_is_the_one_found: bool,
    /// The store confirms the lease before a hot journal is rolled back under it.
    pub recovery_confirmed: bool,
    /// A journal becomes hot only if the database, looked at once the journal was created, is what
    /// it would restore.
    pub journal_needs_the_state_it_restores: bool,
}

impl Rules {
    /// All of it.
    pub const ALL: Self = Self {
        fence: true,
        stable_lock_id: true,
        takeover_names_the_holder: true,
        takeover_names_the_end: true,
        puts_name_the_record: true,
        commit_confirmed: true,
        record_outlives_the_lease: true,
        ends_only_grow: true,
        own_item_recognised: true,
        giving_up_keeps_the_record: true,
        leftover_needs_a_good_lease: true,
        leftover_is_the_one_found: true,
        recovery_confirmed: true,
        journal_needs_the_state_it_restores: true,
    };
}

/// What the surroundings may do, each so many times in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Limits {
    /// A process dies; its next turn is another process in its place.
    pub crashes: u8,
    /// A request or its answer is lost, or the request arrives after its sender has given it up.
    pub losses: u8,
    /// A request arrives a second time, any time later.
    pub duplicates: u8,
    /// A lease is renewed.
    pub renewals: u8,
    /// The clocks of a process stand still for the rest of its turn, however long it is paused.
    pub stopped_clocks: u8,
    /// A transaction is rolled back by its own process.
    pub rollbacks: u8,
}

/// What a process can be paused in the midst of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// Between the check of the lease and the write of a page.
    pub before_a_write: bool,
    /// Between the confirmation, in time by clocks that run or stand still, and the deletion of
    /// the journal.
    pub before_the_deletion: bool,
}

/// The model: which rules, in which surroundings.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// What the processes obey.
    pub rules: Rules,
    /// What happens to them.
    pub limits: Limits,
    /// Where they can be paused between a check and what it was for.
    pub windows: Windows,
    /// How many turns each process has. Those with as many are interchangeable.
    pub turns: [u8; PROCESSES],
    /// A file lock that was lost makes writes to the database fail, as on NFS; otherwise file
    /// locks do nothing.
    pub file_locks: bool,
    /// Journals are created and made hot in two steps, so that a cold one can be left over.
    pub cold_journals: bool,
}

/// All there is at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    item: Option<Item>,
    /// Requests on their way that nobody waits for any more, sorted.
    late: Vec<Request>,
    journal: Option<Journal>,
    pages: [Set; 2],
    processes: [Process; PROCESSES],
    left: Limits,
    /// Who holds the file lock for writing, as the file system sees it.
    file_lock: Option<Turn>,
    /// The lease that was granted last.
    newest: Option<Turn>,
    /// Transactions reported as committed, and as failed and safe to repeat.
    acknowledged: Set,
    failed: Set,
    /// What has been seen to go wrong.
    noted: Noted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Journal {
    of: Turn,
    is_hot: bool,
    before: [Set; 2],
}

/// Events that no later state shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Noted {
    stale_write: bool,
    torn: bool,
    undone: bool,
    resurrected: bool,
    waits_for_itself: bool,
    robbed: bool,
}

/// One step. The number is the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Its next step, where there is only one.
    Step(usize),
    /// It takes the lease that it was refused for to be still good, and waits.
    Wait(usize),
    /// It rolls its transaction back.
    RollBack(usize),
    /// With the leftover journal settled it goes on under the same lease.
    GoOn(usize),
    /// It gives the acquisition up.
    GiveUp(usize),
    /// It sends a request that arrives; the copy arrives later.
    SendTwice(usize),
    /// It sends a request that is applied; the answer is lost.
    LoseAnswer(usize),
    /// It sends a request that arrives after it has given up waiting, if at all.
    LoseRequest(usize),
    /// Its lease is renewed by another thread: answered, twice, answer lost, late.
    Renew(usize, Delivery),
    /// Its clocks pass the end of its lease.
    LeaseEnds(usize),
    /// It finds the lease that it was refused for expired; the owner's clocks have passed its end.
    Expire(usize),
    /// The same, but the owner's clocks have stood still.
    OutrunStoppedClocks(usize),
    /// It dies.
    Crash(usize),
    /// A late request arrives.
    Arrive(Request),
}

/// How a request fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Applied and answered.
    Answered,
    /// Applied and answered, and a copy arrives later.
    Twice,
    /// Applied; the answer is lost.
    AnswerLost,
    /// Not applied while its sender waits.
    Late,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            item: None,
            late: Vec::new(),
            journal: None,
            pages: [0; 2],
            processes: Default::default(),
            left: self.limits,
            file_lock: None,
            newest: None,
            acknowledged: 0,
            failed: 0,
            noted: Noted::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for process in 0..PROCESSES {
            self.actions_of(state, process, actions);
        }
        actions.extend(state.late.iter().copied().map(Action::Arrive));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Arrive(request) => {
                let place = next.late.iter().position(|late| *late == request)?;
                next.late.remove(place);
                next.apply(&request, &self.rules);
            }
            Action::Step(process)
            | Action::Wait(process)
            | Action::RollBack(process)
            | Action::GoOn(process)
            | Action::GiveUp(process)
            | Action::SendTwice(process)
            | Action::LoseAnswer(process)
            | Action::LoseRequest(process)
            | Action::Renew(process, _)
            | Action::LeaseEnds(process)
            | Action::Expire(process)
            | Action::OutrunStoppedClocks(process)
            | Action::Crash(process) => self.act(&mut next, process, action),
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, state: &State| state.valid_holders() <= 1),
            Property::always(NO_STALE_WRITE, |_, state: &State| !state.noted.stale_write),
            Property::always(NEVER_ROBBED, |_, state: &State| !state.noted.robbed),
            Property::always(NEVER_TORN, |_, state: &State| !state.noted.torn),
            Property::always(NEVER_UNDONE, |_, state: &State| !state.noted.undone),
            Property::always(NEVER_RESURRECTED, |_, state: &State| {
                !state.noted.resurrected
            }),
            Property::always(ALWAYS_RECOVERABLE, |_, state: &State| {
                state.is_recoverable()
            }),
            Property::always(OWN_ITEM, |_, state: &State| !state.noted.waits_for_itself),
            Property::eventually(SERVED, |model: &Self, state: &State| {
                model.all_are_served(state)
            }),
            Property::sometimes("a lease is taken over", |m: &Self, s| {
                m.shows(s, Scene::Takeover)
            }),
            Property::sometimes("a successor rolls a journal back", |m: &Self, s| {
                m.shows(s, Scene::RolledBackByASuccessor)
            }),
            Property::sometimes("a successor finishes a commit", |m: &Self, s| {
                m.shows(s, Scene::FinishedByASuccessor)
            }),
            Property::sometimes("a commit is acknowledged after its lease", |m: &Self, s| {
                m.shows(s, Scene::AcknowledgedTooLate)
            }),
        ]
    }
}

/// By their own clocks, no two processes hold the lease.
pub const ONE_HOLDER: &str = "one valid holder";
/// Nobody writes or deletes after another was granted the lease.
pub const NO_STALE_WRITE: &str = "no stale write passes the fence";
/// What is removed as a leftover is one.
pub const NEVER_ROBBED: &str = "no journal is removed in place of a leftover";
/// Whoever begins to write finds both pages of one state.
pub const NEVER_TORN: &str = "never torn";
/// .. which shows all that was acknowledged ..
pub const NEVER_UNDONE: &str = "an acknowledged commit is never undone";
/// .. and nothing that was reported as failed.
pub const NEVER_RESURRECTED: &str = "a failed commit is never visible";
/// The last three would hold if all processes died now and another came.
pub const ALWAYS_RECOVERABLE: &str = "a successor would find all that was acknowledged";
/// A lost answer costs its owner a retry and not a lease.
pub const OWN_ITEM: &str = "nobody waits for itself";
/// Whoever waits, for a crashed holder or another, gets the lease.
pub const SERVED: &str = "every waiter gets the lock";

impl State {
    /// What a successor would see if all processes died now.
    fn is_recoverable(&self) -> bool {
        let recorded = self.item.and_then(|item| item.committed);
        let view = match self.journal {
            Some(journal) if journal.is_hot && recorded != Some(journal.of) => journal.before,
            _ => self.pages,
        };
        view[0] == view[1] && self.acknowledged & !view[0] == 0 && self.failed & view[0] == 0
    }
}

fn bit(turn: Turn) -> Set {
    1 << turn
}
