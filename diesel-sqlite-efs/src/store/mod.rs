//! The lock store: one conditional write and one conditional delete.

mod condition;
pub(crate) mod dynamodb;
mod item;
mod lock_store;
mod memory;
mod no_lock;

pub use self::condition::PutCondition;
pub use self::dynamodb::{DynamoDbLockStore, DynamoDbLockStoreBuilder};
pub use self::item::{JournalId, LockItem, StoredItem};
pub use self::lock_store::{DeleteAnswer, LockStore, PutAnswer};
pub use self::memory::InMemoryLockStore;
pub(crate) use self::no_lock::NoLock;
