//! The values of the settings that have words for them.

use super::sources::Keyword;

/// What makes a commit final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitMode {
    /// `confirmed`: one more conditional write to the lock table, just before the journal is
    /// deleted. What is acknowledged is then true even if this machine was frozen past its lease
    /// with its clocks standing still.
    Confirmed,
    /// `clock`: the lease must not have ended by this machine's clocks. Saves one request for each
    /// transaction, and is wrong if the clocks stood still.
    Clock,
}

impl Keyword for CommitMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("confirmed", Self::Confirmed), ("clock", Self::Clock)];
}

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

/// When the lock is released after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseMode {
    /// `wait`: before the commit returns, so that a process that is frozen right afterwards, as on
    /// Lambda, blocks nobody.
    Wait,
    /// `background`: the commit returns at once, and the release is sent by another thread. Nothing
    /// is lost by it; but a process that is frozen or ends before it is sent blocks others until
    /// the lease has run out. On Lambda, call [`finish_releases`](crate::finish_releases) before
    /// the handler returns.
    ///
    /// Where a connection writes again within 5 ms of its last write, the lease stays with this
    /// process for so long after the next ones: up to three transactions in a row share it and save
    /// the requests and the wait for it.
    Background,
}

impl Keyword for ReleaseMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("wait", Self::Wait), ("background", Self::Background)];
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
