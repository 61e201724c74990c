//! What all pages have in common: what stands around them, and how they become an answer.

use askama::Template;
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use crate::accounts::Account;
use crate::app::App;
use crate::failure::Failure;
use crate::refusal::Refusal;
use crate::session::Session;

/// What every page has around it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) account: Option<Account>,
    /// For the page's forms.
    pub(crate) token: String,
    /// How often the page looks what is new, in seconds; 0: never.
    pub(crate) period: u32,
    /// The page's own address.
    pub(crate) here: String,
}

impl Frame {
    pub(crate) fn new(app: &App, session: &Session) -> Self {
        Self {
            account: session.account,
            token: app.signer().form_token(session),
            period: 0,
            here: String::new(),
        }
    }

    pub(crate) fn live(self, here: String, period: u32, live: &Live) -> Self {
        let period = if live.is_off() { 0 } else { period };
        Self {
            here,
            period,
            ..self
        }
    }
}

/// `?live=off` stops a page from looking what is new.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Live {
    #[serde(default)]
    live: String,
}

impl Live {
    fn is_off(&self) -> bool {
        self.live == "off"
    }
}

/// A template as an answer.
pub(crate) fn render(template: &impl Template) -> Result<Response, Refusal> {
    render_with(StatusCode::OK, template)
}

pub(crate) fn render_with(
    status: StatusCode,
    template: &impl Template,
) -> Result<Response, Refusal> {
    match template.render() {
        Ok(html) => Ok((status, Html(html)).into_response()),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            Err(Failure::Internal.into())
        }
    }
}

/// The id in the path; what is no id names nothing.
pub(crate) struct Id(pub(crate) i32);

impl FromRequestParts<App> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let id = Path::<i32>::from_request_parts(parts, app).await;
        id.map(|Path(id)| Self(id))
            .map_err(|_| Failure::NotFound.into())
    }
}
