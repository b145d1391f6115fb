//! One connection as operators see it, from existing state: nothing is kept for it.

use std::net::SocketAddr;

use super::context::Context;
use super::kinds::Kinds;
use crate::driver::Token;
use crate::stats::Traffic;
use echoring_proto::AddressKey;
use echoring_proto::limits::Nanos;

/// A connection between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView<'a> {
    /// Bytes queued to the peer, those of a partial send included.
    pub queued_bytes: u32,
    /// Whether a send is unfinished: the peer does not read as fast as it is sent to.
    pub is_blocked: bool,
    /// Whether the peer was pinged and not heard since.
    pub is_pinged: bool,
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// The peer's address, as far as the log has it: `None` if it must be [looked up](Context::find_address),
    /// `Some(None)` if there is none.
    pub address: Option<Option<SocketAddr>>,
    /// When it was accepted, if the access log records it.
    pub accepted_at: Option<Nanos>,
    /// The path of its request, if the log has it.
    pub path: Option<&'a str>,
}

impl<K: Kinds> Context<'_, K> {
    /// One more than the largest index that a connection has had. Indexes of ended connections are empty, or reused.
    pub fn indexes(&self) -> u32 {
        self.core.slots.indexes()
    }

    /// The connection with this index, in any state.
    pub fn token_at(&self, index: u32) -> Option<Token> {
        self.core.slots.token_at(index)
    }

    /// Whether a token is that of a connection that is closed, is closing, or has left this shard. False for one that no
    /// connection has had, and for some of the past once generations have begun anew, after 2^24 connections at one index.
    pub fn has_ended(&self, token: Token) -> bool {
        match self.core.slots.get(token) {
            Some(slot) => slot.connection.closed().is_some(),
            None => {
                self.core.driver.generation_at(token.index).is_some_and(|present| token.generation < present)
            }
        }
    }

    /// A connection, if it still exists.
    pub fn inspect(&self, token: Token) -> Option<ConnectionView<'_>> {
        let slot = self.core.slots.get(token)?;
        let note = self.core.log.note(token);
        Some(ConnectionView {
            queued_bytes: slot.connection.queued_bytes(),
            is_blocked: slot.connection.is_blocked(),
            is_pinged: slot.connection.is_pinged(),
            is_tls: self.core.sessions.has(token.index),
            address: note.and_then(|note| note.address),
            accepted_at: note.and_then(|note| note.access).map(|access| access.accepted_at),
            path: note.and_then(|note| note.path.as_deref()),
        })
    }

    /// Counts the messages of a connection by themselves from now on, for [`traffic`](Context::traffic). Its echoes take the common path
    /// instead of the shortest.
    pub fn count_apart(&mut self, token: Token) {
        self.core.count_apart(token);
    }

    /// Messages and bytes of a connection that is [counted apart](Context::count_apart), since that began. `None` for others.
    pub fn traffic(&self, token: Token) -> Option<Traffic> {
        self.core.counters.traffic.own(self.core.slots.get(token)?.account)
    }

    /// The address of a connection's client, behind trusted proxies too, if clients are [known](crate::admission::PeerLimits::knows_clients)
    /// and it has one.
    pub fn client_address(&self, token: Token) -> Option<AddressKey> {
        self.core.arrivals.client(token).map(|address| AddressKey::of(address.ip()))
    }

    /// The verified certificate in DER that the peer has shown in its TLS handshake.
    pub fn peer_certificate(&self, token: Token) -> Option<&[u8]> {
        self.core.slots.get(token)?;
        self.core.sessions.get(token.index)?.peer_certificate()
    }

    /// The application's state of a connection, to be read.
    pub fn peer_of(&self, token: Token) -> Option<&K::Peer> {
        self.core.slots.get(token)?.peer.as_ref()
    }
}
