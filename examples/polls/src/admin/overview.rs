//! All polls, and the buttons that close and reopen them.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};

use super::guard::{SignedIn, Writer};
use crate::app::App;
use crate::assets;
use crate::failure::Failure;
use crate::form::OurForm;
use crate::invocation::Deadline;
use crate::page::{self, Frame, Id};
use crate::polls::{self, Changed, Poll};
use crate::refusal::Refusal;

#[derive(Template)]
#[template(path = "admin/overview.html")]
struct Overview {
    frame: Frame,
    polls: Vec<Poll>,
}

pub(crate) async fn page(
    State(app): State<App>,
    SignedIn(session): SignedIn,
    deadline: Deadline,
) -> Result<Response, Refusal> {
    let polls = app.database().read(deadline, polls::all).await?;
    let frame = Frame::new(&app, &session);
    page::render(&Overview { frame, polls })
}

pub(crate) async fn close(
    app: State<App>,
    writer: Writer,
    deadline: Deadline,
    id: Id,
    OurForm(()): OurForm<()>,
) -> Result<Response, Refusal> {
    set_open(app, writer, deadline, id, false).await
}

pub(crate) async fn reopen(
    app: State<App>,
    writer: Writer,
    deadline: Deadline,
    id: Id,
    OurForm(()): OurForm<()>,
) -> Result<Response, Refusal> {
    set_open(app, writer, deadline, id, true).await
}

async fn set_open(
    State(app): State<App>,
    Writer(account): Writer,
    deadline: Deadline,
    Id(id): Id,
    open: bool,
) -> Result<Response, Refusal> {
    let work = move |conn: &mut _| polls::set_open(conn, id, open, account.name());
    match app.database().write(deadline, work).await? {
        Changed::NoSuchPoll => Err(Failure::NotFound.into()),
        // Somebody was faster: it is as it was wanted.
        _ => Ok(Redirect::to("/admin").into_response()),
    }
}
