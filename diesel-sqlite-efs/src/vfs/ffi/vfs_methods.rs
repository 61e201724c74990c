//! The methods of the shim's VFS: opening, deleting and looking for files by their names.
//!
//! Each trampoline's contract: SQLite calls it as a method of a VFS that
//! [`shim_over`](super::shim_over) has registered, with the arguments that
//! <https://sqlite.org/c3ref/vfs.html> says.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libsqlite3_sys as ffi;

use super::base::BaseVfs;
use super::connection::take_params;
use super::file_methods::ShimFile;
use super::guard::{guarded, guarded_result, text};
use crate::vfs::journal_file::{self, Created, TransactionJournal};
use crate::vfs::journal_names::lock_of_journal;
use crate::vfs::main_file::MainFile;
use crate::vfs::open_params::OpenParams;
use crate::vfs::sqlite_error::SqliteError;
use crate::vfs::unguarded;

/// # Safety
/// The module's contract.
pub(super) unsafe extern "C" fn open_trampoline(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guarded_result(SqliteError::CANTOPEN, || {
        // SAFETY: memory for a file; without methods SQLite will not close it if we fail.
        unsafe { (*file).pMethods = ptr::null() };
        // SAFETY: the module's contract.
        let base = unsafe { BaseVfs::below(vfs) };
        if flags & ffi::SQLITE_OPEN_MAIN_DB != 0
            && let Some(params) = take_params()
        {
            // SAFETY: the arguments are `xOpen`'s for a main file.
            let (main, opened_flags) = unsafe { open_main(base, params, name, flags) }?;
            // SAFETY: the memory is `xOpen`'s and holds nothing yet.
            unsafe { ShimFile::install(file, main) };
            // SAFETY: `xOpen`'s out-parameter.
            unsafe { set_flags(out_flags, opened_flags) };
            return Ok(());
        }
        let journal_of = (flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0)
            .then(|| lock_of_journal(name.addr()))
            .flatten();
        if flags & ffi::SQLITE_OPEN_CREATE != 0 && journal_of.is_some() {
            // SAFETY: the arguments are `xOpen`'s for the journal of a main file of ours, as its
            // name shows.
            let journal = unsafe { create_journal(base, name, flags) }?;
            // SAFETY: the memory is `xOpen`'s and holds nothing yet.
            unsafe { ShimFile::install(file, journal) };
            // SAFETY: `xOpen`'s out-parameter.
            unsafe { set_flags(out_flags, flags) };
            return Ok(());
        }
        if !unguarded::may_open(flags) {
            return Err(SqliteError::CANTOPEN);
        }
        let open = base.method(|vfs| vfs.xOpen);
        // SAFETY: the arguments are `xOpen`'s, and the memory is enough for the base VFS, too.
        let result = unsafe { open(base.as_ptr(), name, file, flags, out_flags) };
        if result != ffi::SQLITE_OK
            && flags & ffi::SQLITE_OPEN_READWRITE != 0
            && let Some(lock) = journal_of
        {
            // SQLite has just seen it, and asks for it with EXCLUSIVE in hand.
            lock.recovery_journal_not_opened();
        }
        SqliteError::check(result)
    })
}

/// The main file, and the flags that it was opened with.
///
/// # Safety
/// `name` and `flags` are those of `xOpen` for a main database file.
unsafe fn open_main(
    base: BaseVfs,
    params: OpenParams,
    name: *const c_char,
    flags: c_int,
) -> Result<(MainFile, c_int), SqliteError> {
    // SAFETY: the caller's promise; the main file owns it, and is dropped when it is closed.
    let (file, opened_flags) = unsafe { base.open(name, flags) }?;
    // SAFETY: `name` was passed to `xOpen` for a main file, so it has a journal's name beside it.
    let journal_name = unsafe { ffi::sqlite3_filename_journal(name) };
    // SAFETY: SQLite's names end with a zero byte and outlive the file.
    let path = unsafe { text(name) }.ok_or(SqliteError::CANTOPEN)?;
    // SAFETY: as above.
    let journal = unsafe { text(journal_name) }.ok_or(SqliteError::CANTOPEN)?;
    let (path, journal) = (as_path(path), as_path(journal));
    let main = MainFile::new(file, params, path, journal, journal_name.addr())?;
    Ok((main, opened_flags))
}

/// # Safety
/// `name` and `flags` are those of `xOpen` for the rollback journal of a [`MainFile`] that is open.
unsafe fn create_journal(
    base: BaseVfs,
    name: *const c_char,
    flags: c_int,
) -> Result<TransactionJournal, SqliteError> {
    // SAFETY: the name is `xOpen`'s, of a journal.
    let main = unsafe { ffi::sqlite3_database_file_object(name) };
    // SAFETY: by the caller's promise it is a main file of ours. SQLite opens its journal, and so
    // uses it for nothing else; nor does the base VFS, which knows its own file alone.
    let main = unsafe { ShimFile::<MainFile>::file(main) };
    TransactionJournal::create(main, || {
        // SAFETY: the caller's promise; the journal owns it, and is dropped when it is closed.
        let (file, opened_flags) = unsafe { base.open(name, flags | ffi::SQLITE_OPEN_EXCLUSIVE) }?;
        Ok(if opened_flags & ffi::SQLITE_OPEN_READONLY == 0 {
            Created::New(file)
        } else {
            Created::Existing(file)
        })
    })
}

/// # Safety
/// `out` is null or `xOpen`'s out-parameter.
unsafe fn set_flags(out: *mut c_int, flags: c_int) {
    // SAFETY: the caller's promise.
    if let Some(out) = unsafe { out.as_mut() } {
        *out = flags;
    }
}

fn as_path(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

/// # Safety
/// The module's contract.
pub(super) unsafe extern "C" fn delete_trampoline(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_DELETE, || {
        // SAFETY: the module's contract.
        let base = unsafe { BaseVfs::below(vfs) };
        // SAFETY: the name is `xDelete`'s.
        let delete = |sync_directory| unsafe { base.delete(name, sync_directory) };
        match lock_of_journal(name.addr()) {
            Some(lock) => journal_file::delete(&lock, sync_directory != 0, delete),
            None => delete(sync_directory != 0),
        }
    })
}

/// # Safety
/// The module's contract.
pub(super) unsafe extern "C" fn access_trampoline(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_ACCESS, || {
        // SAFETY: the module's contract.
        let base = unsafe { BaseVfs::below(vfs) };
        if flags == ffi::SQLITE_ACCESS_EXISTS
            && let Some(lock) = lock_of_journal(name.addr())
            && let Some(exists) = journal_file::exists(&lock)
        {
            let exists = c_int::from(exists?);
            // SAFETY: `xAccess`'s out-parameter.
            unsafe { *out = exists };
            return Ok(());
        }
        let access = base.method(|vfs| vfs.xAccess);
        // SAFETY: the arguments are `xAccess`'s.
        SqliteError::check(unsafe { access(base.as_ptr(), name, flags, out) })
    })
}

/// Methods that are the base VFS's own.
macro_rules! delegate {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*) -> $result:ty, $on_panic:expr;)*) => {$(
        /// # Safety
        /// The module's contract.
        pub(super) unsafe extern "C" fn $name(
            vfs: *mut ffi::sqlite3_vfs
            $(, $argument: $type)*
        ) -> $result {
            guarded($on_panic, || {
                // SAFETY: the module's contract.
                let base = unsafe { BaseVfs::below(vfs) };
                let method = base.method(|vfs| vfs.$method);
                // SAFETY: the arguments are the method's own.
                unsafe { method(base.as_ptr() $(, $argument)*) }
            })
        }
    )*};
}

type Symbol = Option<unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut c_void, *const c_char)>;

delegate! {
    full_pathname_trampoline => xFullPathname(name: *const c_char, size: c_int, out: *mut c_char) -> c_int, ffi::SQLITE_CANTOPEN;
    dl_open_trampoline => xDlOpen(name: *const c_char) -> *mut c_void, ptr::null_mut();
    dl_error_trampoline => xDlError(size: c_int, message: *mut c_char) -> (), ();
    dl_sym_trampoline => xDlSym(library: *mut c_void, symbol: *const c_char) -> Symbol, None;
    dl_close_trampoline => xDlClose(library: *mut c_void) -> (), ();
    randomness_trampoline => xRandomness(size: c_int, out: *mut c_char) -> c_int, 0;
    sleep_trampoline => xSleep(microseconds: c_int) -> c_int, 0;
    current_time_trampoline => xCurrentTime(days: *mut f64) -> c_int, ffi::SQLITE_ERROR;
    get_last_error_trampoline => xGetLastError(size: c_int, message: *mut c_char) -> c_int, 0;
    current_time_int64_trampoline => xCurrentTimeInt64(millis: *mut i64) -> c_int, ffi::SQLITE_ERROR;
}
