//! As much of the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>) as the tests need.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use integration::options;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a page may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// By what an element is named in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const DOWN: &str = "\u{e015}";

/// What a browser is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Desk,
    Phone,
    /// Runs no script.
    WithoutScript,
}

/// A browser with one window. It is closed when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// `None`, and a line that says so, where there is no chromedriver.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let spawned = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = spawned else {
            println!("skipped: there is no chromedriver; tests/install-packages.sh installs it");
            return None;
        };
        let output = BufReader::new(driver.stdout.take().expect("a pipe"));
        let port = output.lines().find_map(|line| {
            let line = line.expect("a line");
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let profile = tempfile::tempdir().expect("a directory");
        let mut browser = Self {
            driver,
            port: port.expect("chromedriver listens"),
            session: String::new(),
            _profile: profile,
        };
        let options = browser.options(kind);
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.request("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().expect("an id").to_owned();
        Some(browser)
    }

    fn options(&self, kind: Kind) -> Value {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        let mut options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1000,900", profile,
        ] });
        match kind {
            Kind::Desk => {}
            Kind::Phone => {
                options["mobileEmulation"] =
                    json!({ "deviceMetrics": { "width": 360, "height": 780, "pixelRatio": 2.0 } });
            }
            Kind::WithoutScript => {
                options["prefs"] =
                    json!({ "profile.managed_default_content_settings.javascript": 2 });
            }
        }
        options
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    pub(crate) fn url(&self) -> String {
        let url = self.request(
            "GET",
            &format!("/session/{}/url", self.session),
            &Value::Null,
        );
        url.as_str().expect("text").to_owned()
    }

    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.command(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into a field.
    pub(crate) fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.command(&format!("/element/{element}/clear"), &json!({}));
        self.command(
            &format!("/element/{element}/value"),
            &json!({ "text": text }),
        );
    }

    /// Presses keys, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.command("/actions", &json!({ "actions": [keyboard] }));
    }

    /// What people see of an element.
    pub(crate) fn text(&self, css: &str) -> String {
        let path = format!(
            "/session/{}/element/{}/text",
            self.session,
            self.element(css)
        );
        let text = self.request("GET", &path, &Value::Null);
        text.as_str().expect("text").to_owned()
    }

    /// Waits until an element says it.
    pub(crate) fn wait_for(&self, css: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.try_element(css).map(|_| self.try_text(css));
            if found.iter().flatten().any(|found| found.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < end,
                "`{text}` is not in {css}: {found:?} at {}",
                self.url()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the browser complains about: a violated policy, a file that is missing.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().expect("entries").iter();
        let messages = entries.map(|entry| entry["message"].as_str().expect("text").to_owned());
        messages.collect()
    }

    /// Leaves a picture, if pictures are wanted.
    pub(crate) fn picture(&self, name: &str) {
        let Some(directory) = options::screenshots() else {
            return;
        };
        let path = format!("/session/{}/screenshot", self.session);
        let encoded = self.request("GET", &path, &Value::Null);
        let bytes = from_base64(encoded.as_str().expect("text"));
        fs::write(directory.join(format!("polls-{name}.png")), bytes).expect("a file");
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        self.try_element(css)
            .unwrap_or_else(|| panic!("no {css} at {}", self.url()))
    }

    fn try_element(&self, css: &str) -> Option<String> {
        let body = json!({ "using": "css selector", "value": css });
        let path = format!("/session/{}/element", self.session);
        let found = self.try_request("POST", &path, &body).ok()?;
        Some(found[ELEMENT].as_str().expect("an id").to_owned())
    }

    /// `None` if it has gone meanwhile.
    fn try_text(&self, css: &str) -> Option<String> {
        let path = format!(
            "/session/{}/element/{}/text",
            self.session,
            self.try_element(css)?
        );
        let text = self.try_request("GET", &path, &Value::Null).ok()?;
        text.as_str().map(str::to_owned)
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.request("POST", &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_request(method, path, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_request(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let port = self.port;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("chromedriver");
        // Parameters are an object, and only a POST has any.
        let body = match method {
            "POST" => body.to_string(),
            _ => String::new(),
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a request");
        // It keeps its connections open, whatever it is told.
        let (head, body) = answer(BufReader::new(stream));
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        let value = value["value"].clone();
        if head.starts_with("HTTP/1.1 200") {
            Ok(value)
        } else {
            Err(value)
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        let closed = match self.session.is_empty() {
            true => Ok(Value::Null),
            false => self.try_request("DELETE", &path, &Value::Null),
        };
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // Left open, it would stay and be in the way of all that follows.
        assert!(closed.is_ok() || thread::panicking(), "{closed:?}");
    }
}

/// The head of an answer and as much of a body as it tells.
fn answer(mut stream: impl BufRead) -> (String, Vec<u8>) {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        assert_ne!(
            stream.read_line(&mut head).expect("a line"),
            0,
            "cut off: {head}"
        );
        let line = head[begin..].to_ascii_lowercase();
        if let Some(told) = line.strip_prefix("content-length:") {
            length = told.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    (head, body)
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = ALPHABET
            .iter()
            .position(|letter| *letter == byte)
            .expect("base64");
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
