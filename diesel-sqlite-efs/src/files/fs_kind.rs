//! The kind of file system that holds a file: local to this machine, or shared by hosts.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::io::Errno;

/// How to handle what this host has cached of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// Nothing to do: the file system is local to this machine.
    Local,
    /// With what makes the Linux NFS client ask its server.
    Nfs,
    /// With every known measure: another file system that several hosts may share.
    Shared,
}

impl FileSystem {
    /// Whether other hosts may change a file, so that this host's cache of it may be stale.
    pub(crate) fn is_network(self) -> bool {
        self != Self::Local
    }
}

/// A file system that several hosts may share: whatever is not known to be local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkFileSystem {
    /// NFS, as Amazon EFS is mounted.
    Nfs,
    /// SMB or CIFS.
    Smb,
    /// A file system in user space.
    Fuse,
    /// One of this type (`f_type` of `statfs(2)`), which is not known to be local.
    Unknown(u32),
    /// Said by
    /// [`assume_network_file_system`](crate::EfsConfig::assume_network_file_system) of one that looks
    /// local.
    Assumed,
}

impl fmt::Display for NetworkFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nfs => f.write_str("nfs"),
            Self::Smb => f.write_str("smb"),
            Self::Fuse => f.write_str("fuse"),
            Self::Unknown(magic) => write!(f, "an unknown file system, type {magic:#x}"),
            Self::Assumed => f.write_str("as configured"),
        }
    }
}

/// The kind of file system that holds `path`, if several hosts may share it.
///
/// Examines `path` or, if it does not exist yet, its directory (`statfs(2)`).
pub(crate) fn network_file_system(path: &Path) -> io::Result<Option<NetworkFileSystem>> {
    let known = match statfs(path) {
        Err(Errno::NOENT) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => statfs(parent)?,
            _ => statfs(".")?,
        },
        other => other?,
    };
    let magic = known.f_type as u32;
    Ok(match magic {
        0x6969 => Some(NetworkFileSystem::Nfs),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some(NetworkFileSystem::Smb),
        0x6573_5546 => Some(NetworkFileSystem::Fuse),
        magic if LOCAL.contains(&magic) => None,
        magic => Some(NetworkFileSystem::Unknown(magic)),
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
}
