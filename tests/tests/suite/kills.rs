//! Processes that are killed, stopped for longer than their lease, or left without memory, at named
//! points and at random ones: what was acknowledged is there, the rest is there whole or not at all,
//! and the lock is free one poll after the lease's end.
//!
//! `EFS_TESTS=long cargo test -p integration --test suite kills -- --nocapture` tries many seeds;
//! `EFS_TESTS_SEED=<seed>` repeats the one that a failure has named. A seed fixes what
//! happens and the delay before it, not what the process is just doing then.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use integration::options;
use integration::process::wait_until;
use integration::proxy::{Action, Operation, Proxy, Purpose, Rule, RuleHandle};

use crate::fixtures::workers::{
    Answer, Failure, LONG, WRITE_ITEMS, WorkerProcess, WorkersFixture, proxy,
};

/// Short to wait for, and long enough to reach the commit point on a busy machine.
const LEASE: Duration = Duration::from_secs(3);
const SHORT_LEASE: &str = "lock_expiration=3&lock_timeout=2";
/// Waits for a lease to run out, and then keeps its own.
const PATIENT: &str = "lock_timeout=20&lock_expiration=60";

/// The same of a successor; what it writes adds to what stands there.
const MARK: &str = "execute UPDATE item SET mark = mark + 1";
const READ: &str = "query SELECT state, mark, count(*) FROM item GROUP BY state, mark";

#[test]
fn killed_anywhere_the_lock_is_free_one_poll_after_the_leases_end() {
    let told = over_seeds("kills", 14, 108, kill);
    let longest = told.iter().map(|told| told.waited).max();
    let after_end = told.iter().filter_map(|told| told.after_end).max();
    let polls = told.iter().map(|told| told.late_polls).max();
    print(&format!(
        "kills | {} processes killed, {} of them with a lease: {:?} | successor's wait at most {longest:.1?} with a lease of {LEASE:?}, {after_end:.1?} beyond its end, {polls:?} refusals a second or more beyond it\n",
        told.len(),
        told.iter().filter(|told| told.had_lease).count(),
        counts(told.iter().map(|told| told.what.clone())),
    ));
}

#[test]
fn stopped_anywhere_beyond_its_lease_a_holder_tells_what_is_true() {
    let told = over_seeds("pauses", 14, 108, pause);
    print(&format!(
        "pauses | {} processes stopped: {:?}\n",
        told.len(),
        counts(told.into_iter())
    ));
}

#[test]
fn out_of_memory_in_mid_transaction_a_process_leaves_nothing_of_it() {
    let fixture = WorkersFixture::new("kills-memory-middle").with_items();
    let between = proxy();
    let mut successor = fixture.open_behind(&between, PATIENT);
    let mut holder = fixture.open(SHORT_LEASE);
    persistently(&mut holder, "immediate");
    holder.ok(WRITE_ITEMS);
    holder.starve();
    holder.tell("exhaust");
    let status = holder.end();
    assert_eq!(status.signal(), Some(6), "aborted: {status:?}");
    let end = fixture.expires_at().expect("the item is there");
    persistently(&mut successor, MARK);
    let recovery = Recovery::of(&between, Some(end), "memory");
    assert!(recovery.late_polls <= 1, "{recovery:?}");
    assert_eq!(successor.ok(READ), "old|1|40");
    fixture.assert_whole();
}

#[test]
fn out_of_memory_at_the_commit_point_a_transaction_is_there_whole_or_not_at_all() {
    let fixture = WorkersFixture::new("kills-memory-commit").with_items();
    let holder = Holder::at(Point::ConfirmAsked, &fixture, &mut Rng::new());
    holder.process.starve();
    holder.held.expect("a request").release();
    let answer = holder.process.last_answer();
    drop(holder.process);
    let mut successor = fixture.open(PATIENT);
    persistently(&mut successor, MARK);
    let found = persistently(&mut successor, READ);
    assert_is_true(answer.as_ref(), &found, 1);
    fixture.assert_whole();
}

#[test]
fn out_of_memory_inside_sqlite_is_an_error_after_which_the_connection_works() {
    let fixture = WorkersFixture::new("kills-memory-sqlite").with_items();
    let mut holder = fixture.open(PATIENT);
    // Room for the pages of small transactions, and for no large one's.
    holder.ok("query PRAGMA hard_heap_limit = 3000000");
    const LARGE: &str = "execute WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) \
         INSERT INTO item (state, filler) SELECT 'large', zeroblob(1000) FROM n";
    for _ in 0..3 {
        let failure = holder.fails(LARGE);
        assert!(failure.message.contains("out of memory"), "{failure:?}");
        assert!(!failure.retryable, "{failure:?}");
        assert_eq!(
            fixture.table.count().expect("a count"),
            0,
            "the lock is free"
        );
        assert!(!fixture.has_journal());
        assert_eq!(holder.ok(READ), "old|0|40");
    }

    holder.ok("begin");
    holder.ok(WRITE_ITEMS);
    let failure = holder.fails(LARGE);
    assert!(failure.message.contains("out of memory"), "{failure:?}");
    // SQLite undoes the statement, or the whole transaction, of which a commit then tells.
    let committed = holder.ask("commit");
    let found = holder.ok(READ);
    assert_is_true(Some(&committed), &found, 0);
    holder.ok(MARK);
    assert!(holder.ok(READ).contains("|1|40"));
    fixture.assert_whole();
}

/// At which point of its transaction something happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Its request for the lease has not reached the store.
    AcquireAsked,
    /// The lease is granted, and it has not heard of it.
    Granted,
    /// It has written, and was not told to commit.
    MidTransaction,
    /// The journal is hot, and the commit is not recorded.
    ConfirmAsked,
    /// The commit is recorded, and it has not heard of it.
    Recorded,
    /// The commit is done, and the lock is not given back.
    ReleaseAsked,
    /// At any time of its transaction.
    Random,
}

impl Point {
    /// Each in turn, and as often at random.
    fn of(seed: u64) -> Self {
        const NAMED: [Point; 6] = [
            Point::AcquireAsked,
            Point::Granted,
            Point::MidTransaction,
            Point::ConfirmAsked,
            Point::Recorded,
            Point::ReleaseAsked,
        ];
        let n = usize::try_from(seed % 12).expect("a small number");
        NAMED.get(n).copied().unwrap_or(Self::Random)
    }

    /// Whether a process that is held has come to it, and not to where a request is repeated.
    fn is_reached(self, fixture: &WorkersFixture) -> bool {
        let hot_journal =
            || (fixture.files().1).filter(|bytes| bytes.first().is_some_and(|first| *first != 0));
        match self {
            Self::Granted => fixture.expires_at().is_some(),
            Self::ConfirmAsked => hot_journal().is_some(),
            // An item may carry the record of an earlier transaction: of this one's journal it is.
            Self::Recorded => hot_journal().is_some_and(|bytes| {
                let nonce = bytes.get(12..16).and_then(|bytes| bytes.try_into().ok());
                let nonce = nonce.map(|bytes| format!("{:08x}", u32::from_be_bytes(bytes)));
                nonce.is_some() && nonce == fixture.attribute("committed")
            }),
            Self::ReleaseAsked => {
                !fixture.has_journal() && fixture.attribute("committed").is_some()
            }
            _ => true,
        }
    }

    /// Whether the transaction is there if nobody hears of the process again; `None`: either.
    fn is_applied(self) -> Option<bool> {
        match self {
            Self::Random => None,
            Self::Recorded | Self::ReleaseAsked => Some(true),
            _ => Some(false),
        }
    }
}

/// A process that has come to the point of its transaction.
struct Holder {
    process: WorkerProcess,
    held: Option<RuleHandle>,
    /// Also what is in its requests; it outlives the process.
    _proxy: Proxy,
}

impl Holder {
    fn at(point: Point, fixture: &WorkersFixture, random: &mut Rng) -> Self {
        let proxy = proxy();
        let mut process = fixture.open_behind(&proxy, SHORT_LEASE);
        // From now on the connection to the store is open.
        persistently(&mut process, SAME);
        let held = match point {
            Point::MidTransaction => {
                persistently(&mut process, "immediate");
                process.ok(WRITE_ITEMS);
                None
            }
            Point::Random => {
                let begun = Instant::now();
                persistently(&mut process, SAME);
                let most = begun.elapsed().min(LEASE);
                process.tell(WRITE_ITEMS);
                thread::sleep(most.mul_f64(1.2 * random.f64()));
                None
            }
            _ => Some(Self::hold(point, fixture, &proxy, &mut process)),
        };
        Self {
            process,
            held,
            _proxy: proxy,
        }
    }

    /// Writes until it is held where it is to be: on a busy machine a lease of seconds may end on
    /// the way, or a request be repeated.
    fn hold(
        point: Point,
        fixture: &WorkersFixture,
        proxy: &Proxy,
        process: &mut WorkerProcess,
    ) -> RuleHandle {
        const TIMES: usize = 10;
        for _ in 0..TIMES {
            // And what repeats it.
            let rule = proxy.rule(match point {
                Point::AcquireAsked => Rule::put_to(Purpose::Acquire, Action::Hold),
                Point::Granted => Rule::put_to(Purpose::Acquire, Action::HoldAnswer),
                Point::Recorded => Rule::put_to(Purpose::Record, Action::HoldAnswer),
                Point::ReleaseAsked => Rule::delete(Action::Hold),
                _ => Rule::put_to(Purpose::Record, Action::Hold),
            });
            process.tell(WRITE_ITEMS);
            let mut answer = None;
            wait_until(LONG * 2, "it is held or done", || {
                answer = process.answered();
                answer.is_some() || (rule.hits() > 0 && point.is_reached(fixture))
            });
            let Some(answer) = answer else {
                return rule;
            };
            rule.release();
            rule.remove();
            match answer {
                Ok(_) => drop(persistently(
                    process,
                    "execute UPDATE item SET state = 'old'",
                )),
                Err(failure) => assert!(changed_nothing(&failure), "{failure:?}"),
            }
        }
        panic!("{point:?} was not reached in {TIMES} transactions");
    }
}

/// Whether it may be done again. On a busy machine even the emulator may be out of reach.
fn changed_nothing(failure: &Failure) -> bool {
    failure.retryable || failure.kind == "Store"
}

/// Changes nothing, by the same requests.
const SAME: &str = "execute UPDATE item SET state = state";

/// Until a busy machine lets it succeed.
#[track_caller]
fn persistently(process: &mut WorkerProcess, command: &str) -> String {
    let begun = Instant::now();
    loop {
        match process.ask(command) {
            Ok(text) => return text,
            Err(failure) => assert!(
                changed_nothing(&failure) && begun.elapsed() < LONG * 2,
                "`{command}`: {failure:?}"
            ),
        }
    }
}

/// Adds a mark to so many. A busy machine may lose a short lease at the commit point; what came of it
/// is read then.
#[track_caller]
fn mark(process: &mut WorkerProcess, marks: u32) {
    let begun = Instant::now();
    loop {
        let Err(failure) = process.ask(MARK) else {
            return;
        };
        if failure.kind == "OutcomeUnknown" {
            if persistently(process, READ).contains(&format!("|{}|", marks + 1)) {
                return;
            }
        } else {
            assert!(changed_nothing(&failure), "{failure:?}");
        }
        assert!(begun.elapsed() < LONG * 2, "{failure:?}");
    }
}

/// A process is killed; another, which has begun to wait before, goes on.
fn kill(seed: u64) -> Result<Recovery, String> {
    let mut random = Rng::with_seed(seed);
    let point = Point::of(seed);
    let fixture = WorkersFixture::new(&format!("kills-{seed}")).with_items();
    let between = proxy();
    let mut successor = fixture.open_behind(&between, PATIENT);
    let holder = Holder::at(point, &fixture, &mut random);
    let answer = holder.process.kill_in_the_act();
    let killed = SystemTime::now();
    let end = fixture.expires_at();
    if let Some(end) = end
        && end > killed + LEASE + SECOND
    {
        return Err(format!("killed at {killed:?}, its lease ends at {end:?}"));
    }
    persistently(&mut successor, MARK);
    let recovery = Recovery::of(&between, end, &format!("{point:?}"));
    if recovery.late_polls > 1 || recovery.waited > LEASE + SECOND + MARGIN {
        return Err(format!("it has got the lock too late: {recovery:?}"));
    }
    let found = persistently(&mut successor, READ);
    is_true(answer.as_ref(), point.is_applied(), &found, 1)?;
    // A request that is still on its way must find nothing to change.
    drop(holder.held);
    fixture.assert_whole();
    Ok(recovery)
}

/// What a successor does while the holder is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Nothing,
    Reads,
    Commits,
    IsInMidTransaction,
    IsInMidCommit,
    DiesInMidCommit,
}

/// A process is stopped until its lease is over; another does something; it goes on. No file lock is
/// between them.
fn pause(seed: u64) -> Result<String, String> {
    const CONDUCTS: [Conduct; 6] = [
        Conduct::Nothing,
        Conduct::Reads,
        Conduct::Commits,
        Conduct::IsInMidTransaction,
        Conduct::IsInMidCommit,
        Conduct::DiesInMidCommit,
    ];
    let mut random = Rng::with_seed(seed);
    let point = Point::of(seed);
    let conduct = CONDUCTS[random.usize(..CONDUCTS.len())];
    let fixture = WorkersFixture::without_file_locks(&format!("pauses-{seed}")).with_items();
    let between = proxy();
    let mut successor = fixture.open_behind(
        &between,
        match conduct {
            Conduct::DiesInMidCommit => "lock_timeout=20&lock_expiration=3",
            _ => PATIENT,
        },
    );
    let mut holder = Holder::at(point, &fixture, &mut random);
    holder.process.pause();
    if let Some(end) = fixture.expires_at() {
        wait_until(LONG, "the lease has expired", || SystemTime::now() > end);
    }
    let mut marks = 0;
    let mut confirmation = None;
    match conduct {
        Conduct::Nothing => {}
        Conduct::Reads => drop(persistently(&mut successor, READ)),
        Conduct::Commits => {
            persistently(&mut successor, MARK);
            marks = 1;
        }
        Conduct::IsInMidTransaction => {
            persistently(&mut successor, "immediate");
            successor.ok(MARK);
        }
        Conduct::IsInMidCommit | Conduct::DiesInMidCommit => {
            // What the holder has left is recovered first, by requests of its own.
            persistently(&mut successor, READ);
            let rule = between.rule(Rule::put_to(Purpose::Record, Action::Hold));
            successor.tell(MARK);
            rule.wait_for_hits(1, LONG);
            confirmation = Some(rule);
        }
    }
    let mut successor = if conduct == Conduct::DiesInMidCommit {
        successor.kill();
        None
    } else {
        Some(successor)
    };

    let before = fixture.files();
    if let Some(held) = holder.held.take() {
        held.release();
    }
    holder.process.resume();
    if point == Point::MidTransaction {
        holder.process.tell("commit");
    }
    let answer = holder.process.answer();
    let in_the_middle = matches!(
        conduct,
        Conduct::IsInMidTransaction | Conduct::IsInMidCommit
    );
    let after = fixture.files();
    if in_the_middle && after != before {
        let pages = differing_pages(&before.0, &after.0);
        if point == Point::Random && before.1 == after.1 && pages == 1 {
            // The manual's window where file locks do not work: stopped between the fence and the
            // write that follows it.
            return Ok("in the window of one page".to_owned());
        }
        return Err(format!(
            "it has changed {pages} pages of its successor's, journal the same: {}; told {answer:?}",
            before.1 == after.1
        ));
    }
    if let Some(successor) = &mut successor {
        match conduct {
            Conduct::IsInMidTransaction => drop(successor.ok("commit")),
            Conduct::IsInMidCommit => {
                let confirmation = confirmation.take().expect("a request");
                confirmation.release();
                (successor.answer()).map_err(|error| format!("the successor: {error:?}"))?;
            }
            _ => {}
        }
        marks += u32::from(in_the_middle);
    }
    if let Err(failure) = &answer
        && !changed_nothing(failure)
        && failure.kind != "OutcomeUnknown"
    {
        return Err(format!("not retryable: {failure:?}"));
    }
    holder.process.ok("query PRAGMA busy_timeout = 20000");
    let found = persistently(&mut holder.process, READ);
    is_true(Some(&answer), None, &found, marks)?;
    mark(&mut holder.process, marks);
    let found = persistently(&mut fixture.open(PATIENT), READ);
    is_true(Some(&answer), None, &found, marks + 1)?;
    fixture.assert_whole();
    let told = answer.map_or_else(|failure| failure.kind, |_| "acknowledged".to_owned());
    Ok(format!("{point:?}, {told}"))
}

/// How a successor came by the lock.
#[derive(Debug)]
struct Recovery {
    what: String,
    had_lease: bool,
    /// From its first request to the one that was granted.
    waited: Duration,
    /// From the lease's end, by this host's clock, which is the store's.
    after_end: Option<Duration>,
    /// How often it was refused although the lease had ended, by the store's clock and to the second
    /// in which its answers tell the time. By the first such refusal it learns so.
    late_polls: usize,
}

/// In which DynamoDB's answers tell the time, and in which leases end.
const SECOND: Duration = Duration::from_secs(1);
/// For a poll, a quarter of a second, and for a machine that is busy with all other tests.
const MARGIN: Duration = Duration::from_secs(15);

impl Recovery {
    fn of(proxy: &Proxy, end: Option<SystemTime>, what: &str) -> Self {
        let requests = proxy.requests();
        let puts = (requests.iter()).filter(|request| request.operation == Operation::PutItem);
        let refused = puts
            .clone()
            .filter(|put| put.error.as_deref() == Some("ConditionalCheckFailedException"));
        let late = refused.filter(|put| end.is_some_and(|end| put.arrived > end + SECOND));
        let granted = puts.clone().find(|put| put.status == Some(200));
        let begun = requests.first().map_or(UNIX_EPOCH, |first| first.arrived);
        let waited = granted.and_then(|put| put.arrived.duration_since(begun).ok());
        Self {
            what: what.to_owned(),
            had_lease: end.is_some(),
            after_end: granted.and_then(|put| put.arrived.duration_since(end?).ok()),
            waited: waited.unwrap_or_default(),
            late_polls: late.count(),
        }
    }
}

/// What is found agrees with what the process was heard to say.
fn is_true(
    answer: Option<&Answer>,
    applied: Option<bool>,
    found: &str,
    marks: u32,
) -> Result<(), String> {
    let (old, new) = (format!("old|{marks}|40"), format!("new|{marks}|40"));
    let expected = match (answer, applied) {
        (Some(Ok(_)), _) => vec![new],
        (Some(Err(failure)), _) if failure.kind != "OutcomeUnknown" => vec![old],
        (None, Some(true)) => vec![new],
        (None, Some(false)) => vec![old],
        _ => vec![old, new],
    };
    if expected.iter().any(|state| state == found) {
        Ok(())
    } else {
        Err(format!(
            "found {found}, expected {expected:?}; told {answer:?}"
        ))
    }
}

#[track_caller]
fn assert_is_true(answer: Option<&Answer>, found: &str, marks: u32) {
    is_true(answer, None, found, marks).unwrap_or_else(|error| panic!("{error}"));
}

fn differing_pages(one: &[u8], other: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let pages = one.chunks(PAGE).zip(other.chunks(PAGE));
    let differing = pages.filter(|(one, other)| one != other).count();
    differing + one.len().abs_diff(other.len()).div_ceil(PAGE)
}

/// Runs a case with many seeds, some at a time; what each has told.
#[track_caller]
fn over_seeds<T: Send>(
    name: &str,
    short: u64,
    long: u64,
    case: fn(u64) -> Result<T, String>,
) -> Vec<T> {
    const AT_A_TIME: usize = 4;
    let seeds = match options::seed() {
        Some(seed) => seed..seed + 1,
        None if options::is_long() => 0..long,
        None => 0..short,
    };
    let next = AtomicU64::new(seeds.start);
    let told = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| case(seed)))
                        .unwrap_or_else(|panic| Err(message(&*panic)));
                    match result {
                        Ok(one) => told.lock().expect("no panic").push(one),
                        Err(error) => failures
                            .lock()
                            .expect("no panic")
                            .push(format!("{name}, EFS_TESTS_SEED={seed}: {error}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    told.into_inner().expect("no panic")
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic".to_owned())
}

fn counts(all: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    all.fold(BTreeMap::new(), |mut counts, one| {
        *counts.entry(one).or_default() += 1;
        counts
    })
}

/// Past the capture of tests that pass.
fn print(line: &str) {
    // Nothing is lost if nobody listens.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What an operator gets who sets nothing: holders are killed with a hot journal, under load, and it
/// costs the others a wait and no error, readers and those who connect included.
#[test]
fn with_every_default_a_killed_holder_costs_others_a_wait_and_no_error() {
    const KILLS: usize = 3;
    let fixture = WorkersFixture::new("kills-defaults").with_items();
    let is_over = AtomicBool::new(false);
    let done = [const { AtomicU64::new(0) }; 4];
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        let (fixture, is_over, done) = (&fixture, &is_over, &done);
        let commands = [READ, READ, MARK, "execute UPDATE item SET mark = mark"];
        let users: Vec<_> = (commands.into_iter().enumerate())
            .map(|(number, command)| {
                scope.spawn(move || {
                    let mut process = fixture.open("");
                    let (mut longest, mut times) = (Duration::ZERO, 0);
                    while !is_over.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        // One of each kind connects for each statement.
                        if number % 2 == 1 {
                            process.ok("reopen");
                        }
                        process.ok(command);
                        longest = longest.max(begun.elapsed());
                        times += 1;
                        done[number].fetch_add(1, Ordering::Relaxed);
                        // Reads without a pause would keep commits out.
                        thread::sleep(Duration::from_millis(20));
                    }
                    (longest, times)
                })
            })
            .collect();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..KILLS {
                let between = proxy();
                let mut holder = fixture.open_behind(&between, "");
                persistently(&mut holder, SAME);
                let confirmation = between.rule(Rule::put_to(Purpose::Record, Action::Silence));
                holder.tell(WRITE_ITEMS);
                confirmation.wait_for_hits(1, LONG);
                holder.kill();
                assert!(fixture.has_journal(), "it is hot");
                wait_until(LONG, "somebody has rolled it back", || {
                    !fixture.has_journal()
                });
                // One crash at a time: nobody waits for two.
                let before = done.each_ref().map(|done| done.load(Ordering::Relaxed));
                let goes_on = |(before, done): (&u64, &AtomicU64)| {
                    done.load(Ordering::Relaxed) > *before || is_over.load(Ordering::Relaxed)
                };
                wait_until(LONG, "everybody goes on", || {
                    before.iter().zip(done).all(goes_on)
                });
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        for user in users {
            let (time, times) = user.join().expect("no error");
            longest = longest.max(time);
            assert!(times > KILLS, "{times}");
        }
        killed.expect("they were killed");
    });
    print(&format!(
        "kills | with every default {KILLS} killed holders have cost others {longest:.1?} at most\n"
    ));
    assert!(
        fixture.open("").ok(READ).starts_with("old|"),
        "nothing of theirs is there"
    );
    fixture.assert_whole();
}
