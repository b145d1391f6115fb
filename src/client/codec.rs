//! Requests and events of the session, independent of the protocol.
//!
//! Never: state between two messages.

pub(crate) mod centrifuge;
pub(crate) mod v1;

use std::io;

use echoring_async::{Error, Message as Frame};
use echoring_proto::CloseCode;
use echoring_wire::centrifuge::Encoding;

use crate::protocol::Protocol;
use crate::{Gap, History, HistoryQuery, Member, Members, Message, Payload, Position, Publication, Refusal};

/// A request to the server.
#[derive(Debug)]
pub(crate) enum Request {
    /// Begins the session; Centrifuge's protocol only.
    Connect {
        token: String,
        /// Server-side subscriptions to recover.
        positions: Vec<(String, Position)>,
    },
    Subscribe {
        topic: String,
        position: Option<Position>,
        presence: bool,
        /// Asks for deltas; Centrifuge's protocol only.
        deltas: bool,
        /// The token of the subscription; empty for none. Centrifuge's protocol only.
        token: String,
    },
    Unsubscribe {
        topic: String,
    },
    Publish {
        topic: String,
        publication: Publication,
    },
    Presence {
        topic: String,
        after: Option<String>,
    },
    History {
        topic: String,
        query: HistoryQuery,
    },
    Authenticate {
        token: String,
    },
    /// Presents a fresh token of a subscription; Centrifuge's protocol only.
    RefreshSubscription {
        topic: String,
        token: String,
    },
    /// Calls the server's application; Centrifuge's protocol only.
    Rpc {
        method: String,
        data: Payload,
    },
    /// A message to the server's application, without an answer; Centrifuge's protocol only.
    Send {
        data: Payload,
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
    /// The session expires after this number of seconds, or never.
    Lifetime(Option<u32>),
    /// A fresh token is needed now.
    TokenExpires,
    /// The server refuses something that has no number.
    Complaint(Refusal),
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The session has begun, with these server-side subscriptions.
    Connected {
        begun: Vec<(String, Start)>,
        expires_in_s: Option<u32>,
    },
    Subscribed(Start),
    Unsubscribed,
    Published(Option<Position>),
    Members(Members),
    History(History),
    /// A token was accepted, of the session or of a subscription. Seconds until a fresh one is needed; `None` for never, or if the
    /// server tells when.
    Authenticated(Option<u32>),
    /// The result of a call.
    Called(Payload),
    /// A message to the application is on its way, which is all that is known of it.
    Sent,
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
    pub(crate) replayed: Option<Vec<Sent>>,
    /// Messages are deltas from those before, or whole ones in the same form.
    pub(crate) deltas: bool,
    pub(crate) count: Option<u64>,
    pub(crate) client: Option<String>,
    /// Seconds until a fresh token is needed.
    pub(crate) expires_in_s: Option<u32>,
}

/// A message as the server sent it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) message: Message<Payload>,
    /// Its data are a delta from the message before.
    pub(crate) is_delta: bool,
}

/// An event of a subscription.
#[derive(Debug)]
pub(crate) enum TopicEvent {
    /// The server made the subscription; Centrifuge's protocol only.
    Subscribed(Start),
    Message(Sent),
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
    /// The encoding of Centrifuge's protocol.
    fn encoding(self) -> Option<Encoding> {
        match self {
            Protocol::Echoring => None,
            Protocol::Centrifuge => Some(Encoding::Json),
            Protocol::CentrifugeProtobuf => Some(Encoding::Protobuf),
        }
    }

    /// The subprotocol to offer.
    pub(crate) fn subprotocol(self) -> &'static str {
        self.encoding().map_or(echoring_wire::v1::SUBPROTOCOL, Encoding::subprotocol)
    }

    /// Whether the session begins with a request of its own.
    pub(crate) fn connects(self) -> bool {
        self.encoding().is_some()
    }

    /// Whether a client returns after the server closed with this code; `None` where the code's own rule holds.
    pub(crate) fn reconnects_after(self, code: u16) -> Option<bool> {
        self.encoding().map(|_| echoring_wire::centrifuge::Disconnect::reconnects_after(code))
    }

    /// Whether the server closes with this code because the token has expired, or is no longer valid.
    pub(crate) fn expires_by(self, code: u16) -> bool {
        use echoring_wire::centrifuge::Disconnect::{Expired, StateInvalidated};
        match self.encoding() {
            None => code == CloseCode::CREDENTIALS_ENDED.0,
            Some(_) => [Expired, StateInvalidated].iter().any(|close| close.code() == code),
        }
    }

    /// Whether the protocol can express the request.
    pub(crate) fn supports(self, request: &Request) -> bool {
        let payload = match request {
            Request::Publish { publication, .. } => Some(&publication.payload),
            Request::Rpc { data, .. } | Request::Send { data } => Some(data),
            _ => None,
        };
        let is_bytes = matches!(payload, Some(Payload::Bytes(_)));
        match (self.encoding(), request) {
            (None | Some(Encoding::Json), _) if is_bytes => false,
            (None, Request::History { .. } | Request::Rpc { .. } | Request::Send { .. }) => false,
            (Some(_), Request::Publish { publication, .. }) => {
                publication.key.is_none() && publication.idempotency_key.is_none()
            }
            _ => true,
        }
    }

    /// The message of a request.
    pub(crate) fn encode(self, id: u32, request: &Request) -> Frame {
        match self.encoding() {
            None => v1::encode(id, request).into(),
            Some(encoding) => centrifuge::encode(encoding, id, request),
        }
    }

    /// The parts of a message of the server. Unknown parts are ignored.
    ///
    /// # Errors
    /// If the message is not of the protocol.
    pub(crate) fn decode(self, message: &Frame) -> Result<Vec<Incoming>, Error> {
        match (self.encoding(), message.as_text()) {
            (None, Some(text)) => {
                v1::decode(text).map(|incoming| incoming.into_iter().collect()).map_err(Error::Json)
            }
            (Some(encoding), text) if encoding.is_binary() == text.is_none() => {
                centrifuge::decode(encoding, message)
                    .map_err(|error| Error::Io(io::Error::new(io::ErrorKind::InvalidData, error)))
            }
            // The protocol has no messages of this type.
            _ => Ok(Vec::new()),
        }
    }
}
