//! Writers that die, stall or lose their answers at the commit point, and those who come after.
//!
//! The point is named: the `PutItem` that confirms a commit. The pages are written and synced by
//! then, and the journal is hot; the proxy holds that request, or its answer.

use std::fs;
use std::time::{Duration, SystemTime};

use integration::emulator::Emulator;
use integration::process::wait_until;
use integration::proxy::{Action, Proxy, Purpose, Rule, RuleHandle};

use crate::fixtures::workers::{
    Answer, LONG, NEW_ITEMS, OLD_ITEMS, READ_ITEMS, WRITE_ITEMS, WorkerProcess, WorkersFixture,
    proxy, requests, steps,
};

/// Long enough to be still running when the test is done.
const LONG_LEASE: &str = "lock_expiration=60";
/// Short to wait for, and long enough to reach the commit point on a busy machine.
const SHORT_LEASE: &str = "lock_expiration=6";
/// Waits for a lease to run out, and then keeps its own.
const PATIENT: &str = "lock_timeout=20&lock_expiration=60";
const IMPATIENT: &str = "lock_timeout=2";

#[test]
fn while_a_dead_writers_lease_runs_nobody_touches_its_journal() {
    let fixture = WorkersFixture::new("recovery-lease-runs").with_items();
    let mut reader = fixture.open(IMPATIENT);
    let mut writer = fixture.open(IMPATIENT);
    let parameters = format!("{LONG_LEASE}&lock_holder=the-dead-one");
    let _proxy = Holder::killed_at_confirmation(&fixture, &parameters);
    let before = fixture.files();
    assert!(before.1.is_some(), "the journal stands");

    let opens = || {
        (fixture.try_open(Emulator::shared().endpoint(), IMPATIENT, &[]))
            .err()
            .expect("opening needs the lease as well")
    };
    let mut opening = opens();
    wait_until(LONG * 2, "the store's answer is heard", || {
        let unheard = opening.kind == "Store" && opening.retryable;
        if unheard {
            opening = opens();
        }
        !unheard
    });
    for failure in [
        reader.busy(READ_ITEMS),
        writer.busy("execute UPDATE item SET state = 'other'"),
        writer.busy("immediate"),
        opening,
    ] {
        assert_eq!(failure.kind, "Busy", "{failure:?}");
        assert!(failure.retryable);
        assert!(failure.message.contains("`the-dead-one`"), "{failure:?}");
    }
    assert_eq!(fixture.files(), before);

    // What a dead holder's lease is worth is for DynamoDB's clock to say; here for the test.
    fixture.table.delete(&fixture.key()).expect("the item goes");
    assert_eq!(reader.ok(READ_ITEMS), OLD_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_readers_last_attempt_without_time_for_an_answer_does_not_hide_who_is_in_the_way() {
    let fixture = WorkersFixture::new("recovery-hasty-reader").with_items();
    let proxy = proxy();
    let mut reader = fixture.open_behind(&proxy, "lock_timeout=0.2");
    let parameters = format!("{LONG_LEASE}&lock_holder=the-dead-one");
    let _proxy = Holder::killed_at_confirmation(&fixture, &parameters);
    // Again where a busy machine lets not even the first answer come in time. With a connection to
    // the store that is not open yet it hardly can.
    wait_until(LONG, "the first answer is heard, and no other", || {
        proxy.reset();
        let silence = proxy.rule(Rule::put(Action::Silence).from(2));
        let failure = reader.fails(READ_ITEMS);
        if silence.hits() == 0 || failure.kind == "Store" {
            return false;
        }
        assert_eq!(failure.kind, "Busy", "{failure:?}");
        assert!(failure.message.contains("`the-dead-one`"), "{failure:?}");
        true
    });
    fixture.table.delete(&fixture.key()).expect("the item goes");
    proxy.reset();
    assert_eq!(reader.ok(READ_ITEMS), OLD_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_reader_that_began_before_a_commit_does_not_see_half_of_it() {
    let fixture = WorkersFixture::without_file_locks("recovery-half").with_items();
    let mut reader = fixture.open(IMPATIENT);
    reader.ok("begin");
    assert_eq!(
        reader.ok("query SELECT state FROM item WHERE id = 1"),
        "old"
    );
    let holder = Holder::at_confirmation(&fixture, LONG_LEASE, Action::Hold);
    let failure = reader.fails("query SELECT state FROM item WHERE id = 40");
    failure.assert_retryable("TornRead");
    reader.ok("rollback");
    // Begun now, it finds the hot journal of a holder whose lease runs.
    reader.busy(READ_ITEMS);
    holder.confirmation.release();
    holder.process.answer().expect("the commit is acknowledged");
    assert_eq!(reader.ok(READ_ITEMS), NEW_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_reader_rolls_a_dead_writers_journal_back_under_the_lease() {
    let fixture = WorkersFixture::new("recovery-reader").with_items();
    let proxy = proxy();
    let mut reader = fixture.open_behind(&proxy, PATIENT);
    let _proxy = Holder::killed_at_confirmation(&fixture, SHORT_LEASE);
    fixture.wait_until_expired();
    assert_eq!(reader.ok(READ_ITEMS), OLD_ITEMS);
    // Expired, taken over, confirmed, journal ended, released.
    assert_eq!(
        steps(&proxy),
        [
            "Acquire refused",
            "TakeOver 200",
            "Renew 200",
            "Record 200",
            "DeleteItem 200"
        ]
    );
    fixture.assert_whole();
}

#[test]
fn a_writer_waits_for_a_dead_writers_lease_and_rolls_its_journal_back() {
    let fixture = WorkersFixture::new("recovery-writer").with_items();
    let mut writer = fixture.open(PATIENT);
    let _proxy = Holder::killed_at_confirmation(&fixture, SHORT_LEASE);
    writer.ok("execute INSERT INTO item (state) VALUES ('later')");
    assert_eq!(writer.ok(READ_ITEMS), "later|1; old|40");
    assert!(writer.ok("stats").contains("takeovers: 1"));
    fixture.assert_whole();
}

#[test]
fn a_reader_keeps_a_dead_writers_recorded_transaction() {
    let fixture = WorkersFixture::new("recovery-recorded-reader").with_items();
    let proxy = proxy();
    let mut reader = fixture.open_behind(&proxy, PATIENT);
    Holder::recorded(&fixture).process.kill();
    assert!(fixture.has_journal());
    fixture.wait_until_expired();
    assert_eq!(reader.ok(READ_ITEMS), NEW_ITEMS);
    // The journal was removed and not rolled back: there was nothing to confirm.
    assert_eq!(
        steps(&proxy),
        ["Acquire refused", "TakeOver 200", "DeleteItem 200"]
    );
    fixture.assert_whole();
}

#[test]
fn a_writer_keeps_a_dead_writers_recorded_transaction() {
    let fixture = WorkersFixture::new("recovery-recorded-writer").with_items();
    let mut writer = fixture.open(PATIENT);
    Holder::recorded(&fixture).process.kill();
    writer.ok("execute INSERT INTO item (state) VALUES ('later')");
    assert_eq!(writer.ok(READ_ITEMS), "later|1; new|40");
    fixture.assert_whole();
}

/// A window: as DynamoDB's TTL would do, hours or days later.
#[test]
fn a_record_that_is_cleared_away_takes_its_transaction_with_it() {
    let fixture = WorkersFixture::new("recovery-cleared-away").with_items();
    Holder::recorded(&fixture).process.kill();
    assert!(fixture.has_journal());
    fixture.table.delete(&fixture.key()).expect("the item goes");
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    fixture.assert_whole();
}

/// A window: it puts an item of its own, without a record.
#[test]
fn a_successor_of_the_python_package_takes_a_recorded_transaction_with_it() {
    let fixture = WorkersFixture::new("recovery-python-successor").with_items();
    Holder::recorded(&fixture).process.kill();
    fixture.wait_until_expired();
    let now = SystemTime::now();
    let (id, expires_at) = ("a Python process", now - Duration::from_secs(10));
    let granted = (fixture.table).acquire_as_python(&fixture.key(), id, now, expires_at);
    assert!(granted.expect("an answer"));
    assert_eq!(fixture.attribute("committed"), None);
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_successor_that_dies_after_its_takeover_leaves_the_commit_record() {
    let fixture = WorkersFixture::new("recovery-two-deaths").with_items();
    let proxy = proxy();
    let mut first = fixture.open_behind(&proxy, SHORT_LEASE);
    Holder::recorded(&fixture).process.kill();
    let record = fixture.attribute("committed");
    let holders_id = fixture.attribute("lock_id");

    fixture.wait_until_expired();
    let takeover = proxy.rule(Rule::put_to(Purpose::TakeOver, Action::HoldAnswer));
    first.tell(READ_ITEMS);
    takeover.wait_for_hits(1, LONG);
    wait_until(LONG, "the lease is taken over", || {
        fixture.attribute("lock_id") != holders_id
    });
    first.kill();
    assert_eq!(fixture.attribute("committed"), record);
    assert!(fixture.has_journal());

    let mut second = fixture.open(PATIENT);
    assert_eq!(second.ok(READ_ITEMS), NEW_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_successor_that_dies_while_it_rolls_back_leaves_the_journal_to_the_next() {
    let fixture = WorkersFixture::new("recovery-two-rollbacks").with_items();
    let proxy = proxy();
    let mut first = fixture.open_behind(&proxy, SHORT_LEASE);
    let _proxy = Holder::killed_at_confirmation(&fixture, SHORT_LEASE);

    fixture.wait_until_expired();
    // Refused, taken over, confirmed; the fourth would tell that the journal has ended.
    let end = proxy.rule(Rule::put(Action::Hold).from(4));
    first.tell(READ_ITEMS);
    end.wait_for_hits(1, LONG);
    first.kill();
    assert!(fixture.has_journal());
    assert_eq!(fixture.attribute("committed"), None);

    let mut second = fixture.open(PATIENT);
    assert_eq!(second.ok(READ_ITEMS), OLD_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_commit_whose_answer_is_lost_once_succeeds_after_one_retry() {
    let fixture = WorkersFixture::new("recovery-lost-answer").with_items();
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, LONG_LEASE);
    let cut = proxy.rule(Rule::put_to(Purpose::Record, Action::CutAnswer).nth(1));
    writer.ok(WRITE_ITEMS);
    assert_eq!(cut.hits(), 1);
    assert_eq!(
        steps(&proxy),
        [
            "Acquire 200",
            "Record unanswered",
            "Record 200",
            "DeleteItem 200"
        ]
    );
    assert_eq!(fixture.open("").ok(READ_ITEMS), NEW_ITEMS);
    fixture.assert_whole();
}

#[test]
fn a_commit_that_never_reached_the_store_is_of_unknown_outcome_and_rolled_back_by_the_next() {
    let fixture = WorkersFixture::new("recovery-silence").with_items();
    let holder = unknown_outcome(&fixture, Action::Silence);
    assert_eq!(fixture.attribute("committed"), None);
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    assert_works(holder, &fixture, "again|1; old|40");
}

#[test]
fn a_commit_whose_answer_never_came_is_of_unknown_outcome_and_kept_by_the_next() {
    let fixture = WorkersFixture::new("recovery-silent-answer").with_items();
    let holder = unknown_outcome(&fixture, Action::SilenceAnswer);
    assert!(fixture.attribute("committed").is_some());
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), NEW_ITEMS);
    assert_works(holder, &fixture, "again|1; new|40");
}

#[test]
fn a_commit_of_unknown_outcome_is_settled_by_the_same_connection() {
    let fixture = WorkersFixture::new("recovery-silence-self").with_items();
    let mut holder = unknown_outcome(&fixture, Action::SilenceAnswer);
    holder.proxy.reset();
    holder.process.ok("query PRAGMA busy_timeout = 20000");
    assert_eq!(holder.process.ok(READ_ITEMS), NEW_ITEMS);
    assert_works(holder, &fixture, "again|1; new|40");
}

/// The store falls silent at the commit point, until the lease has ended.
fn unknown_outcome(fixture: &WorkersFixture, action: Action) -> Holder {
    let holder = Holder::at_confirmation(fixture, SHORT_LEASE, action);
    let before = fixture.files();
    let failure = holder.process.answer().expect_err("nobody confirmed");
    assert_eq!(failure.kind, "OutcomeUnknown", "{failure:?}");
    assert!(!failure.retryable);
    assert_eq!(fixture.files(), before, "journal and pages are left alone");
    assert!(
        fixture.attribute("lock_id").is_some(),
        "the item is left alone"
    );
    holder
}

#[test]
fn a_holder_stopped_at_the_commit_point_with_no_successor_tells_what_is_true() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-alone").with_items();
    let holder = Holder::stopped_at_confirmation(&fixture);
    let mut holder = holder.thawed();
    match holder.process.answer() {
        Ok(_) => assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), NEW_ITEMS),
        Err(failure) => {
            // Its request was applied, late; it cannot have learned otherwise.
            assert_eq!(failure.kind, "OutcomeUnknown", "{failure:?}");
            assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), NEW_ITEMS);
        }
    }
    holder.process.ok("query PRAGMA busy_timeout = 20000");
    assert_works(holder, &fixture, "again|1; new|40");
}

#[test]
fn a_holder_stopped_at_the_commit_point_does_not_undo_its_successors_recovery() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-recovered").with_items();
    let holder = Holder::stopped_at_confirmation(&fixture);
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    let holder = holder.thawed();
    assert_lost(&holder.process.answer());
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    assert_works(holder, &fixture, "again|1; old|40");
}

#[test]
fn a_holder_stopped_at_the_commit_point_does_not_undo_its_successors_commit() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-committed").with_items();
    let holder = Holder::stopped_at_confirmation(&fixture);
    fixture
        .open(PATIENT)
        .ok("execute UPDATE item SET state = 'next'");
    let holder = holder.thawed();
    assert_lost(&holder.process.answer());
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), "next|40");
    assert_works(holder, &fixture, "again|1; next|40");
}

#[test]
fn a_holder_stopped_at_the_commit_point_leaves_its_successors_open_transaction_alone() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-open").with_items();
    let holder = Holder::stopped_at_confirmation(&fixture);
    let mut successor = fixture.open(PATIENT);
    successor.ok("begin");
    successor.ok("execute UPDATE item SET state = 'next'");
    assert!(fixture.has_journal());
    let before = fixture.files();
    let holder = holder.thawed();
    assert_lost(&holder.process.answer());
    assert_eq!(fixture.files(), before);
    successor.ok("commit");
    assert_works(holder, &fixture, "again|1; next|40");
}

#[test]
fn a_holder_stopped_at_the_commit_point_leaves_its_successors_hot_journal_alone() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-hot").with_items();
    let holder = Holder::stopped_at_confirmation(&fixture);
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), OLD_ITEMS);
    let successor = Holder::at_confirmation_of(
        &fixture,
        PATIENT,
        Action::Hold,
        "execute UPDATE item SET state = 'next'",
    );
    let before = fixture.files();
    let holder = holder.thawed();
    assert_lost(&holder.process.answer());
    assert_eq!(fixture.files(), before);
    successor.confirmation.release();
    successor.process.answer().expect("the successor commits");
    assert_works(holder, &fixture, "again|1; next|40");
}

#[test]
fn a_holder_stopped_after_its_record_is_kept_and_leaves_its_successors_journal_alone() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-record").with_items();
    let holder = Holder::recorded(&fixture);
    holder.process.pause();
    fixture.wait_until_expired();
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), NEW_ITEMS);
    let successor = Holder::at_confirmation_of(
        &fixture,
        PATIENT,
        Action::Hold,
        "execute INSERT INTO item (state) VALUES ('next')",
    );
    let before = fixture.files();
    let holder = holder.thawed();
    // True, unless the answer came too late to be heard.
    if let Err(failure) = holder.process.answer() {
        assert_eq!(failure.kind, "OutcomeUnknown", "{failure:?}");
    }
    assert_eq!(fixture.files(), before);
    successor.confirmation.release();
    successor.process.answer().expect("the successor commits");
    assert_works(holder, &fixture, "again|1; new|40; next|1");
}

#[test]
fn a_holder_stopped_in_mid_transaction_loses_it_and_nothing_else() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-early").with_items();
    let mut holder = fixture.open(SHORT_LEASE);
    holder.ok("begin");
    holder.ok(WRITE_ITEMS);
    holder.pause();
    fixture.wait_until_expired();
    // The holder's journal stands there and is not hot; its successor makes one of its own.
    fixture
        .open(PATIENT)
        .ok("execute UPDATE item SET state = 'next'");
    holder.resume();
    holder.fails("commit").assert_retryable("LeaseLost");
    assert_eq!(holder.ok(READ_ITEMS), "next|40");
    holder.ok("execute INSERT INTO item (state) VALUES ('again')");
    assert_eq!(holder.ok(READ_ITEMS), "again|1; next|40");
    fixture.assert_whole();
}

#[test]
fn a_holder_thawed_before_its_first_write_leaves_its_successors_cold_journal_alone() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-cold-journal").with_items();
    let mut holder = frozen_before_its_journal(&fixture);
    let mut successor = fixture.open(PATIENT);
    successor.ok("begin");
    successor.ok("execute UPDATE item SET state = 'next'");
    let before = fixture.files();
    assert!(before.1.is_some());
    holder.fails(WRITE_ITEMS).assert_retryable("LeaseLost");
    assert_eq!(fixture.files(), before);
    assert!(holder.fails("commit").retryable);
    assert_eq!(fixture.files(), before);
    successor.ok("commit");
    assert_eq!(holder.ok(READ_ITEMS), "next|40");
    fixture.assert_whole();
}

#[test]
fn a_holder_thawed_before_its_first_write_leaves_its_successors_hot_journal_alone() {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-hot-journal").with_items();
    let mut holder = frozen_before_its_journal(&fixture);
    // Takes the lease over, so that the next one has it for the asking.
    fixture
        .open(PATIENT)
        .ok("execute UPDATE item SET state = 'between'");
    let successor = Holder::at_confirmation_of(
        &fixture,
        PATIENT,
        Action::Hold,
        "execute UPDATE item SET state = 'next'",
    );
    let before = fixture.files();
    holder.fails(WRITE_ITEMS).assert_retryable("LeaseLost");
    assert!(holder.fails("commit").retryable);
    assert_eq!(fixture.files(), before);
    successor.confirmation.release();
    successor.process.answer().expect("the successor commits");
    assert_eq!(holder.ok(READ_ITEMS), "next|40");
    fixture.assert_whole();
}

#[test]
fn a_holder_thawed_before_its_first_write_makes_no_journal_of_a_state_that_its_successor_has_changed()
 {
    let fixture = WorkersFixture::without_file_locks("recovery-thaw-old-state").with_items();
    let mut holder = frozen_before_its_journal(&fixture);
    fixture
        .open(PATIENT)
        .ok("execute UPDATE item SET state = 'next'");
    assert!(!fixture.has_journal(), "nothing of the successor's is left");
    let before = fixture.files().0;
    holder.fails(WRITE_ITEMS).assert_retryable("LeaseLost");
    assert!(holder.fails("commit").retryable);
    assert_eq!(fixture.files().0, before);
    // Whoever comes next would have rolled such a journal back.
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), "next|40");
    assert_eq!(holder.ok(READ_ITEMS), "next|40");
    holder.ok("execute INSERT INTO item (state) VALUES ('again')");
    assert_eq!(fixture.open(PATIENT).ok(READ_ITEMS), "again|1; next|40");
    fixture.assert_whole();
}

/// A holder whose lease has run out while its clocks stood still: it cannot know.
fn frozen_before_its_journal(fixture: &WorkersFixture) -> WorkerProcess {
    let endpoint = Emulator::shared().endpoint();
    let holder = fixture.try_open(endpoint, SHORT_LEASE, &["clock=still"]);
    let mut holder = holder.expect("the database opens");
    holder.ok("immediate");
    assert!(!fixture.has_journal());
    fixture.wait_until_expired();
    holder
}

#[test]
fn a_leftover_that_never_became_hot_is_removed_once_the_store_has_confirmed() {
    let fixture = WorkersFixture::new("recovery-leftover").with_items();
    let proxy = proxy();
    let mut writer = fixture.open_behind(&proxy, LONG_LEASE);
    // A header whose magic was not written yet.
    fs::write(fixture.scratch.journal(), [0; 512]).expect("a journal");
    assert_eq!(writer.ok(READ_ITEMS), OLD_ITEMS);
    assert_eq!(requests(&proxy), [""; 0], "a reader does not mind it");
    assert!(fixture.has_journal());
    writer.ok(WRITE_ITEMS);
    assert_eq!(
        steps(&proxy),
        ["Acquire 200", "Renew 200", "Record 200", "DeleteItem 200"]
    );
    assert_eq!(writer.ok(READ_ITEMS), NEW_ITEMS);
    fixture.assert_whole();
}

/// A process at the commit point of its transaction.
struct Holder {
    process: WorkerProcess,
    proxy: Proxy,
    confirmation: RuleHandle,
}

impl Holder {
    fn at_confirmation(fixture: &WorkersFixture, parameters: &str, action: Action) -> Self {
        Self::at_confirmation_of(fixture, parameters, action, WRITE_ITEMS)
    }

    /// Runs the statement up to the request that confirms it, and does `action` to that and to
    /// the requests that repeat it.
    fn at_confirmation_of(
        fixture: &WorkersFixture,
        parameters: &str,
        action: Action,
        statement: &str,
    ) -> Self {
        let proxy = proxy();
        let mut process = fixture.open_behind(&proxy, parameters);
        let confirmation = proxy.rule(Rule::put_to(Purpose::Record, action));
        process.tell(statement);
        confirmation.wait_for_hits(1, LONG);
        let (_, journal) = fixture.files();
        let first_byte = journal.expect("a journal").first().copied();
        assert_ne!(first_byte, Some(0), "the journal is hot");
        Self {
            process,
            proxy,
            confirmation,
        }
    }

    /// It leaves a hot journal and a lease; its last request does not go on while the proxy stands.
    #[must_use]
    fn killed_at_confirmation(fixture: &WorkersFixture, parameters: &str) -> Proxy {
        let holder = Self::at_confirmation(fixture, parameters, Action::Hold);
        holder.process.kill();
        holder.proxy
    }

    /// The commit record is in the item, and the holder has not heard of it.
    fn recorded(fixture: &WorkersFixture) -> Self {
        let holder = Self::at_confirmation(fixture, SHORT_LEASE, Action::HoldAnswer);
        wait_until(LONG, "the commit is recorded", || {
            fixture.attribute("committed").is_some()
        });
        holder
    }

    /// Stopped before the request reached the store, and until its lease was over.
    fn stopped_at_confirmation(fixture: &WorkersFixture) -> Self {
        let holder = Self::at_confirmation(fixture, SHORT_LEASE, Action::Hold);
        holder.process.pause();
        fixture.wait_until_expired();
        holder
    }

    /// Lets the request go, and then the process.
    fn thawed(self) -> Self {
        self.confirmation.release();
        wait_until(LONG, "the late request is answered", || {
            let requests = self.proxy.requests();
            let mut records = requests
                .iter()
                .filter(|request| request.purpose() == Some(Purpose::Record));
            records.next().is_some_and(|first| first.status.is_some())
        });
        self.process.resume();
        self
    }
}

/// The commit was not acknowledged: refused, or, if the refusal came too late to be heard,
/// of unknown outcome.
#[track_caller]
fn assert_lost(answer: &Answer) {
    let failure = answer.as_ref().expect_err("its successor has gone on");
    match failure.kind.as_str() {
        "LeaseLost" => assert!(failure.retryable, "{failure:?}"),
        "OutcomeUnknown" => assert!(!failure.retryable, "{failure:?}"),
        _ => panic!("{failure:?}"),
    }
}

/// The connection that has suffered the loss writes again.
#[track_caller]
fn assert_works(mut holder: Holder, fixture: &WorkersFixture, expected: &str) {
    holder.proxy.reset();
    holder
        .process
        .ok("execute INSERT INTO item (state) VALUES ('again')");
    assert_eq!(holder.process.ok(READ_ITEMS), expected);
    fixture.assert_whole();
}
