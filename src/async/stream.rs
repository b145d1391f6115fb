//! The stream below a client connection: plain or TLS.
//!
//! Never: certificate verification, which is configured in rustls.

#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A stream, with TLS or without.
///
/// ```
/// use echoring::{ClientStream, Conn};
///
/// fn describe(conn: &Conn<ClientStream>) -> std::io::Result<String> {
///     let stream = conn.get_ref();
///     let version = stream.tls().and_then(|tls| tls.protocol_version());
///     Ok(format!("{} with {version:?}", stream.get_ref().peer_addr()?))
/// }
/// ```
#[derive(Debug)]
pub enum MaybeTls<S> {
    /// `ws`.
    Plain(S),
    /// `wss`.
    Tls(Box<TlsStream<S>>),
}

/// The stream of [`Dialer::dial`](super::Dialer::dial): TCP to the server or to a proxy.
///
/// ```
/// use echoring::{ClientStream, Conn, DialError, dial};
///
/// async fn connect() -> Result<Conn<ClientStream>, DialError> {
///     dial("wss://echo.example/").await
/// }
/// ```
pub type ClientStream = MaybeTls<TcpStream>;

impl<S> MaybeTls<S> {
    /// The underlying stream.
    pub fn get_ref(&self) -> &S {
        match self {
            MaybeTls::Plain(stream) => stream,
            MaybeTls::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The TLS connection, for example for the server's certificates; `None` without TLS.
    pub fn tls(&self) -> Option<&rustls::ClientConnection> {
        match self {
            MaybeTls::Plain(_) => None,
            MaybeTls::Tls(stream) => Some(stream.get_ref().1),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            MaybeTls::Plain(stream) => stream.is_write_vectored(),
            MaybeTls::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_flush(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTls::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
