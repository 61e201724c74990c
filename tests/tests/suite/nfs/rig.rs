//! One database on the rig's mount, the hosts that share it, and what may befall them.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::dynamodb::{LockTable, env_for};
use integration::emulator::Emulator;
use integration::options;
use integration::process::wait_until;
use integration::proxy::Proxy;

use crate::fixtures::workers::{CREATE_ITEMS, WorkerProcess, proxy};

/// Emulated hosts are slow.
pub(super) const LONG_ON_RIG: Duration = Duration::from_secs(120);
/// After this time without a sign of life the server gives a client's file locks to others.
const NFS_LEASE: Duration = Duration::from_secs(10);
/// The lease under test: short to wait for, long for a slow host.
pub(super) const LEASE: &str = "lock_expiration=20&lock_timeout=60";
/// For whoever comes after.
pub(super) const PATIENT: &str = "lock_expiration=60&lock_timeout=90";

pub(super) const NEXT: &str = "next|40";
pub(super) const OVERWRITE: &str = "execute UPDATE item SET state = 'next'";
/// The counter, the entries, the sum of the accounts: 8000.
pub(super) const LEDGER: &str = "query SELECT (SELECT value FROM counter), \
     (SELECT count(*) FROM entry), (SELECT sum(balance) FROM account)";

/// Which mount of the export a database is used through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mount {
    /// NFSv4.1 as AWS recommends for EFS.
    Efs,
    /// The same files by NFSv3 with `nolock`: each client grants file locks by itself.
    WithoutLocks,
}

impl Mount {
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Efs => "/mnt/efs",
            Self::WithoutLocks => "/mnt/alt",
        }
    }
}

/// One database on the mount.
pub(super) struct NfsFixture {
    rig: PathBuf,
    pub(super) table: LockTable,
    name: String,
    mount: Mount,
    /// For processes that are in no trouble.
    pub(super) proxy: Proxy,
}

thread_local! {
    static SITES: Cell<u32> = const { Cell::new(0) };
}

impl NfsFixture {
    pub(super) fn new() -> Self {
        Self::on(Mount::Efs)
    }

    pub(super) fn on(mount: Mount) -> Self {
        let rig = options::nfs_rig().expect("EFS_TESTS_NFS_RIG names the rig's program");
        let number = SITES.replace(SITES.get() + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
        let name = format!("nfs-{}-{number}", now.as_millis());
        let endpoint = Emulator::shared().endpoint();
        let fixture = Self {
            rig,
            table: LockTable::create(endpoint, &name).expect("a lock table"),
            name,
            mount,
            proxy: proxy(),
        };
        if mount == Mount::WithoutLocks {
            for host in ["A", "B"] {
                fixture.mount_without_locks(host);
            }
        }
        fixture
    }

    fn mount_without_locks(&self, host: &str) {
        let options = "nfsvers=3,nolock,proto=tcp,mountproto=tcp,rsize=1048576,wsize=1048576,\
                       hard,timeo=600,retrans=2,noresvport";
        let directory = Mount::WithoutLocks.directory();
        let mounted = format!("grep -c ' {directory} nfs ' /proc/mounts; true");
        if self.run(&["exec", host, &mounted]).trim() == "0" {
            self.run(&["mount", host, directory, options]);
        }
    }

    pub(super) fn run(&self, arguments: &[&str]) -> String {
        let output = (Command::new(&self.rig).args(arguments).output()).expect("the rig runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Where the binary `worker` is on all hosts, for this run of the suite alone.
    fn worker(&self) -> &'static str {
        static WORKER: OnceLock<String> = OnceLock::new();
        WORKER.get_or_init(|| {
            let path = format!("/work/worker-{}", process::id());
            for host in ["S", "C"] {
                self.put(env!("CARGO_BIN_EXE_worker"), host, &path);
            }
            path
        })
    }

    pub(super) fn put(&self, file: &str, host: &str, path: &str) {
        self.run(&["put", "-m", "755", file, &format!("{host}:{path}")]);
    }

    /// The database's path on A, B and C.
    pub(super) fn path(&self) -> String {
        format!("{}/{}.db", self.mount.directory(), self.name)
    }

    /// The same on the server.
    pub(super) fn exported(&self) -> String {
        format!("/export/{}.db", self.name)
    }

    /// A file on a host that is none of the database's.
    pub(super) fn note(&self, what: &str) -> String {
        format!("/work/{}.{what}", self.name)
    }

    /// A process on that host, behind a proxy of its own.
    pub(super) fn open(&self, host: &str, proxy: &Proxy, parameters: &str) -> WorkerProcess {
        self.open_over("unix", host, proxy, parameters)
    }

    /// A process whose SQLite takes file locks as that VFS does.
    pub(super) fn open_over(
        &self,
        base_vfs: &str,
        host: &str,
        proxy: &Proxy,
        parameters: &str,
    ) -> WorkerProcess {
        let url = format!(
            "{}?lock_table={}&{parameters}",
            self.path(),
            self.table.name()
        );
        let base_vfs = format!("base-vfs={base_vfs}");
        let program = [self.worker(), "database", &url, &base_vfs];
        self.start(host, &proxy.endpoint(), &[], &program)
    }

    /// A process of plain SQLite.
    pub(super) fn open_plain(&self, host: &str) -> WorkerProcess {
        let path = match host {
            "S" => self.exported(),
            _ => self.path(),
        };
        let program = [self.worker(), "plain", &path];
        self.start(host, &self.proxy.endpoint(), &[], &program)
    }

    /// A process that speaks as workers do; its number is noted under [`note("pid")`](Self::note)
    /// followed by the host's name.
    pub(super) fn start(
        &self,
        host: &str,
        endpoint: &str,
        environment: &[(&str, &str)],
        program: &[&str],
    ) -> WorkerProcess {
        let mut command = Command::new(&self.rig);
        command.args(["exec", "-i", "-t", "900"]);
        let endpoint = endpoint.replace("127.0.0.1", "10.0.2.2");
        for (name, value) in env_for(&endpoint) {
            command.args(["-e", &format!("{name}={value}")]);
        }
        let table = ("SQLITE_LOCK_DYNAMODB_TABLE", self.table.name());
        for (name, value) in environment.iter().chain([&table]) {
            command.args(["-e", &format!("{name}={value}")]);
        }
        let note = format!("echo $$ >{}-{host}; exec \"$@\"", self.note("pid"));
        command.args([host, "sh", "-c", &note, "sh"]);
        WorkerProcess::start_by(command.args(program)).expect("the database opens")
    }

    /// The number of the process that was started last on that host.
    pub(super) fn process_on(&self, host: &str) -> String {
        let note = format!("{}-{host}", self.note("pid"));
        self.run(&["exec", host, "cat", &note]).trim().to_owned()
    }

    pub(super) fn furnish(&self, host: &str) {
        self.open(host, &self.proxy, PATIENT).ok(CREATE_ITEMS);
    }

    /// Waits until the lock's lease and the file system's are both over.
    pub(super) fn wait_until_expired(&self) {
        let since = Instant::now();
        let key = format!("database#{}", self.path());
        self.table.wait_until_expired(&key, LONG_ON_RIG);
        wait_until(LONG_ON_RIG, "the file system's lease has expired", || {
            since.elapsed() > NFS_LEASE + Duration::from_secs(2)
        });
    }

    /// Whether there is anything at the journal's path, as the server sees it.
    pub(super) fn has_journal(&self) -> bool {
        let look = format!("ls {}-journal 2>/dev/null; true", self.exported());
        !self.run(&["exec", "S", &look]).trim().is_empty()
    }

    pub(super) fn assert_whole(&self) {
        let mut auditor = self.open("B", &self.proxy, PATIENT);
        assert_eq!(auditor.ok("query PRAGMA integrity_check"), "ok");
        assert_eq!(
            self.table.count().expect("a count"),
            0,
            "a lock item is left"
        );
        assert!(!self.has_journal(), "a journal is left");
    }
}

/// Where a host is frozen or cut off, in the middle of a transaction that changes all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Nothing but a cold journal has been written.
    BeforeCommit,
    /// The pages are synced, the journal is hot; next is what commits: our record's request, or the
    /// journal's end.
    Committing,
    /// That is done, and nobody has been told.
    Committed,
}

/// What another host does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Successor {
    Idle,
    Commits,
    /// It is in the middle of its own transaction when the other comes back.
    StaysOpen,
}

/// Calls `case` with each.
pub(super) fn each_case(mut case: impl FnMut(Point, Successor)) {
    for point in [Point::BeforeCommit, Point::Committing, Point::Committed] {
        for successor in [Successor::Idle, Successor::Commits, Successor::StaysOpen] {
            case(point, successor);
        }
    }
}

/// How a host is lost for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Frozen,
    CutOff,
}

/// A host in trouble, until this is dropped: also where a test fails, for the tests after it.
pub(super) struct Lost<'a> {
    fixture: &'a NfsFixture,
    host: &'a str,
    trouble: Trouble,
}

impl<'a> Lost<'a> {
    pub(super) fn begin(fixture: &'a NfsFixture, host: &'a str, trouble: Trouble) -> Self {
        match trouble {
            Trouble::Frozen => fixture.run(&["freeze", host]),
            Trouble::CutOff => fixture.run(&["net", host, "down"]),
        };
        Self {
            fixture,
            host,
            trouble,
        }
    }
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        match self.trouble {
            Trouble::Frozen => self.fixture.run(&["thaw", self.host]),
            Trouble::CutOff => self.fixture.run(&["net", self.host, "up"]),
        };
    }
}

/// A system call of a commit that changes all pages of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// The journal is hot, the fifth page has been written.
    SomePagesWritten,
    /// The journal is hot; its deletion is next.
    PagesSynced,
    /// That is the commit.
    JournalDeleted,
}

/// A process that `strace` stops at a system call of its commit.
pub(super) struct StandingStill<'a> {
    fixture: &'a NfsFixture,
    host: &'a str,
    pub(super) process: String,
    /// The number of the process that watches it.
    strace: String,
    log: String,
}

impl<'a> StandingStill<'a> {
    /// Has the process of that number stop there, in its next commit.
    pub(super) fn at(fixture: &'a NfsFixture, host: &'a str, process: &str, call: Call) -> Self {
        let (calls, number, file) = match call {
            Call::SomePagesWritten => ("write,pwrite64", 5, fixture.path()),
            Call::PagesSynced => ("fsync,fdatasync", 1, fixture.path()),
            Call::JournalDeleted => ("unlink", 1, format!("{}-journal", fixture.path())),
        };
        let (log, attached) = (fixture.note("strace"), fixture.note("attached"));
        let stop = format!("inject={calls}:signal=SIGSTOP:when={number}");
        let calls = format!("trace={calls}");
        let command = [
            "exec", "-b", &attached, host, "strace", "-o", &log, "-P", &file,
        ];
        let strace =
            fixture.run(&[&command[..], &["-e", &calls, "-e", &stop, "-p", process]].concat());
        wait_until(LONG_ON_RIG, "strace is attached", || {
            fixture
                .run(&["exec", host, &format!("cat {attached}; true")])
                .contains("attached")
        });
        Self {
            fixture,
            host,
            process: process.to_owned(),
            strace: strace.trim().to_owned(),
            log,
        }
    }

    pub(super) fn wait(&self) {
        let look = format!("cat {}; true", self.log);
        wait_until(LONG_ON_RIG, "the process stands still", || {
            (self.fixture.run(&["exec", self.host, &look])).contains("stopped by SIGSTOP")
        });
    }

    /// Takes effect once its host is no longer frozen.
    pub(super) fn go_on(&self) {
        // A and B share the server's process numbers.
        let host = if self.host == "C" { "C" } else { "S" };
        self.fixture
            .run(&["exec", host, "kill", "-CONT", &self.process]);
    }
}

impl Drop for StandingStill<'_> {
    /// The process goes on without being watched, unless it has ended.
    fn drop(&mut self) {
        let end = format!("kill {}; true", self.strace);
        self.fixture.run(&["exec", self.host, &end]);
    }
}
