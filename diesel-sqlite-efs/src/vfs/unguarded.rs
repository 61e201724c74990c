//! The files that are opened without a guard.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

/// Whether a file that is neither a connection's main file nor the journal of its transaction may
/// be opened by the base VFS alone. `flags` are `xOpen`'s (<https://sqlite.org/c3ref/vfs.html>).
///
/// Temporary files may, a hot journal opened for reading, and a read-only attached database. A
/// second writer, a write-ahead log and a super-journal may not: they would not be fenced.
pub(super) fn may_open(flags: c_int) -> bool {
    let is = |flag| flags & flag != 0;
    if is(ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) {
        return false;
    }
    let creates = is(ffi::SQLITE_OPEN_CREATE);
    if is(ffi::SQLITE_OPEN_MAIN_DB) {
        return !creates && is(ffi::SQLITE_OPEN_READONLY);
    }
    !(is(ffi::SQLITE_OPEN_MAIN_JOURNAL) && creates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_cannot_change_a_database_are_opened_without_a_guard() {
        use ffi::{
            SQLITE_OPEN_CREATE as CREATE, SQLITE_OPEN_MAIN_DB as MAIN,
            SQLITE_OPEN_MAIN_JOURNAL as JOURNAL, SQLITE_OPEN_READONLY as READ,
            SQLITE_OPEN_READWRITE as WRITE, SQLITE_OPEN_SUPER_JOURNAL as SUPER,
            SQLITE_OPEN_TEMP_DB as TEMP, SQLITE_OPEN_WAL as WAL,
        };
        for flags in [
            TEMP | WRITE | CREATE,
            JOURNAL | READ,
            JOURNAL | WRITE,
            MAIN | READ,
        ] {
            assert!(may_open(flags), "{flags:#x}");
        }
        for flags in [
            MAIN | WRITE,
            MAIN | WRITE | CREATE,
            MAIN | READ | CREATE,
            JOURNAL | WRITE | CREATE,
            WAL | READ,
            SUPER | WRITE | CREATE,
        ] {
            assert!(!may_open(flags), "{flags:#x}");
        }
    }
}
