//! Settings: what there is, where each may come from, and what it is when nobody says.

mod sources;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use self::sources::{Keyword, Names, Place, Setting, Sources, nearest};
use crate::clock::Clock;
use crate::error::ConfigError;
use crate::lease::renewal_period;
use crate::store::LockStore;
use crate::url::{self, Database, DatabaseUrl};

/// Which database to open, and how its write lock behaves.
///
/// Every setting may be given by a method here, by a parameter of the database URL or by an
/// environment variable; the first of these that gives it wins, and only its value is looked at.
/// Names that do not exist are errors, in the URL as well as among the variables that begin with
/// `SQLITE_LOCK_`; so are values that a setting cannot take. Values are checked when a connection
/// is opened.
///
/// | method, URL parameter | environment variable | default |
/// |---|---|---|
/// | [`lock_table`](Self::lock_table) | `SQLITE_LOCK_DYNAMODB_TABLE` | none: required, unless `lock=local` |
/// | [`lock_expiration`](Self::lock_expiration) | `SQLITE_LOCK_EXPIRATION` | 10 s |
/// | [`lock_timeout`](Self::lock_timeout) | `SQLITE_LOCK_TIMEOUT` | 3 s |
/// | [`lock_max_attempts`](Self::lock_max_attempts) | `SQLITE_LOCK_MAX_ATTEMPTS` | no limit but the timeout |
/// | [`lock_key`](Self::lock_key) | `SQLITE_LOCK_KEY` | `database#` and the path as given |
/// | [`lock_holder`](Self::lock_holder) | `SQLITE_LOCK_HOLDER` | function and sandbox, or host and process |
/// | [`lock_commit`](Self::lock_commit) | `SQLITE_LOCK_COMMIT` | `confirmed` |
/// | [`lock_max_hold`](Self::lock_max_hold) | `SQLITE_LOCK_MAX_HOLD` | 900 s, or the lease if that is longer |
/// | [`lock_read_check`](Self::lock_read_check) | `SQLITE_LOCK_READ_CHECK` | `counter` on NFS, `reopen` on other network file systems, else `off` |
/// | [`lock_release`](Self::lock_release) | `SQLITE_LOCK_RELEASE` | `wait` |
/// | [`lock_local`](Self::lock_local), `lock=local` | `SQLITE_LOCK_STORE` | `dynamodb` |
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
/// `lock_table=` in the URL overrides `SQLITE_LOCK_STORE=local`, and `lock=local` in the URL
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
    /// The database file at `path`, taken literally: any bytes but NUL, also `?`, `#`, `%` and what
    /// is not UTF-8. Only `:memory:` and the empty path mean what they mean to SQLite, a database
    /// in memory and a temporary one; a file of that name is `./:memory:`.
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

    /// The database and the settings in a URL, in one of the forms that Diesel takes:
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
    /// `immutable=0` say what is the case anyway; `cache=shared` is for databases in memory.
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
    /// - [`ConfigError::InvalidUrl`]: a scheme or a host that SQLite does not open, a `%` that
    ///   encodes nothing, a NUL character (`%00`), a fragment, a parameter given twice.
    /// - [`ConfigError::UnknownParameter`]: with the nearest one that exists.
    /// - [`ConfigError::ForbiddenParameter`]: `vfs`, `nolock`, `immutable`, `cache=shared` and
    ///   `modeof`, which would go round the lock or break what it protects.
    /// - [`ConfigError::InvalidValue`]: for SQLite's own parameters. Ours are checked when a
    ///   connection is opened, because a method may still override them.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let DatabaseUrl {
            database,
            parameters,
        } = DatabaseUrl::parse(url)?;
        let known = || NAMES.iter().map(|names| names.parameter);
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
    /// [`lock_local`](Self::lock_local) or [`lock_store`](Self::lock_store) says otherwise.
    ///
    /// Names have 3 to 255 letters, digits, `_`, `.` and `-`
    /// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>).
    pub fn lock_table(mut self, name: impl Into<String>) -> Self {
        self.given.store = Some(StoreChoice::DynamoDb { table: name.into() });
        self
    }

    /// How long a lease lasts unless it is renewed: 2 seconds to 1 day; 10 seconds by default.
    ///
    /// It bounds how long a writer that crashed or was frozen blocks the others. Long transactions
    /// do not need a longer one, they renew theirs. A lease must last at least two renewal periods
    /// (the rule of
    /// [Amazon's lock client](https://github.com/awslabs/amazon-dynamodb-lock-client)), so that one
    /// renewal may fail; the period is a third of the lease, but at least a second, the time that one
    /// request may take. Hence the minimum of 2 seconds.
    ///
    /// Others judge by DynamoDB's clock, to the second, whether a lease has ended. So a holder stops
    /// earlier: by a quarter of the lease, at most 2 s.
    pub fn lock_expiration(mut self, lease: Duration) -> Self {
        self.given.lease = Some(lease);
        self
    }

    /// How long a write waits for the lock before it fails as busy: above zero, up to 1 day;
    /// 3 seconds by default, as in the Python package.
    ///
    /// Zero is refused because it is read in two ways; to try once and fail, set
    /// [`lock_max_attempts(1)`](Self::lock_max_attempts).
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.given.timeout = Some(timeout);
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
    /// By default `database#` and the path exactly as given (in a URL, as decoded), which is the
    /// Python package's key. Processes exclude each other only under the same key, and no two
    /// databases may share one: set it where processes reach one file under different paths, and
    /// where two files have the same path, say `app.db` relative to different directories. The
    /// default for a path that is not UTF-8 is `database-bytes#` and the path percent-encoded.
    ///
    /// The first writer's key and table are kept in a file beside the database, `<database>-lock-key`,
    /// and whoever is set to another is refused ([`ConfigError::OtherLock`]). To change them, delete
    /// that file while no process has the database open.
    pub fn lock_key(mut self, key: impl Into<String>) -> Self {
        self.given.key = Some(key.into());
        self
    }

    /// Who we are, for people who look at the lock item or at a busy error: 1 to 1024 bytes
    /// without control characters. Nothing is decided by it.
    ///
    /// By default, on Lambda, the function's name and its sandbox (the
    /// [variables](https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html)
    /// `AWS_LAMBDA_FUNCTION_NAME` and `AWS_LAMBDA_LOG_STREAM_NAME`), elsewhere the host's name and
    /// the process id.
    pub fn lock_holder(mut self, holder: impl Into<String>) -> Self {
        self.given.holder = Some(holder.into());
        self
    }

    /// What makes a commit final; [`CommitMode::Confirmed`] by default.
    pub fn lock_commit(mut self, mode: CommitMode) -> Self {
        self.given.commit = Some(mode);
        self
    }

    /// How long one transaction may hold the lock by renewing its lease: from the lease's own
    /// duration to 1 day; by default 900 seconds, the longest time that a
    /// [Lambda function](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
    /// can run, or the lease if that is longer.
    ///
    /// It keeps a transaction that was forgotten open from blocking all other writers for good.
    pub fn lock_max_hold(mut self, max_hold: Duration) -> Self {
        self.given.max_hold = Some(max_hold);
        self
    }

    /// How reads are protected from a commit in progress: by default [`ReadCheck::Counter`] on NFS,
    /// where a file lock can be lost unnoticed but makes the client ask the server when it is taken;
    /// [`ReadCheck::Reopen`] on other network file systems, where not even that is known; and
    /// [`ReadCheck::Off`] on a local one, where the kernel keeps file locks for all processes.
    pub fn lock_read_check(mut self, check: ReadCheck) -> Self {
        self.given.read_check = Some(check);
        self
    }

    /// Whether a commit waits until the lock is released; [`ReleaseMode::Wait`] by default.
    pub fn lock_release(mut self, mode: ReleaseMode) -> Self {
        self.given.release = Some(mode);
        self
    }

    /// No lock table: SQLite's own file locks alone, for development and for databases that only
    /// this machine opens. Refused on a network file system when a connection is opened, and for a
    /// database that a lock table protects ([`ConfigError::OtherLock`]).
    pub fn lock_local(mut self) -> Self {
        self.given.store = Some(StoreChoice::Local);
        self
    }

    /// A lock store of your own, shared by clones of this configuration: for tests, an
    /// [`InMemoryLockStore`](crate::InMemoryLockStore) that several connections use together.
    ///
    /// ```
    /// use std::sync::{Arc, LazyLock};
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
    /// It is a limit and not set aside in advance. A page in the cache saves a request to the file
    /// server, so it is larger than SQLite's own 2 MB. Becomes
    /// [`PRAGMA cache_size`](https://sqlite.org/pragma.html#pragma_cache_size). Of this and
    /// [`cache_size_pages`](Self::cache_size_pages) the last call wins; in a URL only one of them
    /// may stand.
    pub fn cache_size_bytes(mut self, bytes: u64) -> Self {
        self.given.cache_size = Some(CacheSize::Bytes(bytes));
        self
    }

    /// The same limit in pages of the database, which have 4096 bytes unless it was created with
    /// others: 1 to 16,777,216. See [`cache_size_bytes`](Self::cache_size_bytes).
    pub fn cache_size_pages(mut self, pages: u32) -> Self {
        self.given.cache_size = Some(CacheSize::Pages(pages));
        self
    }

    /// The [SQLite VFS](https://sqlite.org/vfs.html) below ours, which does the file operations;
    /// `unix` by default. For tests that record operations or take file locks away (`unix-none`).
    /// It must be registered before a connection is opened.
    pub fn base_vfs(mut self, name: impl Into<String>) -> Self {
        self.given.base_vfs = Some(name.into());
        self
    }

    /// Where time is read from; the system's clocks by default. For tests, a
    /// [manual clock](Clock::manual).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.given.clock = Some(clock);
        self
    }

    /// Says whether the database is on a file system that several machines share, where this is
    /// detected wrongly. By default the file system's type decides: NFS, SMB and FUSE are network
    /// file systems.
    ///
    /// With `true`, directories are looked up afresh before each look for a journal and
    /// [`lock_local`](Self::lock_local) is refused; with `false`, neither.
    pub fn assume_network_file_system(mut self, is_network: bool) -> Self {
        self.given.network_override = Some(is_network);
        self
    }

    /// All settings, from here, the URL and the process's environment.
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
        let sources = Sources::new(&self.parameters, environment, &NAMES)?;
        let lease =
            (sources.first(&LOCK_EXPIRATION, given.lease.as_ref())?).unwrap_or(DEFAULT_LEASE);
        Ok(Settings {
            database: self.checked_database()?,
            store: self.store(&sources)?,
            lease,
            timeout: (sources.first(&LOCK_TIMEOUT, given.timeout.as_ref())?)
                .unwrap_or(DEFAULT_TIMEOUT),
            max_attempts: sources.first(&LOCK_MAX_ATTEMPTS, given.max_attempts.as_ref())?,
            key: match sources.first(&LOCK_KEY, given.key.as_ref())? {
                Some(key) => key,
                None => self.default_key()?,
            },
            holder: (sources.first(&LOCK_HOLDER, given.holder.as_ref())?)
                .unwrap_or_else(|| default_holder(&sources)),
            commit: (sources.first(&LOCK_COMMIT, given.commit.as_ref())?)
                .unwrap_or(CommitMode::Confirmed),
            max_hold: self.max_hold(&sources, lease)?,
            read_check: sources.first(&LOCK_READ_CHECK, given.read_check.as_ref())?,
            release: (sources.first(&LOCK_RELEASE, given.release.as_ref())?)
                .unwrap_or(ReleaseMode::Wait),
            synchronous: (sources.first(&SYNCHRONOUS, given.synchronous.as_ref())?)
                .unwrap_or(Synchronous::Extra),
            cache_size: self.cache_size(&sources)?,
            base_vfs: (sources.first(&BASE_VFS, given.base_vfs.as_ref())?)
                .unwrap_or_else(|| DEFAULT_BASE_VFS.to_owned()),
            clock: given.clock.as_ref().unwrap_or(&SYSTEM_CLOCK).clone(),
            network_override: given.network_override,
        })
    }

    fn checked_database(&self) -> Result<Database, ConfigError> {
        if let Database::File { path, .. } = &self.database
            && path.as_os_str().as_bytes().contains(&0)
        {
            return Err(ConfigError::Database {
                path: path.clone(),
                problem: "a path cannot contain a NUL byte".to_owned(),
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

    fn max_hold(&self, sources: &Sources<'_>, lease: Duration) -> Result<Duration, ConfigError> {
        match sources.first_placed(&LOCK_MAX_HOLD, self.given.max_hold.as_ref())? {
            Some((max_hold, place)) if max_hold < lease => Err(LOCK_MAX_HOLD.invalid(
                place,
                max_hold.as_secs_f64().to_string(),
                format!(
                    "it is shorter than the lease of {} s; {}",
                    lease.as_secs_f64(),
                    LOCK_MAX_HOLD.valid
                ),
            )),
            Some((max_hold, _)) => Ok(max_hold),
            None => Ok(DEFAULT_MAX_HOLD.max(lease)),
        }
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

/// What makes a commit final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitMode {
    /// `confirmed`: one more conditional write to the lock table, just before the journal is
    /// deleted. What is acknowledged is then true even if this machine was frozen past its lease
    /// with its clocks standing still.
    Confirmed,
    /// `clock`: the lease must not have ended by this machine's clocks. Saves one request for each
    /// transaction, and is wrong if the clocks stood still.
    Clock,
}

impl Keyword for CommitMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("confirmed", Self::Confirmed), ("clock", Self::Clock)];
}

/// How reads are protected where file locks do not keep a writer out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadCheck {
    /// `off`: SQLite's file locks alone.
    Off,
    /// `counter`: after each page, the database's
    /// [change counter](https://sqlite.org/fileformat2.html#file_change_counter) must still be the
    /// one seen at the transaction's start and no commit be in progress; otherwise the read fails
    /// with an error that says to try again. SQLite writes the counter's page before any other, so
    /// no half-written commit is returned. The counter and the journal's name may be answered from
    /// this host's cache: this is for file systems whose locks revalidate it, as those of NFS do.
    Counter,
    /// `reopen`: the same, past this host's cache. Under SHARED, pages and the counter are read
    /// from the server (direct I/O), the file's size is asked for at the transaction's start, and
    /// the directory is opened before each look for the journal. For file systems whose locks do
    /// not revalidate caches, such as FUSE.
    Reopen,
}

impl Keyword for ReadCheck {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("counter", Self::Counter),
        ("reopen", Self::Reopen),
    ];
}

/// When the lock is released after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseMode {
    /// `wait`: before the commit returns, so that a process that is frozen right afterwards, as on
    /// Lambda, blocks nobody.
    Wait,
    /// `background`: the commit returns at once, and the release is sent by another thread. Nothing
    /// is lost by it; but a process that is frozen or ends before it is sent blocks others until
    /// the lease has run out. On Lambda, call [`finish_releases`](crate::finish_releases) before
    /// the handler returns.
    Background,
}

impl Keyword for ReleaseMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("wait", Self::Wait), ("background", Self::Background)];
}

/// How carefully SQLite syncs: [`PRAGMA synchronous`](https://sqlite.org/pragma.html#pragma_synchronous).
///
/// There is no `Off`: the commit that is recorded in the lock table, and acknowledged, would be of
/// pages that may never reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// `extra`: also the directory after the journal's deletion, without which a power failure may
    /// bring the journal back and undo the commit.
    Extra,
    /// `full`: journal and database, not the directory.
    Full,
    /// `normal`: one sync of the journal less; a power failure at the wrong moment may corrupt the
    /// database on older file systems.
    Normal,
}

impl Synchronous {
    /// The value of the PRAGMA.
    pub(crate) fn pragma(self) -> &'static str {
        self.word()
    }
}

impl Keyword for Synchronous {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("extra", Self::Extra),
        ("full", Self::Full),
        ("normal", Self::Normal),
    ];
}

/// All settings of a connection, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) database: Database,
    /// [`StoreChoice::Local`] for a database in memory, whatever is configured.
    pub(crate) store: StoreChoice,
    /// How long a lease lasts unless it is renewed.
    pub(crate) lease: Duration,
    /// How long a write waits for the lease.
    pub(crate) timeout: Duration,
    /// How often a write asks for the lease; `None` is without limit.
    pub(crate) max_attempts: Option<u32>,
    pub(crate) key: String,
    pub(crate) holder: String,
    pub(crate) commit: CommitMode,
    /// How long a lease may be held by renewal; not less than `lease`.
    pub(crate) max_hold: Duration,
    /// `None`: as the file system demands.
    pub(crate) read_check: Option<ReadCheck>,
    pub(crate) release: ReleaseMode,
    pub(crate) synchronous: Synchronous,
    pub(crate) cache_size: CacheSize,
    pub(crate) base_vfs: String,
    pub(crate) clock: Clock,
    /// Whether the file system is one of the network, where the caller knows better.
    pub(crate) network_override: Option<bool>,
}

impl Settings {
    /// What SQLite is given to open the database through the VFS of that name.
    pub(crate) fn sqlite_uri(&self, vfs: &str) -> String {
        self.database.sqlite_uri(vfs)
    }
}

/// Who grants leases.
#[derive(Debug, Clone)]
pub(crate) enum StoreChoice {
    DynamoDb { table: String },
    Local,
    Custom(Arc<dyn LockStore>),
}

/// How large the page cache may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheSize {
    Bytes(u64),
    Pages(u32),
}

impl CacheSize {
    /// The value of `PRAGMA cache_size`: pages, or KiB as a negative number
    /// (<https://sqlite.org/pragma.html#pragma_cache_size>).
    pub(crate) fn pragma(self) -> i64 {
        match self {
            Self::Bytes(bytes) => -i64::try_from(bytes / 1024).unwrap_or(i64::MAX),
            Self::Pages(pages) => i64::from(pages),
        }
    }
}

/// What was set by methods.
#[derive(Debug, Clone, Default)]
struct Given {
    store: Option<StoreChoice>,
    lease: Option<Duration>,
    timeout: Option<Duration>,
    max_attempts: Option<u32>,
    key: Option<String>,
    holder: Option<String>,
    commit: Option<CommitMode>,
    max_hold: Option<Duration>,
    read_check: Option<ReadCheck>,
    release: Option<ReleaseMode>,
    synchronous: Option<Synchronous>,
    cache_size: Option<CacheSize>,
    base_vfs: Option<String>,
    clock: Option<Clock>,
    network_override: Option<bool>,
}

/// The values of `lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    DynamoDb,
    Local,
}

impl Keyword for StoreKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("dynamodb", Self::DynamoDb), ("local", Self::Local)];
}

const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(900);
const DEFAULT_CACHE_SIZE: CacheSize = CacheSize::Bytes(64 << 20);
const DEFAULT_BASE_VFS: &str = "unix";
/// One for the process: moments of two clocks, which count from different points, do not compare.
static SYSTEM_CLOCK: LazyLock<Clock> = LazyLock::new(Clock::system);
/// Longer times are more likely a mistake in the unit.
const LONGEST: Duration = Duration::from_secs(86_400);

/// All that can be given in a URL or a variable.
const NAMES: [Names; 14] = [
    LOCK_TABLE.names(),
    LOCK_EXPIRATION.names(),
    LOCK_TIMEOUT.names(),
    LOCK_MAX_ATTEMPTS.names(),
    LOCK_KEY.names(),
    LOCK_HOLDER.names(),
    LOCK_COMMIT.names(),
    LOCK_MAX_HOLD.names(),
    LOCK_READ_CHECK.names(),
    LOCK_RELEASE.names(),
    LOCK.names(),
    SYNCHRONOUS.names(),
    CACHE_SIZE_BYTES.names(),
    CACHE_SIZE_PAGES.names(),
];

const LOCK_TABLE: Setting<String> = Setting {
    name: "lock_table",
    variable: Some("SQLITE_LOCK_DYNAMODB_TABLE"),
    accepts: |table| is_table(table),
    valid: "give the name of a DynamoDB table (3 to 255 letters, digits, `_`, `.`, `-`) or its ARN",
};
const LOCK_EXPIRATION: Setting<Duration> = Setting {
    name: "lock_expiration",
    variable: Some("SQLITE_LOCK_EXPIRATION"),
    accepts: |lease| *lease <= LONGEST && *lease >= 2 * renewal_period(*lease),
    valid: "give seconds from 2 to 86400 without a unit, such as `10` or `2.5`; a lease must last \
            two renewal periods, which are a second or more each",
};
const LOCK_TIMEOUT: Setting<Duration> = Setting {
    name: "lock_timeout",
    variable: Some("SQLITE_LOCK_TIMEOUT"),
    accepts: |timeout| !timeout.is_zero() && *timeout <= LONGEST,
    valid: "give seconds above 0 and up to 86400 without a unit, such as `3` or `0.5`; to try only \
            once, set `lock_max_attempts` to 1",
};
const LOCK_MAX_ATTEMPTS: Setting<u32> = Setting {
    name: "lock_max_attempts",
    variable: Some("SQLITE_LOCK_MAX_ATTEMPTS"),
    accepts: |attempts| (1..=1_000_000).contains(attempts),
    valid: "give a whole number from 1 to 1000000, or leave it out so that only the timeout counts",
};
const LOCK_KEY: Setting<String> = Setting {
    name: "lock_key",
    variable: Some("SQLITE_LOCK_KEY"),
    accepts: |key| (1..=2048).contains(&key.len()),
    valid: "give 1 to 2048 bytes, the same in all processes that open the database",
};
const LOCK_HOLDER: Setting<String> = Setting {
    name: "lock_holder",
    variable: Some("SQLITE_LOCK_HOLDER"),
    accepts: |holder| (1..=1024).contains(&holder.len()) && !holder.chars().any(char::is_control),
    valid: "give 1 to 1024 bytes without control characters",
};
const LOCK_COMMIT: Setting<CommitMode> = Setting {
    name: "lock_commit",
    variable: Some("SQLITE_LOCK_COMMIT"),
    accepts: |_| true,
    valid: "give `confirmed` or `clock`",
};
const LOCK_MAX_HOLD: Setting<Duration> = Setting {
    name: "lock_max_hold",
    variable: Some("SQLITE_LOCK_MAX_HOLD"),
    accepts: |max_hold| !max_hold.is_zero() && *max_hold <= LONGEST,
    valid: "give seconds from the lease's duration to 86400 without a unit, such as `900`",
};
const LOCK_READ_CHECK: Setting<ReadCheck> = Setting {
    name: "lock_read_check",
    variable: Some("SQLITE_LOCK_READ_CHECK"),
    accepts: |_| true,
    valid: "give `counter`, `reopen` or `off`",
};
const LOCK_RELEASE: Setting<ReleaseMode> = Setting {
    name: "lock_release",
    variable: Some("SQLITE_LOCK_RELEASE"),
    accepts: |_| true,
    valid: "give `wait` or `background`",
};
const LOCK: Setting<StoreKind> = Setting {
    name: "lock",
    variable: Some("SQLITE_LOCK_STORE"),
    accepts: |_| true,
    valid: "give `dynamodb` or `local`",
};
const SYNCHRONOUS: Setting<Synchronous> = Setting {
    name: "synchronous",
    variable: None,
    accepts: |_| true,
    valid: "give `extra`, `full` or `normal`; there is no `off`, because a commit would be \
            acknowledged whose pages may never reach the disk",
};
const CACHE_SIZE_BYTES: Setting<u64> = Setting {
    name: "cache_size_bytes",
    variable: None,
    accepts: |bytes| (64 << 10..=64 << 30).contains(bytes),
    valid: "give a whole number of bytes from 65536 (64 KiB) to 68719476736 (64 GiB)",
};
const CACHE_SIZE_PAGES: Setting<u32> = Setting {
    name: "cache_size_pages",
    variable: None,
    accepts: |pages| (1..=1 << 24).contains(pages),
    valid: "give a whole number of pages from 1 to 16777216",
};
/// Not in [`NAMES`]: given by its method only.
const BASE_VFS: Setting<String> = Setting {
    name: "base_vfs",
    variable: None,
    accepts: |name| !name.is_empty() && !name.contains('\0'),
    valid: "give the name of a registered SQLite VFS, such as `unix`",
};

fn is_table(table: &str) -> bool {
    let name = match table.strip_prefix("arn:") {
        None => table,
        // arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME
        Some(arn) => match arn.splitn(5, ':').collect::<Vec<_>>()[..] {
            [_, "dynamodb", _, _, resource] => resource.strip_prefix("table/").unwrap_or(""),
            _ => "",
        },
    };
    (3..=255).contains(&name.len())
        && (name.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn default_holder(sources: &Sources<'_>) -> String {
    let variable = |name| sources.variable(name).map(|value| value.to_string_lossy());
    if let Some(function) = variable("AWS_LAMBDA_FUNCTION_NAME") {
        let sandbox = variable("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_default();
        return format!("{function} {sandbox}").trim_end().to_owned();
    }
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{host} process {}", std::process::id())
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
