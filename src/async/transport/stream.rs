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
///     let scheme = if stream.is_tls() { "wss" } else { "ws" };
///     Ok(format!("{scheme} to {}", stream.get_ref().peer_addr()?))
/// }
/// ```
#[derive(Debug)]
pub struct MaybeTls<S>(Kind<S>);

#[derive(Debug)]
enum Kind<S> {
    /// `ws`.
    Plain(S),
    /// `wss`.
    Tls(Box<TlsStream<S>>),
}

/// The stream of [`Dialer::dial`](crate::Dialer::dial): TCP to the server or to a proxy.
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
    /// A stream without TLS, for code that has either.
    pub fn plain(stream: S) -> MaybeTls<S> {
        MaybeTls(Kind::Plain(stream))
    }

    pub(crate) fn tls(stream: TlsStream<S>) -> MaybeTls<S> {
        MaybeTls(Kind::Tls(Box::new(stream)))
    }

    /// The underlying stream.
    pub fn get_ref(&self) -> &S {
        match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether there is TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Kind::Tls(_))
    }

    /// The server's certificates in DER, its own first; none without TLS.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), echoring::DialError> {
    /// let conn = echoring::dial("wss://server.example/").await?;
    /// let own = conn.get_ref().peer_certificates().next().map(<[u8]>::len);
    /// println!("the server's certificate has {own:?} bytes");
    /// # Ok(())
    /// # }
    /// ```
    pub fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        let certificates = match &self.0 {
            Kind::Plain(_) => None,
            Kind::Tls(stream) => stream.get_ref().1.peer_certificates(),
        };
        certificates.unwrap_or_default().iter().map(|certificate| certificate.as_ref())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
