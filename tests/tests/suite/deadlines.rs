//! How long a transaction may hold the lock, and until when one waits for it or begins.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::process::wait_until;
use integration::proxy::{Action, Operation, Purpose, Rule};

use crate::fixtures::hosts::{
    HostsFixture, assert_lock_error, assert_serialization_failure, connect, execute,
};
use crate::fixtures::workers::{LONG, WorkersFixture, proxy};

const CREATE: &str = "execute CREATE TABLE note (text TEXT)";
const WRITE: &str = "execute INSERT INTO note VALUES ('here')";
const COUNT: &str = "query SELECT count(*) FROM note";

#[test]
fn a_transaction_many_times_longer_than_its_lease_keeps_it_and_commits() {
    let fixture = WorkersFixture::without_file_locks("deadlines-long");
    let proxy = proxy();
    let mut holder = fixture.open_behind(&proxy, "lock_expiration=6");
    holder.ok(CREATE);
    let mut other = fixture.open("lock_timeout=0.3");
    holder.ok("begin");
    holder.ok(WRITE);
    let granted = expires_at(&fixture);
    // Three leases on, each of them renewed.
    wait_until(LONG * 2, "it has been extended by three leases", || {
        other.busy(WRITE);
        expires_at(&fixture) >= granted + Duration::from_secs(18)
    });
    holder.ok(WRITE);
    assert_eq!(holder.ok("commit"), "committed");
    let after = proxy.count(&Operation::PutItem);
    assert_eq!(other.ok(COUNT), "2");
    other.ok("query PRAGMA busy_timeout = 20000");
    other.ok(WRITE);
    // A renewal would have been due after two seconds.
    let began = Instant::now();
    wait_until(LONG, "one would have come", || {
        began.elapsed() > Duration::from_secs(4)
    });
    let puts = proxy.count(&Operation::PutItem);
    assert_eq!(puts, after, "it outlives its transaction");
    fixture.assert_whole();
}

#[test]
fn a_transaction_that_is_forgotten_open_loses_the_lock_after_the_longest_hold() {
    let fixture = WorkersFixture::without_file_locks("deadlines-forgotten");
    // Waits for the longest hold and a lease.
    let mut other = fixture.open("lock_timeout=60&lock_expiration=60");
    other.ok(CREATE);
    let mut holder = fixture.open("lock_expiration=6&lock_max_hold=8");
    holder.ok("begin");
    holder.ok(WRITE);
    other.ok("execute INSERT INTO note VALUES ('of another')");
    let failure = holder.fails("commit");
    failure.assert_retryable("LeaseLost");
    assert_eq!(holder.ok("query SELECT text FROM note"), "of another");
    holder.ok(WRITE);
    fixture.assert_whole();
}

#[test]
fn a_frozen_holders_late_renewal_is_refused_and_extends_nothing() {
    let fixture = WorkersFixture::without_file_locks("deadlines-late");
    let proxy = proxy();
    let mut holder = fixture.open_behind(&proxy, "lock_expiration=6");
    holder.ok(CREATE);
    proxy.forget_requests();
    let renewal = proxy.rule(Rule::put_to(Purpose::Renew, Action::Hold).nth(1));
    holder.ok("begin");
    holder.ok(WRITE);
    renewal.wait_for_hits(1, LONG);
    holder.pause();
    fixture.wait_until_expired();
    let mut successor = fixture.open("lock_timeout=20&lock_expiration=60");
    successor.ok("begin");
    successor.ok("execute INSERT INTO note VALUES ('of the successor')");
    let (item, end) = (fixture.attribute("lock_id"), expires_at(&fixture));
    renewal.release();
    let answer = || {
        let requests = proxy.requests();
        let mut renewals = requests
            .iter()
            .filter(|request| request.purpose() == Some(Purpose::Renew));
        renewals.next().and_then(|renewal| renewal.error.clone())
    };
    wait_until(LONG, "the late renewal is answered", || answer().is_some());
    assert_eq!(answer().as_deref(), Some("ConditionalCheckFailedException"));
    assert_eq!(
        (fixture.attribute("lock_id"), expires_at(&fixture)),
        (item, end)
    );
    holder.resume();
    let failure = holder.fails("commit");
    assert_eq!(failure.kind, "LeaseLost", "{failure:?}");
    successor.ok("commit");
    assert_eq!(holder.ok("query SELECT text FROM note"), "of the successor");
    fixture.assert_whole();
}

#[test]
fn nobody_waits_beyond_the_deadline_nor_begins_after_it() {
    let fixture = HostsFixture::with_table();
    fixture.give_lease_to_another();
    let host = fixture.host();
    let mut conn = connect(&host.config().lock_timeout(LONG * 10));
    let deadline = Instant::now() + Duration::from_millis(300);
    conn.set_deadline(Some(deadline));
    assert_serialization_failure(execute(&mut conn, "INSERT INTO t (n) VALUES (1)"));
    assert!(Instant::now() >= deadline - Duration::from_millis(100));
    assert!(deadline.elapsed() < LONG, "{:?}", deadline.elapsed());
    host.store.take_calls();

    fixture.remove_item();
    wait_until(LONG, "the deadline is over", || Instant::now() > deadline);
    let result = execute(&mut conn, "INSERT INTO t (n) VALUES (2)");
    assert!(result.is_err());
    assert_lock_error!(conn, DeadlinePassed);
    assert_eq!(host.store.take_calls(), [], "nothing was asked");
    assert!(
        execute(&mut conn, "SELECT count(*) FROM t").is_ok(),
        "reads go on"
    );

    conn.set_deadline(Some(Instant::now() + LONG));
    assert_eq!(execute(&mut conn, "INSERT INTO t (n) VALUES (3)"), Ok(1));
    fixture.assert_nothing_left();
}

fn expires_at(fixture: &WorkersFixture) -> SystemTime {
    let seconds = fixture.attribute("expires_at").expect("an item");
    UNIX_EPOCH + Duration::from_secs(seconds.parse().expect("a number"))
}
