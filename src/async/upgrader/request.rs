//! Upgrades of requests that hyper or axum has read.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read as _, Write as _};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{
    Acceptance, Decision, HttpResponse, Rejection, RequestHead, UpgradeError, UpgradeTerms, Upgrader,
};
use crate::{Conn, Opened, Settings};
use echoring_proto::handshake::{Refusal, Request, parse_response_head, with_fields};

impl Upgrader {
    /// Evaluates a request of hyper or axum. On success, return the response to that server and await the future in a
    /// separate task, because it completes only after the response was sent.
    ///
    /// ```no_run
    /// use echoring::{HttpResponse, Upgrader};
    /// use axum::{Router, body::Body, extract::Request, response::Response, routing::any};
    ///
    /// async fn ws(mut request: Request) -> Response {
    ///     let (response, upgrading) = match Upgrader::new().upgrade(&mut request) {
    ///         Ok(upgrade) => upgrade,
    ///         Err(refused) => return refused.into_response(),
    ///     };
    ///     tokio::spawn(async move {
    ///         let mut conn = upgrading.await?;
    ///         while let Ok(message) = conn.read().await {
    ///             conn.write(message).await?;
    ///         }
    ///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    ///     });
    ///     response.map(|()| Body::empty())
    /// }
    ///
    /// let app: Router = Router::new().route("/ws", any(ws));
    /// ```
    ///
    /// # Errors
    /// The response for a refused request. HTTP/2 and HTTP/1.0 are refused, because WebSockets are opened with HTTP/1.1
    /// here (a server that offers both selects by ALPN; leave `h2` out of it, or out of this route).
    pub fn upgrade<B>(
        &self,
        request: &mut http::Request<B>,
    ) -> Result<(http::Response<()>, Upgrading), Refused> {
        self.upgrade_with(request, |_| Acceptance::new())
    }

    /// As [`upgrade`](Upgrader::upgrade), and calls `decide` before the request is accepted.
    ///
    /// # Errors
    /// As [`upgrade`](Upgrader::upgrade), and the response that `decide` returns.
    pub fn upgrade_with<B, D: Into<Decision>>(
        &self,
        request: &mut http::Request<B>,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<(http::Response<()>, Upgrading), Refused> {
        if request.version() != http::Version::HTTP_11 {
            return Err(Refused(self.shown(None, Refusal::VERSION.into())));
        }
        let evaluated = shown(request, |request| self.evaluate(request, decide));
        let terms = match evaluated {
            Ok(Ok(terms)) => terms,
            Ok(Err(no)) => return Err(Upgrader::refused(no)),
            Err(refusal) => return Err(Upgrader::refused(self.refuse(None, refusal))),
        };
        let Some(response) = response(&terms) else {
            let answer = HttpResponse::new(500, "the server's response is malformed\n");
            return Err(Refused(self.shown(None, answer)));
        };
        let upgrading = Upgrading {
            handed_over: hyper::upgrade::on(request),
            until: self.timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout))),
            pending: Some((self.settings.clone(), terms.opened())),
        };
        Ok((response, upgrading))
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
/// let mut request = http::Request::get("/ws").body(()).unwrap();
/// let refused = Upgrader::new().upgrade(&mut request).unwrap_err();
/// assert!((400..500).contains(&refused.response().status()));
/// let response: http::Response<String> = refused.into_response();
/// # drop(response);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A connection that an HTTP server is about to hand over.
///
/// ```
/// use std::net::SocketAddr;
///
/// use echoring::{UpgradeError, Upgrading};
///
/// async fn greet(upgrading: Upgrading, peer: SocketAddr) -> Result<(), UpgradeError> {
///     let mut conn = upgrading.with_addresses(None, Some(peer)).await?;
///     println!("{:?} is here", conn.peer_addr());
///     let _ = conn.write("welcome").await;
///     Ok(())
/// }
/// ```
#[must_use = "the connection opens only when this is awaited"]
pub struct Upgrading {
    handed_over: OnUpgrade,
    until: Option<Pin<Box<Sleep>>>,
    /// Taken once the future is ready.
    pending: Option<(Settings, Opened)>,
}

impl Upgrading {
    /// Sets the connection's addresses, which only the HTTP server knows.
    pub fn with_addresses(mut self, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Upgrading {
        if let Some((_, opened)) = &mut self.pending {
            (opened.local, opened.peer) = (local, peer);
        }
        self
    }
}

impl Future for Upgrading {
    type Output = Result<Conn<Upgraded>, UpgradeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(handed_over) = Pin::new(&mut self.handed_over).poll(cx) {
            let stream = match handed_over {
                Ok(stream) => Upgraded(stream),
                Err(error) => return Poll::Ready(Err(UpgradeError::NotHandedOver(error))),
            };
            return Poll::Ready(match self.pending.take() {
                Some((settings, opened)) => Ok(Conn::new(stream, &settings, opened)),
                None => Err(UpgradeError::Gone),
            });
        }
        match &mut self.until {
            Some(until) => {
                ready!(until.as_mut().poll(cx));
                Poll::Ready(Err(UpgradeError::Timeout))
            }
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Upgrading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrading").finish_non_exhaustive()
    }
}

/// The stream of a connection that hyper handed over, including the bytes that hyper had already read.
///
/// ```
/// use echoring::{Conn, Error, Upgraded};
///
/// async fn echo(mut conn: Conn<Upgraded>) -> Result<(), Error> {
///     loop {
///         let message = conn.read().await?;
///         conn.feed(message).await?;
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Upgraded(hyper::upgrade::Upgraded);

impl Upgraded {
    /// hyper's type, which can be downcast to the underlying stream.
    pub fn into_inner(self) -> hyper::upgrade::Upgraded {
        self.0
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut room = hyper::rt::ReadBuf::new(out.initialize_unfilled());
        ready!(Pin::new(&mut self.0).poll_read(cx, room.unfilled()))?;
        let read = room.filled().len();
        out.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
