//! Diesel's traits work on the connection as on Diesel's own, on a file and in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{
    BoxableConnection, CacheSize, InstrumentationEvent, LoadConnection, SimpleConnection,
};
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool, PooledConnection};
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{Integer, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::upsert::excluded;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use diesel_sqlite_efs::{EfsConfig, EfsSqliteConnection};

use crate::fixtures::hosts::{Call, HostsFixture, assert_lock_error, connect, numbers};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

diesel::table! {
    users (id) {
        id -> Integer,
        name -> Text,
        age -> Nullable<Integer>,
    }
}

diesel::table! {
    posts (id) {
        id -> Integer,
        user_id -> Integer,
        title -> Text,
    }
}

diesel::joinable!(posts -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, posts);

#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, Identifiable, AsChangeset,
)]
#[diesel(table_name = users, treat_none_as_null = true)]
struct User {
    id: i32,
    name: String,
    age: Option<i32>,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser {
    name: &'static str,
    age: Option<i32>,
}

#[derive(Debug, PartialEq, Eq, QueryableByName)]
#[diesel(table_name = users)]
struct Named {
    name: String,
}

#[derive(Debug, PartialEq, Eq, Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = posts, belongs_to(User))]
struct Post {
    id: i32,
    user_id: i32,
    title: String,
}

const SCHEMA: &str = "
    CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, age INTEGER);
    CREATE TABLE posts (id INTEGER NOT NULL PRIMARY KEY, user_id INTEGER NOT NULL, title TEXT NOT NULL)";

/// Runs what one family of Diesel's methods is good for: in memory, on a file whose lock is gone
/// afterwards, and on one whose lock another host holds. There it has to fail at its first write
/// with the lock's error and change nothing, and succeed on the same connection once the lock is
/// free.
#[track_caller]
fn everywhere(family: impl Fn(&mut EfsSqliteConnection) -> QueryResult<()>) {
    let mut conn = connect(&EfsConfig::new(":memory:"));
    assert_eq!(conn.batch_execute(SCHEMA), Ok(()));
    assert_eq!(family(&mut conn), Ok(()), "in memory");

    let fixture = HostsFixture::new();
    let mut conn = fixture.host().connect();
    assert_eq!(conn.batch_execute(SCHEMA), Ok(()));
    assert_eq!(family(&mut conn), Ok(()), "on a file");
    fixture.assert_nothing_left();

    let fixture = HostsFixture::new();
    let mut conn = fixture.host().connect();
    assert_eq!(conn.batch_execute(SCHEMA), Ok(()));
    let untouched = serialized(&mut conn);
    fixture.give_lease_to_another();
    let held = fixture.item();
    conn.set_lock_timeout(Duration::from_millis(10));
    let refused = family(&mut conn);
    let (kind, told) = match &refused {
        Err(Error::DatabaseError(kind, told)) => (kind, told.message()),
        other => panic!("while another host holds the lock: {other:?}"),
    };
    if matches!(kind, DatabaseErrorKind::SerializationFailure) {
        assert_lock_error!(conn, Busy);
    } else {
        assert_eq!(told, "database is locked", "through the inner connection");
    }
    assert_eq!(fixture.item(), held, "the other host's item");
    assert!(serialized(&mut conn) == untouched, "the file was changed");
    fixture.remove_item();
    assert_eq!(family(&mut conn), Ok(()), "after it was refused");
    fixture.assert_nothing_left();
}

fn serialized(conn: &mut EfsSqliteConnection) -> Vec<u8> {
    conn.serialize_database_to_buffer().to_vec()
}

fn add_user(conn: &mut EfsSqliteConnection, name: &'static str) -> QueryResult<User> {
    diesel::insert_into(users::table)
        .values(NewUser { name, age: None })
        .returning(User::as_returning())
        .get_result(conn)
}

fn names(conn: &mut EfsSqliteConnection) -> QueryResult<Vec<String>> {
    users::table.order(users::id).select(users::name).load(conn)
}

#[test]
fn the_query_builder_inserts_reads_updates_and_deletes() {
    everywhere(|conn| {
        let ada = add_user(conn, "Ada")?;
        let inserted = diesel::insert_into(users::table)
            .values(NewUser {
                name: "Bob",
                age: Some(40),
            })
            .execute(conn)?;
        assert_eq!(inserted, 1);
        let updated = diesel::update(users::table.find(ada.id))
            .set(users::age.eq(36))
            .execute(conn)?;
        assert_eq!(updated, 1);
        let adults: Vec<User> = (users::table.filter(users::age.gt(35)))
            .order(users::name.desc())
            .select(User::as_select())
            .load(conn)?;
        assert_eq!(
            adults.iter().map(|user| user.age).collect::<Vec<_>>(),
            [Some(40), Some(36)]
        );
        let named: Vec<Named> =
            diesel::sql_query("SELECT name FROM users WHERE age = ? ORDER BY id")
                .bind::<Integer, _>(36)
                .load(conn)?;
        assert_eq!(named[0].name, "Ada");
        let deleted: Vec<String> = diesel::delete(users::table.filter(users::age.eq(40)))
            .returning(users::name)
            .get_results(conn)?;
        assert_eq!(deleted, ["Bob"]);
        assert_eq!(names(conn)?, ["Ada"]);
        let missing = users::table.find(99).first::<User>(conn);
        assert_eq!(missing, Err(Error::NotFound));
        assert_eq!(missing.optional(), Ok(None));
        Ok(())
    });
}

#[test]
fn joins_and_associations_load() {
    everywhere(|conn| {
        let ada = add_user(conn, "Ada")?;
        let bob = add_user(conn, "Bob")?;
        diesel::insert_into(posts::table)
            .values([
                (posts::user_id.eq(ada.id), posts::title.eq("Notes")),
                (posts::user_id.eq(bob.id), posts::title.eq("Letters")),
            ])
            .execute(conn)?;
        let joined: Vec<(String, String)> = (users::table.inner_join(posts::table))
            .order(posts::id)
            .select((users::name, posts::title))
            .load(conn)?;
        assert_eq!(joined[1], ("Bob".to_owned(), "Letters".to_owned()));
        let of_ada: Post = Post::belonging_to(&ada)
            .select(Post::as_select())
            .first(conn)?;
        assert_eq!((of_ada.id, of_ada.user_id), (1, ada.id));
        assert_eq!(of_ada.title, "Notes");
        Ok(())
    });
}

#[test]
fn load_iter_hands_out_row_after_row() {
    everywhere(|conn| {
        for name in ["Ada", "Bob", "Cid"] {
            add_user(conn, name)?;
        }
        let query = || users::table.order(users::id).select(users::name);
        let all: Vec<String> = query()
            .load_iter::<String, _>(conn)?
            .collect::<QueryResult<_>>()?;
        assert_eq!(all, ["Ada", "Bob", "Cid"]);
        let first = query().load_iter::<String, _>(conn)?.next();
        assert_eq!(first, Some(Ok("Ada".to_owned())));
        // Rows that are kept while others are fetched stay what they were.
        let rows: Vec<_> = conn.load(query())?.collect::<QueryResult<_>>()?;
        let kept: Vec<String> = rows
            .iter()
            .map(|row| {
                use diesel::deserialize::FromSql;
                use diesel::row::{Field, Row};
                let field = Row::<Sqlite>::get(row, 0).expect("a column");
                <String as FromSql<Text, Sqlite>>::from_nullable_sql(field.value()).expect("a text")
            })
            .collect();
        assert_eq!(kept, ["Ada", "Bob", "Cid"]);
        Ok(())
    });
}

#[test]
fn an_upsert_updates_what_is_there() {
    everywhere(|conn| {
        let upsert = |name, age| {
            diesel::insert_into(users::table)
                .values((users::name.eq(name), users::age.eq(age)))
                .on_conflict(users::name)
                .do_update()
                .set(users::age.eq(excluded(users::age)))
                .returning(users::age)
        };
        let first: Option<i32> = upsert("Ada", 1).get_result(conn)?;
        let second: Option<i32> = upsert("Ada", 2).get_result(conn)?;
        assert_eq!((first, second), (Some(1), Some(2)));
        let ignored = diesel::insert_or_ignore_into(users::table)
            .values(users::name.eq("Ada"))
            .execute(conn)?;
        assert_eq!(ignored, 0);
        let replaced = diesel::replace_into(users::table)
            .values((users::id.eq(1), users::name.eq("Eve")))
            .execute(conn)?;
        assert_eq!(replaced, 1);
        assert_eq!(names(conn)?, ["Eve"]);
        Ok(())
    });
}

#[test]
fn a_batch_insert_is_one_transaction() {
    let new = || {
        ["Ada", "Bob", "Cid"].map(|name| NewUser {
            name,
            age: Some(30),
        })
    };
    let fixture = HostsFixture::new();
    let host = fixture.host();
    let mut conn = host.connect();
    assert_eq!(conn.batch_execute(SCHEMA), Ok(()));
    host.store.take_calls();
    let inserted = diesel::insert_into(users::table)
        .values(&new()[..])
        .execute(&mut conn);
    assert_eq!(inserted, Ok(3));
    let change = [Call::Acquire, Call::Confirm, Call::Release];
    assert_eq!(host.store.take_calls(), change);

    // Rows that take the defaults one by one, in a transaction that Diesel opens.
    let mixed = vec![
        (users::name.eq("Dan"), Some(users::age.eq(1))),
        (users::name.eq("Eve"), None),
    ];
    let inserted = diesel::insert_into(users::table)
        .values(mixed)
        .execute(&mut conn);
    assert_eq!(inserted, Ok(2));
    assert_eq!(host.store.take_calls(), change);
    let half = vec![
        (users::name.eq("Fay"), Some(users::age.eq(1))),
        (users::name.eq("Eve"), None),
    ];
    let refused = diesel::insert_into(users::table)
        .values(half)
        .execute(&mut conn);
    let is_violation = matches!(
        refused,
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))
    );
    assert!(is_violation, "{refused:?}");
    assert_eq!(
        names(&mut conn),
        Ok(["Ada", "Bob", "Cid", "Dan", "Eve"]
            .map(str::to_owned)
            .into())
    );
    fixture.assert_nothing_left();
}

#[cfg(feature = "newest-diesel")]
#[test]
fn a_batch_insert_returns_its_rows_through_the_inner_connection() {
    everywhere(|conn| {
        let new = ["Ada", "Bob"].map(|name| NewUser { name, age: None });
        let returned: Vec<User> = diesel::insert_into(users::table)
            .values(&new[..])
            .returning(User::as_returning())
            .get_results(conn.sqlite_mut())?;
        assert_eq!(returned.len(), 2);
        assert_eq!(names(conn)?, ["Ada", "Bob"]);
        // In a transaction of the outer connection, too.
        let result: QueryResult<()> = conn.transaction(|conn| {
            let new = ["Cid", "Dan"].map(|name| NewUser { name, age: None });
            let returned: Vec<String> = diesel::insert_into(users::table)
                .values(&new[..])
                .returning(users::name)
                .get_results(conn.sqlite_mut())?;
            assert_eq!(returned, ["Cid", "Dan"]);
            Err(Error::RollbackTransaction)
        });
        assert_eq!(result, Err(Error::RollbackTransaction));
        assert_eq!(names(conn)?, ["Ada", "Bob"]);
        Ok(())
    });
}

#[test]
fn save_changes_updates_and_fetches() {
    everywhere(|conn| {
        let mut ada = add_user(conn, "Ada")?;
        ada.name = "Ada Lovelace".to_owned();
        ada.age = Some(36);
        let saved: User = ada.save_changes(conn)?;
        assert_eq!(saved, ada);
        assert_eq!(names(conn)?, ["Ada Lovelace"]);
        let gone = User {
            id: 99,
            name: String::new(),
            age: None,
        };
        assert_eq!(gone.save_changes::<User>(conn), Err(Error::NotFound));
        Ok(())
    });
}

#[derive(diesel::MultiConnection)]
enum AnyConnection {
    Efs(EfsSqliteConnection),
}

#[test]
fn a_multi_connection_passes_everything_on() {
    everywhere(|conn| {
        let memory = connect(&EfsConfig::new(":memory:"));
        let mut any = AnyConnection::Efs(std::mem::replace(conn, memory));
        let result = any.transaction(|any| {
            diesel::insert_into(users::table)
                .values((users::name.eq("Ada"), users::age.eq(36)))
                .execute(any)?;
            let inner: QueryResult<()> = any.transaction(|any| {
                diesel::delete(users::table).execute(any)?;
                Err(Error::RollbackTransaction)
            });
            assert_eq!(inner, Err(Error::RollbackTransaction));
            users::table
                .filter(users::age.eq(36))
                .select((users::id, users::name, users::age))
                .first::<(i32, String, Option<i32>)>(any)
        });
        if let Ok(found) = &result {
            assert_eq!(*found, (1, "Ada".to_owned(), Some(36)));
            let applied = any.run_pending_migrations(MIGRATIONS).expect("migrations");
            assert!(!applied.is_empty());
        }
        let AnyConnection::Efs(inner) = any;
        *conn = inner;
        result.map(drop)
    });
}

#[test]
fn a_boxed_connection_is_known_for_what_it_is() {
    everywhere(|conn| {
        let boxed: &mut dyn BoxableConnection<Sqlite> = conn;
        boxed.batch_execute("INSERT INTO users (name) VALUES ('Ada')")?;
        assert!(boxed.downcast_mut::<SqliteConnection>().is_none());
        let conn = boxed
            .downcast_mut::<EfsSqliteConnection>()
            .expect("what was boxed");
        assert_eq!(names(conn)?, ["Ada"]);
        Ok(())
    });
}

#[test]
fn instrumentation_sees_queries_and_transactions() {
    everywhere(|conn| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            let line = match event {
                InstrumentationEvent::StartQuery { query, .. } => format!("start {query}"),
                InstrumentationEvent::FinishQuery { error, .. } => {
                    format!("finish, failed: {}", error.is_some())
                }
                InstrumentationEvent::BeginTransaction { depth, .. } => format!("begin {depth}"),
                InstrumentationEvent::CommitTransaction { depth, .. } => format!("commit {depth}"),
                InstrumentationEvent::RollbackTransaction { depth, .. } => {
                    format!("rollback {depth}")
                }
                _ => return,
            };
            log.lock().expect("no panic").push(line);
        });
        let take = || std::mem::take(&mut *seen.lock().expect("no panic"));
        conn.transaction(|conn| {
            diesel::sql_query("DELETE FROM users").execute(conn)?;
            let inner: QueryResult<()> = conn.transaction(|_| Err(Error::RollbackTransaction));
            assert_eq!(inner, Err(Error::RollbackTransaction));
            Ok::<_, Error>(())
        })?;
        let seen = take();
        let expected = [
            "begin 1",
            "start BEGIN",
            "finish, failed: false",
            "start DELETE FROM users -- binds: []",
            "finish, failed: false",
            "begin 2",
            "start SAVEPOINT diesel_savepoint_1",
            "finish, failed: false",
            "rollback 2",
            "start ROLLBACK TO SAVEPOINT diesel_savepoint_1",
            "finish, failed: false",
            "commit 1",
            "start COMMIT",
            "finish, failed: false",
        ];
        assert_eq!(seen, expected);
        let failed = diesel::sql_query("DELETE FROM nowhere").execute(conn);
        assert!(failed.is_err());
        assert_eq!(take()[1], "finish, failed: true");
        Ok(())
    });
}

/// What instrumentation sees of a statement that fails after the migration harness has looked.
fn seen_of_a_failure<C>(conn: &mut C) -> Vec<String>
where
    C: Connection<Backend = Sqlite> + MigrationHarness<Sqlite>,
{
    conn.run_pending_migrations(MIGRATIONS).expect("migrations");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        log.lock().expect("no panic").push(format!("{event:?}"));
    });
    let failed = conn.execute_returning_count(&diesel::sql_query("invalid"));
    failed.expect_err("no SQL");
    conn.batch_execute("also invalid").expect_err("no SQL");
    std::mem::take(&mut *seen.lock().expect("no panic"))
}

#[test]
fn instrumentation_sees_no_query_that_the_application_has_not_made() {
    let fixture = HostsFixture::new();
    let mut plain = SqliteConnection::establish(":memory:").expect("a connection");
    let expected = seen_of_a_failure(&mut plain);
    assert_eq!(expected.len(), 4, "{expected:?}");
    for mut conn in [
        connect(&EfsConfig::new(":memory:")),
        fixture.host().connect(),
    ] {
        assert_eq!(seen_of_a_failure(&mut conn), expected);
    }
    fixture.assert_nothing_left();
}

#[test]
fn statements_are_cached_unless_that_is_switched_off() {
    everywhere(|conn| {
        let cached = Arc::new(Mutex::new(0));
        let count = cached.clone();
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::CacheQuery { .. } = event {
                *count.lock().expect("no panic") += 1;
            }
        });
        add_user(conn, "Ada")?;
        conn.set_prepared_statement_cache_size(CacheSize::Unbounded);
        *cached.lock().expect("no panic") = 0;
        for age in [1, 2] {
            users::table
                .filter(users::age.eq(age))
                .count()
                .get_result::<i64>(conn)?;
        }
        assert_eq!(*cached.lock().expect("no panic"), 1);
        conn.set_prepared_statement_cache_size(CacheSize::Disabled);
        for age in [1, 2] {
            users::table
                .filter(users::age.lt(age))
                .count()
                .get_result::<i64>(conn)?;
        }
        assert_eq!(*cached.lock().expect("no panic"), 1);
        Ok(())
    });
}

diesel::define_sql_function! {
    fn shout(text: Text) -> Text;
}

#[diesel::declare_sql_function]
extern "SQL" {
    #[aggregate]
    fn product(n: Integer) -> Integer;
}

#[derive(Debug, Default)]
struct Product(Option<i32>);

impl diesel::sqlite::SqliteAggregateFunction<i32> for Product {
    type Output = i32;

    fn step(&mut self, n: i32) {
        self.0 = Some(self.0.unwrap_or(1) * n);
    }

    fn finalize(aggregator: Option<Self>) -> i32 {
        aggregator.and_then(|product| product.0).unwrap_or_default()
    }
}

#[test]
fn functions_aggregates_and_collations_are_registered() {
    everywhere(|conn| {
        shout_utils::register_impl(conn.sqlite_mut(), |text: String| text.to_uppercase())?;
        product_utils::register_impl::<Product, _>(conn.sqlite_mut())?;
        // Diesel gives the right-hand side first.
        conn.register_collation("BY_LENGTH", |right, left| left.len().cmp(&right.len()))?;
        for (name, age) in [("three", 3), ("a", 2), ("two", 7)] {
            diesel::insert_into(users::table)
                .values((users::name.eq(name), users::age.eq(age)))
                .execute(conn)?;
        }
        let loud: Vec<String> = users::table
            .order(users::id)
            .select(shout(users::name))
            .load(conn)?;
        assert_eq!(loud, ["THREE", "A", "TWO"]);
        let by_length: Vec<Named> =
            diesel::sql_query("SELECT name FROM users ORDER BY name COLLATE BY_LENGTH")
                .load(conn)?;
        let by_length: Vec<_> = by_length.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(by_length, ["a", "two", "three"]);
        let age = users::age.assume_not_null();
        let all: i32 = users::table.select(product(age)).get_result(conn)?;
        assert_eq!(all, 42);
        // In what writes, too.
        diesel::update(users::table)
            .set(users::name.eq(shout(users::name)))
            .execute(conn)?;
        assert_eq!(names(conn)?, ["THREE", "A", "TWO"]);
        Ok(())
    });
}

#[test]
fn a_panic_in_a_sql_function_is_an_error_of_the_statement() {
    everywhere(|conn| {
        shout_utils::register_impl(conn.sqlite_mut(), |_: String| -> String {
            panic!("too loud")
        })?;
        add_user(conn, "Ada")?;
        let result = diesel::update(users::table)
            .set(users::name.eq(shout(users::name)))
            .execute(conn);
        assert!(result.is_err(), "{result:?}");
        assert_eq!(names(conn)?, ["Ada"]);
        Ok(())
    });
}

#[test]
fn a_test_transaction_is_never_committed() {
    everywhere(|conn| {
        // Diesel panics when the closure fails.
        let result = conn.test_transaction(|conn| {
            let result = conn.transaction(|conn| {
                add_user(conn, "Ada")?;
                conn.transaction(|conn| add_user(conn, "Bob"))?;
                names(conn)
            });
            Ok::<_, Error>(result)
        });
        assert_eq!(names(conn)?, [""; 0]);
        assert_eq!(result?, ["Ada", "Bob"]);
        Ok(())
    });
}

#[test]
fn a_transaction_begun_with_the_lock_gives_its_closure_the_wrapper() {
    type Begin = fn(&mut EfsSqliteConnection, Body) -> QueryResult<Vec<String>>;
    type Body = fn(&mut EfsSqliteConnection) -> QueryResult<Vec<String>>;
    fn add_two(conn: &mut EfsSqliteConnection) -> QueryResult<Vec<String>> {
        add_user(conn, "Ada")?;
        let inner: QueryResult<()> = conn.transaction(|conn| {
            add_user(conn, "Eve")?;
            Err(Error::RollbackTransaction)
        });
        assert_eq!(inner, Err(Error::RollbackTransaction));
        add_user(conn, "Bob")?;
        names(conn)
    }
    let begin: [Begin; 3] = [
        EfsSqliteConnection::transaction,
        EfsSqliteConnection::immediate_transaction,
        EfsSqliteConnection::exclusive_transaction,
    ];
    for begin in begin {
        everywhere(|conn| {
            assert_eq!(begin(conn, add_two)?, ["Ada", "Bob"]);
            assert_eq!(names(conn)?, ["Ada", "Bob"]);
            let undone: QueryResult<Vec<String>> = begin(conn, |conn| {
                diesel::delete(users::table).execute(conn)?;
                Err(Error::RollbackTransaction)
            });
            assert_eq!(undone, Err(Error::RollbackTransaction));
            assert_eq!(names(conn)?, ["Ada", "Bob"]);
            Ok(())
        });
    }
}

#[test]
fn a_database_is_serialized_and_read_from_the_copy() {
    everywhere(|conn| {
        add_user(conn, "Ada")?;
        let copy = serialized(conn);
        add_user(conn, "Bob")?;
        let mut reader = connect(&EfsConfig::new(":memory:"));
        reader.deserialize_readonly_database_from_buffer(&copy)?;
        assert_eq!(names(&mut reader)?, ["Ada"]);
        let write = add_user(&mut reader, "Cid");
        assert!(write.is_err(), "{write:?}");
        let broken = reader.deserialize_readonly_database_from_buffer(b"no database");
        assert_eq!(broken, Ok(()));
        let read = names(&mut reader);
        assert!(read.is_err(), "{read:?}");
        assert_eq!(names(conn)?, ["Ada", "Bob"]);
        Ok(())
    });
}

#[test]
fn a_connection_with_a_begun_test_transaction_takes_its_lease_along() {
    let fixture = HostsFixture::new();
    let mut conn = fixture.host().connect();
    assert_eq!(conn.batch_execute(SCHEMA), Ok(()));
    assert_eq!(conn.begin_test_transaction(), Ok(()));
    assert_eq!(add_user(&mut conn, "Ada").map(|ada| ada.id), Ok(1));
    assert!(!diesel::r2d2::R2D2Connection::is_broken(&mut conn));
    assert!(fixture.item().is_some());
    drop(conn);
    fixture.assert_nothing_left();
    assert_eq!(names(&mut fixture.host().connect()), Ok(Vec::new()));
}

type EfsPool = Pool<ConnectionManager<EfsSqliteConnection>>;

fn pool(fixture: &HostsFixture, size: u32) -> EfsPool {
    let url = format!("{}?lock=local", fixture.scratch().database().display());
    Pool::builder()
        .max_size(size)
        .test_on_check_out(true)
        .build(ConnectionManager::new(url))
        .expect("a pool")
}

#[test]
fn a_pool_of_connections_serves_threads_that_write() {
    const THREADS: i64 = 4;
    const WRITES: i64 = 5;
    let fixture = HostsFixture::new();
    let pool = pool(&fixture, 4);
    let mut conn = pool.get().expect("a connection");
    let result = conn.batch_execute("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)");
    assert_eq!(result, Ok(()));
    drop(conn);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..WRITES {
                    let mut conn = pool.get().expect("a connection");
                    conn.set_lock_timeout(std::time::Duration::from_secs(60));
                    let result = conn.immediate_transaction(|conn| {
                        diesel::sql_query("UPDATE t SET n = n + 1").execute(conn)
                    });
                    assert_eq!(result, Ok(1));
                }
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    assert_eq!(
        numbers(&mut *conn, "SELECT n FROM t"),
        Ok(vec![THREADS * WRITES])
    );
}

#[test]
fn a_pool_does_not_hand_out_a_connection_with_an_open_transaction_again() {
    let fixture = HostsFixture::new();
    let pool = pool(&fixture, 1);
    let created = (pool.get().expect("a connection")).batch_execute("CREATE TABLE t (n INTEGER)");
    assert_eq!(created, Ok(()));
    let panicked = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut conn: PooledConnection<_> = pool.get().expect("a connection");
            conn.transaction(|conn| -> QueryResult<()> {
                conn.batch_execute("INSERT INTO t (n) VALUES (1)")?;
                panic!("in mid-transaction");
            })
        });
        thread.join().is_err()
    });
    assert!(panicked);
    let mut conn = pool.get().expect("another connection");
    assert_eq!(numbers(&mut *conn, "SELECT n FROM t"), Ok(Vec::new()));
    assert_eq!(conn.batch_execute("BEGIN IMMEDIATE; COMMIT"), Ok(()));
}

#[test]
fn a_connection_whose_lease_was_lost_is_broken_for_a_pool_and_works_all_the_same() {
    let fixture = HostsFixture::with_table();
    let host = fixture.host();
    let mut conn = host.connect();
    let result = conn.transaction(|conn| {
        conn.batch_execute("INSERT INTO t (n) VALUES (1)")?;
        fixture.remove_item();
        Ok::<_, Error>(())
    });
    assert!(result.is_err(), "{result:?}");
    assert!(diesel::r2d2::R2D2Connection::is_broken(&mut conn));
    assert_eq!(diesel::r2d2::R2D2Connection::ping(&mut conn), Ok(()));
    let written = conn.batch_execute("INSERT INTO t (n) VALUES (2)");
    assert_eq!(written, Ok(()));
}

#[test]
fn the_migration_harness_runs_and_reverts() {
    let fixture = HostsFixture::new();
    for config in [fixture.host().config(), EfsConfig::new(":memory:")] {
        let mut conn = connect(&config);
        assert!(conn.has_pending_migration(MIGRATIONS).expect("an answer"));
        let applied = conn.run_pending_migrations(MIGRATIONS).expect("migrations");
        let applied = applied.len();
        assert!(applied >= 2);
        let known = conn.applied_migrations().expect("an answer").len();
        assert_eq!(known, applied);
        let migrations: Vec<Box<dyn Migration<Sqlite>>> =
            MIGRATIONS.migrations().expect("migrations");
        assert_eq!(migrations.len(), applied);
        conn.revert_last_migration(MIGRATIONS).expect("a migration");
        assert!(conn.has_pending_migration(MIGRATIONS).expect("an answer"));
        conn.revert_all_migrations(MIGRATIONS).expect("migrations");
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'
                      AND name <> '__diesel_schema_migrations'";
        assert_eq!(numbers(&mut conn, tables), Ok(vec![0]));
        conn.run_migrations(MIGRATIONS).expect("migrations");
        assert!(!conn.has_pending_migration(MIGRATIONS).expect("an answer"));
        fixture.assert_nothing_left();
    }
}
