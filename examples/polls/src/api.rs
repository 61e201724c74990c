//! The JSON API: the same polls for programs.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app::App;
use crate::db::Database;
use crate::failure::Failure;
use crate::invocation::Deadline;
use crate::polls::{self, Cast, Poll};

/// The longest idempotency key; a UUID has 36.
const LONGEST_KEY: usize = 128;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/polls", get(list))
        .route("/polls/{id}", get(poll))
        .route("/polls/{id}/results", get(results))
        .route("/polls/{id}/votes", post(vote))
        .fallback(async || Refusal::from(Failure::NotFound))
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Not by this method.",
            )
        })
}

/// The process lives. Touches nothing.
pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// The database can be read and its schema is this program's. Takes no lock, asks nothing of AWS.
pub(crate) async fn ready(
    State(app): State<App>,
    deadline: Deadline,
) -> Result<&'static str, Refusal> {
    if app.database().read(deadline, Database::is_current).await? {
        Ok("ready\n")
    } else {
        Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "schema_out_of_date",
            "Migrations are pending: start a process of this version.",
        ))
    }
}

async fn list(State(app): State<App>, deadline: Deadline) -> Result<Response, Refusal> {
    let all = app.database().read(deadline, polls::all).await?;
    let summaries: Vec<_> = all.iter().map(Summary::from).collect();
    Ok(Json(json!({ "polls": summaries })).into_response())
}

async fn poll(State(app): State<App>, deadline: Deadline, Id(id): Id) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    Ok(Json(Detail::from(&poll)).into_response())
}

async fn results(
    State(app): State<App>,
    deadline: Deadline,
    Id(id): Id,
) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    Ok(Json(Results::from(&poll)).into_response())
}

/// A vote as a program sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vote {
    choice: i32,
}

async fn vote(
    State(app): State<App>,
    deadline: Deadline,
    Id(id): Id,
    Key(key): Key,
    vote: Result<Json<Vote>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(Vote { choice }) = vote.map_err(|rejection| {
        Refusal::new(rejection.status(), "bad_body", &rejection.body_text())
    })?;
    let cast = app
        .database()
        .write(deadline, move |conn| polls::cast(conn, id, choice, &key))
        .await?;
    match cast {
        Cast::Counted(poll) => {
            Ok((StatusCode::CREATED, Json(Results::from(&poll))).into_response())
        }
        Cast::CountedBefore(poll) => Ok(Json(Results::from(&poll)).into_response()),
        Cast::NoSuchPoll => Err(Failure::NotFound.into()),
        Cast::NoSuchChoice => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_such_choice",
            "The poll does not offer this choice.",
        )),
        Cast::Closed => Err(Refusal::new(
            StatusCode::CONFLICT,
            "poll_closed",
            "The poll is closed.",
        )),
        Cast::KeyReused => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
            "This Idempotency-Key has counted a vote for another choice.",
        )),
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    id: i32,
    question: &'a str,
    open: bool,
    votes: i64,
}

impl<'a> From<&'a Poll> for Summary<'a> {
    fn from(poll: &'a Poll) -> Self {
        Self {
            id: poll.id,
            question: &poll.question,
            open: poll.open,
            votes: poll.votes,
        }
    }
}

#[derive(Serialize)]
struct Detail<'a> {
    id: i32,
    question: &'a str,
    open: bool,
    published_at: &'a str,
    closes_at: Option<&'a str>,
    choices: Vec<Offered<'a>>,
}

#[derive(Serialize)]
struct Offered<'a> {
    id: i32,
    text: &'a str,
}

impl<'a> From<&'a Poll> for Detail<'a> {
    fn from(poll: &'a Poll) -> Self {
        let choices = poll.choices.iter().map(|choice| Offered {
            id: choice.id,
            text: &choice.text,
        });
        Self {
            id: poll.id,
            question: &poll.question,
            open: poll.open,
            published_at: &poll.published_at,
            closes_at: poll.closes_at.as_deref(),
            choices: choices.collect(),
        }
    }
}

#[derive(Serialize)]
struct Results<'a> {
    id: i32,
    question: &'a str,
    open: bool,
    votes: i64,
    choices: Vec<Counted<'a>>,
}

#[derive(Serialize)]
struct Counted<'a> {
    id: i32,
    text: &'a str,
    votes: i32,
    percent: f64,
}

impl<'a> From<&'a Poll> for Results<'a> {
    fn from(poll: &'a Poll) -> Self {
        let choices = poll.choices.iter().map(|choice| Counted {
            id: choice.id,
            text: &choice.text,
            votes: choice.votes,
            percent: choice.permille as f64 / 10.0,
        });
        Self {
            id: poll.id,
            question: &poll.question,
            open: poll.open,
            votes: poll.votes,
            choices: choices.collect(),
        }
    }
}

/// The id in the path; what is no id names nothing.
struct Id(i32);

impl FromRequestParts<App> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Refusal> {
        let id = Path::<i32>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id))
            .map_err(|_| Failure::NotFound.into())
    }
}

/// The header `Idempotency-Key`: the same whenever the same vote is sent again.
struct Key(String);

impl FromRequestParts<App> for Key {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        let key = idempotency_key(&parts.headers);
        key.map(Self).ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "idempotency_key",
                "Send a header Idempotency-Key of 1 to 128 visible ASCII characters, a UUID for one: \
                 the same when you send this vote again, another for each other vote.",
            )
        })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key")?.to_str().ok()?;
    let is_key = !key.is_empty()
        && key.len() <= LONGEST_KEY
        && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| key.to_owned())
}

/// An answer that says no, in JSON: a word for programs and a sentence for people.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    word: &'static str,
    text: String,
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, word: &'static str, text: &str) -> Self {
        Self {
            status,
            word,
            text: text.to_owned(),
            retry_after: None,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let word = match failure {
            Failure::NotFound => "not_found",
            Failure::Busy => "busy",
            Failure::Unknown => "outcome_unknown",
            Failure::Internal => "internal",
        };
        Self {
            retry_after: failure.retry_after(),
            ..Self::new(failure.status(), word, failure.text())
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.word, "message": self.text }));
        let headers = (self.retry_after).map(|seconds| [(header::RETRY_AFTER, seconds)]);
        (self.status, headers, body).into_response()
    }
}
