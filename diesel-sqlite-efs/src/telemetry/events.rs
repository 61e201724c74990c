//! Events and spans for `tracing`; nothing at all without the feature.
//!
//! docs/observability.md lists them all, with their levels and fields. Names and fields are stable.
//! None contains SQL or values.

use std::time::Duration;

use crate::error::HolderInfo;

/// The events about one lock: which key it is, and the name under which we hold it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events<'a> {
    pub(crate) key: &'a str,
    pub(crate) holder: &'a str,
}

macro_rules! event {
    ($level:ident, $name:literal, $events:expr $(, $field:ident = $value:expr)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(
            name: $name,
            target: "diesel_sqlite_efs::lock",
            tracing::Level::$level,
            key = $events.key,
            holder = $events.holder,
            $($field = $value,)*
            $name
        );
        #[cfg(not(feature = "tracing"))]
        let _ = ($events.key, $events.holder, $(&$value,)*);
    };
}

macro_rules! span {
    ($name:literal, $parent:expr, $events:expr) => {{
        #[cfg(feature = "tracing")]
        let span = LockSpan(tracing::span!(
            target: "diesel_sqlite_efs::lock",
            parent: &$parent.0,
            tracing::Level::DEBUG,
            $name,
            key = $events.key,
            holder = $events.holder
        ));
        #[cfg(not(feature = "tracing"))]
        let span = {
            let _ = ($parent, $events.key, $events.holder);
            LockSpan()
        };
        span
    }};
}

/// A span of `tracing`; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct LockSpan(#[cfg(feature = "tracing")] tracing::Span);

impl LockSpan {
    /// The span that the caller is in.
    pub(crate) fn current() -> Self {
        Self(
            #[cfg(feature = "tracing")]
            tracing::Span::current(),
        )
    }

    /// The events of `f` belong to this span.
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.0.enter();
        f()
    }
}

#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Events<'_> {
    /// While an acquisition waits.
    pub(crate) fn wait_span(self, parent: &LockSpan) -> LockSpan {
        span!("lock.wait", parent, self)
    }

    /// From a lease's grant to the end of its release.
    pub(crate) fn held_span(self, parent: &LockSpan) -> LockSpan {
        span!("lock.held", parent, self)
    }

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

    /// Another transaction of this process has the lease now.
    pub(crate) fn handed_off(self, held: Duration) {
        event!(DEBUG, "lock.handed_off", self, held_ms = millis(held));
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

    /// `retrying_transaction` returns an error that it would have retried if there had been time.
    ///
    /// `since_first_failure_ms` is the time spent on repeats.
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

    /// Migrations wait for the lock, most likely for who is at the same ones.
    #[cfg(feature = "migrations")]
    pub(crate) fn migration_waiting(self, waited: Duration, held_by: Option<&HolderInfo>) {
        let held_by = held_by.map(ToString::to_string);
        #[cfg(feature = "tracing")]
        tracing::event!(
            name: "migration.waiting",
            target: "diesel_sqlite_efs::migration",
            tracing::Level::INFO,
            key = self.key,
            holder = self.holder,
            waited_ms = millis(waited),
            held_by = held_by.as_deref(),
            "migration.waiting"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = (self, waited, held_by);
    }

    pub(crate) fn renewal_failed(self, error: &str) {
        event!(WARN, "lock.renewal_failed", self, error = error);
    }
}

/// The events about one migration: the key that is locked, if any, and the migration's name.
#[cfg(feature = "migrations")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MigrationEvents<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) migration: &'a str,
    /// `up` or `down`.
    pub(crate) direction: &'static str,
}

#[cfg(feature = "migrations")]
macro_rules! migration_event {
    ($level:ident, $name:literal, $events:expr $(, $field:ident = $value:expr)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(
            name: $name,
            target: "diesel_sqlite_efs::migration",
            tracing::Level::$level,
            key = $events.key,
            migration = $events.migration,
            direction = $events.direction,
            $($field = $value,)*
            $name
        );
        #[cfg(not(feature = "tracing"))]
        let _ = ($events.key, $events.migration, $events.direction, $(&$value,)*);
    };
}

#[cfg(feature = "migrations")]
impl MigrationEvents<'_> {
    pub(crate) fn started(self) {
        migration_event!(INFO, "migration.started", self);
    }

    pub(crate) fn applied(self, took: Duration) {
        migration_event!(INFO, "migration.applied", self, took_ms = millis(took));
    }

    pub(crate) fn reverted(self, took: Duration) {
        migration_event!(INFO, "migration.reverted", self, took_ms = millis(took));
    }

    /// The reason is only in the error that the caller gets: it may quote SQL.
    pub(crate) fn failed(self, took: Duration) {
        migration_event!(ERROR, "migration.failed", self, took_ms = millis(took));
    }
}
