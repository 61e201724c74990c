//! A directory for one test, with a place for its database; deleted at the end.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary directory that is deleted, with all that is in it, when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    database: PathBuf,
}

impl Scratch {
    /// A new, empty directory below the system's directory for temporary files.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn new() -> io::Result<Self> {
        Ok(Self::of(Self::builder().tempdir()?))
    }

    /// The same in memory where there is such a file system: for many small cases, each of which
    /// would wait for the disk.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn in_memory() -> io::Result<Self> {
        match Self::builder().tempdir_in("/dev/shm") {
            Ok(directory) => Ok(Self::of(directory)),
            // Not everywhere is there one, and not everyone may write to it.
            Err(_) => Self::new(),
        }
    }

    fn builder() -> tempfile::Builder<'static, 'static> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("efs-sqlite-");
        builder
    }

    fn of(directory: TempDir) -> Self {
        let database = directory.path().join("database.sqlite3");
        Self {
            directory,
            database,
        }
    }

    /// Where the test's database goes; nothing is there yet.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The database's rollback journal, as SQLite names it.
    pub fn journal(&self) -> PathBuf {
        let mut name = self.database.clone().into_os_string();
        name.push("-journal");
        name.into()
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a file of this name would be.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }
}
