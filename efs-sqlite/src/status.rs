//! `efs-sqlite status`: who holds the lock.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use diesel_sqlite_efs::{LockName, StoredItem};
use serde_json::json;

use crate::args::Status;
use crate::failure::{Failure, Outcome};
use crate::holder::{self, Lock, fields};
use crate::output::Output;
use crate::target::Target;

/// The time between two requests.
const PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &Status, output: &Output) -> Result<Outcome, Failure> {
    let target = Target::new(args.database.url()?)?;
    let (lock, table) = target.table()?;
    let end = Instant::now() + args.duration.unwrap_or_default();
    let mut sightings = Sightings::default();
    let probe = loop {
        let probe = table.probe(&lock.key)?;
        sightings.add(&Lock::of(&probe));
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break probe;
        }
        thread::sleep(left.min(PERIOD));
    };
    let (state, now) = (Lock::of(&probe), holder::now(&probe));
    if args.json {
        output.json(&sightings.json(lock, &state, now))?;
    } else {
        print(output, lock, &state, now, &sightings)?;
    }
    Ok(match state {
        Lock::Free | Lock::Expired(_) => Outcome::Done,
        Lock::Held(_) | Lock::Hidden => Outcome::Held,
        Lock::Malformed(..) => Outcome::Wrong,
    })
}

fn print(
    output: &Output,
    lock: &LockName,
    state: &Lock,
    now: f64,
    sightings: &Sightings,
) -> Result<(), Failure> {
    output.field("key", &lock.key)?;
    output.field("table", &lock.table)?;
    output.field("lock", state.word())?;
    for (name, text) in fields(state, now) {
        output.field(&name, &text)?;
    }
    if let Lock::Malformed(_, error) = state {
        output.field("problem", &error.to_string())?;
    }
    let is_current = |sighting: &Sighting| {
        (state.seen()).is_some_and(|current| current.lock_id == sighting.item.lock_id)
    };
    if let Some(current) = sightings.holders.iter().find(|held| is_current(held)) {
        output.field("seen", &current.count(sightings.looks))?;
    }
    for before in sightings.holders.iter().filter(|held| !is_current(held)) {
        let text = format!(
            "{}, {}",
            holder::name(&before.item),
            before.count(sightings.looks)
        );
        output.field("before", &text)?;
    }
    Ok(())
}

/// What has been observed so far.
#[derive(Debug, Default)]
struct Sightings {
    looks: u32,
    /// In the order in which they were first seen.
    holders: Vec<Sighting>,
}

/// One acquisition of the lock.
#[derive(Debug)]
struct Sighting {
    item: StoredItem,
    times: u32,
    ends: BTreeSet<String>,
}

impl Sightings {
    fn add(&mut self, state: &Lock) {
        self.looks += 1;
        let Some(seen) = state.seen() else { return };
        let known = (self.holders.iter()).position(|held| held.item.lock_id == seen.lock_id);
        let index = known.unwrap_or_else(|| {
            self.holders.push(Sighting {
                item: seen.clone(),
                times: 0,
                ends: BTreeSet::new(),
            });
            self.holders.len() - 1
        });
        let sighting = &mut self.holders[index];
        sighting.item = seen.clone();
        sighting.times += 1;
        sighting.ends.insert(seen.expires_at.clone());
    }

    fn json(&self, lock: &LockName, state: &Lock, now: f64) -> serde_json::Value {
        let holders = self.holders.iter().map(|sighting| {
            let mut holder = holder::json(&sighting.item);
            holder["seen"] = sighting.times.into();
            holder["extended"] = sighting.extensions().into();
            holder
        });
        json!({
            "key": lock.key,
            "table": lock.table,
            "lock": state.word(),
            "holder": state.seen().map(holder::json),
            "now": now,
            "looks": self.looks,
            "seen": holders.collect::<Vec<_>>(),
        })
    }
}

impl Sighting {
    /// How often its end was seen to move: by renewals and commits.
    fn extensions(&self) -> usize {
        self.ends.len() - 1
    }

    fn count(&self, looks: u32) -> String {
        let extended = match self.extensions() {
            0 => String::new(),
            times => format!(", its end moved {times}×"),
        };
        format!("{} of {looks} looks{extended}", self.times)
    }
}
