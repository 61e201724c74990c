//! Migrations under the lock: Diesel's harness, run as a whole under one lease.

use std::time::{Duration, Instant};

use diesel::migration::{Migration, MigrationSource, MigrationVersion, Result};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel::sqlite::Sqlite;
use diesel_migrations::MigrationHarness;

use super::EfsSqliteConnection;
use super::state::Pin;
use super::transaction_state::is_retryable;
use crate::error::LockError;
use crate::telemetry::events::MigrationEvents;

/// Migrations, each call under one lease. The page docs/migrations.md shows them at work.
///
/// Both of them:
/// - read what there is to do first without the lock, so that no lease is taken and no request sent
///   if there is nothing, and read it again with the lock in hand;
/// - wait for the lock for the setting `lock_migration_timeout`, 10 minutes by default, so that a
///   process that is at the same migrations has the time that they take; look meanwhile whether it
///   has done the work, and emit the event `migration.waiting` at first and then every 10 s;
/// - renew the lease while migrations run, up to the setting `lock_max_hold`;
/// - run each migration in a transaction of its own, unless its `metadata.toml` says
///   `run_in_transaction = false`: such a migration runs under the lease as well, but what it did
///   before it failed stays;
/// - emit the `tracing` events `migration.started`, `migration.applied`, `migration.reverted` and
///   `migration.failed` for each migration.
///
/// Inside a transaction they take no lease of their own: the transaction does when it first writes.
///
/// The methods of `diesel_migrations::MigrationHarness` work as well. They take the lock for each
/// migration by itself, so that two processes at once get into each other's way: put
/// [`with_write_lock`](Self::with_write_lock) around them.
impl EfsSqliteConnection {
    /// Brings the database's schema up to date: runs the migrations of `source` that it lacks, and
    /// returns their versions.
    ///
    /// Of many processes that start at once on a new version, one applies the migrations, and the
    /// others wait and find none left to apply.
    ///
    /// # Errors
    /// What a migration fails with, and those of [`with_write_lock`](Self::with_write_lock), each
    /// boxed as Diesel's. Those that are retryable (see the type's [errors](Self#errors)) may be
    /// tried again. A migration that failed is not recorded, and what it had done in its
    /// transaction is undone; those before it stay.
    pub fn run_migrations(
        &mut self,
        source: impl MigrationSource<Sqlite>,
    ) -> Result<Vec<MigrationVersion<'static>>> {
        under_lock(
            self,
            |conn| is_anything_pending(conn, &source),
            |harness| owned(harness.run_pending_migrations(Borrowed(&source))),
        )
    }

    /// Reverts the migrations that were applied last, as many as `number`, the last first, and
    /// returns their versions. `usize::MAX` reverts all.
    ///
    /// # Errors
    /// `diesel_migrations::MigrationError::UnknownMigrationVersion` if `source` does not have one
    /// of them; otherwise as [`run_migrations`](Self::run_migrations).
    pub fn revert_migrations(
        &mut self,
        source: impl MigrationSource<Sqlite>,
        number: usize,
    ) -> Result<Vec<MigrationVersion<'static>>> {
        under_lock(
            self,
            |conn| Ok(number > 0 && is_anything_applied(conn)?),
            |harness| {
                let applied = harness.applied_migrations()?.len();
                (0..number.min(applied))
                    .map(|_| harness.revert_last_migration(Borrowed(&source)))
                    .collect()
            },
        )
    }
}

/// Does `work` under one lease; not at all if nothing needs to be done, now or after a wait.
fn under_lock<T: Default>(
    conn: &mut EfsSqliteConnection,
    mut needed: impl FnMut(&mut EfsSqliteConnection) -> Result<bool>,
    work: impl FnOnce(&mut Told<'_>) -> Result<T>,
) -> Result<T> {
    match needed(conn) {
        Ok(false) => return Ok(T::default()),
        // Somebody writes just now: with the lock in hand it can be read.
        Err(error) if !may_try_again(&*error) => return Err(error),
        Ok(true) | Err(_) => {}
    }
    let _pin = if conn.state.transaction().depth().is_some() {
        None
    } else {
        let lock = conn.state.shared_lock();
        let mut progress = Progress::default();
        let pin = Pin::acquire_while(lock, |reason, waited| {
            progress.waiting(conn, reason, waited);
            // What cannot be read now is wanted: it fails again, with the lock in hand.
            !matches!(needed(conn), Ok(false))
        });
        match conn.state.report_acquisition(&mut conn.inner, pin)? {
            Some(pin) => Some(pin),
            None => return Ok(T::default()),
        }
    };
    work(&mut Told(conn))
}

/// What is told of a wait.
#[derive(Debug, Default)]
struct Progress {
    told: Option<Duration>,
}

impl Progress {
    /// It was waited so long, and there is still no lease, for this reason.
    fn waiting(&mut self, conn: &EfsSqliteConnection, reason: &LockError, waited: Duration) {
        const PERIOD: Duration = Duration::from_secs(10);
        if self.told.is_some_and(|told| waited < told + PERIOD) {
            return;
        }
        self.told = Some(waited);
        if let Some(lock) = conn.state.lock() {
            let held_by = match reason {
                LockError::Busy { holder, .. } => holder.as_ref(),
                _ => None,
            };
            let key = &lock.lock_name().key;
            lock.client().events(key).migration_waiting(waited, held_by);
        }
    }
}

fn may_try_again(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    (error.downcast_ref::<diesel::result::Error>()).is_some_and(is_retryable)
}

/// Reads only: Diesel would create its table of migrations for the answer.
fn is_anything_pending<S: MigrationSource<Sqlite>>(
    conn: &mut EfsSqliteConnection,
    source: &S,
) -> Result<bool> {
    if has_migrations_table(conn)? {
        conn.has_pending_migration(Borrowed(source))
    } else {
        Ok(!source.migrations()?.is_empty())
    }
}

fn is_anything_applied(conn: &mut EfsSqliteConnection) -> Result<bool> {
    let has_rows =
        diesel::dsl::sql::<Bool>("SELECT EXISTS (SELECT 1 FROM __diesel_schema_migrations)");
    Ok(has_migrations_table(conn)? && has_rows.get_result(conn)?)
}

fn has_migrations_table(conn: &mut EfsSqliteConnection) -> QueryResult<bool> {
    let has_table = diesel::dsl::sql::<Bool>(
        "SELECT count(*) FROM sqlite_master WHERE name = '__diesel_schema_migrations'",
    );
    has_table.get_result(conn)
}

fn owned(versions: Result<Vec<MigrationVersion<'_>>>) -> Result<Vec<MigrationVersion<'static>>> {
    Ok(versions?.iter().map(MigrationVersion::as_owned).collect())
}

/// Diesel returns the error of a migration's statement in a type of its own that is not public and
/// has no source. Where the lock is the cause, callers get the lock's error itself: its kind says
/// whether to try again.
fn unhidden(conn: &EfsSqliteConnection, error: BoxedError) -> BoxedError {
    match conn.lock_failure() {
        Some(cause) if !error.is::<diesel::result::Error>() => {
            diesel::result::Error::from(cause.clone()).into()
        }
        _ => error,
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Diesel's harness, with an event for each migration.
struct Told<'a>(&'a mut EfsSqliteConnection);

impl Told<'_> {
    fn tell(
        &mut self,
        migration: &dyn Migration<Sqlite>,
        direction: &'static str,
        change: impl FnOnce(&mut EfsSqliteConnection) -> Result<MigrationVersion<'static>>,
    ) -> Result<MigrationVersion<'static>> {
        let lock = self.0.state.lock();
        let key = lock.map(|lock| lock.lock_name().key.clone());
        let name = migration.name().to_string();
        let events = MigrationEvents {
            key: key.as_deref(),
            migration: &name,
            direction,
        };
        let began = Instant::now();
        events.started();
        let result = change(self.0);
        match &result {
            Ok(_) if direction == "up" => events.applied(began.elapsed()),
            Ok(_) => events.reverted(began.elapsed()),
            Err(_) => events.failed(began.elapsed()),
        }
        result.map_err(|error| unhidden(self.0, error))
    }
}

impl MigrationHarness<Sqlite> for Told<'_> {
    fn run_migration(
        &mut self,
        migration: &dyn Migration<Sqlite>,
    ) -> Result<MigrationVersion<'static>> {
        self.tell(migration, "up", |conn| conn.run_migration(migration))
    }

    fn revert_migration(
        &mut self,
        migration: &dyn Migration<Sqlite>,
    ) -> Result<MigrationVersion<'static>> {
        self.tell(migration, "down", |conn| conn.revert_migration(migration))
    }

    fn applied_migrations(&mut self) -> Result<Vec<MigrationVersion<'static>>> {
        self.0.applied_migrations()
    }
}

/// A source that is read more than once.
struct Borrowed<'a, S>(&'a S);

impl<S: MigrationSource<Sqlite>> MigrationSource<Sqlite> for Borrowed<'_, S> {
    fn migrations(&self) -> Result<Vec<Box<dyn Migration<Sqlite>>>> {
        self.0.migrations()
    }
}
