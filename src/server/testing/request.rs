//! [`TestRequest`]: what a test client asks for.

use std::rc::Rc;

use super::client::TestClient;
use super::peer::Opening;
use super::response::TestResponse;
use super::simulated::Simulated;
use echoring_proto::connection::Compression;
use echoring_proto::handshake::Dial;

/// The name of the host in the requests of test clients.
pub(super) const HOST: &str = "test.example";

/// A request to a [`TestServer`](super::TestServer), from [`TestServer::request`](super::TestServer::request).
///
/// Like a client that is not a browser, it has no `Origin` unless one is set. CR, LF and NUL in its parts are removed.
///
/// ```
/// use echoring::server::{Handler, Route, Server};
/// use echoring::testing::TestServer;
///
/// struct Chat;
///
/// impl Handler for Chat {}
///
/// let server = TestServer::new(Server::builder().route(Route::new("/chat", || Chat).subprotocol(["chat.v2"])));
/// let client = server.request("/chat").subprotocols(["chat.v3", "chat.v2"]).header("X-Device", "7").connect()?;
/// assert_eq!(client.subprotocol().as_deref(), Some("chat.v2"));
/// let refused = server.request("/chat").origin("https://evil.example").connect().unwrap_err();
/// assert_eq!(refused.status(), 403);
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
#[derive(Debug)]
#[must_use = "a request does nothing until `connect` or `get`"]
pub struct TestRequest<'a> {
    simulated: &'a Rc<Simulated>,
    dial: Dial,
    compression: Option<Compression>,
    buffer_bytes: Option<usize>,
    is_stalled: bool,
}

impl<'a> TestRequest<'a> {
    pub(super) fn new(simulated: &'a Rc<Simulated>, path: &str) -> TestRequest<'a> {
        let dial = Dial { host: HOST.to_owned(), path: path.to_owned(), ..Dial::default() };
        TestRequest { simulated, dial, compression: None, buffer_bytes: None, is_stalled: false }
    }

    /// The value of `Host`; `test.example` by default.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.dial.host = host.into();
        self
    }

    /// The `Origin` that a browser would send, such as `https://test.example`.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.dial.origin = Some(origin.into());
        self
    }

    /// Adds a header field, such as `Cookie` or `Authorization`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.dial.headers.push((name.into(), value.into().into_bytes()));
        self
    }

    /// Offers subprotocols, preferred first.
    pub fn subprotocols<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.dial.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Offers permessage-deflate (RFC 7692).
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Bytes that may be on the way in each direction, as in the buffers of sockets; 64 KiB by default. When they are full,
    /// because one end does not read, the other end cannot write.
    ///
    /// # Panics
    /// If it is 0.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "nothing passes a transport without buffers");
        self.buffer_bytes = Some(bytes);
        self
    }

    /// Reads nothing behind the response, until [`TestClient::resume`].
    pub fn stalled(mut self) -> Self {
        self.is_stalled = true;
        self
    }

    /// Opens a WebSocket connection. The server runs until it has answered, with time passing only if it needs that; and on, until
    /// nothing more happens without time passing.
    ///
    /// # Errors
    /// The response that refuses the request.
    pub fn connect(self) -> Result<TestClient, TestResponse> {
        let TestRequest { simulated, dial, compression, buffer_bytes, is_stalled } = self;
        let number = simulated.add_client(Opening::Upgrade(dial, compression), buffer_bytes);
        if is_stalled {
            simulated.with_client(number, |peer, _| peer.stalls_when_open = true);
        }
        simulated.run_until_answered(number);
        TestClient::opened(simulated, number)
    }

    /// Sends a plain GET request. The server runs as for [`connect`](TestRequest::connect).
    pub fn get(self) -> TestResponse {
        let Dial { host, path, origin, headers, .. } = self.dial;
        let origin = origin.map(|origin| ("Origin".to_owned(), origin.into_bytes()));
        let fields = headers.into_iter().chain(origin);
        let fields = fields.map(|(name, value)| [name.as_bytes(), b": ", &value].concat());
        let head = [format!("GET {path} HTTP/1.1"), format!("Host: {host}")].map(String::into_bytes);
        let mut request = Vec::new();
        for line in head.into_iter().chain(fields).chain([Vec::new()]) {
            request.extend(line.into_iter().filter(|byte| !b"\r\n\0".contains(byte)));
            request.extend_from_slice(b"\r\n");
        }
        let number = self.simulated.add_client(Opening::Http(request), self.buffer_bytes);
        self.simulated.run_until_answered(number);
        self.simulated.with_client(number, |peer, network| {
            let response = peer.response();
            peer.disconnect(network);
            response
        })
    }
}
