//! The connection's transaction, as far as the write lock has to know of it.

/// Who rolled a transaction back that the connection has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RolledBackBy {
    /// SQLite by itself, as it does after an I/O error.
    Sqlite,
    /// A ROLLBACK of the application's own.
    Statement,
}

impl RolledBackBy {
    /// For errors, where nothing more precise is known.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite rolled it back",
            Self::Statement => "a ROLLBACK statement of the application has ended it",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    stage: Stage,
    rollback: Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    None,
    /// None by the connection's account, but a statement that begins one was prepared: only SQLite
    /// knows whether it is open.
    Unknown,
    /// By the connection's account.
    Open,
    /// The connection has yet to end it: what is written now would be written in autocommit mode.
    RolledBack(RolledBackBy),
}

/// What the statement under way rolls back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rollback {
    #[default]
    Nothing,
    /// A ROLLBACK was prepared.
    Asked,
    Done,
}

impl Transaction {
    pub(super) fn statement_begins(&mut self) {
        self.rollback = Rollback::Nothing;
    }

    /// A BEGIN or SAVEPOINT was prepared, by whomever.
    pub(super) fn begin_prepared(&mut self) {
        if self.stage == Stage::None {
            self.stage = Stage::Unknown;
        }
    }

    pub(super) fn rollback_prepared(&mut self) {
        self.rollback = Rollback::Asked;
    }

    /// SQLite has rolled back.
    pub(super) fn rolled_back(&mut self) {
        let by = match self.rollback {
            Rollback::Asked => RolledBackBy::Statement,
            Rollback::Nothing | Rollback::Done => RolledBackBy::Sqlite,
        };
        self.rollback = Rollback::Done;
        if self.stage == Stage::Open {
            self.stage = Stage::RolledBack(by);
        }
    }

    /// The connection's account was opened, or closed.
    pub(super) fn set_open(&mut self, open: bool) {
        self.stage = match (self.stage, open) {
            (Stage::None | Stage::Unknown, true) => Stage::Open,
            (Stage::Open | Stage::RolledBack(_), false) => Stage::None,
            (unchanged, _) => unchanged,
        };
    }

    /// SQLite was asked: none is open.
    #[cfg(feature = "r2d2")]
    pub(super) fn none_is_open(&mut self) {
        *self = Self::default();
    }

    /// Whether one may be open that the connection does not know of.
    #[cfg(feature = "r2d2")]
    pub(super) fn is_unknown(&self) -> bool {
        self.stage == Stage::Unknown
    }

    /// Who has rolled back the transaction that the connection has open, if anybody has.
    pub(super) fn rolled_back_by(&self) -> Option<RolledBackBy> {
        match self.stage {
            Stage::RolledBack(by) => Some(by),
            _ => None,
        }
    }

    /// Whether the next statement has to look at it.
    pub(super) fn needs_attention(&self) -> bool {
        self.rolled_back_by().is_some() || self.rollback != Rollback::Nothing
    }

    /// Whether the statement under way has rolled anything back, be it its own autocommit
    /// transaction.
    pub(super) fn has_rolled_back(&self) -> bool {
        self.rollback == Rollback::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Transaction {
        let mut transaction = Transaction::default();
        transaction.begin_prepared();
        transaction.set_open(true);
        transaction.statement_begins();
        transaction
    }

    #[test]
    fn a_rollback_that_was_asked_for_is_told_from_one_of_sqlites_own() {
        let mut asked = open();
        asked.rollback_prepared();
        assert_eq!(asked.rolled_back_by(), None);
        asked.rolled_back();
        assert_eq!(asked.rolled_back_by(), Some(RolledBackBy::Statement));

        let mut own = open();
        own.rolled_back();
        assert_eq!(own.rolled_back_by(), Some(RolledBackBy::Sqlite));
        // What comes later changes nothing about it.
        own.statement_begins();
        own.rollback_prepared();
        own.rolled_back();
        assert_eq!(own.rolled_back_by(), Some(RolledBackBy::Sqlite));
        own.set_open(true);
        assert_eq!(own.rolled_back_by(), Some(RolledBackBy::Sqlite));
        own.set_open(false);
        assert_eq!(own.rolled_back_by(), None);
    }

    #[test]
    fn a_rollback_that_an_earlier_statement_prepared_is_not_the_cause() {
        let mut transaction = open();
        transaction.rollback_prepared();
        transaction.statement_begins();
        transaction.rolled_back();
        assert_eq!(transaction.rolled_back_by(), Some(RolledBackBy::Sqlite));
    }

    #[test]
    fn a_rollback_outside_the_connections_account_ends_nothing() {
        let mut transaction = Transaction::default();
        transaction.begin_prepared();
        transaction.rolled_back();
        assert!(transaction.has_rolled_back());
        assert_eq!(transaction.rolled_back_by(), None);
        assert_eq!(transaction.stage, Stage::Unknown);
        transaction.statement_begins();
        assert!(!transaction.has_rolled_back());
    }
}
