//! Which statements take the lease, and how many requests each transaction costs.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::BigInt;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use diesel_sqlite_efs::EfsSqliteConnection;
use integration::dynamodb::{self, LockTable};
use integration::emulator::Emulator;
use integration::process::{Worker, ignored_test};
use integration::proxy::{Operation, Proxy};
use integration::scratch::Scratch;

use crate::fixtures::hosts::{CHANGE, Call, HostsFixture, execute, numbers};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// What a transaction asks of the lock table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// It only read.
    Nothing,
    /// It took the lease and changed no page.
    Lease,
    /// It changed pages: its end, whether commit or rollback, is confirmed.
    Change,
}

impl Cost {
    fn calls(self) -> &'static [Call] {
        match self {
            Self::Nothing => &[],
            Self::Lease => &[Call::Acquire, Call::Release],
            Self::Change => &CHANGE,
        }
    }
}

type Run = fn(&mut EfsSqliteConnection) -> QueryResult<()>;

/// One kind of statement or transaction; tables, index and trigger are those of [`prepare`].
struct Kind {
    name: &'static str,
    cost: Cost,
    run: Run,
}

const fn kind(name: &'static str, cost: Cost, run: Run) -> Kind {
    Kind { name, cost, run }
}

/// Runs statements and expects them to succeed.
macro_rules! sql {
    ($($statement:literal),+) => {
        |conn| {
            $(conn.batch_execute($statement)?;)+
            Ok(())
        }
    };
}

/// Reads one number and expects it to be there.
macro_rules! read {
    ($query:literal) => {
        |conn| {
            assert_eq!(numbers(conn, $query)?.len(), 1);
            Ok(())
        }
    };
}

const KINDS: &[Kind] = &[
    // What changes pages.
    kind("INSERT", Cost::Change, |conn| {
        assert_eq!(execute(conn, "INSERT INTO t VALUES (10, 1)")?, 1);
        Ok(())
    }),
    kind("UPDATE", Cost::Change, |conn| {
        assert_eq!(execute(conn, "UPDATE t SET n = n + 1 WHERE id = 1")?, 1);
        Ok(())
    }),
    kind("DELETE", Cost::Change, |conn| {
        assert_eq!(execute(conn, "DELETE FROM t WHERE id = 2")?, 1);
        Ok(())
    }),
    kind("upsert", Cost::Change, |conn| {
        let upsert = "INSERT INTO t VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET n = 5";
        assert_eq!(execute(conn, upsert)?, 1);
        Ok(())
    }),
    kind("INSERT .. RETURNING, loaded", Cost::Change, |conn| {
        let query = "INSERT INTO t (n) VALUES (7), (8) RETURNING n";
        assert_eq!(numbers(conn, query)?, [7, 8]);
        Ok(())
    }),
    kind("INSERT .. RETURNING, its first row", Cost::Change, |conn| {
        let query = sql::<BigInt>("INSERT INTO t (n) VALUES (9), (10) RETURNING n");
        assert_eq!(query.get_result::<i64>(conn)?, 9);
        Ok(())
    }),
    kind("INSERT .. RETURNING, executed", Cost::Change, |conn| {
        execute(conn, "INSERT INTO t (n) VALUES (11) RETURNING n").map(drop)
    }),
    kind("UPDATE .. RETURNING", Cost::Change, |conn| {
        let query = "UPDATE t SET n = 77 WHERE id = 1 RETURNING n";
        assert_eq!(numbers(conn, query)?, [77]);
        Ok(())
    }),
    kind("WITH .. INSERT", Cost::Change, |conn| {
        let insert = "WITH x AS (SELECT 3 AS n) INSERT INTO t (n) SELECT n FROM x";
        assert_eq!(execute(conn, insert)?, 1);
        Ok(())
    }),
    kind("a comment before INSERT", Cost::Change, |conn| {
        execute(conn, "/* SELECT */ -- more\n INSERT INTO t (n) VALUES (4)").map(drop)
    }),
    kind("a view with an INSTEAD OF trigger", Cost::Change, |conn| {
        execute(conn, "INSERT INTO v (n) VALUES (6)")?;
        assert_eq!(numbers(conn, "SELECT count(*) FROM log")?, [1]);
        Ok(())
    }),
    kind(
        "CREATE TABLE",
        Cost::Change,
        sql!("CREATE TABLE u (id INTEGER)"),
    ),
    kind(
        "CREATE INDEX",
        Cost::Change,
        sql!("CREATE INDEX t_n ON t (n)"),
    ),
    kind(
        "ALTER TABLE",
        Cost::Change,
        sql!("ALTER TABLE t ADD COLUMN m INTEGER"),
    ),
    kind("DROP TABLE", Cost::Change, sql!("DROP TABLE log")),
    kind(
        "PRAGMA user_version =",
        Cost::Change,
        sql!("PRAGMA user_version = 7"),
    ),
    kind("ANALYZE", Cost::Change, sql!("ANALYZE")),
    kind("VACUUM", Cost::Change, sql!("VACUUM")),
    kind(
        "a transaction of several writes",
        Cost::Change,
        |conn: &mut EfsSqliteConnection| {
            conn.transaction(|conn| {
                execute(conn, "INSERT INTO t (n) VALUES (1)")?;
                numbers(conn, "SELECT n FROM t")?;
                execute(conn, "DELETE FROM t").map(drop)
            })
        },
    ),
    kind("a transaction rolled back", Cost::Change, |conn| {
        let result: QueryResult<()> = conn.transaction(|conn| {
            execute(conn, "INSERT INTO t (n) VALUES (1)")?;
            Err(Error::RollbackTransaction)
        });
        assert_eq!(result, Err(Error::RollbackTransaction));
        Ok(())
    }),
    kind(
        "a script with its own BEGIN and COMMIT",
        Cost::Change,
        sql!("BEGIN; INSERT INTO t (n) VALUES (1); INSERT INTO t (n) VALUES (2); COMMIT"),
    ),
    kind(
        "a script with its own BEGIN and ROLLBACK",
        Cost::Change,
        sql!("BEGIN; INSERT INTO t (n) VALUES (1); ROLLBACK"),
    ),
    kind(
        "a multi-row insert that breaks a constraint half-way",
        Cost::Change,
        |conn| {
            let result = execute(conn, "INSERT INTO t VALUES (20, 1), (1, 1)");
            assert!(
                matches!(result, Err(Error::DatabaseError(..))),
                "{result:?}"
            );
            Ok(())
        },
    ),
    // What takes the lease and changes nothing: SQLite opens its journal with the first page.
    kind("UPDATE of no row", Cost::Lease, |conn| {
        assert_eq!(execute(conn, "UPDATE t SET n = 0 WHERE id = 99")?, 0);
        Ok(())
    }),
    kind("DELETE of no row", Cost::Lease, |conn| {
        assert_eq!(execute(conn, "DELETE FROM t WHERE id = 99")?, 0);
        Ok(())
    }),
    kind(
        "INSERT OR IGNORE of a row that exists",
        Cost::Lease,
        |conn| {
            assert_eq!(execute(conn, "INSERT OR IGNORE INTO t VALUES (1, 1)")?, 0);
            Ok(())
        },
    ),
    kind("a failed constraint", Cost::Lease, |conn| {
        let result = execute(conn, "INSERT INTO t VALUES (1, 1)");
        assert!(
            matches!(result, Err(Error::DatabaseError(..))),
            "{result:?}"
        );
        Ok(())
    }),
    kind(
        "BEGIN IMMEDIATE; COMMIT",
        Cost::Lease,
        sql!("BEGIN IMMEDIATE", "COMMIT"),
    ),
    kind(
        "BEGIN EXCLUSIVE; ROLLBACK",
        Cost::Lease,
        sql!("BEGIN EXCLUSIVE", "ROLLBACK"),
    ),
    kind("immediate_transaction that reads", Cost::Lease, |conn| {
        conn.immediate_transaction(|conn| numbers(conn, "SELECT n FROM t").map(drop))
    }),
    // What only reads.
    kind(
        "SELECT",
        Cost::Nothing,
        read!("SELECT n FROM t WHERE id = 1"),
    ),
    kind(
        "WITH .. SELECT",
        Cost::Nothing,
        read!("WITH x AS (SELECT n FROM t) SELECT count(*) FROM x"),
    ),
    kind("a read-only transaction", Cost::Nothing, |conn| {
        conn.transaction(|conn| {
            conn.transaction(|conn| numbers(conn, "SELECT n FROM t"))?;
            numbers(conn, "SELECT n FROM t").map(drop)
        })
    }),
    kind("an empty transaction", Cost::Nothing, sql!("BEGIN; COMMIT")),
    kind(
        "EXPLAIN of an INSERT",
        Cost::Nothing,
        sql!("EXPLAIN INSERT INTO t VALUES (30, 1)"),
    ),
    kind(
        "EXPLAIN QUERY PLAN of a DELETE",
        Cost::Nothing,
        sql!("EXPLAIN QUERY PLAN DELETE FROM t"),
    ),
    kind(
        "CREATE TABLE IF NOT EXISTS of one that exists",
        Cost::Nothing,
        sql!("CREATE TABLE IF NOT EXISTS t (id INTEGER)"),
    ),
    kind(
        "temporary tables",
        Cost::Nothing,
        sql!("CREATE TEMP TABLE x (n INTEGER); INSERT INTO x SELECT n FROM t; DROP TABLE x"),
    ),
    kind(
        "PRAGMA table_info",
        Cost::Nothing,
        sql!("PRAGMA table_info (t)"),
    ),
    kind(
        "PRAGMA foreign_keys =",
        Cost::Nothing,
        sql!("PRAGMA foreign_keys = ON"),
    ),
    kind(
        "PRAGMA user_version, read",
        Cost::Nothing,
        read!("SELECT user_version FROM pragma_user_version"),
    ),
    kind(
        "PRAGMA integrity_check",
        Cost::Nothing,
        sql!("PRAGMA integrity_check"),
    ),
    kind("a statement that does not compile", Cost::Nothing, |conn| {
        let result = execute(conn, "INSERT INTO nowhere VALUES (1)");
        assert!(
            matches!(result, Err(Error::DatabaseError(..))),
            "{result:?}"
        );
        Ok(())
    }),
    kind("migrations with none pending", Cost::Nothing, |conn| {
        let applied = conn.run_migrations(MIGRATIONS).expect("migrations");
        assert!(applied.is_empty(), "{applied:?}");
        Ok(())
    }),
    kind("a look for pending migrations", Cost::Nothing, |conn| {
        assert!(!conn.has_pending_migration(MIGRATIONS).expect("migrations"));
        Ok(())
    }),
    kind(
        "Diesel's harness with none pending",
        Cost::Nothing,
        |conn| {
            let applied = conn.run_pending_migrations(MIGRATIONS).expect("migrations");
            assert!(applied.is_empty(), "{applied:?}");
            Ok(())
        },
    ),
];

fn prepare(conn: &mut EfsSqliteConnection) {
    conn.run_migrations(MIGRATIONS).expect("migrations");
    let result = conn.batch_execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
         CREATE TABLE log (n INTEGER);
         CREATE VIEW v AS SELECT n FROM t;
         CREATE TRIGGER v_insert INSTEAD OF INSERT ON v
             BEGIN INSERT INTO log VALUES (new.n); END;
         INSERT INTO t VALUES (1, 1), (2, 2)",
    );
    assert_eq!(result, Ok(()));
}

/// Each kind on a connection and a database of its own.
#[test]
fn a_transaction_costs_what_it_does_and_leaves_nothing() {
    assert!(KINDS.len() >= 33);
    let wrong: Vec<String> = KINDS
        .iter()
        .filter_map(|kind| {
            let fixture = HostsFixture::new();
            prepare(&mut fixture.host().connect());
            let host = fixture.host();
            let mut conn = host.connect();
            assert_eq!(host.store.take_calls(), [], "opening");
            let result = (kind.run)(&mut conn);
            assert_eq!(result, Ok(()), "{}", kind.name);
            let calls = host.store.take_calls();
            fixture.assert_nothing_left();
            (calls != kind.cost.calls()).then(|| format!("{}: {calls:?}", kind.name))
        })
        .collect();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn migrations_are_one_lease_however_many_they_are() {
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = host.connect();
    let applied = conn.run_migrations(MIGRATIONS).expect("migrations");
    assert!(applied.len() > 1, "{applied:?}");
    let calls = host.store.take_calls();
    let (first, rest) = calls.split_first().expect("a request");
    let (last, between) = rest.split_last().expect("a second request");
    assert_eq!((*first, *last), (Call::Acquire, Call::Release), "{calls:?}");
    assert!(
        between.iter().all(|call| *call == Call::Confirm),
        "{calls:?}"
    );
    fixture.assert_nothing_left();
}

/// The kinds that also go through DynamoDB's API.
const OVER_HTTP: [&str; 9] = [
    "INSERT",
    "INSERT .. RETURNING, loaded",
    "CREATE TABLE",
    "a transaction rolled back",
    "UPDATE of no row",
    "BEGIN IMMEDIATE; COMMIT",
    "SELECT",
    "PRAGMA integrity_check",
    "migrations with none pending",
];

const PUT: Operation = Operation::PutItem;
const DELETE: Operation = Operation::DeleteItem;

impl Cost {
    fn operations(self) -> Vec<Operation> {
        let operation = |call: &Call| match call {
            Call::Release => DELETE,
            Call::Acquire | Call::TakeOver | Call::Confirm => PUT,
        };
        self.calls().iter().map(operation).collect()
    }
}

/// The AWS SDK takes its endpoint from the environment, so the connection is in a process of its
/// own: [`one_after_the_other_as_told`], which runs what it is told to and answers when it has.
#[test]
fn over_http_a_change_is_two_puts_and_a_delete() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let emulator = Emulator::shared().endpoint();
    let table = LockTable::create(emulator, "statement-costs").expect("a table");
    let proxy = Proxy::start(emulator).expect("a proxy");
    let scratch = Scratch::new().expect("a directory");
    let url = format!(
        "{}?lock_table={}",
        scratch.database().display(),
        table.name()
    );
    let mut command = ignored_test("statements::one_after_the_other_as_told");
    command
        .env(DATABASE_URL, url)
        .envs(dynamodb::env_for(&proxy.endpoint()));
    let mut worker = Worker::spawn(&mut command).expect("a worker");
    let done = |worker: &Worker| {
        // The test runner has lines of its own.
        while worker.line(PATIENCE).expect("an answer") != DONE {}
    };
    done(&worker);
    assert_eq!(proxy.requests().len(), 0, "opening");
    worker.send(PREPARE).expect("a listener");
    done(&worker);
    let key = format!("database#{}", scratch.database().display());
    for name in OVER_HTTP {
        proxy.forget_requests();
        worker.send(name).expect("a listener");
        done(&worker);
        let requests: Vec<_> = (proxy.requests().into_iter())
            .map(|request| request.operation)
            .collect();
        assert_eq!(requests, find(name).cost.operations(), "{name}");
        assert_eq!(table.item(&key).expect("an answer"), None, "{name}");
        assert!(!scratch.journal().exists(), "{name}");
    }
    worker.close_stdin();
    assert!(worker.wait(PATIENCE).expect("an end").success());
}

const DATABASE_URL: &str = "STATEMENTS_DATABASE_URL";
const PREPARE: &str = "prepare";
const DONE: &str = "done";

#[test]
#[ignore = "the part of assert_costs_over_http that runs in a process of its own"]
fn one_after_the_other_as_told() {
    let Ok(url) = std::env::var(DATABASE_URL) else {
        return;
    };
    let mut conn = EfsSqliteConnection::establish(&url).expect("a connection");
    println!("\n{DONE}");
    for name in std::io::stdin().lines() {
        let name = name.expect("a line");
        if name == PREPARE {
            prepare(&mut conn);
        } else {
            assert_eq!((find(&name).run)(&mut conn), Ok(()), "{name}");
        }
        println!("{DONE}");
    }
}

fn find(name: &str) -> &'static Kind {
    (KINDS.iter().find(|kind| kind.name == name)).unwrap_or_else(|| panic!("no kind `{name}`"))
}
