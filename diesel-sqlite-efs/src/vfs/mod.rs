//! The VFS over SQLite's own, which acquires the write lease where SQLite asks for its lock.

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

/// Opens Diesel's connection with a main file governed by `params`; `None` if the file was not
/// opened through the shim, which only another use of the thread could cause.
pub(crate) fn open(params: OpenParams, uri: &str) -> ConnectionResult<Option<SqliteConnection>> {
    ffi::open(params, uri)
}
