//! The run itself: a queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::policy::{CurrentHolder, Policy, Waiter};
use crate::scene::{Arrivals, Scene};

/// Runs the scene; the policies are dealt out to the processes in turn.
///
/// # Panics
/// If there is no policy.
pub fn run(scene: &Scene, policies: &[Policy]) -> Outcome {
    let mut run = Run::new(scene, policies);
    let end = scene.warm_up + scene.length;
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        if now > end {
            break;
        }
        run.now = now;
        run.take(event);
    }
    run.outcome.waits.sort_unstable();
    run.outcome
}

/// Something happens to the process of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It wants the lock.
    Begins(usize),
    /// It sends an attempt.
    Asks(usize),
    /// Its attempt reaches the store.
    Arrives(usize),
    /// The answer reaches it.
    Answered(usize, Answer),
    /// Its last request, which frees the lock, reaches the store.
    Releases(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Granted,
    Refused,
    Throttled,
}

/// The lock item.
#[derive(Debug, Clone, Copy)]
struct Item {
    grant: u64,
    waited: Option<Duration>,
}

struct WaitingProcess {
    policy: Policy,
    waiter: Waiter,
    begun: Duration,
    asked: Duration,
    /// What the attempt on its way would tell others.
    tells: Option<Duration>,
    current_holder: Option<CurrentHolder>,
}

struct Run<'a> {
    scene: &'a Scene,
    random: fastrand::Rng,
    /// The policies count in instants; this is their zero.
    base: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    scheduled: u64,
    processes: Vec<WaitingProcess>,
    item: Option<Item>,
    grants: u64,
    /// Attempts that the store could answer at once, if it has a limit.
    spare: f64,
    spare_at: Duration,
    second: u64,
    in_this_second: u64,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn new(scene: &'a Scene, policies: &[Policy]) -> Self {
        let base = Instant::now();
        let mut random = fastrand::Rng::with_seed(scene.seed);
        let processes = (0..scene.waiters)
            .map(|nth| {
                let policy = policies[nth % policies.len()];
                WaitingProcess {
                    policy,
                    waiter: policy.waiter(random.fork()),
                    begun: Duration::ZERO,
                    asked: Duration::ZERO,
                    tells: None,
                    current_holder: None,
                }
            })
            .collect();
        let mut run = Self {
            scene,
            random,
            base,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            scheduled: 0,
            processes,
            item: None,
            grants: 0,
            spare: 0.0,
            spare_at: Duration::ZERO,
            second: 0,
            in_this_second: 0,
            outcome: Outcome {
                served: vec![0; scene.waiters],
                length: scene.length,
                ..Outcome::default()
            },
        };
        for nth in 0..scene.waiters {
            let start = match scene.arrivals {
                Arrivals::Closed => Duration::from_millis(100).mul_f64(run.random.f64()),
                Arrivals::After(mean) => run.drawn(mean),
            };
            run.schedule(start, Event::Begins(nth));
        }
        run
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begins(nth) => self.begin(nth),
            Event::Asks(nth) => self.ask(nth),
            Event::Arrives(nth) => self.arrive(nth),
            Event::Answered(nth, Answer::Granted) => self.hold(nth),
            Event::Answered(nth, Answer::Refused) => self.wait(nth),
            Event::Answered(nth, Answer::Throttled) => {
                self.processes[nth].current_holder = None;
                self.wait(nth);
            }
            Event::Releases(nth) => {
                self.item = None;
                let answered = self.half();
                self.begin_again(nth, answered);
            }
        }
    }

    fn begin(&mut self, nth: usize) {
        let (now, until) = (self.instant(), self.instant() + self.scene.timeout);
        let process = &mut self.processes[nth];
        process.begun = self.now;
        let pause = process
            .waiter
            .begin(now, until)
            .saturating_duration_since(now);
        self.schedule(pause.min(self.scene.timeout), Event::Asks(nth));
    }

    fn ask(&mut self, nth: usize) {
        let now = self.instant();
        let process = &mut self.processes[nth];
        process.asked = self.now;
        process.tells = process.waiter.usual_wait(now);
        self.count_request();
        let way = self.half();
        self.schedule(way, Event::Arrives(nth));
    }

    fn arrive(&mut self, nth: usize) {
        let answer = if self.is_throttled() {
            Answer::Throttled
        } else if let Some(item) = self.item {
            self.processes[nth].current_holder = Some(CurrentHolder {
                holder: item.grant,
                waited: item.waited,
            });
            Answer::Refused
        } else {
            self.grants += 1;
            self.item = Some(Item {
                grant: self.grants,
                waited: self.processes[nth].tells,
            });
            Answer::Granted
        };
        let way = self.half();
        self.schedule(way, Event::Answered(nth, answer));
    }

    fn hold(&mut self, nth: usize) {
        let now = self.instant();
        let process = &mut self.processes[nth];
        process.waiter.granted(process.tells, now);
        let confirms = process.policy.confirms_commits();
        let waited = self.now - process.begun;
        self.serve(nth, waited);
        let spread = self.scene.hold_spread * (2.0 * self.random.f64() - 1.0);
        let mut hold = self.scene.hold.mul_f64(1.0 + spread);
        if confirms {
            hold += self.answered();
        }
        self.count_request();
        let way = self.half();
        self.schedule(hold + way, Event::Releases(nth));
    }

    /// A request, and the time until its answer.
    fn answered(&mut self) -> Duration {
        self.count_request();
        self.half() + self.half()
    }

    fn serve(&mut self, nth: usize, waited: Duration) {
        if self.counts() {
            self.outcome.served[nth] += 1;
            self.outcome.waits.push(waited);
        }
    }

    fn wait(&mut self, nth: usize) {
        let now = self.instant();
        let process = &mut self.processes[nth];
        let sent = self.base + process.asked;
        match process.waiter.next_ask(sent, now, process.current_holder) {
            Some(next) => self.schedule(next.saturating_duration_since(now), Event::Asks(nth)),
            None => {
                process.waiter.gave_up(now);
                if self.counts() {
                    self.outcome.failed += 1;
                }
                self.begin_again(nth, Duration::ZERO);
            }
        }
    }

    fn begin_again(&mut self, nth: usize, after: Duration) {
        /// What the caller does in between at least.
        const LEAST: Duration = Duration::from_micros(100);
        let think = match self.scene.arrivals {
            Arrivals::Closed => Duration::ZERO,
            Arrivals::After(mean) => self.drawn(mean),
        };
        self.schedule(after + think + LEAST, Event::Begins(nth));
    }

    /// Whether the store has been asked too often to answer now.
    fn is_throttled(&mut self) -> bool {
        /// How many it saves up: a twentieth of a second's.
        const SAVED: f64 = 0.05;
        let Some(capacity) = self.scene.capacity.map(f64::from) else {
            return false;
        };
        let earned = (self.now - self.spare_at).as_secs_f64() * capacity;
        self.spare_at = self.now;
        self.spare = (self.spare + earned).min(capacity * SAVED);
        if self.spare < 1.0 {
            return true;
        }
        self.spare -= 1.0;
        false
    }

    fn count_request(&mut self) {
        let second = self.now.as_secs();
        if second != self.second {
            (self.second, self.in_this_second) = (second, 0);
        }
        self.in_this_second += 1;
        self.outcome.busiest_second = self.outcome.busiest_second.max(self.in_this_second);
        if self.counts() {
            self.outcome.requests += 1;
        }
    }

    fn counts(&self) -> bool {
        self.now >= self.scene.warm_up
    }

    fn instant(&self) -> Instant {
        self.base + self.now
    }

    fn half(&mut self) -> Duration {
        (self.scene.round_trip / 2).mul_f64(0.95 + 0.1 * self.random.f64())
    }

    fn drawn(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.random.f64()).ln())
    }

    /// What is scheduled for one time happens in the order of scheduling.
    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        let entry = (self.now + after, self.scheduled, event);
        self.events.push(Reverse(entry));
    }
}
