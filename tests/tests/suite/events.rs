//! Events and spans reach `tracing` as docs/observability.md lists them, and never with SQL values.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use diesel_sqlite_efs::testing::{Delete, Hook, HookedStore, Put};
use diesel_sqlite_efs::{
    DeleteAnswer, EfsConfig, EfsSqliteConnection, InMemoryLockStore, Lease, LockClient, LockError,
    ManualClock, PutAnswer, StoreError, StoredItem, Timestamp,
};
use integration::process::wait_until;
use integration::scratch::Scratch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::fixtures::workers::LONG;

type TestResult = Result<(), Box<dyn Error + Send + Sync>>;

/// An event's or a span's fields by name; its own name is under `event`, and its target, its level
/// and the span that it belongs to under `.target`, `.level` and `.span`.
pub(crate) type Fields = BTreeMap<String, String>;

/// Keeps the events and spans of all tests; each looks for those with its own key.
#[derive(Default)]
pub(crate) struct Recorder {
    events: Mutex<Vec<Fields>>,
    spans: Mutex<Vec<(&'static Metadata<'static>, Fields)>>,
}

struct Shared(&'static Recorder);

thread_local! {
    /// The spans that this thread is in.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Recorder {
    fn spans(&self) -> MutexGuard<'_, Vec<(&'static Metadata<'static>, Fields)>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a span of this crate's.
    fn span_name(&self, id: u64) -> Option<String> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        let spans = self.spans();
        let (metadata, _) = spans.get(at)?;
        Some(metadata.name().to_owned())
    }

    /// What is common to events and spans.
    fn collect(&self, metadata: &Metadata<'_>, parent: Option<u64>) -> Collect {
        let mut fields = Fields::new();
        fields.insert("event".to_owned(), metadata.name().to_owned());
        fields.insert(".target".to_owned(), metadata.target().to_owned());
        fields.insert(".level".to_owned(), metadata.level().to_string());
        if let Some(parent) = parent.and_then(|id| self.span_name(id)) {
            fields.insert(".span".to_owned(), parent);
        }
        Collect(fields)
    }
}

struct Collect(Fields);

impl Visit for Collect {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Shared {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("diesel_sqlite_efs") || metadata.target() == CALLER
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let parent = match (span.parent(), span.is_contextual()) {
            (Some(parent), _) => Some(parent.into_u64()),
            (None, true) => entered(),
            (None, false) => None,
        };
        let mut fields = self.0.collect(span.metadata(), parent);
        span.record(&mut fields);
        let mut spans = self.0.spans();
        spans.push((span.metadata(), fields.0));
        Id::from_u64(spans.len() as u64)
    }
    fn current_span(&self) -> Current {
        let Some(id) = entered() else {
            return Current::none();
        };
        let metadata = self.0.spans()[id as usize - 1].0;
        Current::new(Id::from_u64(id), metadata)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = self.0.collect(event.metadata(), entered());
        event.record(&mut fields);
        let mut events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(fields.0);
    }
    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }
    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            let at = entered.iter().rposition(|id| *id == span.into_u64());
            entered.remove(at.expect("a span that was entered"));
        });
    }
}

/// The target of the spans that tests open around what they do.
const CALLER: &str = "caller";

fn entered() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

/// The events so far with this key, in order.
pub(crate) fn events_of(key: &str) -> Vec<Fields> {
    let events = (recorder().events.lock()).unwrap_or_else(PoisonError::into_inner);
    with_key(&events, key)
}

/// The spans so far with this key, in order.
fn spans_of(key: &str) -> Vec<Fields> {
    let spans: Vec<_> = (recorder().spans().iter())
        .map(|(_, fields)| fields.clone())
        .collect();
    with_key(&spans, key)
}

fn with_key(told: &[Fields], key: &str) -> Vec<Fields> {
    let is_ours = |told: &&Fields| told.get("key").is_some_and(|of| of == key);
    told.iter().filter(is_ours).cloned().collect()
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

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::new(
        Duration::from_secs(1_000),
        Duration::from_secs(1_800_000_000),
    ))
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

/// Asks about a lease whenever it hears of it.
struct Asking {
    lease: Arc<OnceLock<Arc<Lease>>>,
    heard: mpsc::Sender<String>,
}

impl Subscriber for Asking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "diesel_sqlite_efs::lock"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if let Some(lease) = self.lease.get() {
            let valid = if lease.is_valid() { "valid" } else { "over" };
            let renewed = lease.renew().is_ok();
            let name = event.metadata().name();
            // The test may have heard enough.
            let _ = self.heard.send(format!("{name}: {valid}, {renewed}"));
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn who_hears_of_a_lease_may_ask_about_it_and_renew_it() {
    recorder();
    let (heard, hears) = mpsc::channel();
    // On a thread of its own: one that waits for itself does so for ever.
    thread::spawn(move || {
        let clock = clock();
        let slot = Arc::new(OnceLock::new());
        let lease = slot.clone();
        let asking = Asking { lease, heard };
        tracing::subscriber::with_default(asking, || {
            let client = LockClient::builder()
                .lock_store(Arc::new(InMemoryLockStore::with_clock(clock.clock())))
                .without_renewal()
                .clock(clock.clock())
                .build()
                .expect("a client");
            let lease = client.try_acquire("events-that-ask").expect("an answer");
            let lease = Arc::new(lease.expect("it is free"));
            slot.set(lease.clone()).expect("once");
            lease.renew().expect("a renewal");
            clock.advance(Duration::from_secs(60));
            assert!(!lease.is_valid());
        });
    });
    let heard: Vec<_> = (0..2)
        .map(|_| {
            hears
                .recv_timeout(LONG)
                .expect("it does not wait for itself")
        })
        .collect();
    assert_eq!(
        heard,
        ["lock.renewed: valid, true", "lock.lost: over, false"]
    );
}

#[test]
fn waiting_taking_over_and_losing_are_told_with_who_held_it() -> TestResult {
    recorder();
    let (clock, key) = (clock(), "events-of-a-takeover");
    let store = Arc::new(InMemoryLockStore::with_clock(clock.clock()));
    let client = |holder: &str, store: &Arc<InMemoryLockStore>| {
        LockClient::builder()
            .lock_store(store.clone())
            .lock_holder(holder)
            .clock(clock.clock())
            .build()
            .expect("a client")
    };
    let lost = client("the first", &store).acquire(key, Duration::ZERO)?;
    // In the same process the second waits in line; what it waits for is not asked of the store.
    let second = client("the second", &store);
    assert!(second.acquire(key, Duration::from_millis(1)).is_err());
    clock.advance(Duration::from_secs(60));
    assert!(!lost.is_valid());
    // Still in line behind the first, which has not let go.
    drop(lost.release());
    let item = diesel_sqlite_efs::StoredItem::new("somebody", "1799999999")
        .with_holder("the python package");
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

/// What the page lists for one event or span.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    target: String,
    level: String,
    required: BTreeSet<String>,
    optional: BTreeSet<String>,
}

/// The rows of the table below a heading of docs/observability.md, by their first column.
fn listed(heading: &str) -> BTreeMap<String, Listed> {
    const PAGE: &str = include_str!("../../../docs/observability.md");
    let section = PAGE
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .expect("the section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        let mut listed = Listed {
            target: columns[2].trim_matches('`').to_owned(),
            level: columns[3].to_owned(),
            required: BTreeSet::new(),
            optional: BTreeSet::new(),
        };
        for field in columns[4].split(' ') {
            match field.strip_suffix('?') {
                Some(field) => listed.optional.insert(field.trim_matches('`').to_owned()),
                None => listed.required.insert(field.trim_matches('`').to_owned()),
            };
        }
        (columns[1].trim_matches('`').to_owned(), listed)
    })
    .collect()
}

/// That what was told stands on the page, with target, level and fields, and that all that stands
/// there was told.
#[track_caller]
fn assert_as_listed(told: &[Fields], heading: &str) {
    let page = listed(heading);
    for fields in told {
        let name = &fields["event"];
        let listed = (page.get(name)).unwrap_or_else(|| panic!("{name} is not on the page"));
        assert_eq!(
            (&fields[".target"], &fields[".level"]),
            (&listed.target, &listed.level),
            "{name}"
        );
        let own =
            |field: &&String| !field.starts_with('.') && *field != "event" && *field != "message";
        let found: BTreeSet<String> = fields.keys().filter(own).cloned().collect();
        assert!(found.is_superset(&listed.required), "{name}: {found:?}");
        let known: BTreeSet<_> = listed.required.union(&listed.optional).cloned().collect();
        assert!(found.is_subset(&known), "{name}: {found:?}");
    }
    let told: BTreeSet<_> = told.iter().map(|fields| fields["event"].clone()).collect();
    let on_the_page: BTreeSet<_> = page.into_keys().collect();
    assert_eq!(told, on_the_page);
}

/// A lock table that can be made to fail.
#[derive(Default)]
struct Failing {
    fails: AtomicBool,
}

impl Failing {
    fn check(&self) -> Result<(), StoreError> {
        match self.fails.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::timeout(
                "test",
                "nowhere",
                Duration::from_millis(1),
            )),
        }
    }
}

impl Hook for Failing {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self.check()?;
        put.pass_on()
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        self.check()?;
        delete.pass_on()
    }
}

#[test]
fn the_page_lists_every_event_and_span_and_no_other() -> TestResult {
    const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");
    recorder();
    let key = "events-on-the-page";
    let store = HookedStore::new(Arc::default(), Failing::default());
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database())
        .lock_store(store.clone())
        .lock_key(key);
    let mut conn = EfsSqliteConnection::connect(&config)?;
    conn.run_migrations(MIGRATIONS)?;
    conn.revert_migrations(MIGRATIONS, 1)?;
    diesel::sql_query("CREATE TABLE counter (n INTEGER)").execute(&mut conn)?;
    assert!(conn.run_migrations(MIGRATIONS).is_err(), "the table exists");
    let ends = (SystemTime::now().duration_since(UNIX_EPOCH)? + LONG).as_secs();
    let others = StoredItem::new("somebody", ends.to_string());
    store.table.set_item(key, Some(others));
    let hasty = config.lock_migration_timeout(Duration::from_millis(1));
    let mut conn = EfsSqliteConnection::connect(&hasty)?;
    assert!(conn.run_migrations(MIGRATIONS).is_err(), "it is held");

    let client = LockClient::builder().lock_store(store.clone()).build()?;
    let expired = StoredItem::new("somebody", "2");
    store.table.set_item(key, Some(expired));
    let lease = client.acquire(key, Duration::ZERO)?;
    assert!(client.acquire(key, Duration::from_millis(1)).is_err());
    lease.renew()?;
    store.fails.store(true, Ordering::SeqCst);
    assert!(lease.renew().is_err());
    assert!(lease.release().is_err());
    store.fails.store(false, Ordering::SeqCst);
    store.table.set_item(key, None);
    let lease = client.acquire(key, Duration::ZERO)?;
    store.table.set_item(key, None);
    assert!(lease.renew().is_err());
    drop(lease);
    hand_off(&client, key)?;
    let held = client.acquire(key, LONG)?;
    retry_and_give_up(&mut conn);
    held.release()?;

    assert_as_listed(&events_of(key), "Events");
    assert_as_listed(&spans_of(key), "Spans");
    Ok(())
}

#[test]
fn the_page_lists_the_events_and_spans_that_the_source_names_and_no_others() {
    for (macro_call, heading) in [("event!(", "Events"), ("span!(", "Spans")] {
        let named = named_in_source(macro_call);
        let on_the_page: BTreeSet<_> = listed(heading).into_keys().collect();
        assert_eq!(named, on_the_page, "{heading}");
    }
}

/// The names that calls of a macro, or of one whose name ends alike, have in the crate's source.
fn named_in_source(macro_call: &str) -> BTreeSet<String> {
    let is_name = |text: &&str| {
        text.contains('.') && (text.chars()).all(|c| c.is_ascii_lowercase() || "._".contains(c))
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../diesel-sqlite-efs/src");
    let mut names = BTreeSet::new();
    for text in sources(&directory) {
        for call in text.split(macro_call).skip(1) {
            let arguments = call.split(';').next().unwrap_or_default();
            // Every other part is the inside of a literal.
            let mut literals = arguments.split('"').skip(1).step_by(2);
            names.extend(literals.find(is_name).map(str::to_owned));
        }
    }
    names
}

/// The text of every file below a directory.
fn sources(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the crate's source");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![fs::read_to_string(&path).expect("text")],
        })
        .collect()
}

/// Has a transaction repeated, while another holds the lock, until there is no time for another run.
fn retry_and_give_up(conn: &mut EfsSqliteConnection) {
    conn.set_lock_timeout(Duration::from_secs(1));
    // A busy machine may leave no time for a second run.
    while conn.lock_stats().retries == 0 {
        let failed = conn.retrying_transaction(|conn| {
            diesel::sql_query("SELECT n FROM counter").execute(conn)?;
            diesel::sql_query("INSERT INTO counter VALUES (1)").execute(conn)
        });
        assert!(failed.is_err(), "it is held");
    }
}

/// Lets a lease go from one thread to another; again if this machine is too slow for it.
fn hand_off(client: &LockClient, key: &str) -> Result<(), LockError> {
    while client.stats().hand_offs == 0 {
        let lease = client.acquire(key, LONG)?;
        let waits = client.stats().waits;
        thread::scope(|scope| {
            let next = scope.spawn(|| client.acquire(key, LONG)?.release());
            wait_until(LONG, "it waits", || client.stats().waits > waits);
            lease.release()?;
            next.join().expect("no panic")
        })?;
    }
    Ok(())
}

#[test]
fn waits_and_leases_are_spans_of_whoever_asked() -> TestResult {
    recorder();
    let key = "spans-of-whoever-asked";
    let store = Arc::new(InMemoryLockStore::new());
    let builder = LockClient::builder().lock_store(store);
    let client = builder.lock_expiration(Duration::from_secs(6)).build()?;
    let held = client.acquire(key, Duration::ZERO)?;
    let request = tracing::info_span!(target: CALLER, "request");
    request.in_scope(|| assert!(client.acquire(key, Duration::from_millis(1)).is_err()));
    held.release()?;
    let lease = request.in_scope(|| client.acquire(key, Duration::ZERO))?;
    // Renewed on another thread.
    wait_until(LONG, "the lease is renewed", || client.stats().renewals > 0);
    lease.release()?;

    let spans: Vec<_> = spans_of(key);
    let told: Vec<_> = (spans.iter())
        .map(|span| {
            (
                span["event"].as_str(),
                span.get(".span").map(String::as_str),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("lock.held", None),
            ("lock.wait", Some("request")),
            ("lock.held", Some("request"))
        ]
    );
    for event in events_of(key) {
        let span = match event["event"].as_str() {
            "lock.waiting" => "lock.wait",
            _ => "lock.held",
        };
        assert_eq!(event[".span"], span, "{event:?}");
    }
    Ok(())
}
