//! Requests that the lock protocol does not need: for tools that set up, examine or repair a lock.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    MultiRegionConsistency, ReturnValuesOnConditionCheckFailure as ReturnOnRefusal,
    ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};

use super::attributes::stored_item;
use super::put_request::FREE;
use super::{DynamoDbLockStore, deadline};
use crate::error::{Problem, StoreError};
use crate::store::StoredItem;

/// The time limit of one request, including its retry on a new connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Never holds, whether the item exists or not: such a put is always refused.
const NEVER: &str = "attribute_exists(pk) AND attribute_not_exists(pk)";

/// A lock table in DynamoDB, for tools that set it up, examine it or repair a lock.
///
/// Region, credentials, endpoint and the time limits of requests are those of
/// [`DynamoDbLockStore`]; calls block as they do there.
///
/// ```no_run
/// use diesel_sqlite_efs::admin::{ItemLookup, LockTable};
///
/// let table = LockTable::new("app-locks");
/// match table.probe("database#/mnt/efs/app.db")?.item {
///     ItemLookup::Absent => println!("the lock is free"),
///     ItemLookup::Found(item) => println!("{:?}", item.parse()?.holder),
///     other => println!("{other:?}"),
/// }
/// # Ok::<(), diesel_sqlite_efs::StoreError>(())
/// ```
#[derive(Debug)]
pub struct LockTable(DynamoDbLockStore);

/// The lock item as stored, whoever wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawItem(HashMap<String, AttributeValue>);

impl RawItem {
    /// The item as the lock protocol reads it.
    ///
    /// # Errors
    /// [`StoreError::MalformedItem`] if no lock client has written it.
    pub fn parse(&self) -> Result<StoredItem, StoreError> {
        let missing = || StoreError::MalformedItem {
            attribute: "pk",
            problem: "the item has no attributes".to_owned(),
        };
        stored_item(&self.0).ok_or_else(missing)?
    }

    /// Its raw attributes, sorted by name: for an item that [`parse`](Self::parse) refuses.
    pub fn attributes(&self) -> Vec<(String, String)> {
        let text = |value: &AttributeValue| match value {
            AttributeValue::S(text) | AttributeValue::N(text) => text.clone(),
            other => format!("{other:?}"),
        };
        let attributes = self.0.iter();
        let mut attributes: Vec<_> = attributes
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
        attributes.sort();
        attributes
    }

    /// Holds for exactly this item: its values, and the absence of what is absent. The commit
    /// record is included, because a commit may leave the other two unchanged.
    fn unchanged(&self) -> (String, HashMap<String, AttributeValue>) {
        let mut values = HashMap::new();
        let parts = ["lock_id", "expires_at", "committed"].map(|name| match self.0.get(name) {
            Some(value) => {
                values.insert(format!(":{name}"), value.clone());
                format!("{name} = :{name}")
            }
            None => format!("attribute_not_exists({name})"),
        });
        (parts.join(" AND "), values)
    }
}

/// The item at a key.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemLookup {
    /// No item.
    Absent,
    /// This item.
    Found(RawItem),
    /// An item that the service does not return.
    Hidden,
}

/// What one request has shown about an item and about the service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Probe {
    /// The item at the key.
    pub item: ItemLookup,
    /// The service's clock, to the second.
    pub date: Option<SystemTime>,
    /// This host's clock before the request.
    pub sent: SystemTime,
    /// This host's clock after the answer.
    pub received: SystemTime,
    /// How long the answer took, by the monotonic clock.
    pub took: Duration,
    /// The URL of the request.
    pub endpoint: Option<String>,
}

/// A request that shows an item and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeMethod {
    /// A deletion on condition that there is no item: it cannot delete anything.
    Delete,
    /// A put on a condition that never holds.
    Put,
    /// A consistent read; the lock itself does not need the permission for it.
    Get,
}

/// The result of [`LockTable::delete_unchanged`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The item was deleted.
    Deleted,
    /// The item has changed; nothing was deleted.
    Changed,
    /// The item no longer existed.
    Gone,
}

/// The properties of a table that matter to a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSummary {
    /// DynamoDB's `TableStatus`, such as `ACTIVE`; `unknown` if it returns none.
    pub status: String,
    /// Whether the table accepts requests.
    pub is_active: bool,
    /// Attribute and type of the primary key: partition key, then sort key, if any.
    pub key: Vec<(String, String)>,
    /// Whether requests are billed individually, without provisioned capacity.
    pub is_on_demand: bool,
    /// Replicas in other Regions that may differ from this one for a while.
    pub has_lagging_replicas: bool,
}

/// The attribute by which the table deletes expired items (TTL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeToLive {
    /// None: items stay until they are deleted.
    Off,
    /// This attribute; TTL is on or being switched on.
    On(String),
    /// It is being switched off, which takes up to an hour.
    Disabling,
}

impl LockTable {
    /// The table of this name or ARN. Nothing is sent before the first request.
    pub fn new(table: impl Into<String>) -> Self {
        Self(DynamoDbLockStore::new(table))
    }

    /// Looks up the item at `key` with whichever request is permitted. Changes nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]; if no request is permitted, that of the first.
    pub fn probe(&self, key: &str) -> Result<Probe, StoreError> {
        let denied = match self.probe_by(ProbeMethod::Delete, key) {
            Err(error @ StoreError::AccessDenied { .. }) => error,
            other => return other,
        };
        for method in [ProbeMethod::Put, ProbeMethod::Get] {
            match self.probe_by(method, key) {
                Err(StoreError::AccessDenied { .. }) => {}
                other => return other,
            }
        }
        Err(denied)
    }

    /// Looks up the item at `key` with this request. Changes nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]; trying again is safe.
    pub fn probe_by(&self, method: ProbeMethod, key: &str) -> Result<Probe, StoreError> {
        let (sent, started) = (SystemTime::now(), Instant::now());
        let (item, date, endpoint) = match method {
            ProbeMethod::Delete => self.probe_by_deleting(key)?,
            ProbeMethod::Put => self.probe_by_putting(key)?,
            ProbeMethod::Get => self.probe_by_getting(key)?,
        };
        Ok(Probe {
            item,
            date,
            sent,
            received: SystemTime::now(),
            took: started.elapsed(),
            endpoint,
        })
    }

    fn probe_by_deleting(&self, key: &str) -> Result<ProbeParts, StoreError> {
        let (table, key) = (self.0.endpoint.table().to_owned(), text(key));
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.delete_item().table_name(&table))
                    .key("pk", key.clone())
                    .condition_expression(FREE)
                    .return_values_on_condition_check_failure(ReturnOnRefusal::AllOld);
                request.customize().interceptor(observer).send()
            })?;
        let item = match &answered.result {
            Ok(_) => ItemLookup::Absent,
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(refused)) => {
                    refused_item(refused.item())
                }
                _ => {
                    return Err((self.0.endpoint).service_error(
                        "dynamodb:DeleteItem",
                        error,
                        None,
                    ));
                }
            },
        };
        Ok((item, answered.date, answered.sent_to))
    }

    fn probe_by_putting(&self, key: &str) -> Result<ProbeParts, StoreError> {
        // Expired from the beginning, in case an emulator ignores conditions.
        let item = HashMap::from([
            ("pk".to_owned(), text(key)),
            ("lock_id".to_owned(), text("never stored")),
            ("expires_at".to_owned(), AttributeValue::N("0".to_owned())),
        ]);
        let table = self.0.endpoint.table().to_owned();
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.put_item().table_name(&table))
                    .set_item(Some(item.clone()))
                    .condition_expression(NEVER)
                    .return_values_on_condition_check_failure(ReturnOnRefusal::AllOld);
                request.customize().interceptor(observer).send()
            })?;
        let item = match &answered.result {
            Ok(_) => {
                let problem = "it took no notice of a condition and cannot keep a lock";
                return Err(StoreError::Misconfigured {
                    message: Problem::new(problem).with_remedy("use DynamoDB, or another emulator"),
                });
            }
            Err(error) => match error.as_service_error() {
                // Here an answer without an item may mean that there is none.
                Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                    match refused_item(refused.item()) {
                        ItemLookup::Hidden => ItemLookup::Absent,
                        other => other,
                    }
                }
                _ => return Err((self.0.endpoint).service_error("dynamodb:PutItem", error, None)),
            },
        };
        Ok((item, answered.date, answered.sent_to))
    }

    fn probe_by_getting(&self, key: &str) -> Result<ProbeParts, StoreError> {
        let (table, key) = (self.0.endpoint.table().to_owned(), text(key));
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.get_item().table_name(&table))
                    .key("pk", key.clone())
                    .consistent_read(true);
                request.customize().interceptor(observer).send()
            })?;
        let item = match answered.result {
            Ok(output) => match output.item {
                Some(item) if !item.is_empty() => ItemLookup::Found(RawItem(item)),
                _ => ItemLookup::Absent,
            },
            Err(error) => {
                return Err((self.0.endpoint).service_error("dynamodb:GetItem", &error, None));
            }
        };
        Ok((item, answered.date, answered.sent_to))
    }

    /// Deletes the item at `key` if it is unchanged in every attribute on which the lock depends.
    ///
    /// # Errors
    /// Any [`StoreError`]; trying again is safe.
    pub fn delete_unchanged(&self, key: &str, item: &RawItem) -> Result<Deletion, StoreError> {
        let (condition, values) = item.unchanged();
        let values = Some(values).filter(|values| !values.is_empty());
        let (table, key) = (self.0.endpoint.table().to_owned(), text(key));
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.delete_item().table_name(&table))
                    .key("pk", key.clone())
                    // Where there is no item all absences hold, and nothing is deleted.
                    .condition_expression(format!("attribute_exists(pk) AND {condition}"))
                    .set_expression_attribute_values(values.clone())
                    .return_values_on_condition_check_failure(ReturnOnRefusal::AllOld);
                request.customize().interceptor(observer).send()
            })?;
        let error = match &answered.result {
            Ok(_) => return Ok(Deletion::Deleted),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(refused)) => {
                Ok(match refused_item(refused.item()) {
                    ItemLookup::Found(_) => Deletion::Changed,
                    // Deleted by us, if an answer was lost, or by its holder.
                    ItemLookup::Absent | ItemLookup::Hidden => Deletion::Gone,
                })
            }
            _ => Err((self.0.endpoint).service_error("dynamodb:DeleteItem", error, answered.lost)),
        }
    }

    /// Creates the table with the key that a lock needs, billed by request; returns `false` if
    /// there is one of that name, whatever its key.
    ///
    /// # Errors
    /// Any [`StoreError`]; trying again is safe.
    pub fn create_table(&self) -> Result<bool, StoreError> {
        let build = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Misconfigured {
            message: error.to_string().into(),
        };
        let attribute = AttributeDefinition::builder()
            .attribute_name("pk")
            .attribute_type(ScalarAttributeType::S)
            .build()
            .map_err(build)?;
        let key = KeySchemaElement::builder()
            .attribute_name("pk")
            .key_type(KeyType::Hash)
            .build()
            .map_err(build)?;
        let table = self.0.endpoint.table().to_owned();
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.create_table().table_name(&table))
                    .attribute_definitions(attribute.clone())
                    .key_schema(key.clone())
                    .billing_mode(BillingMode::PayPerRequest);
                request.customize().interceptor(observer).send()
            })?;
        let error = match &answered.result {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        match error.as_service_error() {
            // Also if our own first request was applied and its answer lost.
            Some(CreateTableError::ResourceInUseException(_)) => Ok(answered.lost.is_some()),
            _ => Err((self.0.endpoint).service_error("dynamodb:CreateTable", error, answered.lost)),
        }
    }

    /// The table's current properties.
    ///
    /// # Errors
    /// Any [`StoreError`]; `AccessDenied` for an action that the lock itself does not need.
    pub fn describe(&self) -> Result<TableSummary, StoreError> {
        let table = self.0.endpoint.table().to_owned();
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = client.describe_table().table_name(&table);
                request.customize().interceptor(observer).send()
            })?;
        match answered.result {
            Ok(output) => Ok(TableSummary::of(&output.table.unwrap_or_else(|| {
                // The service always describes the table that it has found.
                TableDescription::builder().build()
            }))),
            Err(error) => {
                Err((self.0.endpoint).service_error("dynamodb:DescribeTable", &error, None))
            }
        }
    }

    /// Whether the table deletes expired items.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub fn time_to_live(&self) -> Result<TimeToLive, StoreError> {
        let table = self.0.endpoint.table().to_owned();
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = client.describe_time_to_live().table_name(&table);
                request.customize().interceptor(observer).send()
            })?;
        let output = match answered.result {
            Ok(output) => output,
            Err(error) => {
                let action = "dynamodb:DescribeTimeToLive";
                return Err((self.0.endpoint).service_error(action, &error, None));
            }
        };
        let described = output.time_to_live_description;
        let attribute = described
            .as_ref()
            .and_then(|ttl| ttl.attribute_name.clone());
        Ok(
            match described.as_ref().and_then(|ttl| ttl.time_to_live_status()) {
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => {
                    TimeToLive::On(attribute.unwrap_or_default())
                }
                Some(TimeToLiveStatus::Disabling) => TimeToLive::Disabling,
                _ => TimeToLive::Off,
            },
        )
    }

    /// Makes the table delete items some time after their `expires_at`.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub fn enable_time_to_live(&self) -> Result<(), StoreError> {
        let specification = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name("expires_at")
            .build()
            .map_err(|error| StoreError::Misconfigured {
                message: error.to_string().into(),
            })?;
        let table = self.0.endpoint.table().to_owned();
        let answered = self
            .0
            .call(deadline(REQUEST_TIMEOUT), move |client, observer| {
                let request = (client.update_time_to_live().table_name(&table))
                    .time_to_live_specification(specification.clone());
                request.customize().interceptor(observer).send()
            })?;
        match answered.result {
            Ok(_) => Ok(()),
            Err(error) => Err((self.0.endpoint).service_error(
                "dynamodb:UpdateTimeToLive",
                &error,
                answered.lost,
            )),
        }
    }

    /// The AWS Region that requests go to; `None` before the first one.
    pub fn region(&self) -> Option<String> {
        self.0.endpoint.region()
    }
}

type ProbeParts = (ItemLookup, Option<SystemTime>, Option<String>);

impl TableSummary {
    fn of(table: &TableDescription) -> Self {
        let type_of = |name: &str| {
            let mut definitions = table.attribute_definitions().iter();
            let found = definitions.find(|definition| definition.attribute_name() == name);
            found.map_or_else(String::new, |definition| {
                definition.attribute_type().as_str().to_owned()
            })
        };
        let mut key: Vec<_> = table.key_schema().iter().collect();
        key.sort_by_key(|element| *element.key_type() != KeyType::Hash);
        let billing = (table.billing_mode_summary()).and_then(|summary| summary.billing_mode());
        Self {
            status: (table.table_status())
                .map_or_else(|| "unknown".to_owned(), |status| status.as_str().to_owned()),
            is_active: table.table_status() == Some(&TableStatus::Active),
            key: (key.iter())
                .map(|element| {
                    let name = element.attribute_name();
                    (name.to_owned(), type_of(name))
                })
                .collect(),
            is_on_demand: billing == Some(&BillingMode::PayPerRequest),
            has_lagging_replicas: !table.replicas().is_empty()
                && table.multi_region_consistency() != Some(&MultiRegionConsistency::Strong),
        }
    }
}

/// The item that a refused condition returned.
fn refused_item(item: Option<&HashMap<String, AttributeValue>>) -> ItemLookup {
    match item {
        Some(item) if !item.is_empty() => ItemLookup::Found(RawItem(item.clone())),
        _ => ItemLookup::Hidden,
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_a_deletion_names_every_attribute_that_the_lock_decides_by() {
        let mut attributes = HashMap::from([
            ("pk".to_owned(), text("a")),
            ("lock_id".to_owned(), text("b")),
            (
                "expires_at".to_owned(),
                AttributeValue::N("1.50".to_owned()),
            ),
        ]);
        let (condition, values) = RawItem(attributes.clone()).unchanged();
        assert_eq!(
            condition,
            "lock_id = :lock_id AND expires_at = :expires_at AND attribute_not_exists(committed)"
        );
        assert_eq!(values[":expires_at"], AttributeValue::N("1.50".to_owned()));
        assert_eq!(values.len(), 2, "DynamoDB refuses values that are not used");
        attributes.insert("committed".to_owned(), text("01020304"));
        let (condition, _) = RawItem(attributes).unchanged();
        assert!(condition.ends_with("AND committed = :committed"));
    }
}
