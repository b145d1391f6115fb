//! What the session says and hears, independent of the protocol.
//!
//! Never: state between two messages.

pub(crate) mod centrifuge;
pub(crate) mod v1;

use crate::protocol::Protocol;
use crate::{Gap, History, HistoryQuery, Member, Members, Message, Payload, Position, Publication, Refusal};

/// A request to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    /// Begins the session; Centrifuge's protocol only.
    Connect {
        token: &'a str,
    },
    Subscribe {
        topic: &'a str,
        position: Option<&'a Position>,
        presence: bool,
    },
    Unsubscribe {
        topic: &'a str,
    },
    Publish {
        topic: &'a str,
        publication: &'a Publication,
    },
    Presence {
        topic: &'a str,
        after: Option<&'a str>,
    },
    History {
        topic: &'a str,
        query: &'a HistoryQuery,
    },
    Authenticate {
        token: &'a str,
    },
    /// Answers a ping; Centrifuge's protocol only.
    Pong,
}

/// A message of the server, or a part of one.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Must be answered by [`Request::Pong`].
    Ping,
    Answer(u32, Answer),
    Event(String, TopicEvent),
    /// The server refuses something that has no number.
    Complaint(Refusal),
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Connected,
    Subscribed(Start),
    Unsubscribed,
    Published(Option<Position>),
    Members(Members),
    History(History),
    Authenticated,
    Refused(Refusal),
    /// The server does not know whether it was done.
    Uncertain,
}

/// The beginning of a subscription.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) position: Position,
    /// `None` if no position was requested.
    pub(crate) recovered: Option<bool>,
    /// The messages up to `position` that follow the requested one, if the answer contains them. Otherwise those after
    /// `position` come by themselves.
    pub(crate) replayed: Option<Vec<Message<Payload>>>,
    pub(crate) count: Option<u64>,
    pub(crate) client: Option<String>,
}

/// An event of a subscription.
#[derive(Debug)]
pub(crate) enum TopicEvent {
    Message(Message<Payload>),
    Gap(Gap),
    /// Everything up to this offset was sent.
    Heartbeat(u64),
    Join(Member),
    Leave(Member),
    PresenceStale,
    /// The server ended the subscription; `resubscribes` says whether the client returns from its position.
    Unsubscribed {
        resubscribes: bool,
        refusal: Refusal,
    },
}

impl Protocol {
    /// The subprotocol to offer.
    pub(crate) fn subprotocol(self) -> &'static str {
        match self {
            Protocol::Echoring => v1::SUBPROTOCOL,
            Protocol::Centrifuge => echoring_centrifuge::Encoding::Json.subprotocol(),
        }
    }

    /// Whether the session begins with a request of its own.
    pub(crate) fn connects(self) -> bool {
        self == Protocol::Centrifuge
    }

    /// Whether the protocol can express the request.
    pub(crate) fn supports(self, request: &Request<'_>) -> bool {
        match (self, request) {
            (_, Request::Publish { publication, .. }) if matches!(publication.payload, Payload::Bytes(_)) => {
                false
            }
            (Protocol::Echoring, Request::History { .. }) => false,
            (Protocol::Centrifuge, Request::Publish { publication, .. }) => {
                publication.key.is_none() && publication.idempotency_key.is_none()
            }
            _ => true,
        }
    }

    /// The text of a request.
    pub(crate) fn encode(self, id: u32, request: &Request<'_>) -> String {
        match self {
            Protocol::Echoring => v1::encode(id, request),
            Protocol::Centrifuge => centrifuge::encode(id, request),
        }
    }

    /// The parts of a message of the server. Unknown parts are ignored.
    ///
    /// # Errors
    /// If the message is not of the protocol.
    pub(crate) fn decode(self, text: &str) -> Result<Vec<Incoming>, serde_json::Error> {
        match self {
            Protocol::Echoring => v1::decode(text).map(|incoming| incoming.into_iter().collect()),
            Protocol::Centrifuge => centrifuge::decode(text),
        }
    }
}
