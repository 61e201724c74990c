//! What the connection asks and is told: where statements begin and end, what went wrong, what is
//! refused.

use super::*;
use crate::clock::FOREVER;

impl Gate {
    /// A statement begins: errors of earlier ones are no longer its concern.
    #[inline]
    pub(crate) fn statement_begins(&self) {
        if !self.remembers.more() {
            return;
        }
        let mut state = self.state();
        state.error = None;
        state.forbidden = None;
        state.block = None;
        state.poll = None;
        state.until = None;
        self.remembers.set(&state);
    }

    /// A statement has ended. SQLite may have done without the busy handler, or without the write
    /// that the lease was parked for: what was to go on ends here.
    #[inline]
    pub(crate) fn statement_ended(&self) {
        if !self.remembers.more() {
            return;
        }
        let mut state = self.state();
        state.block = None;
        state.until = None;
        state.unpark();
    }

    /// What the lock had to do with the failure of the statement, if anything.
    pub(crate) fn take_error(&self) -> Option<LockError> {
        self.state().error.take()
    }

    /// Why the lock is still in the table although the transaction has ended.
    #[inline]
    pub(crate) fn take_not_released(&self) -> Option<LockError> {
        if !self.remembers.more() {
            return None;
        }
        self.state().not_released.take()
    }

    /// How long was waited for the lease since this was last asked, if at all.
    #[inline]
    pub(crate) fn take_waited(&self) -> Option<Waited> {
        if !self.remembers.more() {
            return None;
        }
        self.state().waited.take()
    }

    /// Whether ATTACH may open a file of this name; `None` if it is not a literal.
    ///
    /// A second file that is written in one transaction would need a lease of its own and a
    /// super-journal. What no transaction writes to is harmless.
    pub(crate) fn may_attach(&self, name: Option<&[u8]>) -> bool {
        /// What `sqlite3_deserialize` asks to attach; a file of this name is refused when it is
        /// opened, for the reason that is left here.
        const FOR_DESERIALIZE: &[u8] = b"x";
        let harmless = match name {
            None => false,
            Some(b"" | b":memory:") => true,
            Some(name) => pragma::is_harmless_attachment(name),
        };
        if !harmless {
            self.state().forbidden = Some(ConfigError::ForbiddenStatement {
                statement: format!(
                    "ATTACH of `{}`",
                    name.map_or("an expression".into(), String::from_utf8_lossy)
                ),
                reason: "a second database file would need a lease of its own; open it with a connection of its own, or attach it read-only (`ATTACH 'file:..?mode=ro'`). VACUUM INTO attaches its target, too: run it on a `SqliteConnection` to `file:..?mode=ro`".to_owned(),
            });
        }
        harmless || name == Some(FOR_DESERIALIZE)
    }

    /// Whether a PRAGMA that names a schema may be carried out; for `main` the file is asked.
    pub(crate) fn may_set(&self, schema: &str, name: &str, value: Option<&str>) -> bool {
        let harmless = schema == "main" || !pragma::reaches_beyond_its_schema(name, value);
        if !harmless {
            self.state().forbidden = Some(ConfigError::ForbiddenStatement {
                statement: format!("PRAGMA {schema}.{name}"),
                reason: "it holds for the whole connection, whatever schema it names; leave the schema out".to_owned(),
            });
        }
        harmless
    }

    /// What was asked of SQLite that would go round the lock, if that is why the statement failed.
    pub(crate) fn take_forbidden(&self) -> Option<ConfigError> {
        self.state().forbidden.take()
    }

    /// A loss that SQLite rolled back for without telling: it commits a statement that was not run
    /// to its end when the statement is reset, where Diesel does not look for errors.
    #[inline]
    pub(crate) fn take_hidden_loss(&self) -> Option<LockError> {
        if !self.remembers.more() {
            return None;
        }
        let mut state = self.state();
        let is_loss = matches!(
            state.error,
            Some(LockError::LeaseLost { .. } | LockError::OutcomeUnknown { .. })
        );
        (state.rolled_back && is_loss)
            .then(|| state.error.take())
            .flatten()
    }

    /// Whether the lease is kept for SQLite to come back by way of the busy handler.
    #[cfg(test)]
    pub(super) fn is_waiting_for_handler(&self) -> bool {
        self.state().tenure() == Some(Tenure::AwaitingHandler)
    }

    /// Whether a transaction that writes is under way.
    pub(crate) fn is_writing(&self) -> bool {
        !self.remembers.nothing() && self.look().tenure() == Some(Tenure::Transaction)
    }

    pub(crate) fn lock_name(&self) -> &Arc<LockName> {
        &self.lock
    }

    /// Whether there is no lock table: `lock=local`.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// The beginning of the database was read.
    pub(crate) fn saw_header(&self, header: &[u8]) {
        /// <https://sqlite.org/fileformat2.html#the_database_header>
        const MAGIC: &[u8] = b"SQLite format 3\0";
        if header.len() < 20 || header.iter().all(|byte| *byte == 0) {
            return;
        }
        self.state().format = Some(match (header.starts_with(MAGIC), &header[18..20]) {
            (false, _) => FileFormat::Other,
            (true, [2, _] | [_, 2]) => FileFormat::WriteAheadLog,
            (true, _) => FileFormat::RollbackJournal,
        });
    }

    /// What the beginning of the database says; `None` if it is empty or was not read.
    pub(crate) fn file_format(&self) -> Option<FileFormat> {
        self.look().format
    }

    /// SQLite has ended a transaction by a rollback.
    pub(crate) fn rolled_back(&self) {
        let mut state = self.state();
        state.rolled_back = true;
        state.is_aborted |= state.in_transaction;
    }

    /// Whether the connection has a transaction open, by its own account.
    pub(crate) fn set_in_transaction(&self, open: bool) {
        let mut state = self.state();
        if state.in_transaction != open {
            state.in_transaction = open;
            state.is_aborted = false;
            state.may_have_begun = open;
        }
    }

    /// A statement that begins a transaction was prepared, by whomever.
    pub(crate) fn may_begin(&self) {
        self.state().may_have_begun = true;
    }

    /// Whether a transaction may be open that the connection's own account does not know of, as far
    /// as is known without asking SQLite.
    #[cfg(feature = "r2d2")]
    pub(crate) fn may_have_begun(&self) -> bool {
        self.look().may_have_begun
    }

    /// SQLite was asked: no transaction is open.
    #[cfg(feature = "r2d2")]
    pub(crate) fn nothing_is_begun(&self) {
        let mut state = self.state();
        state.may_have_begun = false;
        state.rolled_back = false;
    }

    /// Whether a write was asked for since this was last asked.
    pub(crate) fn take_asked_to_write(&self) -> bool {
        std::mem::take(&mut self.state().asked_to_write)
    }

    /// Whether the connection has lost a lease or met a failure of the file system.
    #[cfg(feature = "r2d2")]
    pub(crate) fn is_broken(&self) -> bool {
        self.look().is_broken
    }

    /// Whether a lease is in hand, be it pinned or a transaction's.
    #[cfg(feature = "r2d2")]
    pub(crate) fn is_holding(&self) -> bool {
        self.look().hold.is_some()
    }

    /// Whether the lease that somebody further up has pinned is lost: nothing can be written until
    /// the pin is gone.
    pub(crate) fn has_lost_its_pin(&self) -> bool {
        let state = self.state();
        state.pins > 0 && (state.hold.as_ref()).is_none_or(|hold| hold.lease.loss().is_some())
    }

    /// Whether it did since this was last asked.
    #[inline]
    pub(crate) fn take_rolled_back(&self) -> bool {
        self.remembers.more() && std::mem::take(&mut self.state().rolled_back)
    }

    /// The longest that a statement waits for locks.
    pub(crate) fn timeout(&self) -> Duration {
        self.state().timeout
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout.min(FOREVER);
    }

    /// No waiting goes on beyond this moment.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        self.state().deadline = deadline;
    }

    /// Whether a transaction that begins at this moment can end before the deadline.
    pub(crate) fn is_in_time(&self, start: Instant, writes: bool) -> bool {
        let earliest_end = if writes {
            self.earliest_end(start)
        } else {
            start
        };
        (self.state().deadline).is_none_or(|deadline| earliest_end < deadline)
    }

    pub(crate) fn client(&self) -> &LockClient {
        &self.client
    }

    pub(super) fn lease_lost(&self, reason: &str) -> LockError {
        LockError::LeaseLost {
            lock: self.lock.clone(),
            reason: reason.to_owned(),
        }
    }

    /// The file system failed outside SQLite's own calls.
    pub(crate) fn file_failed(&self, reason: String) {
        let mut state = self.state();
        state.is_broken = true;
        state.error = Some(self.file_error(reason));
    }

    pub(super) fn file_error(&self, reason: String) -> LockError {
        LockError::File {
            lock: self.lock.clone(),
            reason,
        }
    }
}
