//! Measures diesel-sqlite-efs beside the Python package and Diesel's own connection, and writes the
//! report.
//!
//! `args` says what can be asked for. `fixture` has the database, the lock table and the proxy of one
//! case. Each of `contention`, `requests`, `cold_start`, `side_by_side` and `timeline` measures one
//! thing; `results` keeps what they found, so that parts can be measured anew, and `report` with
//! `plot` writes it down.

mod args;
mod cold_start;
mod contention;
mod fixture;
mod plot;
mod report;
mod requests;
mod results;
mod side_by_side;
mod timeline;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Args, Options, Part, Role};
use crate::contention::Peer;
use crate::fixture::{Bench, Outcome};
use crate::results::Results;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.role {
        Some(Role::Contender(work)) => work.serve(),
        Some(Role::Actor { url }) => requests::actor::serve(url),
        Some(Role::TimelineOf { url, transactions }) => timeline::serve(url, *transactions),
        None => measure(&args.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for, and writes the report of all that has been measured.
fn measure(options: &Options) -> Outcome<()> {
    let quick = options.quick;
    let mut results = Results::load(quick)?;
    if options.report {
        println!("written: {}", report::write(&results, quick)?.display());
        return Ok(());
    }
    let bench = Bench::new(Duration::from_millis(options.delay_ms), options.place())?;
    let round_trip = bench.round_trip()?;
    println!(
        "round trip {round_trip:.2?}, {} ms of it added",
        options.delay_ms
    );
    results.describe(options, round_trip)?;
    for part in options.parts() {
        println!("\n{}", part.title());
        match part {
            Part::OneProcess => {
                results.one_process =
                    side_by_side::run(options.place(), quick, |pair| println!("{}", pair.line()))?;
            }
            Part::Requests => {
                results.requests = requests::run(&bench)?;
                for step in &results.requests {
                    println!("{}", step.line());
                }
            }
            Part::Timeline => {
                let timeline = timeline::run(&bench, if quick { 20 } else { 200 })?;
                println!("{}", timeline.line());
                results.timeline = Some(timeline);
            }
            Part::ColdStart => {
                let mut profiles = vec![cold_start::own_profile()];
                if !quick {
                    profiles.push("lambda");
                }
                for profile in &profiles {
                    println!("building the minimal application, profile {profile} ...");
                    cold_start::build(profile)?;
                }
                results.sizes = (profiles.iter().map(|profile| cold_start::size(profile)))
                    .collect::<Outcome<_>>()?;
                results.starts = cold_start::run(&bench, &profiles, if quick { 3 } else { 20 })?;
                for start in &results.starts {
                    println!("{}", start.line());
                }
                for size in &results.sizes {
                    println!("{size:?}");
                }
            }
            Part::Contention => {
                for cases in contention::cases(options) {
                    contention::by_turns(&bench, &cases, |figures| println!("{}", figures.line()))?
                        .into_iter()
                        .for_each(|figures| results.take(figures));
                    results.save(quick)?;
                }
            }
        }
        results.save(quick)?;
    }
    let page = report::write(&results, quick)?;
    println!("\nwritten: {}", page.display());
    let ours = (results.contention.iter()).filter(|figures| figures.case.peer != Peer::Python);
    let wrong: Vec<_> = ours
        .filter(|figures| !figures.is_right())
        .map(|figures| {
            let (counted, acknowledged) = (figures.counted, figures.acknowledged);
            format!("{}: {counted} of {acknowledged}", figures.case.label())
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the counter has not grown by what was acknowledged: {}",
            wrong.join("; ")
        )
        .into())
    }
}
