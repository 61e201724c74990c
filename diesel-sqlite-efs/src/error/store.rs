//! Errors of the lock store: no answer, or not the expected one.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::chain::error_chain;
use super::problem::Problem;

/// Why a [`LockStore`](crate::LockStore) could not answer.
///
/// The message says what failed, with all causes, and what to do about it.
/// [`source`](StdError::source) returns the error that a store gave as the cause, for downcasting.
///
/// Stores that are not DynamoDB build theirs with [`unreachable`](Self::unreachable),
/// [`timeout`](Self::timeout), [`throttled`](Self::throttled), [`rejected`](Self::rejected) and
/// [`other`](Self::other).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the action on the table.
    #[non_exhaustive]
    AccessDenied {
        /// `dynamodb:PutItem` or `dynamodb:DeleteItem`; with [`admin`](crate::admin) also others.
        action: &'static str,
        /// What the service said.
        message: String,
    },
    /// There is no such table in this account and region.
    #[non_exhaustive]
    TableMissing {
        /// What the service said.
        message: String,
    },
    /// The table is not keyed by `pk`, or the request does not fit it for another reason.
    #[non_exhaustive]
    TableSchema {
        /// What the service said.
        message: String,
    },
    /// The AWS SDK found no usable credentials, or the service did not accept them.
    #[non_exhaustive]
    Credentials {
        /// What the SDK or the service said.
        message: String,
    },
    /// The AWS configuration cannot be used: for example, an endpoint that is not a URL. Nothing
    /// was sent.
    #[non_exhaustive]
    Misconfigured {
        /// What is wrong and what to do.
        message: Problem,
    },
    /// The AWS SDK found no region.
    NoRegion,
    /// No connection to the endpoint.
    #[non_exhaustive]
    Unreachable {
        /// `DynamoDB`, or what another store calls itself.
        service: Cow<'static, str>,
        /// The URL, or the service and region.
        endpoint: String,
        /// What failed.
        message: String,
        /// The cause, if a store gave one.
        source: Option<SharedError>,
    },
    /// The endpoint accepted the request but did not answer in time.
    #[non_exhaustive]
    Timeout {
        /// `DynamoDB`, or what another store calls itself.
        service: Cow<'static, str>,
        /// The URL, or the service and region.
        endpoint: String,
        /// How long we waited.
        after: Duration,
    },
    /// The table or the account is over its capacity.
    #[non_exhaustive]
    Throttled {
        /// `DynamoDB`, or what another store calls itself.
        service: Cow<'static, str>,
        /// What the service said.
        message: String,
        /// The cause, if a store gave one.
        source: Option<SharedError>,
    },
    /// Any other unexpected answer of DynamoDB.
    #[non_exhaustive]
    Service {
        /// HTTP status.
        status: u16,
        /// DynamoDB's error code, if the answer had one.
        code: Option<String>,
        /// What the service said.
        message: String,
    },
    /// The lock item lacks an attribute or holds a value that no lock client writes.
    #[non_exhaustive]
    MalformedItem {
        /// The attribute's name.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A store that is not DynamoDB refused the request; nothing was written.
    #[non_exhaustive]
    Rejected {
        /// Why.
        source: SharedError,
    },
    /// A store that is not DynamoDB failed; the request may have been applied.
    #[non_exhaustive]
    Other {
        /// How.
        source: SharedError,
    },
    /// The store's code panicked.
    #[non_exhaustive]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// What to allow where this action was refused: the lock needs both of its actions.
fn to_allow(action: &'static str) -> &'static str {
    match action {
        "dynamodb:PutItem" | "dynamodb:DeleteItem" => "dynamodb:PutItem and dynamodb:DeleteItem",
        other => other,
    }
}

/// A remedy for DynamoDB does not apply to another service.
fn for_dynamodb(service: &str, cause: String, remedy: &str) -> Problem {
    let problem = Problem::new(cause);
    match service {
        "DynamoDB" => problem.with_remedy(remedy),
        _ => problem,
    }
}

impl StoreError {
    /// What is wrong and what to do, separately.
    pub fn problem(&self) -> Problem {
        match self {
            Self::AccessDenied { action, message } => {
                Problem::new(format!("access denied to {action}: {message}"))
                    .with_remedy(format!("allow {} on the lock table", to_allow(action)))
            }
            Self::TableMissing { message } => {
                Problem::new(format!("the lock table does not exist: {message}"))
                    .with_remedy("create it, or check its name and AWS_REGION")
            }
            Self::TableSchema { message } => Problem::new(format!(
                "the lock table does not fit: {message}"
            ))
            .with_remedy("its primary key must be the string attribute `pk`, without a sort key"),
            Self::Credentials { message } => {
                Problem::new(format!("no valid AWS credentials: {message}")).with_remedy(
                    "give the function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            }
            Self::Misconfigured { message } => {
                message.within(format_args!("DynamoDB is misconfigured: "))
            }
            Self::NoRegion => {
                Problem::new("no AWS region is configured").with_remedy("set AWS_REGION")
            }
            Self::Unreachable {
                service,
                endpoint,
                message,
                ..
            } => for_dynamodb(
                service,
                format!("cannot reach {service} at {endpoint}: {message}"),
                "inside a VPC, add a gateway endpoint for DynamoDB to the function's subnets",
            ),
            Self::Timeout {
                service,
                endpoint,
                after,
            } => Problem::new(format!(
                "no answer from {service} at {endpoint} within {} ms",
                after.as_millis()
            ))
            .with_remedy(
                "if it stays so, look for what drops the packets: security groups, routes, a proxy",
            ),
            Self::Throttled {
                service, message, ..
            } => for_dynamodb(
                service,
                format!("{service} throttles requests to the lock table: {message}"),
                "use on-demand capacity",
            ),
            Self::Service {
                status,
                code,
                message,
            } => {
                let code = (code.as_deref()).map_or_else(String::new, |code| format!(" {code}"));
                Problem::new(format!("DynamoDB answered {status}{code}: {message}"))
            }
            Self::MalformedItem { attribute, problem } => Problem::new(format!(
                "the lock item's attribute `{attribute}` is malformed: {problem}"
            ))
            .with_remedy("if no writer is running, delete the item"),
            Self::Rejected { source } => Problem::new(format!(
                "the lock store refused the request: {}",
                error_chain(&**source)
            )),
            Self::Other { source } => {
                Problem::new(format!("the lock store failed: {}", error_chain(&**source)))
            }
            Self::Panicked { message } => {
                Problem::new(format!("the lock store panicked: {message}"))
            }
        }
    }

    /// What to do about it, where there is a remedy.
    pub fn remedy(&self) -> Option<String> {
        self.problem().remedy().map(str::to_owned)
    }
}

/// For implementors of [`LockStore`](crate::LockStore): an error of the right kind. A cause is an
/// error or a text.
///
/// ```
/// use std::error::Error;
/// use std::io;
/// use diesel_sqlite_efs::StoreError;
///
/// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
/// let error = StoreError::unreachable("PostgreSQL", "db.internal:5432", refused);
/// assert_eq!(error.to_string(), "cannot reach PostgreSQL at db.internal:5432: connection refused");
/// assert!(error.source().is_some_and(|cause| cause.is::<io::Error>()));
/// ```
impl StoreError {
    /// There is no connection to the service. Not retried, because it usually takes a person to
    /// fix; counts as a request that may have been applied.
    pub fn unreachable(
        service: impl Into<Cow<'static, str>>,
        endpoint: impl Into<String>,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let source = SharedError::from(cause.into());
        Self::Unreachable {
            service: service.into(),
            endpoint: endpoint.into(),
            message: error_chain(&*source),
            source: Some(source),
        }
    }

    /// The service did not answer in time. Retried; counts as a request that may have been applied.
    pub fn timeout(
        service: impl Into<Cow<'static, str>>,
        endpoint: impl Into<String>,
        after: Duration,
    ) -> Self {
        Self::Timeout {
            service: service.into(),
            endpoint: endpoint.into(),
            after,
        }
    }

    /// The service refused the request because it has too many. Retried; nothing was written.
    pub fn throttled(
        service: impl Into<Cow<'static, str>>,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let source = SharedError::from(cause.into());
        Self::Throttled {
            service: service.into(),
            message: error_chain(&*source),
            source: Some(source),
        }
    }

    /// The service refused the request for another reason. Not retried; nothing was written.
    pub fn rejected(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = cause.into().into();
        Self::Rejected { source }
    }

    /// Any other failure. Not retried; counts as a request that may have been applied, which is the
    /// safe assumption when this is not known.
    pub fn other(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = cause.into().into();
        Self::Other { source }
    }
}

impl StoreError {
    /// Whether the same request may succeed a moment later: throttling, a server error, a lost
    /// answer. False for what only a person can fix (permissions, table, credentials, an
    /// unreachable endpoint).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Timeout { .. } => true,
            Self::Service { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether the write may have been applied although no answer came.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Timeout { .. }
            | Self::Unreachable { .. }
            | Self::Other { .. }
            | Self::Panicked { .. } => true,
            // Only an explicit refusal proves that nothing was written; a success with an
            // unreadable body does not.
            Self::Service { status, .. } => !(400..500).contains(status),
            _ => false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem().fmt(f)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = match self {
            Self::Unreachable { source, .. } | Self::Throttled { source, .. } => source.as_ref()?,
            Self::Rejected { source } | Self::Other { source } => source,
            _ => return None,
        };
        Some(&**source)
    }
}

/// A cause shared by the clones of an error. Dereferences to the error.
#[derive(Clone)]
pub struct SharedError(Arc<dyn StdError + Send + Sync>);

impl From<Box<dyn StdError + Send + Sync>> for SharedError {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self(error.into())
    }
}

impl Deref for SharedError {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Causes are equal if their texts are.
impl PartialEq for SharedError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || error_chain(&**self) == error_chain(&**other)
    }
}

impl Eq for SharedError {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_cause_of_a_custom_store_can_be_downcast_and_is_in_the_text_once() {
        let cause = || io::Error::other("disk on fire");
        for error in [
            StoreError::unreachable("Files", "/mnt/locks", cause()),
            StoreError::throttled("Files", cause()),
            StoreError::rejected(cause()),
            StoreError::other(cause()),
        ] {
            let text = error.to_string();
            assert_eq!(text.matches("disk on fire").count(), 1, "{text}");
            assert!(!text.contains("DynamoDB"), "{text}");
            let source = error.source().expect("it was given");
            assert!(source.is::<io::Error>(), "{error:?}");
            assert_eq!(error.clone(), error);
        }
    }

    #[test]
    fn each_constructor_says_whether_to_try_again_and_whether_it_may_have_been_written() {
        let after = Duration::from_millis(5);
        for (error, transient, unknown) in [
            (StoreError::unreachable("X", "here", "no"), false, true),
            (StoreError::timeout("X", "here", after), true, true),
            (StoreError::throttled("X", "slow down"), true, false),
            (StoreError::rejected("no"), false, false),
            (StoreError::other("who knows"), false, true),
        ] {
            assert_eq!(error.is_transient(), transient, "{error}");
            assert_eq!(error.outcome_unknown(), unknown, "{error}");
        }
    }

    #[test]
    fn advice_about_dynamodb_is_for_dynamodb() {
        let ours = StoreError::throttled("DynamoDB", "slow down").to_string();
        assert_eq!(
            ours,
            "DynamoDB throttles requests to the lock table: slow down; use on-demand capacity"
        );
        let other = StoreError::throttled("etcd", "slow down").to_string();
        assert_eq!(
            other,
            "etcd throttles requests to the lock table: slow down"
        );
    }
}
