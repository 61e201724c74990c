//! The lock table as seen from outside: created, filled, looked at and emptied by a test.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
pub use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ReturnValue, ScalarAttributeType,
    Select, TableStatus, TimeToLiveSpecification,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, tls};
use thiserror::Error;
use tokio::runtime::{self, Runtime};

use crate::process::wait_until;

const REGION: &str = "us-east-1";
const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
const SECRET_ACCESS_KEY: &str = "no-secret";

/// How long a new table may take until it can be used.
const CREATION_TIMEOUT: Duration = Duration::from_secs(60);

/// The environment with which the AWS SDK of another process talks to `endpoint`.
pub fn env_for(endpoint: &str) -> [(&'static str, String); 6] {
    [
        ("AWS_ENDPOINT_URL_DYNAMODB", endpoint.to_owned()),
        // Would make the SDK overlook the endpoint.
        ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// An item: its attributes by their names.
pub type Item = HashMap<String, AttributeValue>;

/// Why a look at the table failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The service refused, or did not answer.
    #[error("{operation} on table `{table}` at {endpoint}: {problem}")]
    Request {
        /// The operation of DynamoDB's API.
        operation: &'static str,
        /// The table.
        table: String,
        /// Where the service was asked.
        endpoint: String,
        /// What the SDK says, causes included.
        problem: String,
    },
    /// The table was created and is still not active.
    #[error("table `{0}` is not active {CREATION_TIMEOUT:?} after its creation")]
    NotActive(String),
    /// No runtime for the SDK's client.
    #[error("cannot start a runtime for the DynamoDB client")]
    Runtime(#[from] io::Error),
}

/// A table and a blocking client for it. Not for use inside a tokio runtime.
#[derive(Debug)]
pub struct LockTable {
    runtime: Runtime,
    client: Client,
    endpoint: String,
    name: String,
}

impl LockTable {
    /// A table that exists already, or of which it does not matter.
    ///
    /// # Errors
    /// If the client cannot be set up; nothing is sent yet.
    pub fn open(endpoint: &str, name: &str) -> Result<Self, Error> {
        let http_client = Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let credentials =
            Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "integration");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .http_client(http_client)
            .build();
        Ok(Self {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            client: Client::from_conf(config),
            endpoint: endpoint.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Creates the lock table as the README says: key `pk` (S), paid by request, TTL on
    /// `expires_at`.
    ///
    /// # Errors
    /// If there is such a table already, for one.
    pub fn create(endpoint: &str, name: &str) -> Result<Self, Error> {
        let table = Self::create_with_key(endpoint, name, &[("pk", ScalarAttributeType::S)])?;
        let expiry = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name("expires_at")
            .build()
            .map_err(|error| table.error("UpdateTimeToLive", error))?;
        let request = table.client.update_time_to_live().table_name(name);
        table.finish(
            "UpdateTimeToLive",
            request.time_to_live_specification(expiry).send(),
        )?;
        Ok(table)
    }

    /// Creates a table with another key than the lock table's: the partition key's name and type,
    /// then the sort key's, if there is to be one.
    ///
    /// # Errors
    /// If there is such a table already, for one.
    pub fn create_with_key(
        endpoint: &str,
        name: &str,
        key: &[(&str, ScalarAttributeType)],
    ) -> Result<Self, Error> {
        let table = Self::open(endpoint, name)?;
        let mut request = (table.client.create_table())
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest);
        for ((attribute, attribute_type), role) in key.iter().zip([KeyType::Hash, KeyType::Range]) {
            let definition = AttributeDefinition::builder()
                .attribute_name(*attribute)
                .attribute_type(attribute_type.clone())
                .build()
                .map_err(|error| table.error("CreateTable", error))?;
            let element = KeySchemaElement::builder()
                .attribute_name(*attribute)
                .key_type(role)
                .build()
                .map_err(|error| table.error("CreateTable", error))?;
            request = request
                .attribute_definitions(definition)
                .key_schema(element);
        }
        table.finish("CreateTable", request.send())?;
        table.wait_until_active()?;
        Ok(table)
    }

    /// The SDK's client, whose connections belong to a runtime that runs only while this table is
    /// asked.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is such a table.
    ///
    /// # Errors
    /// If the service cannot be asked.
    pub fn exists(&self) -> Result<bool, Error> {
        let request = self.client.describe_table().table_name(&self.name);
        match self.runtime.block_on(request.send()) {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_resource_not_found_exception() => Ok(false),
                _ => Err(self.error("DescribeTable", error)),
            },
        }
    }

    /// The item at `pk`, read consistently.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    pub fn item(&self, pk: &str) -> Result<Option<Item>, Error> {
        let request = (self.client.get_item())
            .table_name(&self.name)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .consistent_read(true);
        Ok(self.finish("GetItem", request.send())?.item)
    }

    /// An attribute of the item at `pk` as text, if there is such an item and it has one.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    ///
    /// # Panics
    /// If the attribute is neither text nor a number.
    pub fn attribute(&self, pk: &str, name: &str) -> Result<Option<String>, Error> {
        let attribute = self.item(pk)?.and_then(|mut item| item.remove(name));
        Ok(attribute.map(|attribute| match attribute {
            AttributeValue::S(text) | AttributeValue::N(text) => text,
            other => panic!("unexpected {other:?}"),
        }))
    }

    /// When the lease at `pk` ends, if there is an item.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    ///
    /// # Panics
    /// If the item's `expires_at` is not a number.
    pub fn expires_at(&self, pk: &str) -> Result<Option<SystemTime>, Error> {
        let digits = self.attribute(pk, "expires_at")?;
        Ok(digits.map(|digits| {
            let seconds = digits.parse().expect("a number");
            UNIX_EPOCH + Duration::from_secs_f64(seconds)
        }))
    }

    /// Waits until the lease at `pk` has ended, or its item is gone, for anybody who goes by the
    /// dates of the store's answers: they are in whole seconds, and of this host's clock.
    ///
    /// # Panics
    /// If that takes longer than `within`, or the service does not answer.
    #[track_caller]
    pub fn wait_until_expired(&self, pk: &str, within: Duration) {
        wait_until(within, "the lease has expired", || {
            let expires_at = self.expires_at(pk).expect("the table answers");
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let date = UNIX_EPOCH + Duration::from_secs(now.unwrap_or_default().as_secs());
            expires_at.is_none_or(|expires_at| date > expires_at)
        });
    }

    /// Puts an item without any condition, as a writer that follows no protocol would.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    pub fn put(&self, item: Item) -> Result<(), Error> {
        let request = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(item));
        self.finish("PutItem", request.send()).map(drop)
    }

    /// Puts a lock item without any condition, exactly as the Python package writes it.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    pub fn put_as_python(
        &self,
        pk: &str,
        lock_id: &str,
        expires_at: SystemTime,
    ) -> Result<(), Error> {
        self.put(python_item(pk, lock_id, expires_at))
    }

    /// Asks for the lock as the Python package does, by its own item and condition; tells whether
    /// it was granted. `now` is the time by the asking host's clock.
    ///
    /// # Errors
    /// If the service does not answer, or refuses for another reason than the condition.
    pub fn acquire_as_python(
        &self,
        pk: &str,
        lock_id: &str,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<bool, Error> {
        let request = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(python_item(pk, lock_id, expires_at)))
            .condition_expression("attribute_not_exists(pk) OR expires_at < :now")
            .expression_attribute_values(":now", AttributeValue::N(python_time(now)));
        self.granted("PutItem", request.send())
    }

    /// Asks to put a lock item on condition that there is none; tells whether it was written.
    ///
    /// # Errors
    /// If the service does not answer, or refuses for another reason than the condition.
    pub fn put_if_absent(&self, item: Item) -> Result<bool, Error> {
        let request = (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)");
        self.granted("PutItem", request.send())
    }

    /// Removes the item at `pk` without any condition; tells what was there.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    pub fn delete(&self, pk: &str) -> Result<Option<Item>, Error> {
        let request = (self.client.delete_item())
            .table_name(&self.name)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .return_values(ReturnValue::AllOld);
        Ok(self.finish("DeleteItem", request.send())?.attributes)
    }

    /// How many items there are. For small tables: looks at one page only.
    ///
    /// # Errors
    /// If the service refuses or does not answer.
    pub fn count(&self) -> Result<usize, Error> {
        let request = (self.client.scan())
            .table_name(&self.name)
            .select(Select::Count)
            .consistent_read(true);
        let answer = self.finish("Scan", request.send())?;
        // The service counts in a signed number and never below zero.
        Ok(usize::try_from(answer.count).unwrap_or_default())
    }

    fn wait_until_active(&self) -> Result<(), Error> {
        self.runtime.block_on(async {
            let active = async {
                loop {
                    let request = self.client.describe_table().table_name(&self.name);
                    let answer = request.send().await;
                    let answer = answer.map_err(|error| self.error("DescribeTable", error))?;
                    let status = answer.table.and_then(|table| table.table_status);
                    if status == Some(TableStatus::Active) {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            (tokio::time::timeout(CREATION_TIMEOUT, active).await)
                .unwrap_or_else(|_| Err(Error::NotActive(self.name.clone())))
        })
    }

    /// Whether a conditional put was applied.
    fn granted<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, SdkError<PutItemError>>>,
    ) -> Result<bool, Error> {
        match self.runtime.block_on(request) {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(service) if service.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(self.error(operation, error)),
            },
        }
    }

    fn finish<T, E: std::error::Error>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        (self.runtime.block_on(request)).map_err(|error| self.error(operation, error))
    }

    fn error(&self, operation: &'static str, error: impl std::error::Error) -> Error {
        Error::Request {
            operation,
            table: self.name.clone(),
            endpoint: self.endpoint.clone(),
            problem: with_causes(&error),
        }
    }
}

/// The SDK's errors say little by themselves, and their causes say the rest.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A lock item exactly as the Python package writes it: three attributes, `expires_at` a decimal
/// with 28 significant digits.
pub fn python_item(pk: &str, lock_id: &str, expires_at: SystemTime) -> Item {
    let expires_at = python_time(expires_at);
    HashMap::from([
        ("pk".to_owned(), AttributeValue::S(pk.to_owned())),
        ("lock_id".to_owned(), AttributeValue::S(lock_id.to_owned())),
        ("expires_at".to_owned(), AttributeValue::N(expires_at)),
    ])
}

fn python_time(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Ten digits before the point until the year 2286, eighteen after it.
    format!(
        "{}.{:09}000000001",
        since_epoch.as_secs(),
        since_epoch.subsec_nanos()
    )
}
