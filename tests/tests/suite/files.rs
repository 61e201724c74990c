//! What a connection makes of files that are missing, read-only, of another kind, oddly named or on
//! a full disk, and of a second file.
//!
//! In each case the error says what is wrong with which file and what to do, no lock is left
//! behind, and once the cause is mended the same connection writes, or a new one where the error
//! asks for it.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_sqlite_efs::{
    ConfigError, ConnectError, EfsConfig, EfsSqliteConnection, InMemoryLockStore,
};
use integration::dynamodb::env_for;
use integration::scratch::Scratch;

use crate::fixtures::bare_process::{BareFixture, BareProcess, COUNT, INSERT, ShownError, create};
use crate::fixtures::hosts::assert_lock_error;

type TestResult = Result<(), Box<dyn Error>>;

const TMPFS: &str = r#"mount -t tmpfs -o size=256k tmpfs "$MOUNT""#;

// Paths that lead nowhere

#[test]
fn a_directory_that_is_missing_or_none() -> TestResult {
    let scratch = Scratch::new()?;
    fs::write(scratch.file("file"), "")?;
    let told = refusal(&scratch.file("mnt/app.db"))?;
    assert_told(
        &told,
        &["mnt/app.db", "No such file", "is the file system mounted?"],
    );
    let told = refusal(&scratch.file("file/app.db"))?;
    assert_told(&told, &["file/app.db", "file is not a directory"]);
    let told = refusal(scratch.directory())?;
    assert_told(
        &told,
        &["it is a directory", "give the path of the file in it"],
    );
    assert_eq!(names_in(scratch.directory())?, ["file"]);
    Ok(())
}

#[test]
fn a_file_that_the_mode_does_not_let_sqlite_create_or_write() -> TestResult {
    let scratch = Scratch::new()?;
    let path = scratch.database().display().to_string();
    for mode in ["ro", "rw"] {
        let error = EfsSqliteConnection::establish(&format!("{path}?lock=local&mode={mode}")).err();
        let told = error.ok_or("opened")?.to_string();
        assert_told(&told, &["it does not exist", "`mode` in the URL"]);
    }
    assert!(!scratch.database().exists());

    create(scratch.database())?;
    let mut reader = EfsSqliteConnection::establish(&format!("{path}?lock=local&mode=ro"))?;
    let told = reader.batch_execute(INSERT).expect_err("read-only");
    assert_told(
        &told.to_string(),
        &["can only read it", "`mode=ro` is set", "new connection"],
    );
    assert_eq!(count(&mut reader)?, 0);
    Ok(())
}

// Permissions

#[test]
fn a_directory_that_cannot_be_written_to() -> TestResult {
    let mut fixture = BareFixture::new("read-only-directory")?;
    fixture.process.obey_permissions()?;
    let directory = fixture.scratch.directory().to_owned();
    fs::set_permissions(&directory, Permissions::from_mode(0o555))?;

    fixture.open("")??;
    for _ in 0..2 {
        let failure = fixture.process.execute(INSERT)?.expect_err("no journal");
        assert_failure(
            &failure,
            &[
                "its directory",
                "where the rollback journal goes, cannot be written to",
                "Permission denied",
                "on EFS the access point's POSIX user",
            ],
        );
        assert_eq!(fixture.table()?.count()?, 0, "a lock is left behind");
        assert_eq!(fixture.process.number(COUNT)?, Ok(0));
    }
    let new = directory.join("new.db").display().to_string();
    let told = fixture.process.open(&format!("{new}?lock=local"))?;
    let told = told.expect_err("it cannot be created");
    assert_told(
        &told,
        &[
            "it does not exist, and cannot be created",
            "Permission denied",
        ],
    );

    fixture.open("")??;
    (fixture.process.execute(INSERT)?).expect_err("still no journal");
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    fixture.assert_works()
}

#[test]
fn a_file_that_cannot_be_written_to_or_read() -> TestResult {
    let mut fixture = BareFixture::new("read-only-file")?;
    fixture.process.obey_permissions()?;
    let database = fixture.scratch.database().to_owned();
    fs::set_permissions(&database, Permissions::from_mode(0o444))?;
    fixture.open("")??;
    let failure = fixture.process.execute(INSERT)?.expect_err("read-only");
    assert_failure(
        &failure,
        &["it cannot be written to", "Permission denied", "POSIX user"],
    );
    assert_eq!(fixture.process.number(COUNT)?, Ok(0), "it still reads");

    // SQLite has opened it for reading, and says so from now on.
    fs::set_permissions(&database, Permissions::from_mode(0o644))?;
    let failure = fixture.process.execute(INSERT)?.expect_err("read-only");
    assert_failure(&failure, &["can only read it", "open a new connection"]);
    fixture.open("")??;
    fixture.assert_works()?;

    fs::set_permissions(&database, Permissions::from_mode(0o000))?;
    let told = fixture.open("")?.expect_err("nothing can be read");
    assert_told(&told, &["it cannot be read", "Permission denied"]);
    fs::set_permissions(&database, Permissions::from_mode(0o644))?;
    fixture.open("")??;
    fixture.assert_works()
}

// Mounts, each seen by the process under test alone

#[test]
fn a_file_system_that_is_full() -> TestResult {
    let filled = r#"cp "$SEED" "$MOUNT" && dd if=/dev/zero of="$MOUNT/filler" 2>/dev/null; "#;
    let Some(mut fixture) = on_mount("full-disk", TMPFS, filled)? else {
        return Ok(());
    };
    fixture.open("")??;
    // The page that is changed fits, its journal does not.
    for _ in 0..2 {
        let failure = fixture.process.execute(INSERT)?.expect_err("no room");
        assert_failure(
            &failure,
            &[
                "writing the rollback journal failed",
                "no space is left on its file system",
                "make room, then run the transaction again",
            ],
        );
        assert_eq!(fixture.table()?.count()?, 0, "a lock is left behind");
        let statements = ["SELECT count(*) FROM t", INSERT];
        let again = (fixture.process.transaction(&statements)?).expect_err("no room");
        assert_eq!(again.message, failure.message);
        assert_eq!(fixture.table()?.count()?, 0, "a lock is left behind");
        assert_eq!(fixture.process.number(COUNT)?, Ok(0), "it still reads");
    }
    let filler = fixture.database.with_file_name("filler");
    fixture.process.remove_file(&filler)?;
    fixture.assert_works()?;
    // Room for the journal, none for the pages.
    let large = "INSERT INTO t VALUES (zeroblob(1000000))";
    let failure = fixture.process.execute(large)?.expect_err("no room");
    assert_failure(&failure, &["no space is left on its file system"]);
    fixture.assert_works()
}

#[test]
fn a_file_system_that_is_mounted_read_only() -> TestResult {
    let remounted = r#"cp "$SEED" "$MOUNT" && mount -o remount,ro "$MOUNT" && "#;
    let Some(mut fixture) = on_mount("read-only-mount", TMPFS, remounted)? else {
        return Ok(());
    };
    fixture.open("")??;
    let failure = fixture.process.execute(INSERT)?.expect_err("read-only");
    assert_failure(
        &failure,
        &[
            "it cannot be written to",
            "Read-only file system",
            "mount the file system for writing",
        ],
    );
    assert_eq!(fixture.table()?.count()?, 0);
    assert_eq!(fixture.process.number(COUNT)?, Ok(0), "it still reads");
    fixture.database.set_file_name("new.db");
    let told = fixture.open("")?.expect_err("it cannot be created");
    assert_told(
        &told,
        &["it does not exist, and cannot be created", "Read-only"],
    );
    Ok(())
}

#[test]
fn a_network_file_system_needs_a_lock_table() -> TestResult {
    let bindfs = r#"bindfs --no-allow-other "$SOURCE" "$MOUNT""#;
    let Some(mut fixture) = on_mount("fuse", bindfs, "")? else {
        return Ok(());
    };
    let url = format!("{}?lock=local", fixture.database.display());
    let told = (fixture.process.open(&url)?).expect_err("it may be shared by hosts");
    assert_told(
        &told,
        &[
            "`lock=local` is refused",
            "on a network file system (fuse)",
            "set a lock table",
        ],
    );
    fixture.open("")??;
    fixture.assert_works()
}

// Other kinds of files

#[test]
fn a_file_that_is_not_a_database_is_left_as_it_is() -> TestResult {
    let scratch = Scratch::new()?;
    for content in [
        &b"notes"[..],
        &[b'x'; 5000],
        &[0x9b, 0x11, 0xf0, 0x7e].repeat(2048),
    ] {
        fs::write(scratch.database(), content)?;
        let told = refusal(scratch.database())?;
        assert_told(
            &told,
            &["not a SQLite database", "encrypted", "check the path"],
        );
        assert_eq!(fs::read(scratch.database())?, content);
        assert_eq!(names_in(scratch.directory())?, ["database.sqlite3"]);
    }
    // An empty file is a database that has nothing in it yet.
    fs::write(scratch.database(), "")?;
    let (mut connection, _) = connect(scratch.database())?;
    connection.batch_execute("CREATE TABLE t (x INTEGER)")?;
    Ok(())
}

#[test]
fn a_database_in_wal_mode() -> TestResult {
    let scratch = Scratch::new()?;
    let path = scratch.database();
    let mut user = create(path)?;
    user.batch_execute("PRAGMA journal_mode=wal; INSERT INTO t VALUES (1)")?;
    let parts = [
        "it is in WAL mode",
        "cannot work across hosts",
        "convert it",
    ];
    assert_told(&refusal(path)?, &parts);
    drop(user);
    assert!(!scratch.file("database.sqlite3-wal").exists());
    assert_told(&refusal(path)?, &parts);

    convert(path)?;
    let (mut connection, _) = connect(path)?;
    connection.batch_execute(INSERT)?;
    assert_eq!(count(&mut connection)?, 2);
    Ok(())
}

#[test]
fn a_database_that_is_converted_to_wal_under_an_open_connection() -> TestResult {
    let scratch = Scratch::new()?;
    let path = scratch.database();
    create(path)?;
    let (mut connection, locks) = connect(path)?;
    connection.batch_execute(INSERT)?;

    let mut user = SqliteConnection::establish(&path.display().to_string())?;
    user.batch_execute("PRAGMA journal_mode=wal")?;
    user.batch_execute(INSERT)?;
    let parts = ["WAL mode, which", "cannot work across hosts", "convert it"];
    for sql in [COUNT, INSERT, "BEGIN IMMEDIATE"] {
        assert_file_error(&mut connection, sql, &parts);
    }
    connection
        .transaction(|connection| connection.batch_execute(INSERT))
        .expect_err("refused in a transaction, too");
    // Its user has gone, and with it the log: only the mode is left.
    drop(user);
    assert!(!scratch.file("database.sqlite3-wal").exists());
    assert_file_error(&mut connection, INSERT, &parts);
    assert!(locks.item(&key(path)).is_none());

    convert(path)?;
    connection.batch_execute(INSERT)?;
    assert_eq!(count(&mut connection)?, 3);
    assert!(locks.item(&key(path)).is_none());
    Ok(())
}

#[test]
fn a_write_ahead_log_that_somebody_left() -> TestResult {
    let scratch = Scratch::new()?;
    let path = scratch.database();
    let log = scratch.file("database.sqlite3-wal");
    create(path)?;
    fs::write(&log, [7; 100])?;
    let parts = [
        "database.sqlite3-wal) stands beside it",
        "it is or was in WAL mode",
        "`sqlite3 FILE 'PRAGMA journal_mode=DELETE'`",
    ];
    assert_told(&refusal(path)?, &parts);
    assert!(log.exists(), "what may be data is left alone");

    convert(path)?;
    assert!(!log.exists());
    let (mut connection, _) = connect(path)?;
    connection.batch_execute(INSERT)?;
    // One that appears later is noticed as well.
    fs::write(&log, [7; 100])?;
    assert_file_error(&mut connection, INSERT, &parts);
    fs::remove_file(&log)?;
    connection.batch_execute(INSERT)?;
    Ok(())
}

// Names

#[test]
fn any_bytes_in_a_path_name_the_very_file_and_its_journal() -> TestResult {
    let names: [&[u8]; 9] = [
        b"with spaces .db",
        b"what?.db",
        b"what?vfs=unix&mode=ro",
        b"no#1.db",
        b"100%.db",
        b"%41%00.db",
        "Größe 日本 🦀.db".as_bytes(),
        b"\xff\xfe latin \xe9.db",
        b"quote'\"`\\ &=;\n.db",
    ];
    for name in names {
        let name = OsStr::from_bytes(name);
        let scratch = Scratch::new()?;
        let path = scratch.file(name);
        write_and_reopen(&path, || EfsConfig::new(&path))?;
    }
    Ok(())
}

#[test]
fn urls_name_the_very_file_percent_encoded_or_not() -> TestResult {
    for (written, name) in [
        ("{}/with spaces.db", "with spaces.db"),
        ("{}/100%.db", "100%.db"),
        ("{}/no#1.db", "no#1.db"),
        ("{}/Größe.db", "Größe.db"),
        ("file:{}/a%20b%3f%23%25.db", "a b?#%.db"),
        ("file://{}/Gr%C3%B6%C3%9Fe.db", "Größe.db"),
        ("file://localhost{}/x.db", "x.db"),
        ("sqlite://{}/a%20b.db", "a b.db"),
    ] {
        let scratch = Scratch::new()?;
        let url = written.replace("{}", &scratch.directory().display().to_string());
        let config = EfsConfig::from_url(&url)?;
        write_and_reopen(&scratch.file(name), || config.clone())?;
    }
    // Bytes that no text can hold.
    let scratch = Scratch::new()?;
    let config = EfsConfig::from_url(&format!(
        "file:{}/%FF%FE.db?psow=1",
        scratch.directory().display()
    ))?;
    let path = scratch.file(OsStr::from_bytes(b"\xff\xfe.db"));
    write_and_reopen(&path, || config.clone())
}

// A second file

#[test]
fn a_second_file_is_refused_unless_nobody_writes_it() -> TestResult {
    let scratch = Scratch::new()?;
    create(scratch.database())?;
    let other = scratch.file("other.db");
    create(&other)?.batch_execute(INSERT)?;
    let other = other.display().to_string();
    let target = scratch.file("target.db");
    let (mut connection, locks) = connect(scratch.database())?;
    for sql in [
        format!("ATTACH '{other}' AS other"),
        format!("ATTACH 'file:{other}' AS other"),
        format!("ATTACH 'file:{other}?mode=ro&vfs=unix' AS other"),
        format!("ATTACH '{other}' || '' AS other"),
        format!("ATTACH '{}' AS other", target.display()),
        format!("VACUUM INTO '{}'", target.display()),
    ] {
        let error = connection.batch_execute(&sql).expect_err("it is refused");
        assert_told(
            &error.to_string(),
            &[
                "ATTACH of `",
                "would need a lease of its own",
                "a connection of its own",
                "attach it read-only",
                "VACUUM INTO attaches its target",
            ],
        );
        connection.batch_execute(INSERT)?;
        assert!(locks.item(&key(scratch.database())).is_none());
    }
    assert!(!target.exists());

    connection.batch_execute(&format!("ATTACH 'file:{other}?mode=ro' AS other"))?;
    connection.batch_execute("INSERT INTO t SELECT x FROM other.t; DETACH other")?;
    connection.batch_execute("ATTACH ':memory:' AS scratch; CREATE TABLE scratch.s (x)")?;
    connection.batch_execute("INSERT INTO scratch.s SELECT x FROM t; DETACH scratch")?;
    assert_eq!(count(&mut connection)?, 7);

    // What the error advises for a copy.
    let url = format!("file:{}?mode=ro", scratch.database().display());
    let mut reader = SqliteConnection::establish(&url)?;
    reader.batch_execute(&format!("VACUUM INTO '{}'", target.display()))?;
    connection.batch_execute(INSERT)?;
    let (mut copy, _) = connect(&target)?;
    assert_eq!(count(&mut copy)?, 7);
    Ok(())
}

// What opening costs

#[test]
fn opening_and_reading_cost_hardly_more_than_with_diesels_connection() -> TestResult {
    let tried = (Command::new("strace").args(["-o", "/dev/null", "true"])).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("skipped: there is no strace, or no right to use it");
        return Ok(());
    }
    let scratch = Scratch::new()?;
    create(scratch.database())?;
    let ours = file_operations(&scratch, |process, path| {
        process.open(&format!("{}?lock_table=locks", path.display()))??;
        process.number(COUNT)?.expect("it reads");
        process.close()
    })?;
    let diesels = file_operations(&scratch, BareProcess::count_with_diesel)?;
    println!("{} file operations against {}", ours.len(), diesels.len());
    println!("{ours:#?}\n{diesels:#?}");
    assert!(!ours.is_empty() && !diesels.is_empty());
    // Once more: the kind of its file system, and the file that says which lock protects it.
    assert!(ours.len() <= diesels.len() + 2, "{ours:#?}");
    let opened = |calls: &[String]| calls.iter().filter(|call| call.contains("openat(")).count();
    assert_eq!(opened(&ours), opened(&diesels) + 1, "the key file");
    Ok(())
}

/// The system calls that a process makes on the database, its journal and their directory.
fn file_operations(
    scratch: &Scratch,
    work: impl FnOnce(&mut BareProcess, &Path) -> TestResult,
) -> Result<Vec<String>, Box<dyn Error>> {
    let trace = scratch.file("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace);
    let key_file = scratch.file("database.sqlite3-lock-key");
    for path in [
        scratch.database(),
        &scratch.journal(),
        &key_file,
        scratch.directory(),
    ] {
        command.arg("-P").arg(path);
    }
    command.arg(env::current_exe()?);
    let mut process = BareProcess::start_by(command, [])?;
    work(&mut process, scratch.database())?;
    drop(process);
    let calls = fs::read_to_string(&trace)?;
    fs::remove_file(&trace)?;
    Ok((calls.lines())
        .filter(|line| line.contains('(') && !line.contains("+++"))
        .map(str::to_owned)
        .collect())
}

/// A fixture on a file system that only the process sees: mounted by the shell on the directory
/// `$MOUNT`, with the database at `$SEED` in the directory `$SOURCE` to prepare it from. `None`, with a
/// word to the user, where that cannot be done.
fn on_mount(
    table: &'static str,
    mount: &str,
    prepare: &str,
) -> Result<Option<BareFixture>, Box<dyn Error>> {
    let mut fixture = BareFixture::new(table)?;
    let mount_point = fixture.scratch.file("mount");
    fs::create_dir(&mount_point)?;
    fixture.database = mount_point.join("database.sqlite3");
    let variables = [
        ("PATH", env::var("PATH")?),
        ("MOUNT", mount_point.display().to_string()),
        ("SOURCE", fixture.scratch.directory().display().to_string()),
        ("SEED", fixture.scratch.database().display().to_string()),
    ];
    // Root may mount; others may where they are root in a name space of their own. What is
    // started there ends with the process, and the mount with it.
    let unshare = |flags: &str, script: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "--fork", "--kill-child", "sh", "-c", script]);
        command
    };
    let Some(flags) = ["-mp", "-Urmp"].into_iter().find(|flags| {
        let tried = unshare(flags, mount).envs(variables.clone()).output();
        tried.is_ok_and(|output| output.status.success())
    }) else {
        println!("skipped: `{mount}` cannot be run here, not even in a name space");
        return Ok(None);
    };
    let mut command = unshare(flags, &format!(r#"{mount} && {prepare} exec "$0" "$@""#));
    command.arg(env::current_exe()?);
    let environment = env_for(&fixture.proxy.endpoint());
    fixture.process = BareProcess::start_by(command, environment.into_iter().chain(variables))?;
    Ok(Some(fixture))
}

/// What the errors about WAL mode advise.
fn convert(path: &Path) -> TestResult {
    let mut connection = SqliteConnection::establish(&path.display().to_string())?;
    Ok(connection.batch_execute("PRAGMA journal_mode=DELETE")?)
}

fn connect(path: &Path) -> Result<(EfsSqliteConnection, Arc<InMemoryLockStore>), ConnectError> {
    let locks = Arc::new(InMemoryLockStore::new());
    let config = EfsConfig::new(path).lock_store(locks.clone());
    Ok((EfsSqliteConnection::connect(&config)?, locks))
}

fn key(path: &Path) -> String {
    format!("database#{}", path.display())
}

/// The text with which the file is refused; it names the file.
fn refusal(path: &Path) -> Result<String, Box<dyn Error>> {
    let error = connect(path).err().ok_or("it is opened")?;
    assert!(
        matches!(error, ConnectError::Config(ConfigError::Database { .. })),
        "{error:?}"
    );
    let told = error.to_string();
    let start = format!("cannot open {}: ", path.display());
    assert!(told.starts_with(&start), "{told}");
    Ok(told)
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

fn count(connection: &mut EfsSqliteConnection) -> QueryResult<i64> {
    (diesel::sql_query(COUNT).get_result::<Number>(connection)).map(|row| row.value)
}

fn names_in(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = (fs::read_dir(directory)?)
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}

/// Creates and writes the database, sees its journal beside it, and finds the row again.
fn write_and_reopen(path: &Path, config: impl Fn() -> EfsConfig) -> TestResult {
    let directory = path.parent().ok_or("a directory")?;
    let name = path.file_name().ok_or("a name")?.to_owned();
    let beside = |suffix| {
        let mut beside = name.clone();
        beside.push(suffix);
        beside
    };
    let locks = Arc::new(InMemoryLockStore::new());
    let connect = || EfsSqliteConnection::connect(&config().lock_store(locks.clone()));

    let mut connection = connect()?;
    connection.transaction(|connection| {
        connection.batch_execute("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1)")?;
        let names = names_in(directory).expect("a directory");
        let expected = [name.clone(), beside("-journal"), beside("-lock-key")];
        assert_eq!(names, expected);
        QueryResult::Ok(())
    })?;
    drop(connection);
    assert_eq!(names_in(directory)?, [name.clone(), beside("-lock-key")]);
    assert_eq!(count(&mut connect()?)?, 1);
    // Diesel's own connection finds it under that name as well.
    if let Some(path) = path.to_str().filter(|path| !path.contains('?')) {
        let mut connection = SqliteConnection::establish(path)?;
        diesel::sql_query(COUNT).get_result::<Number>(&mut connection)?;
    }
    Ok(())
}

/// A statement fails for the files' sake: cause, remedy, type, and no advice to try again.
#[track_caller]
fn assert_file_error(connection: &mut EfsSqliteConnection, sql: &str, parts: &[&str]) {
    let error = connection.batch_execute(sql).expect_err("it is refused");
    let diesel::result::Error::DatabaseError(_, information) = &error else {
        panic!("{error:?}");
    };
    assert_told(information.message(), parts);
    let hint = information.hint().unwrap_or_default();
    assert!(hint.starts_with("Fix the cause"), "{hint}");
    assert_lock_error!(connection, File);
}

/// The same in another process.
#[track_caller]
fn assert_failure(failure: &ShownError, parts: &[&str]) {
    assert_told(&failure.message, parts);
    let hint = failure.hint.as_deref().unwrap_or_default();
    assert!(hint.starts_with("Fix the cause"), "{failure:?}");
    assert_eq!(failure.lock_error.as_ref(), Some(&failure.message));
    let details = failure.details.as_deref().unwrap_or_default();
    assert!(details.contains("database.sqlite3, key `"), "{failure:?}");
}

#[track_caller]
fn assert_told(told: &str, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "`{part}` is missing in `{told}`");
    }
}
