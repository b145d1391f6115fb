//! Peer addresses that a tick looked up, kept beside the events so that events stay small.
//!
//! They live as long as the tick's events: the next tick clears them.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

use super::Token;

/// A peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerAddress {
    /// Of IP.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix,
    /// The kernel did not report it, or the peer has disconnected.
    Unknown,
}

/// The addresses of one tick. Nearly always empty.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    found: Vec<(Token, PeerAddress)>,
}

impl Addresses {
    /// Starts a tick.
    #[inline]
    pub(super) fn begin(&mut self) {
        if !self.found.is_empty() {
            self.found.clear();
        }
    }

    /// Stores the address of `token`.
    pub(super) fn keep(&mut self, token: Token, address: PeerAddress) {
        self.found.push((token, address));
    }

    /// The address of `token`, if this tick looked it up.
    pub(super) fn of(&self, token: Token) -> Option<SocketAddr> {
        match self.find(token) {
            Some(PeerAddress::Ip(address)) => Some(address),
            _ => None,
        }
    }

    /// Whether `token` is a Unix socket, if this tick looked it up.
    pub(super) fn is_unix(&self, token: Token) -> bool {
        self.find(token) == Some(PeerAddress::Unix)
    }

    fn find(&self, token: Token) -> Option<PeerAddress> {
        self.found.iter().find(|(of, _)| *of == token).map(|(_, address)| *address)
    }
}

/// The address of a socket's peer.
pub(super) fn peer_of(socket: &impl AsFd) -> PeerAddress {
    match SockRef::from(socket).peer_addr() {
        Ok(address) if address.is_unix() => PeerAddress::Unix,
        Ok(address) => address.as_socket().map_or(PeerAddress::Unknown, PeerAddress::Ip),
        Err(_) => PeerAddress::Unknown,
    }
}
