//! `efs-sqlite migrate`: a directory of migrations, run and reverted under one lease.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use diesel::dsl::sql;
use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel::sqlite::Sqlite;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use diesel_sqlite_efs::EfsSqliteConnection;
use diesel_sqlite_efs::admin::error_chain;

use crate::args::{Action, Database, Migrate, Revert};
use crate::failure::{Failure, Outcome, failure_of};
use crate::output::{Output, counted};
use crate::target::Target;

pub(crate) fn run(args: &Migrate, output: &Output) -> Result<Outcome, Failure> {
    let directory = args.migration_dir.as_deref();
    match &args.action {
        Action::Run(database) => run_pending(&source(directory)?, database, output),
        Action::Revert(revert) => {
            let reversal = Reversal::new(revert, false);
            reversal.run(&source(directory)?, output)
        }
        Action::Redo(revert) => {
            let reversal = Reversal::new(revert, true);
            reversal.run(&source(directory)?, output)
        }
        Action::Pending(database) => list_pending(&source(directory)?, database, output),
    }
}

/// The given directory, or the one that Diesel's command-line tool would find.
fn source(directory: Option<&Path>) -> Result<FileBasedMigrations, Failure> {
    let found = match directory {
        Some(directory) => FileBasedMigrations::from_path(directory)
            .map_err(|error| format!("no migrations in {}: {error}", directory.display())),
        None => FileBasedMigrations::find_migrations_directory().map_err(|_| {
            "no directory `migrations` here or above; give --migration-dir".to_owned()
        }),
    };
    found.map_err(Failure::Usage)
}

fn run_pending(
    source: &FileBasedMigrations,
    database: &Database,
    output: &Output,
) -> Result<Outcome, Failure> {
    let target = Target::new(database.url()?)?;
    let mut conn = EfsSqliteConnection::connect(&target.config)?;
    // First without the lock: no request is sent if nothing is pending.
    if pending(&mut conn, source)?.is_empty() {
        output.line("no migration is pending")?;
        return Ok(Outcome::Done);
    }
    let count = locked(&mut conn, |conn| {
        // Another process may have run them by now.
        let pending = conn.pending_migrations(source.clone())?;
        for migration in &pending {
            report("running", migration.as_ref(), output, |migration| {
                conn.run_migration(migration)
            })?;
        }
        Ok(pending.len())
    })?;
    output.line(&format!("{} run", counted(count, "migration")))?;
    Ok(Outcome::Done)
}

fn list_pending(
    source: &FileBasedMigrations,
    database: &Database,
    output: &Output,
) -> Result<Outcome, Failure> {
    let target = Target::new(database.url()?)?;
    target.must_exist()?;
    let mut conn = EfsSqliteConnection::connect(&target.config)?;
    let pending = pending(&mut conn, source)?;
    for name in &pending {
        output.line(name)?;
    }
    Ok(if pending.is_empty() {
        Outcome::Done
    } else {
        Outcome::Wrong
    })
}

/// The names of the migrations that have not been run, in order. Only reads; Diesel would create
/// its table first.
fn pending(
    conn: &mut EfsSqliteConnection,
    source: &FileBasedMigrations,
) -> Result<Vec<String>, Failure> {
    let applied = match applied(conn) {
        Ok(applied) => applied,
        Err(error) => return Err(failure_of(conn, &error)),
    };
    let migrations: Vec<Box<dyn Migration<Sqlite>>> =
        (source.migrations()).map_err(|error| Failure::Broken(error.to_string()))?;
    let mut pending: Vec<_> = (migrations.iter())
        .filter(|migration| !applied.contains(&migration.name().version()))
        .collect();
    pending.sort_by_key(|migration| migration.name().version().as_owned());
    Ok(pending.iter().map(|it| it.name().to_string()).collect())
}

fn applied(conn: &mut EfsSqliteConnection) -> QueryResult<HashSet<MigrationVersion<'static>>> {
    let has_table =
        sql::<Bool>("SELECT count(*) FROM sqlite_master WHERE name = '__diesel_schema_migrations'");
    if !has_table.get_result(conn)? {
        return Ok(HashSet::new());
    }
    let versions = sql::<Text>("SELECT version FROM __diesel_schema_migrations");
    let versions: Vec<MigrationVersion<'static>> = versions.load(conn)?;
    Ok(versions.into_iter().collect())
}

/// Reverts the last migrations, and runs them again on request.
struct Reversal<'a> {
    database: &'a Database,
    /// `None` is all.
    number: Option<usize>,
    again: bool,
}

impl<'a> Reversal<'a> {
    fn new(args: &'a Revert, again: bool) -> Self {
        let number = usize::try_from(args.number).unwrap_or(usize::MAX);
        Self {
            database: &args.database,
            number: Some(number).filter(|_| !args.all),
            again,
        }
    }

    fn run(&self, source: &FileBasedMigrations, output: &Output) -> Result<Outcome, Failure> {
        let target = Target::new(self.database.url()?)?;
        target.must_exist()?;
        let mut conn = EfsSqliteConnection::connect(&target.config)?;
        let count = locked(&mut conn, |conn| {
            let chosen = self.choose(conn, source)?;
            for migration in &chosen {
                report("reverting", migration.as_ref(), output, |migration| {
                    conn.revert_migration(migration)
                })?;
            }
            if self.again {
                for migration in chosen.iter().rev() {
                    report("running", migration.as_ref(), output, |migration| {
                        conn.run_migration(migration)
                    })?;
                }
            }
            Ok(chosen.len())
        })?;
        let done = if self.again { "redone" } else { "reverted" };
        output.line(&format!("{} {done}", counted(count, "migration")))?;
        Ok(Outcome::Done)
    }

    /// The migrations to revert, the last one first: all are found before any is reverted.
    fn choose(
        &self,
        conn: &mut EfsSqliteConnection,
        source: &FileBasedMigrations,
    ) -> Result<Vec<Box<dyn Migration<Sqlite>>>, WorkError> {
        let mut known: Vec<Box<dyn Migration<Sqlite>>> = source.migrations()?;
        let applied = conn.applied_migrations()?;
        if applied.is_empty() {
            return Err("no migration has been run".into());
        }
        let number = self.number.unwrap_or(applied.len());
        (applied.into_iter().take(number))
            .map(|version| {
                let found = known.iter().position(|it| it.name().version() == version);
                found.map(|index| known.swap_remove(index)).ok_or_else(|| {
                    WorkError::from(format!(
                        "migration {version} has been run and is not in the directory; nothing was reverted"
                    ))
                })
            })
            .collect()
    }
}

/// Does `work`, and prints what is being done and how long it took. The work continues if the
/// output cannot be written.
fn report<T>(
    what: &str,
    migration: &dyn Migration<Sqlite>,
    output: &Output,
    work: impl FnOnce(&dyn Migration<Sqlite>) -> diesel::migration::Result<T>,
) -> Result<(), WorkError> {
    let name = migration.name().to_string();
    let _ = output.line(&format!("{what} {name}"));
    let started = Instant::now();
    match work(migration) {
        Ok(_) => {
            let _ = output.line(&format!("  done in {} ms", started.elapsed().as_millis()));
            Ok(())
        }
        Err(error) => Err(WorkError(format!(
            "{what} {name}: {}",
            error_chain(&*error)
        ))),
    }
}

/// Does the work under one lease.
fn locked<T>(
    conn: &mut EfsSqliteConnection,
    work: impl FnOnce(&mut EfsSqliteConnection) -> Result<T, WorkError>,
) -> Result<T, Failure> {
    conn.with_write_lock(work)
        .map_err(|error| failure_of(conn, &error))
}

/// Any error that ends the work under the lock, as text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WorkError(String);

impl From<diesel::result::Error> for WorkError {
    fn from(error: diesel::result::Error) -> Self {
        Self(error_chain(&error))
    }
}

impl From<Box<dyn Error + Send + Sync>> for WorkError {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self(error_chain(&*error))
    }
}

impl From<String> for WorkError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for WorkError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
