//! What runs on a shard: the seam between the event loop and the server, the load generator and users.

use std::net::SocketAddr;

use super::{Context, Link};
use bytes::Bytes;

use crate::buffer::Pool;
use crate::connection::{Chunk, Closed, Reply};
use crate::driver::{Driver, Token};
use crate::limits::Nanos;
use crate::protocol::handshake::{Refusal, Request, Response, Upgrade};
use crate::stats::Snapshot;

/// What an application wants done with the chunk it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing more.
    Done,
    /// Send the very chunk back, its bytes where they lie: the cheapest reply there is.
    Echo,
}

/// How a request is answered.
#[derive(Debug)]
pub enum Answer<P> {
    /// 101, and the connection is a WebSocket with `peer` as its state. `whole` asks for whole messages
    /// (assembled up to the message limit) instead of chunks as they arrive.
    Upgrade {
        /// State kept with the connection.
        peer: P,
        /// The subprotocol to name in the response, one of those offered.
        subprotocol: Option<&'static str>,
        /// Assemble fragmented and split messages before they are shown.
        whole: bool,
    },
    /// The same with what was made for this request alone.
    UpgradeWith {
        /// State kept with the connection.
        peer: P,
        /// What the 101 says besides.
        extras: Box<Extras>,
        /// Assemble fragmented and split messages before they are shown.
        whole: bool,
    },
    /// The answer comes later through [`Context::accept`] or [`Context::refuse`]; meanwhile nothing of the
    /// connection is read. `peer` is its state from now on.
    Later {
        /// State kept with the connection.
        peer: P,
    },
    /// A complete response; the connection is closed behind it.
    Respond(Reply<'static>),
    /// The same, made for this request. With a status of 400 or more it is counted as a refusal.
    RespondWith(Box<OwnedReply>),
    /// A refusal; the connection is closed behind it, and it is counted and logged with its cure.
    Refuse(Refusal),
}

/// What a 101 says that was made for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The subprotocol to name, one of those offered.
    pub subprotocol: Option<String>,
    /// Further fields, names and values, see [`check_field`](crate::protocol::handshake::check_field).
    pub fields: Vec<(String, String)>,
}

/// A [`Reply`] made for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedReply {
    /// Such as 200.
    pub status: u16,
    /// Such as `text/plain`.
    pub content_type: String,
    /// Further header lines, each ended by CRLF.
    pub headers: String,
    /// The body.
    pub body: Bytes,
    /// The request was HEAD: everything but the body is sent.
    pub head_only: bool,
}

impl OwnedReply {
    /// It as a reply.
    pub fn as_reply(&self) -> Reply<'_> {
        let OwnedReply { status, content_type, headers, body, head_only } = self;
        Reply { status: *status, content_type, headers, body, head_only: *head_only }
    }
}

/// The code above a shard's connections. One value per shard; every call is made on the shard's thread and
/// must neither block nor allocate per message.
pub trait Application: Sized {
    /// State kept inline with each connection. Small: an idle connection pays for it.
    type Peer: Default + std::fmt::Debug;
    /// What shards send one another. Bytes travel beside it, see [`Context::post`].
    type Message: Send + std::fmt::Debug + 'static;
    /// What other threads ask for by [`Order::Ask`](super::Order::Ask).
    type Ask: Send + std::fmt::Debug + 'static;

    /// A request head arrived (server role). `upgrade` is set when it asks for a WebSocket and does so
    /// correctly; one that asks incorrectly was refused already.
    fn request<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<Self::Peer>;

    /// A request was refused, by the application or for what RFC 6455 asks of it. What is returned is sent instead of the
    /// refusal's own response.
    fn refused(&mut self, refusal: &Refusal, request: &Request<'_>) -> Option<Box<OwnedReply>> {
        let _ = (refusal, request);
        None
    }

    /// The transport of a connection that was dialled is there; TLS, or the request, begins with this turn.
    fn connected<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token) {
        let _ = (cx, token);
    }

    /// The TLS handshake of a connection that was dialled is over; `resumed` says whether an earlier connection's
    /// session went on. Never called where nothing is secured.
    fn secured<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token, resumed: bool) {
        let _ = (cx, token, resumed);
    }

    /// The 101 was staged (server role) or received (client role: `response` tells what the server said).
    fn opened<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        token: Token,
        response: Option<&Response>,
    ) {
        let _ = (cx, token, response);
    }

    /// Whether every message of this peer is sent back as it is, so that [`chunk`](Application::chunk) need
    /// not be asked: the cheapest route there is.
    fn echoes(&self, peer: &Self::Peer) -> bool {
        let _ = peer;
        false
    }

    /// A piece of a message: validated, unmasked, writable. See [`Chunk`] for its marks.
    fn chunk(&mut self, link: &mut Link<'_, Self>, chunk: Chunk<'_>) -> Disposition;

    /// The answer to [`Context::find_address`]: who is at the other end. `None` where nobody can tell, as for a
    /// socket in the file system.
    fn addressed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        token: Token,
        address: Option<SocketAddr>,
    ) {
        let _ = (cx, token, address);
    }

    /// A ping arrived and was answered. Shown where [`Config::pings`](crate::connection::Config::pings) asks for it.
    fn ping(&mut self, link: &mut Link<'_, Self>, payload: &[u8]) {
        let _ = (link, payload);
    }

    /// A pong arrived.
    fn pong(&mut self, link: &mut Link<'_, Self>, payload: &[u8]) {
        let _ = (link, payload);
    }

    /// A send was short, and the connection takes no further one until [`writable`](Application::writable). What was
    /// [shared](Context::share) and has not left may be [taken back](Context::take_back) now.
    fn blocked<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token) {
        let _ = (cx, token);
    }

    /// The outbox is empty again and the kernel takes bytes, after a time when it did not.
    fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token) {
        let _ = (cx, token);
    }

    /// A connection that had reached [`request`](Application::request) (server role) or was dialled (client
    /// role) is over. Its token is dead.
    fn closed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        token: Token,
        peer: Self::Peer,
        closed: &Closed,
    );

    /// Another shard posted a message.
    fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        from: usize,
        message: Self::Message,
        payload: &[u8],
    ) {
        let _ = (cx, from, message, payload);
    }

    /// Another thread asks for something, between two turns. It waits for no more than it says itself.
    fn asked<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, ask: Self::Ask) {
        let _ = (cx, ask);
    }

    /// Whether messages of [`Lane::Request`](super::Lane::Request) may be taken now. While this says no they stay in their
    /// mailbox, which fills and so holds up the posting shard's connections.
    fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Self>) -> bool {
        let _ = cx;
        true
    }

    /// All events of the turn have been handled; what is staged now leaves with this turn's batch.
    fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>) {
        let _ = cx;
    }

    /// When [`turn_ended`](Application::turn_ended) wants to be called at the latest, if at all.
    fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// The node is short of memory: gives back a part of what is kept though nobody is owed it, or, when `owed`, of what
    /// only those lack who lag, who have to be told. False when there is no such part.
    fn shed(&mut self, pool: &mut Pool, owed: bool) -> bool {
        let _ = (pool, owed);
        false
    }

    /// Adds what the application knows to a snapshot.
    fn describe(&self, snapshot: &mut Snapshot) {
        let _ = snapshot;
    }

    /// Whether a connection is not closed when the drain begins, because the application closes it when all that was
    /// promised to it has been sent.
    fn outlives_drain(&self, peer: &Self::Peer) -> bool {
        let _ = peer;
        false
    }

    /// The shard takes no more connections and said goodbye (1001) to those that do not
    /// [outlive](Application::outlives_drain) this. Called again when the drain is to end earlier.
    fn draining<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>) {
        let _ = cx;
    }

    /// Whether a draining shard may end once its last connection is gone: no other shard needs it any more.
    fn is_drained(&self) -> bool {
        true
    }
}
