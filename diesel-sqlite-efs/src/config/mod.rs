//! Settings: names, sources and defaults.

mod lease_terms;
mod names;
mod resolved;
mod sources;
pub(crate) mod url;
mod values;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::lease_terms::{GivenTerms, LeaseTerms};
use self::names::{
    BASE_VFS, CACHE_SIZE_BYTES, CACHE_SIZE_PAGES, LOCK, LOCK_KEY, LOCK_MAX_ATTEMPTS,
    LOCK_MIGRATION_TIMEOUT, LOCK_READ_CHECK, LOCK_TABLE, LOCK_TIMEOUT, NAMES, REMOVED, SYNCHRONOUS,
};
pub(crate) use self::resolved::{CacheSize, Settings, StoreChoice};
use self::sources::{Keyword, Place, Sources, nearest};
use self::url::{Database, DatabaseUrl};
use self::values::StoreKind;
pub use self::values::{ReadCheck, Synchronous};
use crate::clock::Clock;
use crate::error::ConfigError;
use crate::store::LockStore;

/// Which database to open, and how its write lock behaves.
///
/// Every setting may be given by a method here, by a parameter of the database URL or by an
/// environment variable, in this order of precedence; values that are overridden are not checked.
/// Names that do not exist are errors, in the URL as well as among the variables that begin with
/// `SQLITE_LOCK_`; so are values that a setting cannot take. Values are checked when a connection
/// is opened.
///
/// | method, URL parameter | environment variable | default |
/// |---|---|---|
/// | [`lock_table`](Self::lock_table) | `SQLITE_LOCK_DYNAMODB_TABLE` | none: required, unless `lock=local` |
/// | [`lock_expiration`](Self::lock_expiration) | `SQLITE_LOCK_EXPIRATION` | 5 s |
/// | [`lock_timeout`](Self::lock_timeout) | `SQLITE_LOCK_TIMEOUT` | 10 s |
/// | [`lock_migration_timeout`](Self::lock_migration_timeout) | `SQLITE_LOCK_MIGRATION_TIMEOUT` | 600 s |
/// | [`lock_max_attempts`](Self::lock_max_attempts) | `SQLITE_LOCK_MAX_ATTEMPTS` | no limit but the timeout |
/// | [`lock_key`](Self::lock_key) | `SQLITE_LOCK_KEY` | `database#` and the path as given |
/// | [`lock_holder`](Self::lock_holder) | `SQLITE_LOCK_HOLDER` | function and sandbox, or host and process |
/// | [`lock_max_hold`](Self::lock_max_hold) | `SQLITE_LOCK_MAX_HOLD` | 900 s, or the lease if that is longer |
/// | [`lock_read_check`](Self::lock_read_check) | `SQLITE_LOCK_READ_CHECK` | `counter` on NFS, `reopen` on other network file systems, else `off` |
/// | [`lock_local`](Self::lock_local), `lock=local` | `SQLITE_LOCK` | `dynamodb` |
/// | [`synchronous`](Self::synchronous) | | `extra` |
/// | [`cache_size_bytes`](Self::cache_size_bytes) | | 67108864 (64 MiB) |
/// | [`cache_size_pages`](Self::cache_size_pages) | | |
///
/// In URLs and variables, times are seconds without a unit, such as `10` or `0.5`, and words may
/// be in capitals. A variable that is set but empty is an error, not the default: unset it.
///
/// # Which lock
/// The first place that names a lock table or a kind of lock decides: methods (of
/// [`lock_table`](Self::lock_table), [`lock_local`](Self::lock_local) and
/// [`lock_store`](Self::lock_store) the last call), then the URL, then the environment. So
/// `lock_table=` in the URL overrides `SQLITE_LOCK=local`, and `lock=local` in the URL
/// overrides a table named in the environment. `lock=dynamodb` without a table takes the table of
/// the next place. `lock=local` *and* a table in one place contradict each other and are refused.
///
/// ```
/// use std::time::Duration;
/// use diesel_sqlite_efs::EfsConfig;
///
/// let config = EfsConfig::new("/mnt/efs/app.db")
///     .lock_table("sqlite-locks")
///     .lock_timeout(Duration::from_millis(500));
/// // The same in a URL:
/// let config = EfsConfig::from_url("/mnt/efs/app.db?lock_table=sqlite-locks&lock_timeout=0.5")?;
/// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a configuration does nothing until a connection is opened with it"]
pub struct EfsConfig {
    database: Database,
    /// The URL's parameters; all of them exist.
    parameters: Vec<(String, String)>,
    given: Given,
}

impl EfsConfig {
    /// The database file at `path`, taken literally: any bytes but NUL, including `?`, `#`, `%` and
    /// bytes that are not UTF-8. Only `:memory:` and the empty path have SQLite's meaning, a
    /// database in memory and a temporary one; a file of that name is `./:memory:`.
    ///
    /// ```
    /// # use diesel_sqlite_efs::EfsConfig;
    /// let config = EfsConfig::new("/mnt/efs/100% sure?.db").lock_table("sqlite-locks");
    /// ```
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            database: Database::at(path.into()),
            parameters: Vec::new(),
            given: Given::default(),
        }
    }

    /// The database and the settings in a URL, in one of the forms that Diesel accepts:
    ///
    /// - a path: `app.db`, `/mnt/efs/app.db`. Taken literally up to the first `?`; what follows
    ///   are parameters. For a name with a `?` in it use another form or [`new`](Self::new).
    /// - `file:app.db`, `file:/mnt/efs/app.db`, `file:///mnt/efs/app.db`: a URI by SQLite's rules
    ///   (<https://sqlite.org/uri.html>), percent-encoded.
    /// - `sqlite://app.db` (relative), `sqlite:///mnt/efs/app.db`: the same as `file:`.
    ///
    /// Parameters follow as `?name=value&name=value`, percent-encoded in all forms: a literal `#`
    /// is `%23`, `%` is `%25`, `&` is `%26`; `+` is a plus. A fragment (`#..`) is an error, because
    /// SQLite ignores it together with all that follows. Databases in memory (`:memory:`,
    /// `file::memory:`, `mode=memory`) and temporary ones (an empty name) need no lock table: no
    /// other process can open them.
    ///
    /// Of SQLite's own parameters `mode` and `psow` are passed on; `cache=private`, `nolock=0` and
    /// `immutable=0` are accepted and change nothing; `cache=shared` is for databases in memory.
    ///
    /// ```
    /// # use diesel_sqlite_efs::EfsConfig;
    /// EfsConfig::from_url("sqlite:///mnt/efs/a%20b.db?mode=rw&lock_table=sqlite-locks")?;
    /// let error = EfsConfig::from_url("app.db?lock_tiemout=3").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "unknown parameter `lock_tiemout` in the database URL; did you mean `lock_timeout`?"
    /// );
    /// # Ok::<(), diesel_sqlite_efs::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// - [`ConfigError::InvalidUrl`]: a scheme or a host that SQLite does not open, an incomplete
    ///   `%` escape, a NUL character (`%00`), a fragment, a parameter given twice.
    /// - [`ConfigError::UnknownParameter`]: a parameter that does not exist, with the nearest one
    ///   that does; [`ConfigError::RemovedSetting`] for one that was removed.
    /// - [`ConfigError::ForbiddenParameter`]: `vfs`, `nolock`, `immutable`, `cache=shared` and
    ///   `modeof`, which would bypass the lock or break what it protects.
    /// - [`ConfigError::InvalidValue`]: for SQLite's own parameters. Those of this crate are
    ///   checked when a connection is opened, because a method may still override them.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let DatabaseUrl {
            database,
            parameters,
        } = DatabaseUrl::parse(url)?;
        let known = || NAMES.iter().map(|names| names.parameter);
        for (name, _) in &parameters {
            if let Some(removed) = REMOVED.iter().find(|r| r.parameter == Some(name)) {
                return Err(ConfigError::RemovedSetting {
                    setting: url::parameter_in_url(name),
                    became: removed.became,
                    remedy: removed.remedy,
                });
            }
        }
        if let Some((name, _)) = (parameters.iter()).find(|(name, _)| !known().any(|k| k == name)) {
            return Err(ConfigError::UnknownParameter {
                name: name.clone(),
                suggestion: nearest(name, known().chain(url::SQLITE_PARAMETERS)),
            });
        }
        Ok(Self {
            database,
            parameters,
            given: Given::default(),
        })
    }

    /// The DynamoDB table that holds the lock, by name or ARN. Required for a file, unless
    /// [`lock_local`](Self::lock_local) or [`lock_store`](Self::lock_store) is set.
    ///
    /// Names have 3 to 255 letters, digits, `_`, `.` and `-`
    /// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>).
    pub fn lock_table(mut self, name: impl Into<String>) -> Self {
        self.given.store = Some(StoreChoice::DynamoDb { table: name.into() });
        self
    }

    /// How long a lease lasts unless it is renewed: 2 seconds to 1 day; 5 seconds by default.
    ///
    /// It bounds how long a writer that crashed or was frozen blocks the others, and the readers that
    /// find its hot journal: set [`lock_timeout`](Self::lock_timeout) to at least 2 s more, in all
    /// processes, so that a crash costs them a wait and no error. Long transactions do not need a
    /// longer lease: they renew it. A lease must last at least two renewal periods (the rule of
    /// [Amazon's lock client](https://github.com/awslabs/amazon-dynamodb-lock-client)), so that one
    /// renewal may fail; the period is a third of the lease, but at least a second, the time that one
    /// request may take. Hence the minimum of 2 seconds.
    ///
    /// Other processes decide by DynamoDB's clock, to the second, whether a lease has ended. So a
    /// holder stops earlier: by a quarter of the lease, at most 2 s.
    pub fn lock_expiration(mut self, lease: Duration) -> Self {
        self.given.terms.expiration = Some(lease);
        self
    }

    /// How long a statement waits for the lock before it fails as busy: above zero, up to 1 day;
    /// 10 seconds by default. A read waits as well if a crashed writer's hot journal is in its way,
    /// and so does opening a connection.
    ///
    /// The default is twice the default of [`lock_expiration`](Self::lock_expiration): long enough for
    /// a crashed writer's lease to end, for the rollback of its journal, and for the others in the
    /// queue. With a timeout that is shorter than the lease a crash is an error to whoever comes
    /// next. Where a caller has less time, as a Lambda invocation has, give its end by
    /// [`set_deadline`](crate::EfsSqliteConnection::set_deadline).
    ///
    /// Zero is refused because it is ambiguous; to try once and fail, set
    /// [`lock_max_attempts(1)`](Self::lock_max_attempts).
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.given.timeout = Some(timeout);
        self
    }

    /// How long [`run_migrations`](crate::EfsSqliteConnection::run_migrations) and
    /// [`revert_migrations`](crate::EfsSqliteConnection::revert_migrations) wait for the lock, in
    /// place of [`lock_timeout`](Self::lock_timeout): above zero, up to 1 day; 10 minutes by default.
    ///
    /// Whoever holds it is most likely at the same migrations, for as long as they take. One that is
    /// alive renews its lease; one that has died is over when that ends. A lock table that does not
    /// answer is waited for no longer than `lock_timeout`, and a
    /// [deadline](crate::EfsSqliteConnection::set_deadline) ends this wait, too.
    pub fn lock_migration_timeout(mut self, timeout: Duration) -> Self {
        self.given.migration_timeout = Some(timeout);
        self
    }

    /// How often a write asks for the lock before it fails as busy: 1 to 1,000,000. By default
    /// only [`lock_timeout`](Self::lock_timeout) limits it: a fixed number of attempts gives up
    /// long before the timeout, since the first ones follow each other closely.
    pub fn lock_max_attempts(mut self, attempts: u32) -> Self {
        self.given.max_attempts = Some(attempts);
        self
    }

    /// The lock item's primary key, 1 to 2048 bytes
    /// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>).
    ///
    /// The default is `database#` and the path exactly as given (in a URL, as decoded), which is
    /// the Python package's key. Processes exclude each other only under the same key, and no two
    /// databases may share one. Set it where processes open one file under different paths, and
    /// where two files have the same path, such as `app.db` relative to different directories. The
    /// default for a path that is not UTF-8 is `database-bytes#` and the path percent-encoded.
    ///
    /// The first writer's key and table are kept in a file beside the database,
    /// `<database>-lock-key`. A connection with another key or table is refused
    /// ([`ConfigError::OtherLock`]). To change them, delete that file while no process has the
    /// database open.
    pub fn lock_key(mut self, key: impl Into<String>) -> Self {
        self.given.key = Some(key.into());
        self
    }

    /// Display name of this process, shown in the lock item and in a busy error: 1 to 1024 bytes
    /// without control characters. It has no effect on the lock.
    ///
    /// The default is, on Lambda, the function's name and its sandbox (the
    /// [variables](https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html)
    /// `AWS_LAMBDA_FUNCTION_NAME` and `AWS_LAMBDA_LOG_STREAM_NAME`), elsewhere the host's name and
    /// the process id.
    pub fn lock_holder(mut self, holder: impl Into<String>) -> Self {
        self.given.terms.holder = Some(holder.into());
        self
    }

    /// How long one transaction may hold the lock by renewing its lease: from the lease's own
    /// duration to 1 day; by default 900 seconds, the longest time that a
    /// [Lambda function](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
    /// can run, or the lease if that is longer.
    ///
    /// It prevents a transaction that was left open by mistake from blocking all other writers
    /// forever.
    pub fn lock_max_hold(mut self, max_hold: Duration) -> Self {
        self.given.terms.max_hold = Some(max_hold);
        self
    }

    /// How reads are protected from a commit in progress. The default is [`ReadCheck::Counter`] on
    /// NFS, where a file lock can be lost unnoticed but makes the client ask the server when it is
    /// taken; [`ReadCheck::Reopen`] on other network file systems, where even that is not known;
    /// and [`ReadCheck::Off`] on a local one, where the kernel keeps file locks for all processes.
    pub fn lock_read_check(mut self, check: ReadCheck) -> Self {
        self.given.read_check = Some(check);
        self
    }

    /// No lock table: only SQLite's own file locks, for development and for databases that only
    /// this machine opens. Refused on a network file system when a connection is opened, and for a
    /// database that a lock table protects ([`ConfigError::OtherLock`]).
    pub fn lock_local(mut self) -> Self {
        self.given.store = Some(StoreChoice::Local);
        self
    }

    /// A custom lock store, shared by clones of this configuration: in tests, for example, an
    /// [`InMemoryLockStore`](crate::InMemoryLockStore) that several connections share.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use diesel_sqlite_efs::{EfsConfig, InMemoryLockStore};
    ///
    /// let locks = Arc::new(InMemoryLockStore::new());
    /// let config = EfsConfig::new("test.db").lock_store(locks.clone());
    /// assert!(locks.item("database#test.db").is_none());
    /// ```
    pub fn lock_store(mut self, store: Arc<dyn LockStore>) -> Self {
        self.given.store = Some(StoreChoice::Custom(store));
        self
    }

    /// How carefully SQLite syncs; [`Synchronous::Extra`] by default.
    pub fn synchronous(mut self, level: Synchronous) -> Self {
        self.given.synchronous = Some(level);
        self
    }

    /// How much memory the connection may use to cache pages, in bytes: 65,536 (64 KiB) to
    /// 68,719,476,736 (64 GiB), rounded down to whole KiB; 64 MiB by default.
    ///
    /// This is a limit, not memory set aside in advance. It is larger than SQLite's own 2 MB
    /// because a page in the cache saves a request to the file server. It is applied as [`PRAGMA
    /// cache_size`](https://sqlite.org/pragma.html#pragma_cache_size). Of this and
    /// [`cache_size_pages`](Self::cache_size_pages) the last call wins; a URL may contain only one
    /// of them.
    pub fn cache_size_bytes(mut self, bytes: u64) -> Self {
        self.given.cache_size = Some(CacheSize::Bytes(bytes));
        self
    }

    /// The same limit in pages of the database, which have 4096 bytes unless it was created with
    /// another size: 1 to 16,777,216. See [`cache_size_bytes`](Self::cache_size_bytes).
    pub fn cache_size_pages(mut self, pages: u32) -> Self {
        self.given.cache_size = Some(CacheSize::Pages(pages));
        self
    }

    /// The [SQLite VFS](https://sqlite.org/vfs.html) below the crate's own, which does the file
    /// operations; `unix` by default. For tests that record operations or disable file locks
    /// (`unix-none`). It must be registered before a connection is opened.
    pub fn base_vfs(mut self, name: impl Into<String>) -> Self {
        self.given.base_vfs = Some(name.into());
        self
    }

    /// The source of time; the system's clocks by default. For tests, a [manual
    /// clock](crate::ManualClock).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.given.clock = Some(clock);
        self
    }

    /// Whether the database is on a file system that several machines share, for where this is
    /// detected wrongly. By default the file system's type decides: NFS, SMB and FUSE are network
    /// file systems.
    ///
    /// With `true`, directories are looked up afresh before each look for a journal and
    /// [`lock_local`](Self::lock_local) is refused; with `false`, neither.
    pub fn assume_network_file_system(mut self, is_network: bool) -> Self {
        self.given.network_override = Some(is_network);
        self
    }

    /// All settings, from the methods, the URL and the process's environment.
    ///
    /// # Errors
    /// `InvalidValue`, `UnknownVariable`, `NoTable`; `Database` for a path with a NUL byte.
    pub(crate) fn resolve(&self) -> Result<Settings, ConfigError> {
        self.resolve_in(std::env::vars_os())
    }

    /// [`resolve`](Self::resolve) in another environment.
    pub(crate) fn resolve_in(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, ConfigError> {
        let given = &self.given;
        let sources = Sources::new(&self.parameters, environment, &NAMES, &REMOVED)?;
        let terms = given.terms.resolve(&sources)?;
        Ok(Settings {
            database: self.checked_database()?,
            store: self.store(&sources)?,
            terms,
            timeout: (sources.first(&LOCK_TIMEOUT, given.timeout.as_ref())?)
                .unwrap_or(DEFAULT_TIMEOUT),
            migration_timeout: (sources
                .first(&LOCK_MIGRATION_TIMEOUT, given.migration_timeout.as_ref())?)
            .unwrap_or(DEFAULT_MIGRATION_TIMEOUT),
            max_attempts: sources.first(&LOCK_MAX_ATTEMPTS, given.max_attempts.as_ref())?,
            key: match sources.first(&LOCK_KEY, given.key.as_ref())? {
                Some(key) => key,
                None => self.default_key()?,
            },
            read_check: sources.first(&LOCK_READ_CHECK, given.read_check.as_ref())?,
            synchronous: (sources.first(&SYNCHRONOUS, given.synchronous.as_ref())?)
                .unwrap_or(Synchronous::Extra),
            cache_size: self.cache_size(&sources)?,
            base_vfs: (sources.first(&BASE_VFS, given.base_vfs.as_ref())?)
                .unwrap_or_else(|| DEFAULT_BASE_VFS.to_owned()),
            clock: given.clock.clone().unwrap_or_default(),
            network_override: given.network_override,
        })
    }

    fn checked_database(&self) -> Result<Database, ConfigError> {
        if let Database::File { path, .. } = &self.database
            && path.as_os_str().as_bytes().contains(&0)
        {
            return Err(ConfigError::Database {
                path: path.clone(),
                problem: "a path cannot contain a NUL byte".into(),
            });
        }
        Ok(self.database.clone())
    }

    fn store(&self, sources: &Sources<'_>) -> Result<StoreChoice, ConfigError> {
        if matches!(self.database, Database::Memory { .. }) {
            return Ok(StoreChoice::Local);
        }
        match &self.given.store {
            Some(StoreChoice::DynamoDb { table }) => {
                let table = LOCK_TABLE.check(table.clone())?;
                return Ok(StoreChoice::DynamoDb { table });
            }
            Some(other) => return Ok(other.clone()),
            None => {}
        }
        let mut kind = None;
        for place in [Place::Url, Place::Environment] {
            if kind.is_none() {
                kind = sources.at(place, &LOCK)?;
            }
            let table = sources.at(place, &LOCK_TABLE)?;
            match (kind, table) {
                (Some(StoreKind::Local), None) => return Ok(StoreChoice::Local),
                (Some(StoreKind::Local), Some(table)) => {
                    return Err(LOCK.invalid(
                        place,
                        StoreKind::Local.word().to_owned(),
                        format!("the lock table `{table}` is named beside it; give only one"),
                    ));
                }
                (_, Some(table)) => return Ok(StoreChoice::DynamoDb { table }),
                (_, None) => {}
            }
        }
        Err(ConfigError::NoTable)
    }

    fn default_key(&self) -> Result<String, ConfigError> {
        let key = match &self.database {
            Database::Memory { url } => format!("database#{url}"),
            Database::File { path, .. } => match path.to_str() {
                Some(path) => format!("database#{path}"),
                None => format!("database-bytes#{}", url::encode(path.as_os_str())),
            },
        };
        if (LOCK_KEY.accepts)(&key) {
            return Ok(key);
        }
        Err(ConfigError::InvalidValue {
            setting: "the default of `lock_key`".to_owned(),
            value: key,
            problem: "the path is too long for a key; set `lock_key` to another name of up to \
                      2048 bytes, the same in all processes"
                .to_owned(),
        })
    }

    fn cache_size(&self, sources: &Sources<'_>) -> Result<CacheSize, ConfigError> {
        match self.given.cache_size {
            Some(CacheSize::Bytes(bytes)) => CACHE_SIZE_BYTES.check(bytes).map(CacheSize::Bytes),
            Some(CacheSize::Pages(pages)) => CACHE_SIZE_PAGES.check(pages).map(CacheSize::Pages),
            None => match (
                sources.first(&CACHE_SIZE_BYTES, None)?,
                sources.first(&CACHE_SIZE_PAGES, None)?,
            ) {
                (None, None) => Ok(DEFAULT_CACHE_SIZE),
                (Some(bytes), None) => Ok(CacheSize::Bytes(bytes)),
                (None, Some(pages)) => Ok(CacheSize::Pages(pages)),
                (Some(_), Some(pages)) => Err(CACHE_SIZE_PAGES.invalid(
                    Place::Url,
                    pages.to_string(),
                    "`cache_size_bytes` is given as well; give only one",
                )),
            },
        }
    }
}

/// The table of a lock client, if the name is valid.
///
/// # Errors
/// `InvalidValue`, as for [`EfsConfig::lock_table`].
pub(crate) fn client_table(name: Option<String>) -> Result<String, ConfigError> {
    match name {
        Some(name) => LOCK_TABLE.check_from(Place::Client, name),
        None => Err(LOCK_TABLE.invalid(
            Place::Client,
            String::new(),
            "it is not set: name the lock table, or give a `lock_store`",
        )),
    }
}

/// The values set by methods.
#[derive(Debug, Clone, Default)]
struct Given {
    store: Option<StoreChoice>,
    terms: GivenTerms,
    timeout: Option<Duration>,
    migration_timeout: Option<Duration>,
    max_attempts: Option<u32>,
    key: Option<String>,
    read_check: Option<ReadCheck>,
    synchronous: Option<Synchronous>,
    cache_size: Option<CacheSize>,
    base_vfs: Option<String>,
    clock: Option<Clock>,
    network_override: Option<bool>,
}

/// Longer than a crashed writer costs, so that out of the box it costs a wait and no error: its lease
/// of 5 s and the second that DynamoDB's clock leaves open; then the rollback of its journal, and the
/// turn of those who have waited as well.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Long against most migrations, and shorter than the longest time that a lease is held.
const DEFAULT_MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_CACHE_SIZE: CacheSize = CacheSize::Bytes(64 << 20);
const DEFAULT_BASE_VFS: &str = "unix";

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
