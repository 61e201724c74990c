//! Which state of the database a transaction reads.

use crate::files::file_version::FileVersion;
use crate::files::rollback_journal::JournalStatus;

/// What a main database file's transactions have seen of it so far.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    seen: Option<FileVersion>,
    /// SQLite must believe at the next opportunity that its page cache is out of date.
    spoil_next: bool,
}

impl Snapshot {
    /// SHARED was taken: whatever is read next is this transaction's state.
    pub(super) fn begin(&mut self) {
        self.seen = None;
    }

    /// SHARED was taken, and this version was read from the server.
    pub(super) fn begin_at(&mut self, version: FileVersion) {
        self.seen = Some(version);
    }

    /// Whether what this transaction has read so far is a state that was committed: `current` and
    /// `journal` were looked at after the read.
    ///
    /// A commit writes page 1 with the new version before all others, and its journal exists until
    /// the last page is written; that of a rollback exists until all pages are restored. So the
    /// transaction's first look at the version needs this check, too: it may be the version of a
    /// commit in progress, which is over when the next page is checked.
    pub(super) fn still_stands(&self, current: FileVersion, journal: JournalStatus) -> bool {
        self.seen == Some(current) && !matches!(journal, JournalStatus::Hot(_))
    }

    /// SQLite's page cache may contain uncommitted pages.
    pub(super) fn invalidate_page_cache(&mut self) {
        self.spoil_next = true;
    }

    /// SQLite has read `data`; may change the file's version in it.
    ///
    /// After SHARED SQLite reads exactly these 16 bytes and drops its cache if they differ from
    /// those of its cached page 1. They have no other use, so changing them does just that.
    pub(super) fn observe(&mut self, data: &mut [u8], offset: i64) {
        let Some(version) = FileVersion::within(data, offset) else {
            return;
        };
        self.seen.get_or_insert(version);
        let is_cache_check = data.len() == 16;
        if is_cache_check && std::mem::take(&mut self.spoil_next) {
            for byte in data {
                *byte = !*byte;
            }
        }
    }

    /// SQLite has written `data`: a transaction may continue from its own state.
    pub(super) fn wrote(&mut self, data: &[u8], offset: i64) {
        if let Some(version) = FileVersion::within(data, offset) {
            self.seen = Some(version);
        }
    }

    /// The version this transaction reads; zero if the file was empty.
    pub(super) fn version(&self) -> FileVersion {
        self.seen.unwrap_or_default()
    }

    /// Whether this transaction has read the version at all.
    pub(super) fn is_known(&self) -> bool {
        self.seen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::JournalId;

    fn page(version: u8) -> [u8; 100] {
        let mut page = [1; 100];
        page[24..40].fill(version);
        page
    }

    #[test]
    fn the_first_version_read_is_the_snapshot() {
        let mut snapshot = Snapshot::default();
        snapshot.begin();
        assert!(!snapshot.is_known());
        snapshot.observe(&mut page(7), 0);
        snapshot.observe(&mut page(8), 0);
        snapshot.observe(&mut [9; 16], 4096);
        assert_eq!(snapshot.version(), FileVersion([7; 16]));
        snapshot.begin();
        assert_eq!(snapshot.version(), FileVersion([0; 16]));
    }

    #[test]
    fn a_suspect_cache_is_dropped_by_changing_only_the_cache_check() {
        let mut snapshot = Snapshot::default();
        snapshot.invalidate_page_cache();
        snapshot.begin();
        let mut first = page(7);
        snapshot.observe(&mut first, 0);
        assert_eq!(first, page(7), "page 1 itself is never changed");
        let mut check = [7; 16];
        snapshot.observe(&mut check, 24);
        assert_ne!(check, [7; 16]);
        assert_eq!(snapshot.version(), FileVersion([7; 16]));
        let mut next = [7; 16];
        snapshot.observe(&mut next, 24);
        assert_eq!(next, [7; 16], "once");
    }

    #[test]
    fn a_read_stands_while_the_version_does_and_no_commit_is_in_progress() {
        let (ours, newer) = (FileVersion([7; 16]), FileVersion([8; 16]));
        let hot = JournalStatus::Hot(JournalId([1; 4]));
        let mut snapshot = Snapshot::default();
        assert!(!snapshot.still_stands(FileVersion::default(), JournalStatus::Absent));
        snapshot.begin_at(ours);
        snapshot.observe(&mut page(8), 0);
        assert_eq!(snapshot.version(), ours, "what was read afresh counts");
        for (current, journal, stands) in [
            (ours, JournalStatus::Absent, true),
            (ours, JournalStatus::Cold, true),
            (ours, hot, false),
            (newer, JournalStatus::Absent, false),
            (newer, hot, false),
        ] {
            assert_eq!(snapshot.still_stands(current, journal), stands);
        }
    }
}
