//! A process's first row, first committed write and peak memory; the size of its binary.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration::process::Worker;
use serde::{Deserialize, Serialize};

use benchmarks::figures::percentile;

use crate::fixture::{Bench, Outcome};

const PATIENCE: Duration = Duration::from_secs(60);

/// What starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    Python,
    /// The application `minimal`, built in this profile.
    Minimal {
        profile: String,
        warms_up: bool,
    },
}

impl Program {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Python => "Python package".to_owned(),
            Self::Minimal { profile, warms_up } => {
                let warm_up = if *warms_up { ", with `warm_up()`" } else { "" };
                format!("minimal application, profile `{profile}`{warm_up}")
            }
        }
    }
}

/// Medians over all starts, each counted from before the process was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) program: Program,
    pub(crate) starts: usize,
    pub(crate) row: Duration,
    /// When `warm_up()` was done.
    pub(crate) warm: Option<Duration>,
    pub(crate) written: Duration,
    /// From what stood before it, the row or the warming up, to the committed write.
    pub(crate) write_alone: Duration,
    pub(crate) peak_kib: u64,
}

impl Start {
    pub(crate) fn line(&self) -> String {
        let warm = self
            .warm
            .map(|warm| format!("  warm {warm:.1?}"))
            .unwrap_or_default();
        format!(
            "{:<54} row {:.1?}{warm}  written {:.1?} (the write alone {:.1?})  peak {:.1} MiB",
            self.program.name(),
            self.row,
            self.written,
            self.write_alone,
            self.peak_kib as f64 / 1024.0
        )
    }
}

/// The minimal application's size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) profile: String,
    pub(crate) bytes: u64,
    /// Crates in its tree, those for macros and itself included, build scripts' own not.
    pub(crate) crates: usize,
}

/// Starts each program so often, by turns.
pub(crate) fn run(bench: &Bench, profiles: &[&str], starts: usize) -> Outcome<Vec<Start>> {
    let mut programs = vec![Program::Python];
    for warms_up in [false, true] {
        programs.extend(profiles.iter().map(|profile| Program::Minimal {
            profile: (*profile).to_owned(),
            warms_up,
        }));
    }
    let mut all: Vec<Vec<Once>> = vec![Vec::new(); programs.len()];
    // The first of each brings its files into the system's cache, and does not count.
    for round in 0..=starts {
        for (program, times) in programs.iter().zip(&mut all) {
            let once = start(bench, program)?;
            if round > 0 {
                times.push(once);
            }
        }
    }
    Ok((programs.into_iter().zip(all))
        .map(|(program, times)| {
            let median = |figure: &dyn Fn(&Once) -> Duration| {
                let mut figures: Vec<_> = times.iter().map(figure).collect();
                figures.sort();
                percentile(&figures, 50)
            };
            let is_warm = matches!(program, Program::Minimal { warms_up: true, .. });
            Start {
                program,
                starts: times.len(),
                row: median(&|once| once.row),
                warm: is_warm.then(|| median(&|once| once.warm.unwrap_or_default())),
                written: median(&|once| once.written),
                write_alone: median(&|once| once.written - once.warm.unwrap_or(once.row)),
                peak_kib: times
                    .iter()
                    .map(|once| once.peak_kib)
                    .max()
                    .unwrap_or_default(),
            }
        })
        .collect())
}

#[derive(Debug, Clone)]
struct Once {
    row: Duration,
    warm: Option<Duration>,
    written: Duration,
    peak_kib: u64,
}

fn start(bench: &Bench, program: &Program) -> Outcome<Once> {
    let fixture = bench.fixture()?;
    let (mut command, warms_up) = match program {
        Program::Python => (fixture.python("cold.py", &[]), false),
        Program::Minimal { profile, warms_up } => {
            let mut command = Command::new(binary(profile)?);
            command.arg(fixture.url("lock_timeout=3"));
            if *warms_up {
                command.arg("warm-up");
            }
            (fixture.command(command), *warms_up)
        }
    };
    let begun = Instant::now();
    let worker = Worker::spawn(&mut command)?;
    let line = |expected: &str| -> Outcome<Duration> {
        let line = worker.line(PATIENCE)?;
        match line.starts_with(expected) {
            true => Ok(begun.elapsed()),
            false => Err(format!("{}: `{line}` instead of `{expected}`", program.name()).into()),
        }
    };
    let row = line("row")?;
    let warm = if warms_up { Some(line("warm")?) } else { None };
    let written = line("written")?;
    let peak = worker.line(PATIENCE)?;
    let kib = peak.split(' ').next().unwrap_or_default();
    Ok(Once {
        row,
        warm,
        written,
        peak_kib: kib.parse().map_err(|_| format!("`{peak}` is no size"))?,
    })
}

/// Builds the minimal application: in this program's own profile with the features that the
/// workspace has there already, so that no dependency is built twice; in any other alone, with no
/// features but its own, as one who depends on the crate would.
pub(crate) fn build(profile: &str) -> Outcome<()> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--profile", profile]);
    command.args(match profile {
        "dev" => &["--workspace", "--all-targets"][..],
        "release" => &["-p", "minimal", "-p", "benchmarks"],
        _ => &["-p", "minimal"],
    });
    let status = command.arg("--target-dir").arg(target()?).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the minimal application does not build in profile `{profile}`").into())
    }
}

pub(crate) fn size(profile: &str) -> Outcome<Size> {
    Ok(Size {
        profile: profile.to_owned(),
        bytes: fs::metadata(binary(profile)?)?.len(),
        crates: crates()?,
    })
}

fn crates() -> Outcome<usize> {
    let output = cargo()
        .args(["tree", "--locked", "-p", "minimal", "-e", "normal"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let tree = String::from_utf8(output.stdout)?;
    let names = tree
        .lines()
        .map(|line| line.trim_end_matches(" (proc-macro)"));
    Ok(names.collect::<BTreeSet<_>>().len())
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

fn binary(profile: &str) -> Outcome<PathBuf> {
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(target()?.join(directory).join("minimal"))
}

/// The profile in which this very program is built.
pub(crate) fn own_profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    }
}

/// The build's directory: this program is in that of its profile.
pub(crate) fn target() -> Outcome<PathBuf> {
    let program = env::current_exe()?;
    let target = program
        .ancestors()
        .nth(2)
        .ok_or("this program is in no directory")?;
    Ok(target.to_owned())
}
