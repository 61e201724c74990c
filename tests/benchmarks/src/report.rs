//! The page docs/benchmarks.md and its drawings, from what was measured.

mod targets;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use benchmarks::figures::millis;
use charts::{BLUE, Chart, GREY, Line};
use plotters::style::RGBColor;

use crate::cold_start;
use crate::contention::{Case, Figures, Peer};
use crate::fixture::{Outcome, Place};
use crate::plot;
use crate::results::{Machine, Results};
use crate::timeline::Timeline;

/// Writes page and drawings; a quick run's below the target directory, as they say little.
pub(crate) fn write(results: &Results, quick: bool) -> Outcome<PathBuf> {
    let docs = if quick {
        cold_start::target()?.join("benchmarks")
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
    };
    let drawings = docs.join("benchmarks");
    fs::create_dir_all(&drawings)?;
    let mut page = Page::default();
    head(&mut page, results.machine.as_ref(), quick);
    page.section("Against the bars");
    targets::table(&mut page, results);
    contention(&mut page, &results.contention, &drawings)?;
    requests(&mut page, results);
    timeline(&mut page, results.timeline.as_ref(), &drawings)?;
    starts(&mut page, results);
    one_process(&mut page, results);
    let file = docs.join("benchmarks.md");
    fs::write(&file, format!("{}\n", page.text.trim_end()))?;
    Ok(file.canonicalize()?)
}

/// The text of the page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.line(&format!("## {title}\n"));
    }

    fn paragraph(&mut self, text: &str) {
        self.line(&format!("{text}\n"));
    }

    fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.line(&format!("| {} |", head.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(head.len())));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }
}

fn head(page: &mut Page, machine: Option<&Machine>, quick: bool) {
    page.line("# Benchmarks\n");
    let in_memory = machine.is_some_and(|machine| machine.place == Place::Memory);
    let option = match (quick, in_memory) {
        (true, _) => " -- --quick",
        (false, true) => " -- --in-memory",
        (false, false) => "",
    };
    page.paragraph(&format!(
        "Written, with its drawings, by one command, which needs what the tests need, and Python 3.10 or newer for the \
         Python package:\n\n```sh\ncargo run --release -p benchmarks{option}\n```"
    ));
    page.paragraph(
        "`--quick` is a sample of everything in a minute; `--part contention --only \"16 processes\"` measures a part anew, \
         `--help` tells the rest. `cargo bench -p benchmarks` runs the work of one process under divan. Ratios and counts \
         are what can be compared: all sides of a ratio come from one run, by turns. Times are this machine's.",
    );
    page.paragraph(
        "Counts that are the same everywhere, of file operations, round trips on NFS and instructions, are tests: \
         [benchmarks-file-operations.md](benchmarks-file-operations.md). What becomes of fleets that cannot be run here is \
         simulated: [fairness.md](fairness.md).",
    );
    if let Some(machine) = machine {
        page.paragraph(&format!(
            "Measured on {}, {} cores ({}), Linux {}, load average {:.1} when the last part began; the processes, the \
             proxy and the emulator share those cores. The proxy adds {} ms to each request: {:.1} ms as a client sees it. \
             The databases are {}, where a page is written and synced in {:.2?}.",
            // The day and its date, without the time.
            &httpdate::fmt_http_date(machine.when)[..16],
            machine.cores,
            machine.processor,
            machine.kernel,
            machine.load,
            machine.delay_ms,
            millis(machine.round_trip),
            match machine.place {
                Place::Disk => "on the local disk",
                Place::Memory => "on a file system in memory",
            },
            machine.sync,
        ));
    }
}

/// A chart's name, what it is of, and its figure of a case.
type Charted = (&'static str, Chart<'static>, fn(&Figures) -> f64);

fn contention(page: &mut Page, all: &[Figures], drawings: &Path) -> Outcome<()> {
    page.section("Many processes");
    page.paragraph(
        "Each process writes `UPDATE counter SET n = n + 1` as fast as it is let, all for the same seconds, with a timeout \
         of 3 s; a call that fails is followed by the next. The Python package runs in the same cases in the same run, \
         its connection kept open. In this crate the lock table confirms each commit, and the caller waits for the release. \
         Waits are those of acknowledged writes, from the call to the answer. Requests are \
         counted at the proxy. Cases that are held to bars run several times, all peers by turns; shown is the round of the \
         median rate. Counter: whether the file has grown by what was acknowledged.",
    );
    let increments = |case: &Case| case.hold_ms == 0 && case.threads == 0;
    figures(page, all.iter().filter(|figures| increments(&figures.case)));
    let charts: [Charted; 4] = [
        (
            "rate",
            Chart {
                title: "Acknowledged writes",
                processes: "processes",
                unit: "a second",
                is_logarithmic: false,
            },
            |figures| figures.rate,
        ),
        (
            "p99",
            Chart {
                title: "The longest wait but for 1 %",
                processes: "processes",
                unit: "ms",
                is_logarithmic: true,
            },
            |figures| figures.p99,
        ),
        (
            "requests",
            Chart {
                title: "Requests to DynamoDB",
                processes: "processes",
                unit: "for a write",
                is_logarithmic: false,
            },
            Figures::requests_per_write,
        ),
        (
            "fairness",
            Chart {
                title: "Jain's index: 1 if all get the same",
                processes: "processes",
                unit: "index",
                is_logarithmic: false,
            },
            |figures| figures.jain,
        ),
    ];
    for (name, chart, figure) in charts {
        let lines: Vec<_> = (Peer::ALL.into_iter())
            .map(|peer| Line {
                name: peer.name().to_owned(),
                colour: colour(peer),
                points: (all.iter())
                    .filter(|figures| increments(&figures.case) && figures.case.peer == peer)
                    .map(|figures| (f64::from(figures.case.processes), figure(figures)))
                    .collect(),
            })
            .filter(|line| !line.points.is_empty())
            .collect();
        if !lines.is_empty() {
            let file = format!("contention-{name}.svg");
            fs::write(drawings.join(&file), chart.svg(&lines)?)?;
            page.paragraph(&format!("![{}](benchmarks/{file})", chart.title));
        }
    }
    page.paragraph("Transactions that stay open for 100 ms each:");
    figures(page, all.iter().filter(|figures| figures.case.hold_ms > 0));
    page.paragraph(
        "Threads of one process, and of two, each process with a pool of as many connections:",
    );
    figures(page, all.iter().filter(|figures| figures.case.threads > 0));
    Ok(())
}

fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Python => GREY,
        Peer::Ours => BLUE,
    }
}

fn figures<'a>(page: &mut Page, all: impl Iterator<Item = &'a Figures>) {
    let head = [
        "case",
        "writes/s",
        "failed",
        "p50 ms",
        "p99 ms",
        "max ms",
        "requests a write",
        "refused of them",
        "Jain",
        "least/most",
        "counter",
        "load",
    ];
    page.table(
        &head,
        all.map(|figures| {
            let counter = if figures.is_right() {
                "right".to_owned()
            } else {
                format!("{} of {}", figures.counted, figures.acknowledged)
            };
            vec![
                figures.case.label(),
                format!("{:.1}", figures.rate),
                format!("{:.2} %", figures.failed * 100.0),
                format!("{:.1}", figures.p50),
                format!("{:.0}", figures.p99),
                format!("{:.0}", figures.max),
                format!("{:.2}", figures.requests_per_write()),
                format!(
                    "{:.2}",
                    figures.requests.refused as f64 / figures.acknowledged as f64
                ),
                format!("{:.3}", figures.jain),
                format!("{}/{}", figures.least, figures.most),
                counter,
                format!("{:.1}", figures.load),
            ]
        }),
    );
}

fn requests(page: &mut Page, results: &Results) {
    page.section("Requests and round trips");
    page.paragraph(
        "Requests to DynamoDB of one call, and in brackets the round trips that its caller waits for: the time of the \
         call through a proxy that adds 100 ms, in units of those. Nobody else writes.",
    );
    let mut head = vec!["call"];
    head.extend(Peer::ALL.map(Peer::name));
    page.table(
        &head,
        results.requests.iter().map(|step| {
            let mut row = vec![step.name.clone()];
            row.extend(step.costs.iter().map(|cost| match cost {
                Some(cost) => format!("{} ({:.1})", cost.requests, cost.waited),
                None => "-".to_owned(),
            }));
            row
        }),
    );
}

fn timeline(page: &mut Page, timeline: Option<&Timeline>, drawings: &Path) -> Outcome<()> {
    let Some(timeline) = timeline else {
        return Ok(());
    };
    const FILE: &str = "transaction.svg";
    plot::transaction(&drawings.join(FILE), timeline)?;
    page.section("One write transaction");
    page.paragraph(&format!(
        "One `UPDATE` in autocommit mode on an open connection, seen by a VFS below the crate's own and by the lock \
         store: medians of {} transactions; the drawing shows the one whose total is the median. The black line is the \
         answer to the caller.\n\n![one transaction](benchmarks/{FILE})",
        timeline.transactions
    ));
    page.table(
        &["part", "median", "on the files meanwhile"],
        timeline.phases.iter().map(|phase| {
            vec![
                phase.name.clone(),
                format!("{:.2} ms", phase.micros as f64 / 1e3),
                counted(&phase.operations),
            ]
        }),
    );
    Ok(())
}

/// `3 write journal, sync journal`, in the order in which each kind first comes.
fn counted(operations: &[String]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for operation in operations {
        match counts.iter_mut().find(|(name, _)| name == operation) {
            Some((_, count)) => *count += 1,
            None => counts.push((operation, 1)),
        }
    }
    let words = counts.into_iter().map(|(name, count)| match count {
        1 => name.to_owned(),
        count => format!("{count} × {name}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn starts(page: &mut Page, results: &Results) {
    page.section("Cold start");
    page.paragraph(
        "From before the process is made to what it says: medians; the memory is the highest of all starts (`VmHWM`). The \
         file is in the system's cache. *The write alone* counts from the row, or from the end of `warm_up()`, which an \
         application on Lambda calls in the init phase; it includes the round trips of a write.",
    );
    page.table(
        &[
            "program",
            "starts",
            "first row",
            "`warm_up()` done",
            "first committed write",
            "the write alone",
            "peak memory",
        ],
        results.starts.iter().map(|start| {
            vec![
                start.program.name(),
                start.starts.to_string(),
                in_ms(start.row),
                start.warm.map_or_else(|| "-".to_owned(), in_ms),
                in_ms(start.written),
                in_ms(start.write_alone),
                format!("{:.1} MiB", start.peak_kib as f64 / 1024.0),
            ]
        }),
    );
    page.paragraph(
        "The minimal application (`tests/benchmarks/minimal`: opens, reads, writes), stripped; crates are those in \
         `cargo tree -e normal`, itself and those for macros included.",
    );
    page.table(
        &["profile", "binary", "crates"],
        results.sizes.iter().map(|size| {
            vec![
                format!("`{}`", size.profile),
                format!("{:.2} MB", size.bytes as f64 / 1e6),
                size.crates.to_string(),
            ]
        }),
    );
}

fn in_ms(time: Duration) -> String {
    format!("{:.1} ms", millis(time))
}

fn one_process(page: &mut Page, results: &Results) {
    page.section("One process, beside Diesel's own connection");
    page.paragraph(
        "Without a lock in DynamoDB (`lock=local`), on files of the same content, by turns; each with \
         `journal_mode=DELETE`, `synchronous=EXTRA` and a page cache of 64 MiB. Times are medians for one operation, the \
         ratio is the median of the rounds' ratios, with the middle half of them.",
    );
    page.table(
        &["what", "Diesel's", "ours", "ratio", "middle half", "rounds"],
        results.one_process.iter().map(|pair| {
            vec![
                pair.what.clone(),
                format!("{:.2?}", pair.diesels),
                format!("{:.2?}", pair.ours),
                format!("{:.2}", pair.ratio),
                format!("{:.2} to {:.2}", pair.ratios.0, pair.ratios.1),
                pair.rounds.to_string(),
            ]
        }),
    );
}

/// Adds words to a cell.
fn also(cell: &mut String, words: std::fmt::Arguments<'_>) {
    if !cell.is_empty() {
        cell.push_str("; ");
    }
    // Writing to a string does not fail.
    let _ = cell.write_fmt(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_in_the_order_of_their_first() {
        let operations = ["write journal", "sync journal", "write journal"].map(str::to_owned);
        assert_eq!(counted(&operations), "2 × write journal, sync journal");
    }
}
