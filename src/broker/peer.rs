//! The state that the server keeps with each connection.

use echoring_runtime::shard::{self, Kinds};

use crate::broadcast::session::{Session, Subscriber};
use crate::broadcast::shard_mail::ShardMail;

/// The shard, as the server uses it.
pub type Context<'a> = shard::Context<'a, ServerKinds>;

/// A connection, as the server uses it.
pub type ConnectionContext<'a> = shard::ConnectionContext<'a, ServerKinds>;

/// The means of the shard, as the server uses them.
pub type ShardResources<'a> = shard::ShardResources<'a, ShardMail>;

/// A shard's state of the server.
#[derive(Debug)]
pub struct ServerKinds;

impl Kinds for ServerKinds {
    type Peer = Peer;
    type Message = ShardMail;

    const ECHO_CLASS: u8 = class::ECHO;

    fn class(peer: &Peer) -> u8 {
        match peer {
            Peer::Echo => class::ECHO,
            Peer::Subscriber(_) => class::BROADCAST,
            Peer::Session(session) if session.dialect().is_stream() => class::EVENT_STREAM,
            Peer::Session(_) => class::SESSION,
            Peer::Handler(_) => class::HANDLER,
        }
    }

    #[inline]
    fn echoes(peer: &Peer) -> bool {
        matches!(peer, Peer::Echo)
    }

    fn outlives_drain(peer: &Peer) -> bool {
        matches!(peer, Peer::Subscriber(_) | Peer::Handler(_)) || peer.session().is_some()
    }
}

/// The state of a connection, by its route.
#[derive(Debug, Default)]
pub enum Peer {
    /// `/echo`: each message is sent back.
    #[default]
    Echo,
    /// `/broadcast/{topic}`: a raw subscriber of one topic.
    Subscriber(Subscriber),
    /// `/broadcast` or `/connection/websocket`: a session with many topics; or `/sse/{topic}`: an event stream.
    Session(Box<Session>),
    /// A route with a handler.
    Handler(HandlerPeer),
}

/// A connection of a handler.
#[derive(Debug)]
pub struct HandlerPeer {
    /// The number of the handler's slot.
    pub slot: u32,
    /// Its publications that wait for room in a mailbox.
    pub(crate) held: u16,
    /// Whether the handler has paused reading.
    pub(crate) is_paused: bool,
    /// Where it is in a drain.
    pub drain: DrainPhase,
    /// Its subscriptions, once it has had one.
    pub session: Option<Box<Session>>,
}

/// Where the connection of a handler is in a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainPhase {
    /// Its handler has not been notified.
    #[default]
    Serving,
    /// Its handler must be notified at the end of the tick: the drain has refused something before its turn.
    Due,
    /// Its handler must be notified once the message that it echoes in fragments is complete.
    Delayed,
    /// Its handler closes it, until the deadline.
    Told,
    /// The server closes it.
    Leaving,
}

impl HandlerPeer {
    /// The connection of the handler in this slot.
    pub fn new(slot: u32) -> HandlerPeer {
        HandlerPeer { slot, held: 0, is_paused: false, drain: DrainPhase::Serving, session: None }
    }
}

impl Peer {
    /// The subscriber of the connection: a session, or that of a handler.
    #[inline]
    pub fn session(&self) -> Option<&Session> {
        match self {
            Peer::Session(session) => Some(session),
            Peer::Handler(handler) => handler.session.as_deref(),
            Peer::Echo | Peer::Subscriber(_) => None,
        }
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Peer::Session(session) => Some(session),
            Peer::Handler(handler) => handler.session.as_deref_mut(),
            Peer::Echo | Peer::Subscriber(_) => None,
        }
    }

    /// The slot of its handler, if it has one.
    #[inline]
    pub fn handler_slot(&self) -> Option<u32> {
        if let Peer::Handler(handler) = self { Some(handler.slot) } else { None }
    }

    /// Where it is in a drain, if it has a handler.
    pub fn drain_phase(&self) -> Option<DrainPhase> {
        if let Peer::Handler(handler) = self { Some(handler.drain) } else { None }
    }

    /// Whether a drain leaves the connection to its handler.
    pub(crate) fn is_left_to_handler(&self) -> bool {
        matches!(self, Peer::Handler(handler) if handler.drain != DrainPhase::Leaving)
    }

    /// Whether the client is sent an event stream.
    pub fn is_event_stream(&self) -> bool {
        matches!(self, Peer::Session(session) if session.is_event_stream())
    }
}

/// The classes of connections, in which their messages and bytes are counted.
pub mod class {
    use echoring_runtime::stats::HANDSHAKE_CLASS;

    /// The echo routes.
    pub const ECHO: u8 = 0;
    /// Raw subscribers.
    pub const BROADCAST: u8 = 1;
    /// Sessions, in any dialect.
    pub const SESSION: u8 = 2;
    /// Routes with a handler.
    pub const HANDLER: u8 = 3;
    /// Event streams.
    pub const EVENT_STREAM: u8 = 4;
    /// All classes with their names in reports.
    pub const NAMES: [(u8, &str); 6] = [
        (ECHO, "echo"),
        (BROADCAST, "broadcast"),
        (SESSION, "session"),
        (HANDLER, "handler"),
        (EVENT_STREAM, "sse"),
        (HANDSHAKE_CLASS, "none"),
    ];
}
