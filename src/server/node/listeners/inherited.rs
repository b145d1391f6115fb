//! Listening sockets that were opened elsewhere: by systemd, by the embedding program, or by a predecessor.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use socket2::{Domain, SockAddr, SockRef};

use super::{Listeners, bind_tcp};
use crate::node::listen_address::ListenAddress;

/// Sockets that listen on one address: one for all shards, or several that share a port.
#[derive(Clone, Debug)]
pub struct InheritedListener {
    address: ListenAddress,
    sockets: Arc<[OwnedFd]>,
    /// Whether the server removes the socket's file when it ends.
    removes_file: bool,
}

impl InheritedListener {
    /// Sockets that listen on the same TCP address, or one that listens on a Unix socket.
    ///
    /// # Errors
    /// If there is none, or one is no listening stream socket, or their addresses differ.
    pub fn new(sockets: Vec<OwnedFd>) -> io::Result<InheritedListener> {
        let mut addresses = sockets.iter().map(address_of);
        let address = addresses.next().unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))?;
        for other in addresses {
            if other? != address {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "their addresses differ"));
            }
        }
        Ok(InheritedListener { address, sockets: sockets.into(), removes_file: false })
    }

    /// A listener whose address cannot be read is refused when the server starts.
    pub(crate) fn tcp(listener: TcpListener) -> InheritedListener {
        let address = ListenAddress::Tcp(listener.local_addr().unwrap_or(([0, 0, 0, 0], 0).into()));
        InheritedListener { address, sockets: [listener.into()].into(), removes_file: false }
    }

    /// The address that the sockets listen on.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Removes the file of a Unix socket when the server ends.
    pub(crate) fn remove_file(self) -> InheritedListener {
        InheritedListener { removes_file: true, ..self }
    }

    pub(crate) fn removes_file(&self) -> bool {
        self.removes_file
    }

    pub(crate) fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }

    /// Gives every socket to a shard, because each has connections waiting, and every shard a socket. `keep` them all for a
    /// successor, too.
    pub(super) fn distribute(&self, keep: bool, listeners: &mut Listeners) -> io::Result<()> {
        let mut kept = Vec::new();
        let shards = listeners.by_shard.len();
        for (index, socket) in self.sockets.iter().enumerate() {
            // Accepted connections inherit the option from their listener.
            if let ListenAddress::Tcp(_) = self.address {
                SockRef::from(socket).set_tcp_nodelay(true)?;
            }
            listeners.by_shard[index % shards].push(socket.try_clone()?);
            kept.push(socket.try_clone()?);
        }
        for shard in self.sockets.len()..shards {
            let shared = &self.sockets[shard % self.sockets.len()];
            let own = self.one_more(shared).and_then(|socket| Ok((socket.try_clone()?, socket)));
            let socket = match own {
                Ok((clone, socket)) => {
                    kept.push(clone.try_clone()?.into());
                    listeners.later.push(clone);
                    socket.into()
                }
                // The shards share this one: whichever is free accepts.
                Err(_) => shared.try_clone()?,
            };
            listeners.by_shard[shard].push(socket);
        }
        if let (ListenAddress::Unix(path), true) = (&self.address, self.removes_file) {
            listeners.files.push(path.clone());
        }
        if keep {
            let (address, sockets) = (self.address.clone(), kept.into());
            listeners.kept.push(InheritedListener { address, sockets, removes_file: self.removes_file });
        }
        listeners.addresses.push(self.address.clone());
        Ok(())
    }

    /// Another socket that shares the port of `like`. It has no share of the connections before it listens.
    fn one_more(&self, like: &OwnedFd) -> io::Result<socket2::Socket> {
        let ListenAddress::Tcp(address) = self.address else { return Err(io::ErrorKind::Unsupported.into()) };
        let like = SockRef::from(like);
        if !like.reuse_port()? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let only_v6 = address.is_ipv6() && like.only_v6()?;
        let socket = bind_tcp(address, only_v6, true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(like.send_buffer_size()? / 2)?;
        socket.set_recv_buffer_size(like.recv_buffer_size()? / 2)?;
        Ok(socket)
    }
}

fn address_of(socket: &OwnedFd) -> io::Result<ListenAddress> {
    let socket = SockRef::from(socket);
    if socket.r#type()? != socket2::Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a listening stream socket"));
    }
    unix_or_tcp(&socket.local_addr()?)
}

fn unix_or_tcp(address: &SockAddr) -> io::Result<ListenAddress> {
    if let Some(address) = address.as_socket() {
        return Ok(ListenAddress::Tcp(address));
    }
    if address.domain() != Domain::UNIX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither TCP nor a Unix socket"));
    }
    // As `ListenStream=` of systemd names a socket in the abstract namespace.
    let abstract_name = |name: &[u8]| {
        let name = [b"@", name].concat();
        PathBuf::from(std::ffi::OsStr::from_bytes(&name))
    };
    let path = address.as_pathname().map(PathBuf::from);
    let path = path.or_else(|| address.as_abstract_namespace().map(abstract_name));
    path.map(ListenAddress::Unix).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::ServerConfig;

    fn group(sockets: usize) -> InheritedListener {
        let first = bind_tcp(([127, 0, 0, 1], 0).into(), false, true).expect("a free port");
        let address = first.local_addr().expect("bound").as_socket().expect("TCP");
        let mut all = vec![first];
        all.extend((1..sockets).map(|_| bind_tcp(address, false, true).expect("shared")));
        let listen = |socket: socket2::Socket| {
            socket.listen(8).expect("listens");
            socket.into()
        };
        InheritedListener::new(all.into_iter().map(listen).collect()).expect("listeners")
    }

    #[test]
    fn every_socket_has_a_shard_and_every_shard_a_socket() {
        for sockets in 1..=4 {
            for shards in 1..=4 {
                let inherited = group(sockets);
                let config = ServerConfig {
                    listen: vec![inherited.address().clone()],
                    inherited: vec![inherited.clone()],
                    ..ServerConfig::default()
                };
                let listeners = super::super::open(&config, shards).expect("opens");
                assert_eq!(listeners.addresses, [inherited.address().clone()]);
                let counts: Vec<usize> = listeners.by_shard.iter().map(Vec::len).collect();
                assert_eq!(counts.iter().sum::<usize>(), sockets.max(shards), "{counts:?}");
                assert!(!counts.contains(&0), "{counts:?}");
                assert_eq!(listeners.later.len(), shards.saturating_sub(sockets));
            }
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert!(InheritedListener::new(vec![datagram.into()]).is_err());
        let idle = bind_tcp(([127, 0, 0, 1], 0).into(), false, true).expect("a free port");
        assert!(InheritedListener::new(vec![idle.into()]).is_err(), "it does not listen");
        let two = [group(1), group(1)].map(|group| group.sockets[0].try_clone().expect("a descriptor"));
        assert!(InheritedListener::new(two.into()).is_err(), "two addresses");
        assert!(InheritedListener::new(Vec::new()).is_err());
    }
}
