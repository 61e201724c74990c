//! What the crate promises, tested from outside: one binary, a module for each promise.
//!
//! # Fixtures
//!
//! Take the first that can show what you want to show.
//!
//! | fixture | what it is | for |
//! |---|---|---|
//! | [`HostsFixture`](fixtures::hosts::HostsFixture) | a database and a lock table in memory; each `host()` is a host of its own in this process. The store records requests, and lets a fault happen before a named one | transactions, statements, pools: decisions of one connection, or of two by turns; milliseconds |
//! | [`WorkersFixture`](fixtures::workers::WorkersFixture) | a database and a lock table in the DynamoDB emulator; `open(..)` starts a process of the program `worker`, which obeys one command a line; `open_behind(&proxy, ..)` puts a `Proxy` with faults before it | crashes, freezes, lost answers, what other processes see |
//! | [`BareFixture`](fixtures::bare_process::BareFixture) | a database, a lock table behind a proxy, and a `BareProcess`: one that sees the given environment and nothing else, and shows errors with all their parts | credentials, permissions, mounts, environment variables |
//! | `RecordedFixture` in `every_point` | a database below a recording VFS, a lock table and a clock in memory; stops, fails or cuts off at any operation | what has to hold at every point |
//! | `ClocksFixture` in `clocks` | lock clients in memory whose clocks the test moves | clocks |
//! | `ClientFixture` in `protocol` | lock clients without a database, behind a proxy | requests and answers |
//! | `NfsFixture` in `nfs` | a database on the rig's NFS mount | real NFS, by hand |
//!
//! What other packages need as well is the library `integration` (`tests/src`): `Emulator`, `Proxy`,
//! `LockTable`, `Worker`, `Scratch`, a recording VFS, a Lambda runtime, `wait_until`, and the options
//! of a test run. `harness` tests it. The crate's feature `testing` has `HookedStore`.
//!
//! # Modules
//!
//! | promise | modules |
//! |---|---|
//! | the connection is Diesel's: traits, statements, transactions, pools, async | `diesel_traits` `statements` `transactions` `retrying` `deadlines` `pools` `async_runtimes` `migrations` |
//! | nothing is lost or torn, whatever dies, stops or fails | `every_point` `recovery` `kills` `answers` `processes` `two_mounts` `nfs` |
//! | one holder at a time, and a free lock is found | `protocol` `clocks` `hand_off` `lock_keys` |
//! | it shares files with the Python package, without its defects | `python_package` `seed_defects` |
//! | what is wrong is said, with a remedy | `settings` `files` `surroundings` `command_line` |
//! | a store of one's own can be used; the crate's modules are layers; its types can be shared as promised | `custom_stores` `layers` `surface` |
//! | what it costs, and what it tells | `counts` `observability` `events` |
//!
//! # To add a test
//!
//! Put it into the module of its promise, under a name that says what it proves. Begin with
//! `let fixture = HostsFixture::with_table();` or `WorkersFixture::new("name-of-the-table")`, whose
//! name no other test has, and end with `assert_nothing_left()` or `assert_whole()`. Do not sleep:
//! `wait_until(LONG, "what is awaited", ..)`. Inject a fault at a named point (`store.before(..)`,
//! `proxy.rule(..)`, `recorder.plan(..)`), and assert that the point was reached. Where many cases are
//! worth trying, try a few, and all of them where `options::is_long()`. Run it with
//! `cargo test --workspace --test suite -- MODULE::`.

mod answers;
mod async_runtimes;
mod clocks;
mod command_line;
mod counts;
mod custom_stores;
mod deadlines;
mod diesel_traits;
mod events;
mod every_point;
mod files;
mod fixtures;
mod hand_off;
mod harness;
mod kills;
mod layers;
mod lock_keys;
mod migrations;
mod nfs;
mod observability;
mod pools;
mod processes;
mod protocol;
mod python_package;
mod recovery;
mod retrying;
mod seed_defects;
mod settings;
mod silence;
mod statements;
mod surface;
mod surroundings;
mod transactions;
mod two_mounts;
