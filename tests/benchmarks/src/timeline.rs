//! One write transaction from the call to the answer: its requests and its file operations.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel_sqlite_efs::{
    DeleteAnswer, DynamoDbLockStore, EfsConfig, EfsSqliteConnection, LockItem, LockStore,
    PutAnswer, PutCondition, StoreError,
};
use integration::process::Worker;
use integration::recording::{self, On, Operation, Plan, Recorder, TIMED};
use serde::{Deserialize, Serialize};

use benchmarks::figures::percentile;

use crate::contention::PARAMETERS;
use crate::contention::worker::counter;
use crate::fixture::{Bench, Outcome, TABLE};

const PATIENCE: Duration = Duration::from_secs(120);

const ACQUIRE: &str = "acquire";
const CONFIRM: &str = "confirm";
const RELEASE: &str = "release";

/// Something that took time, in microseconds since the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) is_request: bool,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// One transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timeline {
    pub(crate) spans: Vec<Span>,
    /// When the caller had its answer.
    pub(crate) answered: u64,
    /// The medians over all transactions, in the order in which they pass.
    pub(crate) phases: Vec<Phase>,
    pub(crate) transactions: usize,
}

/// A part of the transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) micros: u64,
    /// What was done to the files meanwhile, in the transaction that is drawn.
    pub(crate) operations: Vec<String>,
}

impl Timeline {
    pub(crate) fn line(&self) -> String {
        let phases: Vec<_> = (self.phases.iter())
            .map(|phase| format!("{} {} us", phase.name, phase.micros))
            .collect();
        phases.join(", ")
    }

    /// From the lease's grant to the commit point, in microseconds since the call.
    pub(crate) fn critical(&self) -> Range<u64> {
        let find = |name: &str| self.spans.iter().find(|span| span.name == name);
        let from = find(ACQUIRE).map_or(0, |acquire| acquire.to);
        from..find(CONFIRM).map_or(self.answered, |confirm| confirm.from)
    }
}

/// Has a process record transactions.
pub(crate) fn run(bench: &Bench, transactions: usize) -> Outcome<Timeline> {
    let fixture = bench.fixture()?;
    let url = fixture.url(PARAMETERS);
    let worker =
        Worker::spawn(&mut fixture.worker(&["timeline-of", &url, &transactions.to_string()]))?;
    let mut recorded: Vec<Transaction> = serde_json::from_str(&worker.line(PATIENCE)?)?;
    if recorded.is_empty() {
        return Err("no transaction was recorded".into());
    }
    let parts: Vec<_> = recorded
        .iter()
        .map(Transaction::phases)
        .collect::<Outcome<_>>()?;
    let phases = (0..parts[0].len())
        .map(|phase| {
            let (name, _) = parts[0][phase];
            let mut times: Vec<_> = (parts.iter())
                .map(|phases| Duration::from_micros(phases[phase].1.1 - phases[phase].1.0))
                .collect();
            times.sort();
            (name, percentile(&times, 50))
        })
        .collect::<Vec<_>>();
    // Drawn is the one that took as long as most.
    recorded.sort_by_key(|transaction| transaction.answered);
    let drawn = recorded.swap_remove(recorded.len() / 2);
    let bounds = drawn.phases()?;
    let phases = (phases.into_iter().zip(&bounds))
        .map(|((name, time), &(_, (from, to)))| Phase {
            name: name.to_owned(),
            micros: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
            operations: (drawn.spans.iter())
                .filter(|span| !span.is_request && (from..to).contains(&span.from))
                .map(|span| span.name.clone())
                .collect(),
        })
        .collect();
    Ok(Timeline {
        spans: drawn.spans,
        answered: drawn.answered,
        phases,
        transactions: parts.len(),
    })
}

/// What the recording process tells of each.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Transaction {
    spans: Vec<Span>,
    answered: u64,
}

impl Transaction {
    /// The parts, each from when to when.
    fn phases(&self) -> Outcome<Vec<(&'static str, (u64, u64))>> {
        let find = |name: &str| {
            let span = self.spans.iter().find(|span| span.name == name);
            span.ok_or_else(|| format!("nothing was recorded of `{name}`"))
        };
        let (acquire, confirm) = (find(ACQUIRE)?, find(CONFIRM)?);
        let (delete, release) = (find(DELETE)?, find(RELEASE)?);
        Ok(vec![
            ("from the call to asking for the lease", (0, acquire.from)),
            ("asking", (acquire.from, acquire.to)),
            (
                "from the grant to asking for the confirmation",
                (acquire.to, confirm.from),
            ),
            ("confirming: the commit point", (confirm.from, confirm.to)),
            ("the journal's removal", (confirm.to, delete.to)),
            (
                "from there to asking for the release",
                (delete.to, release.from),
            ),
            ("releasing", (release.from, release.to)),
            (
                "from the release to the answer",
                (release.to, self.answered),
            ),
        ])
    }
}

const DELETE: &str = "delete journal";

/// The process that records: writes to standard output what it has seen.
pub(crate) fn serve(url: &str, transactions: usize) -> Outcome<()> {
    recording::register();
    let (database, _) = url.split_once('?').ok_or("no settings")?;
    let recorder = Recorder::install(TIMED, database.as_ref());
    let store = RecordedStore {
        store: DynamoDbLockStore::new(TABLE),
        recorder: recorder.clone(),
    };
    // The table is the store's to name.
    let url = url.replace(&format!("lock_table={TABLE}&"), "");
    let config = EfsConfig::from_url(&url)?
        .lock_store(Arc::new(store))
        .base_vfs(TIMED);
    let mut conn = EfsSqliteConnection::connect(&config)?;
    let mut recorded = Vec::new();
    for n in 0..=transactions {
        recorder.plan(Plan::Watch);
        let called = Instant::now();
        diesel::update(counter::table)
            .set(counter::n.eq(counter::n + 1))
            .execute(&mut conn)?;
        let answered = micros(called.elapsed());
        let spans = recorder
            .times()
            .into_iter()
            .map(|(operation, begun, ended)| Span {
                name: name(operation),
                is_request: matches!(operation, Operation::Request(_)),
                from: micros(begun - called),
                to: micros(ended - called),
            });
        let spans = spans.collect();
        // The first sets up more than it records.
        if n > 0 {
            recorded.push(Transaction { spans, answered });
        }
    }
    println!("{}", serde_json::to_string(&recorded)?);
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn name(operation: Operation) -> String {
    let level = |level| match level {
        0 => "UNLOCKED",
        1 => "SHARED",
        2 => "RESERVED",
        3 => "PENDING",
        _ => "EXCLUSIVE",
    };
    let (verb, on) = match operation {
        Operation::Request(name) => return name.to_owned(),
        Operation::Lock(to) => return format!("lock {}", level(to)),
        Operation::Unlock(to) => return format!("unlock to {}", level(to)),
        Operation::Delete => return DELETE.to_owned(),
        Operation::Access => return "look for journal".to_owned(),
        Operation::Open(on) => ("open", on),
        Operation::Close(on) => ("close", on),
        Operation::Read(on) => ("read", on),
        Operation::Write(on) => ("write", on),
        Operation::Truncate(on) => ("truncate", on),
        Operation::Sync(on) => ("sync", on),
        Operation::Size(on) => ("size of", on),
    };
    let on = match on {
        On::Main => "database",
        On::Journal => "journal",
    };
    format!("{verb} {on}")
}

/// DynamoDB, with a note of each request.
#[derive(Debug)]
struct RecordedStore {
    store: DynamoDbLockStore,
    recorder: Arc<Recorder>,
}

impl RecordedStore {
    fn note<T>(&self, name: &'static str, request: impl FnOnce() -> T) -> T {
        self.recorder.request(name);
        let answer = request();
        self.recorder.answered(name, false);
        answer
    }
}

impl LockStore for RecordedStore {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        let name = match condition {
            PutCondition::Ours { .. } => CONFIRM,
            _ => ACQUIRE,
        };
        self.note(name, || self.store.put(item, condition, give_up_after))
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        self.note(RELEASE, || self.store.delete(key, lock_id, give_up_after))
    }

    fn table(&self) -> &str {
        self.store.table()
    }

    fn warm_up(&self) -> Result<(), StoreError> {
        self.store.warm_up()
    }
}
