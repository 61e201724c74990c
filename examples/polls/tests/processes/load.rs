//! Many clients at once, against several servers on one file.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use integration::http::Client;
use integration::options::load_seconds;
use integration::process::Worker;

use crate::fixture::{CHOICES, POLL, ProgramFixture};

const SERVERS: usize = 4;
const CLIENTS: usize = 50;
/// For what should take moments, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    /// Keys of the votes that were acknowledged.
    acknowledged: BTreeSet<String>,
    /// How long each vote took that was counted, each read, and each refusal.
    votes: Vec<Duration>,
    reads: Vec<Duration>,
    refusals: Vec<Duration>,
    /// Whatever else a server did.
    wrong: Vec<String>,
}

#[test]
fn under_load_nothing_fails_but_by_503_and_every_acknowledged_vote_is_counted() {
    let fixture = ProgramFixture::new();
    let servers: Vec<_> = (0..SERVERS)
        .map(|number| Server::start(&fixture, number))
        .collect();
    let begun = Instant::now();
    let end = begun + Duration::from_secs(load_seconds(4).into());
    let seen: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let server = servers[number % SERVERS].address;
                scope.spawn(move || be_client(number, server, end))
            })
            .collect();
        (clients.into_iter())
            .map(|client| client.join().expect("a client that does not panic"))
            .collect()
    });
    let took = begun.elapsed();
    drop(servers);

    let mut all = Seen::default();
    for mut one in seen {
        all.acknowledged.append(&mut one.acknowledged);
        all.votes.append(&mut one.votes);
        all.reads.append(&mut one.reads);
        all.refusals.append(&mut one.refusals);
        all.wrong.append(&mut one.wrong);
    }
    println!(
        "{CLIENTS} clients, {SERVERS} servers, {:.1} s",
        took.as_secs_f64()
    );
    report("votes", &mut all.votes, took);
    report("reads", &mut all.reads, took);
    report("503", &mut all.refusals, took);
    assert!(all.wrong.is_empty(), "{:#?}", all.wrong);
    assert!(
        !all.acknowledged.is_empty() && all.reads.len() > CLIENTS,
        "nothing was done"
    );
    fixture.assert_counted(&all.acknowledged);
}

/// Votes and reads in turn until `end`; then only until its last vote is acknowledged.
fn be_client(number: usize, server: SocketAddr, end: Instant) -> Seen {
    let mut client = Client::new(server);
    let mut seen = Seen::default();
    for vote in 0.. {
        let key = format!("{number}-{vote}");
        loop {
            match ask(&mut client, &mut seen, Some(&key)) {
                Some(true) => break,
                // As the answer tells to. Not for ever: a lock that never comes free is a failure.
                Some(false) if Instant::now() < end + LONG => thread::sleep(Duration::from_secs(1)),
                Some(false) => {
                    seen.wrong
                        .push(format!("vote {key} was never acknowledged"));
                    return seen;
                }
                None => return seen,
            }
        }
        seen.acknowledged.insert(key);
        for _ in 0..3 {
            if ask(&mut client, &mut seen, None).is_none() {
                return seen;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    seen
}

/// Sends a vote under a key, or reads a page. Whether it was done; false if it is to be sent again;
/// none if something is wrong.
fn ask(client: &mut Client, seen: &mut Seen, vote: Option<&str>) -> Option<bool> {
    let begun = Instant::now();
    let answer = match vote {
        Some(key) => {
            let headers = [
                ("content-type", "application/json"),
                ("idempotency-key", key),
            ];
            // Different choices for different keys, the same for the same.
            let choice = CHOICES[key.len() % CHOICES.len()];
            let target = format!("/api/polls/{POLL}/votes");
            client.send(
                "POST",
                &target,
                &headers,
                &format!("{{\"choice\":{choice}}}"),
            )
        }
        None => {
            let pages = ["/api/polls", "/", "/api/polls/1/results"];
            client.send("GET", pages[seen.reads.len() % pages.len()], &[], "")
        }
    };
    let took = begun.elapsed();
    let status = answer
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|answer| answer.status().map_err(|error| error.to_string()));
    match (status, vote) {
        (Ok(201 | 200), Some(_)) => seen.votes.push(took),
        (Ok(200), None) => seen.reads.push(took),
        (Ok(503), _) => {
            seen.refusals.push(took);
            return Some(false);
        }
        (other, _) => {
            let body = answer.map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
            seen.wrong.push(format!("{vote:?}: {other:?} {body:?}"));
            return None;
        }
    }
    Some(true)
}

/// A server on a free port; ends when this is dropped.
struct Server {
    _process: Worker,
    address: SocketAddr,
}

impl Server {
    fn start(fixture: &ProgramFixture, number: usize) -> Self {
        let log = File::create(fixture.file(&format!("server-{number}.log"))).expect("a log");
        let mut command = fixture.command("");
        command.env("PORT", "0").stderr(log);
        let process = Worker::spawn(&mut command).expect("a server");
        let line = process.line(LONG).expect("an address");
        let address = line.strip_prefix("listening on http://");
        Self {
            address: address
                .and_then(|address| address.parse().ok())
                .expect("an address"),
            _process: process,
        }
    }
}

/// Prints how many there were and how long they took.
fn report(what: &str, took: &mut [Duration], within: Duration) {
    took.sort_unstable();
    let Some(longest) = took.last() else {
        println!("  {what:8} none");
        return;
    };
    let percentile = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "  {what:8} {:>7}  {:>8.1} a second   p50 {:.1} ms · p99 {:.1} ms · longest {:.1} ms",
        took.len(),
        took.len() as f64 / within.as_secs_f64(),
        percentile(50),
        percentile(99),
        longest.as_secs_f64() * 1000.0,
    );
}
