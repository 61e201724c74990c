//! The visitors' pages.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};

use crate::support::{AppFixture, Browser, field, send};

#[tokio::test]
async fn a_visitor_votes_and_sees_the_results() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    browser
        .get("/")
        .await
        .assert_says("Where does your SQLite file live?");
    let ballot = browser.get("/polls/1").await;
    let (token, key) = (field(&ballot, "token"), field(&ballot, "key"));
    let fields = [("token", &*token), ("key", &*key), ("choice", "3")];
    let voted = browser.post("/polls/1", &fields).await;
    assert_eq!(voted.status, StatusCode::SEE_OTHER);
    let to = voted.header("location").expect("a place").to_owned();
    browser.get(&to).await.assert_says("Your vote was counted.");
    // The button pressed twice.
    let again = browser.post("/polls/1", &fields).await;
    let to = again.header("location").expect("a place").to_owned();
    browser
        .get(&to)
        .await
        .assert_says("had been counted already");
    assert_eq!(fixture.votes(1).await, 73);
    browser.get("/polls/1/history").await.assert_says("created");
}

#[tokio::test]
async fn a_ballot_without_an_answer_comes_back_with_the_reason_and_the_same_key() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    let ballot = browser.get("/polls/1").await;
    let (token, key) = (field(&ballot, "token"), field(&ballot, "key"));
    for choice in ["", "x", "99"] {
        let fields = [("token", &*token), ("key", &*key), ("choice", choice)];
        let back = browser.post("/polls/1", &fields).await;
        assert_eq!(back.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(field(&back, "key"), key);
        back.assert_says(r#"role="alert""#);
    }
    let fields = [("token", &*token), ("key", &*key), ("choice", "8")];
    let closed = browser.post("/polls/3", &fields);
    assert_eq!(closed.await.status, StatusCode::CONFLICT);
    assert_eq!(fixture.votes(1).await, 72);
}

#[tokio::test]
async fn while_somebody_else_writes_the_ballot_comes_back_to_be_sent_again() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    let ballot = browser.get("/polls/1").await;
    let (token, key) = (field(&ballot, "token"), field(&ballot, "key"));
    let fields = [("token", &*token), ("key", &*key), ("choice", "3")];
    fixture.make_busy();
    let back = browser.post("/polls/1", &fields).await;
    assert_eq!(back.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(back.header("retry-after"), Some("1"));
    assert_eq!(field(&back, "key"), key);
    back.assert_says(r#"value="3" checked"#);
    fixture.make_free();
    assert_eq!(
        browser.post("/polls/1", &fields).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(fixture.votes(1).await, 73);
}

#[tokio::test]
async fn a_form_from_elsewhere_is_refused() {
    let fixture = AppFixture::new();
    let mut browser = Browser::new(&fixture);
    let ballot = browser.get("/polls/1").await;
    let (token, key) = (field(&ballot, "token"), field(&ballot, "key"));
    let without = [("key", &*key), ("choice", "3")];
    assert_eq!(
        browser.post("/polls/1", &without).await.status,
        StatusCode::FORBIDDEN
    );
    let fields = [("token", &*token), ("key", &*key), ("choice", "3")];
    let other = Browser::new(&fixture).post("/polls/1", &fields).await;
    assert_eq!(
        other.status,
        StatusCode::FORBIDDEN,
        "the token of another session"
    );
    let request = Request::post("/polls/1")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "cross-site")
        .body(Body::from(format!("token={token}&key={key}&choice=3")));
    let across = browser.send(request.expect("a request")).await;
    assert_eq!(across.status, StatusCode::FORBIDDEN);
    assert_eq!(fixture.votes(1).await, 72);
    assert_eq!(
        browser.post("/polls/1", &fields).await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_do() {
    let fixture = AppFixture::new();
    for path in [
        "/",
        "/polls/1",
        "/nothing",
        "/api/polls",
        "/health",
        "/static/style.css",
    ] {
        let answer = fixture.get(path).await;
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert!(answer.header("cache-control").is_some(), "{path}");
    }
}

/// What the policy would keep a browser from using.
#[tokio::test]
async fn pages_have_no_script_or_style_of_their_own() {
    let fixture = AppFixture::new();
    for path in [
        "/",
        "/polls/1",
        "/polls/1/results",
        "/polls/1/history",
        "/admin/sign-in",
    ] {
        let page = fixture.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        for forbidden in ["style=\"", "<style", "<script>", " onclick", "javascript:"] {
            assert!(!page.text.contains(forbidden), "{path}: {forbidden}");
        }
    }
}

#[tokio::test]
async fn results_look_for_news_with_and_without_script_until_told_to_stop() {
    let fixture = AppFixture::new();
    let page = fixture.get("/polls/1/results").await;
    page.assert_says("/static/live.js?v=");
    page.assert_says(r#"<noscript><meta http-equiv="refresh" content="5"></noscript>"#);
    let still = fixture.get("/polls/1/results?live=off").await;
    assert!(!still.text.contains("live.js") && !still.text.contains("refresh"));
}

#[tokio::test]
async fn what_people_typed_is_text_and_not_markup() {
    let fixture = AppFixture::new();
    let mut admin = Browser::signed_in(&fixture, "admin", crate::support::ADMIN_PASSWORD).await;
    let form = admin.get("/admin/polls/new").await;
    let token = field(&form, "token");
    let fields = [
        ("token", &*token),
        ("question", "<script>alert(1)</script>"),
        ("choices", "<b>a</b>\n\"b\""),
    ];
    let made = admin.post("/admin/polls", &fields).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text);
    for path in ["/", "/polls/4", "/polls/4/results", "/polls/4/history"] {
        let page = fixture.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(
            !page.text.contains("<script>alert") && !page.text.contains("<b>a"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_file_of_ours_may_be_kept_for_good() {
    let fixture = AppFixture::new();
    let style = send(
        &fixture.app,
        Request::get("/static/style.css?v=1")
            .body(Body::empty())
            .expect("one"),
    )
    .await;
    assert_eq!(style.status, StatusCode::OK);
    assert!(
        style
            .header("cache-control")
            .expect("one")
            .contains("immutable")
    );
    assert_eq!(style.header("set-cookie"), None);
}
