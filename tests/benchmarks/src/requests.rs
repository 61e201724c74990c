//! What single things cost in requests to DynamoDB, and how many of them their caller waits for.

pub(crate) mod actor;

use std::time::{Duration, Instant};

use integration::process::Worker;
use serde::{Deserialize, Serialize};

use crate::contention::{PARAMETERS, Peer};
use crate::fixture::{Bench, BenchFixture, Outcome};

/// Long against everything else that takes time, so that waiting for a request shows.
const ROUND_TRIP: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(60);

/// What is done, by the name that both workers know, and in words.
pub(crate) const STEPS: [(&str, &str); 9] = [
    ("open", "open a connection"),
    ("read", "read"),
    ("read-transaction", "read-only transaction"),
    ("cte-read", "read through a CTE"),
    ("pragma-read", "read a PRAGMA"),
    (
        "pending-migrations",
        "look for pending migrations, none there",
    ),
    ("write", "write, autocommit"),
    ("write-transaction", "transaction of a read and two writes"),
    ("write-lock", "`with_write_lock` over five transactions"),
];

/// What one step costs one peer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) requests: u64,
    /// The time until the caller goes on, in round trips.
    pub(crate) waited: f64,
}

/// What a step costs each peer, in the order of [`Peer::ALL`]; `None`: it has no such thing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) costs: Vec<Option<Cost>>,
}

impl Step {
    pub(crate) fn line(&self) -> String {
        let costs: Vec<_> = (Peer::ALL.iter().zip(&self.costs))
            .map(|(peer, cost)| match cost {
                Some(cost) => format!("{} {} ({:.2})", peer.name(), cost.requests, cost.waited),
                None => format!("{} -", peer.name()),
            })
            .collect();
        format!("{:<42} {}", self.name, costs.join(", "))
    }
}

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Step>> {
    let mut steps: Vec<_> = (STEPS.iter())
        .map(|(_, name)| Step {
            name: (*name).to_owned(),
            costs: Vec::new(),
        })
        .collect();
    for peer in Peer::ALL {
        let fixture = bench.fixture_with(ROUND_TRIP)?;
        let mut actor = start(&fixture, peer)?;
        for (step, (verb, _)) in steps.iter_mut().zip(STEPS) {
            let there_is_none =
                peer == Peer::Python && matches!(verb, "pending-migrations" | "write-lock");
            step.costs.push(if there_is_none {
                None
            } else {
                Some(cost(&fixture, &mut actor, verb)?)
            });
        }
    }
    Ok(steps)
}

/// Starts a process that has written before, so that what is set up at the first write is there.
fn start(fixture: &BenchFixture, peer: Peer) -> Outcome<Worker> {
    let mut command = match peer {
        Peer::Python => fixture.python("actor.py", &[]),
        Peer::Ours => fixture.worker(&["actor", &fixture.url(PARAMETERS)]),
    };
    let mut actor = Worker::spawn(&mut command)?;
    for command in ["open", "write", "close"] {
        ask(&mut actor, command)?;
    }
    Ok(actor)
}

fn cost(fixture: &BenchFixture, actor: &mut Worker, verb: &str) -> Outcome<Cost> {
    if verb != "open" {
        ask(actor, "open")?;
    }
    fixture.proxy.forget_requests();
    let begun = Instant::now();
    ask(actor, verb)?;
    let waited = begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64();
    let requests = fixture.requests().all();
    ask(actor, "close")?;
    Ok(Cost { requests, waited })
}

fn ask(actor: &mut Worker, command: &str) -> Outcome<()> {
    actor.send(command)?;
    match actor.line(PATIENCE)?.as_str() {
        "done" => Ok(()),
        said => Err(format!("`{command}`: {said}").into()),
    }
}
