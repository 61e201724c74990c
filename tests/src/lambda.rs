//! What Lambda is to a function: an execution environment and the [Runtime API], on loopback.
//!
//! An [`Environment`] runs one process of the function. As Lambda does, it hands out one event at a
//! time, freezes the process between invocations ([`Environment::freezing`]), and kills it when an
//! invocation's time is over. [`Front`] makes the events of the front ends that pass HTTP on.
//!
//! [Runtime API]: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::http::{self, Message};
use crate::process::Worker;

/// The version of the API, the first part of every path.
const API: &str = "/2018-06-01/runtime";

/// How long a process that was killed may take to be gone.
const SOON: Duration = Duration::from_secs(10);

/// A process of a function and the Runtime API that serves it alone; killed when this is dropped.
#[derive(Debug)]
pub struct Environment {
    worker: Worker,
    shared: Arc<Shared>,
    address: SocketAddr,
    freezes: bool,
    invocations: u64,
}

/// Why an invocation has no response.
#[derive(Debug, Error)]
pub enum Failure {
    /// Its time was over, and the process was killed. Lambda starts another for the next event.
    #[error("the function was killed when its time was over, after {0:?}")]
    TimedOut(Duration),
    /// The function reported an error in the place of a response.
    #[error("the function reported an error: {0}")]
    Reported(Value),
    /// The process ended by itself, or reported that it cannot begin.
    #[error("the function's process has ended: {0}")]
    Ended(String),
    /// The process cannot be frozen, thawed or killed.
    #[error("the function's process cannot be controlled")]
    Process(#[from] io::Error),
}

impl Environment {
    /// Starts `command` with the variables that Lambda sets, and no others than it has already.
    /// `name` is the function's.
    ///
    /// # Errors
    /// If no port can be had or the process cannot be started.
    pub fn start(command: &mut Command, name: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let for_acceptor = Arc::clone(&shared);
        thread::Builder::new()
            .name("Runtime API".to_owned())
            .spawn(move || accept(&listener, &for_acceptor))?;
        command
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}"))
            .env("AWS_LAMBDA_LOG_STREAM_NAME", format!("{}", address.port()))
            .env("_HANDLER", "bootstrap");
        let (errors, for_errors) = io::pipe()?;
        command.stderr(for_errors);
        let for_watch = Arc::clone(&shared);
        let started = Worker::spawn_watched(command, move |line| match line {
            Some(line) => for_watch.change(|state| state.log.push(line)),
            None => for_watch.change(|state| state.closed = true),
        });
        // Lets go of this side's end of the pipe, so that its end comes with the process's.
        command.stderr(Stdio::inherit());
        let worker = started?;
        let for_log = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                // A line that is no text is no line of the log.
                for line in BufReader::new(errors).lines().map_while(Result::ok) {
                    for_log.change(|state| state.log.push(line));
                }
            })?;
        Ok(Self {
            worker,
            shared,
            address,
            freezes: false,
            invocations: 0,
        })
    }

    /// From the end of the initialisation on, the process is frozen whenever it has nothing to do.
    #[must_use]
    pub fn freezing(mut self) -> Self {
        self.freezes = true;
        self
    }

    /// Waits until the function has been initialised: until it asks for its first event.
    ///
    /// # Errors
    /// [`Failure::Ended`] if it reports that it cannot, or ends, or takes longer.
    pub fn wait_until_ready(&mut self, within: Duration) -> Result<(), Failure> {
        let waited = self.shared.wait(Instant::now() + within, |state| {
            state.asks || state.closed || state.init_error.is_some()
        });
        if let Some(error) = &waited.init_error {
            return Err(Failure::Ended(format!(
                "its initialisation failed: {error}"
            )));
        }
        if waited.closed {
            return Err(Failure::Ended("during its initialisation".to_owned()));
        }
        if !waited.asks {
            return Err(Failure::Ended(format!("not initialised after {within:?}")));
        }
        drop(waited);
        if self.freezes {
            self.worker.pause()?;
        }
        Ok(())
    }

    /// Hands `event` to the function and waits for the response, for no longer than `timeout`, which
    /// is the function's.
    ///
    /// # Errors
    /// [`Failure`]; after [`Failure::TimedOut`] and [`Failure::Ended`] the process is gone.
    pub fn invoke(&mut self, event: &Value, timeout: Duration) -> Result<Value, Failure> {
        self.begin(event, timeout)?;
        self.finish()
    }

    /// Hands `event` to the function and returns at once; [`finish`](Self::finish) has the response.
    ///
    /// # Errors
    /// [`Failure::Process`] if the process cannot be thawed.
    pub fn begin(&mut self, event: &Value, timeout: Duration) -> Result<(), Failure> {
        if self.freezes {
            self.worker.resume()?;
        }
        self.invocations += 1;
        let mut state = self.shared.state();
        state.answer = None;
        state.invocation = Some(Invocation {
            id: format!(
                "{:08x}-0000-4000-8000-{:012x}",
                self.address.port(),
                self.invocations
            ),
            event: event.to_string().into_bytes(),
            deadline: SystemTime::now() + timeout,
            ends: Instant::now() + timeout,
            timeout,
            handed_out: false,
        });
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits for the end of the invocation that was begun, until its time is over.
    ///
    /// # Errors
    /// As [`invoke`](Self::invoke).
    ///
    /// # Panics
    /// If none was begun.
    pub fn finish(&mut self) -> Result<Value, Failure> {
        let invocation = (self.shared.state().invocation.clone()).expect("an invocation was begun");
        // Lambda freezes when the function asks for the next event, and so do we.
        let state = self.shared.wait(invocation.ends, |state| {
            state.closed || state.answer.is_some() && state.asks
        });
        let (answer, closed) = (state.answer.clone(), state.closed);
        drop(state);
        match answer {
            Some(answer) => {
                if self.freezes && !closed {
                    self.worker.pause()?;
                }
                answer.map_err(Failure::Reported)
            }
            None if closed => Err(Failure::Ended("during an invocation".to_owned())),
            None => {
                self.kill()?;
                Err(Failure::TimedOut(invocation.timeout))
            }
        }
    }

    /// Freezes the process where it stands, in the middle of an invocation too.
    ///
    /// # Errors
    /// If it has ended.
    pub fn freeze(&self) -> io::Result<()> {
        self.worker.pause()
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn thaw(&self) -> io::Result<()> {
        self.worker.resume()
    }

    /// Kills the process at once.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.worker.kill()?;
        drop(
            self.shared
                .wait(Instant::now() + SOON, |state| state.closed),
        );
        Ok(())
    }

    /// What the process has written so far to its standard output and error: its log.
    pub fn log(&self) -> Vec<String> {
        self.shared.state().log.clone()
    }

    /// Waits until a line of the log has `text` in it.
    ///
    /// # Panics
    /// If none comes within the time given.
    #[track_caller]
    pub fn wait_for_log(&self, within: Duration, text: &str) {
        let is_there = |state: &State| state.log.iter().any(|line| line.contains(text));
        let state = self.shared.wait(Instant::now() + within, is_there);
        assert!(
            is_there(&state),
            "{text:?} is not in the log: {:#?}",
            state.log
        );
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.changed.notify_all();
        // Wakes the acceptor, which then sees that the end has come. An error means that it did.
        let _ = TcpStream::connect(self.address);
    }
}

/// Who turns a request of HTTP into an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// An HTTP API of API Gateway, payload format 2.0.
    HttpApi,
    /// The URL of the function itself; the same format.
    FunctionUrl,
    /// An Application Load Balancer.
    LoadBalancer,
}

impl Front {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HttpApi, Self::FunctionUrl, Self::LoadBalancer];

    /// The event for a request. `target` is the path, with the query if there is one; a body is
    /// passed on as text.
    pub fn event(self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Value {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut all = Map::from_iter([
            ("host".to_owned(), json!(self.host())),
            ("x-forwarded-for".to_owned(), json!("192.0.2.7")),
            ("x-forwarded-port".to_owned(), json!("443")),
            ("x-forwarded-proto".to_owned(), json!("https")),
        ]);
        for (name, value) in headers {
            all.insert(name.to_lowercase(), json!(value));
        }
        let cookies = match self {
            Self::LoadBalancer => None,
            Self::HttpApi | Self::FunctionUrl => all.remove("cookie"),
        };
        let parameters: Map<String, Value> = (query.split('&'))
            .filter_map(|parameter| parameter.split_once('='))
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        let mut event = match self {
            Self::LoadBalancer => json!({
                "requestContext": { "elb": { "targetGroupArn":
                    "arn:aws:elasticloadbalancing:us-east-1:111122223333:targetgroup/polls/0123456789abcdef"
                } },
                "httpMethod": method,
                "path": path,
                "queryStringParameters": parameters,
                // A load balancer passes an empty body on as such, the others leave it out.
                "body": body,
            }),
            Self::HttpApi | Self::FunctionUrl => json!({
                "version": "2.0",
                "routeKey": "$default",
                "rawPath": path,
                "rawQueryString": query,
                "queryStringParameters": parameters,
                "requestContext": {
                    "accountId": "111122223333",
                    "apiId": "0123456789",
                    "domainName": self.host(),
                    "domainPrefix": "0123456789",
                    "http": {
                        "method": method,
                        "path": path,
                        "protocol": "HTTP/1.1",
                        "sourceIp": "192.0.2.7",
                        "userAgent": "test",
                    },
                    "requestId": "JKJaXmPLvHcESHA=",
                    "routeKey": "$default",
                    "stage": "$default",
                    "time": "22/Nov/2026:08:25:00 +0000",
                    "timeEpoch": 1_795_335_900_000_u64,
                },
            }),
        };
        event["headers"] = Value::Object(all);
        event["isBase64Encoded"] = json!(false);
        if !body.is_empty() {
            event["body"] = json!(body);
        }
        if let Some(cookies) = cookies.as_ref().and_then(Value::as_str) {
            event["cookies"] = cookies.split("; ").collect();
        }
        event
    }

    fn host(self) -> &'static str {
        match self {
            Self::HttpApi => "0123456789.execute-api.us-east-1.amazonaws.com",
            Self::FunctionUrl => "0123456789.lambda-url.us-east-1.on.aws",
            Self::LoadBalancer => "polls-0123456789.us-east-1.elb.amazonaws.com",
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The one in progress, or the last.
    invocation: Option<Invocation>,
    /// Its response, or the error that was reported for it.
    answer: Option<Result<Value, Value>>,
    /// The process waits for an event.
    asks: bool,
    init_error: Option<Value>,
    log: Vec<String>,
    /// The process has closed its standard output: it is gone.
    closed: bool,
    /// The environment is dropped.
    over: bool,
}

#[derive(Debug, Clone)]
struct Invocation {
    id: String,
    event: Vec<u8>,
    deadline: SystemTime,
    ends: Instant,
    timeout: Duration,
    handed_out: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No invariant spans several fields, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `condition` holds, or until `deadline`.
    fn wait(&self, deadline: Instant, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited =
            (self.changed).wait_timeout_while(self.state(), left, |state| !condition(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// The answer to a request of the process; waits for an event if that is what it asks for.
    /// None if there will be no more.
    fn answer(&self, request: &Message) -> Option<Message> {
        let mut words = request.start_line.split(' ');
        let method = words.next().unwrap_or_default();
        let path = (words.next().unwrap_or_default())
            .strip_prefix(API)
            .unwrap_or_default();
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        if (method, path) == ("GET", "/invocation/next") {
            return self.next();
        }
        if (method, path) == ("POST", "/init/error") {
            self.change(|state| state.init_error = Some(body()));
            return Some(Message::answer(202, Vec::new()));
        }
        let Some((id, kind)) =
            (path.strip_prefix("/invocation/")).and_then(|rest| rest.split_once('/'))
        else {
            return Some(Message::answer(404, Vec::new()));
        };
        let answer = match kind {
            "response" => Ok(body()),
            "error" => Err(body()),
            _ => return Some(Message::answer(404, Vec::new())),
        };
        let mut state = self.state();
        let expected = state.invocation.as_ref();
        if expected.is_none_or(|invocation| invocation.id != id) || state.answer.is_some() {
            let refused = json!({ "errorType": "InvalidRequestID", "errorMessage": id });
            return Some(Message::answer(400, refused.to_string().into_bytes()));
        }
        state.answer = Some(answer);
        drop(state);
        self.changed.notify_all();
        Some(Message::answer(202, Vec::new()))
    }

    /// Waits for an event.
    fn next(&self) -> Option<Message> {
        self.change(|state| state.asks = true);
        let nothing = |state: &mut State| {
            !state.over && (state.invocation.as_ref()).is_none_or(|one| one.handed_out)
        };
        let mut state = (self.changed.wait_while(self.state(), nothing))
            .unwrap_or_else(PoisonError::into_inner);
        state.asks = false;
        if state.over {
            return None;
        }
        let invocation = state.invocation.as_mut()?;
        invocation.handed_out = true;
        let deadline = (invocation.deadline.duration_since(UNIX_EPOCH)).unwrap_or_default();
        let mut message = Message::answer(200, invocation.event.clone());
        for (name, value) in [
            ("content-type", "application/json".to_owned()),
            ("lambda-runtime-aws-request-id", invocation.id.clone()),
            (
                "lambda-runtime-deadline-ms",
                deadline.as_millis().to_string(),
            ),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:111122223333:function:polls".to_owned(),
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0".to_owned(),
            ),
        ] {
            message.set_header(name, Some(value));
        }
        Some(message)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.state().over {
            return;
        }
        let for_connection = Arc::clone(shared);
        // The process's end is seen by its output.
        let serve = move |stream| serve(stream, &for_connection);
        http::serve_apart("Runtime API", stream, serve);
    }
}

/// Serves one connection of the process until either side ends it.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    while let Some(request) = Message::read(&mut requests)? {
        match shared.answer(&request) {
            Some(answer) => answer.write(&mut stream)?,
            None => break,
        }
    }
    Ok(())
}
