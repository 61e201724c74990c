//! What came of a run.

use std::time::Duration;

/// Counts of one run, its warm-up apart.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Acquisitions granted, for each process.
    pub served: Vec<u64>,
    /// Acquisitions given up.
    pub failed: u64,
    /// From the wish to the grant, for each acquisition granted; sorted.
    pub waits: Vec<Duration>,
    /// Requests of all kinds.
    pub requests: u64,
    /// The most requests that the store got in one second, the warm-up included.
    pub busiest_second: u64,
    /// How long was counted.
    pub length: Duration,
}

impl Outcome {
    /// Acquisitions granted.
    pub fn successes(&self) -> u64 {
        self.served.iter().sum()
    }

    /// Acquisitions granted in a second.
    pub fn rate(&self) -> f64 {
        self.successes() as f64 / self.length.as_secs_f64()
    }

    /// The share of acquisitions that were given up.
    pub fn failed_share(&self) -> f64 {
        self.failed as f64 / (self.failed + self.successes()).max(1) as f64
    }

    /// Requests of all kinds for each acquisition granted, those of the given up ones included.
    pub fn requests_each(&self) -> f64 {
        self.requests as f64 / self.successes().max(1) as f64
    }

    /// The wait that this share of the granted acquisitions did not exceed; zero if there are none.
    pub fn wait(&self, share: f64) -> Duration {
        let last = self.waits.len().saturating_sub(1);
        let nth = (last as f64 * share).round() as usize;
        self.waits.get(nth).copied().unwrap_or_default()
    }

    /// Jain's fairness index of the acquisitions granted: 1 if all have had as many, one part in as
    /// many as there are processes if one has had all.
    pub fn jain(&self) -> f64 {
        let sum = self.successes() as f64;
        let squares: f64 = self.served.iter().map(|n| (n * n) as f64).sum();
        match squares {
            0.0 => 0.0,
            _ => sum * sum / (self.served.len() as f64 * squares),
        }
    }

    /// The fewest and the most acquisitions that were granted to one process.
    pub fn extremes(&self) -> (u64, u64) {
        let least = self.served.iter().copied().min().unwrap_or(0);
        let most = self.served.iter().copied().max().unwrap_or(0);
        (least, most)
    }
}
