//! The database and the lock of a command.

use std::path::{Path, PathBuf};

use diesel_sqlite_efs::admin::{EffectiveSettings, LockTable, check_lock_key_file};
use diesel_sqlite_efs::{ConfigError, EfsConfig, LockName, Problem};

use crate::failure::Failure;

/// A database file and the settings of a connection to it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: EfsConfig,
    pub(crate) settings: EffectiveSettings,
    /// As given.
    pub(crate) path: PathBuf,
}

impl Target {
    /// From the URL and the environment, as a connection resolves them.
    pub(crate) fn new(url: &str) -> Result<Self, ConfigError> {
        let config = EfsConfig::from_url(url)?;
        let settings = EffectiveSettings::of(&config)?;
        match settings.path.clone() {
            Some(path) => Ok(Self {
                config,
                settings,
                path,
            }),
            None => Err(ConfigError::invalid_url(
                url,
                Problem::new("a database in memory, or a temporary one, has no lock")
                    .with_remedy("give a file"),
            )),
        }
    }

    /// The lock's name; `None` with `lock=local`.
    pub(crate) fn lock(&self) -> Option<&LockName> {
        self.settings.lock.as_ref()
    }

    /// The lock and its table, for commands that need a lock table.
    ///
    /// # Errors
    /// With `lock=local`, and if another lock protects the database.
    pub(crate) fn table(&self) -> Result<(&LockName, LockTable), Failure> {
        let Some(lock) = self.lock() else {
            let problem = "`lock=local` is set: SQLite's file locks alone, no lock table";
            return Err(Failure::Usage(problem.to_owned()));
        };
        if let Some(file) = self.file() {
            check_lock_key_file(&file, Some(lock))?;
        }
        Ok((lock, LockTable::new(&lock.table)))
    }

    /// The file that SQLite would open, links resolved; `None` if this host cannot find it.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.path.canonicalize().ok()
    }

    /// Checks that the file exists, for commands that would be useless on a file that they create.
    pub(crate) fn must_exist(&self) -> Result<(), Failure> {
        if self.path.exists() {
            return Ok(());
        }
        Err(Failure::Broken(missing(&self.path)))
    }
}

/// The text for a file that does not exist.
fn missing(path: &Path) -> String {
    format!(
        "there is no file {}; check the path, and whether the file system is mounted",
        path.display()
    )
}
