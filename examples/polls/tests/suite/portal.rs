//! The portal: who may look, who may change, and what is said about a form that is wrong.

use axum::http::StatusCode;

use crate::support::{ADMIN_PASSWORD, AppFixture, Browser, field};

const DEMO_PASSWORD: &str = "djangoserverless";

#[tokio::test]
async fn who_is_not_signed_in_is_sent_to_the_door() {
    let fixture = AppFixture::new();
    for path in [
        "/admin",
        "/admin/lock",
        "/admin/polls/new",
        "/admin/polls/1",
    ] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert_eq!(answer.header("location"), Some("/admin/sign-in"), "{path}");
    }
    let mut visitor = Browser::new(&fixture);
    let token = field(&visitor.get("/admin/sign-in").await, "token");
    for path in ["/admin/polls", "/admin/polls/1", "/admin/polls/1/close"] {
        let answer = visitor.post(path, &[("token", &*token)]).await;
        assert_eq!(answer.header("location"), Some("/admin/sign-in"), "{path}");
    }
    assert_eq!(fixture.lock_requests(), 0);
}

#[tokio::test]
async fn demo_sees_every_page_and_changes_nothing() {
    let fixture = AppFixture::new();
    let before = fixture.get("/api/polls").await.text;
    let mut demo = Browser::signed_in(&fixture, "demo", DEMO_PASSWORD).await;
    let mut token = String::new();
    for path in [
        "/admin",
        "/admin/lock",
        "/admin/polls/new",
        "/admin/polls/1",
    ] {
        let page = demo.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        page.assert_says("every change is refused");
        token = field(&page, "token");
    }
    let looks = fixture.lock_requests();
    let fields = [
        ("token", &*token),
        ("question", "Mine?"),
        ("choices", "a\nb"),
    ];
    for path in [
        "/admin/polls",
        "/admin/polls/1",
        "/admin/polls/1/close",
        "/admin/polls/3/reopen",
    ] {
        let answer = demo.post(path, &fields).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        answer.assert_says("change nothing");
    }
    assert_eq!(fixture.lock_requests(), looks);
    assert_eq!(fixture.get("/api/polls").await.text, before);
}

#[tokio::test]
async fn the_administrator_makes_changes_closes_and_reopens_a_poll() {
    let fixture = AppFixture::new();
    let mut admin = Browser::signed_in(&fixture, "admin", ADMIN_PASSWORD).await;
    let token = field(&admin.get("/admin/polls/new").await, "token");
    let fields = |question, choices| {
        [
            ("token", &*token),
            ("question", question),
            ("choices", choices),
        ]
    };

    let made = admin.post("/admin/polls", &fields("Tea?", "Yes\nNo")).await;
    assert_eq!(made.header("location"), Some("/polls/4"), "{}", made.text);
    let edited = admin
        .post("/admin/polls/4", &fields("Tea now?", "Yes\nNo\nLater"))
        .await;
    assert_eq!(edited.status, StatusCode::SEE_OTHER, "{}", edited.text);
    let poll = fixture.get("/api/polls/4").await.json();
    assert_eq!(poll["question"], "Tea now?");
    assert_eq!(poll["choices"].as_array().map(Vec::len), Some(3));
    let later = poll["choices"][2]["id"].as_i64().expect("an id") as i32;

    assert_eq!(
        fixture.vote(4, later, "tea").await.status,
        StatusCode::CREATED
    );
    let refused = admin
        .post("/admin/polls/4", &fields("Tea now?", "Yes\nNo"))
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    refused.assert_says("id=\"choices-problem\"");

    let close = admin
        .post("/admin/polls/4/close", &[("token", &*token)])
        .await;
    assert_eq!(close.status, StatusCode::SEE_OTHER);
    assert_eq!(
        fixture.vote(4, later, "late").await.status,
        StatusCode::CONFLICT
    );
    // Counted before the end: so it stays, and its client is told so.
    assert_eq!(fixture.vote(4, later, "tea").await.status, StatusCode::OK);
    let reopen = admin
        .post("/admin/polls/4/reopen", &[("token", &*token)])
        .await;
    assert_eq!(reopen.status, StatusCode::SEE_OTHER);
    assert_eq!(
        fixture.vote(4, later, "late").await.status,
        StatusCode::CREATED
    );

    let history = fixture.get("/polls/4/history").await;
    for told in [
        "created",
        "edited",
        "question was “Tea?”",
        "closed",
        "after 1 votes",
        "reopened",
    ] {
        history.assert_says(told);
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_form_stands_beside_its_field_and_what_was_typed_stays() {
    let fixture = AppFixture::new();
    let mut admin = Browser::signed_in(&fixture, "admin", ADMIN_PASSWORD).await;
    let token = field(&admin.get("/admin/polls/new").await, "token");
    let cases = [
        (
            [("question", " "), ("choices", "a\nb"), ("closes_at", "")],
            "question-problem",
        ),
        (
            [("question", "Q"), ("choices", "a"), ("closes_at", "")],
            "choices-problem",
        ),
        (
            [("question", "Q"), ("choices", "a\na"), ("closes_at", "")],
            "choices-problem",
        ),
        (
            [
                ("question", "Q"),
                ("choices", "a\nb"),
                ("closes_at", "soon"),
            ],
            "closes-problem",
        ),
        (
            [
                ("question", "Q"),
                ("choices", "a\nb"),
                ("closes_at", "2001-01-01T00:00"),
            ],
            "closes-problem",
        ),
        // No such day.
        (
            [
                ("question", "Q"),
                ("choices", "a\nb"),
                ("closes_at", "2999-02-30T00:00"),
            ],
            "closes-problem",
        ),
    ];
    for (fields, problem) in cases {
        let fields: Vec<_> = [("token", &*token)].into_iter().chain(fields).collect();
        let back = admin.post("/admin/polls", &fields).await;
        assert_eq!(back.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}");
        back.assert_says(&format!(r#"id="{problem}""#));
        assert_eq!(
            back.text.matches(r#"class="wrong""#).count(),
            1,
            "{fields:?}"
        );
        assert_eq!(
            back.text.matches(r#"aria-invalid="true""#).count(),
            1,
            "{fields:?}"
        );
        back.assert_says(&format!(r#"value="{}""#, fields[1].1));
    }
    assert_eq!(fixture.lock_requests(), 0, "nothing was written");
    let good = [
        ("token", &*token),
        ("question", "Q"),
        ("choices", "a\nb"),
        ("closes_at", "2999-02-28T00:00"),
    ];
    assert_eq!(
        admin.post("/admin/polls", &good).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(
        fixture.get("/api/polls/4").await.json()["closes_at"],
        "2999-02-28 00:00:00"
    );
}

#[tokio::test]
async fn while_somebody_else_writes_the_form_comes_back_with_what_was_typed() {
    let fixture = AppFixture::new();
    let mut admin = Browser::signed_in(&fixture, "admin", ADMIN_PASSWORD).await;
    let token = field(&admin.get("/admin/polls/new").await, "token");
    fixture.make_busy();
    let fields = [
        ("token", &*token),
        ("question", "Typed?"),
        ("choices", "a\nb"),
    ];
    let back = admin.post("/admin/polls", &fields).await;
    assert_eq!(back.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(back.header("retry-after"), Some("1"));
    back.assert_says(r#"value="Typed?""#);
    let close = admin
        .post("/admin/polls/1/close", &[("token", &*token)])
        .await;
    assert_eq!(close.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_page_of_the_lock_shows_who_holds_it() {
    let fixture = AppFixture::new();
    let mut demo = Browser::signed_in(&fixture, "demo", DEMO_PASSWORD).await;
    demo.get("/admin/lock")
        .await
        .assert_says("Nobody is writing");
    fixture.make_busy();
    let page = demo.get("/admin/lock").await;
    page.assert_says("another function");
    page.assert_says("polls-under-test");
    page.assert_says(r#"content="2""#);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_the_sixth_attempt_is_not_looked_at() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    for (name, password, problem) in [("", "x", "name-problem"), ("admin", "", "password-problem")]
    {
        let empty = browser.sign_in(name, password).await;
        assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
        empty.assert_says(problem);
    }
    for _ in 0..5 {
        let wrong = browser.sign_in("admin", DEMO_PASSWORD).await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
        wrong.assert_says("Name or password is wrong.");
    }
    let limited = browser.sign_in("admin", ADMIN_PASSWORD).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = limited
        .header("retry-after")
        .expect("a header")
        .parse()
        .expect("seconds");
    assert!((1..=900).contains(&wait), "{wait}");
    assert_eq!(
        browser.get("/admin").await.status,
        StatusCode::SEE_OTHER,
        "not signed in"
    );
    assert_eq!(
        browser.sign_in("demo", DEMO_PASSWORD).await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn signing_in_and_out_begins_another_session() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    let visitor = field(&browser.get("/admin/sign-in").await, "token");
    assert_eq!(
        browser.sign_in("demo", DEMO_PASSWORD).await.status,
        StatusCode::SEE_OTHER
    );
    let token = field(&browser.get("/admin").await, "token");
    assert_ne!(token, visitor);
    let old = browser
        .post("/admin/sign-out", &[("token", &*visitor)])
        .await;
    assert_eq!(old.status, StatusCode::FORBIDDEN);
    let out = browser.post("/admin/sign-out", &[("token", &*token)]).await;
    assert_eq!(out.header("location"), Some("/"));
    assert_eq!(browser.get("/admin").await.status, StatusCode::SEE_OTHER);
}
