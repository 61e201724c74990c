//! Who waits for what: the circumstances of one run.

use std::time::Duration;

/// One lock, its waiters, and what they do with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scene {
    /// How many processes want the lock.
    pub waiters: usize,
    /// From a request to its answer, as a client sees it; half of it either way, each half up to a
    /// twentieth shorter or longer. The store itself takes no time and takes requests one by one.
    pub round_trip: Duration,
    /// The mean time between the grant and the commit point, requests apart: the work on the file.
    pub hold: Duration,
    /// By what part of it a single hold is shorter or longer, evenly drawn.
    pub hold_spread: f64,
    /// How long a process waits before it gives up.
    pub timeout: Duration,
    /// When a process wants the lock again.
    pub arrivals: Arrivals,
    /// Attempts that the store answers in a second; more are throttled. None: no limit.
    pub capacity: Option<u32>,
    /// What happens before this is not counted.
    pub warm_up: Duration,
    /// How long is counted.
    pub length: Duration,
    /// All that is random.
    pub seed: u64,
}

/// When a process wants the lock again after it has released it, or has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// At once, and all begin within a tenth of a second.
    Closed,
    /// After a time drawn from the exponential distribution with this mean.
    After(Duration),
}

impl Scene {
    /// Processes that write without a pause, as they are measured in the benchmarks: 7.1 ms to the
    /// store and back, 1 ms of work on the file, a timeout of 3 s, 20 s from the very start.
    pub fn closed(waiters: usize) -> Self {
        Self {
            waiters,
            round_trip: Duration::from_micros(7_100),
            hold: Duration::from_millis(1),
            hold_spread: 0.2,
            timeout: Duration::from_secs(3),
            arrivals: Arrivals::Closed,
            capacity: None,
            warm_up: Duration::ZERO,
            length: Duration::from_secs(20),
            seed: 1,
        }
    }

    /// For how long the store sees the lock held by a holder that confirms its commit, on average.
    pub fn busy(&self) -> Duration {
        self.hold + self.round_trip * 2
    }
}
