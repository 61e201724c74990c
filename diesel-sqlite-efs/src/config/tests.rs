use std::fmt::Debug;
use std::os::unix::ffi::OsStringExt;

use super::lease_terms::default_holder;
use super::*;
use crate::store::InMemoryLockStore;

/// The settings of a file with a lock table, from here, a query and an environment.
fn settings(
    methods: impl FnOnce(EfsConfig) -> EfsConfig,
    query: &str,
    variables: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    let config = EfsConfig::from_url(&format!("app.db?{query}"))?;
    methods(config).resolve_in(environment(variables))
}

fn with_table(
    methods: impl FnOnce(EfsConfig) -> EfsConfig,
    query: &str,
    variables: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    settings(
        |config| methods(config).lock_table("locks"),
        query,
        variables,
    )
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let pairs = variables.iter();
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn unchanged(config: EfsConfig) -> EfsConfig {
    config
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Gives one setting in all eight combinations of sources, and checks which value is in effect.
#[track_caller]
fn assert_precedence<T: PartialEq + Debug + Clone>(
    (name, variable): (&str, Option<&str>),
    method: fn(EfsConfig) -> EfsConfig,
    [in_url, in_variable]: [&str; 2],
    [from_method, from_url, from_variable, default]: [T; 4],
    effective: fn(Settings) -> T,
) {
    for places in 0..8 {
        let [by_method, by_url, by_variable] = [1, 2, 4].map(|bit| places & bit != 0);
        let query = if by_url {
            format!("{name}={in_url}")
        } else {
            String::new()
        };
        let variables: Vec<_> = (variable.filter(|_| by_variable).into_iter())
            .map(|variable| (variable, in_variable))
            .collect();
        let method = if by_method { method } else { unchanged };
        // A table of the lowest rank, as far as none is being tested.
        let table = ("SQLITE_LOCK_DYNAMODB_TABLE", "default-table");
        let variables = [&[table][..], &variables].concat();
        let expected = match (by_method, by_url, by_variable && variable.is_some()) {
            (true, _, _) => &from_method,
            (false, true, _) => &from_url,
            (false, false, true) => &from_variable,
            (false, false, false) => &default,
        };
        let settings = settings(method, &query, &variables).unwrap();
        assert_eq!(
            effective(settings),
            *expected,
            "{name}, places {places:03b}"
        );
    }
}

#[test]
fn a_method_beats_the_url_beats_the_environment_beats_the_default() {
    fn table(settings: Settings) -> String {
        match settings.store {
            StoreChoice::DynamoDb { table } => table,
            other => format!("{other:?}"),
        }
    }
    assert_precedence(
        ("lock_table", Some("SQLITE_LOCK_DYNAMODB_TABLE")),
        |config| config.lock_table("of-method"),
        ["of-url", "of-variable"],
        ["of-method", "of-url", "of-variable", "default-table"].map(str::to_owned),
        table,
    );
    assert_precedence(
        ("lock_expiration", Some("SQLITE_LOCK_EXPIRATION")),
        |config| config.lock_expiration(seconds(20.0)),
        ["30", "40.5"],
        [20.0, 30.0, 40.5, 5.0].map(seconds),
        |settings| settings.terms.expiration,
    );
    assert_precedence(
        ("lock_timeout", Some("SQLITE_LOCK_TIMEOUT")),
        |config| config.lock_timeout(seconds(20.0)),
        ["0.25", "40"],
        [20.0, 0.25, 40.0, 10.0].map(seconds),
        |settings| settings.timeout,
    );
    assert_precedence(
        (
            "lock_migration_timeout",
            Some("SQLITE_LOCK_MIGRATION_TIMEOUT"),
        ),
        |config| config.lock_migration_timeout(seconds(20.0)),
        ["0.25", "40"],
        [20.0, 0.25, 40.0, 600.0].map(seconds),
        |settings| settings.migration_timeout,
    );
    assert_precedence(
        ("lock_max_attempts", Some("SQLITE_LOCK_MAX_ATTEMPTS")),
        |config| config.lock_max_attempts(1),
        ["2", "3"],
        [Some(1), Some(2), Some(3), None],
        |settings| settings.max_attempts,
    );
    assert_precedence(
        ("lock_key", Some("SQLITE_LOCK_KEY")),
        |config| config.lock_key("of method"),
        ["of%20url", "of variable"],
        ["of method", "of url", "of variable", "database#app.db"].map(str::to_owned),
        |settings| settings.key,
    );
    let host = default_holder(&Sources::new(&[], [], &NAMES, &REMOVED).unwrap());
    assert_precedence(
        ("lock_holder", Some("SQLITE_LOCK_HOLDER")),
        |config| config.lock_holder("of method"),
        ["of%20url", "of variable"],
        ["of method", "of url", "of variable", &host].map(str::to_owned),
        |settings| settings.terms.holder,
    );
    assert_precedence(
        ("lock_max_hold", Some("SQLITE_LOCK_MAX_HOLD")),
        |config| config.lock_max_hold(seconds(20.0)),
        ["30", "40"],
        [20.0, 30.0, 40.0, 900.0].map(seconds),
        |settings| settings.terms.max_hold,
    );
    assert_precedence(
        ("lock_read_check", Some("SQLITE_LOCK_READ_CHECK")),
        |config| config.lock_read_check(ReadCheck::Off),
        ["Counter", "OFF"],
        [
            Some(ReadCheck::Off),
            Some(ReadCheck::Counter),
            Some(ReadCheck::Off),
            None,
        ],
        |settings| settings.read_check,
    );
    assert_precedence(
        ("synchronous", None),
        |config| config.synchronous(Synchronous::Full),
        ["normal", ""],
        ["full", "normal", "", "extra"],
        |settings| settings.synchronous.pragma(),
    );
    assert_precedence(
        ("cache_size_bytes", None),
        |config| config.cache_size_bytes(1 << 20),
        ["2097152", ""],
        [-1024, -2048, 0, -65_536],
        |settings| settings.cache_size.pragma(),
    );
    assert_precedence(
        ("cache_size_pages", None),
        |config| config.cache_size_pages(100),
        ["200", ""],
        [100, 200, 0, -65_536],
        |settings| settings.cache_size.pragma(),
    );
}

/// The lease, the second that DynamoDB's clock leaves open, and as much for whoever is in the queue.
#[test]
fn by_default_a_wait_outlasts_a_crashed_writers_lease() {
    let settings = with_table(unchanged, "", &[]).unwrap();
    let crash = settings.terms.expiration + Duration::from_secs(1);
    assert!(settings.timeout >= crash + Duration::from_secs(3));
    assert!(settings.terms.expiration >= 3 * settings.terms.renewal_period());
}

#[test]
fn an_overridden_value_is_not_looked_at() {
    let settings = with_table(
        |config| config.lock_timeout(seconds(1.0)),
        "lock_timeout=never",
        &[("SQLITE_LOCK_TIMEOUT", "")],
    );
    assert_eq!(settings.unwrap().timeout, seconds(1.0));
}

/// Each of `values` must be refused for the parameter in the URL and, if there is one, the
/// variable, with an error that names the place, the value as written and the valid values.
#[track_caller]
fn assert_refused(name: &str, values: &[&str], advice: &str) {
    let table = ("SQLITE_LOCK_DYNAMODB_TABLE", "default-table");
    let names = NAMES.iter().find(|names| names.parameter == name).unwrap();
    for value in values {
        let query = format!("{name}={}", url::encode(value.as_ref()));
        let in_url = settings(unchanged, &query, &[table]).unwrap_err();
        assert_invalid(
            in_url,
            &format!("`{name}` in the database URL"),
            value,
            advice,
        );
        if let Some(variable) = names.variable {
            let in_variable = settings(unchanged, "", &[table, (variable, value)]).unwrap_err();
            let place = format!("environment variable {variable}");
            assert_invalid(in_variable, &place, value, advice);
        }
    }
}

#[track_caller]
fn assert_invalid(error: ConfigError, place: &str, given: &str, advice: &str) {
    match error {
        ConfigError::InvalidValue {
            setting,
            value,
            problem,
        } => {
            assert_eq!((setting.as_str(), value.as_str()), (place, given));
            assert!(problem.contains(advice), "{place}, {given}: {problem}");
        }
        other => panic!("{place}, {given}: {other:?}"),
    }
}

#[test]
fn values_that_are_no_number_zero_negative_or_absurd_are_refused_with_what_to_give() {
    const NO_TIMES: [&str; 20] = [
        "",
        " ",
        "ten",
        "10s",
        "10 s",
        "500ms",
        "-1",
        "-0",
        "+1",
        "0",
        "0.0",
        "NaN",
        "inf",
        "1e3",
        "0x10",
        "1,5",
        "1.2.3",
        ".",
        "86400.001",
        "99999999999999999999999999999",
    ];
    assert_refused("lock_expiration", &NO_TIMES, "seconds from 2 to 86400");
    assert_refused(
        "lock_expiration",
        &["1.999", "0.0001"],
        "two renewal periods",
    );
    assert_refused("lock_timeout", &NO_TIMES, "`lock_max_attempts` to 1");
    assert_refused("lock_timeout", &["0.0000000001"], "seconds above 0");
    assert_refused(
        "lock_max_hold",
        &NO_TIMES,
        "from the lease's duration to 86400",
    );

    const NO_COUNTS: [&str; 10] = [
        "",
        "many",
        "0",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "5x",
        "1000001",
        "4294967297",
    ];
    assert_refused("lock_max_attempts", &NO_COUNTS, "from 1 to 1000000");
    assert_refused(
        "cache_size_pages",
        &["", "0", "-64", "16777217", "1k"],
        "pages from 1",
    );
    // The Python package's mistake: 256 GiB that were meant as 256 MB.
    let sizes = ["", "0", "-65536", "65535", "64MiB", "274877906944"];
    assert_refused("cache_size_bytes", &sizes, "65536 (64 KiB)");
}

#[test]
fn a_setting_that_is_gone_is_refused_with_what_became_of_it() {
    for removed in &REMOVED {
        let in_url = removed.parameter.map(|name| {
            let refused = EfsConfig::from_url(&format!("app.db?{name}=clock"));
            (name, refused.map(drop))
        });
        let in_environment = (EfsConfig::new("app.db").lock_local())
            .resolve_in([(removed.variable.into(), "clock".into())])
            .map(drop);
        for (place, result) in in_url
            .into_iter()
            .chain([(removed.variable, in_environment)])
        {
            let error = result.expect_err(place).to_string();
            assert!(error.contains(place), "{error}");
            let advice = format!(": {}; {}", removed.became, removed.remedy);
            assert!(error.ends_with(&advice), "{error}");
        }
    }
}

#[test]
fn words_that_a_setting_does_not_know_are_refused_with_those_it_knows() {
    let words: [(&str, &[&str]); 3] = [
        ("lock_read_check", &["counter", "reopen", "off"]),
        ("lock", &["dynamodb", "local"]),
        ("synchronous", &["extra", "full", "normal"]),
    ];
    for (name, words) in words {
        for word in words {
            assert_refused(
                name,
                &["", "on", "2", &format!("{word}d")],
                &format!("`{word}`"),
            );
        }
    }
    assert_refused("synchronous", &["off", "OFF"], "there is no `off`");
}

#[test]
fn methods_are_held_to_the_same_limits() {
    type Method = fn(EfsConfig) -> EfsConfig;
    let refused: [(&str, &str, Method); 12] = [
        ("lock_expiration", "0", |c| {
            c.lock_expiration(Duration::ZERO)
        }),
        ("lock_expiration", "0.999", |c| {
            c.lock_expiration(seconds(0.999))
        }),
        ("lock_timeout", "0", |c| c.lock_timeout(Duration::ZERO)),
        ("lock_timeout", "86401", |c| {
            c.lock_timeout(seconds(86_401.0))
        }),
        ("lock_max_hold", "0", |c| c.lock_max_hold(Duration::ZERO)),
        ("lock_max_attempts", "0", |c| c.lock_max_attempts(0)),
        ("lock_key", "", |c| c.lock_key("")),
        ("lock_holder", "a\nb", |c| c.lock_holder("a\nb")),
        ("cache_size_bytes", "1", |c| c.cache_size_bytes(1)),
        ("cache_size_pages", "0", |c| c.cache_size_pages(0)),
        ("base_vfs", "", |c| c.base_vfs("")),
        ("lock_table", "a b", |c| c.lock_table("a b")),
    ];
    for (name, value, method) in refused {
        let error = settings(|c| method(c.lock_table("locks")), "", &[]).unwrap_err();
        assert_invalid(error, &format!("EfsConfig::{name}"), value, "give ");
    }
}

#[test]
fn times_with_three_decimals_are_read_exactly() {
    for milliseconds in (1..3_000).chain((3_000..86_400_000).step_by(86_399)) {
        let text = format!("{}.{:03}", milliseconds / 1_000, milliseconds % 1_000);
        let settings = with_table(unchanged, &format!("lock_timeout={text}"), &[]).unwrap();
        assert_eq!(
            settings.timeout,
            Duration::from_millis(milliseconds),
            "{text}"
        );
    }
}

#[test]
fn a_lease_lasts_two_seconds_at_least() {
    let mut accepted = 0;
    for milliseconds in 1..5_000 {
        let lease = Duration::from_millis(milliseconds);
        match with_table(|c| c.lock_expiration(lease), "", &[]) {
            Ok(settings) => {
                accepted += 1;
                assert!(settings.terms.expiration >= 2 * settings.terms.renewal_period());
            }
            Err(_) => assert!(lease < Duration::from_secs(2), "{lease:?}"),
        }
    }
    assert_eq!(accepted, 3_000);
}

#[test]
fn the_longest_hold_is_never_shorter_than_the_lease() {
    let error = with_table(unchanged, "lock_max_hold=4", &[]).unwrap_err();
    let place = "`lock_max_hold` in the database URL";
    assert_invalid(error, place, "4", "shorter than the lease of 5 s");
    let error = with_table(
        |c| c.lock_expiration(seconds(30.0)),
        "",
        &[("SQLITE_LOCK_MAX_HOLD", "29.5")],
    );
    let place = "environment variable SQLITE_LOCK_MAX_HOLD";
    assert_invalid(
        error.unwrap_err(),
        place,
        "29.5",
        "shorter than the lease of 30 s",
    );

    let equal = with_table(unchanged, "lock_expiration=7&lock_max_hold=7", &[]).unwrap();
    assert_eq!(equal.terms.max_hold, equal.terms.expiration);
    let long_lease = with_table(unchanged, "lock_expiration=2000", &[]).unwrap();
    assert_eq!(long_lease.terms.max_hold, seconds(2_000.0));
}

#[test]
fn a_file_without_a_lock_table_is_refused() {
    assert_eq!(
        settings(unchanged, "", &[]).unwrap_err(),
        ConfigError::NoTable
    );
    assert_eq!(
        settings(unchanged, "lock=dynamodb", &[]).unwrap_err(),
        ConfigError::NoTable
    );
    assert_eq!(
        settings(unchanged, "lock=dynamodb", &[("SQLITE_LOCK", "local")]).unwrap_err(),
        ConfigError::NoTable
    );
}

#[test]
fn the_first_place_that_says_anything_about_the_store_decides() {
    const TABLE: (&str, &str) = ("SQLITE_LOCK_DYNAMODB_TABLE", "env");
    const LOCAL: (&str, &str) = ("SQLITE_LOCK", "local");
    type Method = fn(EfsConfig) -> EfsConfig;
    type Case = (
        Method,
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let cases: [Case; 11] = [
        (unchanged, "", &[TABLE], "env"),
        (unchanged, "", &[LOCAL], "local"),
        (unchanged, "lock_table=url", &[LOCAL], "url"),
        (unchanged, "lock_table=url&lock=dynamodb", &[TABLE], "url"),
        (unchanged, "lock=local", &[TABLE], "local"),
        (unchanged, "lock=dynamodb", &[TABLE], "env"),
        (unchanged, "lock=dynamodb", &[TABLE, LOCAL], "env"),
        (|c| c.lock_table("method"), "lock=local", &[LOCAL], "method"),
        (|c| c.lock_local(), "lock_table=url", &[TABLE], "local"),
        (|c| c.lock_table("method").lock_local(), "", &[], "local"),
        (|c| c.lock_local().lock_table("method"), "", &[], "method"),
    ];
    for (methods, query, variables, expected) in cases {
        let store = match settings(methods, query, variables).unwrap().store {
            StoreChoice::DynamoDb { table } => table,
            StoreChoice::Local => "local".to_owned(),
            StoreChoice::Custom(_) => "custom".to_owned(),
        };
        assert_eq!(store, expected, "{query}, {variables:?}");
    }
}

#[test]
fn a_table_and_a_local_lock_in_one_place_contradict_each_other() {
    let error = settings(unchanged, "lock=local&lock_table=locks", &[]).unwrap_err();
    assert_invalid(
        error,
        "`lock` in the database URL",
        "local",
        "table `locks`",
    );
    let variables = [
        ("SQLITE_LOCK_DYNAMODB_TABLE", "locks"),
        ("SQLITE_LOCK", "local"),
    ];
    let error = settings(unchanged, "", &variables).unwrap_err();
    let place = "environment variable SQLITE_LOCK";
    assert_invalid(error, place, "local", "table `locks`");
}

#[test]
fn clones_share_the_store_of_the_callers_own() {
    let store: Arc<dyn LockStore> = Arc::new(InMemoryLockStore::new());
    let config = EfsConfig::new("app.db").lock_store(store.clone());
    for config in [config.clone(), config] {
        match config.resolve_in([]).unwrap().store {
            StoreChoice::Custom(resolved) => assert!(Arc::ptr_eq(&resolved, &store)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_database_in_memory_needs_no_lock_table() {
    for url in [
        "",
        ":memory:",
        "file::memory:",
        "sqlite://:memory:",
        "file:a?mode=memory",
    ] {
        let settings = EfsConfig::from_url(url).unwrap().resolve_in([]).unwrap();
        assert!(matches!(settings.store, StoreChoice::Local), "{url}");
        assert!(
            matches!(settings.database, Database::Memory { .. }),
            "{url}"
        );
    }
    let in_memory = EfsConfig::new(":memory:").resolve_in([]).unwrap();
    assert!(matches!(in_memory.database, Database::Memory { .. }));
    let file = EfsConfig::new("./:memory:").resolve_in([]);
    assert_eq!(file.unwrap_err(), ConfigError::NoTable);
}

#[test]
fn table_names_follow_the_rules_of_dynamodb() {
    let longest = "t".repeat(255);
    let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/sqlite-locks";
    for table in ["abc", "A.b_c-9", &longest, arn] {
        let settings = settings(|c| c.lock_table(table), "", &[]);
        assert!(settings.is_ok(), "{table}");
    }
    let too_long = "t".repeat(256);
    let refused = [
        "",
        "ab",
        "a b",
        "a/b",
        "täble",
        &too_long,
        "arn:aws:dynamodb",
        "arn:aws:s3:eu-west-1:123456789012:table/sqlite-locks",
        "arn:aws:dynamodb:eu-west-1:123456789012:stream/sqlite-locks",
        "arn:aws:dynamodb:eu-west-1:123456789012:table/a",
    ];
    assert_refused("lock_table", &refused, "3 to 255 letters");
}

#[test]
fn the_default_key_is_the_python_packages_whatever_the_form_of_the_url() {
    let cases = [
        ("app.db", "database#app.db"),
        ("./app.db", "database#./app.db"),
        ("file:app.db", "database#app.db"),
        ("sqlite://app.db", "database#app.db"),
        ("/mnt/efs/app.db", "database#/mnt/efs/app.db"),
        ("file:/mnt/efs/app.db", "database#/mnt/efs/app.db"),
        ("file:///mnt/efs/app.db", "database#/mnt/efs/app.db"),
        (
            "file://localhost/mnt/efs/app.db",
            "database#/mnt/efs/app.db",
        ),
        (
            "sqlite:///mnt/efs/app.db?mode=rw",
            "database#/mnt/efs/app.db",
        ),
        ("file:/mnt/%C3%A9%20%3F.db", "database#/mnt/é ?.db"),
    ];
    for (url, key) in cases {
        let config = EfsConfig::from_url(url).unwrap().lock_table("locks");
        assert_eq!(config.resolve_in([]).unwrap().key, key, "{url}");
    }
}

#[test]
fn no_two_paths_share_a_default_key() {
    let paths: [&[u8]; 7] = [
        b"\xff.db",
        b"\xfe.db",
        b"%FF.db",
        b"%FE.db",
        b"%25FF.db",
        b"\xef\xbf\xbd.db",
        b"%\xff.db",
    ];
    let mut keys: Vec<_> = (paths.into_iter())
        .map(|path| {
            let config = EfsConfig::new(OsString::from_vec(path.to_vec())).lock_local();
            config.resolve_in([]).unwrap().key
        })
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), paths.len(), "{keys:?}");
    assert!(
        keys.contains(&"database-bytes#%FF.db".to_owned()),
        "{keys:?}"
    );
}

#[test]
fn a_path_too_long_for_a_key_asks_for_one() {
    let path = "p".repeat(2048 - "database#".len());
    let fits = EfsConfig::new(&path).lock_local().resolve_in([]).unwrap();
    assert_eq!(fits.key.len(), 2048);
    let config = EfsConfig::new(format!("{path}p")).lock_local();
    let error = config.resolve_in([]).unwrap_err();
    let key = format!("database#{path}p");
    assert_invalid(error, "the default of `lock_key`", &key, "set `lock_key`");
    assert!(config.lock_key("mine").resolve_in([]).is_ok());
}

#[test]
fn the_default_holder_is_the_sandbox_on_lambda_and_the_process_elsewhere() {
    let function = ("AWS_LAMBDA_FUNCTION_NAME", "polls");
    let sandbox = ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/22/[$LATEST]0a1b");
    let holder = |variables: &[_]| with_table(unchanged, "", variables).unwrap().terms.holder;
    assert_eq!(
        holder(&[function, sandbox]),
        "polls 2026/11/22/[$LATEST]0a1b"
    );
    assert_eq!(holder(&[function]), "polls");
    let process = std::process::id().to_string();
    assert!(holder(&[]).ends_with(&format!(" process {process}")));
    assert!(!holder(&[]).starts_with(' '));
}

#[test]
fn the_last_call_decides_on_the_size_of_the_cache() {
    let pages = with_table(|c| c.cache_size_bytes(1 << 20).cache_size_pages(7), "", &[]);
    assert_eq!(pages.unwrap().cache_size, CacheSize::Pages(7));
    let bytes = with_table(
        |c| c.cache_size_pages(7).cache_size_bytes(100_000),
        "cache_size_pages=9",
        &[],
    );
    let bytes = bytes.unwrap().cache_size;
    assert_eq!((bytes, bytes.pragma()), (CacheSize::Bytes(100_000), -97));

    let both = with_table(unchanged, "cache_size_bytes=65536&cache_size_pages=9", &[]);
    let place = "`cache_size_pages` in the database URL";
    assert_invalid(both.unwrap_err(), place, "9", "give only one");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_that_exists() {
    let parameters = [
        ("lock_tiemout", Some("lock_timeout")),
        ("lock-timeout", Some("lock_timeout")),
        ("lockTimeout", Some("lock_timeout")),
        ("LOCK_KEY", Some("lock_key")),
        ("timeout", Some("lock_timeout")),
        ("table", Some("lock_table")),
        ("SQLITE_LOCK_DYNAMODB_TABLE", Some("lock_table")),
        ("lock_expiry", Some("lock_expiration")),
        ("max_attempts", Some("lock_max_attempts")),
        ("lokc", Some("lock")),
        ("synchronus", Some("synchronous")),
        ("cache_size", Some("cache_size_bytes")),
        ("moed", Some("mode")),
        ("zzz", None),
        ("foreign_keys", None),
    ];
    for (name, nearest) in parameters {
        let error = EfsConfig::from_url(&format!("app.db?{name}=1")).unwrap_err();
        let suggestion = nearest.map(str::to_owned);
        let name = name.to_owned();
        if suggestion.as_deref() == Some("cache_size_bytes") {
            // Either of the two is near enough.
            assert!(
                error.to_string().contains("did you mean `cache_size_"),
                "{error}"
            );
            continue;
        }
        assert_eq!(error, ConfigError::UnknownParameter { name, suggestion });
    }
    let variables = [
        ("SQLITE_LOCK_TABLE", Some("SQLITE_LOCK_DYNAMODB_TABLE")),
        ("SQLITE_LOCK_TIMOUT", Some("SQLITE_LOCK_TIMEOUT")),
        ("SQLITE_LOCK_EXPIRY", Some("SQLITE_LOCK_EXPIRATION")),
        ("SQLITE_LOCK_ATTEMPTS", Some("SQLITE_LOCK_MAX_ATTEMPTS")),
        ("SQLITE_LOCK_", None),
    ];
    for (name, nearest) in variables {
        let error = with_table(unchanged, "", &[(name, "1")]).unwrap_err();
        let suggestion = nearest.map(str::to_owned);
        let name = name.to_owned();
        assert_eq!(error, ConfigError::UnknownVariable { name, suggestion });
    }
}

#[test]
fn every_name_is_its_own_nearest() {
    for names in NAMES {
        let all = NAMES.iter().map(|names| names.parameter);
        assert_eq!(
            nearest(names.parameter, all).as_deref(),
            Some(names.parameter)
        );
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = [
        ("PATH", "/bin"),
        ("SQLITE_TMPDIR", "/tmp"),
        ("LOCK_TIMEOUT", "x"),
    ];
    assert!(with_table(unchanged, "", &others).is_ok());
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    let value = OsString::from_vec(b"lo\xffcks".to_vec());
    let environment = [("SQLITE_LOCK_DYNAMODB_TABLE".into(), value)];
    let error = EfsConfig::new("app.db")
        .resolve_in(environment)
        .unwrap_err();
    let place = "environment variable SQLITE_LOCK_DYNAMODB_TABLE";
    assert_invalid(error, place, "lo\u{fffd}cks", "give the name");
}

#[test]
fn a_path_with_a_nul_byte_is_refused() {
    let error = EfsConfig::new("a\0b")
        .lock_local()
        .resolve_in([])
        .unwrap_err();
    assert!(matches!(error, ConfigError::Database { .. }), "{error:?}");
}

#[test]
fn what_only_methods_can_set_arrives() {
    let clock =
        crate::clock::ManualClock::new(crate::clock::Timestamp::new(Duration::ZERO, seconds(7.0)));
    let settings = with_table(
        |c| (c.base_vfs("unix-none").clock(clock.clock())).assume_network_file_system(true),
        "",
        &[],
    )
    .unwrap();
    clock.advance(seconds(1.0));
    assert_eq!(settings.clock.now().wall, seconds(8.0));
    assert_eq!(settings.base_vfs, "unix-none");
    assert_eq!(settings.network_override, Some(true));
    assert_eq!(settings.sqlite_uri("efs"), "file:app.db?vfs=efs");

    let defaults = with_table(unchanged, "", &[]).unwrap();
    assert_eq!(defaults.base_vfs, "unix");
    assert_eq!(defaults.network_override, None);
}

#[test]
fn connections_of_one_process_count_time_from_the_same_point() {
    let first = with_table(unchanged, "", &[]).unwrap().clock;
    let second = with_table(unchanged, "", &[]).unwrap().clock;
    let moments = [&first, &second, &first, &second].map(|clock| clock.now().monotonic);
    assert!(moments.is_sorted(), "{moments:?}");
}

#[test]
fn the_process_environment_is_read() {
    const NAME: &str = "config::tests::the_process_environment_is_read";
    const KEY: (&str, &str) = ("SQLITE_LOCK_KEY", "key of a process started by a test");
    // Only a new process can be given an environment without disturbing other tests.
    if std::env::var_os(KEY.0).is_some_and(|value| value == KEY.1) {
        let settings = EfsConfig::new("app.db").lock_local().resolve().unwrap();
        assert_eq!(settings.key, KEY.1);
        return;
    }
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    let output = process
        .args(["--exact", NAME])
        .env(KEY.0, KEY.1)
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && report.contains("1 passed"),
        "{report}"
    );
}
