//! Network file systems: telling them from local ones, and reading past their caches.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, fadvise, statfs};

/// The kind of file system that holds `path`, if several hosts may share it: `nfs`, `smb`, `fuse`,
/// and whatever is not known to be local.
///
/// `path` or, where it does not exist yet, its directory is asked for (`statfs(2)`).
pub(crate) fn network_file_system(path: &Path) -> io::Result<Option<String>> {
    let known = match statfs(path) {
        Err(rustix::io::Errno::NOENT) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => statfs(parent)?,
            _ => statfs(".")?,
        },
        other => other?,
    };
    let magic = known.f_type as u32;
    Ok(match magic {
        0x6969 => Some("nfs".to_owned()),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("smb".to_owned()),
        0x6573_5546 => Some("fuse".to_owned()),
        magic if LOCAL.contains(&magic) => None,
        magic => Some(format!("an unknown file system, type {magic:#x}")),
    })
}

/// File systems of one machine, by their `f_type` (`/usr/include/linux/magic.h`).
const LOCAL: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x4d44,      // vfat
    0x2011_bab0, // exfat
    0x5346_544e, // ntfs
    0x7366_746e, // ntfs3
    0xca45_1a4e, // bcachefs
];

/// A descriptor of a database file through which the kernel is told to drop its cached pages.
///
/// Closing any descriptor of a file drops all POSIX locks that the process has on it, SQLite's
/// included (<https://sqlite.org/howtocorrupt.html>, section 2.2). So there is one for each file
/// and process, and it is closed only when SQLite has closed its last one.
#[derive(Debug)]
pub(super) struct CacheAdvisor {
    inode: (u64, u64),
    file: Arc<File>,
}

type Advisors = HashMap<(u64, u64), Arc<File>>;
static ADVISORS: LazyLock<Mutex<Advisors>> = LazyLock::new(Mutex::default);

fn advisors() -> MutexGuard<'static, Advisors> {
    ADVISORS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CacheAdvisor {
    /// For the file at `path`, which SQLite has open.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let mut advisors = advisors();
        let metadata = path.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        let file = match advisors.get(&inode) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(File::open(path)?);
                advisors.insert(inode, file.clone());
                file
            }
        };
        Ok(Self { inode, file })
    }

    /// Tells the kernel to forget what it has cached of the file.
    pub(super) fn drop_cached_pages(&self) -> io::Result<()> {
        Ok(fadvise(&*self.file, 0, None, Advice::DontNeed)?)
    }

    /// Closes the descriptor if it is the last, after SQLite has closed the file.
    pub(super) fn close_after<T>(self, close_file: impl FnOnce() -> T) -> T {
        let mut advisors = advisors();
        let result = close_file();
        // One is the map's, one is ours.
        if Arc::strong_count(&self.file) == 2 {
            advisors.remove(&self.inode);
        }
        drop(self);
        drop(advisors);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_are_recognised_also_for_files_yet_to_be_made() {
        let missing = std::env::temp_dir().join("no-such-file.db");
        assert_eq!(network_file_system(&missing).unwrap(), None);
        assert!(network_file_system(Path::new("/no/such/directory/x.db")).is_err());
        assert!(
            network_file_system(Path::new("/proc/version"))
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn connections_share_one_descriptor_until_the_last_is_closed() {
        let path = std::env::temp_dir().join(format!("efs-advisor-{}", std::process::id()));
        std::fs::write(&path, b"x").unwrap();
        let first = CacheAdvisor::new(&path).unwrap();
        let second = CacheAdvisor::new(&path).unwrap();
        assert!(Arc::ptr_eq(&first.file, &second.file));
        first.drop_cached_pages().unwrap();
        let inode = first.inode;
        first.close_after(|| ());
        assert!(advisors().contains_key(&inode));
        second.close_after(|| ());
        assert!(!advisors().contains_key(&inode));
        std::fs::remove_file(&path).unwrap();
    }
}
