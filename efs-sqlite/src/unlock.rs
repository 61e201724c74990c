//! `efs-sqlite unlock`: deletes the item of a writer that is gone.

use std::io::{self, BufRead, IsTerminal};

use diesel_sqlite_efs::JournalId;
use diesel_sqlite_efs::admin::{Deletion, ItemLookup, JournalStatus, journal_status};

use crate::args::Unlock;
use crate::failure::{Failure, Outcome};
use crate::holder::{self, Lock, fields};
use crate::output::Output;
use crate::target::Target;

pub(crate) fn run(args: &Unlock, output: &Output) -> Result<Outcome, Failure> {
    let target = Target::new(args.database.url()?)?;
    let (lock, table) = target.table()?;
    let probe = table.probe(&lock.key)?;
    let (state, now) = (Lock::of(&probe), holder::now(&probe));
    output.field("key", &lock.key)?;
    output.field("table", &lock.table)?;
    output.field("lock", state.word())?;
    for (name, text) in fields(&state, now) {
        output.field(&name, &text)?;
    }
    let item = match probe.item {
        ItemLookup::Absent => {
            output.line("there is nothing to delete")?;
            return Ok(Outcome::Done);
        }
        ItemLookup::Hidden => {
            let problem = "the service does not show the item; nothing was deleted";
            return Err(Failure::Broken(problem.to_owned()));
        }
        ItemLookup::Found(item) => item,
    };
    if let Some(journal) = state.seen().and_then(|seen| seen.committed) {
        refuse_if_needed(&target, journal)?;
    }
    if !args.yes && !confirmed(&state, now, output)? {
        return Err(Failure::Broken("nothing was deleted".to_owned()));
    }
    match table.delete_unchanged(&lock.key, &item)? {
        Deletion::Deleted => output.line("deleted; the lock is free")?,
        Deletion::Gone => output.line("it is gone by now; the lock is free")?,
        Deletion::Changed => {
            let problem = "the item has changed since it was shown, so somebody is writing; \
                           nothing was deleted";
            return Err(Failure::Busy(problem.to_owned()));
        }
    }
    Ok(Outcome::Done)
}

/// The commit record of an item keeps an acknowledged transaction while its journal exists: without
/// the record the next connection would roll the transaction back.
fn refuse_if_needed(target: &Target, committed: JournalId) -> Result<(), Failure> {
    let refuse = |reason: String| {
        Err(Failure::Broken(format!(
            "{reason}; nothing was deleted. Once the lease has ended, `efs-sqlite check` or any \
             other connection finishes that transaction and frees the lock"
        )))
    };
    let Some(file) = target.file() else {
        return refuse(format!(
            "the item records a committed transaction, and whether its journal still stands \
             cannot be seen from here, where there is no file {}",
            target.path.display()
        ));
    };
    match journal_status(&file) {
        Ok(JournalStatus::Hot(journal)) if journal == committed => refuse(format!(
            "the item records the transaction of the journal beside {} as committed, and without \
             the record it would be rolled back",
            file.display()
        )),
        Ok(_) => Ok(()),
        Err(error) => refuse(format!("the journal cannot be read: {error}")),
    }
}

fn confirmed(state: &Lock, now: f64, output: &Output) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let problem = "there is no terminal to ask on; give --yes to delete without asking";
        return Err(Failure::Usage(problem.to_owned()));
    }
    output.question(&question(state, now))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}

fn question(state: &Lock, now: f64) -> String {
    let ends = |seen| (holder::end(seen) - now).max(0.0);
    match state {
        Lock::Held(seen) => format!(
            "The lease of {} has not ended: in {} s it does so by itself, unless the holder is at \
             work. If it is, its transaction fails. Delete the item? [y/N]",
            holder::name(seen),
            ends(seen).ceil()
        ),
        Lock::Expired(seen) => format!(
            "The lease of {} has ended, and the next writer would take it over. Delete the item? \
             [y/N]",
            holder::name(seen)
        ),
        _ => "No lock client of ours has written this item. Delete it? [y/N]".to_owned(),
    }
}
