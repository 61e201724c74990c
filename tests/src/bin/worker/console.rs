//! Commands in, answers out.

use std::fmt;
use std::io;

use diesel::result::{DatabaseErrorKind, Error};
use diesel_sqlite_efs::LockError;

/// What a command came to.
pub(crate) type Answer = Result<String, Failure>;

/// An error, in a form that another process can judge.
pub(crate) struct Failure {
    kind: String,
    retryable: bool,
    message: String,
}

/// Standard input and output.
pub(crate) struct Console;

impl Console {
    /// The next command; `None` once the parent has closed the pipe or is gone.
    pub(crate) fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        match io::stdin().read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
        }
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        match answer {
            Ok(text) => println!("ok {text}"),
            Err(failure) => println!("{failure}"),
        }
    }
}

impl Failure {
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        Self {
            kind: "Other".to_owned(),
            retryable: false,
            message: message.to_string(),
        }
    }

    /// Diesel's error; `cause` is the lock's last one, which is its cause if it says the same.
    pub(crate) fn of_diesel(error: &Error, cause: Option<&LockError>) -> Self {
        let message = error.to_string();
        let kind = match cause {
            Some(cause) if cause.to_string() == message => variant(cause),
            _ => match error {
                Error::DatabaseError(kind, _) => variant(kind),
                other => variant(other),
            },
        };
        Self {
            kind,
            retryable: is_retryable(error),
            message,
        }
    }
}

impl From<&LockError> for Failure {
    fn from(error: &LockError) -> Self {
        Self {
            kind: variant(error),
            retryable: error.is_retryable(),
            message: error.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.retryable { "retryable" } else { "final" };
        // One answer, one line.
        let message = self.message.replace('\n', " ");
        write!(f, "error {} {again} {message}", self.kind)
    }
}

pub(crate) fn is_retryable(error: &Error) -> bool {
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)
    )
}

/// The name of an error's variant; `#[non_exhaustive]` keeps a `match` from being complete.
fn variant(error: &impl fmt::Debug) -> String {
    let debug = format!("{error:?}");
    let end = debug.find(|c: char| !c.is_alphanumeric());
    debug[..end.unwrap_or(debug.len())].to_owned()
}
