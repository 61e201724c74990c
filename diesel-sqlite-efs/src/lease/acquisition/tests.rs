//! Acquisitions whose answers get lost.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::store::{DeleteAnswer, InMemoryLockStore, LockStore};
use crate::{DynamoDbLockClient, LockItem};

const KEY: &str = "database#test";
const RECORD: Option<JournalId> = Some(JournalId([1, 2, 3, 4]));

/// Applies every put, and loses the answers to takeovers, so many times.
#[derive(Debug)]
struct LosesTakeovers {
    table: InMemoryLockStore,
    times: u32,
    left: AtomicU32,
}

impl LosesTakeovers {
    /// With an item in the way that has expired and bears a record.
    fn new(times: u32) -> Arc<Self> {
        let table = InMemoryLockStore::new();
        let item = SeenItem {
            lock_id: "predecessor".to_owned(),
            expires_at: "1".to_owned(),
            holder: None,
            acquired_at: None,
            committed: RECORD,
        };
        table.set_item(KEY, Some(item));
        Arc::new(Self {
            table,
            times,
            left: AtomicU32::new(times),
        })
    }
}

impl LockStore for LosesTakeovers {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        let answer = self.table.put(item, condition, give_up_after)?;
        let is_takeover = matches!(condition, PutCondition::Unchanged(_));
        let left = self.left.load(Ordering::SeqCst);
        // From the first on, all answers are lost.
        if left > 0 && (is_takeover || left != self.times) {
            self.left.store(left - 1, Ordering::SeqCst);
            return Err(StoreError::Timeout {
                endpoint: "here".to_owned(),
                after: give_up_after,
            });
        }
        Ok(answer)
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        self.table.delete(key, lock_id, after)
    }

    fn table(&self) -> &str {
        "loses takeovers"
    }
}

#[test]
fn a_lost_answer_to_a_takeover_costs_a_retry_and_not_a_lease() {
    let store = LosesTakeovers::new(1);
    let client = DynamoDbLockClient::with_store(store.clone());
    let lease = client.acquire(KEY, Duration::from_secs(2)).unwrap();
    assert_eq!(lease.recorded(), RECORD, "the record comes with the lease");
    let item = store.table.item(KEY).unwrap();
    assert_eq!(item.lock_id, lease.lock_id());
}

#[test]
fn giving_up_after_a_takeover_leaves_the_record_to_the_next() {
    let store = LosesTakeovers::new(u32::MAX);
    let client = DynamoDbLockClient::with_store(store.clone());
    client.acquire(KEY, Duration::from_millis(30)).unwrap_err();
    let item = store.table.item(KEY).expect("the record's item");
    assert_eq!(item.committed, RECORD);
    assert_eq!(item.expires_at, "1", "nobody has to wait for it");
}
