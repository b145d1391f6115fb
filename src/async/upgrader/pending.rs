//! Requests on accepted streams that are decided about asynchronously.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::request::{owned, shown};
use super::stream::{FailedUpgrade, accept};
use super::{Acceptance, Decision, Rejection, RequestHead, UpgradeError, Upgrader};
use crate::conn::Trace;
use crate::{Conn, Opened};
use echoring_proto::Role;
use echoring_proto::handshake::Refusal;

/// A request that was read from a stream and is not decided yet. Dropping it ends the stream without a response.
///
/// ```
/// use echoring::{Conn, HttpResponse, PendingUpgrade, UpgradeError};
/// use tokio::net::TcpStream;
///
/// async fn decide(pending: PendingUpgrade<TcpStream>) -> Result<Conn<TcpStream>, UpgradeError> {
///     match pending.request().uri().path() {
///         "/chat" => pending.accept().await,
///         _ => pending.decide(HttpResponse::new(404, "there is /chat only\n")).await,
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
    /// Reads a request from `stream` and leaves the decision to the caller, who may ask a database or another server
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
    /// let conn = if may_enter(token).await {
    ///     received.decide(Acceptance::new().header("X-Welcome", "yes")).await?
    /// } else {
    ///     received.decide(HttpResponse::new(401, "who are you?\n")).await?
    /// };
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

    /// Whether it is a WebSocket upgrade. If not, it can only be answered with a response.
    pub fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    /// The underlying stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Opens the connection with the upgrader's settings.
    ///
    /// # Errors
    /// As [`Upgrader::accept`].
    pub async fn accept(self) -> Result<Conn<S>, UpgradeError> {
        self.decide(Acceptance::new()).await
    }

    /// Opens the connection, or sends a response and closes it. [`Upgrader::handshake_timeout`] starts again.
    ///
    /// # Errors
    /// As [`Upgrader::accept`].
    pub async fn decide(self, decision: impl Into<Decision>) -> Result<Conn<S>, UpgradeError> {
        let PendingUpgrade { upgrader, request, mut stream, early, local, peer, trace, .. } = self;
        let decision = decision.into();
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
