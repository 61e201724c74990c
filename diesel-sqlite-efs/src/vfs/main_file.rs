//! What a main database file decides when SQLite reads, writes or locks it.

use std::ffi::c_int;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::Admission;
use super::ffi::{BaseFile, Connection};
use super::file_failure::remember_failure;
use super::io_methods::{IoMethods, LockLevel, PragmaAnswer, ReadExtent};
use super::journal_names::JournalName;
use super::pragma::{self, Verdict};
use super::snapshot::Snapshot;
use super::sqlite_error::SqliteError;
use crate::config::ReadCheck;
use crate::files::cache_bypass::{CacheBypass, DirectFile};
use crate::files::file_version::{FileState, FileVersion};
use crate::files::lock_identity::KeyFile;
use crate::files::rollback_journal::{Journal, JournalStatus};
use crate::write_lock::{Busy, Purpose, Refused, WriteLock};

/// An open main database file.
#[derive(Debug)]
pub(super) struct MainFile {
    base: BaseFile,
    lock: Arc<WriteLock>,
    read_check: ReadCheck,
    normal_sync_allowed: bool,
    snapshot: Snapshot,
    level: LockLevel,
    journal_name: JournalName,
    /// Where this host's caches may be old.
    cache_bypass: Option<CacheBypass>,
}

impl MainFile {
    /// `base` is the database at `path`. Its journal has the name `journal`, at `journal_address`.
    pub(super) fn new(
        base: BaseFile,
        admission: Admission,
        path: &Path,
        journal: &Path,
        journal_address: usize,
    ) -> Result<Self, SqliteError> {
        let file_system = admission.file_system;
        let cache_bypass = (file_system.is_network())
            .then(|| CacheBypass::new(path, file_system))
            .transpose()
            .map_err(|_| SqliteError::CANTOPEN)?;
        let lock = admission.lock;
        lock.opened(
            Journal::new(journal.to_owned(), file_system),
            KeyFile::beside(path),
        );
        Ok(Self {
            base,
            journal_name: JournalName::register(journal_address, lock.clone()),
            lock,
            read_check: admission.read_check,
            normal_sync_allowed: admission.normal_sync_allowed,
            snapshot: Snapshot::default(),
            level: LockLevel::None,
            cache_bypass,
        })
    }

    pub(super) fn write_lock(&self) -> &Arc<WriteLock> {
        &self.lock
    }

    /// With the transaction's own journal in place: whether it would restore the current state.
    pub(super) fn journal_created(&mut self) -> Result<(), SqliteError> {
        let current = self.current_version()?;
        let admitted = self.snapshot.version();
        (self.lock.journal_created(admitted, current)).map_err(|Refused| SqliteError::CANTOPEN)
    }
}

/// Most of the contract is <https://sqlite.org/lockingv3.html>.
impl IoMethods for MainFile {
    fn base(&self) -> &BaseFile {
        &self.base
    }

    fn close(self) -> Result<(), SqliteError> {
        drop(self.journal_name);
        let result = self.base.close();
        drop(self.cache_bypass);
        self.lock.closed();
        result
    }

    fn read(&mut self, data: &mut [u8], offset: i64) -> Result<ReadExtent, SqliteError> {
        let read = if self.reads_past_caches() {
            self.read_past_caches(data, offset)
        } else {
            self.base.read(data, offset)
        };
        let extent = read.map_err(|error| self.failed("reading the database", error))?;
        if offset == 0 {
            self.lock.saw_header(data);
        }
        if self.level != LockLevel::None {
            let version_alone = FileVersion::alone(data, offset);
            self.snapshot.observe(data, offset);
            self.check_read(version_alone)?;
        }
        Ok(extent)
    }

    fn write(&mut self, data: &[u8], offset: i64) -> Result<(), SqliteError> {
        (self.lock.fence()).map_err(|Refused| SqliteError::IOERR_WRITE)?;
        (self.base.write(data, offset))
            .map_err(|error| self.failed("writing the database", error))?;
        self.snapshot.wrote(data, offset);
        Ok(())
    }

    fn truncate(&mut self, size: i64) -> Result<(), SqliteError> {
        match self.lock.fence_truncation() {
            Some(Ok(())) => self.base.truncate(size),
            Some(Err(Refused)) => Err(SqliteError::IOERR_TRUNCATE),
            None => Ok(()),
        }
    }

    fn sync(&mut self, flags: c_int) -> Result<(), SqliteError> {
        (self.lock.fence()).map_err(|Refused| SqliteError::IOERR_FSYNC)?;
        (self.base.sync(flags)).map_err(|error| self.failed("syncing the database", error))
    }

    /// "The following are the only valid transitions: SHARED -> RESERVED, SHARED -> EXCLUSIVE,
    /// RESERVED -> EXCLUSIVE" above SHARED; PENDING is taken on the way to EXCLUSIVE alone.
    fn lock(
        &mut self,
        level: LockLevel,
        connection: Option<&Connection>,
    ) -> Result<(), SqliteError> {
        if level <= self.level {
            return Ok(());
        }
        let Some(connection) = connection else {
            // SQLite did not say which connection this is: nothing may be decided for it.
            return Err(SqliteError::IOERR_LOCK);
        };
        match (self.level, level) {
            (_, LockLevel::Shared) => self.lock_shared(),
            (LockLevel::Shared, LockLevel::Reserved) => self.lock_reserved(connection),
            (LockLevel::Shared, _) => self.lock_for_recovery(),
            _ => self.lock_exclusive(),
        }?;
        self.level = level;
        Ok(())
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), SqliteError> {
        let mut result = self.base.unlock(level);
        if result.is_err() && self.level > level && self.lock.has_ended() {
            // SQLite would report a commit that is done as failed. The base VFS tries again with
            // the next unlock, to which the end of the read transaction belongs.
            result = Ok(());
        }
        self.level = self.level.min(level);
        if level == LockLevel::None
            && let Some(cache_bypass) = &mut self.cache_bypass
        {
            cache_bypass.unlocked();
        }
        self.lock.unlocked();
        if level == LockLevel::None {
            self.lock.shared_dropped();
        }
        result
    }

    fn pragma(&mut self, name: &str, value: Option<&str>) -> PragmaAnswer {
        match pragma::judge(name, value, self.normal_sync_allowed) {
            Verdict::Pass => PragmaAnswer::NotFound,
            Verdict::Refuse(message) => PragmaAnswer::Error(message),
            Verdict::BusyTimeout(timeout) => {
                if let Some(timeout) = timeout {
                    self.lock.set_timeout(timeout);
                }
                PragmaAnswer::Done(self.lock.timeout().as_millis().to_string())
            }
        }
    }
}

/// Lock levels.
impl MainFile {
    fn lock_shared(&mut self) -> Result<(), SqliteError> {
        if self.lock.take_cache_is_suspect() {
            self.snapshot.invalidate_page_cache();
            self.drop_cached_pages()?;
            self.refresh_size()?;
        }
        let lock = || {
            let result = self.base.lock(LockLevel::Shared);
            (result.is_ok(), result)
        };
        let result = match &mut self.cache_bypass {
            Some(cache_bypass) => cache_bypass.locking(lock),
            None => lock().1,
        };
        if let Err(error) = result {
            if error.is_kind_of(SqliteError::BUSY) {
                self.lock.file_locked();
            }
            return Err(error);
        }
        self.snapshot.begin();
        self.begin_past_caches().inspect_err(|_| {
            let _ = self.base.unlock(LockLevel::None);
            if let Some(cache_bypass) = &mut self.cache_bypass {
                cache_bypass.unlocked();
            }
        })
    }

    /// A transaction's first write: the lease, then the file's lock, then the snapshot.
    fn lock_reserved(&mut self, connection: &Connection) -> Result<(), SqliteError> {
        let purpose = Purpose::Write {
            // SQLite then reports busy at once instead of calling the busy handler.
            has_read: connection.has_read(),
        };
        (self.lock.try_reserve(purpose)).map_err(|Busy| SqliteError::BUSY)?;
        (self.base.lock(LockLevel::Reserved)).map_err(|error| self.reserve_refused(error))?;
        let current = self.current_state().inspect_err(|_| {
            let _ = self.base.unlock(LockLevel::Shared);
            self.lock.unlocked();
        })?;
        let admitted = self
            .lock
            .validate_snapshot(self.snapshot.version(), current, purpose);
        admitted.map_err(|Busy| {
            let _ = self.base.unlock(LockLevel::Shared);
            SqliteError::BUSY_SNAPSHOT
        })
    }

    /// EXCLUSIVE straight from SHARED: SQLite has found a hot journal and wants to roll it back.
    fn lock_for_recovery(&mut self) -> Result<(), SqliteError> {
        (self.lock.try_reserve(Purpose::Recovery)).map_err(|Busy| SqliteError::BUSY)?;
        (self.base.lock(LockLevel::Exclusive)).map_err(|error| self.reserve_refused(error))?;
        self.drop_cached_pages()?;
        self.refresh_size()?;
        (self.lock.before_recovery()).map_err(|Refused| SqliteError::IOERR_LOCK)
    }

    /// The EXCLUSIVE lock of a commit: readers have to leave first.
    fn lock_exclusive(&mut self) -> Result<(), SqliteError> {
        (self.lock.fence()).map_err(|Refused| SqliteError::IOERR_LOCK)?;
        self.base.lock(LockLevel::Exclusive).inspect_err(|error| {
            if error.is_kind_of(SqliteError::BUSY) {
                self.lock.file_locked();
            }
        })
    }

    fn reserve_refused(&self, error: SqliteError) -> SqliteError {
        if error.is_kind_of(SqliteError::BUSY) {
            self.lock.reserve_refused_by_file();
        } else {
            self.lock.unlocked();
        }
        error
    }
}

/// Reads: past this host's caches where they may be old, and checked.
impl MainFile {
    /// After something was read under SHARED alone: whether the file still is as it was then.
    /// `read` is what was read, if that was the version and nothing else.
    fn check_read(&mut self, read: Option<FileVersion>) -> Result<(), SqliteError> {
        let past_caches = match self.read_check {
            ReadCheck::Off => return Ok(()),
            ReadCheck::Counter => false,
            ReadCheck::Reopen => true,
        };
        if self.level != LockLevel::Shared || !self.snapshot.is_known() {
            return Ok(());
        }
        let status = match self.lock.journal() {
            None => Ok(JournalStatus::Absent),
            Some(journal) if past_caches => journal.status(),
            Some(journal) => journal.cached_status(),
        };
        let current = match read {
            // Read once more it would tell nothing about what was read with it.
            Some(version) => version,
            None if past_caches => self.version_past_caches()?,
            None => self.cached_version()?,
        };
        if status.is_ok_and(|status| self.snapshot.still_stands(current, status)) {
            return Ok(());
        }
        self.lock.torn_read();
        Err(SqliteError::BUSY_SNAPSHOT)
    }

    /// Whether reads at this lock level must come from the server. Under RESERVED nobody else
    /// writes, and this host's caches were dropped when it was taken.
    fn reads_past_caches(&self) -> bool {
        self.read_check == ReadCheck::Reopen && self.level == LockLevel::Shared
    }

    /// With `lock_read_check=reopen`, at the start of a transaction: its version, and the file's
    /// size, which SQLite asks for next, as the server has them.
    fn begin_past_caches(&mut self) -> Result<(), SqliteError> {
        if self.read_check != ReadCheck::Reopen {
            return Ok(());
        }
        let version = self.version_past_caches()?;
        self.snapshot.begin_at(version);
        let refreshed = self.direct_file().and_then(DirectFile::refresh_size);
        refreshed.map_err(|error| self.not_read_afresh(&error))
    }

    /// With the lease and RESERVED in hand: the state of the file now. What SQLite reads from here
    /// on is of this state.
    fn current_state(&mut self) -> Result<FileState, SqliteError> {
        self.drop_cached_pages()?;
        let version = self.current_version()?;
        self.refresh_size()?;
        if version == FileVersion::default() && self.base.size()? == 0 {
            return Ok(FileState::Empty);
        }
        Ok(FileState::Version(version))
    }

    /// The file's version as it stands now, on whatever host it was written.
    fn current_version(&mut self) -> Result<FileVersion, SqliteError> {
        if self.cache_bypass.is_some() {
            self.version_past_caches()
        } else {
            self.cached_version()
        }
    }

    fn version_past_caches(&mut self) -> Result<FileVersion, SqliteError> {
        read_version(|data, offset| self.read_past_caches(data, offset))
    }

    fn cached_version(&self) -> Result<FileVersion, SqliteError> {
        read_version(|data, offset| self.base.read(data, offset))
    }

    /// As [`read`](IoMethods::read).
    fn read_past_caches(
        &mut self,
        data: &mut [u8],
        offset: i64,
    ) -> Result<ReadExtent, SqliteError> {
        let offset = u64::try_from(offset).unwrap_or_default();
        match (self.direct_file()).and_then(|file| file.read_at(data, offset)) {
            Ok(count) if count == data.len() => Ok(ReadExtent::Full),
            Ok(_) => Ok(ReadExtent::Short),
            Err(error) => Err(self.not_read_afresh(&error)),
        }
    }

    fn direct_file(&mut self) -> io::Result<&DirectFile> {
        match &mut self.cache_bypass {
            Some(cache_bypass) => cache_bypass.direct_file(),
            None => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Where this host's caches may be old: makes the next reads of the file ask the server.
    fn drop_cached_pages(&mut self) -> Result<(), SqliteError> {
        let dropped = (self.cache_bypass.as_mut()).map_or(Ok(()), CacheBypass::drop_cached_pages);
        dropped.map_err(|error| self.not_read_afresh(&error))
    }

    /// Where this host's caches may be old: makes the file's size, up to which pages are read, the
    /// server's.
    fn refresh_size(&mut self) -> Result<(), SqliteError> {
        let refreshed = (self.cache_bypass.as_mut()).map_or(Ok(()), CacheBypass::refresh_size);
        refreshed.map_err(|error| self.not_read_afresh(&error))
    }

    fn not_read_afresh(&self, error: &io::Error) -> SqliteError {
        (self.lock).file_failed(format!("the database cannot be read afresh: {error}"));
        SqliteError::IOERR
    }

    fn failed(&self, doing: &str, error: SqliteError) -> SqliteError {
        remember_failure(&self.lock, &self.base, doing, error)
    }
}

/// Reads the file's version; zero if the file is too short to have one.
fn read_version(
    read: impl FnOnce(&mut [u8], i64) -> Result<ReadExtent, SqliteError>,
) -> Result<FileVersion, SqliteError> {
    let mut version = FileVersion::default();
    Ok(match read(&mut version.0, FileVersion::OFFSET as i64)? {
        ReadExtent::Full => version,
        ReadExtent::Short => FileVersion::default(),
    })
}
