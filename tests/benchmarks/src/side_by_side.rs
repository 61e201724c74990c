//! The work of one process, timed by turns: this crate's connection and Diesel's own.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use benchmarks::figures::{median, percentile};
use benchmarks::one_process::{
    Either, LONG, MANY_ROWS, READ_CHECKS, ROWS, SHORT, clear, diesels, empty_transaction, furnish,
    insert_many, look, ours, point_select, scan, update_row,
};
use diesel::prelude::*;
use diesel_sqlite_efs::ReadCheck;
use serde::{Deserialize, Serialize};

use crate::fixture::{Outcome, Place};

/// One kind of work, by both.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) what: String,
    /// The median over the rounds, for one operation.
    pub(crate) diesels: Duration,
    pub(crate) ours: Duration,
    /// The median of the rounds' ratios.
    pub(crate) ratio: f64,
    /// The lowest and the highest of the middle half of them.
    pub(crate) ratios: (f64, f64),
    pub(crate) rounds: usize,
    /// The bar, if there is one.
    pub(crate) at_most: Option<f64>,
}

impl Pair {
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<56} Diesel's {:>12.3?}  ours {:>12.3?}  ratio {:.3} ({:.3} to {:.3})",
            self.what, self.diesels, self.ours, self.ratio, self.ratios.0, self.ratios.1
        )
    }
}

pub(crate) fn run(place: Place, quick: bool, mut tell: impl FnMut(&Pair)) -> Outcome<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut take = |pair: Pair| {
        tell(&pair);
        pairs.push(pair);
    };
    for pair in small(place, quick)? {
        take(pair);
    }
    for pair in large(place, quick)? {
        take(pair);
    }
    take(bulk(place, quick)?);
    Ok(pairs)
}

/// Points, updates and empty transactions, on a small file in a warm cache.
fn small(place: Place, quick: bool) -> Outcome<Vec<Pair>> {
    let rounds = if quick { 10 } else { 60 };
    let (theirs, mine) = (place.scratch()?, place.scratch()?);
    for scratch in [&theirs, &mine] {
        furnish(scratch.database(), ROWS, SHORT)?;
    }
    let mut diesels = diesels(theirs.database())?;
    let mut pairs = Vec::new();
    let selects = if quick { 1_000 } else { 5_000 };
    for (name, check) in READ_CHECKS {
        let mut ours = ours(mine.database(), check)?;
        pairs.push(compare(
            &format!("point SELECT, warm, read check `{name}`"),
            rounds,
            selects,
            match check {
                ReadCheck::Off => Some(1.1),
                ReadCheck::Counter => Some(1.3),
                _ => None,
            },
            || points(&mut diesels, selects),
            || points(&mut ours, selects),
        )?);
    }
    let mut ours = ours(mine.database(), ReadCheck::Counter)?;
    let empties = 2_000;
    pairs.push(compare(
        "BEGIN, COMMIT, nothing between",
        rounds,
        empties,
        None,
        || (0..empties).try_for_each(|_| empty_transaction(&mut diesels)),
        || (0..empties).try_for_each(|_| empty_transaction(&mut ours)),
    )?);
    let updates = 20;
    pairs.push(compare(
        "UPDATE of one row, autocommit, no round trips",
        rounds * 2,
        updates,
        None,
        || (0..updates).try_for_each(|n| update_row(&mut diesels, 1 + i64::from(n)).map(drop)),
        || (0..updates).try_for_each(|n| update_row(&mut ours, 1 + i64::from(n)).map(drop)),
    )?);
    Ok(pairs)
}

fn points(conn: &mut impl Either, times: u32) -> QueryResult<()> {
    for n in 0..i64::from(times) {
        // A step that visits all rows.
        black_box(point_select(conn, 1 + n * 7919 % ROWS)?);
    }
    Ok(())
}

/// A scan by a connection that has just been opened: the system has the file in its cache, SQLite
/// has nothing.
fn large(place: Place, quick: bool) -> Outcome<Vec<Pair>> {
    let most: usize = if quick { 3 } else { 20 };
    let scratch = place.scratch()?;
    let rows = if quick { MANY_ROWS / 5 } else { MANY_ROWS };
    furnish(scratch.database(), rows, LONG)?;
    let expected = rows * i64::try_from(LONG)?;
    let path = scratch.database();
    let mut pairs = Vec::new();
    for (name, check) in READ_CHECKS {
        let megabytes = std::fs::metadata(path)?.len() / 1_000_000;
        let at_most = match check {
            ReadCheck::Off | ReadCheck::Counter => Some(1.15),
            _ => None,
        };
        // Thirty times as slow, and held to no bar.
        let rounds = if at_most.is_some() {
            most
        } else {
            most.div_ceil(4)
        };
        let mut theirs = Vec::new();
        let mut mine = Vec::new();
        for round in 0..rounds {
            by_turns::<Box<dyn Error>>(
                round,
                &mut || {
                    theirs.push(first_scan(&mut diesels(path)?, expected)?);
                    Ok(())
                },
                &mut || {
                    mine.push(first_scan(&mut ours(path, check)?, expected)?);
                    Ok(())
                },
            )?;
        }
        let what = format!("scan of {megabytes} MB, cold SQLite cache, read check `{name}`");
        pairs.push(pair(what, 1, at_most, &theirs, &mine));
    }
    Ok(pairs)
}

/// How long a scan takes that must come to this sum.
fn first_scan(conn: &mut impl Either, expected: i64) -> QueryResult<Duration> {
    look(conn)?;
    let begun = Instant::now();
    let sum = scan(conn)?;
    let took = begun.elapsed();
    assert_eq!(sum, expected);
    Ok(took)
}

/// Inserts in one transaction.
fn bulk(place: Place, quick: bool) -> Outcome<Pair> {
    let (rounds, rows) = if quick { (2, 10_000) } else { (12, 100_000) };
    let (theirs, mine) = (place.scratch()?, place.scratch()?);
    for scratch in [&theirs, &mine] {
        furnish(scratch.database(), 1, SHORT)?;
    }
    let mut diesels = diesels(theirs.database())?;
    let mut ours = ours(mine.database(), ReadCheck::Counter)?;
    let (mut of_diesels, mut of_ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        by_turns::<diesel::result::Error>(
            round,
            &mut || {
                of_diesels.push(inserts(&mut diesels, rows)?);
                Ok(())
            },
            &mut || {
                of_ours.push(inserts(&mut ours, rows)?);
                Ok(())
            },
        )?;
    }
    let what = format!("{rows} INSERTs in one transaction");
    Ok(pair(what, 1, Some(1.1), &of_diesels, &of_ours))
}

/// How long it takes to insert so many rows, which are taken away again.
fn inserts(conn: &mut impl Either, rows: i64) -> QueryResult<Duration> {
    let begun = Instant::now();
    insert_many(conn, rows)?;
    let took = begun.elapsed();
    assert_eq!(i64::try_from(clear(conn)?), Ok(rows));
    Ok(took)
}

/// Who goes first changes from round to round.
fn by_turns<E>(
    round: usize,
    one: &mut dyn FnMut() -> Result<(), E>,
    other: &mut dyn FnMut() -> Result<(), E>,
) -> Result<(), E> {
    if round.is_multiple_of(2) {
        one()?;
        other()
    } else {
        other()?;
        one()
    }
}

/// Times both over the rounds; one round is `operations` operations.
fn compare(
    what: &str,
    rounds: usize,
    operations: u32,
    at_most: Option<f64>,
    mut diesels: impl FnMut() -> QueryResult<()>,
    mut ours: impl FnMut() -> QueryResult<()>,
) -> Outcome<Pair> {
    diesels()?;
    ours()?;
    let (mut of_diesels, mut of_ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        by_turns(
            round,
            &mut || timed(&mut of_diesels, &mut diesels),
            &mut || timed(&mut of_ours, &mut ours),
        )?;
    }
    Ok(pair(
        what.to_owned(),
        operations,
        at_most,
        &of_diesels,
        &of_ours,
    ))
}

fn timed(times: &mut Vec<Duration>, work: &mut impl FnMut() -> QueryResult<()>) -> QueryResult<()> {
    let begun = Instant::now();
    work()?;
    times.push(begun.elapsed());
    Ok(())
}

fn pair(
    what: String,
    operations: u32,
    at_most: Option<f64>,
    diesels: &[Duration],
    ours: &[Duration],
) -> Pair {
    let mut ratios: Vec<_> = (ours.iter().zip(diesels))
        .map(|(ours, diesels)| ours.as_secs_f64() / diesels.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quarter = ratios.len() / 4;
    let middle = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        percentile(&times, 50) / operations
    };
    Pair {
        what,
        diesels: middle(diesels),
        ours: middle(ours),
        ratios: (ratios[quarter], ratios[ratios.len() - 1 - quarter]),
        rounds: ratios.len(),
        ratio: median(ratios),
        at_most,
    }
}
