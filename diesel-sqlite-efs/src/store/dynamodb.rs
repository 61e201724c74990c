//! The lock table in DynamoDB: `PutItem` and `DeleteItem`, each with a condition.

mod endpoint;
pub(crate) mod lock_table;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure as ReturnOnRefusal,
};

use self::endpoint::{Answered, Endpoint, Observer, TOTAL_CONFIGURATION_TIME};
use self::worker::Worker;
use super::{DeleteAnswer, JournalId, LockItem, LockStore, PutAnswer, PutCondition, SeenItem};
use crate::error::StoreError;

/// A lock table in DynamoDB, with the primary key `pk` (S) and no sort key.
///
/// The permissions `dynamodb:PutItem` and `dynamodb:DeleteItem` on the table suffice. Endpoint,
/// region and credentials come from where the AWS SDK looks for them: `AWS_REGION`,
/// `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ACCESS_KEY_ID`, profiles, the roles of Lambda, ECS and EC2
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>). They are read
/// at the first call, not by [`new`](Self::new).
///
/// # Threads and runtimes
/// Calls block the calling thread. They may come from any number of threads at once, and from
/// inside a tokio runtime of any flavour (as with all blocking, the runtime's other tasks on that
/// thread wait). Requests run on a thread of the store's own, `diesel-sqlite-efs`, which the first
/// call starts and `drop` ends. Share one store among connections, in an [`Arc`]: each one has its
/// own thread and its own connections to DynamoDB. A store does not survive `fork`.
///
/// # Time
/// A connection must stand within 1 s, and an answer must come within 1 s from when the request
/// was ready to be sent: DynamoDB answers in milliseconds, and what takes longer is a dead
/// connection or a missing route. After such a failure the request is sent once more, on a new
/// connection, if `give_up_after` leaves time: connections that were idle while a sandbox was
/// frozen are often dead, and nothing tells so. All idle connections are given up along with the
/// failed one. Refusals by the service, errors 500 and throttling are not repeated here; the
/// caller knows better when to ask again.
///
/// # Lost answers
/// Repeating is safe, because every condition recognises the `lock_id` of a write that was applied
/// although its answer was lost; [`PutAnswer::Stored::previous`] is then our own item. Where the
/// repetition is refused, or fails, and the first request may have been applied before, the first
/// failure is returned, whose [`StoreError::outcome_unknown`] is true: between the two, a lease
/// can have run out and been taken over. Only a `put` on [`PutCondition::Ours`] and a `delete` are
/// affected; a `delete` that then finds no item at all is [`DeleteAnswer::Deleted`].
///
/// # Example
/// ```no_run
/// use std::time::Duration;
/// use diesel_sqlite_efs::{DeleteAnswer, DynamoDbLockStore, LockStore};
///
/// let store = DynamoDbLockStore::new("app-locks");
/// let answer = store.delete("database#/mnt/efs/app.db", "a lock_id", Duration::from_secs(3))?;
/// assert_eq!(answer, DeleteAnswer::NotOurs);
/// # Ok::<(), diesel_sqlite_efs::StoreError>(())
/// ```
pub struct DynamoDbLockStore {
    endpoint: Arc<Endpoint>,
    worker: Worker,
}

impl DynamoDbLockStore {
    /// A store on the table of this name or ARN.
    ///
    /// Costs nothing: no thread is started, nothing is read from the environment, and whether the
    /// table exists shows at the first call. See [`warm_up`](LockStore::warm_up).
    pub fn new(table: impl Into<String>) -> Self {
        Self::from_parts(table.into(), None)
    }

    fn from_parts(table: String, config: Option<SdkConfig>) -> Self {
        Self {
            endpoint: Arc::new(Endpoint::new(table, config)),
            worker: Worker::default(),
        }
    }

    /// Makes a request, which is sent once more if no answer comes, and waits for the answer.
    fn call<T, E, F>(
        &self,
        deadline: Instant,
        send: impl Fn(Client, Observer) -> F + Send + 'static,
    ) -> Result<Answered<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send + 'static,
    {
        let endpoint = self.endpoint.clone();
        self.wait(deadline, async move { endpoint.call(deadline, send).await })
    }

    /// Runs this on the store's own thread and waits for what comes of it.
    fn wait<T: Send + 'static>(
        &self,
        deadline: Instant,
        request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        match self.worker.run(deadline, request) {
            Ok(answer) => answer,
            Err(worker::Lost::Panicked(message)) => Err(StoreError::Panicked { message }),
            Err(worker::Lost::Silent) => Err(StoreError::Timeout {
                endpoint: "the configured endpoint (the client's own thread is stuck)".to_owned(),
                after: started.elapsed(),
            }),
        }
    }
}

impl fmt::Debug for DynamoDbLockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbLockStore")
            .field("table", &self.endpoint.table())
            .finish_non_exhaustive()
    }
}

impl LockStore for DynamoDbLockStore {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        let table = self.endpoint.table().to_owned();
        let request = PutRequest::new(item, condition);
        let renews = request.renews;
        let answered = self.call(deadline(give_up_after), move |client, observer| {
            (client.put_item().table_name(&table))
                .set_item(Some(request.item.clone()))
                .condition_expression(&request.condition)
                .set_expression_attribute_values(Some(request.values.clone()))
                .return_values(ReturnValue::AllOld)
                .return_values_on_condition_check_failure(ReturnOnRefusal::AllOld)
                .customize()
                .interceptor(observer)
                .send()
        })?;
        let date = answered.date;
        let error = match answered.result {
            Ok(output) => {
                let previous = output.attributes.as_ref().and_then(seen_item).transpose()?;
                return Ok(PutAnswer::Stored { previous, date });
            }
            Err(error) => error,
        };
        let refused = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => refused,
            _ => {
                let action = "dynamodb:PutItem";
                return Err((self.endpoint).service_error(action, &error, answered.lost));
            }
        };
        match answered.lost {
            Some(lost) if renews => Err(lost),
            _ => Ok(PutAnswer::Refused {
                current: refused.item().and_then(seen_item).transpose()?,
                date,
            }),
        }
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        let table = self.endpoint.table().to_owned();
        let (key, lock_id) = (key.to_owned(), lock_id.to_owned());
        let answered = self.call(deadline(give_up_after), move |client, observer| {
            (client.delete_item().table_name(&table))
                .key("pk", AttributeValue::S(key.clone()))
                .condition_expression(OURS)
                .expression_attribute_values(":me", AttributeValue::S(lock_id.clone()))
                .return_values_on_condition_check_failure(ReturnOnRefusal::AllOld)
                .customize()
                .interceptor(observer)
                .send()
        })?;
        let error = match answered.result {
            Ok(_) => return Ok(DeleteAnswer::Deleted),
            Err(error) => error,
        };
        let refused = match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(refused)) => refused,
            _ => {
                let action = "dynamodb:DeleteItem";
                return Err((self.endpoint).service_error(action, &error, answered.lost));
            }
        };
        match answered.lost {
            None => Ok(DeleteAnswer::NotOurs),
            Some(_) if refused.item().is_none_or(HashMap::is_empty) => Ok(DeleteAnswer::Deleted),
            Some(lost) => Err(lost),
        }
    }

    fn table(&self) -> &str {
        self.endpoint.table()
    }

    /// Does ahead of time what the first call would do before its request: starts the thread,
    /// finds region, endpoint and credentials, loads the TLS root certificates, and signs a request
    /// that is not sent.
    ///
    /// Meant for the start of a Lambda function, where processor time is plentiful. It opens no
    /// connection to DynamoDB and sends nothing there, so it tells nothing about permissions or
    /// the table; a [`delete`](LockStore::delete) of a key that does not exist would. It may ask
    /// the sources of credentials that are services: the container's agent, the instance's
    /// metadata, STS. Calling it again is cheap.
    ///
    /// # Errors
    /// [`StoreError::NoRegion`], [`StoreError::Credentials`] (both within about 2 s, as metadata
    /// services get half a second to answer), and [`StoreError::Misconfigured`] for an endpoint
    /// that is not a URL. Trying again is safe, and of use once the cause is mended.
    fn warm_up(&self) -> Result<(), StoreError> {
        let endpoint = self.endpoint.clone();
        let deadline = Instant::now() + TOTAL_CONFIGURATION_TIME;
        self.wait(deadline, async move {
            endpoint
                .rehearse(deadline, |client, observer| async move {
                    (client.delete_item().table_name("-"))
                        .key("pk", AttributeValue::S("-".to_owned()))
                        .customize()
                        .interceptor(observer)
                        .send()
                        .await
                })
                .await
        })
    }
}

/// Counted from before the request. A longer patience than a day is the same as a day.
fn deadline(give_up_after: Duration) -> Instant {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Instant::now() + give_up_after.min(DAY)
}

// The conditions' parts. `:me` is the new item's `lock_id`; the names are none of DynamoDB's
// reserved words (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html).

/// There is no item.
const FREE: &str = "attribute_not_exists(pk)";
/// The item bears our `lock_id`; the condition of every deletion.
const OURS: &str = "lock_id = :me";
/// Our lease, and it ends no later than the new item's.
const OURS_UNTIL: &str = "lock_id = :me AND expires_at <= :expires_at";
/// The item has expired, as the Python package judges it.
const EXPIRED: &str = "expires_at < :now";
/// The item is the one that was seen, its commit record apart.
const UNCHANGED: &str = "lock_id = :seen_lock_id AND expires_at = :seen_expires_at";

/// A `PutItem`, in DynamoDB's terms.
struct PutRequest {
    item: HashMap<String, AttributeValue>,
    condition: String,
    values: HashMap<String, AttributeValue>,
    /// A refusal after a lost answer does not tell whether the first request was applied.
    renews: bool,
}

impl PutRequest {
    fn new(item: &LockItem, condition: PutCondition<'_>) -> Self {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let number = |value: u64| AttributeValue::N(value.to_string());

        let mut attributes = HashMap::from([
            ("pk".to_owned(), text(&item.key)),
            ("lock_id".to_owned(), text(&item.lock_id)),
            ("expires_at".to_owned(), number(item.expires_at)),
            ("holder".to_owned(), text(&item.holder)),
            ("acquired_at".to_owned(), number(item.acquired_at)),
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
                values.insert(":now".to_owned(), number(now));
                format!("{FREE} OR {EXPIRED} OR {ours}")
            }
        };
        if condition.contains(":expires_at") {
            // DynamoDB refuses values that no condition uses.
            values.insert(":expires_at".to_owned(), number(item.expires_at));
        }
        Self {
            item: attributes,
            condition,
            values,
            renews,
        }
    }
}

/// The item that an answer carries; `None` where it carries none, as a store that does not know
/// `ReturnValuesOnConditionCheckFailure` does, or a put that replaced nothing.
fn seen_item(attributes: &HashMap<String, AttributeValue>) -> Option<Result<SeenItem, StoreError>> {
    if attributes.is_empty() {
        return None;
    }
    let parse = || {
        Ok(SeenItem {
            lock_id: required("lock_id", text(attributes, "lock_id")?)?,
            expires_at: required("expires_at", number(attributes, "expires_at")?)?,
            holder: text(attributes, "holder")?,
            acquired_at: (number(attributes, "acquired_at")?)
                .map(|digits| {
                    (digits.parse()).map_err(|_| {
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

/// A hint when to ask again: one that cannot be read must not keep anybody from the lease.
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
