//! Registers the shim with SQLite as a VFS.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::{LazyLock, Mutex, PoisonError};

use libsqlite3_sys as ffi;

use super::base::BaseVfs;
use super::file_methods::ShimFile;
use super::vfs_methods as methods;
use crate::vfs::main_file::MainFile;

/// The name of the shim over the base VFS `base`, which is registered if it has not been.
/// `None` if SQLite knows no such VFS.
pub(in crate::vfs) fn shim_over(base: &str) -> Option<&'static str> {
    static SHIMS: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);
    let mut shims = SHIMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = shims.get(base) {
        return Some(name);
    }
    let name = match base {
        "unix" => "efs".to_owned(),
        other => format!("efs-over-{other}"),
    };
    register(BaseVfs::find(base)?, &name)?;
    let name: &'static str = name.leak();
    shims.insert(base.to_owned(), name);
    Some(name)
}

/// `None` if SQLite refuses.
fn register(base: BaseVfs, name: &str) -> Option<()> {
    // The memory that SQLite provides holds either a file of the shim or one of the base VFS.
    let file_size = mem::size_of::<ShimFile<MainFile>>().max(base.file_size());
    let vfs = Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(file_size).ok()?,
        mxPathname: base.max_path(),
        pNext: ptr::null_mut(),
        zName: CString::new(name).ok()?.into_raw(),
        pAppData: base.as_ptr().cast(),
        xOpen: Some(methods::open_trampoline),
        xDelete: Some(methods::delete_trampoline),
        xAccess: Some(methods::access_trampoline),
        xFullPathname: Some(methods::full_pathname_trampoline),
        xDlOpen: Some(methods::dl_open_trampoline),
        xDlError: Some(methods::dl_error_trampoline),
        xDlSym: Some(methods::dl_sym_trampoline),
        xDlClose: Some(methods::dl_close_trampoline),
        xRandomness: Some(methods::randomness_trampoline),
        xSleep: Some(methods::sleep_trampoline),
        xCurrentTime: Some(methods::current_time_trampoline),
        xGetLastError: Some(methods::get_last_error_trampoline),
        xCurrentTimeInt64: Some(methods::current_time_int64_trampoline),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    });
    let vfs = NonNull::from(Box::leak(vfs));
    // SAFETY: the struct and its name are leaked and so live for ever; it does not become the
    // default VFS.
    let result = unsafe { ffi::sqlite3_vfs_register(vfs.as_ptr(), 0) };
    (result == ffi::SQLITE_OK).then_some(())
}
