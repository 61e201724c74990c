//! The decisions without SQLite: a write lock is asked what SQLite would ask, in SQLite's order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use rustix::io::Errno;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::config::LeaseTerms;
use crate::error::{ConfigError, LockError};
use crate::files::file_version::{FileFormat, FileState, FileVersion};
use crate::files::fs_kind::FileSystem;
use crate::files::lock_identity::KeyFile;
use crate::files::rollback_journal::Journal;
use crate::lease::LockClient;
use crate::store::{InMemoryLockStore, JournalId, StoredItem};
use crate::testing::{HookedStore, Put};

pub(super) const KEY: &str = "database#test";
pub(super) const FIRST_WRITE: Purpose = Purpose::Write { has_read: false };
pub(super) const UPGRADE: Purpose = Purpose::Write { has_read: true };
pub(super) const LEASE: Duration = Duration::from_secs(8);
pub(super) const OLD: FileVersion = FileVersion([1; 16]);
const NEW: FileVersion = FileVersion([2; 16]);

/// A host: a lock of its own on a lock table that all share, with one clock for all.
pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) store: Arc<InMemoryLockStore>,
    database: PathBuf,
    journal: PathBuf,
    file_system: FileSystem,
    key_file: PathBuf,
    _directory: TempDir,
    /// Renewal goes on in the background for so long.
    pub(super) max_hold: Duration,
    /// What is done to the journal while the answer to the next put is on its way.
    meanwhile: Meanwhile,
}

type Meanwhile = Arc<Mutex<Option<fn(&Path)>>>;

impl World {
    pub(super) fn new() -> Self {
        let clock = ManualClock::new(Timestamp::new(
            Duration::from_secs(100),
            Duration::from_secs(1_800_000_000),
        ));
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("db");
        fs::write(&database, b"").unwrap();
        Self {
            store: Arc::new(InMemoryLockStore::with_clock(clock.clock())),
            clock,
            database,
            journal: directory.path().join("db-journal"),
            file_system: FileSystem::Local,
            key_file: directory.path().join("db-lock-key"),
            _directory: directory,
            max_hold: Duration::from_secs(900),
            meanwhile: Meanwhile::default(),
        }
    }

    pub(super) fn lock_with(&self, timeout: Duration) -> WriteLock {
        let settings = WriteLockSettings {
            timeout,
            ..self.settings()
        };
        self.lock_of(KEY, settings)
    }

    fn settings(&self) -> WriteLockSettings {
        WriteLockSettings {
            timeout: Duration::from_millis(20),
            migration_timeout: Duration::from_secs(600),
            max_attempts: None,
            is_local: false,
        }
    }

    fn lock_of(&self, key: &str, settings: WriteLockSettings) -> WriteLock {
        let (meanwhile, journal) = (self.meanwhile.clone(), self.journal.clone());
        // A store of its own for each host, so that they do not share a line.
        let host = HookedStore::new(self.store.clone(), move |put: Put<'_>| {
            let answer = put.pass_on();
            if let Some(meanwhile) = meanwhile.lock().unwrap().take() {
                meanwhile(&journal);
            }
            answer
        });
        let terms = LeaseTerms {
            expiration: LEASE,
            max_hold: self.max_hold,
            holder: "a test".to_owned(),
        };
        let client = LockClient::new(host, terms, self.clock.clock());
        let lock = WriteLock::new(client, key, settings);
        let journal = Journal::new(self.journal.clone(), self.file_system);
        lock.opened(journal, KeyFile::beside(&self.database));
        lock
    }

    pub(super) fn lock(&self) -> WriteLock {
        self.lock_of(KEY, self.settings())
    }

    pub(super) fn item(&self) -> Option<StoredItem> {
        self.store.item(KEY)
    }

    fn give_lease_to_a_successor(&self) -> StoredItem {
        let mut item = self.item().unwrap();
        item.lock_id = "the successor".to_owned();
        self.store.set_item(KEY, Some(item.clone()));
        item
    }

    pub(super) fn has_journal(&self) -> bool {
        self.journal.exists()
    }

    pub(super) fn remove_journal(&self) {
        let _ = fs::remove_file(&self.journal);
    }

    pub(super) fn write_journal(&self, first_byte: u8, id: JournalId) {
        let mut header = [0; 512];
        header[0] = first_byte;
        header[12..16].copy_from_slice(&id.0);
        fs::write(&self.journal, header).unwrap();
    }
}

impl WriteLock {
    /// Whether the lease is kept for SQLite to come back by way of the busy handler.
    pub(super) fn awaits_handler(&self) -> bool {
        self.update(|state| state.hold_state()) == Some(super::state::HoldState::AwaitingHandler)
    }
}

pub(super) const MINE: JournalId = JournalId([1, 2, 3, 4]);

/// What a lock tells of its last failure.
macro_rules! assert_error {
    ($lock:expr, $variant:ident) => {
        let error = $lock.take_error();
        assert!(
            matches!(error, Some(LockError::$variant { .. })),
            "{error:?}"
        );
    };
}

/// A first write, where nobody has written since the transaction began.
fn admit(lock: &WriteLock) -> Result<(), Busy> {
    lock.validate_snapshot(OLD, FileState::Version(OLD), FIRST_WRITE)
}

/// What SQLite asks for in a transaction's first write, when nothing is in the way.
fn begin_writing(lock: &WriteLock) {
    lock.try_reserve(FIRST_WRITE).unwrap();
    admit(lock).unwrap();
    lock.fence().unwrap();
    lock.journal_begun(MINE);
}

#[test]
fn a_transaction_claims_confirms_and_releases() {
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    assert_eq!(world.item().unwrap().committed, None);
    assert_eq!(lock.end_journal(), EndOfJournal::Remove);
    assert_eq!(world.item().unwrap().committed, Some(MINE));
    lock.journal_removed();
    lock.unlocked();
    assert_eq!(world.item(), None);
    let stats = lock.client().stats();
    assert_eq!(
        (stats.requests, stats.acquisitions, stats.confirmations),
        (3, 1, 1)
    );
}

#[test]
fn a_lease_that_proves_lost_at_its_release_makes_the_cache_suspect() {
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    assert_eq!(lock.end_journal(), EndOfJournal::Remove);
    lock.journal_removed();
    world.store.set_item(KEY, None);
    lock.unlocked();
    assert!(lock.take_cache_is_suspect());
    begin_writing(&lock);
    lock.unlocked();
    assert!(!lock.take_cache_is_suspect());
}

#[test]
fn who_has_read_is_refused_at_once_and_who_has_not_waits_in_the_handler() {
    let world = World::new();
    let (holder, other) = (world.lock(), world.lock());
    begin_writing(&holder);

    assert_eq!(other.try_reserve(UPGRADE), Err(Busy));
    assert!(!other.wait(true), "nothing to wait for");
    assert_error!(other, Busy);

    assert_eq!(other.try_reserve(FIRST_WRITE), Err(Busy));
    other.unlocked();
    holder.unlocked();
    assert!(other.wait(true), "the handler itself acquires");
    assert!(world.item().is_some());
    other.try_reserve(FIRST_WRITE).unwrap();
    assert_eq!(other.client().stats().acquisitions, 1, "the lease was kept");
    other.unlocked();
    assert_eq!(world.item(), None);
}

#[test]
fn a_wait_in_vain_leaves_nothing_behind() {
    let world = World::new();
    let (holder, other) = (world.lock(), world.lock());
    begin_writing(&holder);
    let item = world.item();
    assert_eq!(other.try_reserve(FIRST_WRITE), Err(Busy));
    other.unlocked();
    assert!(!other.wait(true));
    let error = other.take_error().unwrap();
    assert!(error.is_retryable());
    assert!(
        matches!(
            error,
            LockError::Busy {
                holder: Some(_),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(world.item(), item, "the holder's");
}

#[test]
fn a_stale_snapshot_keeps_the_lease_for_a_retry_and_gives_it_up_where_there_is_none() {
    let world = World::new();
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    assert_eq!(
        lock.validate_snapshot(OLD, FileState::Version(NEW), FIRST_WRITE),
        Err(Busy)
    );
    lock.unlocked();
    assert!(world.item().is_some(), "kept while SQLite drops SHARED");
    assert!(lock.wait(true));
    lock.try_reserve(FIRST_WRITE).unwrap();
    lock.validate_snapshot(NEW, FileState::Version(NEW), FIRST_WRITE)
        .unwrap();
    lock.unlocked();
    assert_eq!(
        (world.item(), lock.client().stats().acquisitions),
        (None, 1)
    );

    lock.try_reserve(UPGRADE).unwrap();
    assert_eq!(
        lock.validate_snapshot(OLD, FileState::Version(NEW), UPGRADE),
        Err(Busy)
    );
    assert_eq!(world.item(), None);
    assert_error!(lock, StaleSnapshot);
}

#[test]
fn a_lease_that_sqlite_does_not_come_back_for_ends_with_the_statement() {
    let world = World::new();
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    assert_eq!(
        lock.validate_snapshot(OLD, FileState::Version(NEW), FIRST_WRITE),
        Err(Busy)
    );
    lock.unlocked();
    lock.statement_ended();
    assert_eq!(world.item(), None);
}

#[test]
fn an_empty_database_has_been_read_only_by_who_saw_it_empty() {
    let world = World::new();
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    let nothing = FileVersion::default();
    lock.validate_snapshot(nothing, FileState::Empty, FIRST_WRITE)
        .unwrap();
    assert_eq!(
        lock.validate_snapshot(OLD, FileState::Empty, FIRST_WRITE),
        Err(Busy)
    );
    let zeros = FileState::Version(nothing);
    lock.validate_snapshot(nothing, zeros, FIRST_WRITE).unwrap();
    lock.unlocked();
}

#[test]
fn every_step_of_a_lost_transaction_is_refused() {
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    world.clock.advance(LEASE);
    assert_eq!(lock.fence(), Err(Refused));
    assert_eq!(lock.fence_truncation(), Some(Err(Refused)));
    assert_eq!(lock.remove_cold_leftover(), Err(Refused));
    assert_eq!(lock.end_journal(), EndOfJournal::Refuse);
    assert_error!(lock, LeaseLost);
    lock.unlocked();
    assert_eq!(world.item(), None);
    assert!(lock.take_cache_is_suspect());
    assert!(!lock.take_cache_is_suspect(), "once");
    begin_writing(&lock);
    lock.unlocked();
}

#[test]
fn the_holder_stops_before_others_may_take_over() {
    let world = World::new();
    let (holder, other) = (world.lock(), world.lock());
    begin_writing(&holder);
    let mut refused_at = None;
    for tenth in 0..200 {
        if refused_at.is_none() && holder.fence().is_err() {
            refused_at = Some(tenth);
        }
        if other.try_reserve(UPGRADE).is_ok() {
            let (refused_at, taken_at) = (refused_at.expect("the holder is fenced first"), tenth);
            assert!(taken_at >= refused_at + 10, "{refused_at} {taken_at}");
            assert!(taken_at <= 80, "after the lease's duration at the latest");
            other.unlocked();
            return;
        }
        world.clock.advance(Duration::from_millis(100));
    }
    panic!("an expired lease is taken over");
}

#[test]
fn a_commit_whose_lease_was_taken_over_is_refused_by_the_store() {
    let world = World::new();
    let (frozen, successor) = (world.lock(), world.lock());
    begin_writing(&frozen);
    // The frozen host's clock stands still: only the store knows.
    let mut item = world.item().unwrap();
    item.expires_at = "1".to_owned();
    world.store.set_item(KEY, Some(item));
    begin_writing(&successor);
    let taken = world.item();
    frozen.fence().unwrap();
    assert_eq!(frozen.end_journal(), EndOfJournal::Refuse);
    assert_error!(frozen, LeaseLost);
    frozen.unlocked();
    assert_eq!(world.item(), taken, "the successor's item is untouched");
    assert_eq!(successor.end_journal(), EndOfJournal::Remove);
    successor.unlocked();
}

#[test]
fn a_finished_transactions_journal_is_removed_by_its_successor() {
    let world = World::new();
    let holder = world.lock();
    begin_writing(&holder);
    world.write_journal(0xd9, MINE);
    assert_eq!(holder.end_journal(), EndOfJournal::Remove);
    // It dies before it removes the journal: nothing is asked of it any more.
    let _dead = holder;
    world.clock.advance(LEASE);

    let successor = world.lock();
    successor.try_reserve(Purpose::Recovery).unwrap();
    assert_eq!(
        world.item().unwrap().committed,
        Some(MINE),
        "kept until settled"
    );
    successor.before_recovery().unwrap();
    assert!(!world.journal.exists());
    successor.unlocked();
    assert_eq!(world.item(), None);
}

#[test]
fn a_record_outlives_a_lease_that_has_not_settled_it() {
    let world = World::new();
    let holder = world.lock();
    begin_writing(&holder);
    world.write_journal(0xd9, MINE);
    assert_eq!(holder.end_journal(), EndOfJournal::Remove);
    holder.journal_not_removed("EIO");
    assert_error!(holder, OutcomeUnknown);
    holder.unlocked();
    let item = world.item().unwrap();
    assert_eq!(item.committed, Some(MINE));

    let successor = world.lock();
    successor
        .try_reserve(FIRST_WRITE)
        .expect("it is expired already");
    admit(&successor).unwrap();
    assert!(!world.journal.exists());
    successor.unlocked();
    assert_eq!(world.item(), None);
}

#[test]
fn a_hot_journal_that_is_not_recorded_is_left_to_a_rollback() {
    let world = World::new();
    world.write_journal(0xd9, MINE);
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    assert_eq!(admit(&lock), Err(Busy));
    assert!(world.journal.exists());
    lock.unlocked();
    assert!(lock.wait(true));
    lock.try_reserve(Purpose::Recovery).unwrap();
    lock.before_recovery().unwrap();
    assert_eq!(lock.end_journal(), EndOfJournal::Remove);
    assert_eq!(
        world.item().unwrap().committed,
        Some(MINE),
        "its end is recorded"
    );
    lock.journal_removed();
    lock.unlocked();
    assert_eq!(world.item(), None);
}

#[test]
fn the_lease_is_confirmed_before_anything_is_rolled_back_under_it() {
    let world = World::new();
    let lock = world.lock();
    lock.pin(None).unwrap();
    // Its machine stood still, clocks and all: only the store knows of the successor.
    let item = world.give_lease_to_a_successor();
    world.write_journal(0xd9, MINE);
    lock.try_reserve(Purpose::Recovery).unwrap();
    assert_eq!(lock.before_recovery(), Err(Refused));
    assert!(world.journal.exists());
    assert_error!(lock, LeaseLost);
    lock.unlocked();
    lock.unpin_current();
    assert_eq!(world.item(), Some(item));
}

#[test]
fn a_journal_that_would_bring_an_older_state_back_is_not_begun() {
    let world = World::new();
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    admit(&lock).unwrap();
    assert_eq!(lock.journal_created(OLD, OLD), Ok(()));
    assert_eq!(lock.journal_created(OLD, NEW), Err(Refused));
    assert_error!(lock, LeaseLost);
    assert_eq!(lock.fence(), Err(Refused), "once lost, it stays lost");
    lock.unlocked();
}

#[test]
fn a_journal_beside_an_empty_database_is_removed() {
    let world = World::new();
    world.write_journal(0xd9, MINE);
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    let nothing = FileVersion::default();
    lock.validate_snapshot(nothing, FileState::Empty, FIRST_WRITE)
        .unwrap();
    assert!(!world.journal.exists());
    lock.unlocked();
}

#[test]
fn a_journal_beside_a_database_that_was_empty_a_while_ago_is_a_successors() {
    let world = World::new();
    let lock = world.lock();
    lock.try_reserve(FIRST_WRITE).unwrap();
    // The file was found empty; then the machine stood still, clocks and all.
    let item = world.give_lease_to_a_successor();
    world.write_journal(0xd9, MINE);
    let nothing = FileVersion::default();
    assert_eq!(
        lock.validate_snapshot(nothing, FileState::Empty, FIRST_WRITE),
        Err(Busy)
    );
    assert!(world.journal.exists());
    assert_error!(lock, LeaseLost);
    lock.unlocked();
    assert_eq!(world.item(), Some(item));
}

#[test]
fn what_has_taken_the_place_of_a_leftover_meanwhile_is_not_removed() {
    fn another(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::write(path, [[0; 12].as_slice(), &[7; 4]].concat()).unwrap();
    }
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    world.write_journal(0, JournalId([9; 4]));
    *world.meanwhile.lock().unwrap() = Some(another);
    assert_eq!(lock.remove_cold_leftover(), Err(Refused));
    assert_eq!(fs::read(&world.journal).unwrap()[12..], [7; 4]);
    assert_error!(lock, LeaseLost);
    lock.unlocked();
}

#[test]
fn what_has_taken_the_place_of_a_finished_journal_meanwhile_is_not_removed() {
    fn another(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::write(path, [[0xd9; 12].as_slice(), &[7; 4]].concat()).unwrap();
    }
    let world = World::new();
    let lock = world.lock();
    world.write_journal(0xd9, JournalId([9; 4]));
    lock.try_reserve(FIRST_WRITE).unwrap();
    *world.meanwhile.lock().unwrap() = Some(another);
    // Beside an empty database it is of no use, whoever has left it.
    let read = FileVersion::default();
    let admitted = lock.validate_snapshot(read, FileState::Empty, FIRST_WRITE);
    assert_eq!(admitted, Err(Busy));
    assert!(world.journal.exists());
    assert_error!(lock, LeaseLost);
    lock.unlocked();
}

#[test]
fn a_cold_leftover_makes_way_and_a_hot_one_means_that_the_lease_is_lost() {
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    world.write_journal(0, JournalId([9; 4]));
    lock.remove_cold_leftover().unwrap();
    assert!(!world.journal.exists());
    assert_eq!(
        lock.client().stats().confirmations,
        1,
        "the store was asked"
    );
    world.write_journal(0xd9, JournalId([9; 4]));
    assert_eq!(lock.remove_cold_leftover(), Err(Refused));
    assert!(world.journal.exists());
    assert_error!(lock, LeaseLost);
    fs::remove_file(&world.journal).unwrap();
    assert_eq!(lock.fence(), Err(Refused), "once lost, it stays lost");
    lock.unlocked();
}

#[test]
fn a_pinned_lease_outlives_its_transactions_and_its_loss_is_final() {
    let world = World::new();
    let lock = world.lock();
    lock.pin(None).unwrap();
    lock.pin(None).unwrap();
    for _ in 0..2 {
        begin_writing(&lock);
        assert_eq!(lock.end_journal(), EndOfJournal::Remove);
        lock.journal_removed();
        lock.unlocked();
        lock.statement_ended();
        assert!(world.item().is_some());
    }
    lock.unpin_current();
    assert!(world.item().is_some());
    assert_eq!(lock.client().stats().acquisitions, 1);
    world.clock.advance(LEASE);
    assert_eq!(
        lock.try_reserve(FIRST_WRITE),
        Err(Busy),
        "what was promised is broken"
    );
    assert_error!(lock, LeaseLost);
    lock.unpin_current();
    assert_eq!(world.item(), None);
    begin_writing(&lock);
    lock.unlocked();
}

#[test]
fn a_client_that_has_lost_its_nfs_locks_has_lost_the_lease() {
    let mut world = World::new();
    for (file_system, is_lost) in [(FileSystem::Nfs, true), (FileSystem::Local, false)] {
        world.file_system = file_system;
        let lock = world.lock();
        begin_writing(&lock);
        lock.operation_failed(
            "writing the database",
            "input/output error",
            Some(Errno::IO),
        );
        let error = lock.take_error().unwrap();
        assert_eq!(
            matches!(error, LockError::LeaseLost { .. }),
            is_lost,
            "{error}"
        );
        assert_eq!(error.is_retryable(), is_lost);
        assert_eq!(lock.fence().is_err(), is_lost, "whatever the clocks say");
        lock.unlocked();
        assert_eq!(world.item(), None);
    }
    // A full disk is no sign of it, and once the journal has ended the outcome stands.
    world.file_system = FileSystem::Nfs;
    let lock = world.lock();
    begin_writing(&lock);
    lock.operation_failed("writing the database", "no space", Some(Errno::NOSPC));
    assert_error!(lock, File);
    assert_eq!(lock.end_journal(), EndOfJournal::Remove);
    lock.journal_removed();
    lock.operation_failed(
        "reading the database",
        "input/output error",
        Some(Errno::IO),
    );
    assert_error!(lock, File);
    lock.unlocked();
}

#[test]
fn each_pin_waits_its_full_time() {
    let world = World::new();
    let timeout = Duration::from_millis(40);
    let (holder, other) = (world.lock(), world.lock_with(timeout));
    begin_writing(&holder);
    for _ in 0..2 {
        match other.pin(None) {
            Err(LockError::Busy { waited, .. }) => assert!(waited >= timeout / 2, "{waited:?}"),
            result => panic!("{result:?}"),
        }
    }
    holder.unlocked();
}

#[test]
fn a_reader_does_not_queue_for_the_lease_to_recover() {
    let world = World::new();
    let (holder, reader) = (world.lock(), world.lock());
    begin_writing(&holder);
    assert_eq!(reader.try_reserve(Purpose::Recovery), Err(Busy));
    reader.unlocked();
    holder.unlocked();
    let again = reader.wait(true);
    assert!(again, "it sleeps and looks again");
    assert_eq!(world.item(), None, "and has not taken the lease");
}

#[test]
fn past_the_deadline_nothing_is_asked() {
    let world = World::new();
    let lock = world.lock();
    lock.set_deadline(Some(Instant::now()));
    assert_eq!(lock.try_reserve(FIRST_WRITE), Err(Busy));
    assert_error!(lock, DeadlinePassed);
    assert!(matches!(
        lock.pin(None),
        Err(LockError::DeadlinePassed { .. })
    ));
    assert_eq!(lock.client().stats().requests, 0);
    lock.set_deadline(None);
    begin_writing(&lock);
    lock.unlocked();
}

#[test]
fn closing_gives_back_whatever_is_held() {
    let world = World::new();
    let lock = world.lock();
    lock.pin(None).unwrap();
    begin_writing(&lock);
    lock.closed();
    assert_eq!(world.item(), None);
}

#[test]
fn the_format_of_a_file_is_told_by_its_header() {
    let lock = World::new().lock();
    lock.saw_header(&[0; 100]);
    assert_eq!(lock.file_format(), None);
    let mut header = [1; 100];
    lock.saw_header(&header);
    assert_eq!(lock.file_format(), Some(FileFormat::Other));
    header[..16].copy_from_slice(b"SQLite format 3\0");
    lock.saw_header(&header);
    assert_eq!(lock.file_format(), Some(FileFormat::RollbackJournal));
    header[18] = 2;
    lock.saw_header(&header);
    assert_eq!(lock.file_format(), Some(FileFormat::WriteAheadLog));
}

#[test]
fn the_first_lease_says_which_lock_it_is_and_another_changes_nothing() {
    let world = World::new();
    let early = world.lock_of("another", world.settings());
    early.check_lock_identity().unwrap();
    let lock = world.lock();
    lock.check_lock_identity().unwrap();
    lock.try_reserve(FIRST_WRITE).unwrap();
    assert!(!world.key_file.exists(), "nothing is allowed yet");
    admit(&lock).unwrap();
    assert!(world.key_file.exists());
    lock.unlocked();

    // Opened before the file was there: a lease of its own does not let it pass, nor touch a journal.
    world.write_journal(0xd9, MINE);
    let empty = FileVersion::default();
    type Step = fn(&WriteLock, FileVersion) -> bool;
    let steps: [Step; 3] = [
        |early, _| {
            early.try_reserve(FIRST_WRITE).unwrap();
            admit(early).is_err()
        },
        |early, empty| {
            early.try_reserve(FIRST_WRITE).unwrap();
            early
                .validate_snapshot(empty, FileState::Empty, FIRST_WRITE)
                .is_err()
        },
        |early, _| {
            early.try_reserve(Purpose::Recovery).unwrap();
            early.before_recovery().is_err()
        },
    ];
    for is_refused in steps {
        assert!(is_refused(&early, empty));
        let error = early.take_error();
        assert!(matches!(
            error,
            Some(LockError::Config(ConfigError::OtherLock { .. }))
        ));
        assert!(world.journal.exists());
        assert_eq!(world.store.item("another"), None, "it is given back");
    }
    // Opened later, it does not come that far.
    let late = world.lock_of("another", world.settings());
    assert!(late.check_lock_identity().is_err());
}

#[test]
fn a_key_file_is_looked_at_until_it_is_seen_and_then_never_again() {
    let world = World::new();
    let lock = world.lock();
    begin_writing(&lock);
    lock.unlocked();
    // Nobody may do this while the database is open; it shows that nobody looks.
    fs::write(&world.key_file, b"").unwrap();
    begin_writing(&lock);
    lock.unlocked();
}

#[test]
fn a_local_lock_writes_no_key_file_and_passes_by_none() {
    let world = World::new();
    let settings = WriteLockSettings {
        is_local: true,
        ..world.settings()
    };
    let local = world.lock_of(KEY, settings);
    local.check_lock_identity().unwrap();
    let lock = world.lock();
    begin_writing(&lock);
    lock.unlocked();
    local.try_reserve(FIRST_WRITE).unwrap();
    admit(&local).unwrap_err();
    fs::remove_file(&world.key_file).unwrap();
    begin_writing(&local);
    assert!(!world.key_file.exists());
}

#[test]
fn a_write_is_not_begun_that_its_requests_cannot_end_before_the_deadline() {
    const ANSWER: Duration = Duration::from_millis(20);
    let world = World::new();
    let table = Arc::new(InMemoryLockStore::with_clock(world.clock.clock()));
    let store = HookedStore::new(table, |put: Put<'_>| {
        thread::sleep(ANSWER);
        put.pass_on()
    });
    let builder = LockClient::builder().lock_store(store);
    let client = builder.clock(world.clock.clock()).build().unwrap();
    let lock = WriteLock::new(client, KEY, world.settings());
    let in_time = |requests: u32| Some(Instant::now() + ANSWER * requests);

    // Nothing is known of the store yet.
    lock.set_deadline(in_time(500));
    lock.try_reserve(FIRST_WRITE).unwrap();
    lock.unlocked();
    let asked = lock.client().stats().requests;
    lock.set_deadline(in_time(3));
    assert_eq!(lock.try_reserve(FIRST_WRITE), Err(Busy));
    assert_error!(lock, DeadlinePassed);
    assert_eq!(lock.client().stats().requests, asked);
    lock.set_deadline(Some(Instant::now() + Duration::from_secs(3_600)));
    lock.try_reserve(FIRST_WRITE).unwrap();
    lock.unlocked();
}

#[test]
fn a_held_lease_does_not_begin_a_transaction_beyond_the_deadline() {
    let world = World::new();
    let lock = world.lock();
    lock.pin(None).unwrap();
    begin_writing(&lock);
    lock.unlocked();
    lock.set_deadline(Some(Instant::now()));
    assert_eq!(lock.try_reserve(FIRST_WRITE), Err(Busy));
    assert_error!(lock, DeadlinePassed);
    assert!(world.item().is_some(), "it is still pinned");
    lock.unpin_current();
    assert_eq!(world.item(), None);
}

#[test]
fn a_lease_that_is_taken_ahead_lets_those_in_first_who_have_waited_longer() {
    let world = World::new();
    let lock = world.lock_with(Duration::from_millis(100));
    lock.pin(None).unwrap();
    assert_eq!(lock.take_waited(), None, "nobody else is known of");
    lock.unpin_current();
    // So long that the others' turn lasts beyond any delay of this test.
    let others = StoredItem {
        lock_id: "another's".to_owned(),
        expires_at: u32::MAX.to_string(),
        holder: None,
        acquired_at: None,
        committed: None,
        waited: Some(Duration::from_secs(1_000)),
    };
    world.store.set_item(KEY, Some(others));
    lock.try_reserve(FIRST_WRITE).unwrap_err();
    world.store.set_item(KEY, None);
    assert!(lock.wait(true));
    lock.statement_ended();
    assert!(lock.take_waited().is_some());

    lock.pin(None).unwrap();
    assert!(
        lock.take_waited().is_some(),
        "it has had the lease just now, and had to wait for it"
    );
    lock.unpin_current();
}

#[test]
fn a_read_takes_no_mutex() {
    let lock = World::new().lock();
    lock.saw_header(&[1; 100]);
    lock.begin_prepared();
    lock.set_in_transaction(true);
    lock.statement_begins();
    assert!(!lock.take_cache_is_suspect() && lock.rolled_back_by().is_none());
    lock.unlocked();
    lock.statement_ended();
    assert!(lock.is_at_rest());
}

#[test]
fn in_a_write_only_the_lease_needs_attention_and_is_released_at_its_end() {
    let lock = World::new().lock();
    begin_writing(&lock);
    lock.statement_ended();
    lock.statement_begins();
    lock.fence().unwrap();
    assert!(!lock.is_at_rest() && !lock.needs_attention());
    assert!(lock.is_writing());
    lock.unlocked();
    assert!(!lock.is_writing());
    assert!(lock.is_at_rest());
}

#[test]
fn a_transaction_that_was_rolled_back_is_remembered_until_it_is_closed() {
    let lock = World::new().lock();
    lock.set_in_transaction(true);
    lock.rolled_back();
    for _ in 0..2 {
        lock.statement_begins();
        assert_eq!(lock.rolled_back_by(), Some(RolledBackBy::Sqlite));
    }
    lock.set_in_transaction(false);
    lock.statement_begins();
    assert!(lock.is_at_rest());
}

#[test]
fn the_end_of_a_journal_is_forgotten_with_its_transaction() {
    let mut world = World::new();
    world.file_system = FileSystem::Nfs;
    let lock = world.lock();
    lock.pin(None).unwrap();
    begin_writing(&lock);
    assert_eq!(lock.end_journal(), EndOfJournal::Remove);
    lock.journal_removed();
    lock.unlocked();
    assert!(lock.has_ended(), "SHARED is given up next");
    lock.transaction_ended();
    assert!(!lock.has_ended());
    // A failure between two transactions is one of the lease that is kept for them.
    lock.operation_failed("reading the database", "stale", Some(Errno::STALE));
    assert_error!(lock, LeaseLost);
    lock.unpin_current();
}
