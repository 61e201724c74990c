//! The VFS shim and SQLite's callbacks: the only unsafe code.
//!
//! A shim file is a C "subclass" of `sqlite3_file`: SQLite allocates `szOsFile` bytes, the first
//! of them are ours ([`ShimFile`], whose first field is the base struct), the rest belong to the
//! file of the base VFS. See <https://sqlite.org/vfs.html> and <https://sqlite.org/c3ref/vfs.html>.
//!
//! Decisions are the [`Gate`]'s; here they become calls and result codes.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockWriteGuard};

use libsqlite3_sys as ffi;
use rustix::io::Errno;

use super::Admission;
use super::gate::{Busy, EndOfJournal, Gate, Purpose, Refused};
use super::journal::{Journal, Standing, journal_id};
use super::key_file::KeyFile;
use super::netfs::{FreshReads, Uncached};
use super::pragma::{self, Verdict};
use super::snapshot::{FileState, FileVersion, Snapshot};
use crate::config::ReadCheck;

const OK: c_int = ffi::SQLITE_OK;

thread_local! {
    /// Set while a connection is being opened on this thread: its main file takes it.
    static ADMISSION: RefCell<Option<Admission>> = const { RefCell::new(None) };
    /// Set by the main file once SQLite has told it which connection it belongs to.
    static OPENED: Cell<Option<NonNull<ffi::sqlite3>>> = const { Cell::new(None) };
}

/// Opens a connection with `open`, whose main file will be ruled by `admission`, and installs
/// the callbacks. `None` in place of the gate's connection: the main file was not opened through
/// the shim, and must not be used.
pub(super) fn open_admitted<C, E>(
    admission: Admission,
    open: impl FnOnce() -> Result<C, E>,
) -> Result<Option<C>, E> {
    /// Disarms the thread on every way out.
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            ADMISSION.take();
            OPENED.take();
        }
    }
    let gate = admission.gate.clone();
    ADMISSION.set(Some(admission));
    OPENED.set(None);
    let armed = Armed;
    let connection = open()?;
    let database = OPENED.take();
    drop(armed);
    Ok(match database {
        Some(database) if install_callbacks(database, gate) => Some(connection),
        _ => None,
    })
}

// ---- Callbacks of a connection ----

/// Whether they could be installed. `database` must be open, and owned by this thread for now.
fn install_callbacks(database: NonNull<ffi::sqlite3>, gate: Arc<Gate>) -> bool {
    /// The function's only purpose is to own the gate for as long as the connection lives; the
    /// main file does not live as long where `sqlite3_deserialize` replaces it.
    const OWNER: &CStr = c"diesel_sqlite_efs_version";
    let gate = Arc::into_raw(gate).cast_mut().cast::<c_void>();
    // SAFETY: the connection is open; SQLite takes over `gate` and calls the destructor with it
    // when the function is destroyed, also if this call fails.
    let result = unsafe {
        ffi::sqlite3_create_function_v2(
            database.as_ptr(),
            OWNER.as_ptr(),
            0,
            ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC,
            gate,
            Some(version_function),
            None,
            None,
            Some(drop_gate),
        )
    };
    if result != OK {
        return false;
    }
    // SAFETY: the connection is open, and `gate` lives until it is closed, after the last call of
    // this callback.
    unsafe { ffi::sqlite3_busy_handler(database.as_ptr(), Some(busy_trampoline), gate) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_rollback_hook(database.as_ptr(), Some(rollback_trampoline), gate) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_set_authorizer(database.as_ptr(), Some(authorizer_trampoline), gate) };
    true
}

/// # Safety
/// `gate` is the pointer that [`install_callbacks`] gave to SQLite, whose connection is open.
unsafe fn gate_of<'a>(gate: *mut c_void) -> &'a Gate {
    // SAFETY: it came from `Arc::into_raw`, and its count is given up only when the connection is
    // closed. The gate is shared and has its own lock.
    unsafe { &*gate.cast::<Gate>() }
}

unsafe extern "C" fn drop_gate(gate: *mut c_void) {
    // SAFETY: the count that `install_callbacks` took with `Arc::into_raw`, given back once.
    let gate = unsafe { Arc::from_raw(gate.cast::<Gate>()) };
    // A panic must not cross into C; the gate's own drop releases nothing that is not released.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(gate)));
}

unsafe extern "C" fn version_function(
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

unsafe extern "C" fn busy_trampoline(gate: *mut c_void, count: c_int) -> c_int {
    guarded(0, || {
        // SAFETY: SQLite passes what it was given.
        let gate = unsafe { gate_of(gate) };
        c_int::from(gate.wait(count == 0))
    })
}

unsafe extern "C" fn rollback_trampoline(gate: *mut c_void) {
    guarded(0, || {
        // SAFETY: SQLite passes what it was given.
        let gate = unsafe { gate_of(gate) };
        gate.rolled_back();
        0
    });
}

unsafe extern "C" fn authorizer_trampoline(
    gate: *mut c_void,
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
        return OK;
    }
    guarded(ffi::SQLITE_DENY, || {
        // SAFETY: SQLite passes what it was given.
        let gate = unsafe { gate_of(gate) };
        // SAFETY: for SQLITE_ATTACH this is the file name, or null if it is no literal; for
        // SQLITE_PRAGMA its name; for SQLITE_TRANSACTION and SQLITE_SAVEPOINT the operation
        // (<https://sqlite.org/c3ref/c_alter_table.html>).
        let first = unsafe { text(first) };
        // SAFETY: for SQLITE_PRAGMA this is the value, or null.
        let second = unsafe { text(second) }.map(CStr::to_string_lossy);
        // SAFETY: for SQLITE_PRAGMA this is the schema that it names, or null.
        let database = unsafe { text(database) }.map(CStr::to_string_lossy);
        let allowed = match (action, first, database) {
            (ffi::SQLITE_ATTACH, name, _) => gate.may_attach(name.map(CStr::to_bytes)),
            (ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT, Some(operation), _) => {
                if operation == c"BEGIN" {
                    gate.begin_prepared();
                } else if operation == c"ROLLBACK" && action == ffi::SQLITE_TRANSACTION {
                    gate.rollback_prepared();
                }
                true
            }
            (_, Some(name), Some(schema)) => {
                gate.may_set(&schema, &name.to_string_lossy(), second.as_deref())
            }
            _ => true,
        };
        if allowed { OK } else { ffi::SQLITE_DENY }
    })
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

/// Runs code that C has called; a panic becomes `on_panic`.
fn guarded(on_panic: c_int, code: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or(on_panic)
}

// ---- Registration ----

/// The name of the shim over the base VFS `base`, which is registered if it has not been.
/// `None` if SQLite knows no such VFS.
pub(super) fn shim_over(base: &str) -> Option<&'static str> {
    static SHIMS: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);
    let mut shims = SHIMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = shims.get(base) {
        return Some(name);
    }
    let base_name = CString::new(base).ok()?;
    // SAFETY: the name ends with a zero byte; SQLite initialises itself if need be.
    let base_vfs = NonNull::new(unsafe { ffi::sqlite3_vfs_find(base_name.as_ptr()) })?;
    let name = match base {
        "unix" => "efs".to_owned(),
        other => format!("efs-over-{other}"),
    };
    let c_name = CString::new(name.clone()).ok()?;
    // SAFETY: a registered VFS stays valid until it is unregistered, which nobody does here.
    let max_path = unsafe { base_vfs.as_ref() }.mxPathname;
    let base_size = c_int::try_from(BaseVfs(base_vfs).file_size()).ok()?;
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(ShimFile::SIZE).ok()? + base_size,
        mxPathname: max_path,
        pNext: ptr::null_mut(),
        zName: c_name.into_raw(),
        pAppData: base_vfs.as_ptr().cast(),
        xOpen: Some(vfs_open),
        xDelete: Some(vfs_delete),
        xAccess: Some(vfs_access),
        xFullPathname: Some(vfs_full_pathname),
        xDlOpen: Some(vfs_dl_open),
        xDlError: Some(vfs_dl_error),
        xDlSym: Some(vfs_dl_sym),
        xDlClose: Some(vfs_dl_close),
        xRandomness: Some(vfs_randomness),
        xSleep: Some(vfs_sleep),
        xCurrentTime: Some(vfs_current_time),
        xGetLastError: Some(vfs_get_last_error),
        xCurrentTimeInt64: Some(vfs_current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the struct and its name are leaked and so live for ever; it does not become the
    // default VFS.
    if unsafe { ffi::sqlite3_vfs_register(vfs, 0) } != OK {
        return None;
    }
    let name: &'static str = name.leak();
    shims.insert(base.to_owned(), name);
    Some(name)
}

/// The VFS below a shim.
#[derive(Clone, Copy)]
struct BaseVfs(NonNull<ffi::sqlite3_vfs>);

/// Calls a method of the base VFS.
macro_rules! base_vfs_call {
    ($vfs:expr, $method:ident $(, $argument:expr)*) => {{
        let vfs: BaseVfs = $vfs;
        // SAFETY: a registered VFS, see `BaseVfs::below`; a plain field is read.
        let method = unsafe { (*vfs.0.as_ptr()).$method }.expect("a VFS has all methods of version 2");
        // SAFETY: the arguments are SQLite's own, and the VFS is the method's own.
        unsafe { method(vfs.0.as_ptr() $(, $argument)*) }
    }};
}

impl BaseVfs {
    /// # Safety
    /// `shim` is a VFS that [`shim_over`] has registered.
    unsafe fn below(shim: *mut ffi::sqlite3_vfs) -> Self {
        // SAFETY: the caller's promise.
        let base = unsafe { (*shim).pAppData };
        Self(NonNull::new(base.cast()).expect("a shim is registered over a base VFS"))
    }

    fn file_size(self) -> usize {
        // SAFETY: a registered VFS; a plain field is read.
        usize::try_from(unsafe { self.0.as_ref() }.szOsFile).unwrap_or(0)
    }

    /// # Safety
    /// `name` and `file` as for `xOpen`: a name of SQLite's own making, and memory for a file.
    unsafe fn open(
        self,
        name: *const c_char,
        file: *mut ffi::sqlite3_file,
        flags: c_int,
        out_flags: *mut c_int,
    ) -> c_int {
        base_vfs_call!(self, xOpen, name, file, flags, out_flags)
    }
}

// ---- Files ----

/// The part of a file that is ours; the base VFS's file follows it.
#[repr(C)]
struct ShimFile {
    /// First, so that a pointer to this is one to a `sqlite3_file`.
    file: ffi::sqlite3_file,
    base: BaseFile,
    kind: Kind,
}

/// Owned by the file, from `xOpen` to `xClose`.
enum Kind {
    Main(Box<MainFile>),
    Journal(Arc<Gate>),
}

impl ShimFile {
    /// The base file's memory begins here; a multiple of any alignment that C needs.
    const SIZE: usize = size_of::<Self>().next_multiple_of(16);

    /// # Safety
    /// `file` is one of ours, open, and used by nobody else meanwhile: SQLite serialises the calls
    /// to one file, and no method below calls back into SQLite's use of the same file.
    unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Self {
        // SAFETY: the caller's promise; `ShimFile` is `repr(C)` and begins with the base struct.
        unsafe { &mut *file.cast::<Self>() }
    }

    /// # Safety
    /// As for [`of`](Self::of), and the file was opened as a main file.
    unsafe fn main<'a>(file: *mut ffi::sqlite3_file) -> (&'a mut MainFile, BaseFile) {
        // SAFETY: the caller's promise.
        let file = unsafe { Self::of(file) };
        match &mut file.kind {
            Kind::Main(main) => (main, file.base),
            Kind::Journal(_) => unreachable!("main files have a method table of their own"),
        }
    }

    /// # Safety
    /// As for [`of`](Self::of), and the file was opened as a journal.
    unsafe fn journal<'a>(file: *mut ffi::sqlite3_file) -> (&'a Gate, BaseFile) {
        // SAFETY: the caller's promise.
        let file = unsafe { Self::of(file) };
        match &file.kind {
            Kind::Journal(gate) => (gate, file.base),
            Kind::Main(_) => unreachable!("journals have a method table of their own"),
        }
    }

    /// Where the base file goes in memory that SQLite gave for a file of ours.
    ///
    /// # Safety
    /// `file` points to `szOsFile` bytes of the shim.
    unsafe fn base_memory(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
        // SAFETY: `szOsFile` is `SIZE` and the size of the base file.
        unsafe { file.byte_add(Self::SIZE) }
    }
}

/// An open file of the base VFS.
#[derive(Clone, Copy)]
struct BaseFile(NonNull<ffi::sqlite3_file>);

/// Calls a method of a base file.
macro_rules! base_file_call {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let file: BaseFile = $file;
        // SAFETY: the base file is open, so it has a method table.
        let methods = unsafe { &*(*file.0.as_ptr()).pMethods };
        let method = methods.$method.expect("a file has all methods of version 1");
        // SAFETY: the arguments are SQLite's own, and the file is the method's own.
        unsafe { method(file.0.as_ptr() $(, $argument)*) }
    }};
}

impl BaseFile {
    fn close(self) -> c_int {
        base_file_call!(self, xClose)
    }

    fn lock(self, level: c_int) -> c_int {
        base_file_call!(self, xLock, level)
    }

    fn unlock(self, level: c_int) -> c_int {
        base_file_call!(self, xUnlock, level)
    }

    /// Remembers why an operation failed; passes its result on.
    fn failed(self, gate: &Gate, doing: &str, result: c_int) -> c_int {
        let mut errno: c_int = 0;
        let out = ptr::from_mut(&mut errno).cast::<c_void>();
        // The system's error of the last operation, or zero, also if the VFS does not know.
        base_file_call!(self, xFileControl, ffi::SQLITE_FCNTL_LAST_ERRNO, out);
        gate.operation_failed(
            doing,
            &match (primary(result), errno) {
                (ffi::SQLITE_FULL, _) => {
                    "no space is left on its file system; make room, then run the transaction again"
                        .to_owned()
                }
                (_, 0) => format!("SQLite error {result}"),
                (_, errno) => std::io::Error::from_raw_os_error(errno).to_string(),
            },
            (errno != 0).then(|| Errno::from_raw_os_error(errno)),
        );
        result
    }

    /// How a file of this version stands.
    fn state(self, version: FileVersion) -> Result<FileState, c_int> {
        if version != FileVersion::default() {
            return Ok(FileState::Version(version));
        }
        let mut size = 0_i64;
        match base_file_call!(self, xFileSize, &mut size) {
            OK if size == 0 => Ok(FileState::Empty),
            OK => Ok(FileState::Version(version)),
            error => Err(error),
        }
    }

    /// The file's version as it stands now; zero if the file is too short to have one.
    fn version(self) -> Result<FileVersion, c_int> {
        let mut version = FileVersion::default();
        let buffer = version.0.as_mut_ptr().cast();
        match base_file_call!(self, xRead, buffer, 16, FileVersion::OFFSET as i64) {
            OK => Ok(version),
            ffi::SQLITE_IOERR_SHORT_READ => Ok(FileVersion::default()),
            error => Err(error),
        }
    }
}

/// A main database file.
struct MainFile {
    gate: Arc<Gate>,
    admission: Rules,
    snapshot: Snapshot,
    level: c_int,
    /// The connection, once SQLite has told.
    database: Option<NonNull<ffi::sqlite3>>,
    journal_name: *const c_char,
    /// Where this host's caches may be old.
    fresh_reads: Option<FreshReads>,
}

/// What was settled when the connection was opened.
#[derive(Clone, Copy)]
struct Rules {
    read_check: ReadCheck,
    normal_sync_allowed: bool,
}

/// The gates of the open main files, by the address of their journal's name: SQLite passes that
/// very pointer to `xOpen`, `xDelete` and `xAccess` (<https://sqlite.org/c3ref/filename_database.html>).
/// Every transaction asks here, of every thread; there are as many entries as open connections.
static JOURNALS: RwLock<BTreeMap<usize, Arc<Gate>>> = RwLock::new(BTreeMap::new());

fn journals() -> RwLockWriteGuard<'static, BTreeMap<usize, Arc<Gate>>> {
    JOURNALS.write().unwrap_or_else(PoisonError::into_inner)
}

fn gate_of_journal(name: *const c_char) -> Option<Arc<Gate>> {
    let journals = JOURNALS.read().unwrap_or_else(PoisonError::into_inner);
    journals.get(&name.addr()).cloned()
}

// ---- Opening ----

unsafe extern "C" fn vfs_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guarded(ffi::SQLITE_CANTOPEN, || {
        // SAFETY: memory for a file; without methods SQLite will not close it if we fail.
        unsafe { (*file).pMethods = ptr::null() };
        // SAFETY: SQLite calls the method of a registered shim with that shim.
        let base = unsafe { BaseVfs::below(vfs) };
        if flags & ffi::SQLITE_OPEN_MAIN_DB != 0
            && let Some(admission) = ADMISSION.take()
        {
            // SAFETY: the arguments are `xOpen`'s.
            return unsafe { open_main(base, admission, name, file, flags, out_flags) };
        }
        let creates = flags & ffi::SQLITE_OPEN_CREATE != 0;
        if flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0
            && creates
            && let Some(gate) = gate_of_journal(name)
        {
            // SAFETY: the arguments are `xOpen`'s.
            return unsafe { open_journal(base, gate, name, file, flags, out_flags) };
        }
        let foreign_writer = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_MAIN_JOURNAL;
        let refused = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
        if flags & refused != 0 || (flags & foreign_writer != 0 && creates) {
            return ffi::SQLITE_CANTOPEN;
        }
        if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 && flags & ffi::SQLITE_OPEN_READONLY == 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        // Temporary files, a hot journal to be read, a read-only attachment: no concern of ours.
        // SAFETY: the arguments are `xOpen`'s, and `file` is more memory than the base VFS needs.
        let result = unsafe { base.open(name, file, flags, out_flags) };
        if result != OK
            && flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0
            && flags & ffi::SQLITE_OPEN_READWRITE != 0
            && let Some(gate) = gate_of_journal(name)
        {
            // SQLite has just seen it, and asks for it with EXCLUSIVE in hand.
            gate.recovery_journal_not_opened();
        }
        result
    })
}

/// # Safety
/// The arguments are those of `xOpen` for a main database file.
unsafe fn open_main(
    base: BaseVfs,
    admission: Admission,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let mut got_flags = 0;
    // SAFETY: the caller's promise.
    let base_file = match unsafe { open_base(base, name, file, flags, &mut got_flags) } {
        Ok(base_file) => base_file,
        Err(error) => return error,
    };
    // SAFETY: `name` was passed to `xOpen` for a main file, so it has a journal's name beside it.
    let journal_name = unsafe { ffi::sqlite3_filename_journal(name) };
    // SAFETY: SQLite's names end with a zero byte and outlive the file.
    let path = unsafe { text(name) };
    // SAFETY: as above.
    let journal_path = unsafe { text(journal_name) };
    let (Some(path), Some(journal_path)) = (path, journal_path) else {
        base_file.close();
        return ffi::SQLITE_CANTOPEN;
    };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let journal_path = Path::new(OsStr::from_bytes(journal_path.to_bytes()));
    let file_system = admission.file_system;
    let fresh_reads = (file_system.is_network())
        .then(|| FreshReads::new(path, file_system))
        .transpose();
    let Ok(fresh_reads) = fresh_reads else {
        base_file.close();
        return ffi::SQLITE_CANTOPEN;
    };
    let journal = Journal::new(journal_path.to_owned(), file_system);
    admission.gate.opened(journal, KeyFile::beside(path));
    journals().insert(journal_name.addr(), admission.gate.clone());
    let main = MainFile {
        gate: admission.gate,
        admission: Rules {
            read_check: admission.read_check,
            normal_sync_allowed: admission.normal_sync_allowed,
        },
        snapshot: Snapshot::default(),
        level: ffi::SQLITE_LOCK_NONE,
        database: None,
        journal_name,
        fresh_reads,
    };
    if !out_flags.is_null() {
        // SAFETY: not null, so it is `xOpen`'s out-parameter.
        unsafe { *out_flags = got_flags };
    }
    // SAFETY: the memory is for a file of ours.
    unsafe { install(file, &MAIN_METHODS, base_file, Kind::Main(Box::new(main))) };
    OK
}

/// Creates this transaction's own journal: one that is there already is not ours. Then looks once
/// more at what it is to protect.
///
/// # Safety
/// The arguments are those of `xOpen` for a rollback journal.
unsafe fn open_journal(
    base: BaseVfs,
    gate: Arc<Gate>,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    if gate.fence().is_err() {
        return ffi::SQLITE_CANTOPEN;
    }
    let mut leftover_removed = false;
    loop {
        let mut got_flags = 0;
        let exclusive = flags | ffi::SQLITE_OPEN_EXCLUSIVE;
        // SAFETY: the caller's promise.
        let result = unsafe { open_base(base, name, file, exclusive, &mut got_flags) };
        match result {
            // Where the file exists, the `unix` VFS opens it for reading instead.
            Ok(base_file) if got_flags & ffi::SQLITE_OPEN_READONLY != 0 => {
                base_file.close();
            }
            Ok(base_file) => {
                // SAFETY: the name is `xOpen`'s, of the journal of a main file that is open.
                let main = unsafe { ffi::sqlite3_database_file_object(name) };
                // SAFETY: the gate was found by this name, so the main file is the shim's.
                let (main, base_main) = unsafe { ShimFile::main(main) };
                if let Err(error) = main.journal_created(base_main) {
                    // An empty file stays, which counts as none: what is removed by its name might
                    // be a successor's journal by now.
                    base_file.close();
                    return error;
                }
                if !out_flags.is_null() {
                    // SAFETY: not null, so it is `xOpen`'s out-parameter.
                    unsafe { *out_flags = flags };
                }
                // SAFETY: the memory is for a file of ours.
                unsafe { install(file, &JOURNAL_METHODS, base_file, Kind::Journal(gate)) };
                return OK;
            }
            Err(error) => return error,
        }
        if leftover_removed {
            gate.supplanted("another writer has created its journal");
            return ffi::SQLITE_CANTOPEN;
        }
        if gate.remove_cold_leftover().is_err() {
            return ffi::SQLITE_CANTOPEN;
        }
        leftover_removed = true;
    }
}

/// Opens the base VFS's file in the memory behind ours.
///
/// # Safety
/// The arguments are those of the shim's `xOpen`.
unsafe fn open_base(
    base: BaseVfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    got_flags: &mut c_int,
) -> Result<BaseFile, c_int> {
    // SAFETY: the memory is for a file of ours.
    let memory = unsafe { ShimFile::base_memory(file) };
    // SAFETY: memory for a base file; without methods it counts as not open.
    unsafe { (*memory).pMethods = ptr::null() };
    // SAFETY: the caller's promise, and the memory is for a file of the base VFS.
    let result = unsafe { base.open(name, memory, flags, got_flags) };
    // SAFETY: `memory` is a part of what SQLite gave, so it is not null.
    let base_file = BaseFile(unsafe { NonNull::new_unchecked(memory) });
    if result == OK {
        return Ok(base_file);
    }
    // SAFETY: the base VFS has either left the field null or set it.
    if !unsafe { (*memory).pMethods }.is_null() {
        // "If xOpen sets pMethods, xClose is called also where it failed."
        base_file.close();
    }
    Err(result)
}

/// # Safety
/// `file` points to `szOsFile` bytes of the shim, and `base` is open in the latter part of them.
unsafe fn install(
    file: *mut ffi::sqlite3_file,
    methods: &'static ffi::sqlite3_io_methods,
    base: BaseFile,
    kind: Kind,
) {
    let shim = ShimFile {
        file: ffi::sqlite3_file { pMethods: methods },
        base,
        kind,
    };
    // SAFETY: the memory is large enough, aligned by SQLite's allocator, and holds nothing of ours
    // that would have to be dropped.
    unsafe { file.cast::<ShimFile>().write(shim) };
}

// ---- The main file ----

static MAIN_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    xClose: Some(main_close),
    xRead: Some(main_read),
    xWrite: Some(main_write),
    xTruncate: Some(main_truncate),
    xSync: Some(main_sync),
    xLock: Some(main_lock),
    xUnlock: Some(main_unlock),
    xFileControl: Some(main_file_control),
    ..DELEGATING
};

/// Version 1: no shared memory, so no write-ahead log, and no memory mapping, whose I/O errors
/// would be signals. What is left here goes to the base file as it is.
const DELEGATING: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: None,
    xRead: None,
    xWrite: None,
    xTruncate: None,
    xSync: None,
    xFileSize: Some(file_size),
    xLock: Some(file_lock),
    xUnlock: Some(file_unlock),
    xCheckReservedLock: Some(file_check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(file_sector_size),
    xDeviceCharacteristics: Some(file_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn main_close(file: *mut ffi::sqlite3_file) -> c_int {
    guarded(ffi::SQLITE_IOERR_CLOSE, || {
        // SAFETY: SQLite closes a file of ours once; nothing reads the memory afterwards.
        let shim = unsafe { file.cast::<ShimFile>().read() };
        let Kind::Main(main) = shim.kind else {
            unreachable!("main files have a method table of their own");
        };
        journals().remove(&main.journal_name.addr());
        let result = shim.base.close();
        drop(main.fresh_reads);
        main.gate.closed();
        result
    })
}

unsafe extern "C" fn main_read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        let size = usize::try_from(amount).unwrap_or(0);
        let result = if main.reads_past_caches() {
            // SAFETY: SQLite's buffer of `amount` bytes, which may not be set yet.
            unsafe { ptr::write_bytes(buffer.cast::<u8>(), 0, size) };
            // SAFETY: the same buffer; it is set now.
            let data = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), size) };
            main.read_past_caches(data, offset)
        } else {
            base_file_call!(base, xRead, buffer, amount, offset)
        };
        if result != OK && result != ffi::SQLITE_IOERR_SHORT_READ {
            return base.failed(&main.gate, "reading the database", result);
        }
        // SAFETY: SQLite's buffer of `amount` bytes, all of them set: what a short read did not
        // fill is zeroed, as `xRead` demands.
        let data = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), size) };
        if offset == 0 {
            main.gate.saw_header(data);
        }
        if main.level == ffi::SQLITE_LOCK_NONE {
            return result;
        }
        let version_alone = FileVersion::alone(data, offset);
        main.snapshot.observe(data, offset);
        match main.check_read(base, version_alone) {
            Ok(()) => result,
            Err(error) => error,
        }
    })
}

unsafe extern "C" fn main_write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        if main.gate.fence().is_err() {
            return ffi::SQLITE_IOERR_WRITE;
        }
        let result = base_file_call!(base, xWrite, buffer, amount, offset);
        if result != OK {
            return base.failed(&main.gate, "writing the database", result);
        }
        // SAFETY: SQLite's buffer of `amount` bytes.
        let data = unsafe {
            slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(amount).unwrap_or(0))
        };
        main.snapshot.wrote(data, offset);
        OK
    })
}

unsafe extern "C" fn main_truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    guarded(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        match main.gate.fence_truncation() {
            Some(Ok(())) => base_file_call!(base, xTruncate, size),
            Some(Err(Refused)) => ffi::SQLITE_IOERR_TRUNCATE,
            None => OK,
        }
    })
}

unsafe extern "C" fn main_sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    guarded(ffi::SQLITE_IOERR_FSYNC, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        if main.gate.fence().is_err() {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        match base_file_call!(base, xSync, flags) {
            OK => OK,
            result => base.failed(&main.gate, "syncing the database", result),
        }
    })
}

unsafe extern "C" fn main_lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    guarded(ffi::SQLITE_IOERR_LOCK, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        if level <= main.level {
            return OK;
        }
        let result = match level {
            ffi::SQLITE_LOCK_SHARED => main.lock_shared(base),
            _ if main.level == ffi::SQLITE_LOCK_SHARED => {
                if level == ffi::SQLITE_LOCK_RESERVED {
                    main.lock_reserved(base)
                } else {
                    main.lock_for_recovery(base)
                }
            }
            _ => main.lock_exclusive(base),
        };
        if result == OK {
            main.level = level;
        }
        result
    })
}

unsafe extern "C" fn main_unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    guarded(ffi::SQLITE_IOERR_UNLOCK, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        let mut result = base.unlock(level);
        if result != OK && main.level > level && main.gate.has_ended() {
            // SQLite would report a commit that is done as failed. The base VFS tries again with
            // the next unlock, to which the end of the read transaction belongs.
            result = OK;
        }
        main.level = main.level.min(level);
        if level == ffi::SQLITE_LOCK_NONE
            && let Some(fresh_reads) = &mut main.fresh_reads
        {
            fresh_reads.unlocked();
        }
        main.gate.unlocked();
        result
    })
}

impl MainFile {
    fn lock_shared(&mut self, base: BaseFile) -> c_int {
        if self.database.is_none() {
            // SQLite did not say which connection this is: nothing may be decided for it.
            return ffi::SQLITE_IOERR_LOCK;
        }
        if self.gate.take_cache_is_suspect() {
            self.snapshot.distrust_cache();
            if let Err(error) = self.drop_cached_pages().and_then(|()| self.refresh_size()) {
                return error;
            }
        }
        let lock = || {
            let result = base.lock(ffi::SQLITE_LOCK_SHARED);
            (result == OK, result)
        };
        let result = match &mut self.fresh_reads {
            Some(fresh_reads) => fresh_reads.locking(lock),
            None => lock().1,
        };
        if result == OK {
            self.snapshot.begin();
            if let Err(error) = self.begin_past_caches() {
                base.unlock(ffi::SQLITE_LOCK_NONE);
                if let Some(fresh_reads) = &mut self.fresh_reads {
                    fresh_reads.unlocked();
                }
                return error;
            }
        } else if primary(result) == ffi::SQLITE_BUSY {
            self.gate.file_locked();
        }
        result
    }

    /// A transaction's first write: the lease, then the file's lock, then the snapshot.
    fn lock_reserved(&mut self, base: BaseFile) -> c_int {
        let purpose = Purpose::Write {
            has_read: self.has_read(),
        };
        if let Err(Busy) = self.gate.claim(purpose) {
            return ffi::SQLITE_BUSY;
        }
        let result = base.lock(ffi::SQLITE_LOCK_RESERVED);
        if result != OK {
            return self.claim_refused(result);
        }
        let current = match self.current_state(base) {
            Ok(current) => current,
            Err(error) => {
                base.unlock(ffi::SQLITE_LOCK_SHARED);
                self.gate.unlocked();
                return error;
            }
        };
        match self.gate.admit(self.snapshot.version(), current, purpose) {
            Ok(()) => OK,
            Err(Busy) => {
                base.unlock(ffi::SQLITE_LOCK_SHARED);
                ffi::SQLITE_BUSY_SNAPSHOT
            }
        }
    }

    /// EXCLUSIVE straight from SHARED: SQLite has found a hot journal and wants to roll it back.
    fn lock_for_recovery(&mut self, base: BaseFile) -> c_int {
        if let Err(Busy) = self.gate.claim(Purpose::Recovery) {
            return ffi::SQLITE_BUSY;
        }
        let result = base.lock(ffi::SQLITE_LOCK_EXCLUSIVE);
        if result != OK {
            return self.claim_refused(result);
        }
        if let Err(error) = self.drop_cached_pages().and_then(|()| self.refresh_size()) {
            return error;
        }
        match self.gate.before_recovery() {
            Ok(()) => OK,
            Err(Refused) => ffi::SQLITE_IOERR_LOCK,
        }
    }

    /// The EXCLUSIVE lock of a commit: readers have to leave first.
    fn lock_exclusive(&mut self, base: BaseFile) -> c_int {
        if self.gate.fence().is_err() {
            return ffi::SQLITE_IOERR_LOCK;
        }
        let result = base.lock(ffi::SQLITE_LOCK_EXCLUSIVE);
        if primary(result) == ffi::SQLITE_BUSY {
            self.gate.file_locked();
        }
        result
    }

    fn claim_refused(&self, result: c_int) -> c_int {
        if primary(result) == ffi::SQLITE_BUSY {
            self.gate.claim_refused_by_file();
        } else {
            self.gate.unlocked();
        }
        result
    }

    /// Whether the connection has a transaction open that has read: SQLite then reports busy at
    /// once instead of calling the busy handler.
    fn has_read(&self) -> bool {
        let Some(database) = self.database else {
            return true;
        };
        // SAFETY: the connection that is calling this file, whose mutex this thread holds.
        let state = unsafe { ffi::sqlite3_txn_state(database.as_ptr(), c"main".as_ptr()) };
        state != ffi::SQLITE_TXN_NONE
    }

    /// After something was read under SHARED alone: whether the file still is as it was then.
    /// `read` is what was read, if that was the version and nothing else.
    fn check_read(&mut self, base: BaseFile, read: Option<FileVersion>) -> Result<(), c_int> {
        let past_caches = match self.admission.read_check {
            ReadCheck::Off => return Ok(()),
            ReadCheck::Counter => false,
            ReadCheck::Reopen => true,
        };
        if self.level != ffi::SQLITE_LOCK_SHARED || !self.snapshot.is_known() {
            return Ok(());
        }
        let standing = match self.gate.journal() {
            None => Ok(Standing::Absent),
            Some(journal) if past_caches => journal.standing(),
            Some(journal) => journal.standing_as_cached(),
        };
        let current = match read {
            // Read once more it would tell nothing about what was read with it.
            Some(version) => version,
            None if past_caches => self.version_past_caches()?,
            None => base.version()?,
        };
        let whole = standing.is_ok_and(|standing| self.snapshot.still_stands(current, standing));
        if !whole {
            self.gate.torn_read();
            return Err(ffi::SQLITE_BUSY_SNAPSHOT);
        }
        Ok(())
    }

    /// Whether reads at this lock level must come from the server. Under RESERVED nobody else
    /// writes, and this host's caches were dropped when it was taken.
    fn reads_past_caches(&self) -> bool {
        self.admission.read_check == ReadCheck::Reopen && self.level == ffi::SQLITE_LOCK_SHARED
    }

    /// With `lock_read_check=reopen`, at the start of a transaction: its version, and the file's
    /// size, which SQLite asks for next, as the server has them.
    fn begin_past_caches(&mut self) -> Result<(), c_int> {
        if self.admission.read_check != ReadCheck::Reopen {
            return Ok(());
        }
        let version = self.version_past_caches()?;
        self.snapshot.begin_at(version);
        match self.uncached().and_then(Uncached::refresh_size) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.not_read_afresh(&error)),
        }
    }

    /// With the transaction's own journal in place: whether it would restore the current state.
    fn journal_created(&mut self, base: BaseFile) -> Result<(), c_int> {
        let current = self.current_version(base)?;
        let admitted = self.snapshot.version();
        (self.gate.journal_created(admitted, current)).map_err(|Refused| ffi::SQLITE_CANTOPEN)
    }

    /// With the lease and RESERVED in hand: how the file stands now. What SQLite reads from here on is
    /// of this state.
    fn current_state(&mut self, base: BaseFile) -> Result<FileState, c_int> {
        self.drop_cached_pages()?;
        let version = self.current_version(base)?;
        self.refresh_size()?;
        base.state(version)
    }

    /// The file's version as it stands now, on whatever host it was written.
    fn current_version(&mut self, base: BaseFile) -> Result<FileVersion, c_int> {
        if self.fresh_reads.is_some() {
            self.version_past_caches()
        } else {
            base.version()
        }
    }

    fn version_past_caches(&mut self) -> Result<FileVersion, c_int> {
        let mut version = FileVersion::default();
        match self.read_past_caches(&mut version.0, FileVersion::OFFSET as i64) {
            OK => Ok(version),
            ffi::SQLITE_IOERR_SHORT_READ => Ok(FileVersion::default()),
            error => Err(error),
        }
    }

    /// As `xRead`, into zeroed memory.
    fn read_past_caches(&mut self, data: &mut [u8], offset: i64) -> c_int {
        let offset = u64::try_from(offset).unwrap_or_default();
        match (self.uncached()).and_then(|file| file.read_at(data, offset)) {
            Ok(count) if count == data.len() => OK,
            Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(error) => self.not_read_afresh(&error),
        }
    }

    fn uncached(&mut self) -> io::Result<&Uncached> {
        match &mut self.fresh_reads {
            Some(fresh_reads) => fresh_reads.uncached(),
            None => Err(ErrorKind::Unsupported.into()),
        }
    }

    fn not_read_afresh(&self, error: &io::Error) -> c_int {
        (self.gate).file_failed(format!("the database cannot be read afresh: {error}"));
        ffi::SQLITE_IOERR
    }

    /// Where this host's caches may be old: makes the next reads of the file ask the server.
    fn drop_cached_pages(&mut self) -> Result<(), c_int> {
        match &mut self.fresh_reads {
            None => Ok(()),
            Some(fresh_reads) => {
                (fresh_reads.drop_cached_pages()).map_err(|error| self.not_read_afresh(&error))
            }
        }
    }

    /// Where this host's caches may be old: makes the file's size, up to which pages are read, the
    /// server's.
    fn refresh_size(&mut self) -> Result<(), c_int> {
        match &mut self.fresh_reads {
            None => Ok(()),
            Some(fresh_reads) => {
                (fresh_reads.refresh_size()).map_err(|error| self.not_read_afresh(&error))
            }
        }
    }
}

unsafe extern "C" fn main_file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    guarded(ffi::SQLITE_ERROR, || {
        // SAFETY: called through the method table of main files.
        let (main, base) = unsafe { ShimFile::main(file) };
        match operation {
            ffi::SQLITE_FCNTL_PDB => {
                // SAFETY: for this operation the argument points to the connection's pointer.
                main.database = NonNull::new(unsafe { *argument.cast::<*mut ffi::sqlite3>() });
                OPENED.set(main.database);
                OK
            }
            ffi::SQLITE_FCNTL_PRAGMA => {
                // SAFETY: for this operation the argument is an array of at least three strings,
                // the first of them for the answer.
                let arguments = unsafe { &mut *argument.cast::<[*mut c_char; 3]>() };
                main.judge_pragma(arguments)
            }
            _ => base_file_call!(base, xFileControl, operation, argument),
        }
    })
}

impl MainFile {
    /// `arguments` are the answer, to be allocated by SQLite, the PRAGMA's name and its value.
    fn judge_pragma(&self, arguments: &mut [*mut c_char; 3]) -> c_int {
        // SAFETY: SQLite's strings, valid during this call.
        let name = unsafe { text(arguments[1]) }.map(CStr::to_string_lossy);
        // SAFETY: as above; null if the PRAGMA has no value.
        let value = unsafe { text(arguments[2]) }.map(CStr::to_string_lossy);
        let Some(name) = name else {
            return ffi::SQLITE_NOTFOUND;
        };
        let normal_sync_allowed = self.admission.normal_sync_allowed;
        match pragma::judge(&name, value.as_deref(), normal_sync_allowed) {
            Verdict::Pass => ffi::SQLITE_NOTFOUND,
            Verdict::Refuse(message) => {
                arguments[0] = sqlite_string(&message);
                ffi::SQLITE_ERROR
            }
            Verdict::BusyTimeout(timeout) => {
                if let Some(timeout) = timeout {
                    self.gate.set_timeout(timeout);
                }
                arguments[0] = sqlite_string(&self.gate.timeout().as_millis().to_string());
                OK
            }
        }
    }
}

/// A copy in memory that SQLite will free; null if there is none.
fn sqlite_string(text: &str) -> *mut c_char {
    let Ok(text) = CString::new(text) else {
        return ptr::null_mut();
    };
    // SAFETY: the format takes one string, which ends with a zero byte.
    unsafe { ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) }
}

/// A result code without its extension.
fn primary(result: c_int) -> c_int {
    result & 0xff
}

// ---- The journal of a transaction of our own ----

static JOURNAL_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    xClose: Some(journal_close),
    xRead: Some(journal_read),
    xWrite: Some(journal_write),
    xTruncate: Some(journal_truncate),
    xSync: Some(journal_sync),
    ..DELEGATING
};

unsafe extern "C" fn journal_close(file: *mut ffi::sqlite3_file) -> c_int {
    guarded(ffi::SQLITE_IOERR_CLOSE, || {
        // SAFETY: SQLite closes a file of ours once; nothing reads the memory afterwards.
        let shim = unsafe { file.cast::<ShimFile>().read() };
        shim.base.close()
    })
}

unsafe extern "C" fn journal_read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_READ, || {
        // SAFETY: called through the method table of journals.
        let (gate, base) = unsafe { ShimFile::journal(file) };
        match base_file_call!(base, xRead, buffer, amount, offset) {
            result @ (OK | ffi::SQLITE_IOERR_SHORT_READ) => result,
            result => base.failed(gate, "reading the rollback journal", result),
        }
    })
}

unsafe extern "C" fn journal_write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_WRITE, || {
        // SAFETY: called through the method table of journals.
        let (gate, base) = unsafe { ShimFile::journal(file) };
        if gate.fence().is_err() {
            return ffi::SQLITE_IOERR_WRITE;
        }
        if offset == 0 && amount >= 16 {
            // SAFETY: SQLite's buffer of at least 16 bytes, without demands on alignment.
            gate.journal_begun(journal_id(unsafe { &*buffer.cast::<[u8; 16]>() }));
        }
        match base_file_call!(base, xWrite, buffer, amount, offset) {
            OK => OK,
            result => base.failed(gate, "writing the rollback journal", result),
        }
    })
}

unsafe extern "C" fn journal_truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    guarded(ffi::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: called through the method table of journals.
        let (gate, base) = unsafe { ShimFile::journal(file) };
        if gate.fence().is_err() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        base_file_call!(base, xTruncate, size)
    })
}

/// Not fenced: a sync changes nothing that anybody else could have written.
unsafe extern "C" fn journal_sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    guarded(ffi::SQLITE_IOERR_FSYNC, || {
        // SAFETY: called through the method table of journals.
        let (gate, base) = unsafe { ShimFile::journal(file) };
        match base_file_call!(base, xSync, flags) {
            OK => OK,
            result => base.failed(gate, "syncing the rollback journal", result),
        }
    })
}

// ---- Names: the journal's look-up and its deletion, which is the commit point ----

unsafe extern "C" fn vfs_delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_DELETE, || {
        // SAFETY: SQLite calls the method of a registered shim with that shim.
        let base = unsafe { BaseVfs::below(vfs) };
        let Some(gate) = gate_of_journal(name) else {
            return base_vfs_call!(base, xDelete, name, sync_directory);
        };
        match gate.end_journal() {
            EndOfJournal::Refuse => return ffi::SQLITE_IOERR_DELETE,
            EndOfJournal::Leave => return OK,
            EndOfJournal::Remove => {}
        }
        let is_durable = gate.journal().is_some_and(Journal::is_deleted_durably);
        let sync_directory = if is_durable { 0 } else { sync_directory };
        match base_vfs_call!(base, xDelete, name, sync_directory) {
            OK => gate.journal_removed(),
            ffi::SQLITE_IOERR_DELETE_NOENT if gate.absence_is_success() => gate.journal_removed(),
            error => {
                gate.journal_not_removed(&format!("SQLite error {error}"));
                return error;
            }
        }
        OK
    })
}

unsafe extern "C" fn vfs_access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    guarded(ffi::SQLITE_IOERR_ACCESS, || {
        // SAFETY: SQLite calls the method of a registered shim with that shim.
        let base = unsafe { BaseVfs::below(vfs) };
        // What a network file system says of a name may be of another time: only a file that can
        // be opened is there. SQLite takes an empty one for none, too.
        if flags == ffi::SQLITE_ACCESS_EXISTS
            && let Some(gate) = gate_of_journal(name)
            && let Some(journal) = gate.journal().filter(|journal| journal.is_on_network())
        {
            return match journal.standing() {
                Ok(standing) => {
                    // SAFETY: `xAccess`'s out-parameter.
                    unsafe { *result = c_int::from(standing != Standing::Absent) };
                    OK
                }
                Err(error) => {
                    let reason = format!("the rollback journal cannot be examined: {error}");
                    gate.file_failed(reason);
                    ffi::SQLITE_IOERR_ACCESS
                }
            };
        }
        base_vfs_call!(base, xAccess, name, flags, result)
    })
}

// ---- Delegation ----

/// Methods of the shim's VFS that are the base VFS's own.
macro_rules! delegate_to_base_vfs {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*) -> $result:ty, $on_panic:expr;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut ffi::sqlite3_vfs $(, $argument: $type)*) -> $result {
            catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: SQLite calls the method of a registered shim with that shim.
                let base = unsafe { BaseVfs::below(vfs) };
                base_vfs_call!(base, $method $(, $argument)*)
            }))
            .unwrap_or($on_panic)
        }
    )*};
}

type Symbol = Option<unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut c_void, *const c_char)>;

delegate_to_base_vfs! {
    vfs_full_pathname => xFullPathname(name: *const c_char, size: c_int, out: *mut c_char) -> c_int, ffi::SQLITE_CANTOPEN;
    vfs_dl_open => xDlOpen(name: *const c_char) -> *mut c_void, ptr::null_mut();
    vfs_dl_error => xDlError(size: c_int, message: *mut c_char) -> (), ();
    vfs_dl_sym => xDlSym(library: *mut c_void, symbol: *const c_char) -> Symbol, None;
    vfs_dl_close => xDlClose(library: *mut c_void) -> (), ();
    vfs_randomness => xRandomness(size: c_int, out: *mut c_char) -> c_int, 0;
    vfs_sleep => xSleep(microseconds: c_int) -> c_int, 0;
    vfs_current_time => xCurrentTime(days: *mut f64) -> c_int, ffi::SQLITE_ERROR;
    vfs_get_last_error => xGetLastError(size: c_int, message: *mut c_char) -> c_int, 0;
    vfs_current_time_int64 => xCurrentTimeInt64(millis: *mut i64) -> c_int, ffi::SQLITE_ERROR;
}

/// Methods of our files that are the base file's own.
macro_rules! delegate_to_base_file {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*), $on_panic:expr;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $type)*) -> c_int {
            guarded($on_panic, || {
                // SAFETY: called through a method table of ours.
                let base = unsafe { ShimFile::of(file) }.base;
                base_file_call!(base, $method $(, $argument)*)
            })
        }
    )*};
}

delegate_to_base_file! {
    file_size => xFileSize(size: *mut i64), ffi::SQLITE_IOERR_FSTAT;
    file_lock => xLock(level: c_int), ffi::SQLITE_IOERR_LOCK;
    file_unlock => xUnlock(level: c_int), ffi::SQLITE_IOERR_UNLOCK;
    file_check_reserved_lock => xCheckReservedLock(result: *mut c_int), ffi::SQLITE_IOERR_CHECKRESERVEDLOCK;
    file_control => xFileControl(operation: c_int, argument: *mut c_void), ffi::SQLITE_ERROR;
    file_sector_size => xSectorSize(), 4096;
}

unsafe extern "C" fn file_device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    /// What the guarantees of the journal would not survive: headers that are valid at once, writes
    /// taken for ordered, no journal at all.
    const NEVER: c_int = ffi::SQLITE_IOCAP_SAFE_APPEND
        | ffi::SQLITE_IOCAP_SEQUENTIAL
        | ffi::SQLITE_IOCAP_BATCH_ATOMIC
        | ffi::SQLITE_IOCAP_IMMUTABLE;
    guarded(0, || {
        // SAFETY: called through a method table of ours.
        let base = unsafe { ShimFile::of(file) }.base;
        base_file_call!(base, xDeviceCharacteristics) & !NEVER
    })
}

// The gates in `JOURNALS` are shared between threads, each used by the thread of its connection.
const _: PhantomData<fn() -> Arc<Gate>> = {
    const fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Gate>();
    PhantomData
};
