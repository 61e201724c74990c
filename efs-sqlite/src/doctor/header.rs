//! The header of a database file, read from the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The content of a file by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// No bytes: a database without tables.
    Empty,
    Database(Header),
    Other,
}

/// A database's header (<https://sqlite.org/fileformat2.html#the_database_header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) page_size: u32,
    pub(super) is_write_ahead_log: bool,
    pub(super) change_counter: u32,
    /// The size in pages, if the last writer kept it up to date.
    pub(super) pages: Option<u32>,
}

/// Reads the header of the file at this path.
pub(super) fn content(database: &Path) -> io::Result<Content> {
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
            // Valid only for the change counter stored beside it.
            pages: Some(number(28)).filter(|_| number(92) == change_counter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_sqlite_would_read_it() {
        let mut header = [0; 100];
        header[..16].copy_from_slice(b"SQLite format 3\0");
        header[17] = 1;
        (header[18], header[19]) = (1, 1);
        (header[27], header[31], header[95]) = (7, 3, 7);
        let expected = Header {
            page_size: 65_536,
            is_write_ahead_log: false,
            change_counter: 7,
            pages: Some(3),
        };
        assert_eq!(Content::of(&header), Content::Database(expected));
        header[95] = 6;
        header[18] = 2;
        let expected = Header {
            is_write_ahead_log: true,
            pages: None,
            ..expected
        };
        assert_eq!(Content::of(&header), Content::Database(expected));
        assert_eq!(Content::of(b""), Content::Empty);
        assert_eq!(Content::of(&header[..99]), Content::Other);
        assert_eq!(Content::of(&[b'x'; 100]), Content::Other);
    }
}
