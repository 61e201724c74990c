//! The defects of the Python package for the same lock table, none of which is ours; and its items,
//! which are understood.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use integration::emulator::Emulator;
use integration::proxy::{Action, Answer, Proxy, Purpose, RefusedEndpoint, Rule};

use crate::fixtures::workers::{WorkerProcess, WorkersFixture, proxy, requests, steps};

const INSERT: &str = "execute INSERT INTO note (text) VALUES ('here')";
const COUNT: &str = "query SELECT count(*) FROM note";
/// The requests of a transaction that has changed pages.
const WRITE: [&str; 3] = ["Acquire 200", "Record 200", "DeleteItem 200"];

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Somebody of the Python package overwrites our item, as after an expiry that we did not notice.
fn usurp(fixture: &WorkersFixture) {
    let until = SystemTime::now() + minutes(1);
    let put = fixture
        .table
        .put_as_python(&fixture.key(), "usurper", until);
    put.expect("the item is put");
}

#[test]
fn defect_1_a_transaction_whose_lease_is_lost_becomes_visible() {
    let fixture = furnished(WorkersFixture::new("defect-1"));
    let mut writer = fixture.open("");
    writer.ok("begin");
    writer.ok(INSERT);
    usurp(&fixture);
    let failure = writer.fails("commit");
    failure.assert_retryable("LeaseLost");
    assert_eq!(writer.fails("last-lock-error").kind, "LeaseLost");
    fixture
        .table
        .delete(&fixture.key())
        .expect("the usurper goes");
    assert_eq!(writer.ok(COUNT), "0");
    assert_eq!(fixture.open("").ok(COUNT), "0");
    fixture.assert_whole();
}

#[test]
fn defect_2_the_write_after_a_lost_lease_never_releases_its_own() {
    let fixture = furnished(WorkersFixture::new("defect-2"));
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "");
    writer.ok("begin");
    writer.ok(INSERT);
    usurp(&fixture);
    writer.fails("commit");
    fixture
        .table
        .delete(&fixture.key())
        .expect("the usurper goes");
    // Rolls the journal back that the lost transaction had to leave.
    assert_eq!(writer.ok(COUNT), "0");
    proxy.forget_requests();
    writer.ok(INSERT);
    assert_eq!(steps(&proxy), WRITE);
    assert_eq!(fixture.table.count().expect("a count"), 0);
    fixture.assert_whole();
}

#[test]
fn defect_3_a_lost_answer_locks_its_own_owner_out() {
    let fixture = furnished(WorkersFixture::new("defect-3"));
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "lock_expiration=60");
    let cut = proxy.rule(Rule::put(Action::CutAnswer).nth(1));
    writer.ok(INSERT);
    assert_eq!(cut.hits(), 1);
    let ids: Vec<_> = (proxy.requests().iter().take(2))
        .map(|request| request.body["Item"]["lock_id"].clone())
        .collect();
    assert_eq!(ids[0], ids[1], "one lock_id in all attempts");
    assert_eq!(steps(&proxy)[1..], WRITE);
    fixture.assert_whole();
}

#[test]
fn defect_4_waiting_ends_long_before_the_timeout() {
    let fixture = furnished(WorkersFixture::new("defect-4"));
    usurp(&fixture);
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "lock_timeout=4");
    let began = Instant::now();
    let failure = writer.fails(INSERT);
    assert_eq!(failure.kind, "Busy");
    // Ten linear pauses came to 2.75 s. The last pause is at most a fraction of a second.
    assert!(
        began.elapsed() > Duration::from_millis(3_300),
        "{failure:?}"
    );
    let asked = proxy.requests().len();
    assert!(asked > 10, "more than ten attempts: {asked}");
    fixture
        .table
        .delete(&fixture.key())
        .expect("the usurper goes");
    fixture.assert_whole();
}

#[test]
fn defect_5_what_waiting_cannot_cure_is_retried_and_reported_as_contention() {
    let fixture = furnished(WorkersFixture::new("defect-5"));
    let fails_at_once = |writer: &mut WorkerProcess, told: &str| {
        let began = Instant::now();
        let failure = writer.fails(INSERT);
        assert_eq!(failure.kind, "Store", "{failure:?}");
        assert!(failure.message.contains(told), "{failure:?}");
        assert!(!failure.retryable);
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "not the timeout of 30 s"
        );
    };
    let parameters = "lock_timeout=30";
    for (answer, told) in [
        (
            Answer::access_denied("dynamodb:PutItem"),
            "dynamodb:PutItem",
        ),
        (Answer::table_missing(), "does not exist"),
        (Answer::bad_credentials(), "credentials"),
    ] {
        let fake = Proxy::fake(answer).expect("an endpoint");
        let mut writer = fixture.open_behind(&fake, parameters);
        fails_at_once(&mut writer, told);
        assert_eq!(fake.requests().len(), 1);
    }
    let refused = RefusedEndpoint::new().expect("a port");
    let writer = fixture.try_open(&refused.endpoint(), parameters, &[]);
    fails_at_once(
        &mut writer.expect("opening asks nobody"),
        &refused.endpoint(),
    );
    fixture.assert_whole();
}

#[test]
fn defect_6_a_host_whose_clock_is_ahead_steals_a_live_lock() {
    let fixture = furnished(WorkersFixture::new("defect-6"));
    let mut holder = fixture.open("lock_holder=the-slow-one");
    holder.ok("begin");
    holder.ok(INSERT);
    let endpoint = Emulator::shared().endpoint();
    let thief = fixture.try_open(endpoint, "lock_timeout=1", &["clock=ahead"]);
    let mut thief = thief.expect("the database opens");
    // The second time it knows the store's clock; the first time it learns from the refusal.
    for _ in 0..2 {
        let failure = thief.busy("immediate");
        assert!(failure.message.contains("the-slow-one"), "{failure:?}");
    }
    holder.ok("commit");
    // Its own lease is dated by the store's clock as well.
    thief.ok("immediate");
    let expires_at = fixture.expires_at().expect("an item");
    assert!(expires_at < SystemTime::now() + Duration::from_secs(60));
    thief.ok(INSERT);
    thief.ok("commit");
    assert_eq!(thief.ok(COUNT), "2");
    fixture.assert_whole();
}

#[test]
fn defect_7_reads_take_the_lock_and_scripts_go_past_it() {
    let fixture = furnished(WorkersFixture::new("defect-7"));
    let proxy = proxy();
    let mut conn = fixture.open_behind(&proxy, "");
    for read in [
        "query WITH n(i) AS (SELECT 1) SELECT i FROM n",
        "query WITH here AS (SELECT * FROM note) SELECT count(*) FROM here",
        "query PRAGMA user_version",
        "query PRAGMA table_info(note)",
        "query EXPLAIN INSERT INTO note (text) VALUES ('not at all')",
    ] {
        conn.ok(read);
    }
    conn.ok("begin");
    conn.ok(COUNT);
    conn.ok("commit");
    assert_eq!(requests(&proxy), [""; 0]);

    let statement = "INSERT INTO note (text) VALUES ('here')";
    let with = "WITH t(x) AS (SELECT 'here') INSERT INTO note (text) SELECT x FROM t";
    for (script, transactions) in [
        (with.to_owned(), 1),
        (format!("{statement}; {statement}"), 2),
        (format!("BEGIN; {statement}; {with}; COMMIT"), 1),
        (format!("/* a comment */ BEGIN; {statement}; COMMIT"), 1),
    ] {
        proxy.forget_requests();
        conn.ok(&format!("batch {script}"));
        assert_eq!(steps(&proxy), WRITE.repeat(transactions), "{script}");
    }
    assert_eq!(conn.ok(COUNT), "6");
    fixture.assert_whole();
}

#[test]
fn defect_8_the_page_cache_may_grow_to_256_gib_and_the_file_is_mapped() {
    let fixture = furnished(WorkersFixture::new("defect-8"));
    let mut conn = fixture.open("");
    // Negative values are KiB: 64 MiB (https://sqlite.org/pragma.html#pragma_cache_size).
    assert_eq!(conn.ok("query PRAGMA cache_size"), "-65536");
    let mapped = conn.ok("query PRAGMA mmap_size");
    assert!(["", "0"].contains(&mapped.as_str()), "{mapped}");
    let mut conn = fixture.open("cache_size_bytes=268435456");
    assert_eq!(conn.ok("query PRAGMA cache_size"), "-262144");
    fixture.assert_whole();
}

#[test]
fn defect_9_a_journal_makes_readers_need_the_lock_and_keeps_connections_open() {
    let fixture = furnished(WorkersFixture::new("defect-9"));
    let mut writer = fixture.open("");
    writer.ok("begin");
    writer.ok(INSERT);
    assert!(fixture.has_journal());
    let proxy = proxy();
    let mut reader = fixture.open_behind(&proxy, "");
    assert_eq!(reader.ok(COUNT), "0");
    assert_eq!(descriptors(&fixture, &reader), 1);
    // The one before is closed, journal or not.
    reader.ok("reopen");
    assert_eq!(descriptors(&fixture, &reader), 1);
    assert_eq!(requests(&proxy), [""; 0]);
    writer.ok("commit");
    assert_eq!(reader.ok(COUNT), "1");
    fixture.assert_whole();
}

/// How many times the process has the database open.
fn descriptors(fixture: &WorkersFixture, process: &WorkerProcess) -> usize {
    let directory = format!("/proc/{}/fd", process.id());
    fs::read_dir(directory)
        .expect("the process's descriptors")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target == fixture.scratch.database())
        .count()
}

#[test]
fn a_live_item_of_the_python_package_is_respected_and_left_as_it_is() {
    let fixture = furnished(WorkersFixture::new("python-live"));
    usurp(&fixture);
    let item = fixture.table.item(&fixture.key()).expect("an answer");
    let mut writer = fixture.open("lock_timeout=0.5");
    for statement in [INSERT, "immediate"] {
        let failure = writer.busy(statement);
        failure.assert_retryable("Busy");
    }
    assert_eq!(fixture.table.item(&fixture.key()).expect("an answer"), item);
    assert_eq!(writer.ok(COUNT), "0");
    fixture.table.delete(&fixture.key()).expect("it goes");
    fixture.assert_whole();
}

#[test]
fn an_expired_item_of_the_python_package_is_taken_over_by_its_very_digits() {
    let fixture = furnished(WorkersFixture::new("python-expired"));
    let until = SystemTime::now() - Duration::from_secs(5);
    (fixture
        .table
        .put_as_python(&fixture.key(), "long gone", until))
    .expect("an item");
    let digits = fixture.attribute("expires_at");
    assert_eq!(
        digits.as_ref().map(String::len),
        Some("1700000000.000000005000000001".len())
    );
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "");
    writer.ok(INSERT);
    let takeover = ["Acquire refused", "TakeOver 200"];
    assert_eq!(steps(&proxy), [&takeover, &WRITE[1..]].concat());
    let requests = proxy.requests();
    let takeover = (requests.iter()).find(|request| request.purpose() == Some(Purpose::TakeOver));
    let takeover = takeover.expect("it was met");
    let values = takeover.body["ExpressionAttributeValues"].to_string();
    assert!(values.contains(&digits.expect("digits")), "{values}");
    assert!(writer.ok("stats").contains("takeovers: 1"));
    fixture.assert_whole();
}

#[test]
fn our_item_is_respected_by_the_python_packages_condition_until_it_expires() {
    let fixture = furnished(WorkersFixture::new("python-sees-ours"));
    let mut holder = fixture.open("lock_expiration=3");
    holder.ok("begin");
    holder.ok(INSERT);
    let key = fixture.key();
    let acquire = || {
        let now = SystemTime::now();
        (fixture
            .table
            .acquire_as_python(&key, "python", now, now + minutes(1)))
        .expect("an answer")
    };
    assert!(!acquire(), "our lease is live");
    holder.pause();
    fixture.wait_until_expired();
    assert!(acquire(), "our lease has expired");
    holder.resume();
    assert_eq!(holder.fails("commit").kind, "LeaseLost");
    assert_eq!(fixture.attribute("lock_id").as_deref(), Some("python"));
    fixture.table.delete(&key).expect("it goes");
    // Its own journal was never hot; its next write clears that away.
    holder.ok(INSERT);
    assert_eq!(holder.ok(COUNT), "1");
    fixture.assert_whole();
}

fn furnished(fixture: WorkersFixture) -> WorkersFixture {
    fixture
        .open("")
        .ok("execute CREATE TABLE note (text TEXT NOT NULL)");
    fixture
}
