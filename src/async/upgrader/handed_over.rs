//! Connections that hyper, or a framework built on it, hands over.

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

use super::{Acceptance, Decision, Negotiated, Refused, RequestHead, UpgradeError, Upgrader};
use crate::Conn;

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
    /// As [`negotiate`](Upgrader::negotiate).
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
        let (response, negotiated) = self.negotiate_with(request, decide)?;
        let upgrading = Upgrading {
            handed_over: hyper::upgrade::on(request),
            until: self.timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout))),
            negotiated: Some(negotiated),
        };
        Ok((response, upgrading))
    }
}

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
    negotiated: Option<Negotiated>,
}

impl Upgrading {
    /// Sets the connection's addresses, which only the HTTP server knows.
    pub fn with_addresses(mut self, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Upgrading {
        self.negotiated = self.negotiated.map(|negotiated| negotiated.with_addresses(local, peer));
        self
    }

    fn failed(&self, error: UpgradeError) -> UpgradeError {
        if let Some(negotiated) = &self.negotiated {
            negotiated.origin.trace.failed(&error);
        }
        error
    }
}

impl Future for Upgrading {
    type Output = Result<Conn<Upgraded>, UpgradeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(handed_over) = Pin::new(&mut self.handed_over).poll(cx) {
            let stream = match handed_over {
                Ok(stream) => Upgraded(stream),
                Err(error) => {
                    return Poll::Ready(Err(
                        self.failed(UpgradeError::NotHandedOver(io::Error::other(error)))
                    ));
                }
            };
            return Poll::Ready(match self.negotiated.take() {
                Some(negotiated) => Ok(negotiated.open(stream)),
                None => Err(UpgradeError::Gone),
            });
        }
        match &mut self.until {
            Some(until) => {
                ready!(until.as_mut().poll(cx));
                Poll::Ready(Err(self.failed(UpgradeError::Timeout)))
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
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut room = hyper::rt::ReadBuf::new(out.initialize_unfilled());
        ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, room.unfilled()))?;
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
