//! The streams between the proxy and its two sides, on tokio.
//!
//! Never: HTTP or WebSocket logic.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forwarder::Activity;
use crate::http::request_framing::{MalformedBody, RequestFraming};
use echoring_async as aio;

/// A stream, with TLS or without. It stays on its thread.
pub(super) type Transport = Box<dyn Stream>;

/// The stream below a transport.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Connects to a host.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<Transport> {
    #[cfg(test)]
    if let Some(server) = super::tests::simulation::connect() {
        return Ok(server);
    }
    Ok(Box::new(aio::connect_to(host, port).await?))
}

/// A client's stream while it speaks HTTP: records activity, and inspects the bytes that are read.
pub(super) struct ClientStream {
    stream: Transport,
    activity: Activity,
    request_framing: RequestFraming,
}

impl ClientStream {
    pub(super) fn new(stream: Transport, activity: Activity, malformed_body: &MalformedBody) -> ClientStream {
        ClientStream { stream, activity, request_framing: RequestFraming::new(malformed_body) }
    }

    pub(super) fn into_inner(self) -> Transport {
        self.stream
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, out));
        this.activity.note_received(out.filled().len() - before);
        this.request_framing.inspect(&mut out.filled_mut()[before..]);
        Poll::Ready(read)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.activity.note_sent(*written.as_ref().unwrap_or(&0));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A listener on the current runtime.
pub(super) fn listener(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Accepts the next client of `listener`.
pub(super) async fn accept(listener: &tokio::net::TcpListener) -> io::Result<(Transport, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((Box::new(stream), peer))
}
