//! The pages for visitors: list, vote, results, history.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use crate::app::App;
use crate::assets;
use crate::failure::Failure;
use crate::form::OurForm;
use crate::invocation::Deadline;
use crate::page::{self, Frame, Id, Live};
use crate::polls::{self, Cast, History, Poll};
use crate::refusal::Refusal;
use crate::session::Session;

/// How often results look what is new: each look is an invocation.
const RESULTS_PERIOD: u32 = 5;

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
    page::render(&Index { frame, polls })
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
    page::render(&Ballot {
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
    let mut retry_after = None;
    let (status, problem) = match chosen {
        None => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "Choose one of the answers.",
        ),
        Some(choice) => {
            let key = key.clone();
            let work = move |conn: &mut _| polls::cast(conn, id, choice, &key);
            match app.database().write(deadline, work).await {
                Ok(Cast::Counted(_)) => return Ok(to_results(id, "now")),
                Ok(Cast::CountedBefore(_)) => return Ok(to_results(id, "before")),
                Ok(Cast::NoSuchPoll) => return Err(Failure::NotFound.into()),
                Ok(Cast::NoSuchChoice) => (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "This answer is not offered any more: choose one of these.",
                ),
                Ok(Cast::KeyReused) => (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "You have voted with this page, for another answer.",
                ),
                Ok(Cast::Closed) => (
                    StatusCode::CONFLICT,
                    "The poll was closed before your vote came in.",
                ),
                // The same page with the same key: sent again, it counts once.
                Err(failure) if failure.retry_after().is_some() => {
                    retry_after = failure.retry_after();
                    (failure.status(), failure.text())
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
    let headers = retry_after.map(|seconds| [(header::RETRY_AFTER, seconds)]);
    Ok((headers, page::render_with(status, &ballot)?).into_response())
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

/// `?voted=..` is where a vote leads.
#[derive(Deserialize)]
pub(crate) struct Voted {
    #[serde(default)]
    voted: String,
}

pub(crate) async fn results(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
    Query(live): Query<Live>,
    Query(Voted { voted }): Query<Voted>,
) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    let period = if poll.open { RESULTS_PERIOD } else { 0 };
    let here = format!("/polls/{id}/results");
    page::render(&Results {
        frame: Frame::new(&app, &session).live(here, period, &live),
        poll,
        notice: match voted.as_str() {
            "now" => Some("Your vote was counted."),
            "before" => Some("Your vote had been counted already, once."),
            _ => None,
        },
    })
}

#[derive(Template)]
#[template(path = "history.html")]
struct HistoryPage {
    frame: Frame,
    history: History,
}

pub(crate) async fn history(
    State(app): State<App>,
    session: Session,
    deadline: Deadline,
    Id(id): Id,
) -> Result<Response, Refusal> {
    let work = move |conn: &mut _| polls::history_of(conn, id);
    let history = (app.database().read(deadline, work).await?).ok_or(Failure::NotFound)?;
    let frame = Frame::new(&app, &session);
    page::render(&HistoryPage { frame, history })
}

pub(crate) async fn not_found() -> Refusal {
    Failure::NotFound.into()
}
