use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};

use super::*;

fn parse(url: &str) -> DatabaseUrl {
    DatabaseUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn file_at(path: impl AsRef<OsStr>) -> Database {
    Database::at(PathBuf::from(path.as_ref()))
}

fn memory(url: &str) -> Database {
    Database::Memory {
        url: url.to_owned(),
    }
}

#[test]
fn the_forms_of_a_url_name_the_file_that_diesel_would_open() {
    let paths = [
        ("app.db", "app.db"),
        ("a b#100%41+ü.db", "a b#100%41+ü.db"),
        ("/mnt/efs/app.db", "/mnt/efs/app.db"),
        ("//mnt/app.db", "//mnt/app.db"),
        ("c:app.db", "c:app.db"),
        ("file:app.db", "app.db"),
        ("file:dir/../app.db", "dir/../app.db"),
        ("file:/mnt/efs/app.db", "/mnt/efs/app.db"),
        ("file:///mnt/efs/app.db", "/mnt/efs/app.db"),
        ("file://localhost/mnt/efs/app.db", "/mnt/efs/app.db"),
        ("file:////mnt/app.db", "//mnt/app.db"),
        ("file:a%20b%23%3f%25+%C3%bc.db", "a b#?%+ü.db"),
        ("file:a=b&c.db", "a=b&c.db"),
        ("sqlite://app.db", "app.db"),
        ("sqlite:///mnt/efs/app.db", "/mnt/efs/app.db"),
        ("sqlite://localhost/app.db", "localhost/app.db"),
    ];
    for (url, path) in paths {
        let ends = ["", "?", "?&", "?x=1", "?x=1&"];
        for url in ends.map(|end| format!("{url}{end}")) {
            assert_eq!(parse(&url).database, file_at(path), "{url}");
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_survive_in_a_uri() {
    let path = OsString::from_vec(b"/mnt/\xff\xfe.db".to_vec());
    assert_eq!(parse("file:/mnt/%ff%FE.db").database, file_at(path));
}

#[test]
fn databases_in_memory_are_recognised_and_stay_what_they_are() {
    let cases = [
        ("", ""),
        ("?mode=ro", ""),
        ("file:", ""),
        ("file://", ""),
        ("file:?cache=shared", ""),
        (":memory:", "file:%3Amemory%3A?mode=memory"),
        ("sqlite://:memory:", "file:%3Amemory%3A?mode=memory"),
        ("file::memory:", "file:%3Amemory%3A?mode=memory"),
        (
            "file:%3Amemory:?lock=local",
            "file:%3Amemory%3A?mode=memory",
        ),
        (
            "file::memory:?cache=shared",
            "file:%3Amemory%3A?mode=memory&cache=shared",
        ),
        ("file:a?mode=memory", "file:a?mode=memory"),
        (
            "file:a%20b?x=1&cache=shared&mode=memory",
            "file:a%20b?mode=memory&cache=shared",
        ),
    ];
    for (url, sqlite) in cases {
        assert_eq!(parse(url).database, memory(sqlite), "{url}");
        // Diesel accepts it, and it leaves no file behind.
        let mut connection = SqliteConnection::establish(sqlite).unwrap();
        connection.batch_execute("CREATE TABLE t (x)").unwrap();
    }
    for file in ["/:memory:", "./:memory:", "file:memory"] {
        assert!(
            matches!(parse(file).database, Database::File { .. }),
            "{file}"
        );
    }
}

#[test]
fn parameters_are_decoded_and_kept_in_order() {
    let url = parse("app.db?b=1&a%20b=x%3D%26%23%25&c=a=b?c+d&&d&e=");
    let expected = [
        ("b", "1"),
        ("a b", "x=&#%"),
        ("c", "a=b?c+d"),
        ("d", ""),
        ("e", ""),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(url.parameters, expected);
}

#[test]
fn sqlites_own_parameters_reach_sqlite() {
    let cases = [
        ("file:a", "file:a?vfs=v"),
        ("file:a?mode=ro", "file:a?vfs=v&mode=ro"),
        ("a?mode=rw&psow=off", "file:a?vfs=v&mode=rw&psow=0"),
        ("a?psow=1&mode=rwc&x=y", "file:a?vfs=v&mode=rwc&psow=1"),
        ("a?cache=private&nolock=0&immutable=OFF", "file:a?vfs=v"),
    ];
    for (url, sqlite) in cases {
        assert_eq!(parse(url).database.sqlite_uri("v"), sqlite, "{url}");
    }
    assert_eq!(file_at("a").sqlite_uri("a&b"), "file:a?vfs=a%26b");
}

#[test]
fn parameters_that_would_go_round_the_lock_are_refused_with_the_reason() {
    let cases = [
        ("vfs", "unix-none", "own VFS"),
        ("vfs", "", "own VFS"),
        ("nolock", "1", "file locks"),
        ("nolock", "", "file locks"),
        ("nolock", "2", "file locks"),
        ("immutable", "1", "hot journal"),
        ("immutable", "yes", "hot journal"),
        ("cache", "shared", "share a cache"),
        ("modeof", "x", "permissions"),
    ];
    for (parameter, value, why) in cases {
        for form in ["app.db", "file:app.db", "sqlite:///app.db"] {
            let url = format!("{form}?lock_table=locks&{parameter}={value}");
            match DatabaseUrl::parse(&url).unwrap_err() {
                ConfigError::ForbiddenParameter { name, reason } => {
                    assert_eq!(name, parameter, "{url}");
                    assert!(reason.cause().contains(why), "{url}: {reason}");
                }
                other => panic!("{url}: {other:?}"),
            }
        }
    }
    // Percent-encoding hides nothing.
    let hidden = DatabaseUrl::parse("file:a?%76fs=unix").unwrap_err();
    assert!(
        matches!(hidden, ConfigError::ForbiddenParameter { .. }),
        "{hidden:?}"
    );
}

#[test]
fn values_that_sqlites_parameters_do_not_take_are_refused() {
    for (parameter, value) in [
        ("mode", "RO"),
        ("mode", "readonly"),
        ("mode", ""),
        ("cache", "none"),
        ("psow", "maybe"),
    ] {
        let error = DatabaseUrl::parse(&format!("a?{parameter}={value}")).unwrap_err();
        match error {
            ConfigError::InvalidValue { setting, .. } => {
                assert_eq!(setting, format!("`{parameter}` in the database URL"));
            }
            other => panic!("{parameter}={value}: {other:?}"),
        }
    }
}

#[test]
fn urls_that_sqlite_would_misread_are_refused_with_the_remedy() {
    let cases = [
        ("file:app#1.db", "%23"),
        ("file:app.db#", "%23"),
        ("file:app.db#?lock_table=locks", "%23"),
        ("app.db?lock_key=database#app.db", "%23"),
        ("sqlite:///app.db?x=1#y", "%23"),
        ("file:100%.db", "%25"),
        ("file:100%2", "%25"),
        ("file:100%zz", "%25"),
        ("file:100%%20", "%25"),
        ("app.db?x=%4", "%25"),
        ("app.db?%=4", "%25"),
        ("file:a%00b", "NUL"),
        ("file:a\0b", "NUL"),
        ("a\0b", "NUL"),
        ("app.db?x=%00", "NUL"),
        ("app.db?x=%ff", "UTF-8"),
        ("app.db?=x", "no parameter name"),
        ("app.db?x=1&x=1", "`x` is given twice"),
        ("app.db?mode=ro&mode=rw", "`mode` is given twice"),
        ("app.db?%78=1&x=2", "`x` is given twice"),
        ("file://server/app.db", "`server`"),
        ("file://app.db", "`app.db`"),
        ("sqlite:////mnt/app.db", "`mnt`"),
        ("sqlite:app.db", "sqlite:///"),
        ("SQLITE://app.db", "sqlite:///"),
    ];
    for (url, remedy) in cases {
        match DatabaseUrl::parse(url).unwrap_err() {
            ConfigError::InvalidUrl { problem, .. } => {
                let problem = problem.to_string();
                assert!(problem.contains(remedy), "{url}: {problem}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[test]
fn the_url_of_a_database_server_is_refused_without_showing_its_password() {
    for url in [
        "postgres://user:secret@host/db",
        "mysql://user:secret@host/db?x=1",
    ] {
        let text = DatabaseUrl::parse(url).unwrap_err().to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("`postgres:..`") || text.contains("`mysql:..`"),
            "{text}"
        );
    }
}

/// Paths of all kinds of bytes, the same in every run.
fn random_paths() -> impl Iterator<Item = Vec<u8>> {
    const AWKWARD: &[u8] = b"/?#%&=+ :.'\"\\;\n\xff\x80\xc3";
    let mut random = fastrand::Rng::with_seed(0x5eed);
    (0..2_000).map(move |_| {
        let length = random.usize(1..20);
        let mut byte = || match random.bool() {
            true => AWKWARD[random.usize(..AWKWARD.len())],
            false => random.u8(1..),
        };
        (0..length).map(|_| byte()).collect()
    })
}

#[test]
fn any_path_survives_being_written_and_read_as_a_uri() {
    for bytes in random_paths().filter(|bytes| bytes != b":memory:") {
        let database = file_at(OsString::from_vec(bytes));
        let uri = database.sqlite_uri("v");
        assert!(uri.is_ascii());
        let ours = uri.strip_suffix("?vfs=v").unwrap();
        assert_eq!(parse(ours).database, database, "{uri}");
    }
}

#[test]
fn sqlite_opens_the_very_file_whatever_bytes_its_name_has() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let create = |path: &Path| {
        let uri = Database::at(path.to_owned()).sqlite_uri("unix");
        let mut connection = SqliteConnection::establish(&uri).unwrap();
        (connection.batch_execute("PRAGMA synchronous=OFF; PRAGMA user_version=1")).unwrap();
    };
    let names = (1..=u8::MAX).filter(|byte| *byte != b'/');
    let names: Vec<_> = names.map(|byte| vec![b'a', byte, b'b', byte]).collect();
    for name in &names {
        create(&directory.join(OsStr::from_bytes(name)));
    }
    // Two leading slashes are not a host, and a relative path stays relative.
    let double = [b"/", directory.as_os_str().as_bytes(), b"/double"].concat();
    create(Path::new(OsStr::from_bytes(&double)));
    let current = std::env::current_dir().unwrap();
    let mut relative: PathBuf = current.components().skip(1).map(|_| "..").collect();
    relative.push(directory.strip_prefix("/").unwrap());
    create(&relative.join("relative ?#%41.db"));

    let mut expected = names;
    expected.extend([b"double".to_vec(), b"relative ?#%41.db".to_vec()]);
    expected.sort();
    let mut found: Vec<_> = (std::fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}
