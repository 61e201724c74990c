//! Reads that bypass what this host has cached of a database file on a network file system.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::calls;
use super::fs_kind::FileSystem;

/// Bypasses what this host has cached of a database file on a network file system.
///
/// There are two measures, because neither suffices everywhere. A fresh `open` makes a client with
/// close-to-open consistency ask the server whether its pages are current (FUSE). A Linux NFS
/// client does not do so while the file is open for writing; it is asked to drop its pages
/// (`posix_fadvise(2)`). There the open would only refresh the file's size and times, which can be
/// requested on a descriptor that is already open.
///
/// Closing any descriptor of a file drops all POSIX locks that the process has on it, SQLite's
/// included (<https://sqlite.org/howtocorrupt.html>, section 2.2). So a file opened here stays open
/// until no connection of the process holds a lock on the file.
#[derive(Debug)]
pub(crate) struct CacheBypass {
    file_system: FileSystem,
    inode: Inode,
    path: PathBuf,
    /// Counted in [`Descriptors::lockers`].
    locks: bool,
    direct_file: Option<Arc<DirectFile>>,
}

type Inode = (u64, u64);

/// The descriptors of one file that are not SQLite's.
#[derive(Debug, Default)]
struct Descriptors {
    connections: usize,
    lockers: usize,
    open: Vec<File>,
    direct_file: Option<Arc<DirectFile>>,
}

static BY_INODE: LazyLock<Mutex<HashMap<Inode, Descriptors>>> = LazyLock::new(Mutex::default);

fn by_inode() -> MutexGuard<'static, HashMap<Inode, Descriptors>> {
    BY_INODE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CacheBypass {
    /// How many descriptors may wait to be closed. A connection that holds a lock for a long time
    /// keeps open those of all other connections' transactions.
    const MOST_DESCRIPTORS: usize = 128;

    /// For the file at `path` on a network file system, which SQLite has just opened.
    pub(crate) fn new(path: &Path, file_system: FileSystem) -> io::Result<Self> {
        let metadata = calls::metadata(path)?;
        let inode = (metadata.dev(), metadata.ino());
        by_inode().entry(inode).or_default().connections += 1;
        Ok(Self {
            file_system,
            inode,
            path: path.to_owned(),
            locks: false,
            direct_file: None,
        })
    }

    /// The file, for reads that bypass this host's cache; stays open until the process's last
    /// connection to it is closed.
    pub(crate) fn direct_file(&mut self) -> io::Result<&DirectFile> {
        if self.direct_file.is_none() {
            let mut files = by_inode();
            let shared = &mut files.entry(self.inode).or_default().direct_file;
            if shared.is_none() {
                *shared = Some(Arc::new(DirectFile::open(&self.path)?));
            }
            self.direct_file = shared.clone();
        }
        (self.direct_file.as_deref()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Makes the next reads of the file ask the server.
    ///
    /// # Errors
    /// The file cannot be opened, or too many descriptors wait for the locks of other connections.
    pub(crate) fn drop_cached_pages(&mut self) -> io::Result<()> {
        if self.file_system == FileSystem::Nfs {
            return calls::drop_cached_pages(&self.direct_file()?.file);
        }
        let mut files = by_inode();
        let descriptors = files.entry(self.inode).or_default();
        if descriptors.open.len() >= Self::MOST_DESCRIPTORS {
            return Err(io::Error::new(
                ErrorKind::ResourceBusy,
                "other connections of this process hold locks on the file for too long",
            ));
        }
        let file = calls::open(&self.path)?;
        let result = calls::drop_cached_pages(&file);
        descriptors.open.push(file);
        descriptors.close_unless_locked();
        result
    }

    /// Updates the file's size, which limits reads, from the server, where
    /// [`drop_cached_pages`](Self::drop_cached_pages) does not.
    ///
    /// Called after a read, not before: NFS does not trust the times of a file that it has just
    /// read, and would request them again when SQLite looks at the file next.
    pub(crate) fn refresh_size(&mut self) -> io::Result<()> {
        match self.file_system {
            FileSystem::Nfs => self.direct_file()?.refresh_size(),
            FileSystem::Local | FileSystem::Shared => Ok(()),
        }
    }

    /// Takes a file lock with `lock`, which returns whether it was granted.
    pub(crate) fn locking<T>(&mut self, lock: impl FnOnce() -> (bool, T)) -> T {
        if !self.locks {
            // Before the lock is taken: nothing may be closed while it may be held.
            by_inode().entry(self.inode).or_default().lockers += 1;
            self.locks = true;
        }
        let (granted, result) = lock();
        if !granted {
            self.unlocked();
        }
        result
    }

    /// This connection no longer holds a lock on the file.
    pub(crate) fn unlocked(&mut self) {
        if std::mem::take(&mut self.locks)
            && let Some(descriptors) = by_inode().get_mut(&self.inode)
        {
            descriptors.lockers -= 1;
            descriptors.close_unless_locked();
        }
    }
}

impl Drop for CacheBypass {
    /// After SQLite has closed the file.
    fn drop(&mut self) {
        self.unlocked();
        let mut files = by_inode();
        // While no other connection can open the file and lock it.
        self.direct_file = None;
        if let Some(descriptors) = files.get_mut(&self.inode) {
            descriptors.connections -= 1;
            if descriptors.connections == 0 {
                files.remove(&self.inode);
            }
        }
    }
}

impl Descriptors {
    fn close_unless_locked(&mut self) {
        if self.lockers == 0 {
            self.open.clear();
        }
    }
}

/// A file whose contents come from the server each time.
///
/// Dropping cached pages does not suffice for reads that must be current: the kernel keeps pages
/// that another process is reading. `O_DIRECT` bypasses the cache
/// ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html)).
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    /// Without direct I/O on the file system, cached pages are dropped as far as possible.
    is_direct: bool,
}

impl DirectFile {
    /// The alignment of offsets, lengths and memory that direct I/O needs on any file system.
    const BLOCK: usize = 4096;

    fn open(path: &Path) -> io::Result<Self> {
        let (file, is_direct) = match calls::open_direct(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::InvalidInput => (calls::open(path)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self { file, is_direct })
    }

    pub(crate) fn refresh_size(&self) -> io::Result<()> {
        calls::refresh_size(&self.file)
    }

    /// Reads as much of `data` as the file has at `offset`; returns the length read.
    pub(crate) fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<usize> {
        let lead = usize::try_from(offset % Self::BLOCK as u64).unwrap_or_default();
        let length = (lead + data.len()).next_multiple_of(Self::BLOCK);
        let mut memory = vec![0; length + Self::BLOCK];
        let start = memory.as_ptr().align_offset(Self::BLOCK);
        let blocks = &mut memory[start..start + length];
        let first = offset - lead as u64;
        let mut filled = 0;
        while filled < length {
            if !self.is_direct {
                calls::drop_cached_pages(&self.file)?;
            }
            match calls::read_at(&self.file, &mut blocks[filled..], first + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // The file does not end at a block boundary; another read from there would be
            // unaligned.
            if filled % Self::BLOCK != 0 {
                break;
            }
        }
        let count = filled.saturating_sub(lead).min(data.len());
        data[..count].copy_from_slice(&blocks[lead..lead + count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    #[test]
    fn what_is_read_past_the_caches_is_what_the_file_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let content: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(&path, &content).unwrap();
        let buffered = DirectFile {
            file: File::open(&path).unwrap(),
            is_direct: false,
        };
        for file in [DirectFile::open(&path).unwrap(), buffered] {
            file.refresh_size().unwrap();
            for (offset, wanted, there) in [
                (0, 100, 100),
                (24, 16, 16),
                (4096, 4096, 4096),
                (4000, 300, 300),
                (512, 1024, 1024),
                (8192, 4096, 1808),
                (9_990, 100, 10),
                (10_000, 1, 0),
                (20_000, 512, 0),
            ] {
                let mut data = vec![0xff; wanted];
                let count = file.read_at(&mut data, offset as u64).unwrap();
                assert_eq!(count, there, "{wanted} at {offset}");
                assert_eq!(data[..count], content[offset.min(10_000)..][..count]);
            }
        }
    }

    #[test]
    fn the_uncached_file_is_one_for_all_and_outlives_all_but_the_last() {
        let file = NamedTempFile::new().unwrap();
        let path = file.path();
        let mut first = CacheBypass::new(path, FileSystem::Shared).unwrap();
        let mut second = CacheBypass::new(path, FileSystem::Shared).unwrap();
        let one = std::ptr::from_ref(first.direct_file().unwrap());
        assert_eq!(one, std::ptr::from_ref(second.direct_file().unwrap()));
        let weak = first.direct_file.as_ref().map(Arc::downgrade).unwrap();
        drop(first);
        assert!(
            weak.upgrade().is_some(),
            "closing it would drop the second's locks"
        );
        drop(second);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn on_nfs_pages_are_dropped_by_the_descriptor_that_stays_open() {
        let file = NamedTempFile::new().unwrap();
        let path = file.path();
        let mut writer = CacheBypass::new(path, FileSystem::Nfs).unwrap();
        assert!(writer.locking(|| (true, true)));
        // More often than the number of descriptors that may wait to be closed.
        for _ in 0..=CacheBypass::MOST_DESCRIPTORS {
            writer.drop_cached_pages().unwrap();
            writer.refresh_size().unwrap();
        }
        let open = by_inode().get(&writer.inode).map(|files| files.open.len());
        assert_eq!(open, Some(0));
        assert!(writer.direct_file.is_some());
        drop(writer);
    }

    #[test]
    fn descriptors_stay_open_while_any_connection_of_the_process_holds_a_lock() {
        let file = NamedTempFile::new().unwrap();
        let path = file.path();
        let mut reader = CacheBypass::new(path, FileSystem::Shared).unwrap();
        let mut writer = CacheBypass::new(path, FileSystem::Shared).unwrap();
        let inode = reader.inode;
        let open = || {
            by_inode()
                .get(&inode)
                .map(|descriptors| descriptors.open.len())
        };

        writer.drop_cached_pages().unwrap();
        assert_eq!(open(), Some(0), "no connection holds a lock");
        assert!(reader.locking(|| (true, true)));
        assert!(!writer.locking(|| (false, false)), "refused");
        writer.drop_cached_pages().unwrap();
        assert_eq!(open(), Some(1));
        assert!(writer.locking(|| (true, true)));
        writer.drop_cached_pages().unwrap();
        writer.unlocked();
        assert_eq!(open(), Some(2), "the reader still holds its lock");
        for _ in 2..CacheBypass::MOST_DESCRIPTORS {
            writer.drop_cached_pages().unwrap();
        }
        assert!(writer.drop_cached_pages().is_err(), "bounded");
        reader.unlocked();
        assert_eq!(open(), Some(0));
        drop((reader, writer));
        assert_eq!(open(), None);
    }
}
