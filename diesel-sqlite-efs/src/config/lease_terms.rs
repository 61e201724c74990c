//! How long leases last and how long they may be held: shared by `EfsConfig` and
//! `LockClientBuilder`.

use std::time::Duration;

use super::names::{LOCK_EXPIRATION, LOCK_HOLDER, LOCK_MAX_HOLD};
use super::sources::Sources;
use crate::error::ConfigError;

/// How long a crashed writer costs the others, so as short as what else it has to bear allows: three
/// renewal periods of more than a second, which is what one request may take, so that one renewal
/// may fail; less the safety margin.
pub(super) const DEFAULT_EXPIRATION: Duration = Duration::from_secs(5);
const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(900);

/// How leases are acquired and held; the same for all leases of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// How long a lease lasts unless it is renewed.
    pub(crate) expiration: Duration,
    /// How long a lease may be held by renewal; not less than `expiration`, or zero: never renewed.
    pub(crate) max_hold: Duration,
    /// The display name written into the item.
    pub(crate) holder: String,
}

impl LeaseTerms {
    /// The time by which a holder stops before its item says so: by the store's clock at the latest
    /// that its answers allow.
    ///
    /// It covers clocks that run at different speeds for as long as a lease lasts, and takers of the
    /// Python package, which go by their own host's clock.
    pub(crate) fn safety_margin(&self) -> Duration {
        const MOST: Duration = Duration::from_secs(2);
        (self.expiration / 4).min(MOST.max(self.expiration / 1_000))
    }

    /// When a renewal is due, counted from the last grant: after a third of the lease, so that one
    /// renewal may fail, but no earlier than the duration of a slow request.
    pub(crate) fn renewal_period(&self) -> Duration {
        const SLOW_REQUEST: Duration = Duration::from_secs(1);
        (self.expiration / 3).max(SLOW_REQUEST)
    }
}

/// Those of the terms that were set by methods.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenTerms {
    pub(crate) expiration: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) holder: Option<String>,
}

impl GivenTerms {
    /// The terms of a lock client, which has no settings from a URL or the environment.
    ///
    /// # Errors
    /// `InvalidValue`, as for [`EfsConfig`](super::EfsConfig).
    pub(crate) fn resolve_for_client(&self) -> Result<LeaseTerms, ConfigError> {
        self.resolve(&Sources::of_a_client(std::env::vars_os()))
    }

    pub(super) fn resolve(&self, sources: &Sources<'_>) -> Result<LeaseTerms, ConfigError> {
        let expiration = (sources.first(&LOCK_EXPIRATION, self.expiration.as_ref())?)
            .unwrap_or(DEFAULT_EXPIRATION);
        Ok(LeaseTerms {
            expiration,
            max_hold: self.max_hold(sources, expiration)?,
            holder: (sources.first(&LOCK_HOLDER, self.holder.as_ref())?)
                .unwrap_or_else(|| default_holder(sources)),
        })
    }

    fn max_hold(
        &self,
        sources: &Sources<'_>,
        expiration: Duration,
    ) -> Result<Duration, ConfigError> {
        match sources.first_placed(&LOCK_MAX_HOLD, self.max_hold.as_ref())? {
            Some((max_hold, place)) if max_hold < expiration => Err(LOCK_MAX_HOLD.invalid(
                place,
                max_hold.as_secs_f64().to_string(),
                format!(
                    "it is shorter than the lease of {} s; {}",
                    expiration.as_secs_f64(),
                    LOCK_MAX_HOLD.valid
                ),
            )),
            Some((max_hold, _)) => Ok(max_hold),
            None => Ok(DEFAULT_MAX_HOLD.max(expiration)),
        }
    }
}

pub(super) fn default_holder(sources: &Sources<'_>) -> String {
    let variable = |name| sources.variable(name).map(|value| value.to_string_lossy());
    if let Some(function) = variable("AWS_LAMBDA_FUNCTION_NAME") {
        let sandbox = variable("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_default();
        return format!("{function} {sandbox}").trim_end().to_owned();
    }
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{host} process {}", std::process::id())
}
