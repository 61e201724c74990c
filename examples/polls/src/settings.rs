//! What the environment says.

use std::env;
use std::sync::Arc;

use diesel_sqlite_efs::{ConfigError, EfsConfig, LockStore};
use thiserror::Error;
use uuid::Uuid;

/// A key shorter than this could be guessed from one cookie.
const SHORTEST_KEY: usize = 32;

/// How the application is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database and its lock.
    pub database: EfsConfig,
    /// Where the portal looks at the lock, if not in the database's own table: for tests.
    pub lock_store: Option<Arc<dyn LockStore>>,
    /// How many connections, half of them for those who write: 1 on Lambda, where a sandbox serves
    /// one invocation at a time.
    pub connections: u32,
    /// The account `admin` exists if there is one: a password, or its argon2 hash (`$argon2id$..`).
    pub admin_password: Option<String>,
    /// What cookies and forms are signed with: the same in all processes, 32 bytes or more.
    pub session_key: Vec<u8>,
    /// Whether browsers come by HTTPS, so that cookies need not travel otherwise.
    pub https: bool,
    /// Whether the AWS client is made ready before the first request.
    pub warm_up: bool,
    /// Whether a database that this process has just made gets polls to look at.
    pub samples: bool,
}

/// Why the environment cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The database or its lock.
    #[error("DATABASE_URL: {0}")]
    Database(#[from] ConfigError),
    /// Sessions that end with the process are of no use where processes come and go.
    #[error(
        "POLLS_SESSION_KEY is not set: on Lambda all processes have to sign sessions with the same key; \
         make one with `openssl rand -hex 32`"
    )]
    NoSessionKey,
    /// The key is too short.
    #[error(
        "POLLS_SESSION_KEY has {0} bytes; at least {SHORTEST_KEY} are needed, as of `openssl rand -hex 32`"
    )]
    ShortSessionKey(usize),
    /// A switch that is neither on nor off.
    #[error("{name}={value}: say `on` or `off`")]
    Switch {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// A variable whose value is not text.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// The default is for a development server alone.
    #[error(
        "DATABASE_URL is not set: on Lambda it names a file on EFS, such as /mnt/efs/polls.db?lock_table=polls-locks"
    )]
    NoDatabase,
}

impl Settings {
    /// Reads the environment. `on_lambda`: what has a default at a desk is required there.
    ///
    /// # Errors
    /// A variable that is missing or makes no sense; its text says what to set.
    pub fn from_env(on_lambda: bool) -> Result<Self, SettingsError> {
        let session_key = match variable("POLLS_SESSION_KEY")? {
            Some(key) if key.len() < SHORTEST_KEY => {
                return Err(SettingsError::ShortSessionKey(key.len()));
            }
            Some(key) => key.into_bytes(),
            None if on_lambda => return Err(SettingsError::NoSessionKey),
            None => {
                tracing::warn!("POLLS_SESSION_KEY is not set: sessions end with this process");
                random_key()
            }
        };
        let database = match variable("DATABASE_URL")? {
            Some(url) => EfsConfig::from_url(&url)?,
            None if on_lambda => return Err(SettingsError::NoDatabase),
            None => default_database(),
        };
        Ok(Self {
            database,
            lock_store: None,
            connections: if on_lambda { 1 } else { 4 },
            admin_password: variable("POLLS_ADMIN_PASSWORD")?,
            session_key,
            https: switch("POLLS_HTTPS", on_lambda)?,
            warm_up: switch("POLLS_WARM_UP", on_lambda)?,
            samples: switch("POLLS_SAMPLES", true)?,
        })
    }
}

/// A file that is there after a restart, and no lock table unless the environment names one.
fn default_database() -> EfsConfig {
    let config = EfsConfig::new(env::temp_dir().join("polls-example.db"));
    let has_lock = ["SQLITE_LOCK_DYNAMODB_TABLE", "SQLITE_LOCK"]
        .into_iter()
        .any(|name| env::var_os(name).is_some());
    if has_lock {
        config
    } else {
        config.lock_local()
    }
}

/// 244 random bits.
fn random_key() -> Vec<u8> {
    [Uuid::new_v4(), Uuid::new_v4()]
        .iter()
        .flat_map(|half| *half.as_bytes())
        .collect()
}

/// An empty variable is one that is not set: templates cannot leave one out.
fn variable(name: &'static str) -> Result<Option<String>, SettingsError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(SettingsError::NotText(name)),
    }
}

/// Whether a variable says `on`; `default` if it says nothing.
fn switch(name: &'static str, default: bool) -> Result<bool, SettingsError> {
    match variable(name)?.as_deref() {
        None => Ok(default),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(value) => Err(SettingsError::Switch {
            name,
            value: value.to_owned(),
        }),
    }
}
