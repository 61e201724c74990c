//! An item and a condition as a `PutItem` request: attributes, condition expression, values.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::clock::unix_seconds;
use crate::store::{JournalId, LockItem, PutCondition};

// The parts of the conditions. `:me` is the new item's `lock_id`. None of the names is a reserved
// word of DynamoDB
// (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html).

/// There is no item.
pub(super) const FREE: &str = "attribute_not_exists(pk)";
/// The item has our `lock_id`; the condition of every deletion.
pub(super) const OURS: &str = "lock_id = :me";
/// Our lease, and it ends no later than the new item's.
const OURS_UNTIL: &str = "lock_id = :me AND expires_at <= :expires_at";
/// The item has expired by the Python package's condition.
const EXPIRED: &str = "expires_at < :now";
/// The item is the one that was seen, except for its commit record.
const UNCHANGED: &str = "lock_id = :seen_lock_id AND expires_at = :seen_expires_at";

/// A `PutItem` in DynamoDB's terms.
pub(super) struct PutRequest {
    pub(super) item: HashMap<String, AttributeValue>,
    pub(super) condition: String,
    pub(super) values: HashMap<String, AttributeValue>,
    /// After a lost answer, a refusal does not say whether the first request was applied.
    pub(super) renews: bool,
}

impl PutRequest {
    pub(super) fn new(item: &LockItem, condition: PutCondition<'_>) -> Self {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let number = |value: u64| AttributeValue::N(value.to_string());

        let mut attributes = HashMap::from([
            ("pk".to_owned(), text(&item.key)),
            ("lock_id".to_owned(), text(&item.lock_id)),
            (
                "expires_at".to_owned(),
                number(unix_seconds(item.expires_at)),
            ),
            ("holder".to_owned(), text(&item.holder)),
            (
                "acquired_at".to_owned(),
                number(unix_seconds(item.acquired_at)),
            ),
        ]);
        if let Some(journal) = item.committed {
            attributes.insert("committed".to_owned(), text(&journal.to_string()));
        }

        if let Some(waited) = item.waited {
            let milliseconds = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            attributes.insert("waited".to_owned(), number(milliseconds));
        }

        let mut values = HashMap::from([(":me".to_owned(), text(&item.lock_id))]);
        let renews = matches!(condition, PutCondition::Ours { .. } | PutCondition::Ended);
        // The literal forms: `committed = :committed`, or `attribute_not_exists(committed)`.
        let mut record_is = |name: &str, record: Option<JournalId>| match record {
            Some(journal) => {
                values.insert(name.to_owned(), text(&journal.to_string()));
                format!("committed = {name}")
            }
            None => "attribute_not_exists(committed)".to_owned(),
        };
        // `lock_id = :me AND expires_at <= :expires_at AND committed = :committed`
        let has_new_record = record_is(":committed", item.committed);
        let ours = format!("({OURS_UNTIL} AND {has_new_record})");
        let condition = match condition {
            // `lock_id = :me AND committed = :committed`
            PutCondition::Ended => format!("{OURS} AND {has_new_record}"),
            // `attribute_not_exists(pk) OR (lock_id = :me AND ..)`
            PutCondition::FreeOrOurs => format!("{FREE} OR {ours}"),
            PutCondition::Ours { recorded } if recorded == item.committed => ours,
            // `(lock_id = :me AND ..) OR (lock_id = :me AND .. AND committed = :recorded)`
            PutCondition::Ours { recorded } => {
                format!(
                    "{ours} OR ({OURS_UNTIL} AND {})",
                    record_is(":recorded", recorded)
                )
            }
            // `(lock_id = :seen_lock_id AND expires_at = :seen_expires_at AND ..) OR (lock_id = :me AND ..)`
            PutCondition::Unchanged(seen) => {
                let unchanged = format!("({UNCHANGED} AND {})", record_is(":seen", seen.committed));
                // The digits as they were read: a parsed and printed number could differ.
                let expires_at = AttributeValue::N(seen.expires_at.clone());
                values.insert(":seen_lock_id".to_owned(), text(&seen.lock_id));
                values.insert(":seen_expires_at".to_owned(), expires_at);
                format!("{unchanged} OR {ours}")
            }
            // `attribute_not_exists(pk) OR expires_at < :now OR (lock_id = :me AND ..)`
            PutCondition::FreeOrExpired { now } => {
                values.insert(":now".to_owned(), number(unix_seconds(now)));
                format!("{FREE} OR {EXPIRED} OR {ours}")
            }
        };
        if condition.contains(":expires_at") {
            // DynamoDB refuses values that no condition uses.
            values.insert(
                ":expires_at".to_owned(),
                number(unix_seconds(item.expires_at)),
            );
        }
        Self {
            item: attributes,
            condition,
            values,
            renews,
        }
    }
}
