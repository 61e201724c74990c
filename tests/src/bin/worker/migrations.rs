//! Migrations from a directory, by our methods and by Diesel's harness as it is.

use std::error::Error;

use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::console::{Answer, Failure};

/// What a migration command comes to; `None` if `verb` is none. `directory` has the migrations.
pub(crate) fn run(conn: &mut EfsSqliteConnection, verb: &str, directory: &str) -> Option<Answer> {
    let source = || FileBasedMigrations::from_path(directory);
    let result = match verb {
        // Answers how many were applied.
        "migrate" => source()
            .map_err(Into::into)
            .and_then(|source| conn.run_migrations(source).map(|applied| applied.len())),
        "migrate-plainly" => source().map_err(Into::into).and_then(|source| {
            MigrationHarness::run_pending_migrations(conn, source).map(|applied| applied.len())
        }),
        _ => return None,
    };
    let failure = |error| failure(conn, error);
    Some(result.map(|count| count.to_string()).map_err(failure))
}

/// Diesel's error where there is one at the root.
fn failure(conn: &EfsSqliteConnection, error: Box<dyn Error + Send + Sync>) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Failure::of_diesel(error, conn.last_lock_error());
        }
        cause = error.source();
    }
    Failure::other(error)
}
