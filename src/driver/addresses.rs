//! Addresses of peers that a turn found out, kept beside the events so that these stay small.
//!
//! It must never outlive the turn's events: what nobody took is forgotten when the next turn begins.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

use super::Token;

/// What one turn found out. Nearly always empty.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    found: Vec<(Token, Option<SocketAddr>)>,
}

impl Addresses {
    /// Starts a turn.
    #[inline]
    pub(super) fn begin(&mut self) {
        if !self.found.is_empty() {
            self.found.clear();
        }
    }

    /// Keeps what was found out about `token`.
    pub(super) fn keep(&mut self, token: Token, address: Option<SocketAddr>) {
        self.found.push((token, address));
    }

    /// What this turn found out about `token`.
    pub(super) fn of(&self, token: Token) -> Option<SocketAddr> {
        self.found.iter().find(|(of, _)| *of == token).and_then(|(_, address)| *address)
    }
}

/// Who is at the other end of a socket; `None` for one in the file system, or whose peer is gone.
pub(super) fn peer_of(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).peer_addr().ok()?.as_socket()
}
