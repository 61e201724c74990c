//! `cargo bench -p benchmarks`: the work of one process, by this crate's connection and by Diesel's
//! own, side by side.

use std::hint::black_box;

use benchmarks::one_process::{
    LONG, MANY_ROWS, READ_CHECKS, ROWS, SHORT, clear, diesels, empty_transaction, furnish,
    insert_many, look, ours, point_select, scan, update_row,
};
use diesel_sqlite_efs::ReadCheck;
use divan::{Bencher, counter::ItemsCount};
use integration::scratch::Scratch;

fn main() {
    divan::main();
}

/// Diesel's own connection, and this crate's with each check of reads.
const CONNECTIONS: [&str; 4] = ["diesel", "off", "counter", "reopen"];

/// Those for work that does not depend on the check.
const BOTH: [&str; 2] = ["diesel", "counter"];

fn small() -> Scratch {
    file(ROWS, SHORT)
}

fn file(rows: i64, bytes: usize) -> Scratch {
    let scratch = Scratch::new().expect("a directory");
    furnish(scratch.database(), rows, bytes).expect("a database");
    scratch
}

/// Runs the same code with either kind of connection.
macro_rules! with {
    ($name:expr, $scratch:expr, |$conn:ident| $work:expr) => {
        match READ_CHECKS.iter().find(|(name, _)| *name == $name) {
            None => {
                let mut $conn = diesels($scratch.database()).expect("Diesel's connection");
                $work
            }
            Some((_, check)) => {
                let mut $conn = ours($scratch.database(), *check).expect("our connection");
                $work
            }
        }
    };
}

#[divan::bench(args = CONNECTIONS)]
fn point_select_warm(bencher: Bencher<'_, '_>, name: &str) {
    let scratch = small();
    let mut id = 0;
    with!(name, scratch, |conn| {
        bencher.bench_local(|| {
            id = id % ROWS + 1;
            point_select(&mut conn, id).expect("a row")
        });
    });
}

#[divan::bench(args = CONNECTIONS, sample_count = 10, sample_size = 1)]
fn scan_100_mb_cold(bencher: Bencher<'_, '_>, name: &str) {
    let scratch = file(MANY_ROWS, LONG);
    let check = READ_CHECKS.iter().find(|(known, _)| *known == name);
    match check {
        None => bencher
            .with_inputs(|| {
                let mut conn = diesels(scratch.database()).expect("Diesel's connection");
                look(&mut conn).expect("a row");
                conn
            })
            .bench_local_refs(|conn| scan(conn).expect("a sum")),
        Some((_, check)) => bencher
            .with_inputs(|| {
                let mut conn = ours(scratch.database(), *check).expect("our connection");
                look(&mut conn).expect("a row");
                conn
            })
            .bench_local_refs(|conn| scan(conn).expect("a sum")),
    }
}

#[divan::bench(args = BOTH)]
fn update_of_one_row(bencher: Bencher<'_, '_>, name: &str) {
    let scratch = small();
    with!(name, scratch, |conn| {
        bencher.bench_local(|| update_row(&mut conn, 1).expect("an update"));
    });
}

#[divan::bench(args = BOTH, sample_count = 5, sample_size = 1)]
fn inserts_in_one_transaction(bencher: Bencher<'_, '_>, name: &str) {
    const ROWS: i64 = 100_000;
    let scratch = file(1, SHORT);
    let bencher = bencher.counter(ItemsCount::new(100_000_usize));
    // Both are open; one of them works.
    let mut theirs = diesels(scratch.database()).expect("Diesel's connection");
    let mut mine = ours(scratch.database(), ReadCheck::Counter).expect("our connection");
    if name == "diesel" {
        bencher.bench_local(|| insert_many(&mut theirs, ROWS).expect("a transaction"));
    } else {
        bencher.bench_local(|| insert_many(&mut mine, ROWS).expect("a transaction"));
    }
    black_box(clear(&mut theirs).expect("the rows are gone"));
}

#[divan::bench(args = BOTH)]
fn empty_begin_commit(bencher: Bencher<'_, '_>, name: &str) {
    let scratch = small();
    with!(name, scratch, |conn| {
        bencher.bench_local(|| empty_transaction(&mut conn).expect("a transaction"));
    });
}
