//! What a connection makes of bad surroundings: credentials, permissions, tables and endpoints
//! that are not as they should be, and lock items that nobody should have written.
//!
//! In each case the error says what is wrong and what to do, comes after a single request where
//! waiting cannot help, and leaves neither a lock nor a transaction; once the cause is mended, the
//! same connection writes.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::ScalarAttributeType;
use diesel_sqlite_efs::testing::{HookedStore, Put};
use diesel_sqlite_efs::{LockClient, StoreError};
use integration::dynamodb::{AttributeValue, Item, LockTable, env_for};
use integration::emulator::Emulator;
use integration::proxy::{Action, Answer, Operation, Purpose, RefusedEndpoint, Rule};

use crate::fixtures::bare_process::{BareFixture, BareProcess, INSERT, ShownError};

type TestResult = Result<(), Box<dyn Error>>;

// Tables

#[test]
fn a_lock_table_that_does_not_exist() -> TestResult {
    let mut fixture = BareFixture::without_table("no-such-table")?;
    let failure = fixture.refusal("")?;
    assert_says(
        &failure,
        &[
            "the lock table does not exist",
            "`no-such-table` in us-east-1",
            "create it",
            "AWS_REGION",
        ],
    );
    LockTable::create(Emulator::shared().endpoint(), "no-such-table")?;
    fixture.assert_works()
}

#[test]
fn a_lock_table_whose_key_is_another() -> TestResult {
    use ScalarAttributeType::{N, S};
    for (name, key) in [
        ("key-of-another-name", &[("id", S)][..]),
        ("key-of-another-type", &[("pk", N)]),
        ("key-with-a-sort-key", &[("pk", S), ("sk", S)]),
    ] {
        LockTable::create_with_key(Emulator::shared().endpoint(), name, key)?;
        let mut fixture = BareFixture::without_table(name)?;
        let failure = fixture.refusal("")?;
        assert_says(
            &failure,
            &[
                "the lock table does not fit",
                &format!("`{name}` in us-east-1"),
                "primary key must be the string attribute `pk`",
                "without a sort key",
            ],
        );
    }
    Ok(())
}

// Permissions and credentials

#[test]
fn access_denied_to_put_item() -> TestResult {
    let mut fixture = BareFixture::new("put-denied")?;
    let denied = Answer::access_denied("dynamodb:PutItem");
    let rule = fixture.proxy.rule(Rule::put(Action::Answer(denied)));
    let failure = fixture.refusal("")?;
    assert_says(
        &failure,
        &[
            "access denied to dynamodb:PutItem",
            "arn:aws:iam::111122223333:user/test",
            "allow dynamodb:PutItem and dynamodb:DeleteItem",
            "`put-denied`",
        ],
    );
    rule.remove();
    fixture.assert_works()
}

#[test]
fn access_denied_to_delete_item_is_told_though_the_write_stands() -> TestResult {
    let mut fixture = BareFixture::new("delete-denied")?;
    fixture.open("")??;
    let denied = Answer::access_denied("dynamodb:DeleteItem");
    let rule = fixture.proxy.rule(Rule::delete(Action::Answer(denied)));
    // It is committed, so it must not be reported as failed.
    fixture
        .process
        .execute(INSERT)?
        .expect("the write succeeds");
    assert_eq!(rule.hits(), 1, "a refused release is not repeated");
    let told = fixture
        .process
        .last_lock_error()?
        .ok_or("nothing is told")?;
    for part in [
        "the lock was not released",
        "blocks other writers until its lease has run out",
        "access denied to dynamodb:DeleteItem",
        "allow dynamodb:PutItem and dynamodb:DeleteItem",
        "`delete-denied`",
    ] {
        assert!(told.contains(part), "`{part}` is missing in `{told}`");
    }
    assert_eq!(fixture.table()?.count()?, 1);
    rule.remove();
    // The lease runs out, and the same connection takes over what it could not release.
    fixture.let_lease_expire()?;
    fixture.process.execute(INSERT)?.expect("it writes again");
    assert_eq!(fixture.table()?.count()?, 0);
    Ok(())
}

#[test]
fn access_denied_at_the_commit_rolls_back() -> TestResult {
    let mut fixture = BareFixture::new("commit-denied")?;
    fixture.open("")??;
    for statements in [vec![INSERT], vec!["SELECT count(*) FROM t", INSERT]] {
        let denied = Answer::access_denied("dynamodb:PutItem");
        let rule = (fixture.proxy).rule(Rule::put_to(Purpose::Record, Action::Answer(denied)));
        let failure = (fixture.process.transaction(&statements)?).expect_err("not confirmed");
        assert_says(
            &failure,
            &[
                "cannot take or keep the write lock",
                "access denied to dynamodb:PutItem",
            ],
        );
        assert_eq!(rule.hits(), 1);
        rule.remove();
        assert_eq!(fixture.count()?, 0);
        assert_eq!(fixture.table()?.count()?, 0, "a lock is left behind");
    }
    fixture.assert_works()
}

#[test]
fn credentials_that_are_not_valid() -> TestResult {
    let mut fixture = BareFixture::new("bad-credentials")?;
    let rule = fixture
        .proxy
        .rule(Rule::any(Action::Answer(Answer::bad_credentials())));
    let failure = fixture.refusal("")?;
    assert_says(
        &failure,
        &[
            "no valid AWS credentials",
            "security token",
            "give the function a role",
            "AWS_ACCESS_KEY_ID",
        ],
    );
    rule.remove();
    fixture.assert_works()
}

#[test]
fn no_credentials_and_no_region() -> TestResult {
    for (name, missing, parts) in [
        (
            "no-credentials",
            "AWS_ACCESS_KEY_ID",
            ["no valid AWS credentials", "AWS_ACCESS_KEY_ID"],
        ),
        (
            "no-region",
            "AWS_REGION",
            ["no AWS region is configured", "set AWS_REGION"],
        ),
    ] {
        let mut fixture = BareFixture::new(name)?;
        let environment = env_for(&fixture.proxy.endpoint());
        fixture.process =
            BareProcess::start(environment.into_iter().filter(|(n, _)| *n != missing))?;
        fixture.open("")??;
        let told = fixture.process.warm_up()?.ok_or("the warm-up succeeded")?;
        let failure = (fixture.process.execute(INSERT)?).expect_err("nothing can be signed");
        assert_says(&failure, &parts);
        for part in parts {
            assert!(told.contains(part), "`{part}` is missing in `{told}`");
        }
        assert!(!failure.message.contains('\n'), "{failure:?}");
        assert_eq!(fixture.proxy.requests().len(), 0, "nothing was sent");
        fixture.assert_idle()?;
        // It still reads.
        assert_eq!(fixture.count()?, 0);
    }
    Ok(())
}

// Endpoints

#[test]
fn an_endpoint_that_refuses_connections() -> TestResult {
    let refused = RefusedEndpoint::new()?;
    let mut fixture = BareFixture::at("refused-endpoint", &refused.endpoint())?;
    fixture.open("")??;
    let failure = (fixture.process.execute(INSERT)?).expect_err("nobody listens");
    assert_says(
        &failure,
        &[
            "cannot reach DynamoDB",
            &refused.endpoint(),
            "refused",
            "inside a VPC, add a gateway endpoint",
        ],
    );
    fixture.assert_idle()
}

#[test]
fn an_endpoint_that_is_no_url() -> TestResult {
    for endpoint in ["localhost:8000", "not a url", "http://"] {
        let mut fixture = BareFixture::at("endpoint-that-is-no-url", endpoint)?;
        fixture.open("")??;
        let told = fixture.process.warm_up()?.ok_or("the warm-up succeeded")?;
        let failure = (fixture.process.execute(INSERT)?).expect_err("nowhere to send it");
        let parts = [
            "misconfigured",
            endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB",
            "such as `http://localhost:8000`",
        ];
        assert_says(&failure, &parts);
        assert!(!failure.message.contains("VPC"), "{failure:?}");
        for part in parts {
            assert!(told.contains(part), "`{part}` is missing in `{told}`");
        }
        fixture.assert_idle()?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_not_dynamodb() -> TestResult {
    for (name, status) in [("not-dynamodb-404", 404), ("not-dynamodb-200", 200)] {
        let mut fixture = BareFixture::new(name)?;
        let page = Answer::new(status, "<html>It works!</html>");
        let rule = fixture.proxy.rule(Rule::put(Action::Answer(page)));
        fixture.open("")??;
        fixture.process.warm_up()?;
        let failure = (fixture.process.execute(INSERT)?).expect_err("no answer of DynamoDB");
        assert_says(
            &failure,
            &[
                &format!("answered {status}"),
                "this is no answer of DynamoDB, check the endpoint",
                "It works!",
            ],
        );
        assert_eq!(rule.hits(), 1, "waiting cannot help");
        rule.remove();
        fixture.assert_idle()?;
        fixture.assert_works()?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_silent() -> TestResult {
    let mut fixture = BareFixture::new("silent-endpoint")?;
    let rule = fixture.proxy.rule(Rule::put(Action::Silence));
    fixture.open("lock_timeout=1.5")??;
    assert_eq!(fixture.process.warm_up()?, None);
    let failure = (fixture.process.execute(INSERT)?).expect_err("no answer");
    assert_says_retryable(&failure, &["no answer from DynamoDB at", "within"]);
    assert!(rule.hits() >= 1);
    rule.remove();
    fixture.assert_works()
}

#[test]
fn an_endpoint_that_answers_500_or_throttles_until_the_timeout() -> TestResult {
    for (name, answer, parts) in [
        (
            "answers-500",
            Answer::internal_error(),
            ["DynamoDB answered 500", "InternalServerError"],
        ),
        (
            "throttled",
            Answer::throttled(),
            ["DynamoDB throttles requests", "use on-demand capacity"],
        ),
    ] {
        let mut fixture = BareFixture::new(name)?;
        fixture.open("lock_timeout=2")??;
        assert_eq!(fixture.process.warm_up()?, None);
        let rule = fixture
            .proxy
            .rule(Rule::put(Action::Answer(answer.clone())));
        let failure = (fixture.process.execute(INSERT)?).expect_err("no lease");
        assert_says_retryable(&failure, &[parts[0], parts[1], name]);
        let hits = rule.hits();
        assert!(hits > 1, "it is asked again: {hits}");
        rule.remove();
        fixture.assert_idle()?;
        // A transaction that has read is not repeated, but it is the same error.
        let rule = (fixture.proxy).rule(Rule::put(Action::Answer(answer.clone())));
        let failure = (fixture.process)
            .transaction(&["SELECT count(*) FROM t", INSERT])?
            .expect_err("no lease");
        assert_says_retryable(&failure, &parts);
        rule.remove();

        fixture.assert_works()?;
        // A moment of it goes unnoticed.
        fixture
            .proxy
            .rule(Rule::put(Action::Answer(answer)).next(1));
        fixture.assert_works()?;
    }
    Ok(())
}

#[test]
fn the_client_by_itself_waits_out_what_passes_too() -> TestResult {
    // The store is over its capacity when it is first asked.
    let asked = AtomicBool::new(false);
    let store = HookedStore::new(Arc::default(), move |put: Put<'_>| {
        if asked.swap(true, Ordering::SeqCst) {
            return put.pass_on();
        }
        Err(StoreError::throttled("test", "slow down"))
    });
    let client = LockClient::builder().lock_store(store).build()?;
    client
        .acquire("nightly-report", Duration::from_secs(30))?
        .release()?;
    Ok(())
}

#[test]
fn garbage_in_answer_to_a_commit_leaves_its_outcome_unknown() -> TestResult {
    let mut fixture = BareFixture::new("garbled-commit")?;
    fixture.open("")??;
    let garbage = Answer::new(200, "<html>It works!</html>");
    // It is the answer that is lost: the commit stands in the item.
    let rule = fixture.proxy.rule(Rule::put_to(
        Purpose::Record,
        Action::ReplaceAnswer(garbage),
    ));
    let failure = (fixture.process.execute(INSERT)?).expect_err("it cannot be known");
    assert_eq!(rule.hits(), 1);
    assert!(
        (failure.message).starts_with("the outcome of the commit is unknown"),
        "{failure:?}"
    );
    let hint = failure.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("Read what is stored"), "{failure:?}");
    rule.remove();
    fixture.let_lease_expire()?;
    // The record that was written is believed: nothing of a commit that may be seen is undone.
    fixture.process.execute(INSERT)?.expect("it writes again");
    assert_eq!(fixture.count()?, 2);
    Ok(())
}

// Lock items

#[test]
fn a_lock_item_that_is_malformed() -> TestResult {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: String| AttributeValue::N(number);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let milliseconds = number(format!("{}000", now + 5));
    for (name, attributes, parts) in [
        (
            "item-without-a-time",
            vec![("lock_id", text("x"))],
            ["`expires_at`", "it is missing"],
        ),
        (
            "item-without-an-owner",
            vec![("expires_at", number(now.to_string()))],
            ["`lock_id`", "it is missing"],
        ),
        (
            "item-with-a-time-in-words",
            vec![("lock_id", text("x")), ("expires_at", text("tomorrow"))],
            ["`expires_at`", "expected a number (N)"],
        ),
        (
            "item-with-a-number-for-an-owner",
            vec![
                ("lock_id", number("7".to_owned())),
                ("expires_at", number(now.to_string())),
            ],
            ["`lock_id`", "expected a string (S)"],
        ),
        (
            "item-in-milliseconds",
            vec![("lock_id", text("x")), ("expires_at", milliseconds)],
            ["`expires_at`", "is not in seconds (milliseconds?)"],
        ),
    ] {
        let mut fixture = BareFixture::new(name)?;
        let mut item: Item = (attributes.into_iter())
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<HashMap<_, _>>();
        item.insert("pk".to_owned(), text(&fixture.key()));
        fixture.table()?.put(item.clone())?;
        let failure = fixture.refusal("")?;
        assert_says(
            &failure,
            &[
                "the lock item's attribute",
                parts[0],
                parts[1],
                "if no writer is running, delete the item",
                &fixture.key(),
                name,
            ],
        );
        let table = fixture.table()?;
        assert_eq!(table.item(&fixture.key())?, Some(item), "it is not ours");
        table.delete(&fixture.key())?;
        fixture.assert_works()?;
    }
    Ok(())
}

// Opening

#[test]
fn opening_and_reading_send_no_request_and_take_no_lease() -> TestResult {
    let mut fixture = BareFixture::new("opening")?;
    for _ in 0..2 {
        fixture.open("")??;
        assert_eq!(fixture.count()?, 0);
        assert_eq!(fixture.process.warm_up()?, None);
        fixture.process.close()?;
    }
    assert_eq!(fixture.proxy.requests().len(), 0);
    // Nor is the table looked for: it is a reader's own business whether it exists.
    let mut fixture = BareFixture::without_table("table-that-no-reader-needs")?;
    fixture.open("")??;
    assert_eq!(fixture.count()?, 0);
    assert_eq!(fixture.proxy.requests().len(), 0);
    Ok(())
}

impl BareFixture {
    /// Makes the item that was left behind one of long ago.
    fn let_lease_expire(&self) -> TestResult {
        let table = self.table()?;
        let mut item = table.item(&self.key())?.ok_or("no item was left")?;
        item.insert("expires_at".to_owned(), AttributeValue::N("1".to_owned()));
        Ok(table.put(item)?)
    }

    /// Opens the database and writes, by itself and in a transaction: both are refused in the same
    /// words, each after one request.
    fn refusal(&mut self, parameters: &str) -> Result<Box<ShownError>, Box<dyn Error>> {
        self.open(parameters)??;
        // So that a slow host takes no second request for the first one's sake.
        self.process.warm_up()?;
        self.proxy.forget_requests();
        let failure = (self.process.execute(INSERT)?).expect_err("it is refused");
        let requests = self.proxy.requests();
        assert_eq!(requests.len(), 1, "waiting cannot help: {requests:?}");
        assert_eq!(requests[0].operation, Operation::PutItem);
        self.assert_idle()?;

        let in_transaction = (self.process)
            .transaction(&["SELECT count(*) FROM t", INSERT])?
            .expect_err("it is refused");
        assert_eq!(in_transaction.message, failure.message);
        assert_eq!(self.proxy.requests().len(), 2);
        self.assert_idle()?;
        assert_eq!(self.count()?, 0, "it still reads");
        Ok(failure)
    }
}

/// What a user sees: the cause, the remedy, which database, key and table, and that trying again
/// does not help.
#[track_caller]
fn assert_says(failure: &ShownError, parts: &[&str]) {
    assert_tells(failure, parts);
    assert_eq!(failure.kind, "Unknown", "{failure:?}");
    let hint = failure.hint.as_deref().unwrap_or_default();
    assert!(hint.starts_with("Fix the cause"), "{failure:?}");
}

/// The same, where trying again may help.
#[track_caller]
fn assert_says_retryable(failure: &ShownError, parts: &[&str]) {
    assert_tells(failure, parts);
    assert_eq!(failure.kind, "SerializationFailure", "{failure:?}");
    let hint = failure.hint.as_deref().unwrap_or_default();
    assert!(hint.starts_with("Run the whole transaction"), "{failure:?}");
}

#[track_caller]
fn assert_tells(failure: &ShownError, parts: &[&str]) {
    // So that `--nocapture` shows all texts for reading.
    println!("{}", failure.message);
    for part in parts {
        assert!(
            failure.message.contains(part),
            "`{part}` is missing in `{}`",
            failure.message
        );
    }
    assert_eq!(failure.lock_error.as_deref(), Some(&*failure.message));
    let value = failure.lock_error_value.as_deref().unwrap_or_default();
    assert!(value.starts_with("Store"), "{failure:?}");
    let details = failure.details.as_deref().unwrap_or_default();
    for part in ["database.sqlite3", "key `database#", "table `"] {
        assert!(details.contains(part), "{failure:?}");
    }
}
