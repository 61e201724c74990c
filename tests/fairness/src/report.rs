//! The tables and drawings of `docs/fairness.md`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use charts::{BLUE, Chart, GREY, Line, ORANGE};

use crate::{Arrivals, Outcome, Policy, Scene, run};

/// What a million write request units of DynamoDB's on-demand capacity cost in us-east-1, in US
/// dollars (<https://aws.amazon.com/dynamodb/pricing/on-demand/>). A put or a deletion of an item
/// of up to 1 KB is one, and so is one whose condition does not hold.
pub const PRICE: f64 = 0.625;

/// Writes the page and its drawings below this directory; returns the page.
///
/// # Errors
/// If a file cannot be written.
pub fn write(docs: &Path, price: f64) -> Result<String, Box<dyn Error>> {
    let drawings = docs.join("fairness");
    fs::create_dir_all(&drawings)?;
    draw(&drawings, price)?;
    let page = page(price);
    fs::write(docs.join("fairness.md"), &page)?;
    Ok(page)
}

/// The page: the text of `page.md` with the tables in it.
pub fn page(price: f64) -> String {
    let mut page = include_str!("page.md").to_owned();
    for (name, table) in [
        ("price", format!("{price}")),
        ("targets", targets()),
        ("fleets", fleets(price)),
        ("patient", patient(price)),
        ("beside", beside(price)),
        ("holds", holds()),
        ("round_trips", round_trips()),
        ("arrivals", arrivals()),
        ("mixed", mixed()),
        ("starts", starts()),
        ("throttled", throttled()),
    ] {
        page = page.replace(&format!("{{{{{name}}}}}"), table.trim_end());
    }
    page
}

const POLICIES: [Policy; 3] = [Policy::PACED, Policy::BACKOFF, Policy::PYTHON];

/// Once all are under way.
fn settled(scene: Scene) -> Scene {
    Scene {
        warm_up: Duration::from_secs(60),
        length: Duration::from_secs(60),
        ..scene
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn targets() -> String {
    const SEEDS: std::ops::Range<u64> = 0..6;
    let mut table = String::from(
        "| hold | policy | writes/s | gave up | p99 wait | requests a write | Jain | least/most |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for hold in [1, 100] {
        let scene = Scene {
            hold: ms(hold),
            ..Scene::closed(16)
        };
        for policy in POLICIES {
            let outcomes: Vec<_> = (SEEDS.map(|seed| Scene { seed, ..scene }))
                .map(|scene| run(&scene, &[policy]))
                .collect();
            let mean = |figure: fn(&Outcome) -> f64| {
                outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64
            };
            let worst = |figure: fn(&Outcome) -> f64| {
                outcomes.iter().map(figure).fold(f64::INFINITY, f64::min)
            };
            let longest = outcomes.iter().map(|outcome| outcome.wait(0.99)).max();
            let _ = writeln!(
                table,
                "| {hold} ms | {} | {:.1} | {} | {} | {:.2} | {:.3} | {:.2} |",
                policy.name(),
                mean(Outcome::rate),
                percent(mean(Outcome::failed_share)),
                time(longest.unwrap_or_default()),
                mean(Outcome::requests_each),
                worst(Outcome::jain),
                worst(|outcome| {
                    let (least, most) = outcome.extremes();
                    least as f64 / most.max(1) as f64
                }),
            );
        }
    }
    table
}

/// The heads of [`figures`].
const FIGURES: &str = "writes/s | gave up | wait p50 | wait p99 | requests a write | requests/s | USD a million writes | Jain |";

fn figures(outcome: &Outcome, price: f64) -> String {
    format!(
        "{:.1} | {} | {} | {} | {:.1} | {:.0} | {:.2} | {:.3} |",
        outcome.rate(),
        percent(outcome.failed_share()),
        time(outcome.wait(0.5)),
        time(outcome.wait(0.99)),
        outcome.requests_each(),
        outcome.rate() * outcome.requests_each(),
        outcome.requests_each() * price,
        outcome.jain(),
    )
}

const FLEETS: [usize; 10] = [2, 4, 8, 16, 32, 64, 128, 250, 500, 1_000];

fn fleets(price: f64) -> String {
    let mut table = format!("| processes | {FIGURES}\n|---|---|---|---|---|---|---|---|---|\n");
    for waiters in FLEETS {
        let outcome = run(&settled(Scene::closed(waiters)), &[Policy::PACED]);
        let figures = figures(&outcome, price);
        let _ = writeln!(table, "| {waiters} | {figures}");
    }
    table
}

fn patient(price: f64) -> String {
    let mut table =
        format!("| processes | policy | {FIGURES}\n|---|---|---|---|---|---|---|---|---|---|\n");
    for waiters in [100, 250, 500, 1_000] {
        let scene = Scene {
            timeout: Duration::from_secs(30),
            ..Scene::closed(waiters)
        };
        for policy in POLICIES {
            let outcome = run(&settled(scene), &[policy]);
            let (policy, figures) = (policy.name(), figures(&outcome, price));
            let _ = writeln!(table, "| {waiters} | {policy} | {figures}");
        }
    }
    table
}

fn beside(price: f64) -> String {
    let mut table =
        format!("| processes | policy | {FIGURES}\n|---|---|---|---|---|---|---|---|---|---|\n");
    for waiters in [2, 16, 64, 250, 1_000] {
        let scene = settled(Scene::closed(waiters));
        for policy in POLICIES {
            let outcome = run(&scene, &[policy]);
            let (policy, figures) = (policy.name(), figures(&outcome, price));
            let _ = writeln!(table, "| {waiters} | {policy} | {figures}");
        }
    }
    table
}

fn holds() -> String {
    let mut table = String::from(
        "| hold | processes | timeout | writes/s | at most | gave up | wait p99 | requests a write | Jain | backoff: gave up | requests | Jain |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for hold in [5, 20, 100, 300, 1_000] {
        for (waiters, timeout) in [(4, 3), (16, 3), (16, 30)] {
            let scene = settled(Scene {
                hold: ms(hold),
                hold_spread: 0.5,
                timeout: Duration::from_secs(timeout),
                ..Scene::closed(waiters)
            });
            let outcome = run(&scene, &[Policy::PACED]);
            let before = run(&scene, &[Policy::BACKOFF]);
            let _ = writeln!(
                table,
                "| {hold} ms | {waiters} | {timeout} s | {:.1} | {:.1} | {} | {} | {:.1} | {:.3} | {} | {:.1} | {:.3} |",
                outcome.rate(),
                1.0 / scene.busy().as_secs_f64(),
                percent(outcome.failed_share()),
                time(outcome.wait(0.99)),
                outcome.requests_each(),
                outcome.jain(),
                percent(before.failed_share()),
                before.requests_each(),
                before.jain(),
            );
        }
    }
    table
}

fn round_trips() -> String {
    let mut table = String::from(
        "| round trip | writes/s | at most | wait p99 | requests a write | Jain | backoff: writes/s | wait p99 | requests |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for round_trip in [2, 5, 10, 20] {
        let scene = settled(Scene {
            round_trip: ms(round_trip),
            ..Scene::closed(16)
        });
        let outcome = run(&scene, &[Policy::PACED]);
        let before = run(&scene, &[Policy::BACKOFF]);
        let _ = writeln!(
            table,
            "| {round_trip} ms | {:.1} | {:.1} | {} | {:.2} | {:.3} | {:.1} | {} | {:.2} |",
            outcome.rate(),
            1.0 / scene.busy().as_secs_f64(),
            time(outcome.wait(0.99)),
            outcome.requests_each(),
            outcome.jain(),
            before.rate(),
            time(before.wait(0.99)),
            before.requests_each(),
        );
    }
    table
}

fn arrivals() -> String {
    let mut table = String::from(
        "| wanted of what is possible | policy | writes/s | gave up | wait p50 | wait p99 | requests a write |\n\
         |---|---|---|---|---|---|---|\n",
    );
    const PROCESSES: usize = 200;
    for load in [0.1, 0.3, 0.5, 0.7, 0.9] {
        let scene = Scene::closed(PROCESSES);
        let every = scene.busy().mul_f64(PROCESSES as f64 / load);
        let scene = settled(Scene {
            arrivals: Arrivals::After(every),
            ..scene
        });
        for policy in [Policy::PACED, Policy::BACKOFF] {
            let outcome = run(&scene, &[policy]);
            let _ = writeln!(
                table,
                "| {:.0} % | {} | {:.1} | {} | {} | {} | {:.2} |",
                load * 100.0,
                policy.name(),
                outcome.rate(),
                percent(outcome.failed_share()),
                time(outcome.wait(0.5)),
                time(outcome.wait(0.99)),
                outcome.requests_each(),
            );
        }
    }
    table
}

fn mixed() -> String {
    let mut table = String::from(
        "| 8 of each | writes of the first | of the second | gave up | wait p99 | requests a write |\n\
         |---|---|---|---|---|---|\n",
    );
    for others in [Policy::BACKOFF, Policy::PYTHON] {
        for hold in [1, 100] {
            let scene = settled(Scene {
                hold: ms(hold),
                ..Scene::closed(16)
            });
            let outcome = run(&scene, &[Policy::PACED, others]);
            let of = |first| outcome.served.iter().skip(first).step_by(2).sum::<u64>();
            let _ = writeln!(
                table,
                "| paced, {}; {hold} ms | {} | {} | {} | {} | {:.1} |",
                others.name(),
                of(0),
                of(1),
                percent(outcome.failed_share()),
                time(outcome.wait(0.99)),
                outcome.requests_each(),
            );
        }
    }
    table
}

fn starts() -> String {
    let mut table = String::from(
        "| processes | policy | writes in 20 s | requests a write | most requests in a second |\n\
         |---|---|---|---|---|\n",
    );
    for waiters in [16, 100, 1_000] {
        for policy in POLICIES {
            let outcome = run(&Scene::closed(waiters), &[policy]);
            let _ = writeln!(
                table,
                "| {waiters} | {} | {} | {:.1} | {} |",
                policy.name(),
                outcome.successes(),
                outcome.requests_each(),
                outcome.busiest_second,
            );
        }
    }
    table
}

fn throttled() -> String {
    let mut table = String::from(
        "| processes | policy | writes/s | gave up | requests a write | Jain | most requests in a second |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for waiters in [100, 1_000] {
        for policy in POLICIES {
            let scene = Scene {
                capacity: Some(1_000),
                timeout: Duration::from_secs(30),
                length: Duration::from_secs(60),
                ..Scene::closed(waiters)
            };
            let outcome = run(&scene, &[policy]);
            let _ = writeln!(
                table,
                "| {waiters} | {} | {:.1} | {} | {:.1} | {:.3} | {} |",
                policy.name(),
                outcome.rate(),
                percent(outcome.failed_share()),
                outcome.requests_each(),
                outcome.jain(),
                outcome.busiest_second,
            );
        }
    }
    table
}

fn chart(title: &'static str, unit: &'static str, is_logarithmic: bool) -> Chart<'static> {
    Chart {
        title,
        processes: "processes that write without a pause",
        unit,
        is_logarithmic,
    }
}

/// Each with its name and its figure of an outcome.
type Charted = (&'static str, Chart<'static>, Box<dyn Fn(&Outcome) -> f64>);

fn charts(price: f64) -> [Charted; 6] {
    [
        (
            "throughput",
            chart("Writes", "writes a second", false),
            Box::new(Outcome::rate),
        ),
        (
            "failed",
            chart("Given up after 3 s", "% of all", false),
            Box::new(|outcome| outcome.failed_share() * 100.0),
        ),
        (
            "wait",
            chart("Wait for the lease, 99th percentile", "s", true),
            Box::new(|outcome| outcome.wait(0.99).as_secs_f64()),
        ),
        (
            "requests",
            chart("Requests for each write", "requests", true),
            Box::new(Outcome::requests_each),
        ),
        (
            "jain",
            chart(
                "Jain's fairness index over a minute",
                "1 = all the same",
                false,
            ),
            Box::new(Outcome::jain),
        ),
        (
            "cost",
            chart("Cost of a million writes", "USD", true),
            Box::new(move |outcome| outcome.requests_each() * price),
        ),
    ]
}

/// Draws fleets of all sizes, a line for each policy.
fn draw(drawings: &Path, price: f64) -> Result<(), Box<dyn Error>> {
    let series = [
        (Policy::PACED, BLUE),
        (Policy::BACKOFF, ORANGE),
        (Policy::PYTHON, GREY),
    ];
    let fleets = series.map(|(policy, colour)| {
        let outcomes = FLEETS.map(|waiters| {
            let scene = settled(Scene::closed(waiters));
            (waiters as f64, run(&scene, &[policy]))
        });
        (policy.name(), colour, outcomes)
    });
    for (name, chart, figure) in charts(price) {
        let lines = fleets.each_ref().map(|(name, colour, outcomes)| Line {
            name: (*name).to_owned(),
            colour: *colour,
            points: (outcomes.iter())
                .map(|(waiters, outcome)| (*waiters, figure(outcome)))
                .collect(),
        });
        fs::write(
            drawings.join(name).with_extension("svg"),
            chart.svg(&lines)?,
        )?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    match share {
        0.0 => "0".to_owned(),
        _ => format!("{:.1} %", share * 100.0),
    }
}

fn time(time: Duration) -> String {
    match time.as_millis() {
        0..1_000 => format!("{:.0} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
