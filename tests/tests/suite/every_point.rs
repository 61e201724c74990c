//! Every point of a transaction: a crash there, a pause beyond the lease, a failing operation.
//!
//! A first pass counts the operations of a transaction on its files and on the lock table, a second
//! visits each. Afterwards acknowledged data is there, other data is there whole or not at all, and
//! the connection goes on. A further pass does so on what is taken for a network file system.
//!
//! Each run tries a sample of the cases, by a seed that is printed; `EFS_TESTS_SEED=<seed>` repeats
//! it. `EFS_TESTS=long cargo test -p integration every_point` tries all there is;
//! `EFS_TESTS_CASE="<case>"` beside it repeats the case that a failure has named.

mod fixture;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::Text;
use diesel_sqlite_efs::{EfsSqliteConnection, EfsTransactionManager};
use integration::options;
use integration::recording::{Crash, Fault, Late, On, Operation, Plan, Then};

use self::fixture::{
    Conduct, Mode, Outcome, RecordedFixture, RecordedHost, Seen, Successor, Template, furnished,
    left_by_a_crash, log,
};
use crate::fixtures::hosts::execute;

#[test]
fn every_point_of_a_small_transaction() {
    let run = |conn: &mut EfsSqliteConnection| {
        execute(conn, "UPDATE t SET n = n + 100 WHERE id = 3").map(drop)
    };
    Scenario::new("small", furnished(), run)
        .in_all_modes()
        .explore();
}

#[test]
fn every_point_of_a_large_transaction() {
    let run = |conn: &mut EfsSqliteConnection| {
        conn.transaction(|conn| {
            execute(conn, "UPDATE t SET n = n + 100")?;
            execute(
                conn,
                "INSERT INTO t (n, m, filler) SELECT n + 100, m, zeroblob(1000) FROM t",
            )?;
            execute(conn, "DELETE FROM t WHERE id < 3").map(drop)
        })
    };
    Scenario::new("large", furnished(), run).explore();
}

#[test]
fn every_point_of_a_rollback() {
    let run = |conn: &mut EfsSqliteConnection| {
        let result = conn.transaction(|conn| {
            execute(conn, "UPDATE t SET n = n + 100")?;
            Err::<(), _>(Error::RollbackTransaction)
        });
        match result {
            Err(Error::RollbackTransaction) => Ok(()),
            result => result,
        }
    };
    Scenario::new("rollback", furnished(), run)
        .in_all_modes()
        .explore();
}

#[test]
fn every_point_of_a_transaction_with_a_savepoint() {
    let run = |conn: &mut EfsSqliteConnection| {
        conn.transaction(|conn| {
            execute(conn, "UPDATE t SET n = n + 100 WHERE id < 5")?;
            let inner = conn.transaction(|conn| {
                execute(conn, "UPDATE t SET n = n + 100")?;
                Err::<(), _>(Error::RollbackTransaction)
            });
            match inner {
                Err(Error::RollbackTransaction) => {}
                result => return result,
            }
            execute(conn, "UPDATE t SET n = n + 100 WHERE id > 12").map(drop)
        })
    };
    Scenario::new("savepoint", furnished(), run)
        .in_all_modes()
        .explore();
}

#[test]
fn every_point_of_ddl() {
    let run = |conn: &mut EfsSqliteConnection| {
        conn.transaction(|conn| {
            conn.batch_execute(
                "CREATE TABLE u (id INTEGER PRIMARY KEY, v TEXT); \
                 CREATE INDEX u_v ON u (v); \
                 DROP INDEX t_n; \
                 ALTER TABLE t ADD COLUMN extra TEXT",
            )
        })
    };
    Scenario::new("ddl", furnished(), run).explore();
}

#[test]
fn every_point_of_a_vacuum() {
    let run = |conn: &mut EfsSqliteConnection| conn.batch_execute("VACUUM");
    Scenario::new("vacuum", furnished(), run).explore();
}

#[test]
fn every_point_of_the_first_transaction_of_an_empty_database() {
    let run = |conn: &mut EfsSqliteConnection| {
        conn.transaction(|conn| {
            conn.batch_execute("CREATE TABLE first (v); INSERT INTO first VALUES (zeroblob(5000))")
        })
    };
    Scenario::new("first", Template::default(), run).explore();
}

/// Reads, which recovers, and writes.
fn read_and_write(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
    Seen::by(conn, false)?;
    execute(conn, "UPDATE t SET n = n + 100 WHERE id > 8").map(drop)
}

#[test]
fn every_point_of_an_open_with_a_hot_journal() {
    let plan = Plan::CrashInCommit {
        pages: 3,
        leaves: Crash::KeepsAll,
    };
    let template = left_by_a_crash(&furnished(), plan);
    Scenario::new("open, hot journal", template, read_and_write)
        .with_open()
        .explore();
}

#[test]
fn every_point_of_an_open_with_a_journal_that_never_became_hot() {
    let plan = Plan::Crash {
        at: 0,
        leaves: Crash::KeepsAll,
    };
    let template = left_by_a_crash(&furnished(), plan);
    Scenario::new("open, cold journal", template, read_and_write)
        .with_open()
        .explore();
}

#[test]
fn every_point_of_an_open_with_a_journal_that_the_item_says_is_finished() {
    let commit = count_commit();
    let at = (commit
        .iter()
        .position(|operation| *operation == Operation::Delete))
    .expect("the end of the journal");
    let plan = Plan::Crash {
        at,
        leaves: Crash::KeepsAll,
    };
    let template = left_by_a_crash(&furnished(), plan);
    Scenario::new("open, finished journal", template, read_and_write)
        .with_open()
        .successors(1)
        .explore();
}

/// The operations of a successor's commit.
fn count_commit() -> Vec<Operation> {
    let fixture = RecordedFixture::new(&furnished());
    let host = fixture.successor();
    let mut conn = host.connect().expect("a connection");
    let recorder = host.recorder();
    let result = conn.transaction(|conn| {
        fixture::write_as_successor(conn, fixture.new)?;
        recorder.plan(Plan::Watch);
        QueryResult::Ok(())
    });
    result.expect("a commit");
    recorder.operations()
}

type Run = fn(&mut EfsSqliteConnection) -> QueryResult<()>;

/// A transaction and what it begins with.
struct Scenario {
    name: &'static str,
    template: Template,
    run: Run,
    /// The connection is opened as part of it.
    opens: bool,
    /// How many successors' transactions are there from the beginning.
    successors: i64,
    /// The short form has a pass for each mode as well.
    in_all_modes: bool,
    /// That of the pass under way.
    mode: Mode,
}

/// What the first pass has learned.
struct Course {
    operations: Vec<Operation>,
    /// The rows before and after.
    old: String,
    new: String,
    /// How many of the operations that decide are done when the commit is.
    decisions: usize,
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Tally {
    points: usize,
    /// All cases of the long form.
    cases: usize,
    crashes: usize,
    pauses: usize,
    /// Of the pauses, those after which something else was to happen, by what did.
    after_pauses: BTreeMap<Then, usize>,
    faults: usize,
    outcomes: BTreeMap<Outcome, usize>,
    /// Cases in a documented window, and how many of them did which harm.
    windows: BTreeMap<Window, (usize, BTreeMap<Harm, usize>)>,
    broken: usize,
    failures: Vec<String>,
}

/// How a case disturbs the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    Crash(Crash),
    Pause(Pause),
    Fault {
        fault: Fault,
        lasting: bool,
        /// Who looks first afterwards: the same connection, or another host.
        same_first: bool,
    },
}

/// How the holder is paused beyond its lease, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    /// The operation is done first.
    after: bool,
    /// Its clocks stand still meanwhile.
    frozen: bool,
    conduct: Conduct,
    then: Then,
}

impl Pause {
    /// All ways to be paused, without what comes later.
    fn ways() -> impl Iterator<Item = Self> {
        let moments = [(false, false), (false, true), (true, false), (true, true)];
        Conduct::ALL.into_iter().flat_map(move |conduct| {
            moments.into_iter().map(move |(after, frozen)| Self {
                after,
                frozen,
                conduct,
                then: Then::GoesOn,
            })
        })
    }
}

/// What may meet a holder that goes on after a pause.
const LATER: [Then; 4] = [
    Then::Fails {
        fault: Fault::Io,
        lasting: false,
    },
    Then::Dies,
    // On a network file system the lease counts as lost then, whatever the clocks say.
    Then::Fails {
        fault: Fault::Stale,
        lasting: true,
    },
    Then::Fails {
        fault: Fault::DoneButIo,
        lasting: false,
    },
];

/// Which cases are tried in the short form: the same for all tests of a run.
fn sample() -> usize {
    static SAMPLE: LazyLock<usize> = LazyLock::new(|| match options::seed() {
        Some(seed) => usize::try_from(seed).expect("a seed that was printed"),
        None => fastrand::usize(..1000),
    });
    *SAMPLE
}

const NOT_REACHED: &str = "the point was not reached";

/// Where a failing case is told to stop: there is nothing to learn from thousands.
const MOST_FAILURES: usize = 200;

impl Scenario {
    fn new(name: &'static str, template: Template, run: Run) -> Self {
        Self {
            name,
            template,
            run,
            opens: false,
            successors: 0,
            in_all_modes: false,
            mode: Mode::Plain,
        }
    }

    fn with_open(self) -> Self {
        Self {
            opens: true,
            ..self
        }
    }

    fn successors(self, successors: i64) -> Self {
        Self { successors, ..self }
    }

    fn in_all_modes(self) -> Self {
        Self {
            in_all_modes: true,
            ..self
        }
    }

    fn in_mode(&self, mode: Mode) -> Self {
        Self {
            mode,
            template: self.template.clone(),
            ..*self
        }
    }

    /// All modes at once: most of the time is spent waiting.
    #[track_caller]
    fn explore(&self) {
        let long = options::is_long();
        let sample = (!long).then(sample);
        let modes: &[Mode] = if long || self.in_all_modes {
            &Mode::ALL
        } else {
            &[Mode::Plain]
        };
        let failures: Vec<String> = thread::scope(|scope| {
            let passes: Vec<_> = (modes.iter())
                .map(|mode| {
                    let scenario = self.in_mode(*mode);
                    scope.spawn(move || scenario.explore_in_its_mode(sample))
                })
                .collect();
            (passes.into_iter())
                .flat_map(|pass| pass.join().expect("no panic"))
                .collect()
        });
        assert!(
            failures.is_empty(),
            "{} cases failed; repeat one with EFS_TESTS=long EFS_TESTS_CASE='<the text before the operation>':\n{}",
            failures.len(),
            failures[..failures.len().min(30)].join("\n")
        );
    }

    /// Both passes; what failed.
    fn explore_in_its_mode(&self, sample: Option<usize>) -> Vec<String> {
        let only = options::case();
        let course = self.count();
        let mut tally = Tally {
            points: course.operations.len(),
            ..Tally::default()
        };
        for point in 0..=course.operations.len() {
            tally.cases += self.disturbances(&course, point, None).len();
            for disturbance in self.disturbances(&course, point, sample) {
                let label = format!("{}, {:?}: {point}, {disturbance:?}", self.name, self.mode);
                if only.as_ref().is_some_and(|only| *only != label) {
                    continue;
                }
                if let Err(failure) = self.visit(&course, point, disturbance, &mut tally) {
                    let operation = course.operations.get(point);
                    tally
                        .failures
                        .push(format!("{label} ({operation:?}): {failure}"));
                }
                if tally.failures.len() == MOST_FAILURES {
                    break;
                }
            }
        }
        tally.report(self.name, self.mode, sample);
        tally.failures
    }

    /// The first pass: an undisturbed run.
    fn count(&self) -> Course {
        let before = self.fixture();
        let mut conn = before.bystander().connect().expect("a connection");
        let old = Seen::by(&mut conn, before.new).expect("a readable database");
        assert_eq!(old.successors, Ok(self.successors));
        drop(conn);
        let fixture = self.fixture();
        let host = fixture.holder(false);
        let (conn, result) = self.run_to_its_end(&host, Plan::Watch);
        result.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let operations = host.recorder().operations();
        let new =
            Seen::by(&mut conn.expect("a connection"), fixture.new).expect("a readable database");
        Course {
            decisions: self.decisions(&operations),
            operations,
            old: old.rows,
            new: new.rows,
        }
    }

    fn fixture(&self) -> Arc<RecordedFixture> {
        RecordedFixture::in_mode(&self.template, self.mode)
    }

    /// How many of these operations are of the kind that decides about a commit: the record of it.
    fn decisions(&self, operations: &[Operation]) -> usize {
        let decides = Operation::Request("confirm");
        let decisions = operations.iter().filter(|done| **done == decides);
        decisions.count()
    }

    /// What is done at a point; the point after the last is the one after the acknowledgement.
    ///
    /// All there is without a `sample`; with one, some of it of each kind: others at each point, and
    /// at the same point others in another sample.
    fn disturbances(
        &self,
        course: &Course,
        point: usize,
        sample: Option<usize>,
    ) -> Vec<Disturbance> {
        let turn = sample.map(|sample| sample + point);
        let mut all = self.crashes(point, turn);
        if let Some(operation) = course.operations.get(point) {
            all.extend(Self::pauses(*operation, turn).map(Disturbance::Pause));
            all.extend(self.later_faults(point, turn).map(Disturbance::Pause));
            all.extend(Self::faults(*operation, turn));
        }
        if self.mode != Mode::Plain
            && let Some(mut n) = turn
        {
            // A third of them.
            all.retain(|_| {
                n += 1;
                n.is_multiple_of(3)
            });
        }
        all
    }

    fn crashes(&self, point: usize, turn: Option<usize>) -> Vec<Disturbance> {
        let most = if self.mode == Mode::Plain { 12 } else { 4 };
        let seeds = match turn {
            None => 0..most,
            Some(turn) => turn as u64 % most..turn as u64 % most + 1,
        };
        let random = seeds.map(|n| Crash::Random((point as u64) << 8 | n));
        [Crash::LosesUnsynced, Crash::KeepsAll]
            .into_iter()
            .chain(random)
            .map(Disturbance::Crash)
            .collect()
    }

    fn pauses(operation: Operation, turn: Option<usize>) -> impl Iterator<Item = Pause> {
        let is_change = !matches!(
            operation,
            Operation::Read(_) | Operation::Size(_) | Operation::Access | Operation::Unlock(_)
        );
        Pause::ways().enumerate().filter_map(move |(n, pause)| {
            let (n, k) = (n / 4, n % 4);
            // A sample has each point with all conducts, each in one way, or in two where something
            // is about to change.
            let is_visited = turn
                .is_none_or(|turn| (n + turn) % 4 == k || (is_change && (n + turn + 1) % 4 == k));
            is_visited.then_some(pause)
        })
    }

    /// Pauses after which something else happens: all ways to be paused, each followed by one thing,
    /// or by two with the defaults; one or two ways in a sample.
    fn later_faults(&self, point: usize, turn: Option<usize>) -> impl Iterator<Item = Pause> {
        let each = if self.mode == Mode::Plain { 2 } else { 1 };
        Pause::ways().enumerate().flat_map(move |(n, pause)| {
            let visited = turn.is_none_or(|turn| (n + 7 * turn).is_multiple_of(16));
            let first = n + n / 4 + point;
            (first..first + if visited { each } else { 0 }).map(move |k| Pause {
                then: LATER[k % LATER.len()],
                ..pause
            })
        })
    }

    fn faults(operation: Operation, turn: Option<usize>) -> Vec<Disturbance> {
        let mut all = Vec::new();
        let once = Fault::of(operation).iter().map(|fault| (*fault, false));
        let lasting = [Fault::Stale, Fault::Full, Fault::Busy]
            .into_iter()
            .filter(|fault| match fault {
                Fault::Full => Fault::of(operation).contains(fault),
                Fault::Busy => turn.is_none() && Fault::of(operation).contains(fault),
                _ => !Fault::of(operation).is_empty(),
            })
            .map(|fault| (fault, true));
        for (n, (fault, lasting)) in once.chain(lasting).enumerate() {
            for same_first in [false, true] {
                if turn.is_none_or(|turn| same_first == (n + turn).is_multiple_of(2)) {
                    all.push(Disturbance::Fault {
                        fault,
                        lasting,
                        same_first,
                    });
                }
            }
        }
        all
    }

    fn run_to_its_end(
        &self,
        host: &RecordedHost,
        plan: Plan,
    ) -> (Option<EfsSqliteConnection>, Result<(), String>) {
        let mut conn = (!self.opens).then(|| host.connect().expect("a connection"));
        if let Some(conn) = &mut conn {
            Seen::by(conn, self.template.is_new()).expect("a readable database");
        }
        host.recorder().plan(plan);
        if conn.is_none() {
            match host.connect() {
                Ok(opened) => conn = Some(opened),
                Err(error) => return (None, Err(error.to_string())),
            }
        }
        let result = conn.as_mut().map_or(Ok(()), |conn| (self.run)(conn));
        (conn, result.map_err(|error| error.to_string()))
    }

    fn visit(
        &self,
        course: &Course,
        point: usize,
        disturbance: Disturbance,
        tally: &mut Tally,
    ) -> Result<(), String> {
        match disturbance {
            Disturbance::Crash(leaves) => self.crash(course, point, leaves, tally),
            Disturbance::Pause(pause) => self.pause(course, point, pause, tally),
            Disturbance::Fault {
                fault,
                lasting,
                same_first,
            } => self.fail(course, point, fault, lasting, same_first, tally),
        }
    }

    fn crash(
        &self,
        course: &Course,
        point: usize,
        leaves: Crash,
        tally: &mut Tally,
    ) -> Result<(), String> {
        tally.crashes += 1;
        let fixture = self.fixture();
        let host = fixture.holder(false);
        let (conn, result) = self.run_to_its_end(&host, Plan::Crash { at: point, leaves });
        let recorder = host.recorder();
        if recorder.reached() != course.operations.get(point).copied() {
            return Err(format!("another operation: {:?}", recorder.reached()));
        }
        if recorder.reached().is_none() {
            result?;
            recorder.crash(leaves);
        }
        drop(conn);
        let outcome = self.outcome_of_a_crash(course, &recorder.operations()[..point]);
        fixture.let_leases_end();
        self.check(course, &fixture, outcome, self.successors, 0)
            .map_err(|wrong| wrong.text)
    }

    /// By what was done until then.
    fn outcome_of_a_crash(&self, course: &Course, done: &[Operation]) -> Outcome {
        if self.decisions(done) == course.decisions {
            Outcome::Applied
        } else {
            Outcome::NotApplied
        }
    }

    fn pause(
        &self,
        course: &Course,
        point: usize,
        pause: Pause,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let Pause {
            after,
            frozen,
            conduct,
            then,
        } = pause;
        let fixture = self.fixture();
        let host = fixture.holder(frozen).impatient();
        let successor = Arc::new(Mutex::new(None));
        let meanwhile = {
            let (fixture, successor) = (fixture.clone(), successor.clone());
            Box::new(move || {
                fixture.let_leases_end();
                let started = Successor::start(&fixture, conduct);
                *successor.lock().expect("no panic") = Some((started, fixture.journal()));
            })
        };
        let plan = Plan::Pause {
            at: point,
            after,
            meanwhile,
            then,
        };
        let (conn, result) = self.run_to_its_end(&host, plan);
        let recorder = host.recorder();
        let reached = recorder.reached().ok_or(NOT_REACHED)?;
        tally.pauses += 1;
        let (late, failed, crashed) = (recorder.late(), recorder.failed(), recorder.crashed());
        if failed.is_some() || crashed {
            *tally.after_pauses.entry(then).or_default() += 1;
        }
        let told = if crashed {
            let done = &recorder.operations()[..=point];
            match self.outcome_of_a_crash(course, done) {
                // The store, or the file system, may have refused what came late.
                Outcome::Applied if !after && self.decisions(&done[point..]) > 0 => {
                    Outcome::Unknown
                }
                outcome => outcome,
            }
        } else {
            Outcome::told(&result)
        };
        *tally.outcomes.entry(told).or_default() += 1;
        let successor = successor.lock().expect("no panic").take();
        let (successor, its_journal) = successor.ok_or("the holder was not paused")?;
        let removed = conduct.leaves_a_journal() && fixture.journal() != its_journal;
        let applied = match successor.map(Successor::finish) {
            Some(Ok(())) => 1,
            Some(Err(error)) if conduct.crashes() => {
                drop(error);
                0
            }
            Some(Err(error)) => {
                return Err(format!(
                    "the successor: {error}; the holder was told: {result:?}"
                ));
            }
            None => 0,
        };
        if let Err(error) = &result
            && !error.contains(fixture::KEY)
            && failed.is_none()
            && !crashed
        {
            return Err(format!("an error that is not the lock's: {error}"));
        }
        let window = Window::of(self, pause, reached, late, removed)?;
        let wrote_late = conduct != Conduct::Nothing && late.writes > 0;
        if wrote_late && told == Outcome::Applied {
            return Err("acknowledged after a late write".to_owned());
        }
        fixture.let_leases_end();
        recorder.plan(Plan::Watch);
        let goes_on = if crashed {
            drop(conn);
            Ok(0)
        } else {
            self.go_on(conn, &host, tally)
        };
        let checked = goes_on
            .and_then(|again| self.check(course, &fixture, told, self.successors + applied, again));
        let told = |wrong: Wrong| Wrong {
            text: format!("{}; the holder was told: {result:?}", wrong.text),
            ..wrong
        };
        let checked = checked.map_err(told);
        match window {
            None => checked.map_err(|wrong| wrong.text),
            Some(window) => tally.window(window, checked),
        }
    }

    fn fail(
        &self,
        course: &Course,
        point: usize,
        fault: Fault,
        lasting: bool,
        same_first: bool,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let fixture = self.fixture();
        let host = fixture.holder(false).impatient();
        let plan = Plan::Fail {
            at: point,
            fault,
            lasting,
        };
        let (conn, result) = self.run_to_its_end(&host, plan);
        let recorder = host.recorder();
        recorder.reached().ok_or(NOT_REACHED)?;
        tally.faults += 1;
        recorder.plan(Plan::Watch);
        let told = Outcome::told(&result);
        *tally.outcomes.entry(told).or_default() += 1;
        let told_text = format!("; the holder was told: {result:?}");
        let result = if same_first {
            self.go_on(conn, &host, tally).and_then(|again| {
                fixture.let_leases_end();
                self.check(course, &fixture, told, self.successors, again)
            })
        } else {
            fixture.let_leases_end();
            self.check(course, &fixture, told, self.successors, 0)
                .and_then(|()| {
                    let again = self.go_on(conn, &host, tally)?;
                    self.check(course, &fixture, told, self.successors, again)
                })
        };
        result.map_err(|wrong| wrong.text + &told_text)
    }

    /// The same connection writes again, or says that it is broken. How often it has written.
    fn go_on(
        &self,
        conn: Option<EfsSqliteConnection>,
        host: &RecordedHost,
        tally: &mut Tally,
    ) -> Result<i64, Wrong> {
        let mut conn = match conn {
            Some(conn) => conn,
            None => (host.connect()).map_err(|error| Wrong::told("opening again", &error))?,
        };
        if <EfsTransactionManager as TransactionManager<_>>::is_broken_transaction_manager(
            &mut conn,
        ) {
            tally.broken += 1;
            return Ok(0);
        }
        conn.set_lock_timeout(std::time::Duration::from_secs(20));
        let new = self.template.is_new();
        log(&mut conn, "h", new).map_err(|error| Wrong::told("the same connection", &error))?;
        Seen::by(&mut conn, new)
            .map_err(|error| Wrong::told("the same connection reads", &error))?;
        Ok(1)
    }

    /// Another host finds what it should, and can write.
    fn check(
        &self,
        course: &Course,
        fixture: &RecordedFixture,
        outcome: Outcome,
        successors: i64,
        again: i64,
    ) -> Result<(), Wrong> {
        let mut conn = (fixture.bystander().connect())
            .map_err(|error| Wrong::told("another host cannot open it", &error))?;
        let seen = Seen::by(&mut conn, fixture.new)
            .map_err(|error| Wrong::told("another host reads", &error))?;
        let integrity = diesel::dsl::sql::<Text>("PRAGMA integrity_check")
            .get_result::<String>(&mut conn)
            .map_err(|error| Wrong::told("integrity_check", &error))?;
        log(&mut conn, "b", fixture.new)
            .map_err(|error| Wrong::told("another host writes", &error))?;
        fixture
            .leftovers()
            .map_err(|error| Harm::Lock.because(error))?;
        if integrity != "ok" {
            return Err(Harm::Torn.because(format!("integrity_check: {integrity}")));
        }
        let state = match &seen.rows {
            rows if *rows == course.old => "is not there",
            rows if *rows == course.new => "is there",
            rows => {
                return Err(Harm::Torn.because(format!("the transaction is there in part: {rows}")));
            }
        };
        let found = match seen.successors {
            Ok(found) => found,
            Err(part) => return Err(Harm::Torn.because(format!("successors in part: {part}"))),
        };
        let harm = match outcome {
            Outcome::Applied if seen.rows != course.new => Some(Harm::Undone),
            Outcome::NotApplied if seen.rows != course.old => Some(Harm::Kept),
            _ => None,
        };
        if let Some(harm) = harm {
            return Err(harm.because(format!("expected {outcome:?}, the transaction {state}")));
        }
        if found != successors {
            let text = format!("expected {successors} successors, found {found}");
            return Err(Harm::Successor.because(text));
        }
        if seen.again != again {
            let text = format!("expected {again} more writes, found {}", seen.again);
            return Err(Harm::Again.because(text));
        }
        Ok(())
    }
}

/// What is wrong after a case.
#[derive(Debug)]
struct Wrong {
    harm: Harm,
    text: String,
}

/// What kind of wrong it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// A transaction is there in part, or SQLite finds the file malformed.
    Torn,
    /// The holder's transaction is not there, although it was acknowledged.
    Undone,
    /// The holder's transaction is there, although it was reported as rolled back.
    Kept,
    /// A successor's transaction that was acknowledged is not there, or it could not know, or one
    /// that was not is there.
    Successor,
    /// What the holder's connection has written later is not there.
    Again,
    /// Lock or journal are left, or somebody meets an error that does not speak of the database's
    /// content.
    Lock,
}

impl Harm {
    fn because(self, text: String) -> Wrong {
        Wrong { harm: self, text }
    }
}

impl Wrong {
    fn told(what: &str, error: &dyn std::error::Error) -> Self {
        let text = format!("{what}: {error}");
        // The last: of rows that are not there.
        let of_content = ["malformed", "not a SQLite database", "Unexpected null"];
        let harm = if of_content.iter().any(|error| text.contains(error)) {
            Harm::Torn
        } else {
            Harm::Lock
        };
        harm.because(text)
    }
}

/// What no client can close: the manual's "What is not guaranteed".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Window {
    /// The journal that is deleted late is that of a successor in its commit, which dies there, or
    /// into which the holder reads.
    LateDeletion,
    /// The database is written or truncated late, where file locks do not work.
    LateWrite,
}

impl Window {
    /// What may come of it, by the manual.
    fn harms(self) -> &'static [Harm] {
        match self {
            Self::LateDeletion => &[Harm::Torn],
            Self::LateWrite => &[Harm::Torn, Harm::Kept, Harm::Successor],
        }
    }

    /// The window that the case has hit; an error if what came late is more than the manual says.
    /// `removed`: the successor's journal is not there any more.
    fn of(
        scenario: &Scenario,
        pause: Pause,
        reached: Operation,
        late: Late,
        removed: bool,
    ) -> Result<Option<Self>, String> {
        // What was let pass before the pause; whose clocks stood still lets more pass.
        let passed = |operation| usize::from(reached == operation && !pause.after);
        let most = Late {
            writes: passed(Operation::Write(On::Main)),
            truncations: passed(Operation::Truncate(On::Main)),
            deletions: passed(Operation::Delete),
        };
        let is_more = late.writes > most.writes
            || late.truncations > most.truncations
            || late.deletions > most.deletions;
        if !pause.frozen && is_more {
            return Err(format!("{late:?}, expected at most {most:?}"));
        }
        let deleted = late.deletions > 0;
        if removed && !deleted {
            return Err("the successor's journal was removed as a leftover".to_owned());
        }
        Ok(match pause.conduct {
            Conduct::Nothing => None,
            _ if late.writes + late.truncations > 0 => Some(Self::LateWrite),
            // Its journal is gone by then, and who deletes it once more learns so.
            Conduct::Commits => None,
            Conduct::CrashesCommitting if deleted => Some(Self::LateDeletion),
            Conduct::IsCommitting if deleted && scenario.opens => Some(Self::LateDeletion),
            _ => None,
        })
    }
}

impl Tally {
    /// A case was in a window; an error if it did other harm than the manual says.
    fn window(&mut self, window: Window, checked: Result<(), Wrong>) -> Result<(), String> {
        let (cases, harms) = self.windows.entry(window).or_default();
        *cases += 1;
        let Err(wrong) = checked else {
            return Ok(());
        };
        *harms.entry(wrong.harm).or_default() += 1;
        if window.harms().contains(&wrong.harm) {
            return Ok(());
        }
        let Wrong { harm, text } = wrong;
        Err(format!(
            "{harm:?}, which {window:?} does not explain: {text}"
        ))
    }

    /// Tells what was tried, past the capture of tests that pass.
    fn report(&self, name: &str, mode: Mode, sample: Option<usize>) {
        let later: Vec<_> = (self.after_pauses.iter())
            .map(|(then, cases)| match then {
                Then::GoesOn => String::new(),
                Then::Dies => format!("{cases} deaths"),
                Then::Fails { fault, lasting } => {
                    let lasting = if *lasting { " lasting" } else { "" };
                    format!("{cases}{lasting} {fault:?}")
                }
            })
            .collect();
        let windows: Vec<_> = (self.windows.iter())
            .map(|(window, (cases, harms))| format!("{cases} {window:?} (of them {harms:?})"))
            .collect();
        let line = format!(
            "every point | {name:<22} | {mode:<10} | {form} of {} cases | {:>3} points | {:>5} crashes | {:>5} pauses, later {} | {:>4} faults | told {:?} | {} broken | in a window: {} | {} failures\n",
            self.cases,
            self.points,
            self.crashes,
            self.pauses,
            if later.is_empty() {
                "nothing".to_owned()
            } else {
                later.join(", ")
            },
            self.faults,
            self.outcomes,
            self.broken,
            if windows.is_empty() {
                "none".to_owned()
            } else {
                windows.join(", ")
            },
            self.failures.len(),
            mode = format!("{mode:?}"),
            form = match sample {
                None => "all".to_owned(),
                Some(seed) => format!("seed {seed}: {}", self.crashes + self.pauses + self.faults),
            },
        );
        // Nothing is lost if nobody listens.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
