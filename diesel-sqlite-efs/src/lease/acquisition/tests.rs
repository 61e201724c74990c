//! Acquisitions whose answers get lost.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::DynamoDbLockClient;
use crate::store::InMemoryLockStore;
use crate::store::hooked::{Hook, HookedStore, Put};

const KEY: &str = "database#test";
const RECORD: Option<JournalId> = Some(JournalId([1, 2, 3, 4]));

/// Applies every put, and loses the answers to takeovers, so many times. An item is in the way that
/// has expired and bears a record.
fn losing_takeovers(times: u32) -> Arc<HookedStore<impl Hook>> {
    let table = Arc::new(InMemoryLockStore::new());
    let item = SeenItem {
        lock_id: "predecessor".to_owned(),
        expires_at: "1".to_owned(),
        holder: None,
        acquired_at: None,
        committed: RECORD,
    };
    table.set_item(KEY, Some(item));
    let left = AtomicU32::new(times);
    HookedStore::new(table, move |put: Put<'_>| {
        let answer = put.pass_on()?;
        let is_takeover = matches!(put.condition, PutCondition::Unchanged(_));
        let now_left = left.load(Ordering::SeqCst);
        // From the first on, all answers are lost.
        if now_left > 0 && (is_takeover || now_left != times) {
            left.store(now_left - 1, Ordering::SeqCst);
            return Err(StoreError::Timeout {
                endpoint: "here".to_owned(),
                after: put.give_up_after,
            });
        }
        Ok(answer)
    })
}

#[test]
fn a_lost_answer_to_a_takeover_costs_a_retry_and_not_a_lease() {
    let store = losing_takeovers(1);
    let client = DynamoDbLockClient::with_store(store.clone());
    let lease = client.acquire(KEY, Duration::from_secs(2)).unwrap();
    assert_eq!(lease.recorded(), RECORD, "the record comes with the lease");
    let item = store.table.item(KEY).unwrap();
    assert_eq!(item.lock_id, lease.lock_id());
}

#[test]
fn giving_up_after_a_takeover_leaves_the_record_to_the_next() {
    let store = losing_takeovers(u32::MAX);
    let client = DynamoDbLockClient::with_store(store.clone());
    client.acquire(KEY, Duration::from_millis(30)).unwrap_err();
    let item = store.table.item(KEY).expect("the record's item");
    assert_eq!(item.committed, RECORD);
    assert_eq!(item.expires_at, "1", "nobody has to wait for it");
}
