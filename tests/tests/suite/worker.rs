//! Processes of the binary `worker`, driven by a test, and the stage they appear on.

use std::fs;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::dynamodb::{AttributeValue, LockTable, env_for};
use integration::emulator::Emulator;
use integration::process::{NoLine, Worker, wait_until};
use integration::proxy::{Proxy, Request};
use integration::scratch::Scratch;

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What a command came to.
pub(crate) type Answer = Result<String, Failure>;

/// An error that a worker reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The variant's name: of `LockError` where the lock is the cause, else of Diesel's error.
    pub(crate) kind: String,
    /// Whether Diesel's error says that the transaction may be run again.
    pub(crate) retryable: bool,
    pub(crate) message: String,
}

impl Failure {
    #[track_caller]
    pub(crate) fn assert_retryable(&self, kind: &str) {
        assert_eq!(self.kind, kind, "{self:?}");
        assert!(self.retryable, "{self:?}");
    }
}

/// A process with one connection or one lock client.
pub(crate) struct Process {
    worker: Worker,
}

impl Process {
    /// Starts it and waits until its connection is open, or fails to open.
    pub(crate) fn start(endpoint: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let command = Command::new(env!("CARGO_BIN_EXE_worker"));
        Self::start_through(command, endpoint, arguments)
    }

    /// The same by a command that runs the binary, given the worker's arguments.
    pub(crate) fn start_through(
        mut command: Command,
        endpoint: &str,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        Self::start_by(command.args(arguments).envs(env_for(endpoint)))
    }

    /// The same by a command that is complete.
    pub(crate) fn start_by(command: &mut Command) -> Result<Self, Failure> {
        let worker = Worker::spawn(command).expect("the worker starts");
        let process = Self { worker };
        process.answer().map(|_| process)
    }

    /// Gives a command and waits for what it comes to.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> Answer {
        self.tell(command);
        self.answer()
    }

    /// Gives a command that has to succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: &str) -> String {
        match self.ask(command) {
            Ok(text) => text,
            Err(failure) => panic!("`{command}`: {failure:?}"),
        }
    }

    /// Gives a command that has to fail.
    #[track_caller]
    pub(crate) fn fails(&mut self, command: &str) -> Failure {
        match self.ask(command) {
            Ok(text) => panic!("`{command}` succeeded: {text}"),
            Err(failure) => failure,
        }
    }

    /// Gives a command that has to be refused because another holds the lease; again where a busy
    /// machine lets none of the store's answers come in time.
    #[track_caller]
    pub(crate) fn busy(&mut self, command: &str) -> Failure {
        let begun = Instant::now();
        loop {
            let failure = self.fails(command);
            let unheard = failure.kind == "Store" && failure.retryable;
            if !unheard || begun.elapsed() > LONG * 2 {
                assert_eq!(failure.kind, "Busy", "`{command}`: {failure:?}");
                return failure;
            }
        }
    }

    /// Gives a command without waiting; [`answer`](Self::answer) is to be called for it.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &str) {
        self.try_tell(command).expect("the worker listens");
    }

    /// The same, to a process that may have died.
    pub(crate) fn try_tell(&mut self, command: &str) -> io::Result<()> {
        self.worker.send(command)
    }

    /// Waits for what the command before came to.
    #[track_caller]
    pub(crate) fn answer(&self) -> Answer {
        self.answer_within(LONG * 4).expect("the worker answers")
    }

    /// The answer, if it is there.
    #[track_caller]
    pub(crate) fn answered(&self) -> Option<Answer> {
        match self.answer_within(Duration::ZERO) {
            Ok(answer) => Some(answer),
            Err(NoLine::TimedOut(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for an answer, or for the process's end without one.
    #[track_caller]
    pub(crate) fn last_answer(&self) -> Option<Answer> {
        match self.answer_within(LONG * 4) {
            Ok(answer) => Some(answer),
            Err(NoLine::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits so long for the answer of a process that may give none.
    pub(crate) fn answer_within(&self, within: Duration) -> Result<Answer, NoLine> {
        self.worker.line(within).map(|line| Self::parse(&line))
    }

    #[track_caller]
    fn parse(line: &str) -> Answer {
        if let Some(text) = line.strip_prefix("ok") {
            return Ok(text.trim_start().to_owned());
        }
        let mut words = line.splitn(4, ' ');
        let (error, kind, again) = (words.next(), words.next(), words.next());
        assert_eq!(error, Some("error"), "{line}");
        Err(Failure {
            kind: kind.unwrap_or_default().to_owned(),
            retryable: again == Some("retryable"),
            message: words.next().unwrap_or_default().to_owned(),
        })
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.worker.kill().expect("the worker can be killed");
    }

    /// As `kill -9`; what it had answered by then, if anything.
    pub(crate) fn kill_in_the_act(mut self) -> Option<Answer> {
        self.worker.kill().expect("the worker can be killed");
        self.last_answer()
    }

    /// Lets it have no more memory than it has now.
    pub(crate) fn starve(&self) {
        self.worker.starve().expect("the worker can be starved");
    }

    /// Waits until it has ended by itself.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.worker.wait(LONG).expect("the worker ends")
    }

    /// Closes its input and waits for its orderly end.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.worker.close_stdin();
        let status = self.worker.wait(LONG).expect("the worker ends");
        assert!(status.success(), "the worker ended with {status}");
    }

    /// Stops it where it stands.
    pub(crate) fn pause(&self) {
        self.worker.pause().expect("the worker can be stopped");
    }

    pub(crate) fn resume(&self) {
        self.worker.resume().expect("the worker can go on");
    }

    pub(crate) fn id(&self) -> u32 {
        self.worker.id()
    }
}

/// One database and the lock table that guards it.
pub(crate) struct Stage {
    pub(crate) scratch: Scratch,
    pub(crate) table: LockTable,
    /// `base-vfs=..` for all its processes.
    base_vfs: &'static str,
}

impl Stage {
    /// An empty directory and an empty table.
    pub(crate) fn new(table: &str) -> Self {
        Self {
            scratch: Scratch::new().expect("a directory"),
            table: LockTable::create(Emulator::shared().endpoint(), table).expect("a lock table"),
            base_vfs: "base-vfs=unix",
        }
    }

    /// The same, for processes whose file locks do nothing, as between hosts whose network file
    /// system has lost them.
    pub(crate) fn without_file_locks(table: &str) -> Self {
        Self {
            base_vfs: "base-vfs=unix-none",
            ..Self::new(table)
        }
    }

    /// The lock item's key.
    pub(crate) fn key(&self) -> String {
        format!("database#{}", self.scratch.database().display())
    }

    fn url(&self, parameters: &str) -> String {
        let read_check = match self.base_vfs {
            "base-vfs=unix-none" => "&lock_read_check=counter",
            _ => "",
        };
        format!(
            "{}?lock_table={}{read_check}&{parameters}",
            self.scratch.database().display(),
            self.table.name()
        )
    }

    /// A process with a connection to the database, with these URL parameters.
    #[track_caller]
    pub(crate) fn open(&self, parameters: &str) -> Process {
        let opened = self.try_open(Emulator::shared().endpoint(), parameters, &[]);
        opened.expect("the database opens")
    }

    /// The same, behind a proxy of the process's own.
    #[track_caller]
    pub(crate) fn open_behind(&self, proxy: &Proxy, parameters: &str) -> Process {
        let opened = self.try_open(&proxy.endpoint(), parameters, &[]);
        opened.expect("the database opens")
    }

    /// A process that may fail to open the database, with further options.
    pub(crate) fn try_open(
        &self,
        endpoint: &str,
        parameters: &str,
        options: &[&str],
    ) -> Result<Process, Failure> {
        let url = self.url(parameters);
        let mut arguments = vec!["database", url.as_str(), self.base_vfs];
        arguments.extend(options);
        Process::start(endpoint, &arguments)
    }

    /// Whether there is anything at the journal's path.
    pub(crate) fn has_journal(&self) -> bool {
        self.scratch.journal().exists()
    }

    /// What the files hold now, the journal's being `None` if there is none.
    pub(crate) fn files(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let database = fs::read(self.scratch.database()).expect("the database can be read");
        (database, fs::read(self.scratch.journal()).ok())
    }

    /// The lock item's attribute, if there is an item and it has one.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        let item = self.table.item(&self.key()).expect("the table answers")?;
        match item.get(name)? {
            AttributeValue::S(text) | AttributeValue::N(text) => Some(text.clone()),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Waits until the lease in the table is over by the store's clock, which is this host's.
    #[track_caller]
    pub(crate) fn wait_until_expired(&self) {
        let expires_at = self.attribute("expires_at").expect("an item");
        let expires_at: f64 = expires_at.parse().expect("a number");
        let expires_at = UNIX_EPOCH + Duration::from_secs_f64(expires_at);
        wait_until(LONG, "the lease has expired", || {
            SystemTime::now() > expires_at
        });
    }

    /// Asserts what has to hold at the end of every test: nobody's item, nobody's journal, and a
    /// file in which SQLite finds nothing wrong.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        let mut auditor = self.open("");
        assert_eq!(auditor.ok("query PRAGMA integrity_check"), "ok");
        assert_eq!(
            self.table.count().expect("a count"),
            0,
            "a lock item is left"
        );
        assert!(!self.has_journal(), "a journal is left");
    }
}

/// A proxy before the shared emulator.
pub(crate) fn proxy() -> Proxy {
    Proxy::start(Emulator::shared().endpoint()).expect("a proxy")
}

/// The requests that have come to a proxy, as `PutItem 200`; a refused condition is `refused`.
pub(crate) fn requests(proxy: &Proxy) -> Vec<String> {
    let line = |request: Request| {
        let answer = match (request.status, request.error.as_deref()) {
            (_, Some("ConditionalCheckFailedException")) => "refused".to_owned(),
            (Some(status), _) => status.to_string(),
            (None, _) => "unanswered".to_owned(),
        };
        format!("{} {answer}", request.operation)
    };
    proxy.requests().into_iter().map(line).collect()
}

/// The same by what each is for, as `Acquire 200`; what is repeated, as a busy machine has it, counts
/// once. A release that is repeated finds nothing any more.
pub(crate) fn steps(proxy: &Proxy) -> Vec<String> {
    let purposes = proxy.requests().into_iter().map(|request| {
        let purpose = request.purpose().map(|purpose| format!("{purpose:?}"));
        purpose.unwrap_or_else(|| request.operation.to_string())
    });
    let answers = requests(proxy).into_iter();
    let mut steps: Vec<_> = (purposes.zip(answers))
        .map(|(purpose, line)| {
            let (_, answer) = line.split_once(' ').expect("two words");
            format!("{purpose} {answer}")
        })
        .collect();
    steps.dedup_by(|again, before| {
        again == before
            || (again.as_str(), before.as_str()) == ("DeleteItem refused", "DeleteItem 200")
    });
    steps
}

/// The ledger holds what each `writer-NUMBER` was told that it has written, and nothing else.
#[track_caller]
pub(crate) fn assert_ledger(auditor: &mut Process, acknowledged: &[u64]) {
    let total = acknowledged.iter().sum::<u64>().to_string();
    assert_eq!(auditor.ok("query SELECT value FROM counter"), total);
    for (number, acknowledged) in acknowledged.iter().enumerate() {
        let found = auditor.ok(&format!(
            "query SELECT count(*), coalesce(max(sequence), 0) FROM entry \
             WHERE writer = 'writer-{number}'"
        ));
        assert_eq!(found, format!("{acknowledged}|{acknowledged}"));
    }
    let distinct = auditor.ok("query SELECT count(DISTINCT counter_value) FROM entry");
    assert_eq!(distinct, total, "an update was lost");
    assert_eq!(auditor.ok("query SELECT sum(balance) FROM account"), "8000");
}

/// `12` for `.. 12 torn ..`.
pub(crate) fn number_before(answer: &str, word: &str) -> u64 {
    let words: Vec<_> = answer.split([' ', ',']).collect();
    let at = words.iter().position(|candidate| *candidate == word);
    let number = at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok());
    number.unwrap_or_else(|| panic!("no number before `{word}` in `{answer}`"))
}
