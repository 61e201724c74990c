//! `efs-sqlite doctor`: each finding, and that nothing is changed by looking.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use integration::emulator::Emulator;
use integration::proxy::{Action, Date, Rule};

use super::{
    DONE, Ran, WRONG, denying, everything, furnished, holder, kill_writer, run, run_at, url,
};
use crate::fixtures::workers::{WorkersFixture, proxy, requests};

/// A user without rights of its own.
const NOBODY: u32 = 65_534;

/// The report's finding of this name: its level, text and remedy.
#[track_caller]
fn finding(ran: &Ran, name: &str) -> (String, String, String) {
    let report = ran.json();
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name}: {}", ran.stdout));
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("level"), text("text"), text("remedy"))
}

#[track_caller]
fn assert_finding(ran: &Ran, name: &str, level: &str, part: &str) {
    let (found, text, remedy) = finding(ran, name);
    assert_eq!(found, level, "{name}: {text}");
    assert!(
        text.contains(part) || remedy.contains(part),
        "{part}: {text}; {remedy}"
    );
}

fn examine(fixture: &WorkersFixture) -> Ran {
    run(&["doctor", &url(fixture, ""), "--json"])
}

#[test]
fn a_healthy_database_has_no_failure_and_each_thing_is_named() {
    let fixture = furnished("doctor-healthy");
    let before = everything(&fixture);
    let ran = examine(&fixture).expect(DONE);
    for (name, part) in [
        ("settings", "table `doctor-healthy`"),
        ("database", "database.sqlite3"),
        ("access", "may write"),
        ("journal mode", "DELETE"),
        ("content", "change counter 1, 2 pages of 4096 bytes"),
        ("lock key", "names this lock"),
        ("clock", "agrees"),
        ("permissions", "PutItem and dynamodb:DeleteItem are allowed"),
        ("lock table", "key pk (S), active, on-demand"),
        ("TTL", "on expires_at"),
        ("lock", "free"),
        ("hot journal", "none"),
    ] {
        assert_finding(&ran, name, "ok", part);
    }
    // How fast a busy machine answers, and what its disk is, is not for a test to say.
    assert!(
        finding(&ran, "endpoint")
            .1
            .contains(Emulator::shared().endpoint())
    );
    finding(&ran, "file system");
    assert_eq!(ran.json()["ok"], true);
    assert_eq!(everything(&fixture), before);

    let text = run(&["doctor", &url(&fixture, "")]).expect(DONE);
    text.says("ok       journal mode a rollback journal (DELETE)\n");
    text.says("0 failures\n");
    assert!(!text.stdout.contains('\u{1b}'), "colours are for terminals");
}

#[test]
fn the_lock_table_is_only_asked_what_cannot_change_it() {
    let fixture = furnished("doctor-requests");
    let proxy = proxy();
    run_at(&proxy.endpoint(), &["doctor", &url(&fixture, "")]).expect(DONE);
    for request in proxy.requests() {
        let condition = request.condition.as_deref();
        match request.operation.to_string().as_str() {
            "DeleteItem" => assert_eq!(condition, Some("attribute_not_exists(pk)")),
            "PutItem" => {
                let never = "attribute_exists(pk) AND attribute_not_exists(pk)";
                assert_eq!(condition, Some(never));
                assert!(requests(&proxy).contains(&"PutItem refused".to_owned()));
            }
            "DescribeTable" | "DescribeTimeToLive" => {}
            other => panic!("unexpected {other}"),
        }
    }
    assert_eq!(fixture.table.count().expect("a count"), 0);
}

#[test]
fn a_lease_that_is_held_is_shown_and_not_disturbed() {
    let fixture = furnished("doctor-held");
    let mut holder = holder(&fixture, "");
    let before = everything(&fixture);
    let ran = examine(&fixture).expect(DONE);
    assert_finding(&ran, "lock", "ok", "held by `somebody`, until 20");
    assert_finding(&ran, "permissions", "ok", "allowed");
    assert_eq!(everything(&fixture), before);
    holder.ok("execute INSERT INTO note VALUES ('here')");
    assert_eq!(holder.ok("commit"), "committed");
    fixture.assert_whole();
}

#[test]
fn a_dead_writers_hot_journal_is_reported_and_left_alone() {
    let fixture = furnished("doctor-hot");
    kill_writer(
        &fixture,
        "lock_expiration=6&lock_holder=the-dead-one",
        Action::Hold,
    );
    let before = everything(&fixture);
    fixture.wait_until_expired();
    let ran = examine(&fixture).expect(DONE);
    assert_finding(&ran, "lock", "ok", "left by `the-dead-one`, expired");
    assert_finding(&ran, "hot journal", "warning", "will be rolled back");
    assert_finding(&ran, "hot journal", "warning", "efs-sqlite check");
    assert_eq!(everything(&fixture), before);

    // The remedy that it names works.
    run(&["check", &url(&fixture, "lock_timeout=20")]).expect(DONE);
    assert_eq!(fixture.open("").ok("query SELECT count(*) FROM note"), "0");
    assert_finding(&examine(&fixture), "hot journal", "ok", "none");
    fixture.assert_whole();
}

#[test]
fn a_hot_journal_of_a_committed_transaction_is_told_by_its_record() {
    let fixture = furnished("doctor-recorded");
    kill_writer(&fixture, "lock_expiration=6", Action::HoldAnswer);
    fixture.wait_until_expired();
    let before = everything(&fixture);
    let ran = examine(&fixture).expect(DONE);
    assert_finding(
        &ran,
        "hot journal",
        "warning",
        "recorded as committed and will be kept",
    );
    assert_eq!(everything(&fixture), before);
    run(&["check", &url(&fixture, "lock_timeout=20")]).expect(DONE);
    assert_eq!(fixture.open("").ok("query SELECT count(*) FROM note"), "1");
    fixture.assert_whole();
}

#[test]
fn while_the_lease_runs_a_hot_journal_is_its_holders() {
    for (table, action, part) in [
        (
            "doctor-committing",
            Action::Hold,
            "`somebody` holds the lock",
        ),
        (
            "doctor-deleting",
            Action::HoldAnswer,
            "recorded as committed, and `somebody`",
        ),
    ] {
        let fixture = furnished(table);
        kill_writer(&fixture, "lock_expiration=60&lock_holder=somebody", action);
        let before = everything(&fixture);
        assert_finding(&examine(&fixture).expect(DONE), "hot journal", "ok", part);
        assert_eq!(everything(&fixture), before);
    }
}

#[test]
fn a_hot_journal_without_any_lease_is_somebody_without_the_lock() {
    let fixture = furnished("doctor-unclaimed");
    kill_writer(&fixture, "lock_expiration=60", Action::Hold);
    fixture.table.delete(&fixture.key()).expect("the item goes");
    let before = everything(&fixture);
    let ran = examine(&fixture).expect(DONE);
    assert_finding(&ran, "hot journal", "warning", "nobody holds the lock");
    assert_eq!(everything(&fixture), before);
}

#[test]
fn permissions_that_are_missing_are_named_and_those_that_are_not_needed_only_noted() {
    let fixture = furnished("doctor-permissions");
    for (denied, name, level, part) in [
        (
            "PutItem",
            "permissions",
            "failure",
            "dynamodb:PutItem denied",
        ),
        (
            "DeleteItem",
            "permissions",
            "failure",
            "dynamodb:DeleteItem denied",
        ),
        (
            "DescribeTable",
            "lock table",
            "warning",
            "allow dynamodb:DescribeTable",
        ),
        (
            "DescribeTimeToLive",
            "TTL",
            "warning",
            "allow dynamodb:DescribeTimeToLive",
        ),
    ] {
        let proxy = proxy();
        denying(&proxy, denied);
        let ran = run_at(&proxy.endpoint(), &["doctor", &url(&fixture, ""), "--json"]);
        assert_finding(&ran, name, level, part);
        assert_eq!(
            ran.status,
            if level == "failure" { WRONG } else { DONE },
            "{denied}"
        );
        // The other permission still shows who holds the lock.
        assert_finding(&ran, "lock", "ok", "free");
    }
    let proxy = proxy();
    for operation in ["PutItem", "DeleteItem", "GetItem"] {
        denying(&proxy, operation);
    }
    let ran = run_at(&proxy.endpoint(), &["doctor", &url(&fixture, ""), "--json"]).expect(WRONG);
    assert_finding(
        &ran,
        "permissions",
        "failure",
        "allow dynamodb:PutItem and dynamodb:DeleteItem",
    );
}

#[test]
fn a_clock_that_is_off_is_told_with_its_difference() {
    let fixture = furnished("doctor-clock");
    for (off, part) in [(-3600, "ahead of DynamoDB's"), (3600, "behind DynamoDB's")] {
        let proxy = proxy();
        let hour = Duration::from_secs(3600);
        let date = match off {
            ..0 => SystemTime::now() - hour,
            _ => SystemTime::now() + hour,
        };
        proxy.rule(Rule::any(Action::Date(Date::At(date))));
        let ran = run_at(&proxy.endpoint(), &["doctor", &url(&fixture, ""), "--json"]).expect(DONE);
        assert_finding(&ran, "clock", "warning", part);
        let seconds: f64 = (finding(&ran, "clock").1.split(' ').next())
            .and_then(|number| number.parse().ok())
            .expect("a number");
        assert!((3_500.0..3_700.0).contains(&seconds), "{seconds}");
    }
    let proxy = proxy();
    proxy.rule(Rule::any(Action::Date(Date::Absent)));
    let ran = run_at(&proxy.endpoint(), &["doctor", &url(&fixture, ""), "--json"]).expect(DONE);
    assert_finding(&ran, "clock", "warning", "have no date");
}

#[test]
fn what_keeps_the_lock_table_out_of_reach_is_told_apart() {
    let fixture = furnished("doctor-endpoint");
    let ran = run_at(
        "http://127.0.0.1:1",
        &["doctor", &url(&fixture, ""), "--json"],
    )
    .expect(WRONG);
    assert_finding(
        &ran,
        "endpoint",
        "failure",
        "cannot reach DynamoDB at http://127.0.0.1:1",
    );
    let ran = run_at("localhost:8000", &["doctor", &url(&fixture, ""), "--json"]).expect(WRONG);
    assert_finding(&ran, "endpoint", "failure", "is not a URL");

    let missing = format!(
        "{}-2?lock_table=doctor-none",
        fixture.scratch.database().display()
    );
    let ran = run(&["doctor", &missing, "--json"]).expect(WRONG);
    assert_finding(&ran, "lock table", "failure", "efs-sqlite create-table");
    assert_finding(&ran, "database", "warning", "there is no file");

    let mut command = super::program(Emulator::shared().endpoint());
    let command = command.args(["doctor", &url(&fixture, ""), "--json"]);
    let output = command
        .env_remove("AWS_REGION")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .output();
    let ran = Ran::from(output.expect("it runs")).expect(WRONG);
    assert_finding(&ran, "endpoint", "failure", "set AWS_REGION");
}

#[test]
fn a_table_with_another_key_or_ttl_is_a_finding() {
    use aws_sdk_dynamodb::types::ScalarAttributeType;
    use integration::dynamodb::LockTable;
    let endpoint = Emulator::shared().endpoint();
    let string = ScalarAttributeType::S;
    let key = [("pk", string.clone()), ("sk", string.clone())];
    LockTable::create_with_key(endpoint, "doctor-two-keys", &key).expect("a table");
    LockTable::create_with_key(endpoint, "doctor-no-ttl", &[("pk", string)]).expect("a table");
    let url = |table: &str| format!("/tmp/no-such-file.db?lock_table={table}");
    let ran = run(&["doctor", &url("doctor-two-keys"), "--json"]).expect(WRONG);
    assert_finding(&ran, "lock table", "failure", "pk");
    let ran = run(&["doctor", &url("doctor-no-ttl"), "--json"]).expect(DONE);
    assert_finding(&ran, "TTL", "warning", "off");
    assert_finding(&ran, "lock table", "ok", "key pk (S)");
}

#[test]
fn files_that_cannot_be_a_database_are_findings() {
    let fixture = furnished("doctor-files");
    let examine = |name: &str, content: &[u8]| {
        let path = fixture.scratch.file(name);
        std::fs::write(&path, content).expect("a file");
        run(&[
            "doctor",
            &format!("{}?lock_table=doctor-files", path.display()),
            "--json",
        ])
    };
    let content = std::fs::read(fixture.scratch.database()).expect("a database");
    let mut wal = content.clone();
    (wal[18], wal[19]) = (2, 2);
    let ran = examine("wal.db", &wal).expect(WRONG);
    assert_finding(
        &ran,
        "journal mode",
        "failure",
        "PRAGMA journal_mode=DELETE",
    );
    let ran = examine("garbage.db", &[b'x'; 5000]).expect(WRONG);
    assert_finding(&ran, "content", "failure", "not a SQLite database");
    let ran = examine("short.db", &content[..4096]).expect(DONE);
    assert_finding(&ran, "content", "warning", "the file has only 4096 bytes");
    let ran = examine("empty.db", b"").expect(DONE);
    assert_finding(&ran, "content", "ok", "empty");
    std::fs::hard_link(
        fixture.scratch.file("empty.db"),
        fixture.scratch.file("twin.db"),
    )
    .expect("a link");
    let ran = examine("empty.db", b"").expect(WRONG);
    assert_finding(&ran, "database", "failure", "has 2 names");

    let directory = fixture.scratch.directory().display();
    let ran = run(&[
        "doctor",
        &format!("{directory}?lock_table=doctor-files"),
        "--json",
    ]);
    assert_finding(&ran.expect(WRONG), "database", "failure", "is not a file");
    let ran = run(&["doctor", "/no/such/a.db?lock_table=doctor-files", "--json"]).expect(WRONG);
    assert_finding(&ran, "database", "failure", "/no/such");
}

#[test]
fn another_lock_key_and_wrong_settings_are_findings() {
    let fixture = furnished("doctor-key");
    let ran = run(&["doctor", &url(&fixture, "lock_key=another"), "--json"]).expect(WRONG);
    assert_finding(&ran, "lock key", "failure", "the lock key `another`");
    let ran = run(&["doctor", "/tmp/a.db?lock_tabel=x", "--json"]).expect(WRONG);
    assert_finding(&ran, "settings", "failure", "did you mean `lock_table`?");
    let local = format!("{}?lock=local", fixture.scratch.file("local.db").display());
    let ran = run(&["doctor", &local, "--json"]).expect(DONE);
    assert_finding(&ran, "settings", "ok", "`lock=local`");
}

#[test]
fn what_this_user_may_not_do_with_the_files_is_a_finding() {
    let fixture = furnished("doctor-access");
    let permit = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
    };
    let examine = |parameters: &str| {
        let mut command = super::program(Emulator::shared().endpoint());
        if rustix::process::geteuid().is_root() {
            // Permissions mean nothing to root.
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command
            .args(["doctor", &url(&fixture, parameters), "--json"])
            .output();
        Ran::from(output.expect("it runs"))
    };
    permit(fixture.scratch.directory(), 0o555);
    permit(fixture.scratch.database(), 0o666);
    let ran = examine("").expect(WRONG);
    assert_finding(
        &ran,
        "access",
        "failure",
        "where the rollback journal goes, cannot be written",
    );
    assert_finding(&examine("mode=ro"), "access", "ok", "only reads");
    permit(fixture.scratch.database(), 0o444);
    assert_finding(&examine(""), "access", "failure", "it cannot be written to");
    permit(fixture.scratch.database(), 0o000);
    let ran = examine("").expect(WRONG);
    assert_finding(&ran, "access", "failure", "it cannot be read");
    assert_finding(&ran, "content", "failure", "it cannot be read");
    permit(fixture.scratch.directory(), 0o755);
    permit(fixture.scratch.database(), 0o644);
}
