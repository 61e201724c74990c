//! The method tables of the shim's files: C's arguments become those of [`IoMethods`].
//!
//! A shim file is a C "subclass" of `sqlite3_file` in the memory that SQLite provides for it.
//! SQLite calls its methods as <https://sqlite.org/c3ref/io_methods.html> says, one at a time for a
//! file; none of them makes SQLite use the same file in turn.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::{ptr, slice};

use libsqlite3_sys as ffi;

use super::connection::Connection;
use super::guard::{guarded, guarded_result, text};
use super::read_buffer::ReadBuffer;
use crate::vfs::io_methods::{IoMethods, PragmaAnswer};
use crate::vfs::io_values::{LockLevel, ReadExtent};
use crate::vfs::sqlite_error::SqliteError;

/// A file that SQLite has open: `file` decides what its methods do.
#[repr(C)]
pub(super) struct ShimFile<F> {
    /// First, so that a pointer to this is one to a `sqlite3_file`.
    header: ffi::sqlite3_file,
    file: Box<F>,
    /// The connection, once SQLite has named it.
    connection: Option<Connection>,
}

impl<F: IoMethods> ShimFile<F> {
    /// Version 1: no shared memory, so no write-ahead log, and no memory mapping, whose I/O errors
    /// would be signals.
    const METHODS: &'static ffi::sqlite3_io_methods = &ffi::sqlite3_io_methods {
        iVersion: 1,
        xClose: Some(close_trampoline::<F>),
        xRead: Some(read_trampoline::<F>),
        xWrite: Some(write_trampoline::<F>),
        xTruncate: Some(truncate_trampoline::<F>),
        xSync: Some(sync_trampoline::<F>),
        xFileSize: Some(file_size_trampoline::<F>),
        xLock: Some(lock_trampoline::<F>),
        xUnlock: Some(unlock_trampoline::<F>),
        xCheckReservedLock: Some(check_reserved_lock_trampoline::<F>),
        xFileControl: Some(file_control_trampoline::<F>),
        xSectorSize: Some(sector_size_trampoline::<F>),
        xDeviceCharacteristics: Some(device_characteristics_trampoline::<F>),
        xShmMap: None,
        xShmLock: None,
        xShmBarrier: None,
        xShmUnmap: None,
        xFetch: None,
        xUnfetch: None,
    };

    /// Makes an open file of SQLite's memory, which SQLite closes once.
    ///
    /// # Safety
    /// `memory` was passed to the `xOpen` of a shim and holds nothing that would have to be dropped.
    pub(super) unsafe fn install(memory: *mut ffi::sqlite3_file, file: F) {
        let shim = Self {
            header: ffi::sqlite3_file {
                pMethods: Self::METHODS,
            },
            file: Box::new(file),
            connection: None,
        };
        // SAFETY: the memory is large enough, see `registration.rs`, and aligned by SQLite's
        // allocator for pointers, of which the struct is made.
        unsafe { memory.cast::<Self>().write(shim) };
    }

    /// # Safety
    /// [`install`](Self::install) has made `file`, with this `F`. It is open, and nothing else uses
    /// it during `'a`.
    unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Self {
        // SAFETY: the caller's promise; the struct is `repr(C)` and begins with the header.
        unsafe { &mut *file.cast::<Self>() }
    }

    /// The file behind SQLite's.
    ///
    /// # Safety
    /// As for [`of`](Self::of).
    pub(super) unsafe fn file<'a>(file: *mut ffi::sqlite3_file) -> &'a mut F {
        // SAFETY: the caller's promise.
        &mut unsafe { Self::of(file) }.file
    }
}

// The safety contract of each trampoline is the module's: SQLite calls it as a method of a file
// that `ShimFile::<F>::install` has made, with the arguments of that method.

/// # Safety
/// The module's contract; nothing reads the memory afterwards.
unsafe extern "C" fn close_trampoline<F: IoMethods>(file: *mut ffi::sqlite3_file) -> c_int {
    guarded_result(SqliteError::IOERR_CLOSE, || {
        // SAFETY: SQLite closes a file once.
        let shim = unsafe { file.cast::<ShimFile<F>>().read() };
        shim.file.close()
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn read_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded_result(SqliteError::IOERR_READ, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        // SAFETY: SQLite's buffer of `amount` bytes.
        let mut buffer = unsafe { ReadBuffer::new(buffer, amount) };
        match file.read(&mut buffer, offset)? {
            ReadExtent::Full => Ok(()),
            ReadExtent::Short => Err(SqliteError::IOERR_SHORT_READ),
        }
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn write_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded_result(SqliteError::IOERR_WRITE, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        // SAFETY: SQLite's buffer of `amount` bytes.
        let data = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), size(amount)) };
        file.write(data, offset)
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn truncate_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    size: i64,
) -> c_int {
    guarded_result(SqliteError::IOERR_TRUNCATE, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        file.truncate(size)
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn sync_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    flags: c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_FSYNC, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        file.sync(flags)
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn file_size_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    out: *mut i64,
) -> c_int {
    guarded_result(SqliteError::IOERR_FSTAT, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        let size = file.base().size()?;
        // SAFETY: `xFileSize`'s out-parameter.
        unsafe { *out = size };
        Ok(())
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn lock_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    level: c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_LOCK, || {
        // SAFETY: the module's contract.
        let shim = unsafe { ShimFile::<F>::of(file) };
        let level = LockLevel::from_code(level).ok_or(SqliteError::IOERR_LOCK)?;
        shim.file.lock(level, shim.connection.as_ref())
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn unlock_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    level: c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_UNLOCK, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        let level = LockLevel::from_code(level).ok_or(SqliteError::IOERR_UNLOCK)?;
        file.unlock(level)
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn check_reserved_lock_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    out: *mut c_int,
) -> c_int {
    guarded_result(SqliteError::IOERR_CHECKRESERVEDLOCK, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        let is_reserved = file.base().is_reserved()?;
        // SAFETY: `xCheckReservedLock`'s out-parameter.
        unsafe { *out = c_int::from(is_reserved) };
        Ok(())
    })
}

/// # Safety
/// The module's contract, and `argument` is what
/// <https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html> says of `operation`.
unsafe extern "C" fn file_control_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    guarded_result(SqliteError::ERROR, || {
        // SAFETY: the module's contract.
        let shim = unsafe { ShimFile::<F>::of(file) };
        match operation {
            ffi::SQLITE_FCNTL_PDB => {
                // SAFETY: the argument points to the connection's pointer.
                let connection = unsafe { *argument.cast::<*mut ffi::sqlite3>() };
                // SAFETY: it is this file's connection, which closes the file before itself.
                shim.connection = unsafe { Connection::of_file(connection) };
                Ok(())
            }
            ffi::SQLITE_FCNTL_PRAGMA => {
                // SAFETY: the argument is an array of at least three strings: the answer, to be
                // allocated by SQLite, the PRAGMA's name and its value.
                let arguments = unsafe { &mut *argument.cast::<[*mut c_char; 3]>() };
                // SAFETY: SQLite's strings, valid during this call.
                let name = unsafe { text(arguments[1]) }.map(CStr::to_string_lossy);
                // SAFETY: as above; null if the PRAGMA has no value.
                let value = unsafe { text(arguments[2]) }.map(CStr::to_string_lossy);
                let answer = name.map(|name| shim.file.pragma(&name, value.as_deref()));
                match answer.unwrap_or(PragmaAnswer::NotFound) {
                    PragmaAnswer::NotFound => Err(SqliteError(ffi::SQLITE_NOTFOUND)),
                    PragmaAnswer::Done(result) => {
                        arguments[0] = sqlite_string(&result);
                        Ok(())
                    }
                    PragmaAnswer::Error(message) => {
                        arguments[0] = sqlite_string(&message);
                        Err(SqliteError::ERROR)
                    }
                }
            }
            // SAFETY: operation and argument are SQLite's own.
            _ => unsafe { shim.file.base().control(operation, argument) },
        }
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn sector_size_trampoline<F: IoMethods>(file: *mut ffi::sqlite3_file) -> c_int {
    guarded(4096, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        file.base().sector_size()
    })
}

/// # Safety
/// The module's contract.
unsafe extern "C" fn device_characteristics_trampoline<F: IoMethods>(
    file: *mut ffi::sqlite3_file,
) -> c_int {
    guarded(0, || {
        // SAFETY: the module's contract.
        let file = unsafe { ShimFile::<F>::file(file) };
        file.device_characteristics()
    })
}

fn size(amount: c_int) -> usize {
    usize::try_from(amount).unwrap_or(0)
}

/// A copy in memory that SQLite will free; null if there is none.
fn sqlite_string(text: &str) -> *mut c_char {
    let Ok(text) = CString::new(text) else {
        return ptr::null_mut();
    };
    // SAFETY: the format takes one string, which ends with a zero byte.
    unsafe { ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) }
}
