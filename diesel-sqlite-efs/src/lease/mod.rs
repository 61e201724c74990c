//! The write lease: an item in the store that grants it, from the first request to the release.
//!
//! Each file uses only those above it:
//!
//! | file | job |
//! |---|---|
//! | `server_clock.rs` | what the time is by the store's clock, between two bounds |
//! | `backoff.rs` | pauses where nothing is known of the others who wait |
//! | `wait_policy.rs` | when to ask again, by what the items in the way say of the wait |
//! | `local_queue.rs` | the order of those who wait inside this process |
//! | `phase.rs` | held, lost or released: the state of a lease and its transitions, without I/O |
//! | `requests.rs` | what is put and deleted, and what the answers mean |
//! | `lease.rs` | [`Lease`]: renew, confirm, hand off, release |
//! | `renewer.rs` | the thread that renews leases that are held for long |
//! | `registry.rs` | what all users of one store share in this process |
//! | `acquire.rs` | getting the lease: one attempt, or as many as fit into a timeout |
//! | `client.rs` | [`LockClient`]: the way in |

pub(crate) mod acquire;
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(unreachable_pub, reason = "public in `testing`")
)]
pub(crate) mod backoff;
mod client;
#[expect(
    clippy::module_inception,
    reason = "the file with `Lease`, among those that it is made of"
)]
mod lease;
mod local_queue;
mod phase;
mod registry;
mod renewer;
mod requests;
mod server_clock;
#[cfg(test)]
mod tests;
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(unreachable_pub, reason = "public in `testing`")
)]
pub(crate) mod wait_policy;

pub use self::client::{LockClient, LockClientBuilder};
pub use self::lease::Lease;
pub(crate) use self::lease::{Confirmed, ReleaseOutcome, Unconfirmed};
