//! The write lock of one connection, shared by the connection and its main file.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::state::{Attention, HoldState, OwnJournal, PageCache, State};
use crate::error::{LockError, LockName, Problem};
use crate::files::lock_identity::KeyFile;
use crate::files::rollback_journal::Journal;
use crate::lease::{Lease, LockClient, ReleaseOutcome};

/// What one connection may do to its database.
///
/// One thread at a time uses it, the one that has its connection. Only pins may end on another one.
#[derive(Debug)]
pub(crate) struct WriteLock {
    pub(super) client: LockClient,
    pub(super) name: Arc<LockName>,
    pub(super) max_attempts: Option<u32>,
    #[cfg_attr(
        not(feature = "migrations"),
        expect(dead_code, reason = "for migrations")
    )]
    pub(super) migration_timeout: Duration,
    is_local: bool,
    pub(super) files: OnceLock<Files>,
    state: Mutex<State>,
    /// The state's [`Attention`]: a statement that has nothing to look at takes no mutex.
    attention: AtomicU8,
}

/// The files that are, or may be, beside the database.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) journal: Journal,
    pub(super) key_file: KeyFile,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteLockSettings {
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: Option<u32>,
    /// How long migrations wait.
    pub(crate) migration_timeout: Duration,
    /// No lock table: `lock=local`.
    pub(crate) is_local: bool,
}

/// The answer is SQLITE_BUSY; why is remembered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The answer is an I/O error; why is remembered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl WriteLock {
    pub(crate) fn new(client: LockClient, key: &str, settings: WriteLockSettings) -> Self {
        Self {
            name: client.lock_name(key),
            client,
            max_attempts: settings.max_attempts,
            migration_timeout: settings.migration_timeout,
            is_local: settings.is_local,
            files: OnceLock::new(),
            state: Mutex::new(State::new(settings.timeout)),
            attention: AtomicU8::new(Attention::None as u8),
        }
    }

    /// The main file was opened: which files may be beside it.
    pub(crate) fn opened(&self, journal: Journal, key_file: KeyFile) {
        // A second file under one lock is never opened: the lock is taken by the first.
        let _ = self.files.set(Files { journal, key_file });
    }

    /// The main file is closed.
    pub(crate) fn closed(&self) {
        let (lease, reason) =
            self.update(|state| (state.take_lease(), state.take_busy_reason(true)));
        drop(reason);
        self.transaction_ended();
        self.release(lease);
    }

    pub(crate) fn client(&self) -> &LockClient {
        &self.client
    }

    pub(crate) fn lock_name(&self) -> &Arc<LockName> {
        &self.name
    }

    /// Whether there is no lock table: `lock=local`.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// The journal's path.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.files.get().map(|files| &files.journal)
    }
}

/// The state, and the lease in it.
impl WriteLock {
    /// Looks at the state. Nothing that may block is done in `look`.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state. Nothing that may block is done in `change`: what it takes
    /// out of the state is dropped afterwards.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        // Relaxed: one thread at a time uses the lock; what the end of a pin changes concerns nobody
        // but who looks at the state itself.
        (self.attention).store(state.attention() as u8, Ordering::Relaxed);
        result
    }

    /// Whether a statement has anything to look at but the lease of a transaction under way.
    #[inline]
    pub(super) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) == Attention::Needed as u8
    }

    /// Whether there is neither a lease nor anything to look at.
    #[inline]
    pub(super) fn is_at_rest(&self) -> bool {
        self.attention.load(Ordering::Relaxed) == Attention::None as u8
    }

    /// Asks the lease in hand.
    pub(super) fn with_lease<T>(&self, ask: impl FnOnce(&Lease) -> T) -> Option<T> {
        let lease = self.look(State::lease)?;
        Some(ask(&lease))
    }

    /// At most SHARED is held now: the transaction is over, or a retry that the lease was parked
    /// for has failed.
    pub(crate) fn unlocked(&self) {
        if self.is_at_rest() {
            return;
        }
        self.release(self.update(|state| match state.hold_state() {
            Some(HoldState::AwaitingHandler) => None,
            _ => state.take_lease_unless_pinned(),
        }));
    }

    pub(super) fn release_unless_pinned(&self) {
        self.release(self.update(State::take_lease_unless_pinned));
    }

    /// Releases the lease if no transaction has it.
    pub(super) fn release_unless_in_use(&self) {
        self.release(self.update(|state| match state.hold_state() {
            Some(HoldState::Transaction) => None,
            _ => state.take_lease_unless_pinned(),
        }));
    }

    pub(super) fn release(&self, lease: Option<Arc<Lease>>) {
        // The lease runs out by itself; what was committed stays committed.
        if let Err(error) = self.try_release(lease) {
            self.update(|state| state.notices.not_released = Some(error));
        }
    }

    pub(super) fn try_release(&self, lease: Option<Arc<Lease>>) -> Result<(), LockError> {
        // It is lent in `with_lease` alone: to this thread, or, where a pin ends on another one, for
        // a moment; it is released then when it is given back.
        let Some(lease) = lease.and_then(Arc::into_inner) else {
            return Ok(());
        };
        if lease.release_with_outcome()? == ReleaseOutcome::NotOurs {
            self.update(State::may_have_been_overtaken);
        }
        Ok(())
    }
}

/// What the file system and its contents show.
impl WriteLock {
    /// Whether SQLite's page cache has to be dropped; asked once for each SHARED lock.
    pub(crate) fn take_cache_is_suspect(&self) -> bool {
        self.needs_attention()
            && self.update(|state| {
                std::mem::replace(&mut state.page_cache, PageCache::Trusted) == PageCache::Suspect
            })
    }

    /// A page changed under a reader.
    pub(crate) fn torn_read(&self) {
        self.update(|state| {
            state.page_cache = PageCache::Suspect;
            state.fail(LockError::TornRead {
                lock: self.name.clone(),
            });
        });
    }

    /// The file system failed at something, for a reason that SQLite does not pass on.
    ///
    /// An NFS client that was out of touch for longer than its server waits has lost its locks and
    /// its open files. Within a write that is a lease lost, whatever the clocks say.
    pub(crate) fn operation_failed(&self, doing: &str, reason: &str, error: Option<Errno>) {
        const STATE_IS_LOST: [Errno; 4] = [Errno::IO, Errno::STALE, Errno::BADF, Errno::NOLCK];
        let on_network = self.journal().is_some_and(Journal::is_on_network);
        if on_network
            && error.is_some_and(|error| STATE_IS_LOST.contains(&error))
            && self.update(|state| state.own_journal != OwnJournal::Ended)
        {
            let reason = format!("the file system has lost it: {doing} failed ({reason})");
            if self.with_lease(|lease| lease.invalidate(&reason)).is_some() {
                return self.update(|state| state.lost(self.lease_lost(&reason)));
            }
        }
        let error = self.file_error(format!("{doing} failed: {reason}"));
        self.update(|state| state.fail_first(error));
    }

    /// The file system failed outside SQLite's own calls.
    pub(crate) fn file_failed(&self, reason: String) {
        self.update(|state| state.fail(self.file_error(reason)));
    }

    pub(super) fn file_error(&self, reason: String) -> LockError {
        LockError::File {
            lock: self.name.clone(),
            reason: Problem::new(reason),
        }
    }

    pub(super) fn lease_lost(&self, reason: &str) -> LockError {
        LockError::LeaseLost {
            lock: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

// The VFS finds the lock by its journal's name in a table that all threads share.
const _: () = {
    const fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<WriteLock>();
};
