//! A lock item in people's and in scripts' words.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::clock::unix_seconds;
use crate::error::{StoreError, Utc};
use crate::store::StoredItem;
use crate::store::dynamodb::admin::{Look, RawItem, Standing};

/// How the lock stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lock {
    Free,
    /// A lease that has not ended by the service's clock.
    Held(StoredItem),
    /// What a writer has left that did not release its lease; the next writer takes it over.
    Expired(StoredItem),
    /// An item that no lock client has written.
    Malformed(RawItem, StoreError),
    /// An item that the service does not show.
    Untold,
}

impl Lock {
    pub(super) fn of(look: &Look) -> Self {
        let item = match &look.standing {
            Standing::Nothing => return Self::Free,
            Standing::Untold => return Self::Untold,
            Standing::Item(item) => item,
        };
        let read = item.seen().and_then(|seen| {
            let until = seen.expires_at_seconds()?;
            Ok((seen, until))
        });
        match read {
            Ok((seen, until)) if until < now(look) => Self::Expired(seen),
            Ok((seen, _)) => Self::Held(seen),
            Err(error) => Self::Malformed(item.clone(), error),
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held(_) => "held",
            Self::Expired(_) => "expired",
            Self::Malformed(..) => "malformed",
            Self::Untold => "unknown",
        }
    }

    pub(super) fn seen(&self) -> Option<&StoredItem> {
        match self {
            Self::Held(seen) | Self::Expired(seen) => Some(seen),
            Self::Free | Self::Malformed(..) | Self::Untold => None,
        }
    }

    /// In one line.
    pub(super) fn summary(&self, now: f64) -> String {
        let until = |seen: &StoredItem| seen.expires_at_seconds().unwrap_or_default();
        match self {
            Self::Free => "free: no item stands at the key".to_owned(),
            Self::Held(seen) => format!(
                "held by {}, until {} unless it is renewed",
                name(seen),
                moment(until(seen), now)
            ),
            Self::Expired(seen) => format!(
                "left by {}, expired {}; the next writer takes it over",
                name(seen),
                moment(until(seen), now)
            ),
            Self::Malformed(_, error) => error.to_string(),
            Self::Untold => "an item stands there, but the service does not show it".to_owned(),
        }
    }
}

/// What is known of the lock, a name and a text each.
pub(super) fn fields(lock: &Lock, now: f64) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut field = |name: &str, text: String| fields.push((name.to_owned(), text));
    match lock {
        Lock::Free | Lock::Untold => {}
        Lock::Held(seen) | Lock::Expired(seen) => {
            field("holder", name(seen));
            if let Some(since) = seen.acquired_at {
                field("since", moment(seconds(since), now));
            }
            let until = seen.expires_at_seconds().unwrap_or_default();
            field("until", moment(until, now));
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

pub(super) fn json(seen: &StoredItem) -> Value {
    json!({
        "lock_id": seen.lock_id,
        "holder": seen.holder,
        "since": seen.acquired_at.map(unix_seconds),
        "until": seen.expires_at_seconds().ok(),
        "committed": seen.committed.map(|journal| journal.to_string()),
    })
}

/// The holder's name.
pub(super) fn name(seen: &StoredItem) -> String {
    match &seen.holder {
        Some(name) => format!("`{name}`"),
        None => "a holder without a name (the Python package writes none)".to_owned(),
    }
}

/// The service's time at its answer, in seconds of the Unix epoch; this host's if it does not say.
pub(super) fn now(look: &Look) -> f64 {
    let time = look.date.unwrap_or(look.received);
    seconds(time)
}

pub(super) fn seconds(time: SystemTime) -> f64 {
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
    format!("{} ({relation})", Utc(time))
}
