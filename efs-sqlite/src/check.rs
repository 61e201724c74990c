//! `efs-sqlite check`: checks the integrity of the database.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::args::Database;
use crate::failure::{Failure, Outcome, failure_of};
use crate::output::Output;
use crate::target::Target;

/// A row of `PRAGMA foreign_key_check`: table, rowid, the table that it refers to, the number of
/// the key.
type Orphan = (String, Option<i64>, String, i64);

pub(crate) fn run(args: &Database, output: &Output) -> Result<Outcome, Failure> {
    let target = Target::new(args.url()?)?;
    target.must_exist()?;
    let mut conn = EfsSqliteConnection::connect(&target.config)?;
    // Under the lock no other writer begins a commit, which would have to wait for this long read.
    let checked = conn.immediate_transaction(|conn| {
        let damage: Vec<String> = sql::<Text>("PRAGMA integrity_check").load(conn)?;
        let orphans: Vec<Orphan> =
            sql::<(Text, Nullable<BigInt>, Text, BigInt)>("PRAGMA foreign_key_check").load(conn)?;
        QueryResult::Ok((damage, orphans))
    });
    let (damage, orphans) = match checked {
        Ok(checked) => checked,
        Err(error) => return Err(failure_of(&conn, &error)),
    };
    if damage == ["ok"] {
        output.line("integrity_check: ok")?;
    } else {
        for problem in &damage {
            output.line(&format!("integrity_check: {problem}"))?;
        }
    }
    if orphans.is_empty() {
        output.line("foreign_key_check: ok")?;
    }
    for (table, row, parent, key) in &orphans {
        let row = row.map_or_else(|| "a row".to_owned(), |row| format!("row {row}"));
        output.line(&format!(
            "foreign_key_check: {row} of {table} refers to no row of {parent} (its foreign key {key})"
        ))?;
    }
    Ok(if damage == ["ok"] && orphans.is_empty() {
        Outcome::Done
    } else {
        Outcome::Wrong
    })
}
