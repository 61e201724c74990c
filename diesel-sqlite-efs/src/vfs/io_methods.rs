//! What SQLite asks of an open file: the safe side of its method table.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use super::ffi::{BaseFile, Connection, ReadBuffer};
use super::io_values::{LockLevel, ReadExtent};
use super::sqlite_error::SqliteError;

/// The methods of `sqlite3_io_methods` (<https://sqlite.org/c3ref/io_methods.html>) that a file may
/// decide. All others, and the provided ones, call the base VFS's file.
pub(super) trait IoMethods: Send {
    /// The base VFS's file under this one.
    fn base(&self) -> &BaseFile;

    /// Called once; the file is closed whatever it returns.
    fn close(self) -> Result<(), SqliteError>;

    /// Fills the buffer: "If xRead() returns SQLITE_IOERR_SHORT_READ it must also fill in the
    /// unread portions of the buffer with zeros. A VFS that fails to zero-fill short reads might
    /// seem to work. However, failure to zero-fill short reads will eventually lead to database
    /// corruption."
    fn read(&mut self, buffer: &mut ReadBuffer<'_>, offset: i64)
    -> Result<ReadExtent, SqliteError>;

    fn write(&mut self, data: &[u8], offset: i64) -> Result<(), SqliteError>;

    fn truncate(&mut self, size: i64) -> Result<(), SqliteError>;

    /// `flags` are SQLITE_SYNC_NORMAL or SQLITE_SYNC_FULL, perhaps with SQLITE_SYNC_DATAONLY.
    fn sync(&mut self, flags: c_int) -> Result<(), SqliteError>;

    /// "xLock() upgrades the database file lock. [..] If the database file lock is already at or
    /// above the requested lock, then the call to xLock() is a no-op."
    ///
    /// `connection` is the caller, once SQLite has said which connection that is.
    fn lock(
        &mut self,
        level: LockLevel,
        connection: Option<&Connection>,
    ) -> Result<(), SqliteError> {
        let _ = connection;
        self.base().lock(level)
    }

    /// "xUnlock() downgrades the database file lock to either SHARED or NONE. If the lock is already
    /// at or below the requested lock state, then the call to xUnlock() is a no-op."
    fn unlock(&mut self, level: LockLevel) -> Result<(), SqliteError> {
        self.base().unlock(level)
    }

    /// A PRAGMA is about to be run
    /// (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html#sqlitefcntlpragma>).
    fn pragma(&mut self, name: &str, value: Option<&str>) -> PragmaAnswer {
        let _ = (name, value);
        PragmaAnswer::NotFound
    }

    /// The SQLITE_IOCAP_ flags (<https://sqlite.org/c3ref/c_iocap_atomic.html>).
    fn device_characteristics(&self) -> c_int {
        /// What would break the guarantees of the journal: headers that are valid at once, writes
        /// assumed to be ordered, no journal at all.
        const NEVER: c_int = ffi::SQLITE_IOCAP_SAFE_APPEND
            | ffi::SQLITE_IOCAP_SEQUENTIAL
            | ffi::SQLITE_IOCAP_BATCH_ATOMIC
            | ffi::SQLITE_IOCAP_IMMUTABLE;
        self.base().device_characteristics() & !NEVER
    }
}

/// The result of a PRAGMA.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PragmaAnswer {
    /// SQLite runs it.
    NotFound,
    /// It has been run, with this result.
    Done(String),
    /// It fails with this message.
    Error(String),
}
