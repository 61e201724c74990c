//! All calls to the file system that the crate makes itself, not through SQLite and its VFS, so
//! that tests can number them and make each one fail.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Advice, AtFlags, Mode, OFlags, StatxFlags, fadvise, statx};

#[cfg(test)]
use self::tests::faults::call;

#[cfg(test)]
mod tests;

/// A call to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    OpenDirectory,
    Create,
    Read,
    Write,
    Sync,
    Link,
    Remove,
    Look,
    DropPages,
}

/// Makes the call.
#[cfg(not(test))]
fn call<T>(_: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    make()
}

/// For reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    call(Call::Open, || File::open(path))
}

/// For reads that bypass this host's caches; `InvalidInput` where the file system cannot.
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
    call(Call::Open, || {
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(File::from(descriptor))
    })
}

/// On NFS this makes the client look up the directory's entries again.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    call(Call::OpenDirectory, || File::open(path))
}

/// Creates a new file for writing; fails if it exists.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    call(Call::Create, || {
        OpenOptions::new().write(true).create_new(true).open(path)
    })
}

pub(super) fn write_all(file: &mut File, data: &[u8]) -> io::Result<()> {
    call(Call::Write, || file.write_all(data))
}

pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    call(Call::Write, || {
        file.set_permissions(Permissions::from_mode(mode))
    })
}

/// Reads from the beginning, at most `most` bytes.
pub(super) fn read(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    call(Call::Read, || file.take(most).read_to_end(&mut data))?;
    Ok(data)
}

pub(super) fn read_at(file: &File, data: &mut [u8], offset: u64) -> io::Result<usize> {
    call(Call::Read, || file.read_at(data, offset))
}

/// Syncs a file's content, or a directory's names.
pub(super) fn sync(file: &File) -> io::Result<()> {
    call(Call::Sync, || file.sync_all())
}

pub(super) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    call(Call::Link, || fs::hard_link(from, to))
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    call(Call::Remove, || fs::remove_file(path))
}

pub(super) fn metadata(path: &Path) -> io::Result<Metadata> {
    call(Call::Look, || path.metadata())
}

/// The metadata of an open file.
pub(super) fn metadata_of(file: &File) -> io::Result<Metadata> {
    call(Call::Look, || file.metadata())
}

/// Requests an open file's size and times from the server, whatever this host has cached of them: a
/// read would stop at a cached end.
pub(super) fn refresh_size(file: &File) -> io::Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    call(Call::Look, || {
        statx(
            file,
            "",
            flags,
            StatxFlags::SIZE | StatxFlags::MTIME | StatxFlags::CTIME,
        )?;
        Ok(())
    })
}

/// Drops what this host has cached of the file.
pub(super) fn drop_cached_pages(file: &File) -> io::Result<()> {
    call(Call::DropPages, || {
        Ok(fadvise(file, 0, None, Advice::DontNeed)?)
    })
}
