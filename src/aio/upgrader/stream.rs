//! Upgrades on accepted streams, whose request is read here.

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Acceptance, Answer, Asked, Decision, No, Terms, UpgradeError, Upgrader};
use crate::aio::handshake::{NoHead, end, read_head, write_head};
use crate::aio::{Conn, Opened};
use crate::limits::AIO_LINGER;
use crate::protocol::handshake::{Refusal, Request, with_request};

impl Upgrader {
    /// Reads a request from `stream` and opens the connection that it asks for. A request that asks for none is
    /// answered with 426, a wrong one with what is wrong with it.
    ///
    /// # Errors
    /// Why there is no connection. The stream is over then.
    pub async fn accept<S>(&self, stream: S) -> Result<Conn<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_with(stream, |_| Acceptance::new()).await
    }

    /// The same, with `decide` to look at the request before it is accepted. Requests that are no upgrades are shown
    /// to it as well, so that it can answer them.
    ///
    /// ```
    /// use echoring::aio::{Acceptance, Answer, Asked, Decision, UpgradeError, Upgrader};
    ///
    /// fn decide(asked: &Asked<'_>) -> Decision {
    ///     match asked.path() {
    ///         "/ws" => Acceptance::new().into(),
    ///         "/" => Answer::new(200, "hello\n").into(),
    ///         _ => Answer::new(404, "no such path\n").into(),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// let (near, mut far) = tokio::io::duplex(1024);
    /// far.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    /// far.shutdown().await.unwrap();
    /// let Err(UpgradeError::Answered(answer)) = Upgrader::new().accept_with(near, decide).await else {
    ///     panic!("the request asks for no WebSocket");
    /// };
    /// assert_eq!(answer.status(), 200);
    /// let mut response = String::new();
    /// far.read_to_string(&mut response).await.unwrap();
    /// assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("hello\n"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    pub async fn accept_with<S, D: Into<Decision>>(
        &self,
        mut stream: S,
        decide: impl FnOnce(&Asked<'_>) -> D,
    ) -> Result<Conn<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let opened = self.open(&mut stream, decide).await?;
        Ok(Conn::new(stream, &self.settings, opened))
    }

    /// The same on a TCP connection, whose addresses [`Conn`] then knows, without Nagle's delay.
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    pub async fn accept_tcp(&self, stream: TcpStream) -> Result<Conn<TcpStream>, UpgradeError> {
        self.accept_tcp_with(stream, |_| Acceptance::new()).await
    }

    /// [`accept_tcp`](Upgrader::accept_tcp) with a decision as in [`accept_with`](Upgrader::accept_with).
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    pub async fn accept_tcp_with<D: Into<Decision>>(
        &self,
        mut stream: TcpStream,
        decide: impl FnOnce(&Asked<'_>) -> D,
    ) -> Result<Conn<TcpStream>, UpgradeError> {
        stream.set_nodelay(true).map_err(UpgradeError::Io)?;
        let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok());
        let opened = self.open(&mut stream, decide).await?;
        Ok(Conn::new(stream, &self.settings, Opened { local, peer, ..opened }))
    }

    /// What was agreed on over `stream`; otherwise the stream has its answer and has ended.
    async fn open<S, D: Into<Decision>>(
        &self,
        stream: &mut S,
        decide: impl FnOnce(&Asked<'_>) -> D,
    ) -> Result<Opened, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let until = self.until();
        let mut bytes = BytesMut::new();
        let read = self.read(stream, &mut bytes, until, |request| self.judge(request, decide));
        let (terms, head_bytes) = read.await?;
        let early = bytes.split_off(head_bytes).freeze();
        Ok(Opened { early, ..accept(stream, terms, until).await? })
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }

    /// Reads a request into `bytes` and lets `judge` see it, whose verdict comes with the head's length; otherwise the
    /// stream has its answer and has ended.
    pub(super) async fn read<S, T>(
        &self,
        stream: &mut S,
        bytes: &mut BytesMut,
        until: Option<Instant>,
        judge: impl FnOnce(&Request<'_>) -> Result<T, No>,
    ) -> Result<(T, usize), UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut judge = Some(judge);
        let reading = read_head(stream, bytes, |bytes| {
            with_request(bytes, |request, head_bytes| {
                // A head is shown once: reading ends with it.
                let judged = judge.take().map(|judge| judge(request));
                (judged, head_bytes, request.is_head())
            })
        });
        let unopened = match before(until, reading).await {
            Some(Ok((Some(Ok(judged)), head_bytes, _))) => return Ok((judged, head_bytes)),
            Some(Ok((Some(Err(no)), _, head_only))) => Unopened::Refused(no, head_only),
            Some(Ok((None, ..)) | Err(NoHead::Gone)) => Unopened::Failed(UpgradeError::Gone),
            Some(Err(NoHead::Io(error))) => Unopened::Failed(gone_or(error)),
            Some(Err(NoHead::Bad(refusal))) => Unopened::Refused(self.refuse(None, refusal), false),
            None => {
                say(stream, &self.shown(None, Refusal::TIMEOUT.into()), false).await;
                Unopened::Failed(UpgradeError::Timeout)
            }
        };
        Err(unopened.end(stream).await)
    }
}

/// Why a request opened nothing.
pub(super) enum Unopened {
    /// This is still to be said, without its body for HEAD.
    Refused(No, bool),
    Failed(UpgradeError),
}

impl Unopened {
    /// Says what is to be said.
    pub(super) async fn end<S: AsyncRead + AsyncWrite + Unpin>(self, stream: &mut S) -> UpgradeError {
        match self {
            Unopened::Failed(error) => error,
            Unopened::Refused(no, head_only) => {
                say(stream, &no.answer, head_only).await;
                no.into_error()
            }
        }
    }
}

/// Sends the 101.
pub(super) async fn accept<S: AsyncWrite + Unpin>(
    stream: &mut S,
    terms: Terms,
    until: Option<Instant>,
) -> Result<Opened, UpgradeError> {
    let mut head = Vec::new();
    terms.write(&mut head);
    let written = before(until, write_head(stream, &head)).await.ok_or(UpgradeError::Timeout)?;
    written.map_err(gone_or)?;
    Ok(terms.opened())
}

pub(super) async fn before<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

/// Sends a response and ends the stream, as far as the peer lets it.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &Answer, head_only: bool) {
    let mut response = Vec::new();
    answer.write(&mut response, head_only);
    let saying = async {
        if write_head(stream, &response).await.is_ok() {
            end(stream).await;
        }
    };
    let _ = timeout(Duration::from_nanos(AIO_LINGER), saying).await;
}

fn gone_or(error: io::Error) -> UpgradeError {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => UpgradeError::Gone,
        _ => UpgradeError::Io(error),
    }
}
