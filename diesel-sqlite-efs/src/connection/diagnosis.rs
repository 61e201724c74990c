//! Why the database's files cannot be used: SQLite says it in few words, the files tell the rest.
//!
//! Nothing is opened for that: closing a descriptor of the database would drop SQLite's locks.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::vfs::gate::FileFormat;

/// The cause and the remedy behind an error message of SQLite's (<https://sqlite.org/rescode.html>),
/// where looking at the files finds any.
pub(super) fn diagnose(message: &str, path: &Path, format: Option<FileFormat>) -> Option<String> {
    match (message, format) {
        ("unable to open database file", Some(FileFormat::WriteAheadLog)) => Some(
            "it is in WAL mode, which needs memory shared by all its users and cannot work across hosts; convert it on one host, while nobody uses it, with `sqlite3 FILE 'PRAGMA journal_mode=DELETE'`".to_owned(),
        ),
        ("file is not a database", _) => {
            Some("it is not a SQLite database, or it is encrypted; check the path".to_owned())
        }
        ("unable to open database file", _) => leftover_log(path).or_else(|| obstacle(path)),
        ("attempt to write a readonly database", _) => obstacle(path).or_else(|| {
            Some(
                "the connection can only read it: `mode=ro` is set, or the file could not be written when it was opened; open a new connection".to_owned(),
            )
        }),
        _ => None,
    }
}

/// The directory that holds the database and its journal.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// SQLite takes no lock for reading before it has looked at a write-ahead log, whatever mode the
/// database is in.
pub(crate) fn leftover_log(path: &Path) -> Option<String> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    log.exists().then(|| {
        format!(
            "a write-ahead log ({}) stands beside it, so it is or was in WAL mode, which cannot work across hosts; convert it on one host, while nobody uses it, with `sqlite3 FILE 'PRAGMA journal_mode=DELETE'`",
            log.display()
        )
    })
}

/// What keeps this process from reading and writing the database and from creating its journal.
pub(crate) fn obstacle(path: &Path) -> Option<String> {
    let directory = directory_of(path);
    match directory.metadata() {
        _ if path.is_dir() => {
            return Some("it is a directory; give the path of the file in it".to_owned());
        }
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Some(format!("{} is not a directory", directory.display())),
        Err(error) => {
            return Some(format!(
                "its directory {} cannot be used ({error}); is the file system mounted?",
                directory.display()
            ));
        }
    }
    let refused = |path: &Path, access: Access| {
        // By the effective user, as `open` asks for.
        let refusal = accessat(CWD, path, access, AtFlags::EACCESS).err()?;
        // Nothing is known where the kernel does not answer.
        (refusal != Errno::NOSYS).then_some(refusal)
    };
    let closed_directory = || {
        let refusal = refused(&directory, Access::WRITE_OK | Access::EXEC_OK)?;
        Some((directory.display(), Refusal(refusal)))
    };
    match refused(path, Access::READ_OK) {
        Some(Errno::NOENT) => Some(match closed_directory() {
            Some((directory, refusal)) => format!(
                "it does not exist, and cannot be created because its directory {directory} cannot be written to: {refusal}"
            ),
            None => "it does not exist, and `mode` in the URL keeps it from being created".to_owned(),
        }),
        Some(refusal) => Some(format!("it cannot be read: {}", Refusal(refusal))),
        None => match refused(path, Access::WRITE_OK) {
            Some(refusal) => Some(format!("it cannot be written to: {}", Refusal(refusal))),
            None => closed_directory().map(|(directory, refusal)| {
                format!(
                    "its directory {directory}, where the rollback journal goes, cannot be written to: {refusal}"
                )
            }),
        },
    }
}

/// Why the system refuses, and what to do.
struct Refusal(Errno);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from(self.0))?;
        f.write_str(match self.0 {
            Errno::ACCESS | Errno::PERM => {
                "; give the right to this process's user, on EFS the access point's POSIX user"
            }
            Errno::ROFS => "; mount the file system for writing, or only read",
            _ => "",
        })
    }
}
