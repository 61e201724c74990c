//! The PRAGMAs that would undermine the lock and are refused.

use std::time::Duration;

/// The decision about a PRAGMA.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// SQLite runs it.
    Pass,
    /// It fails with this error.
    Refuse(String),
    /// `busy_timeout` with this new value; `None` is a query of the current one.
    BusyTimeout(Option<Duration>),
}

/// Judges `PRAGMA name` or `PRAGMA name = value`.
pub(super) fn judge(name: &str, value: Option<&str>, normal_sync_allowed: bool) -> Verdict {
    let name = name.to_ascii_lowercase();
    let value = value.map(|value| value.trim().to_ascii_lowercase());
    let is = |names: &[&str]| value.as_deref().is_some_and(|value| names.contains(&value));
    let off = is(&["off", "0", "no", "false"]);
    match (name.as_str(), &value) {
        ("busy_timeout", value) => {
            let millis = value
                .as_deref()
                .map(|value| value.parse::<i64>().unwrap_or(0));
            Verdict::BusyTimeout(millis.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
        }
        (_, None) => Verdict::Pass,
        ("journal_mode", Some(mode)) if mode != "delete" => refuse(
            "journal_mode",
            mode,
            match mode.as_str() {
                "wal" => "a write-ahead log needs shared memory, which hosts cannot share",
                "truncate" | "persist" => {
                    "writers would share one journal file, and a late one could end another's"
                }
                _ => "without a journal on disk a crash leaves a torn database",
            },
        ),
        // SQLite treats unknown values as NORMAL, and uses only three bits of a number.
        ("synchronous", Some(_)) if is(&["2", "full", "3", "extra"]) => Verdict::Pass,
        ("synchronous", Some(mode)) if is(&["1", "normal", "on", "yes", "true"]) => {
            if normal_sync_allowed {
                Verdict::Pass
            } else {
                refuse(
                    "synchronous",
                    mode,
                    "a crash could lose the journal's directory entry; set `synchronous=normal` when opening to accept that",
                )
            }
        }
        ("synchronous", Some(mode)) => refuse(
            "synchronous",
            mode,
            "a commit must not be recorded before its pages are on disk",
        ),
        ("locking_mode", Some(mode)) if mode == "exclusive" => refuse(
            "locking_mode",
            mode,
            "the lock would be kept between transactions, without a lease",
        ),
        ("cache_spill", Some(mode)) if !off => refuse(
            "cache_spill",
            mode,
            "uncommitted pages in the file would be seen by readers whose file locks do not reach this host",
        ),
        _ => Verdict::Pass,
    }
}

/// Whether a PRAGMA that names a schema other than `main` would undermine the lock: these affect
/// the whole connection, and SQLite does not ask the main file about them.
pub(super) fn reaches_beyond_its_schema(name: &str, value: Option<&str>) -> bool {
    match judge(name, value, true) {
        Verdict::BusyTimeout(timeout) => timeout.is_some(),
        Verdict::Refuse(_) => name.eq_ignore_ascii_case("cache_spill"),
        Verdict::Pass => false,
    }
}

fn refuse(name: &str, value: &str, reason: &str) -> Verdict {
    Verdict::Refuse(format!(
        "PRAGMA {name}={value} is refused by diesel-sqlite-efs: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pragmas_that_undermine_the_lock_are_refused() {
        for (name, value) in [
            ("journal_mode", "WAL"),
            ("Journal_Mode", "truncate"),
            ("journal_mode", "persist"),
            ("journal_mode", "MEMORY"),
            ("journal_mode", "off"),
            ("synchronous", "OFF"),
            ("synchronous", "0"),
            ("synchronous", "normal"),
            ("synchronous", "1"),
            ("synchronous", "8"),
            ("synchronous", "256"),
            ("synchronous", "0x0"),
            ("synchronous", "ful"),
            ("locking_mode", "EXCLUSIVE"),
            ("cache_spill", "on"),
            ("cache_spill", "1000"),
        ] {
            let verdict = judge(name, Some(value), false);
            assert!(matches!(verdict, Verdict::Refuse(_)), "{name}={value}");
        }
    }

    #[test]
    fn harmless_pragmas_pass() {
        for (name, value) in [
            ("journal_mode", None),
            ("journal_mode", Some("DELETE")),
            ("synchronous", Some("full")),
            ("synchronous", Some("EXTRA")),
            ("locking_mode", Some("normal")),
            ("cache_spill", Some("off")),
            ("user_version", Some("7")),
            ("foreign_keys", Some("on")),
        ] {
            assert_eq!(judge(name, value, false), Verdict::Pass, "{name}={value:?}");
        }
        assert_eq!(judge("synchronous", Some("NORMAL"), true), Verdict::Pass);
    }

    #[test]
    fn a_schema_does_not_get_round_what_holds_for_the_connection() {
        for (name, value) in [("cache_spill", "on"), ("Busy_Timeout", "5")] {
            assert!(reaches_beyond_its_schema(name, Some(value)), "{name}");
        }
        for (name, value) in [
            ("cache_spill", None),
            ("cache_spill", Some("off")),
            ("busy_timeout", None),
            ("journal_mode", Some("off")),
        ] {
            assert!(!reaches_beyond_its_schema(name, value), "{name}={value:?}");
        }
    }

    #[test]
    fn busy_timeout_is_ours() {
        let of = |value| judge("busy_timeout", value, false);
        assert_eq!(of(None), Verdict::BusyTimeout(None));
        let two = Duration::from_secs(2);
        assert_eq!(of(Some("2000")), Verdict::BusyTimeout(Some(two)));
        assert_eq!(of(Some("-1")), Verdict::BusyTimeout(Some(Duration::ZERO)));
    }
}
