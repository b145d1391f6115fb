//! Upgrades on accepted streams, from which the request is read.

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Acceptance, Decision, HttpResponse, Rejection, RequestHead, UpgradeError, UpgradeTerms, Upgrader,
};
use crate::conn::{Origin, Trace};
use crate::handshake::{HeadError, end, read_head, write_head};
use crate::limits::AIO_LINGER;
use crate::{Conn, Opened, Transport};
use echoring_proto::Role;
use echoring_proto::handshake::{Refusal, Request, with_request};

impl Upgrader {
    /// Reads a request from `stream` and opens the connection. A request that is not an upgrade gets 426, an invalid
    /// one a response that names the problem.
    ///
    /// # Errors
    /// Why no connection was opened. The stream has ended then.
    pub async fn accept<S>(&self, stream: S) -> Result<Conn<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_with(stream, |_| Acceptance::new()).await
    }

    /// As [`accept`](Upgrader::accept), and calls `decide` before the request is accepted. `decide` is also called for
    /// requests that are not upgrades, so that it can respond to them.
    ///
    /// ```
    /// use echoring::{Acceptance, HttpResponse, RequestHead, Decision, UpgradeError, Upgrader};
    ///
    /// fn decide(asked: &RequestHead<'_>) -> Decision {
    ///     match asked.path() {
    ///         "/ws" => Acceptance::new().into(),
    ///         "/" => HttpResponse::new(200, "hello\n").into(),
    ///         _ => HttpResponse::new(404, "no such path\n").into(),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// let (near, mut far) = tokio::io::duplex(1024);
    /// far.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    /// far.shutdown().await.unwrap();
    /// let Err(UpgradeError::NotUpgraded(answer)) = Upgrader::new().accept_with(near, decide).await else {
    ///     panic!("the request is not an upgrade");
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
        stream: S,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<Conn<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.open(stream, (None, None), decide).await
    }

    /// As [`accept`](Upgrader::accept), on a TCP connection: sets TCP_NODELAY and the addresses of the [`Conn`].
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
        stream: TcpStream,
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<Conn<TcpStream>, UpgradeError> {
        stream.set_nodelay(true).map_err(UpgradeError::Io)?;
        let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
        self.open(stream, addresses, decide).await
    }

    /// As [`accept_tcp`](Upgrader::accept_tcp), for a connection whose I/O is done by tokio-uring. Must be called on its
    /// runtime; see [`ring_allowed`](crate::ring_allowed). Not available with musl, which tokio-uring does not build against.
    ///
    /// ```no_run
    /// use echoring::Upgrader;
    ///
    /// tokio_uring::start(async {
    ///     let listener = tokio::net::TcpListener::bind("127.0.0.1:9001").await?;
    ///     loop {
    ///         let (stream, _) = listener.accept().await?;
    ///         // A ring belongs to one thread, and so do the connections on it.
    ///         tokio_uring::spawn(async move {
    ///             let mut conn = Upgrader::new().accept_uring(stream).await?;
    ///             while let Ok(message) = conn.read().await {
    ///                 conn.write(message).await?;
    ///             }
    ///             Ok::<(), Box<dyn std::error::Error>>(())
    ///         });
    ///     }
    ///     # #[allow(unreachable_code)]
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`accept`](Upgrader::accept).
    #[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
    pub async fn accept_uring(&self, stream: TcpStream) -> Result<Conn<crate::UringStream>, UpgradeError> {
        stream.set_nodelay(true).map_err(UpgradeError::Io)?;
        let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
        let stream = crate::UringStream::from_tokio(stream).map_err(UpgradeError::Io)?;
        self.open(stream, addresses, |_| Acceptance::new()).await
    }

    /// A connection over `stream`. On failure, the response was sent and the stream has ended.
    async fn open<S: Transport, D: Into<Decision>>(
        &self,
        mut stream: S,
        (local, peer): (Option<SocketAddr>, Option<SocketAddr>),
        decide: impl FnOnce(&RequestHead<'_>) -> D,
    ) -> Result<Conn<S>, UpgradeError> {
        let handshake = async {
            let (until, trace) = (self.until(), Trace::begin(Role::Server));
            let mut bytes = BytesMut::new();
            let read = self.read(&mut stream, &mut bytes, until, |request| self.evaluate(request, decide));
            let (terms, head_bytes) = read.await.inspect_err(|error| trace.failed(error))?;
            let early = bytes.split_off(head_bytes).freeze();
            let (opened, origin) = accept(&mut stream, terms, until, trace).await?;
            Ok((Opened { early, local, peer, ..opened }, origin))
        };
        // A task stays as large as its largest future: boxed, the handshake is no part of it.
        let (opened, origin) = Box::pin(handshake).await?;
        Ok(Conn::with_origin(stream, &self.settings, opened, origin))
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }

    /// Reads a request into `bytes` and passes it to `evaluate`. Returns its result and the head's length. On failure, the
    /// response was sent and the stream has ended.
    pub(super) async fn read<S: Transport, T>(
        &self,
        stream: &mut S,
        bytes: &mut BytesMut,
        until: Option<Instant>,
        evaluate: impl FnOnce(&Request<'_>) -> Result<T, Rejection>,
    ) -> Result<(T, usize), UpgradeError> {
        let mut evaluate = Some(evaluate);
        let reading = read_head(stream, bytes, |bytes| {
            with_request(bytes, |request, head_bytes| {
                // The closure is called once, because reading ends with the head.
                let evaluated = evaluate.take().map(|evaluate| evaluate(request));
                (evaluated, head_bytes, request.is_head())
            })
        });
        let unopened = match before(until, reading).await {
            Some(Ok((Some(Ok(evaluated)), head_bytes, _))) => return Ok((evaluated, head_bytes)),
            Some(Ok((Some(Err(no)), _, head_only))) => FailedUpgrade::Refused(no, head_only),
            Some(Ok((None, ..)) | Err(HeadError::Gone)) => FailedUpgrade::Failed(UpgradeError::Gone),
            Some(Err(HeadError::Io(error))) => FailedUpgrade::Failed(gone_or(error)),
            Some(Err(HeadError::Bad(refusal))) => FailedUpgrade::Refused(self.refuse(None, refusal), false),
            None => {
                send_response(stream, &self.shown(None, Refusal::TIMEOUT.into()), false).await;
                FailedUpgrade::Failed(UpgradeError::Timeout)
            }
        };
        Err(unopened.end(stream).await)
    }
}

/// Why no connection was opened.
pub(super) enum FailedUpgrade {
    /// A response that must still be sent, without its body for HEAD.
    Refused(Rejection, bool),
    Failed(UpgradeError),
}

impl FailedUpgrade {
    /// Sends the response, if any, and ends the stream.
    pub(super) async fn end<S: AsyncRead + AsyncWrite + Unpin>(self, stream: &mut S) -> UpgradeError {
        match self {
            FailedUpgrade::Failed(error) => error,
            FailedUpgrade::Refused(no, head_only) => {
                send_response(stream, &no.answer, head_only).await;
                no.into_error()
            }
        }
    }
}

/// Sends the 101 response.
pub(super) async fn accept<S: AsyncWrite + Unpin>(
    stream: &mut S,
    terms: UpgradeTerms,
    until: Option<Instant>,
    trace: Trace,
) -> Result<(Opened, Origin), UpgradeError> {
    let mut response = Vec::new();
    terms.write(&mut response);
    let written = match before(until, write_head(stream, &response)).await {
        Some(written) => written.map_err(gone_or),
        None => Err(UpgradeError::Timeout),
    };
    written.inspect_err(|error| trace.failed(error))?;
    let (opened, head) = terms.opened();
    Ok((opened, Origin { head, trace }))
}

pub(super) async fn before<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

/// Sends a response and ends the stream, as far as the peer accepts it.
async fn send_response<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    answer: &HttpResponse,
    head_only: bool,
) {
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
