//! Why the database's files cannot be used: SQLite says it in few words, the files tell the rest.
//!
//! Nothing is opened for that: closing a descriptor of the database would drop SQLite's locks.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::error::Problem;
use crate::files::file_version::FileFormat;

const CONVERT: &str = "convert it on one host, while nobody uses it, with `sqlite3 FILE 'PRAGMA journal_mode=DELETE'`";

/// The cause and the remedy behind an error message of SQLite's (<https://sqlite.org/rescode.html>),
/// where looking at the files finds any.
pub(super) fn diagnose(message: &str, path: &Path, format: Option<FileFormat>) -> Option<Problem> {
    match (message, format) {
        ("unable to open database file", Some(FileFormat::WriteAheadLog)) => Some(
            Problem::new(
                "it is in WAL mode, which needs memory shared by all its users and cannot work across hosts",
            )
            .with_remedy(CONVERT),
        ),
        ("file is not a database", _) => Some(
            Problem::new("it is not a SQLite database, or it is encrypted")
                .with_remedy("check the path"),
        ),
        ("unable to open database file", _) => {
            leftover_log(path).or_else(|| obstacle(path, false))
        }
        ("attempt to write a readonly database", _) => obstacle(path, false).or_else(|| {
            Some(
                Problem::new(
                    "the connection can only read it: `mode=ro` is set, or the file could not be written when it was opened",
                )
                .with_remedy("open a new connection"),
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
pub(crate) fn leftover_log(path: &Path) -> Option<Problem> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    log.exists().then(|| {
        Problem::new(format!(
            "a write-ahead log ({}) stands beside it, so it is or was in WAL mode, which cannot work across hosts",
            log.display()
        ))
        .with_remedy(CONVERT)
    })
}

/// What keeps this process from reading and writing the database and from creating its journal. A
/// file that is not there is no obstacle if it `may_be_created` and its directory allows it.
pub(crate) fn obstacle(path: &Path, may_be_created: bool) -> Option<Problem> {
    let directory = directory_of(path);
    match directory.metadata() {
        _ if path.is_dir() => {
            return Some(
                Problem::new("it is a directory").with_remedy("give the path of the file in it"),
            );
        }
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Some(format!("{} is not a directory", directory.display()).into()),
        Err(error) => {
            let cause = format!(
                "its directory {} cannot be used ({error})",
                directory.display()
            );
            return Some(Problem::new(cause).with_remedy("is the file system mounted?"));
        }
    }
    let closed_directory = || refused(&directory, Access::WRITE_OK | Access::EXEC_OK);
    let shown = directory.display();
    match refused(path, Access::READ_OK) {
        Some(Errno::NOENT) => match closed_directory() {
            Some(refusal) => Some(refusal_of(
                format!("it does not exist, and cannot be created because its directory {shown} cannot be written to"),
                refusal,
            )),
            None if may_be_created => None,
            None => Some("it does not exist, and `mode` in the URL keeps it from being created".into()),
        },
        Some(refusal) => Some(refusal_of("it cannot be read".to_owned(), refusal)),
        None => match refused(path, Access::WRITE_OK) {
            Some(refusal) => Some(refusal_of("it cannot be written to".to_owned(), refusal)),
            None => closed_directory().map(|refusal| {
                refusal_of(
                    format!("its directory {shown}, where the rollback journal goes, cannot be written to"),
                    refusal,
                )
            }),
        },
    }
}

/// How the kernel refuses this access to the effective user, as it would in `open`.
fn refused(path: &Path, access: Access) -> Option<Errno> {
    let refusal = accessat(CWD, path, access, AtFlags::EACCESS).err()?;
    // Nothing is known where the kernel does not answer.
    (refusal != Errno::NOSYS).then_some(refusal)
}

fn refusal_of(what: String, refusal: Errno) -> Problem {
    let problem = Problem::new(format!("{what}: {}", io::Error::from(refusal)));
    match refusal {
        Errno::ACCESS | Errno::PERM => problem.with_remedy(
            "give the right to this process's user, on EFS the access point's POSIX user",
        ),
        Errno::ROFS => problem.with_remedy("mount the file system for writing, or only read"),
        _ => problem,
    }
}
