//! A process that a test drives: one database connection, ours or Diesel's own, or one lock client.
//!
//! Each line on standard input is a command, and each is answered with one line on standard
//! output: `ok ..`, or `error KIND retryable|final MESSAGE`. The first line of all, without a
//! command, says whether the connection could be opened. The process ends with its standard input.

mod client;
mod console;
mod database;
mod migrations;
mod plain;
mod runtime;

use std::collections::HashMap;
use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use console::Console;
use diesel_sqlite_efs::{Clock, ManualClock, Timestamp};
use integration::clock;

const USAGE: &str = "usage: worker database URL [base-vfs=NAME] [clock=still|ahead|behind|stepping] [runtime=PLACE]\n       \
    worker plain PATH\n       \
    worker client TABLE [lease=SECONDS] [max-hold=SECONDS] [holder=NAME] \
    [runtime=current-thread|multi-thread]";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(mode), Some(target)) = (arguments.next(), arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let options = arguments
        .filter_map(|argument| {
            let (name, value) = argument.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect();
    let options = Options(options);
    let mut console = Console;
    match mode.as_str() {
        "database" => match runtime::Place::named(options.get("runtime")) {
            Ok(place) => place.run(move || database::serve(&target, &options, &mut Console)),
            Err(error) => console.answer(Err(error)),
        },
        "plain" => plain::serve(&target, &mut console),
        "client" => client::serve(target, &options, &mut console),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What follows the mode and its target: `name=value`.
struct Options(HashMap<String, String>);

impl Options {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A number of seconds.
    fn seconds(&self, name: &str) -> Option<Duration> {
        let seconds = self.get(name)?.parse().ok()?;
        Some(Duration::from_secs_f64(seconds))
    }

    /// The clock that the process is to believe in.
    fn clock(&self) -> Clock {
        match self.get("clock") {
            // As in a virtual machine that was frozen: no time has passed.
            Some("still") => ManualClock::new(now()).clock(),
            Some("ahead") => skewed(|wall, _| wall + HOUR),
            Some("behind") => skewed(|wall, _| wall - HOUR),
            Some("stepping") => skewed(stepping),
            _ => Clock::system(),
        }
    }
}

fn now() -> Timestamp {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::new(Duration::ZERO, wall.unwrap_or_default())
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A host's clock whose wall time is what `wall` makes of the true one and the time since the start.
fn skewed(wall: fn(Duration, Duration) -> Duration) -> Clock {
    let start = Instant::now();
    clock::following(move || {
        let monotonic = start.elapsed();
        Timestamp::new(monotonic, wall(now().wall, monotonic))
    })
}

/// An hour ahead and an hour behind by turns.
fn stepping(wall: Duration, since_start: Duration) -> Duration {
    match since_start.as_millis() / 400 % 3 {
        0 => wall,
        1 => wall + HOUR,
        _ => wall - HOUR,
    }
}
