//! Handing a lease on inside this process: the next in line gets it, and nothing is asked.

use std::time::Duration;

use super::{AtRelease, Held, Lease, State, queue};

/// For how long leases go round in this process before others may have theirs.
///
/// Long against the two round trips at either end, which are all that handing on saves; short
/// against the 3 s that a writer waits by default, where several processes do the same.
const LONGEST_ROUND: Duration = Duration::from_millis(100);

/// Who has a turn may leave the lease to the next in line, without the turn.
pub(crate) type Queue = queue::Queue<Lease>;
pub(crate) type Turn = queue::Turn<Lease>;

impl Lease {
    /// Gives the lease to the next in this process's line. It comes back if nobody waits there, or
    /// if it has to go back to the store.
    ///
    /// The store is not told: `lock_id` and commit record stay, and who gets it goes on as a
    /// second transaction under one lease does.
    pub(crate) fn hand_on(mut self) -> Result<(), Self> {
        let stays = self.held.may_stay();
        let Some(turn) = self.turn.take_if(|_| stays) else {
            return Err(self);
        };
        turn.pass_on(self).map_err(|(turn, lease)| lease.with(turn))
    }

    pub(super) fn with(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }
}

impl Held {
    /// Whether the lease may go on in this process: it is good, nothing of its last transaction is
    /// left to be settled, and others need not wait for too long.
    pub(super) fn may_stay(&self) -> bool {
        let mut state = self.state();
        !state.released
            && state.at_release == AtRelease::Remove
            && self.desk.clock.now().elapsed_since(self.granted) < LONGEST_ROUND
            && self.check(&mut state).is_ok()
    }

    /// Ends the lease for this holder: it goes on with the next, in the state returned.
    pub(super) fn end_here(&self) -> State {
        // A renewal under way changes it.
        let _one_at_a_time = self.one_request();
        let mut state = self.state();
        let handed_on = state.clone();
        state.released = true;
        let time = self.desk.clock.now().elapsed_since(self.begun);
        self.desk.counters.count(|stats| stats.held += time);
        (self.span).in_scope(|| self.desk.speaker().handed_on(time));
        handed_on
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::store::{InMemoryLockStore, JournalId};
    use crate::{DynamoDbLockClient, LockError};

    const KEY: &str = "database#test";
    const LONG: Duration = Duration::from_secs(60);

    struct Process {
        store: Arc<InMemoryLockStore>,
        clock: ManualClock,
    }

    impl Process {
        fn new() -> Self {
            let clock = ManualClock::standing_still();
            Self {
                store: Arc::new(InMemoryLockStore::with_clock(clock.clock())),
                clock,
            }
        }

        fn client(&self) -> DynamoDbLockClient {
            DynamoDbLockClient::with_store(self.store.clone()).clock(self.clock.clock())
        }
    }

    /// Another connection asks for the lease, and stands in line for it when this returns.
    fn next_in_line(
        lease: &Lease,
        client: &DynamoDbLockClient,
    ) -> JoinHandle<Result<Lease, LockError>> {
        let line = lease.held.desk.shared.queue(KEY);
        let client = client.clone();
        let thread = thread::spawn(move || client.acquire(KEY, LONG));
        while line.waiting() == 0 {
            thread::yield_now();
        }
        thread
    }

    #[test]
    fn the_next_in_line_gets_the_lease_without_a_request() {
        let process = Process::new();
        let (first, second) = (process.client(), process.client());
        let lease = first.try_acquire(KEY).unwrap().expect("it is free");
        let lock_id = lease.lock_id().to_owned();
        let next = next_in_line(&lease, &second);
        lease.hand_on().expect("somebody waits");
        let lease = next.join().unwrap().unwrap();
        assert_eq!(lease.lock_id(), lock_id);
        assert_eq!(process.store.item(KEY).unwrap().lock_id, lock_id);
        lease.release().unwrap();
        assert_eq!(process.store.item(KEY), None);
        let (first, second) = (first.stats(), second.stats());
        assert_eq!((first.acquisitions, first.requests), (1, 1), "one put");
        assert_eq!((second.acquisitions, second.handovers), (1, 1));
        assert_eq!((second.attempts, second.requests), (0, 1), "one delete");
    }

    #[test]
    fn the_record_goes_with_it() {
        let process = Process::new();
        let (first, second) = (process.client(), process.client());
        let lease = first.try_acquire(KEY).unwrap().expect("it is free");
        let records = [JournalId([1; 4]), JournalId([2; 4])];
        lease.confirm(Some(records[0])).unwrap();
        lease.record_settled();
        let next = next_in_line(&lease, &second);
        lease.hand_on().expect("somebody waits");
        let lease = next.join().unwrap().unwrap();
        assert_eq!(lease.recorded(), Some(records[0]));
        lease.confirm(Some(records[1])).unwrap();
        let committed = process.store.item(KEY).unwrap().committed;
        assert_eq!(committed, Some(records[1]));
    }

    #[test]
    fn what_may_not_stay_in_the_process_goes_back_to_the_store() {
        let process = Process::new();
        let client = process.client();
        let goes_back = |because: &str, prepare: &dyn Fn(&Lease)| {
            let lease = client.acquire(KEY, LONG).unwrap();
            let lock_id = lease.lock_id().to_owned();
            prepare(&lease);
            let next = next_in_line(&lease, &client);
            drop(lease.hand_on().expect_err(because));
            if let Some(mut item) = process.store.item(KEY) {
                // Left for its record, or lost: its end comes.
                item.expires_at = "1".to_owned();
                item.committed = None;
                process.store.set_item(KEY, Some(item));
            }
            let lease = next.join().unwrap().unwrap();
            assert_ne!(lease.lock_id(), lock_id, "{because}");
        };
        goes_back("its round is over", &|_| {
            process.clock.advance(LONGEST_ROUND)
        });
        goes_back("it is lost", &|lease| lease.forfeit("for a test"));
        goes_back("its journal may still stand", &|lease| {
            lease.confirm(Some(JournalId([7; 4]))).unwrap();
        });
        assert_eq!(client.stats().handovers, 0);
    }

    #[test]
    fn a_connection_with_another_clock_asks_the_store() {
        let process = Process::new();
        let (first, second) = (process.client(), process.client().clock(Clock::system()));
        let lease = first.try_acquire(KEY).unwrap().expect("it is free");
        let lock_id = lease.lock_id().to_owned();
        let next = next_in_line(&lease, &second);
        lease.hand_on().expect("somebody waits");
        let lease = next.join().unwrap().unwrap();
        assert_ne!(lease.lock_id(), lock_id);
        assert_eq!(second.stats().handovers, 0);
    }
}
