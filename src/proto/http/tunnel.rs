//! The client side of proxies: CONNECT of HTTP (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! A [`Tunnel`] is the request for one server through one proxy. A [`TunnelState`] is the exchange of one connection:
//! [`first`](TunnelState::first) is sent once the proxy is connected, then [`handle_bytes`](TunnelState::handle_bytes) takes what arrives, until it
//! says that the tunnel is established or has failed. After that the connection is one to the server.
//!
//! Never: the WebSocket handshake, or resolving a name.

#![forbid(unsafe_code)]

mod address;
mod http;
mod socks5;

use std::fmt;

pub use address::{BadProxy, ProxyKind, ProxyServer};
pub use socks5::SocksRefusal;

use crate::handshake::BadHandshake;

/// A request to a proxy for a connection to a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Tunnel(Exchange);

#[derive(Clone, PartialEq, Eq)]
enum Exchange {
    Http(http::Connect),
    Socks5(socks5::Request),
}

/// Not shown: it contains the credentials.
impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Exchange::Http(_) => "Tunnel(http)",
            Exchange::Socks5(_) => "Tunnel(socks5)",
        })
    }
}

/// The host name, user name or password cannot be written in the proxy's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEncodable;

/// Why a proxy did not open a connection.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelError {
    /// An HTTP proxy answered CONNECT with a status other than 2xx; 407 if it requires a user name and password.
    Status(u16),
    /// The response of an HTTP proxy is not HTTP.
    Http(BadHandshake),
    /// A SOCKS5 proxy refused.
    Socks(SocksRefusal),
    /// The proxy sent bytes after its response, although the client must speak first.
    UnexpectedBytes,
}

impl fmt::Display for TunnelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TunnelError::Status(407) => "the proxy requires a valid user name and password (407)",
            TunnelError::Status(status) => return write!(f, "the proxy answered {status} to CONNECT"),
            TunnelError::Http(BadHandshake::HeadTooBig) => "the proxy's response head is too big",
            TunnelError::Http(_) => "the proxy's response is not HTTP",
            TunnelError::Socks(refusal) => {
                return write!(f, "the proxy did not open a connection: {refusal}");
            }
            TunnelError::UnexpectedBytes => "the proxy sent unexpected bytes after its response",
        })
    }
}

impl std::error::Error for TunnelError {}

crate::error_debug!(
    enum TunnelError {
        Status(status),
        Http(why),
        Socks(refusal),
        UnexpectedBytes,
    }
);

/// The effect of a proxy's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelStep<'a> {
    /// More bytes are needed.
    Incomplete,
    /// Send these bytes.
    Send(&'a [u8]),
    /// The connection is one to the server.
    Established,
}

/// The exchange of one connection.
#[derive(Debug, Default)]
pub struct TunnelState {
    /// Steps that are done; SOCKS5 only.
    step: socks5::Step,
    /// The incomplete answer.
    head: Vec<u8>,
}

impl Tunnel {
    /// A request for the server at `host` and `port`.
    ///
    /// # Errors
    /// SOCKS5 takes host names, user names and passwords of 1 to 255 bytes.
    pub fn new(proxy: &ProxyServer, host: &str, port: u16) -> Result<Tunnel, NotEncodable> {
        let credentials = proxy.credentials.as_ref();
        Ok(Tunnel(match proxy.kind {
            ProxyKind::Http => Exchange::Http(http::Connect::new(host, port, credentials)),
            ProxyKind::Socks5 => Exchange::Socks5(socks5::Request::new(host, port, credentials)?),
        }))
    }
}

impl TunnelState {
    /// The bytes to send once the proxy is connected.
    pub fn first<'a>(&self, tunnel: &'a Tunnel) -> &'a [u8] {
        match &tunnel.0 {
            Exchange::Http(connect) => connect.request(),
            Exchange::Socks5(request) => request.offer(),
        }
    }

    /// Bytes arrived. Not to be called again after [`TunnelStep::Established`] or an error.
    ///
    /// # Errors
    /// Why the proxy opened no connection.
    pub fn handle_bytes<'a>(
        &mut self,
        tunnel: &'a Tunnel,
        bytes: &[u8],
    ) -> Result<TunnelStep<'a>, TunnelError> {
        match &tunnel.0 {
            Exchange::Http(_) => http::handle_bytes(&mut self.head, bytes),
            Exchange::Socks5(request) => request.handle_bytes(&mut self.step, &mut self.head, bytes),
        }
    }
}

#[cfg(test)]
mod tests;
