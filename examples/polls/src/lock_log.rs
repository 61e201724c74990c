//! What the write lock has done lately, for the portal's page.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where the crate's events of the lock come from.
const TARGET: &str = "diesel_sqlite_efs::lock";
/// So many of them are kept.
const KEPT: usize = 40;

/// The last events of the lock in this process. Cloning it is cheap.
///
/// It knows what its [`layer`](Self::layer) sees; without one the page shows none.
#[derive(Debug, Clone, Default)]
pub struct LockLog(Arc<Mutex<VecDeque<LockEvent>>>);

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct LockEvent {
    at: SystemTime,
    /// `lock.acquired`, for one; the crate's page on observability lists them.
    pub(crate) name: &'static str,
    /// The fields, but for those that are the same in all.
    pub(crate) told: String,
}

impl LockEvent {
    /// The time of day, UTC, to the millisecond.
    pub(crate) fn time(&self) -> String {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let second = since.as_secs() % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!(
            "{hour:02}:{minute:02}:{second:02}.{:03}",
            since.subsec_millis()
        )
    }
}

impl LockLog {
    /// A layer for a subscriber, which takes down the events of the lock and nothing else.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        Recorder(self.clone()).with_filter(Targets::new().with_target(TARGET, Level::DEBUG))
    }

    /// The newest first.
    pub(crate) fn events(&self) -> Vec<LockEvent> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().rev().cloned().collect()
    }
}

struct Recorder(LockLog);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let mut events = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(LockEvent {
            at: SystemTime::now(),
            name: event.metadata().name(),
            told: told.0,
        });
    }
}

/// The fields as text.
#[derive(Default)]
struct Told(String);

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The key and our own name are in the page's head, the message is the event's name.
        if ["key", "holder", "message"].contains(&field.name()) {
            return;
        }
        let gap = if self.0.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = match field.name().strip_suffix("_ms") {
            Some(name) => write!(self.0, "{gap}{name} {value:?} ms"),
            None => write!(self.0, "{gap}{} {value:?}", field.name().replace('_', " ")),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use diesel_sqlite_efs::{InMemoryLockStore, LockClient};
    use tracing::subscriber::NoSubscriber;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn a_lease_leaves_its_events_the_newest_first() -> Result<(), Box<dyn std::error::Error>> {
        let log = LockLog::default();
        // As long as there is one subscriber, whichever test comes to an event first decides for all
        // threads whether anybody wants it, by its own thread's subscriber, which is none.
        let _second = tracing::Dispatch::new(NoSubscriber::new());
        let subscriber = tracing_subscriber::registry().with(log.layer());
        let _default = tracing::subscriber::set_default(subscriber);
        let store = Arc::new(InMemoryLockStore::new());
        let client = LockClient::builder().lock_store(store).build()?;
        client.acquire("page", Duration::ZERO)?.release()?;
        tracing::info!("something else");
        let events = log.events();
        let names: Vec<_> = events.iter().map(|event| event.name).collect();
        assert_eq!(names, ["lock.released", "lock.acquired"]);
        assert!(events[1].told.contains("waited"), "{events:?}");
        Ok(())
    }
}
