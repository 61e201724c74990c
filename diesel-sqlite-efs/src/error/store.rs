//! The store does not answer, or not with what was asked for.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::Problem;

/// Why a [`LockStore`](crate::LockStore) could not answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the action on the table.
    AccessDenied {
        /// `dynamodb:PutItem` or `dynamodb:DeleteItem`; of [`admin`](crate::admin) also others.
        action: &'static str,
        /// What the service said.
        message: String,
    },
    /// There is no such table in this account and region.
    TableMissing {
        /// What the service said.
        message: String,
    },
    /// The table is not keyed by `pk`, or the request does not fit it for another reason.
    TableSchema {
        /// What the service said.
        message: String,
    },
    /// The AWS SDK found no usable credentials, or the service did not accept them.
    Credentials {
        /// What the SDK or the service said.
        message: String,
    },
    /// The AWS configuration cannot be used: an endpoint that is not a URL, for one. Nothing was
    /// sent.
    Misconfigured {
        /// What is wrong and what to do.
        message: Problem,
    },
    /// The AWS SDK found no region.
    NoRegion,
    /// No connection to the endpoint.
    Unreachable {
        /// The URL, or the service and region.
        endpoint: String,
        /// What failed.
        message: String,
    },
    /// The endpoint accepted the request but did not answer in time.
    Timeout {
        /// The URL, or the service and region.
        endpoint: String,
        /// How long we waited.
        after: Duration,
    },
    /// The table or the account is over its capacity.
    Throttled {
        /// What the service said.
        message: String,
    },
    /// Any other answer that is not the one we need.
    Service {
        /// HTTP status.
        status: u16,
        /// DynamoDB's error code, if the answer had one.
        code: Option<String>,
        /// What the service said.
        message: String,
    },
    /// The lock item lacks an attribute or holds a value that no lock client writes.
    MalformedItem {
        /// The attribute's name.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store's code panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// What has to be allowed where this action was refused: the lock needs both of its two.
fn to_allow(action: &'static str) -> &'static str {
    match action {
        "dynamodb:PutItem" | "dynamodb:DeleteItem" => "dynamodb:PutItem and dynamodb:DeleteItem",
        other => other,
    }
}

impl StoreError {
    /// What is wrong and what to do, apart.
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
            Self::Unreachable { endpoint, message } => {
                Problem::new(format!("cannot reach DynamoDB at {endpoint}: {message}")).with_remedy(
                    "inside a VPC, add a gateway endpoint for DynamoDB to the function's subnets",
                )
            }
            Self::Timeout { endpoint, after } => Problem::new(format!(
                "no answer from DynamoDB at {endpoint} within {} ms",
                after.as_millis()
            ))
            .with_remedy(
                "if it stays so, look for what drops the packets: security groups, routes, a proxy",
            ),
            Self::Throttled { message } => Problem::new(format!(
                "DynamoDB throttles requests to the lock table: {message}"
            ))
            .with_remedy("use on-demand capacity"),
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
            Self::Panicked { message } => {
                Problem::new(format!("the lock store panicked: {message}"))
            }
        }
    }

    /// What to do about it, where there is a remedy.
    pub fn remedy(&self) -> Option<String> {
        self.problem().remedy().map(str::to_owned)
    }

    /// Whether the same request may well succeed a moment later: throttling, a server error, a
    /// lost answer. False for what only a person can fix (permissions, table, credentials, an
    /// endpoint that no connection reaches).
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
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Panicked { .. } => true,
            // Only the service's own "no" says that nothing was written; a success whose body
            // nobody understands does not.
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

impl Error for StoreError {}
