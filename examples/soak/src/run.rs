//! The parent: starts the processes, deals the blows, has the database audited, reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::dynamodb::{LockTable, env_for};
use integration::emulator::Emulator;
use integration::process::Worker;
use integration::proxy::{Action, Proxy, Rule};
use integration::scratch::Scratch;
use quickstart::progress::Progress;

use crate::chaos::{Blow, Chaos, LONGEST_DELAY};
use crate::model::{Demand, Model};
use crate::told::{Audit, Told};
use crate::worker::LEASE;
use crate::{Options, Task};

const AUDIT_EVERY: Duration = Duration::from_secs(3);
/// How long an audit, or a process that is to end, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a writer has said reaches the parent by another way than what an audit has found.
const HEARSAY: Duration = Duration::from_secs(10);
/// How many of the last blows are told with a violation.
const BLOWS_TOLD: usize = 20;
/// How long a process without memory may go on.
const STARVING: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// Runs the whole of it and prints the report; whether every guarantee held.
///
/// # Errors
/// If it cannot be run at all.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = options.seed.unwrap_or(since_epoch.as_secs());
    let duration = options.duration();
    println!(
        "{} writers and {} readers, {} s, seed {seed}",
        options.writers,
        options.readers,
        duration.as_secs()
    );
    let place = Place::new()?;
    let mut soak = Soak::start(&place, options, seed)?;
    soak.work(duration, &interrupted)?;
    soak.end()?;
    Ok(soak.report())
}

/// What all processes have in common.
struct Place {
    scratch: Scratch,
    emulator: Emulator,
    proxy: Proxy,
    table: LockTable,
}

impl Place {
    fn new() -> Result<Self, Box<dyn Error>> {
        let emulator = Emulator::start()?;
        Ok(Self {
            scratch: Scratch::new()?,
            proxy: Proxy::start(emulator.endpoint())?,
            table: LockTable::create(emulator.endpoint(), "soak-locks")?,
            emulator,
        })
    }

    fn command(&self, task: Task, name: &str) -> Result<Command, Box<dyn Error>> {
        let (task, endpoint) = match task {
            Task::Write => ("write", self.proxy.endpoint()),
            Task::Read => ("read", self.proxy.endpoint()),
            // No blow hits the auditor.
            Task::Audit => ("audit", self.emulator.endpoint().to_owned()),
        };
        let mut command = Command::new(env::current_exe()?);
        command
            .args([
                "worker",
                task,
                "--name",
                name,
                "--table",
                self.table.name(),
                "--db",
            ])
            .arg(self.scratch.database())
            .envs(env_for(&endpoint));
        Ok(command)
    }
}

/// A line that a process has said, or its end.
struct Heard {
    name: String,
    line: Option<String>,
}

struct Soak<'a> {
    place: &'a Place,
    chaos: Chaos,
    members: Vec<Member>,
    auditor: Worker,
    sender: Sender<Heard>,
    inbox: Receiver<Heard>,
    /// Those who were killed, or asked to end.
    leaving: BTreeSet<String>,
    model: Model,
    audit: AuditState,
    count: Count,
    begun: Instant,
    blows: VecDeque<String>,
    violations: Vec<String>,
}

struct Member {
    task: Task,
    name: String,
    worker: Worker,
    incarnation: u32,
    stopped_until: Option<Instant>,
    /// Without memory, dying or dead; replaced then.
    starves_until: Option<Instant>,
}

enum AuditState {
    Due(Instant),
    Asked {
        demand: Demand,
        since: Instant,
    },
    /// It has found something that may only not have been heard of yet.
    Suspicious {
        demand: Demand,
        audit: Box<Audit>,
        since: Instant,
    },
}

#[derive(Default)]
struct Count {
    reads: u64,
    retries: u64,
    refused: BTreeMap<String, u64>,
    unknown: u64,
    audits: u64,
    kills: u64,
    starved: u64,
    pauses: u64,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    outages: u64,
    last_write: Option<Instant>,
    longest_standstill: Duration,
}

impl<'a> Soak<'a> {
    fn start(place: &'a Place, options: &Options, seed: u64) -> Result<Self, Box<dyn Error>> {
        let (sender, inbox) = mpsc::channel();
        let mut auditor = start(place, Task::Audit, "auditor", &sender)?;
        auditor.send("audit")?;
        // It has set up the database by its first answer.
        inbox.recv_timeout(PATIENCE)?;
        let tasks = std::iter::repeat_n(Task::Write, options.writers.into())
            .chain(std::iter::repeat_n(Task::Read, options.readers.into()));
        let mut members = Vec::new();
        for (number, task) in tasks.enumerate() {
            let name = format!("{number}.0");
            members.push(Member {
                task,
                worker: start(place, task, &name, &sender)?,
                name,
                incarnation: 0,
                stopped_until: None,
                starves_until: None,
            });
        }
        let begun = Instant::now();
        Ok(Self {
            place,
            chaos: Chaos::new(seed, members.len()),
            members,
            auditor,
            sender,
            inbox,
            leaving: BTreeSet::new(),
            model: Model::default(),
            audit: AuditState::Due(begun),
            count: Count::default(),
            begun,
            blows: VecDeque::new(),
            violations: Vec::new(),
        })
    }

    /// Until the time is up, something is broken, or Ctrl-C.
    fn work(&mut self, duration: Duration, interrupted: &AtomicBool) -> Result<(), Box<dyn Error>> {
        let mut progress = Progress::begin(duration);
        let (mut due, mut blow) = self.next_blow(self.begun);
        let mut outage_until: Option<Instant> = None;
        while self.begun.elapsed() < duration
            && self.violations.is_empty()
            && !interrupted.load(Ordering::Relaxed)
        {
            let now = Instant::now();
            if outage_until.is_some_and(|until| until <= now) {
                outage_until = None;
                self.place.proxy.reset();
            }
            if due <= now {
                if let Blow::Outage { time } = blow {
                    outage_until = Some(now + time);
                }
                self.deal(&blow)?;
                (due, blow) = self.next_blow(now);
            }
            self.replace_the_starved(now)?;
            for member in &mut self.members {
                if member.stopped_until.is_some_and(|until| until <= now) {
                    member.stopped_until = None;
                    member.worker.resume()?;
                }
            }
            self.mind_audit()?;
            progress.show(
                self.begun.elapsed(),
                self.model.acknowledged(),
                self.count.reads,
            );
            self.hear(due.min(now + TICK));
        }
        progress.end();
        Ok(())
    }

    fn next_blow(&mut self, now: Instant) -> (Instant, Blow) {
        let (after, blow) = self.chaos.next();
        (now + after, blow)
    }

    fn deal(&mut self, blow: &Blow) -> Result<(), Box<dyn Error>> {
        self.blows.push_back(format!(
            "{:>7.1} s {blow}",
            self.begun.elapsed().as_secs_f64()
        ));
        if self.blows.len() > BLOWS_TOLD {
            self.blows.pop_front();
        }
        let place = self.place;
        if blow
            .process()
            .is_some_and(|process| self.members[process].starves_until.is_some())
        {
            return Ok(());
        }
        match blow {
            Blow::Kill { process } => {
                self.count.kills += 1;
                self.replace(*process)?;
            }
            Blow::Starve { process } => {
                self.count.starved += 1;
                let member = &mut self.members[*process];
                self.leaving.insert(member.name.clone());
                member.worker.starve()?;
                member.starves_until = Some(Instant::now() + STARVING);
            }
            Blow::Pause { process, time } => {
                self.count.pauses += 1;
                let member = &mut self.members[*process];
                member.worker.pause()?;
                member.stopped_until = Some(Instant::now() + *time);
            }
            Blow::Step { process, seconds } => {
                self.count.steps += 1;
                self.members[*process].worker.send(&seconds.to_string())?;
            }
            Blow::Fault { name, rule } => {
                *self.count.faults.entry(name).or_default() += 1;
                place.proxy.rule(rule.clone());
                place.proxy.forget_requests();
            }
            Blow::Outage { .. } => {
                self.count.outages += 1;
                place.proxy.reset();
                place.proxy.rule(Rule::any(Action::Cut));
            }
        }
        Ok(())
    }

    fn replace_the_starved(&mut self, now: Instant) -> Result<(), Box<dyn Error>> {
        for process in 0..self.members.len() {
            if self.members[process]
                .starves_until
                .is_some_and(|until| until <= now)
            {
                self.replace(process)?;
            }
        }
        Ok(())
    }

    /// Kills it, and starts another in its place.
    fn replace(&mut self, process: usize) -> Result<(), Box<dyn Error>> {
        let member = &mut self.members[process];
        if member.starves_until.take().is_none() {
            self.leaving.insert(member.name.clone());
        }
        member.worker.kill()?;
        member.incarnation += 1;
        member.name = format!("{process}.{}", member.incarnation);
        member.stopped_until = None;
        member.worker = start(self.place, member.task, &member.name, &self.sender)?;
        Ok(())
    }

    /// Takes in what the processes say until then.
    fn hear(&mut self, until: Instant) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, Heard { name, line }: Heard) {
        let Some(line) = line else {
            if !self.leaving.remove(&name) {
                self.violations
                    .push(format!("process {name} has ended by itself"));
            }
            return;
        };
        let told = match serde_json::from_str(&line) {
            Ok(told) => told,
            // A killed process may have been in the middle of a line.
            Err(_) if self.leaving.contains(&name) => return,
            Err(error) => {
                self.violations
                    .push(format!("process {name} says `{line}`: {error}"));
                return;
            }
        };
        self.model.take(&name, &told);
        match told {
            Told::Begun { .. } => {}
            Told::Written { .. } => {
                let now = Instant::now();
                let last = self.count.last_write.replace(now).unwrap_or(self.begun);
                let standstill = now.saturating_duration_since(last);
                self.count.longest_standstill = self.count.longest_standstill.max(standstill);
            }
            Told::Refused { error, .. } => {
                *self.count.refused.entry(kind(&error)).or_default() += 1
            }
            Told::Unknown { .. } => self.count.unknown += 1,
            Told::Read { whole, retries } => {
                self.count.reads += whole;
                self.count.retries += retries;
            }
            Told::Broken { what } => self.violations.push(format!("process {name}: {what}")),
            Told::Audited(audit) => {
                let due = AuditState::Due(Instant::now() + AUDIT_EVERY);
                if let AuditState::Asked { demand, .. } = std::mem::replace(&mut self.audit, due) {
                    self.count.audits += 1;
                    self.judge(demand, audit, Instant::now());
                }
            }
        }
    }

    fn judge(&mut self, demand: Demand, audit: Box<Audit>, since: Instant) {
        let wrong = self.model.violations(&demand, &audit);
        if wrong.is_empty() {
            self.audit = AuditState::Due(Instant::now() + AUDIT_EVERY);
        } else if since.elapsed() < HEARSAY {
            self.audit = AuditState::Suspicious {
                demand,
                audit,
                since,
            };
        } else {
            self.violations.extend(wrong);
        }
    }

    fn mind_audit(&mut self) -> Result<(), Box<dyn Error>> {
        let now = Instant::now();
        match std::mem::replace(&mut self.audit, AuditState::Due(now)) {
            AuditState::Due(due) if due <= now => {
                let demand = self.model.demand();
                self.auditor.send("audit")?;
                self.audit = AuditState::Asked { demand, since: now };
            }
            AuditState::Asked { since, .. } if since.elapsed() > PATIENCE => {
                let what = format!("the auditor could not read for {PATIENCE:?}");
                self.violations.push(what);
            }
            AuditState::Suspicious {
                demand,
                audit,
                since,
            } => self.judge(demand, audit, since),
            other => self.audit = other,
        }
        Ok(())
    }

    /// Lets all come to an end, has one more write done, and audits for the last time.
    fn end(&mut self) -> Result<(), Box<dyn Error>> {
        self.place.proxy.reset();
        let all_requests_have_come = Instant::now() + LONGEST_DELAY;
        let (starving, mut staying): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|member| member.starves_until.is_some());
        drop(starving);
        // All of them before any is waited for: one that stands still may hold a file lock.
        for member in &mut staying {
            if member.stopped_until.is_some() {
                member.worker.resume()?;
            }
            self.leaving.insert(member.name.clone());
            member.worker.close_stdin();
        }
        for member in &mut staying {
            if let Err(error) = member.worker.wait(PATIENCE) {
                self.violations
                    .push(format!("process {}: {error}", member.name));
            }
        }
        // What a late request still grants, to a process that is gone, is there for the next to take
        // over.
        self.hear(all_requests_have_come);
        // Whoever comes next gets the lock, and leaves nothing behind.
        let before = self.model.acknowledged();
        let mut last = start(self.place, Task::Write, "last", &self.sender)?;
        self.hear_until("the last writer gets the lock", |soak| {
            soak.model.acknowledged() > before
        });
        self.leaving.insert("last".to_owned());
        last.close_stdin();
        last.wait(PATIENCE)?;
        self.hear(Instant::now() + LEASE);
        self.audit = AuditState::Due(Instant::now());
        let audits = self.count.audits;
        self.mind_audit()?;
        self.hear_until("the last audit ends", |soak| {
            soak.count.audits > audits && matches!(soak.audit, AuditState::Due(_))
        });
        let items = self.place.table.count()?;
        if items != 0 {
            self.violations
                .push(format!("{items} lock items are left behind"));
        }
        if self.place.scratch.journal().exists() {
            self.violations.push("a journal is left behind".to_owned());
        }
        Ok(())
    }

    fn hear_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) && self.violations.is_empty() {
            if Instant::now() >= deadline {
                self.violations
                    .push(format!("waited {PATIENCE:?} in vain until {what}"));
                return;
            }
            self.hear(Instant::now() + TICK);
            if let AuditState::Suspicious { .. } = self.audit {
                // Judged again with what was heard since; no error, as nothing is sent.
                let _ = self.mind_audit();
            }
        }
    }

    fn report(&self) -> bool {
        let Count {
            reads,
            retries,
            refused,
            unknown,
            audits,
            kills,
            starved,
            pauses,
            steps,
            faults,
            outages,
            longest_standstill,
            ..
        } = &self.count;
        println!(
            "\n  ran                  {:>9.0} s",
            self.begun.elapsed().as_secs_f64()
        );
        println!("  writes acknowledged  {:>9}", self.model.acknowledged());
        println!("  reads                {reads:>9}  and {retries} to be tried again");
        println!("  audits               {audits:>9}");
        println!("  kills                {kills:>9}");
        println!("  out of memory        {starved:>9}");
        println!("  pauses               {pauses:>9}");
        println!("  clock steps          {steps:>9}");
        println!("  outages              {outages:>9}");
        println!("  faults               {:>9}", faults.values().sum::<u64>());
        for (name, count) in faults {
            println!("      {count:>6}  {name}");
        }
        println!(
            "  longest standstill   {:>9.1} s",
            longest_standstill.as_secs_f64()
        );
        println!("  outcome unknown      {unknown:>9}");
        println!(
            "  writes refused       {:>9}",
            refused.values().sum::<u64>()
        );
        for (error, count) in refused {
            println!("      {count:>6}  {error}");
        }
        if self.violations.is_empty() {
            println!("\nEvery guarantee held.");
            return true;
        }
        println!("\nBROKEN:");
        for violation in &self.violations {
            println!("  {violation}");
        }
        println!("after:");
        for blow in &self.blows {
            println!("  {blow}");
        }
        false
    }
}

fn start(
    place: &Place,
    task: Task,
    name: &str,
    sender: &Sender<Heard>,
) -> Result<Worker, Box<dyn Error>> {
    let (sender, heard_from) = (sender.clone(), name.to_owned());
    Ok(Worker::spawn_watched(
        &mut place.command(task, name)?,
        move |line| {
            let name = heard_from.clone();
            // Refused only when the parent is about to end.
            let _ = sender.send(Heard { name, line });
        },
    )?)
}

/// An error's text without what differs each time.
fn kind(error: &str) -> String {
    let end = error.find([':', '(']).unwrap_or(error.len());
    error[..end].trim_end().to_owned()
}
