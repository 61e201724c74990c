//! The settings whose values are keywords.

use super::sources::Keyword;

/// How reads are protected where file locks do not exclude a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadCheck {
    /// `off`: SQLite's file locks alone.
    Off,
    /// `counter`: after each page, the database's [change
    /// counter](https://sqlite.org/fileformat2.html#file_change_counter) must still be the one seen
    /// at the start of the transaction, and no commit may be in progress; otherwise the read fails
    /// with a retryable error. SQLite writes the counter's page before any other, so no
    /// half-written commit is returned. The counter and the journal's name may come from this
    /// host's cache: use this for file systems whose locks revalidate it, as those of NFS do.
    Counter,
    /// `reopen`: the same, bypassing this host's cache. Under SHARED, pages and the counter are
    /// read from the server (direct I/O), the file's size is requested at the start of the
    /// transaction, and the directory is opened before each look for the journal. For file systems
    /// whose locks do not revalidate caches, such as FUSE.
    Reopen,
}

impl Keyword for ReadCheck {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("counter", Self::Counter),
        ("reopen", Self::Reopen),
    ];
}

/// When SQLite syncs: [`PRAGMA synchronous`](https://sqlite.org/pragma.html#pragma_synchronous).
///
/// There is no `Off`: a commit would be recorded in the lock table, and acknowledged, although its
/// pages may never reach the disk.
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
