//! Peer addresses that a tick looked up, kept beside the events so that events stay small.
//!
//! They live as long as the tick's events: the next tick clears them.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

use super::Token;

/// The addresses of one tick. Nearly always empty.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    found: Vec<(Token, Option<SocketAddr>)>,
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
    pub(super) fn keep(&mut self, token: Token, address: Option<SocketAddr>) {
        self.found.push((token, address));
    }

    /// The address of `token`, if this tick looked it up.
    pub(super) fn of(&self, token: Token) -> Option<SocketAddr> {
        self.found.iter().find(|(of, _)| *of == token).and_then(|(_, address)| *address)
    }
}

/// The peer's address; `None` for a Unix socket, or if the peer has disconnected.
pub(super) fn peer_of(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).peer_addr().ok()?.as_socket()
}
