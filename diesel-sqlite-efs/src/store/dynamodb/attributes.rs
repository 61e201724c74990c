//! The lock item, read from the attributes of an answer.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::clock::from_unix_seconds;
use crate::error::StoreError;
use crate::store::{JournalId, StoredItem};

/// The item in an answer. `None` if there is none: the store does not know
/// `ReturnValuesOnConditionCheckFailure`, or the put replaced nothing.
pub(super) fn stored_item(
    attributes: &HashMap<String, AttributeValue>,
) -> Option<Result<StoredItem, StoreError>> {
    if attributes.is_empty() {
        return None;
    }
    let parse = || {
        Ok(StoredItem {
            lock_id: required("lock_id", text(attributes, "lock_id")?)?,
            expires_at: required("expires_at", number(attributes, "expires_at")?)?,
            holder: text(attributes, "holder")?,
            acquired_at: (number(attributes, "acquired_at")?)
                .map(|digits| {
                    (digits.parse().map(from_unix_seconds)).map_err(|_| {
                        malformed("acquired_at", format!("`{digits}` is not in whole seconds"))
                    })
                })
                .transpose()?,
            committed: (text(attributes, "committed")?)
                .map(|hex| {
                    // Another spelling of the same number would fail the condition that names it.
                    (hex.parse().ok())
                        .filter(|journal: &JournalId| journal.to_string() == hex)
                        .ok_or_else(|| {
                            malformed(
                                "committed",
                                format!("`{hex}` is not 8 lower-case hex digits"),
                            )
                        })
                })
                .transpose()?,
            waited: waited(attributes),
        })
    };
    Some(parse())
}

/// A hint when to ask again: an unreadable one must not prevent anyone from acquiring the lease.
fn waited(attributes: &HashMap<String, AttributeValue>) -> Option<Duration> {
    let digits = attributes.get("waited")?.as_n().ok()?;
    digits.parse().ok().map(Duration::from_millis)
}

fn text(
    attributes: &HashMap<String, AttributeValue>,
    name: &'static str,
) -> Result<Option<String>, StoreError> {
    match attributes.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type(name, "a string (S)", other)),
    }
}

fn number(
    attributes: &HashMap<String, AttributeValue>,
    name: &'static str,
) -> Result<Option<String>, StoreError> {
    match attributes.get(name) {
        None => Ok(None),
        Some(AttributeValue::N(digits)) => Ok(Some(digits.clone())),
        Some(other) => Err(wrong_type(name, "a number (N)", other)),
    }
}

fn required<T>(attribute: &'static str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| malformed(attribute, "it is missing".to_owned()))
}

fn wrong_type(attribute: &'static str, expected: &str, value: &AttributeValue) -> StoreError {
    malformed(attribute, format!("expected {expected}, found {value:?}"))
}

fn malformed(attribute: &'static str, problem: String) -> StoreError {
    StoreError::MalformedItem { attribute, problem }
}
