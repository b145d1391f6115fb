//! Proxies that a dialer goes through: which one, if any, and how they are asked for a connection.
//!
//! HTTP proxies by CONNECT (RFC 9110, 9.3.6; RFC 6455, 4.1, wants it for `ws` too), SOCKS5 proxies (RFC 1928, 1929),
//! which are given the name and resolve it themselves. Never: the WebSocket's own handshake.

#![forbid(unsafe_code)]

mod address;
mod environment;
mod tunnel;

use std::fmt;

use crate::protocol::Url;

pub use address::BadProxy;
pub use tunnel::ProxyError;

use address::{Kind, Server};
use environment::Rules;

/// The way to a server.
///
/// ```
/// use echoring::aio::{Dialer, Proxy};
///
/// let through_http = Dialer::new().proxy(Proxy::http("http://user:secret@proxy.example:3128")?);
/// let through_socks = Dialer::new().proxy(Proxy::socks5("socks5://127.0.0.1:1080")?);
/// let as_the_environment_says = Dialer::new().proxy(Proxy::from_env()?);
/// # Ok::<(), echoring::aio::BadProxy>(())
/// ```
#[derive(Clone, Debug)]
pub struct Proxy(Way);

#[derive(Clone)]
enum Way {
    One(Server),
    Rules(Rules),
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::One(server) => write!(f, "{server}"),
            Way::Rules(_) => f.write_str("by the environment"),
        }
    }
}

impl Proxy {
    /// An HTTP proxy, `http://[user:password@]host[:port]`, at port 80 when none is given. User name and password are
    /// percent-encoded, and go out as Basic credentials (RFC 7617) in the clear.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn http(url: &str) -> Result<Proxy, BadProxy> {
        Server::parse(url, Kind::Http).map(|server| Proxy(Way::One(server)))
    }

    /// A SOCKS5 proxy, `socks5://[user:password@]host[:port]`, at port 1080 when none is given; `socks5h://` means the
    /// same. The proxy resolves the server's name.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn socks5(url: &str) -> Result<Proxy, BadProxy> {
        Server::parse(url, Kind::Socks5).map(|server| Proxy(Way::One(server)))
    }

    /// What the environment says now: `HTTPS_PROXY` for `wss`, `HTTP_PROXY` for `ws`, else `ALL_PROXY`, each also in
    /// lower case, which goes first; `NO_PROXY` excepts hosts.
    ///
    /// A value is a URL of one of the forms above, or `host:port` of an HTTP proxy. `NO_PROXY` is a list with commas:
    /// `*` for every host, an IP address, a network such as `10.0.0.0/8`, a name, which also means all names below it,
    /// and with a dot in front only those; each but networks may have a port. `localhost` and loopback addresses are
    /// never reached through a proxy. Where `REQUEST_METHOD` is set, `HTTP_PROXY` is not looked at: a CGI server sets
    /// it from a client's header.
    ///
    /// # Errors
    /// What is wrong with a value.
    pub fn from_env() -> Result<Proxy, BadProxy> {
        Rules::read(|name| std::env::var(name).ok()).map(|rules| Proxy(Way::Rules(rules)))
    }

    /// The proxy on the way to `url`; `None` when that is direct.
    pub(super) fn to(&self, url: &Url) -> Option<&Server> {
        match &self.0 {
            Way::One(server) => Some(server),
            Way::Rules(rules) => rules.to(url),
        }
    }
}
