//! A process of its own with one connection, which does what a test tells it to: for whatever a
//! whole process shares, such as its environment, its rights and its mounts.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_sqlite_efs::EfsSqliteConnection;
use integration::process::Worker;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What begins a line that answers; all others are the test harness's.
const ANSWER: &str = "ANSWER ";

/// A child process with a connection.
#[derive(Debug)]
pub(crate) struct Process(Worker);

/// An error as a user of the connection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Diesel's kind; empty for what is no `DatabaseError`.
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) details: Option<String>,
    pub(crate) hint: Option<String>,
    /// `last_lock_error()` as text, and as Rust shows it.
    pub(crate) lock_error: Option<String>,
    pub(crate) lock_error_value: Option<String>,
}

type Answer<T> = Result<Result<T, Box<Failure>>, Box<dyn Error>>;

impl Process {
    /// Starts a process that sees these environment variables and no others.
    pub(crate) fn start<'a>(
        environment: impl IntoIterator<Item = (&'a str, String)>,
    ) -> io::Result<Self> {
        Self::start_by(Command::new(env::current_exe()?), environment)
    }

    /// Starts it by a command that ends in running this very program with further arguments.
    pub(crate) fn start_by<'a>(
        mut command: Command,
        environment: impl IntoIterator<Item = (&'a str, String)>,
    ) -> io::Result<Self> {
        command
            .args(["--exact", "driver::child", "--ignored", "--nocapture"])
            .env_clear()
            .env("HOME", "/nonexistent")
            .envs(environment);
        Worker::spawn(&mut command).map(Self)
    }

    /// Opens the connection, in place of an earlier one; the error is its text.
    pub(crate) fn open(&mut self, url: &str) -> Result<Result<(), String>, Box<dyn Error>> {
        let answer = self.ask(&json!({ "open": url }))?;
        Ok(match answer.get("message") {
            Some(message) => Err(message.as_str().unwrap_or_default().to_owned()),
            None => Ok(()),
        })
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self) -> Result<(), Box<dyn Error>> {
        self.ask(&json!({ "close": true })).map(drop)
    }

    /// Runs a statement; returns the number of rows it changed.
    pub(crate) fn execute(&mut self, sql: &str) -> Answer<i64> {
        self.number_or_failure(&json!({ "execute": sql }))
    }

    /// Runs statements in a transaction.
    pub(crate) fn transaction(&mut self, statements: &[&str]) -> Answer<i64> {
        self.number_or_failure(&json!({ "transaction": statements }))
    }

    /// The number in a query's column `value`.
    pub(crate) fn number(&mut self, sql: &str) -> Answer<i64> {
        self.number_or_failure(&json!({ "number": sql }))
    }

    /// Prepares the connection for its first request.
    pub(crate) fn warm_up(&mut self) -> Result<Option<String>, Box<dyn Error>> {
        let answer = self.ask(&json!({ "warm_up": true }))?;
        Ok(answer["message"].as_str().map(str::to_owned))
    }

    /// The last lock error as text.
    pub(crate) fn last_lock_error(&mut self) -> Result<Option<String>, Box<dyn Error>> {
        let answer = self.ask(&json!({ "last_lock_error": true }))?;
        Ok(answer["value"].as_str().map(str::to_owned))
    }

    /// Gives up the right of the superuser to go past permissions.
    pub(crate) fn obey_permissions(&mut self) -> Result<(), Box<dyn Error>> {
        self.ask(&json!({ "obey_permissions": true })).map(drop)
    }

    /// Deletes a file where only the process sees it.
    pub(crate) fn remove_file(&mut self, path: &Path) -> Result<(), Box<dyn Error>> {
        self.ask(&json!({ "remove_file": path })).map(drop)
    }

    /// Opens the database with Diesel's own connection and counts the table's rows.
    pub(crate) fn count_with_diesel(&mut self, path: &Path) -> Result<(), Box<dyn Error>> {
        self.ask(&json!({ "count_with_diesel": path })).map(drop)
    }

    fn number_or_failure(&mut self, question: &Value) -> Answer<i64> {
        let answer = self.ask(question)?;
        let number = || answer["value"].as_i64().unwrap_or(-1);
        Ok(failure(&answer).map_or_else(|| Ok(number()), Err))
    }

    fn ask(&mut self, question: &Value) -> Result<Value, Box<dyn Error>> {
        self.0.send(&question.to_string())?;
        let line = self.0.line_where(LONG, |line| line.contains(ANSWER))?;
        let (_, answer) = line.split_once(ANSWER).unwrap_or_default();
        Ok(serde_json::from_str(answer)?)
    }
}

fn failure(answer: &Value) -> Option<Box<Failure>> {
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    Some(Box::new(Failure {
        message: text("message")?,
        kind: text("kind").unwrap_or_default(),
        details: text("details"),
        hint: text("hint"),
        lock_error: text("lock_error"),
        lock_error_value: text("lock_error_value"),
    }))
}

#[test]
#[ignore = "not a test: the process that tests of other modules drive"]
fn child() {
    let mut connection = None;
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line from the test");
        let question: Value = serde_json::from_str(&line).expect("a question in JSON");
        let answer = answer(&mut connection, &question);
        println!("{ANSWER}{answer}");
    }
}

fn answer(connection: &mut Option<EfsSqliteConnection>, question: &Value) -> Value {
    if let Some(url) = question["open"].as_str() {
        *connection = None;
        return match EfsSqliteConnection::establish(url) {
            Ok(opened) => {
                *connection = Some(opened);
                json!({})
            }
            Err(error) => json!({ "message": error.to_string() }),
        };
    }
    if question.get("close").is_some() {
        *connection = None;
        return json!({});
    }
    if question.get("obey_permissions").is_some() {
        let mut sets = capabilities(None).expect("this thread's capabilities");
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).expect("a process may give up what it has");
        return json!({});
    }
    if let Some(path) = question["remove_file"].as_str() {
        fs::remove_file(path).expect("the file is there");
        return json!({});
    }
    if let Some(path) = question["count_with_diesel"].as_str() {
        let mut connection = SqliteConnection::establish(path).expect("a database");
        let count = diesel::sql_query("SELECT count(*) AS value FROM t");
        count.get_result::<Number>(&mut connection).expect("rows");
        return json!({});
    }
    let connection = connection.as_mut().expect("an open connection");
    if question.get("warm_up").is_some() {
        let error = connection.warm_up().err();
        return json!({ "message": error.map(|error| error.to_string()) });
    }
    if question.get("last_lock_error").is_some() {
        let error = connection.last_lock_error();
        return json!({ "value": error.map(ToString::to_string) });
    }
    let result = if let Some(sql) = question["execute"].as_str() {
        diesel::sql_query(sql).execute(connection).map(Value::from)
    } else if let Some(sql) = question["number"].as_str() {
        let row = diesel::sql_query(sql).get_result::<Number>(connection);
        row.map(|row| row.value.into())
    } else if let Some(statements) = question["transaction"].as_array() {
        connection.transaction(|connection| {
            for sql in statements.iter().filter_map(Value::as_str) {
                diesel::sql_query(sql).execute(connection)?;
            }
            Ok(Value::from(0))
        })
    } else {
        panic!("what does {question} ask for?")
    };
    match result {
        Ok(value) => json!({ "value": value }),
        Err(error) => shown(&error, connection),
    }
}

fn shown(error: &diesel::result::Error, connection: &EfsSqliteConnection) -> Value {
    let lock_error = connection.last_lock_error();
    let mut shown = json!({
        "message": error.to_string(),
        "lock_error": lock_error.map(ToString::to_string),
        "lock_error_value": lock_error.map(|error| format!("{error:?}")),
    });
    if let diesel::result::Error::DatabaseError(kind, information) = error {
        shown["kind"] = format!("{kind:?}").into();
        shown["message"] = information.message().into();
        shown["details"] = information.details().into();
        shown["hint"] = information.hint().into();
    }
    shown
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}
