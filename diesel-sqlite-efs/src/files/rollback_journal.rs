//! The rollback journal as a file: whether it is hot, which transaction it belongs to, removal of a
//! leftover.
//!
//! It may be opened and closed outside SQLite: unlike the database it carries no locks.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::calls;
use super::fs_kind::FileSystem;
use crate::store::JournalId;

/// The path of a database's rollback journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
    directory: PathBuf,
    /// On a network file system names must be looked up again.
    file_system: FileSystem,
}

/// What is at the path of a database's rollback journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalStatus {
    /// Nothing, or an empty file, which SQLite treats as none.
    Absent,
    /// A journal whose header was never completed: nothing has been written to the database yet.
    Cold,
    /// A hot journal (<https://sqlite.org/lockingv3.html#hot_journals>): its header is complete, so
    /// pages of the database may have been changed. A commit is in progress, or a writer died in one.
    Hot(JournalId),
}

impl JournalStatus {
    /// From the beginning of the file.
    fn of(header: &[u8]) -> Self {
        match header {
            [] => Self::Absent,
            [0, ..] => Self::Cold,
            _ => {
                let mut whole = [0; 16];
                for (to, from) in whole.iter_mut().zip(header) {
                    *to = *from;
                }
                Self::Hot(journal_id(&whole))
            }
        }
    }
}

/// A file at the journal's path, distinct from every earlier or later one there, and from itself
/// before it was written to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JournalFile {
    status: JournalStatus,
    /// None if there is no file at all.
    identity: Option<Identity>,
}

/// Inode numbers are reused at once, and an empty journal has no nonce: hence the time.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    /// The time of the last change: seconds and nanoseconds.
    changed: (i64, i64),
    header: Vec<u8>,
}

impl JournalFile {
    const NOTHING: Self = Self {
        status: JournalStatus::Absent,
        identity: None,
    };

    pub(crate) fn status(&self) -> JournalStatus {
        self.status
    }
}

impl Journal {
    pub(crate) fn new(path: PathBuf, file_system: FileSystem) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Self {
            path,
            directory,
            file_system,
        }
    }

    /// Whether this host may have cached its name from an earlier file.
    pub(crate) fn is_on_network(&self) -> bool {
        self.file_system.is_network()
    }

    /// Whether its deletion is durable as soon as it is answered, so that the directory need not be
    /// synced: NFS servers answer when a name is on stable storage ([RFC
    /// 1813](https://www.rfc-editor.org/rfc/rfc1813#section-4.7)), and Linux's client does nothing
    /// for `fsync` of a directory. Opening the directory for it would cost a round trip.
    pub(crate) fn is_deleted_durably(&self) -> bool {
        self.file_system == FileSystem::Nfs
    }

    /// Makes the file system look up the journal's name again.
    ///
    /// An NFS client caches for up to 30 s that a name does not exist, and would miss a crashed
    /// writer's journal. Opening the directory revalidates its cache (close-to-open).
    pub(crate) fn refresh_name(&self) {
        if self.is_on_network() {
            // If the directory cannot be opened, the lookup that follows reports it.
            drop(calls::open_directory(&self.directory));
        }
    }

    /// Looks at what is at the path now.
    pub(crate) fn status(&self) -> io::Result<JournalStatus> {
        self.refresh_name();
        self.look(self.is_on_network())
    }

    /// The same with the name as this host has it cached, which may be up to 30 s old on NFS.
    ///
    /// Called after each page that is read. There is almost never a journal, and a lookup of the
    /// name shows that faster than an attempt to open it.
    pub(crate) fn cached_status(&self) -> io::Result<JournalStatus> {
        match calls::metadata(&self.path) {
            Err(error) if is_absence(&error) => Ok(JournalStatus::Absent),
            _ => self.look(false),
        }
    }

    /// `afresh`: a size cached from an earlier file of this name, such as zero, does not count.
    fn look(&self, afresh: bool) -> io::Result<JournalStatus> {
        match self.header(afresh) {
            Ok(header) => Ok(JournalStatus::of(&header)),
            Err(error) if is_absence(&error) => Ok(JournalStatus::Absent),
            Err(error) => Err(error),
        }
    }

    /// Looks at what is at the path now, for [`remove_found`](Self::remove_found).
    pub(crate) fn find(&self) -> io::Result<JournalFile> {
        self.refresh_name();
        match self.identify() {
            Ok(identity) => Ok(JournalFile {
                status: JournalStatus::of(&identity.header),
                identity: Some(identity),
            }),
            Err(error) if is_absence(&error) => Ok(JournalFile::NOTHING),
            Err(error) => Err(error),
        }
    }

    fn identify(&self) -> io::Result<Identity> {
        let file = calls::open(&self.path)?;
        if self.is_on_network() {
            calls::refresh_size(&file)?;
        }
        // Before the content is read: a write in between then shows at the next look.
        let metadata = calls::metadata_of(&file)?;
        Ok(Identity {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            header: calls::read(file, 16)?,
        })
    }

    /// The first 16 bytes, or as many as the file has.
    fn header(&self, afresh: bool) -> io::Result<Vec<u8>> {
        let file = calls::open(&self.path)?;
        if afresh {
            calls::refresh_size(&file)?;
        }
        calls::read(file, 16)
    }

    /// Removes the file that was found, durably. Returns false, and removes nothing, if another
    /// file is there by now.
    ///
    /// A file that is found both before and after the store has confirmed the lease belongs to no
    /// writer: a successor would have had to replace it with its own. What remains is the moment
    /// between the last look and the removal.
    pub(crate) fn remove_found(&self, found: &JournalFile) -> io::Result<bool> {
        if self.find()? != *found {
            return Ok(false);
        }
        if found.identity.is_some() {
            self.remove()?;
        }
        Ok(true)
    }

    /// Removes the file, durably; its absence is no error.
    fn remove(&self) -> io::Result<()> {
        match calls::remove(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => calls::sync(&calls::open_directory(&self.directory)?),
        }
    }
}

/// Whether there is no such file, or it was deleted after it was opened.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
    )
}

/// The nonce in a journal's header: bytes 12..16, after the magic and the page count.
pub(crate) fn journal_id(header: &[u8; 16]) -> JournalId {
    JournalId([header[12], header[13], header[14], header[15]])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_journal_is_hot_only_with_a_complete_header() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db-journal");
        let journal = Journal::new(path.clone(), FileSystem::Shared);
        let mut header = [0; 512];
        header[12..16].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(journal.status().unwrap(), JournalStatus::Absent);
        fs::write(&path, b"").unwrap();
        assert_eq!(journal.status().unwrap(), JournalStatus::Absent);
        fs::write(&path, header).unwrap();
        assert_eq!(journal.status().unwrap(), JournalStatus::Cold);
        header[0] = 0xd9;
        fs::write(&path, header).unwrap();
        let hot = JournalStatus::Hot(JournalId([1, 2, 3, 4]));
        assert_eq!(journal.status().unwrap(), hot);
        let found = journal.find().unwrap();
        assert_eq!(found.status(), hot);
        assert!(journal.remove_found(&found).unwrap());
        assert_eq!(journal.status().unwrap(), JournalStatus::Absent);
    }

    #[test]
    fn what_was_found_is_removed_and_nothing_else_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db-journal");
        let journal = Journal::new(path.clone(), FileSystem::Local);
        let nothing = journal.find().unwrap();
        assert_eq!(nothing.status(), JournalStatus::Absent);
        assert!(journal.remove_found(&nothing).unwrap());

        fs::write(&path, b"").unwrap();
        assert!(!journal.remove_found(&nothing).unwrap());
        let empty = journal.find().unwrap();
        assert!(journal.remove_found(&empty).unwrap());
        assert_eq!(journal.find().unwrap(), nothing);
        assert!(!journal.remove_found(&empty).unwrap());

        // Another file with the same content, which may well have the same inode number, but not
        // the same time: clocks of file systems are coarse.
        let time = |found: &JournalFile| found.identity.as_ref().map(|identity| identity.changed);
        loop {
            fs::write(&path, b"").unwrap();
            if time(&journal.find().unwrap()) != time(&empty) {
                break;
            }
            fs::remove_file(&path).unwrap();
        }
        assert!(!journal.remove_found(&empty).unwrap());
        let mut header = [0; 512];
        header[12..16].copy_from_slice(&[1, 2, 3, 4]);
        fs::write(&path, header).unwrap();
        let cold = journal.find().unwrap();
        header[15] = 5;
        fs::remove_file(&path).unwrap();
        fs::write(&path, header).unwrap();
        assert!(!journal.remove_found(&cold).unwrap());
        assert_eq!(fs::read(&path).unwrap(), header);
    }
}
