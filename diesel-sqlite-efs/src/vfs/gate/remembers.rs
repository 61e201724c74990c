//! Whether a gate remembers anything that a statement has to look at: what only reads, and what goes on
//! writing, finds out without the mutex that there is nothing.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{State, Tenure};

/// What there is in [`State`]; it may claim too much, but never too little.
///
/// Relaxed, since a gate is used by one thread at a time, the one that has its connection.
#[derive(Debug, Default)]
pub(super) struct Remembers(AtomicU8);

const NOTHING: u8 = 0;
/// The lease of the transaction under way.
const LEASE: u8 = 1;
const MORE: u8 = 2;

impl Remembers {
    /// No lease, and nothing to tell.
    #[inline]
    pub(super) fn nothing(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NOTHING
    }

    /// Perhaps more than the lease of the transaction under way.
    #[inline]
    pub(super) fn more(&self) -> bool {
        self.0.load(Ordering::Relaxed) == MORE
    }

    pub(super) fn set_more(&self) {
        self.0.store(MORE, Ordering::Relaxed);
    }

    /// With the state's mutex held.
    pub(super) fn set(&self, state: &State) {
        self.0.store(of(state), Ordering::Relaxed);
    }
}

/// All that is looked at by who asks here first.
fn of(state: &State) -> u8 {
    let is_told = state.error.is_some()
        || state.not_released.is_some()
        || state.waited.is_some()
        || state.forbidden.is_some()
        || state.block.is_some()
        || state.poll.is_some()
        || state.until.is_some()
        || state.transaction.rolled_back_by().is_some()
        || state.cache_is_suspect;
    match &state.hold {
        _ if is_told => MORE,
        None => NOTHING,
        Some(hold) if hold.tenure == Tenure::Transaction => LEASE,
        Some(_) => MORE,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FIRST_WRITE, OLD, World};
    use super::super::*;

    #[test]
    fn a_gate_that_has_only_been_read_through_remembers_nothing() {
        let gate = World::new().gate();
        assert!(gate.remembers.nothing());
        gate.saw_header(&[1; 100]);
        gate.begin_prepared();
        gate.set_in_transaction(true);
        assert!(gate.remembers.more(), "until somebody looks");
        gate.statement_begins();
        assert!(gate.remembers.nothing());
        assert!(
            !gate.take_cache_is_suspect() && gate.rolled_back_by().is_none() && !gate.is_writing()
        );
        gate.unlocked();
        gate.statement_ended();
        assert!(gate.remembers.nothing(), "a read takes no mutex");
    }

    #[test]
    fn in_a_write_the_lease_alone_is_remembered_and_given_back_at_its_end() {
        let world = World::new();
        let gate = world.gate();
        gate.claim(FIRST_WRITE).unwrap();
        gate.admit(OLD, FileState::Version(OLD), FIRST_WRITE)
            .unwrap();
        gate.statement_ended();
        gate.statement_begins();
        gate.fence().unwrap();
        assert!(!gate.remembers.nothing() && !gate.remembers.more());
        assert!(gate.is_writing());
        gate.unlocked();
        assert!(!gate.is_writing());
        assert!(gate.look().hold.is_none());
    }

    #[test]
    fn what_is_to_be_told_outlasts_the_beginning_of_the_next_statement() {
        let told = |change: fn(&mut State), ask: fn(&Gate) -> bool| {
            let gate = World::new().gate();
            change(&mut gate.state());
            gate.statement_begins();
            assert!(ask(&gate));
            assert!(!ask(&gate), "once");
            gate.statement_begins();
            assert!(gate.remembers.nothing());
        };
        told(
            |state| state.cache_is_suspect = true,
            Gate::take_cache_is_suspect,
        );
        told(
            |state| state.has_waited(Instant::now(), false),
            |gate| gate.take_waited().is_some(),
        );
        told(
            |state| {
                state.not_released = Some(LockError::Aborted {
                    cause: String::new(),
                    retryable: false,
                });
            },
            |gate| gate.take_not_released().is_some(),
        );
    }

    #[test]
    fn a_transaction_that_was_rolled_back_is_remembered_until_it_is_closed() {
        let gate = World::new().gate();
        gate.set_in_transaction(true);
        gate.rolled_back();
        for _ in 0..2 {
            gate.statement_begins();
            assert_eq!(gate.rolled_back_by(), Some(RolledBackBy::Sqlite));
        }
        gate.set_in_transaction(false);
        gate.statement_begins();
        assert!(gate.remembers.nothing());
    }
}
