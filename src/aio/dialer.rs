//! The client's side of opening a connection: name, TCP, proxy, TLS, request.
//!
//! Never: following redirects, which would send a program's credentials to whom it did not name; they are reported.

#![forbid(unsafe_code)]

mod ask;
mod connect;
mod cookies;
mod error;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

#[cfg(not(target_env = "musl"))]
use super::UringStream;
use super::stream::{ClientStream, MaybeTls};
use super::{BufferPool, Conn, Heartbeat, Opened, Proxy, Settings};
use crate::connection::Compression;
use crate::limits::{CONN_BUFFER_BYTES_DEFAULT, CONNECT_TIMEOUT, DIAL_TIMEOUT};
use crate::protocol::Url;
use crate::protocol::handshake::{self, BadField, check_field, is_subprotocol};
use crate::tls::{Trust, client_config};

#[cfg(feature = "cli")]
pub(crate) use connect::connect_to;
pub use cookies::Jar;
pub use error::{DialError, Response, Stage};

/// Opens the client's end of connections.
///
/// By default a dial takes 45 seconds at most, ten of them for the TCP connection; `wss` believes the system's roots;
/// no proxy is used and messages are not compressed. A setting applies to the connections opened after it. Clones are
/// cheap and share TLS sessions.
///
/// ```no_run
/// use echoring::aio::{DialError, Dialer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dialer = Dialer::new().header("Authorization", "Bearer secret").subprotocols(["chat"]);
/// let mut conn = match dialer.dial("wss://server.example/chat").await {
///     Ok(conn) => conn,
///     Err(DialError::BadHandshake { why, response }) => {
///         let body = response.map(|response| response.into_body()).unwrap_or_default();
///         return Err(format!("{why}: {}", String::from_utf8_lossy(&body)).into());
///     }
///     Err(error) => return Err(error.into()),
/// };
/// conn.write("hello").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dialer {
    settings: Settings,
    request: handshake::Dial,
    bad_field: Option<(String, BadField)>,
    connect_timeout: Option<Duration>,
    handshake_timeout: Option<Duration>,
    tls: ClientTls,
    proxy: Option<Proxy>,
    jar: Option<Arc<dyn Jar>>,
    local: Option<SocketAddr>,
}

/// Whom a client believes and how it speaks TLS: made from a [`Trust`], or from a whole configuration of rustls.
#[derive(Clone)]
pub struct ClientTls(Arc<Lazy>);

struct Lazy {
    trust: Trust,
    /// Read with the first `wss`, and kept: the roots are many, and sessions are resumed only within one.
    config: OnceLock<Arc<ClientConfig>>,
}

impl From<Trust> for ClientTls {
    fn from(trust: Trust) -> ClientTls {
        ClientTls(Arc::new(Lazy { trust, config: OnceLock::new() }))
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls(Arc::new(Lazy { trust: Trust::System, config: OnceLock::from(config) }))
    }
}

impl ClientTls {
    fn config(&self) -> Result<Arc<ClientConfig>, DialError> {
        if let Some(config) = self.0.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = client_config(&self.0.trust).map_err(DialError::TlsSetup)?;
        Ok(Arc::clone(self.0.config.get_or_init(|| config)))
    }
}

impl Default for Dialer {
    fn default() -> Dialer {
        Dialer::new()
    }
}

impl Dialer {
    /// With the defaults named above.
    pub fn new() -> Dialer {
        Dialer {
            settings: Settings::default(),
            request: handshake::Dial::default(),
            bad_field: None,
            connect_timeout: Some(Duration::from_nanos(CONNECT_TIMEOUT)),
            handshake_timeout: Some(Duration::from_nanos(DIAL_TIMEOUT)),
            tls: ClientTls::from(Trust::System),
            proxy: None,
            jar: None,
            local: None,
        }
    }

    /// Adds a field to the request. One that [may not be added](crate::protocol::handshake::check_field), because it
    /// is malformed or has a setting of its own here, makes every dial fail.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Dialer {
        let (name, value) = (name.into(), value.into());
        match check_field(&name, &value) {
            Ok(()) => self.request.headers.push((name, value)),
            Err(why) => self.bad_field = Some((name, why)),
        }
        self
    }

    /// What `Host` says in place of the URL's authority, for servers behind an address of another name. TLS still
    /// wants the URL's name.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Dialer {
        let host = host.into();
        match check_field("X-Host", &host) {
            Ok(()) => self.request.host = host,
            Err(why) => self.bad_field = Some(("Host".to_owned(), why)),
        }
        self
    }

    /// The `Origin` to send, such as `https://example.com`; none by default, as suits a program that is no browser.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Dialer {
        let origin = origin.into();
        match check_field("X-Origin", &origin) {
            Ok(()) => self.request.origin = Some(origin),
            Err(why) => self.bad_field = Some(("Origin".to_owned(), why)),
        }
        self
    }

    /// Subprotocols to offer, best first. One that is no token makes every dial fail.
    #[must_use]
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Dialer {
        self.request.subprotocols = names.into_iter().map(Into::into).collect();
        if self.request.subprotocols.iter().any(|name| !is_subprotocol(name)) {
            self.bad_field = Some(("Sec-WebSocket-Protocol".to_owned(), BadField::Value));
        }
        self
    }

    /// Offers to compress messages (RFC 7692).
    #[must_use]
    pub fn compression(mut self, compression: impl Into<Option<Compression>>) -> Dialer {
        self.settings.compression = compression.into();
        self
    }

    /// How long the name and the TCP connection may take, to the server or to the proxy; `None` for as long as
    /// [`handshake_timeout`](Dialer::handshake_timeout) lets them.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Dialer {
        self.connect_timeout = timeout.into();
        self
    }

    /// How long a dial may take altogether, from the name to the server's answer; `None` for ever.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Dialer {
        self.handshake_timeout = timeout.into();
        self
    }

    /// Whom to believe when the URL says `wss`: a [`Trust`] or an `Arc<rustls::ClientConfig>`.
    #[must_use]
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Dialer {
        self.tls = tls.into();
        self
    }

    /// The way to the server.
    #[must_use]
    pub fn proxy(mut self, proxy: impl Into<Option<Proxy>>) -> Dialer {
        self.proxy = proxy.into();
        self
    }

    /// Who keeps cookies.
    #[must_use]
    pub fn cookies(mut self, jar: impl Into<Option<Arc<dyn Jar>>>) -> Dialer {
        self.jar = jar.into();
        self
    }

    /// The address to connect from; port 0 for any.
    #[must_use]
    pub fn local_addr(mut self, address: impl Into<Option<SocketAddr>>) -> Dialer {
        self.local = address.into();
        self
    }

    /// Bytes that one read asks for, 4,096 by default, which 0 means too. It limits no message.
    #[must_use]
    pub fn read_buffer_bytes(mut self, bytes: usize) -> Dialer {
        self.settings.read_buffer_bytes = or_default(bytes);
        self
    }

    /// Bytes that a message which is written in pieces gathers before they leave as a frame, 4,096 by default, which 0
    /// means too.
    #[must_use]
    pub fn write_buffer_bytes(mut self, bytes: usize) -> Dialer {
        self.settings.write_buffer_bytes = or_default(bytes);
        self
    }

    /// Shares buffers among connections, so that those that are idle hold none.
    #[must_use]
    pub fn buffers(mut self, buffers: BufferPool) -> Dialer {
        self.settings.buffers = Some(buffers);
        self
    }

    /// Bytes of a message at most, 64 KiB by default; a longer one ends the connection with 1009.
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: u64) -> Dialer {
        self.settings.message_bytes_max = bytes;
        self
    }

    /// Notices servers that are gone.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<Heartbeat>>) -> Dialer {
        self.settings.heartbeat = heartbeat.into();
        self
    }

    /// Everything that holds for the connections, in place of what was set before.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Dialer {
        self.settings = settings;
        self
    }

    /// Opens a connection to `url`. Dropping the future gives up.
    ///
    /// # Errors
    /// Which step failed and why.
    pub async fn dial(&self, url: &str) -> Result<Conn<ClientStream>, DialError> {
        self.dial_with_response(url).await.map(|(conn, _)| conn)
    }

    /// The same, and what the server's 101 said.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    pub async fn dial_with_response(&self, url: &str) -> Result<(Conn<ClientStream>, Response), DialError> {
        let url = self.check(url)?;
        let clock = self.clock();
        let stream = self.connect(&url, &clock).await?;
        let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
        self.open(&url, stream, addresses, &clock).await
    }

    /// Opens a connection over a stream that leads to the server: one of a kind that is not known here, or through
    /// what is neither of the proxies known here. TLS goes on top of it when `url` says `wss`.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    pub async fn dial_over<S>(&self, url: &str, stream: S) -> Result<Conn<MaybeTls<S>>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let url = self.check(url)?;
        self.open(&url, stream, (None, None), &self.clock()).await.map(|(conn, _)| conn)
    }

    /// Opens a connection whose bytes go through the ring of tokio-uring, on whose runtime this must be called; see
    /// [`ring_allowed`](super::ring_allowed). Not with musl, which tokio-uring does not build against.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    #[cfg(not(target_env = "musl"))]
    pub async fn dial_uring(&self, url: &str) -> Result<Conn<MaybeTls<UringStream>>, DialError> {
        let url = self.check(url)?;
        let clock = self.clock();
        let stream = self.connect(&url, &clock).await?;
        let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
        let stream = UringStream::from_tokio(stream).map_err(DialError::Io)?;
        self.open(&url, stream, addresses, &clock).await.map(|(conn, _)| conn)
    }

    fn check(&self, url: &str) -> Result<Url, DialError> {
        let url = Url::parse(url).map_err(DialError::BadUrl)?;
        match &self.bad_field {
            Some((name, why)) => Err(DialError::BadField { name: name.clone(), why: *why }),
            None => Ok(url),
        }
    }

    fn clock(&self) -> Clock {
        Clock { until: self.handshake_timeout.map(|timeout| Instant::now() + timeout) }
    }

    /// TCP to the server, as far as can be told.
    async fn connect(&self, url: &Url, clock: &Clock) -> Result<TcpStream, DialError> {
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.to(url));
        let (host, port) = proxy.map_or((&url.host, url.port), |proxy| (&proxy.host, proxy.port));
        let connecting = clock.shortened(self.connect_timeout);
        let addresses = connecting.run(Stage::Resolve, connect::resolve(host, port)).await?;
        let addresses = addresses.map_err(DialError::Resolve)?;
        let stream = connecting.run(Stage::Connect, connect::race(&addresses, self.local)).await?;
        let stream = stream.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        match proxy {
            None => Ok(stream),
            Some(proxy) => {
                clock.run(Stage::Proxy, proxy.tunnel(stream, url)).await?.map_err(DialError::Proxy)
            }
        }
    }

    /// TLS and the WebSocket's own handshake.
    async fn open<S>(
        &self,
        url: &Url,
        stream: S,
        (local, peer): (Option<SocketAddr>, Option<SocketAddr>),
        clock: &Clock,
    ) -> Result<(Conn<MaybeTls<S>>, Response), DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = match url.secure {
            false => MaybeTls::Plain(stream),
            true => {
                let connector = TlsConnector::from(self.tls.config()?);
                let name = ServerName::try_from(url.host.clone())
                    .map_err(|_| DialError::BadUrl(crate::protocol::url::BadUrl::Host))?;
                let secured = clock.run(Stage::Tls, connector.connect(name, stream)).await?;
                MaybeTls::Tls(Box::new(secured.map_err(DialError::of_tls)?))
            }
        };
        let (opened, response) = ask::ask(self, url, &mut stream, clock).await?;
        Ok((Conn::new(stream, &self.settings, Opened { local, peer, ..opened }), response))
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Fields may be secrets.
        f.debug_struct("Dialer")
            .field("settings", &self.settings)
            .field("subprotocols", &self.request.subprotocols)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

/// Opens a connection with the default [`Dialer`].
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut conn = echoring::aio::dial("ws://127.0.0.1:9001/echo").await?;
/// conn.write("hello").await?;
/// println!("{:?}", conn.read().await?);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Dialer::dial`].
pub async fn dial(url: &str) -> Result<Conn<ClientStream>, DialError> {
    static DEFAULT: LazyLock<Dialer> = LazyLock::new(Dialer::new);
    DEFAULT.dial(url).await
}

fn or_default(bytes: usize) -> usize {
    if bytes == 0 { CONN_BUFFER_BYTES_DEFAULT } else { bytes }
}

/// Until when a dial may take.
struct Clock {
    until: Option<Instant>,
}

impl Clock {
    /// One that runs out after `timeout` from now as well.
    fn shortened(&self, timeout: Option<Duration>) -> Clock {
        let own = timeout.map(|timeout| Instant::now() + timeout);
        Clock { until: [self.until, own].into_iter().flatten().min() }
    }

    async fn run<T>(&self, stage: Stage, step: impl Future<Output = T>) -> Result<T, DialError> {
        match self.until {
            Some(until) => timeout_at(until, step).await.map_err(|_| DialError::Timeout(stage)),
            None => Ok(step.await),
        }
    }
}
