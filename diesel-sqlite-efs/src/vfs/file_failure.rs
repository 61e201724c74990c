//! Why an operation on a file failed: SQLite passes only a code, people need the reason.

use libsqlite3_sys as ffi;

use super::ffi::BaseFile;
use super::sqlite_error::SqliteError;
use crate::write_lock::WriteLock;

/// Makes the lock remember why `doing` something with the file failed; returns the error.
pub(super) fn remember_failure(
    lock: &WriteLock,
    base: &BaseFile,
    doing: &str,
    error: SqliteError,
) -> SqliteError {
    const FULL: SqliteError = SqliteError(ffi::SQLITE_FULL);
    let errno = base.last_errno();
    let reason = match errno {
        _ if error.is_kind_of(FULL) => {
            "no space is left on its file system; make room, then run the transaction again"
                .to_owned()
        }
        None => format!("SQLite error {}", error.0),
        Some(errno) => std::io::Error::from(errno).to_string(),
    };
    lock.operation_failed(doing, &reason, errno);
    error
}
