//! What this crate promises, on NFS.

use integration::proxy::{Action, Proxy, Rule};

use super::rig::{
    Call, LEASE, LEDGER, LONG_ON_RIG, Lost, Mount, NEXT, NfsFixture, OVERWRITE, PATIENT, Point,
    StandingStill, Successor, Trouble, each_case,
};
use crate::fixtures::workers::{
    Answer, Failure, NEW_ITEMS, OLD_ITEMS, READ_ITEMS, WRITE_ITEMS, WorkerProcess, proxy,
};

/// A writer on `host` is lost in mid-transaction past both leases, and comes back.
fn lost_and_found(host: &str, trouble: Trouble, point: Point, successor: Successor) {
    let fixture = NfsFixture::new();
    fixture.furnish(host);
    let store = proxy();
    let mut holder = fixture.open(host, &store, LEASE);
    let mut other = fixture.open("B", &fixture.proxy, PATIENT);
    // What it has cached now says that there is no journal.
    assert_eq!(other.ok(READ_ITEMS), OLD_ITEMS);

    let action = match point {
        Point::Committed => Action::HoldAnswer,
        Point::BeforeCommit | Point::Committing => Action::Hold,
    };
    holder.ok("immediate");
    holder.ok(WRITE_ITEMS);
    // A host whose clock is off has put its item twice by now.
    let confirmation = store.rule(Rule::put(action));
    if point != Point::BeforeCommit {
        holder.tell("commit");
        confirmation.wait_for_hits(1, LONG_ON_RIG);
    }
    let lost = Lost::begin(&fixture, host, trouble);
    fixture.wait_until_expired();
    let recovered = match point {
        Point::Committed => NEW_ITEMS,
        Point::BeforeCommit | Point::Committing => OLD_ITEMS,
    };
    match successor {
        Successor::Idle => {}
        Successor::Commits => {
            assert_eq!(other.ok(READ_ITEMS), recovered);
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
    let found = other.ok(READ_ITEMS);
    println!(
        "ours | {host} {trouble:?} | {point:?} | successor {successor:?} | told {} | then `{found}`",
        match &answer {
            Ok(_) => "acknowledged".to_owned(),
            Err(Failure { kind, .. }) => kind.clone(),
        }
    );
    judge(point, successor, &answer, &found);
    holder.ok("query PRAGMA busy_timeout = 90000");
    holder.ok("execute INSERT INTO item (state) VALUES ('again')");
    assert_eq!(other.ok(READ_ITEMS), format!("again|1; {found}"));
    drop((holder, other));
    fixture.assert_whole();
}

/// Whether what the holder was told agrees with what is there.
#[track_caller]
fn judge(point: Point, successor: Successor, answer: &Answer, found: &str) {
    if let Err(failure) = answer {
        let unknown = failure.kind == "OutcomeUnknown";
        assert!(unknown || failure.retryable, "{failure:?}");
    }
    match (successor, answer) {
        (Successor::Idle, Ok(_)) => assert_eq!(found, NEW_ITEMS),
        (Successor::Idle, Err(failure)) if failure.kind == "OutcomeUnknown" => {
            assert!(found == NEW_ITEMS || found == OLD_ITEMS, "{found}");
        }
        (Successor::Idle, Err(_)) => assert_eq!(found, OLD_ITEMS),
        (_, answer) => {
            assert_eq!(found, NEXT, "the successor's work is intact");
            // Once recorded it was committed, before its successor wrote.
            assert!(answer.is_err() || point == Point::Committed, "{answer:?}");
        }
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_frozen_client_neither_loses_nor_harms_anything() {
    each_case(|point, successor| lost_and_found("A", Trouble::Frozen, point, successor));
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_machine_whose_clocks_stood_still_neither_loses_nor_harms_anything() {
    each_case(|point, successor| lost_and_found("C", Trouble::Frozen, point, successor));
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_client_that_was_cut_off_neither_loses_nor_harms_anything() {
    each_case(|point, successor| lost_and_found("A", Trouble::CutOff, point, successor));
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_writer_killed_in_mid_commit_is_recovered_by_who_had_just_looked_for_its_journal() {
    for action in [None, Some(Action::Hold), Some(Action::HoldAnswer)] {
        let is_recorded = matches!(action, Some(Action::HoldAnswer));
        let fixture = NfsFixture::new();
        fixture.furnish("A");
        let store = proxy();
        let mut holder = fixture.open("A", &store, LEASE);
        let number = fixture.process_on("A");
        let mut other = fixture.open("B", &fixture.proxy, PATIENT);
        holder.ok("immediate");
        let earlier = (action.is_none())
            .then(|| StandingStill::at(&fixture, "A", &number, Call::SomePagesWritten));
        assert_eq!(other.ok(READ_ITEMS), OLD_ITEMS);
        holder.ok(WRITE_ITEMS);
        let confirmation = action.map(|action| store.rule(Rule::put(action)));
        holder.tell("commit");
        if let Some(stopped) = &earlier {
            stopped.wait();
        }
        if let Some(confirmation) = &confirmation {
            confirmation.wait_for_hits(1, LONG_ON_RIG);
        }
        assert!(fixture.has_journal());
        fixture.run(&["exec", "A", "kill", "-KILL", &number]);
        holder.kill();
        let found = other.ok(READ_ITEMS);
        let at = match (is_recorded, &earlier) {
            (true, _) => "its record written",
            (false, None) => "its pages synced",
            (false, Some(_)) => "some pages written",
        };
        println!("ours | A killed | {at} | then `{found}`");
        assert_eq!(found, if is_recorded { NEW_ITEMS } else { OLD_ITEMS });
        drop(other);
        fixture.assert_whole();
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn of_two_keys_for_a_new_database_the_second_is_refused_whatever_its_name_cache_says() {
    const CREATE: &str = "execute CREATE TABLE note (text TEXT)";
    let fixture = NfsFixture::new();
    let other_key = format!("{PATIENT}&lock_key=another-key");
    let mut first = fixture.open("A", &fixture.proxy, PATIENT);
    // At opening it looks for the file that the first has not written yet.
    let mut second = fixture.open("B", &fixture.proxy, &other_key);
    first.ok(CREATE);
    for command in ["execute CREATE TABLE other (text TEXT)", "immediate"] {
        let failure = second.fails(command);
        println!("ours | second key | {}", failure.message);
        assert_eq!(failure.kind, "Config", "{failure:?}");
        assert!(failure.message.contains("`another-key`"), "{failure:?}");
    }
    first.ok("execute INSERT INTO note VALUES ('here')");
    assert_eq!(first.ok("query SELECT count(*) FROM sqlite_schema"), "1");
    drop((first, second));
    fixture.assert_whole();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn of_two_first_writers_under_two_keys_on_two_clients_one_may_write() {
    // Where file locks work the second waits for the first, and then sees its file.
    for base_vfs in ["unix", "unix-none"] {
        let fixture = NfsFixture::new();
        let proxies = [proxy(), proxy()];
        let other_key = format!("{PATIENT}&lock_key=another-key");
        let mut writers = [
            fixture.open_over(base_vfs, "A", &proxies[0], PATIENT),
            fixture.open_over(base_vfs, "B", &proxies[1], &other_key),
        ];
        let grants =
            (proxies.each_ref()).map(|proxy| proxy.rule(Rule::put(Action::HoldAnswer).nth(1)));
        for writer in &mut writers {
            writer.tell("execute CREATE TABLE note (text TEXT)");
        }
        // Both are granted their leases, neither has heard of it.
        for grant in &grants {
            grant.wait_for_hits(1, LONG_ON_RIG);
        }
        for grant in &grants {
            grant.release();
        }
        let answers = writers.each_ref().map(WorkerProcess::answer);
        println!("ours | two first writers, {base_vfs} | {answers:?}");
        let refusals: Vec<_> = answers.iter().filter_map(|it| it.as_ref().err()).collect();
        assert_eq!(refusals.len(), 1, "{answers:?}");
        assert_eq!(refusals[0].kind, "Config", "{answers:?}");
        drop(writers);
        assert!(!fixture.has_journal());
    }
}

/// What processes put a database under load with, for 40 s: of three on a host each third reads.
struct Load {
    hosts: &'static [&'static str],
    mount: Mount,
    base_vfs: &'static str,
    parameters: &'static str,
    restart: bool,
}

const LOAD: Load = Load {
    hosts: &["A", "A", "A", "B", "B", "B"],
    mount: Mount::Efs,
    base_vfs: "unix",
    parameters: "",
    restart: false,
};

impl Load {
    fn run(&self) {
        let fixture = NfsFixture::on(self.mount);
        let parameters = format!("{PATIENT}{}", self.parameters);
        // Before the others open it: without file locks a client may take a file for empty that it has
        // seen empty.
        fixture
            .open("A", &fixture.proxy, PATIENT)
            .ok("create-ledger");
        let proxies: Vec<Proxy> = self.hosts.iter().map(|_| proxy()).collect();
        let mut processes: Vec<WorkerProcess> = (proxies.iter().zip(self.hosts))
            .map(|(store, host)| fixture.open_over(self.base_vfs, host, store, &parameters))
            .collect();
        // Setting up the store's client takes an emulated host long.
        for process in &mut processes {
            process.ok("immediate");
            process.ok("rollback");
        }
        for (number, process) in processes.iter_mut().enumerate() {
            process.tell(&match number % 3 {
                2 => "read-ledger 40".to_owned(),
                _ => format!("write-ledger writer{number} 40"),
            });
        }
        if self.restart {
            fixture.run(&["nfsd", "restart"]);
        }
        let mut acknowledged = 0;
        for (process, host) in processes.iter_mut().zip(self.hosts) {
            let answer = process.answer().expect("no error but retryable ones");
            // What the last retry was for.
            let last = process.ask("last-lock-error");
            let last = last.err().map(|failure| format!("; {}", failure.message));
            println!(
                "ours | load, {:?} {}{}, restart {} | {host}: {answer}{}",
                self.mount,
                self.base_vfs,
                self.parameters,
                self.restart,
                last.unwrap_or_default()
            );
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
        let auditor = processes.last_mut().expect("processes");
        auditor.ok("immediate");
        let found = auditor.ok(LEDGER);
        auditor.ok("commit");
        assert_eq!(found, format!("{acknowledged}|{acknowledged}|8000"));
        drop(processes);
        fixture.assert_whole();
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn writers_and_readers_on_two_clients_lose_and_tear_nothing() {
    LOAD.run();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn writers_and_readers_on_three_clients_lose_and_tear_nothing() {
    Load {
        hosts: &["A", "A", "A", "B", "B", "B", "C", "C", "C"],
        ..LOAD
    }
    .run();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn without_file_locks_writers_and_readers_lose_and_tear_nothing() {
    Load {
        base_vfs: "unix-none",
        parameters: "&lock_read_check=counter",
        ..LOAD
    }
    .run();
    Load {
        mount: Mount::WithoutLocks,
        ..LOAD
    }
    .run();
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn reads_past_the_caches_are_never_torn_with_and_without_file_locks() {
    for base_vfs in ["unix", "unix-none"] {
        Load {
            base_vfs,
            parameters: "&lock_read_check=reopen",
            ..LOAD
        }
        .run();
    }
}

#[test]
#[ignore = "by hand: needs a rig of NFS clients in virtual machines"]
fn a_restart_of_the_server_loses_and_tears_nothing() {
    Load {
        restart: true,
        ..LOAD
    }
    .run();
}
