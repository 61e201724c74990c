//! Lock events reach `tracing`, with holder, key, attempt and duration, and never with SQL values.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use diesel::prelude::*;
use diesel_sqlite_efs::{Clock, EfsConfig, EfsSqliteConnection, InMemoryLockStore, Moment};
use integration::scratch::Scratch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

type TestResult = Result<(), Box<dyn Error>>;

/// An event's fields by name, its own name under `event`.
pub(crate) type Fields = BTreeMap<String, String>;

/// Keeps the lock events of all tests; each looks for those with its own key.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Fields>>);

struct Shared(&'static Recorder);

impl Subscriber for Shared {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("diesel_sqlite_efs")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Collect(Fields);
        impl Visit for Collect {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name().to_owned(), value.to_owned());
            }
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.insert(field.name().to_owned(), format!("{value:?}"));
            }
        }
        let name = event.metadata().name().to_owned();
        let mut fields = Collect(Fields::from([("event".to_owned(), name)]));
        event.record(&mut fields);
        let mut events = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(fields.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The events so far with this key, in order.
pub(crate) fn events_of(key: &str) -> Vec<Fields> {
    let events = recorder().0.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |event: &&Fields| event.get("key").is_some_and(|of| of == key);
    events.iter().filter(is_ours).cloned().collect()
}

pub(crate) fn recorder() -> &'static Recorder {
    static RECORDER: OnceLock<&Recorder> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = Box::leak(Box::default());
        tracing::subscriber::set_global_default(Shared(recorder)).expect("the only subscriber");
        recorder
    })
}

fn names(events: &[Fields]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str()).collect()
}

fn clock() -> Clock {
    Clock::manual(Moment {
        monotonic: Duration::from_secs(1_000),
        wall: Duration::from_secs(1_800_000_000),
    })
}

#[test]
fn a_write_is_seen_from_the_lease_to_its_release_without_its_values() -> TestResult {
    recorder();
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database())
        .lock_store(Arc::new(InMemoryLockStore::new()))
        .lock_key("events-of-a-write")
        .lock_holder("the writer");
    let mut conn = EfsSqliteConnection::connect(&config)?;
    diesel::sql_query("CREATE TABLE t (v TEXT)").execute(&mut conn)?;
    let before = events_of("events-of-a-write").len();
    diesel::sql_query("INSERT INTO t VALUES ('a secret')").execute(&mut conn)?;

    let events = &events_of("events-of-a-write")[before..];
    assert_eq!(
        names(events),
        ["lock.acquired", "lock.confirmed", "lock.released"]
    );
    for (event, duration) in events.iter().zip(["waited_ms", "took_ms", "held_ms"]) {
        assert_eq!(event["holder"], "the writer");
        event[duration].parse::<u64>()?;
        assert!(
            event.values().all(|value| !value.contains("secret")),
            "{event:?}"
        );
    }
    assert_eq!(events[0]["attempt"], "1");
    Ok(())
}

#[test]
fn waiting_taking_over_and_losing_are_told_with_who_held_it() -> TestResult {
    recorder();
    let (clock, key) = (clock(), "events-of-a-takeover");
    let store = Arc::new(InMemoryLockStore::with_clock(clock.clone()));
    let client = |holder: &str, store: &Arc<InMemoryLockStore>| {
        diesel_sqlite_efs::DynamoDbLockClient::with_store(store.clone())
            .holder(holder)
            .clock(clock.clone())
    };
    let lost = client("the first", &store).acquire(key, Duration::ZERO)?;
    // In the same process the second waits in line; what it waits for is not asked of the store.
    let second = client("the second", &store);
    assert!(second.acquire(key, Duration::from_millis(1)).is_err());
    clock.advance(Duration::from_secs(60));
    assert!(!lost.is_valid());
    // Still in line behind the first, which has not let go.
    drop(lost.release());
    let item = diesel_sqlite_efs::SeenItem {
        lock_id: "somebody".to_owned(),
        expires_at: "1799999999".to_owned(),
        holder: Some("the python package".to_owned()),
        acquired_at: None,
        committed: None,
    };
    store.set_item(key, Some(item));
    second.acquire(key, Duration::ZERO)?.release()?;

    let events = events_of(key);
    assert_eq!(
        names(&events),
        [
            "lock.acquired",
            "lock.waiting",
            "lock.lost",
            "lock.released",
            "lock.taken_over",
            "lock.acquired",
            "lock.released",
        ]
    );
    assert_eq!(events[1]["holder"], "the second");
    assert!(
        events[2]["reason"].contains("not renewed in time"),
        "{:?}",
        events[2]
    );
    assert!(
        events[4]["from"].contains("the python package"),
        "{:?}",
        events[4]
    );
    Ok(())
}
