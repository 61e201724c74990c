//! The callbacks of a connection: busy handler, rollback hook, authorizer.
//!
//! Each trampoline's contract: SQLite calls it with the pointer that [`install`] gave it, while the
//! connection is open.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use libsqlite3_sys as ffi;

use super::guard::{guarded, text};
use crate::vfs::authorizer;
use crate::write_lock::WriteLock;

/// Installs the callbacks; returns whether that succeeded.
///
/// # Safety
/// `database` is open, and nothing else uses it meanwhile.
pub(super) unsafe fn install(database: NonNull<ffi::sqlite3>, lock: Arc<WriteLock>) -> bool {
    /// The function's only purpose is to own the lock for as long as the connection lives; the main
    /// file does not live as long if `sqlite3_deserialize` replaces it.
    const OWNER: &CStr = c"diesel_sqlite_efs_version";
    let database = database.as_ptr();
    let lock = Arc::into_raw(lock).cast_mut().cast::<c_void>();
    // SAFETY: the connection is open; SQLite takes over `lock` and calls the destructor with it
    // when the function is destroyed, also if this call fails.
    let result = unsafe {
        ffi::sqlite3_create_function_v2(
            database,
            OWNER.as_ptr(),
            0,
            ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC,
            lock,
            Some(version_trampoline),
            None,
            None,
            Some(drop_lock_trampoline),
        )
    };
    if result != ffi::SQLITE_OK {
        return false;
    }
    // SAFETY: the connection is open, and `lock` lives until it is closed, after the last call of
    // this callback.
    unsafe { ffi::sqlite3_busy_handler(database, Some(busy_trampoline), lock) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_rollback_hook(database, Some(rollback_trampoline), lock) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_set_authorizer(database, Some(authorizer_trampoline), lock) };
    true
}

/// # Safety
/// `lock` is the pointer that [`install`] gave to SQLite, whose connection is open during `'a`.
unsafe fn lock_of<'a>(lock: *mut c_void) -> &'a WriteLock {
    // SAFETY: it came from `Arc::into_raw`, and its count is released only when the connection is
    // closed. The lock is shared and has its own lock.
    unsafe { &*lock.cast::<WriteLock>() }
}

/// # Safety
/// The module's contract; SQLite calls it once, when the last callback is over.
unsafe extern "C" fn drop_lock_trampoline(lock: *mut c_void) {
    guarded((), || {
        // SAFETY: the count that `install` took with `Arc::into_raw`, released once.
        drop(unsafe { Arc::from_raw(lock.cast::<WriteLock>()) });
    });
}

/// # Safety
/// The module's contract (<https://sqlite.org/c3ref/create_function.html>).
unsafe extern "C" fn version_trampoline(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    _values: *mut *mut ffi::sqlite3_value,
) {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    // SAFETY: the context is SQLite's; the text is static and ends with a zero byte.
    unsafe {
        ffi::sqlite3_result_text(context, VERSION.as_ptr().cast(), -1, ffi::SQLITE_STATIC());
    }
}

/// # Safety
/// The module's contract (<https://sqlite.org/c3ref/busy_handler.html>).
unsafe extern "C" fn busy_trampoline(lock: *mut c_void, count: c_int) -> c_int {
    guarded(0, || {
        // SAFETY: the module's contract.
        let lock = unsafe { lock_of(lock) };
        c_int::from(lock.wait(count == 0))
    })
}

/// # Safety
/// The module's contract (<https://sqlite.org/c3ref/commit_hook.html>).
unsafe extern "C" fn rollback_trampoline(lock: *mut c_void) {
    guarded((), || {
        // SAFETY: the module's contract.
        let lock = unsafe { lock_of(lock) };
        lock.rolled_back();
    });
}

/// # Safety
/// The module's contract (<https://sqlite.org/c3ref/set_authorizer.html>).
unsafe extern "C" fn authorizer_trampoline(
    lock: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    if !matches!(
        action,
        ffi::SQLITE_ATTACH | ffi::SQLITE_PRAGMA | ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT
    ) {
        return ffi::SQLITE_OK;
    }
    guarded(ffi::SQLITE_DENY, || {
        // SAFETY: the module's contract.
        let lock = unsafe { lock_of(lock) };
        // SAFETY: for SQLITE_ATTACH this is the file name, or null if it is no literal; for
        // SQLITE_PRAGMA its name; for SQLITE_TRANSACTION and SQLITE_SAVEPOINT the operation
        // (<https://sqlite.org/c3ref/c_alter_table.html>).
        let first = unsafe { text(first) };
        // SAFETY: for SQLITE_PRAGMA this is the value, or null.
        let second = unsafe { text(second) }.map(CStr::to_string_lossy);
        // SAFETY: for SQLITE_PRAGMA this is the schema that it names, or null.
        let database = unsafe { text(database) }.map(CStr::to_string_lossy);
        let allowed = match (action, first, database) {
            (ffi::SQLITE_ATTACH, name, _) => authorizer::may_attach(lock, name.map(CStr::to_bytes)),
            (ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT, Some(operation), _) => {
                if operation == c"BEGIN" {
                    lock.begin_prepared();
                } else if operation == c"ROLLBACK" && action == ffi::SQLITE_TRANSACTION {
                    lock.rollback_prepared();
                }
                true
            }
            (_, Some(name), Some(schema)) => {
                authorizer::may_set(lock, &schema, &name.to_string_lossy(), second.as_deref())
            }
            _ => true,
        };
        if allowed {
            ffi::SQLITE_OK
        } else {
            ffi::SQLITE_DENY
        }
    })
}
