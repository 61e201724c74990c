//! The VFS below the shim and its files, with safe methods.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use libsqlite3_sys as ffi;
use rustix::io::Errno;

use super::read_buffer::ReadBuffer;
use crate::vfs::io_values::{LockLevel, ReadExtent};
use crate::vfs::sqlite_error::SqliteError;

/// The VFS below a shim. It is registered, and valid until it is unregistered, which never happens
/// here.
#[derive(Clone, Copy)]
pub(super) struct BaseVfs(NonNull<ffi::sqlite3_vfs>);

impl BaseVfs {
    /// `None` if SQLite has no VFS of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name ends with a zero byte; SQLite initialises itself if need be.
        let vfs = unsafe { ffi::sqlite3_vfs_find(name.as_ptr()) };
        NonNull::new(vfs).map(Self)
    }

    /// # Safety
    /// `shim` is a VFS that [`shim_over`](super::shim_over) has registered.
    pub(super) unsafe fn below(shim: *mut ffi::sqlite3_vfs) -> Self {
        // SAFETY: the caller's promise.
        let base = unsafe { (*shim).pAppData };
        Self(NonNull::new(base.cast()).expect("a shim is registered over a base VFS"))
    }

    pub(super) fn as_ptr(self) -> *mut ffi::sqlite3_vfs {
        self.0.as_ptr()
    }

    /// One of its methods.
    pub(super) fn method<M>(self, choose: impl FnOnce(&ffi::sqlite3_vfs) -> Option<M>) -> M {
        // SAFETY: it is registered.
        let vfs = unsafe { self.0.as_ref() };
        choose(vfs).expect("a VFS has all methods of version 2")
    }

    pub(super) fn max_path(self) -> c_int {
        // SAFETY: it is registered.
        unsafe { self.0.as_ref() }.mxPathname
    }

    pub(super) fn file_size(self) -> usize {
        // SAFETY: it is registered.
        usize::try_from(unsafe { self.0.as_ref() }.szOsFile).unwrap_or(0)
    }

    /// Opens a file in its own memory. Returns it with the flags that it was opened with.
    ///
    /// # Safety
    /// `name` is one that SQLite has passed to the shim's `xOpen`, with the same type of file in
    /// `flags`, and the file is dropped by the end of `xClose`: "SQLite further guarantees that the
    /// string will be valid and unchanged until xClose() is called."
    pub(super) unsafe fn open(
        self,
        name: *const c_char,
        flags: c_int,
    ) -> Result<(BaseFile, c_int), SqliteError> {
        let open = self.method(|vfs| vfs.xOpen);
        let mut opened_flags = 0;
        let file = BaseFile::unopened(self.file_size());
        // SAFETY: the name is the caller's promise; the file is memory of `szOsFile` bytes.
        let result = unsafe { open(self.as_ptr(), name, file.as_ptr(), flags, &mut opened_flags) };
        SqliteError::check(result)?;
        Ok((file, opened_flags))
    }

    /// Deletes a file.
    ///
    /// # Safety
    /// `name` is one that SQLite has passed to the shim's `xDelete`.
    pub(super) unsafe fn delete(
        self,
        name: *const c_char,
        sync_directory: bool,
    ) -> Result<(), SqliteError> {
        let delete = self.method(|vfs| vfs.xDelete);
        // SAFETY: the name is the caller's promise.
        let result = unsafe { delete(self.as_ptr(), name, c_int::from(sync_directory)) };
        SqliteError::check(result)
    }
}

/// An open file of the base VFS, with its memory.
#[derive(Debug)]
pub(in crate::vfs) struct BaseFile {
    /// Zeroed at first; the file's struct begins with `sqlite3_file`. Aligned like C's allocator.
    memory: NonNull<[u128]>,
}

// SAFETY: SQLite uses a file from whatever thread has its connection's mutex.
unsafe impl Send for BaseFile {}

impl BaseFile {
    /// Memory for a file of `size` bytes.
    fn unopened(size: usize) -> Self {
        let size = size.max(size_of::<ffi::sqlite3_file>());
        let memory = vec![0; size.div_ceil(size_of::<u128>())];
        Self {
            memory: NonNull::from(Box::leak(memory.into_boxed_slice())),
        }
    }

    fn as_ptr(&self) -> *mut ffi::sqlite3_file {
        self.memory.as_ptr().cast()
    }

    /// `None` if it is not open: "The only way to prevent a call to xClose following a failed
    /// xOpen is for the xOpen to set the sqlite3_file.pMethods element to NULL."
    fn methods(&self) -> Option<&ffi::sqlite3_io_methods> {
        // SAFETY: the memory begins with this struct, zeroed or set by the base VFS.
        let methods = unsafe { (*self.as_ptr()).pMethods };
        // SAFETY: null or the method table of a file that stays open while this is borrowed.
        unsafe { methods.as_ref() }
    }

    fn method<M>(&self, choose: impl FnOnce(&ffi::sqlite3_io_methods) -> Option<M>) -> M {
        let methods = self.methods().expect("the file is open");
        choose(methods).expect("a file has all methods of version 1")
    }

    /// Closes the file, whatever this returns.
    pub(in crate::vfs) fn close(mut self) -> Result<(), SqliteError> {
        self.close_once()
    }

    fn close_once(&mut self) -> Result<(), SqliteError> {
        if self.methods().is_none() {
            return Ok(());
        }
        let close = self.method(|methods| methods.xClose);
        // SAFETY: the file is open, and is marked as closed below.
        let result = unsafe { close(self.as_ptr()) };
        // SAFETY: the memory is still ours.
        unsafe { (*self.as_ptr()).pMethods = ptr::null() };
        SqliteError::check(result)
    }

    /// Fills the buffer, with zeros beyond the end of the file.
    pub(in crate::vfs) fn read(
        &self,
        buffer: &mut ReadBuffer<'_>,
        offset: i64,
    ) -> Result<ReadExtent, SqliteError> {
        let read = self.method(|methods| methods.xRead);
        let size = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
        // SAFETY: the file is open; the buffer has so many bytes.
        let result = unsafe { read(self.as_ptr(), buffer.start(), size, offset) };
        let extent = match SqliteError::check(result) {
            Ok(()) => ReadExtent::Full,
            Err(SqliteError::IOERR_SHORT_READ) => ReadExtent::Short,
            Err(error) => return Err(error),
        };
        // SAFETY: "If xRead() returns SQLITE_IOERR_SHORT_READ it must also fill in the unread
        // portions of the buffer with zeros" (<https://sqlite.org/c3ref/io_methods.html>).
        unsafe { buffer.filled() };
        Ok(extent)
    }

    pub(in crate::vfs) fn write(&self, data: &[u8], offset: i64) -> Result<(), SqliteError> {
        let write = self.method(|methods| methods.xWrite);
        let (start, size) = (data.as_ptr().cast(), length(data));
        // SAFETY: the file is open; the buffer has so many bytes.
        SqliteError::check(unsafe { write(self.as_ptr(), start, size, offset) })
    }

    pub(in crate::vfs) fn truncate(&self, size: i64) -> Result<(), SqliteError> {
        let truncate = self.method(|methods| methods.xTruncate);
        // SAFETY: the file is open.
        SqliteError::check(unsafe { truncate(self.as_ptr(), size) })
    }

    pub(in crate::vfs) fn sync(&self, flags: c_int) -> Result<(), SqliteError> {
        let sync = self.method(|methods| methods.xSync);
        // SAFETY: the file is open.
        SqliteError::check(unsafe { sync(self.as_ptr(), flags) })
    }

    pub(in crate::vfs) fn size(&self) -> Result<i64, SqliteError> {
        let file_size = self.method(|methods| methods.xFileSize);
        let mut size = 0;
        // SAFETY: the file is open, and `size` is its out-parameter.
        SqliteError::check(unsafe { file_size(self.as_ptr(), &mut size) })?;
        Ok(size)
    }

    pub(in crate::vfs) fn lock(&self, level: LockLevel) -> Result<(), SqliteError> {
        let lock = self.method(|methods| methods.xLock);
        // SAFETY: the file is open.
        SqliteError::check(unsafe { lock(self.as_ptr(), level.code()) })
    }

    pub(in crate::vfs) fn unlock(&self, level: LockLevel) -> Result<(), SqliteError> {
        let unlock = self.method(|methods| methods.xUnlock);
        // SAFETY: the file is open.
        SqliteError::check(unsafe { unlock(self.as_ptr(), level.code()) })
    }

    /// Whether any connection holds RESERVED or more.
    pub(super) fn is_reserved(&self) -> Result<bool, SqliteError> {
        let check = self.method(|methods| methods.xCheckReservedLock);
        let mut reserved = 0;
        // SAFETY: the file is open, and `reserved` is its out-parameter.
        SqliteError::check(unsafe { check(self.as_ptr(), &mut reserved) })?;
        Ok(reserved != 0)
    }

    pub(super) fn sector_size(&self) -> c_int {
        let sector_size = self.method(|methods| methods.xSectorSize);
        // SAFETY: the file is open.
        unsafe { sector_size(self.as_ptr()) }
    }

    pub(in crate::vfs) fn device_characteristics(&self) -> c_int {
        let device_characteristics = self.method(|methods| methods.xDeviceCharacteristics);
        // SAFETY: the file is open.
        unsafe { device_characteristics(self.as_ptr()) }
    }

    /// The system's error of the last failed operation, if the VFS knows it.
    pub(in crate::vfs) fn last_errno(&self) -> Option<Errno> {
        let mut errno: c_int = 0;
        let out = ptr::from_mut(&mut errno).cast();
        // SAFETY: this operation's argument is an integer's address
        // (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html#sqlitefcntllasterrno>).
        let _ = unsafe { self.control(ffi::SQLITE_FCNTL_LAST_ERRNO, out) };
        (errno != 0).then(|| Errno::from_raw_os_error(errno))
    }

    /// `xFileControl`.
    ///
    /// # Safety
    /// `argument` is what `operation` asks for.
    pub(super) unsafe fn control(
        &self,
        operation: c_int,
        argument: *mut c_void,
    ) -> Result<(), SqliteError> {
        let control = self.method(|methods| methods.xFileControl);
        // SAFETY: the file is open; the argument is the caller's promise.
        SqliteError::check(unsafe { control(self.as_ptr(), operation, argument) })
    }
}

impl Drop for BaseFile {
    fn drop(&mut self) {
        // There is no caller to report an error to.
        let _ = self.close_once();
        // SAFETY: it came from `Box::leak`, and the base VFS has done with it.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// A buffer's length as C counts it.
fn length(data: &[u8]) -> c_int {
    c_int::try_from(data.len()).expect("SQLite's buffers are shorter than 2 GiB")
}
