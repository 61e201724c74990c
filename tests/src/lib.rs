//! The harness of the integration tests: a DynamoDB emulator, a proxy that injects faults, worker
//! processes, scratch directories, the Python package with the same lock.
//!
//! Where the fault is in the file system, [`recording`] stands below the crate's VFS; where a test
//! needs no DynamoDB, [`HookedStore`](diesel_sqlite_efs::testing::HookedStore) is a lock table in
//! memory behind a hook. What runs as a
//! Lambda function gets its events from a [`lambda::Environment`].
//! What a person may ask of a test run is in [`options`].
//!
//! A test starts (or shares) an [`Emulator`](emulator::Emulator), puts a
//! [`Proxy`](proxy::Proxy) in front of it where it counts requests or injects faults, looks at the
//! table from outside through a [`LockTable`](dynamodb::LockTable), and runs what it tests in this
//! process or in [`Worker`](process::Worker)s.

pub mod build;
pub mod clock;
pub mod dynamodb;
pub mod emulator;
pub mod http;
pub mod lambda;
pub mod options;
#[cfg(doctest)]
mod pages;
pub mod process;
pub mod proxy;
pub mod python;
pub mod recording;
pub mod scratch;
mod target;
