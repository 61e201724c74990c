//! Values of SQLite's file methods: lock levels, the extent of a read.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

/// How much of the requested range the file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadExtent {
    Full,
    /// The file ends earlier; the rest of the buffer is zero.
    Short,
}

/// What SQLite's lock on a database file allows (<https://sqlite.org/lockingv3.html#locking>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LockLevel {
    /// Neither read nor write.
    None,
    /// Read, together with other readers.
    Shared,
    /// Prepare a write: one connection at a time, together with readers.
    Reserved,
    /// Wait for EXCLUSIVE: no new readers.
    Pending,
    /// Write, with no other reader or writer.
    Exclusive,
}

impl LockLevel {
    pub(super) fn from_code(code: c_int) -> Option<Self> {
        match code {
            ffi::SQLITE_LOCK_NONE => Some(Self::None),
            ffi::SQLITE_LOCK_SHARED => Some(Self::Shared),
            ffi::SQLITE_LOCK_RESERVED => Some(Self::Reserved),
            ffi::SQLITE_LOCK_PENDING => Some(Self::Pending),
            ffi::SQLITE_LOCK_EXCLUSIVE => Some(Self::Exclusive),
            _ => None,
        }
    }

    pub(super) fn code(self) -> c_int {
        match self {
            Self::None => ffi::SQLITE_LOCK_NONE,
            Self::Shared => ffi::SQLITE_LOCK_SHARED,
            Self::Reserved => ffi::SQLITE_LOCK_RESERVED,
            Self::Pending => ffi::SQLITE_LOCK_PENDING,
            Self::Exclusive => ffi::SQLITE_LOCK_EXCLUSIVE,
        }
    }
}
