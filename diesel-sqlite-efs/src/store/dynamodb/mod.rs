//! The lock table in DynamoDB: `PutItem` and `DeleteItem`, each with a condition.

mod attributes;
mod endpoint;
pub(crate) mod lock_table;
mod put_request;
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

use self::attributes::stored_item;
use self::endpoint::{
    Answered, Configuration, Endpoint, Observer, SERVICE, TOTAL_CONFIGURATION_TIME,
};
use self::put_request::{OURS, PutRequest};
use self::worker::Worker;
use super::{DeleteAnswer, LockItem, LockStore, PutAnswer, PutCondition};
use crate::error::StoreError;

/// A lock table in DynamoDB, with the primary key `pk` (S) and no sort key.
///
/// The permissions `dynamodb:PutItem` and `dynamodb:DeleteItem` on the table suffice. Endpoint,
/// region and credentials come from where the AWS SDK looks for them: `AWS_REGION`,
/// `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ACCESS_KEY_ID`, profiles, the roles of Lambda, ECS and EC2
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>); or from a
/// configuration passed to the [`builder`](Self::builder). They are read at the first call, not by
/// [`new`](Self::new).
///
/// # Threads and runtimes
/// Calls block the calling thread. They may come from any number of threads at once, and from
/// inside a tokio runtime of any flavour (as with all blocking, the runtime's other tasks on that
/// thread wait). Requests run on the store's own thread, `diesel-sqlite-efs`, which the first call
/// starts and `drop` ends. Share one store among connections, in an [`Arc`]: each store has its own
/// thread and its own connections to DynamoDB. A store does not survive `fork`.
///
/// # Time
/// A connection must be established within 1 s, and an answer must come within 1 s from when the
/// request was ready to be sent: DynamoDB answers within milliseconds, and anything slower is a
/// dead connection or a missing route. After such a failure the request is sent once more, on a new
/// connection, if `give_up_after` leaves time: connections that were idle while a sandbox was
/// frozen are often dead without any sign of it. All idle connections are abandoned along with the
/// failed one. Refusals by the service, errors 500 and throttling are not retried here; the caller
/// knows better when to ask again.
///
/// # Lost answers
/// A retry is safe, because every condition recognises the `lock_id` of a write that was applied
/// although its answer was lost; [`PutAnswer::Stored::previous`] is then our own item. If the retry
/// is refused or fails, and the first request may have been applied, the first failure is returned,
/// whose [`StoreError::outcome_unknown`] is true: between the two, a lease may have expired and
/// been taken over. Only a `put` on [`PutCondition::Ours`] and a `delete` are affected; a `delete`
/// that then finds no item at all returns [`DeleteAnswer::Deleted`].
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
    /// A store on the table of this name or ARN, in the account, region and endpoint of the
    /// environment.
    ///
    /// Cheap: no thread is started, nothing is read from the environment, and the first call finds
    /// out whether the table exists. See [`warm_up`](LockStore::warm_up).
    pub fn new(table: impl Into<String>) -> Self {
        Self::builder(table).build()
    }

    /// A store on the table of this name or ARN, with a custom AWS configuration.
    pub fn builder(table: impl Into<String>) -> DynamoDbLockStoreBuilder {
        DynamoDbLockStoreBuilder {
            table: table.into(),
            configuration: Configuration::Environment,
        }
    }

    /// Makes a request, which is sent again if no answer comes, and waits for the answer.
    fn call<T, E, F>(
        &self,
        deadline: Instant,
        send: impl Fn(Client, Observer) -> F + Send + 'static,
    ) -> Result<Answered<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send + 'static,
    {
        let endpoint = self.endpoint.clone();
        self.wait(deadline, async move { endpoint.call(deadline, send).await })
    }

    /// Runs this on the store's own thread and waits for the result.
    fn wait<T: Send + 'static>(
        &self,
        deadline: Instant,
        request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        match self.worker.run(deadline, request) {
            Ok(answer) => answer,
            Err(worker::Lost::Panicked(message)) => Err(StoreError::Panicked { message }),
            Err(worker::Lost::Silent) => Err(StoreError::timeout(
                SERVICE,
                "the configured endpoint (the client's own thread is stuck)",
                started.elapsed(),
            )),
        }
    }
}

/// Builds a [`DynamoDbLockStore`] with a custom AWS configuration: an assumed role, another account
/// or region, credentials that the application has already loaded.
///
/// From the configuration, the store uses the region, the credentials with their cache, the
/// endpoint and the interceptors. It replaces three things, on which its promises about
/// [time](DynamoDbLockStore#time) depend:
/// - The retry settings: the store sends a request at most twice and leaves the rest to its caller,
///   who knows how much time is left.
/// - The timeouts: 1 s to connect, 1 s to answer, and never longer than the caller allows.
/// - The HTTP client: connections belong to the runtime that opened them, and the call that waits
///   for the store may block the application's runtime. So the store opens its own connections,
///   with the root certificates of the operating system.
///
/// A custom HTTP client (a proxy, custom certificates) is therefore not used. Credentials that are
/// loaded through the application's runtime, by a provider that needs its tasks to run, time out if
/// the store's caller blocks that runtime: call from `spawn_blocking`.
///
/// The last call of [`sdk_config`](Self::sdk_config) and [`client`](Self::client) wins; without
/// either, the environment decides, as with [`DynamoDbLockStore::new`].
///
/// ```no_run
/// use std::sync::Arc;
/// use aws_config::BehaviorVersion;
/// use aws_config::sts::AssumeRoleProvider;
/// use diesel_sqlite_efs::{DynamoDbLockStore, EfsConfig, EfsSqliteConnection};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// // The lock table is in another account.
/// let role = AssumeRoleProvider::builder("arn:aws:iam::111122223333:role/lock-writer");
/// let config = aws_config::defaults(BehaviorVersion::latest())
///     .credentials_provider(role.build().await)
///     .load()
///     .await;
/// let store = DynamoDbLockStore::builder("app-locks").sdk_config(&config).build();
/// let config = EfsConfig::new("/mnt/efs/app.db").lock_store(Arc::new(store));
/// let conn = tokio::task::spawn_blocking(move || EfsSqliteConnection::connect(&config)).await??;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "call `build` to get the store"]
pub struct DynamoDbLockStoreBuilder {
    table: String,
    configuration: Configuration,
}

impl DynamoDbLockStoreBuilder {
    /// Takes region, credentials and endpoint from `config` instead of the environment.
    pub fn sdk_config(mut self, config: &SdkConfig) -> Self {
        self.configuration = Configuration::Sdk(Box::new(config.clone()));
        self
    }

    /// Takes region, credentials, endpoint and interceptors from the configuration of `client`
    /// instead of the environment. Its connections are not shared.
    pub fn client(mut self, client: &Client) -> Self {
        self.configuration = Configuration::Client(client.clone());
        self
    }

    /// Builds the store. Cheap; an unusable configuration is reported by the first call.
    pub fn build(self) -> DynamoDbLockStore {
        DynamoDbLockStore {
            endpoint: Arc::new(Endpoint::new(self.table, self.configuration)),
            worker: Worker::default(),
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
                let previous = output
                    .attributes
                    .as_ref()
                    .and_then(stored_item)
                    .transpose()?;
                return Ok(PutAnswer::stored(previous).with_date(date));
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
            _ => {
                let current = refused.item().and_then(stored_item).transpose()?;
                Ok(PutAnswer::refused(current).with_date(date))
            }
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

    /// Does in advance what the first call would do before its request: starts the thread, finds
    /// region, endpoint and credentials, loads the TLS root certificates, and signs a request that
    /// is not sent.
    ///
    /// Meant for the start of a Lambda function, where processor time is plentiful. It opens no
    /// connection to DynamoDB and sends nothing there, so it does not check permissions or the
    /// table; a [`delete`](LockStore::delete) of a key that does not exist would. It may send
    /// requests to sources of credentials that are services: the container's agent, the instance's
    /// metadata, STS. Calling it again is cheap.
    ///
    /// # Errors
    /// [`StoreError::NoRegion`], [`StoreError::Credentials`] (both within about 2 s, as metadata
    /// services get half a second to answer), and [`StoreError::Misconfigured`] for an endpoint
    /// that is not a URL. Trying again is safe, and helps once the cause is fixed.
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

/// Counted from before the request. More than a day is treated as a day.
fn deadline(give_up_after: Duration) -> Instant {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Instant::now() + give_up_after.min(DAY)
}
