//! The store does not answer, or not with what was asked for.

use std::time::Duration;

use thiserror::Error;

/// Why a [`LockStore`](crate::LockStore) could not answer.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the action on the table.
    #[error(
        "access denied to {action}: {message}; allow {} on the lock table",
        to_allow(action)
    )]
    AccessDenied {
        /// `dynamodb:PutItem` or `dynamodb:DeleteItem`; of the program `efs-sqlite` also others.
        action: &'static str,
        /// What the service said.
        message: String,
    },
    /// There is no such table in this account and region.
    #[error(
        "the lock table does not exist: {message}; create it, or check its name and AWS_REGION"
    )]
    TableMissing {
        /// What the service said.
        message: String,
    },
    /// The table is not keyed by `pk`, or the request does not fit it for another reason.
    #[error(
        "the lock table does not fit: {message}; its primary key must be the string attribute `pk`, without a sort key"
    )]
    TableSchema {
        /// What the service said.
        message: String,
    },
    /// The AWS SDK found no usable credentials, or the service did not accept them.
    #[error(
        "no valid AWS credentials: {message}; give the function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials {
        /// What the SDK or the service said.
        message: String,
    },
    /// The AWS configuration cannot be used: an endpoint that is not a URL, for one. Nothing was
    /// sent.
    #[error("DynamoDB is misconfigured: {message}")]
    Misconfigured {
        /// What is wrong and what to do.
        message: String,
    },
    /// The AWS SDK found no region.
    #[error("no AWS region is configured; set AWS_REGION")]
    NoRegion,
    /// No connection to the endpoint.
    #[error(
        "cannot reach DynamoDB at {endpoint}: {message}; inside a VPC, add a gateway endpoint for DynamoDB to the function's subnets"
    )]
    Unreachable {
        /// The URL, or the service and region.
        endpoint: String,
        /// What failed.
        message: String,
    },
    /// The endpoint accepted the request but did not answer in time.
    #[error(
        "no answer from DynamoDB at {endpoint} within {} ms; if it stays so, look for what drops the packets: security groups, routes, a proxy",
        after.as_millis()
    )]
    Timeout {
        /// The URL, or the service and region.
        endpoint: String,
        /// How long we waited.
        after: Duration,
    },
    /// The table or the account is over its capacity.
    #[error("DynamoDB throttles requests to the lock table: {message}; use on-demand capacity")]
    Throttled {
        /// What the service said.
        message: String,
    },
    /// Any other answer that is not the one we need.
    #[error("DynamoDB answered {status}{}: {message}", code.as_deref().map(|c| format!(" {c}")).unwrap_or_default())]
    Service {
        /// HTTP status.
        status: u16,
        /// DynamoDB's error code, if the answer had one.
        code: Option<String>,
        /// What the service said.
        message: String,
    },
    /// The lock item lacks an attribute or holds a value that no lock client writes.
    #[error(
        "the lock item's attribute `{attribute}` is malformed: {problem}; if no writer is running, delete the item"
    )]
    MalformedItem {
        /// The attribute's name.
        attribute: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store's code panicked.
    #[error("the lock store panicked: {message}")]
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
    /// Whether the same request may well succeed a moment later: throttling, a server error, a
    /// lost answer. False for what only a person can mend (permissions, table, credentials, an
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
