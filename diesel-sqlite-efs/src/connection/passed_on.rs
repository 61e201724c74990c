//! Methods of Diesel's `SqliteConnection` that do here what they do there.

use std::cmp::Ordering;
use std::panic::UnwindSafe;

use diesel::result::QueryResult;
use diesel::sqlite::SerializedDatabase;

use super::EfsSqliteConnection;

impl EfsSqliteConnection {
    /// Registers a collation for `COLLATE name`, in place of an earlier one of that name.
    ///
    /// Like Diesel's it is given the right-hand side first. It has to answer the same for the same
    /// strings, on every host: an index is kept in its order. A panic in it aborts the process.
    ///
    /// # Errors
    /// SQLite's, when a query that uses the earlier one is running or memory is exhausted.
    pub fn register_collation<F>(&mut self, name: &str, collation: F) -> QueryResult<()>
    where
        F: Fn(&str, &str) -> Ordering + Send + 'static + UnwindSafe,
    {
        self.inner.register_collation(name, collation)
    }

    /// A copy of the database as the bytes of its file, read under SQLite's read lock: a backup
    /// that needs no write lock and sends no request.
    ///
    /// The whole database is in memory then. A failure, such as a commit in progress elsewhere, is
    /// told by [`SerializedDatabase::try_as_slice`].
    pub fn serialize_database_to_buffer(&mut self) -> SerializedDatabase {
        self.inner.serialize_database_to_buffer()
    }

    /// Lets the connection read `data`, a database as bytes, in place of its own database, which
    /// is left as it is and no longer used by this connection. It can only be read.
    ///
    /// # Errors
    /// SQLite's, when it has no memory for it or a transaction is open; what is no database fails
    /// when it is read.
    pub fn deserialize_readonly_database_from_buffer(&mut self, data: &[u8]) -> QueryResult<()> {
        (self.state).run(&mut self.inner, |inner| {
            inner.deserialize_readonly_database_from_buffer(data)
        })
    }
}
