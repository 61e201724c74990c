//! Misuse that the compiler refuses, each beside its twin that compiles, so that nothing else can be the
//! reason.
//!
//! The error's number is compared where rustdoc runs with `RUSTC_BOOTSTRAP=1`, as in `.ci/run`.

/// A lease that is dropped at once protects nothing: the error is one of the lint `unused_must_use`, which
/// warns unless it is denied.
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// # fn report(client: &LockClient) -> Result<(), LockError> {
/// client.acquire("nightly-report", Duration::from_secs(3))?;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// # fn report(client: &LockClient) -> Result<(), LockError> {
/// let _lease = client.acquire("nightly-report", Duration::from_secs(3))?;
/// # Ok(())
/// # }
/// ```
mod lease_dropped_at_once {}

/// ```compile_fail,E0382
/// # use diesel_sqlite_efs::*;
/// # fn report(lease: Lease) -> Result<(), LockError> {
/// lease.release()?;
/// assert!(lease.is_valid());
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # use diesel_sqlite_efs::*;
/// # fn report(lease: Lease) -> Result<(), LockError> {
/// assert!(lease.is_valid());
/// lease.release()?;
/// # Ok(())
/// # }
/// ```
mod lease_used_after_its_release {}

/// ```compile_fail,E0277
/// # use diesel_sqlite_efs::*;
/// fn is_clone<T: Clone>() {}
/// is_clone::<Lease>();
/// ```
///
/// ```
/// # use diesel_sqlite_efs::*;
/// fn is_clone<T: Clone>() {}
/// is_clone::<LockClient>();
/// ```
mod lease_with_two_owners {}

/// A method of a builder returns what it has changed.
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// let config = EfsConfig::new("app.db").lock_table("locks");
/// config.lock_timeout(Duration::from_secs(1));
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// let config = EfsConfig::new("app.db").lock_table("locks");
/// let _config = config.lock_timeout(Duration::from_secs(1));
/// ```
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// let builder = LockClient::builder().lock_table("locks");
/// builder.lock_expiration(Duration::from_secs(30));
/// ```
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use diesel_sqlite_efs::*;
/// DynamoDbLockStore::builder("locks");
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// let builder = LockClient::builder().lock_table("locks");
/// let _builder = builder.lock_expiration(Duration::from_secs(30));
/// let _builder = DynamoDbLockStore::builder("locks");
/// ```
mod builder_thrown_away {}

/// ```compile_fail,E0277
/// # use diesel_sqlite_efs::*;
/// fn is_sync<T: Sync>() {}
/// is_sync::<EfsSqliteConnection>();
/// ```
///
/// ```
/// # use diesel_sqlite_efs::*;
/// fn is_send<T: Send>() {}
/// is_send::<EfsSqliteConnection>();
/// ```
mod connection_used_by_two_threads {}

/// The closure uses the connection that it is given.
///
/// ```compile_fail,E0500
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<usize> {
/// conn.immediate_transaction(|_| diesel::sql_query("DELETE FROM visits").execute(conn))
/// # }
/// ```
///
/// ```
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<usize> {
/// conn.immediate_transaction(|conn| diesel::sql_query("DELETE FROM visits").execute(conn))
/// # }
/// ```
///
/// ```compile_fail,E0500
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<usize> {
/// conn.with_write_lock(|_| diesel::sql_query("DELETE FROM visits").execute(conn))
/// # }
/// ```
///
/// ```
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<usize> {
/// conn.with_write_lock(|conn| diesel::sql_query("DELETE FROM visits").execute(conn))
/// # }
/// ```
mod outer_connection_inside_a_transaction {}

/// ```compile_fail,E0499
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// diesel::table! { visits (id) { id -> Integer } }
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
/// for id in visits::table.select(visits::id).load_iter::<i32, _>(conn)? {
///     diesel::delete(visits::table.find(id?)).execute(conn)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// diesel::table! { visits (id) { id -> Integer } }
/// # fn visit(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
/// for id in visits::table.select(visits::id).load::<i32>(conn)? {
///     diesel::delete(visits::table.find(id)).execute(conn)?;
/// }
/// # Ok(())
/// # }
/// ```
mod statement_while_rows_are_read {}

/// What a transaction that is run again consumes, it needs again.
///
/// ```compile_fail,E0507
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection, page: String) -> QueryResult<()> {
/// conn.retrying_transaction(|_| Ok(drop(page)))
/// # }
/// ```
///
/// ```
/// # use {diesel::prelude::*, diesel_sqlite_efs::*};
/// # fn visit(conn: &mut EfsSqliteConnection, page: String) -> QueryResult<()> {
/// conn.immediate_transaction(|_| Ok(drop(page)))
/// # }
/// ```
mod repeated_closure_that_runs_once {}

/// Fields may be added: structs and variants have constructors.
///
/// ```compile_fail,E0639
/// # use diesel_sqlite_efs::*;
/// LockName { database: "app.db".into(), key: "app".into(), table: "locks".into() };
/// ```
///
/// ```compile_fail,E0639
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// Timestamp { monotonic: Duration::ZERO, wall: Duration::ZERO };
/// ```
///
/// ```compile_fail,E0639
/// # use diesel_sqlite_efs::*;
/// HolderInfo { name: None, since: None, until: None };
/// ```
///
/// ```compile_fail,E0639
/// # use diesel_sqlite_efs::*;
/// LockStats { retries: 3, ..LockStats::default() };
/// ```
///
/// ```compile_fail,E0639
/// # use diesel_sqlite_efs::*;
/// PutAnswer::Refused { current: None, date: None };
/// ```
///
/// ```compile_fail,E0639
/// # use diesel_sqlite_efs::*;
/// # let lock = LockName::new("app", "locks").into();
/// LockError::StaleSnapshot { lock };
/// ```
///
/// ```
/// # use {diesel_sqlite_efs::*, std::time::Duration};
/// let lock = LockName::new("app", "locks").with_database("app.db");
/// Timestamp::new(Duration::ZERO, Duration::ZERO);
/// let mut stats = LockStats::default();
/// stats.retries = 3;
/// HolderInfo::default();
/// PutAnswer::refused(None);
/// LockError::stale_snapshot(lock);
/// ```
mod literal_of_what_may_grow {}

/// Variants and their fields may be added: a match has a last arm, and patterns end with `..`.
///
/// ```compile_fail,E0004
/// # use diesel_sqlite_efs::*;
/// fn table(error: ConnectError) -> &'static str {
///     match error {
///         ConnectError::Config(_) => "config",
///         ConnectError::Lock(_) => "lock",
///         ConnectError::Diesel(_) => "diesel",
///     }
/// }
/// ```
///
/// ```
/// # use diesel_sqlite_efs::*;
/// fn table(error: ConnectError) -> &'static str {
///     match error {
///         ConnectError::Config(_) => "config",
///         ConnectError::Lock(_) => "lock",
///         ConnectError::Diesel(_) => "diesel",
///         _ => "other",
///     }
/// }
/// ```
///
/// ```compile_fail,E0638
/// # use diesel_sqlite_efs::*;
/// # fn reason(error: LockError) -> Option<String> {
/// match error {
///     LockError::LeaseLost { lock: _, reason } => Some(reason),
///     _ => None,
/// }
/// # }
/// ```
///
/// ```
/// # use diesel_sqlite_efs::*;
/// # fn reason(error: LockError) -> Option<String> {
/// match error {
///     LockError::LeaseLost { reason, .. } => Some(reason),
///     _ => None,
/// }
/// # }
/// ```
mod match_on_what_may_grow {}

/// A store is called from several threads.
///
/// ```compile_fail,E0277
/// # use {diesel_sqlite_efs::*, std::{cell::Cell, time::Duration}};
/// #[derive(Debug)]
/// struct MyStore(Cell<u64>);
///
/// impl LockStore for MyStore {
///     # fn put(&self, _: &LockItem, _: PutCondition<'_>, _: Duration) -> Result<PutAnswer, StoreError> {
///     #     Ok(PutAnswer::refused(None))
///     # }
///     # fn delete(&self, _: &str, _: &str, _: Duration) -> Result<DeleteAnswer, StoreError> {
///     #     Ok(DeleteAnswer::NotOurs)
///     # }
///     fn table(&self) -> &str { "mine" }
/// }
/// ```
///
/// ```
/// # use {diesel_sqlite_efs::*, std::{sync::atomic::AtomicU64, time::Duration}};
/// #[derive(Debug)]
/// struct MyStore(AtomicU64);
///
/// impl LockStore for MyStore {
///     # fn put(&self, _: &LockItem, _: PutCondition<'_>, _: Duration) -> Result<PutAnswer, StoreError> {
///     #     Ok(PutAnswer::refused(None))
///     # }
///     # fn delete(&self, _: &str, _: &str, _: Duration) -> Result<DeleteAnswer, StoreError> {
///     #     Ok(DeleteAnswer::NotOurs)
///     # }
///     fn table(&self) -> &str { "mine" }
/// }
/// ```
mod store_for_one_thread {}
