//! `efs-sqlite doctor`: examines everything that the lock depends on, and changes nothing.
//!
//! The database is not opened through SQLite, which would roll a hot journal back; its header is
//! read from the file. The requests to the lock table cannot change an item.

mod files;
mod header;
mod journal;
mod mounts;
mod table;

use serde_json::json;

use self::journal::Writer;
use crate::args::Doctor;
use crate::failure::{Failure, Outcome};
use crate::output::{Finding, Level, Output, counted};
use crate::target::Target;

pub(super) fn run(args: &Doctor, output: &Output) -> Result<Outcome, Failure> {
    let url = args.database.url()?;
    let findings = examine(url);
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let (warnings, failures) = (count(Level::Warning), count(Level::Failure));
    if args.json {
        output.json(&json!({
            "database": url,
            "ok": failures == 0,
            "warnings": warnings,
            "failures": failures,
            "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
        }))?;
    } else {
        for finding in &findings {
            output.finding(finding)?;
        }
        let (warnings, failures) = (counted(warnings, "warning"), counted(failures, "failure"));
        output.line(&format!("{warnings}, {failures}"))?;
    }
    Ok(match failures {
        0 => Outcome::Done,
        _ => Outcome::Wrong,
    })
}

fn examine(url: &str) -> Vec<Finding> {
    let target = match Target::new(url) {
        Ok(target) => target,
        // Everything else depends on the settings.
        Err(error) => return vec![Finding::problem("settings", &error.problem())],
    };
    let mut findings = vec![settings(&target)];
    let file = files::examine(&target, &mut findings);
    match target.lock() {
        Some(lock) => table::examine(&target, lock, file.as_deref(), &mut findings),
        None => findings.extend(journal::examine(file.as_deref(), Writer::NoTable)),
    }
    findings
}

fn settings(target: &Target) -> Finding {
    let settings = &target.settings;
    let lock = match target.lock() {
        Some(lock) => format!(
            "key `{}`, table `{}`, lease {} s, waits {} s for the lock",
            lock.key,
            lock.table,
            settings.lock_expiration.as_secs_f64(),
            settings.lock_timeout.as_secs_f64()
        ),
        None => "`lock=local`: SQLite's file locks alone".to_owned(),
    };
    Finding::ok("settings", lock)
}
