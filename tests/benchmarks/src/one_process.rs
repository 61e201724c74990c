//! The work of one process, by this crate's connection and by Diesel's own, on the same kind of file.
//!
//! This crate's takes no lock in DynamoDB (`lock=local`), so that no round trip is measured; Diesel's
//! has the same `PRAGMA`s that matter: journal mode, `synchronous`, the size of the page cache.

use std::path::Path;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::prelude::*;
use diesel::result::{ConnectionError, ConnectionResult};
use diesel::sql_types::BigInt;
use diesel::sqlite::Sqlite;
use diesel_sqlite_efs::{ConnectError, EfsConfig, EfsSqliteConnection, ReadCheck, Synchronous};

diesel::table! {
    /// A row for each point query, and an index for none.
    item (id) {
        /// From 1, without gaps.
        id -> BigInt,
        /// What is updated.
        n -> BigInt,
        /// What makes the row long.
        text -> Text,
    }
}

diesel::table! {
    /// What is inserted in bulk; empty.
    bulk (id) {
        /// From 1.
        id -> BigInt,
        /// Anything.
        n -> BigInt,
    }
}

/// A connection of either kind.
pub trait Either: Connection<Backend = Sqlite> + LoadConnection {}
impl<C: Connection<Backend = Sqlite> + LoadConnection> Either for C {}

/// A page cache that holds the small file, and not the large one.
const CACHE_BYTES: u64 = 64 << 20;

/// Diesel's own connection, set up as this crate's are.
///
/// # Errors
/// If the file cannot be opened.
pub fn diesels(database: &Path) -> ConnectionResult<SqliteConnection> {
    let mut conn = SqliteConnection::establish(&database.to_string_lossy())?;
    let cache_kib = CACHE_BYTES / 1024;
    conn.batch_execute(&format!(
        "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA temp_store=MEMORY;
         PRAGMA cache_size=-{cache_kib};"
    ))
    .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// This crate's connection, without a lock table.
///
/// # Errors
/// If the file cannot be opened.
pub fn ours(database: &Path, check: ReadCheck) -> Result<EfsSqliteConnection, ConnectError> {
    let config = EfsConfig::new(database)
        .lock_local()
        .lock_read_check(check)
        .synchronous(Synchronous::Extra)
        .cache_size_bytes(CACHE_BYTES);
    EfsSqliteConnection::connect(&config)
}

/// The checks of reads that are compared, by their names.
pub const READ_CHECKS: [(&str, ReadCheck); 3] = [
    ("off", ReadCheck::Off),
    ("counter", ReadCheck::Counter),
    ("reopen", ReadCheck::Reopen),
];

/// Rows of the small file's table.
pub const ROWS: i64 = 10_000;

/// Rows of the large one's: 100 MB and a little.
pub const MANY_ROWS: i64 = 50_000;

/// Makes the file, with so many rows of so many bytes.
///
/// # Errors
/// If it cannot be written.
pub fn furnish(database: &Path, rows: i64, bytes: usize) -> QueryResult<()> {
    let mut conn = diesels(database)
        .map_err(|error| diesel::result::Error::QueryBuilderError(Box::new(error)))?;
    conn.batch_execute(&format!(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, text TEXT NOT NULL);
         CREATE TABLE bulk (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
         WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows})
         INSERT INTO item SELECT n, 0, printf('%.{bytes}c', 'x') FROM number;"
    ))
}

/// Bytes of text of a row of the small file.
pub const SHORT: usize = 80;

/// Of the large one: 2 rows a page.
pub const LONG: usize = 2_000;

/// Reads a row by its key.
///
/// # Errors
/// As the query.
pub fn point_select(conn: &mut impl Either, id: i64) -> QueryResult<i64> {
    item::table.find(id).select(item::n).first(conn)
}

/// Adds one to a row, in autocommit mode.
///
/// # Errors
/// As the statement.
pub fn update_row(conn: &mut impl Either, id: i64) -> QueryResult<usize> {
    diesel::update(item::table.find(id))
        .set(item::n.eq(item::n + 1))
        .execute(conn)
}

/// Adds up the lengths of a column of the whole table, in the order of the file.
///
/// # Errors
/// As the query.
pub fn scan(conn: &mut impl Either) -> QueryResult<i64> {
    diesel::dsl::sql::<BigInt>("SELECT sum(length(text)) FROM item").get_result(conn)
}

/// Inserts so many rows in one transaction, each by a statement of its own.
///
/// # Errors
/// As the statements.
pub fn insert_many<C: Either>(conn: &mut C, rows: i64) -> QueryResult<()> {
    conn.transaction(|conn| {
        for n in 0..rows {
            diesel::insert_into(bulk::table)
                .values(bulk::n.eq(n))
                .execute(conn)?;
        }
        Ok(())
    })
}

/// Takes away what [`insert_many`] has inserted.
///
/// # Errors
/// As the statement.
pub fn clear(conn: &mut impl Either) -> QueryResult<usize> {
    diesel::delete(bulk::table).execute(conn)
}

/// Reads the schema and one row, so that a scan begins with what any query would have read before.
///
/// # Errors
/// As the query.
pub fn look(conn: &mut impl Either) -> QueryResult<i64> {
    point_select(conn, 1)
}

/// A transaction in which nothing is done.
///
/// # Errors
/// As its two statements.
pub fn empty_transaction<C: Either>(conn: &mut C) -> QueryResult<()> {
    conn.transaction(|_| Ok(()))
}
