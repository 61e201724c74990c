//! The database and what stands beside it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts;
use super::table::Holder;
use crate::cli::holder;
use crate::cli::output::Finding;
use crate::cli::target::Target;
use crate::config::url::{Database, OpenMode};
use crate::connection::diagnosis::{leftover_log, obstacle};
use crate::store::JournalId;
use crate::vfs::inspect::{self, Content, Header, JournalState};
use crate::vfs::netfs::network_file_system;

/// What the other examinations need to know of the files.
pub(super) struct Place {
    /// The file that SQLite would open; `None` if there is none.
    pub(super) file: Option<PathBuf>,
    pub(super) is_network: bool,
}

impl Place {
    /// What stands at the journal's path; nothing beside a database that is not there.
    pub(super) fn journal(&self) -> std::io::Result<JournalState> {
        match &self.file {
            Some(file) => inspect::journal(file, self.is_network),
            None => Ok(JournalState::Absent),
        }
    }
}

pub(super) fn examine(target: &Target, findings: &mut Vec<Finding>) -> Place {
    let network = match network_file_system(&target.path) {
        Ok(network) => network,
        Err(error) => {
            let problem = obstacle(&target.path).unwrap_or_else(|| {
                format!("its file system cannot be examined: {error}; check the path")
            });
            findings.push(Finding::of_error("database", &problem));
            return Place {
                file: None,
                is_network: false,
            };
        }
    };
    let place = Place {
        file: target.file(),
        is_network: network.is_some(),
    };
    findings.push(database(target, place.file.as_deref()));
    let on = (place.file.clone()).or_else(|| directory(&target.path).canonicalize().ok());
    findings.push(mounts::examine(
        on.as_deref(),
        network.as_deref(),
        target.lock().is_none(),
    ));
    if place.file.as_deref().is_none_or(Path::is_file) {
        findings.extend(access(target, place.file.as_deref()));
    }
    let Some(file) = place.file.as_deref().filter(|file| file.is_file()) else {
        return place;
    };
    findings.extend(content(file));
    findings.push(key_file(target, file));
    place
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
    let mode = match &target.settings.database {
        Database::File { mode, .. } => *mode,
        Database::Memory { .. } => None,
    };
    if mode == Some(OpenMode::ReadOnly) {
        let text = "`mode=ro` in the URL: this connection only reads";
        return Some(Finding::ok(NAME, text));
    }
    let may_create = matches!(mode, None | Some(OpenMode::ReadWriteCreate));
    match obstacle(&target.path) {
        // Of a file that is not there: nothing else keeps it from being created.
        Some(problem) if may_create && problem.contains("`mode` in the URL") => None,
        Some(problem) => Some(Finding::of_error(NAME, &problem)),
        None => file.map(|_| {
            let text = "this user may write the database, and create files in its directory";
            Finding::ok(NAME, text)
        }),
    }
}

fn content(file: &Path) -> Vec<Finding> {
    const NAME: &str = "journal mode";
    if let Some(problem) = leftover_log(file) {
        return vec![Finding::of_error(NAME, &problem)];
    }
    let header = match inspect::content(file) {
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
            "convert it on one host, while nobody uses it: `sqlite3 FILE 'PRAGMA journal_mode=DELETE'`",
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
        // Shorter, or longer as in mid-commit: only a check can tell.
        Ok(metadata) if metadata.len() < expected => Finding::warning(
            NAME,
            format!("{text}, but the file has only {} bytes", metadata.len()),
            "if it stays so while nobody writes, it is cut off: run `efs-sqlite check`",
        ),
        _ => Finding::ok(NAME, text),
    }
}

fn key_file(target: &Target, file: &Path) -> Finding {
    const NAME: &str = "lock key";
    match inspect::agrees_with_key_file(file, target.lock().as_ref()) {
        Ok(true) => Finding::ok(NAME, "the file beside the database names this lock"),
        Ok(false) => Finding::ok(NAME, "no file beside the database names a lock yet"),
        Err(error) => {
            let text = error.to_string();
            match text.split_once(": set the same; or, ") {
                Some((problem, _)) => Finding::failure(
                    NAME,
                    problem,
                    "set the same lock as the others; how to change it for all: README, The lock table",
                ),
                None => Finding::of_error(NAME, &text),
            }
        }
    }
}

/// What the journal means, given what the lock's item says; nothing if there is none.
pub(super) fn journal(place: &Place, holder: Holder<'_>) -> Option<Finding> {
    const NAME: &str = "hot journal";
    let journal = match place.journal() {
        Ok(JournalState::Absent) if place.file.is_none() => return None,
        Ok(JournalState::Absent) => return Some(Finding::ok(NAME, "none")),
        Ok(JournalState::Cold) => {
            let text = "none; a journal stands there whose transaction has written nothing yet";
            return Some(Finding::ok(NAME, text));
        }
        Ok(JournalState::Hot(journal)) => journal,
        Err(error) => {
            let text = format!("the journal cannot be read: {error}");
            let remedy = "give this user the right to read it";
            return Some(Finding::failure(NAME, text, remedy));
        }
    };
    Some(hot(NAME, journal, holder))
}

fn hot(name: &'static str, journal: JournalId, holder: Holder<'_>) -> Finding {
    const SETTLE: &str =
        "run `efs-sqlite check`, or open any connection: it is settled under the lock";
    match holder {
        Holder::Live(seen) if seen.committed == Some(journal) => Finding::ok(
            name,
            format!(
                "{journal}: its transaction is recorded as committed, and {} is deleting it, or has died",
                holder::name(seen)
            ),
        ),
        Holder::Live(seen) => Finding::ok(
            name,
            format!(
                "{journal}: {} holds the lock and is committing, or has died in it",
                holder::name(seen)
            ),
        ),
        Holder::Gone(Some(seen)) if seen.committed == Some(journal) => Finding::warning(
            name,
            format!(
                "{journal}: left by {}, its transaction is recorded as committed and will be kept",
                holder::name(seen)
            ),
            SETTLE,
        ),
        Holder::Gone(Some(seen)) => Finding::warning(
            name,
            format!(
                "{journal}: left in mid-commit by {} or a writer before it, its transaction will be rolled back",
                holder::name(seen)
            ),
            SETTLE,
        ),
        Holder::Gone(None) => Finding::warning(
            name,
            format!(
                "{journal}: nobody holds the lock, so a writer without it is at work, or one has died in mid-commit and its transaction will be rolled back"
            ),
            SETTLE,
        ),
        Holder::NoTable => Finding::warning(
            name,
            format!("{journal}: a commit in progress, or left by a writer that has died in one"),
            SETTLE,
        ),
        Holder::NotKnown => Finding::warning(
            name,
            format!("{journal}: whose it is cannot be told without the lock table"),
            "see the findings on the lock table",
        ),
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
