//! The database file, its file system, and the lock key file beside it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diesel_sqlite_efs::admin::{
    FileAccess, access_problem, check_lock_key_file, leftover_wal, network_file_system,
};
use diesel_sqlite_efs::{ConfigError, Problem};

use super::header::{self, Content, Header};
use super::mounts;
use crate::output::Finding;
use crate::target::Target;

/// Examines the files, and returns the one that SQLite would open; `None` if there is none.
pub(super) fn examine(target: &Target, findings: &mut Vec<Finding>) -> Option<PathBuf> {
    let network = match network_file_system(&target.path) {
        Ok(network) => network,
        Err(error) => {
            let problem = access_problem(&target.path, false).unwrap_or_else(|| {
                Problem::new(format!("its file system cannot be examined: {error}"))
                    .with_remedy("check the path")
            });
            findings.push(Finding::problem("database", &problem));
            return None;
        }
    };
    let file = target.file();
    findings.push(database(target, file.as_deref()));
    let on = (file.clone()).or_else(|| directory(&target.path).canonicalize().ok());
    findings.push(mounts::examine(
        on.as_deref(),
        network.map(|network| network.to_string()).as_deref(),
        target.lock().is_none(),
    ));
    if file.as_deref().is_none_or(Path::is_file) {
        findings.extend(access(target, file.as_deref()));
    }
    if let Some(file) = file.as_deref().filter(|file| file.is_file()) {
        findings.extend(content(file));
        findings.push(key_file(target, file));
    }
    file
}

fn database(target: &Target, file: Option<&Path>) -> Finding {
    const NAME: &str = "database";
    let Some(file) = file else {
        return Finding::warning(
            NAME,
            format!("there is no file {}", target.path.display()),
            "nothing, if it is yet to be created: the first connection does that; else check the path",
        );
    };
    let metadata = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => {
            let text = format!("{} is not a file", file.display());
            return Finding::failure(NAME, text, "give the path of the database file");
        }
        Err(error) => {
            let text = format!("{} cannot be examined: {error}", file.display());
            return Finding::failure(NAME, text, "give this user the right to look at it");
        }
    };
    if metadata.nlink() > 1 {
        return Finding::failure(
            NAME,
            format!(
                "{} has {} names (hard links), and each would have a journal of its own",
                file.display(),
                metadata.nlink()
            ),
            "delete all names but the one that is used",
        );
    }
    let link = match file == target.path {
        true => String::new(),
        false => format!(", given as {}", target.path.display()),
    };
    Finding::ok(
        NAME,
        format!("{}, {} bytes{link}", file.display(), metadata.len()),
    )
}

fn access(target: &Target, file: Option<&Path>) -> Option<Finding> {
    const NAME: &str = "access";
    let access = target.settings.access;
    if access == FileAccess::ReadOnly {
        let text = "`mode=ro` in the URL: this connection only reads";
        return Some(Finding::ok(NAME, text));
    }
    match access_problem(&target.path, access == FileAccess::ReadWriteCreate) {
        Some(problem) => Some(Finding::problem(NAME, &problem)),
        None => file.map(|_| {
            let text = "this user may write the database, and create files in its directory";
            Finding::ok(NAME, text)
        }),
    }
}

fn content(file: &Path) -> Vec<Finding> {
    const NAME: &str = "journal mode";
    if let Some(problem) = leftover_wal(file) {
        return vec![Finding::problem(NAME, &problem)];
    }
    let header = match header::content(file) {
        Ok(Content::Database(header)) => header,
        Ok(Content::Empty) => {
            return vec![Finding::ok("content", "empty: a database without tables")];
        }
        Ok(Content::Other) => {
            return vec![Finding::failure(
                "content",
                "it is not a SQLite database, or it is encrypted",
                "check the path",
            )];
        }
        Err(error) => {
            let text = format!("it cannot be read: {error}");
            return vec![Finding::failure(
                "content",
                text,
                "give this user the right to read it",
            )];
        }
    };
    let mode = if header.is_write_ahead_log {
        Finding::failure(
            NAME,
            "WAL, which needs memory shared by all its users and cannot work across hosts",
            "convert it on one host, while no process uses it: `sqlite3 FILE 'PRAGMA journal_mode=DELETE'`",
        )
    } else {
        Finding::ok(NAME, "a rollback journal (DELETE)")
    };
    vec![mode, version(file, &header)]
}

fn version(file: &Path, header: &Header) -> Finding {
    const NAME: &str = "content";
    let Some(pages) = header.pages else {
        let text = format!(
            "change counter {}, pages of {} bytes; last written by a SQLite older than 3.7",
            header.change_counter, header.page_size
        );
        return Finding::ok(NAME, text);
    };
    let text = format!(
        "change counter {}, {pages} pages of {} bytes",
        header.change_counter, header.page_size
    );
    let expected = u64::from(pages) * u64::from(header.page_size);
    match file.metadata() {
        // The file may be shorter, or longer in mid-commit: only a check can decide.
        Ok(metadata) if metadata.len() < expected => Finding::warning(
            NAME,
            format!("{text}, but the file has only {} bytes", metadata.len()),
            "if this persists while no process writes, the file is truncated: run `efs-sqlite check`",
        ),
        _ => Finding::ok(NAME, text),
    }
}

fn key_file(target: &Target, file: &Path) -> Finding {
    const NAME: &str = "lock key";
    match check_lock_key_file(file, target.lock()) {
        Ok(true) => Finding::ok(NAME, "the file beside the database names this lock"),
        Ok(false) => Finding::ok(NAME, "no file beside the database names a lock yet"),
        Err(error @ ConfigError::OtherLock { .. }) => Finding::failure(
            NAME,
            error.problem().cause(),
            "set the same lock as the others; how to change it for all: README, The lock table",
        ),
        Err(error) => Finding::problem(NAME, &error.problem()),
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
