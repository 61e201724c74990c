//! What Diesel's migration harness has listed, so that a race for it can be told from a mistake.
//!
//! The harness reads which migrations are applied, and then applies the others one by one, with
//! nothing held in between. Of two processes that do so at once the second fails at what the first
//! has done: "table already exists". Its transaction is rolled back and nothing is applied twice,
//! but the error does not say what happened. Here it does.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::Text;
use diesel::sqlite::SqliteConnection;

/// The versions that were applied when the harness asked, kept as long as what the connection does
/// may be the harness's doing.
#[derive(Debug)]
pub(super) struct Listing {
    versions: Vec<String>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The harness will load the versions.
    Asked,
    /// It may begin a migration.
    Listed,
    /// In a transaction that may be a migration.
    Migrating,
    /// That transaction is committed.
    Committed,
}

impl Listing {
    /// The harness asks; `None` if nothing can be read.
    pub(super) fn begin(conn: &mut SqliteConnection) -> Option<Self> {
        Some(Self {
            versions: versions(conn)?,
            stage: Stage::Asked,
        })
    }

    /// A query outside a transaction: the harness makes one.
    pub(super) fn loaded(self) -> Option<Self> {
        (self.stage == Stage::Asked).then_some(Self {
            stage: Stage::Listed,
            ..self
        })
    }

    /// A transaction was begun.
    pub(super) fn begun(self) -> Option<Self> {
        (self.stage == Stage::Listed).then_some(Self {
            stage: Stage::Migrating,
            ..self
        })
    }

    /// A transaction has ended.
    pub(super) fn ended(self) -> Option<Self> {
        (self.stage == Stage::Committed).then_some(Self {
            stage: Stage::Listed,
            ..self
        })
    }

    /// The transaction is about to be committed, with the lock in hand if it has written: what it
    /// has recorded itself counts as listed.
    pub(super) fn committing(self, conn: &mut SqliteConnection) -> Option<Self> {
        if self.stage != Stage::Migrating {
            return None;
        }
        Some(Self {
            versions: versions(conn)?,
            stage: Stage::Committed,
        })
    }

    /// The error for a statement that failed because somebody else has changed the list.
    pub(super) fn explain(&self, error: Error, conn: &mut SqliteConnection) -> Error {
        use DatabaseErrorKind::SerializationFailure;
        let may_be_the_harness = matches!(self.stage, Stage::Listed | Stage::Migrating);
        let is_told_already = !matches!(&error, Error::DatabaseError(kind, _) if !matches!(kind, SerializationFailure));
        if !may_be_the_harness
            || is_told_already
            || versions(conn).is_none_or(|now| now == self.versions)
        {
            return error;
        }
        let message = format!(
            "another process has applied or reverted migrations since they were listed here, and what this one did is undone; run the pending ones again, or with `EfsSqliteConnection::run_migrations`, which lists them under the lock (SQLite says: {error})"
        );
        Error::DatabaseError(SerializationFailure, Box::new(message))
    }
}

/// What is recorded as applied now; `None` if it cannot be read.
fn versions(conn: &mut SqliteConnection) -> Option<Vec<String>> {
    let recorded = "SELECT version FROM __diesel_schema_migrations ORDER BY version";
    sql::<Text>(recorded).load(conn).ok()
}
