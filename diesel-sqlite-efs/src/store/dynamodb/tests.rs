//! The store against small HTTP servers on the loopback interface, each with a script.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};

use super::*;
use crate::clock::from_unix_seconds;
use crate::store::{JournalId, StoredItem};

const DATE: &str = "Sun, 22 Nov 2026 08:25:00 GMT";
const PATIENCE: Duration = Duration::from_secs(5);

fn date() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_335_900)
}

// Put

/// The condition of a renewal.
const RENEWAL: PutCondition<'_> = PutCondition::ours(None);

#[test]
fn a_put_sends_the_item_and_the_condition() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let mut item = item();
    item.committed = Some(JournalId([0, 0xab, 1, 2]));
    server
        .store()
        .put(&item, PutCondition::FreeOrOurs, PATIENCE)
        .unwrap();

    let request = server.only_request();
    assert_eq!(request.target(), "DynamoDB_20120810.PutItem");
    for part in [
        r#""TableName":"locks""#,
        r#""pk":{"S":"database#app.db"}"#,
        r#""lock_id":{"S":"us"}"#,
        r#""expires_at":{"N":"1795335910"}"#,
        r#""holder":{"S":"worker 1"}"#,
        r#""acquired_at":{"N":"1795335900"}"#,
        r#""waited":{"N":"1250"}"#,
        r#""committed":{"S":"00ab0102"}"#,
        r#""ConditionExpression":"attribute_not_exists(pk) OR (lock_id = :me AND expires_at <= :expires_at AND committed = :committed)""#,
        r#"":me":{"S":"us"}"#,
        r#"":committed":{"S":"00ab0102"}"#,
        r#""ReturnValues":"ALL_OLD""#,
        r#""ReturnValuesOnConditionCheckFailure":"ALL_OLD""#,
    ] {
        assert!(request.body.contains(part), "{part} in {}", request.body);
    }
}

#[test]
fn each_condition_names_what_it_compares() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let store = server.store();
    let seen = StoredItem {
        lock_id: "them".to_owned(),
        expires_at: "1795335900.1234567890123456789012".to_owned(),
        holder: None,
        acquired_at: None,
        committed: None,
        waited: None,
    };
    let committed = StoredItem {
        committed: Some(JournalId([0xde, 0xad, 0xbe, 0xef])),
        ..seen.clone()
    };
    let journal = JournalId([0xde, 0xad, 0xbe, 0xef]);
    let ours = "(lock_id = :me AND expires_at <= :expires_at AND attribute_not_exists(committed))";
    let cases: [(_, String, &[&str]); 6] = [
        (
            PutCondition::Ended,
            r#":"lock_id = :me AND attribute_not_exists(committed)""#.to_owned(),
            &[],
        ),
        (PutCondition::ours(None), format!(r#":"{ours}""#), &[]),
        (
            PutCondition::Ours {
                recorded: Some(journal),
            },
            format!(
                r#":"{ours} OR (lock_id = :me AND expires_at <= :expires_at AND committed = :recorded)""#
            ),
            &[r#"":recorded":{"S":"deadbeef"}"#],
        ),
        (
            PutCondition::Unchanged(&seen),
            format!(
                r#":"(lock_id = :seen_lock_id AND expires_at = :seen_expires_at AND attribute_not_exists(committed)) OR {ours}""#
            ),
            &[
                r#"":seen_lock_id":{"S":"them"}"#,
                r#"":seen_expires_at":{"N":"1795335900.1234567890123456789012"}"#,
            ],
        ),
        (
            PutCondition::Unchanged(&committed),
            format!(
                r#":"(lock_id = :seen_lock_id AND expires_at = :seen_expires_at AND committed = :seen) OR {ours}""#
            ),
            &[r#"":seen":{"S":"deadbeef"}"#],
        ),
        (
            PutCondition::free_or_expired(from_unix_seconds(1_795_335_901)),
            format!(r#":"attribute_not_exists(pk) OR expires_at < :now OR {ours}""#),
            &[r#"":now":{"N":"1795335901"}"#],
        ),
    ];
    for (condition, expression, values) in cases {
        store.put(&item(), condition, PATIENCE).unwrap();
        let request = server.requests().pop().unwrap();
        assert!(!request.body.contains(r#""committed":"#));
        for part in [expression.as_str(), r#"":me":{"S":"us"}"#]
            .iter()
            .chain(values)
        {
            assert!(request.body.contains(part), "{part} in {}", request.body);
        }
    }
}

#[test]
fn a_stored_item_tells_the_date_and_what_it_replaced() {
    let server = Server::start(|number, _| match number {
        0 => Reply::ok("{}"),
        _ => Reply::ok(&format!(r#"{{"Attributes":{FULL_ITEM}}}"#)),
    });
    let store = server.store();
    let (previous, date) = (None, Some(date()));
    assert_eq!(put(&store), Ok(PutAnswer::Stored { previous, date }));
    let previous = Some(StoredItem {
        lock_id: "them".to_owned(),
        expires_at: "1795335905".to_owned(),
        holder: Some("worker 2".to_owned()),
        acquired_at: Some(from_unix_seconds(1_795_335_895)),
        committed: Some(JournalId([0xde, 0xad, 0xbe, 0xef])),
        waited: Some(Duration::from_millis(875)),
    });
    assert_eq!(put(&store), Ok(PutAnswer::Stored { previous, date }));
}

#[test]
fn a_wait_that_cannot_be_read_is_none_and_keeps_nobody_from_the_lease() {
    for waited in [
        r#"{"N":"1.5"}"#,
        r#"{"N":"-1"}"#,
        r#"{"S":"long"}"#,
        r#"{"NULL":true}"#,
    ] {
        let item = format!(
            r#"{{"pk":{{"S":"k"}},"lock_id":{{"S":"them"}},"expires_at":{{"N":"1"}},"waited":{waited}}}"#
        );
        let server = Server::start(move |_, _| Reply::refused(Some(&item)));
        let Ok(PutAnswer::Refused { current, .. }) = put(&server.store()) else {
            panic!("{waited} is an error");
        };
        assert_eq!(current.expect("an item").waited, None, "{waited}");
    }
}

#[test]
fn a_refusal_tells_the_date_and_who_stands_in_the_way() {
    let server = Server::start(|number, _| match number {
        // What the Python package writes.
        0 => Reply::refused(Some(PYTHON_ITEM)),
        _ => Reply::refused(None),
    });
    let store = server.store();
    let date = Some(date());
    let current = Some(StoredItem {
        lock_id: "them".to_owned(),
        expires_at: "1795335905.123456001281738281".to_owned(),
        holder: None,
        acquired_at: None,
        committed: None,
        waited: None,
    });
    assert_eq!(put(&store), Ok(PutAnswer::Refused { current, date }));
    let current = None;
    assert_eq!(put(&store), Ok(PutAnswer::Refused { current, date }));
}

#[test]
fn a_missing_or_senseless_date_is_none() {
    let server = Server::start(|number, _| match number {
        0 => Reply::ok("{}").dated(None),
        1 => Reply::ok("{}").dated(Some("yesterday")),
        _ => Reply::refused(None).dated(None),
    });
    let store = server.store();
    for _ in 0..2 {
        let (previous, date) = (None, None);
        assert_eq!(put(&store), Ok(PutAnswer::Stored { previous, date }));
    }
    let (current, date) = (None, None);
    assert_eq!(put(&store), Ok(PutAnswer::Refused { current, date }));
}

#[test]
fn a_malformed_item_is_an_error_that_names_the_attribute() {
    let cases = [
        (r#"{"expires_at":{"N":"1"}}"#, "lock_id", "missing"),
        (r#"{"lock_id":{"S":"x"}}"#, "expires_at", "missing"),
        (
            r#"{"lock_id":{"N":"7"},"expires_at":{"N":"1"}}"#,
            "lock_id",
            "string",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"S":"1"}}"#,
            "expires_at",
            "number",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"N":"1"},"holder":{"BOOL":true}}"#,
            "holder",
            "string",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"N":"1"},"acquired_at":{"N":"1.5"}}"#,
            "acquired_at",
            "whole",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"N":"1"},"committed":{"S":"xyz"}}"#,
            "committed",
            "hex",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"N":"1"},"committed":{"S":"DEADBEEF"}}"#,
            "committed",
            "hex",
        ),
        (
            r#"{"lock_id":{"S":"x"},"expires_at":{"N":"1"},"committed":{"N":"1"}}"#,
            "committed",
            "string",
        ),
    ];
    let server = Server::start(move |number, _| Reply::refused(Some(cases[number].0)));
    let store = server.store();
    for (item, name, complaint) in cases {
        match put(&store) {
            Err(StoreError::MalformedItem { attribute, problem }) => {
                assert_eq!(attribute, name, "{item}");
                assert!(problem.contains(complaint), "{problem}");
            }
            other => panic!("{other:?} for {item}"),
        }
    }
}

// Delete

#[test]
fn a_delete_is_conditional_on_our_lock_id() {
    let server = Server::start(|number, _| match number {
        0 => Reply::ok("{}"),
        1 => Reply::refused(Some(FULL_ITEM)),
        _ => Reply::refused(None),
    });
    let store = server.store();
    assert_eq!(delete(&store), Ok(DeleteAnswer::Deleted));
    assert_eq!(delete(&store), Ok(DeleteAnswer::NotOurs));
    assert_eq!(delete(&store), Ok(DeleteAnswer::NotOurs));
    for request in server.requests() {
        assert_eq!(request.target(), "DynamoDB_20120810.DeleteItem");
        for part in [
            r#""TableName":"locks""#,
            r#""Key":{"pk":{"S":"database#app.db"}}"#,
            r#""ConditionExpression":"lock_id = :me""#,
            r#"":me":{"S":"us"}"#,
        ] {
            assert!(request.body.contains(part), "{part} in {}", request.body);
        }
    }
}

// Errors that the service reports

#[test]
fn errors_of_the_service_are_told_apart_and_not_repeated() {
    type Check = fn(&StoreError) -> bool;
    let cases: [(Reply, Check); 16] = [
        (
            Reply::error(
                400,
                "AccessDeniedException",
                "User: arn:x is not authorized",
            ),
            |e| matches!(e, StoreError::AccessDenied { action: "dynamodb:PutItem", message } if message.contains("arn:x")),
        ),
        (
            Reply::error(
                400,
                "ResourceNotFoundException",
                "Requested resource not found",
            ),
            |e| matches!(e, StoreError::TableMissing { message } if message.contains("`locks` in eu-west-1")),
        ),
        (
            Reply::error(
                400,
                "ValidationException",
                "1 validation error detected: Value 'a b' at 'tableName' failed",
            ),
            |e| matches!(e, StoreError::TableMissing { .. }),
        ),
        (
            Reply::error(
                400,
                "ValidationException",
                "One or more parameter values were invalid: Missing the key id in the item",
            ),
            |e| matches!(e, StoreError::TableSchema { message } if message.contains("key id")),
        ),
        (
            Reply::error(
                400,
                "ValidationException",
                "The provided key element does not match the schema",
            ),
            |e| matches!(e, StoreError::TableSchema { .. }),
        ),
        (
            Reply::error(
                400,
                "ValidationException",
                "One or more parameter values were invalid: Type mismatch for key pk expected: N actual: S",
            ),
            |e| matches!(e, StoreError::TableSchema { .. }),
        ),
        (
            Reply::error(
                400,
                "ValidationException",
                "Item size has exceeded the maximum allowed size",
            ),
            |e| matches!(e, StoreError::Service { status: 400, code: Some(code), .. } if code == "ValidationException"),
        ),
        (
            Reply::error(
                400,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ),
            |e| matches!(e, StoreError::Credentials { .. }),
        ),
        (
            Reply::error(
                400,
                "ExpiredTokenException",
                "The security token included in the request is expired",
            ),
            |e| matches!(e, StoreError::Credentials { .. }),
        ),
        (
            Reply::error(400, "InvalidSignatureException", "Signature expired"),
            |e| matches!(e, StoreError::Credentials { .. }),
        ),
        (
            Reply::error(400, "ProvisionedThroughputExceededException", "slow down"),
            |e| matches!(e, StoreError::Throttled { message, .. } if message == "slow down"),
        ),
        (Reply::error(400, "ThrottlingException", "slow down"), |e| {
            matches!(e, StoreError::Throttled { .. })
        }),
        (
            Reply::error(500, "InternalServerError", "oops"),
            |e| matches!(e, StoreError::Service { status: 500, code: Some(code), message } if code == "InternalServerError" && message == "oops"),
        ),
        (Reply::answer(503, "<html>gone</html>"), |e| {
            matches!(
                e,
                StoreError::Service {
                    status: 503,
                    code: None,
                    ..
                }
            )
        }),
        (
            Reply::answer(404, "<html>\n <h1>Not  Found</h1></html>"),
            |e| matches!(e, StoreError::Service { status: 404, code: None, message } if message.contains("<h1>Not Found</h1>")),
        ),
        (
            Reply::answer(200, "it works!"),
            |e| matches!(e, StoreError::Service { status: 200, code: None, message } if message.contains("`it works!`")),
        ),
    ];
    for (reply, check) in cases {
        let answer = reply.clone();
        let server = Server::start(move |_, _| answer.clone());
        let error = put(&server.store()).unwrap_err();
        assert!(check(&error), "{error:?} for {reply:?}");
        let refused = matches!(
            &reply,
            Reply::Answer {
                status: 400..500,
                ..
            }
        );
        assert_eq!(error.outcome_unknown(), !refused, "{error:?}");
        assert_eq!(server.requests().len(), 1, "repeated after {reply:?}");
    }
}

#[test]
fn a_denied_delete_names_the_action() {
    let server = Server::start(|_, _| Reply::error(403, "AccessDeniedException", "no"));
    let error = delete(&server.store()).unwrap_err();
    assert!(matches!(
        error,
        StoreError::AccessDenied {
            action: "dynamodb:DeleteItem",
            ..
        }
    ));
}

// Answers that do not come

#[test]
fn a_refused_connection_is_unreachable_and_names_the_url() {
    // No server listens on this host's other loopback addresses, and the port is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 2], taken.local_addr().unwrap().port()));
    let error = put(&store_at(address)).unwrap_err();
    match &error {
        StoreError::Unreachable {
            endpoint, message, ..
        } => {
            assert_eq!(*endpoint, format!("http://{address}"));
            assert!(message.contains("refused"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!error.is_transient(), "waiting does not help");
}

#[test]
fn a_silent_endpoint_is_a_timeout_after_two_connections() {
    let server = Server::start(|_, _| Reply::Silence);
    let started = Instant::now();
    match put(&server.store()) {
        Err(StoreError::Timeout {
            endpoint, after, ..
        }) => {
            assert_eq!(endpoint, format!("http://{}", server.address));
            assert!(after >= Duration::from_millis(1_900), "{after:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(server.connections_of_requests(), [0, 1]);
}

#[test]
fn a_call_ends_with_its_own_patience() {
    let server = Server::start(|_, _| Reply::Silence);
    let started = Instant::now();
    let error = server
        .store()
        .put(&item(), RENEWAL, Duration::from_millis(200));
    assert!(
        matches!(error, Err(StoreError::Timeout { .. })),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    // None if the machine was too busy to connect in that time.
    assert!(server.requests().len() <= 1);
}

#[test]
fn a_given_configuration_keeps_neither_its_retries_nor_its_timeouts() {
    let eager = RetryConfig::standard().with_max_attempts(9);
    let patient = (TimeoutConfig::builder())
        .operation_attempt_timeout(Duration::from_secs(60))
        .read_timeout(Duration::from_secs(60))
        .build();
    let stores = |server: &Server| {
        let sdk = sdk_config(&format!("http://{}", server.address))
            .into_builder()
            .retry_config(eager.clone())
            .timeout_config(patient.clone())
            .build();
        [
            DynamoDbLockStore::builder("locks").sdk_config(&sdk),
            DynamoDbLockStore::builder("locks").client(&Client::new(&sdk)),
        ]
        .map(DynamoDbLockStoreBuilder::build)
    };

    let failing = Server::start(|_, _| Reply::error(500, "InternalServerError", "oops"));
    for store in stores(&failing) {
        let before = failing.requests().len();
        let error = put(&store).unwrap_err();
        assert!(matches!(error, StoreError::Service { .. }), "{error}");
        assert_eq!(failing.requests().len(), before + 1, "sent once");
    }

    let silent = Server::start(|_, _| Reply::Silence);
    for store in stores(&silent) {
        let before = silent.requests().len();
        let started = Instant::now();
        let error = put(&store).unwrap_err();
        assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
        assert!(started.elapsed() < PATIENCE + Duration::from_secs(5));
        let sent = &silent.connections_of_requests()[before..];
        assert_eq!(sent.len(), 2, "once more, on a new connection");
        assert_ne!(sent[0], sent[1]);

        let started = Instant::now();
        let give_up_after = Duration::from_millis(300);
        let error = store.put(&item(), RENEWAL, give_up_after).unwrap_err();
        assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_client_without_a_region_is_reported() {
    let config = aws_sdk_dynamodb::Config::builder().behavior_version(BehaviorVersion::latest());
    let store = DynamoDbLockStore::builder("locks")
        .client(&Client::from_conf(config.build()))
        .build();
    assert_eq!(put(&store), Err(StoreError::NoRegion));
}

#[test]
fn who_stood_still_before_anything_was_sent_may_try_again() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let deadline = Instant::now() + Duration::from_millis(500);
    // As if the process had been stopped for longer than it had time.
    let stopped = |_, _| async {
        thread::sleep(Duration::from_millis(1_200));
        std::future::pending::<Result<(), SdkError<std::io::Error>>>().await
    };
    let Err(error) = server.store().call(deadline, stopped) else {
        panic!("nothing was sent");
    };
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    assert!(error.is_transient(), "{error}");
}

#[test]
fn without_patience_nothing_is_sent() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let error = server.store().put(&item(), RENEWAL, Duration::ZERO);
    assert!(
        matches!(error, Err(StoreError::Timeout { .. })),
        "{error:?}"
    );
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_stalled_connection_is_left_for_a_fresh_one_which_then_serves_on() {
    let server = Server::start(|number, connection| match (number, connection) {
        (0, 0) => Reply::ok("{}"),
        (_, 0) => Reply::Silence,
        _ => Reply::ok("{}"),
    });
    let store = server.store();
    put(&store).unwrap();
    put(&store).unwrap();
    put(&store).unwrap();
    // The second call met the stalled connection, its retry and the third call the new one.
    assert_eq!(server.connections_of_requests(), [0, 0, 1, 1]);
}

#[test]
fn a_stall_too_long_to_retry_still_costs_the_connection() {
    let server = Server::start(|number, connection| match (number, connection) {
        (1.., 0) => Reply::Silence,
        _ => Reply::ok("{}"),
    });
    let store = server.store();
    put(&store).unwrap();
    let stalled = store.put(
        &item(),
        PutCondition::FreeOrOurs,
        Duration::from_millis(200),
    );
    assert!(matches!(stalled, Err(StoreError::Timeout { .. })));
    put(&store).unwrap();
    assert_eq!(server.connections_of_requests(), [0, 0, 1]);
}

#[test]
fn all_idle_connections_are_left_after_one_has_stalled() {
    const THREADS: usize = 4;
    let together = Arc::new(std::sync::Barrier::new(THREADS));
    let server = Server::start(move |number, connection| match connection {
        // All at once, so that each has a connection of its own.
        0..THREADS if number < THREADS => {
            together.wait();
            Reply::ok("{}")
        }
        0..THREADS => Reply::Silence,
        _ => Reply::ok("{}"),
    });
    let store = server.store();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| put(&store).unwrap());
        }
    });
    put(&store).unwrap();
    let connections = server.connections_of_requests();
    assert!(
        connections[THREADS] < THREADS,
        "no stalled connection was tried"
    );
    assert_eq!(connections[THREADS + 1..], [THREADS]);
}

#[test]
fn a_connection_cut_after_the_request_is_repeated_once() {
    for cut in [Reply::Cut, Reply::CutInside] {
        let reply = cut.clone();
        let server = Server::start(move |number, _| match number {
            0 => reply.clone(),
            _ => Reply::ok("{}"),
        });
        assert!(matches!(put(&server.store()), Ok(PutAnswer::Stored { .. })));
        assert_eq!(server.connections_of_requests(), [0, 1]);

        let server = Server::start(move |_, _| cut.clone());
        let error = put(&server.store()).unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(error.outcome_unknown());
        assert_eq!(server.connections_of_requests(), [0, 1]);
    }
}

#[test]
fn after_a_lost_answer_a_refusal_is_believed_only_if_it_tells_that_nothing_was_written() {
    let refused_at_last = |item| {
        Server::start(move |number, _| match number {
            0 => Reply::Cut,
            _ => Reply::refused(item),
        })
    };
    let ours = |server: &Server| server.store().put(&item(), RENEWAL, PATIENCE);

    let unknown = ours(&refused_at_last(Some(FULL_ITEM))).unwrap_err();
    assert!(unknown.outcome_unknown(), "{unknown:?}");
    let unknown = delete(&refused_at_last(Some(FULL_ITEM)).store()).unwrap_err();
    assert!(unknown.outcome_unknown(), "{unknown:?}");
    assert_eq!(
        delete(&refused_at_last(None).store()),
        Ok(DeleteAnswer::Deleted)
    );
    let busy = put(&refused_at_last(Some(FULL_ITEM)).store());
    assert!(matches!(busy, Ok(PutAnswer::Refused { .. })), "{busy:?}");
}

#[test]
fn after_a_lost_answer_an_error_leaves_the_outcome_unknown() {
    let server = Server::start(|number, _| match number {
        0 => Reply::Cut,
        _ => Reply::error(400, "ThrottlingException", "slow down"),
    });
    assert!(put(&server.store()).unwrap_err().outcome_unknown());
}

// Threads, runtimes, set-up

#[test]
fn thirty_two_threads_at_once() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let store = server.store();
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..4 {
                    put(&store).unwrap();
                }
            });
        }
    });
    assert_eq!(server.requests().len(), 128);
}

#[tokio::test(flavor = "current_thread")]
async fn inside_a_current_thread_runtime() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let store = server.store();
    put(&store).unwrap();
    drop(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_a_multi_thread_runtime() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let store = Arc::new(server.store());
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { put(&store) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    drop(store);
}

#[test]
fn warming_up_sends_nothing() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let store = server.store();
    store.warm_up().unwrap();
    store.warm_up().unwrap();
    assert_eq!(server.requests().len(), 0);
    store
        .put(&item(), PutCondition::FreeOrOurs, Duration::MAX)
        .unwrap();
}

#[test]
fn a_panic_in_the_sdk_is_an_error() {
    // Without a behaviour version the SDK panics.
    let config = SdkConfig::builder()
        .region(Region::new("eu-west-1"))
        .build();
    let store = DynamoDbLockStore::builder("locks")
        .sdk_config(&config)
        .build();
    assert!(matches!(put(&store), Err(StoreError::Panicked { .. })));
}

#[test]
fn no_region_is_reported() {
    let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest());
    let store = DynamoDbLockStore::builder("locks")
        .sdk_config(&config.build())
        .build();
    assert_eq!(put(&store), Err(StoreError::NoRegion));
    assert_eq!(store.warm_up(), Err(StoreError::NoRegion));
}

#[test]
fn an_endpoint_that_is_no_url_is_a_misconfiguration() {
    for url in ["localhost:8000", "not a url", "http://"] {
        match put(&store_at_url(url)) {
            Err(StoreError::Misconfigured { message }) => {
                let message = message.to_string();
                assert!(
                    message.contains(&format!("`{url}` is not a URL")),
                    "{message}"
                );
                assert!(message.contains("AWS_ENDPOINT_URL_DYNAMODB"), "{message}");
                assert!(!message.contains("database#app.db"), "{message}");
            }
            other => panic!("{other:?} for {url}"),
        }
    }
}

#[test]
fn an_endpoint_without_a_route_is_unreachable_and_not_late() {
    // A full backlog: the kernel drops further connection attempts, as a VPC without a route does.
    let listener = socket_with_a_full_backlog();
    let address = listener.0.local_addr().unwrap();
    for patience in [Duration::from_millis(1_500), PATIENCE] {
        let error = store_at(address).put(&item(), RENEWAL, patience);
        match error {
            Err(StoreError::Unreachable {
                endpoint, message, ..
            }) => {
                assert_eq!(endpoint, format!("http://{address}"));
                assert!(message.contains("no connection within"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_endpoint_that_does_not_speak_tls_is_unreachable() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let url = format!("https://{}", server.address);
    match put(&store_at_url(&url)) {
        Err(StoreError::Unreachable { endpoint, .. }) => assert_eq!(endpoint, url),
        other => panic!("{other:?}"),
    }
}

#[test]
fn debug_shows_the_table() {
    let store = DynamoDbLockStore::new("locks");
    assert_eq!(
        format!("{store:?}"),
        r#"DynamoDbLockStore { table: "locks", .. }"#
    );
}

// What the environment says. Each of these runs in a process of its own.

#[test]
fn the_environment_names_endpoint_region_and_credentials() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let endpoint = format!("http://{}", server.address);
    let output = in_environment(&[
        ("AWS_ENDPOINT_URL_DYNAMODB", &endpoint),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]);
    assert!(output.contains("RESULT Ok(Stored"), "{output}");
    let authorization = server.only_request().header("authorization").unwrap();
    assert!(
        authorization.contains("/eu-central-1/dynamodb/"),
        "{authorization}"
    );
}

#[test]
fn a_missing_region_is_reported_although_the_metadata_service_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = format!("http://{}", silent.local_addr().unwrap());
    let output = in_environment(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)]);
    assert!(output.contains("RESULT Err(NoRegion)"), "{output}");
    assert!(elapsed(&output) < Duration::from_secs(3), "{output}");
}

#[test]
fn a_missing_region_is_reported_without_asking_a_metadata_service_that_is_disabled() {
    let unasked = TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = format!("http://{}", unasked.local_addr().unwrap());
    let output = in_environment(&[
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata),
    ]);
    assert!(output.contains("RESULT Err(NoRegion)"), "{output}");
    unasked.set_nonblocking(true).unwrap();
    let connected = unasked.accept().map_err(|error| error.kind());
    assert_eq!(connected.unwrap_err(), ErrorKind::WouldBlock);
}

#[test]
fn missing_credentials_are_reported_although_the_metadata_service_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = format!("http://{}", silent.local_addr().unwrap());
    let output = in_environment(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata),
        ("AWS_REGION", "eu-west-1"),
    ]);
    assert!(output.contains("RESULT Err(Credentials"), "{output}");
    assert!(elapsed(&output) < Duration::from_secs(4), "{output}");
}

#[test]
fn credentials_of_a_container_are_asked_for_once() {
    let container = Server::start(|_, _| {
        let expiration = "2126-11-22T08:25:00Z";
        Reply::ok(&format!(
            r#"{{"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"secret","Token":"session","Expiration":"{expiration}"}}"#
        ))
    });
    let server = Server::start(|number, _| match number {
        0 => Reply::Cut,
        _ => Reply::ok("{}"),
    });
    let output = in_environment(&[
        ("AWS_ENDPOINT_URL", &format!("http://{}", server.address)),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &format!("http://{}/", container.address),
        ),
        ("AWS_REGION", "eu-west-1"),
    ]);
    assert!(output.contains("WARM Ok(())"), "{output}");
    assert!(output.contains("RESULT Ok(Stored"), "{output}");
    // Neither the request after the rehearsal nor the one on a new connection asks again.
    assert_eq!(container.requests().len(), 1);
    assert_eq!(server.connections_of_requests(), [0, 1]);
    for request in server.requests() {
        assert_eq!(
            request.header("x-amz-security-token").as_deref(),
            Some("session")
        );
    }
}

#[test]
#[ignore = "the child process of the tests above"]
fn child_of_the_environment_tests() {
    let store = DynamoDbLockStore::new("locks");
    if std::env::var_os("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some() {
        println!("WARM {:?}", store.warm_up());
    }
    let started = Instant::now();
    let result = put(&store);
    println!("RESULT {result:?}");
    println!("ELAPSED {}", started.elapsed().as_millis());
}

/// The output of a put in a process that sees these variables and no others.
fn in_environment(variables: &[(&str, &str)]) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("store::dynamodb::tests::child_of_the_environment_tests")
        .env_clear()
        // Needed by the way this program was built, as tests/asan.sh says.
        .envs(std::env::vars_os().filter(|(name, _)| name == "ASAN_OPTIONS"))
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    String::from_utf8(child.stdout).unwrap()
}

fn elapsed(output: &str) -> Duration {
    let (_, rest) = output.split_once("ELAPSED ").unwrap();
    let millis = rest.split_whitespace().next().unwrap();
    Duration::from_millis(millis.parse().unwrap())
}

// Helpers

const FULL_ITEM: &str = r#"{"pk":{"S":"database#app.db"},"lock_id":{"S":"them"},"expires_at":{"N":"1795335905"},"holder":{"S":"worker 2"},"acquired_at":{"N":"1795335895"},"committed":{"S":"deadbeef"},"waited":{"N":"875"}}"#;
const PYTHON_ITEM: &str = r#"{"pk":{"S":"database#app.db"},"lock_id":{"S":"them"},"expires_at":{"N":"1795335905.123456001281738281"}}"#;

fn item() -> LockItem {
    LockItem {
        key: "database#app.db".to_owned(),
        lock_id: "us".to_owned(),
        expires_at: from_unix_seconds(1_795_335_910),
        holder: "worker 1".to_owned(),
        acquired_at: from_unix_seconds(1_795_335_900),
        committed: None,
        waited: Some(Duration::from_micros(1_250_900)),
    }
}

fn put(store: &DynamoDbLockStore) -> Result<PutAnswer, StoreError> {
    store.put(&item(), PutCondition::FreeOrOurs, PATIENCE)
}

fn delete(store: &DynamoDbLockStore) -> Result<DeleteAnswer, StoreError> {
    store.delete("database#app.db", "us", PATIENCE)
}

fn store_at(address: SocketAddr) -> DynamoDbLockStore {
    store_at_url(&format!("http://{address}"))
}

fn store_at_url(url: &str) -> DynamoDbLockStore {
    DynamoDbLockStore::builder("locks")
        .sdk_config(&sdk_config(url))
        .build()
}

fn sdk_config(url: &str) -> SdkConfig {
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(url)
        .build()
}

/// A listener that never accepts, and the connections that fill its queue.
fn socket_with_a_full_backlog() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
    let waiting = std::iter::from_fn(|| connect().ok()).collect();
    (listener, waiting)
}

/// What a server does with a request.
#[derive(Debug, Clone)]
enum Reply {
    Answer {
        status: u16,
        date: Option<String>,
        body: String,
    },
    /// Keeps the connection open and sends nothing.
    Silence,
    /// Closes the connection without an answer.
    Cut,
    /// Closes the connection within the answer's body.
    CutInside,
}

impl Reply {
    fn answer(status: u16, body: &str) -> Self {
        Self::Answer {
            status,
            date: Some(DATE.to_owned()),
            body: body.to_owned(),
        }
    }

    fn ok(body: &str) -> Self {
        Self::answer(200, body)
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
        Self::answer(
            status,
            &format!(r#"{{"__type":"{kind}","message":"{message}"}}"#),
        )
    }

    fn refused(item: Option<&str>) -> Self {
        let item = item
            .map(|item| format!(r#","Item":{item}"#))
            .unwrap_or_default();
        let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        let message = "The conditional request failed";
        Self::answer(
            400,
            &format!(r#"{{"__type":"{kind}","message":"{message}"{item}}}"#),
        )
    }

    fn dated(mut self, new_date: Option<&str>) -> Self {
        if let Self::Answer { date, .. } = &mut self {
            *date = new_date.map(str::to_owned);
        }
        self
    }
}

#[derive(Debug, Clone)]
struct Request {
    connection: usize,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.headers.iter();
        headers
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.clone())
    }

    fn target(&self) -> String {
        self.header("x-amz-target").unwrap_or_default()
    }

    /// `None` at the end of the connection.
    fn read(from: &mut BufReader<TcpStream>, connection: usize) -> Option<Self> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end().is_empty() {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let mut request = Self {
            connection,
            headers: (lines.iter().skip(1))
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: String::new(),
        };
        let length = request
            .header("content-length")
            .map_or(Ok(0), |length| length.parse());
        let length = length.ok()?;
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
        Some(request)
    }
}

/// Answers as its script says for the number of the request and that of the connection, both
/// counted from 0.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(script: impl Fn(usize, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let log = requests.clone();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (script, log) = (script.clone(), log.clone());
                thread::spawn(move || serve(stream.unwrap(), connection, &*script, &log));
            }
        });
        Self { address, requests }
    }

    fn store(&self) -> DynamoDbLockStore {
        store_at(self.address)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }

    /// The number of the connection that carried each request.
    fn connections_of_requests(&self) -> Vec<usize> {
        self.requests()
            .iter()
            .map(|request| request.connection)
            .collect()
    }
}

fn serve(
    stream: TcpStream,
    connection: usize,
    script: &dyn Fn(usize, usize) -> Reply,
    log: &Mutex<Vec<Request>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader, connection) {
        let number = {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(request);
            log.len() - 1
        };
        let sent = match script(number, connection) {
            Reply::Answer { status, date, body } => {
                let date = date
                    .map(|date| format!("Date: {date}\r\n"))
                    .unwrap_or_default();
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\n{date}Content-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            // The next read waits until the client has closed the connection.
            Reply::Silence => Ok(()),
            Reply::Cut => stream.shutdown(Shutdown::Both),
            Reply::CutInside => write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n{{")
                .and_then(|()| stream.shutdown(Shutdown::Both)),
        };
        if sent.is_err() {
            return;
        }
    }
}
