//! `efs-sqlite create-table`: creates or checks the lock table.

use std::thread;
use std::time::{Duration, Instant};

use diesel_sqlite_efs::admin::{EffectiveSettings, LockTable, TableSummary, TimeToLive};
use diesel_sqlite_efs::{ConfigError, EfsConfig};

use crate::args::CreateTable;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// How often to ask for the status of a new table.
const PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &CreateTable, output: &Output) -> Result<Outcome, Failure> {
    let table = table(args)?;
    let store = LockTable::new(&table);
    let is_new = store.create_table()?;
    output.line(&if is_new {
        format!("table {table}: created, key pk (S), on-demand")
    } else {
        format!("table {table}: exists")
    })?;
    let summary = wait_until_active(&store, &table, args.timeout)?;
    if let Some(problem) = wrong_key(&summary) {
        return Err(Failure::Broken(format!(
            "table {table}: {problem}; give the lock a table of its own"
        )));
    }
    output.line(&format!("table {table}: key pk (S), active"))?;
    match store.time_to_live()? {
        TimeToLive::On(attribute) if attribute == "expires_at" => {}
        TimeToLive::On(attribute) => {
            return Err(Failure::Broken(format!(
                "table {table}: its TTL attribute is `{attribute}`, not `expires_at`; switch it \
                 off, wait an hour, and run this again"
            )));
        }
        TimeToLive::Disabling => {
            return Err(Failure::Busy(format!(
                "table {table}: TTL is being switched off; run this again in an hour"
            )));
        }
        TimeToLive::Off => store.enable_time_to_live()?,
    }
    output.line(&format!("table {table}: TTL on expires_at"))?;
    Ok(Outcome::Done)
}

/// What is wrong with a table's primary key, if anything.
pub(crate) fn wrong_key(summary: &TableSummary) -> Option<String> {
    match &summary.key[..] {
        [(name, kind)] if name == "pk" && kind == "S" => None,
        key => {
            let parts: Vec<_> = (key.iter())
                .map(|(name, kind)| format!("{name} ({kind})"))
                .collect();
            Some(format!(
                "its primary key is {}; a lock needs pk (S) and no sort key",
                parts.join(" and ")
            ))
        }
    }
}

fn table(args: &CreateTable) -> Result<String, Failure> {
    let config = match (&args.table, &args.url) {
        // Only the table is needed.
        (Some(table), _) => EfsConfig::new("database").lock_table(table),
        (None, Some(url)) => EfsConfig::from_url(url)?,
        (None, None) => EfsConfig::new("database"),
    };
    let error = match EffectiveSettings::of(&config) {
        Ok(settings) => match settings.lock {
            Some(lock) => return Ok(lock.table),
            None => ConfigError::NoTable,
        },
        Err(error) => error,
    };
    Err(match error {
        ConfigError::NoTable => Failure::Usage(
            "no table is named: give --table NAME, or a DATABASE whose settings name one"
                .to_owned(),
        ),
        ConfigError::InvalidValue { value, problem, .. } if args.table.is_some() => {
            Failure::Usage(format!("invalid value `{value}` for --table: {problem}"))
        }
        error => error.into(),
    })
}

fn wait_until_active(
    store: &LockTable,
    table: &str,
    timeout: Duration,
) -> Result<TableSummary, Failure> {
    let end = Instant::now() + timeout;
    loop {
        let summary = store.describe()?;
        if summary.is_active {
            return Ok(summary);
        }
        if Instant::now() >= end {
            return Err(Failure::Busy(format!(
                "table {table}: its status is {} after {} s; run this again later",
                summary.status,
                timeout.as_secs_f64()
            )));
        }
        thread::sleep(PERIOD);
    }
}
