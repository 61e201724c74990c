//! Which database and which lock a command is about.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::config::url::Database;
use crate::config::{EfsConfig, Settings, StoreChoice};
use crate::error::{ConfigError, LockName};
use crate::store::DynamoDbLockStore;
use crate::vfs::inspect;

/// A database file and the settings of a connection to it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) config: EfsConfig,
    pub(super) settings: Settings,
    /// As given.
    pub(super) path: PathBuf,
}

impl Target {
    /// By URL and environment, as a connection would have it.
    pub(super) fn new(url: &str) -> Result<Self, ConfigError> {
        let config = EfsConfig::from_url(url)?;
        let settings = config.resolve()?;
        match &settings.database {
            Database::File { path, .. } => Ok(Self {
                path: path.clone(),
                config,
                settings,
            }),
            Database::Memory { .. } => Err(ConfigError::InvalidUrl {
                url: url.to_owned(),
                problem: "a database in memory, or a temporary one, has no lock; give a file"
                    .to_owned(),
            }),
        }
    }

    /// The lock's name; `None` with `lock=local`.
    pub(super) fn lock(&self) -> Option<LockName> {
        match &self.settings.store {
            StoreChoice::DynamoDb { table } => Some(LockName {
                database: self.path.clone(),
                key: self.settings.key.clone(),
                table: table.clone(),
            }),
            // The third kind is given by a method only.
            StoreChoice::Local | StoreChoice::Custom(_) => None,
        }
    }

    /// The lock and its table, for commands that are about nothing else.
    ///
    /// # Errors
    /// With `lock=local`, and where the database is protected by another lock.
    pub(super) fn table(&self) -> Result<(LockName, DynamoDbLockStore), Failure> {
        let Some(lock) = self.lock() else {
            let problem = "`lock=local` is set: SQLite's file locks alone, no lock table";
            return Err(Failure::Usage(problem.to_owned()));
        };
        if let Some(file) = self.file() {
            inspect::agrees_with_key_file(&file, Some(&lock))?;
        }
        let store = DynamoDbLockStore::new(&lock.table);
        Ok((lock, store))
    }

    /// The file that SQLite would open, links resolved; `None` if it is not to be found from here.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.path.canonicalize().ok()
    }

    /// That there is a file, for commands that would be of no use on one that they create.
    pub(super) fn must_exist(&self) -> Result<(), Failure> {
        if self.path.exists() {
            return Ok(());
        }
        Err(Failure::Broken(missing(&self.path)))
    }
}

/// What there is to say of a file that is not there.
fn missing(path: &Path) -> String {
    format!(
        "there is no file {}; check the path, and whether the file system is mounted",
        path.display()
    )
}
