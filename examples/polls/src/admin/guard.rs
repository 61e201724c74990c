//! Who may do what: decided here, before a handler runs, whatever the pages show.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Redirect, Response};

use crate::accounts::Account;
use crate::app::App;
use crate::refusal::Refusal;
use crate::session::Session;

/// Somebody is signed in, and may look.
pub(crate) struct SignedIn(pub(crate) Session);

/// Somebody is signed in who may change things.
pub(crate) struct Writer(pub(crate) Account);

impl FromRequestParts<App> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let session = Session::from_request_parts(parts, app).await;
        let session = session.map_err(IntoResponse::into_response)?;
        if session.account.is_some() {
            Ok(Self(session))
        } else {
            Err(Redirect::to("/admin/sign-in").into_response())
        }
    }
}

impl FromRequestParts<App> for Writer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let SignedIn(session) = SignedIn::from_request_parts(parts, app).await?;
        match session.account {
            Some(account) if account.may_write() => Ok(Self(account)),
            _ => {
                let text = "The demo account may look at everything and change nothing.";
                Err(Refusal::new(StatusCode::FORBIDDEN, text).into_response())
            }
        }
    }
}
