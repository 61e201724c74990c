//! Properties of every URL, tested with random ones. A failure prints the smallest input that
//! fails, and `PROPTEST_RNG_SEED` repeats a run; `PROPTEST_CASES` makes it longer.

use proptest::prelude::*;

use super::*;
use crate::EfsConfig;

/// Bytes that a path may have: any but NUL.
fn path_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![1..=255u8, prop::sample::select(b"/.%?#&=:+ ".to_vec())];
    prop::collection::vec(byte, 1..40)
}

/// Text that looks enough like a URL to get past the first checks.
fn near_url() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "file:",
            "sqlite://",
            "sqlite:",
            "//",
            "/",
            "localhost",
            "?",
            "&",
            "=",
            "%",
            "%00",
            "%2f",
            "%ff",
            "#",
            ":memory:",
            "mode=",
            "ro",
            "memory",
            "cache=shared",
            "vfs=",
            "nolock=1",
            "lock_table=",
            "lock_timeout=",
            "lock=local",
            "a.db",
            "..",
            "psow=",
            "immutable=0",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn file_of(url: &str) -> Option<PathBuf> {
    match DatabaseUrl::parse(url).unwrap().database {
        Database::File { path, .. } => Some(path),
        Database::Memory { .. } => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_string_makes_the_parser_panic(text in any::<String>()) {
        let _ = EfsConfig::from_url(&text);
    }

    #[test]
    fn no_near_url_makes_the_parser_panic_and_errors_say_something(text in near_url()) {
        if let Err(error) = EfsConfig::from_url(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_bytes_of_a_path_survive_the_way_through_a_uri(bytes in path_bytes()) {
        let path = PathBuf::from(OsString::from_vec(bytes));
        prop_assume!(path != Path::new(":memory:"));
        prop_assert_eq!(file_of(&file_uri(&path)), Some(path.clone()));
        // SQLite's URI names the same file, and only this crate's VFS.
        let uri = Database::at(path.clone()).sqlite_uri("efs over unix");
        let (name, query) = uri.split_once('?').unwrap();
        prop_assert_eq!(file_of(name), Some(path));
        prop_assert_eq!(query, "vfs=efs%20over%20unix");
    }

    #[test]
    fn a_plain_path_is_taken_literally(path in "[^?\0:]{1,40}") {
        prop_assert_eq!(file_of(&path), Some(PathBuf::from(path)));
    }

    #[test]
    fn parameters_survive_encoding(value in "[^\0]{0,40}", name in "[a-z_]{1,12}[0-9]") {
        let url = format!("a.db?{}={}", encode(name.as_ref()), encode(value.as_ref()));
        let parsed = DatabaseUrl::parse(&url).unwrap();
        prop_assert_eq!(parsed.parameters, [(name, value)]);
    }

    #[test]
    fn an_unknown_parameter_is_named(name in "[a-z]{1,12}[0-9]", value in "[a-z0-9]{0,5}") {
        let error = EfsConfig::from_url(&format!("a.db?{name}={value}")).unwrap_err();
        prop_assert!(error.to_string().contains(&format!("`{name}`")), "{}", error);
    }
}
