//! Properties of every setting, tested with random values; `url/properties.rs` says how to repeat a
//! run.

use proptest::prelude::*;

use super::names::LONGEST;
use super::*;

/// Names of settings that are read when a connection is opened, with their variable.
fn names() -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
    prop::sample::select(
        NAMES
            .iter()
            .map(|names| (names.parameter, names.variable))
            .collect::<Vec<_>>(),
    )
}

/// Values that are valid for some setting, nearly valid, or arbitrary.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{0,12}(\\.[0-9]{0,12})?",
        "-?[0-9]{1,4}(e[0-9]{1,3})?",
        prop::sample::select(vec![
            "confirmed",
            "clock",
            "LOCAL",
            "dynamodb",
            "off",
            "inf",
            "NaN",
            "",
            "."
        ])
        .prop_map(str::to_owned),
        "[^\0]{0,20}",
    ]
}

fn resolve(url: &str, variable: Option<(&str, &str)>) -> Result<Settings, ConfigError> {
    let variable = variable.map(|(name, value)| (name.into(), value.into()));
    EfsConfig::from_url(url)?.resolve_in(variable)
}

/// Whether all settings have legal values, whatever their source.
fn is_sane(settings: &Settings) -> bool {
    (2.0..=86_400.0).contains(&settings.terms.expiration.as_secs_f64())
        && settings.terms.max_hold >= settings.terms.expiration
        && settings.terms.max_hold <= LONGEST
        && !settings.timeout.is_zero()
        && settings.timeout <= LONGEST
        && settings.max_attempts != Some(0)
        && (1..=2048).contains(&settings.key.len())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_value_is_taken_or_refused_by_the_name_of_its_setting(
        (parameter, variable) in names(),
        value in values(),
        in_url in any::<bool>(),
    ) {
        let table = match parameter {
            "lock_table" | "lock" => "",
            _ => "&lock_table=locks",
        };
        let (result, name) = if in_url {
            let url = format!("a.db?{parameter}={}{table}", url::encode(value.as_ref()));
            (resolve(&url, None), parameter)
        } else {
            let Some(variable) = variable else { return Ok(()) };
            let url = format!("a.db?{}", table.trim_start_matches('&'));
            (resolve(&url, Some((variable, &value))), variable)
        };
        match result {
            Ok(settings) => prop_assert!(is_sane(&settings), "{:?}", settings),
            Err(ConfigError::NoTable) => prop_assert_eq!(parameter, "lock"),
            Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
        }
    }

    #[test]
    fn a_method_wins_over_a_bad_value_elsewhere(value in values()) {
        let url = format!("a.db?lock_table=locks&lock_timeout={}", url::encode(value.as_ref()));
        let config = EfsConfig::from_url(&url).unwrap().lock_timeout(Duration::from_secs(7));
        prop_assert_eq!(config.resolve_in(None).unwrap().timeout, Duration::from_secs(7));
    }

    #[test]
    fn seconds_are_read_as_they_are_written(millis in 1..=86_400_000u64) {
        let time = Duration::from_millis(millis);
        let url = format!("a.db?lock_table=locks&lock_timeout={}", time.as_secs_f64());
        prop_assert_eq!(resolve(&url, None).unwrap().timeout.as_millis(), time.as_millis());
    }
}
