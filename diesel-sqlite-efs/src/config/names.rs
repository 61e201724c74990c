//! Each setting: its names in the URL and in the environment, and which values make sense.

use std::time::Duration;

use super::sources::{Names, Removed, Setting};
use super::values::{ReadCheck, StoreKind, Synchronous};

/// Longer times are more likely a mistake in the unit.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

/// Two renewal periods of a second, the time that one request may take; of longer leases two
/// periods are two thirds.
pub(super) const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// All settings that a URL or a variable can give.
pub(super) const NAMES: [Names; 13] = [
    LOCK_TABLE.names(),
    LOCK_EXPIRATION.names(),
    LOCK_TIMEOUT.names(),
    LOCK_MIGRATION_TIMEOUT.names(),
    LOCK_MAX_ATTEMPTS.names(),
    LOCK_KEY.names(),
    LOCK_HOLDER.names(),
    LOCK_MAX_HOLD.names(),
    LOCK_READ_CHECK.names(),
    LOCK.names(),
    SYNCHRONOUS.names(),
    CACHE_SIZE_BYTES.names(),
    CACHE_SIZE_PAGES.names(),
];

/// Settings that no longer exist.
pub(super) const REMOVED: [Removed; 3] = [
    Removed {
        parameter: None,
        variable: "SQLITE_LOCK_STORE",
        became: "it is called SQLITE_LOCK now",
        remedy: "set that one to the same value",
    },
    Removed {
        parameter: Some("lock_commit"),
        variable: "SQLITE_LOCK_COMMIT",
        became: "the lock table confirms every commit",
        remedy: "remove it",
    },
    Removed {
        parameter: Some("lock_release"),
        variable: "SQLITE_LOCK_RELEASE",
        became: "the lock is released before a commit returns",
        remedy: "remove it",
    },
];

pub(super) const LOCK_TABLE: Setting<String> = Setting {
    name: "lock_table",
    variable: Some("SQLITE_LOCK_DYNAMODB_TABLE"),
    accepts: |table| is_table(table),
    valid: "give the name of a DynamoDB table (3 to 255 letters, digits, `_`, `.`, `-`) or its ARN",
};
pub(super) const LOCK_EXPIRATION: Setting<Duration> = Setting {
    name: "lock_expiration",
    variable: Some("SQLITE_LOCK_EXPIRATION"),
    accepts: |lease| (SHORTEST_LEASE..=LONGEST).contains(lease),
    valid: "give seconds from 2 to 86400 without a unit, such as `10` or `2.5`; a lease must last \
            two renewal periods, which are a second or more each",
};
pub(super) const LOCK_TIMEOUT: Setting<Duration> = Setting {
    name: "lock_timeout",
    variable: Some("SQLITE_LOCK_TIMEOUT"),
    accepts: |timeout| !timeout.is_zero() && *timeout <= LONGEST,
    valid: "give seconds above 0 and up to 86400 without a unit, such as `3` or `0.5`; to try only \
            once, set `lock_max_attempts` to 1",
};
pub(super) const LOCK_MIGRATION_TIMEOUT: Setting<Duration> = Setting {
    name: "lock_migration_timeout",
    variable: Some("SQLITE_LOCK_MIGRATION_TIMEOUT"),
    accepts: |timeout| !timeout.is_zero() && *timeout <= LONGEST,
    valid: "give seconds above 0 and up to 86400 without a unit, such as `600`",
};
pub(super) const LOCK_MAX_ATTEMPTS: Setting<u32> = Setting {
    name: "lock_max_attempts",
    variable: Some("SQLITE_LOCK_MAX_ATTEMPTS"),
    accepts: |attempts| (1..=1_000_000).contains(attempts),
    valid: "give a whole number from 1 to 1000000, or leave it out so that only the timeout counts",
};
pub(super) const LOCK_KEY: Setting<String> = Setting {
    name: "lock_key",
    variable: Some("SQLITE_LOCK_KEY"),
    accepts: |key| (1..=2048).contains(&key.len()),
    valid: "give 1 to 2048 bytes, the same in all processes that open the database",
};
pub(super) const LOCK_HOLDER: Setting<String> = Setting {
    name: "lock_holder",
    variable: Some("SQLITE_LOCK_HOLDER"),
    accepts: |holder| (1..=1024).contains(&holder.len()) && !holder.chars().any(char::is_control),
    valid: "give 1 to 1024 bytes without control characters",
};
pub(super) const LOCK_MAX_HOLD: Setting<Duration> = Setting {
    name: "lock_max_hold",
    variable: Some("SQLITE_LOCK_MAX_HOLD"),
    accepts: |max_hold| !max_hold.is_zero() && *max_hold <= LONGEST,
    valid: "give seconds from the lease's duration to 86400 without a unit, such as `900`",
};
pub(super) const LOCK_READ_CHECK: Setting<ReadCheck> = Setting {
    name: "lock_read_check",
    variable: Some("SQLITE_LOCK_READ_CHECK"),
    accepts: |_| true,
    valid: "give `counter`, `reopen` or `off`",
};
pub(super) const LOCK: Setting<StoreKind> = Setting {
    name: "lock",
    variable: Some("SQLITE_LOCK"),
    accepts: |_| true,
    valid: "give `dynamodb` or `local`",
};
pub(super) const SYNCHRONOUS: Setting<Synchronous> = Setting {
    name: "synchronous",
    variable: None,
    accepts: |_| true,
    valid: "give `extra`, `full` or `normal`; there is no `off`, because a commit would be \
            acknowledged whose pages may never reach the disk",
};
pub(super) const CACHE_SIZE_BYTES: Setting<u64> = Setting {
    name: "cache_size_bytes",
    variable: None,
    accepts: |bytes| (64 << 10..=64 << 30).contains(bytes),
    valid: "give a whole number of bytes from 65536 (64 KiB) to 68719476736 (64 GiB)",
};
pub(super) const CACHE_SIZE_PAGES: Setting<u32> = Setting {
    name: "cache_size_pages",
    variable: None,
    accepts: |pages| (1..=1 << 24).contains(pages),
    valid: "give a whole number of pages from 1 to 16777216",
};
/// Not in [`NAMES`]: only its method sets it.
pub(super) const BASE_VFS: Setting<String> = Setting {
    name: "base_vfs",
    variable: None,
    accepts: |name| !name.is_empty() && !name.contains('\0'),
    valid: "give the name of a registered SQLite VFS, such as `unix`",
};

fn is_table(table: &str) -> bool {
    let name = match table.strip_prefix("arn:") {
        None => table,
        // arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME
        Some(arn) => match arn.splitn(5, ':').collect::<Vec<_>>()[..] {
            [_, "dynamodb", _, _, resource] => resource.strip_prefix("table/").unwrap_or(""),
            _ => "",
        },
    };
    (3..=255).contains(&name.len())
        && (name.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}
