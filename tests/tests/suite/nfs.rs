//! The same promises on a real NFSv4.1 mount with independent clients. By hand: it needs a rig of
//! virtual machines and takes about half an hour under software emulation.
//!
//! ```sh
//! EFS_NFS_RIG=path/to/rig cargo test -p integration --test suite -- --ignored --nocapture \
//!     --test-threads=1 nfs::
//! ```
//!
//! The rig is a program with these commands, and hosts `A` and `B` (NFS clients that share a
//! kernel), `C` (a client in a virtual machine of its own) and `S` (the server), which all have the
//! same export mounted at `/mnt/efs`, and reach this host's loopback interface as `10.0.2.2`:
//! `put FILE PATH`; `exec [-i] [-e NAME=VALUE].. HOST PROGRAM ARGUMENT..`; `freeze HOST` and
//! `thaw HOST` (all its processes stand still and the wire is cut; for `C` the whole machine, whose
//! clocks then stand still, too); `net HOST down|up`; `nfsd restart`. The server's NFS lease is 10 s.

use std::cell::Cell;
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::dynamodb::{AttributeValue, LockTable, env_for};
use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Proxy, Rule};

use crate::worker::{Answer, Failure, Process, proxy};

/// Emulated hosts are slow.
const VERY_LONG: Duration = Duration::from_secs(120);
/// After this time without a sign of life the server gives a client's file locks to others.
const NFS_LEASE: Duration = Duration::from_secs(10);

const OLD: &str = "old|40";
const NEW: &str = "new|40";
const NEXT: &str = "next|40";
const READ: &str = "query SELECT state, count(*) FROM item GROUP BY state";
const WRITE: &str = "execute UPDATE item SET state = 'new'";
const OVERWRITE: &str = "execute UPDATE item SET state = 'next'";

/// Where a host is frozen or cut off, in the middle of a transaction that changes all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Nothing but a cold journal has been written.
    BeforeCommit,
    /// The pages are synced, the journal is hot, the commit record is on its way.
    Confirmation,
    /// The commit record is written, the answer on its way.
    Recorded,
}

/// What another host does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Successor {
    Idle,
    Commits,
    /// It is in the middle of its own transaction when the other comes back.
    StaysOpen,
}

/// One database on the mount.
struct Site {
    rig: PathBuf,
    table: LockTable,
    path: String,
    /// For processes that are in no trouble.
    proxy: Proxy,
}

thread_local! {
    static SITES: Cell<u32> = const { Cell::new(0) };
}

impl Site {
    fn new() -> Self {
        let rig = env::var_os("EFS_NFS_RIG").expect("EFS_NFS_RIG names the rig's program");
        let number = SITES.replace(SITES.get() + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
        let name = format!("nfs-{}-{number}", now.as_millis());
        let endpoint = Emulator::shared().endpoint();
        let site = Self {
            rig: rig.into(),
            table: LockTable::create(endpoint, &name).expect("a lock table"),
            path: format!("/mnt/efs/{name}.db"),
            proxy: proxy(),
        };
        for host in ["S", "C"] {
            let worker = env!("CARGO_BIN_EXE_worker");
            site.run(&[
                "put",
                "-m",
                "755",
                worker,
                &format!("{host}:/usr/local/bin/worker"),
            ]);
        }
        site
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = (Command::new(&self.rig).args(arguments).output()).expect("the rig runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// A process on that host, behind a proxy of its own.
    fn open(&self, host: &str, proxy: &Proxy, parameters: &str) -> Process {
        self.open_over("unix", host, proxy, parameters)
    }

    /// A process whose SQLite takes file locks as that VFS does.
    fn open_over(&self, base_vfs: &str, host: &str, proxy: &Proxy, parameters: &str) -> Process {
        let url = format!(
            "{}?lock_table={}&{parameters}",
            self.path,
            self.table.name()
        );
        let mut command = Command::new(&self.rig);
        command.args(["exec", "-i", "-t", "600"]);
        let endpoint = proxy.endpoint().replace("127.0.0.1", "10.0.2.2");
        for (name, value) in env_for(&endpoint) {
            command.args(["-e", &format!("{name}={value}")]);
        }
        let base_vfs = format!("base-vfs={base_vfs}");
        command.args([host, "/usr/local/bin/worker", "database", &url, &base_vfs]);
        Process::start_by(&mut command).expect("the database opens")
    }

    fn furnish(&self, host: &str) {
        self.open(host, &self.proxy, PATIENT).ok(
            "batch CREATE TABLE item (id INTEGER PRIMARY KEY, state TEXT, filler BLOB); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
             INSERT INTO item (state, filler) SELECT 'old', zeroblob(1000) FROM n",
        );
    }

    fn expires_at(&self) -> Option<SystemTime> {
        let item = self.table.item(&format!("database#{}", self.path));
        match item.expect("the table answers")?.get("expires_at")? {
            AttributeValue::N(digits) => {
                let seconds = digits.parse().expect("a number");
                Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Waits until the lock's lease and the file system's are both over.
    fn wait_until_expired(&self) {
        let since = Instant::now();
        wait_until(VERY_LONG, "both leases have expired", || {
            since.elapsed() > NFS_LEASE + Duration::from_secs(2)
                && (self.expires_at()).is_none_or(|end| SystemTime::now() > end)
        });
    }

    fn assert_whole(&self) {
        let mut auditor = self.open("B", &self.proxy, PATIENT);
        assert_eq!(auditor.ok("query PRAGMA integrity_check"), "ok");
        assert_eq!(
            self.table.count().expect("a count"),
            0,
            "a lock item is left"
        );
        let exported = self.path.replace("/mnt/efs", "/export");
        let journal = self.run(&[
            "exec",
            "S",
            &format!("ls {exported}-journal 2>/dev/null; true"),
        ]);
        assert_eq!(journal.trim(), "", "a journal is left");
    }
}

/// The lease under test: short to wait for, long for a slow host.
const LEASE: &str = "lock_expiration=20&lock_timeout=60";
/// For whoever comes after.
const PATIENT: &str = "lock_expiration=60&lock_timeout=90";

/// How a host is lost for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Frozen,
    CutOff,
}

/// A host in trouble, until this is dropped: also where a test fails, for the tests after it.
struct Lost<'a> {
    site: &'a Site,
    host: &'a str,
    trouble: Trouble,
}

impl<'a> Lost<'a> {
    fn begin(site: &'a Site, host: &'a str, trouble: Trouble) -> Self {
        match trouble {
            Trouble::Frozen => site.run(&["freeze", host]),
            Trouble::CutOff => site.run(&["net", host, "down"]),
        };
        Self {
            site,
            host,
            trouble,
        }
    }
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        match self.trouble {
            Trouble::Frozen => self.site.run(&["thaw", self.host]),
            Trouble::CutOff => self.site.run(&["net", self.host, "up"]),
        };
    }
}

/// A writer on `host` is lost in mid-transaction past both leases, and comes back.
fn lost_and_found(host: &str, trouble: Trouble, point: Point, successor: Successor) {
    let site = Site::new();
    site.furnish(host);
    let store = proxy();
    let mut holder = site.open(host, &store, LEASE);
    let mut other = site.open("B", &site.proxy, PATIENT);
    // What it has cached now says that there is no journal.
    assert_eq!(other.ok(READ), OLD);

    let action = match point {
        Point::Recorded => Action::HoldAnswer,
        Point::BeforeCommit | Point::Confirmation => Action::Hold,
    };
    holder.ok("immediate");
    holder.ok(WRITE);
    // A host whose clock is off has put its item twice by now.
    let confirmation = store.rule(Rule::put(action));
    if point != Point::BeforeCommit {
        holder.tell("commit");
        confirmation.wait_for_hits(1, VERY_LONG);
    }
    let lost = Lost::begin(&site, host, trouble);
    site.wait_until_expired();
    let recovered = match point {
        Point::Recorded => NEW,
        Point::BeforeCommit | Point::Confirmation => OLD,
    };
    match successor {
        Successor::Idle => {}
        Successor::Commits => {
            assert_eq!(other.ok(READ), recovered);
            other.ok(OVERWRITE);
        }
        Successor::StaysOpen => {
            other.ok("begin");
            other.ok(OVERWRITE);
        }
    }
    confirmation.release();
    drop(lost);
    store.reset();
    if point == Point::BeforeCommit {
        holder.tell("commit");
    }
    let answer = holder.answer();
    if successor == Successor::StaysOpen {
        other.ok("commit");
    }
    let found = other.ok(READ);
    println!(
        "{host} {trouble:?} {point:?}, successor {successor:?}: {}; then `{found}`",
        match &answer {
            Ok(_) => "acknowledged".to_owned(),
            Err(Failure { kind, .. }) => kind.clone(),
        }
    );
    judge(point, successor, &answer, &found);
    holder.ok("query PRAGMA busy_timeout = 90000");
    holder.ok("execute INSERT INTO item (state) VALUES ('again')");
    assert_eq!(other.ok(READ), format!("again|1; {found}"));
    drop((holder, other));
    site.assert_whole();
}

/// Whether what the holder was told agrees with what is there.
#[track_caller]
fn judge(point: Point, successor: Successor, answer: &Answer, found: &str) {
    if let Err(failure) = answer {
        let unknown = failure.kind == "OutcomeUnknown";
        assert!(unknown || failure.retryable, "{failure:?}");
    }
    match (successor, answer) {
        (Successor::Idle, Ok(_)) => assert_eq!(found, NEW),
        (Successor::Idle, Err(failure)) if failure.kind == "OutcomeUnknown" => {
            assert!(found == NEW || found == OLD, "{found}");
        }
        (Successor::Idle, Err(_)) => assert_eq!(found, OLD),
        (_, answer) => {
            assert_eq!(found, NEXT, "the successor's work is intact");
            // Once recorded it was committed, before its successor wrote.
            assert!(answer.is_err() || point == Point::Recorded, "{answer:?}");
        }
    }
}

fn each_case(host: &str, trouble: Trouble) {
    for point in [Point::BeforeCommit, Point::Confirmation, Point::Recorded] {
        for successor in [Successor::Idle, Successor::Commits, Successor::StaysOpen] {
            lost_and_found(host, trouble, point, successor);
        }
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_frozen_client_neither_loses_nor_harms_anything() {
    each_case("A", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_machine_whose_clocks_stood_still_neither_loses_nor_harms_anything() {
    each_case("C", Trouble::Frozen);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_client_that_was_cut_off_neither_loses_nor_harms_anything() {
    each_case("A", Trouble::CutOff);
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_writer_killed_in_mid_commit_is_recovered_by_who_had_just_looked_for_its_journal() {
    for action in [Action::Hold, Action::HoldAnswer] {
        let recorded = matches!(action, Action::HoldAnswer);
        let site = Site::new();
        site.furnish("A");
        let store = proxy();
        let mut holder = site.open("A", &store, LEASE);
        let mut other = site.open("B", &site.proxy, PATIENT);
        assert_eq!(other.ok(READ), OLD);
        holder.ok("immediate");
        holder.ok(WRITE);
        let confirmation = store.rule(Rule::put(action));
        holder.tell("commit");
        confirmation.wait_for_hits(1, VERY_LONG);
        assert_eq!(other.ok("query SELECT 1"), "1");
        site.run(&[
            "exec",
            "S",
            "pkill -KILL -f '[w]orker database.*expiration=20'; true",
        ]);
        holder.kill();
        let found = other.ok(READ);
        println!("A killed, recorded: {recorded}: `{found}`");
        assert_eq!(found, if recorded { NEW } else { OLD });
        drop(other);
        site.assert_whole();
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn writers_and_readers_on_two_clients_lose_and_tear_nothing() {
    for (restart, base_vfs) in [(false, "unix"), (false, "unix-none"), (true, "unix")] {
        let site = Site::new();
        // Before the others open it: without file locks a client may take a file for empty that it has
        // seen empty.
        site.open("A", &site.proxy, PATIENT).ok("create-ledger");
        let proxies: Vec<Proxy> = (0..6).map(|_| proxy()).collect();
        let mut processes: Vec<Process> = (proxies.iter().zip(["A", "A", "A", "B", "B", "B"]))
            .map(|(store, host)| {
                let parameters = match base_vfs {
                    "unix" => PATIENT.to_owned(),
                    _ => format!("{PATIENT}&lock_read_check=counter"),
                };
                site.open_over(base_vfs, host, store, &parameters)
            })
            .collect();
        for (number, process) in processes.iter_mut().enumerate() {
            process.tell(&match number % 3 {
                2 => "read-ledger 40".to_owned(),
                _ => format!("write-ledger writer{number} 40"),
            });
        }
        if restart {
            site.run(&["nfsd", "restart"]);
        }
        let mut acknowledged = 0;
        for process in &processes {
            let answer = process.answer().expect("no error but retryable ones");
            println!("{base_vfs}, restart {restart}: {answer}");
            assert!(
                !answer.contains("whole") || answer.contains(" 0 torn"),
                "{answer}"
            );
            if let Some((count, _)) = answer.split_once(" acknowledged") {
                acknowledged += count.parse::<u64>().expect("a number");
            }
        }
        // Under the lock: a plain read may be answered from the client's cache where file locks do not
        // revalidate it.
        processes[3].ok("immediate");
        let found = processes[3].ok(
            "query SELECT (SELECT value FROM counter), (SELECT count(*) FROM entry), \
             (SELECT sum(balance) FROM account)",
        );
        processes[3].ok("commit");
        assert_eq!(found, format!("{acknowledged}|{acknowledged}|8000"));
        drop(processes);
        site.assert_whole();
    }
}
