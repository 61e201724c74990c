//! `efs-sqlite status`, `unlock` and `create-table`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::ScalarAttributeType;
use integration::dynamodb::{AttributeValue, LockTable};
use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Operation, Rule};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{
    BUSY, DONE, USAGE, WRONG, denying, everything, furnished, holder, kill_writer, program, run,
    run_at, url,
};
use crate::fixtures::workers::{LONG, proxy};

#[test]
fn status_names_the_holder_and_changes_nothing() {
    let fixture = furnished("status-held");
    run(&["status", &url(&fixture, "")])
        .expect(DONE)
        .says("lock     free");
    let mut process = holder(&fixture, "");
    let before = everything(&fixture);
    let ran = run(&["status", &url(&fixture, "")]).expect(BUSY);
    ran.says("lock     held");
    ran.says("holder   `somebody`");
    ran.says("seen     1 of 1 looks");
    let told = run(&["status", &url(&fixture, ""), "--json"])
        .expect(BUSY)
        .json();
    assert_eq!(told["lock"], "held");
    assert_eq!(told["key"].as_str(), Some(&*fixture.key()));
    assert_eq!(told["holder"]["holder"], "somebody");
    assert_eq!(
        told["holder"]["lock_id"].as_str(),
        fixture.attribute("lock_id").as_deref()
    );
    let until = fixture.attribute("expires_at").expect("an end");
    assert_eq!(told["holder"]["until"].as_f64(), until.parse().ok());
    assert_eq!(told["seen"][0]["seen"], 1);
    assert_eq!(everything(&fixture), before);
    process.ok("execute INSERT INTO note VALUES ('here')");
    assert_eq!(process.ok("commit"), "committed");
    fixture.assert_whole();
}

#[test]
fn status_needs_any_one_of_three_permissions() {
    let fixture = furnished("status-permissions");
    let mut process = holder(&fixture, "");
    let proxy = proxy();
    for denied in ["DeleteItem", "PutItem"] {
        denying(&proxy, denied);
        let ran = run_at(&proxy.endpoint(), &["status", &url(&fixture, "")]);
        ran.expect(BUSY).says("`somebody`");
    }
    assert!(proxy.count(&Operation::Other("GetItem".to_owned())) > 0);
    denying(&proxy, "GetItem");
    let ran = run_at(&proxy.endpoint(), &["status", &url(&fixture, "")]).expect(WRONG);
    ran.complains("access denied to dynamodb:DeleteItem");
    process.ok("rollback");
}

#[test]
fn status_counts_how_often_it_has_seen_whom() {
    let fixture = furnished("status-counted");
    let put = |lock_id: &str| {
        let end = SystemTime::now() + Duration::from_secs(60);
        fixture
            .table
            .put_as_python(&fixture.key(), lock_id, end)
            .expect("an item");
    };
    put("one");
    let proxy = proxy();
    let watching = proxy.endpoint();
    let url = url(&fixture, "");
    let told = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| run_at(&watching, &["status", &url, "--for", "5", "--json"]));
        wait_until(LONG, "it has looked", || {
            let requests = proxy.requests();
            let looks = requests.iter().filter(|request| {
                request.operation == Operation::DeleteItem && request.status.is_some()
            });
            looks.count() >= 2
        });
        put("two");
        watcher.join().expect("it runs").expect(BUSY).json()
    });
    let seen = told["seen"].as_array().expect("a list");
    let ids: Vec<_> = seen
        .iter()
        .map(|held| held["lock_id"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(ids, ["one", "two"], "{told}");
    let times = |index: usize| seen[index]["seen"].as_u64().expect("a number");
    assert!(times(0) >= 2 && times(1) >= 1, "{told}");
    assert_eq!(Some(times(0) + times(1)), told["looks"].as_u64());
    assert_eq!(told["holder"]["lock_id"], "two");
}

#[test]
fn status_tells_an_expired_and_a_malformed_item_from_a_lease() {
    let fixture = furnished("status-others");
    let past = SystemTime::now() - Duration::from_secs(30);
    fixture
        .table
        .put_as_python(&fixture.key(), "python", past)
        .expect("an item");
    let ran = run(&["status", &url(&fixture, "")]).expect(DONE);
    ran.says("lock     expired");
    ran.says("Python package");
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let item = [
        ("pk", text(&fixture.key())),
        ("lock_id", text("x\u{1b}[2J")),
        ("expires_at", text("tomorrow")),
    ];
    let item = item.map(|(name, value)| (name.to_owned(), value));
    fixture.table.put(item.into()).expect("an item");
    let ran = run(&["status", &url(&fixture, "")]).expect(WRONG);
    ran.says("lock     malformed");
    ran.says("tomorrow");
    assert!(
        !ran.stdout.contains('\u{1b}'),
        "an item cannot steer the terminal"
    );
    run(&["unlock", &url(&fixture, ""), "--yes"])
        .expect(DONE)
        .says("deleted");
    fixture.assert_whole();
}

#[test]
fn unlock_deletes_the_item_of_a_dead_writer() {
    let fixture = furnished("unlock-dead");
    let mut process = holder(&fixture, "");
    process.ok("execute INSERT INTO note VALUES ('lost')");
    process.kill();
    let ran = run(&["unlock", &url(&fixture, ""), "--yes"]).expect(DONE);
    ran.says("holder   `somebody`");
    ran.says("deleted; the lock is free");
    run(&["unlock", &url(&fixture, ""), "--yes"])
        .expect(DONE)
        .says("nothing to delete");
    let mut next = fixture.open("");
    next.ok("execute INSERT INTO note VALUES ('here')");
    assert_eq!(next.ok("query SELECT text FROM note"), "here");
    fixture.assert_whole();
}

#[test]
fn unlock_without_a_terminal_does_not_guess() {
    let fixture = furnished("unlock-mute");
    let mut process = holder(&fixture, "");
    let before = everything(&fixture);
    run(&["unlock", &url(&fixture, "")])
        .expect(USAGE)
        .complains("give --yes");
    assert_eq!(everything(&fixture), before);
    process.ok("rollback");
}

#[test]
fn unlock_asks_on_the_terminal_and_names_the_holder() {
    let fixture = furnished("unlock-asks");
    let _process = holder(&fixture, "");
    let before = everything(&fixture);
    let (status, shown) = answered(&url(&fixture, ""), "n\n");
    assert_eq!(status, WRONG, "{shown}");
    assert!(
        shown.contains("The lease of `somebody` has not ended"),
        "{shown}"
    );
    assert_eq!(everything(&fixture), before);
    let (status, shown) = answered(&url(&fixture, ""), "yes\n");
    assert_eq!(status, DONE, "{shown}");
    assert_eq!(fixture.table.count().expect("a count"), 0);
}

#[test]
fn a_writer_whose_item_was_deleted_fails_and_nothing_of_it_stays() {
    let fixture = furnished("unlock-alive");
    let mut process = holder(&fixture, "");
    process.ok("execute INSERT INTO note VALUES ('lost')");
    run(&["unlock", &url(&fixture, ""), "--yes"]).expect(DONE);
    let failure = process.fails("commit");
    assert_eq!(failure.kind, "LeaseLost", "{failure:?}");
    assert_eq!(fixture.open("").ok("query SELECT count(*) FROM note"), "0");
    fixture.assert_whole();
}

#[test]
fn unlock_deletes_only_the_very_item_that_it_has_shown() {
    let fixture = furnished("unlock-changed");
    let end = SystemTime::now() + Duration::from_secs(60);
    let shown = integration::dynamodb::python_item(&fixture.key(), "shown", end);
    let text = |text: &str| AttributeValue::S(text.to_owned());
    // Another acquisition, a renewal, a commit that leaves holder and end as they were.
    for (attribute, value) in [
        ("lock_id", text("another")),
        ("expires_at", AttributeValue::N("4102444800".to_owned())),
        ("committed", text("01020304")),
    ] {
        fixture.table.put(shown.clone()).expect("an item");
        let proxy = proxy();
        // The first deletion is a look.
        let deletion = proxy.rule(Rule::delete(Action::Hold).nth(2));
        let (endpoint, url) = (proxy.endpoint(), url(&fixture, ""));
        let mut changed = shown.clone();
        changed.insert(attribute.to_owned(), value);
        let ran = std::thread::scope(|scope| {
            let unlocking = scope.spawn(|| run_at(&endpoint, &["unlock", &url, "--yes"]));
            deletion.wait_for_hits(1, LONG);
            fixture.table.put(changed.clone()).expect("an item");
            deletion.release();
            unlocking.join().expect("it runs")
        });
        ran.expect(BUSY).complains("has changed since it was shown");
        assert_eq!(
            fixture.table.item(&fixture.key()).expect("an answer"),
            Some(changed)
        );
    }
    fixture.table.delete(&fixture.key()).expect("the item goes");
}

#[test]
fn unlock_keeps_the_record_that_an_acknowledged_transaction_needs() {
    let fixture = furnished("unlock-recorded");
    kill_writer(&fixture, "lock_expiration=6", Action::HoldAnswer);
    let before = everything(&fixture);
    let ran = run(&["unlock", &url(&fixture, ""), "--yes"]).expect(WRONG);
    ran.complains("without the record it would be rolled back; nothing was deleted");
    assert_eq!(everything(&fixture), before);
    // What it says to do instead.
    run(&["check", &url(&fixture, "lock_timeout=20")]).expect(DONE);
    assert_eq!(fixture.open("").ok("query SELECT count(*) FROM note"), "1");
    fixture.assert_whole();
}

#[test]
fn create_table_makes_a_table_that_the_lock_can_use_and_leaves_a_right_one_alone() {
    let ran = run(&["create-table", "--table", "created-table"]).expect(DONE);
    ran.says("table created-table: created, key pk (S), on-demand");
    ran.says("TTL on expires_at");
    let scratch = integration::scratch::Scratch::new().expect("a directory");
    let url = format!("{}?lock_table=created-table", scratch.database().display());
    let mut writer = crate::fixtures::workers::WorkerProcess::start(
        Emulator::shared().endpoint(),
        &["database", &url],
    )
    .expect("it opens");
    writer.ok("execute CREATE TABLE note (text TEXT)");
    let proxy = proxy();
    let ran = run_at(&proxy.endpoint(), &["create-table", &url]).expect(DONE);
    ran.says("table created-table: exists");
    let update = Operation::Other("UpdateTimeToLive".to_owned());
    assert_eq!(proxy.count(&update), 0, "it is on already");
    let doctor = run(&["doctor", &url, "--json"]).expect(DONE);
    doctor.says("on expires_at");
}

#[test]
fn create_table_says_what_is_wrong_with_the_table_that_is_there() {
    let endpoint = Emulator::shared().endpoint();
    let create = |name, key: &[(&str, ScalarAttributeType)]| {
        LockTable::create_with_key(endpoint, name, key).expect("a table");
    };
    create("created-wrong", &[("id", ScalarAttributeType::N)]);
    let ran = run(&["create-table", "--table", "created-wrong"]).expect(WRONG);
    ran.complains("its primary key is id (N); a lock needs pk (S) and no sort key");
    create("created-bare", &[("pk", ScalarAttributeType::S)]);
    let ran = run(&["create-table", "--table", "created-bare"]).expect(DONE);
    ran.says("TTL on expires_at");
}

#[test]
fn create_table_names_the_permission_that_it_lacks() {
    for operation in [
        "CreateTable",
        "DescribeTable",
        "DescribeTimeToLive",
        "UpdateTimeToLive",
    ] {
        let proxy = proxy();
        denying(&proxy, operation);
        let table = format!("created-{}", operation.to_lowercase());
        let ran = run_at(&proxy.endpoint(), &["create-table", "--table", &table]).expect(WRONG);
        ran.complains(&format!("allow dynamodb:{operation} on the lock table"));
    }
}

/// Runs `unlock` on a terminal of its own and types an answer; returns the status and what the
/// terminal showed.
fn answered(url: &str, answer: &str) -> (i32, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&controller).expect("its rights");
    unlockpt(&controller).expect("its other end");
    let name = ptsname(&controller, Vec::new()).expect("its name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal: OwnedFd = open(&*name, flags, Mode::empty()).expect("the terminal");
    let end = || Stdio::from(terminal.try_clone().expect("a descriptor"));
    let mut command = program(Emulator::shared().endpoint());
    command.args(["unlock", url]);
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().expect("it runs");
    // The program's are the only ones left: what is read ends with it.
    drop((command, terminal));
    let mut controller = File::from(controller);
    let mut shown = Vec::new();
    let mut buffer = [0; 1024];
    let mut has_answered = false;
    while let Ok(count @ 1..) = controller.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
        if !has_answered && String::from_utf8_lossy(&shown).contains("[y/N]") {
            controller.write_all(answer.as_bytes()).expect("an answer");
            has_answered = true;
        }
    }
    let status = child.wait().expect("it ends").code().expect("no signal");
    (status, String::from_utf8_lossy(&shown).into_owned())
}
