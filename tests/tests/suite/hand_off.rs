//! A lease that goes round among the threads of a process: nothing is lost by it when the process
//! dies, and other processes get their turns.

use std::env;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use diesel::prelude::*;
use diesel::result::DatabaseErrorKind::SerializationFailure;
use diesel::result::Error;
use diesel_sqlite_efs::{EfsConfig, EfsConnectionManager};
use integration::dynamodb::env_for;
use integration::process::{Worker, ignored_test, wait_until};
use integration::proxy::{Action, Operation, Proxy, Purpose, Rule};

use crate::fixtures::workers::{LONG, WorkersFixture, proxy};

const WRITE: &str = "UPDATE t SET n = n + 1";

/// A process whose threads write as fast as they can, until its standard input is closed.
struct Writers {
    worker: Worker,
    /// How many writes were acknowledged.
    written: Arc<AtomicU64>,
    /// All of its output has been read: it is gone.
    is_read: Arc<AtomicBool>,
    proxy: Proxy,
}

impl Writers {
    fn start(fixture: &WorkersFixture, threads: u64) -> Self {
        let proxy = proxy();
        let path = fixture.scratch.database().display();
        let table = fixture.table.name();
        let url = format!("{path}?lock_table={table}&lock_expiration=6&lock_timeout=60");
        let mut command = ignored_test("hand_off::child");
        command
            .envs(env_for(&proxy.endpoint()))
            .env("WRITERS_URL", url)
            .env("WRITERS_THREADS", threads.to_string());
        let written = Arc::new(AtomicU64::new(0));
        let is_read = Arc::new(AtomicBool::new(false));
        let (counter, end) = (written.clone(), is_read.clone());
        let worker = Worker::spawn_watched(&mut command, move |line| match line {
            Some(line) if line.ends_with("written") => {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Some(_) => {}
            None => end.store(true, Ordering::SeqCst),
        });
        Self {
            worker: worker.expect("the process starts"),
            written,
            is_read,
            proxy,
        }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits for so many more writes.
    fn wait_for(&self, more: u64) {
        let so_far = self.written();
        wait_until(LONG * 2, "its threads write", || {
            self.written() >= so_far + more
        });
    }

    /// How much one that has ended has written.
    fn written_in_all(&self) -> u64 {
        // The last lines may still be on their way.
        wait_until(LONG, "its output is read", || {
            self.is_read.load(Ordering::SeqCst)
        });
        self.written()
    }

    /// Lets it end, and returns how much it has written.
    fn end(mut self) -> u64 {
        self.worker.close_stdin();
        let status = self.worker.wait(LONG * 2).expect("it ends");
        assert!(status.success(), "{status}");
        self.written_in_all()
    }
}

#[test]
#[ignore = "not a test: the process that other tests start"]
fn child() {
    let url = env::var("WRITERS_URL").expect("a URL");
    let threads = env::var("WRITERS_THREADS").expect("how many");
    let threads: u32 = threads.parse().expect("a number");
    let config = EfsConfig::from_url(&url).expect("a URL");
    let manager = EfsConnectionManager::new(&config).expect("a manager");
    let pool = manager.pool(threads).expect("a pool");
    let goes_on = AtomicBool::new(true);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while goes_on.load(Ordering::SeqCst) {
                    let mut conn = pool.get().expect("a connection");
                    match diesel::sql_query(WRITE).execute(&mut conn) {
                        Ok(rows) => {
                            assert_eq!(rows, 1);
                            println!("written");
                        }
                        // A busy machine may lose a short lease: nothing is written then.
                        Err(Error::DatabaseError(SerializationFailure, _)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let ends = io::stdin().lock().lines().count();
        assert_eq!(ends, 0, "nothing is said to it");
        goes_on.store(false, Ordering::SeqCst);
    });
}

#[test]
fn a_process_killed_with_a_lease_that_was_handed_off_loses_nothing_that_was_acknowledged() {
    const THREADS: u64 = 6;
    /// Of one process, while the others want theirs.
    const ENOUGH: u64 = 20;
    let fixture = WorkersFixture::new("hand-off");
    let mut auditor = fixture.open("");
    auditor.ok("execute CREATE TABLE t (n INTEGER)");
    auditor.ok("execute INSERT INTO t VALUES (0)");
    let [first, second, mut victim] = [(); 3].map(|()| Writers::start(&fixture, THREADS));
    for writers in [&first, &second, &victim] {
        writers.wait_for(ENOUGH);
    }

    // A commit is a second one under its lease if the request before it was one, too.
    let is_second = |proxy: &Proxy| {
        let requests = proxy.requests();
        let mut last = requests.iter().rev().map(|request| request.purpose());
        last.next() == Some(Some(Purpose::Record)) && last.next() == Some(Some(Purpose::Record))
    };
    let mut held = victim
        .proxy
        .rule(Rule::put_to(Purpose::Record, Action::Hold));
    held.wait_for_hits(1, LONG);
    while !is_second(&victim.proxy) {
        held.remove();
        held = victim
            .proxy
            .rule(Rule::put_to(Purpose::Record, Action::Hold));
        held.wait_for_hits(1, LONG);
    }
    victim.worker.kill().expect("it dies");
    held.remove();

    // Its lease ends. Its journal is rolled back, or removed if the request was applied after all.
    for writers in [&first, &second] {
        writers.wait_for(ENOUGH);
        let leases = writers.proxy.count(&Operation::DeleteItem) as u64;
        let written = writers.written();
        println!("{leases} leases for {written} writes");
        assert!(leases < written, "no lease was ever handed off");
    }
    let victims = victim.written_in_all();
    let written = first.end() + second.end() + victims;
    let n: u64 = auditor
        .ok("query SELECT n FROM t")
        .parse()
        .expect("a number");
    // What the victim's threads had written and not yet told.
    let untold = n.checked_sub(written).expect("nothing is lost");
    assert!(untold <= THREADS, "{untold}");
    drop(auditor);
    fixture.assert_whole();
}
