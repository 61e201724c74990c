//! Every request of a write, and every fault that can befall it or its answer: what the caller is told
//! agrees with the file, and nobody is locked out.
//!
//! `EFS_TESTS=long` repeats each fault, and goes without file locks and without confirmation.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use integration::options::is_long;
use integration::process::wait_until;
use integration::proxy::{Action, Answer, Date, Proxy, Purpose, Rule};
use serde_json::json;

use crate::fixtures::workers::{self, LONG, WorkerProcess, WorkersFixture, proxy, requests};

/// So many cases at once: most of them wait.
const LANES: usize = 6;
const HOUR: Duration = Duration::from_secs(3_600);
/// Waits longer than a lease: on a busy machine all attempts of a release may fail, and its item is left.
const PATIENT: &str = "lock_timeout=90&lock_expiration=60";
/// What a fault that lasts beyond the lease is waited for.
const SHORT_LEASE: Duration = Duration::from_secs(6);
const RENEWED_LEASE: Duration = Duration::from_secs(8);

#[test]
fn whatever_becomes_of_a_request_or_its_answer_what_is_told_agrees_with_the_file() {
    let mut cases = Vec::new();
    for request in [
        Request::Acquire,
        Request::TakeOver,
        Request::Renew,
        Request::Confirm,
        Request::Release,
    ] {
        for fault in faults() {
            cases.push(Case {
                request,
                fault,
                times: 1,
                file_locks: true,
            });
        }
    }
    if is_long() {
        let short = cases.clone();
        for (times, file_locks) in [(2, true), (3, false)] {
            cases.extend(short.iter().map(|case| Case {
                times,
                file_locks,
                ..case.clone()
            }));
        }
    }
    // The slowest first.
    cases.sort_by_key(|case| {
        let waits = case.fault.beyond_lease || case.leaves_the_item();
        (!waits, case.request != Request::Renew)
    });
    let next = AtomicUsize::new(0);
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (next, cases, told) = (&next, &cases, &told);
            scope.spawn(move || {
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    cases.get(index).map(|case| (index, case))
                } {
                    let line = case.play(&format!("answers-{lane}-{index}"));
                    println!("{line}");
                    told.lock().expect("no panic").push(line);
                }
            });
        }
    });
    let told = told.into_inner().expect("no panic");
    println!("{} cases", told.len());
    assert_eq!(told.len(), cases.len());
    for refused in ["Renew x another's item", "Confirm x another's item"] {
        let heard = |line: &String| line.starts_with(refused) && line.contains("LeaseLost");
        assert!(told.iter().any(heard), "{refused}: never heard of");
    }
}

#[test]
fn while_dynamodb_is_away_reads_go_on_writes_fail_in_time_and_both_recover_by_themselves() {
    let away = [
        ("silent", Action::Silence),
        ("cut", Action::Cut),
        ("500", Action::Answer(Answer::internal_error())),
    ];
    for (name, action) in away {
        let fixture = WorkersFixture::new(&format!("answers-away-{name}"));
        fixture
            .open(PATIENT)
            .ok("execute CREATE TABLE note (text TEXT)");
        let proxy = proxy();
        let mut process = fixture.open_behind(&proxy, "lock_timeout=1.5&lock_expiration=60");
        let outage = proxy.rule(Rule::any(action));
        let rounds = if is_long() { 60 } else { 2 };
        for _ in 0..rounds {
            for write in ["execute INSERT INTO note VALUES ('lost')", "immediate"] {
                let began = Instant::now();
                let failure = process.fails(write);
                assert_eq!(failure.kind, "Store", "{name}: {failure:?}");
                // The rest is for a busy machine.
                assert!(began.elapsed() < Duration::from_secs(12), "{name}");
                assert_eq!(process.ok("query SELECT count(*) FROM note"), "0");
            }
        }
        println!(
            "{name}: {rounds} rounds of writes, {} requests without an answer of use",
            outage.hits()
        );
        assert!(outage.hits() > 0);
        outage.remove();
        process.ok("query PRAGMA busy_timeout = 30000");
        process.ok("execute INSERT INTO note VALUES ('kept')");
        assert_eq!(process.ok("query SELECT text FROM note"), "kept");
        fixture.assert_whole();
    }
}

#[test]
fn when_dynamodb_goes_away_in_mid_transaction_reads_in_it_go_on_and_it_commits_once_it_is_back() {
    let fixture = WorkersFixture::new("answers-away-within");
    let proxy = proxy();
    let mut process = fixture.open_behind(&proxy, PATIENT);
    process.ok("execute CREATE TABLE note (text TEXT)");
    process.ok("begin");
    process.ok("execute INSERT INTO note VALUES ('kept')");
    let outage = proxy.rule(Rule::any(Action::Cut));
    assert_eq!(process.ok("query SELECT count(*) FROM note"), "1");
    process.tell("commit");
    outage.wait_for_hits(3, LONG);
    outage.remove();
    assert_eq!(process.answer(), Ok("committed".to_owned()));
    assert_eq!(fixture.open("").ok("query SELECT text FROM note"), "kept");
    fixture.assert_whole();
}

/// A request of a transaction that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Acquire,
    /// Of a lease that has expired: its second put.
    TakeOver,
    Renew,
    Confirm,
    Release,
}

/// What befalls a request or its answer.
#[derive(Debug, Clone)]
struct Fault {
    name: &'static str,
    action: Action,
    /// It is held until the lease has ended and a successor has written.
    beyond_lease: bool,
}

fn faults() -> Vec<Fault> {
    let fault = |name, action| Fault {
        name,
        action,
        beyond_lease: false,
    };
    let late = |name, action| Fault {
        name,
        action,
        beyond_lease: true,
    };
    let now = SystemTime::now();
    vec![
        fault("lost before it was applied", Action::Cut),
        fault("lost after it was applied", Action::CutAnswer),
        fault("never answered, not applied", Action::Silence),
        fault("never answered, applied", Action::SilenceAnswer),
        late("late beyond the lease", Action::Hold),
        late("answered late beyond the lease", Action::HoldAnswer),
        fault("duplicated", Action::Duplicate),
        fault("500", Action::Answer(Answer::internal_error())),
        fault(
            "500 although applied",
            Action::ReplaceAnswer(Answer::internal_error()),
        ),
        fault("throttled", Action::Answer(Answer::throttled())),
        fault("another's item", Action::Answer(refusal("9999999999"))),
        fault(
            "an item without an end",
            Action::Answer(refusal("whenever")),
        ),
        fault(
            "garbage although applied",
            Action::ReplaceAnswer(Answer::new(200, "<html>")),
        ),
        fault("no date", Action::Date(Date::Absent)),
        fault(
            "no date at all",
            Action::Date(Date::Text("soon".to_owned())),
        ),
        fault("dated an hour ahead", Action::Date(Date::At(now + HOUR))),
        fault("dated an hour back", Action::Date(Date::At(now - HOUR))),
    ]
}

/// A condition that failed because of an item of somebody else's.
fn refusal(expires_at: &str) -> Answer {
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "message": "The conditional request failed",
        "Item": {
            "pk": { "S": "somebody's" },
            "lock_id": { "S": "somebody's" },
            "expires_at": { "N": expires_at },
        },
    });
    Answer::new(400, body.to_string())
}

#[derive(Debug, Clone)]
struct Case {
    request: Request,
    fault: Fault,
    times: u64,
    file_locks: bool,
}

impl Case {
    /// Has a process write through the fault; tells what came of it.
    fn play(&self, table: &str) -> String {
        let fixture = match self.file_locks {
            true => WorkersFixture::new(table),
            false => WorkersFixture::without_file_locks(table),
        };
        let mut successor = fixture.open(PATIENT);
        successor.ok("execute CREATE TABLE note (text TEXT)");
        let proxy = proxy();
        let lease = match (self.fault.beyond_lease, self.request) {
            (true, _) => SHORT_LEASE,
            // It is due after a third of it.
            (false, Request::Renew) => RENEWED_LEASE,
            (false, _) if self.leaves_the_item() => RENEWED_LEASE,
            (false, _) => Duration::from_secs(60),
        };
        let parameters = format!("lock_timeout=20&lock_expiration={}", lease.as_secs());
        let mut writer = fixture.open_behind(&proxy, &parameters);
        if self.request == Request::TakeOver {
            let expired = SystemTime::now() - Duration::from_secs(10);
            let put = (fixture.table).put_as_python(&fixture.key(), "somebody's", expired);
            put.expect("the item is put");
        }
        let began = Instant::now();
        let (outcome, rule) = self.write(&mut writer, &proxy);
        rule.wait_for_hits(1, LONG);
        let told = requests(&proxy);

        successor.ok("execute INSERT INTO note VALUES ('of the successor')");
        if self.fault.beyond_lease {
            wait_until(LONG, "the lease would be over", || {
                began.elapsed() > lease + Duration::from_secs(1)
            });
            rule.release();
            wait_until(LONG, "what was late has arrived", || {
                let requests = proxy.requests();
                let held = requests.iter().filter(|request| request.status.is_none());
                held.count() == 0
            });
            successor.ok("execute INSERT INTO note VALUES ('of the successor')");
        } else {
            rule.remove();
        }
        let rows = successor.ok("query SELECT count(*) FROM note WHERE text = 'here'");
        self.judge(&outcome, &rows, &told);
        writer.ok("query PRAGMA busy_timeout = 30000");
        // A busy machine may lose a short lease more than once.
        wait_until(LONG * 4, "the same connection writes again", || {
            let again = writer.ask("execute INSERT INTO note VALUES ('again')");
            assert!(
                again.as_ref().err().is_none_or(|failure| failure.retryable),
                "{self:?}: {again:?}"
            );
            again.is_ok()
        });
        let expected = if self.fault.beyond_lease { "2" } else { "1" };
        let rows = writer.ok("query SELECT count(*) FROM note WHERE text LIKE 'of the successor'");
        assert_eq!(rows, expected, "{self:?}");
        drop(writer);
        fixture.assert_whole();
        let outcome = match &outcome {
            Ok(_) => "acknowledged",
            Err(failure) => &failure.kind,
        };
        format!(
            "{:?} x {} ({}): {outcome}; {}",
            self.request,
            self.fault.name,
            self.times,
            told.join(", ")
        )
    }

    /// Whether the holder cannot know that its item is still there, so that it has to run out.
    fn leaves_the_item(&self) -> bool {
        match self.request {
            // As many as a release makes may fail.
            Request::Release if self.times > 1 => true,
            Request::Confirm if self.times > 1 => true,
            Request::Confirm => self.fault.name == "garbage although applied",
            Request::Release => {
                ["another's item", "an item without an end"].contains(&self.fault.name)
            }
            _ => false,
        }
    }

    /// Writes one row; the request in question meets the fault.
    fn write(
        &self,
        writer: &mut WorkerProcess,
        proxy: &Proxy,
    ) -> (workers::Answer, integration::proxy::RuleHandle) {
        let rule =
            |rule: fn(Action) -> Rule| proxy.rule(rule(self.fault.action.clone()).next(self.times));
        let insert = "execute INSERT INTO note VALUES ('here')";
        match self.request {
            Request::Acquire => {
                let rule = rule(|action| Rule::put_to(Purpose::Acquire, action));
                (writer.ask(insert), rule)
            }
            Request::TakeOver => {
                let rule = rule(|action| Rule::put_to(Purpose::TakeOver, action));
                (writer.ask(insert), rule)
            }
            Request::Confirm => {
                let rule = rule(|action| Rule::put_to(Purpose::Record, action));
                (writer.ask(insert), rule)
            }
            Request::Renew => {
                let rule = rule(|action| Rule::put_to(Purpose::Renew, action));
                writer.ok("immediate");
                writer.ok(insert);
                rule.wait_for_hits(1, LONG);
                (writer.ask("commit"), rule)
            }
            Request::Release => {
                let rule = rule(Rule::delete);
                (writer.ask(insert), rule)
            }
        }
    }

    #[track_caller]
    fn judge(&self, outcome: &workers::Answer, rows: &str, told: &[String]) {
        match outcome {
            Ok(_) => assert_eq!(rows, "1", "{self:?}: acknowledged, {told:?}"),
            Err(failure) if failure.kind == "OutcomeUnknown" => {
                assert!(["0", "1"].contains(&rows), "{self:?}: {rows}");
            }
            Err(failure) => assert_eq!(rows, "0", "{self:?}: {failure:?}, {told:?}"),
        }
        if self.times > 1 {
            return;
        }
        let kind = outcome
            .as_ref()
            .map_or_else(|failure| failure.kind.as_str(), |_| "");
        let expected: &[&str] = match (self.request, self.fault.name) {
            // A short lease may be over before the second attempt.
            (_, _) if self.fault.beyond_lease => &["", "LeaseLost", "OutcomeUnknown"],
            (Request::Renew | Request::Confirm, "another's item") => &["LeaseLost"],
            (Request::Acquire, "an item without an end") => &["Store"],
            (Request::Renew, "an item without an end") => &["LeaseLost"],
            (Request::Confirm, "an item without an end") => &["LeaseLost"],
            (Request::Acquire | Request::TakeOver, "garbage although applied") => &["Store"],
            (Request::Confirm, "garbage although applied") => &["OutcomeUnknown"],
            _ => &[""],
        };
        // A busy machine may not keep a short lease.
        let is_short = self.request == Request::Renew || self.leaves_the_item();
        // It may hear of a refusal too late, when it has asked again and was granted what it asked.
        let refusal = told.iter().position(|answer| answer == "PutItem refused");
        let was_unheard = refusal
            .is_some_and(|nth| told[nth..].iter().any(|answer| answer == "PutItem 200"))
            && matches!(self.request, Request::Renew | Request::Confirm);
        assert!(
            expected.contains(&kind)
                || (is_short && kind == "LeaseLost")
                || (was_unheard && kind.is_empty()),
            "{self:?}: {outcome:?}, {told:?}"
        );
        // A lost answer costs one request, and not the lease.
        let is_lost = ["lost after it was applied", "never answered, applied"];
        if is_lost.contains(&self.fault.name) && self.request != Request::Renew {
            let lost = told.iter().position(|line| line.ends_with("unanswered"));
            // Where the repetition goes unheard as well, the next one.
            let mut after = told.iter().skip(lost.map_or(0, |nth| nth + 1));
            let repeated = after.find(|line| !line.ends_with("unanswered"));
            let repeated = repeated.map(String::as_str);
            let expected = match self.request {
                // It is gone already.
                Request::Release => "DeleteItem refused",
                _ => "PutItem 200",
            };
            assert_eq!(repeated, Some(expected), "{self:?}: {told:?}");
            let normal = if self.request == Request::TakeOver {
                4
            } else {
                3
            };
            // On a busy machine other answers may come too late, too.
            let most = normal + 1 + 4;
            assert!(told.len() <= most, "{self:?}: {told:?}");
        }
    }
}
