//! The form in which a poll is made or changed.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::guard::{SignedIn, Writer};
use crate::app::App;
use crate::assets;
use crate::failure::Failure;
use crate::form::OurForm;
use crate::invocation::Deadline;
use crate::page::{self, Frame, Id};
use crate::polls::{self, Changed, Draft, Poll};
use crate::refusal::Refusal;
use crate::session::Session;

/// In characters, as people count them.
const LONGEST_QUESTION: usize = 200;
const LONGEST_CHOICE: usize = 80;
const FEWEST_CHOICES: usize = 2;
const MOST_CHOICES: usize = 12;

/// What stands in the form: as it was typed, right or wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    question: String,
    /// One to a line.
    #[serde(default)]
    choices: String,
    /// As `datetime-local` has it, `YYYY-MM-DDTHH:MM`; empty: it stays open. UTC.
    #[serde(default)]
    closes_at: String,
}

/// What is wrong, beside the field in which it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Problems {
    question: Option<String>,
    choices: Option<String>,
    closes_at: Option<String>,
    /// Of the whole.
    form: Option<String>,
}

#[derive(Template)]
#[template(path = "admin/editor.html")]
struct Editor {
    frame: Frame,
    /// `None`: a new one.
    id: Option<i32>,
    has_votes: bool,
    fields: Fields,
    problems: Problems,
}

impl Editor {
    fn new(app: &App, session: &Session, poll: Option<&Poll>) -> Self {
        Self {
            frame: Frame::new(app, session),
            id: poll.map(|poll| poll.id),
            has_votes: poll.is_some_and(|poll| poll.votes > 0),
            fields: poll.map(Fields::of).unwrap_or_default(),
            problems: Problems::default(),
        }
    }

    fn action(&self) -> String {
        match self.id {
            Some(id) => format!("/admin/polls/{id}"),
            None => "/admin/polls".to_owned(),
        }
    }

    fn refuse(self, status: StatusCode, problems: Problems) -> Result<Response, Refusal> {
        page::render_with(status, &Self { problems, ..self })
    }

    /// What may be tried again shows the form again; the rest is a page of its own.
    fn fail(self, failure: Failure) -> Result<Response, Refusal> {
        let Some(seconds) = failure.retry_after() else {
            return Err(failure.into());
        };
        let problems = Problems {
            form: Some(failure.text().to_owned()),
            ..Problems::default()
        };
        let page = self.refuse(failure.status(), problems)?;
        Ok(([(header::RETRY_AFTER, seconds)], page).into_response())
    }
}

pub(crate) async fn blank(
    State(app): State<App>,
    SignedIn(session): SignedIn,
) -> Result<Response, Refusal> {
    page::render(&Editor::new(&app, &session, None))
}

pub(crate) async fn filled(
    State(app): State<App>,
    SignedIn(session): SignedIn,
    deadline: Deadline,
    Id(id): Id,
) -> Result<Response, Refusal> {
    let poll = app.poll(deadline, id).await?;
    page::render(&Editor::new(&app, &session, Some(&poll)))
}

pub(crate) async fn create(
    State(app): State<App>,
    session: Session,
    Writer(account): Writer,
    deadline: Deadline,
    OurForm(fields): OurForm<Fields>,
) -> Result<Response, Refusal> {
    let again = Editor {
        fields,
        ..Editor::new(&app, &session, None)
    };
    let draft = match again.fields.draft() {
        Ok(draft) => draft,
        Err(problems) => return again.refuse(StatusCode::UNPROCESSABLE_ENTITY, problems),
    };
    let work = move |conn: &mut _| polls::create(conn, &draft, account.name());
    match app.database().write(deadline, work).await {
        Ok(Some(id)) => Ok(Redirect::to(&format!("/polls/{id}")).into_response()),
        Ok(None) => again.refuse(StatusCode::UNPROCESSABLE_ENTITY, Problems::too_early()),
        Err(failure) => again.fail(failure),
    }
}

pub(crate) async fn edit(
    State(app): State<App>,
    session: Session,
    Writer(account): Writer,
    deadline: Deadline,
    Id(id): Id,
    OurForm(fields): OurForm<Fields>,
) -> Result<Response, Refusal> {
    let before = app.poll(deadline, id).await?;
    let again = Editor {
        fields,
        ..Editor::new(&app, &session, Some(&before))
    };
    let draft = match again.fields.draft() {
        Ok(draft) => draft,
        Err(problems) => return again.refuse(StatusCode::UNPROCESSABLE_ENTITY, problems),
    };
    let work = move |conn: &mut _| polls::edit(conn, id, &draft, account.name());
    match app.database().write(deadline, work).await {
        Ok(Changed::Done | Changed::Nothing) => Ok(Redirect::to("/admin").into_response()),
        Ok(Changed::NoSuchPoll) => Err(Failure::NotFound.into()),
        Ok(Changed::HasVotes) => again.refuse(
            StatusCode::CONFLICT,
            Problems {
                choices: Some(
                    "People have voted for these: they can no longer be changed.".to_owned(),
                ),
                ..Problems::default()
            },
        ),
        Ok(Changed::ClosesTooEarly) => {
            again.refuse(StatusCode::UNPROCESSABLE_ENTITY, Problems::too_early())
        }
        Err(failure) => again.fail(failure),
    }
}

impl Problems {
    fn too_early() -> Self {
        Self {
            closes_at: Some("Give a day and time that is to come (UTC), or none.".to_owned()),
            ..Self::default()
        }
    }
}

impl Fields {
    fn of(poll: &Poll) -> Self {
        let choices: Vec<&str> = poll
            .choices
            .iter()
            .map(|choice| choice.text.as_str())
            .collect();
        Self {
            question: poll.question.clone(),
            choices: choices.join("\n"),
            // Without the seconds, which nobody types.
            closes_at: (poll.closes_at.as_deref())
                .and_then(|time| time.get(..16))
                .map_or_else(String::new, |time| time.replacen(' ', "T", 1)),
        }
    }

    /// What is asked for, if all of it makes sense.
    fn draft(&self) -> Result<Draft, Problems> {
        let question = self.question.trim();
        let choices: Vec<String> = self
            .choices
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        let problems = Problems {
            question: problem_of_question(question),
            choices: problem_of_choices(&choices),
            closes_at: None,
            form: None,
        };
        let closes_at = match self.closes_at.trim() {
            "" => Ok(None),
            typed => moment(typed).map(Some).ok_or_else(Problems::too_early),
        };
        match closes_at {
            Ok(closes_at) if problems == Problems::default() => Ok(Draft {
                question: question.to_owned(),
                choices,
                closes_at,
            }),
            Ok(_) => Err(problems),
            Err(Problems { closes_at, .. }) => Err(Problems {
                closes_at,
                ..problems
            }),
        }
    }
}

fn problem_of_question(question: &str) -> Option<String> {
    let length = question.chars().count();
    if question.is_empty() {
        Some("Ask a question.".to_owned())
    } else if length > LONGEST_QUESTION {
        Some(format!(
            "This has {length} characters; at most {LONGEST_QUESTION} fit."
        ))
    } else if question.chars().any(char::is_control) {
        Some("Use letters, not control characters.".to_owned())
    } else {
        None
    }
}

fn problem_of_choices(choices: &[String]) -> Option<String> {
    let count = choices.len();
    if !(FEWEST_CHOICES..=MOST_CHOICES).contains(&count) {
        return Some(format!(
            "Give {FEWEST_CHOICES} to {MOST_CHOICES} answers, one to a line; these are {count}."
        ));
    }
    choices.iter().enumerate().find_map(|(index, choice)| {
        if choice.chars().count() > LONGEST_CHOICE {
            Some(format!(
                "“{choice}” is longer than {LONGEST_CHOICE} characters."
            ))
        } else if choice.chars().any(char::is_control) {
            Some(format!("Line {} has control characters.", index + 1))
        } else if choices[..index].contains(choice) {
            Some(format!("“{choice}” is there twice."))
        } else {
            None
        }
    })
}

/// `2026-12-24T18:00` as the database has it; whether there is such a day is for SQLite to say.
fn moment(typed: &str) -> Option<String> {
    const SHAPE: &[u8] = b"0000-00-00T00:00";
    let fits = typed.len() == SHAPE.len()
        && typed.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            mark => byte == *mark,
        });
    fits.then(|| format!("{}:00", typed.replacen('T', " ", 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(question: &str, choices: &str, closes_at: &str) -> Fields {
        Fields {
            question: question.to_owned(),
            choices: choices.to_owned(),
            closes_at: closes_at.to_owned(),
        }
    }

    #[test]
    fn what_is_typed_is_trimmed_and_empty_lines_are_none() {
        let draft = fields(
            "  Why? ",
            "\r\n Because\r\n\r\nWhy not \r\n",
            "2026-12-24T18:00",
        )
        .draft();
        let expected = Draft {
            question: "Why?".to_owned(),
            choices: vec!["Because".to_owned(), "Why not".to_owned()],
            closes_at: Some("2026-12-24 18:00:00".to_owned()),
        };
        assert_eq!(draft, Ok(expected));
    }

    #[test]
    fn each_problem_is_told_at_its_field() {
        let problems = fields("", "Only one", "tomorrow")
            .draft()
            .expect_err("three");
        assert_eq!(problems.question.as_deref(), Some("Ask a question."));
        assert!(problems.choices.expect("one").contains("these are 1"));
        assert!(problems.closes_at.expect("one").contains("to come"));
        let long = "é".repeat(LONGEST_QUESTION);
        assert!(
            fields(&long, "a\nb", "").draft().is_ok(),
            "characters, not bytes"
        );
        let longer = fields(&format!("{long}e"), "a\na", "")
            .draft()
            .expect_err("two");
        assert!(longer.question.expect("one").contains("201"));
        assert!(longer.choices.expect("one").contains("twice"));
        assert_eq!(longer.closes_at, None);
    }
}
