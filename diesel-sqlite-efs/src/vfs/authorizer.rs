//! The statements that SQLite may prepare: it asks the authorizer first
//! (<https://sqlite.org/c3ref/set_authorizer.html>).

use super::pragma;
use crate::error::ConfigError;
use crate::write_lock::WriteLock;

/// Whether ATTACH may open a file of this name; `None` if it is not a literal.
///
/// A second file that is written in one transaction would need its own lease and a super-journal. A
/// file that no transaction writes to is harmless.
pub(super) fn may_attach(lock: &WriteLock, name: Option<&[u8]>) -> bool {
    /// The name that `sqlite3_deserialize` attaches; a file of this name is refused when it is
    /// opened, with the reason recorded here.
    const FOR_DESERIALIZE: &[u8] = b"x";
    let harmless = match name {
        None => false,
        Some(b"" | b":memory:") => true,
        Some(name) => is_harmless_attachment(name),
    };
    if !harmless {
        lock.refuse_statement(ConfigError::ForbiddenStatement {
            statement: format!(
                "ATTACH of `{}`",
                name.map_or("an expression".into(), String::from_utf8_lossy)
            ),
            reason: "a second database file would need a lease of its own; open it with a connection of its own, or attach it read-only (`ATTACH 'file:..?mode=ro'`). VACUUM INTO attaches its target, too: run it on a `SqliteConnection` to `file:..?mode=ro`".to_owned(),
        });
    }
    harmless || name == Some(FOR_DESERIALIZE)
}

/// Whether a PRAGMA that names a schema may be run; for `main` the file decides.
pub(super) fn may_set(lock: &WriteLock, schema: &str, name: &str, value: Option<&str>) -> bool {
    let harmless = schema == "main" || !pragma::reaches_beyond_its_schema(name, value);
    if !harmless {
        lock.refuse_statement(ConfigError::ForbiddenStatement {
            statement: format!("PRAGMA {schema}.{name}"),
            reason:
                "it holds for the whole connection, whatever schema it names; leave the schema out"
                    .to_owned(),
        });
    }
    harmless
}

/// Whether an attached file of this name, a URI or a path, is never written to: it is in memory
/// or opened read-only, through the same VFS.
fn is_harmless_attachment(name: &[u8]) -> bool {
    let Some((_, parameters)) = std::str::from_utf8(name)
        .ok()
        .filter(|name| name.starts_with("file:"))
        .and_then(|name| name.split_once('?'))
    else {
        return name == b"file::memory:";
    };
    let mut harmless = false;
    for parameter in parameters.split('&') {
        match parameter {
            "mode=ro" | "mode=memory" => harmless = true,
            // A percent-encoded name or value could mean anything; so could another VFS.
            other if other.contains(['%', '#']) || other.starts_with("vfs") => return false,
            other if other.starts_with("mode") => return false,
            _ => {}
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attachments_that_nobody_writes_are_harmless() {
        for name in [
            "file:x.db?mode=ro",
            "file:x?cache=private&mode=ro",
            "file::memory:",
            "file:x?mode=memory",
        ] {
            assert!(is_harmless_attachment(name.as_bytes()), "{name}");
        }
        for name in [
            "x.db",
            "file:x.db",
            "file:x.db?mode=rw",
            "file:x.db?mode=ro&mode=rw",
            "file:x.db?mode=ro&vfs=unix",
            "file:x.db?mode=ro&%76fs=unix",
            "x.db?mode=ro",
        ] {
            assert!(!is_harmless_attachment(name.as_bytes()), "{name}");
        }
    }
}
