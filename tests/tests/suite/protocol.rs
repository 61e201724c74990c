//! The lock client by itself, between a proxy and the table: what it asks, and what it makes of
//! the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use diesel_sqlite_efs::testing::{HookedStore, Put};
use diesel_sqlite_efs::{
    InMemoryLockStore, LockClient, LockError, PutAnswer, StoreError, StoredItem,
};
use integration::dynamodb::LockTable;
use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Answer, Date, Operation, Proxy, Purpose, Rule};

use crate::fixtures::workers::{LONG, WorkerProcess, WorkersFixture, proxy, requests, steps};

/// The one lock of each test's table.
const KEY: &str = "lock";
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn all_attempts_of_an_acquisition_bear_one_lock_id() {
    let fixture = ClientFixture::new("protocol-id");
    fixture.put_foreign(Duration::from_secs(60));
    let mut client = fixture.client(&[]);
    let mut ids_of_one_acquisition = || {
        let mut ids = Vec::new();
        // A busy machine may come to one or two in that time, and hear no answer.
        wait_until(LONG * 2, "there are several attempts", || {
            fixture.proxy.forget_requests();
            let failure = client.fails("acquire lock 3");
            // A last put that was cut off is followed by a delete, in case it was applied.
            let requests = fixture.proxy.requests();
            let puts = requests
                .iter()
                .filter(|request| request.operation == Operation::PutItem);
            ids = puts
                .map(|request| request.body["Item"]["lock_id"]["S"].to_string())
                .collect();
            failure.kind == "Busy" && ids.len() > 2
        });
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
        ids.remove(0)
    };
    let first = ids_of_one_acquisition();
    assert_ne!(
        first,
        ids_of_one_acquisition(),
        "each acquisition has its own"
    );
}

#[test]
fn a_put_whose_answer_is_lost_costs_one_retry() {
    let fixture = ClientFixture::new("protocol-lost-answer");
    let mut client = fixture.client(&["lease=60"]);
    let cut = fixture.proxy.rule(Rule::put(Action::CutAnswer).nth(1));
    assert_ne!(client.ok("try-acquire lock"), "refused");
    assert_eq!(cut.hits(), 1);
    client.ok("release lock");
    assert_eq!(
        steps(&fixture.proxy),
        ["Acquire unanswered", "Acquire 200", "DeleteItem 200"]
    );
    fixture.assert_free();
}

#[test]
fn a_grant_that_nobody_heard_of_is_taken_back() {
    let fixture = ClientFixture::new("protocol-unheard");
    let mut client = fixture.client(&["lease=60"]);
    let silent = fixture.proxy.rule(Rule::put(Action::SilenceAnswer));
    assert_eq!(client.fails("try-acquire lock").kind, "Store");
    assert_eq!(silent.hits(), 2);
    fixture.assert_free();
}

#[test]
fn of_two_that_take_an_expired_lease_over_one_wins() {
    let fixture = ClientFixture::new("protocol-race");
    // Within a second of its end a first answer does not show yet that it has expired.
    fixture.put_foreign_until(SystemTime::now() - Duration::from_secs(2));
    let other_proxy = proxy();
    let mut one = fixture.client(&[]);
    let mut other =
        WorkerProcess::start(&other_proxy.endpoint(), &["client", fixture.table.name()])
            .expect("a client");
    // Both have seen the item expired, and both are about to take it over.
    let takeovers = [&fixture.proxy, &other_proxy].map(|proxy| {
        let takeover = proxy.rule(Rule::put_to(Purpose::TakeOver, Action::Hold).nth(1));
        (proxy, takeover)
    });
    one.tell("try-acquire lock");
    other.tell("try-acquire lock");
    for (proxy, takeover) in &takeovers {
        takeover.wait_for_hits(1, LONG);
        let requests = proxy.requests();
        let mut takeovers = requests
            .iter()
            .filter(|request| request.purpose() == Some(Purpose::TakeOver));
        let takeover = takeovers.next().expect("it was met");
        let values = takeover.body["ExpressionAttributeValues"].to_string();
        assert!(
            values.contains("somebody else"),
            "it names whom it saw: {values}"
        );
    }
    for (_, takeover) in &takeovers {
        takeover.release();
    }
    let answers = [one.answer(), other.answer()].map(|answer| answer.expect("an answer"));
    let refused = answers.iter().filter(|answer| *answer == "refused").count();
    assert_eq!(refused, 1, "{answers:?}");
    assert!(answers.contains(&fixture.attribute("lock_id").expect("an item")));
}

#[test]
fn a_lease_is_exclusive_until_it_is_released_or_dropped() {
    let fixture = ClientFixture::new("protocol-life");
    let mut holder = fixture.client(&["holder=the-first"]);
    let mut other = fixture.client(&[]);
    for end in ["release lock", "drop lock"] {
        let lock_id = holder.ok("try-acquire lock");
        assert_eq!(fixture.attribute("lock_id"), Some(lock_id));
        assert_eq!(other.ok("try-acquire lock"), "refused");
        let busy = other.busy("acquire lock 0.5");
        assert!(busy.retryable);
        assert!(busy.message.contains("the-first"), "{busy:?}");
        holder.ok("renew lock");

        fixture.proxy.forget_requests();
        other.tell("acquire lock 20");
        wait_until(LONG, "the other asks", || {
            !fixture.proxy.requests().is_empty()
        });
        holder.ok(end);
        let granted = other.answer().expect("its turn has come");
        assert_eq!(fixture.attribute("lock_id"), Some(granted));
        other.ok("release lock");
        fixture.assert_free();
    }
}

#[test]
fn a_client_may_block_inside_any_tokio_runtime() {
    let fixture = ClientFixture::new("protocol-tokio");
    for runtime in ["runtime=current-thread", "runtime=multi-thread"] {
        let mut client = fixture.client(&[runtime]);
        client.ok("acquire lock 5");
        client.ok("renew lock");
        client.ok("release lock");
        assert_eq!(client.ok("contend lock 3 3"), "0 overlaps");
        fixture.assert_free();
    }
}

#[test]
fn a_lease_of_the_shortest_duration_is_renewed_for_as_long_as_it_is_held() {
    const HELD: Duration = Duration::from_secs(3 * 2);
    let fixture = ClientFixture::new("protocol-renewal");
    let mut client = fixture.client(&["lease=2"]);
    let mut other = fixture.client(&[]);
    let mut lock_id = client.ok("try-acquire lock");
    let mut until = SystemTime::now() + HELD;
    wait_until(LONG * 2, "it has been extended three times over", || {
        let is_free = other.ok("try-acquire lock") != "refused";
        let is_valid = client.ok("is-valid lock") == "true";
        assert!(!(is_free && is_valid), "two holders");
        if is_free {
            other.ok("release lock");
        }
        if !is_valid {
            // By a machine that was too busy to renew it for half of its duration.
            client.ok("release lock");
            lock_id = client.ok("acquire lock 10");
            until = SystemTime::now() + HELD;
        }
        is_valid && fixture.expires_at() > until
    });
    assert_eq!(fixture.attribute("lock_id"), Some(lock_id));
    client.ok("release lock");
    fixture.assert_free();
}

#[test]
fn a_short_lease_is_renewed_in_time_while_the_process_holds_a_longer_one() {
    let store = Arc::new(InMemoryLockStore::new());
    let [for_long, for_short] = [18, 6].map(|seconds| {
        let builder = LockClient::builder().lock_store(store.clone());
        let builder = builder.lock_expiration(Duration::from_secs(seconds));
        builder.build().expect("a client")
    });
    let long = for_long.acquire("long", LONG).expect("a lease");
    wait_until(LONG, "the longer one is renewed", || {
        for_long.stats().renewals > 0
    });
    // Six seconds until the next renewal of that: too late for this one.
    let short = for_short.acquire("short", LONG).expect("a lease");
    wait_until(LONG, "the shorter one is renewed", || {
        assert!(short.is_valid(), "it was forgotten");
        for_short.stats().renewals > 0
    });
    assert!(short.is_valid() && long.is_valid());
}

#[test]
fn renewal_ends_with_the_longest_hold() {
    let fixture = ClientFixture::new("protocol-max-hold");
    let mut client = fixture.client(&["lease=6", "max-hold=8"]);
    let mut other = fixture.client(&[]);
    client.ok("try-acquire lock");
    // Fails if it is renewed for ever.
    let held: u64 = client.ok("outlive lock 30").parse().expect("milliseconds");
    assert!(held > 6_000, "renewed at least once: {held}");
    // It is another's now, although the first has neither released nor died.
    other.ok("acquire lock 20");
    assert_eq!(client.fails("renew lock").kind, "LeaseLost");
    client.ok("release lock");
    assert_eq!(other.ok("is-valid lock"), "true");
    assert!(fixture.attribute("lock_id").is_some());
}

#[test]
fn a_refused_renewal_loses_the_lease_at_once() {
    let fixture = ClientFixture::new("protocol-refused-renewal");
    let mut client = fixture.client(&["lease=60"]);
    client.ok("try-acquire lock");
    fixture.put_foreign(Duration::from_secs(60));
    assert_eq!(client.ok("is-valid lock"), "true", "it cannot know yet");
    for _ in 0..2 {
        let failure = client.fails("renew lock");
        failure.assert_retryable("LeaseLost");
    }
    assert_eq!(client.ok("is-valid lock"), "false");
    client.ok("release lock");
    assert_eq!(
        fixture.attribute("lock_id").as_deref(),
        Some("somebody else")
    );
}

#[test]
fn a_renewal_refused_in_the_background_loses_the_lease() {
    let fixture = ClientFixture::new("protocol-refused-background");
    let mut client = fixture.client(&["lease=12"]);
    client.ok("try-acquire lock");
    fixture.put_foreign(Duration::from_secs(60));
    // By its own clock it would be good for 9 s at least.
    let held: u64 = client.ok("outlive lock 20").parse().expect("milliseconds");
    assert!(held < 8_500, "{held}");
    assert!(requests(&fixture.proxy).contains(&"PutItem refused".to_owned()));
}

#[test]
fn a_release_that_fails_is_bounded_and_leaves_the_item_to_run_out() {
    let fixture = ClientFixture::new("protocol-release-fails");
    let mut other = fixture.client(&[]);
    for (action, within) in [
        (
            Action::Answer(Answer::internal_error()),
            Duration::from_secs(5),
        ),
        (Action::Silence, Duration::from_secs(8)),
    ] {
        let mut client = fixture.client(&["lease=2"]);
        let rule = fixture.proxy.rule(Rule::delete(action));
        let lock_id = client.ok("acquire lock 10");
        let began = Instant::now();
        assert_eq!(client.fails("release lock").kind, "NotReleased");
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
        assert!(rule.hits() >= 3, "{}", rule.hits());
        assert_eq!(fixture.attribute("lock_id"), Some(lock_id));
        rule.remove();
    }
    other.ok("acquire lock 10");
    other.ok("release lock");
    fixture.assert_free();
}

#[test]
fn hosts_an_hour_behind_the_store_neither_steal_nor_wait_for_ever() {
    leases_go_by_the_stores_clock("protocol-store-ahead", |time| time + HOUR);
}

#[test]
fn hosts_an_hour_ahead_of_the_store_neither_steal_nor_wait_for_ever() {
    leases_go_by_the_stores_clock("protocol-store-behind", |time| time - HOUR);
}

fn leases_go_by_the_stores_clock(table: &str, store_clock: fn(SystemTime) -> SystemTime) {
    let lease = Duration::from_secs(30);
    let fixture = ClientFixture::new(table);
    let show = |time| {
        fixture.proxy.reset();
        fixture.proxy.rule(Rule::any(Action::Date(Date::At(time))));
    };
    let now = store_clock(SystemTime::now());
    show(now);
    let mut holder = fixture.client(&["lease=30"]);
    let mut other = fixture.client(&[]);
    // The first answer tells the time, and what was written before that is put right.
    holder.ok("try-acquire lock");
    let expires_at = fixture.expires_at();
    assert!(expires_at > now + lease - Duration::from_secs(3));
    assert!(expires_at < now + lease + Duration::from_secs(3));
    for _ in 0..3 {
        assert_eq!(other.ok("try-acquire lock"), "refused");
    }
    holder.kill();
    show(now + lease - Duration::from_secs(4));
    assert_eq!(other.ok("try-acquire lock"), "refused");
    show(now + lease + Duration::from_secs(4));
    assert_ne!(other.ok("try-acquire lock"), "refused");
}

#[test]
fn a_dead_host_whose_clock_was_ahead_blocks_others_no_longer_than_its_lease() {
    let fixture = ClientFixture::new("protocol-host-ahead");
    let mut holder = fixture.client(&["lease=6", "clock=ahead"]);
    let mut other = fixture.client(&[]);
    holder.ok("try-acquire lock");
    holder.kill();
    assert_eq!(other.ok("try-acquire lock"), "refused");
    other.ok("acquire lock 20");
}

#[test]
fn threads_of_one_process_ask_the_store_one_at_a_time() {
    let fixture = ClientFixture::new("protocol-queue");
    let mut client = fixture.client(&[]);
    assert_eq!(client.ok("contend lock 6 4"), "0 overlaps");
    // Nobody was refused: who held it was gone before the next one asked, or handed it off.
    let steps = steps(&fixture.proxy);
    let leases = steps.len() / 2;
    assert_eq!(steps, ["Acquire 200", "DeleteItem 200"].repeat(leases));
    assert!((1..24).contains(&leases), "{leases}");
    fixture.assert_free();
}

#[test]
fn a_late_duplicate_of_the_acquiring_put_does_not_wipe_the_commit_record() {
    let fixture = WorkersFixture::new("protocol-duplicate");
    fixture.open("").ok("execute CREATE TABLE note (text TEXT)");
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, "lock_expiration=60");
    // The first request is on its way for so long that the client sends it again.
    let late = proxy.rule(Rule::put(Action::Hold).nth(1));
    let confirmation = proxy.rule(Rule::put_to(Purpose::Record, Action::HoldAnswer));
    writer.tell("execute INSERT INTO note VALUES ('here')");
    confirmation.wait_for_hits(1, LONG);
    wait_until(LONG, "the commit is recorded", || {
        fixture.attribute("committed").is_some()
    });
    let record = fixture.attribute("committed");
    late.release();
    wait_until(LONG, "the first request is answered", || {
        proxy.requests()[0].status.is_some()
    });
    assert_eq!(requests(&proxy)[0], "PutItem refused");
    assert_eq!(fixture.attribute("committed"), record);
    confirmation.release();
    writer.answer().expect("the commit is acknowledged");
    fixture.assert_whole();
}

#[test]
fn a_last_attempt_without_time_for_an_answer_does_not_hide_who_holds_the_lease() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    // Refuses once, and then is too slow for the time it is given.
    let store = HookedStore::new(Arc::default(), move |put: Put<'_>| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            return Ok(PutAnswer::refused(Some(
                StoredItem::new("another", "9999999999").with_holder("the-holder"),
            )));
        }
        thread::sleep(put.give_up_after);
        Err(StoreError::timeout("test", "here", put.give_up_after))
    });
    let client = LockClient::builder().lock_store(store).build();
    let client = client.expect("a client");
    let error = client
        .acquire(KEY, Duration::from_millis(40))
        .expect_err("it is held");
    assert!(asked.load(Ordering::SeqCst) > 1, "it asked again");
    assert!(matches!(&error, LockError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("the-holder"), "{error}");
}

/// A table with one lock, behind a proxy.
struct ClientFixture {
    table: LockTable,
    proxy: Proxy,
}

impl ClientFixture {
    fn new(table: &str) -> Self {
        Self {
            table: LockTable::create(Emulator::shared().endpoint(), table).expect("a table"),
            proxy: proxy(),
        }
    }

    /// A process with a lock client behind the proxy.
    fn client(&self, options: &[&str]) -> WorkerProcess {
        let mut arguments = vec!["client", self.table.name()];
        arguments.extend(options);
        WorkerProcess::start(&self.proxy.endpoint(), &arguments).expect("a client")
    }

    /// Puts somebody else's item over whatever is there.
    fn put_foreign(&self, lease: Duration) {
        self.put_foreign_until(SystemTime::now() + lease);
    }

    fn put_foreign_until(&self, until: SystemTime) {
        let put = self.table.put_as_python(KEY, "somebody else", until);
        put.expect("the item is put");
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let attribute = self.table.attribute(KEY, name);
        attribute.expect("the table answers")
    }

    fn expires_at(&self) -> SystemTime {
        let expires_at = self.table.expires_at(KEY);
        expires_at.expect("the table answers").expect("an item")
    }

    #[track_caller]
    fn assert_free(&self) {
        assert_eq!(self.table.item(KEY).expect("the table answers"), None);
        let deletions = self.proxy.count(&Operation::DeleteItem);
        assert!(deletions > 0, "the client has removed it");
    }
}
