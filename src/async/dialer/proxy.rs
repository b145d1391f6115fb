//! Proxies for dialers: which proxy is used, if any, and its handshake.
//!
//! HTTP proxies with CONNECT (RFC 9110, 9.3.6; RFC 6455, 4.1, requires it for `ws` too), and SOCKS5 proxies (RFC 1928,
//! 1929), which resolve the server's name themselves. Never: the WebSocket handshake.

#![forbid(unsafe_code)]

mod environment;
mod tunnel;

use std::fmt;

use echoring_proto::Url;

pub use echoring_proto::tunnel::BadProxy;
pub(crate) use tunnel::tunnel;
pub use tunnel::{ProxyError, SocksError};

use echoring_proto::tunnel::{ProxyKind, ProxyServer};
use environment::EnvironmentProxies;

/// The proxy that connections are opened through.
///
/// ```
/// use echoring::{Dialer, Proxy};
///
/// let through_http = Dialer::new().proxy(Proxy::http("http://user:secret@proxy.example:3128")?);
/// let through_socks = Dialer::new().proxy(Proxy::socks5("socks5://127.0.0.1:1080")?);
/// let from_environment = Dialer::new().proxy(Proxy::from_env()?);
/// # Ok::<(), echoring::BadProxy>(())
/// ```
#[derive(Clone, Debug)]
pub struct Proxy(ProxyRoute);

#[derive(Clone)]
enum ProxyRoute {
    One(ProxyServer),
    EnvironmentProxies(EnvironmentProxies),
}

impl fmt::Debug for ProxyRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyRoute::One(server) => write!(f, "{server}"),
            ProxyRoute::EnvironmentProxies(_) => f.write_str("from the environment"),
        }
    }
}

impl Proxy {
    /// An HTTP proxy, `http://[user:password@]host[:port]`; the default port is 80. User name and password are
    /// percent-encoded, and are sent as Basic credentials (RFC 7617) without encryption.
    ///
    /// # Errors
    /// The problem with the URL.
    pub fn http(url: &str) -> Result<Proxy, BadProxy> {
        ProxyServer::parse(url, ProxyKind::Http).map(|server| Proxy(ProxyRoute::One(server)))
    }

    /// A SOCKS5 proxy, `socks5://[user:password@]host[:port]`; the default port is 1080; `socks5h://` is the same. The
    /// proxy resolves the server's name.
    ///
    /// # Errors
    /// The problem with the URL.
    pub fn socks5(url: &str) -> Result<Proxy, BadProxy> {
        ProxyServer::parse(url, ProxyKind::Socks5).map(|server| Proxy(ProxyRoute::One(server)))
    }

    /// The proxy in the environment variables: `HTTPS_PROXY` for `wss`, `HTTP_PROXY` for `ws`, otherwise `ALL_PROXY`;
    /// the lower-case name of each takes precedence. `NO_PROXY` lists exceptions.
    ///
    /// A value is a URL as above, or `host:port` of an HTTP proxy. `NO_PROXY` is a comma-separated list: `*` for every
    /// host, an IP address, a network such as `10.0.0.0/8`, or a name, which includes its subdomains; with a leading
    /// dot, only the subdomains. All but networks may have a port. `localhost` and loopback addresses never use a
    /// proxy. If `REQUEST_METHOD` is set, `HTTP_PROXY` is ignored, because a CGI server sets it from a client's header.
    ///
    /// # Errors
    /// The problem with a variable's value.
    pub fn from_env() -> Result<Proxy, BadProxy> {
        EnvironmentProxies::read(|name| std::env::var(name).ok())
            .map(|rules| Proxy(ProxyRoute::EnvironmentProxies(rules)))
    }

    /// The proxy for `url`; `None` for a direct connection.
    pub fn to(&self, url: &Url) -> Option<&ProxyServer> {
        match &self.0 {
            ProxyRoute::One(server) => Some(server),
            ProxyRoute::EnvironmentProxies(rules) => rules.to(url),
        }
    }
}
