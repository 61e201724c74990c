//! Stores of the application's own making, with what the crate exports alone: one written from
//! scratch, and the crate's own with a client of the AWS SDK that the application has already.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::connection::SimpleConnection;
use diesel_sqlite_efs::{
    DeleteAnswer, DynamoDbLockStore, EfsConfig, EfsSqliteConnection, JournalId, LockError,
    LockItem, LockStore, PutAnswer, PutCondition, StoreError, StoredItem,
};
use integration::dynamodb::LockTable;
use integration::emulator::Emulator;
use integration::scratch::Scratch;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A table of rows, as a SQL database would keep them, which translates the conditions by itself.
#[derive(Debug, Default)]
struct Rows {
    rows: Mutex<BTreeMap<String, Row>>,
    is_down: AtomicBool,
}

#[derive(Debug, Clone)]
struct Row {
    lock_id: String,
    /// Whole seconds: only this store writes them.
    expires_at: u64,
    holder: String,
    acquired_at: SystemTime,
    committed: Option<String>,
    waited_millis: Option<u64>,
}

/// What the store's own client would fail with.
#[derive(Debug)]
struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cable is out")
    }
}

impl std::error::Error for Down {}

impl Rows {
    fn check(&self) -> Result<(), StoreError> {
        match self.is_down.load(Ordering::SeqCst) {
            true => Err(StoreError::unreachable("Rows", "rack 7", Down)),
            false => Ok(()),
        }
    }
}

impl Row {
    fn new(item: &LockItem) -> Self {
        Self {
            lock_id: item.lock_id.clone(),
            expires_at: seconds(item.expires_at),
            holder: item.holder.clone(),
            acquired_at: item.acquired_at,
            committed: item.committed.map(|journal| journal.to_string()),
            waited_millis: item.waited.map(|waited| waited.as_millis() as u64),
        }
    }

    fn stored(&self) -> Result<StoredItem, StoreError> {
        let journal = |hex: &String| hex.parse::<JournalId>().map_err(StoreError::other);
        let mut item = StoredItem::new(&self.lock_id, self.expires_at.to_string())
            .with_holder(&self.holder)
            .with_acquired_at(self.acquired_at);
        item.committed = self.committed.as_ref().map(journal).transpose()?;
        item.waited = self.waited_millis.map(Duration::from_millis);
        Ok(item)
    }
}

fn seconds(time: SystemTime) -> u64 {
    (time.duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs())
}

impl LockStore for Rows {
    fn put(
        &self,
        item: &LockItem,
        condition: PutCondition<'_>,
        _give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        self.check()?;
        let mut rows = self
            .rows
            .lock()
            .map_err(|_| StoreError::other("poisoned"))?;
        let (new, current) = (Row::new(item), rows.get(&item.key).cloned());
        let stored = current.as_ref().map(Row::stored).transpose()?;
        let mine = |row: &Row| row.lock_id == new.lock_id;
        let ours = |row: &Row| {
            mine(row) && row.expires_at <= new.expires_at && row.committed == new.committed
        };
        let grants = match (condition, &current) {
            (PutCondition::FreeOrOurs | PutCondition::FreeOrExpired { .. }, None) => true,
            (_, None) => false,
            (PutCondition::FreeOrOurs, Some(row)) => ours(row),
            (PutCondition::Ours { recorded, .. }, Some(row)) => {
                let recorded = recorded.map(|journal| journal.to_string());
                let is_recorded = row.committed == recorded;
                ours(row) || (mine(row) && row.expires_at <= new.expires_at && is_recorded)
            }
            (PutCondition::Ended, Some(row)) => mine(row) && row.committed == new.committed,
            (PutCondition::Unchanged(seen), Some(row)) => {
                let seen = (&seen.lock_id, &seen.expires_at, seen.committed);
                let is_unchanged = (stored.as_ref())
                    .is_some_and(|now| seen == (&now.lock_id, &now.expires_at, now.committed));
                is_unchanged || ours(row)
            }
            (PutCondition::FreeOrExpired { now, .. }, Some(row)) => {
                row.expires_at < seconds(now) || ours(row)
            }
            (other, Some(_)) => return Err(StoreError::rejected(format!("unknown: {other:?}"))),
        };
        assert_eq!(
            grants,
            condition.holds(stored.as_ref(), item)?,
            "{condition:?}"
        );
        let answer = if grants {
            rows.insert(item.key.clone(), new);
            PutAnswer::stored(stored)
        } else {
            PutAnswer::refused(stored)
        };
        Ok(answer.with_date(SystemTime::now()))
    }

    fn delete(
        &self,
        key: &str,
        lock_id: &str,
        _give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        self.check()?;
        let mut rows = self
            .rows
            .lock()
            .map_err(|_| StoreError::other("poisoned"))?;
        if rows.get(key).is_none_or(|row| row.lock_id != lock_id) {
            return Ok(DeleteAnswer::NotOurs);
        }
        rows.remove(key);
        Ok(DeleteAnswer::Deleted)
    }

    fn table(&self) -> &str {
        "rows"
    }
}

#[test]
fn a_store_written_from_scratch_grants_leases_and_keeps_others_out() -> TestResult {
    let (scratch, store) = (Scratch::new()?, Arc::new(Rows::default()));
    let config = EfsConfig::new(scratch.database())
        .lock_store(store.clone())
        .lock_key("app")
        .lock_timeout(Duration::from_millis(50));
    let mut conn = EfsSqliteConnection::connect(&config)?;
    conn.batch_execute("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)")?;
    assert!(store.rows.lock().expect("no panic").is_empty(), "released");

    let row = |lock_id: &str, expires_at| Row {
        lock_id: lock_id.to_owned(),
        expires_at,
        holder: "another".to_owned(),
        acquired_at: SystemTime::now(),
        committed: None,
        waited_millis: None,
    };
    let put = |row| {
        store
            .rows
            .lock()
            .expect("no panic")
            .insert("app".to_owned(), row)
    };
    put(row("of-another", seconds(SystemTime::now()) + 60));
    conn.batch_execute("INSERT INTO t VALUES (2)")
        .expect_err("it is held");
    let Some(LockError::Busy {
        holder: Some(holder),
        ..
    }) = conn.last_lock_error()
    else {
        return Err("busy, with a holder".into());
    };
    assert_eq!(holder.name.as_deref(), Some("another"));
    assert!(
        holder.until.is_some_and(|until| until > SystemTime::now()),
        "{holder}"
    );

    put(row("of-the-dead", 2));
    conn.batch_execute("INSERT INTO t VALUES (2)")?;
    assert!(
        store.rows.lock().expect("no panic").is_empty(),
        "taken over and released"
    );
    Ok(())
}

#[test]
fn the_cause_of_a_custom_stores_failure_reaches_the_application() -> TestResult {
    let (scratch, store) = (Scratch::new()?, Arc::new(Rows::default()));
    let config = EfsConfig::new(scratch.database())
        .lock_store(store.clone())
        .lock_key("app");
    let mut conn = EfsSqliteConnection::connect(&config)?;
    store.is_down.store(true, Ordering::SeqCst);
    let error = (conn.batch_execute("CREATE TABLE t (n INTEGER)")).expect_err("no lease");
    let text = error.to_string();
    assert!(
        text.contains("cannot reach Rows at rack 7: the cable is out"),
        "{text}"
    );
    assert!(!text.contains("DynamoDB"), "{text}");
    let lock_error = conn.last_lock_error().ok_or("a lock error")?;
    let store_error = lock_error.source().ok_or("the store's error")?;
    assert!(store_error.is::<StoreError>());
    assert!(store_error.source().is_some_and(|cause| cause.is::<Down>()));
    Ok(())
}

/// The client's connections hang on a runtime that does not run while the lock is taken.
#[test]
fn a_client_of_the_application_serves_the_store_although_its_runtime_stands_still() -> TestResult {
    let table = LockTable::create(Emulator::shared().endpoint(), "custom-stores-client")?;
    assert!(table.item("app")?.is_none(), "the client is connected");
    let store = DynamoDbLockStore::builder(table.name())
        .client(table.client())
        .build();
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database())
        .lock_store(Arc::new(store))
        .lock_key("app");
    let mut conn = EfsSqliteConnection::connect(&config)?;
    conn.batch_execute("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)")?;
    assert!(conn.lock_stats().requests > 0);
    assert!(table.item("app")?.is_none(), "released");
    Ok(())
}
