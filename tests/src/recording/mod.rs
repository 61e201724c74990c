//! A VFS that numbers the file operations of a connection, and in which a test lets one of them
//! fail, pause or be the last before a crash.
//!
//! It stands below the crate's own VFS, over `unix-none`: only the lease keeps writers apart. There
//! are two, [`HOLDER`] and [`OTHER`], so that two connections to one database are told apart. What
//! a [`Recorder`] does not watch passes through, without syncs. A third, [`TIMED`], is for measuring:
//! its file locks and syncs are real.
//!
//! At a crash the files are rewritten to what a crash may leave: see [`Crash`].

mod disk;
mod ffi;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

pub use self::disk::Crash;
use self::disk::Disk;

/// The name of the VFS for the connection under test.
pub const HOLDER: &str = "recording-holder";
/// The name of the VFS for all other connections.
pub const OTHER: &str = "recording-other";

/// The name of the VFS for a connection whose operations are to take as long as they do: over
/// `unix`, with syncs.
pub const TIMED: &str = "recording-timed";

/// Makes all of them known to SQLite; once is enough, more does no harm.
///
/// # Panics
/// If SQLite lacks its own `unix-none`.
pub fn register() {
    ffi::register();
}

/// Which file an operation is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum On {
    /// The database.
    Main,
    /// Its rollback journal.
    Journal,
}

/// An operation of a connection, on its files or on the lock table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `xOpen`.
    Open(On),
    /// `xClose`.
    Close(On),
    /// `xRead`.
    Read(On),
    /// `xWrite`.
    Write(On),
    /// `xTruncate`.
    Truncate(On),
    /// `xSync`.
    Sync(On),
    /// `xFileSize`.
    Size(On),
    /// `xLock`, to this level.
    Lock(i32),
    /// `xUnlock`, to this level.
    Unlock(i32),
    /// `xDelete`, of the journal.
    Delete,
    /// `xAccess`: whether a journal or a log is there.
    Access,
    /// A request to the lock table, by its name: made by the test's store, not by SQLite.
    Request(&'static str),
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// It is not done; the code is the I/O error of its kind, `errno` EIO.
    Io,
    /// As [`Io`](Self::Io), `errno` ESTALE.
    Stale,
    /// It is not done; no space is left.
    Full,
    /// The first half is written, then no space is left.
    Short,
    /// A file lock is held by somebody else.
    Busy,
    /// It is done, and reported as failed.
    DoneButIo,
    /// It is done, and reported as if there had been nothing to do: a deletion repeated by a
    /// network file system.
    DoneButAbsent,
}

impl Fault {
    /// The faults that can meet an operation once.
    pub fn of(operation: Operation) -> &'static [Self] {
        match operation {
            Operation::Write(_) => &[Self::Io, Self::Full, Self::Short],
            Operation::Delete => &[Self::Io, Self::DoneButIo, Self::DoneButAbsent],
            Operation::Lock(_) => &[Self::Io, Self::Busy],
            Operation::Close(_) | Operation::Request(_) => &[],
            _ => &[Self::Io],
        }
    }

    /// Whether the fault, once there, meets this later operation as well.
    fn meets(self, operation: Operation) -> bool {
        match self {
            Self::Full => matches!(operation, Operation::Write(_)),
            Self::Busy => matches!(operation, Operation::Lock(_)),
            _ => !matches!(operation, Operation::Close(_) | Operation::Request(_)),
        }
    }
}

/// What is to happen.
pub enum Plan {
    /// The operations are numbered, nothing else.
    Watch,
    /// The process and its machine are gone before operation `at` is done.
    Crash {
        /// Counted from 0.
        at: usize,
        /// What becomes of what was not synced.
        leaves: Crash,
    },
    /// As [`Crash`](Self::Crash), before this many pages of the database are written from now on.
    CrashInCommit {
        /// How many writes are done first.
        pages: usize,
        /// What becomes of what was not synced.
        leaves: Crash,
    },
    /// `meanwhile` runs before operation `at` is done, or after.
    Pause {
        /// Counted from 0.
        at: usize,
        /// Whether the operation is done first.
        after: bool,
        /// What others do.
        meanwhile: Box<dyn FnOnce() + Send>,
        /// What meets the connection when it goes on.
        then: Then,
    },
    /// `meanwhile` runs after this many pages of the database were written from now on.
    PauseInCommit {
        /// How many writes are done first.
        pages: usize,
        /// What others do.
        meanwhile: Box<dyn FnOnce() + Send>,
    },
    /// Operation `at` fails.
    Fail {
        /// Counted from 0.
        at: usize,
        /// How.
        fault: Fault,
        /// Whether those after it do as well.
        lasting: bool,
    },
    /// The next operation that the fault can meet fails.
    FailNext {
        /// How.
        fault: Fault,
        /// Whether those after it do as well.
        lasting: bool,
    },
}

/// What meets a connection that goes on after a pause, at its next operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Then {
    /// Nothing.
    GoesOn,
    /// That operation fails.
    Fails {
        /// How.
        fault: Fault,
        /// Whether those after it do as well.
        lasting: bool,
    },
    /// The process is gone before it; its machine is not.
    Dies,
}

/// What one connection does to its files.
pub struct Recorder {
    state: Mutex<State>,
}

struct State {
    operations: Vec<Operation>,
    /// When each began, and ended if it did.
    times: Vec<(Instant, Option<Instant>)>,
    plan: Plan,
    disk: Disk,
    reached: Option<Operation>,
    /// The operation that [`Plan::FailNext`] has met first.
    failed: Option<Operation>,
    crashed: bool,
    errno: i32,
    /// Since the pause, and before the next lease was granted.
    late: Late,
    is_late: bool,
}

/// What a holder did after a pause without a lease of its own that is newer than the pause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Late {
    /// Writes of the database's pages.
    pub writes: usize,
    /// Truncations of the database.
    pub truncations: usize,
    /// Deletions of the journal.
    pub deletions: usize,
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Proceed,
    Gone,
    Fail(Fault),
}

impl Recorder {
    /// Watches the connections that are opened to `database` through `vfs` from now on, for as long
    /// as the recorder lives or until another takes its place.
    ///
    /// # Panics
    /// If the files are there and cannot be read.
    pub fn install(vfs: &'static str, database: &Path) -> Arc<Self> {
        let recorder = Arc::new(Self {
            state: Mutex::new(State {
                operations: Vec::new(),
                times: Vec::new(),
                plan: Plan::Watch,
                disk: Disk::found(database),
                reached: None,
                failed: None,
                crashed: false,
                errno: 0,
                late: Late::default(),
                is_late: false,
            }),
        });
        let key = (vfs, database.to_owned());
        let mut watched = watched();
        watched.retain(|_, recorder| recorder.strong_count() > 0);
        watched.insert(key, Arc::downgrade(&recorder));
        recorder
    }

    /// Connections that are opened from now on are not watched.
    pub fn forget(vfs: &'static str, database: &Path) {
        watched().remove(&(vfs, database.to_owned()));
    }

    /// Sets what is to happen, and counts anew.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.state();
        state.operations.clear();
        state.times.clear();
        state.reached = None;
        state.failed = None;
        state.plan = plan;
    }

    /// The operations since the last plan.
    pub fn operations(&self) -> Vec<Operation> {
        self.state().operations.clone()
    }

    /// The operations since the last plan that were done, and from when to when.
    pub fn times(&self) -> Vec<(Operation, Instant, Instant)> {
        let state = self.state();
        let operations = state.operations.iter().zip(&state.times);
        operations
            .filter_map(|(&operation, &(begun, ended))| Some((operation, begun, ended?)))
            .collect()
    }

    /// The operation at which the plan came true.
    pub fn reached(&self) -> Option<Operation> {
        self.state().reached
    }

    /// The operation that failed after the pause.
    pub fn failed(&self) -> Option<Operation> {
        self.state().failed
    }

    /// What was done late.
    pub fn late(&self) -> Late {
        self.state().late
    }

    /// The process is gone now.
    pub fn crash(&self, leaves: Crash) {
        self.state().crash(leaves);
    }

    /// Whether the process is gone.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// A request to the lock table; false if the process is gone, so that it is not made.
    pub fn request(&self, name: &'static str) -> bool {
        self.before(Operation::Request(name)) == Verdict::Proceed
    }

    /// The request was answered; `granted` if it gave a new lease.
    pub fn answered(&self, name: &'static str, granted: bool) {
        if granted {
            self.state().is_late = false;
        }
        self.after(Operation::Request(name));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self, operation: Operation) -> Verdict {
        let mut state = self.state();
        if state.crashed {
            return Verdict::Gone;
        }
        let number = state.operations.len();
        state.operations.push(operation);
        state.times.push((Instant::now(), None));
        let is_page = operation == Operation::Write(On::Main);
        let verdict = match &mut state.plan {
            Plan::Crash { at, leaves } if *at == number => {
                let leaves = *leaves;
                state.reached.get_or_insert(operation);
                state.crash(leaves);
                Verdict::Gone
            }
            Plan::CrashInCommit { pages, leaves } if is_page => {
                let leaves = *leaves;
                if *pages == 0 {
                    state.reached = Some(operation);
                    state.crash(leaves);
                    Verdict::Gone
                } else {
                    *pages -= 1;
                    Verdict::Proceed
                }
            }
            Plan::Pause { at, after, .. } if *at == number && !*after => {
                self.pause(state, operation);
                state = self.state();
                Verdict::Proceed
            }
            Plan::Fail { at, fault, lasting } => {
                let fault = *fault;
                let hit = *at == number || (*lasting && *at < number && fault.meets(operation));
                if *at == number {
                    state.reached = Some(operation);
                }
                if hit {
                    state.fails(fault)
                } else {
                    Verdict::Proceed
                }
            }
            Plan::FailNext { fault, lasting } if fault.meets(operation) => {
                let fault = *fault;
                if !*lasting {
                    state.plan = Plan::Watch;
                }
                state.failed.get_or_insert(operation);
                state.fails(fault)
            }
            _ => Verdict::Proceed,
        };
        let is_done = match verdict {
            Verdict::Proceed => true,
            Verdict::Fail(Fault::DoneButIo | Fault::DoneButAbsent) => {
                operation == Operation::Delete
            }
            Verdict::Gone | Verdict::Fail(_) => false,
        };
        if is_done && state.is_late {
            match operation {
                Operation::Write(On::Main) => state.late.writes += 1,
                Operation::Truncate(On::Main) => state.late.truncations += 1,
                Operation::Delete => state.late.deletions += 1,
                _ => {}
            }
        }
        verdict
    }

    fn after(&self, operation: Operation) {
        let mut state = self.state();
        let number = state.operations.len().wrapping_sub(1);
        // Not always the last: requests are made by other threads too.
        let same = (state.operations.iter()).rposition(|&begun| begun == operation);
        if let Some((_, ended)) = same.and_then(|at| state.times.get_mut(at)) {
            *ended = Some(Instant::now());
        }
        let is_page = operation == Operation::Write(On::Main);
        let pauses = match &mut state.plan {
            Plan::Pause { at, after, .. } => *after && *at == number && state.reached.is_none(),
            Plan::PauseInCommit { pages, .. } if is_page => {
                *pages = pages.saturating_sub(1);
                *pages == 0
            }
            _ => false,
        };
        if pauses {
            self.pause(state, operation);
        }
    }

    /// Others may use the files and the lock table meanwhile, by recorders of their own.
    fn pause(&self, mut state: MutexGuard<'_, State>, operation: Operation) {
        state.reached = Some(operation);
        let plan = std::mem::replace(&mut state.plan, Plan::Watch);
        drop(state);
        let (meanwhile, then) = match plan {
            Plan::Pause {
                meanwhile, then, ..
            } => (meanwhile, then),
            Plan::PauseInCommit { meanwhile, .. } => (meanwhile, Then::GoesOn),
            _ => unreachable!("only these pause"),
        };
        // A panic must not cross SQLite; its message has been printed by then.
        if catch_unwind(AssertUnwindSafe(meanwhile)).is_err() {
            std::process::abort();
        }
        let mut state = self.state();
        state.is_late = true;
        state.plan = match then {
            Then::GoesOn => Plan::Watch,
            Then::Fails { fault, lasting } => Plan::FailNext { fault, lasting },
            // What others have written meanwhile stays.
            Then::Dies => Plan::Crash {
                at: state.operations.len(),
                leaves: Crash::KeepsAll,
            },
        };
    }

    fn change(&self, change: impl FnOnce(&mut Disk)) {
        let mut state = self.state();
        if !state.crashed {
            change(&mut state.disk);
        }
    }
}

impl State {
    fn fails(&mut self, fault: Fault) -> Verdict {
        self.errno = if fault == Fault::Stale { 116 } else { 5 };
        Verdict::Fail(fault)
    }

    fn crash(&mut self, leaves: Crash) {
        if !self.crashed {
            self.crashed = true;
            self.disk.crash(leaves);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan")
    }
}

type Watched = HashMap<(&'static str, PathBuf), Weak<Recorder>>;

fn watched() -> MutexGuard<'static, Watched> {
    static WATCHED: std::sync::LazyLock<Mutex<Watched>> = std::sync::LazyLock::new(Mutex::default);
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The recorder of a database.
fn recorder_of(vfs: &'static str, database: &Path) -> Option<Arc<Recorder>> {
    watched().get(&(vfs, database.to_owned()))?.upgrade()
}
