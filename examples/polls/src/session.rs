//! Sessions: a signed cookie, so that neither a visitor nor a sign-in writes to the database.

use std::time::{Duration, SystemTime};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::accounts::Account;
use crate::app::App;
use crate::failure::Failure;
use crate::refusal::Refusal;

/// How long somebody stays signed in. Signed cookies cannot be called back, so not for long.
const SIGNED_IN: Duration = Duration::from_secs(2 * 60 * 60);
/// How long a page with a form may stand open.
const VISITING: Duration = Duration::from_secs(24 * 60 * 60);
/// The name of nobody in a cookie.
const NOBODY: &str = "-";

/// One browser, and who uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// Random: what forms are tied to.
    id: String,
    pub(crate) account: Option<Account>,
    /// Epoch seconds.
    until: u64,
    /// Whether the browser has yet to be told.
    is_new: bool,
}

impl Session {
    /// For a visitor, or for somebody who has just signed in: never the id from before, which
    /// somebody else may have planted.
    pub(crate) fn new(account: Option<Account>) -> Self {
        let lasts = if account.is_some() {
            SIGNED_IN
        } else {
            VISITING
        };
        Self {
            id: Uuid::new_v4().simple().to_string(),
            account,
            until: now() + lasts.as_secs(),
            is_new: true,
        }
    }
}

/// Signs cookies and forms.
#[derive(Clone)]
pub(crate) struct Signer {
    mac: Hmac<Sha256>,
    https: bool,
}

impl Signer {
    pub(crate) fn new(key: &[u8], https: bool) -> Self {
        // HMAC takes keys of any length.
        let mac = Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!());
        Self { mac, https }
    }

    /// Whether browsers come by HTTPS.
    pub(crate) fn https(&self) -> bool {
        self.https
    }

    /// What a form of this session has to bring along.
    pub(crate) fn form_token(&self, session: &Session) -> String {
        self.sign("form", &session.id)
    }

    pub(crate) fn is_form_token(&self, session: &Session, token: &str) -> bool {
        self.verify("form", &session.id, token)
    }

    /// The header that gives a browser its session.
    pub(crate) fn cookie(&self, session: &Session) -> HeaderValue {
        let name = session.account.map_or(NOBODY, Account::name);
        let text = format!("{}.{name}.{}", session.id, session.until);
        let lasts = session.until.saturating_sub(now());
        let cookie = format!(
            "{}={text}.{}; Path=/; HttpOnly; SameSite=Lax; Max-Age={lasts}{}",
            self.cookie_name(),
            self.sign("session", &text),
            if self.https { "; Secure" } else { "" }
        );
        // All of it is ASCII by construction.
        HeaderValue::try_from(cookie).unwrap_or_else(|_| unreachable!())
    }

    /// The session of a request, if it has one that is ours and has not ended.
    fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let mut pairs = cookies
            .filter_map(|header| header.to_str().ok())
            .flat_map(|header| header.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.find_map(|(name, value)| {
            let (text, mac) = (name == self.cookie_name()).then(|| value.rsplit_once('.'))??;
            self.verify("session", text, mac).then_some(())?;
            let mut fields = text.split('.');
            let (id, name, until) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
            let session = Session {
                id: id.to_owned(),
                account: Account::from_name(name),
                until,
                is_new: false,
            };
            (session.until > now()).then_some(session)
        })
    }

    /// A cookie of this name is taken by browsers only from this very host, over HTTPS.
    fn cookie_name(&self) -> &'static str {
        if self.https { "__Host-polls" } else { "polls" }
    }

    fn mac(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(text.as_bytes());
        mac
    }

    fn sign(&self, purpose: &str, text: &str) -> String {
        let code = self.mac(purpose, text).finalize().into_bytes();
        code.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// In a time that does not depend on where they differ.
    fn verify(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let pairs = signature.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let code: Option<Vec<u8>> = bytes.collect();
        code.is_some_and(|code| self.mac(purpose, text).verify_slice(&code).is_ok())
    }
}

impl std::fmt::Debug for Signer {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("https", &self.https)
            .finish_non_exhaustive()
    }
}

fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_secs())
}

/// Around everything that browsers ask for: finds the session or begins one, and tells the browser.
pub(crate) async fn of_browser(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    let signer = app.signer();
    let known = signer.session(request.headers());
    let session = known.unwrap_or_else(|| Session::new(None));
    let cookie = session.is_new.then(|| signer.cookie(&session));
    request.extensions_mut().insert(session);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Some(cookie) = cookie
        && !headers.contains_key(header::SET_COOKIE)
    {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

impl FromRequestParts<App> for Session {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        // Not there only if a route was added outside of `of_browser`.
        let session = parts.extensions.get().cloned();
        session.ok_or_else(|| Failure::Internal.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a key of thirty-two bytes or more";

    fn request(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pair = cookie.split(';').next().expect("a pair");
        let value = HeaderValue::try_from(format!("other=1; {pair}")).expect("a header");
        headers.insert(header::COOKIE, value);
        headers
    }

    fn cookie_of(signer: &Signer, session: &Session) -> String {
        signer.cookie(session).to_str().expect("text").to_owned()
    }

    #[test]
    fn a_session_comes_back_as_it_went() {
        let signer = Signer::new(KEY, true);
        for account in [None, Some(Account::Demo), Some(Account::Admin)] {
            let session = Session::new(account);
            let back = signer.session(&request(&cookie_of(&signer, &session)));
            assert_eq!(
                back,
                Some(Session {
                    is_new: false,
                    ..session
                })
            );
        }
    }

    #[test]
    fn a_session_that_was_changed_signed_otherwise_or_is_over_is_none() {
        let signer = Signer::new(KEY, false);
        let session = Session::new(Some(Account::Demo));
        let cookie = cookie_of(&signer, &session);
        assert_eq!(
            signer.session(&request(&cookie.replace(".demo.", ".admin."))),
            None
        );
        let other = Signer::new(b"another key of thirty-two bytes !", false);
        assert_eq!(other.session(&request(&cookie)), None);
        let over = Session {
            until: now() - 1,
            ..session
        };
        assert_eq!(signer.session(&request(&cookie_of(&signer, &over))), None);
    }

    #[test]
    fn a_form_belongs_to_one_session_and_is_no_cookie() {
        let signer = Signer::new(KEY, false);
        let (session, other) = (Session::new(None), Session::new(None));
        let token = signer.form_token(&session);
        assert!(signer.is_form_token(&session, &token));
        assert!(!signer.is_form_token(&other, &token));
        for wrong in ["", "00", &token[1..], &format!("{token}00")] {
            assert!(!signer.is_form_token(&session, wrong), "{wrong}");
        }
        assert_ne!(token, signer.sign("session", &session.id));
    }

    #[test]
    fn over_https_cookies_go_nowhere_else() {
        let cookie = cookie_of(&Signer::new(KEY, true), &Session::new(None));
        assert!(cookie.starts_with("__Host-polls="), "{cookie}");
        for attribute in ["; Path=/;", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
    }
}
