//! The application in this process with a lock table in memory, and clients of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use diesel_sqlite_efs::testing::{Delete, Hook, HookedStore, Put};
use diesel_sqlite_efs::{DeleteAnswer, EfsConfig, PutAnswer, StoreError, StoredItem};
use polls::{App, LockLog, Settings, app};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) const ADMIN_PASSWORD: &str = "correct horse battery staple";
const KEY: &str = "polls-under-test";

/// The application with sample polls: 1 and 2 are open, 3 is closed.
pub(crate) struct AppFixture {
    pub(crate) app: Router,
    store: Arc<HookedStore<Counting>>,
    _directory: TempDir,
}

impl AppFixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = HookedStore::new(Arc::default(), Counting::default());
        let settings = settings(&directory, store.clone());
        let app = app(App::start(&settings, LockLog::default()).expect("a start"));
        store.calls.store(0, Ordering::SeqCst);
        Self {
            app,
            store,
            _directory: directory,
        }
    }

    /// How often the lock table was asked since the start.
    pub(crate) fn lock_requests(&self) -> usize {
        self.store.calls.load(Ordering::SeqCst)
    }

    /// From now on somebody else writes, and does not end.
    pub(crate) fn make_busy(&self) {
        let item = StoredItem::new("somebody-else", "4000000000")
            .with_holder("another function")
            .with_acquired_at(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        self.store.table.set_item(KEY, Some(item));
    }

    pub(crate) fn make_free(&self) {
        self.store.table.set_item(KEY, None);
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.store.table.item(KEY).is_some()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(
            &self.app,
            Request::get(path).body(Body::empty()).expect("a request"),
        )
        .await
    }

    /// A vote by the API.
    pub(crate) async fn vote(&self, poll: i32, choice: i32, key: &str) -> Answer {
        let request = Request::post(format!("/api/polls/{poll}/votes"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(Body::from(format!(r#"{{"choice":{choice}}}"#)));
        send(&self.app, request.expect("a request")).await
    }

    /// The number of votes that the API tells.
    pub(crate) async fn votes(&self, poll: i32) -> i64 {
        let results = self.get(&format!("/api/polls/{poll}/results")).await.json();
        results["votes"].as_i64().expect("a number")
    }
}

fn settings(directory: &TempDir, store: Arc<HookedStore<Counting>>) -> Settings {
    Settings {
        database: EfsConfig::new(directory.path().join("polls.db"))
            .lock_store(store.clone())
            .lock_key(KEY)
            .lock_timeout(Duration::from_millis(50)),
        lock_store: Some(store),
        connections: 1,
        admin_password: Some(ADMIN_PASSWORD.to_owned()),
        session_key: b"a key of thirty-two bytes or more".to_vec(),
        https: false,
        warm_up: false,
        samples: true,
    }
}

/// An answer with all of its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }

    #[track_caller]
    pub(crate) fn assert_says(&self, text: &str) {
        assert!(
            self.text.contains(text),
            "`{text}` is not in: {}",
            self.text
        );
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).expect("text"),
    }
}

/// A browser that keeps its cookie and sends the forms that it was given.
pub(crate) struct Browser<'a> {
    fixture: &'a AppFixture,
    cookie: Option<String>,
}

impl<'a> Browser<'a> {
    pub(crate) fn new(fixture: &'a AppFixture) -> Self {
        Self {
            fixture,
            cookie: None,
        }
    }

    /// One that has signed in.
    pub(crate) async fn signed_in(fixture: &'a AppFixture, name: &str, password: &str) -> Self {
        let mut browser = Self::new(fixture);
        let answer = browser.sign_in(name, password).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        browser
    }

    pub(crate) async fn sign_in(&mut self, name: &str, password: &str) -> Answer {
        let form = self.get("/admin/sign-in").await;
        let fields = [
            ("token", &*field(&form, "token")),
            ("name", name),
            ("password", password),
        ];
        self.post("/admin/sign-in", &fields).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let request = Request::get(path).body(Body::empty());
        self.send(request.expect("a request")).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = urlencoded(fields);
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body));
        self.send(request.expect("a request")).await
    }

    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> Answer {
        if let Some(cookie) = &self.cookie {
            let cookie = cookie.parse().expect("a header");
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let answer = send(&self.fixture.app, request).await;
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        answer
    }
}

/// The value of a hidden field.
pub(crate) fn field(page: &Answer, name: &str) -> String {
    let before = format!(r#"name="{name}" value=""#);
    let rest = page
        .text
        .split_once(&before)
        .unwrap_or_else(|| panic!("{name}: {}", page.text))
        .1;
    rest.split('"').next().expect("a value").to_owned()
}

fn urlencoded(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        let bytes = text.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        bytes.collect()
    };
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Counts what a lock table is asked.
#[derive(Default)]
struct Counting {
    calls: AtomicUsize,
}

impl Hook for Counting {
    fn put(&self, put: Put<'_>) -> Result<PutAnswer, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        put.pass_on()
    }

    fn delete(&self, delete: Delete<'_>) -> Result<DeleteAnswer, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        delete.pass_on()
    }
}
