//! The lock against a reference that is written from the documentation: SQLite's lock levels, the
//! lease and the journal, in whatever order SQLite, clocks and other hosts act. See
//! `url/properties.rs` for how to repeat a run.
//!
//! The reference says beforehand what each call answers, what the lock table then holds, and what
//! stands at the journal's path. Times are whole seconds, so that nothing is rounded.

use std::time::Duration;

use proptest::prelude::*;

use super::tests::{FIRST_WRITE, KEY, LEASE, MINE, OLD, UPGRADE, World};
use super::*;
use crate::files::file_version::{FileState, FileVersion};
use crate::files::rollback_journal::JournalStatus;
use crate::store::{JournalId, StoredItem};

const THEIRS: JournalId = JournalId([9; 4]);
const CHANGED: FileVersion = FileVersion([3; 16]);
/// What a holder stops before its item's end.
const MARGIN: u64 = 2;
/// The second that a `Date` leaves open: the store's clock may be at its end.
const DATE: u64 = 1;
const OTHER: &str = "another host";

/// What SQLite, the clocks or another host do next. What cannot happen then is left out.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// RESERVED: a transaction's first write; `has_read`, and whether the database has changed
    /// since.
    Reserve {
        has_read: bool,
        is_stale: bool,
    },
    /// EXCLUSIVE straight from SHARED, where a hot journal stands.
    Recover,
    /// The journal is created and its first header written; it becomes hot.
    CreateJournal {
        has_changed: bool,
    },
    /// A page is written.
    Write,
    /// The journal is about to be deleted, in COMMIT, ROLLBACK or a recovery.
    EndJournal,
    /// Down to SHARED or below.
    Unlock,
    /// The busy handler, if it does not have to wait.
    Wait,
    StatementEnds,
    Pin,
    Unpin,
    Seconds(u64),
    /// Another host takes over what has expired, by its own clock or because ours stands still.
    Takeover {
        ours_stands_still: bool,
    },
    /// It dies in mid-commit, its end recorded or not.
    LeavesHotJournal {
        is_recorded: bool,
    },
    /// It dies before its journal is hot.
    LeavesColdJournal,
    /// It gives the lease back; its journal is gone.
    Releases,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(has_read, is_stale)| Event::Reserve { has_read, is_stale }),
        3 => Just(Event::Recover),
        6 => prop::bool::weighted(0.1).prop_map(|has_changed| Event::CreateJournal { has_changed }),
        3 => Just(Event::Write),
        6 => Just(Event::EndJournal),
        4 => Just(Event::Unlock),
        2 => Just(Event::Wait),
        2 => Just(Event::StatementEnds),
        1 => Just(Event::Pin),
        1 => Just(Event::Unpin),
        4 => (1..10_u64).prop_map(Event::Seconds),
        3 => any::<bool>().prop_map(|ours_stands_still| Event::Takeover { ours_stands_still }),
        2 => any::<bool>().prop_map(|is_recorded| Event::LeavesHotJournal { is_recorded }),
        1 => Just(Event::LeavesColdJournal),
        2 => Just(Event::Releases),
    ];
    prop::collection::vec(event, 1..60)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    Other,
}

/// The lock item. An item of a lease that we have given back is nobody's: it has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    owner: Owner,
    until: u64,
    record: Option<JournalId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Absent,
    Cold,
    Hot(JournalId),
}

/// SQLite's lock on the database. Below SHARED it asks nothing of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Shared,
    Reserved,
    /// To roll a hot journal back.
    Recovering,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    good_until: u64,
    is_lost: bool,
    /// The record in the item, as far as we know.
    record: Option<JournalId>,
    /// The journal that the record speaks of may still stand.
    record_is_needed: bool,
    /// Kept for the busy handler, although SQLite gives up its locks.
    awaits_handler: bool,
    /// A transaction has it.
    in_use: bool,
}

/// What the busy handler would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    ByLease,
    Stale,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Reference {
    now: u64,
    item: Option<Item>,
    file: File,
    level: Level,
    held: Option<Held>,
    blocked: Blocked,
    pins: u32,
    /// The journal of this transaction, and whether it is ours.
    journal: Option<JournalId>,
    created: bool,
}

/// What an event comes to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Busy,
    Refused,
    End(EndOfJournal),
}

impl Reference {
    fn new(now: u64) -> Self {
        Self {
            now,
            item: None,
            file: File::Absent,
            level: Level::Shared,
            held: None,
            blocked: Blocked::No,
            pins: 0,
            journal: None,
            created: false,
        }
    }

    /// Whether the event can happen now.
    fn is_possible(&self, event: Event) -> bool {
        let others = self.item.is_some_and(|item| item.owner == Owner::Other);
        match event {
            Event::Reserve { .. } => self.level == Level::Shared,
            Event::Recover => self.level == Level::Shared && matches!(self.file, File::Hot(_)),
            Event::CreateJournal { .. } => self.level == Level::Reserved && !self.created,
            Event::Write => self.level == Level::Recovering || self.created,
            Event::EndJournal => self.level == Level::Recovering || self.created,
            Event::Unlock | Event::Seconds(_) | Event::Takeover { .. } => true,
            Event::Wait => match self.blocked {
                Blocked::ByLease => self.level == Level::Shared && self.is_free(),
                Blocked::Stale => self.level == Level::Shared,
                Blocked::No | Blocked::Other => false,
            },
            Event::StatementEnds => self.level == Level::Shared,
            // Between statements, where no busy handler is due.
            Event::Pin => {
                self.level == Level::Shared
                    && self.blocked == Blocked::No
                    && (self.held.is_some() || self.is_free())
            }
            Event::Unpin => self.pins > 0,
            Event::LeavesHotJournal { .. } | Event::LeavesColdJournal => {
                others && self.file == File::Absent
            }
            Event::Releases => others,
        }
    }

    fn is_free(&self) -> bool {
        self.item.is_none_or(|item| item.until <= self.now)
    }

    fn is_good(&mut self) -> bool {
        let now = self.now;
        match &mut self.held {
            Some(held) => {
                held.is_lost |= now >= held.good_until;
                !held.is_lost
            }
            None => false,
        }
    }

    /// What the item is replaced by when the lease is granted, renewed or confirmed.
    fn put(&mut self, record: Option<JournalId>) {
        let until = self.now + LEASE.as_secs();
        self.item = Some(Item {
            owner: Owner::Us,
            until,
            record,
        });
    }

    fn grant(&mut self, in_use: bool) {
        let record = self.item.and_then(|item| item.record);
        self.put(record);
        self.held = Some(Held {
            good_until: self.now + LEASE.as_secs() - DATE - MARGIN,
            is_lost: false,
            record,
            record_is_needed: record.is_some(),
            awaits_handler: false,
            in_use,
        });
    }

    /// The lease ends, unless it is pinned: the item goes, or stays for its record.
    fn put_away(&mut self) {
        let Some(held) = &mut self.held else {
            return;
        };
        (held.awaits_handler, held.in_use) = (false, false);
        if self.pins == 0 {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        if let Some(item) = self.item.filter(|item| item.owner == Owner::Us) {
            self.item = held.record_is_needed.then_some(Item { until: 1, ..item });
        }
    }

    fn claim(&mut self, unless_granted: Blocked) -> bool {
        self.journal = None;
        self.created = false;
        if self.held.is_some() {
            if self.is_good() {
                if let Some(held) = &mut self.held {
                    (held.in_use, held.awaits_handler) = (true, false);
                }
                return true;
            }
            if self.pins > 0 {
                self.blocked = Blocked::Other;
                return false;
            }
            self.give_back();
        }
        if self.is_free() {
            self.grant(true);
            true
        } else {
            self.blocked = unless_granted;
            false
        }
    }

    /// The store is asked whether the lease is ours still.
    fn confirm(&mut self, journal: Option<JournalId>) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        if self.item.is_none_or(|item| item.owner == Owner::Other) {
            held.is_lost = true;
            return false;
        }
        held.record = journal.or(held.record);
        held.record_is_needed |= journal.is_some();
        held.good_until = self.now + LEASE.as_secs() - DATE - MARGIN;
        let record = held.record;
        self.put(record);
        true
    }

    /// A leftover that is finished goes. Whether a hot one remains.
    fn settle(&mut self) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        match self.file {
            File::Hot(id) if held.record != Some(id) => {
                self.journal = Some(id);
                return true;
            }
            File::Hot(_) => self.file = File::Absent,
            File::Cold | File::Absent => {}
        }
        held.record_is_needed = false;
        false
    }

    /// What the lock should answer.
    fn answer(&mut self, event: Event) -> Answer {
        match event {
            Event::Reserve { has_read, is_stale } => {
                let waits = if has_read {
                    Blocked::Other
                } else {
                    Blocked::ByLease
                };
                if !self.claim(waits) {
                    return Answer::Busy;
                }
                let is_hot = self.settle_if_good();
                let Ok(is_hot) = is_hot else {
                    self.blocked = Blocked::Other;
                    self.put_away();
                    return Answer::Busy;
                };
                if !is_hot && !is_stale {
                    self.level = Level::Reserved;
                    return Answer::Done;
                }
                if has_read {
                    self.blocked = Blocked::Other;
                    self.put_away();
                } else {
                    self.blocked = Blocked::Stale;
                    if let Some(held) = &mut self.held {
                        (held.in_use, held.awaits_handler) = (false, true);
                    }
                }
                Answer::Busy
            }
            Event::Recover => {
                if !self.claim(Blocked::Other) {
                    return Answer::Busy;
                }
                self.level = Level::Recovering;
                let File::Hot(id) = self.file else {
                    return Answer::Done;
                };
                let is_finished = self.held.is_some_and(|held| held.record == Some(id));
                if !is_finished && !self.confirm(None) {
                    return Answer::Refused;
                }
                self.settle();
                Answer::Done
            }
            Event::CreateJournal { has_changed } => {
                if !self.is_good() {
                    return Answer::Refused;
                }
                if self.file != File::Absent {
                    // It is there, and empty or cold unless somebody else has the lease.
                    if !self.confirm(None) {
                        return Answer::Refused;
                    }
                    if matches!(self.file, File::Hot(_)) {
                        self.lose();
                        return Answer::Refused;
                    }
                }
                if has_changed {
                    self.file = File::Absent;
                    self.lose();
                    return Answer::Refused;
                }
                self.file = File::Hot(MINE);
                (self.journal, self.created) = (Some(MINE), true);
                Answer::Done
            }
            Event::Write => match self.is_good() {
                true => Answer::Done,
                false => Answer::Refused,
            },
            Event::EndJournal => {
                let may_end = self.is_good() && self.confirm(self.journal);
                if !may_end {
                    return Answer::End(EndOfJournal::Refuse);
                }
                self.file = File::Absent;
                if let Some(held) = &mut self.held {
                    held.record_is_needed = false;
                }
                Answer::End(EndOfJournal::Remove)
            }
            Event::Unlock => {
                self.level = Level::Shared;
                self.created = false;
                if self.held.is_some_and(|held| !held.awaits_handler) {
                    self.put_away();
                }
                Answer::Done
            }
            Event::Wait => {
                if self.blocked == Blocked::ByLease {
                    // Whatever was kept is given up for the new one.
                    self.give_back();
                    self.grant(false);
                } else if let Some(held) = &mut self.held {
                    held.awaits_handler = false;
                }
                self.blocked = Blocked::No;
                Answer::Done
            }
            Event::StatementEnds => {
                self.blocked = Blocked::No;
                if self.held.is_some_and(|held| !held.in_use) {
                    self.put_away();
                }
                Answer::Done
            }
            Event::Pin => {
                if self.held.is_some() {
                    if !self.is_good() {
                        return Answer::Refused;
                    }
                } else {
                    self.grant(false);
                }
                self.pins += 1;
                Answer::Done
            }
            Event::Unpin => {
                self.pins -= 1;
                if self.held.is_some_and(|held| !held.in_use) {
                    self.put_away();
                }
                Answer::Done
            }
            Event::Seconds(seconds) => {
                self.now += seconds;
                Answer::Done
            }
            Event::Takeover { ours_stands_still } => {
                let is_ours = self.item.is_some_and(|item| item.owner == Owner::Us);
                if self.is_free() || (is_ours && ours_stands_still) {
                    self.item = Some(Item {
                        owner: Owner::Other,
                        until: self.now + LEASE.as_secs(),
                        record: self.item.and_then(|item| item.record),
                    });
                }
                Answer::Done
            }
            Event::LeavesHotJournal { is_recorded } => {
                self.file = File::Hot(THEIRS);
                if let Some(item) = &mut self.item {
                    item.record = is_recorded.then_some(THEIRS);
                }
                Answer::Done
            }
            Event::LeavesColdJournal => {
                self.file = File::Cold;
                Answer::Done
            }
            Event::Releases => {
                self.item = None;
                self.file = File::Absent;
                Answer::Done
            }
        }
    }

    fn lose(&mut self) {
        if let Some(held) = &mut self.held {
            held.is_lost = true;
        }
    }

    /// A finished leftover is removed only under a good lease.
    fn settle_if_good(&mut self) -> Result<bool, ()> {
        let finished = self.held.and_then(|held| held.record);
        if finished.is_some_and(|id| self.file == File::Hot(id)) && !self.is_good() {
            return Err(());
        }
        Ok(self.settle())
    }
}

/// The lock, with the files and the table around it as SQLite and other hosts leave them.
struct Real {
    world: World,
    lock: WriteLock,
}

impl Real {
    fn answer(&self, event: Event) -> Answer {
        let Self { world, lock } = self;
        let now = || world.clock.now().wall.as_secs();
        // The reference asks at once, even where others are let in first.
        lock.client.forget_others();
        match event {
            Event::Reserve { has_read, is_stale } => {
                let purpose = if has_read { UPGRADE } else { FIRST_WRITE };
                let current = if is_stale { CHANGED } else { OLD };
                let admitted = lock.try_reserve(purpose).and_then(|()| {
                    lock.validate_snapshot(OLD, FileState::Version(current), purpose)
                });
                match admitted {
                    Ok(()) => Answer::Done,
                    Err(Busy) => Answer::Busy,
                }
            }
            Event::Recover => match lock.try_reserve(Purpose::Recovery) {
                Ok(()) => told(lock.before_recovery()),
                Err(Busy) => Answer::Busy,
            },
            Event::CreateJournal { has_changed } => told(self.create_journal(has_changed)),
            Event::Write => told(lock.fence()),
            Event::EndJournal => {
                let end = lock.end_journal();
                if end == EndOfJournal::Remove {
                    world.remove_journal();
                    lock.journal_removed();
                }
                Answer::End(end)
            }
            Event::Unlock => {
                lock.unlocked();
                Answer::Done
            }
            Event::Wait => {
                assert!(lock.wait(true), "there was nothing to wait for");
                Answer::Done
            }
            Event::StatementEnds => {
                lock.statement_ended();
                Answer::Done
            }
            Event::Pin => match lock.pin(None) {
                Ok(_) => Answer::Done,
                Err(_) => Answer::Refused,
            },
            Event::Unpin => {
                lock.unpin_current();
                Answer::Done
            }
            Event::Seconds(seconds) => {
                world.clock.advance(Duration::from_secs(seconds));
                Answer::Done
            }
            Event::Takeover { ours_stands_still } => {
                let old = world.item();
                let is_free = until(old.as_ref()).is_none_or(|until| until <= now());
                let is_ours = old.as_ref().is_some_and(|item| item.lock_id != OTHER);
                if is_free || (is_ours && ours_stands_still) {
                    let record = old.and_then(|item| item.committed);
                    self.set_item(now() + LEASE.as_secs(), record);
                }
                Answer::Done
            }
            Event::LeavesHotJournal { is_recorded } => {
                world.write_journal(0xd9, THEIRS);
                let item = world.item();
                let until = until(item.as_ref()).expect("its item");
                self.set_item(until, is_recorded.then_some(THEIRS));
                Answer::Done
            }
            Event::LeavesColdJournal => {
                world.write_journal(0, THEIRS);
                Answer::Done
            }
            Event::Releases => {
                world.store.set_item(KEY, None);
                world.remove_journal();
                Answer::Done
            }
        }
    }

    /// As the VFS does, on O_EXCL's answer.
    fn create_journal(&self, has_changed: bool) -> Result<(), Refused> {
        let Self { world, lock } = self;
        lock.fence()?;
        if world.has_journal() {
            lock.remove_cold_leftover()?;
        }
        let current = if has_changed { CHANGED } else { OLD };
        lock.journal_created(OLD, current)?;
        lock.fence()?;
        lock.journal_begun(MINE);
        world.write_journal(0xd9, MINE);
        Ok(())
    }

    fn set_item(&self, until: u64, committed: Option<JournalId>) {
        let item = StoredItem {
            lock_id: OTHER.to_owned(),
            expires_at: until.to_string(),
            holder: None,
            acquired_at: None,
            waited: None,
            committed,
        };
        self.world.store.set_item(KEY, Some(item));
    }

    fn item(&self) -> Option<Item> {
        let item = self.world.item()?;
        Some(Item {
            owner: if item.lock_id == OTHER {
                Owner::Other
            } else {
                Owner::Us
            },
            until: until(Some(&item)).expect("an end"),
            record: item.committed,
        })
    }

    fn file(&self) -> File {
        let journal = self.lock.journal().expect("opened");
        match journal.status().expect("it can be read") {
            JournalStatus::Absent => File::Absent,
            JournalStatus::Cold => File::Cold,
            JournalStatus::Hot(id) => File::Hot(id),
        }
    }
}

fn told(result: Result<(), Refused>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(Refused) => Answer::Refused,
    }
}

fn until(item: Option<&StoredItem>) -> Option<u64> {
    item.map(|item| item.expires_at.parse().expect("whole seconds"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lock_answers_as_its_reference_whatever_happens(events in events()) {
        let mut world = World::new();
        // Shorter than any step of the clock: nothing is renewed behind the reference's back.
        world.max_hold = Duration::from_millis(500);
        let lock = world.lock_with(Duration::from_secs(60));
        let mut reference = Reference::new(world.clock.now().wall.as_secs());
        let real = Real { world, lock };
        for event in events {
            if !reference.is_possible(event) {
                continue;
            }
            let before = reference;
            let expected = reference.answer(event);
            let context = format!("{event:?} in {before:?}");
            prop_assert_eq!(real.answer(event), expected, "{}", context);
            prop_assert_eq!(real.item(), reference.item, "the item, {}", context);
            prop_assert_eq!(real.file(), reference.file, "the journal, {}", context);
        }
        real.lock.closed();
        reference.pins = 0;
        reference.put_away();
        prop_assert_eq!(real.item(), reference.item, "the item at the end");
    }
}
