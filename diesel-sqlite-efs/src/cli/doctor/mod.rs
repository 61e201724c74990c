//! `efs-sqlite doctor`: looks at everything that the lock rests on, and changes nothing.
//!
//! The database is not opened through SQLite, which would roll a hot journal back; its header is
//! read as a file's. The lock table is asked by requests that cannot change an item.

mod files;
mod mounts;
mod table;

use serde_json::json;

use super::args::Doctor;
use super::failure::{Failure, Outcome};
use super::output::{Finding, Level, Output, counted};
use super::target::Target;

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
        // Everything else depends on them.
        Err(error) => return vec![Finding::of_error("settings", &error)],
    };
    let mut findings = vec![settings(&target)];
    let file_system = files::examine(&target, &mut findings);
    match target.lock() {
        Some(lock) => table::examine(&target, &lock, &file_system, &mut findings),
        None => {
            let finding = files::journal(&file_system, table::Holder::NoTable);
            findings.extend(finding);
        }
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
            settings.terms.expiration.as_secs_f64(),
            settings.timeout.as_secs_f64()
        ),
        None => "`lock=local`: SQLite's file locks alone".to_owned(),
    };
    Finding::ok("settings", lock)
}
