//! An HTTP proxy between lock client and DynamoDB that counts requests and injects faults.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use serde_json::{Value, json};

use crate::http::{self, Message};

/// A proxy on a loopback port; ends with all its connections when this is dropped.
///
/// Requests go through unchanged until a [`Rule`] says otherwise. Each is recorded.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy before `upstream`, a URL such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// If `upstream` is not of that form, or no port can be had.
    pub fn start(upstream: &str) -> io::Result<Self> {
        let address = upstream
            .strip_prefix("http://")
            .and_then(|rest| rest.trim_end_matches('/').parse().ok())
            .ok_or_else(|| {
                let problem = format!("`{upstream}` is not of the form http://ADDRESS:PORT");
                io::Error::new(io::ErrorKind::InvalidInput, problem)
            })?;
        Self::start_before(Behind::Upstream(address))
    }

    /// Starts a fake endpoint: nothing is behind it, and each request that no rule catches gets
    /// this answer.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn fake(answer: Answer) -> io::Result<Self> {
        Self::start_before(Behind::Nothing(answer))
    }

    fn start_before(behind: Behind) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behind,
            state: Mutex::default(),
            changed: Condvar::new(),
            closed: Condvar::new(),
        });
        let for_acceptor = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&listener, &for_acceptor))?;
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// The URL that clients are to use.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule. Of several that apply to a request the oldest is followed.
    pub fn rule(&self, rule: Rule) -> RuleHandle {
        let mut state = self.shared.state();
        let id = state.next_id();
        state.rules.push(ActiveRule {
            id,
            rule,
            seen: 0,
            hits: 0,
            released: false,
        });
        RuleHandle {
            id,
            shared: Arc::clone(&self.shared),
        }
    }

    /// The requests since the start or the last reset, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.values().cloned().collect()
    }

    /// How many requests of this operation came since the start or the last reset.
    pub fn count(&self, operation: &Operation) -> usize {
        let state = self.shared.state();
        let requests = state.requests.values();
        requests
            .filter(|request| request.operation == *operation)
            .count()
    }

    /// Forgets the requests so far; rules stay.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }

    /// Forgets rules and requests. What a rule held goes on.
    pub fn reset(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.requests.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closing = true;
        for stream in state.open.values() {
            // An error means that the peer was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let connections = std::mem::take(&mut state.connections);
        drop(state);
        self.shared.changed.notify_all();
        self.shared.closed.notify_all();
        // Wakes the acceptor, which then sees that the end has come.
        if TcpStream::connect(self.address).is_ok()
            && let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            eprintln!("proxy: the accepting thread panicked");
        }
        for connection in connections {
            if connection.join().is_err() {
                eprintln!("proxy: a connection's thread panicked");
            }
        }
    }
}

/// An operation of DynamoDB's API, as named in the header `X-Amz-Target`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `PutItem`
    PutItem,
    /// `DeleteItem`
    DeleteItem,
    /// Any other, by its name; empty where the request names none.
    Other(String),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PutItem => "PutItem",
            Self::DeleteItem => "DeleteItem",
            Self::Other(name) => name,
        })
    }
}

/// What a `PutItem` of the crate's asks for, as its condition tells.
///
/// By this and not by counting, a test names the request that it means: on a busy machine requests
/// are repeated, and leases renewed, where it does not expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A lease that nobody has.
    Acquire,
    /// A lease that has expired.
    TakeOver,
    /// A lease that is held, for longer; also a confirmation with which nothing is recorded.
    Renew,
    /// That a transaction has ended, with its journal's identity.
    Record,
}

/// A request that reached the proxy, and what came of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The operation.
    pub operation: Operation,
    /// The item's `pk`, if the request names an item.
    pub key: Option<String>,
    /// The condition expression, if there is one.
    pub condition: Option<String>,
    /// The whole request, parsed; null if it is no JSON.
    pub body: Value,
    /// How often it was forwarded.
    pub forwarded: u32,
    /// The status that was sent back; none if the client got no answer (yet).
    pub status: Option<u16>,
    /// The error that was sent back, without its namespace: `ConditionalCheckFailedException`.
    pub error: Option<String>,
    /// When it arrived here.
    pub arrived: SystemTime,
}

impl Request {
    fn new(message: &Message) -> Self {
        let target = message.header("x-amz-target").unwrap_or_default();
        let operation = match target.rsplit('.').next().unwrap_or_default() {
            "PutItem" => Operation::PutItem,
            "DeleteItem" => Operation::DeleteItem,
            other => Operation::Other(other.to_owned()),
        };
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            operation,
            key: text(&body["Item"]["pk"]["S"]).or_else(|| text(&body["Key"]["pk"]["S"])),
            condition: text(&body["ConditionExpression"]),
            body,
            forwarded: 0,
            status: None,
            error: None,
            arrived: SystemTime::now(),
        }
    }

    /// What a put is for; `None` for other requests, and for those that are not the crate's.
    pub fn purpose(&self) -> Option<Purpose> {
        let condition = self.condition.as_deref()?;
        match self.operation {
            Operation::PutItem if condition.starts_with("attribute_not_exists(pk)") => {
                Some(Purpose::Acquire)
            }
            Operation::PutItem if condition.contains(":seen_lock_id") => Some(Purpose::TakeOver),
            // The second half names the record that is to be replaced.
            Operation::PutItem if condition.contains(" OR (lock_id = :me") => Some(Purpose::Record),
            Operation::PutItem if condition.contains("lock_id = :me") => Some(Purpose::Renew),
            _ => None,
        }
    }
}

/// Which requests meet which fate.
///
/// ```
/// use integration::proxy::{Action, Answer, Rule};
///
/// // The second PutItem from now on is throttled, the others pass.
/// let rule = Rule::put(Action::Answer(Answer::throttled())).nth(2);
/// ```
#[derive(Debug, Clone)]
pub struct Rule {
    action: Action,
    operation: Option<Operation>,
    purpose: Option<Purpose>,
    key: Option<String>,
    /// Of the matching requests, counted from 1: the first to meet the action, and the last.
    first: u64,
    last: u64,
}

impl Rule {
    /// For every request.
    pub fn any(action: Action) -> Self {
        Self {
            action,
            operation: None,
            purpose: None,
            key: None,
            first: 1,
            last: u64::MAX,
        }
    }

    /// For every request of this operation.
    pub fn on(operation: Operation, action: Action) -> Self {
        Self {
            operation: Some(operation),
            ..Self::any(action)
        }
    }

    /// For every `PutItem`.
    pub fn put(action: Action) -> Self {
        Self::on(Operation::PutItem, action)
    }

    /// For every `PutItem` of the crate's that asks for this.
    pub fn put_to(purpose: Purpose, action: Action) -> Self {
        Self {
            purpose: Some(purpose),
            ..Self::put(action)
        }
    }

    /// For every `DeleteItem`.
    pub fn delete(action: Action) -> Self {
        Self::on(Operation::DeleteItem, action)
    }

    /// Only for requests about the item of this key.
    #[must_use]
    pub fn key(mut self, pk: impl Into<String>) -> Self {
        self.key = Some(pk.into());
        self
    }

    /// Only for the `n`th matching request from when the rule is added; 1 is the next.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.from(n).until(n)
    }

    /// Only for the next `count` matching requests.
    #[must_use]
    pub fn next(self, count: u64) -> Self {
        self.until(count)
    }

    /// Not for the matching requests before the `n`th.
    #[must_use]
    pub fn from(mut self, n: u64) -> Self {
        self.first = n;
        self
    }

    /// Not for the matching requests after the `n`th.
    #[must_use]
    pub fn until(mut self, n: u64) -> Self {
        self.last = n;
        self
    }

    fn matches(&self, request: &Request) -> bool {
        (self.operation.as_ref()).is_none_or(|operation| *operation == request.operation)
            && (self.purpose).is_none_or(|purpose| Some(purpose) == request.purpose())
            && (self.key.as_ref()).is_none_or(|key| Some(key) == request.key.as_ref())
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Action {
    /// It is answered here and not forwarded.
    Answer(Answer),
    /// It is neither forwarded nor answered; the connection stays open until the client ends it.
    Silence,
    /// It is not forwarded, and the connection is closed.
    Cut,
    /// It is forwarded this much later.
    Delay(Duration),
    /// It is forwarded when [`RuleHandle::release`] is called.
    Hold,
    /// It is forwarded at once; the answer comes when [`RuleHandle::release`] is called.
    HoldAnswer,
    /// It is forwarded and so takes effect; instead of the answer, the connection is closed.
    CutAnswer,
    /// It is forwarded and so takes effect; the answer never comes.
    SilenceAnswer,
    /// It is forwarded twice, one after the other; the client gets the second answer.
    Duplicate,
    /// It is forwarded; the answer shows another date.
    Date(Date),
    /// It is forwarded and so takes effect; the client gets this answer instead of the true one.
    ReplaceAnswer(Answer),
}

/// An answer that the proxy itself gives.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    body: String,
    date: Option<Date>,
}

impl Answer {
    /// An answer of this status and body, dated now.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
            date: None,
        }
    }

    /// An error as DynamoDB tells it: `kind` is the type with its namespace, for example
    /// `com.amazonaws.dynamodb.v20120810#ResourceNotFoundException`.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        let body = json!({ "__type": kind, "message": message });
        Self::new(status, body.to_string())
    }

    /// Status 500, `InternalServerError`.
    pub fn internal_error() -> Self {
        let kind = "com.amazonaws.dynamodb.v20120810#InternalServerError";
        Self::error(500, kind, "Internal server error")
    }

    /// `ThrottlingException`.
    pub fn throttled() -> Self {
        let kind = "com.amazon.coral.availability#ThrottlingException";
        Self::error(
            400,
            kind,
            "Rate of requests exceeds the allowed throughput.",
        )
    }

    /// `AccessDeniedException` for an action such as `dynamodb:PutItem`.
    pub fn access_denied(action: &str) -> Self {
        let kind = "com.amazon.coral.service#AccessDeniedException";
        let message = format!(
            "User: arn:aws:iam::111122223333:user/test is not authorized to perform: {action} \
             because no identity-based policy allows the {action} action"
        );
        Self::error(400, kind, &message)
    }

    /// `ResourceNotFoundException`: there is no such table.
    pub fn table_missing() -> Self {
        let kind = "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException";
        Self::error(400, kind, "Requested resource not found")
    }

    /// `UnrecognizedClientException`: the credentials are not valid.
    pub fn bad_credentials() -> Self {
        let kind = "com.amazon.coral.service#UnrecognizedClientException";
        Self::error(
            400,
            kind,
            "The security token included in the request is invalid.",
        )
    }

    /// The same answer with another date.
    #[must_use]
    pub fn date(mut self, date: Date) -> Self {
        self.date = Some(date);
        self
    }

    fn message(&self) -> Message {
        let mut message = Message::answer(self.status, self.body.clone().into_bytes());
        message.set_header(
            "content-type",
            Some("application/x-amz-json-1.0".to_owned()),
        );
        let now = || Date::At(SystemTime::now());
        let date = self.date.clone().unwrap_or_else(now);
        message.set_header("date", date.header());
        message
    }
}

/// What an answer's header `Date` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Date {
    /// There is no such header.
    Absent,
    /// A time, to the second.
    At(SystemTime),
    /// Anything.
    Text(String),
}

impl Date {
    fn header(&self) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::At(time) => Some(httpdate::fmt_http_date(*time)),
            Self::Text(text) => Some(text.clone()),
        }
    }
}

/// A rule that was added: whether it was met, and the release of what it holds.
#[derive(Debug, Clone)]
pub struct RuleHandle {
    id: u64,
    shared: Arc<Shared>,
}

impl RuleHandle {
    /// How many requests have met the rule's action so far; 0 once the rule is gone. One whose answer
    /// is held counts when there is an answer: what it asks for has been done by then.
    ///
    /// Tests assert this, so that a fault that was never injected is not mistaken for one survived.
    pub fn hits(&self) -> u64 {
        let state = self.shared.state();
        state.rule(self.id).map_or(0, |rule| rule.hits)
    }

    /// Waits until `hits` requests have met the rule's action.
    ///
    /// # Panics
    /// If they do not come within the time given.
    #[track_caller]
    pub fn wait_for_hits(&self, hits: u64, within: Duration) {
        let state = self.shared.state();
        let missing = |state: &mut State| state.rule(self.id).is_none_or(|rule| rule.hits < hits);
        let (_state, waited) = (self.shared.changed)
            .wait_timeout_while(state, within, missing)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            !waited.timed_out(),
            "waited {within:?} in vain for {hits} requests to meet the rule"
        );
    }

    /// Lets go what [`Action::Hold`] or [`Action::HoldAnswer`] hold now, and holds no more.
    pub fn release(&self) {
        let mut state = self.shared.state();
        if let Some(rule) = state.rules.iter_mut().find(|rule| rule.id == self.id) {
            rule.released = true;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Removes the rule. What it held goes on.
    pub fn remove(self) {
        self.shared.state().rules.retain(|rule| rule.id != self.id);
        self.shared.changed.notify_all();
    }
}

/// An endpoint that refuses every connection, for as long as this lives.
///
/// The port is bound and not listened on, so that nobody else can get it meanwhile.
#[derive(Debug)]
pub struct RefusedEndpoint {
    _socket: OwnedFd,
    address: SocketAddr,
}

impl RefusedEndpoint {
    /// Takes a loopback port.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn new() -> io::Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = getsockname(&socket)?.try_into()?;
        Ok(Self {
            _socket: socket,
            address,
        })
    }

    /// The URL that clients are to try.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Debug)]
struct Shared {
    behind: Behind,
    state: Mutex<State>,
    /// Signalled when a rule is met, released or removed, and at the end.
    changed: Condvar,
    /// Signalled at the end alone: who is delayed need not be woken for every request of others.
    closed: Condvar,
}

#[derive(Debug)]
enum Behind {
    Upstream(SocketAddr),
    Nothing(Answer),
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    rules: Vec<ActiveRule>,
    /// By their numbers, which are in the order of arrival.
    requests: BTreeMap<u64, Request>,
    /// Both ends of each connection, to be shut down at the end.
    open: HashMap<u64, TcpStream>,
    connections: Vec<JoinHandle<()>>,
    closing: bool,
}

#[derive(Debug)]
struct ActiveRule {
    id: u64,
    rule: Rule,
    /// Requests that matched, whether or not it was their turn.
    seen: u64,
    /// Requests that met the action.
    hits: u64,
    released: bool,
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn rule(&self, id: u64) -> Option<&ActiveRule> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No invariant spans several fields, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request and decides what happens to it.
    fn arrived(&self, request: Request) -> (u64, Option<(u64, Action)>) {
        let mut state = self.state();
        let mut chosen = None;
        for active in &mut state.rules {
            if !active.rule.matches(&request) {
                continue;
            }
            active.seen += 1;
            let its_turn = (active.rule.first..=active.rule.last).contains(&active.seen);
            if its_turn && chosen.is_none() {
                let is_to_be_answered_first = matches!(active.rule.action, Action::HoldAnswer);
                active.hits += u64::from(!is_to_be_answered_first);
                chosen = Some((active.id, active.rule.action.clone()));
            }
        }
        let id = state.next_id();
        state.requests.insert(id, request);
        drop(state);
        self.changed.notify_all();
        (id, chosen)
    }

    /// Changes a request's record, unless it was forgotten.
    fn record(&self, id: u64, change: impl FnOnce(&mut Request)) {
        self.state().requests.get_mut(&id).map(change);
    }

    /// Waits until the rule lets go, is removed, or the proxy ends.
    fn hold(&self, rule: u64) {
        let held = |state: &mut State| {
            !state.closing && state.rule(rule).is_some_and(|rule| !rule.released)
        };
        drop(self.changed.wait_while(self.state(), held));
    }

    /// Counts the request whose answer is here, and holds it.
    fn hold_answer(&self, rule: u64) {
        let mut state = self.state();
        if let Some(active) = state.rules.iter_mut().find(|active| active.id == rule) {
            active.hits += 1;
        }
        drop(state);
        self.changed.notify_all();
        self.hold(rule);
    }

    /// Waits for so long, or until the proxy ends.
    fn delay(&self, duration: Duration) {
        let open = |state: &mut State| !state.closing;
        drop(self.closed.wait_timeout_while(self.state(), duration, open));
    }

    /// Sees to it that the stream is shut down when the proxy ends.
    fn register(&self, stream: &TcpStream) -> io::Result<Registered<'_>> {
        let stream = stream.try_clone()?;
        let mut state = self.state();
        if state.closing {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let id = state.next_id();
        state.open.insert(id, stream);
        Ok(Registered { id, shared: self })
    }
}

/// Forgets a registered stream when its connection ends.
struct Registered<'a> {
    id: u64,
    shared: &'a Shared,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.state().open.remove(&self.id);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut state = shared.state();
        if state.closing {
            return;
        }
        state.connections.retain(|thread| !thread.is_finished());
        let for_connection = Arc::clone(shared);
        let serve = move |stream| serve(stream, &for_connection);
        (state.connections).extend(http::serve_apart("proxy", stream, serve));
    }
}

/// Serves one client's connection until either side ends it.
fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let _registered = shared.register(&client)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut upstream = Upstream::new(shared);
    while let Some(message) = Message::read(&mut from_client)? {
        let (id, chosen) = shared.arrived(Request::new(&message));
        let mut forward = || {
            shared.record(id, |request| request.forwarded += 1);
            upstream.ask(&message)
        };
        let answer = match chosen {
            None => forward()?,
            Some((rule, action)) => match action {
                Action::Answer(answer) => answer.message(),
                Action::Silence => return wait_for_end(&mut from_client),
                Action::Cut => return Ok(()),
                Action::Delay(duration) => {
                    shared.delay(duration);
                    forward()?
                }
                Action::Hold => {
                    shared.hold(rule);
                    forward()?
                }
                Action::HoldAnswer => {
                    let answer = forward()?;
                    shared.hold_answer(rule);
                    answer
                }
                Action::CutAnswer => {
                    forward()?;
                    return Ok(());
                }
                Action::SilenceAnswer => {
                    forward()?;
                    return wait_for_end(&mut from_client);
                }
                Action::Duplicate => {
                    forward()?;
                    forward()?
                }
                Action::Date(date) => {
                    let mut answer = forward()?;
                    answer.set_header("date", date.header());
                    answer
                }
                Action::ReplaceAnswer(answer) => {
                    forward()?;
                    answer.message()
                }
            },
        };
        let status = answer.status()?;
        let error = error_type(&answer);
        // Before the answer is sent: a client that has it may look at the record at once.
        shared.record(id, |request| {
            request.status = Some(status);
            request.error = error;
        });
        answer.write(&mut client)?;
    }
    Ok(())
}

/// Reads and drops what the client still sends, until it ends the connection.
fn wait_for_end(from: &mut impl Read) -> io::Result<()> {
    io::copy(from, &mut io::sink()).map(drop)
}

/// The error that an answer tells, without its namespace.
fn error_type(answer: &Message) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let kind = body["__type"].as_str()?;
    Some(kind.rsplit('#').next().unwrap_or(kind).to_owned())
}

/// What stands behind one client's connection; connected when it is first asked.
struct Upstream<'a> {
    shared: &'a Shared,
    connection: Option<(TcpStream, BufReader<TcpStream>, Registered<'a>)>,
}

impl<'a> Upstream<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            connection: None,
        }
    }

    fn ask(&mut self, request: &Message) -> io::Result<Message> {
        let address = match &self.shared.behind {
            Behind::Upstream(address) => address,
            Behind::Nothing(answer) => return Ok(answer.message()),
        };
        let (stream, answers, _) = match &mut self.connection {
            Some(connection) => connection,
            unconnected => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                let registered = self.shared.register(&stream)?;
                let answers = BufReader::new(stream.try_clone()?);
                unconnected.insert((stream, answers, registered))
            }
        };
        request.write(stream)?;
        Message::read(answers)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
