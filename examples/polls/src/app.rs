//! The routes, and what surrounds all of them.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Router, middleware};
use diesel_sqlite_efs::DynamoDbLockStore;
use thiserror::Error;
use tower_http::catch_panic::CatchPanicLayer;

use crate::accounts::Accounts;
use crate::admin::LockView;
use crate::attempts::Attempts;
use crate::db::{Database, OpenError};
use crate::failure::Failure;
use crate::invocation::Deadline;
use crate::lock_log::LockLog;
use crate::polls::Poll;
use crate::session::Signer;
use crate::settings::Settings;
use crate::{admin, api, assets, headers, invocation, pages, polls, refusal, session};

/// The longest body that anybody may send: a poll's form with all its choices.
const LONGEST_BODY: usize = 32 * 1024;

/// Why the application cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The database cannot be opened, or its schema not be brought up to date.
    #[error("cannot use the database: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The administrator's password cannot be used.
    #[error(
        "POLLS_ADMIN_PASSWORD: {0}; give a password, or its hash as `polls hash-password` prints it"
    )]
    Password(#[from] argon2::password_hash::Error),
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Database(error.into())
    }
}

/// What the handlers work with. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    /// `None`: there is no lock table.
    lock_view: Option<LockView>,
    accounts: Accounts,
    attempts: Attempts,
    signer: Signer,
    lock_log: LockLog,
}

impl App {
    /// Opens the database and brings it up to date. Blocks: call it before serving, or off the async
    /// threads.
    ///
    /// # Errors
    /// The database or the password cannot be used. If the lock was busy, starting again may help.
    pub fn start(settings: &Settings, lock_log: LockLog) -> Result<Self, StartError> {
        let (database, name) =
            Database::open(&settings.database, settings.connections, settings.samples)?;
        let lock_view = name.map(|name| LockView {
            store: (settings.lock_store.clone())
                .unwrap_or_else(|| Arc::new(DynamoDbLockStore::new(&name.table))),
            name,
        });
        Ok(Self(Arc::new(Inner {
            database,
            lock_view,
            accounts: Accounts::new(settings.admin_password.as_deref())?,
            attempts: Attempts::default(),
            signer: Signer::new(&settings.session_key, settings.https),
            lock_log,
        })))
    }

    /// For the initialisation phase of a process that will write: reads the AWS configuration, finds
    /// credentials, sets up TLS. Sends nothing to the lock table. Blocks.
    ///
    /// # Errors
    /// What the first write will meet, too, unless it is mended. Reading needs none of it.
    pub fn warm_up(&self) -> Result<(), StartError> {
        Ok(self.0.database.warm_up()?)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// The poll that a page or an answer is about.
    pub(crate) async fn poll(&self, deadline: Deadline, id: i32) -> Result<Poll, Failure> {
        let work = move |conn: &mut _| polls::find(conn, id);
        (self.database().read(deadline, work).await?).ok_or(Failure::NotFound)
    }

    pub(crate) fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    pub(crate) fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.0.signer
    }

    pub(crate) fn lock_view(&self) -> Option<&LockView> {
        self.0.lock_view.as_ref()
    }

    pub(crate) fn lock_log(&self) -> &LockLog {
        &self.0.lock_log
    }
}

/// All routes.
pub fn app(app: App) -> Router {
    let browser = Router::new()
        .route("/", get(pages::index))
        .route("/polls/{id}", get(pages::poll).post(pages::vote))
        .route("/polls/{id}/results", get(pages::results))
        .route("/polls/{id}/history", get(pages::history))
        .nest("/admin", admin::routes())
        .fallback(pages::not_found)
        .layer(middleware::from_fn_with_state(
            app.clone(),
            session::of_browser,
        ));
    let programs = Router::new()
        .route("/health", get(api::health))
        .route("/ready", get(api::ready))
        .nest("/api", api::routes());
    Router::new()
        .merge(browser)
        .merge(programs)
        .merge(assets::routes())
        // A panic in a handler is answered like any failure. One in the database's work has been
        // caught before, with its connection closed.
        .layer(CatchPanicLayer::custom(refusal::panicked))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), headers::add))
        .layer(middleware::from_fn(invocation::begin))
        .with_state(app)
}
