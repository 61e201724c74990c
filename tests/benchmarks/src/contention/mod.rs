//! Many processes write one counter: throughput, waits, requests, fairness.

pub(crate) mod worker;

use std::collections::BTreeMap;
use std::time::Duration;

use integration::process::Worker;
use serde::{Deserialize, Serialize};

use self::worker::Tally;
use crate::args::Options;
use crate::fixture::{Bench, BenchFixture, Outcome, Requests};
use benchmarks::figures::{jain, millis, percentile};

/// How long a process may take to start, or to answer after its time is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Peer {
    Python,
    Ours,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Python, Self::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "Python package",
            Self::Ours => "this crate",
        }
    }
}

/// The settings of this crate's connections; the Python package waits for as long.
pub(crate) const PARAMETERS: &str = "lock_timeout=3";

/// Who writes how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) peer: Peer,
    pub(crate) processes: u32,
    /// Threads of each process, on a pool; 0: one connection, no pool.
    pub(crate) threads: u32,
    /// For how long a transaction is open; 0: autocommit.
    pub(crate) hold_ms: u64,
    pub(crate) seconds: u64,
}

impl Case {
    pub(crate) fn label(&self) -> String {
        let who = match (self.processes, self.threads) {
            (1, 0) => "1 process".to_owned(),
            (processes, 0) => format!("{processes} processes"),
            (1, threads) => format!("1 process of {threads} threads"),
            (processes, threads) => format!("{processes} processes of {threads} threads"),
        };
        let how = match self.hold_ms {
            0 => "increments".to_owned(),
            hold => format!("holding {hold} ms"),
        };
        format!("{who}, {how}, {}", self.peer.name())
    }
}

/// What came of a case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) case: Case,
    /// Acknowledged writes a second, of those that ended in time.
    pub(crate) rate: f64,
    /// Of all calls, those that returned an error; a fraction.
    pub(crate) failed: f64,
    pub(crate) errors: BTreeMap<String, usize>,
    /// Of acknowledged writes, from the call to its answer, in ms.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) requests: Requests,
    pub(crate) acknowledged: u64,
    /// By how much the counter in the file has grown.
    pub(crate) counted: i64,
    pub(crate) jain: f64,
    /// Writes of the writer with the fewest and with the most.
    pub(crate) least: usize,
    pub(crate) most: usize,
    /// The machine's load average over the last minute, at the end.
    pub(crate) load: f64,
}

impl Figures {
    pub(crate) fn requests_per_write(&self) -> f64 {
        self.requests.all() as f64 / self.acknowledged as f64
    }

    pub(crate) fn least_to_most(&self) -> f64 {
        self.least as f64 / self.most as f64
    }

    /// Whether nothing that was acknowledged is lost, and nothing else is there.
    pub(crate) fn is_right(&self) -> bool {
        i64::try_from(self.acknowledged) == Ok(self.counted)
    }

    /// One line of text.
    pub(crate) fn line(&self) -> String {
        let Requests {
            puts,
            refused,
            deletes,
            others,
        } = self.requests;
        format!(
            "{:<64} {:>7.1}/s  failed {:>5.2} %  p50 {:>7.1}  p99 {:>7.1}  max {:>7.1} ms  \
             {:>5.2} requests a write ({puts} + {refused} refused + {deletes} + {others})  \
             Jain {:.3}  least/most {}/{}  load {:.1}",
            self.case.label(),
            self.rate,
            self.failed * 100.0,
            self.p50,
            self.p99,
            self.max,
            self.requests_per_write(),
            self.jain,
            self.least,
            self.most,
            self.load,
        )
    }
}

/// Cases that are compared with each other.
#[derive(Debug)]
pub(crate) struct Group {
    cases: Vec<Case>,
    /// How often each is run.
    rounds: u32,
}

/// All cases, in the order in which they are run.
pub(crate) fn cases(options: &Options) -> Vec<Group> {
    // Those with as many processes as this are held to bars.
    let (counts, many, seconds): (&[u32], u32, u64) = if options.quick {
        (&[1, 4], 4, 1)
    } else {
        (&[1, 2, 4, 8, 16, 32], 16, 15)
    };
    let rounds = if options.quick { 1 } else { options.rounds };
    let group = |peers: &[Peer], processes, threads, hold_ms, rounds| Group {
        cases: (peers.iter())
            .map(|&peer| Case {
                peer,
                processes,
                threads,
                hold_ms,
                // Fewer writes each, so longer.
                seconds: (options.seconds).unwrap_or(if hold_ms > 0 {
                    2 * seconds
                } else {
                    seconds
                }),
            })
            .filter(|case| {
                let only = options.only.as_deref().unwrap_or_default();
                case.label().contains(only)
            })
            .collect(),
        rounds,
    };
    let rounds_of = |processes| if processes == many { rounds } else { 1 };
    let mut groups: Vec<_> = (counts.iter())
        .map(|&processes| group(&Peer::ALL, processes, 0, 0, rounds_of(processes)))
        .collect();
    groups.push(group(&Peer::ALL, many, 0, 100, rounds));
    groups.push(group(&[Peer::Ours], 1, many, 0, 1));
    // Others must not starve beside a process that hands its lease on among its threads.
    groups.push(group(&[Peer::Ours], 2, many, 0, 1));
    groups.retain(|group| !group.cases.is_empty());
    groups
}

/// Runs the cases of a group by turns, and returns for each the round of the median rate.
pub(crate) fn by_turns(
    bench: &Bench,
    group: &Group,
    mut tell: impl FnMut(&Figures),
) -> Outcome<Vec<Figures>> {
    let mut all = vec![Vec::new(); group.cases.len()];
    for _ in 0..group.rounds {
        for (case, rounds) in group.cases.iter().zip(&mut all) {
            let figures = run(bench, *case)?;
            tell(&figures);
            rounds.push(figures);
        }
    }
    Ok(all
        .into_iter()
        .filter_map(|mut rounds| {
            rounds.sort_by(|one, other| one.rate.total_cmp(&other.rate));
            let middle = rounds.len() / 2;
            (!rounds.is_empty()).then(|| rounds.swap_remove(middle))
        })
        .collect())
}

fn run(bench: &Bench, case: Case) -> Outcome<Figures> {
    let fixture = bench.fixture()?;
    let mut crew: Vec<_> = (0..case.processes)
        .map(|_| start(&fixture, case))
        .collect::<Outcome<_>>()?;
    for worker in &crew {
        let line = worker.line(PATIENCE)?;
        if line != "ready" {
            return Err(format!("a worker says `{line}`").into());
        }
    }
    // One after the other: whatever is set up at the first write is set up then.
    for worker in &mut crew {
        worker.send("warm")?;
        for tally in tallies(worker, PATIENCE)? {
            if let Some(error) = tally.failed.first() {
                return Err(format!("the first write of a process fails: {error}").into());
            }
        }
    }
    let before = fixture.counter()?;
    fixture.proxy.forget_requests();
    for worker in &mut crew {
        worker.send(&format!("go {}", case.seconds))?;
    }
    let within = PATIENCE + Duration::from_secs(case.seconds);
    let mut writers = Vec::new();
    for worker in &crew {
        writers.extend(tallies(worker, within)?);
    }
    for worker in &mut crew {
        worker.close_stdin();
        worker.wait(PATIENCE)?;
    }
    let counted = fixture.counter()? - before;
    Ok(summary(case, &writers, fixture.requests(), counted))
}

fn start(fixture: &BenchFixture, case: Case) -> Outcome<Worker> {
    let hold = case.hold_ms.to_string();
    let threads = case.threads.to_string();
    let mut command = match case.peer {
        Peer::Python => fixture.python("contender.py", &[&hold]),
        Peer::Ours => {
            let url = fixture.url(PARAMETERS);
            let arguments = ["contender", &url, "--hold-ms", &hold, "--threads", &threads];
            fixture.worker(&arguments)
        }
    };
    Ok(Worker::spawn(&mut command)?)
}

fn tallies(worker: &Worker, within: Duration) -> Outcome<Vec<Tally>> {
    Ok(serde_json::from_str(&worker.line(within)?)?)
}

fn summary(case: Case, writers: &[Tally], requests: Requests, counted: i64) -> Figures {
    let in_time = |&&(_, ended): &&(u64, u64)| ended <= case.seconds * 1_000_000;
    let shares: Vec<_> = writers
        .iter()
        .map(|tally| tally.written.iter().filter(in_time).count())
        .collect();
    let written = writers.iter().flat_map(|tally| &tally.written);
    let mut waits: Vec<_> = written
        .map(|&(took, _)| Duration::from_micros(took))
        .collect();
    waits.sort();
    let mut errors = BTreeMap::new();
    for error in writers.iter().flat_map(|tally| &tally.failed) {
        *errors.entry(error.clone()).or_insert(0) += 1;
    }
    let failed: usize = errors.values().sum();
    let acknowledged = waits.len();
    Figures {
        case,
        rate: shares.iter().sum::<usize>() as f64 / case.seconds as f64,
        failed: failed as f64 / (failed + acknowledged) as f64,
        errors,
        p50: millis(percentile(&waits, 50)),
        p99: millis(percentile(&waits, 99)),
        max: millis(percentile(&waits, 100)),
        requests,
        acknowledged: acknowledged as u64,
        counted,
        jain: jain(&shares.iter().map(|&n| n as f64).collect::<Vec<_>>()),
        least: shares.iter().copied().min().unwrap_or_default(),
        most: shares.iter().copied().max().unwrap_or_default(),
        load: load(),
    }
}

/// The load average over the last minute; not a number where the system does not tell.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(f64::NAN)
}
