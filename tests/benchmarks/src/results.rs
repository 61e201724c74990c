//! What was measured, kept in a file so that parts of it can be measured anew.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::args::Options;
use crate::cold_start::{self, Size, Start};
use crate::contention::{Figures, load};
use crate::fixture::{Outcome, Place};
use crate::requests::Step;
use crate::side_by_side::Pair;
use crate::timeline::Timeline;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Option<Machine>,
    pub(crate) contention: Vec<Figures>,
    pub(crate) requests: Vec<Step>,
    pub(crate) starts: Vec<Start>,
    pub(crate) sizes: Vec<Size>,
    pub(crate) one_process: Vec<Pair>,
    pub(crate) timeline: Option<Timeline>,
}

/// Where and how the last run was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) when: SystemTime,
    /// A request as a client sees it.
    pub(crate) round_trip: Duration,
    pub(crate) delay_ms: u64,
    pub(crate) place: Place,
    /// What a sync takes there.
    pub(crate) sync: Duration,
    /// The load average before the run.
    pub(crate) load: f64,
}

impl Results {
    /// Those of earlier runs, if there are any.
    pub(crate) fn load(quick: bool) -> Outcome<Self> {
        match fs::read(file(quick)?) {
            Ok(json) => Ok(serde_json::from_slice(&json)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn save(&self, quick: bool) -> Outcome<()> {
        let file = file(quick)?;
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        Ok(fs::write(file, serde_json::to_vec_pretty(self)?)?)
    }

    /// Notes where this run is made.
    pub(crate) fn describe(&mut self, options: &Options, round_trip: Duration) -> Outcome<()> {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = (processor.lines())
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        self.machine = Some(Machine {
            processor,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            // Without what its builder has added.
            kernel: kernel
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            when: SystemTime::now(),
            round_trip,
            delay_ms: options.delay_ms,
            place: options.place(),
            sync: options.place().sync()?,
            load: load(),
        });
        Ok(())
    }

    /// Puts a case's figures in the place of those that were there.
    pub(crate) fn take(&mut self, figures: Figures) {
        let label = figures.case.label();
        let same = (self.contention.iter_mut()).find(|other| other.case.label() == label);
        match same {
            Some(other) => *other = figures,
            None => self.contention.push(figures),
        }
        // Whatever the order in which parts were measured anew.
        (self.contention).sort_by_key(|Figures { case, .. }| {
            (case.threads > 0, case.hold_ms, case.processes, case.peer)
        });
    }
}

fn file(quick: bool) -> Outcome<PathBuf> {
    let name = if quick { "quick.json" } else { "results.json" };
    Ok(cold_start::target()?.join("benchmarks").join(name))
}
