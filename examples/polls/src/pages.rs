//! The pages for visitors: list, vote, results, history.

use std::any::Any;

use askama::Template;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use crate::accounts::Account;
use crate::app::App;
use crate::assets;
use crate::failure::Failure;
use crate::form::OurForm;
use crate::invocation::Deadline;
use crate::polls::{self, Cast, Day, Entry, Poll};
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

/// How often results look what is new: each look is an invocation.
const RESULTS_PERIOD: u32 = 5;

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
    #[serde(default)]
    voted: String,
}

impl Live {
    fn is_off(&self) -> bool {
        self.live == "off"
    }
}

/// A template as an answer.
pub(crate) fn page(template: &impl Template) -> Result<Response, Refusal> {
    page_with(StatusCode::OK, template)
}

pub(crate) fn page_with(status: StatusCode, template: &impl Template) -> Result<Response, Refusal> {
    match template.render() {
        Ok(html) => Ok((status, Html(html)).into_response()),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            Err(Failure::Internal.into())
        }
    }
}

#[derive(Template)]
#[template(path = "index.html")]
struct Index {
    frame: Frame,
    polls: Vec<Poll>,
}

pub(crate) async fn index(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
) -> Result<Response, Refusal> {
    let mut polls = app.database().read(deadline, polls::all).await?;
    polls.sort_by_key(|poll| !poll.open);
    let frame = Frame::new(&app, &session);
    page(&Index { frame, polls })
}

#[derive(Template)]
#[template(path = "poll.html")]
struct Ballot {
    frame: Frame,
    poll: Poll,
    /// What the vote is counted under, however often the form is sent.
    key: String,
    chosen: Option<i32>,
    problem: Option<&'static str>,
}

impl Ballot {
    fn is_chosen(&self, choice: &polls::Choice) -> bool {
        self.chosen == Some(choice.id)
    }
}

pub(crate) async fn poll(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    page(&Ballot {
        frame: Frame::new(&app, &session),
        poll,
        key: Uuid::new_v4().to_string(),
        chosen: None,
        problem: None,
    })
}

/// The ballot as it comes back.
#[derive(Deserialize)]
pub(crate) struct Vote {
    #[serde(default)]
    key: String,
    #[serde(default)]
    choice: String,
}

pub(crate) async fn vote(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
    OurForm(vote): OurForm<Vote>,
) -> Result<Response, Refusal> {
    let Ok(key) = Uuid::try_parse(&vote.key) else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "This ballot has no key: load the page again.",
        ));
    };
    let key = key.to_string();
    let chosen: Option<i32> = vote.choice.parse().ok();
    let (status, problem, key) = match chosen {
        None => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "Choose one of the answers.",
            key,
        ),
        Some(choice) => {
            let counted_as = key.clone();
            let work = move |conn: &mut _| polls::cast(conn, id, choice, &counted_as);
            match app.database().write(deadline, work).await {
                Ok(Cast::Counted(_)) => return Ok(to_results(id, "now")),
                Ok(Cast::CountedBefore(_)) => return Ok(to_results(id, "before")),
                Ok(Cast::NoSuchPoll) => return Err(Failure::NotFound.into()),
                Ok(Cast::NoSuchChoice) => {
                    let problem = "This answer is not offered any more: choose one of these.";
                    (StatusCode::UNPROCESSABLE_ENTITY, problem, key)
                }
                Ok(Cast::KeyReused) => {
                    let problem = "You have voted with this page, for another answer.";
                    (StatusCode::UNPROCESSABLE_ENTITY, problem, key)
                }
                Ok(Cast::Closed) => {
                    let problem = "The poll was closed before your vote came in.";
                    (StatusCode::CONFLICT, problem, key)
                }
                // The same page with the same key: sent again, it counts once.
                Err(failure) if failure.retry_after().is_some() => {
                    (failure.status(), failure.text(), key)
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    };
    let ballot = Ballot {
        frame: Frame::new(&app, &session),
        poll: app.poll(deadline, id).await?,
        key,
        chosen,
        problem: Some(problem),
    };
    let mut response = page_with(status, &ballot)?;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    Ok(response)
}

fn to_results(id: i32, voted: &str) -> Response {
    Redirect::to(&format!("/polls/{id}/results?voted={voted}")).into_response()
}

#[derive(Template)]
#[template(path = "results.html")]
struct Results {
    frame: Frame,
    poll: Poll,
    notice: Option<&'static str>,
}

pub(crate) async fn results(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
    Query(live): Query<Live>,
) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    let period = if poll.open { RESULTS_PERIOD } else { 0 };
    let here = format!("/polls/{id}/results");
    page(&Results {
        frame: Frame::new(&app, &session).live(here, period, &live),
        poll,
        notice: match live.voted.as_str() {
            "now" => Some("Your vote was counted."),
            "before" => Some("Your vote had been counted already, once."),
            _ => None,
        },
    })
}

#[derive(Template)]
#[template(path = "history.html")]
struct History {
    frame: Frame,
    poll: Poll,
    entries: Vec<Entry>,
    days: Vec<Day>,
}

pub(crate) async fn history(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
) -> Result<Response, Refusal> {
    let work = move |conn: &mut _| polls::history_of(conn, id);
    let history = (app.database().read(deadline, work).await?).ok_or(Failure::NotFound)?;
    let polls::History {
        poll,
        entries,
        days,
    } = history;
    page(&History {
        frame: Frame::new(&app, &session),
        poll,
        entries,
        days,
    })
}

pub(crate) async fn not_found() -> Refusal {
    Failure::NotFound.into()
}

/// The answer to a panic, which the log has already.
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal::from(Failure::Internal).into_response()
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

/// An answer that says no, as a page.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    retry_after: Option<u32>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: &str) -> Self {
        Self {
            status,
            text: text.to_owned(),
            retry_after: None,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self {
            retry_after: failure.retry_after(),
            ..Self::new(failure.status(), failure.text())
        }
    }
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage<'a> {
    title: &'a str,
    text: &'a str,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let template = RefusalPage {
            title: self.status.canonical_reason().unwrap_or("Error"),
            text: &self.text,
        };
        // Not by `page`, whose failure is one of these.
        let mut response = match template.render() {
            Ok(html) => (self.status, Html(html)).into_response(),
            Err(_) => (self.status, self.text).into_response(),
        };
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
