//! The write lock of one connection: whether a lock level may be taken, a write may proceed, a
//! journal may end.
//!
//! Safe code without SQLite. The VFS asks, in the order in which SQLite acts:
//! [`try_reserve`](WriteLock::try_reserve) for RESERVED (or wait in
//! [`wait`](WriteLock::wait)), [`validate_snapshot`](WriteLock::validate_snapshot),
//! [`fence`](WriteLock::fence) for each write, [`end_journal`](WriteLock::end_journal) at the commit
//! point, [`unlocked`](WriteLock::unlocked) at the end. What is known is in `state.rs`, in states
//! and transitions without I/O; no request and no file operation is made with its mutex held.

mod busy_handler;
mod commit;
mod lock;
mod lock_identity;
mod notices;
mod pin;
#[cfg(test)]
mod properties;
mod recovery;
#[cfg(test)]
mod reference;
mod reserve;
mod state;
#[cfg(test)]
mod tests;
mod transaction;

pub(crate) use self::commit::EndOfJournal;
pub(crate) use self::lock::{Busy, Refused, WriteLock, WriteLockSettings};
pub(crate) use self::state::Purpose;
pub(crate) use self::state::{PinId, Waited};
pub(crate) use self::transaction::RolledBackBy;
