//! Peer addresses that a tick looked up, and what the kernel says of their TCP, kept beside the events so that events stay small.
//!
//! They live as long as the tick's events: the next tick clears them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

use super::Token;
use super::sockets::tcp_info;
use crate::limits::TCP_LOOKS_MAX;
use echoring_proto::limits::Nanos;

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

/// The state of a TCP connection, as the kernel has it (`TCP_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// The smoothed round-trip time in nanoseconds, exact to a microsecond.
    pub round_trip: Nanos,
    /// Segments with data that were sent since the connection began, those that were sent again included.
    pub segments_sent: u32,
    /// Segments that were sent again.
    pub segments_retransmitted: u32,
    /// Segments that arrived before earlier ones.
    pub segments_out_of_order: u32,
}

/// The addresses of one tick. Nearly always empty.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    found: Vec<(Token, PeerAddress)>,
    tcp: Vec<(Token, TcpInfo)>,
    /// Connections of which the next look shall tell the state of TCP.
    wanted: VecDeque<Token>,
}

impl Addresses {
    /// Starts a tick.
    #[inline]
    pub(super) fn begin(&mut self) {
        if !self.found.is_empty() {
            self.found.clear();
            self.tcp.clear();
        }
    }

    /// The next look at `token` tells the state of its TCP, too.
    pub(super) fn want_tcp(&mut self, token: Token) {
        // The oldest may have ended unseen.
        if self.wanted.len() == TCP_LOOKS_MAX {
            self.wanted.pop_front();
        }
        self.wanted.push_back(token);
    }

    /// Looks at the socket of `token`. `None` stands for one that cannot be looked at.
    pub(super) fn look(&mut self, token: Token, socket: Option<&impl AsFd>) {
        let wanted = self.wanted.len();
        self.wanted.retain(|other| *other != token);
        if self.wanted.len() < wanted {
            self.tcp.extend(socket.and_then(|socket| tcp_info(socket.as_fd())).map(|info| (token, info)));
        }
        self.keep(token, socket.map_or(PeerAddress::Unknown, peer_of));
    }

    /// The state of the TCP of `token`, if this tick looked at it.
    pub(super) fn tcp(&self, token: Token) -> Option<TcpInfo> {
        self.tcp.iter().find(|(of, _)| *of == token).map(|(_, info)| *info)
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
fn peer_of(socket: &impl AsFd) -> PeerAddress {
    match SockRef::from(socket).peer_addr() {
        Ok(address) if address.is_unix() => PeerAddress::Unix,
        Ok(address) => address.as_socket().map_or(PeerAddress::Unknown, PeerAddress::Ip),
        Err(_) => PeerAddress::Unknown,
    }
}
