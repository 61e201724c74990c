//! Observability of the lock: events and spans for `tracing`, and counters.

pub(crate) mod events;
pub(crate) mod stats;
