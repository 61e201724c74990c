//! What a database's files say by themselves, for people: read outside SQLite, nothing changed.
//!
//! Only for a process that has the database not open: closing a descriptor of it drops the process's
//! POSIX locks on it (<https://sqlite.org/howtocorrupt.html>, section 2.2).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::fs_kind::FileSystem;
use super::lock_identity::{KeyFile, LockIdMatch, OwnLock};
use super::rollback_journal::Journal;
pub(crate) use super::rollback_journal::JournalStatus;
use crate::error::{ConfigError, LockName};

/// Looks for the rollback journal of the database at this path, links resolved.
pub(crate) fn journal(database: &Path, network: bool) -> io::Result<JournalStatus> {
    let mut path = database.as_os_str().to_owned();
    path.push("-journal");
    let file_system = if network {
        FileSystem::Shared
    } else {
        FileSystem::Local
    };
    Journal::new(path.into(), file_system).status()
}

/// Whether the file beside the database names this lock; `None` is `lock=local`. `false` where
/// there is no such file.
///
/// # Errors
/// If it names another lock, or cannot be read.
pub(crate) fn agrees_with_key_file(
    database: &Path,
    lock: Option<&LockName>,
) -> Result<bool, ConfigError> {
    let own = lock.map_or(OwnLock::Local, OwnLock::Item);
    Ok(KeyFile::beside(database).look(own)? == LockIdMatch::Ours)
}

/// What the beginning of a file says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// No bytes at all: a database without tables.
    Empty,
    Database(Header),
    Other,
}

/// A database's header (<https://sqlite.org/fileformat2.html#the_database_header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) page_size: u32,
    pub(crate) is_write_ahead_log: bool,
    pub(crate) change_counter: u32,
    /// The size in pages, where whoever wrote last has kept account of it.
    pub(crate) pages: Option<u32>,
}

/// Reads the header of the file at this path.
pub(crate) fn content(database: &Path) -> io::Result<Content> {
    let mut header = Vec::with_capacity(100);
    File::open(database)?.take(100).read_to_end(&mut header)?;
    Ok(Content::of(&header))
}

impl Content {
    fn of(header: &[u8]) -> Self {
        let Ok(header) = <&[u8; 100]>::try_from(header) else {
            return if header.is_empty() {
                Self::Empty
            } else {
                Self::Other
            };
        };
        if !header.starts_with(b"SQLite format 3\0") {
            return Self::Other;
        }
        let number = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let change_counter = number(24);
        Self::Database(Header {
            page_size: match u32::from_be_bytes([0, 0, header[16], header[17]]) {
                1 => 65_536,
                size => size,
            },
            is_write_ahead_log: header[18] == 2 || header[19] == 2,
            change_counter,
            // Valid only for the change counter that stands beside it.
            pages: Some(number(28)).filter(|_| number(92) == change_counter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_what_sqlite_would_make_of_the_file() {
        let mut header = [0; 100];
        header[..16].copy_from_slice(b"SQLite format 3\0");
        header[17] = 1;
        (header[18], header[19]) = (1, 1);
        (header[27], header[31], header[95]) = (7, 3, 7);
        let told = Header {
            page_size: 65_536,
            is_write_ahead_log: false,
            change_counter: 7,
            pages: Some(3),
        };
        assert_eq!(Content::of(&header), Content::Database(told));
        header[95] = 6;
        header[18] = 2;
        let told = Header {
            is_write_ahead_log: true,
            pages: None,
            ..told
        };
        assert_eq!(Content::of(&header), Content::Database(told));
        assert_eq!(Content::of(b""), Content::Empty);
        assert_eq!(Content::of(&header[..99]), Content::Other);
        assert_eq!(Content::of(&[b'x'; 100]), Content::Other);
    }
}
