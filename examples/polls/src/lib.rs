//! Polls: pages, an admin portal and a JSON API on one SQLite file that many Lambda functions write.
//!
//! An example to copy from. Read in this order:
//!
//! 1. `main.rs`: what happens once, in the initialisation phase, and which of two servers is run.
//! 2. [`Settings`]: what the environment says.
//! 3. [`app`]: the routes and what surrounds all of them.
//! 4. `invocation.rs`: how long a request has, and from where it comes.
//! 5. `db.rs`: the pool, and blocking work off the async threads, with that time as its limit.
//! 6. `polls.rs`: the statements, on the tables in `schema.rs`; `failure.rs`: what a refused lock is in HTTP.
//! 7. `api.rs`, `pages.rs`, `admin/`: the handlers; `page.rs`, `refusal.rs`: what all pages have in common.
//! 8. `session.rs`, `accounts.rs`, `attempts.rs`, `headers.rs`: who somebody is, and what a browser may do.
//! 9. `lock_log.rs`: what the portal shows of the lock.

mod accounts;
mod admin;
mod api;
mod app;
mod assets;
mod attempts;
mod db;
mod failure;
mod form;
mod headers;
mod invocation;
mod lock_log;
mod page;
mod pages;
mod polls;
mod refusal;
mod samples;
mod schema;
mod session;
mod settings;

pub use accounts::hash_password;
pub use app::{App, StartError, app};
pub use lock_log::LockLog;
pub use settings::{Settings, SettingsError};
