//! The lock table: the one item, and the requests that change it on the crate's own conditions.

use std::time::{Duration, SystemTime};

use diesel_sqlite_efs::{JournalId, LockItem, PutCondition, StoredItem};

use crate::{Rules, State, Turn};

/// The end of an item that is left for its record: expired by any clock.
pub(crate) const LONG_EXPIRED: u8 = 0;

/// The lock item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    /// Whose it is: `lock_id`.
    pub turn: Turn,
    /// With which of its attempts, where these do not share a `lock_id`.
    pub attempt: u8,
    /// `expires_at`: the number of the put among its owner's.
    pub end: u8,
    /// The commit record.
    pub committed: Option<Turn>,
}

/// What a process asks of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// `PutCondition::FreeOrOurs`.
    Acquire(Item),
    /// `PutCondition::Unchanged`.
    TakeOver {
        /// The new item.
        item: Item,
        /// The item that it was refused for.
        seen: Item,
    },
    /// `PutCondition::Ours`: to renew or to confirm.
    Update {
        /// The new item.
        item: Item,
        /// The record that the item is expected to have, if it is not the new one.
        recorded: Option<Turn>,
    },
    /// `PutCondition::Ended`: to leave the item for its record.
    Retire {
        /// The new item.
        item: Item,
    },
    /// `DeleteItem` on condition that it is ours.
    Delete(Turn),
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Stored,
    Refused(Option<Item>),
}

impl State {
    /// The store carries a request out.
    pub(crate) fn apply(&mut self, request: &Request, rules: &Rules) -> Answer {
        let current = self.item;
        let stored = match *request {
            Request::Delete(turn) => {
                if current.is_some_and(|item| item.turn == turn) {
                    self.item = None;
                }
                return Answer::Stored;
            }
            Request::Acquire(item) => holds(current, item, PutCondition::FreeOrOurs, rules),
            Request::TakeOver { item, seen } => {
                let named = Item {
                    end: match current {
                        Some(current) if !rules.takeover_names_the_end => current.end,
                        _ => seen.end,
                    },
                    ..seen
                };
                let named = unnamed_record(named, current, rules);
                let anyones = PutCondition::free_or_expired(seconds(u32::MAX));
                let condition = PutCondition::Unchanged(&stored_item(named));
                let condition = if rules.takeover_names_the_holder {
                    condition
                } else {
                    anyones
                };
                holds(current, item, condition, rules)
            }
            Request::Update { item, recorded } => {
                let recorded = match current {
                    Some(current) if !rules.puts_name_the_record => current.committed,
                    _ => recorded,
                };
                let recorded = recorded.map(journal_id);
                holds(current, item, PutCondition::ours(recorded), rules)
            }
            Request::Retire { item } => holds(current, item, PutCondition::Ended, rules),
        };
        if !stored {
            return Answer::Refused(current);
        }
        if let Request::Acquire(item) | Request::TakeOver { item, .. } = *request {
            self.item = Some(item);
            self.newest = Some(item.turn);
        } else if let Request::Update { item, .. } | Request::Retire { item } = *request {
            self.item = Some(item);
        }
        Answer::Stored
    }
}

/// The crate's own answer.
fn holds(current: Option<Item>, new: Item, condition: PutCondition<'_>, rules: &Rules) -> bool {
    let end = if rules.ends_only_grow {
        new.end
    } else {
        u8::MAX
    };
    let mut item = LockItem::new("", lock_id(new), seconds(end.into()));
    item.committed = new.committed.map(journal_id);
    let current = current.map(stored_item);
    (condition.holds(current.as_ref(), &item)).expect("the ends are numbers")
}

fn unnamed_record(named: Item, current: Option<Item>, rules: &Rules) -> Item {
    match current {
        Some(current) if !rules.puts_name_the_record => Item {
            committed: current.committed,
            ..named
        },
        _ => named,
    }
}

fn stored_item(item: Item) -> StoredItem {
    let mut stored = StoredItem::new(lock_id(item), item.end.to_string());
    stored.committed = item.committed.map(journal_id);
    stored
}

fn seconds(since_epoch: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.into())
}

fn lock_id(item: Item) -> String {
    String::from_utf8(vec![b'a' + item.turn, b'0' + item.attempt]).expect("letters")
}

fn journal_id(turn: Turn) -> JournalId {
    JournalId([0, 0, 0, turn])
}
