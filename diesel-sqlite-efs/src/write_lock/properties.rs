//! The lock against a reference: whatever SQLite, clocks and other hosts do in whatever order.
//! See `url/properties.rs` for how to repeat a run.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{FIRST_WRITE, KEY, LEASE, MINE, OLD, UPGRADE, World};
use super::*;
use crate::files::file_version::FileState;
use crate::store::StoredItem;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Event {
    Claim(Purpose),
    Admit,
    Fence,
    JournalBegun,
    EndJournal,
    JournalRemoved,
    Unlocked,
    Wait,
    Pin,
    Unpin,
    StatementBegins,
    StatementEnds,
    /// Both clocks of all hosts go on, by tenths of a lease.
    Time(u32),
    /// Another host takes the item over, if it has expired.
    Takeover,
    /// Another host releases what it has taken.
    OtherReleases,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => prop::sample::select(vec![FIRST_WRITE, UPGRADE, Purpose::Recovery])
            .prop_map(Event::Claim),
        2 => Just(Event::Admit),
        3 => Just(Event::Fence),
        1 => Just(Event::JournalBegun),
        2 => Just(Event::EndJournal),
        1 => Just(Event::JournalRemoved),
        2 => Just(Event::Unlocked),
        1 => Just(Event::Wait),
        1 => Just(Event::Pin),
        1 => Just(Event::Unpin),
        1 => Just(Event::StatementBegins),
        2 => Just(Event::StatementEnds),
        2 => (1..12u32).prop_map(Event::Time),
        2 => Just(Event::Takeover),
        1 => Just(Event::OtherReleases),
    ];
    prop::collection::vec(event, 1..40)
}

const OTHER: &str = "another host";

fn is_other(item: &StoredItem) -> bool {
    item.lock_id == OTHER
}

fn happen(world: &World, lock: &WriteLock, event: Event, pins: &mut u32) {
    let now = || world.clock.now().wall.as_secs_f64();
    match event {
        Event::Claim(purpose) => drop(lock.try_reserve(purpose)),
        Event::Admit => drop(lock.validate_snapshot(OLD, FileState::Version(OLD), FIRST_WRITE)),
        Event::Fence => drop(lock.fence()),
        Event::JournalBegun => lock.journal_begun(MINE),
        Event::EndJournal => drop(lock.end_journal()),
        Event::JournalRemoved => lock.journal_removed(),
        Event::Unlocked => lock.unlocked(),
        Event::Wait => drop(lock.wait(true)),
        Event::Pin => *pins += u32::from(lock.pin(None).is_ok()),
        Event::Unpin => {
            if *pins > 0 {
                *pins -= 1;
                lock.unpin_current();
            }
        }
        Event::StatementBegins => lock.statement_begins(),
        Event::StatementEnds => lock.statement_ended(),
        Event::Time(tenths) => world.clock.advance(LEASE * tenths / 10),
        Event::Takeover => {
            let old = world.item();
            let is_free = old
                .as_ref()
                .is_none_or(|item| item.expires_at_seconds().unwrap() <= now());
            if is_free {
                let item = StoredItem {
                    lock_id: OTHER.to_owned(),
                    expires_at: (now() as u64 + LEASE.as_secs()).to_string(),
                    holder: None,
                    acquired_at: None,
                    waited: None,
                    committed: old.and_then(|item| item.committed),
                };
                world.store.set_item(KEY, Some(item));
            }
        }
        Event::OtherReleases => {
            if world.item().as_ref().is_some_and(is_other) {
                world.store.set_item(KEY, None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_lets_a_write_pass_or_the_lock_stay(events in events()) {
        let world = World::new();
        let lock = world.lock_with(Duration::from_millis(2));
        let mut pins = 0;
        for event in events {
            let before = world.item();
            happen(&world, &lock, event, &mut pins);
            let item = world.item();
            // Another's live lease is never touched.
            if let Some(other) = before.filter(is_other)
                && !matches!(event, Event::OtherReleases | Event::Takeover | Event::Time(_))
                && other.expires_at_seconds().unwrap() > world.clock.now().wall.as_secs_f64()
            {
                prop_assert_eq!(&item, &Some(other), "after {:?}", event);
            }
            if matches!(event, Event::Fence | Event::EndJournal) && lock.fence().is_ok() {
                let item = item.expect("a write passes only under an item");
                prop_assert!(!is_other(&item), "a stale write passes");
                let left = item.expires_at_seconds().unwrap() - world.clock.now().wall.as_secs_f64();
                prop_assert!(left >= 1.0, "a write passes {left} s before others may take over");
            }
            // At the end of a transaction nothing of ours is left to hold others up.
            if matches!(event, Event::Unlocked) && pins == 0 && !lock.awaits_handler() {
                let live = world.item().filter(|item| {
                    !is_other(item)
                        && item.expires_at_seconds().unwrap() > world.clock.now().wall.as_secs_f64()
                });
                prop_assert_eq!(live, None, "after {:?}", event);
            }
        }
        while pins > 0 {
            lock.unpin_current();
            pins -= 1;
        }
        lock.closed();
        let ours = world.item().filter(|item| !is_other(item));
        prop_assert!(
            ours.as_ref().is_none_or(|item| item.expires_at == "1" && item.committed.is_some()),
            "{ours:?} stays behind"
        );
    }

    #[test]
    fn waiting_ends(block in 0..3u32, timeout in 0..20u64) {
        let world = World::new();
        let lock = world.lock_with(Duration::from_millis(timeout));
        let holder = world.lock();
        holder.try_reserve(FIRST_WRITE).unwrap();
        match block {
            0 => lock.file_locked(),
            1 => drop(lock.try_reserve(FIRST_WRITE)),
            _ => drop(lock.try_reserve(Purpose::Recovery)),
        };
        let began = Instant::now();
        let mut first = true;
        while lock.wait(first) {
            first = false;
            match block {
                0 => lock.file_locked(),
                1 => drop(lock.try_reserve(FIRST_WRITE)),
                _ => drop(lock.try_reserve(Purpose::Recovery)),
            }
            prop_assert!(began.elapsed() < Duration::from_secs(5), "it waits for ever");
        }
    }
}
