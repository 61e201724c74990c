//! The portal: who is signed in may look at everything, the administrator may change it.

mod editor;
mod guard;
mod lock;
mod overview;
mod sign_in;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

pub(crate) use self::lock::LockView;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(overview::page))
        .route("/sign-in", get(sign_in::page).post(sign_in::submit))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/polls", post(editor::create))
        .route("/polls/new", get(editor::blank))
        .route("/polls/{id}", get(editor::filled).post(editor::edit))
        .route("/polls/{id}/close", post(overview::close))
        .route("/polls/{id}/reopen", post(overview::reopen))
        .route("/lock", get(lock::page))
}
