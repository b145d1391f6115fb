//! Upgrades of requests that an HTTP server has read.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;

use super::{Acceptance, Decision, HttpResponse, Rejection, RequestHead, UpgradeTerms, Upgrader};
use crate::conn::{Origin, Trace};
use crate::{Conn, Opened, Settings, Transport};
use echoring_proto::Role;
use echoring_proto::handshake::{Refusal, Request, offered_subprotocols, parse_response_head, with_fields};

impl Upgrader {
    /// Evaluates a request that any HTTP/1.1 server has read. Return the response to that server, and give
    /// [`Negotiated::open`] the stream that it hands over behind the response: a *raw upgrade*, for servers that are not
    /// built on hyper.
    ///
    /// ```
    /// use echoring::Upgrader;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (stream, _far) = tokio::io::duplex(1024);
    /// let request = http::Request::builder()
    ///     .uri("/ws")
    ///     .header("host", "localhost")
    ///     .header("connection", "upgrade")
    ///     .header("upgrade", "websocket")
    ///     .header("sec-websocket-version", "13")
    ///     .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    ///     .body(())?;
    /// let (response, negotiated) = Upgrader::new().negotiate(&request)?;
    /// assert_eq!(response.status(), 101);
    /// // After the response was sent, on the stream that carried it:
    /// let mut conn = negotiated.open(stream);
    /// conn.write("hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The response for a refused request. HTTP/2 and HTTP/1.0 are refused, because WebSockets are opened with HTTP/1.1
    /// here (a server that offers both selects by ALPN; leave `h2` out of it, or out of this route).
    pub fn negotiate<B>(
        &self,
        request: &http::Request<B>,
    ) -> Result<(http::Response<()>, Negotiated), Refused> {
        self.negotiate_with(request, |_| Acceptance::new())
    }

    /// As [`negotiate`](Upgrader::negotiate), and calls `decide` before the request is accepted.
    ///
    /// # Errors
    /// As [`negotiate`](Upgrader::negotiate), and the response that `decide` returns.
    pub fn negotiate_with<B, D: Into<Decision>>(
        &self,
        request: &http::Request<B>,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<(http::Response<()>, Negotiated), Refused> {
        let terms = self.terms_for(request, decide)?;
        let Some(response) = response(&terms) else {
            let answer = HttpResponse::new(500, "the server's response is malformed\n");
            return Err(Refused(self.shown(None, answer)));
        };
        let (opened, head) = terms.opened();
        let origin = Origin { head, trace: Trace::begin(Role::Server) };
        Ok((response, Negotiated { settings: self.settings.clone(), opened, origin }))
    }

    /// The refusal of a request, before anything is decided about it.
    #[cfg(feature = "axum")]
    pub(crate) fn refuses<B>(&self, request: &http::Request<B>) -> Result<(), Refused> {
        self.terms_for(request, |_| Acceptance::new()).map(drop)
    }

    /// The response to a request that the program refuses, whatever its origin.
    #[cfg(feature = "axum")]
    pub(crate) fn refused_with<B>(&self, request: &http::Request<B>, answer: HttpResponse) -> Refused {
        let unchanged = answer.clone();
        let refused = self.clone().allow_any_origin().terms_for(request, |_| answer).err();
        refused.unwrap_or_else(|| Refused(Box::new(unchanged)))
    }

    fn terms_for<B, D: Into<Decision>>(
        &self,
        request: &http::Request<B>,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<UpgradeTerms, Refused> {
        if request.version() != http::Version::HTTP_11 {
            return Err(Refused(self.shown(None, Refusal::VERSION.into())));
        }
        match shown(request, |request| self.evaluate(request, decide)) {
            Ok(evaluated) => evaluated.map_err(Upgrader::refused),
            Err(refusal) => Err(Upgrader::refused(self.refuse(None, refusal))),
        }
    }

    fn refused(no: Rejection) -> Refused {
        if let Some((name, why)) = &no.mistake {
            tracing::error!(name, %why, "invalid header field in the response to an upgrade");
        }
        Refused(no.answer)
    }
}

/// Converts a request of `http`'s types to ours.
pub(super) fn shown<B, R>(
    request: &http::Request<B>,
    f: impl FnOnce(&Request<'_>) -> R,
) -> Result<R, Refusal> {
    let target = request.uri().to_string();
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    with_fields(request.method().as_str(), &target, fields, f)
}

/// The subprotocols that a request offers.
pub(crate) fn offered<B>(request: &http::Request<B>) -> impl Iterator<Item = &str> {
    let values = request.headers().get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    values.flat_map(|value| offered_subprotocols(value.as_bytes()))
}

/// The request in the types of `http`, which are slightly stricter than our parser.
pub(super) fn owned(request: &Request<'_>) -> Option<http::Request<()>> {
    let mut owned = http::Request::builder().method(request.method).uri(request.target);
    for (name, value) in request.fields() {
        owned = owned.header(name, value);
    }
    owned.body(()).ok()
}

/// The 101 as a response of that server: the bytes that would be written, parsed.
fn response(terms: &UpgradeTerms) -> Option<http::Response<()>> {
    let mut written = Vec::new();
    terms.write(&mut written);
    let (head, _) = parse_response_head(&written).ok()??;
    let mut response = http::Response::builder().status(head.status);
    for (name, value) in head.fields {
        response = response.header(name, value);
    }
    response.body(()).ok()
}

/// A request that was not upgraded, with the response to send.
///
/// ```
/// use echoring::Upgrader;
///
/// let request = http::Request::get("/ws").body(()).unwrap();
/// let refused = Upgrader::new().negotiate(&request).unwrap_err();
/// assert!((400..500).contains(&refused.response().status()));
/// let response: http::Response<String> = refused.into_response();
/// # drop(response);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Refused(Box<HttpResponse>);

impl Refused {
    /// The response.
    pub fn response(&self) -> &HttpResponse {
        &self.0
    }

    /// The response for the HTTP server, with its body type.
    pub fn into_response<B: From<String>>(self) -> http::Response<B> {
        self.0.into_response()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not upgraded: {}", self.0)
    }
}

impl std::error::Error for Refused {}

echoring_proto::error_debug!(struct Refused(response));

/// An accepted upgrade: send the response, then [open](Negotiated::open) the connection on the stream behind it.
///
/// ```
/// use echoring::{Error, Refused, Upgrader};
/// use tokio::io::{AsyncRead, AsyncWrite};
///
/// /// Greets the client of a server that hands over `stream` once it has sent the response.
/// async fn greet<S: AsyncRead + AsyncWrite + Unpin>(request: &http::Request<()>, stream: S) -> Result<(), Refused> {
///     let (_response, negotiated) = Upgrader::new().negotiate(request)?;
///     let mut conn = negotiated.open(stream);
///     drop(conn.write("hello").await);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "the connection opens only on a stream"]
pub struct Negotiated {
    settings: Settings,
    opened: Opened,
    pub(super) origin: Origin,
}

impl Negotiated {
    /// Sets the connection's addresses, which only the HTTP server knows.
    pub fn with_addresses(mut self, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Negotiated {
        (self.opened.local, self.opened.peer) = (local, peer);
        self
    }

    /// The connection, on the stream of the request. Call it once the response was sent, or once data written to
    /// `stream` follows the response.
    pub fn open<S: Transport>(self, stream: S) -> Conn<S> {
        let Negotiated { settings, opened, origin } = self;
        Conn::with_origin(stream, &settings, opened, origin)
    }
}
