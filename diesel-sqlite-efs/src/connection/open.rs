//! Opening: from settings to a connection whose file is ruled by a lock.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use diesel::connection::{
    Connection, Instrumentation, InstrumentationEvent, SimpleConnection,
    get_default_instrumentation,
};
use diesel::result::{ConnectionError, ConnectionResult, DatabaseErrorKind, Error};
use diesel::sqlite::SqliteConnection;

use super::diagnosis::{diagnose, obstacle};
use super::state::ConnectionState;
use crate::clock::FOREVER;
use crate::config::url::Database;
use crate::config::{EfsConfig, LeaseTerms, ReadCheck, Settings, StoreChoice, Synchronous};
use crate::error::{ConfigError, ConnectError, LockError, Problem};
use crate::files::fs_kind::{FileSystem, NetworkFileSystem, network_file_system};
use crate::lease::LockClient;
use crate::store::{DynamoDbLockStore, LockStore, NoLock};
use crate::vfs::{self, OpenParams, shim_over};
use crate::write_lock::{WriteLock, WriteLockSettings};

/// Opens a connection with `open`, and tells Diesel's default instrumentation so, with the URL that
/// the application has given.
///
/// Diesel's own connection underneath tells of its opening as well, of which it cannot be kept: in
/// between, with the URL that SQLite gets, to another instance. The one that has seen the
/// application's URL stays with the connection.
pub(super) fn establishing<C: Connection>(
    url: &str,
    open: impl FnOnce() -> ConnectionResult<C>,
) -> ConnectionResult<C> {
    let Some(mut instrumentation) = get_default_instrumentation() else {
        return open();
    };
    instrumentation.on_connection_event(InstrumentationEvent::start_establish_connection(url));
    let mut result = open();
    instrumentation.on_connection_event(InstrumentationEvent::finish_establish_connection(
        url,
        result.as_ref().err(),
    ));
    if let Ok(connection) = &mut result {
        connection.set_instrumentation(instrumentation);
    }
    result
}

/// Opens connections by the same settings, with one lock client.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    settings: Settings,
    client: LockClient,
}

impl Opener {
    /// Reads the environment for what the configuration does not say. Nothing is opened yet.
    pub(super) fn new(config: &EfsConfig) -> Result<Self, ConfigError> {
        let settings = config.resolve()?;
        let client = client(&settings);
        Ok(Self { settings, client })
    }

    /// Opens the database and applies what has to hold for every transaction.
    pub(super) fn open(&self) -> Result<(SqliteConnection, ConnectionState), ConnectError> {
        match &self.settings.database {
            // Nobody else can write to it: Diesel's own connection, without a lock.
            Database::Memory { url } => Ok((
                SqliteConnection::establish(url)?,
                ConnectionState::new(None),
            )),
            Database::File { path, .. } => open_file(&self.settings, &self.client, path),
        }
    }
}

fn open_file(
    settings: &Settings,
    client: &LockClient,
    path: &Path,
) -> Result<(SqliteConnection, ConnectionState), ConnectError> {
    let network = network(settings, path)?;
    let shim = shim_over(&settings.base_vfs).ok_or_else(|| ConfigError::InvalidValue {
        setting: "EfsConfig::base_vfs".to_owned(),
        value: settings.base_vfs.clone(),
        problem: "SQLite knows no VFS of this name".to_owned(),
    })?;
    let lock = Arc::new(WriteLock::new(
        client.for_database(path.to_owned()),
        &settings.key,
        WriteLockSettings {
            timeout: settings.timeout,
            max_attempts: settings.max_attempts,
            migration_timeout: settings.migration_timeout,
            is_local: matches!(settings.store, StoreChoice::Local),
        },
    ));
    let read_check = (settings.read_check).unwrap_or_else(|| read_check_for(network));
    let params = OpenParams {
        lock: lock.clone(),
        read_check,
        normal_sync_allowed: settings.synchronous == Synchronous::Normal,
        file_system: file_system(network, read_check),
    };
    let uri = settings.sqlite_uri(shim);
    let opened = vfs::open(params, &uri);
    let mut connection = match opened {
        Ok(Some(connection)) => connection,
        Ok(None) => {
            return Err(unusable(
                path,
                "SQLite did not open it through this crate's VFS".into(),
            ));
        }
        Err(error) => return Err(explain(&lock, path, error)),
    };
    // Before anything may roll back a hot journal.
    lock.check_lock_identity()?;
    let result = connection.batch_execute(&pragmas(settings));
    lock.statement_ended();
    if let Err(error) = result {
        return Err(match lock.take_error() {
            Some(LockError::Config(error)) => error.into(),
            Some(lock_error) => lock_error.into(),
            None => explain(
                &lock,
                path,
                ConnectionError::CouldntSetupConfiguration(error),
            ),
        });
    }
    Ok((connection, ConnectionState::new(Some(lock))))
}

/// What holds for every transaction of the connection.
///
/// `journal_mode=DELETE` is SQLite's default, and the only one that the VFS lets through; asking
/// for it would cost a look at the file. Temporary tables stay in memory, off the network.
/// `cache_spill=OFF` keeps uncommitted pages out of the file.
fn pragmas(settings: &Settings) -> String {
    format!(
        "PRAGMA synchronous={}; PRAGMA temp_store=MEMORY; PRAGMA cache_spill=OFF; PRAGMA cache_size={};",
        settings.synchronous.pragma(),
        settings.cache_size.pragma()
    )
}

/// The kind of network file system that the database is on, if it is.
fn network(settings: &Settings, path: &Path) -> Result<Option<NetworkFileSystem>, ConfigError> {
    let detected = network_file_system(path).map_err(|error| ConfigError::Database {
        path: path.to_owned(),
        problem: obstacle(path, false)
            .unwrap_or_else(|| format!("its file system cannot be examined: {error}").into()),
    })?;
    let network = match settings.network_override {
        Some(false) => None,
        Some(true) => Some(detected.unwrap_or(NetworkFileSystem::Assumed)),
        None => detected,
    };
    match (&settings.store, network) {
        (StoreChoice::Local, Some(file_system)) => Err(ConfigError::LocalLockOnNetwork {
            path: path.to_owned(),
            file_system: file_system.to_string(),
        }),
        (_, network) => Ok(network),
    }
}

/// What is to be done about this host's caches; where reads are to go past them, also on a file system
/// that is taken for local.
fn file_system(network: Option<NetworkFileSystem>, read_check: ReadCheck) -> FileSystem {
    match network {
        Some(NetworkFileSystem::Nfs) => FileSystem::Nfs,
        Some(_) => FileSystem::Shared,
        None if read_check == ReadCheck::Reopen => FileSystem::Shared,
        None => FileSystem::Local,
    }
}

/// The check that reads need on this kind of network file system, if it is one.
///
/// On one machine file locks keep readers and writers apart. NFS may lose a lock unnoticed, but
/// each lock that is taken makes the client ask the server, so that its cache will do. Of others
/// that is not known, and FUSE's locks are seen not to.
fn read_check_for(network: Option<NetworkFileSystem>) -> ReadCheck {
    match network {
        None => ReadCheck::Off,
        Some(NetworkFileSystem::Nfs) => ReadCheck::Counter,
        Some(_) => ReadCheck::Reopen,
    }
}

/// One store for each table and process: its thread and its connections serve all.
fn store(choice: &StoreChoice) -> Arc<dyn LockStore> {
    type Stores = HashMap<String, Weak<DynamoDbLockStore>>;
    static BY_TABLE: LazyLock<Mutex<Stores>> = LazyLock::new(Mutex::default);
    static LOCAL: LazyLock<Arc<NoLock>> = LazyLock::new(|| Arc::new(NoLock));
    match choice {
        StoreChoice::Custom(store) => store.clone(),
        StoreChoice::Local => LOCAL.clone(),
        StoreChoice::DynamoDb { table } => {
            let mut stores = BY_TABLE.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = stores.entry(table.clone()).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let store = Arc::new(DynamoDbLockStore::new(table));
                *entry = Arc::downgrade(&store);
                store
            })
        }
    }
}

fn client(settings: &Settings) -> LockClient {
    let terms = match settings.store {
        // Nobody takes over a local lock: SQLite's file locks end with the process that holds them.
        StoreChoice::Local => LeaseTerms {
            expiration: FOREVER,
            max_hold: Duration::ZERO,
            ..settings.terms.clone()
        },
        _ => settings.terms.clone(),
    };
    LockClient::new(store(&settings.store), terms, settings.clock.clone())
}

/// Why the file could not be used, if that is why the connection failed to open.
fn explain(lock: &WriteLock, path: &Path, error: ConnectionError) -> ConnectError {
    let message = match &error {
        ConnectionError::BadConnection(message) => message,
        ConnectionError::CouldntSetupConfiguration(Error::DatabaseError(
            DatabaseErrorKind::Unknown,
            information,
        )) => information.message(),
        _ => return error.into(),
    };
    match diagnose(message, path, lock.file_format()) {
        Some(problem) => unusable(path, problem),
        None => unusable(path, message.into()),
    }
}

fn unusable(path: &Path, problem: Problem) -> ConnectError {
    ConnectError::Config(ConfigError::Database {
        path: path.to_owned(),
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_treated_as_the_file_system_needs() {
        for check in [ReadCheck::Off, ReadCheck::Counter, ReadCheck::Reopen] {
            assert_eq!(
                file_system(Some(NetworkFileSystem::Nfs), check),
                FileSystem::Nfs
            );
            assert_eq!(
                file_system(Some(NetworkFileSystem::Fuse), check),
                FileSystem::Shared
            );
        }
        assert_eq!(file_system(None, ReadCheck::Off), FileSystem::Local);
        assert_eq!(file_system(None, ReadCheck::Reopen), FileSystem::Shared);
    }

    #[test]
    fn reads_are_checked_as_much_as_the_file_system_needs() {
        assert_eq!(read_check_for(None), ReadCheck::Off);
        assert_eq!(
            read_check_for(Some(NetworkFileSystem::Nfs)),
            ReadCheck::Counter
        );
        assert_eq!(
            read_check_for(Some(NetworkFileSystem::Fuse)),
            ReadCheck::Reopen
        );
        assert_eq!(
            read_check_for(Some(NetworkFileSystem::Assumed)),
            ReadCheck::Reopen
        );
    }
}
