//! Errors of the settings and of the database file.

use std::fmt;
use std::path::PathBuf;

use super::problem::Problem;

/// What is wrong with the settings or with the database file. Nothing was changed; trying again
/// does not help until it is fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL holds a parameter that does not exist.
    #[non_exhaustive]
    UnknownParameter {
        /// As written.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// An environment variable begins with `SQLITE_LOCK_` and does not exist.
    #[non_exhaustive]
    UnknownVariable {
        /// As set.
        name: String,
        /// The nearest one that exists, if any is near.
        suggestion: Option<String>,
    },
    /// A setting of an earlier version.
    #[non_exhaustive]
    RemovedSetting {
        /// Its name and where it was given, such as "`lock_commit` in the database URL".
        setting: String,
        /// What became of it.
        became: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A value that the setting cannot take.
    #[non_exhaustive]
    InvalidValue {
        /// The setting and where the value came from, such as
        /// "`lock_timeout` in the database URL".
        setting: String,
        /// As written.
        value: String,
        /// What would be valid.
        problem: String,
    },
    /// No lock table is set.
    NoTable,
    /// The URL is not one of a database file.
    #[non_exhaustive]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong and what to do.
        problem: Problem,
    },
    /// A SQLite URI parameter that would bypass the lock.
    #[non_exhaustive]
    ForbiddenParameter {
        /// `vfs`, `nolock`, `immutable`, `cache`, ..
        name: String,
        /// Why, and what to do instead.
        reason: Problem,
    },
    /// `lock=local` on a file system that several machines share.
    #[non_exhaustive]
    LocalLockOnNetwork {
        /// The database.
        path: PathBuf,
        /// `nfs`, `smb`, `fuse`, ..
        file_system: String,
    },
    /// The configured lock is not the one that protects the database. Writers with different locks
    /// do not exclude each other, so the first writer leaves a file beside the database that names
    /// its lock.
    #[non_exhaustive]
    OtherLock {
        /// The database.
        path: PathBuf,
        /// The lock that protects it: its key and table.
        recorded: String,
        /// The configured lock: its key and table, or `lock=local`.
        configured: String,
        /// The file that names the first.
        file: PathBuf,
    },
    /// A statement that would bypass the lock.
    #[non_exhaustive]
    ForbiddenStatement {
        /// What was asked for.
        statement: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The database file cannot be used.
    #[non_exhaustive]
    Database {
        /// The database.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: Problem,
    },
}

impl ConfigError {
    /// An [`InvalidUrl`](Self::InvalidUrl): for tools that need more of a URL than a connection does.
    pub fn invalid_url(url: impl Into<String>, problem: Problem) -> Self {
        Self::InvalidUrl {
            url: url.into(),
            problem,
        }
    }

    /// What is wrong and what to do, separately.
    pub fn problem(&self) -> Problem {
        match self {
            Self::UnknownParameter { name, suggestion } => unknown(
                format!("unknown parameter `{name}` in the database URL"),
                suggestion.as_deref(),
            ),
            Self::UnknownVariable { name, suggestion } => unknown(
                format!("unknown environment variable `{name}`"),
                suggestion.as_deref(),
            ),
            Self::RemovedSetting {
                setting,
                became,
                remedy,
            } => Problem::new(format!("{setting} is no longer a setting: {became}"))
                .with_remedy(*remedy),
            Self::InvalidValue {
                setting,
                value,
                problem,
            } => {
                Problem::new(format!("invalid value `{value}` for {setting}")).with_remedy(problem)
            }
            Self::NoTable => Problem::new("no lock table is set").with_remedy(
                "give `lock_table=NAME` in the URL, set SQLITE_LOCK_DYNAMODB_TABLE, or use \
                 `lock=local` if only this machine opens the database",
            ),
            Self::InvalidUrl { url, problem } => {
                problem.within(format_args!("invalid database URL `{url}`: "))
            }
            Self::ForbiddenParameter { name, reason } => {
                reason.within(format_args!("the URL parameter `{name}` is refused: "))
            }
            Self::LocalLockOnNetwork { path, file_system } => Problem::new(format!(
                "`lock=local` is refused for {}: it is on a network file system ({file_system}), \
                 where SQLite's file locks alone do not protect the database",
                path.display()
            ))
            .with_remedy("set a lock table"),
            Self::OtherLock {
                path,
                recorded,
                configured,
                file,
            } => Problem::new(format!(
                "{} is protected by {recorded}, but {configured} is set; writers with different \
                 locks do not exclude each other",
                path.display()
            ))
            .with_remedy(format!(
                "set the same; or, to change the lock for all, or if this is a copy, delete {} \
                 while no process has the database open",
                file.display()
            )),
            Self::ForbiddenStatement { statement, reason } => {
                Problem::new(format!("{statement} is refused: {reason}"))
            }
            Self::Database { path, problem } => {
                problem.within(format_args!("cannot open {}: ", path.display()))
            }
        }
    }

    /// What to do about it, where there is a remedy.
    pub fn remedy(&self) -> Option<String> {
        self.problem().remedy().map(str::to_owned)
    }
}

fn unknown(what: String, suggestion: Option<&str>) -> Problem {
    let problem = Problem::new(what);
    match suggestion {
        Some(name) => problem.with_remedy(format!("did you mean `{name}`?")),
        None => problem,
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem();
        match (self, problem.remedy()) {
            // The remedies of these also say what is wrong.
            (Self::InvalidValue { .. } | Self::NoTable | Self::OtherLock { .. }, Some(remedy)) => {
                write!(f, "{}: {remedy}", problem.cause())
            }
            _ => problem.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}
