//! Without locks: Diesel's own connection, on a VFS whose file locks do nothing.

use std::error::Error;

use diesel::{Connection, QueryResult, SqliteConnection};
use diesel_migrations::MigrationHarness;
use quickstart::ledger::MIGRATIONS;

use crate::access::{Access, in_url};
use crate::args::Work;

#[derive(Debug)]
pub(crate) struct Unlocked;

impl Access for Unlocked {
    type Connection = SqliteConnection;

    const GUARDED: bool = false;

    fn open(work: &Work) -> Result<SqliteConnection, Box<dyn Error>> {
        let url = format!("file:{}?vfs=unix-none", in_url(&work.db));
        Ok(SqliteConnection::establish(&url)?)
    }

    fn migrate(conn: &mut SqliteConnection) -> Result<(), Box<dyn Error + Send + Sync>> {
        conn.run_pending_migrations(MIGRATIONS).map(drop)
    }

    fn write<T>(
        conn: &mut SqliteConnection,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        conn.immediate_transaction(work)
    }

    fn lock_requests(_: &SqliteConnection) -> Option<u64> {
        None
    }
}
