//! Requests on accepted streams that are decided about asynchronously.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::request::{offered, owned, shown};
use super::stream::{FailedUpgrade, accept};
use super::{Acceptance, Decision, HttpResponse, Rejection, RequestHead, UpgradeError, Upgrader};
use crate::conn::Trace;
use crate::{Conn, Opened};
use echoring_proto::Role;
use echoring_proto::handshake::Refusal;

/// A request that was read from a stream and is not decided yet. Dropping it ends the stream without a response.
///
/// The client waits meanwhile. [`Upgrader::handshake_timeout`] does not run until it is accepted or refused.
///
/// ```
/// use echoring::{Conn, HttpResponse, PendingUpgrade, UpgradeError};
/// use tokio::net::TcpStream;
///
/// async fn decide(pending: PendingUpgrade<TcpStream>) -> Result<Conn<TcpStream>, UpgradeError> {
///     match pending.request().uri().path() {
///         "/chat" => pending.accept().await,
///         _ => Err(pending.refuse(HttpResponse::new(404, "there is /chat only\n")).await),
///     }
/// }
/// ```
pub struct PendingUpgrade<S> {
    upgrader: Upgrader,
    request: http::Request<()>,
    is_upgrade: bool,
    stream: S,
    /// The bytes that were read behind the head.
    early: Bytes,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    trace: Trace,
}

impl Upgrader {
    /// Reads a request from `stream` and leaves the decision to the caller, which may ask a database or another server
    /// first. An invalid request or a foreign origin is refused at once.
    ///
    /// ```
    /// use echoring::{Acceptance, HttpResponse, Upgrader};
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// async fn may_enter(token: Option<&str>) -> bool {
    ///     token == Some("secret") // a real program asks a database
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (stream, mut far) = tokio::io::duplex(1024);
    /// # far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    /// #     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    /// #     X-Token: secret\r\n\r\n").await?;
    /// let received = Upgrader::new().receive(stream).await?;
    /// let token = received.request().headers().get("x-token").and_then(|token| token.to_str().ok());
    /// if !may_enter(token).await {
    ///     return Err(received.refuse(HttpResponse::new(401, "who are you?\n")).await.into());
    /// }
    /// let conn = received.accept_with(Acceptance::new().header("X-Welcome", "yes")).await?;
    /// # drop(conn);
    /// # let mut answer = String::new();
    /// # far.read_to_string(&mut answer).await?;
    /// # assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("X-Welcome: yes"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    pub async fn receive<S>(&self, mut stream: S) -> Result<PendingUpgrade<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let trace = Trace::begin(Role::Server);
        let mut bytes = BytesMut::new();
        let read = self.read(&mut stream, &mut bytes, self.until(), |request| {
            let is_upgrade = self.validate(request)?.is_some();
            let owned = owned(request).ok_or_else(|| self.refuse(None, Refusal::MALFORMED))?;
            Ok((owned, is_upgrade))
        });
        let ((request, is_upgrade), head_bytes) = read.await.inspect_err(|error| trace.failed(error))?;
        let early = bytes.split_off(head_bytes).freeze();
        let upgrader = self.clone();
        Ok(PendingUpgrade { upgrader, request, is_upgrade, stream, early, local: None, peer: None, trace })
    }

    /// As [`receive`](Upgrader::receive), on a TCP connection: sets TCP_NODELAY and the addresses of the [`Conn`].
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    pub async fn receive_tcp(&self, stream: TcpStream) -> Result<PendingUpgrade<TcpStream>, UpgradeError> {
        stream.set_nodelay(true).map_err(UpgradeError::Io)?;
        let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok());
        Ok(PendingUpgrade { local, peer, ..self.receive(stream).await? })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PendingUpgrade<S> {
    /// The request.
    pub fn request(&self) -> &http::Request<()> {
        &self.request
    }

    /// Whether it is a WebSocket upgrade. If not, it can only be [refused](PendingUpgrade::refuse), be it with a page.
    pub fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    /// The offered subprotocols in order of preference (RFC 6455, 4.2.1); none if this is not an upgrade.
    ///
    /// ```
    /// # use echoring::{Acceptance, Conn, PendingUpgrade, UpgradeError};
    /// # use tokio::net::TcpStream;
    /// /// Takes the newest version that the client knows.
    /// async fn accept(pending: PendingUpgrade<TcpStream>) -> Result<Conn<TcpStream>, UpgradeError> {
    ///     let newest = pending.subprotocols().filter(|name| name.starts_with("chat.v")).max();
    ///     let acceptance = Acceptance::new().subprotocol(newest);
    ///     pending.accept_with(acceptance).await
    /// }
    /// ```
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        offered(&self.request).filter(|_| self.is_upgrade)
    }

    /// Path and query of the target, as they follow the authority in a URL: for a proxy that appends them to the server's.
    pub fn path_and_query(&self) -> &str {
        let target = self.request.uri().path_and_query().map_or("/", |target| target.as_str());
        if target.starts_with(['/', '?']) { target } else { "/" }
    }

    /// The peer's address; with [`receive_tcp`](Upgrader::receive_tcp) only.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The underlying stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Opens the connection with the upgrader's settings. A request that is not an upgrade gets 426.
    /// [`Upgrader::handshake_timeout`] starts again.
    ///
    /// # Errors
    /// As [`Upgrader::accept`].
    pub async fn accept(self) -> Result<Conn<S>, UpgradeError> {
        self.accept_with(Acceptance::new()).await
    }

    /// As [`accept`](PendingUpgrade::accept), with a subprotocol or header fields of this connection.
    ///
    /// # Errors
    /// As [`Upgrader::accept`].
    pub async fn accept_with(self, acceptance: Acceptance) -> Result<Conn<S>, UpgradeError> {
        self.settle(Decision::Accept(acceptance)).await
    }

    /// Sends a response instead, and ends the stream: a refusal, the refusal of the server behind a proxy (`refuse(&error)` with a
    /// [`DialError`](crate::DialError)), or a page if this is not an upgrade. [`Upgrader::on_refusal`] sees it if its status is 400
    /// or higher.
    ///
    /// Returns [`UpgradeError::NotUpgraded`] with the response as it was sent, for the caller to return or to log.
    pub async fn refuse(self, response: impl Into<HttpResponse>) -> UpgradeError {
        match self.settle(Decision::Respond(response.into())).await {
            Err(error) => error,
            // Only an acceptance opens a connection.
            Ok(_) => UpgradeError::Gone,
        }
    }

    /// Carries out the decision.
    async fn settle(self, decision: Decision) -> Result<Conn<S>, UpgradeError> {
        let PendingUpgrade { upgrader, request, mut stream, early, local, peer, trace, .. } = self;
        let settled = shown(&request, |request| match request.upgrade() {
            Ok(upgrade) => upgrader.carry_out(&RequestHead::new(request, upgrade.as_ref()), decision),
            Err(refusal) => Err(upgrader.refuse(None, refusal)),
        });
        let refused = |no: Rejection| FailedUpgrade::Refused(no, request.method() == http::Method::HEAD);
        let unopened = match settled {
            Ok(Ok(terms)) => {
                let (opened, origin) = accept(&mut stream, terms, upgrader.until(), trace).await?;
                let opened = Opened { early, local, peer, ..opened };
                return Ok(Conn::with_origin(stream, &upgrader.settings, opened, origin));
            }
            Ok(Err(no)) => refused(no),
            Err(refusal) => refused(upgrader.refuse(None, refusal)),
        };
        let error = unopened.end(&mut stream).await;
        trace.failed(&error);
        Err(error)
    }
}

impl<S> fmt::Debug for PendingUpgrade<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Header fields may be secrets.
        f.debug_struct("PendingUpgrade").field("uri", self.request.uri()).finish_non_exhaustive()
    }
}
