//! The interface between the event loop and its applications: the server and the load generator.

use std::net::SocketAddr;

use super::Continuation;
use super::answer::{Answer, Disposition, OwnedReply};
use super::context::{ConnectionContext, Context};
use super::kinds::Kinds;
use crate::driver::Token;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{Chunk, Closed};
use echoring_proto::handshake::{Refusal, Request, Response, Upgrade};
use echoring_proto::limits::Nanos;

/// The [state](Kinds::Peer) of an application's connections.
pub type PeerOf<A> = <<A as Application>::Kinds as Kinds>::Peer;

/// The [mail](Kinds::Message) between an application's shards.
pub type MessageOf<A> = <<A as Application>::Kinds as Kinds>::Message;

/// Memory of an application that is freed for others, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Memory that [is optional](Pool::charge_optional), all of it.
    Optional,
    /// Histories of topics.
    Histories,
    /// Backlogs of slow consumers, which are notified of the gap.
    Backlogs,
}

/// The code above a shard's connections. One value per shard; every call is made on the shard's thread and
/// must neither block nor allocate per message.
#[expect(unused_variables, reason = "most calls do nothing by default")]
pub trait Application: Sized {
    /// The state of its connections, and the mail between its shards.
    type Kinds: Kinds;
    /// Commands of other threads, sent by [`ControlMessage::Command`](super::ControlMessage::Command).
    type Command: Send + std::fmt::Debug + 'static;
    /// The application's part of the shard's [snapshots](crate::stats::Snapshot).
    type Report: Send + std::fmt::Debug + 'static;

    /// A tick of this shard took longer than [`STALL`](crate::limits::STALL). It is counted; the application may report
    /// it.
    fn stalled(&self, shard: usize, taken: Nanos) {}

    /// A request head arrived (server role). `upgrade` is set if it is a valid WebSocket upgrade; an invalid one was
    /// refused already.
    fn request(
        &mut self,
        cx: &mut Context<'_, Self::Kinds>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<PeerOf<Self>>;

    /// The time of the handshake is over, and a request that was answered with [`Answer::Later`] is undecided. Unless it is answered
    /// in this call, it is refused with [`Refusal::UNDECIDED`].
    fn undecided(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// Whether a request only asks if the server lives. It is answered even to clients that are over a limit, and while the shard
    /// drains, so it must open nothing.
    fn is_liveness_check(&self, request: &Request<'_>) -> bool {
        false
    }

    /// A request was refused, by the application or by RFC 6455's rules. The reply returned here replaces the refusal's own
    /// response.
    fn refused(&mut self, refusal: &Refusal, request: &Request<'_>) -> Option<Box<OwnedReply>> {
        None
    }

    /// The transport of a dialled connection is connected; TLS, or the request, begins with this tick.
    fn connected(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// The TLS handshake of a dialled connection is complete; `resumed` says whether it resumed an earlier session.
    /// Never called without TLS.
    fn secured(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token, resumed: bool) {}

    /// The 101, or the head of an event stream, was staged (server role), or the 101 was received (client role: `response` is
    /// the server's response).
    fn opened(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token, response: Option<&Response>) {}

    /// A piece of a message: validated, unmasked, writable. See [`Chunk`] for its flags.
    fn chunk(&mut self, link: &mut ConnectionContext<'_, Self::Kinds>, chunk: Chunk<'_>) -> Disposition;

    /// The answer to [`Context::find_address`]: the peer's address. `None` if there is none, as on a Unix socket.
    fn addressed(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token, address: Option<SocketAddr>) {}

    /// A ping arrived and was answered. Called if
    /// [`Config::pings`](echoring_proto::connection::ConnectionConfig::pings) requests it.
    fn ping(&mut self, link: &mut ConnectionContext<'_, Self::Kinds>, payload: &[u8]) {}

    /// A pong arrived.
    fn pong(&mut self, link: &mut ConnectionContext<'_, Self::Kinds>, payload: &[u8]) {}

    /// A send was short, and the connection accepts no further one until [`writable`](Application::writable).
    /// [Shared](Context::share) pieces that are unsent may be [taken back](Context::take_back) now.
    fn blocked(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// The peer's TCP has acknowledged the last byte of a [stamped](Context::stamp) send at `at`.
    fn acknowledged(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token, at: Nanos) {}

    /// The last byte of the receive that follows arrived at the kernel at `at`, if that is known. Only with
    /// [`Options::stamps_every`](crate::driver::Options::stamps_every).
    fn arrived(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token, at: Option<Nanos>) {}

    /// The outbox is empty again and the kernel accepts bytes, after a time when it did not.
    fn writable(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// The name of the authenticated client of a connection, for its record in the access log.
    fn identity(&self, token: Token) -> Option<&str> {
        None
    }

    /// A connection of another shard, which has its [place](Context::set_peer) here now, or one that was
    /// [given up](Context::give_up) and stays: continues it from the state that was given up with it. False if that is
    /// impossible; the connection is closed then, as in a drain.
    fn go_on(
        &mut self,
        cx: &mut Context<'_, Self::Kinds>,
        token: Token,
        state: &[u8],
        continuation: Continuation,
    ) -> bool {
        false
    }

    /// A connection is closing: [`Context::closed`] has the cause. Its transport may take some time, after which
    /// [`closed`](Application::closed) is called. May be called several times.
    fn ending(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// A connection that had reached [`request`](Application::request) (server role) or was dialled (client role) has
    /// ended. Its token is invalid.
    fn closed(
        &mut self,
        cx: &mut Context<'_, Self::Kinds>,
        token: Token,
        peer: PeerOf<Self>,
        closed: &Closed,
    );

    /// Another shard posted a message.
    fn message(
        &mut self,
        cx: &mut Context<'_, Self::Kinds>,
        from: usize,
        message: MessageOf<Self>,
        payload: &[u8],
    ) {
    }

    /// A command of another thread, between two ticks. That thread waits for the answer as specified in its command.
    fn command(&mut self, cx: &mut Context<'_, Self::Kinds>, command: Self::Command) {}

    /// Whether messages of [`Lane::Request`](super::Lane::Request) may be taken now. Otherwise they stay in their
    /// mailbox, which fills and thereby backpressures the posting shard's connections.
    fn takes_requests(&self, cx: &Context<'_, Self::Kinds>) -> bool {
        true
    }

    /// All events of the tick have been handled; work staged now leaves with this tick's batch.
    fn tick_ended(&mut self, cx: &mut Context<'_, Self::Kinds>) {}

    /// When [`tick_ended`](Application::tick_ended) must be called at the latest, if at all.
    fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// The node is short of memory: frees all or a part of it. False if there is nothing to free.
    fn shed(&mut self, pool: &mut Pool, what: Shed) -> bool {
        false
    }

    /// The application's part of a snapshot.
    fn report(&self) -> Self::Report;

    /// A paced drain has come to a connection that [outlives](Kinds::outlives_drain) the beginning of a drain: it must
    /// be closed once everything queued for it was sent.
    fn farewell(&mut self, cx: &mut Context<'_, Self::Kinds>, token: Token) {}

    /// The shard accepts no more connections and has closed (1001) those that do not
    /// [outlive](Kinds::outlives_drain) this. Called again if the drain must end earlier.
    fn draining(&mut self, cx: &mut Context<'_, Self::Kinds>) {}

    /// Whether a draining shard may end once its last connection has ended: no other shard needs it any more.
    fn is_drained(&self) -> bool {
        true
    }
}
