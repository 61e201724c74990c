//! The small file beside a database that says which lock protects it: writers with two different
//! locks would not exclude each other.
//!
//! It may be opened and closed outside SQLite: unlike the database it carries no locks.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::calls;
use crate::error::{ConfigError, LockName, Problem};

/// What is added to the database's name.
const SUFFIX: &str = "-lock-key";

/// The file of one database. It is never changed after its creation.
#[derive(Debug)]
pub(crate) struct KeyFile {
    database: PathBuf,
    path: PathBuf,
}

/// The lock with which a connection is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OwnLock<'a> {
    /// An item in a table.
    Item(&'a LockName),
    /// SQLite's file locks alone (`lock=local`), which match no such file and write none.
    Local,
}

/// The result of a look at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockIdMatch {
    /// There is none, or none that this host has seen yet.
    Absent,
    /// It names our own lock.
    Ours,
}

impl KeyFile {
    /// For the database at this path: the file that SQLite has opened, links resolved.
    pub(crate) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push(SUFFIX);
        Self {
            database: database.to_owned(),
            path: path.into(),
        }
    }

    /// Looks at the file, with the name as this host has it cached: the client of a network file
    /// system may miss a file that was created up to 30 s ago.
    ///
    /// # Errors
    /// [`ConfigError::OtherLock`] if another lock is named, [`ConfigError::Database`] if the file
    /// cannot be read or understood.
    pub(crate) fn look(&self, own: OwnLock<'_>) -> Result<LockIdMatch, ConfigError> {
        let unusable = |problem: &str| {
            Problem::new(format!(
                "{}, which says what lock protects it, {problem}",
                self.path.display()
            ))
        };
        let refused = |problem| ConfigError::Database {
            path: self.database.clone(),
            problem,
        };
        let text = (self.read())
            .map_err(|error| refused(unusable(&format!("cannot be read: {error}"))))?;
        let Some(text) = text else {
            return Ok(LockIdMatch::Absent);
        };
        let recorded = Recorded::parse(&text).ok_or_else(|| {
            refused(
                unusable("cannot be understood")
                    .with_remedy("delete it while no process has the database open"),
            )
        })?;
        match own {
            OwnLock::Item(own) if recorded.agrees_with(&Recorded::from(own)) => {
                Ok(LockIdMatch::Ours)
            }
            other => Err(ConfigError::OtherLock {
                path: self.database.clone(),
                recorded: recorded.describe(),
                configured: match other {
                    OwnLock::Item(own) => Recorded::from(own).describe(),
                    OwnLock::Local => "`lock=local`".to_owned(),
                },
                file: self.path.clone(),
            }),
        }
    }

    /// Creates the file, unless it exists: as a whole or not at all, durably.
    ///
    /// # Errors
    /// Those of the file system. Nothing is left behind then.
    pub(crate) fn create(&self, own: &LockName) -> io::Result<()> {
        let mut draft = OsString::from(&self.path);
        draft.push(format!(".{:08x}", Uuid::new_v4().as_fields().0));
        let draft = PathBuf::from(draft);
        let created = self.publish(&draft, &Recorded::from(own).text());
        match (calls::remove(&draft), created) {
            // Not even the draft was created.
            (Err(error), created) if error.kind() == ErrorKind::NotFound => created,
            (removed, created) => created.and(removed),
        }
    }

    /// A link is created atomically, and only if there is no file of that name yet.
    fn publish(&self, draft: &Path, text: &str) -> io::Result<()> {
        let mut file = calls::create_new(draft)?;
        calls::write_all(&mut file, text.as_bytes())?;
        // Readable by all, whatever this process's umask and group: a process that cannot read it
        // cannot open the database. Some file systems have no permissions to set.
        let _ = calls::set_mode(&file, 0o644);
        calls::sync(&file)?;
        match calls::hard_link(draft, &self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = match self.path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        calls::sync(&calls::open_directory(directory)?)
    }

    fn read(&self) -> io::Result<Option<String>> {
        /// Longer than the longest table and key with each character escaped.
        const LONGEST: u64 = 64 << 10;
        let file = match calls::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = calls::read(file, LONGEST)?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// A lock as written in the file, its parts escaped.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    table: String,
    key: String,
}

impl Recorded {
    const TABLE: &str = "table: ";
    const KEY: &str = "key: ";

    fn parse(text: &str) -> Option<Self> {
        let after = |name| text.lines().find_map(|line: &str| line.strip_prefix(name));
        Some(Self {
            table: after(Self::TABLE)?.to_owned(),
            key: after(Self::KEY)?.to_owned(),
        })
    }

    fn text(&self) -> String {
        format!(
            "# The lock that protects the database beside this file. All processes that write to it have to\n\
             # take the same. To change the lock, stop them all, delete this file, start them with the new one.\n\
             {}{}\n{}{}\n",
            Self::TABLE,
            self.table,
            Self::KEY,
            self.key
        )
    }

    /// Whether it may be the same lock. Where one side has the table's ARN and the other its name,
    /// the names are compared; account and region behind a bare name are unknown here.
    fn agrees_with(&self, other: &Self) -> bool {
        let name = |table: &str| table.rsplit('/').next().map(str::to_owned);
        let both_are_full = [self, other]
            .iter()
            .all(|lock| lock.table.starts_with("arn:"));
        self.key == other.key
            && (self.table == other.table
                || (!both_are_full && name(&self.table) == name(&other.table)))
    }

    fn describe(&self) -> String {
        format!("the lock key `{}` in the table `{}`", self.key, self.table)
    }
}

impl From<&LockName> for Recorded {
    fn from(lock: &LockName) -> Self {
        Self {
            table: one_line(&lock.table),
            key: one_line(&lock.key),
        }
    }
}

/// Escapes what would break a line, so that different texts stay different.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || character == '\\' {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A database in a directory of its own.
    struct Place {
        directory: TempDir,
        database: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let database = directory.path().join("app.db");
            fs::write(&database, b"").unwrap();
            Self {
                directory,
                database,
            }
        }

        fn lock(&self, table: &str, key: &str) -> LockName {
            LockName {
                database: self.database.clone(),
                key: key.to_owned(),
                table: table.to_owned(),
            }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(self.directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn whoever_creates_it_first_is_whom_it_names() {
        let place = Place::new();
        let file = KeyFile::beside(&place.database);
        let (ours, other) = (place.lock("locks", "a"), place.lock("locks", "b"));
        assert_eq!(file.look(OwnLock::Item(&ours)), Ok(LockIdMatch::Absent));
        assert_eq!(file.look(OwnLock::Local), Ok(LockIdMatch::Absent));
        file.create(&ours).unwrap();
        file.create(&other).unwrap();
        file.create(&ours).unwrap();
        assert_eq!(place.names(), ["app.db", "app.db-lock-key"]);
        assert_eq!(file.look(OwnLock::Item(&ours)), Ok(LockIdMatch::Ours));
        for (own, named) in [
            (
                OwnLock::Item(&other),
                "the lock key `b` in the table `locks`",
            ),
            (OwnLock::Local, "`lock=local`"),
        ] {
            let error = file.look(own).unwrap_err();
            assert!(matches!(error, ConfigError::OtherLock { .. }));
            let told = error.to_string();
            assert!(
                told.contains("the lock key `a` in the table `locks`"),
                "{told}"
            );
            assert!(told.contains(named), "{told}");
            assert!(told.contains("app.db-lock-key"), "{told}");
        }
    }

    #[test]
    fn what_cannot_be_created_leaves_nothing_behind() {
        let place = Place::new();
        let lock = place.lock("locks", "a");
        let nowhere = KeyFile::beside(Path::new("/no/such/directory/app.db"));
        assert!(nowhere.create(&lock).is_err());
        // The name is too long for its draft.
        let mut file = KeyFile::beside(&place.database);
        file.path = file.path.with_file_name("x".repeat(250));
        assert!(file.create(&lock).is_err());
        assert_eq!(place.names(), ["app.db"]);
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_the_remedy() {
        let place = Place::new();
        let file = KeyFile::beside(&place.database);
        for text in ["", "table: locks\n", "key: a\n"] {
            fs::write(&file.path, text).unwrap();
            let error = file.look(OwnLock::Local).unwrap_err().to_string();
            assert!(error.contains("delete it while no process"), "{error}");
        }
    }

    #[test]
    fn any_key_fits_into_its_line_and_differs_from_every_other() {
        let place = Place::new();
        let keys = ["a", " a", "a ", "a\nkey: b", "a\\nkey: b", "ä/% \u{85}", ""];
        for key in keys {
            let recorded = Recorded::from(&place.lock("locks", key));
            assert_eq!(
                Recorded::parse(&recorded.text()).as_ref(),
                Some(&recorded),
                "{key:?}"
            );
            let equal = keys
                .iter()
                .filter(|other| recorded.agrees_with(&Recorded::from(&place.lock("locks", other))));
            assert_eq!(equal.count(), 1, "{key:?}");
        }
    }

    #[test]
    fn a_table_may_be_named_or_given_in_full() {
        let place = Place::new();
        let lock = |table: &str| Recorded::from(&place.lock(table, "a"));
        let here = lock("arn:aws:dynamodb:eu-west-1:111122223333:table/locks");
        let elsewhere = lock("arn:aws:dynamodb:eu-west-2:111122223333:table/locks");
        assert!(lock("locks").agrees_with(&here) && here.agrees_with(&lock("locks")));
        assert!(here.agrees_with(&here) && !here.agrees_with(&elsewhere));
        assert!(!lock("others").agrees_with(&here) && !lock("others").agrees_with(&lock("locks")));
    }
}
