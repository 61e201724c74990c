//! What the workers write and read: a counter, an entry for each write, accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use diesel::connection::LoadConnection;
use diesel::dsl::count;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, insert_into, sql_query, update};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::{Deserialize, Serialize};

use self::schema::{account, counter, entry, sqlite_schema};

/// The schema, from the workspace's directory of migrations.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// How many accounts the migration creates, numbered from 1.
const ACCOUNTS: i64 = 8;

/// One write; the caller has begun a transaction.
///
/// Everything is read, changed here and written back, as applications do: whoever writes over what
/// another wrote in between loses it.
pub fn write<C>(conn: &mut C, writer: &str, sequence: i64) -> QueryResult<()>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let value: i64 = counter::table.select(counter::value).first(conn)?;
    update(counter::table)
        .set(counter::value.eq(value + 1))
        .execute(conn)?;
    insert_into(entry::table)
        .values((
            entry::writer.eq(writer),
            entry::sequence.eq(sequence),
            entry::counter_value.eq(value + 1),
        ))
        .execute(conn)?;
    // Any two accounts and any amount will do, as long as they are not the same for all.
    let from = 1 + value % ACCOUNTS;
    let to = 1 + (value + 1 + sequence % (ACCOUNTS - 1)) % ACCOUNTS;
    let amount = 1 + sequence % 10;
    for (id, change) in [(from, -amount), (to, amount)] {
        let this = account::table.find(id);
        let balance: i64 = this.select(account::balance).first(conn)?;
        update(this)
            .set(account::balance.eq(balance + change))
            .execute(conn)?;
    }
    Ok(())
}

/// One read, in a transaction of its own.
pub fn read<C>(conn: &mut C) -> QueryResult<Snapshot>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    conn.transaction(|conn| {
        let balances: Vec<i64> = account::table.select(account::balance).load(conn)?;
        Ok(Snapshot {
            counter: counter::table.select(counter::value).first(conn)?,
            entries: entry::table.count().get_result(conn)?,
            balance: balances.iter().sum(),
        })
    })
}

/// How many entries were made from the same value of the counter as another: each is an update
/// that was lost.
pub fn duplicates<C>(conn: &mut C) -> QueryResult<i64>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    conn.transaction(|conn| {
        let all: i64 = entry::table.count().get_result(conn)?;
        let distinct: i64 = entry::table
            .select(count(entry::counter_value).aggregate_distinct())
            .get_result(conn)?;
        Ok(all - distinct)
    })
}

/// The entries of all writers whose names begin with `prefix`.
pub fn entries<C>(conn: &mut C, prefix: &str) -> QueryResult<BTreeMap<String, BTreeSet<i64>>>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let rows: Vec<(String, i64)> = entry::table
        .select((entry::writer, entry::sequence))
        .filter(entry::writer.like(format!("{prefix}%")))
        .load(conn)?;
    let mut entries = BTreeMap::<_, BTreeSet<_>>::new();
    for (writer, sequence) in rows {
        entries.entry(writer).or_default().insert(sequence);
    }
    Ok(entries)
}

/// What SQLite itself finds wrong with the file; the one line `ok` if nothing.
pub fn integrity<C>(conn: &mut C) -> QueryResult<Vec<String>>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        integrity_check: String,
    }
    let lines: Vec<Line> = sql_query("PRAGMA integrity_check").load(conn)?;
    Ok(lines.into_iter().map(|line| line.integrity_check).collect())
}

/// Whether the database holds tables, and the ledger is not among them.
pub fn is_of_another_application<C>(conn: &mut C) -> QueryResult<bool>
where
    C: Connection<Backend = Sqlite> + LoadConnection,
{
    let tables: Vec<String> = sqlite_schema::table
        .select(sqlite_schema::name)
        .filter(sqlite_schema::kind.eq("table"))
        .load(conn)?;
    Ok(!tables.is_empty() && !tables.iter().any(|table| table == "entry"))
}

/// What must agree in any state that was ever committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The counter, which each write increments.
    pub counter: i64,
    /// The entries, of which each write adds one.
    pub entries: i64,
    /// The sum of the balances, between which each write moves an amount.
    pub balance: i64,
}

impl Snapshot {
    /// The sum of the balances as the migration sets them.
    pub const BALANCE: i64 = 8000;

    /// Whether this can have been committed.
    pub fn is_whole(&self) -> bool {
        self.counter == self.entries && self.balance == Self::BALANCE
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            counter,
            entries,
            balance,
        } = self;
        write!(f, "counter {counter}, entries {entries}, balance {balance}")
    }
}

mod schema {
    diesel::table! {
        counter (id) {
            id -> BigInt,
            value -> BigInt,
        }
    }

    diesel::table! {
        entry (writer, sequence) {
            writer -> Text,
            sequence -> BigInt,
            counter_value -> BigInt,
        }
    }

    diesel::table! {
        account (id) {
            id -> BigInt,
            balance -> BigInt,
        }
    }

    diesel::table! {
        sqlite_schema (name) {
            name -> Text,
            #[sql_name = "type"]
            kind -> Text,
        }
    }
}
