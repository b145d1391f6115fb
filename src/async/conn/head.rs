//! The head of the peer's part of the handshake, for programs that asked to keep it.

use bytes::Bytes;

use super::Conn;
use super::core::{Shared, Transport};
use super::origin::Head;
use super::reader::Reader;
use super::writer::Writer;

impl<S> Shared<S> {
    fn request(&self) -> Option<&http::Request<()>> {
        match self.head.as_deref()? {
            Head::Request(request) => Some(request),
            #[cfg(feature = "client")]
            Head::Response(_) => None,
        }
    }

    fn response(&self) -> Option<&http::Response<Bytes>> {
        match self.head.as_deref()? {
            Head::Request(_) => None,
            #[cfg(feature = "client")]
            Head::Response(response) => Some(response),
        }
    }
}

impl<S: Transport> Conn<S> {
    /// The request that opened this server connection, if
    /// [`Upgrader::keep_request`](crate::Upgrader::keep_request) asked to keep it.
    ///
    /// ```
    /// # use tokio::io::AsyncWriteExt as _;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use echoring::Upgrader;
    ///
    /// # let (stream, mut far) = tokio::io::duplex(1024);
    /// # far.write_all(b"GET /rooms/7?name=ada HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    /// #     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await?;
    /// let conn = Upgrader::new().keep_request(true).accept(stream).await?;
    /// let request = conn.request().expect("it was kept");
    /// assert_eq!((request.uri().path(), request.uri().query()), ("/rooms/7", Some("name=ada")));
    /// assert_eq!(request.headers()["host"], "a");
    /// # Ok(())
    /// # }
    /// ```
    pub fn request(&self) -> Option<&http::Request<()>> {
        self.reader.request()
    }

    /// The 101 response that opened this client connection, if `Dialer::keep_response` asked to keep it. Its body is
    /// empty.
    pub fn response(&self) -> Option<&http::Response<Bytes>> {
        self.reader.response()
    }
}

impl<S: Transport> Reader<S> {
    /// The request that opened the connection. See [`Conn::request`].
    pub fn request(&self) -> Option<&http::Request<()>> {
        self.shared.request()
    }

    /// The response that opened the connection. See [`Conn::response`].
    pub fn response(&self) -> Option<&http::Response<Bytes>> {
        self.shared.response()
    }
}

impl<S: Transport> Writer<S> {
    /// The request that opened the connection. See [`Conn::request`].
    pub fn request(&self) -> Option<&http::Request<()>> {
        self.shared.request()
    }

    /// The response that opened the connection. See [`Conn::response`].
    pub fn response(&self) -> Option<&http::Response<Bytes>> {
        self.shared.response()
    }
}
