//! The parent: starts everything, takes down what the workers claim, ends everything.

use std::env;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use integration::dynamodb::{LockTable, env_for};
use integration::emulator::Emulator;
use integration::process::Worker;
use integration::scratch::Scratch;
use quickstart::progress::Progress;

use crate::args::{Options, Task};
use crate::message::{GO, Message};
use crate::report::{Audit, Report, Tally};

/// How long a process may take to open the database, prepare or audit it.
const TASK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a worker may take to end its last transaction: longer than it waits for the lock.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the display is brought up to date.
const TICK: Duration = Duration::from_millis(100);

/// The lock table's name where nobody gave one.
const DEFAULT_TABLE: &str = "quickstart-locks";

/// What became of the guarantees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Held,
    Broken,
    Interrupted,
}

/// Runs the whole of it and prints the report.
///
/// # Errors
/// If it cannot be run at all.
pub(crate) fn run(options: &Options) -> Result<Outcome, Box<dyn Error>> {
    let (events, inbox) = mpsc::channel();
    let interrupted = listen_for_interrupts(events.clone())?;
    match run_until_interrupted(options, events, &inbox, &interrupted) {
        // Ctrl-C ends the compiler of the emulator as well, for one; that needs no explanation.
        Err(_) if interrupted.load(Ordering::Relaxed) => Ok(Outcome::Interrupted),
        outcome => outcome,
    }
}

fn run_until_interrupted(
    options: &Options,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
    interrupted: &AtomicBool,
) -> Result<Outcome, Box<dyn Error>> {
    let place = Place::find(options)?;
    let locks = Locks::find(options)?;
    // Another name in each run: the entries of earlier runs, and of other hosts, stay apart.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let setting = Setting {
        run: &run,
        place: &place,
        locks: &locks,
    };
    println!(
        "{} writers and {} readers, {} s, on {}\n{locks}\n",
        options.writers, options.readers, options.seconds, place
    );
    setting.prepare()?;

    let mut crew = Crew::start(&setting, options, events, inbox)?;
    let elapsed = crew.work(Duration::from_secs(options.seconds.into()))?;
    crew.stop()?;
    let audit = setting.audit()?;
    let report = Report {
        guarded: !options.no_lock,
        elapsed,
        tallies: crew.into_tallies(),
        audit,
    };
    let held = report.print()?;
    Ok(if !held && !options.no_lock {
        Outcome::Broken
    } else if interrupted.load(Ordering::Relaxed) {
        Outcome::Interrupted
    } else {
        Outcome::Held
    })
}

/// On the first Ctrl-C (or SIGTERM, or SIGHUP) tells the parent; on the second ends it at once, and
/// with it all workers and the emulator, which see their standard input closed.
fn listen_for_interrupts(events: Sender<Event>) -> Result<Arc<AtomicBool>, ctrlc::Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(crate::INTERRUPTED));
        }
        // Nobody listens any more: then it is ending anyway.
        let _ = events.send(Event::Interrupted);
    })?;
    Ok(interrupted)
}

/// Where the database is.
enum Place {
    Temporary(Scratch),
    Given(PathBuf),
}

impl Place {
    fn find(options: &Options) -> Result<Self, Box<dyn Error>> {
        let Some(path) = &options.db else {
            return Ok(Self::Temporary(Scratch::new()?));
        };
        let shown = path.display();
        if path.is_dir() {
            return Err(format!("--db {shown}: is a directory; give a file's name in it").into());
        }
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(format!("--db {shown}: is not the name of a file").into()),
        };
        if !directory.is_dir() {
            let missing = directory.display();
            return Err(format!("--db {shown}: there is no directory {missing}").into());
        }
        if options.no_lock && path.exists() {
            let problem = "exists already, and --no-lock would break it; give a new file's name";
            return Err(format!("--db {shown}: {problem}").into());
        }
        Ok(Self::Given(path.clone()))
    }

    fn database(&self) -> &Path {
        match self {
            Self::Temporary(scratch) => scratch.database(),
            Self::Given(path) => path,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.database().display())?;
        match self {
            Self::Temporary(_) => f.write_str(" (deleted at the end)"),
            Self::Given(_) => Ok(()),
        }
    }
}

/// What keeps the writers apart.
enum Locks {
    /// Nothing.
    None,
    /// A table in an emulator: our own, or one that runs already.
    Emulated {
        table: String,
        endpoint: String,
        _emulator: Option<Emulator>,
    },
    /// A table in AWS, as the environment says.
    Aws { table: String },
}

impl Locks {
    fn find(options: &Options) -> Result<Self, Box<dyn Error>> {
        if options.no_lock {
            return Ok(Self::None);
        }
        let name = options.table.as_deref().unwrap_or(DEFAULT_TABLE);
        let (endpoint, emulator) = match (&options.endpoint, &options.table) {
            (Some(endpoint), _) => (endpoint.clone(), None),
            (None, Some(table)) => {
                return Ok(Self::Aws {
                    table: table.clone(),
                });
            }
            (None, None) => {
                let emulator = Emulator::start()?;
                (emulator.endpoint().to_owned(), Some(emulator))
            }
        };
        if !LockTable::open(&endpoint, name)?.exists()? {
            LockTable::create(&endpoint, name)?;
        }
        Ok(Self::Emulated {
            table: name.to_owned(),
            endpoint,
            _emulator: emulator,
        })
    }

    fn table(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Emulated { table, .. } | Self::Aws { table } => Some(table),
        }
    }
}

impl std::fmt::Display for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("no locks at all: SQLite's VFS `unix-none`"),
            Self::Emulated {
                table, endpoint, ..
            } => write!(f, "lock table {table} in the emulator at {endpoint}"),
            Self::Aws { table } => write!(f, "lock table {table} in AWS"),
        }
    }
}

/// What all processes of a run have in common.
struct Setting<'a> {
    run: &'a str,
    place: &'a Place,
    locks: &'a Locks,
}

impl Setting<'_> {
    fn command(&self, task: Task, name: &str) -> io::Result<Command> {
        let task = match task {
            Task::Prepare => "prepare",
            Task::Write => "write",
            Task::Read => "read",
            Task::Audit => "audit",
        };
        let mut command = Command::new(env::current_exe()?);
        command.args(["worker", task, "--name", name, "--db"]);
        command.arg(self.place.database());
        if let Some(table) = self.locks.table() {
            command.args(["--table", table]);
        }
        if let Locks::Emulated { endpoint, .. } = self.locks {
            command.envs(env_for(endpoint));
        }
        Ok(command)
    }

    fn prepare(&self) -> Result<(), Box<dyn Error>> {
        self.run_once(Task::Prepare, |message| match message {
            Message::Failed { error } => Err(format!("cannot set up the database: {error}").into()),
            _ => Ok(()),
        })
    }

    fn audit(&self) -> Result<Audit, Box<dyn Error>> {
        let mut audit = Audit::default();
        self.run_once(Task::Audit, |message| {
            match message {
                Message::Found { writer, sequences } => {
                    audit.found.insert(writer, sequences);
                }
                Message::Audited {
                    snapshot,
                    duplicates,
                    integrity,
                } => {
                    audit.snapshot = snapshot;
                    audit.duplicates = duplicates;
                    audit.integrity = integrity;
                }
                Message::Failed { error } => audit.errors.push(error),
                _ => {}
            }
            Ok(())
        })?;
        Ok(audit)
    }

    /// Has a process do something and hands over what it says.
    fn run_once(
        &self,
        task: Task,
        mut take: impl FnMut(Message) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let worker = Worker::spawn(&mut self.command(task, self.run)?)?;
        loop {
            let line = worker
                .line(TASK_TIMEOUT)
                .map_err(|error| format!("a process that was to {task:?} the database: {error}"))?;
            match serde_json::from_str(&line)? {
                Message::Done { .. } => return Ok(()),
                message => take(message)?,
            }
        }
    }
}

/// Something that the parent learns.
enum Event {
    Told { member: usize, line: String },
    Ended { member: usize },
    Interrupted,
}

/// The writers and readers.
struct Crew<'a> {
    inbox: &'a Receiver<Event>,
    members: Vec<Member>,
    interrupted: bool,
}

struct Member {
    worker: Worker,
    ready: bool,
    ended: bool,
    tally: Tally,
}

impl<'a> Crew<'a> {
    /// Starts all and waits until each has opened the database.
    fn start(
        setting: &Setting<'_>,
        options: &Options,
        events: Sender<Event>,
        inbox: &'a Receiver<Event>,
    ) -> Result<Self, Box<dyn Error>> {
        let writers = (1..=options.writers).map(|n| (Task::Write, format!("writer {n}")));
        let readers = (1..=options.readers).map(|n| (Task::Read, format!("reader {n}")));
        let mut crew = Self {
            inbox,
            members: Vec::new(),
            interrupted: false,
        };
        for (member, (task, label)) in writers.chain(readers).enumerate() {
            let name = format!("{} {label}", setting.run);
            let events = events.clone();
            let watch = move |line| {
                let event = match line {
                    Some(line) => Event::Told { member, line },
                    None => Event::Ended { member },
                };
                // Refused only when the parent is about to end.
                let _ = events.send(event);
            };
            crew.members.push(Member {
                worker: Worker::spawn_watched(&mut setting.command(task, &name)?, watch)?,
                ready: false,
                ended: false,
                tally: Tally::new(label, name, task == Task::Write),
            });
        }
        let deadline = Instant::now() + TASK_TIMEOUT;
        while !crew.members.iter().all(|member| member.ready) {
            if !crew.take_event(deadline)? {
                return Err("the workers did not open the database in time".into());
            }
            for member in &crew.members {
                if let Some(error) = &member.tally.first_error {
                    return Err(format!("{}: {error}", member.tally.label).into());
                }
                if member.ended {
                    return Err(format!("{} has ended before it began", member.tally.label).into());
                }
            }
        }
        Ok(crew)
    }

    /// Lets all work until the time is up, or none works any more, or Ctrl-C.
    fn work(&mut self, duration: Duration) -> io::Result<Duration> {
        for member in &mut self.members {
            member.worker.send(GO)?;
        }
        let begun = Instant::now();
        let deadline = begun + duration;
        let mut progress = Progress::begin(duration);
        let mut tick = begun;
        while !self.interrupted && !self.all_ended() && Instant::now() < deadline {
            if Instant::now() >= tick {
                let tallies = || self.members.iter().map(|member| &member.tally);
                let writes = tallies().map(|tally| tally.written.len()).sum();
                let reads = tallies().map(|tally| tally.whole + tally.torn).sum();
                progress.show(begun.elapsed(), writes, reads);
                tick += TICK;
            }
            self.take_event(deadline.min(tick))?;
        }
        let elapsed = begun.elapsed();
        progress.end();
        Ok(elapsed)
    }

    /// Asks all to end, and takes down what they still have to say.
    fn stop(&mut self) -> io::Result<()> {
        for member in &mut self.members {
            member.worker.close_stdin();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.all_ended() && self.take_event(deadline)? {}
        for member in &mut self.members {
            let left = deadline.saturating_duration_since(Instant::now());
            match member.worker.wait(left) {
                Ok(status) if status.success() && member.tally.finished() => {}
                Ok(status) => member.tally.fail(format!("ended with {status}")),
                Err(error) => member.tally.fail(error.to_string()),
            }
        }
        Ok(())
    }

    fn all_ended(&self) -> bool {
        self.members.iter().all(|member| member.ended)
    }

    /// Takes in the next event; tells whether one came before the deadline.
    fn take_event(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.inbox.recv_timeout(left) {
            Ok(Event::Told { member, line }) => {
                let member = &mut self.members[member];
                match serde_json::from_str(&line)? {
                    Message::Ready => member.ready = true,
                    message => member.tally.take(message),
                }
            }
            Ok(Event::Ended { member }) => self.members[member].ended = true,
            Ok(Event::Interrupted) => self.interrupted = true,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            // The handler of Ctrl-C holds a sender for as long as the process lives.
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    fn into_tallies(self) -> Vec<Tally> {
        let members = self.members.into_iter();
        members.map(|member| member.tally).collect()
    }
}
