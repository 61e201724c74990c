//! Public types have the traits that the documentation counts on; checked when this is compiled. What must
//! not compile is in the crate's `misuse.rs`, what there is in its `public-api.txt`.

use std::error::Error;
use std::fmt::Debug;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::migration::MigrationConnection;
use diesel::r2d2::R2D2Connection;
use diesel::sqlite::Sqlite;
use diesel_sqlite_efs::admin::{
    Deletion, EffectiveSettings, FileAccess, ItemLookup, JournalStatus, LockTable, Probe,
    ProbeMethod, RawItem, TableSummary, TimeToLive,
};
use diesel_sqlite_efs::{
    Clock, ConfigError, ConnectError, DeleteAnswer, DynamoDbLockStore, DynamoDbLockStoreBuilder,
    EfsConfig, EfsConnectionManager, EfsCursor, EfsSqliteConnection, EfsTransactionManager,
    HolderInfo, InMemoryLockStore, JournalId, Lease, LockClient, LockClientBuilder, LockError,
    LockItem, LockName, LockStats, LockStore, ManualClock, Problem, PutAnswer, PutCondition,
    ReadCheck, SharedError, StoreError, StoredItem, Synchronous, Timestamp, TransactionState,
};

/// Shared by threads.
const fn shared<T: Send + Sync + Debug>() {}
/// A value: copied about and compared.
const fn value<T: Send + Sync + Debug + Clone + Eq>() {}
/// An error that `?` turns into `Box<dyn Error + Send + Sync>`, also out of a caught panic.
const fn error<T: Error + Send + Sync + 'static>() {}
/// Handed from thread to thread.
const fn sent<T: Send + Debug>() {}
/// Usable after a panic that was caught, as in Lambda's runtimes.
const fn survives_panics<T: UnwindSafe + RefUnwindSafe>() {}

const _: () = {
    shared::<EfsConfig>();
    shared::<EfsConnectionManager>();
    shared::<LockClient>();
    shared::<LockClientBuilder>();
    shared::<Lease>();
    shared::<DynamoDbLockStore>();
    shared::<DynamoDbLockStoreBuilder>();
    shared::<InMemoryLockStore>();
    shared::<Arc<dyn LockStore>>();
    shared::<Clock>();
    shared::<ManualClock>();
    shared::<EfsTransactionManager>();
    shared::<TransactionState>();
    shared::<LockTable>();
    shared::<Probe>();
    shared::<ItemLookup>();
    shared::<RawItem>();

    value::<ConfigError>();
    value::<LockError>();
    value::<StoreError>();
    value::<SharedError>();
    value::<Problem>();
    value::<LockName>();
    value::<HolderInfo>();
    value::<LockItem>();
    value::<StoredItem>();
    value::<JournalId>();
    value::<PutAnswer>();
    value::<PutCondition<'static>>();
    value::<DeleteAnswer>();
    value::<LockStats>();
    value::<Timestamp>();
    value::<ReadCheck>();
    value::<Synchronous>();
    value::<EffectiveSettings>();
    value::<FileAccess>();
    value::<JournalStatus>();
    value::<ProbeMethod>();
    value::<Deletion>();
    value::<TableSummary>();
    value::<TimeToLive>();

    error::<ConfigError>();
    error::<ConnectError>();
    error::<LockError>();
    error::<StoreError>();

    sent::<EfsSqliteConnection>();
    survives_panics::<LockStats>();
};

/// Diesel's traits, by which generic code takes the connection.
const _: () = {
    const fn diesel<C>()
    where
        C: LoadConnection<Backend = Sqlite>
            + SimpleConnection
            + MigrationConnection
            + R2D2Connection
            + 'static,
    {
    }
    const fn iterator<T: Iterator>() {}
    diesel::<EfsSqliteConnection>();
    iterator::<EfsCursor<'static, 'static>>();
};
