//! Where SQLite asks for its locks: a VFS over SQLite's own that puts the write lease there.

mod authorizer;
#[allow(
    unsafe_code,
    reason = "SQLite's C interface; the crate has no other unsafe code"
)]
mod ffi;
mod file_failure;
mod io_methods;
mod io_values;
mod journal_file;
mod journal_names;
mod main_file;
mod open_params;
mod pragma;
mod snapshot;
mod sqlite_error;
mod unguarded;

use diesel::result::ConnectionResult;
use diesel::sqlite::SqliteConnection;

pub(crate) use self::open_params::OpenParams;

/// The name of the shim over the named base VFS; `None` if SQLite has no such VFS.
pub(crate) fn shim_over(base: &str) -> Option<&'static str> {
    ffi::shim_over(base)
}

/// Opens Diesel's connection with a main file ruled by `params`; `None` if the file turned out
/// not to have been opened through the shim, which only another use of the thread could cause.
pub(crate) fn open(params: OpenParams, uri: &str) -> ConnectionResult<Option<SqliteConnection>> {
    ffi::open(params, uri)
}
