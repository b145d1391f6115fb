//! The events that sessions are sent, and the one place that writes them in a session's dialect.

use super::dialect::Dialect;
use super::{centrifuge_events, v1_events};
use echoring_auth::AppData;
use echoring_topics::{ClientId, Gap, GapReason, Members, Position, Profile};
use echoring_wire::v1::ProtocolError;
use echoring_wire::{event_stream, v1};

/// An event for one session. `id` is that of the client's request, if it has one.
#[derive(Clone, Debug)]
pub(super) enum SessionEvent<'a> {
    /// A subscription has begun.
    Subscribed(SubscribedEvent<'a>),
    /// The client ended a subscription.
    Unsubscribed { id: Option<u64>, topic: &'a str },
    /// The server ended a subscription: messages after `position` were lost.
    Dropped { topic: &'a str, position: Position, reason: GapReason },
    /// The server ended a subscription, because the client may no longer have it as it is. `may_return` says that it may
    /// subscribe again.
    Withdrawn { topic: &'a str, position: Position, may_return: bool },
    /// The server ended a subscription, because the topic continues in another epoch, or behind messages that are
    /// missing here. The client has everything up to `position`, and learns of missed messages when it subscribes
    /// again.
    Interrupted { topic: &'a str, position: Position },
    /// A publication was accepted.
    Published { id: u64, topic: &'a str, position: Position },
    /// The messages `from` to `to` were lost.
    Gap { topic: &'a str, epoch: u64, from: u64, to: u64, reason: GapReason },
    /// A page of a member list.
    Members(MembersEvent<'a>),
    /// The session has fresh credentials.
    Authenticated { id: Option<u64>, client: ClientId, subject: &'a str, expires_in_s: Option<u64> },
    /// The lifetime of the session's credentials, in seconds.
    TokenExpires(u64),
    /// The answer to a ping.
    Pong { id: Option<u64>, max_message: u64 },
    /// A request failed.
    Error(&'a ProtocolError),
}

/// A subscription has begun: messages after `position` follow.
#[derive(Clone, Debug)]
pub(super) struct SubscribedEvent<'a> {
    pub(super) id: Option<u64>,
    pub(super) topic: &'a str,
    pub(super) position: Position,
    /// Whether all messages after the position that the client asked for follow; `None` if it asked for none.
    pub(super) recovered: Option<bool>,
    /// Messages up to this offset are parts of a snapshot.
    pub(super) snapshot: Option<u64>,
    /// Whether it is unknown which messages are missing after the position that the client asked for.
    pub(super) is_reset: bool,
    /// On a topic with presence, the number of subscribers, and the client's own number.
    pub(super) presence: Option<(u64, ClientId)>,
    /// Whether the client may return to a position.
    pub(super) recoverable: bool,
    /// Whether messages may be deltas.
    pub(super) deltas: bool,
    /// Seconds until the subscription expires, if it does.
    pub(super) expires_in_s: Option<u64>,
    /// Whether the server has made the subscription, and its client has not asked for it.
    pub(super) is_server_side: bool,
    /// Data of the application.
    pub(super) data: Option<&'a AppData>,
    /// The page of messages that the event itself carries, in dialects where it does.
    pub(super) messages: &'a [u8],
}

/// A page of a member list.
#[derive(Clone, Debug)]
pub(super) struct MembersEvent<'a> {
    pub(super) id: Option<u64>,
    pub(super) topic: &'a str,
    /// The page begins behind this member.
    pub(super) after: Option<ClientId>,
    /// The content of the page.
    pub(super) members: Members,
    /// The members of the page, see [`members`](echoring_topics::members).
    pub(super) clients: &'a [u8],
    /// Only numbers are requested.
    pub(super) stats: bool,
}

impl SessionEvent<'_> {
    /// Appends the event in a dialect. Nothing is appended if the dialect has no such event.
    pub(super) fn write(&self, dialect: Dialect, out: &mut Vec<u8>) {
        match dialect {
            Dialect::V1 => v1_events::write(self, out),
            Dialect::Centrifuge(encoding) => centrifuge_events::write(encoding, self, out),
            Dialect::EventStream => self.write_to_stream(out),
            Dialect::Handler => {}
        }
    }

    /// Everything else ends an event stream, or has no meaning for a client without requests.
    fn write_to_stream(&self, out: &mut Vec<u8>) {
        match *self {
            SessionEvent::Subscribed(ref event) => {
                let subscribed =
                    v1::Subscribed { id: None, count: None, client: None, ..v1_events::subscribed(event) };
                event_stream::subscribed(out, subscribed, event.is_reset);
            }
            SessionEvent::Gap { topic, epoch, from, to, reason } => {
                event_stream::gap(out, epoch, v1_events::gap(topic, Gap { from, to, reason }));
            }
            _ => {}
        }
    }
}

/// A subscriber joined or left.
#[derive(Clone, Copy, Debug)]
pub(super) struct PresenceChange<'a> {
    pub(super) client: ClientId,
    pub(super) profile: Profile<'a>,
    pub(super) joined: bool,
    /// Subscribers after the change.
    pub(super) count: u64,
}

/// An event for all sessions that subscribe to a topic.
#[derive(Clone, Copy, Debug)]
pub(super) enum TopicEvent<'a> {
    /// A subscriber joined or left.
    Presence(&'a PresenceChange<'a>),
    /// Everything up to this offset was sent.
    Heartbeat(u64),
}

impl TopicEvent<'_> {
    /// Appends the event in a dialect that has it. The topic has this epoch.
    pub(super) fn write(&self, dialect: Dialect, topic: &str, epoch: u64, out: &mut Vec<u8>) {
        match dialect {
            Dialect::V1 => v1_events::write_topic_event(self, topic, out),
            Dialect::Centrifuge(encoding) => {
                centrifuge_events::write_topic_event(encoding, self, topic, out);
            }
            Dialect::EventStream => {
                if let TopicEvent::Heartbeat(offset) = *self {
                    event_stream::heartbeat(out, v1::Position { epoch: epoch.into(), offset });
                }
            }
            Dialect::Handler => {}
        }
    }
}
