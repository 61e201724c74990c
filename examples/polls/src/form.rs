//! What browsers send in a form: taken only from our own pages.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest, Request};
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::refusal::Refusal;
use crate::session::Session;

/// The fields of a form that one of our pages has given to this very session.
///
/// A page elsewhere can make a browser send a form here, with its cookie; it cannot know the token.
pub(crate) struct OurForm<T>(pub(crate) T);

#[derive(Deserialize)]
struct Envelope<T> {
    #[serde(default)]
    token: String,
    #[serde(flatten)]
    fields: T,
}

impl<T: DeserializeOwned> FromRequest<App> for OurForm<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        let from_elsewhere = request
            .headers()
            .get("sec-fetch-site")
            .is_some_and(|site| site == "cross-site");
        let session = request.extensions().get::<Session>().cloned();
        let form: Result<Form<Envelope<T>>, FormRejection> = Form::from_request(request, app).await;
        let Form(Envelope { token, fields }) = form
            .map_err(|rejection| Refusal::new(rejection.status(), "This form cannot be read."))?;
        let is_ours = session.is_some_and(|session| app.signer().is_form_token(&session, &token));
        if is_ours && !from_elsewhere {
            Ok(Self(fields))
        } else {
            Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "This form is too old, or did not come from a page of ours: go back, load the page again, \
                 and allow its cookie.",
            ))
        }
    }
}
