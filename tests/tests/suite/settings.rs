//! Settings: misspelt, senseless, missing and forbidden ones are named with what to do instead,
//! before any file is touched; what is right reaches SQLite and the lock table.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_sqlite_efs::{
    ConfigError, ConnectError, EfsConfig, EfsSqliteConnection, InMemoryLockStore, Synchronous,
};
use integration::dynamodb::{LockTable, env_for};
use integration::emulator::Emulator;
use integration::proxy::Proxy;
use integration::scratch::Scratch;

use crate::fixtures::bare_process::BareProcess;

type TestResult = Result<(), Box<dyn Error>>;

// Names

#[test]
fn a_misspelt_parameter_is_named_with_the_nearest_that_exists() -> TestResult {
    for (parameter, nearest) in [
        ("lock_tabel", "lock_table"),
        ("lock_tiemout", "lock_timeout"),
        ("timeout", "lock_timeout"),
        ("lock_expiry", "lock_expiration"),
        ("max_attempts", "lock_max_attempts"),
        ("locktable", "lock_table"),
        ("syncronous", "synchronous"),
        ("cache_size", "cache_size_"),
    ] {
        let told = refusal(&format!("lock_table=locks&{parameter}=3"))?;
        let unknown = format!("unknown parameter `{parameter}` in the database URL");
        let meant = format!("did you mean `{nearest}");
        assert!(told.contains(&unknown) && told.contains(&meant), "{told}");
    }
    // Nothing is near, so nothing is suggested.
    let told = refusal("lock_table=locks&xyz=3")?;
    assert_eq!(told, "unknown parameter `xyz` in the database URL");
    Ok(())
}

#[test]
fn a_misspelt_variable_is_named_with_the_nearest_that_exists() -> TestResult {
    for (variable, nearest) in [
        ("SQLITE_LOCK_TIMEOUTS", "SQLITE_LOCK_TIMEOUT"),
        ("SQLITE_LOCK_TABLE", "SQLITE_LOCK_DYNAMODB_TABLE"),
        ("SQLITE_LOCK_EXPIRY", "SQLITE_LOCK_EXPIRATION"),
    ] {
        let told = refusal_in([(variable, "3".to_owned())], "lock_table=locks")?;
        assert_eq!(
            told,
            format!("unknown environment variable `{variable}`; did you mean `{nearest}`?")
        );
    }
    Ok(())
}

// Values

#[test]
fn values_that_are_no_number_zero_negative_or_absurd_are_refused_with_what_to_give() -> TestResult {
    let senseless = ["", "abc", "0", "-1", "3s", "1e9", "NaN", "inf", "99999999"];
    for (setting, advice) in [
        ("lock_timeout", "give seconds above 0 and up to 86400"),
        ("lock_expiration", "give seconds from"),
        ("lock_max_hold", "give seconds from the lease's duration"),
        ("lock_max_attempts", "give a whole number from 1 to 1000000"),
    ] {
        for value in senseless {
            let told = refusal(&format!("lock_table=locks&{setting}={value}"))?;
            let start = format!("invalid value `{value}` for `{setting}` in the database URL: ");
            assert!(told.starts_with(&start) && told.contains(advice), "{told}");
        }
        let variable = format!("SQLITE_{}", setting.to_uppercase());
        for value in ["", "abc", "0", "-1"] {
            let told = refusal_in([(&*variable, value.to_owned())], "lock_table=locks")?;
            let start = format!("invalid value `{value}` for environment variable {variable}: ");
            assert!(told.starts_with(&start) && told.contains(advice), "{told}");
        }
    }
    let told = refusal("lock_table=locks&lock_max_attempts=2.5")?;
    assert!(told.contains("whole number"), "{told}");
    Ok(())
}

#[test]
fn values_given_by_methods_are_held_to_the_same() -> TestResult {
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database()).lock_table("locks");
    for (config, start) in [
        (
            config.clone().lock_timeout(Duration::ZERO),
            "invalid value `0` for EfsConfig::lock_timeout",
        ),
        (
            config.clone().lock_expiration(Duration::from_millis(500)),
            "invalid value `0.5` for EfsConfig::lock_expiration",
        ),
        (
            config.clone().lock_max_attempts(0),
            "invalid value `0` for EfsConfig::lock_max_attempts",
        ),
        (
            config.clone().cache_size_bytes(0),
            "invalid value `0` for EfsConfig::cache_size_bytes",
        ),
        (
            config.clone().lock_table("no table!"),
            "invalid value `no table!` for EfsConfig::lock_table",
        ),
        (
            config.base_vfs("no-such-vfs"),
            "invalid value `no-such-vfs` for EfsConfig::base_vfs",
        ),
    ] {
        let error = EfsSqliteConnection::connect(&config).expect_err("it is refused");
        let told = error.to_string();
        assert!(told.starts_with(start), "{told}");
        assert!(matches!(
            error,
            ConnectError::Config(ConfigError::InvalidValue { .. })
        ));
    }
    assert!(!scratch.database().exists());
    Ok(())
}

#[test]
fn a_lease_shorter_than_two_renewal_periods_is_refused() -> TestResult {
    for value in ["0.5", "1", "1.9"] {
        let told = refusal(&format!("lock_table=locks&lock_expiration={value}"))?;
        assert!(
            told.starts_with(&format!(
                "invalid value `{value}` for `lock_expiration` in the database URL"
            )) && told.contains("a lease must last two renewal periods"),
            "{told}"
        );
    }
    let told = refusal("lock_table=locks&lock_expiration=30&lock_max_hold=20")?;
    assert!(told.contains("shorter than the lease of 30 s"), "{told}");
    Ok(())
}

#[test]
fn without_a_lock_table_the_three_remedies_are_named() -> TestResult {
    let told = refusal_in([], "")?;
    for remedy in [
        "no lock table is set",
        "`lock_table=NAME` in the URL",
        "SQLITE_LOCK_DYNAMODB_TABLE",
        "`lock=local` if only this machine opens the database",
    ] {
        assert!(told.contains(remedy), "`{remedy}` is missing in `{told}`");
    }
    let told = refusal("lock=local&lock_table=locks")?;
    assert!(told.contains("give only one"), "{told}");
    let told = refusal("lock=zookeeper")?;
    assert!(told.contains("give `dynamodb` or `local`"), "{told}");
    Ok(())
}

// Ways round the lock

#[test]
fn parameters_that_go_round_the_lock_are_refused_with_the_reason() -> TestResult {
    for (parameter, name, reason) in [
        ("vfs=unix", "vfs", "this crate's own VFS"),
        ("vfs=unix-none", "vfs", "leave it out"),
        ("nolock=1", "nolock", "readers see half-written pages"),
        ("immutable=1", "immutable", "use `mode=ro` to read only"),
        ("cache=shared", "cache", "use `cache=private`"),
        ("%76fs=unix", "vfs", "this crate's own VFS"),
    ] {
        let told = refusal(&format!("lock_table=locks&{parameter}"))?;
        let start = format!("the URL parameter `{name}` is refused: ");
        assert!(told.starts_with(&start) && told.contains(reason), "{told}");
    }
    Ok(())
}

#[test]
fn a_local_lock_is_refused_where_other_machines_may_write() -> TestResult {
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database())
        .lock_local()
        .assume_network_file_system(true);
    let error = EfsSqliteConnection::connect(&config).expect_err("it is refused");
    assert!(matches!(
        error,
        ConnectError::Config(ConfigError::LocalLockOnNetwork { .. })
    ));
    assert_local_lock_refused(&error.to_string(), "as configured");
    assert!(!scratch.database().exists());
    EfsSqliteConnection::connect(&config.assume_network_file_system(false))?;

    // What is not known to be local counts as shared: here the kernel's own /proc.
    let url = "/proc/app.db?lock=local";
    let told = EfsSqliteConnection::establish(url).err().ok_or("opened")?;
    assert_local_lock_refused(&told.to_string(), "an unknown file system");
    Ok(())
}

fn assert_local_lock_refused(told: &str, file_system: &str) {
    for part in [
        "`lock=local` is refused",
        file_system,
        "do not protect the database",
        "set a lock table",
    ] {
        assert!(told.contains(part), "`{part}` is missing in `{told}`");
    }
}

// What is in effect

#[test]
fn the_urls_settings_come_before_the_environments() -> TestResult {
    let emulator = Emulator::shared().endpoint();
    let proxy = Proxy::start(emulator)?;
    for table in ["table-of-the-environment", "table-of-the-url"] {
        LockTable::create(emulator, table)?;
    }
    let variables = [
        ("SQLITE_LOCK_DYNAMODB_TABLE", "table-of-the-environment"),
        ("SQLITE_LOCK_KEY", "key of the environment"),
        ("SQLITE_LOCK_HOLDER", "holder of the environment"),
    ];
    let environment = (env_for(&proxy.endpoint()).into_iter())
        .chain(variables.map(|(name, value)| (name, value.to_owned())));
    let mut process = BareProcess::start(environment)?;
    for (parameters, table, key) in [
        ("", "table-of-the-environment", "key of the environment"),
        (
            "lock_table=table-of-the-url&lock_key=key%20of%20the%20URL",
            "table-of-the-url",
            "key of the URL",
        ),
    ] {
        let scratch = Scratch::new()?;
        proxy.forget_requests();
        process.open(&format!("{}?{parameters}", scratch.database().display()))??;
        (process.execute("CREATE TABLE t (x INTEGER)")?).expect("it writes");
        let request = proxy.requests().remove(0);
        assert_eq!(request.body["TableName"], table);
        assert_eq!(request.key.as_deref(), Some(key));
        let holder = &request.body["Item"]["holder"]["S"];
        assert_eq!(holder, "holder of the environment");
    }
    Ok(())
}

#[test]
fn every_connection_has_the_pragmas_of_a_network_file_system() -> TestResult {
    let (mut connection, _scratch) = open(|config| config)?;
    assert_eq!(word(&mut connection, "journal_mode")?, "delete");
    assert_eq!(number(&mut connection, "synchronous")?, 3, "extra");
    assert_eq!(number(&mut connection, "temp_store")?, 2, "memory");
    assert_eq!(number(&mut connection, "cache_spill")?, 0, "off");
    assert_eq!(number(&mut connection, "cache_size")?, -65_536, "64 MiB");
    assert_eq!(word(&mut connection, "locking_mode")?, "normal");
    // Not to be had, even if asked for: then SQLite has no size to tell.
    for pragma in ["PRAGMA mmap_size", "PRAGMA mmap_size=1000000"] {
        let sizes: Vec<i64> = sql::<BigInt>(pragma).load(&mut connection)?;
        assert!(sizes.iter().all(|size| *size == 0), "{sizes:?}");
    }
    Ok(())
}

#[test]
fn the_size_of_the_cache_is_what_its_units_say() -> TestResult {
    for (parameters, pragma) in [
        ("cache_size_bytes=1048576", -1024),
        ("cache_size_pages=500", 500),
    ] {
        let scratch = Scratch::new()?;
        let url = format!("{}?lock=local&{parameters}", scratch.database().display());
        let mut connection = EfsSqliteConnection::establish(&url)?;
        assert_eq!(number(&mut connection, "cache_size")?, pragma);
    }
    let (mut connection, _scratch) = open(|config| config.cache_size_bytes(256 << 20))?;
    assert_eq!(number(&mut connection, "cache_size")?, -262_144, "256 MiB");
    let (mut connection, _scratch) = open(|config| config.cache_size_pages(7))?;
    assert_eq!(number(&mut connection, "cache_size")?, 7);
    Ok(())
}

#[test]
fn synchronous_is_as_careful_as_asked_and_never_off() -> TestResult {
    for (level, value) in [
        (Synchronous::Extra, 3),
        (Synchronous::Full, 2),
        (Synchronous::Normal, 1),
    ] {
        let (mut connection, _scratch) = open(|config| config.synchronous(level))?;
        assert_eq!(number(&mut connection, "synchronous")?, value);
    }
    let told = refusal("lock_table=locks&synchronous=off")?;
    assert!(told.contains("there is no `off`, because"), "{told}");
    Ok(())
}

#[test]
fn pragmas_that_undermine_the_lock_are_refused_with_the_reason() -> TestResult {
    let (mut connection, _scratch) = open(|config| config)?;
    diesel::sql_query("CREATE TABLE t (x INTEGER)").execute(&mut connection)?;
    for (pragma, reason) in [
        (
            "journal_mode=wal",
            "shared memory, which hosts cannot share",
        ),
        ("journal_mode=TRUNCATE", "would share one journal file"),
        ("journal_mode=persist", "would share one journal file"),
        ("journal_mode=memory", "a crash leaves a torn database"),
        ("journal_mode=off", "a crash leaves a torn database"),
        ("main.journal_mode=wal", "shared memory"),
        ("synchronous=off", "before its pages are on disk"),
        (
            "synchronous=normal",
            "set `synchronous=normal` when opening",
        ),
        ("locking_mode=exclusive", "without a lease"),
        ("cache_spill=on", "uncommitted pages"),
    ] {
        let error = diesel::sql_query(format!("PRAGMA {pragma}"))
            .execute(&mut connection)
            .expect_err("it is refused");
        let told = error.to_string();
        assert!(told.contains("is refused by diesel-sqlite-efs"), "{told}");
        assert!(told.contains(reason), "{told}");
        diesel::sql_query("INSERT INTO t VALUES (1)").execute(&mut connection)?;
    }
    assert_eq!(word(&mut connection, "journal_mode")?, "delete");
    assert_eq!(number(&mut connection, "synchronous")?, 3);
    Ok(())
}

/// The text with which `establish` refuses these parameters; nothing may be created.
fn refusal(parameters: &str) -> Result<String, Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let url = format!("{}?{parameters}", scratch.database().display());
    let error = EfsSqliteConnection::establish(&url).err();
    assert!(!scratch.database().exists(), "created for {parameters}");
    Ok(error
        .ok_or_else(|| format!("{parameters} is accepted"))?
        .to_string())
}

/// The same in a process with these environment variables.
fn refusal_in<'a>(
    environment: impl IntoIterator<Item = (&'a str, String)>,
    parameters: &str,
) -> Result<String, Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let url = format!("{}?{parameters}", scratch.database().display());
    let told = BareProcess::start(environment)?.open(&url)?;
    assert!(!scratch.database().exists(), "created for {parameters}");
    Ok(told
        .err()
        .ok_or_else(|| format!("{parameters} is accepted"))?)
}

/// A connection with a lock store in memory, and its directory.
fn open(
    settings: impl FnOnce(EfsConfig) -> EfsConfig,
) -> Result<(EfsSqliteConnection, Scratch), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let config = EfsConfig::new(scratch.database()).lock_store(Arc::new(InMemoryLockStore::new()));
    let connection = EfsSqliteConnection::connect(&settings(config))?;
    Ok((connection, scratch))
}

fn number(connection: &mut EfsSqliteConnection, pragma: &str) -> QueryResult<i64> {
    sql::<BigInt>(&format!("SELECT {pragma} FROM pragma_{pragma}")).get_result(connection)
}

fn word(connection: &mut EfsSqliteConnection, pragma: &str) -> QueryResult<String> {
    sql::<Text>(&format!("SELECT {pragma} FROM pragma_{pragma}")).get_result(connection)
}
