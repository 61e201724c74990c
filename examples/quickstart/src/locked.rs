//! With a lock table: the connection of diesel-sqlite-efs.

use std::error::Error;

use diesel::{Connection, QueryResult};
use diesel_sqlite_efs::EfsSqliteConnection;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quickstart::ledger::MIGRATIONS;

use crate::access::{Access, in_url};
use crate::args::Work;

#[derive(Debug)]
pub(crate) struct Locked;

impl Access for Locked {
    type Connection = EfsSqliteConnection;

    const GUARDED: bool = true;

    fn open(work: &Work) -> Result<EfsSqliteConnection, Box<dyn Error>> {
        let mut url = format!("file:{}", in_url(&work.db));
        if let Some(table) = &work.table {
            url += &format!(
                "?lock_table={}",
                utf8_percent_encode(table, NON_ALPHANUMERIC)
            );
        }
        Ok(EfsSqliteConnection::establish(&url)?)
    }

    fn migrate(conn: &mut EfsSqliteConnection) -> Result<(), Box<dyn Error + Send + Sync>> {
        conn.run_migrations(MIGRATIONS).map(drop)
    }

    fn write<T>(
        conn: &mut EfsSqliteConnection,
        work: impl FnOnce(&mut EfsSqliteConnection) -> QueryResult<T>,
    ) -> QueryResult<T> {
        conn.immediate_transaction(work)
    }

    fn lock_requests(conn: &EfsSqliteConnection) -> Option<u64> {
        Some(conn.lock_stats().requests)
    }
}
