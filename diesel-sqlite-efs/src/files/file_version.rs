//! The state of the database in a file: its version, bytes 24..40 of page 1, and its format.

/// The change counter and the header fields after it, by which SQLite itself decides whether its
/// page cache is current (<https://sqlite.org/fileformat2.html#file_change_counter>). An empty file
/// has the version zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FileVersion(pub(crate) [u8; 16]);

/// The state of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    /// It has no bytes at all. SQLite deletes a journal beside such a file without a rollback.
    Empty,
    Version(FileVersion),
}

impl FileVersion {
    /// Its offset in the file.
    pub(crate) const OFFSET: usize = 24;
    const END: usize = Self::OFFSET + 16;

    /// The version in `data`, which was read from the file at `offset`, if it is contained.
    pub(crate) fn within(data: &[u8], offset: i64) -> Option<Self> {
        let offset = usize::try_from(offset)
            .ok()
            .filter(|o| *o <= Self::OFFSET)?;
        let version = data.get(Self::OFFSET - offset..Self::END - offset)?;
        version.try_into().ok().map(Self)
    }

    /// The same if nothing else was read: SQLite's own check of the version after SHARED.
    pub(crate) fn alone(data: &[u8], offset: i64) -> Option<Self> {
        (data.len() == Self::END - Self::OFFSET)
            .then(|| Self::within(data, offset))
            .flatten()
    }
}

/// What kind of file the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFormat {
    RollbackJournal,
    WriteAheadLog,
    Other,
}

impl FileFormat {
    /// From the beginning of the file; `None` if it is empty, or too little was read.
    pub(crate) fn of_header(header: &[u8]) -> Option<Self> {
        /// <https://sqlite.org/fileformat2.html#the_database_header>
        const MAGIC: &[u8] = b"SQLite format 3\0";
        if header.len() < 20 || header.iter().all(|byte| *byte == 0) {
            return None;
        }
        Some(match (header.starts_with(MAGIC), &header[18..20]) {
            (false, _) => Self::Other,
            (true, [2, _] | [_, 2]) => Self::WriteAheadLog,
            (true, _) => Self::RollbackJournal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_distant_reads_do_not_hold_the_version() {
        assert_eq!(FileVersion::within(&[0; 39], 0), None);
        assert_eq!(FileVersion::within(&[0; 100], 25), None);
        assert_eq!(FileVersion::within(&[0; 100], -1), None);
        assert_eq!(
            FileVersion::within(&[3; 16], 24),
            Some(FileVersion([3; 16]))
        );
        let alone = FileVersion::alone(&[3; 16], 24);
        assert_eq!(alone, Some(FileVersion([3; 16])));
        assert_eq!(FileVersion::alone(&[3; 16], 25), None);
        assert_eq!(FileVersion::alone(&[3; 100], 0), None);
    }
}
