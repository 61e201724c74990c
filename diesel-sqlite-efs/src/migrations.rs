//! Migrations under the lock.

use diesel::migration::{Migration, MigrationSource, MigrationVersion, Result};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel::sqlite::Sqlite;
use diesel_migrations::MigrationHarness;

use crate::connection::EfsSqliteConnection;

/// Runs what is pending, under one lease; asks for none if nothing is.
pub(crate) fn run<S: MigrationSource<Sqlite>>(
    conn: &mut EfsSqliteConnection,
    source: S,
) -> Result<Vec<MigrationVersion<'static>>> {
    if !is_anything_pending(conn, &source)? {
        return Ok(Vec::new());
    }
    let versions = conn.with_write_lock(|conn| {
        let versions = conn.run_pending_migrations(Borrowed(&source))?;
        Ok::<_, Failure>(versions.iter().map(MigrationVersion::as_owned).collect())
    });
    versions.map_err(|Failure(error)| error)
}

/// Reads only: Diesel would create its table of migrations for the answer.
fn is_anything_pending<S: MigrationSource<Sqlite>>(
    conn: &mut EfsSqliteConnection,
    source: &S,
) -> Result<bool> {
    let has_table = diesel::dsl::sql::<Bool>(
        "SELECT count(*) FROM sqlite_master WHERE name = '__diesel_schema_migrations'",
    );
    if has_table.get_result(conn)? {
        conn.has_pending_migration(Borrowed(source))
    } else {
        Ok(!source.migrations()?.is_empty())
    }
}

/// A source that is read more than once.
struct Borrowed<'a, S>(&'a S);

impl<S: MigrationSource<Sqlite>> MigrationSource<Sqlite> for Borrowed<'_, S> {
    fn migrations(&self) -> Result<Vec<Box<dyn Migration<Sqlite>>>> {
        self.0.migrations()
    }
}

/// Whatever a migration fails with, as the error of a closure under the lock.
struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self(Box::new(error))
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Failure {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(error)
    }
}
