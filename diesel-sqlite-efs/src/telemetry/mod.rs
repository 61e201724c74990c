//! What the lock does, for those who watch it: events and spans for `tracing`, and counters.

pub(crate) mod events;
pub(crate) mod stats;
