//! Opens a database, reads a row, writes one, and says when.
//!
//! `minimal URL [warm-up]`: prints `row`, then, with `warm-up`, `warm`, then `written`, each when it
//! is done, and last the most memory that the process has had, in KiB.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};

use diesel::prelude::*;
use diesel_sqlite_efs::EfsSqliteConnection;

diesel::table! {
    /// What the benchmarks' databases have.
    counter (id) {
        /// 1.
        id -> BigInt,
        /// The number of writes.
        n -> BigInt,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let url = arguments.next().ok_or("usage: minimal URL [warm-up]")?;
    let warms_up = arguments.next().is_some();
    let mut conn = EfsSqliteConnection::establish(&url)?;
    let n: i64 = counter::table.select(counter::n).first(&mut conn)?;
    say(format_args!("row {n}"))?;
    if warms_up {
        conn.warm_up()?;
        say(format_args!("warm"))?;
    }
    diesel::update(counter::table)
        .set(counter::n.eq(counter::n + 1))
        .execute(&mut conn)?;
    say(format_args!("written"))?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("the kernel does not tell the peak of the memory")?;
    say(format_args!("{}", peak.trim()))?;
    Ok(())
}

/// One line, at once.
fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
