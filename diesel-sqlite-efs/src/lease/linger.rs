//! A lease that stays for a moment after its transaction: a connection that writes on goes on with it.
//!
//! For `lock_release=background` alone, whose caller has gone on before the lease is given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hand_on::Queue;
use super::pace::Pace;
use super::{Held, Lease};

/// For how long a lease stays without a transaction.
///
/// Long against what a program does between two writes in a row; short against the two round trips
/// that are saved, since others wait meanwhile.
pub(crate) const LINGER: Duration = Duration::from_millis(5);

/// The most transactions that follow each other under a lease in this way; then others get theirs.
/// Most of what can be saved is saved by then, as `docs/fairness.md` shows.
const MOST_IN_A_ROW: u32 = 3;

/// Whether a connection writes on as soon as it has written: by what it did last time.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    ended: Option<Instant>,
}

impl Habit {
    /// A lease is about to end that was asked for at `wanted`. Whether the next write is to be
    /// expected at once.
    pub(crate) fn writes_on(&mut self, wanted: Instant) -> bool {
        let now = Instant::now();
        let ended = self.ended.replace(now);
        ended.is_some_and(|ended| wanted.saturating_duration_since(ended) < LINGER)
    }
}

impl Lease {
    /// Leaves the lease in the line returned, to whoever in this process wants it next: somebody has
    /// to [collect](Self::collected_from) it if that takes too long. It comes back if it has to go
    /// back to the store.
    pub(crate) fn linger(mut self) -> Result<Arc<Queue>, Self> {
        let stays = self.held.may_linger() && self.held.may_stay();
        let Some(turn) = self.turn.take_if(|_| stays) else {
            return Err(self);
        };
        self.held.linger();
        Ok(turn.leave(self))
    }

    /// The lease that lingers in this line.
    pub(crate) fn collected_from(line: &Arc<Queue>) -> Option<Self> {
        let (turn, lease) = line.try_collect()?;
        Some(lease.with(turn))
    }
}

impl Held {
    /// Whether another transaction is to have the lease, as far as others and the store's word go: who
    /// relies on confirmed commits does so with the last one, too, since a transaction that has failed
    /// may have lost the lease.
    fn may_linger(&self) -> bool {
        let state = self.state();
        state.lingered + 1 < MOST_IN_A_ROW
            && self.waited.unwrap_or_default() < Pace::LONG_WAIT
            && (state.confirmed || !self.desk.terms.confirms_commits)
    }

    fn linger(&self) {
        let mut state = self.state();
        state.lingered += 1;
        state.unasked = true;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock::Clock;
    use crate::store::hooked::{HookedStore, Put};
    use crate::store::{InMemoryLockStore, PutAnswer, SeenItem};
    use crate::{DynamoDbLockClient, LockError};

    const KEY: &str = "database#test";
    const LONG: Duration = Duration::from_secs(60);

    fn store() -> Arc<InMemoryLockStore> {
        Arc::new(InMemoryLockStore::with_clock(Clock::standing_still()))
    }

    /// Of a host that has stood still since its lease began.
    fn client(store: &Arc<InMemoryLockStore>) -> DynamoDbLockClient {
        DynamoDbLockClient::with_store(store.clone()).clock(Clock::standing_still())
    }

    /// Its lease, which is free or was left.
    fn lease_of(client: &DynamoDbLockClient) -> Lease {
        let granted = client.try_acquire(KEY).expect("the store answers");
        granted.expect("nobody else has it")
    }

    /// Somebody has taken the lease over, and has just begun.
    fn take_over(store: &InMemoryLockStore) {
        let item = SeenItem {
            lock_id: "of another host".to_owned(),
            expires_at: "1000050".to_owned(),
            ..store.item(KEY).expect("an item")
        };
        store.set_item(KEY, Some(item));
    }

    #[test]
    fn who_writes_on_gets_the_lease_again() {
        let store = store();
        let client = client(&store).confirms_commits(true);
        let mut lease = client.acquire(KEY, LONG).unwrap();
        let lock_id = lease.lock_id().to_owned();
        for _ in 1..MOST_IN_A_ROW {
            lease.confirm(None).unwrap();
            let _line = lease.linger().expect("it lingers");
            assert!(store.item(KEY).is_some());
            lease = client.acquire(KEY, LONG).unwrap();
            assert_eq!(lease.lock_id(), lock_id);
        }
        lease.confirm(None).unwrap();
        let lease = lease.linger().expect_err("others are to get theirs");
        lease.release().unwrap();
        assert_eq!(store.item(KEY), None);
        let stats = client.stats();
        let in_a_row = u64::from(MOST_IN_A_ROW);
        assert_eq!(
            (stats.acquisitions, stats.handovers),
            (in_a_row, in_a_row - 1)
        );
        assert_eq!(
            stats.requests,
            2 + in_a_row,
            "a put, a delete, and the commits"
        );
    }

    #[test]
    fn it_is_there_for_all_who_ask() {
        let client = client(&store());
        let lingers = || lease_of(&client).linger().unwrap();
        let _line = lingers();
        let lease = lease_of(&client);
        drop(lease);
        let line = lingers();
        let mut acquisition = client.begin(KEY);
        let lease = acquisition.try_before_waiting(LONG).unwrap();
        assert!(lease.is_some());
        drop(lease);
        assert_eq!(client.stats().handovers, 2);
        // And for those who wait already, when it is left.
        let lease = lease_of(&client);
        thread::scope(|scope| {
            let next = scope.spawn(|| client.acquire(KEY, LONG).map(drop));
            while line.waiting() == 0 {
                thread::yield_now();
            }
            lease.linger().unwrap();
            next.join().unwrap().unwrap();
        });
        assert_eq!(client.stats().handovers, 3);
    }

    #[test]
    fn what_nobody_wants_goes_back_to_the_store() {
        let store = store();
        let client = client(&store);
        let lease = lease_of(&client);
        client.release_in_background(lease, true);
        while store.item(KEY).is_some() {
            thread::sleep(Duration::from_millis(1));
        }
        client.finish_releases();
        assert_eq!(client.stats().requests, 2);
    }

    #[test]
    fn the_end_of_a_handler_does_not_leave_it_lingering() {
        let store = store();
        let client = client(&store);
        let lease = lease_of(&client);
        let shared = lease.held.desk.shared.clone();
        let in_an_hour = Instant::now() + LONG * 60;
        (shared.keeper).release_at(in_an_hour, lease.linger().unwrap());
        client.finish_releases();
        assert_eq!(store.item(KEY), None);

        // Nor does one that somebody has collected keep the handler.
        let lease = lease_of(&client);
        (shared.keeper).release_at(in_an_hour, lease.linger().unwrap());
        let lease = lease_of(&client);
        client.finish_releases();
        lease.release().unwrap();
    }

    #[test]
    fn without_confirmed_commits_the_store_is_asked_whether_it_is_still_ours() {
        let store = store();
        let client = client(&store);
        let _line = lease_of(&client).linger().unwrap();
        let lease = lease_of(&client);
        assert_eq!(client.stats().renewals, 1);
        lease.linger().unwrap();
        take_over(&store);
        assert!(client.try_acquire(KEY).unwrap().is_none(), "it is lost");
        let item = store.item(KEY).expect("the other's");
        assert_eq!(item.lock_id, "of another host");
        assert_eq!(client.stats().losses, 1);
    }

    #[test]
    fn with_confirmed_commits_the_commit_shows_that_it_is_lost() {
        let store = store();
        let client = client(&store).confirms_commits(true);
        let lease = lease_of(&client);
        lease.confirm(None).unwrap();
        let _line = lease.linger().expect("it lingers");
        take_over(&store);
        let lease = lease_of(&client);
        lease.confirm(None).expect_err("it is lost");
        assert!(matches!(lease.loss(), Some(LockError::LeaseLost { .. })));
    }

    #[test]
    fn with_confirmed_commits_it_does_not_linger_after_a_transaction_without_one() {
        let client = client(&store()).confirms_commits(true);
        let lease = lease_of(&client);
        let lease = lease.linger().expect_err("the store was not asked");
        lease.confirm(None).unwrap();
        let _line = lease.linger().expect("it is ours");
        let lease = lease_of(&client);
        drop(lease.linger().expect_err("that was the last one's commit"));
    }

    #[test]
    fn a_lost_lease_does_not_linger() {
        let client = client(&store());
        let lease = lease_of(&client);
        lease.forfeit("for a test");
        drop(lease.linger().expect_err("it is lost"));
    }

    #[test]
    fn where_others_wait_for_long_it_does_not_linger() {
        let table = store();
        let in_the_way = SeenItem {
            lock_id: "of another host".to_owned(),
            expires_at: "1000050".to_owned(),
            holder: None,
            acquired_at: None,
            committed: None,
            waited: Some(Pace::LONG_WAIT * 2),
        };
        table.set_item(KEY, Some(in_the_way));
        // It goes as soon as it has been seen.
        let store = HookedStore::new(table.clone(), move |put: Put<'_>| {
            let answer = put.pass_on()?;
            if matches!(answer, PutAnswer::Refused { .. }) {
                table.set_item(KEY, None);
            }
            Ok(answer)
        });
        let client = DynamoDbLockClient::with_store(store).clock(Clock::standing_still());
        let lease = client.acquire(KEY, LONG).unwrap();
        drop(lease.linger().expect_err("others are to get theirs"));
    }

    #[test]
    fn a_habit_is_what_happened_last() {
        let mut habit = Habit::default();
        let began = Instant::now();
        assert!(!habit.writes_on(began), "nothing is known");
        let ended = habit.ended.unwrap();
        assert!(habit.writes_on(ended + LINGER / 2), "it wrote on");
        let ended = habit.ended.unwrap();
        assert!(!habit.writes_on(ended + LINGER), "it came later");
    }
}
