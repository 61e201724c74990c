//! A lock table in memory behind a hook.
//!
//! The crate's own tests have it, and cannot depend on this package: it would bring them another
//! instance of the crate, with other types. So the file is theirs, and included here.

#[path = "../../diesel-sqlite-efs/src/store/hooked.rs"]
mod hooked;

use diesel_sqlite_efs::{
    DeleteAnswer, InMemoryLockStore, LockItem, LockStore, PutAnswer, PutCondition, StoreError,
};

pub use self::hooked::{Delete, Hook, HookedStore, Put};
