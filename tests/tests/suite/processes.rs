//! Many processes on one database: nothing is lost, nothing is torn, nothing stays behind.

use integration::options::load_seconds;

use crate::fixtures::workers::{WorkerProcess, WorkersFixture, assert_ledger, number_before};

/// How many processes write, and how many read.
const WRITERS: usize = 8;
const READERS: usize = 3;

/// File locks do nothing here, so that only the lease keeps the writers apart.
///
/// A longer run (`EFS_TESTS=long`) meets more of the rare interleavings.
#[test]
fn without_file_locks_no_update_is_lost_and_no_read_is_torn() {
    let fixture = WorkersFixture::without_file_locks("processes-none");
    all_is_kept(&fixture, "", load_seconds(4));
}

/// The same with file locks as well.
#[test]
fn with_file_locks_no_update_is_lost_and_no_read_is_torn() {
    let fixture = WorkersFixture::new("processes-unix");
    all_is_kept(&fixture, "", load_seconds(3));
}

#[test]
fn without_file_locks_a_reader_that_meets_a_commit_is_told_so_and_sees_no_mixture() {
    let fixture = WorkersFixture::without_file_locks("processes-torn");
    let mut writer = fixture.open("");
    writer.ok(
        "batch CREATE TABLE a (state TEXT); INSERT INTO a VALUES ('old'); \
         CREATE TABLE b (state TEXT); INSERT INTO b VALUES ('old')",
    );
    let mut reader = fixture.open("");
    reader.ok("begin");
    assert_eq!(reader.ok("query SELECT state FROM a"), "old");
    writer.ok("batch BEGIN; UPDATE a SET state = 'new'; UPDATE b SET state = 'new'; COMMIT");
    let failure = reader.fails("query SELECT state FROM b");
    failure.assert_retryable("TornRead");
    reader.ok("rollback");
    assert_eq!(
        reader.ok("query SELECT a.state, b.state FROM a, b"),
        "new|new"
    );
    fixture.assert_whole();
}

#[test]
fn a_transaction_that_has_read_an_old_state_may_not_write_over_the_new_one() {
    let fixture = WorkersFixture::without_file_locks("processes-stale");
    let mut winner = fixture.open("");
    winner.ok("batch CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (1)");
    let mut loser = fixture.open("");
    loser.ok("begin");
    assert_eq!(loser.ok("query SELECT value FROM counter"), "1");
    winner.ok("execute UPDATE counter SET value = 2");
    // It would write 1 + 1, and the winner's update would be lost.
    let failure = loser.fails("execute UPDATE counter SET value = 1 + 1");
    failure.assert_retryable("StaleSnapshot");
    loser.ok("rollback");
    assert_eq!(loser.ok("query SELECT value FROM counter"), "2");
    loser.ok("execute UPDATE counter SET value = 3");
    fixture.assert_whole();
}

fn all_is_kept(fixture: &WorkersFixture, parameters: &str, seconds: u32) {
    fixture.open(parameters).ok("create-ledger");
    let open = |_| fixture.open(&format!("lock_timeout=20&{parameters}"));
    let mut writers: Vec<WorkerProcess> = (0..WRITERS).map(open).collect();
    let mut readers: Vec<WorkerProcess> = (0..READERS).map(open).collect();
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.tell(&format!("write-ledger writer-{number} {seconds}"));
    }
    for reader in &mut readers {
        reader.tell(&format!("read-ledger {seconds}"));
    }

    let mut acknowledged = Vec::new();
    for writer in &writers {
        let answer = writer.answer().expect("no error but retryable ones");
        acknowledged.push(number_before(&answer, "acknowledged"));
    }
    for reader in &readers {
        let answer = reader.answer().expect("no error but retryable ones");
        assert_eq!(number_before(&answer, "torn"), 0, "{answer}");
        assert!(number_before(&answer, "whole") > 0, "{answer}");
    }
    drop((writers, readers));

    // Several processes have really written, in turn.
    assert!(
        acknowledged.iter().filter(|writes| **writes > 0).count() > WRITERS / 2,
        "{acknowledged:?}"
    );
    let mut auditor = fixture.open(parameters);
    assert_ledger(&mut auditor, &acknowledged);
    drop(auditor);
    fixture.assert_whole();
}
