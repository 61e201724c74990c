//! The method tables: the only unsafe code of this package.
//!
//! A file is a C "subclass" of `sqlite3_file`: [`File`] comes first in the memory that SQLite
//! gives, the file of SQLite's own VFS behind it (<https://sqlite.org/vfs.html>).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, Once};

use libsqlite3_sys as ffi;

use super::{Fault, HOLDER, OTHER, On, Operation, Recorder, TIMED, Verdict, recorder_of};

const OK: c_int = ffi::SQLITE_OK;

/// What a VFS of ours knows.
struct Role {
    name: &'static str,
    base: *mut ffi::sqlite3_vfs,
    /// Whether files and directories are really synced.
    syncs: bool,
}

pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, base, syncs) in [
            (HOLDER, c"unix-none", false),
            (OTHER, c"unix-none", false),
            (TIMED, c"unix", true),
        ] {
            // SAFETY: the name ends with a zero byte.
            let base = unsafe { ffi::sqlite3_vfs_find(base.as_ptr()) };
            assert!(!base.is_null(), "SQLite has its own VFSes");
            // SAFETY: a registered VFS stays valid; the struct is plain data. The methods that are
            // kept do not look at the VFS that they are called with.
            let mut vfs = unsafe { *base };
            vfs.iVersion = 2;
            vfs.szOsFile += File::SIZE;
            vfs.pNext = ptr::null_mut();
            vfs.zName = CString::new(name).expect("no zero byte").into_raw();
            vfs.pAppData = Box::into_raw(Box::new(Role { name, base, syncs })).cast();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            vfs.xAccess = Some(access);
            // SAFETY: the struct, its name and its role live for ever.
            let result = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0) };
            assert_eq!(result, OK);
        }
    });
}

/// # Safety
/// `vfs` is one that [`register`] has registered.
unsafe fn role_of<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Role {
    // SAFETY: the caller's promise.
    let role = unsafe { (*vfs).pAppData };
    // SAFETY: it is a leaked `Role`.
    unsafe { &*role.cast::<Role>() }
}

/// The recorder of the database that the name belongs to.
///
/// # Safety
/// `name` is null or ends with a zero byte.
unsafe fn recorder_for(role: &Role, name: *const c_char) -> Option<Arc<Recorder>> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let database = (name.strip_suffix(b"-journal"))
        .or_else(|| name.strip_suffix(b"-wal"))
        .unwrap_or(name);
    recorder_of(role.name, Path::new(OsStr::from_bytes(database)))
}

// ---- Names ----

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: memory for a file; without methods SQLite will not close it if we fail.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: SQLite calls the method of a registered VFS with that VFS.
    let role = unsafe { role_of(vfs) };
    let on = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Some(On::Main)
    } else if flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0 {
        Some(On::Journal)
    } else {
        None
    };
    // SAFETY: a name of SQLite's own making.
    let recorder = on.and_then(|_| unsafe { recorder_for(role, name) });
    let watched = recorder.zip(on);
    let mut was_there = true;
    if let Some((recorder, on)) = &watched {
        match recorder.before(Operation::Open(*on)) {
            Verdict::Proceed => {}
            Verdict::Gone | Verdict::Fail(_) => return ffi::SQLITE_CANTOPEN,
        }
        // SAFETY: a name of SQLite's own making, not null since there is a recorder.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        was_there = Path::new(OsStr::from_bytes(name)).exists();
    }
    // SAFETY: the memory behind ours is for a file of the base VFS.
    let base = unsafe { file.byte_add(File::SIZE as usize) };
    // SAFETY: as above.
    unsafe { (*base).pMethods = ptr::null() };
    // SAFETY: a registered VFS; a plain field is read.
    let method = unsafe { (*role.base).xOpen }.expect("a VFS opens files");
    let mut got_flags = flags;
    // SAFETY: the arguments are SQLite's own.
    let result = unsafe { method(role.base, name, base, flags, &mut got_flags) };
    if !out_flags.is_null() {
        // SAFETY: not null, so it is the out-parameter.
        unsafe { *out_flags = got_flags };
    }
    if result != OK {
        return result;
    }
    if let Some((recorder, on)) = &watched {
        if !was_there {
            recorder.change(|disk| disk.created(*on));
        }
        recorder.after(Operation::Open(*on));
    }
    let ours = File {
        file: ffi::sqlite3_file { pMethods: &METHODS },
        base,
        watched,
        syncs: role.syncs,
    };
    // SAFETY: the memory is large enough, aligned by SQLite's allocator, and nothing of ours is
    // in it.
    unsafe { file.cast::<File>().write(ours) };
    OK
}

unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite calls the method of a registered VFS with that VFS.
    let role = unsafe { role_of(vfs) };
    // SAFETY: a registered VFS; a plain field is read.
    let method = unsafe { (*role.base).xDelete }.expect("a VFS deletes files");
    // What is synced is for the recorder to know; most tests need none.
    let really_synced = if role.syncs { sync_directory } else { 0 };
    // SAFETY: the arguments are SQLite's own.
    let really = || unsafe { method(role.base, name, really_synced) };
    // SAFETY: a name of SQLite's own making.
    let Some(recorder) = (unsafe { recorder_for(role, name) }) else {
        return really();
    };
    let failure = match recorder.before(Operation::Delete) {
        Verdict::Proceed => OK,
        Verdict::Fail(Fault::DoneButIo) => ffi::SQLITE_IOERR_DELETE,
        Verdict::Fail(Fault::DoneButAbsent) => ffi::SQLITE_IOERR_DELETE_NOENT,
        Verdict::Gone | Verdict::Fail(_) => return ffi::SQLITE_IOERR_DELETE,
    };
    let result = really();
    if result == OK {
        recorder.change(|disk| disk.deleted(sync_directory != 0));
    }
    recorder.after(Operation::Delete);
    if result == OK { failure } else { result }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls the method of a registered VFS with that VFS.
    let role = unsafe { role_of(vfs) };
    // SAFETY: a registered VFS; a plain field is read.
    let method = unsafe { (*role.base).xAccess }.expect("a VFS looks for files");
    // SAFETY: the arguments are SQLite's own.
    let really = || unsafe { method(role.base, name, flags, out) };
    // SAFETY: a name of SQLite's own making.
    let Some(recorder) = (unsafe { recorder_for(role, name) }) else {
        return really();
    };
    if recorder.before(Operation::Access) != Verdict::Proceed {
        return ffi::SQLITE_IOERR_ACCESS;
    }
    let result = really();
    recorder.after(Operation::Access);
    result
}

// ---- Files ----

#[repr(C)]
struct File {
    /// First, so that a pointer to this is one to a `sqlite3_file`.
    file: ffi::sqlite3_file,
    base: *mut ffi::sqlite3_file,
    watched: Option<(Arc<Recorder>, On)>,
    syncs: bool,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

impl File {
    /// The base file's memory begins here; a multiple of any alignment that C needs.
    const SIZE: c_int = size_of::<Self>().next_multiple_of(16) as c_int;

    /// # Safety
    /// `file` is one of ours, and open.
    unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a Self {
        // SAFETY: the caller's promise; `File` is `repr(C)` and begins with the base struct.
        unsafe { &*file.cast::<Self>() }
    }

    fn before(&self, operation: impl FnOnce(On) -> Operation) -> Verdict {
        match &self.watched {
            Some((recorder, on)) => recorder.before(operation(*on)),
            None => Verdict::Proceed,
        }
    }

    fn after(&self, operation: impl FnOnce(On) -> Operation) {
        if let Some((recorder, on)) = &self.watched {
            recorder.after(operation(*on));
        }
    }

    /// Does this and lets the recorder know before and after; `failure` where it must not be done.
    fn watch(
        &self,
        operation: impl Fn(On) -> Operation + Copy,
        failure: c_int,
        call: impl FnOnce() -> c_int,
    ) -> c_int {
        if self.before(operation) != Verdict::Proceed {
            return failure;
        }
        let result = call();
        self.after(operation);
        result
    }

    fn change(&self, change: impl FnOnce(&mut super::Disk, On)) {
        if let Some((recorder, on)) = &self.watched {
            recorder.change(|disk| change(disk, *on));
        }
    }
}

/// Calls a method of the base file.
macro_rules! base {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let base = $file.base;
        // SAFETY: the base file is open, so it has a method table.
        let methods = unsafe { &*(*base).pMethods };
        let method = methods.$method.expect("a file has all methods of version 1");
        // SAFETY: the arguments are SQLite's own, and the file is the method's own.
        unsafe { method(base $(, $argument)*) }
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file of ours once; nothing reads the memory afterwards.
    let file = unsafe { file.cast::<File>().read() };
    file.before(Operation::Close);
    let result = base!(file, xClose);
    file.after(Operation::Close);
    result
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    file.watch(Operation::Read, ffi::SQLITE_IOERR_READ, || {
        base!(file, xRead, buffer, amount, offset)
    })
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    let (amount, failure) = match file.before(Operation::Write) {
        Verdict::Proceed => (amount, OK),
        Verdict::Fail(Fault::Short) => (amount / 2, ffi::SQLITE_FULL),
        Verdict::Fail(Fault::Full) => return ffi::SQLITE_FULL,
        Verdict::Gone | Verdict::Fail(_) => return ffi::SQLITE_IOERR_WRITE,
    };
    let result = base!(file, xWrite, buffer, amount, offset);
    if result == OK {
        let length = usize::try_from(amount).expect("a length");
        // SAFETY: SQLite's buffer of at least that many bytes.
        let data = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), length) };
        let offset = usize::try_from(offset).expect("an offset");
        file.change(|disk, on| disk.wrote(on, offset, data));
    }
    file.after(Operation::Write);
    if result == OK { failure } else { result }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    file.watch(Operation::Truncate, ffi::SQLITE_IOERR_TRUNCATE, || {
        let result = base!(file, xTruncate, size);
        if result == OK {
            let size = usize::try_from(size).expect("a size");
            file.change(|disk, on| disk.truncated(on, size));
        }
        result
    })
}

/// Mostly nothing is really synced: what survives a crash is for the recorder to say.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    file.watch(Operation::Sync, ffi::SQLITE_IOERR_FSYNC, || {
        let result = if file.syncs {
            base!(file, xSync, flags)
        } else {
            OK
        };
        file.change(|disk, on| disk.synced(on));
        result
    })
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    file.watch(Operation::Size, ffi::SQLITE_IOERR_FSTAT, || {
        base!(file, xFileSize, size)
    })
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    match file.before(|_| Operation::Lock(level)) {
        Verdict::Proceed => {}
        Verdict::Fail(Fault::Busy) => return ffi::SQLITE_BUSY,
        Verdict::Gone | Verdict::Fail(_) => return ffi::SQLITE_IOERR_LOCK,
    }
    let result = base!(file, xLock, level);
    file.after(|_| Operation::Lock(level));
    result
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    let operation = |_| Operation::Unlock(level);
    file.watch(operation, ffi::SQLITE_IOERR_UNLOCK, || {
        base!(file, xUnlock, level)
    })
}

unsafe extern "C" fn check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    result: *mut c_int,
) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    base!(file, xCheckReservedLock, result)
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    if operation == ffi::SQLITE_FCNTL_LAST_ERRNO
        && let Some((recorder, _)) = &file.watched
    {
        // SAFETY: for this operation the argument points to an integer.
        unsafe { *argument.cast::<c_int>() = recorder.state().errno };
        return OK;
    }
    base!(file, xFileControl, operation, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    base!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: called through our method table.
    let file = unsafe { File::of(file) };
    base!(file, xDeviceCharacteristics)
}
