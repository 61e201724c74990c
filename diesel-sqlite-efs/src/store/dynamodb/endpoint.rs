//! The service behind the table: its configuration, one request with its retry, and its errors.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{
    Builder, ConfigBag, Intercept, RuntimeComponents, SharedHttpClient,
};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::error::{Problem, StoreError, error_chain};

/// How long a TCP connection with its TLS handshake may take. Inside a VPC without a route to
/// DynamoDB nothing answers at all, and a lock timeout of 3 s must leave time to report it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer may take from when the request is signed, connecting included. DynamoDB
/// answers within milliseconds; a third of the lock's default timeout leaves time for the retry.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one request to the instance metadata service may take. The service is on the same host
/// or absent, and a machine that is not an EC2 instance should soon learn that it has no
/// credentials.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the search for credentials may take, STS included.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take until a first request can be sent: region, then credentials.
pub(super) const TOTAL_CONFIGURATION_TIME: Duration = Duration::from_secs(3);

/// The service's name in errors.
pub(super) const SERVICE: &str = "DynamoDB";

/// A table in DynamoDB, or in what is configured in its place.
pub(super) struct Endpoint {
    table: String,
    configuration: Configuration,
    connected: OnceCell<Connected>,
}

/// The source of region, credentials and endpoint.
#[derive(Debug, Clone)]
pub(super) enum Configuration {
    /// Where the AWS SDK looks for them, at the first call.
    Environment,
    Sdk(Box<SdkConfig>),
    Client(Client),
}

/// The result of the first call's configuration.
struct Connected {
    region: String,
    current: Mutex<Generation>,
}

/// A client with a pool of connections. If one of them fails, all are replaced.
#[derive(Clone)]
struct Generation {
    number: u64,
    client: Client,
}

/// An answer of the service, which may be an error.
pub(super) struct Answered<T, E> {
    pub(super) result: Result<T, SdkError<E>>,
    /// The answer's `Date`.
    pub(super) date: Option<SystemTime>,
    /// The URL of the request.
    pub(super) sent_to: Option<String>,
    /// How the attempt before this one failed, if it may have been applied nevertheless.
    pub(super) lost: Option<StoreError>,
}

impl Endpoint {
    pub(super) fn new(table: String, configuration: Configuration) -> Self {
        Self {
            table,
            configuration,
            connected: OnceCell::new(),
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// The Region, once a request was made.
    pub(super) fn region(&self) -> Option<String> {
        (self.connected.get()).map(|connected| connected.region.clone())
    }

    /// Sends a request, and sends it again, on a new connection, if no answer came.
    pub(super) async fn call<T, E, F>(
        &self,
        deadline: Instant,
        send: impl Fn(Client, Observer) -> F,
    ) -> Result<Answered<T, E>, StoreError>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let started = Instant::now();
        let connected = self.connected(deadline).await?;
        let mut lost = None;
        for is_last in [false, true] {
            let generation = connected.current().clone();
            let observer = Observer::default();
            let request = send(generation.client.clone(), observer.clone());
            let failure = match attempt(request, &observer, deadline).await {
                Ok(result) => {
                    let seen = observer.seen();
                    return Ok(Answered {
                        result,
                        date: seen.date,
                        sent_to: seen.sent_to.clone(),
                        lost,
                    });
                }
                Err(failure) => failure,
            };
            let error = connected.error(failure, &observer, started, deadline);
            if !observer.was_sent() {
                return Err(lost.unwrap_or(error));
            }
            connected.replace(generation.number);
            if is_last || time_left(deadline).is_zero() {
                return Err(error);
            }
            lost = observer.was_connected().then_some(error);
        }
        unreachable!("the last attempt returns")
    }

    /// Does everything that precedes sending a request.
    pub(super) async fn rehearse<T, E, F>(
        &self,
        deadline: Instant,
        send: impl Fn(Client, Observer) -> F,
    ) -> Result<(), StoreError>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let started = Instant::now();
        let connected = self.connected(deadline).await?;
        let observer = Observer {
            stop: true,
            ..Observer::default()
        };
        let client = connected.current().client.clone();
        match attempt(send(client, observer.clone()), &observer, deadline).await {
            Err(failure) if !observer.was_sent() => {
                Err(connected.error(failure, &observer, started, deadline))
            }
            _ => Ok(()),
        }
    }

    async fn connected(&self, deadline: Instant) -> Result<&Connected, StoreError> {
        let started = Instant::now();
        let connect = async {
            let config = match &self.configuration {
                Configuration::Environment => Builder::from(&environment().await?),
                Configuration::Sdk(config) => Builder::from(&**config),
                Configuration::Client(client) => client.config().to_builder(),
            };
            let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT);
            let config = config
                .http_client(https(None))
                // One retry, on a new connection, is made here; the lock client makes the others.
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts.build())
                .build();
            let region = config.region().ok_or(StoreError::NoRegion)?.to_string();
            Ok(Connected {
                region,
                current: Mutex::new(Generation {
                    number: 0,
                    client: Client::from_conf(config),
                }),
            })
        };
        let connected = self.connected.get_or_try_init(|| connect);
        match timeout(time_left(deadline), connected).await {
            Ok(connected) => connected,
            Err(_) => Err(StoreError::Unreachable {
                service: SERVICE.into(),
                endpoint: "the configured endpoint".to_owned(),
                message: format!(
                    "the AWS configuration was not found within {} ms, nothing was sent",
                    started.elapsed().as_millis()
                ),
                source: None,
            }),
        }
    }

    /// An unexpected answer as an error; or the error of the previous attempt, if that may have
    /// been applied: "refused" would say that nothing was written.
    pub(super) fn service_error<E>(
        &self,
        action: &'static str,
        error: &SdkError<E>,
        lost: Option<StoreError>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(lost) = lost {
            return lost;
        }
        let Some(answer) = error.raw_response() else {
            let message = format!(
                "the request could not be written down: {}",
                error_chain(error)
            )
            .into();
            return StoreError::Misconfigured { message };
        };
        let status = answer.status().as_u16();
        let code = error.code();
        let message = match (error.message(), code) {
            // Without its full stop: the error text continues after it.
            (Some(message), Some(_)) => message.trim_end_matches('.').to_owned(),
            (None, Some(_)) => "no message".to_owned(),
            (_, None) => format!(
                "this is no answer of DynamoDB, check the endpoint: {}",
                excerpt(answer.body().bytes().unwrap_or_default())
            ),
        };
        let throttled = |message| StoreError::Throttled {
            service: SERVICE.into(),
            message,
            source: None,
        };
        match code.unwrap_or_default() {
            "AccessDeniedException" | "AccessDenied" => {
                StoreError::AccessDenied { action, message }
            }
            "ResourceNotFoundException" | "TableNotFoundException" => StoreError::TableMissing {
                message: self.name_table(&message),
            },
            // "1 validation error detected: Value 'a b' at 'tableName' failed to satisfy .."
            "ValidationException" if message.contains("tableName") => StoreError::TableMissing {
                message: self.name_table(&message),
            },
            "ValidationException" if speaks_of_schema(&message) => StoreError::TableSchema {
                message: self.name_table(&message),
            },
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException" => StoreError::Credentials { message },
            "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => throttled(message),
            _ if status == 429 => throttled(message),
            _ => StoreError::Service {
                status,
                code: code.map(str::to_owned),
                message,
            },
        }
    }

    fn name_table(&self, message: &str) -> String {
        let region = self.connected.get().map_or("?", |c| c.region.as_str());
        format!("{message} (table `{}` in {region})", self.table)
    }
}

impl Connected {
    fn current(&self) -> MutexGuard<'_, Generation> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Abandons all connections of a generation, unless another call has already done so.
    fn replace(&self, spent: u64) {
        let mut current = self.current();
        if current.number == spent {
            let config = current.client.config().to_builder();
            *current = Generation {
                number: spent + 1,
                client: Client::from_conf(config.http_client(https(None)).build()),
            };
        }
    }

    fn error(
        &self,
        failure: Failure,
        observer: &Observer,
        started: Instant,
        deadline: Instant,
    ) -> StoreError {
        let after = started.elapsed();
        // A process that was stopped meanwhile may resume after its time is up.
        let patience = deadline.saturating_duration_since(started).min(after);
        let seen = observer.seen();
        let endpoint =
            (seen.sent_to.clone()).unwrap_or_else(|| format!("its endpoint in {}", self.region));
        drop(seen);
        let unreachable = |message, source| StoreError::Unreachable {
            service: SERVICE.into(),
            endpoint: endpoint.clone(),
            message,
            source,
        };
        let millis = after.as_millis();
        match failure {
            Failure::NoCredentials(message) => StoreError::Credentials { message },
            Failure::Misconfigured(message) => StoreError::Misconfigured { message },
            // The caller allowed too little time for this to say anything about the endpoint.
            Failure::TimedOut if patience < CONNECT_TIMEOUT => {
                StoreError::timeout(SERVICE, endpoint, after)
            }
            Failure::TimedOut if !observer.was_sent() => unreachable(
                format!(
                    "the request was not ready within {millis} ms (credentials?), nothing was sent"
                ),
                None,
            ),
            Failure::TimedOut if !observer.was_connected() => {
                unreachable(format!("no connection within {millis} ms"), None)
            }
            Failure::TimedOut => StoreError::timeout(SERVICE, endpoint, after),
            Failure::Dispatched(message, cause) => unreachable(message, Some(cause.into())),
        }
    }
}

/// Why an attempt got no answer.
enum Failure {
    NoCredentials(String),
    /// The endpoint is not a URL, or the SDK rejects another setting.
    Misconfigured(Problem),
    /// There was no connection, or it broke: the reason, and the SDK's error.
    Dispatched(String, BoxError),
    TimedOut,
}

/// One request, bounded in time.
async fn attempt<T, E: Error + Send + Sync + 'static>(
    request: impl Future<Output = Result<T, SdkError<E>>>,
    observer: &Observer,
    deadline: Instant,
) -> Result<Result<T, SdkError<E>>, Failure> {
    if time_left(deadline).is_zero() {
        return Err(Failure::TimedOut);
    }
    let mut request = pin!(request);
    // Until the request is sent, which includes the search for credentials, that search's own
    // timeout applies; only then can the service be late.
    let until_sent = poll_fn(|context| match request.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if observer.was_sent() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let result = match timeout(time_left(deadline), until_sent).await {
        Ok(Some(result)) => result,
        Ok(None) => {
            let patience = ATTEMPT_TIMEOUT.min(time_left(deadline));
            (timeout(patience, request).await).map_err(|_| Failure::TimedOut)?
        }
        Err(_) => return Err(Failure::TimedOut),
    };
    let error = match result {
        Ok(_) => return Ok(result),
        Err(error) => error,
    };
    let message = match &error {
        SdkError::DispatchFailure(failure) => {
            let is_timeout = failure.is_timeout();
            // The connector's own text only names the kind of the cause.
            let cause = failure.as_connector_error().and_then(|e| e.source());
            let cause = cause.unwrap_or(&error);
            match observer.was_sent() {
                true if is_timeout => return Err(Failure::TimedOut),
                true => error_chain(cause),
                false => return Err(unready(cause)),
            }
        }
        SdkError::TimeoutError(_) => return Err(Failure::TimedOut),
        // The connection broke inside the answer, so it was never read completely.
        SdkError::ResponseError(answer) if answer.raw().body().bytes().is_none() => {
            error_chain(&error)
        }
        _ => return Ok(Err(error)),
    };
    Err(Failure::Dispatched(message, error.into()))
}

/// Before sending, the SDK looks for credentials, then for the endpoint; it has no public types
/// that say which of the two failed.
fn unready(error: &(dyn Error + 'static)) -> Failure {
    let text = error_chain(error);
    let is_bad_url = text.starts_with("failed to apply endpoint");
    if !is_bad_url
        && ["credential", "identity"]
            .iter()
            .any(|sign| text.contains(sign))
    {
        return Failure::NoCredentials(in_one_line(&text));
    }
    let deepest = std::iter::successors(Some(error), |&error| error.source()).last();
    let cause = deepest.map_or(text.clone(), ToString::to_string);
    // "failed to apply endpoint `localhost:8000` to request `Request { .. }`: <cause>"
    let url = text.split('`').nth(1).filter(|_| is_bad_url);
    Failure::Misconfigured(match url {
        Some(url) => Problem::new(format!("the endpoint `{url}` is not a URL ({cause})"))
            .with_remedy(
                "set AWS_ENDPOINT_URL_DYNAMODB to one such as `http://localhost:8000`, or unset it",
            ),
        None => cause.into(),
    })
}

/// Observes one attempt of the SDK.
#[derive(Debug, Clone, Default)]
pub(super) struct Observer {
    /// Ends the attempt just before it is sent.
    stop: bool,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The URL, once the request is signed and passed to the HTTP client.
    sent_to: Option<String>,
    connection: Option<CaptureSmithyConnection>,
    date: Option<SystemTime>,
}

impl Observer {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_sent(&self) -> bool {
        self.seen().sent_to.is_some()
    }

    /// Whether the request had a connection, so that the service may have seen it.
    fn was_connected(&self) -> bool {
        let connection = self.seen().connection.clone();
        // Without the SDK's probe this is unknown, and "maybe" is the safe answer.
        connection.is_none_or(|connection| connection.get().is_some())
    }
}

impl Intercept for Observer {
    fn name(&self) -> &'static str {
        "diesel-sqlite-efs"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let mut seen = self.seen();
        seen.sent_to = Some(request.uri().trim_end_matches('/').to_owned());
        seen.connection = request.extension::<CaptureSmithyConnection>().cloned();
        if self.stop {
            return Err("a rehearsal".into());
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        self.seen().date = date
            .and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok())
            .and_then(|date| SystemTime::try_from(date).ok());
        Ok(())
    }
}

/// The environment's configuration, by the SDK's own rules, but with time limits for the metadata
/// services.
async fn environment() -> Result<SdkConfig, StoreError> {
    // Used once in hours, so it keeps no connections that a freeze could break.
    let http_client = https(Some(0));
    let providers = ProviderConfig::without_region().with_http_client(http_client.clone());
    let metadata = imds::Client::builder()
        .configure(&providers)
        .max_attempts(1)
        .connect_timeout(METADATA_TIMEOUT)
        .read_timeout(METADATA_TIMEOUT)
        .operation_attempt_timeout(METADATA_TIMEOUT)
        .operation_timeout(METADATA_TIMEOUT)
        .build();

    let of_profile = ProfileFileRegionProvider::builder().configure(&providers);
    let of_instance = imds::region::ImdsRegionProvider::builder().configure(&providers);
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(of_profile.build())
        .or_else(of_instance.imds_client(metadata.clone()).build())
        .region()
        .await
        .ok_or(StoreError::NoRegion)?;

    let credentials = DefaultCredentialsChain::builder()
        .configure(providers)
        .region(region.clone())
        .imds_client(metadata)
        .build()
        .await;
    let cache = IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT);
    Ok(aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .region(region)
        .credentials_provider(credentials)
        .identity_cache(cache.build())
        .load()
        .await)
}

/// An HTTP client without connections, with at most this many idle ones later.
fn https(max_idle: Option<usize>) -> SharedHttpClient {
    let mut builder = aws_smithy_http_client::Builder::new();
    builder.set_pool_max_idle_per_host(max_idle);
    builder
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// "Missing the key pk in the item", "The provided key element does not match the schema",
/// "Type mismatch for key pk expected: N actual: S".
fn speaks_of_schema(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "missing the key",
        "key element",
        "schema",
        "type mismatch",
        "number of conditions on the keys",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// The beginning of a body that is not DynamoDB's, as one line.
fn excerpt(body: &[u8]) -> String {
    const LENGTH: usize = 200;
    let line = in_one_line(&String::from_utf8_lossy(body));
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("`{}`..", &line[..end]),
        None => format!("`{line}`"),
    }
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
