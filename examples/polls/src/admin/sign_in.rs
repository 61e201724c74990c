//! Signing in and out.

use std::time::Instant;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::accounts::Account;
use crate::app::App;
use crate::assets;
use crate::form::OurForm;
use crate::invocation::ClientAddress;
use crate::page::{self, Frame};
use crate::refusal::Refusal;
use crate::session::Session;

#[derive(Template)]
#[template(path = "admin/sign_in.html")]
struct SignIn<'a> {
    frame: Frame,
    has_admin: bool,
    name: &'a str,
    name_problem: Option<&'static str>,
    password_problem: Option<&'static str>,
    problem: Option<String>,
}

impl SignIn<'_> {
    fn new(app: &App, session: &Session) -> Self {
        Self {
            frame: Frame::new(app, session),
            has_admin: app.accounts().has_admin(),
            name: "",
            name_problem: None,
            password_problem: None,
            problem: None,
        }
    }
}

pub(crate) async fn page(State(app): State<App>, session: Session) -> Result<Response, Refusal> {
    page::render(&SignIn::new(&app, &session))
}

#[derive(Deserialize)]
pub(crate) struct Credentials {
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
}

pub(crate) async fn submit(
    State(app): State<App>,
    session: Session,
    client: ClientAddress,
    OurForm(Credentials { name, password }): OurForm<Credentials>,
) -> Result<Response, Refusal> {
    let name = name.trim();
    let again = SignIn {
        name,
        ..SignIn::new(&app, &session)
    };
    if name.is_empty() || password.is_empty() {
        let is_missing = |text: &str, problem| text.is_empty().then_some(problem);
        let again = SignIn {
            name_problem: is_missing(name, "Give a name."),
            password_problem: is_missing(&password, "Give a password."),
            ..again
        };
        return page::render_with(StatusCode::UNPROCESSABLE_ENTITY, &again);
    }
    let claimed = Account::from_name(name);
    if let Err(wait) = app.attempts().begin(client, claimed, Instant::now()) {
        tracing::warn!(client = ?client.0, account = ?claimed, "too many attempts to sign in");
        let minutes = wait.as_secs().div_ceil(60);
        let again = SignIn {
            problem: Some(format!(
                "Too many attempts. Try again in {minutes} minutes."
            )),
            ..again
        };
        let page = page::render_with(StatusCode::TOO_MANY_REQUESTS, &again)?;
        let seconds = wait.as_secs().max(1);
        return Ok(([(header::RETRY_AFTER, seconds)], page).into_response());
    }
    let Some(account) = app.accounts().verify(name, password).await else {
        let again = SignIn {
            problem: Some("Name or password is wrong.".to_owned()),
            ..again
        };
        return page::render_with(StatusCode::UNAUTHORIZED, &again);
    };
    app.attempts().succeeded(client, account);
    Ok(as_session(&app, &Session::new(Some(account)), "/admin"))
}

/// Ends the session in this browser. The cookie as such stays good until its end, as it is signed
/// and nowhere kept.
pub(crate) async fn sign_out(State(app): State<App>, OurForm(()): OurForm<()>) -> Response {
    as_session(&app, &Session::new(None), "/")
}

fn as_session(app: &App, session: &Session, to: &str) -> Response {
    let cookie = [(header::SET_COOKIE, app.signer().cookie(session))];
    (cookie, Redirect::to(to)).into_response()
}
