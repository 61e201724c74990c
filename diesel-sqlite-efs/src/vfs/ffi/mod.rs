//! The only unsafe code: SQLite's pointers in, calls of safe code out.
//!
//! | file | job |
//! |---|---|
//! | `registration.rs` | the VFS as SQLite knows it |
//! | `vfs_methods.rs` | its methods: opening, deleting, looking for files by their names |
//! | `file_methods.rs` | the methods of the files that it opens |
//! | `connection.rs` | a connection and its main file find each other while it is opened |
//! | `callbacks.rs` | busy handler, rollback hook and authorizer of a connection |
//! | `base.rs` | the base VFS and its files, as owners with safe methods |
//!
//! A function that SQLite calls is a `_trampoline`. Its contract is that SQLite calls it as its
//! documentation says, for what it was given to: <https://sqlite.org/c3ref/vfs.html>,
//! <https://sqlite.org/c3ref/io_methods.html>. Where a decision is to be made it calls the safe
//! side: [`IoMethods`](super::io_methods::IoMethods) of a file, the [`WriteLock`](crate::write_lock::WriteLock).

mod base;
mod callbacks;
mod connection;
mod file_methods;
mod registration;
mod vfs_methods;

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) use self::base::BaseFile;
pub(super) use self::connection::{Connection, open_admitted};
pub(super) use self::registration::shim_over;
use super::sqlite_error::SqliteError;

/// Runs code that C has called: no panic may cross into C, it becomes `on_panic`.
fn guarded<T>(on_panic: T, code: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or(on_panic)
}

/// The same for code whose result is one of SQLite's codes.
fn guarded_result(on_panic: SqliteError, code: impl FnOnce() -> Result<(), SqliteError>) -> c_int {
    SqliteError::code_of(guarded(Err(on_panic), code))
}

/// # Safety
/// `text` is null or points to a string that ends with a zero byte and lives for `'a`.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(text) })
}
