//! How often a transaction goes to the server, beside plain SQLite: counted by the client's kernel.

use std::collections::BTreeMap;

use super::rig::{Mount, NfsFixture, PATIENT};
use crate::counts::file_operations::{FURNISH, SAME_MODE, SELECT, UPDATE};
use crate::fixtures::workers::WorkerProcess;

/// Requests by their names, as `mountstats` has them.
type Requests = BTreeMap<String, i64>;

/// How many more a warm transaction may make than plain SQLite's, with the read checks that are
/// meant for NFS.
const MORE_TO_READ: i64 = 2;
const MORE_TO_WRITE: i64 = 4;

/// The first of each on a new connection, then once it has done it before.
const WORK: [(&str, &str); 5] = [
    ("cold read", SELECT),
    ("cold write", UPDATE),
    ("write after a read", UPDATE),
    ("warm read", SELECT),
    ("warm write", UPDATE),
];

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_transaction_makes_few_more_round_trips_than_plain_sqlites() {
    let fixture = NfsFixture::new();
    fixture.open("A", &fixture.proxy, PATIENT).ok(FURNISH);
    let mut plain = fixture.open_plain("A");
    plain.ok(SAME_MODE);
    let plain = count(&fixture, "plain SQLite", &mut plain);
    for check in ["off", "counter", "reopen"] {
        let name = format!("lock_read_check={check}");
        let parameters = format!("{PATIENT}&{name}");
        let mut ours = fixture.open("A", &fixture.proxy, &parameters);
        let ours = count(&fixture, &name, &mut ours);
        for ((what, plain), (_, ours)) in plain.iter().zip(&ours) {
            let more = total(ours) - total(plain);
            println!(
                "round trips | {name} | {what} | {more:+} {:?}",
                beyond(ours, plain)
            );
            let most = match *what {
                "warm read" => MORE_TO_READ,
                "warm write" => MORE_TO_WRITE,
                _ => continue,
            };
            assert!(
                check == "reopen" || more <= most,
                "{name}: {what}: {more:+}"
            );
        }
    }
    fixture.assert_whole();
}

fn count(
    fixture: &NfsFixture,
    name: &str,
    process: &mut WorkerProcess,
) -> Vec<(&'static str, Requests)> {
    let mut counts = Vec::new();
    for (what, command) in WORK {
        let before = requests(fixture);
        process.ok(command);
        let requests = beyond(&requests(fixture), &before);
        println!(
            "round trips | {name} | {what} | {} {requests:?}",
            total(&requests)
        );
        counts.push((what, requests));
    }
    counts
}

/// What A's kernel has sent to the server for the mount so far, but for signs of life.
fn requests(fixture: &NfsFixture) -> Requests {
    let statistics = fixture.run(&["exec", "A", "cat", "/proc/self/mountstats"]);
    let mounted = format!("mounted on {} ", Mount::Efs.directory());
    let statistics = (statistics.split("\ndevice "))
        .find(|mount| mount.contains(&mounted))
        .expect("the mount's statistics");
    let (_, statistics) = (statistics.split_once("per-op statistics")).expect("requests");
    (statistics.lines())
        .filter_map(|line| {
            let (name, numbers) = line.trim().split_once(": ")?;
            let number = numbers.split(' ').next()?.parse().ok()?;
            (name != "SEQUENCE").then(|| (name.to_owned(), number))
        })
        .collect()
}

fn beyond(ours: &Requests, theirs: &Requests) -> Requests {
    let mut difference = ours.clone();
    for (name, number) in theirs {
        *difference.entry(name.clone()).or_default() -= number;
    }
    difference.retain(|_, number| *number != 0);
    difference
}

fn total(requests: &Requests) -> i64 {
    requests.values().sum()
}
