//! How an outgoing connection reaches its server.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::driver::RemoteAddress;
use echoring_proto::tunnel::Tunnel;

/// The way to a server.
#[derive(Clone, Debug)]
pub struct Route {
    /// The server, or the proxy.
    pub address: RemoteAddress,
    /// The TLS configuration, and the name that the server's certificate must have; `None` for `ws:`.
    pub security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The request to the proxy, if the address is a proxy's.
    pub tunnel: Option<Arc<Tunnel>>,
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Route {
        Route { address: address.into(), security: None, tunnel: None }
    }
}
