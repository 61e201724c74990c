//! Diesel connections to a SQLite database on a network file system that many hosts write to.
//!
//! [`EfsSqliteConnection`] stands where Diesel's `SqliteConnection` would. A transaction that writes
//! holds a lease meanwhile, granted by an item in a DynamoDB table, so that one transaction writes at
//! a time, on however many hosts; one that only reads sends no request. Whoever is frozen or cut off
//! past the end of its lease can neither acknowledge nor undo anything any more.
//!
//! ```no_run
//! use diesel::prelude::*;
//! use diesel_sqlite_efs::EfsSqliteConnection;
//!
//! diesel::table! { visits (id) { id -> Integer, page -> Text, } }
//!
//! let mut conn = EfsSqliteConnection::establish("/mnt/efs/app.db?lock_table=app-locks")?;
//! diesel::insert_into(visits::table).values(visits::page.eq("home")).execute(&mut conn)?;
//! // Reads first, then writes: takes the lock before it begins.
//! conn.immediate_transaction(|conn| {
//!     let count: i64 = visits::table.count().get_result(conn)?;
//!     diesel::insert_into(visits::table)
//!         .values(visits::page.eq(format!("visit {count}")))
//!         .execute(conn)
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to read on
//! - [`EfsConfig`]: all settings, their URL parameters, environment variables and defaults.
//! - [`EfsSqliteConnection`]: transactions, errors, threads and runtimes.
//! - [`LockError`]: what can go wrong, and whether trying again is safe.
//! - [`LockItem`] and [`DynamoDbLockStore`]: the table, the permissions, how requests are made,
//!   [an AWS configuration of your own](DynamoDbLockStoreBuilder).
//! - [`LockStore`]: how to keep the lock elsewhere than in DynamoDB.
//! - [`DynamoDbLockClient`]: the lock alone, for other work that only one process may do at a time.
//! - [`InMemoryLockStore`]: for the tests of applications.
//! - The README: guarantees and the windows that remain, limits, and how to set up the table.
//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `bundled` | yes | SQLite compiled in; without it the system's is linked, 3.34.1 or newer |
//! | `cli` | no | the program `efs-sqlite`: examines a database and its lock, runs migrations |
//! | `migrations` | no | `EfsSqliteConnection::run_migrations` and its kin, each call under one lease |
//! | `r2d2` | no | connection pools: `EfsConnectionManager`, and Diesel's `ConnectionManager` |
//! | `tracing` | no | events and spans of the lock and of migrations, under `diesel_sqlite_efs::lock` and `::migration` |
//!
//! # Follow one write
//! Each file is met once, in this order, and back again:
//!
//! 1. `connection.rs`: Diesel calls `execute_returning_count`, which hands the statement to Diesel's
//!    own connection and translates what the lock made of it.
//! 2. `transaction.rs`: begin, commit and rollback, and what SQLite ended by itself.
//! 3. `vfs/ffi.rs`: SQLite asks its VFS for a lock level, a write, a deletion.
//! 4. `vfs/gate.rs`, `vfs/gate/`: may it? The decisions, without pointers.
//! 5. `client.rs`: a lease for the gate, kept renewed.
//! 6. `lease/`: acquire, hold, confirm, release.
//! 7. `store/`: each as one conditional `PutItem` or `DeleteItem`.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod client;
mod clock;
mod config;
mod connection;
mod error;
mod events;
mod lease;
#[cfg(feature = "migrations")]
mod migrations;
#[cfg(feature = "r2d2")]
mod pool;
mod retry;
mod stats;
mod store;
mod transaction;
mod vfs;

pub use client::DynamoDbLockClient;
pub use clock::{Clock, ManualClock, Timestamp};
pub use config::{EfsConfig, ReadCheck, Synchronous};
pub use connection::{EfsCursor, EfsSqliteConnection};
pub use error::{
    ConfigError, ConnectError, HolderInfo, LockError, LockName, SharedError, StoreError,
};
pub use lease::Lease;
#[cfg(feature = "r2d2")]
pub use pool::EfsConnectionManager;
pub use stats::{LockStats, process_lock_stats};
pub use store::{
    DeleteAnswer, DynamoDbLockStore, DynamoDbLockStoreBuilder, InMemoryLockStore, JournalId,
    LockItem, LockStore, PutAnswer, PutCondition, StoredItem,
};
pub use transaction::{EfsTransactionManager, TransactionState};

// The README's examples are compiled and run with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
