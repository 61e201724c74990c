//! For this repository's own tests only: **unstable**, may change in any release.
//!
//! [`HookedStore`] is a lock table that sees each request. The rest is the policy that decides when
//! waiters ask for the lease, which `tests/fairness` simulates.

mod hooked_store;

pub use self::hooked_store::{Delete, Hook, HookedStore, Put};
pub use crate::lease::backoff::Backoff;
pub use crate::lease::wait_policy::{RecentWait, Refusal, Tuning, WaitPolicy};
