//! What differs between a database with a lock table and one without any locks.

use std::error::Error;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use diesel::QueryResult;
use diesel::connection::{Connection, LoadConnection};
use diesel::sqlite::Sqlite;
use percent_encoding::{AsciiSet, CONTROLS, PercentEncode, percent_encode};

use crate::args::Work;

/// A way to open the database and to write to it. All else is Diesel, and the same.
pub(crate) trait Access {
    type Connection: Connection<Backend = Sqlite> + LoadConnection;

    /// Whether the guarantees are meant to hold: then any error but one that says to try again is
    /// the end of a worker. Otherwise it goes on as well as it can.
    const GUARDED: bool;

    /// Opens the database.
    fn open(work: &Work) -> Result<Self::Connection, Box<dyn Error>>;

    /// Runs the migrations that are pending.
    fn migrate(conn: &mut Self::Connection) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Runs a transaction that will write.
    fn write<T>(
        conn: &mut Self::Connection,
        work: impl FnOnce(&mut Self::Connection) -> QueryResult<T>,
    ) -> QueryResult<T>;

    /// How many requests to DynamoDB the connection has made.
    fn lock_requests(conn: &Self::Connection) -> Option<u64>;
}

/// A diesel error in words, with the details and the hint that it carries.
pub(crate) fn in_words(error: &diesel::result::Error) -> String {
    let mut words = error.to_string();
    if let diesel::result::Error::DatabaseError(_, information) = error {
        for more in [information.details(), information.hint()]
            .into_iter()
            .flatten()
        {
            // Writing to a string does not fail.
            let _ = write!(words, "; {more}");
        }
    }
    words
}

/// A path as it goes into a `file:` URL: what would end the path there, or be decoded, is encoded.
///
/// <https://sqlite.org/uri.html>
pub(crate) fn in_url(path: &Path) -> PercentEncode<'_> {
    const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');
    percent_encode(path.as_os_str().as_bytes(), RESERVED)
}
