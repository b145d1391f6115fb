//! The client side of opening a connection: DNS, TCP, proxy, TLS, WebSocket handshake.
//!
//! Never: following redirects, because that would send credentials to a host that the program did not name; they are
//! returned as errors.

#![forbid(unsafe_code)]

mod connect;
mod cookies;
mod error;
mod forwarding;
pub(crate) mod proxy;
mod request;

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

#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
use super::UringStream;
use super::{BufferPool, Conn, Heartbeat, Opened, Proxy, Settings, Transport};
use crate::conn::{Head, Origin, Trace};
use crate::limits::{CONNECT_TIMEOUT, DIAL_TIMEOUT, SETTING_TIME_MAX};
use crate::tls::{Identity, Trust, client_config_with};
use crate::transport::stream::{ClientStream, MaybeTls};
use echoring_proto::connection::Compression;
use echoring_proto::handshake::{self, BadField, check_field, check_subprotocols};
use echoring_proto::{Role, Url};

pub use connect::{connect_to, connect_to_any};
pub use cookies::Jar;
pub use error::{DialError, Response, Stage};

/// Opens client connections. By default a dial takes at most 45 seconds, ten of them for the TCP connection; `wss`
/// trusts the system's root certificates; no proxy is used, and messages are not compressed. A setting applies to
/// connections that are opened afterwards. Clones are cheap and share TLS sessions.
///
/// ```no_run
/// use echoring::{DialError, Dialer};
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
#[must_use]
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
    keeps_response: bool,
}

/// TLS settings of a client: made from a [`Trust`], with or without an [`Identity`], or from a configuration of rustls 0.23.
///
/// ```
/// use echoring::tls::{Identity, Trust};
/// use echoring::{ClientTls, Dialer};
///
/// let identity = Identity { certificates: "/etc/client/chain.pem".into(), key: "/etc/client/key.pem".into() };
/// let dialer = Dialer::new().tls(ClientTls::with_identity(Trust::System, identity));
/// # drop(dialer);
/// ```
#[derive(Clone)]
pub struct ClientTls(Arc<Lazy>);

struct Lazy {
    trust: Trust,
    identity: Option<Identity>,
    /// Created for the first `wss` connection and kept: reading the roots takes time, and sessions are resumed only
    /// within one configuration.
    config: OnceLock<Arc<ClientConfig>>,
}

impl From<Trust> for ClientTls {
    fn from(trust: Trust) -> ClientTls {
        ClientTls::new(trust, None)
    }
}

/// A configuration of the program's own, as it is: it should offer `http/1.1` by ALPN, or nothing.
impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls(Arc::new(Lazy { trust: Trust::System, identity: None, config: OnceLock::from(config) }))
    }
}

impl ClientTls {
    /// Identifies the client to servers that ask for a certificate. The files are read by the first dial.
    pub fn with_identity(trust: Trust, identity: Identity) -> ClientTls {
        ClientTls::new(trust, Some(identity))
    }

    fn new(trust: Trust, identity: Option<Identity>) -> ClientTls {
        ClientTls(Arc::new(Lazy { trust, identity, config: OnceLock::new() }))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, DialError> {
        if let Some(config) = self.0.config.get() {
            return Ok(Arc::clone(config));
        }
        let Lazy { trust, identity, .. } = &*self.0;
        let config = client_config_with(trust, identity.as_ref()).map_err(DialError::TlsSetup)?;
        Ok(Arc::clone(self.0.config.get_or_init(|| config)))
    }
}

impl Default for Dialer {
    fn default() -> Dialer {
        Dialer::new()
    }
}

impl Dialer {
    /// A dialer with the defaults above.
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
            keeps_response: false,
        }
    }

    /// Adds a header field to the request. A field that [may not be added](echoring_proto::handshake::check_field),
    /// because it is malformed or has its own setting here, makes every dial fail.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Dialer {
        let (name, value) = (name.into(), value.into());
        match check_field(&name, &value) {
            Ok(()) => self.request.headers.push((name, value.into_bytes())),
            Err(why) => self.bad_field = Some((name, why)),
        }
        self
    }

    /// Sends this `Host` instead of the URL's authority, for servers that are reached under another name. TLS still
    /// verifies the URL's name.
    pub fn host(mut self, host: impl Into<String>) -> Dialer {
        let host = host.into();
        match check_field("X-Host", &host) {
            Ok(()) => self.request.host = host,
            Err(why) => self.bad_field = Some(("Host".to_owned(), why)),
        }
        self
    }

    /// Sends this `Origin`, such as `https://example.com`. By default none is sent, as usual for non-browser clients.
    pub fn origin(mut self, origin: impl Into<String>) -> Dialer {
        let origin = origin.into();
        match check_field("X-Origin", &origin) {
            Ok(()) => self.request.origin = Some(origin),
            Err(why) => self.bad_field = Some(("Origin".to_owned(), why)),
        }
        self
    }

    /// Subprotocols to offer, in order of preference. A name that is invalid, or that is given twice (RFC 6455, 4.1), makes every dial
    /// fail.
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Dialer {
        self.request.subprotocols = names.into_iter().map(Into::into).collect();
        if let Err(why) = check_subprotocols(&self.request.subprotocols) {
            self.bad_field = Some(("Sec-WebSocket-Protocol".to_owned(), why));
        }
        self
    }

    /// Offers permessage-deflate (RFC 7692).
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> Dialer {
        Dialer { settings: self.settings.compression(compression), ..self }
    }

    /// Time limit for the name lookup and the TCP connection, to the server or to the proxy; `None` for no limit but
    /// [`handshake_timeout`](Dialer::handshake_timeout).
    pub fn connect_timeout(self, timeout: impl Into<Option<Duration>>) -> Dialer {
        Dialer { connect_timeout: timeout.into().map(|timeout| timeout.min(SETTING_TIME_MAX)), ..self }
    }

    /// Time limit for the whole dial, from the name lookup to the server's response; `None` for no limit.
    pub fn handshake_timeout(self, timeout: impl Into<Option<Duration>>) -> Dialer {
        Dialer { handshake_timeout: timeout.into().map(|timeout| timeout.min(SETTING_TIME_MAX)), ..self }
    }

    /// TLS settings for `wss` URLs: a [`Trust`], a [`ClientTls`], or an `Arc<rustls::ClientConfig>`.
    pub fn tls(self, tls: impl Into<ClientTls>) -> Dialer {
        Dialer { tls: tls.into(), ..self }
    }

    /// Connects through this proxy.
    pub fn proxy(self, proxy: impl Into<Option<Proxy>>) -> Dialer {
        Dialer { proxy: proxy.into(), ..self }
    }

    /// The cookie store.
    pub fn cookies(self, jar: impl Into<Option<Arc<dyn Jar>>>) -> Dialer {
        Dialer { jar: jar.into(), ..self }
    }

    /// The local address to connect from; port 0 for any.
    pub fn local_addr(self, address: impl Into<Option<SocketAddr>>) -> Dialer {
        Dialer { local: address.into(), ..self }
    }

    /// Maximum number of bytes per read, 4,096 by default or with 0. It does not limit the message size.
    pub fn read_buffer_bytes(self, bytes: usize) -> Dialer {
        Dialer { settings: self.settings.read_buffer_bytes(bytes), ..self }
    }

    /// Size in bytes of the fragments of a streamed message, 4,096 by default or with 0.
    pub fn write_buffer_bytes(self, bytes: usize) -> Dialer {
        Dialer { settings: self.settings.write_buffer_bytes(bytes), ..self }
    }

    /// The pool of buffers that connections share, so that idle ones hold none.
    pub fn buffers(self, buffers: BufferPool) -> Dialer {
        Dialer { settings: self.settings.buffers(buffers), ..self }
    }

    /// Maximum size of a received message in bytes, 64 KiB by default; a longer one closes the connection with 1009.
    pub fn max_message(self, bytes: u64) -> Dialer {
        Dialer { settings: self.settings.max_message(bytes), ..self }
    }

    /// Time limit for a server to read what it is sent; past it the connection ends. See
    /// [`Settings::write_timeout`](crate::Settings::write_timeout).
    pub fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> Dialer {
        Dialer { settings: self.settings.write_timeout(timeout), ..self }
    }

    /// Sends heartbeats, to detect dead servers.
    pub fn heartbeat(self, heartbeat: impl Into<Option<Heartbeat>>) -> Dialer {
        Dialer { settings: self.settings.heartbeat(heartbeat), ..self }
    }

    /// Replaces all settings of the connections.
    pub fn settings(self, settings: Settings) -> Dialer {
        Dialer { settings, ..self }
    }

    /// Keeps the server's 101 response with each connection, as [`Conn::response`]. Not kept by default: a head takes one
    /// to three kB for as long as the connection is open.
    pub fn keep_response(self, keeps: bool) -> Dialer {
        Dialer { keeps_response: keeps, ..self }
    }

    /// Opens a connection to `url`. Dropping the future cancels the dial.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn dial(&self, url: &str) -> Result<Conn<ClientStream>, DialError> {
        self.dial_with_response(url).await.map(|(conn, _)| conn)
    }

    /// As [`dial`](Dialer::dial), and returns the server's 101 response too.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    pub async fn dial_with_response(&self, url: &str) -> Result<(Conn<ClientStream>, Response), DialError> {
        let (url, trace) = (self.check(url)?, Trace::begin(Role::Client));
        let dialling = async {
            let deadline = self.deadline();
            let stream = self.connect(&url, &deadline).await?;
            let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
            self.open(&url, stream, addresses, &deadline).await
        };
        self.finish(dialling.await, trace)
    }

    /// Opens a connection over an existing stream to the server, for transports and proxies that are not supported
    /// here. TLS is added on top if `url` says `wss`.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    pub async fn dial_over<S>(&self, url: &str, stream: S) -> Result<Conn<MaybeTls<S>>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (url, trace) = (self.check(url)?, Trace::begin(Role::Client));
        let opened = self.open(&url, stream, (None, None), &self.deadline()).await;
        self.finish(opened, trace).map(|(conn, _)| conn)
    }

    /// Opens a connection whose I/O is done by tokio-uring. Must be called on its runtime; see
    /// [`ring_allowed`](super::ring_allowed). Not available with musl, which tokio-uring does not build against.
    ///
    /// # Errors
    /// As [`dial`](Dialer::dial).
    #[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
    pub async fn dial_uring(&self, url: &str) -> Result<Conn<MaybeTls<UringStream>>, DialError> {
        let (url, trace) = (self.check(url)?, Trace::begin(Role::Client));
        let dialling = async {
            let deadline = self.deadline();
            let stream = self.connect(&url, &deadline).await?;
            let addresses = (stream.local_addr().ok(), stream.peer_addr().ok());
            let stream = UringStream::from_tokio(stream).map_err(DialError::Io)?;
            self.open(&url, stream, addresses, &deadline).await
        };
        self.finish(dialling.await, trace).map(|(conn, _)| conn)
    }

    fn check(&self, url: &str) -> Result<Url, DialError> {
        let url = Url::parse(url).map_err(DialError::BadUrl)?;
        match &self.bad_field {
            Some((name, why)) => Err(DialError::BadField { name: name.clone(), why: *why }),
            None => Ok(url),
        }
    }

    fn deadline(&self) -> DialDeadline {
        DialDeadline { until: self.handshake_timeout.map(|timeout| Instant::now() + timeout) }
    }

    /// Opens a TCP connection to the server, directly or through the proxy.
    async fn connect(&self, url: &Url, deadline: &DialDeadline) -> Result<TcpStream, DialError> {
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.to(url));
        let (host, port) = proxy.map_or((&url.host, url.port), |proxy| (&proxy.host, proxy.port));
        let connecting = deadline.min_with(self.connect_timeout);
        let addresses = connecting.run(Stage::Resolve, connect::resolve(host, port)).await?;
        let addresses = addresses.map_err(DialError::Resolve)?;
        let stream = connecting.run(Stage::Connect, connect::race(&addresses, self.local)).await?;
        let stream = stream.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        match proxy {
            None => Ok(stream),
            Some(proxy) => {
                deadline.run(Stage::Proxy, proxy::tunnel(proxy, stream, url)).await?.map_err(DialError::Proxy)
            }
        }
    }

    /// Performs the TLS and WebSocket handshakes.
    async fn open<S: Transport>(
        &self,
        url: &Url,
        stream: S,
        (local, peer): (Option<SocketAddr>, Option<SocketAddr>),
        deadline: &DialDeadline,
    ) -> Result<Handshake<S>, DialError> {
        let mut stream = match url.secure {
            false => MaybeTls::plain(stream),
            true => {
                let connector = TlsConnector::from(self.tls.config()?);
                let name = ServerName::try_from(url.host.clone())
                    .map_err(|_| DialError::BadUrl(echoring_proto::url::BadUrl::Host))?;
                let secured = deadline.run(Stage::Tls, connector.connect(name, stream)).await?;
                MaybeTls::tls(secured.map_err(DialError::of_tls)?)
            }
        };
        let (opened, response) = request::request_upgrade(self, url, &mut stream, deadline).await?;
        Ok((stream, Opened { local, peer, ..opened }, response))
    }

    /// Makes the connection, or notes the failure.
    fn finish<S: Transport>(
        &self,
        opened: Result<Handshake<S>, DialError>,
        trace: Trace,
    ) -> Result<(Conn<MaybeTls<S>>, Response), DialError> {
        let (stream, opened, response) = opened.inspect_err(|error| trace.failed(error))?;
        let head = self.keeps_response.then(|| Box::new(Head::Response(response.clone())));
        Ok((Conn::with_origin(stream, &self.settings, opened, Origin { head, trace }), response))
    }
}

/// A stream after the handshake, its result, and the server's response.
type Handshake<S> = (MaybeTls<S>, Opened, Response);

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Header fields may be secrets.
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
/// let mut conn = echoring::dial("ws://127.0.0.1:9001/echo").await?;
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

/// The deadline of a dial.
struct DialDeadline {
    until: Option<Instant>,
}

impl DialDeadline {
    /// The earlier of this deadline and `timeout` from now.
    fn min_with(&self, timeout: Option<Duration>) -> DialDeadline {
        let own = timeout.map(|timeout| Instant::now() + timeout);
        DialDeadline { until: [self.until, own].into_iter().flatten().min() }
    }

    async fn run<T>(&self, stage: Stage, step: impl Future<Output = T>) -> Result<T, DialError> {
        match self.until {
            Some(until) => timeout_at(until, step).await.map_err(|_| DialError::Timeout(stage)),
            None => Ok(step.await),
        }
    }
}
