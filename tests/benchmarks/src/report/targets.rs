//! The bars, and what was measured beside them.

use std::time::Duration;

use benchmarks::figures::millis;

use super::{Page, also};
use crate::cold_start::{Program, Start};
use crate::contention::{Figures, Peer};
use crate::requests::{Cost, STEPS};
use crate::results::Results;

/// One bar.
struct Bar {
    what: String,
    peer: String,
    target: String,
    ours: String,
    /// `None`: nothing was measured.
    is_met: Option<bool>,
}

/// The table of all bars for which something was measured.
pub(super) fn table(page: &mut Page, results: &Results) {
    let mut bars = Vec::new();
    requests(&mut bars, results);
    increments(&mut bars, results);
    holds(&mut bars, results);
    threads(&mut bars, results);
    starts(&mut bars, results);
    one_process(&mut bars, results);
    sizes(&mut bars, results);
    page.paragraph("The peer is the Python package, or Diesel's own connection where it says so.");
    page.table(
        &["what", "peer", "to reach", "here", ""],
        bars.into_iter().map(|bar| {
            let met = match bar.is_met {
                None => "not measured",
                Some(true) => "reached",
                Some(false) => "**missed**",
            };
            vec![bar.what, bar.peer, bar.target, bar.ours, met.to_owned()]
        }),
    );
    page.paragraph(
        "Why some bars may be missed:\n\n\
         - *Writes/s of 16 processes.* Each commit is confirmed, which holds the lease for one round trip more than in the \
         Python package. There, a process that has just released the lock asks again one round trip later and often gets it \
         again, at the expense of the others: see its p99 and Jain's index. Here, it lets processes in first that have \
         waited longer, and each change of process costs the time until the next one asks.\n\
         - *Requests a write of 16 processes.* All requests beyond the three of a write are attempts that were refused.\n\
         - *16 threads.* Each commit asks the store once, so a process makes one write per round trip and its own work, \
         however many threads it has.\n\
         - *16 processes holding 100 ms.* The mean wait is two of the three seconds that each has.\n\
         - *Scan with `counter`.* After each page two things are looked at again. It is the default on NFS, where a page \
         from the server costs far more than that; on local file systems the default is `off`.",
    );
}

fn requests(bars: &mut Vec<Bar>, results: &Results) {
    let cost = |verb: &str, peer: Peer| -> Option<Cost> {
        let at = STEPS.iter().position(|(known, _)| *known == verb)?;
        let column = Peer::ALL.iter().position(|&known| known == peer)?;
        *results.requests.get(at)?.costs.get(column)?
    };
    let told = |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| cost.requests.to_string());
    for (verb, name) in STEPS {
        let at_most: u64 = match verb {
            "write" | "write-transaction" => 3,
            // One to acquire, one to release, and a confirmation for each of the five.
            "write-lock" => 7,
            _ => 0,
        };
        let ours = cost(verb, Peer::Ours);
        bars.push(Bar {
            what: format!("requests: {name}"),
            peer: told(cost(verb, Peer::Python)),
            target: at_most.to_string(),
            ours: told(ours),
            is_met: ours.map(|cost| cost.requests <= at_most),
        });
    }
    let ours = cost("write", Peer::Ours);
    let told =
        |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| format!("{:.1}", cost.waited));
    bars.push(Bar {
        what: "round trips that the caller of a write waits for".to_owned(),
        peer: told(cost("write", Peer::Python)),
        target: "3".to_owned(),
        ours: told(ours),
        // Half a round trip is for all else that takes time in a call.
        is_met: ours.map(|cost| cost.waited <= 3.5),
    });
}

fn find(
    results: &Results,
    peer: Peer,
    processes: u32,
    threads: u32,
    hold_ms: u64,
) -> Option<&Figures> {
    results.contention.iter().find(|figures| {
        let case = figures.case;
        (case.peer, case.processes, case.threads, case.hold_ms)
            == (peer, processes, threads, hold_ms)
    })
}

const MANY: u32 = 16;

fn increments(bars: &mut Vec<Bar>, results: &Results) {
    const TIMES: f64 = 0.9;
    const REQUESTS: f64 = 6.5;
    let [python, ours] = Peer::ALL.map(|peer| find(results, peer, MANY, 0, 0));
    let (Some(python), Some(ours)) = (python, ours) else {
        return;
    };
    let mut bar = |what: &str, peers: String, target: String, here: String, is_met: bool| {
        bars.push(Bar {
            what: format!("{MANY} processes, increments: {what}"),
            peer: peers,
            target,
            ours: here,
            is_met: Some(is_met),
        });
    };
    let ratio = ours.rate / python.rate;
    bar(
        "writes/s",
        format!("{:.1}", python.rate),
        format!("{TIMES} × the peer's"),
        format!("{:.1}, {ratio:.2} ×", ours.rate),
        ratio >= TIMES,
    );
    bar(
        "failed",
        format!("{:.2} %", python.failed * 100.0),
        "0".to_owned(),
        format!("{:.2} %", ours.failed * 100.0),
        ours.failed == 0.0,
    );
    bar(
        "p99 wait",
        format!("{:.0} ms", python.p99),
        "below half the peer's".to_owned(),
        format!("{:.0} ms", ours.p99),
        ours.p99 < python.p99 / 2.0,
    );
    bar(
        "requests a write",
        format!("{:.2}", python.requests_per_write()),
        format!("{REQUESTS}"),
        format!("{:.2}", ours.requests_per_write()),
        ours.requests_per_write() <= REQUESTS,
    );
    bar(
        "Jain's index",
        format!("{:.3}", python.jain),
        "0.95".to_owned(),
        format!("{:.3}", ours.jain),
        ours.jain >= 0.95,
    );
}

fn holds(bars: &mut Vec<Bar>, results: &Results) {
    let [python, ours] = Peer::ALL.map(|peer| find(results, peer, MANY, 0, 100));
    let (Some(python), Some(ours)) = (python, ours) else {
        return;
    };
    let told = |figures: &Figures| {
        let mut told = String::new();
        also(
            &mut told,
            format_args!("{:.0} %", (1.0 - figures.failed) * 100.0),
        );
        also(
            &mut told,
            format_args!("{}/{}", figures.least, figures.most),
        );
        also(&mut told, format_args!("{:.2}", figures.jain));
        told
    };
    bars.push(Bar {
        what: format!("{MANY} processes, each holding 100 ms: successes; least/most served; Jain"),
        peer: told(python),
        target: "98 %; 1/3; 0.9".to_owned(),
        ours: told(ours),
        is_met: Some(ours.failed <= 0.02 && ours.least_to_most() >= 1.0 / 3.0 && ours.jain >= 0.9),
    });
}

fn threads(bars: &mut Vec<Bar>, results: &Results) {
    let processes = find(results, Peer::Ours, MANY, 0, 0);
    let threads = find(results, Peer::Ours, 1, MANY, 0);
    let (Some(processes), Some(threads)) = (processes, threads) else {
        return;
    };
    let ratio = threads.rate / processes.rate;
    bars.push(Bar {
        what: format!("{MANY} threads of one process on a pool: writes/s"),
        peer: "-".to_owned(),
        target: format!("10 × that of {MANY} processes"),
        ours: format!("{:.0}, {ratio:.1} ×", threads.rate),
        is_met: Some(ratio >= 10.0),
    });
}

fn starts(bars: &mut Vec<Bar>, results: &Results) {
    let python = results
        .starts
        .iter()
        .find(|start| start.program == Program::Python);
    let ours = results.starts.iter().find(|start| {
        matches!(&start.program, Program::Minimal { profile, warms_up: false } if profile == "lambda")
    });
    let (Some(python), Some(ours), Some(machine)) = (python, ours, &results.machine) else {
        return;
    };
    let told = |time: Duration| format!("{:.0} ms", millis(time));
    let mut bar = |what: &str, target: String, figure: &dyn Fn(&Start) -> String, is_met: bool| {
        bars.push(Bar {
            what: format!("cold start, {what}"),
            peer: figure(python),
            target,
            ours: figure(ours),
            is_met: Some(is_met),
        });
    };
    bar(
        "first row",
        "20 ms".to_owned(),
        &|start| told(start.row),
        millis(ours.row) <= 20.0,
    );
    // A write takes three, of which one is in the bar's words.
    let at_most = machine.round_trip + Duration::from_millis(80);
    bar(
        "first committed write",
        format!("80 ms over one round trip: {}", told(at_most)),
        &|start| told(start.written),
        ours.written <= at_most,
    );
    let mib = |start: &Start| start.peak_kib as f64 / 1024.0;
    bar(
        "peak memory",
        "20 MiB".to_owned(),
        &|start| format!("{:.1} MiB", mib(start)),
        mib(ours) <= 20.0,
    );
}

fn one_process(bars: &mut Vec<Bar>, results: &Results) {
    for pair in &results.one_process {
        if let Some(at_most) = pair.at_most {
            bars.push(Bar {
                what: pair.what.clone(),
                peer: format!("Diesel's, {:.2?}", pair.diesels),
                target: format!("{at_most} ×"),
                ours: format!("{:.2} ×", pair.ratio),
                is_met: Some(pair.ratio <= at_most),
            });
        }
        if pair.what.starts_with("UPDATE") {
            let over = millis(pair.ours) - millis(pair.diesels);
            bars.push(Bar {
                what: pair.what.clone(),
                peer: format!("Diesel's, {:.2?}", pair.diesels),
                target: "at most 0.2 ms more".to_owned(),
                ours: format!("{over:+.2} ms"),
                is_met: Some(over <= 0.2),
            });
        }
    }
}

fn sizes(bars: &mut Vec<Bar>, results: &Results) {
    for size in results.sizes.iter().filter(|size| size.profile == "lambda") {
        bars.push(Bar {
            what: "minimal application, stripped: binary; crates".to_owned(),
            peer: "-".to_owned(),
            target: "9 MB; 190".to_owned(),
            ours: format!("{:.2} MB; {}", size.bytes as f64 / 1e6, size.crates),
            is_met: Some(size.bytes <= 9_000_000 && size.crates <= 190),
        });
    }
}
