//! Diesel connections to a SQLite database on a network file system.

mod client;
mod clock;
mod config;
mod connection;
mod error;
mod events;
mod lease;
#[cfg(feature = "migrations")]
mod migrations;
mod stats;
mod store;
mod transaction;
mod url;
mod vfs;

pub use client::DynamoDbLockClient;
pub use clock::{Clock, Moment};
pub use config::{CommitMode, EfsConfig, ReadCheck, ReleaseMode, Synchronous};
pub use connection::{EfsCursor, EfsSqliteConnection};
pub use error::{ConfigError, ConnectError, HolderInfo, LockError, LockName, StoreError};
pub use lease::Lease;
pub use stats::LockStats;
pub use store::{
    DeleteAnswer, DynamoDbLockStore, InMemoryLockStore, JournalId, LockItem, LockStore, PutAnswer,
    PutCondition, SeenItem,
};
pub use transaction::{EfsTransactionManager, TransactionState};
