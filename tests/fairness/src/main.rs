//! `cargo run --release -p fairness`: the tables of `docs/fairness.md` and its drawings.

use std::error::Error;
use std::path::Path;

use fairness::{Policy, Scene, report, run};

const USAGE: &str = "\
cargo run --release -p fairness [-- COMMAND]

  (none)                  prints docs/fairness.md as it would be now
  write [DOCS] [PRICE]    writes it, and docs/fairness/*.svg; DOCS is another directory, PRICE what a
                          million write request units cost, in US dollars
  sweep NAME=V1,V2,.. ..  tries other numbers of the policy (lease/wait_policy.rs), in all combinations";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => print!("{}", report::page(report::PRICE)),
        ["write"] => {
            let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
            print!("{}", report::write(Path::new(docs), report::PRICE)?);
        }
        ["write", docs] => print!("{}", report::write(Path::new(docs), report::PRICE)?),
        ["write", docs, price] => print!("{}", report::write(Path::new(docs), price.parse()?)?),
        ["sweep", ref lists @ ..] => sweep(lists)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// One line for each combination of the numbers.
fn sweep(lists: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut combinations = vec![Vec::new()];
    for list in lists {
        let (name, values) = list.split_once('=').ok_or(USAGE)?;
        let values = values.split(',').map(str::parse::<f64>);
        let values: Vec<f64> = values.collect::<Result<_, _>>()?;
        combinations = (values.iter())
            .flat_map(|&value| {
                combinations.iter().map(move |numbers: &Vec<(&str, f64)>| {
                    [&numbers[..], &[(name, value)]].concat()
                })
            })
            .collect();
    }
    println!("writes/s · requests a write · gave up · p99 wait · Jain · most requests in a second");
    for numbers in combinations {
        let policy = Policy::tuned(&numbers)?;
        println!("{numbers:?}");
        for (waiters, hold, timeout) in [
            (2, 1, 3),
            (16, 1, 3),
            (16, 100, 3),
            (64, 1, 3),
            (1_000, 1, 30),
        ] {
            let scene = Scene {
                hold: std::time::Duration::from_millis(hold),
                timeout: std::time::Duration::from_secs(timeout),
                ..Scene::closed(waiters)
            };
            let outcome = run(&scene, &[policy]);
            println!(
                "  {waiters:4} × {hold:3} ms {:6.1} {:6.2} {:5.1} % {:6.0} ms {:.3} {:6}",
                outcome.rate(),
                outcome.requests_each(),
                outcome.failed_share() * 100.0,
                outcome.wait(0.99).as_secs_f64() * 1e3,
                outcome.jain(),
                outcome.busiest_second,
            );
        }
    }
    Ok(())
}
