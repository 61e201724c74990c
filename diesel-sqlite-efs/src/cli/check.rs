//! `efs-sqlite check`: whether the database is whole.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::args::Database;
use super::failure::{Failure, Outcome};
use super::output::Output;
use super::target::Target;
use crate::connection::EfsSqliteConnection;

/// A row of `PRAGMA foreign_key_check`: table, rowid, the table that it refers to, which key.
type Orphan = (String, Option<i64>, String, i64);

pub(super) fn run(args: &Database, output: &Output) -> Result<Outcome, Failure> {
    let target = Target::new(args.url()?)?;
    target.must_exist()?;
    let mut conn = EfsSqliteConnection::connect(&target.config)?;
    // With the lock nobody begins a commit that would wait for this long read.
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

/// What the lock made of a failure, where it was the cause.
pub(super) fn failure_of(conn: &EfsSqliteConnection, error: &dyn std::error::Error) -> Failure {
    let text = crate::error::chain(error);
    match conn.last_lock_error() {
        Some(lock) if text.contains(&lock.to_string()) => lock.clone().into(),
        _ => Failure::Broken(text),
    }
}
