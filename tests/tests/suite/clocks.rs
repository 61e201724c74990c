//! Clocks that are wrong, step or stand still: never two holders, never a live lease taken over, an
//! expired one always.
//!
//! The hosts' clocks and the table's are moved by the test. `EFS_TESTS=long` has a longer load.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel_sqlite_efs::testing::{Hook, HookedStore, Put};
use diesel_sqlite_efs::{
    InMemoryLockStore, Lease, LockClient, LockError, ManualClock, PutAnswer, StoreError, Timestamp,
};
use integration::emulator::Emulator;
use integration::options::load_seconds;

use crate::fixtures::workers::WorkersFixture;

const KEY: &str = "lock";
const HOUR: i64 = 3_600;
const LEASE: Duration = Duration::from_secs(8);
const SECOND: Duration = Duration::from_secs(1);
const STEPS: [i64; 3] = [-HOUR, 0, HOUR];

#[test]
fn whatever_the_clocks_of_two_hosts_do_a_lease_is_taken_over_when_it_has_expired_and_not_before() {
    use Happens::{AfterPut, BeforePut, Between};
    let mut tried = 0;
    for first in STEPS {
        for second in STEPS {
            for knows in [true, false] {
                for holders_step in STEPS {
                    for moment in [
                        (Request::Acquire, BeforePut),
                        (Request::Acquire, AfterPut),
                        (Request::Renew, Between),
                        (Request::Renew, BeforePut),
                        (Request::Renew, AfterPut),
                    ] {
                        for others_step in STEPS {
                            for others_moment in [BeforePut, AfterPut] {
                                let case = Case {
                                    skews: [first, second],
                                    knows,
                                    holders_step,
                                    moment,
                                    others_step,
                                    others_moment,
                                };
                                case.play();
                                tried += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{tried} cases of two hosts' clocks");
    assert!(tried >= 1_620);
}

#[test]
fn a_confirmed_commit_does_not_shorten_the_lease_when_the_wall_clock_was_set_back() {
    let fixture = ClocksFixture::new();
    let host = fixture.host(0);
    let lease = host.client.acquire(KEY, SECOND).expect("a lease");
    let before = fixture.expires_at();
    for _ in 0..3 {
        host.step(-HOUR);
        fixture.pass(SECOND, &[&host]);
        lease.renew().expect("a renewal");
        assert!(fixture.expires_at() > before, "{}", fixture.expires_at());
    }
    assert!(lease.is_valid());
}

#[test]
fn a_store_whose_dates_are_wrong_now_and_then_does_not_end_a_lease_before_its_holder_knows() {
    for wrong_by in [-HOUR, HOUR] {
        for nth in 1..=4 {
            let fixture = ClocksFixture::new();
            let (host, other) = (fixture.host(0), fixture.host(0));
            host.lie_at(nth, wrong_by);
            let Ok(lease) = host.client.acquire(KEY, SECOND) else {
                continue;
            };
            for _ in 0..3 {
                let renewed = lease.renew();
                let granted = other.client.try_acquire(KEY).expect("an answer");
                assert!(
                    granted.is_none() || !lease.is_valid(),
                    "wrong by {wrong_by} s at answer {nth}: {renewed:?}"
                );
                fixture.pass(SECOND, &[&host, &other]);
            }
        }
    }
}

#[test]
fn while_both_clocks_stand_still_the_lease_ends_all_the_same_and_cannot_be_renewed() {
    let fixture = ClocksFixture::new();
    let (frozen, other) = (fixture.host(0), fixture.host(0));
    let lease = frozen.client.acquire(KEY, SECOND).expect("a lease");
    for second in 0..LEASE.as_secs() - 1 {
        let granted = other.client.try_acquire(KEY).expect("an answer");
        assert!(granted.is_none(), "after {second} s");
        fixture.pass(SECOND, &[&other]);
    }
    fixture.pass(SECOND * 2, &[&other]);
    let granted = other.client.try_acquire(KEY).expect("an answer");
    assert!(granted.is_some(), "it has expired");
    // It cannot know, and asks; the condition of its request refuses it.
    assert!(lease.is_valid());
    let error = lease.renew().expect_err("it is another's");
    assert!(matches!(error, LockError::LeaseLost { .. }), "{error}");
    assert!(!lease.is_valid());
    lease.release().expect("nothing to release");
    assert!(granted.is_some_and(|lease| lease.is_valid()));
}

#[test]
fn either_clock_alone_ends_a_lease_while_the_other_stands_still() {
    for (monotonic, wall) in [(9, 0), (0, 9), (9, -HOUR), (0, HOUR)] {
        let fixture = ClocksFixture::new();
        let host = fixture.host(0);
        let lease = host.client.acquire(KEY, SECOND).expect("a lease");
        host.shift(monotonic, wall);
        assert!(!lease.is_valid(), "{monotonic} s and {wall} s");
        host.shift(0, -wall);
        assert!(!lease.is_valid(), "once lost it stays lost");
        let error = lease.renew().expect_err("it is over");
        assert!(matches!(error, LockError::LeaseLost { .. }), "{error}");
    }
}

#[test]
fn processes_whose_clocks_are_ahead_behind_and_stepping_lose_no_update() {
    let fixture = WorkersFixture::without_file_locks("clocks-processes");
    fixture.open("").ok("create-ledger");
    let seconds = load_seconds(3);
    let clocks = [
        "clock=system",
        "clock=ahead",
        "clock=behind",
        "clock=stepping",
    ];
    let mut writers = clocks.map(|clock| {
        let opened = fixture.try_open(
            Emulator::shared().endpoint(),
            "lock_timeout=20&lock_expiration=4",
            &[clock],
        );
        opened.expect("the database opens")
    });
    for (index, writer) in writers.iter_mut().enumerate() {
        writer.tell(&format!("write-ledger w{index} {seconds}"));
    }
    let mut acknowledged = 0;
    for (writer, clock) in writers.iter().zip(clocks) {
        let written = writer.answer().expect("no error but retryable ones");
        println!("{clock}: {written}");
        let count = written.split(' ').next().and_then(|word| word.parse().ok());
        acknowledged += count.unwrap_or(0_u64);
    }
    assert!(acknowledged > 0);
    let mut auditor = fixture.open("lock_timeout=20");
    let state = auditor.ok(
        "query SELECT (SELECT value FROM counter), (SELECT count(*) FROM entry), (SELECT sum(balance) FROM account)",
    );
    assert_eq!(state, format!("{acknowledged}|{acknowledged}|8000"));
    assert_eq!(auditor.ok("query PRAGMA integrity_check"), "ok");
}

/// A holder's request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    Acquire,
    Renew,
}

/// When a clock is stepped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Happens {
    /// Before the request.
    Between,
    /// In the request, before it is applied.
    BeforePut,
    /// In the request, after it was applied.
    AfterPut,
}

/// What the clocks of a holder and of another host do.
#[derive(Debug)]
struct Case {
    skews: [i64; 2],
    /// Both hosts have asked the store before, and know its time.
    knows: bool,
    holders_step: i64,
    moment: (Request, Happens),
    others_step: i64,
    others_moment: Happens,
}

impl Case {
    fn play(&self) {
        let fixture = ClocksFixture::new();
        let [holder, other] = self.skews.map(|skew| fixture.host(skew));
        if self.knows {
            for host in [&holder, &other] {
                drop(host.client.acquire("another", SECOND));
            }
        }
        let (request, happens) = self.moment;
        let step = |at: Request| {
            if request != at {
            } else if happens == Happens::Between {
                holder.step(self.holders_step);
            } else {
                holder.step_in_put(happens, self.holders_step);
            }
        };
        step(Request::Acquire);
        let mut until = fixture.now() + LEASE;
        let lease = holder.client.acquire(KEY, SECOND);
        let lease = lease.unwrap_or_else(|error| panic!("{self:?}: {error}"));
        fixture.pass(SECOND, &[&holder, &other]);
        step(Request::Renew);
        let now = fixture.now();
        if lease.renew().is_ok() {
            until = now + LEASE;
        }
        // A holder whose clock has made it give up cannot be harmed.
        let is_live = lease.is_valid();
        other.step_in_put(self.others_moment, self.others_step);
        loop {
            let granted = other.client.try_acquire(KEY);
            let granted = granted.unwrap_or_else(|error| panic!("{self:?}: {error}"));
            let early = until.saturating_sub(fixture.now());
            if granted.is_some() {
                assert!(!is_live || early <= SECOND, "{self:?}: {early:?} too early");
                assert!(!lease.is_valid(), "{self:?}: two holders");
                break;
            }
            let late = fixture.now().saturating_sub(until);
            assert!(late <= SECOND * 3, "{self:?}: still not free");
            fixture.pass(SECOND, &[&holder, &other]);
        }
        forget(lease, &fixture);
    }
}

/// Its holder has died; nothing is released.
fn forget(lease: Lease, fixture: &ClocksFixture) {
    fixture.table.set_item(KEY, None);
    drop(lease);
}

/// The lock table, which knows the true time.
struct ClocksFixture {
    table: Arc<InMemoryLockStore>,
    time: ManualClock,
}

impl ClocksFixture {
    fn new() -> Self {
        let time = ManualClock::new(Timestamp::new(
            Duration::ZERO,
            // In the middle of a second.
            Duration::from_millis(1_800_000_000_500),
        ));
        Self {
            table: Arc::new(InMemoryLockStore::with_clock(time.clock())),
            time,
        }
    }

    fn now(&self) -> Duration {
        self.time.now().wall
    }

    /// Time goes by for the table and for these hosts.
    fn pass(&self, time: Duration, hosts: &[&ClockedHost]) {
        self.time.advance(time);
        for host in hosts {
            host.clock.advance(time);
        }
    }

    fn expires_at(&self) -> u64 {
        let item = self.table.item(KEY).expect("an item");
        item.expires_at.parse().expect("a number")
    }

    /// A host whose wall clock is off by so many seconds.
    fn host(&self, skew: i64) -> ClockedHost {
        let clock = ManualClock::new(Timestamp::new(
            Duration::from_secs(100),
            shifted(self.now(), skew),
        ));
        let way = Way {
            clock: clock.clone(),
            event: Mutex::default(),
            lie: Mutex::default(),
        };
        let way = HookedStore::new(self.table.clone(), way);
        ClockedHost {
            client: LockClient::builder()
                .lock_store(way.clone())
                .lock_expiration(LEASE)
                // No renewal but those that the test asks for.
                .without_renewal()
                .clock(clock.clock())
                .build()
                .expect("a client"),
            clock,
            way,
        }
    }
}

struct ClockedHost {
    client: LockClient,
    clock: ManualClock,
    way: Arc<HookedStore<Way>>,
}

impl ClockedHost {
    fn step(&self, seconds: i64) {
        step(&self.clock, seconds);
    }

    /// Lets so much time go by on each clock.
    fn shift(&self, monotonic: u64, wall: i64) {
        let now = self.clock.now();
        self.clock.set(Timestamp::new(
            now.monotonic + Duration::from_secs(monotonic),
            shifted(now.wall, wall),
        ));
    }

    /// Steps the wall clock in the next put.
    fn step_in_put(&self, happens: Happens, seconds: i64) {
        *self.way.event.lock().expect("no panic") = Some((happens, seconds));
    }

    /// Dates the `nth` answer from now wrongly.
    fn lie_at(&self, nth: u32, seconds: i64) {
        *self.way.lie.lock().expect("no panic") = (nth, seconds);
    }
}

/// A host's way to the table.
struct Way {
    clock: ManualClock,
    event: Mutex<Option<(Happens, i64)>>,
    lie: Mutex<(u32, i64)>,
}

impl Way {
    fn happens(&self, now: Happens) {
        let mut event = self.event.lock().expect("no panic");
        if let Some((_, seconds)) = event.take_if(|(happens, _)| *happens == now) {
            step(&self.clock, seconds);
        }
    }

    fn date(&self, date: Option<SystemTime>) -> Option<SystemTime> {
        let mut lie = self.lie.lock().expect("no panic");
        lie.0 = lie.0.saturating_sub(1);
        let seconds = if lie.0 == 0 {
            std::mem::take(&mut lie.1)
        } else {
            0
        };
        let since_epoch = date?.duration_since(UNIX_EPOCH).ok()?;
        // As in a header: whole seconds.
        let seconds = shifted(since_epoch, seconds).as_secs();
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

fn step(clock: &ManualClock, seconds: i64) {
    let now = clock.now();
    clock.set(Timestamp::new(now.monotonic, shifted(now.wall, seconds)));
}

fn shifted(time: Duration, seconds: i64) -> Duration {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

impl Hook for Way {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self.happens(Happens::BeforePut);
        let answer = put.pass_on()?;
        self.happens(Happens::AfterPut);
        let (PutAnswer::Stored { date, .. } | PutAnswer::Refused { date, .. }) = &answer else {
            unreachable!("{answer:?}");
        };
        let date = self.date(*date);
        Ok(answer.with_date(date))
    }
}
