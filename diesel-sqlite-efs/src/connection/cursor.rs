//! The rows of a query, with the lock's errors translated.

use std::collections::VecDeque;
use std::fmt;

use diesel::connection::LoadConnection;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;

use super::state::ConnectionState;

type Rows<'conn, 'query> = <SqliteConnection as LoadConnection>::Cursor<'conn, 'query>;
type Row<'conn, 'query> = <SqliteConnection as LoadConnection>::Row<'conn, 'query>;

/// The rows that a query returns, from `load_iter` and below `load` and `get_result`.
///
/// A statement that writes outside a transaction, such as `INSERT .. RETURNING`, is run to its end
/// before its first row is handed out. SQLite commits it only then, and a caller that takes one row
/// and leaves must not miss that the commit failed.
#[must_use = "rows are read as they are taken"]
pub struct EfsCursor<'conn, 'query> {
    rows: Rows<'conn, 'query>,
    state: &'conn mut ConnectionState,
    begun: bool,
    /// SQLite would run a statement that has ended once more.
    ended: bool,
    buffered: VecDeque<Row<'conn, 'query>>,
}

impl<'conn, 'query> EfsCursor<'conn, 'query> {
    pub(super) fn new(rows: Rows<'conn, 'query>, state: &'conn mut ConnectionState) -> Self {
        Self {
            rows,
            state,
            begun: false,
            ended: false,
            buffered: VecDeque::new(),
        }
    }

    /// The next row of SQLite's.
    fn step(&mut self) -> Option<QueryResult<Row<'conn, 'query>>> {
        if self.ended {
            return None;
        }
        let result = match self.rows.next() {
            Some(Ok(row)) => return Some(Ok(row)),
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        self.ended = true;
        (self.state.finish_statement(result).err()).map(Err)
    }

    /// The first row; all others are fetched with it if the end of the statement is a commit.
    fn first(&mut self) -> Option<QueryResult<Row<'conn, 'query>>> {
        self.begun = true;
        let first = self.step()?;
        if first.is_err() || !self.state.will_autocommit() {
            return Some(first);
        }
        while let Some(row) = self.step() {
            match row {
                Ok(row) => self.buffered.push_back(row),
                Err(error) => {
                    self.buffered.clear();
                    return Some(Err(error));
                }
            }
        }
        Some(first)
    }
}

impl<'conn, 'query> Iterator for EfsCursor<'conn, 'query> {
    type Item = QueryResult<Row<'conn, 'query>>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.begun {
            return self.first();
        }
        match self.buffered.pop_front() {
            Some(row) => Some(Ok(row)),
            None => self.step(),
        }
    }
}

impl fmt::Debug for EfsCursor<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EfsCursor")
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}
