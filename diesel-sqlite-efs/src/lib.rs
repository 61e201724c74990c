//! Diesel connections to a SQLite database on a network file system that many hosts write to.
//!
//! [`EfsSqliteConnection`] is a drop-in replacement for Diesel's `SqliteConnection`. While a
//! transaction writes it holds a lease, granted by an item in a DynamoDB table, so that only one
//! transaction writes at a time, on any number of hosts. Transactions that only read send no
//! request. A process that is frozen or cut off past the end of its lease can no longer acknowledge
//! or undo anything.
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
//! - [`LockClient`]: the lock alone, for other work that only one process may do at a time.
//! - [`InMemoryLockStore`]: for the tests of applications.
//! - [`admin`]: for tools that examine a database and its lock. The program `efs-sqlite`, a package of
//!   its own, is one.
//! - The README: guarantees and the windows that remain, limits, and how to set up the table.
//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `bundled` | yes | SQLite compiled in; without it the system's is linked, 3.34.1 or newer |
//! | `migrations` | no | `EfsSqliteConnection::run_migrations` and `revert_migrations`, each call under one lease |
//! | `r2d2` | no | connection pools: `EfsConnectionManager`, and Diesel's `ConnectionManager` |
//! | `testing` | no | for this repository's own tests: unstable |
//! | `tracing` | no | events and spans of the lock and of migrations, under `diesel_sqlite_efs::lock` and `::migration` |
//!
//! # Follow one write
//! A write passes these files in this order, and returns the same way:
//!
//! 1. `connection/mod.rs`: Diesel calls `execute_returning_count`, or its transaction manager in
//!    `connection/transaction_manager.rs` to begin, commit or roll back.
//! 2. `connection/state.rs` passes the statement to Diesel's own connection, and replaces SQLite's
//!    error by the lock's.
//! 3. `vfs/ffi/`: SQLite asks its VFS for a lock level, a write, a deletion.
//! 4. `vfs/main_file.rs`, `vfs/journal_file.rs`: what each call does to the file, without pointers.
//! 5. `write_lock/`: the decisions, such as whether the write is allowed.
//! 6. `lease/`: `client.rs`, `acquire.rs` and `requests.rs` get a lease, `lease.rs` confirms and
//!    releases it; `phase.rs` has its life.
//! 7. `store/`: each of these as one conditional `PutItem` or `DeleteItem`.

#![deny(unsafe_code)]

pub mod admin;
mod clock;
mod config;
mod connection;
mod error;
mod files;
mod lease;
mod store;
mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vfs;
mod write_lock;

pub use clock::{Clock, ManualClock, Timestamp};
pub use config::{EfsConfig, ReadCheck, Synchronous};
pub use connection::hold::HeldWriteLock;
#[cfg(feature = "r2d2")]
pub use connection::pool::EfsConnectionManager;
pub use connection::{EfsCursor, EfsSqliteConnection, EfsTransactionManager, TransactionState};
pub use error::{
    ConfigError, ConnectError, HolderInfo, LockError, LockName, Problem, SharedError, StoreError,
};
pub use lease::{Lease, LockClient, LockClientBuilder};
pub use store::{
    DeleteAnswer, DynamoDbLockStore, DynamoDbLockStoreBuilder, InMemoryLockStore, JournalId,
    LockItem, LockStore, PutAnswer, PutCondition, StoredItem,
};
pub use telemetry::stats::{LockStats, process_lock_stats};

// Compiles and runs the README's examples with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

#[cfg(doctest)]
mod misuse;
