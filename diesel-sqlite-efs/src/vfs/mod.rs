//! Where SQLite asks for its locks: a VFS over SQLite's own that puts the write lease there.

mod ffi;
mod files;
pub(crate) mod gate;
pub(crate) mod inspect;
mod journal;
mod key_file;
pub(crate) mod netfs;
mod pragma;
mod snapshot;

use std::sync::Arc;

use diesel::result::ConnectionResult;
use diesel::sqlite::SqliteConnection;

use self::gate::Gate;
use self::netfs::FileSystem;
use crate::config::ReadCheck;

/// What is settled about a main file before it is opened.
pub(crate) struct Admission {
    pub(crate) gate: Arc<Gate>,
    pub(crate) read_check: ReadCheck,
    pub(crate) normal_sync_allowed: bool,
    pub(crate) file_system: FileSystem,
}

/// The name of the shim over the named base VFS; `None` if SQLite has no such VFS.
pub(crate) fn shim_over(base: &str) -> Option<&'static str> {
    ffi::shim_over(base)
}

/// Opens Diesel's connection with a main file ruled by `admission`; `None` if the file turned out
/// not to have been opened through the shim, which only another use of the thread could cause.
pub(crate) fn open_admitted(
    admission: Admission,
    open: impl FnOnce() -> ConnectionResult<SqliteConnection>,
) -> ConnectionResult<Option<SqliteConnection>> {
    ffi::open_admitted(admission, open)
}
