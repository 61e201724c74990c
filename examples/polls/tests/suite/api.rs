//! The JSON API: status codes, keys, and a lock that is busy.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};

use crate::support::{AppFixture, send};

#[tokio::test]
async fn polls_are_listed_shown_and_counted() {
    let fixture = AppFixture::new();
    let list = fixture.get("/api/polls").await;
    assert_eq!(list.status, StatusCode::OK);
    assert_eq!(list.json()["polls"].as_array().map(Vec::len), Some(3));
    let poll = fixture.get("/api/polls/1").await.json();
    assert_eq!(poll["choices"][2]["text"], "On Amazon EFS");
    let results = fixture.get("/api/polls/1/results").await.json();
    assert_eq!(results["votes"], 72);
    assert_eq!(results["choices"][2]["percent"], 47.2);
    for path in [
        "/api/polls/99",
        "/api/polls/one/results",
        "/api/polls/-1",
        "/api/nothing",
    ] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json()["error"], "not_found", "{path}");
    }
}

#[tokio::test]
async fn a_vote_counts_once_however_often_it_is_sent() {
    let fixture = AppFixture::new();
    let first = fixture.vote(1, 3, "key-1").await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(first.json()["votes"], 73);
    for _ in 0..3 {
        let again = fixture.vote(1, 3, "key-1").await;
        assert_eq!(again.status, StatusCode::OK);
        assert_eq!(again.text, first.text);
    }
    assert_eq!(
        fixture.vote(1, 3, "key-2").await.status,
        StatusCode::CREATED
    );
    assert_eq!(fixture.votes(1).await, 74);
}

#[tokio::test]
async fn a_vote_that_makes_no_sense_is_refused_without_a_lock() {
    let fixture = AppFixture::new();
    assert_eq!(
        fixture.vote(1, 3, "counted").await.status,
        StatusCode::CREATED
    );
    let before = fixture.lock_requests();
    let cases = [
        ((99, 1, "k"), StatusCode::NOT_FOUND, "not_found"),
        ((3, 8, "k"), StatusCode::CONFLICT, "poll_closed"),
        (
            (1, 99, "k"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_such_choice",
        ),
        // Of another poll.
        (
            (1, 5, "k"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_such_choice",
        ),
        (
            (1, 2, "counted"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
        ),
        ((1, 3, ""), StatusCode::BAD_REQUEST, "idempotency_key"),
        (
            (1, 3, "with a space"),
            StatusCode::BAD_REQUEST,
            "idempotency_key",
        ),
        (
            (1, 3, &"k".repeat(129)),
            StatusCode::BAD_REQUEST,
            "idempotency_key",
        ),
    ];
    for ((poll, choice, key), status, word) in cases {
        let answer = fixture.vote(poll, choice, key).await;
        assert_eq!(answer.status, status, "{poll} {choice} {key}");
        assert_eq!(answer.json()["error"], word, "{poll} {choice} {key}");
    }
    assert_eq!(fixture.lock_requests(), before);
    assert_eq!(fixture.votes(1).await, 73);
}

#[tokio::test]
async fn a_body_that_is_no_vote_is_refused() {
    let fixture = AppFixture::new();
    let cases = [
        ("application/json", "{", StatusCode::BAD_REQUEST),
        ("application/json", "{}", StatusCode::UNPROCESSABLE_ENTITY),
        (
            "application/json",
            r#"{"choice":"x"}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            "text/plain",
            r#"{"choice":3}"#,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            "application/json",
            &" ".repeat(40_000),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ];
    for (media_type, body, status) in cases {
        let request = Request::post("/api/polls/1/votes")
            .header(header::CONTENT_TYPE, media_type)
            .header("idempotency-key", "k")
            .body(Body::from(body.to_owned()));
        let answer = send(&fixture.app, request.expect("a request")).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    assert_eq!(fixture.votes(1).await, 72);
}

#[tokio::test]
async fn while_somebody_else_writes_a_vote_is_503_and_counts_when_it_is_sent_again() {
    let fixture = AppFixture::new();
    fixture.make_busy();
    let refused = fixture.vote(1, 3, "patient").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["error"], "busy");
    assert_eq!(fixture.votes(1).await, 72, "reading goes on");

    fixture.make_free();
    assert_eq!(
        fixture.vote(1, 3, "patient").await.status,
        StatusCode::CREATED
    );
    assert_eq!(fixture.votes(1).await, 73);
    assert!(
        !fixture.is_locked(),
        "the lease is given back before the answer"
    );
}

#[tokio::test]
async fn what_only_reads_never_asks_the_lock_table() {
    let fixture = AppFixture::new();
    for path in [
        "/health",
        "/ready",
        "/",
        "/polls/1",
        "/polls/1/results",
        "/polls/3/results",
        "/polls/1/history",
        "/admin",
        "/admin/sign-in",
        "/api/polls",
        "/api/polls/1",
        "/api/polls/1/results",
        "/nothing",
    ] {
        fixture.get(path).await;
        assert_eq!(fixture.lock_requests(), 0, "{path}");
    }
    fixture.vote(1, 3, "k").await;
    assert!(fixture.lock_requests() > 0, "the counter counts");
}

#[tokio::test]
async fn health_and_readiness_are_told() {
    let fixture = AppFixture::new();
    fixture.make_busy();
    for path in ["/health", "/ready"] {
        assert_eq!(fixture.get(path).await.status, StatusCode::OK, "{path}");
    }
}
