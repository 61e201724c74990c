//! SQLite's result codes, as errors.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

/// A result code other than `SQLITE_OK` (<https://sqlite.org/rescode.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SqliteError(pub(super) c_int);

impl SqliteError {
    pub(super) const BUSY: Self = Self(ffi::SQLITE_BUSY);
    pub(super) const BUSY_SNAPSHOT: Self = Self(ffi::SQLITE_BUSY_SNAPSHOT);
    pub(super) const CANTOPEN: Self = Self(ffi::SQLITE_CANTOPEN);
    pub(super) const ERROR: Self = Self(ffi::SQLITE_ERROR);
    pub(super) const IOERR: Self = Self(ffi::SQLITE_IOERR);
    pub(super) const IOERR_ACCESS: Self = Self(ffi::SQLITE_IOERR_ACCESS);
    pub(super) const IOERR_CHECKRESERVEDLOCK: Self = Self(ffi::SQLITE_IOERR_CHECKRESERVEDLOCK);
    pub(super) const IOERR_CLOSE: Self = Self(ffi::SQLITE_IOERR_CLOSE);
    pub(super) const IOERR_DELETE: Self = Self(ffi::SQLITE_IOERR_DELETE);
    pub(super) const IOERR_DELETE_NOENT: Self = Self(ffi::SQLITE_IOERR_DELETE_NOENT);
    pub(super) const IOERR_FSTAT: Self = Self(ffi::SQLITE_IOERR_FSTAT);
    pub(super) const IOERR_FSYNC: Self = Self(ffi::SQLITE_IOERR_FSYNC);
    pub(super) const IOERR_LOCK: Self = Self(ffi::SQLITE_IOERR_LOCK);
    pub(super) const IOERR_READ: Self = Self(ffi::SQLITE_IOERR_READ);
    pub(super) const IOERR_SHORT_READ: Self = Self(ffi::SQLITE_IOERR_SHORT_READ);
    pub(super) const IOERR_TRUNCATE: Self = Self(ffi::SQLITE_IOERR_TRUNCATE);
    pub(super) const IOERR_UNLOCK: Self = Self(ffi::SQLITE_IOERR_UNLOCK);
    pub(super) const IOERR_WRITE: Self = Self(ffi::SQLITE_IOERR_WRITE);

    /// The result of a call that returned this code.
    pub(super) fn check(code: c_int) -> Result<(), Self> {
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Self(code)),
        }
    }

    /// The code that C gets for this result.
    pub(super) fn code_of(result: Result<(), Self>) -> c_int {
        match result {
            Ok(()) => ffi::SQLITE_OK,
            Err(Self(code)) => code,
        }
    }

    /// Whether it is this error, whatever its extended code.
    pub(super) fn is_kind_of(self, primary: Self) -> bool {
        self.0 & 0xff == primary.0
    }
}
