//! What plain SQLite and the Python package do in the same cases: observed and told, not asserted.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use integration::emulator::Emulator;
use integration::process::NoLine;

use super::rig::{
    Call, LEDGER, LONG_ON_RIG, Lost, Mount, NEXT, NfsFixture, OVERWRITE, Point, StandingStill,
    Successor, Trouble, each_case,
};
use crate::fixtures::workers::{
    Answer, CREATE_ITEMS, Failure, NEW_ITEMS, OLD_ITEMS, READ_ITEMS, WRITE_ITEMS, WorkerProcess,
};

/// Who opens the database instead of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    PlainSqlite,
    PythonPackage,
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn plain_sqlite_on_a_frozen_client() {
    Peer::PlainSqlite.loses("A", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn plain_sqlite_on_a_client_that_was_cut_off() {
    Peer::PlainSqlite.loses("A", Trouble::CutOff);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn plain_sqlite_on_a_machine_whose_clocks_stood_still() {
    Peer::PlainSqlite.loses("C", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn plain_sqlite_where_a_writer_is_killed() {
    Peer::PlainSqlite.is_killed();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn plain_sqlite_under_load() {
    Peer::PlainSqlite.is_under_load();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn the_python_package_on_a_frozen_client() {
    Peer::PythonPackage.loses("A", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn the_python_package_on_a_client_that_was_cut_off() {
    Peer::PythonPackage.loses("A", Trouble::CutOff);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn the_python_package_on_a_machine_whose_clocks_stood_still() {
    Peer::PythonPackage.loses("C", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn the_python_package_where_a_writer_is_killed() {
    Peer::PythonPackage.is_killed();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn the_python_package_under_load() {
    Peer::PythonPackage.is_under_load();
}

impl Peer {
    fn open(self, fixture: &NfsFixture, host: &str) -> Hand {
        let mut process = match self {
            Self::PlainSqlite => fixture.open_plain(host),
            Self::PythonPackage => {
                let packages = provide_python(fixture);
                let script = format!("{packages}/worker.py");
                let environment = [
                    ("PYTHONPATH", packages),
                    // boto3 knows no `AWS_REGION`.
                    ("AWS_DEFAULT_REGION", "us-east-1"),
                    ("SQLITE_LOCK_EXPIRATION", "20"),
                    ("SQLITE_LOCK_MAX_ATTEMPTS", "1000"),
                ];
                let path = fixture.path();
                let program = ["python3", &script, &path, "timeout=60"];
                // Not this fixture's proxy: the process may outlive it.
                let endpoint = Emulator::shared().endpoint();
                fixture.start(host, endpoint, &environment, &program)
            }
        };
        match self {
            Self::PlainSqlite => {
                process.ok("query PRAGMA busy_timeout = 60000");
            }
            // The first lock is when boto is loaded.
            Self::PythonPackage => {
                process.tell("immediate");
                if let Ok(Ok(_)) = process.answer_within(3 * LONG_ON_RIG) {
                    process.ok("rollback");
                }
            }
        }
        Hand {
            process,
            number: fixture.process_on(host),
        }
    }

    fn loses(self, host: &str, trouble: Trouble) {
        let mut crew = Crew::default();
        each_case(|point, successor| {
            let seen = self.lose_and_find(&mut crew, host, trouble, point, successor);
            println!(
                "{self:?} | {host} {trouble:?} | {point:?} | successor {successor:?} | {seen} | {}",
                seen.verdict(successor)
            );
        });
    }

    /// As the case of this crate: a writer is lost in mid-transaction and comes back.
    fn lose_and_find(
        self,
        crew: &mut Crew,
        host: &str,
        trouble: Trouble,
        point: Point,
        successor: Successor,
    ) -> Seen {
        let fixture = NfsFixture::new();
        fixture.open_plain("B").ok(CREATE_ITEMS);
        let mut holder = crew.enlist(self, &fixture, host);
        insist(&mut holder.process, "immediate");
        let stopped = (match point {
            Point::BeforeCommit => None,
            Point::Committing => Some(Call::PagesSynced),
            Point::Committed => Some(Call::JournalDeleted),
        })
        .map(|call| StandingStill::at(&fixture, host, &holder.number, call));
        let mut other = crew.enlist(self, &fixture, "B");
        // For half a minute its name cache says that there is no journal.
        assert_eq!(insist(&mut other.process, READ_ITEMS), OLD_ITEMS);
        let looked = Instant::now();
        holder.process.ok(WRITE_ITEMS);
        if let Some(stopped) = &stopped {
            holder.process.tell("commit");
            stopped.wait();
        }
        let lost = Lost::begin(&fixture, host, trouble);
        fixture.wait_until_expired();
        let mut seen = Seen {
            looked: looked.elapsed(),
            ..Seen::default()
        };
        match successor {
            Successor::Idle => {}
            Successor::Commits => {
                seen.successor_read = Some(told(&mut other.process, READ_ITEMS));
                seen.successor_told = Some(told(&mut other.process, OVERWRITE));
            }
            Successor::StaysOpen => {
                let begun = told(&mut other.process, "immediate");
                if begun.is_ok() {
                    seen.successor_read = Some(told(&mut other.process, READ_ITEMS));
                    // Its outcome is the commit's.
                    let _ = told(&mut other.process, OVERWRITE);
                } else {
                    seen.successor_told = Some(begun);
                }
            }
        }
        // A host whose machine stands still takes no orders.
        if host == "C" {
            drop(lost);
            stopped.iter().for_each(StandingStill::go_on);
        } else {
            stopped.iter().for_each(StandingStill::go_on);
            drop(lost);
        }
        if stopped.is_none() {
            holder.process.tell("commit");
        }
        seen.told = Some(Told::of(holder.process.answer_within(LONG_ON_RIG)));
        if successor == Successor::StaysOpen && seen.successor_told.is_none() {
            seen.successor_told = Some(told(&mut other.process, "commit"));
        }
        seen.other_reads = Some(told(&mut other.process, READ_ITEMS));
        drop(stopped);
        crew.dismiss(self, host, holder);
        crew.dismiss(self, "B", other);
        seen.audit(&fixture);
        seen
    }

    /// A writer on A is killed at its commit point; B has just looked for its journal.
    fn is_killed(self) {
        for call in [
            Call::SomePagesWritten,
            Call::PagesSynced,
            Call::JournalDeleted,
        ] {
            let fixture = NfsFixture::new();
            fixture.open_plain("A").ok(CREATE_ITEMS);
            let mut holder = self.open(&fixture, "A");
            insist(&mut holder.process, "immediate");
            let stopped = StandingStill::at(&fixture, "A", &holder.number, call);
            let mut other = self.open(&fixture, "B");
            // For half a minute its name cache says that there is no journal.
            assert_eq!(insist(&mut other.process, READ_ITEMS), OLD_ITEMS);
            let looked = Instant::now();
            holder.process.ok(WRITE_ITEMS);
            holder.process.tell("commit");
            stopped.wait();
            fixture.run(&["exec", "S", "kill", "-KILL", &holder.number]);
            holder.process.kill();
            let mut seen = Seen {
                looked: looked.elapsed(),
                successor_read: Some(told(&mut other.process, READ_ITEMS)),
                successor_told: Some(told(
                    &mut other.process,
                    "execute UPDATE item SET filler = ''",
                )),
                other_reads: Some(told(&mut other.process, READ_ITEMS)),
                ..Seen::default()
            };
            drop(other);
            seen.audit(&fixture);
            println!(
                "{self:?} | A killed | {call:?} | {seen} | {}",
                seen.verdict_of_kill(call)
            );
        }
    }

    /// Two writers and a reader on each of A and B, with file locks and without.
    fn is_under_load(self) {
        for mount in [Mount::Efs, Mount::WithoutLocks] {
            let fixture = NfsFixture::on(mount);
            fixture.open_plain("A").ok("create-ledger");
            let hosts = ["A", "A", "A", "B", "B", "B"];
            let mut processes = hosts.map(|host| self.open(&fixture, host).process);
            for (number, process) in processes.iter_mut().enumerate() {
                process.tell(&match number % 3 {
                    2 => "read-ledger 40".to_owned(),
                    _ => format!("write-ledger writer{number} 40"),
                });
            }
            let mut acknowledged = 0;
            for (process, host) in processes.iter().zip(hosts) {
                let answer = Told::of(process.answer_within(LONG_ON_RIG));
                println!("{self:?} | load, {mount:?} | {host}: {answer}");
                if let Told::Done(text) = &answer
                    && let Some((count, _)) = text.split_once(" acknowledged")
                {
                    acknowledged += count.parse::<u64>().expect("a number");
                }
            }
            drop(processes);
            let mut auditor = fixture.open_plain("S");
            println!(
                "{self:?} | load, {mount:?} | {acknowledged} acknowledged; counter, entries, sum: {}; \
                 integrity_check: {}",
                told(&mut auditor, LEDGER),
                told(&mut auditor, "query PRAGMA integrity_check")
            );
        }
    }
}

/// A process and its number on its host.
struct Hand {
    process: WorkerProcess,
    number: String,
}

/// Processes by their hosts that go on from case to case: Python takes long to start.
#[derive(Default)]
struct Crew(HashMap<String, Hand>);

impl Crew {
    /// A process with a new connection to the fixture's database.
    fn enlist(&mut self, peer: Peer, fixture: &NfsFixture, host: &str) -> Hand {
        match self.0.remove(host) {
            Some(mut hand) => {
                hand.process
                    .ok(&format!("open {} {}", fixture.path(), fixture.table.name()));
                hand
            }
            None => peer.open(fixture, host),
        }
    }

    /// Keeps it for the next case, if it is able to go on.
    fn dismiss(&mut self, peer: Peer, host: &str, mut hand: Hand) {
        if peer == Peer::PythonPackage && told(&mut hand.process, "query SELECT 1").is_ok() {
            self.0.insert(host.to_owned(), hand);
        }
    }
}

/// What the Python package can do without, of 100 MB; boto's descriptions of all services but DynamoDB.
const UNUSED: [&str; 6] = [
    "pip*",
    "setuptools*",
    "LC_MESSAGES",
    "django/contrib",
    "botocore/data/[!d]*/*",
    "botocore/data/d[!y]*/*",
];

/// Installs the Python package here, once, and hands it to the hosts with its worker; returns where
/// it is there.
fn provide_python(fixture: &NfsFixture) -> &'static str {
    static PROVIDED: OnceLock<String> = OnceLock::new();
    PROVIDED.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let archive = pack_python(&sources);
        let there = format!("/work/python-{}", process::id());
        for host in ["S", "C"] {
            let packed = format!("{there}.tar.gz");
            fixture.put(&archive.to_string_lossy(), host, &packed);
            let unpack = format!("mkdir {there} && tar -xzf {packed} -C {there}");
            fixture.run(&["exec", host, &unpack]);
            let script = sources.join("worker.py");
            fixture.put(
                &script.to_string_lossy(),
                host,
                &format!("{there}/worker.py"),
            );
        }
        there
    })
}

fn pack_python(sources: &Path) -> PathBuf {
    let target = (Path::new(env!("CARGO_BIN_EXE_worker")).ancestors())
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .expect("the target directory");
    let directory = target.join("python-package");
    let installed = (Command::new(sources.join("install.sh")).arg(&directory)).status();
    assert!(installed.expect("install.sh runs").success());
    let archive = directory.join(format!("packages-{}.tar.gz", process::id()));
    let packed = Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(packages_in(&directory))
        .args(UNUSED.map(|pattern| format!("--exclude={pattern}")))
        .arg(".")
        .status();
    assert!(packed.expect("tar runs").success());
    archive
}

/// `lib/python3.*/site-packages`
fn packages_in(environment: &Path) -> PathBuf {
    let versions = environment
        .join("lib")
        .read_dir()
        .expect("a virtual environment");
    let version = versions.map(|entry| entry.expect("an entry").path()).next();
    version.expect("a version").join("site-packages")
}

/// What a caller learns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Done(String),
    Failed(Failure),
    /// Within two minutes.
    Nothing,
    /// The process is gone.
    Died,
}

impl Told {
    fn of(answer: Result<Answer, NoLine>) -> Self {
        match answer {
            Ok(Ok(text)) => Self::Done(text),
            Ok(Err(failure)) => Self::Failed(failure),
            Err(NoLine::TimedOut(_)) => Self::Nothing,
            Err(NoLine::Closed) => Self::Died,
        }
    }

    fn is_ok(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(text) => write!(f, "`{text}`"),
            Self::Failed(failure) => write!(f, "{}: {}", failure.kind, failure.message),
            Self::Nothing => f.write_str("no answer"),
            Self::Died => f.write_str("its process has died"),
        }
    }
}

/// Until it succeeds: the Python package gives up on a request after a second, which is short here.
fn insist(process: &mut WorkerProcess, command: &str) -> String {
    for _ in 0..5 {
        process.tell(command);
        match process.answer_within(2 * LONG_ON_RIG).expect("an answer") {
            Ok(text) => return text,
            Err(failure) => println!("once more: `{command}`: {}", failure.message),
        }
    }
    panic!("`{command}` does not succeed");
}

fn told(process: &mut WorkerProcess, command: &str) -> Told {
    if process.try_tell(command).is_err() {
        return Told::Died;
    }
    Told::of(process.answer_within(LONG_ON_RIG))
}

/// What was seen in a case.
#[derive(Debug, Default)]
struct Seen {
    /// How long before the successor's first step it had looked for the journal's name.
    looked: Duration,
    /// What the commit came to that its host was lost in.
    told: Option<Told>,
    successor_read: Option<Told>,
    successor_told: Option<Told>,
    /// At the end.
    other_reads: Option<Told>,
    has_journal: bool,
    /// By the server.
    there: String,
    integrity: String,
}

impl Seen {
    fn audit(&mut self, fixture: &NfsFixture) {
        self.has_journal = fixture.has_journal();
        let mut auditor = fixture.open_plain("S");
        self.there = told(&mut auditor, READ_ITEMS).to_string();
        self.integrity = told(&mut auditor, "query PRAGMA integrity_check").to_string();
    }

    fn is(&self, state: &str) -> bool {
        self.there == format!("`{state}`")
    }

    fn successor_has_read(&self, state: &str) -> bool {
        self.successor_read == Some(Told::Done(state.to_owned()))
    }

    fn is_torn(&self) -> bool {
        self.integrity != "`ok`"
            || ![OLD_ITEMS, NEW_ITEMS, NEXT]
                .iter()
                .any(|state| self.is(state))
    }

    /// Whether what was told agrees with what is there.
    fn verdict(&self, successor: Successor) -> &'static str {
        let acknowledged = self.told.as_ref().is_some_and(Told::is_ok);
        let successor_acknowledged = self.successor_told.as_ref().is_some_and(Told::is_ok);
        let refused = matches!(self.told, Some(Told::Failed(_)));
        if self.is_torn() {
            "TORN"
        } else if successor_acknowledged && !self.is(NEXT) {
            "THE SUCCESSOR'S COMMIT IS LOST"
        } else if matches!(self.successor_told, Some(Told::Failed(_))) && self.is(NEXT) {
            "THE SUCCESSOR'S WAS REFUSED, YET IS THERE"
        } else if acknowledged && self.successor_has_read(OLD_ITEMS) {
            "ACKNOWLEDGED, YET ROLLED BACK"
        } else if acknowledged && !successor_acknowledged && !self.is(NEW_ITEMS) {
            "ACKNOWLEDGED, YET LOST"
        } else if refused && successor == Successor::Idle && self.is(NEW_ITEMS) {
            "REFUSED, YET THERE"
        } else if refused && self.successor_has_read(NEW_ITEMS) {
            "REFUSED, YET READ_ITEMS AND BUILT UPON"
        } else {
            "agrees"
        }
    }

    /// Whether the killed writer's transaction is there as a whole or not at all.
    fn verdict_of_kill(&self, call: Call) -> &'static str {
        if self.is_torn() {
            "TORN"
        } else if ![OLD_ITEMS, NEW_ITEMS]
            .iter()
            .any(|state| self.successor_has_read(state))
        {
            "A READ_ITEMS WAS TORN"
        } else if call == Call::JournalDeleted && !self.is(NEW_ITEMS) {
            "COMMITTED, YET LOST"
        } else {
            "whole"
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, told) in [
            ("told", &self.told),
            ("successor read", &self.successor_read),
            ("was told", &self.successor_told),
            ("reads", &self.other_reads),
        ] {
            if let Some(told) = told {
                write!(f, "{what} {told}; ")?;
            }
        }
        let journal = if self.has_journal {
            ", a journal is left"
        } else {
            ""
        };
        write!(
            f,
            "looked {} s before; there {}, integrity_check {}{journal}",
            self.looked.as_secs(),
            self.there,
            self.integrity
        )
    }
}
