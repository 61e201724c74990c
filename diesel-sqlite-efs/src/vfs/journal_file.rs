//! The rollback journal of this connection's transaction: creation, writes, and deletion, which is
//! the commit point.

use std::ffi::c_int;
use std::sync::Arc;

use super::ffi::{BaseFile, ReadBuffer};
use super::file_failure::remember_failure;
use super::io_methods::IoMethods;
use super::io_values::ReadExtent;
use super::main_file::MainFile;
use super::sqlite_error::SqliteError;
use crate::files::rollback_journal::{Journal, JournalStatus, journal_id};
use crate::write_lock::{EndOfJournal, Refused, WriteLock};

/// The open journal of a writing transaction.
#[derive(Debug)]
pub(super) struct TransactionJournal {
    base: BaseFile,
    lock: Arc<WriteLock>,
}

/// What the base VFS opened when asked to create a journal exclusively.
#[derive(Debug)]
pub(super) enum Created {
    New(BaseFile),
    /// The file exists; the `unix` VFS opens it for reading instead.
    Existing(BaseFile),
}

impl TransactionJournal {
    /// Creates this transaction's own journal with `create`: an existing one is not ours. Then
    /// checks once more the state that it protects.
    pub(super) fn create(
        main: &mut MainFile,
        create: impl Fn() -> Result<Created, SqliteError>,
    ) -> Result<Self, SqliteError> {
        let lock = main.write_lock().clone();
        (lock.fence()).map_err(|Refused| SqliteError::CANTOPEN)?;
        let mut leftover_removed = false;
        loop {
            match create()? {
                Created::New(base) => {
                    // If that fails, an empty file stays, which counts as none. It is not removed:
                    // by now the name might be a successor's journal.
                    main.journal_created()?;
                    return Ok(Self { base, lock });
                }
                Created::Existing(base) => drop(base),
            }
            if leftover_removed {
                lock.lost_to_successor("another writer has created its journal");
                return Err(SqliteError::CANTOPEN);
            }
            (lock.remove_cold_leftover()).map_err(|Refused| SqliteError::CANTOPEN)?;
            leftover_removed = true;
        }
    }

    fn failed(&self, doing: &str, error: SqliteError) -> SqliteError {
        remember_failure(&self.lock, &self.base, doing, error)
    }
}

impl IoMethods for TransactionJournal {
    fn base(&self) -> &BaseFile {
        &self.base
    }

    fn close(self) -> Result<(), SqliteError> {
        self.base.close()
    }

    fn read(
        &mut self,
        buffer: &mut ReadBuffer<'_>,
        offset: i64,
    ) -> Result<ReadExtent, SqliteError> {
        (self.base.read(buffer, offset))
            .map_err(|error| self.failed("reading the rollback journal", error))
    }

    fn write(&mut self, data: &[u8], offset: i64) -> Result<(), SqliteError> {
        (self.lock.fence()).map_err(|Refused| SqliteError::IOERR_WRITE)?;
        if offset == 0
            && let Some(header) = data.first_chunk()
        {
            self.lock.journal_begun(journal_id(header));
        }
        (self.base.write(data, offset))
            .map_err(|error| self.failed("writing the rollback journal", error))
    }

    fn truncate(&mut self, size: i64) -> Result<(), SqliteError> {
        (self.lock.fence()).map_err(|Refused| SqliteError::IOERR_TRUNCATE)?;
        self.base.truncate(size)
    }

    /// Not fenced: a sync changes nothing that another process could have written.
    fn sync(&mut self, flags: c_int) -> Result<(), SqliteError> {
        (self.base.sync(flags)).map_err(|error| self.failed("syncing the rollback journal", error))
    }
}

/// SQLite deletes the journal of the lock's file. `delete` does so; its argument is whether to sync
/// the directory. "the journal file is deleted. This is the instant where the transaction commits"
/// (<https://sqlite.org/atomiccommit.html#_deleting_the_rollback_journal>).
pub(super) fn delete(
    lock: &WriteLock,
    sync_directory: bool,
    delete: impl FnOnce(bool) -> Result<(), SqliteError>,
) -> Result<(), SqliteError> {
    match lock.end_journal() {
        EndOfJournal::Refuse => return Err(SqliteError::IOERR_DELETE),
        EndOfJournal::Leave => return Ok(()),
        EndOfJournal::Remove => {}
    }
    let is_durable = lock.journal().is_some_and(Journal::is_deleted_durably);
    match delete(sync_directory && !is_durable) {
        // Its end is recorded: if it is already gone, a successor has removed it.
        Ok(()) | Err(SqliteError::IOERR_DELETE_NOENT) => lock.journal_removed(),
        Err(error) => {
            lock.journal_not_removed(&format!("SQLite error {}", error.0));
            return Err(error);
        }
    }
    Ok(())
}

/// Whether the journal of the lock's file exists; `None` if the base VFS can decide.
///
/// A network file system may answer for a name from its cache: only a file that can be opened
/// exists. SQLite treats an empty one as none, too.
pub(super) fn exists(lock: &WriteLock) -> Option<Result<bool, SqliteError>> {
    let journal = lock.journal().filter(|journal| journal.is_on_network())?;
    let status = journal.status().map_err(|error| {
        lock.file_failed(format!("the rollback journal cannot be examined: {error}"));
        SqliteError::IOERR_ACCESS
    });
    Some(status.map(|status| status != JournalStatus::Absent))
}
