//! The boundary between C and Rust: no panic crosses, texts are borrowed.

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::vfs::sqlite_error::SqliteError;

/// Runs code called by C: no panic may cross into C; it becomes `on_panic`.
#[inline]
pub(super) fn guarded<T>(on_panic: T, code: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or(on_panic)
}

/// The same for code whose result is one of SQLite's codes.
#[inline]
pub(super) fn guarded_result(
    on_panic: SqliteError,
    code: impl FnOnce() -> Result<(), SqliteError>,
) -> c_int {
    SqliteError::code_of(guarded(Err(on_panic), code))
}

/// # Safety
/// `text` is null or points to a string that ends with a zero byte and lives for `'a`.
pub(super) unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(text) })
}
