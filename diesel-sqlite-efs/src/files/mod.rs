//! The files beside a database, and how the crate uses them directly: the rollback journal, the
//! file that names the lock, the caches of a network file system.

pub(crate) mod cache_bypass;
mod calls;
pub(crate) mod file_version;
pub(crate) mod fs_kind;
pub(crate) mod inspect;
pub(crate) mod lock_identity;
pub(crate) mod rollback_journal;
