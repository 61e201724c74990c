//! One database with its lock table, and processes of the program that share it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::sqlite::SqliteConnection;
use integration::dynamodb::{self, LockTable};
use integration::emulator::Emulator;
use integration::proxy::Proxy;
use integration::scratch::Scratch;

/// A poll of the sample data that is open, and two of its choices.
pub(crate) const POLL: i32 = 1;
pub(crate) const CHOICES: [i32; 2] = [1, 2];

/// A directory with a database, which is not there yet, and the lock table, behind a proxy.
#[derive(Debug)]
pub(crate) struct ProgramFixture {
    scratch: Scratch,
    pub(crate) table: LockTable,
    pub(crate) proxy: Proxy,
}

impl ProgramFixture {
    pub(crate) fn new() -> Self {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let name = format!("polls-{}", TABLES.fetch_add(1, Ordering::Relaxed));
        let emulator = Emulator::shared();
        Self {
            scratch: Scratch::new().expect("a directory"),
            table: LockTable::create(emulator.endpoint(), &name).expect("a table"),
            proxy: Proxy::start(emulator.endpoint()).expect("a proxy"),
        }
    }

    /// The program; `settings` are the crate's, as parameters of the URL.
    pub(crate) fn command(&self, settings: &str) -> Command {
        self.command_behind(&self.proxy, settings)
    }

    /// The same, behind another proxy: for a process that the fixture's rules do not mean.
    pub(crate) fn command_behind(&self, proxy: &Proxy, settings: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_polls"));
        let database = self.scratch.database();
        let url = format!(
            "{}?lock_table={}&{settings}",
            database.display(),
            self.table.name()
        );
        command
            .envs(dynamodb::env_for(&proxy.endpoint()))
            .env("DATABASE_URL", url)
            .env("POLLS_SESSION_KEY", "of the tests, with 32 bytes or more")
            .env("POLLS_ADMIN_PASSWORD", "of the tests")
            .env_remove("RUST_LOG")
            .env_remove("PORT");
        command
    }

    /// Where a file of this name would be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// The lock's primary key.
    pub(crate) fn key(&self) -> String {
        format!("database#{}", self.scratch.database().display())
    }

    /// The lock is held by a process on another host, whose lease ends after this time.
    pub(crate) fn give_lease_to_another(&self, lease: Duration) {
        let until = SystemTime::now() + lease;
        let put = (self.table).put_as_python(&self.key(), "of another host", until);
        put.expect("the table");
    }

    pub(crate) fn remove_item(&self) {
        self.table.delete(&self.key()).expect("the table");
    }

    /// That these votes are counted, each once, and no others but those of the sample data; and that
    /// nobody has to wait for or clear up after anybody.
    #[track_caller]
    pub(crate) fn assert_counted(&self, acknowledged: &BTreeSet<String>) {
        assert_eq!(self.table.count().expect("the table"), 0, "a lock is left");
        let journal = self.scratch.journal();
        assert!(!journal.exists(), "a rollback journal is left");

        // As nobody writes any more, SQLite itself may look.
        let url = format!("file:{}?mode=ro", self.scratch.database().display());
        let mut conn = SqliteConnection::establish(&url).expect("the database");
        let keys: Vec<String> = sql::<Text>(
            "SELECT idempotency_key FROM vote WHERE idempotency_key NOT LIKE 'sample-%'",
        )
        .load(&mut conn)
        .expect("the votes");
        let counted: BTreeSet<String> = keys.iter().cloned().collect();
        assert_eq!(counted.len(), keys.len(), "a vote is counted twice");
        let lost: Vec<_> = acknowledged.difference(&counted).collect();
        let unasked: Vec<_> = counted.difference(acknowledged).collect();
        assert!(
            lost.is_empty() && unasked.is_empty(),
            "acknowledged and not counted: {lost:?}; counted and not acknowledged: {unasked:?}"
        );

        let shown: Vec<(i32, i64)> = sql::<(Integer, BigInt)>("SELECT id, votes FROM choice")
            .load(&mut conn)
            .expect("the choices");
        let cast: BTreeMap<i32, i64> =
            sql::<(Integer, BigInt)>("SELECT choice_id, count(*) FROM vote GROUP BY choice_id")
                .load(&mut conn)
                .expect("the votes")
                .into_iter()
                .collect();
        for (choice, votes) in shown {
            let cast = cast.get(&choice).copied().unwrap_or(0);
            assert_eq!(
                votes, cast,
                "choice {choice} shows another number than was cast"
            );
        }
        let found: Vec<String> = sql::<Text>("SELECT * FROM pragma_integrity_check")
            .load(&mut conn)
            .expect("a check");
        assert_eq!(found, ["ok"]);
    }
}
