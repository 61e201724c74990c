//! `efs-sqlite unlock`: deletes the item of a writer that is gone.

use std::io::{self, BufRead, IsTerminal};

use super::args::Unlock;
use super::failure::{Failure, Outcome};
use super::holder::{self, Lock, fields};
use super::output::Output;
use super::target::Target;
use crate::store::dynamodb::admin::{Deletion, Standing};
use crate::store::{JournalId, StoredItem};
use crate::vfs::inspect::{self, JournalState};
use crate::vfs::netfs::network_file_system;

pub(super) fn run(args: &Unlock, output: &Output) -> Result<Outcome, Failure> {
    let target = Target::new(args.database.url()?)?;
    let (lock, store) = target.table()?;
    let look = store.look(&lock.key)?;
    let (state, now) = (Lock::of(&look), holder::now(&look));
    output.field("key", &lock.key)?;
    output.field("table", &lock.table)?;
    output.field("lock", state.word())?;
    for (name, text) in fields(&state, now) {
        output.field(&name, &text)?;
    }
    let item = match look.standing {
        Standing::Nothing => {
            output.line("there is nothing to delete")?;
            return Ok(Outcome::Done);
        }
        Standing::Untold => {
            let problem = "the service does not show the item; nothing was deleted";
            return Err(Failure::Broken(problem.to_owned()));
        }
        Standing::Item(item) => item,
    };
    if let Some(journal) = state.seen().and_then(|seen| seen.committed) {
        refuse_if_needed(&target, journal)?;
    }
    if !args.yes && !confirmed(&state, now, output)? {
        return Err(Failure::Broken("nothing was deleted".to_owned()));
    }
    match store.delete_exactly(&lock.key, &item)? {
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

/// An item's commit record keeps an acknowledged transaction for as long as its journal stands:
/// without the record the next connection would roll it back.
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
    let network = network_file_system(&file).is_ok_and(|network| network.is_some());
    match inspect::journal(&file, network) {
        Ok(JournalState::Hot(journal)) if journal == committed => refuse(format!(
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
    let ends = |seen: &StoredItem| (seen.expires_at_seconds().unwrap_or_default() - now).max(0.0);
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
