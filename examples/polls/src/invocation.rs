//! How long a request has, and from where it comes: from the invocation on Lambda, else from here.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use axum::middleware::Next;
use axum::response::Response;
use lambda_http::RequestExt;
use lambda_http::request::RequestContext;

/// What is left for the answer once the database is done: to render it and to hand it over.
const MARGIN: Duration = Duration::from_millis(500);
/// A development server's requests have as long as Lambda's would by the template's setting.
const WITHOUT_INVOCATION: Duration = Duration::from_secs(10);

/// When the database has to be done with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn in_(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The end of the invocation, less what the answer needs.
    fn of(extensions: &Extensions) -> Self {
        let Some(context) = extensions.lambda_context_ref() else {
            return Self::in_(WITHOUT_INVOCATION);
        };
        // By the wall clock, which both sides share.
        let end = SystemTime::UNIX_EPOCH + Duration::from_millis(context.deadline);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        Self::in_(left.saturating_sub(MARGIN))
    }

    pub(crate) fn instant(self) -> Instant {
        self.0
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Whose request it is, as far as the network tells; for limits, not for rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(pub(crate) Option<IpAddr>);

impl ClientAddress {
    fn of(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let told = match extensions.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.clone(),
            Some(RequestContext::ApiGatewayV1(context)) => context.identity.source_ip.clone(),
            // A load balancer adds the address that it sees at the end of what the client claims.
            Some(RequestContext::Alb(_)) => last_forwarded(headers),
            _ => None,
        };
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        Self(
            told.and_then(|address| address.parse().ok())
                .or(peer.map(|ConnectInfo(address)| address.ip())),
        )
    }
}

fn last_forwarded(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all("x-forwarded-for");
    let last = all.iter().next_back()?.to_str().ok()?;
    last.rsplit(',')
        .next()
        .map(|address| address.trim().to_owned())
}

/// Takes the time at the beginning, so that reading the body counts.
pub(crate) async fn begin(mut request: Request, next: Next) -> Response {
    let deadline = Deadline::of(request.extensions());
    let client = ClientAddress::of(request.extensions(), request.headers());
    request.extensions_mut().insert(deadline);
    request.extensions_mut().insert(client);
    next.run(request).await
}

impl<S: Sync> FromRequestParts<S> for Deadline {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let begun = parts.extensions.get::<Self>().copied();
        Ok(begun.unwrap_or_else(|| Self::of(&parts.extensions)))
    }
}

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions, &parts.headers))
    }
}
