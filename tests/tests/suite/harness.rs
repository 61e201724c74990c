//! The harness does what the tests that rely on it take for granted.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use integration::dynamodb::{self, AttributeValue, LockTable};
use integration::emulator::Emulator;
use integration::process::{NoLine, Worker, ignored_test, wait_until};
use integration::proxy::{Action, Answer, Date, Operation, Proxy, RefusedEndpoint, Rule};
use integration::recording;
use integration::scratch::Scratch;
use serde_json::{Value, json};

use crate::fixtures::workers::LONG;

type TestResult = Result<(), Box<dyn Error>>;

#[test]
fn of_fifty_concurrent_conditional_puts_exactly_one_wins() -> TestResult {
    let endpoint = Emulator::shared().endpoint();
    let table = LockTable::create(endpoint, "fifty-puts")?;
    let start = Barrier::new(50);
    let wins: usize = thread::scope(|scope| {
        let racers: Vec<_> = (0..50)
            .map(|n| {
                let start = &start;
                scope.spawn(move || {
                    let table = LockTable::open(endpoint, "fifty-puts").expect("a client");
                    let item = dynamodb::python_item("k", &n.to_string(), SystemTime::now());
                    start.wait();
                    table.put_if_absent(item).expect("an answer")
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| usize::from(racer.join().expect("no panic")))
            .sum()
    });
    assert_eq!(wins, 1);
    assert_eq!(table.count()?, 1);
    Ok(())
}

#[test]
fn the_emulator_answers_as_the_lock_protocol_needs_it() -> TestResult {
    let endpoint = Emulator::shared().endpoint();
    LockTable::create(endpoint, "protocol")?;
    let mut client = RawClient::connect(endpoint)?;

    let first = client.acquire("protocol", "first")?;
    assert_eq!(first.status, 200);
    assert!(first.has_date(), "{first:?}");

    let second = client.acquire("protocol", "second")?;
    assert_eq!(second.status, 400);
    assert_eq!(second.body["Item"]["lock_id"]["S"], "first", "{second:?}");
    assert!(second.has_date(), "{second:?}");

    assert_eq!(client.release("protocol", "second")?.status, 400);
    assert_eq!(client.release("protocol", "first")?.status, 200);
    assert_eq!(client.acquire("protocol", "second")?.status, 200);
    Ok(())
}

#[test]
fn items_come_back_as_they_were_put() -> TestResult {
    let table = LockTable::create(Emulator::shared().endpoint(), "items")?;
    assert!(table.exists()?);
    assert!(!LockTable::open(Emulator::shared().endpoint(), "no-such-table")?.exists()?);
    assert_eq!(table.item("database#x")?, None);

    let expires_at = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    table.put_as_python("database#x", "an id", expires_at)?;
    let item = table.item("database#x")?.ok_or("no item")?;
    let digits = "1700000000.000000005000000001";
    assert_eq!(item["expires_at"], AttributeValue::N(digits.to_owned()));
    assert_eq!(item.len(), 3);

    assert_eq!(table.delete("database#x")?, Some(item));
    assert_eq!(table.count()?, 0);
    Ok(())
}

#[test]
fn the_emulator_ends_when_its_parent_is_killed() -> TestResult {
    let mut parent = Worker::spawn(&mut ignored_test("harness::parent_of_an_emulator"))?;
    let line = parent.line_where(LONG, |line| line.contains("http://"))?;
    let address = line
        .rsplit("http://")
        .next()
        .ok_or("no address")?
        .to_owned();
    TcpStream::connect(&address)?;

    parent.kill()?;
    wait_until(LONG, "the emulator is gone", || {
        TcpStream::connect(&address).is_err()
    });
    Ok(())
}

#[test]
#[ignore = "not a test: the process that `the_emulator_ends_when_its_parent_is_killed` kills"]
fn parent_of_an_emulator() -> TestResult {
    let emulator = Emulator::start()?;
    println!("{}", emulator.endpoint());
    // Until it is killed, or its own parent ends.
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

#[test]
fn the_emulator_ends_when_it_is_dropped() -> TestResult {
    let emulator = Emulator::start()?;
    let address = emulator.endpoint().replace("http://", "");
    TcpStream::connect(&address)?;
    drop(emulator);
    assert!(TcpStream::connect(&address).is_err());
    Ok(())
}

#[test]
fn the_proxy_passes_requests_on_and_records_them() -> TestResult {
    let (proxy, mut client) = proxy_before_table("records")?;
    assert_eq!(client.acquire("records", "me")?.status, 200);
    assert_eq!(client.acquire("records", "you")?.status, 400);
    assert_eq!(client.release("records", "me")?.status, 200);

    let requests = proxy.requests();
    let seen: Vec<_> = (requests.iter())
        .map(|request| (request.operation.to_string(), request.status))
        .collect();
    let expected = [("PutItem", 200), ("PutItem", 400), ("DeleteItem", 200)];
    assert_eq!(
        seen,
        expected.map(|(operation, status)| (operation.to_owned(), Some(status)))
    );
    assert_eq!(requests[1].key.as_deref(), Some("k"));
    assert_eq!(
        requests[1].condition.as_deref(),
        Some("attribute_not_exists(pk) OR lock_id = :me")
    );
    assert_eq!(
        requests[1].error.as_deref(),
        Some("ConditionalCheckFailedException")
    );
    assert_eq!(proxy.count(&Operation::PutItem), 2);
    proxy.reset();
    assert_eq!(proxy.count(&Operation::PutItem), 0);
    Ok(())
}

#[test]
fn a_rule_meets_the_requests_it_names_and_no_others() -> TestResult {
    let throttled = || Action::Answer(Answer::throttled());
    let proxy = Proxy::fake(Answer::new(200, "{}"))?;
    let mut client = RawClient::connect(&proxy.endpoint())?;
    let mut puts = |count: u32| -> io::Result<Vec<u16>> {
        (0..count)
            .map(|_| Ok(client.acquire("fake", "me")?.status))
            .collect()
    };

    let second = proxy.rule(Rule::put(throttled()).nth(2));
    assert_eq!(puts(3)?, [200, 400, 200]);
    assert_eq!(second.hits(), 1);

    second.remove();
    let next = proxy.rule(Rule::put(throttled()).next(2));
    assert_eq!(puts(3)?, [400, 400, 200]);
    assert_eq!(next.hits(), 2);

    proxy.reset();
    proxy.rule(Rule::put(throttled()).from(3));
    assert_eq!(puts(4)?, [200, 200, 400, 400]);

    proxy.reset();
    let deletes = proxy.rule(Rule::delete(throttled()));
    let others = proxy.rule(Rule::any(throttled()).key("another"));
    assert_eq!(puts(2)?, [200, 200]);
    assert_eq!((deletes.hits(), others.hits()), (0, 0));
    Ok(())
}

#[test]
fn errors_are_answered_without_being_forwarded() -> TestResult {
    let (proxy, mut client) = proxy_before_table("errors")?;
    for (answer, status, error) in [
        (Answer::internal_error(), 500, "InternalServerError"),
        (Answer::throttled(), 400, "ThrottlingException"),
        (
            Answer::access_denied("dynamodb:PutItem"),
            400,
            "AccessDeniedException",
        ),
        (Answer::table_missing(), 400, "ResourceNotFoundException"),
        (
            Answer::bad_credentials(),
            400,
            "UnrecognizedClientException",
        ),
    ] {
        proxy.reset();
        proxy.rule(Rule::put(Action::Answer(answer)));
        assert_eq!(client.acquire("errors", "me")?.status, status);
        let request = proxy.requests().remove(0);
        assert_eq!(request.error.as_deref(), Some(error));
        assert_eq!(request.forwarded, 0);
    }
    Ok(())
}

#[test]
fn a_lost_answer_leaves_the_write_in_place_and_a_cut_does_not() -> TestResult {
    let (proxy, mut client) = proxy_before_table("lost")?;
    let table = LockTable::open(Emulator::shared().endpoint(), "lost")?;

    let cut = proxy.rule(Rule::put(Action::Cut).nth(1));
    assert!(client.acquire("lost", "me").is_err());
    assert_eq!(cut.hits(), 1);
    assert_eq!(table.count()?, 0);

    let mut client = RawClient::connect(&proxy.endpoint())?;
    let lost = proxy.rule(Rule::put(Action::CutAnswer).nth(1));
    assert!(client.acquire("lost", "me").is_err());
    assert_eq!(lost.hits(), 1);
    assert_eq!(table.count()?, 1);
    let request = proxy.requests().remove(1);
    assert_eq!((request.forwarded, request.status), (1, None));
    Ok(())
}

#[test]
fn silence_lasts_until_the_client_gives_up() -> TestResult {
    let (proxy, mut client) = proxy_before_table("silent")?;
    let table = LockTable::open(Emulator::shared().endpoint(), "silent")?;
    let patience = Duration::from_millis(200);

    proxy.rule(Rule::put(Action::Silence).nth(1));
    client.give_up_after(patience)?;
    let error = client.acquire("silent", "me").expect_err("no answer");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(table.count()?, 0);

    let mut client = RawClient::connect(&proxy.endpoint())?;
    proxy.rule(Rule::put(Action::SilenceAnswer).nth(1));
    client.give_up_after(patience)?;
    let error = client.acquire("silent", "me").expect_err("no answer");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // On a busy machine it is applied after the client has given up.
    wait_until(LONG, "it is applied", || {
        table.count().is_ok_and(|count| count == 1)
    });
    Ok(())
}

#[test]
fn what_is_held_goes_on_when_it_is_released() -> TestResult {
    let (proxy, mut client) = proxy_before_table("held")?;
    let table = LockTable::open(Emulator::shared().endpoint(), "held")?;

    let held = proxy.rule(Rule::put(Action::Hold));
    let held_answer = proxy.rule(Rule::delete(Action::HoldAnswer));
    thread::scope(|scope| -> TestResult {
        let worker = scope.spawn(|| -> io::Result<u16> {
            client.acquire("held", "me")?;
            Ok(client.release("held", "me")?.status)
        });
        held.wait_for_hits(1, LONG);
        assert_eq!(table.count()?, 0, "not forwarded yet");
        held.release();

        held_answer.wait_for_hits(1, LONG);
        wait_until(LONG, "the item is gone", || {
            table.count().is_ok_and(|n| n == 0)
        });
        assert!(!worker.is_finished(), "it has no answer yet");
        held_answer.release();
        assert_eq!(worker.join().expect("no panic")?, 200);
        Ok(())
    })
}

#[test]
fn a_delayed_request_arrives_later() -> TestResult {
    let (proxy, mut client) = proxy_before_table("late")?;
    let delay = Duration::from_millis(150);
    proxy.rule(Rule::put(Action::Delay(delay)));
    let asked = Instant::now();
    assert_eq!(client.acquire("late", "me")?.status, 200);
    assert!(asked.elapsed() >= delay);
    Ok(())
}

#[test]
fn a_duplicated_request_takes_effect_twice() -> TestResult {
    let (proxy, mut client) = proxy_before_table("twice")?;
    client.acquire("twice", "me")?;
    proxy.rule(Rule::delete(Action::Duplicate));
    // The first of the two has removed the item, so the condition of the second fails.
    assert_eq!(client.release("twice", "me")?.status, 400);
    let request = proxy.requests().remove(1);
    assert_eq!(request.forwarded, 2);
    Ok(())
}

#[test]
fn dates_and_answers_are_replaced() -> TestResult {
    let (proxy, mut client) = proxy_before_table("dates")?;
    let text = "Sun, 06 Nov 1994 08:49:37 GMT";
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    for (date, expected) in [
        (Date::Absent, None),
        (Date::At(time), Some(text)),
        (Date::Text("garbage".to_owned()), Some("garbage")),
    ] {
        proxy.reset();
        proxy.rule(Rule::put(Action::Date(date.clone())));
        assert_eq!(client.acquire("dates", "me")?.date.as_deref(), expected);
        proxy.reset();
        proxy.rule(Rule::put(Action::Answer(Answer::throttled().date(date))));
        assert_eq!(client.acquire("dates", "me")?.date.as_deref(), expected);
    }

    proxy.reset();
    let other = Answer::new(200, r#"{"other":1}"#);
    proxy.rule(Rule::put(Action::ReplaceAnswer(other)));
    assert_eq!(client.acquire("dates", "me")?.body, json!({ "other": 1 }));
    Ok(())
}

#[test]
fn a_refused_endpoint_refuses() -> TestResult {
    let endpoint = RefusedEndpoint::new()?;
    let error = RawClient::connect(&endpoint.endpoint()).expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn a_paused_worker_stands_still_until_it_is_resumed() -> TestResult {
    // Echoes line by line.
    let mut worker = Worker::spawn(&mut Command::new("cat"))?;
    worker.send("one")?;
    assert_eq!(worker.line(LONG)?, "one");

    worker.pause()?;
    worker.send("two")?;
    let moment = Duration::from_millis(100);
    assert_eq!(worker.line(moment), Err(NoLine::TimedOut(moment)));
    worker.resume()?;
    assert_eq!(worker.line(LONG)?, "two");

    worker.close_stdin();
    assert!(worker.wait(LONG)?.success());
    assert_eq!(worker.line(LONG), Err(NoLine::Closed));
    Ok(())
}

/// A proxy before the shared emulator, where a table of this name was created.
fn proxy_before_table(table: &str) -> Result<(Proxy, RawClient), Box<dyn Error>> {
    let endpoint = Emulator::shared().endpoint();
    LockTable::create(endpoint, table)?;
    let proxy = Proxy::start(endpoint)?;
    let client = RawClient::connect(&proxy.endpoint())?;
    Ok((proxy, client))
}

/// One connection to DynamoDB that never retries and shows the whole answer.
#[derive(Debug)]
struct RawClient(TcpStream);

#[derive(Debug)]
struct RawAnswer {
    status: u16,
    date: Option<String>,
    body: Value,
}

impl RawAnswer {
    fn has_date(&self) -> bool {
        (self.date.as_deref()).is_some_and(|date| httpdate::parse_http_date(date).is_ok())
    }
}

impl RawClient {
    fn connect(endpoint: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(endpoint.trim_start_matches("http://"))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn give_up_after(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))
    }

    fn acquire(&mut self, table: &str, lock_id: &str) -> io::Result<RawAnswer> {
        self.ask(
            "PutItem",
            &json!({
                "TableName": table,
                "Item": { "pk": { "S": "k" }, "lock_id": { "S": lock_id } },
                "ConditionExpression": "attribute_not_exists(pk) OR lock_id = :me",
                "ExpressionAttributeValues": { ":me": { "S": lock_id } },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }),
        )
    }

    fn release(&mut self, table: &str, lock_id: &str) -> io::Result<RawAnswer> {
        self.ask(
            "DeleteItem",
            &json!({
                "TableName": table,
                "Key": { "pk": { "S": "k" } },
                "ConditionExpression": "lock_id = :me",
                "ExpressionAttributeValues": { ":me": { "S": lock_id } },
            }),
        )
    }

    fn ask(&mut self, operation: &str, body: &Value) -> io::Result<RawAnswer> {
        let body = body.to_string();
        let request = format!(
            "POST / HTTP/1.1\r\n\
             Host: localhost\r\n\
             Content-Type: application/x-amz-json-1.0\r\n\
             X-Amz-Target: DynamoDB_20120810.{operation}\r\n\
             X-Amz-Date: 20260101T000000Z\r\n\
             Authorization: AWS4-HMAC-SHA256 \
             Credential=a/20260101/us-east-1/dynamodb/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=0\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes())?;

        let mut answer = Vec::new();
        let end_of_head = loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            answer.push(byte[0]);
            if answer.ends_with(b"\r\n\r\n") {
                break answer.len();
            }
        };
        let head = String::from_utf8_lossy(&answer[..end_of_head]).into_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (candidate, value) = line.split_once(':')?;
                (candidate.eq_ignore_ascii_case(name)).then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        self.0.read_exact(&mut body)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(RawAnswer {
            status: status.unwrap_or_default(),
            date: header("date"),
            body: serde_json::from_slice(&body)?,
        })
    }
}

#[test]
fn a_timed_connection_tells_when_each_of_its_operations_was_done() -> TestResult {
    use recording::{On, Operation, Plan, Recorder, TIMED};
    recording::register();
    let scratch = Scratch::new()?;
    let recorder = Recorder::install(TIMED, scratch.database());
    let url = format!("file:{}?vfs={TIMED}", scratch.database().display());
    let mut conn = SqliteConnection::establish(&url)?;
    conn.batch_execute("CREATE TABLE t (n INTEGER)")?;

    recorder.plan(Plan::Watch);
    let called = Instant::now();
    conn.batch_execute("INSERT INTO t VALUES (1)")?;
    let answered = Instant::now();

    let times = recorder.times();
    assert_eq!(times.len(), recorder.operations().len());
    let order = [
        Operation::Open(On::Journal),
        Operation::Sync(On::Journal),
        Operation::Write(On::Main),
        Operation::Sync(On::Main),
        Operation::Delete,
    ];
    let mut last = called;
    for expected in order {
        let (_, begun, ended) = (times.iter())
            .find(|(operation, ..)| *operation == expected)
            .ok_or_else(|| format!("no {expected:?} among {times:?}"))?;
        assert!(
            last <= *begun && begun <= ended,
            "{expected:?} in {times:?}"
        );
        last = *ended;
    }
    assert!(last <= answered);
    Ok(())
}
