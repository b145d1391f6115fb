//! The other end of an outgoing connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::sockets::bind_without_port;

/// Where an outgoing connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for RemoteAddress {
    fn from(address: SocketAddr) -> RemoteAddress {
        RemoteAddress::Tcp(address)
    }
}

impl RemoteAddress {
    /// A socket of the type `stream` for a connection to this address, bound to `source`, and the address for the kernel.
    pub(super) fn socket(&self, stream: Type, source: Option<SocketAddr>) -> io::Result<(Socket, SockAddr)> {
        let address = match self {
            RemoteAddress::Tcp(address) => *address,
            RemoteAddress::Unix(_) if source.is_some() => {
                let why = "a connection to a Unix socket has no local address";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            RemoteAddress::Unix(path) => {
                return Ok((Socket::new(Domain::UNIX, stream, None)?, SockAddr::unix(path)?));
            }
        };
        let socket = Socket::new(Domain::for_address(address), stream, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            if source.port() == 0 {
                bind_without_port(socket.as_fd())?;
            }
            socket.bind(&source.into())?;
        }
        Ok((socket, address.into()))
    }
}
