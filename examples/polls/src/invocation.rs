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
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The end of the invocation, less what the answer needs.
    fn of(extensions: &Extensions) -> Self {
        let Some(context) = extensions.lambda_context_ref() else {
            return Self::after(WITHOUT_INVOCATION);
        };
        // By the wall clock, which both sides share.
        let end = SystemTime::UNIX_EPOCH + Duration::from_millis(context.deadline);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        Self::after(left.saturating_sub(MARGIN))
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
    request.extensions_mut().insert(deadline);
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use lambda_http::Context;
    use lambda_http::aws_lambda_events::alb::AlbTargetGroupRequestContext;
    use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext;

    use super::*;

    fn left(invocation_ends_in: Duration) -> Duration {
        let end = SystemTime::now() + invocation_ends_in;
        let since = end.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        let mut context = Context::default();
        context.deadline = since.as_millis().try_into().expect("milliseconds");
        let mut extensions = Extensions::new();
        extensions.insert(context);
        Deadline::of(&extensions).left()
    }

    #[test]
    fn the_invocations_end_is_the_deadline_less_what_the_answer_needs() {
        let left = left(Duration::from_secs(3600));
        let expected = Duration::from_secs(3600) - MARGIN;
        assert!(left <= expected, "{left:?}");
        assert!(left > expected - Duration::from_secs(60), "{left:?}");
    }

    #[test]
    fn an_invocation_that_is_as_good_as_over_has_no_time_left() {
        assert_eq!(left(MARGIN / 2), Duration::ZERO);
    }

    #[test]
    fn the_client_is_whom_the_service_names_and_not_whom_the_client_names() {
        let mut headers = HeaderMap::new();
        let claimed = HeaderValue::from_static("192.0.2.66, 192.0.2.7");
        headers.insert("x-forwarded-for", claimed);
        let client = |context: RequestContext| {
            let mut extensions = Extensions::new();
            extensions.insert(context);
            ClientAddress::of(&extensions, &headers).0
        };
        let mut gateway = ApiGatewayV2httpRequestContext::default();
        gateway.http.source_ip = Some("192.0.2.1".to_owned());
        let address = |text: &str| Some(text.parse().expect("an address"));
        assert_eq!(
            client(RequestContext::ApiGatewayV2(gateway)),
            address("192.0.2.1")
        );
        let balancer = AlbTargetGroupRequestContext::default();
        assert_eq!(client(RequestContext::Alb(balancer)), address("192.0.2.7"));
    }

    #[test]
    fn at_a_desk_the_header_is_not_believed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.66"));
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))));
        let address = ClientAddress::of(&extensions, &headers).0;
        assert_eq!(address, Some(IpAddr::from([127, 0, 0, 1])));
    }
}
