//! An answer that says no to a browser: a page of its own.

use std::any::Any;

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::assets;
use crate::failure::Failure;

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
        let headers = (self.retry_after).map(|seconds| [(header::RETRY_AFTER, seconds)]);
        // Not by `page::render`, whose failure is one of these.
        match template.render() {
            Ok(html) => (self.status, headers, Html(html)).into_response(),
            Err(_) => (self.status, headers, self.text).into_response(),
        }
    }
}

/// The answer to a panic, which the log has already.
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal::from(Failure::Internal).into_response()
}
