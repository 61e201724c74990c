//! The state of a lock, as text and as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel_sqlite_efs::admin::{ItemLookup, Probe, RawItem, utc};
use diesel_sqlite_efs::{StoreError, StoredItem};
use serde_json::{Value, json};

/// The state of a lock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lock {
    Free,
    /// Under a lease that has not ended by the service's clock.
    Held(StoredItem),
    /// A writer did not release its lease; the next writer takes it over.
    Expired(StoredItem),
    /// An item that no lock client has written.
    Malformed(RawItem, StoreError),
    /// By an item that the service does not return.
    Hidden,
}

impl Lock {
    pub(crate) fn of(probe: &Probe) -> Self {
        let item = match &probe.item {
            ItemLookup::Absent => return Self::Free,
            ItemLookup::Hidden => return Self::Hidden,
            ItemLookup::Found(item) => item,
        };
        let read = item.parse().and_then(|seen| {
            let until = seconds(seen.lease_end()?);
            Ok((seen, until))
        });
        match read {
            Ok((seen, until)) if until < now(probe) => Self::Expired(seen),
            Ok((seen, _)) => Self::Held(seen),
            Err(error) => Self::Malformed(item.clone(), error),
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held(_) => "held",
            Self::Expired(_) => "expired",
            Self::Malformed(..) => "malformed",
            Self::Hidden => "unknown",
        }
    }

    pub(crate) fn seen(&self) -> Option<&StoredItem> {
        match self {
            Self::Held(seen) | Self::Expired(seen) => Some(seen),
            Self::Free | Self::Malformed(..) | Self::Hidden => None,
        }
    }

    /// As one line.
    pub(crate) fn summary(&self, now: f64) -> String {
        match self {
            Self::Free => "free: there is no item at the key".to_owned(),
            Self::Held(seen) => format!(
                "held by {}, until {} unless it is renewed",
                name(seen),
                moment(end(seen), now)
            ),
            Self::Expired(seen) => format!(
                "left by {}, expired {}; the next writer takes it over",
                name(seen),
                moment(end(seen), now)
            ),
            Self::Malformed(_, error) => error.to_string(),
            Self::Hidden => "there is an item, but the service does not return it".to_owned(),
        }
    }
}

/// What is known of the lock, as names and texts.
pub(crate) fn fields(lock: &Lock, now: f64) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut field = |name: &str, text: String| fields.push((name.to_owned(), text));
    match lock {
        Lock::Free | Lock::Hidden => {}
        Lock::Held(seen) | Lock::Expired(seen) => {
            field("holder", name(seen));
            if let Some(since) = seen.acquired_at {
                field("since", moment(seconds(since), now));
            }
            field("until", moment(end(seen), now));
            field("lock_id", seen.lock_id.clone());
            if let Some(journal) = seen.committed {
                field("record", format!("journal {journal} is committed"));
            }
        }
        Lock::Malformed(item, _) => {
            for (name, value) in item.attributes() {
                field(&name, value);
            }
        }
    }
    fields
}

pub(crate) fn json(seen: &StoredItem) -> Value {
    json!({
        "lock_id": seen.lock_id,
        "holder": seen.holder,
        "since": seen.acquired_at.map(|since| seconds(since) as u64),
        "until": seen.lease_end().ok().map(seconds),
        "committed": seen.committed.map(|journal| journal.to_string()),
    })
}

/// When the lease ends, in seconds of the Unix epoch; 0 if the item does not say.
pub(crate) fn end(seen: &StoredItem) -> f64 {
    seen.lease_end().map_or(0.0, seconds)
}

/// The holder's name.
pub(crate) fn name(seen: &StoredItem) -> String {
    match &seen.holder {
        Some(name) => format!("`{name}`"),
        None => "a holder without a name (the Python package writes none)".to_owned(),
    }
}

/// The service's time at its answer, in seconds of the Unix epoch; this host's if the answer has
/// none.
pub(crate) fn now(probe: &Probe) -> f64 {
    let time = probe.date.unwrap_or(probe.received);
    seconds(time)
}

pub(crate) fn seconds(time: SystemTime) -> f64 {
    (time.duration_since(UNIX_EPOCH)).map_or(0.0, |since| since.as_secs_f64())
}

/// A time, and how far it is from now.
fn moment(time: f64, now: f64) -> String {
    let difference = (time - now).abs().round();
    let relation = if time < now {
        format!("{difference} s ago")
    } else {
        format!("in {difference} s")
    };
    let shown = utc(UNIX_EPOCH + Duration::from_secs_f64(time));
    format!("{shown} ({relation})")
}
