//! Database URLs: parsing this crate's, and writing SQLite's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::error::{ConfigError, Problem};

/// SQLite's own URI parameters that a database URL may hold.
pub(crate) const SQLITE_PARAMETERS: [&str; 3] = ["mode", "cache", "psow"];

/// A parsed database URL, with names and values decoded.
///
/// Three forms are accepted, as Diesel accepts them:
/// - `file:` URIs by SQLite's rules (<https://sqlite.org/uri.html>): the host is empty or
///   `localhost`, the path is percent-encoded.
/// - `sqlite://` means `file:`, so `sqlite://app.db` is relative and `sqlite:///app.db` absolute.
/// - Anything else is a path, taken literally up to the first `?`.
///
/// After the first `?` all three have the same `name=value&..`, percent-encoded (`+` is a plus).
/// A `#` or `%00`, where SQLite silently ignores the rest, is an error: it would open another file
/// or lose the lock table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DatabaseUrl {
    pub(crate) database: Database,
    /// The parameters that are not SQLite's, in the order given, each name once.
    pub(crate) parameters: Vec<(String, String)>,
}

impl DatabaseUrl {
    /// # Errors
    /// `InvalidUrl` for bad syntax; `ForbiddenParameter` and `InvalidValue` for SQLite's own
    /// parameters. The caller checks whether the other names exist.
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigError> {
        refuse_other_schemes(url)?;
        let invalid = |problem| ConfigError::InvalidUrl {
            url: url.to_owned(),
            problem,
        };
        let uri = (url.strip_prefix("file:")).or_else(|| url.strip_prefix("sqlite://"));
        let text = uri.unwrap_or(url);
        let (name, query) = text.split_once('?').unwrap_or((text, ""));
        let path = match uri {
            Some(_) => without_authority(name).and_then(decode),
            None => without_nul(name.as_bytes().to_vec()),
        }
        .map_err(invalid)?;
        let parameters = parse_parameters(query).map_err(invalid)?;

        let (sqlite, parameters) = SqliteParameters::take(parameters)?;
        let database = Database::select(OsString::from_vec(path).into(), sqlite);
        if sqlite.shared_cache && matches!(database, Database::File { .. }) {
            return Err(ConfigError::ForbiddenParameter {
                name: "cache".to_owned(),
                reason: Problem::new(
                    "connections that share a cache read each other's uncommitted pages and \
                     share one write lock",
                )
                .with_remedy("leave it out, or use `cache=private`"),
            });
        }
        Ok(Self {
            database,
            parameters,
        })
    }
}

/// Which database to open, and SQLite's parameters for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// In memory, or a temporary file of SQLite's own: no other process can open it.
    Memory {
        /// The form that SQLite takes.
        url: String,
    },
    /// A file.
    File {
        /// As given; any bytes but NUL.
        path: PathBuf,
        /// `mode`; `None` is SQLite's default, which creates the file.
        mode: Option<OpenMode>,
        /// `psow`: whether writing one sector leaves its neighbours alone in a power failure.
        psow: Option<bool>,
    },
}

impl Database {
    /// The database at a path that is taken literally.
    ///
    /// SQLite gives a special meaning to `:memory:` and the empty name, in any spelling; a file of
    /// that name is `./:memory:`.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self::select(path, SqliteParameters::default())
    }

    fn select(path: PathBuf, sqlite: SqliteParameters) -> Self {
        let is_memory = sqlite.mode == Some(OpenMode::Memory) || path == Path::new(":memory:");
        if is_memory {
            let cache = if sqlite.shared_cache {
                "&cache=shared"
            } else {
                ""
            };
            let url = format!("{}?mode=memory{cache}", file_uri(&path));
            Self::Memory { url }
        } else if path.as_os_str().is_empty() {
            let url = String::new();
            Self::Memory { url }
        } else {
            Self::File {
                path,
                mode: sqlite.mode,
                psow: sqlite.psow,
            }
        }
    }

    /// The URI that opens this database through the VFS of that name; a database in memory uses
    /// SQLite's own.
    pub(crate) fn sqlite_uri(&self, vfs: &str) -> String {
        match self {
            Self::Memory { url } => url.clone(),
            Self::File { path, mode, psow } => {
                let mut uri = format!("{}?vfs={}", file_uri(path), encode(vfs.as_ref()));
                if let Some(mode) = mode {
                    uri.push_str("&mode=");
                    uri.push_str(mode.keyword());
                }
                if let Some(psow) = psow {
                    uri.push_str(if *psow { "&psow=1" } else { "&psow=0" });
                }
                uri
            }
        }
    }
}

/// SQLite's `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    ReadOnly,
    ReadWrite,
    ReadWriteCreate,
    /// Never found in [`Database::File`].
    Memory,
}

impl OpenMode {
    const ALL: [Self; 4] = [
        Self::ReadOnly,
        Self::ReadWrite,
        Self::ReadWriteCreate,
        Self::Memory,
    ];

    fn keyword(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::ReadWrite => "rw",
            Self::ReadWriteCreate => "rwc",
            Self::Memory => "memory",
        }
    }
}

/// The name of a parameter in errors.
pub(crate) fn parameter_in_url(name: &str) -> String {
    format!("`{name}` in the database URL")
}

/// Percent-encodes all but letters, digits and `/ - . _ ~`.
pub(crate) fn encode(text: &OsStr) -> String {
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    percent_encode(text.as_bytes(), ENCODED).to_string()
}

/// SQLite's parameters, as far as a database URL may contain them.
#[derive(Debug, Clone, Copy, Default)]
struct SqliteParameters {
    mode: Option<OpenMode>,
    psow: Option<bool>,
    shared_cache: bool,
}

impl SqliteParameters {
    /// Takes SQLite's parameters out of `all`; the second part is the others.
    fn take(all: Vec<(String, String)>) -> Result<(Self, Vec<(String, String)>), ConfigError> {
        let mut taken = Self::default();
        let mut others = Vec::new();
        for (name, value) in all {
            let invalid = |problem: &str| ConfigError::InvalidValue {
                setting: parameter_in_url(&name),
                value: value.clone(),
                problem: problem.to_owned(),
            };
            match (name.as_str(), value.as_str()) {
                ("mode", value) => {
                    let mode = OpenMode::ALL.into_iter().find(|m| m.keyword() == value);
                    taken.mode =
                        Some(mode.ok_or_else(|| invalid("give `ro`, `rw`, `rwc` or `memory`"))?);
                }
                ("cache", "shared") => taken.shared_cache = true,
                ("cache", "private") => {}
                ("cache", _) => return Err(invalid("give `private`, or leave it out")),
                ("psow", value) => {
                    let psow = boolean(value).ok_or_else(|| invalid("give `0` or `1`"))?;
                    taken.psow = Some(psow);
                }
                ("nolock" | "immutable", value) if boolean(value) == Some(false) => {}
                (name, _) => match reason_to_forbid(name) {
                    Some(reason) => {
                        return Err(ConfigError::ForbiddenParameter {
                            name: name.to_owned(),
                            reason,
                        });
                    }
                    None => others.push((name.to_owned(), value)),
                },
            }
        }
        Ok((taken, others))
    }
}

fn reason_to_forbid(parameter: &str) -> Option<Problem> {
    let (reason, instead) = match parameter {
        "vfs" => (
            "the database must be opened through this crate's own VFS, which takes the write lock",
            "leave it out",
        ),
        "nolock" => (
            "without SQLite's file locks, readers see half-written pages",
            "leave it out, or use `nolock=0`",
        ),
        "immutable" => (
            "a file said never to change is read without locks and without looking for a hot \
             journal, while other processes write it",
            "use `mode=ro` to read only",
        ),
        "modeof" => (
            "it takes a new database's permissions from another file",
            "create the database with the permissions it should have, and leave it out",
        ),
        _ => return None,
    };
    Some(Problem::new(reason).with_remedy(instead))
}

/// A boolean as SQLite reads it in a URI, if its meaning is clear.
fn boolean(text: &str) -> Option<bool> {
    let is_any = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_any(["1", "yes", "true", "on"]) {
        Some(true)
    } else if is_any(["0", "no", "false", "off"]) {
        Some(false)
    } else {
        None
    }
}

/// A path that begins with `/` gets an empty host before it; otherwise `//a/b` would be read as
/// host `a`.
fn file_uri(path: &Path) -> String {
    let host = if path.is_absolute() { "//" } else { "" };
    format!("file:{host}{}", encode(path.as_os_str()))
}

/// `postgres://..` and the like would be read as the path of a file. They may contain a password,
/// so the error shows only the scheme.
fn refuse_other_schemes(url: &str) -> Result<(), ConfigError> {
    const KNOWN: [&str; 2] = ["file", "sqlite"];
    let Some((scheme, rest)) = url.split_once(':') else {
        return Ok(());
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && (scheme.chars()).all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let is_other = rest.starts_with("//") && !KNOWN.contains(&scheme);
    let lacks_slashes = scheme == "sqlite" && !rest.starts_with("//");
    if is_scheme && (is_other || lacks_slashes) {
        return Err(ConfigError::InvalidUrl {
            url: format!("{scheme}:.."),
            problem: "give a path, a `file:` URI, or `sqlite://` and a path (`sqlite:///` for an \
                      absolute one)"
                .into(),
        });
    }
    Ok(())
}

fn without_authority(name: &str) -> Result<&str, Problem> {
    let Some(rest) = name.strip_prefix("//") else {
        return Ok(name);
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host {
        "" | "localhost" => Ok(path),
        host => Err(Problem::new(format!(
            "`{host}` is in the place of a host, and SQLite does not open remote files"
        ))
        .with_remedy(
            "an absolute path is written `file:///path` or `sqlite:///path`, a relative one \
             `file:path` or `sqlite://path`",
        )),
    }
}

/// Empty pieces are skipped, as SQLite does, so that a trailing `?` or `&` does no harm.
fn parse_parameters(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let (name, value) = (decode_text(name)?, decode_text(value)?);
        if name.is_empty() {
            return Err(format!("`{piece}` has no parameter name before the `=`").into());
        }
        if parameters.iter().any(|(earlier, _)| *earlier == name) {
            return Err(format!("the parameter `{name}` is given twice").into());
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}

fn decode_text(text: &str) -> Result<String, Problem> {
    String::from_utf8(decode(text)?)
        .map_err(|_| format!("`{text}` is not UTF-8 once decoded").into())
}

fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    if text.contains('#') {
        return Err(
            Problem::new("`#` begins a fragment, and SQLite ignores all that follows")
                .with_remedy("write a literal `#` as `%23`"),
        );
    }
    let is_complete = |after: &str| {
        (after.as_bytes().get(..2)).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_complete) {
        return Err(
            Problem::new("`%` is not followed by two hexadecimal digits")
                .with_remedy("write a literal `%` as `%25`"),
        );
    }
    without_nul(percent_decode_str(text).collect())
}

fn without_nul(bytes: Vec<u8>) -> Result<Vec<u8>, Problem> {
    if bytes.contains(&0) {
        return Err("it contains a NUL character, where SQLite would cut it off".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
