//! Where SQLite asks for its locks: a VFS over SQLite's own that puts the write lease there.

mod authorizer;
#[allow(
    unsafe_code,
    reason = "SQLite's C interface; the crate has no other unsafe code"
)]
mod ffi;
mod file_failure;
mod io_methods;
mod journal_file;
mod journal_names;
mod main_file;
mod pragma;
mod snapshot;
mod sqlite_error;
mod unguarded;

use std::sync::Arc;

use diesel::result::ConnectionResult;
use diesel::sqlite::SqliteConnection;

use crate::config::ReadCheck;
use crate::files::fs_kind::FileSystem;
use crate::write_lock::WriteLock;

/// What is settled about a main file before it is opened.
pub(crate) struct Admission {
    pub(crate) lock: Arc<WriteLock>,
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
    uri: &str,
) -> ConnectionResult<Option<SqliteConnection>> {
    ffi::open_admitted(admission, uri)
}
