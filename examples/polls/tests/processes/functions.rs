//! The program as a Lambda function: events in, responses out, and processes that are frozen, killed
//! and started together.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use integration::emulator::Emulator;
use integration::lambda::{Environment, Failure, Front};
use integration::proxy::{Action, Operation, Proxy, Purpose, Request, Rule};
use serde_json::Value;

use crate::fixture::{CHOICES, POLL, ProgramFixture};

/// For what should take moments, on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// A function's timeout where it is not what the test is about.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A lease that no test waits for, and time enough for all that queue.
const CALM: &str = "lock_expiration=20&lock_timeout=20";

/// A response of the function.
struct Response {
    status: u64,
    value: Value,
}

impl Response {
    fn new(value: Value) -> Self {
        let status = value["statusCode"].as_u64();
        Self {
            status: status.unwrap_or_else(|| panic!("no response to HTTP: {value}")),
            value,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let single = self.value["headers"].as_object();
        let several = self.value["multiValueHeaders"].as_object();
        let found = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
        let single = single.and_then(|headers| headers.iter().find(found));
        let several = several.and_then(|headers| headers.iter().find(found));
        (single.and_then(|(_, value)| value.as_str()))
            .or_else(|| several.and_then(|(_, values)| values[0].as_str()))
    }

    fn text(&self) -> &str {
        assert_eq!(
            self.value["isBase64Encoded"],
            Value::Bool(false),
            "text is sent as such"
        );
        self.value["body"].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn json(&self) -> Value {
        let body = self.text();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }
}

/// A function's process, and what it is asked.
struct Function(Environment);

impl Function {
    /// Starts a process, which is not initialised yet.
    fn start(fixture: &ProgramFixture, settings: &str) -> Self {
        Self::start_by(&mut fixture.command(settings))
    }

    /// The same by a command that is complete.
    fn start_by(command: &mut Command) -> Self {
        let environment = Environment::start(command, "polls");
        Self(environment.expect("a process"))
    }

    /// Starts a process and waits until it asks for its first event.
    #[track_caller]
    fn ready(fixture: &ProgramFixture, settings: &str) -> Self {
        let mut function = Self::start(fixture, settings);
        function.wait_until_ready();
        function
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        if let Err(error) = self.0.wait_until_ready(LONG) {
            panic!("{error}: {:#?}", self.0.log());
        }
    }

    #[track_caller]
    fn get(&mut self, front: Front, target: &str) -> Response {
        let event = front.event("GET", target, &[], "");
        self.answer(&event)
    }

    #[track_caller]
    fn answer(&mut self, event: &Value) -> Response {
        match self.0.invoke(event, TIMEOUT) {
            Ok(value) => Response::new(value),
            Err(error) => panic!("{error}: {:#?}", self.0.log()),
        }
    }

    #[track_caller]
    fn vote(&mut self, key: &str) -> Response {
        self.answer(&ballot(Front::HttpApi, key))
    }

    /// Votes until it is acknowledged, as a client does that is told to come again.
    #[track_caller]
    fn vote_until_acknowledged(&mut self, key: &str) -> u64 {
        let deadline = Instant::now() + LONG;
        loop {
            let response = self.vote(key);
            assert!(
                Instant::now() < deadline,
                "{}: {:#?}",
                response.value,
                self.0.log()
            );
            match response.status {
                201 | 200 => return response.status,
                503 => assert!(response.header("retry-after").is_some()),
                _ => panic!("{}", response.value),
            }
        }
    }
}

/// The event for a vote.
fn ballot(front: Front, key: &str) -> Value {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let body = format!("{{\"choice\":{}}}", CHOICES[0]);
    front.event("POST", &format!("/api/polls/{POLL}/votes"), &headers, &body)
}

fn keys<T: Display>(all: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    all.into_iter().map(|key| key.to_string()).collect()
}

#[test]
fn requests_of_all_three_front_ends_are_answered() {
    let fixture = ProgramFixture::new();
    let mut function = Function::ready(&fixture, CALM);
    for front in Front::ALL {
        let list = function.get(front, "/api/polls");
        assert_eq!(list.status, 200, "{front:?}");
        assert_eq!(
            list.header("content-type"),
            Some("application/json"),
            "{front:?}"
        );
        assert_eq!(
            list.json()["polls"].as_array().map(Vec::len),
            Some(3),
            "{front:?}"
        );

        let page = function.get(front, "/");
        assert_eq!(page.status, 200, "{front:?}");
        assert!(page.text().contains("<html"), "{front:?}");

        let results = format!("/api/polls/{POLL}/results");
        let before = function.get(front, &results).json()["votes"].as_i64();
        let key = format!("{front:?}");
        let cast = function.answer(&ballot(front, &key));
        assert_eq!(cast.status, 201, "{front:?}");
        let again = function.answer(&ballot(front, &key));
        assert_eq!(again.status, 200, "{front:?}: {}", again.value);
        let after = function.get(front, &results).json()["votes"].as_i64();
        assert_eq!(after, before.map(|votes| votes + 1), "{front:?}");

        assert_eq!(
            function.get(front, "/api/polls/4711").status,
            404,
            "{front:?}"
        );
        assert_eq!(function.get(front, "/health").status, 200, "{front:?}");
        assert_eq!(function.get(front, "/ready").status, 200, "{front:?}");
    }
    fixture.assert_counted(&keys(Front::ALL.map(|front| format!("{front:?}"))));
}

#[test]
fn nothing_is_asked_of_dynamodb_by_a_start_without_migrations_nor_by_reading() {
    let fixture = ProgramFixture::new();
    drop(Function::ready(&fixture, CALM));
    let migrated = fixture.proxy.requests().len();
    assert!(migrated > 0, "the first start migrates, under the lock");

    fixture.proxy.forget_requests();
    let mut function = Function::ready(&fixture, CALM);
    for target in [
        "/".to_owned(),
        format!("/polls/{POLL}"),
        format!("/polls/{POLL}/results"),
        format!("/polls/{POLL}/history"),
        "/api/polls".to_owned(),
        format!("/api/polls/{POLL}"),
        format!("/api/polls/{POLL}/results"),
        "/ready".to_owned(),
    ] {
        assert_eq!(
            function.get(Front::HttpApi, &target).status,
            200,
            "{target}"
        );
    }
    assert_eq!(
        fixture.proxy.requests().len(),
        0,
        "{:#?}",
        fixture.proxy.requests()
    );

    // So that the silence before means something.
    assert_eq!(function.vote("one").status, 201);
    let asked = fixture.proxy.requests();
    let mut puts: Vec<_> = asked.iter().filter_map(Request::purpose).collect();
    // A busy machine may have one repeated.
    puts.dedup();
    assert_eq!(puts, [Purpose::Acquire, Purpose::Record], "{asked:#?}");
    assert!(fixture.proxy.count(&Operation::DeleteItem) > 0);
    // The same vote again is answered by reading.
    assert_eq!(function.vote("one").status, 200);
    assert_eq!(fixture.proxy.requests().len(), asked.len());
    fixture.assert_counted(&keys(["one"]));
}

#[test]
fn processes_that_start_together_on_no_database_make_one() {
    let fixture = ProgramFixture::new();
    let mut functions: Vec<_> = (0..5).map(|_| Function::start(&fixture, CALM)).collect();
    for function in &mut functions {
        function.wait_until_ready();
    }
    for (index, function) in functions.iter_mut().enumerate() {
        let list = function.get(Front::HttpApi, "/api/polls").json();
        assert_eq!(list["polls"].as_array().map(Vec::len), Some(3));
        assert_eq!(function.vote(&index.to_string()).status, 201);
    }
    drop(functions);
    fixture.assert_counted(&keys(0..5));
}

#[test]
fn every_vote_acknowledged_by_processes_that_are_frozen_between_invocations_is_counted() {
    const PROCESSES: usize = 4;
    const VOTES: usize = 12;
    let fixture = ProgramFixture::new();
    drop(Function::ready(&fixture, CALM));
    let name = |process: usize, vote: usize| format!("{process}-{vote}");
    thread::scope(|scope| {
        for process in 0..PROCESSES {
            let fixture = &fixture;
            scope.spawn(move || {
                let environment = Environment::start(&mut fixture.command(CALM), "polls");
                let mut function = Function(environment.expect("a process").freezing());
                function.wait_until_ready();
                for vote in 0..VOTES {
                    function.vote_until_acknowledged(&name(process, vote));
                }
            });
        }
    });
    let all = (0..PROCESSES).flat_map(|process| (0..VOTES).map(move |vote| name(process, vote)));
    fixture.assert_counted(&keys(all));
}

/// Where a process stands when it is frozen.
struct Stop {
    action: Action,
    /// The request that this happens to, and what repeats it on a busy machine.
    request: Purpose,
    /// What the other process's vote is told meanwhile.
    meanwhile: u64,
    /// Whether a host takes the lease over that the frozen one's file locks do not reach.
    taken_over: bool,
    /// What the frozen one's client is told when it sends its vote again.
    again: u64,
}

/// A stopped process keeps its file locks, and from its commit on nobody here can even read. On EFS
/// the server ends the locks of a client that is silent; what another host does then to the lock table
/// is done by the test.
#[test]
fn a_process_frozen_in_the_middle_of_a_vote_past_its_lease_says_what_became_of_it() {
    let stops = [
        // Granted, and it does not know yet. It holds no file lock.
        Stop {
            action: Action::HoldAnswer,
            request: Purpose::Acquire,
            meanwhile: 201,
            taken_over: true,
            again: 201,
        },
        // Its commit is not recorded when another takes the lease over.
        Stop {
            action: Action::Hold,
            request: Purpose::Record,
            meanwhile: 503,
            taken_over: true,
            again: 201,
        },
        // It is recorded, and counts, whenever the answer comes.
        Stop {
            action: Action::HoldAnswer,
            request: Purpose::Record,
            meanwhile: 503,
            taken_over: false,
            again: 200,
        },
    ];
    // Each mostly waits for its lease to end.
    thread::scope(|scope| {
        for stop in stops {
            scope.spawn(move || freeze_in_mid_vote(&stop));
        }
    });
}

fn freeze_in_mid_vote(stop: &Stop) {
    let at = format!("{:?} of {:?}", stop.action, stop.request);
    let fixture = ProgramFixture::new();
    let mut frozen = Function::ready(&fixture, "lock_expiration=4&lock_timeout=20");
    let apart = Proxy::start(Emulator::shared().endpoint()).expect("a proxy");
    let settings = "lock_expiration=4&lock_timeout=9";
    let mut other = Function::start_by(&mut fixture.command_behind(&apart, settings));
    other.wait_until_ready();
    let held = fixture
        .proxy
        .rule(Rule::put_to(stop.request, stop.action.clone()));
    (frozen.0.begin(&ballot(Front::HttpApi, "frozen"), LONG)).expect("a process");
    held.wait_for_hits(1, LONG);
    frozen.0.freeze().expect("a process");
    let first = item_of(&fixture);

    // Longer than the lease, whatever comes of it.
    let met = other.vote("other");
    assert_eq!(met.status, stop.meanwhile, "{at}: {}", met.value);
    if stop.taken_over && met.status == 503 {
        fixture.give_lease_to_another(Duration::from_secs(2));
    }
    assert_eq!(item_of(&fixture) != first, stop.taken_over, "{at}");

    frozen.0.thaw().expect("a process");
    held.release();
    let told = frozen.0.finish().map(Response::new);
    let told = told.unwrap_or_else(|error| panic!("{at}: {error}: {:#?}", frozen.0.log()));
    match told.status {
        503 => assert!(told.header("retry-after").is_some(), "{at}"),
        // What was taken from it before its end was recorded is not counted.
        201 => assert!(
            stop.request == Purpose::Acquire || !stop.taken_over,
            "{at}: {}",
            told.value
        ),
        _ => panic!("{at}: {}", told.value),
    }
    let again = frozen.vote_until_acknowledged("frozen");
    let expected = if told.status == 201 { 200 } else { stop.again };
    assert_eq!(again, expected, "{at}: {:#?}", frozen.0.log());
    other.vote_until_acknowledged("other");
    drop((frozen, other));
    fixture.assert_counted(&keys(["frozen", "other"]));
}

/// Who holds the lock, if anybody does.
fn item_of(fixture: &ProgramFixture) -> Option<String> {
    let lock_id = fixture.table.attribute(&fixture.key(), "lock_id");
    lock_id.expect("the table")
}

#[test]
fn a_lost_lease_is_in_the_log_as_the_templates_alarm_expects_it() {
    let fixture = ProgramFixture::new();
    let mut function = Function::ready(&fixture, CALM);
    let held = (fixture.proxy).rule(Rule::put_to(Purpose::Record, Action::Hold));
    (function.0.begin(&ballot(Front::HttpApi, "lost"), TIMEOUT)).expect("a process");
    held.wait_for_hits(1, LONG);
    // Somebody removes the lock by hand, as `efs-sqlite unlock` can.
    fixture.remove_item();
    held.release();
    let told = function
        .0
        .finish()
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Response::new(told).status, 503);
    function.0.wait_for_log(LONG, &filter_pattern("LostMetric"));
    assert_eq!(function.vote_until_acknowledged("lost"), 201);
    drop(function);
    fixture.assert_counted(&keys(["lost"]));
}

#[test]
fn a_process_killed_at_its_timeout_in_the_middle_of_a_vote_leaves_nothing_that_the_next_does_not_mend()
 {
    const SETTINGS: &str = "lock_expiration=9&lock_timeout=20";
    let fixture = ProgramFixture::new();
    let mut function = Function::ready(&fixture, SETTINGS);
    // What is not answered is sent again: all of it is lost.
    let commit = (fixture.proxy).rule(Rule::put_to(Purpose::Record, Action::Silence));
    let killed = (function.0).invoke(&ballot(Front::HttpApi, "killed"), Duration::from_secs(5));
    assert!(matches!(killed, Err(Failure::TimedOut(_))), "{killed:?}");
    assert!(commit.hits() > 0);
    assert!(item_of(&fixture).is_some(), "nobody has released the lock");
    commit.remove();

    let mut next = Function::ready(&fixture, SETTINGS);
    assert_eq!(next.vote_until_acknowledged("next"), 201);
    // The client of the first was told nothing, and asks again.
    assert_eq!(next.vote_until_acknowledged("killed"), 201);
    drop(next);
    fixture.assert_counted(&keys(["killed", "next"]));
}

#[test]
fn a_lock_that_is_not_free_in_time_is_503_before_the_invocation_ends() {
    /// Longer than the invocation has, so that its deadline is what ends the wait.
    const SETTINGS: &str = "lock_timeout=60";
    let fixture = ProgramFixture::new();
    let mut function = Function::ready(&fixture, SETTINGS);
    fixture.give_lease_to_another(10 * LONG);
    let mut invocations = 0;
    let refused = loop {
        invocations += 1;
        match (function.0).invoke(&ballot(Front::HttpApi, "refused"), Duration::from_secs(4)) {
            Ok(refused) => break Response::new(refused),
            // The application keeps half a second for its answer: a busy machine may not be able to
            // give one in that, but not each time.
            Err(Failure::TimedOut(_)) if invocations < 4 => {
                function = Function::ready(&fixture, SETTINGS);
            }
            Err(error) => panic!("{error}: {:#?}", function.0.log()),
        }
    };
    assert_eq!(refused.status, 503, "{}", refused.value);
    assert!(refused.header("retry-after").is_some());
    // Reading goes on.
    assert_eq!(function.get(Front::HttpApi, "/api/polls").status, 200);

    fixture.remove_item();
    assert_eq!(function.vote("accepted").status, 201);
    drop(function);
    fixture.assert_counted(&keys(["accepted"]));
}

#[test]
fn a_busy_lock_is_in_the_log_as_the_templates_alarm_expects_it() {
    let fixture = ProgramFixture::new();
    // Long enough to hear who holds the lock.
    let mut function = Function::ready(&fixture, "lock_timeout=3");
    fixture.give_lease_to_another(10 * LONG);
    assert_eq!(function.vote("refused").status, 503);
    function.0.wait_for_log(LONG, &filter_pattern("BusyMetric"));
    fixture.remove_item();
    drop(function);
    fixture.assert_counted(&BTreeSet::new());
}

#[test]
fn a_function_without_its_file_system_does_not_start_and_says_why() {
    let fixture = ProgramFixture::new();
    let mut command = fixture.command(CALM);
    command.env("DATABASE_URL", "/mnt/nowhere/polls.db?lock_table=polls");
    let mut environment = Environment::start(&mut command, "polls").expect("a process");
    assert!(matches!(
        environment.wait_until_ready(LONG),
        Err(Failure::Ended(_))
    ));
    environment.wait_for_log(LONG, "/mnt/nowhere");
}

/// The text that a metric filter of the template looks for in the log.
fn filter_pattern(resource: &str) -> String {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("template.yaml");
    let template = fs::read_to_string(template).expect("the template");
    let (_, of_resource) =
        (template.split_once(&format!("\n  {resource}:\n"))).expect("a resource");
    let line = of_resource
        .lines()
        .find_map(|line| line.trim().strip_prefix("FilterPattern: "));
    line.expect("a filter").trim_matches(['\'', '"']).to_owned()
}
