//! Every point of a transaction: a crash there, a pause beyond the lease, a failing operation.
//!
//! A first pass counts the operations of a transaction on its files and on the lock table, a second
//! visits each. Afterwards acknowledged data is there, other data is there whole or not at all, and
//! the connection goes on.
//!
//! `EVERY_POINT=long cargo test -p integration every_point` tries all there is, with more seeds;
//! `EVERY_POINT_CASE="<case>"` beside it repeats the case that a failure has named.

mod world;

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::sync::{Arc, Mutex};

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::Text;
use diesel_sqlite_efs::{EfsSqliteConnection, EfsTransactionManager};
use integration::recording::{Crash, Fault, Late, On, Operation, Plan};

use self::world::{
    Conduct, Host, Outcome, Seen, Successor, Template, World, furnished, left_by_a_crash, log,
};
use crate::support::execute;

#[test]
fn every_point_of_a_small_transaction() {
    let run = |conn: &mut EfsSqliteConnection| {
        execute(conn, "UPDATE t SET n = n + 100 WHERE id = 3").map(drop)
    };
    Scenario::new("small", furnished(), run).explore();
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
    Scenario::new("rollback", furnished(), run).explore();
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
    Scenario::new("savepoint", furnished(), run).explore();
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
    let world = World::new(&furnished());
    let host = world.successor();
    let mut conn = host.connect().expect("a connection");
    let recorder = host.recorder();
    let result = conn.transaction(|conn| {
        world::write_as_successor(conn, world.new)?;
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
}

/// What the first pass has learned.
struct Course {
    operations: Vec<Operation>,
    /// The rows before and after.
    old: String,
    new: String,
    /// How many requests are confirmed until the commit is.
    confirms: usize,
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Tally {
    points: usize,
    crashes: usize,
    pauses: usize,
    faults: usize,
    outcomes: BTreeMap<Outcome, usize>,
    /// Cases in a documented window, and how many of them did harm.
    windows: usize,
    harmed: usize,
    broken: usize,
    failures: Vec<String>,
}

/// How a case disturbs the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    Crash(Crash),
    Pause {
        after: bool,
        frozen: bool,
        conduct: Conduct,
    },
    Fault {
        fault: Fault,
        lasting: bool,
        /// Who looks first afterwards: the same connection, or another host.
        same_first: bool,
    },
}

impl Scenario {
    fn new(name: &'static str, template: Template, run: Run) -> Self {
        Self {
            name,
            template,
            run,
            opens: false,
            successors: 0,
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

    /// Both passes.
    #[track_caller]
    fn explore(&self) {
        let long = env::var("EVERY_POINT").is_ok_and(|form| form == "long");
        let only = env::var("EVERY_POINT_CASE").ok();
        let course = self.count();
        let mut tally = Tally {
            points: course.operations.len(),
            ..Tally::default()
        };
        for point in 0..=course.operations.len() {
            for disturbance in self.disturbances(&course, point, long) {
                let label = format!("{}: {point}, {disturbance:?}", self.name);
                if only.as_ref().is_some_and(|only| *only != label) {
                    continue;
                }
                if let Err(failure) = self.visit(&course, point, disturbance, &mut tally) {
                    let operation = course.operations.get(point);
                    tally
                        .failures
                        .push(format!("{label} ({operation:?}): {failure}"));
                }
            }
        }
        tally.report(self.name);
    }

    /// The first pass: an undisturbed run.
    fn count(&self) -> Course {
        let before = World::new(&self.template);
        let mut conn = before.bystander().connect().expect("a connection");
        let old = Seen::by(&mut conn, before.new).expect("a readable database");
        assert_eq!(old.successors, Ok(self.successors));
        drop(conn);
        let world = World::new(&self.template);
        let host = world.holder(false);
        let (conn, result) = self.run_to_its_end(&host, Plan::Watch);
        result.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let operations = host.recorder().operations();
        let new =
            Seen::by(&mut conn.expect("a connection"), world.new).expect("a readable database");
        let confirms = (operations.iter())
            .filter(|operation| **operation == Operation::Request("confirm"))
            .count();
        Course {
            operations,
            old: old.rows,
            new: new.rows,
            confirms,
        }
    }

    /// What is done at a point; the point after the last is the one after the acknowledgement.
    fn disturbances(&self, course: &Course, point: usize, long: bool) -> Vec<Disturbance> {
        let mut all = vec![
            Disturbance::Crash(Crash::LosesUnsynced),
            Disturbance::Crash(Crash::KeepsAll),
        ];
        let seeds = if long { 12 } else { 1 };
        all.extend((0..seeds).map(|n| {
            let seed = (point as u64) << 8 | n;
            Disturbance::Crash(Crash::Random(seed))
        }));
        let Some(operation) = course.operations.get(point) else {
            return all;
        };
        let is_change = !matches!(
            operation,
            Operation::Read(_) | Operation::Size(_) | Operation::Access | Operation::Unlock(_)
        );
        for (n, conduct) in Conduct::ALL.into_iter().enumerate() {
            for (k, (after, frozen)) in [(false, false), (false, true), (true, false), (true, true)]
                .into_iter()
                .enumerate()
            {
                // The short form visits each point with all conducts, each in one way, or in two
                // where something is about to change.
                let second = is_change && (n + point + 1) % 4 == k;
                if long || (n + point) % 4 == k || second {
                    all.push(Disturbance::Pause {
                        after,
                        frozen,
                        conduct,
                    });
                }
            }
        }
        let once = Fault::of(*operation).iter().map(|fault| (*fault, false));
        let lasting = [Fault::Stale, Fault::Full, Fault::Busy]
            .into_iter()
            .filter(|fault| match fault {
                Fault::Full => Fault::of(*operation).contains(fault),
                Fault::Busy => long && Fault::of(*operation).contains(fault),
                _ => !Fault::of(*operation).is_empty(),
            })
            .map(|fault| (fault, true));
        for (n, (fault, lasting)) in once.chain(lasting).enumerate() {
            for same_first in [false, true] {
                if long || same_first == (n + point).is_multiple_of(2) {
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
        host: &Host,
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
        let result = conn.as_mut().map_or(Ok(()), self.run);
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
            Disturbance::Pause {
                after,
                frozen,
                conduct,
            } => self.pause(course, point, after, frozen, conduct, tally),
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
        let world = World::new(&self.template);
        let host = world.holder(false);
        let (conn, result) = self.run_to_its_end(&host, Plan::Crash { at: point, leaves });
        let recorder = host.recorder();
        let acknowledged = point == course.operations.len();
        if acknowledged {
            result?;
            recorder.crash(leaves);
        } else if recorder.reached() != Some(course.operations[point]) {
            return Err(format!("another operation: {:?}", recorder.reached()));
        }
        drop(conn);
        let recorded = (recorder.operations().iter().take(point))
            .filter(|operation| **operation == Operation::Request("confirm"))
            .count();
        let outcome = if recorded == course.confirms {
            Outcome::Applied
        } else {
            Outcome::NotApplied
        };
        world.let_leases_end();
        self.check(course, &world, outcome, self.successors, 0)
    }

    fn pause(
        &self,
        course: &Course,
        point: usize,
        after: bool,
        frozen: bool,
        conduct: Conduct,
        tally: &mut Tally,
    ) -> Result<(), String> {
        tally.pauses += 1;
        let world = World::new(&self.template);
        let host = world.holder(frozen).impatient();
        let successor = Arc::new(Mutex::new(None));
        let meanwhile = {
            let (world, successor) = (world.clone(), successor.clone());
            Box::new(move || {
                world.let_leases_end();
                *successor.lock().expect("no panic") = Successor::start(&world, conduct);
            })
        };
        let plan = Plan::Pause {
            at: point,
            after,
            meanwhile,
        };
        let (conn, result) = self.run_to_its_end(&host, plan);
        let recorder = host.recorder();
        let reached = recorder.reached().ok_or("the point was not reached")?;
        let late = recorder.late();
        let told = Outcome::told(&result);
        *tally.outcomes.entry(told).or_default() += 1;
        let successor = successor.lock().expect("no panic").take();
        let applied = match successor.map(Successor::finish) {
            Some(Ok(())) => 1,
            Some(Err(error)) => {
                let crashes = matches!(
                    conduct,
                    Conduct::CrashesWriting | Conduct::CrashesCommitting
                );
                if !crashes {
                    return Err(format!("the successor: {error}"));
                }
                0
            }
            None => 0,
        };
        if let Err(error) = &result
            && !error.contains(world::KEY)
        {
            return Err(format!("an error that is not the lock's: {error}"));
        }
        let window = Window::of(conduct, self.opens, reached, after, frozen, late)?;
        if conduct != Conduct::Nothing && late.writes > 0 && told == Outcome::Applied {
            return Err("acknowledged after a late write".to_owned());
        }
        world.let_leases_end();
        let result = self.go_on(conn, &host, tally).and_then(|again| {
            self.check(course, &world, told, self.successors + applied, again)
                .map_err(|error| format!("{error}; the holder was told: {result:?}"))
        });
        match (window, result) {
            (None, result) => result,
            (Some(_), result) => {
                tally.windows += 1;
                tally.harmed += usize::from(result.is_err());
                Ok(())
            }
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
        tally.faults += 1;
        let world = World::new(&self.template);
        let host = world.holder(false).impatient();
        let plan = Plan::Fail {
            at: point,
            fault,
            lasting,
        };
        let (conn, result) = self.run_to_its_end(&host, plan);
        let recorder = host.recorder();
        recorder.reached().ok_or("the point was not reached")?;
        recorder.plan(Plan::Watch);
        let told = Outcome::told(&result);
        *tally.outcomes.entry(told).or_default() += 1;
        let told_text = format!("; the holder was told: {result:?}");
        let result = if same_first {
            self.go_on(conn, &host, tally).and_then(|again| {
                world.let_leases_end();
                self.check(course, &world, told, self.successors, again)
            })
        } else {
            world.let_leases_end();
            self.check(course, &world, told, self.successors, 0)
                .and_then(|()| {
                    let again = self.go_on(conn, &host, tally)?;
                    self.check(course, &world, told, self.successors, again)
                })
        };
        result.map_err(|error| error + &told_text)
    }

    /// The same connection writes again, or says that it is broken. How often it has written.
    fn go_on(
        &self,
        conn: Option<EfsSqliteConnection>,
        host: &Host,
        tally: &mut Tally,
    ) -> Result<i64, String> {
        let mut conn = match conn {
            Some(conn) => conn,
            None => (host.connect()).map_err(|error| format!("opening again: {error}"))?,
        };
        if <EfsTransactionManager as TransactionManager<_>>::is_broken_transaction_manager(
            &mut conn,
        ) {
            tally.broken += 1;
            return Ok(0);
        }
        conn.set_lock_timeout(std::time::Duration::from_secs(20));
        let new = self.template.is_new();
        log(&mut conn, "h", new).map_err(|error| format!("the same connection: {error}"))?;
        Seen::by(&mut conn, new).map_err(|error| format!("the same connection reads: {error}"))?;
        Ok(1)
    }

    /// Another host finds what it should, and can write.
    fn check(
        &self,
        course: &Course,
        world: &World,
        outcome: Outcome,
        successors: i64,
        again: i64,
    ) -> Result<(), String> {
        let mut conn = (world.bystander().connect())
            .map_err(|error| format!("another host cannot open it: {error}"))?;
        let seen = Seen::by(&mut conn, world.new)
            .map_err(|error| format!("another host reads: {error}"))?;
        let right = match outcome {
            Outcome::Applied => seen.rows == course.new,
            Outcome::NotApplied => seen.rows == course.old,
            Outcome::Unknown => seen.rows == course.old || seen.rows == course.new,
        };
        if !right {
            let state = match &seen.rows {
                rows if *rows == course.old => "is not there".to_owned(),
                rows if *rows == course.new => "is there".to_owned(),
                rows => format!("is there in part: {rows}"),
            };
            return Err(format!("expected {outcome:?}, the transaction {state}"));
        }
        if seen.successors != Ok(successors) || seen.again != again {
            return Err(format!(
                "expected {successors} successors and {again} more writes, found {:?} and {}",
                seen.successors, seen.again
            ));
        }
        let integrity = diesel::dsl::sql::<Text>("PRAGMA integrity_check")
            .get_result::<String>(&mut conn)
            .map_err(|error| format!("integrity_check: {error}"))?;
        if integrity != "ok" {
            return Err(format!("integrity_check: {integrity}"));
        }
        log(&mut conn, "b", world.new).map_err(|error| format!("another host writes: {error}"))?;
        world.leftovers()
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
    /// The window that the case has hit; an error if what came late is more than the manual says.
    fn of(
        conduct: Conduct,
        reads_on: bool,
        reached: Operation,
        after: bool,
        frozen: bool,
        late: Late,
    ) -> Result<Option<Self>, String> {
        // What was let pass before the pause; whose clocks stood still lets more pass.
        let passed = |operation| usize::from(reached == operation && !after);
        let most = Late {
            writes: passed(Operation::Write(On::Main)),
            truncations: passed(Operation::Truncate(On::Main)),
            deletions: passed(Operation::Delete),
        };
        let is_more = late.writes > most.writes
            || late.truncations > most.truncations
            || late.deletions > most.deletions;
        if !frozen && is_more {
            return Err(format!("{late:?}, expected at most {most:?}"));
        }
        Ok(match conduct {
            Conduct::Nothing => None,
            _ if late.writes + late.truncations > 0 => Some(Self::LateWrite),
            Conduct::CrashesCommitting if late.deletions > 0 => Some(Self::LateDeletion),
            Conduct::IsCommitting if late.deletions > 0 && reads_on => Some(Self::LateDeletion),
            _ => None,
        })
    }
}

impl Tally {
    /// Tells what was tried, past the capture of tests that pass.
    #[track_caller]
    fn report(&self, name: &str) {
        let line = format!(
            "every point | {name:<22} | {:>3} points | {:>5} crashes | {:>5} pauses | {:>4} faults | told {:?} | {} broken | {} in a window, {} harmed | {} failures\n",
            self.points,
            self.crashes,
            self.pauses,
            self.faults,
            self.outcomes,
            self.broken,
            self.windows,
            self.harmed,
            self.failures.len()
        );
        // Nothing is lost if nobody listens.
        let _ = std::io::stderr().write_all(line.as_bytes());
        let shown: Vec<_> = self.failures.iter().take(30).map(String::as_str).collect();
        assert!(
            self.failures.is_empty(),
            "{} cases failed; repeat one with EVERY_POINT=long EVERY_POINT_CASE='<the text before the operation>':\n{}",
            self.failures.len(),
            shown.join("\n")
        );
    }
}
