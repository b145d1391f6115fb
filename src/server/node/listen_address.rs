//! [`ListenAddress`]: where a server accepts connections.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address to accept connections on.
///
/// ```
/// use echoring::server::{ListenAddress, Server};
///
/// fn port(server: &Server) -> Option<u16> {
///     server.addresses().iter().find_map(|address| match address {
///         ListenAddress::Tcp(address) => Some(address.port()),
///         _ => None,
///     })
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; port 0 selects a free one.
    Tcp(SocketAddr),
    /// A Unix socket. A socket at the path that nothing listens on is replaced.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
