//! The decisions: may this lock level be taken, may this write proceed, may this journal end.
//!
//! Safe code without pointers. The VFS asks, in the order in which SQLite acts:
//! [`claim`](Gate::claim) the lease for RESERVED (or wait for it in [`wait`](Gate::wait)),
//! [`admit`](Gate::admit) the transaction's snapshot, [`fence`](Gate::fence) each write,
//! [`end_journal`](Gate::end_journal) at the commit point, [`unlocked`](Gate::unlocked) at the end.

mod account;
mod key;
mod pin;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
mod remembers;
#[cfg(test)]
mod tests;
mod waiting;
mod writing;

use std::io::ErrorKind;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::remembers::Remembers;
use super::journal::{Journal, Standing};
use super::key_file::{Found, KeyFile, OwnLock};
use super::pragma;
use super::snapshot::{FileState, FileVersion};
use crate::error::{ConfigError, LockError, LockName};
use crate::lease::acquire::{AcquireLimits, Acquisition, Attempt};
use crate::lease::backoff::Backoff;
use crate::lease::{Lease, LockClient, ReleaseOutcome};
use crate::store::JournalId;

/// What one connection may do to its database, shared by the connection and its main file.
#[derive(Debug)]
pub(crate) struct Gate {
    client: LockClient,
    lock: Arc<LockName>,
    max_attempts: Option<u32>,
    is_local: bool,
    files: OnceLock<Files>,
    remembers: Remembers,
    state: Mutex<State>,
}

/// What stands, or may stand, beside the database.
#[derive(Debug)]
struct Files {
    journal: Journal,
    key_file: KeyFile,
}

/// The settings that the gate goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GateSettings {
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: Option<u32>,
    /// No lock table: `lock=local`.
    pub(crate) is_local: bool,
}

#[derive(Debug)]
struct State {
    timeout: Duration,
    deadline: Option<Instant>,
    /// Until when the statement under way may wait; set by its first need to.
    until: Option<Instant>,
    hold: Option<Hold>,
    /// How many callers want the lease kept beyond the transaction.
    pins: u32,
    /// Why SQLite was last told that the database is busy.
    block: Option<Block>,
    /// How the busy handler polls what it cannot wait for otherwise.
    poll: Option<Poll>,
    /// The journal of the transaction under way, once its first header was written or read.
    journal_id: Option<JournalId>,
    /// The journal of this transaction has ended: what still comes cannot change the outcome.
    ended: bool,
    /// The file that says which lock protects the database names ours, or has been seen to.
    key_file_is_settled: bool,
    /// A lease was lost: the pages that SQLite has cached may never have been committed.
    cache_is_suspect: bool,
    error: Option<LockError>,
    /// The last lease could not be given back.
    not_released: Option<LockError>,
    /// How long was waited for the lease since that was last asked.
    waited: Option<Waited>,
    forbidden: Option<ConfigError>,
    format: Option<FileFormat>,
    rolled_back: bool,
    /// The connection has a transaction open, by its own account.
    in_transaction: bool,
    /// SQLite has ended that transaction by itself: it would write in autocommit mode.
    is_aborted: bool,
    /// A write was asked for since this was last looked at.
    asked_to_write: bool,
    /// A statement that begins a transaction was prepared since one was last known to be over.
    may_have_begun: bool,
    /// A lease was lost or the file system failed: a new connection is safer than this one.
    is_broken: bool,
}

/// The lease in hand.
#[derive(Debug)]
struct Hold {
    lease: Lease,
    tenure: Tenure,
}

/// What the lease in hand is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tenure {
    /// Granted too late for the snapshot: SQLite will drop SHARED, which must not release it, and
    /// call the busy handler.
    AwaitingHandler,
    /// SQLite has not yet come back to ask for RESERVED, or is between two transactions.
    Parked,
    /// RESERVED or more is held, or being asked for.
    Transaction,
}

/// Why the database was reported busy, which tells the busy handler what to wait for.
#[derive(Debug)]
enum Block {
    /// Another holds the lease; the acquisition goes on in the busy handler.
    Lease(Box<Acquisition>),
    /// A hot journal stands and another holds the lease: it will be rolled back by its owner or
    /// our turn comes when the lease ends. A reader does not queue for the lease.
    Recovery(LockError),
    /// The lease is in hand, only the snapshot was out of date: try again at once.
    Stale,
    /// SQLite's file locks.
    File,
    /// Waiting cannot help.
    Fatal,
}

/// The pauses over several calls of the busy handler.
#[derive(Debug)]
struct Poll {
    since: Instant,
    pauses: u32,
    backoff: Backoff,
}

/// What a write transaction wants the lease for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To write; `has_read` if it has read before, so that SQLite will not call the busy handler.
    Write { has_read: bool },
    /// To roll back a hot journal.
    Recovery,
}

/// A wait for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) time: Duration,
    /// It was given up.
    pub(crate) in_vain: bool,
}

/// The answer is SQLITE_BUSY; why is remembered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The answer is an I/O error; why is remembered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// What kind of file the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFormat {
    RollbackJournal,
    WriteAheadLog,
    Other,
}

/// What to do with a journal that SQLite wants deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EndOfJournal {
    Remove,
    /// The commit is recorded, the rest is our successor's: report success and touch nothing.
    Leave,
    Refuse,
}

impl Gate {
    pub(crate) fn new(client: LockClient, key: &str, settings: GateSettings) -> Self {
        Self {
            lock: client.lock_name(key),
            client,
            max_attempts: settings.max_attempts,
            is_local: settings.is_local,
            files: OnceLock::new(),
            remembers: Remembers::default(),
            state: Mutex::new(State {
                timeout: settings.timeout,
                deadline: None,
                until: None,
                hold: None,
                pins: 0,
                block: None,
                poll: None,
                journal_id: None,
                ended: false,
                key_file_is_settled: false,
                cache_is_suspect: false,
                error: None,
                not_released: None,
                waited: None,
                forbidden: None,
                format: None,
                rolled_back: false,
                in_transaction: false,
                is_aborted: false,
                asked_to_write: false,
                may_have_begun: false,
                is_broken: false,
            }),
        }
    }

    /// The main file was opened: what may stand beside it.
    pub(super) fn opened(&self, journal: Journal, key_file: KeyFile) {
        // A second file under one gate is never opened: the gate is taken by the first.
        let _ = self.files.set(Files { journal, key_file });
    }

    /// To be changed, perhaps: from now on there may be something in it to look at.
    fn state(&self) -> MutexGuard<'_, State> {
        self.remembers.set_more();
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be looked at alone.
    fn look(&self) -> impl Deref<Target = State> + '_ {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Taking the lease.
impl Gate {
    /// A request for RESERVED, or for EXCLUSIVE straight from SHARED: asks the store once, unless
    /// the lease is in hand already. Never waits: SHARED is held, which would block the holder.
    pub(crate) fn claim(&self, purpose: Purpose) -> Result<(), Busy> {
        let mut state = self.state();
        state.ended = false;
        state.journal_id = None;
        state.asked_to_write |= matches!(purpose, Purpose::Write { .. });
        if state.is_aborted {
            state.error.get_or_insert_with(|| LockError::Aborted {
                cause: "SQLite rolled it back".to_owned(),
                retryable: false,
            });
            return state.blocked(Block::Fatal);
        }
        if let Some(hold) = &state.hold {
            let Some(loss) = hold.lease.loss() else {
                if let Err(error) = self.check_deadline(&state) {
                    state.error = Some(error);
                    state.put_lease_away();
                    return state.blocked(Block::Fatal);
                }
                state.set_tenure(Tenure::Transaction);
                return Ok(());
            };
            state.lost(loss);
            if state.pins > 0 {
                // What was promised to hold over several transactions is broken.
                return state.blocked(Block::Fatal);
            }
            state.hold = None;
        }
        if let Err(error) = self.check_deadline(&state) {
            state.error = Some(error);
            return state.blocked(Block::Fatal);
        }
        let mut acquisition = Box::new(self.client.begin(&self.lock.key));
        let give_up_after = state.until().saturating_duration_since(Instant::now());
        let attempt = match purpose {
            Purpose::Write { has_read: false } => acquisition.try_in_turn(give_up_after),
            // What is refused here is not waited for.
            Purpose::Write { has_read: true } | Purpose::Recovery => {
                acquisition.try_once(give_up_after)
            }
        };
        match attempt {
            Ok(Attempt::Granted(lease)) => {
                state.take_up(lease, Tenure::Transaction);
                Ok(())
            }
            Ok(Attempt::Refused { .. }) => {
                let busy = acquisition.busy();
                state.put_off(purpose, acquisition, busy)
            }
            Err(error) if error.is_retryable() => {
                let hurried = give_up_after < Acquisition::MIN_USEFUL_TIMEOUT && error.is_timeout();
                // What our own impatience has ended tells less than what was in the way before.
                let told = match (state.error.take(), &state.poll) {
                    (Some(busy @ LockError::Busy { .. }), _) if hurried => busy,
                    (None, Some(poll)) if hurried => LockError::FileLocked {
                        lock: self.lock.clone(),
                        waited: poll.since.elapsed(),
                    },
                    _ => error,
                };
                state.put_off(purpose, acquisition, told)
            }
            Err(error) => {
                state.error = Some(error);
                state.blocked(Block::Fatal)
            }
        }
    }

    /// With the lease and RESERVED in hand: whether the state that the transaction has read is
    /// the current one, so that it may be written over.
    ///
    /// `current` is how the file stands now.
    pub(crate) fn admit(
        &self,
        read: FileVersion,
        current: FileState,
        purpose: Purpose,
    ) -> Result<(), Busy> {
        let settled = (self.settle_key_file())
            .and_then(|()| self.settle_leftover(current == FileState::Empty));
        let hot = match settled {
            Ok(hot) => hot,
            Err(error) => {
                let mut state = self.state();
                state.error = Some(error);
                state.put_lease_away();
                return state.blocked(Block::Fatal);
            }
        };
        let is_current = match current {
            FileState::Empty => read == FileVersion::default(),
            FileState::Version(current) => read == current,
        };
        if is_current && !hot {
            self.state().until = None;
            return Ok(());
        }
        let mut state = self.state();
        state.error = Some(LockError::StaleSnapshot {
            lock: self.lock.clone(),
        });
        if purpose == (Purpose::Write { has_read: false }) {
            state.set_tenure(Tenure::AwaitingHandler);
            state.blocked(Block::Stale)
        } else {
            state.put_lease_away();
            state.blocked(Block::Fatal)
        }
    }

    /// With the lease in hand, before a hot journal is rolled back: removes it instead if the
    /// item says that its transaction is finished, and remembers which one it is otherwise.
    ///
    /// The store confirms the lease before it lets SQLite roll back, with the file's EXCLUSIVE lock
    /// in hand: a machine whose clocks stood still since the grant would otherwise undo, by what it
    /// knows of an older item, what its successor has committed.
    pub(crate) fn before_recovery(&self) -> Result<(), Refused> {
        let unfinished = match self.journal().map(Journal::standing) {
            Some(Ok(Standing::Hot(id))) => {
                let state = self.state();
                let recorded = state.hold.as_ref().and_then(|hold| hold.lease.recorded());
                recorded != Some(id)
            }
            // What cannot be examined is reported below.
            _ => false,
        };
        if unfinished {
            self.ask_store(None)?;
            self.fence()?;
        }
        let settled = (self.settle_key_file()).and_then(|()| self.settle_leftover(false));
        let mut state = self.state();
        state.until = None;
        settled.map(drop).map_err(|error| {
            state.error = Some(error);
            state.put_lease_away();
            Refused
        })
    }

    /// Looks at a journal that another transaction has left. One that the item says is finished is
    /// removed, as is one beside an empty database, which SQLite deletes too. Whether a hot one
    /// remains.
    fn settle_leftover(&self, database_is_empty: bool) -> Result<bool, LockError> {
        let unreadable =
            |error| self.file_error(format!("the rollback journal cannot be examined: {error}"));
        let Some(journal) = self.journal() else {
            return Ok(false);
        };
        let recorded = (self.state().hold.as_ref()).map(|hold| hold.lease.recorded());
        let Some(recorded) = recorded else {
            return Ok(false);
        };
        let found = journal.find().map_err(unreadable)?;
        let standing = found.standing();
        let is_finished = matches!(standing, Standing::Hot(id) if recorded == Some(id));
        if matches!(standing, Standing::Hot(_)) && !is_finished && database_is_empty {
            self.confirm_emptiness()?;
        }
        let mut state = self.state();
        let hot = match standing {
            Standing::Hot(_) if is_finished || database_is_empty => {
                if let Some(loss) = state.hold.as_ref().and_then(|hold| hold.lease.loss()) {
                    state.lost(loss.clone());
                    return Err(loss);
                }
                let removed = journal.remove_found(&found).map_err(|error| {
                    self.file_error(format!(
                        "the rollback journal of a finished transaction cannot be removed: {error}"
                    ))
                })?;
                if !removed {
                    drop(state);
                    let reason = "another journal stands beside the database by now";
                    self.supplanted(reason);
                    return Err(self.lease_lost(reason));
                }
                false
            }
            Standing::Hot(id) => {
                state.journal_id = Some(id);
                true
            }
            Standing::Absent | Standing::Cold => false,
        };
        if let Some(hold) = &state.hold
            && !hot
        {
            hold.lease.record_settled();
        }
        Ok(hot)
    }

    /// The database was empty, and a hot journal stands beside it: asks the store whether the lease
    /// is still ours. If not, database and journal may be a successor's, which clocks that stood
    /// still do not show.
    fn confirm_emptiness(&self) -> Result<(), LockError> {
        self.ask_store(None).map(drop).map_err(|Refused| {
            let told = self.state().error.clone();
            told.unwrap_or_else(|| self.lease_lost("the store has not confirmed it"))
        })
    }

    /// SQLite's file locks refused SHARED, or the EXCLUSIVE of a commit, for which the lease is
    /// kept while the busy handler waits for readers.
    pub(crate) fn file_locked(&self) {
        self.state().block = Some(Block::File);
    }

    /// SQLite's file locks refused what the lease had just been claimed for.
    pub(crate) fn claim_refused_by_file(&self) {
        let mut state = self.state();
        state.put_lease_away();
        state.block = Some(Block::File);
    }

    /// Whether a write that is begun now can end before the deadline.
    fn check_deadline(&self, state: &State) -> Result<(), LockError> {
        match state.deadline {
            Some(deadline) if deadline <= self.earliest_end(Instant::now()) => {
                Err(LockError::DeadlinePassed {
                    lock: self.lock.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// When a write that is begun at `start` ends at the earliest: its requests take at least as
    /// long as the fastest answer so far, each.
    fn earliest_end(&self, start: Instant) -> Instant {
        /// To acquire the lease, to confirm the commit, to release.
        const REQUESTS: u32 = 3;
        start + self.client.fastest_answer() * REQUESTS
    }
}

/// The end of a transaction, and between transactions.
impl Gate {
    /// Whether this transaction's journal has ended: a file lock that cannot be given up changes
    /// nothing about the outcome.
    pub(crate) fn has_ended(&self) -> bool {
        self.look().ended
    }

    /// At most SHARED is held now: the transaction is over, or a retry that the lease was parked
    /// for has failed.
    pub(crate) fn unlocked(&self) {
        if self.remembers.nothing() {
            return;
        }
        let mut state = self.state();
        if state.tenure() != Some(Tenure::AwaitingHandler) {
            state.put_lease_away();
        }
    }

    /// The main file is closed.
    pub(crate) fn closed(&self) {
        let mut state = self.state();
        state.pins = 0;
        state.block = None;
        state.put_lease_away();
    }

    /// Whether SQLite's page cache has to be dropped; asked once for each SHARED lock.
    pub(super) fn take_cache_is_suspect(&self) -> bool {
        self.remembers.more() && std::mem::take(&mut self.state().cache_is_suspect)
    }

    /// A page changed under a reader.
    pub(crate) fn torn_read(&self) {
        let mut state = self.state();
        state.cache_is_suspect = true;
        state.error = Some(LockError::TornRead {
            lock: self.lock.clone(),
        });
    }

    /// The file system failed at something, for a reason that SQLite does not pass on.
    ///
    /// An NFS client that was out of touch for longer than its server waits has lost its locks and
    /// its open files. Within a write that is a lease lost, whatever the clocks say.
    pub(super) fn operation_failed(&self, doing: &str, reason: &str, error: Option<Errno>) {
        const STATE_IS_LOST: [Errno; 4] = [Errno::IO, Errno::STALE, Errno::BADF, Errno::NOLCK];
        let on_network = self.journal().is_some_and(Journal::is_on_network);
        let mut state = self.state();
        if let Some(hold) = &state.hold
            && on_network
            && !state.ended
            && error.is_some_and(|error| STATE_IS_LOST.contains(&error))
        {
            let reason = format!("the file system has lost it: {doing} failed ({reason})");
            hold.lease.invalidate(&reason);
            state.lost(self.lease_lost(&reason));
            return;
        }
        let error = self.file_error(format!("{doing} failed: {reason}"));
        state.is_broken = true;
        state.error.get_or_insert(error);
    }

    /// What stands at the journal's path.
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.files.get().map(|files| &files.journal)
    }
}

impl State {
    /// Until when to wait, counted from the statement's first need to.
    fn until(&mut self) -> Instant {
        let until = *(self.until).get_or_insert_with(|| Instant::now() + self.timeout);
        self.deadline.map_or(until, |deadline| until.min(deadline))
    }

    fn limits(&mut self, max_attempts: Option<u32>) -> AcquireLimits {
        AcquireLimits {
            until: self.until(),
            max_attempts,
        }
    }

    fn blocked(&mut self, block: Block) -> Result<(), Busy> {
        if matches!(block, Block::Fatal) {
            self.until = None;
        }
        self.block = Some(block);
        Err(Busy)
    }

    /// The lease is not to be had at once: what the busy handler is to do, if SQLite calls it.
    fn put_off(
        &mut self,
        purpose: Purpose,
        mut acquisition: Box<Acquisition>,
        error: LockError,
    ) -> Result<(), Busy> {
        acquisition.leave_queue();
        self.error = Some(error.clone());
        let block = match purpose {
            Purpose::Write { has_read: false } => Block::Lease(acquisition),
            Purpose::Write { has_read: true } => Block::Fatal,
            Purpose::Recovery => Block::Recovery(error),
        };
        self.blocked(block)
    }

    /// The first cause of a failing transaction is the one to report.
    fn lost(&mut self, error: LockError) {
        self.cache_is_suspect = true;
        self.is_broken = true;
        self.error.get_or_insert(error);
    }

    fn has_waited(&mut self, began: Instant, in_vain: bool) {
        let before = self.waited.map_or(Duration::ZERO, |waited| waited.time);
        self.waited = Some(Waited {
            time: before + began.elapsed(),
            in_vain,
        });
    }

    /// The wait goes on: SQLite's file locks may still be in the way.
    fn take_up(&mut self, lease: Lease, tenure: Tenure) {
        self.error = None;
        self.hold = Some(Hold { lease, tenure });
    }

    fn tenure(&self) -> Option<Tenure> {
        self.hold.as_ref().map(|hold| hold.tenure)
    }

    fn set_tenure(&mut self, tenure: Tenure) {
        if let Some(hold) = &mut self.hold {
            hold.tenure = tenure;
        }
    }

    /// Gives the lease back if no transaction has it.
    fn unpark(&mut self) {
        if self.tenure() != Some(Tenure::Transaction) {
            self.put_lease_away();
        }
    }

    /// Gives the lease back; keeps it where it is pinned.
    fn put_lease_away(&mut self) {
        if self.pins > 0 {
            self.set_tenure(Tenure::Parked);
            return;
        }
        let Some(hold) = self.hold.take() else {
            return;
        };
        match hold.lease.release_with_outcome() {
            Ok(ReleaseOutcome::Ours) => {}
            // Somebody has written since, whatever our clocks say.
            Ok(ReleaseOutcome::NotOurs) => {
                self.cache_is_suspect = true;
                self.is_broken = true;
            }
            Err(error) => self.not_released = Some(error),
        }
    }
}
