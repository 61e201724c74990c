//! Lock events for `tracing`; nothing at all without the feature.
//!
//! All have the target `diesel_sqlite_efs::lock` and the fields `key` and `holder`; none holds SQL
//! or values.

use std::time::Duration;

use crate::error::HolderInfo;

/// Who speaks: the key that is locked and the name under which we hold it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker<'a> {
    pub(crate) key: &'a str,
    pub(crate) holder: &'a str,
}

macro_rules! event {
    ($level:ident, $name:literal, $speaker:expr $(, $field:ident = $value:expr)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(
            name: $name,
            target: "diesel_sqlite_efs::lock",
            tracing::Level::$level,
            key = $speaker.key,
            holder = $speaker.holder,
            $($field = $value,)*
            $name
        );
        #[cfg(not(feature = "tracing"))]
        let _ = ($speaker.key, $speaker.holder, $(&$value,)*);
    };
}

#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Speaker<'_> {
    pub(crate) fn waiting(self, attempt: u32, held_by: Option<&HolderInfo>) {
        let held_by = held_by.map(ToString::to_string);
        event!(
            DEBUG,
            "lock.waiting",
            self,
            attempt = attempt,
            held_by = held_by.as_deref()
        );
    }

    pub(crate) fn acquired(self, attempt: u32, waited: Duration) {
        event!(
            DEBUG,
            "lock.acquired",
            self,
            attempt = attempt,
            waited_ms = millis(waited)
        );
    }

    pub(crate) fn taken_over(self, from: &HolderInfo) {
        event!(
            WARN,
            "lock.taken_over",
            self,
            from = from.to_string().as_str()
        );
    }

    pub(crate) fn renewed(self, held: Duration) {
        event!(DEBUG, "lock.renewed", self, held_ms = millis(held));
    }

    pub(crate) fn confirmed(self, took: Duration) {
        event!(DEBUG, "lock.confirmed", self, took_ms = millis(took));
    }

    pub(crate) fn released(self, held: Duration) {
        event!(DEBUG, "lock.released", self, held_ms = millis(held));
    }

    pub(crate) fn lost(self, held: Duration, reason: &str) {
        event!(
            WARN,
            "lock.lost",
            self,
            held_ms = millis(held),
            reason = reason
        );
    }

    pub(crate) fn release_failed(self, error: &str) {
        event!(WARN, "lock.release_failed", self, error = error);
    }

    /// `retrying_transaction` runs its closure again; `attempt` counts from 1, the first run.
    pub(crate) fn transaction_retried(self, attempt: u32, pause: Duration, error: &str) {
        event!(
            DEBUG,
            "transaction.retried",
            self,
            attempt = attempt,
            pause_ms = millis(pause),
            error = error
        );
    }

    /// `retrying_transaction` returns an error that it would have retried, had there been time.
    ///
    /// `since_first_failure_ms` is what it has spent on repeats.
    pub(crate) fn transaction_gave_up(self, attempts: u32, repeating: Duration, error: &str) {
        event!(
            WARN,
            "transaction.gave_up",
            self,
            attempts = attempts,
            since_first_failure_ms = millis(repeating),
            error = error
        );
    }

    pub(crate) fn renewal_failed(self, error: &str) {
        event!(WARN, "lock.renewal_failed", self, error = error);
    }
}
