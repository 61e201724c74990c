//! The values of the settings that have words for them.

use super::sources::Keyword;

/// How reads are protected where file locks do not keep a writer out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadCheck {
    /// `off`: SQLite's file locks alone.
    Off,
    /// `counter`: after each page, the database's
    /// [change counter](https://sqlite.org/fileformat2.html#file_change_counter) must still be the
    /// one seen at the transaction's start and no commit be in progress; otherwise the read fails
    /// with an error that says to try again. SQLite writes the counter's page before any other, so
    /// no half-written commit is returned. The counter and the journal's name may be answered from
    /// this host's cache: this is for file systems whose locks revalidate it, as those of NFS do.
    Counter,
    /// `reopen`: the same, past this host's cache. Under SHARED, pages and the counter are read
    /// from the server (direct I/O), the file's size is asked for at the transaction's start, and
    /// the directory is opened before each look for the journal. For file systems whose locks do
    /// not revalidate caches, such as FUSE.
    Reopen,
}

impl Keyword for ReadCheck {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("counter", Self::Counter),
        ("reopen", Self::Reopen),
    ];
}

/// How carefully SQLite syncs: [`PRAGMA synchronous`](https://sqlite.org/pragma.html#pragma_synchronous).
///
/// There is no `Off`: the commit that is recorded in the lock table, and acknowledged, would be of
/// pages that may never reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// `extra`: also the directory after the journal's deletion, without which a power failure may
    /// bring the journal back and undo the commit.
    Extra,
    /// `full`: journal and database, not the directory.
    Full,
    /// `normal`: one sync of the journal less; a power failure at the wrong moment may corrupt the
    /// database on older file systems.
    Normal,
}

impl Synchronous {
    /// The value of the PRAGMA.
    pub(crate) fn pragma(self) -> &'static str {
        self.word()
    }
}

impl Keyword for Synchronous {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("extra", Self::Extra),
        ("full", Self::Full),
        ("normal", Self::Normal),
    ];
}

/// The values of `lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreKind {
    DynamoDb,
    Local,
}

impl Keyword for StoreKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("dynamodb", Self::DynamoDb), ("local", Self::Local)];
}
