//! The application's state of each connection, and the mail between its shards.

/// The types of an application that a shard stores, and the properties that depend on a connection's peer alone.
#[expect(unused_variables, reason = "the defaults are the same for all peers")]
pub trait Kinds: Sized {
    /// State kept inline with each connection. Small: an idle connection pays for it.
    type Peer: Default + std::fmt::Debug;
    /// Messages between shards. Bytes travel with them, see [`Context::post`](super::Context::post).
    type Message: Send + std::fmt::Debug + 'static;

    /// The [class](Kinds::class) of the connections whose messages are [echoed](Kinds::echoes).
    const ECHO_CLASS: u8 = 0;

    /// Where the messages and bytes of a connection are counted: below [`HANDSHAKE_CLASS`](crate::stats::HANDSHAKE_CLASS),
    /// which is that of connections without a peer. Connections that this side dials are of class 0.
    fn class(peer: &Self::Peer) -> u8 {
        0
    }

    /// Whether every message of this peer is sent back unchanged, so that [`chunk`](super::Application::chunk) need not be
    /// called: the cheapest route.
    fn echoes(peer: &Self::Peer) -> bool {
        false
    }

    /// Whether a connection is not closed when the drain begins, because the application closes it once everything
    /// queued for it was sent.
    fn outlives_drain(peer: &Self::Peer) -> bool {
        false
    }
}
