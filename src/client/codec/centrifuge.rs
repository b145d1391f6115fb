//! Centrifuge's client protocol, in JSON and in protobuf.

use std::borrow::Cow;

use bytes::Bytes;
use echoring_async::{Message as Frame, Text};
use echoring_wire::centrifuge::received::{self, PushEvent, Reply, ServerMessage};
use echoring_wire::centrifuge::{self as wire, Command, Encoding, Malformed};
use serde_json::value::RawValue;

use super::{Answer, Incoming, Request, Sent, Start, TopicEvent};
use crate::{History, HistoryQuery, Member, Members, Message, Payload, Position, Refusal};

/// From this code on, a client whose subscription the server ended subscribes again.
const RESUBSCRIBES_FROM: u32 = 2_500;

/// The frame of a request.
pub(super) fn encode(encoding: Encoding, id: u32, request: &Request) -> Frame {
    let mut content = Cow::default();
    if let Request::Publish { publication, .. } = request {
        content = data(encoding, &publication.payload);
    } else if let Request::Rpc { data: argument, .. } | Request::Send { data: argument } = request {
        content = data(encoding, argument);
    }
    let (id, request) = match request {
        Request::Pong => (0, wire::Request::Pong),
        Request::Send { .. } => (0, wire::Request::Send { data: &content }),
        Request::Connect { token, positions } => (id, wire::Request::Connect(connect(token, positions))),
        Request::Authenticate { token } => (id, wire::Request::Refresh { token: token.into() }),
        Request::RefreshSubscription { topic, token } => {
            let refresh = wire::SubRefresh {
                channel: topic.into(),
                token: token.into(),
                ..wire::SubRefresh::default()
            };
            (id, wire::Request::SubRefresh(refresh))
        }
        Request::Unsubscribe { topic } => (id, wire::Request::Unsubscribe { channel: topic.into() }),
        Request::Presence { topic, .. } => (id, wire::Request::Presence { channel: topic.into() }),
        Request::Subscribe { topic, position, presence, deltas, token } => {
            let position = position.as_ref();
            let (epoch, offset) = position.map_or(("", 0), |position| (&*position.epoch, position.offset));
            let subscribe = wire::Subscribe {
                channel: topic.into(),
                recover: position.is_some(),
                epoch: epoch.into(),
                offset,
                positioned: true,
                recoverable: true,
                join_leave: *presence,
                token: token.into(),
                delta: if *deltas { wire::delta::NAME.into() } else { Cow::default() },
                ..wire::Subscribe::default()
            };
            (id, wire::Request::Subscribe(subscribe))
        }
        Request::Publish { topic, .. } => {
            let publish = wire::Publish { channel: topic.into(), data: &content, ..wire::Publish::default() };
            (id, wire::Request::Publish(publish))
        }
        Request::Rpc { method, .. } => {
            (id, wire::Request::Rpc(wire::Rpc { method: method.into(), data: &content }))
        }
        Request::History { topic, query } => (id, wire::Request::History(history(topic, query))),
    };
    let mut frame = Vec::new();
    wire::encode(encoding, &mut frame, &Command { id, request });
    match encoding {
        Encoding::Protobuf => Frame::Binary(frame.into()),
        // JSON of ours is UTF-8; a value of the program was checked when it was made.
        Encoding::Json | Encoding::Events | Encoding::Lines => {
            Frame::Text(Text::from_utf8(Bytes::from(frame)).unwrap_or_default())
        }
    }
}

fn connect<'a>(token: &'a str, positions: &'a [(String, Position)]) -> wire::Connect<'a> {
    let subscriptions = positions.iter().map(|(channel, position)| recovering(channel, position));
    wire::Connect { token: token.into(), subscriptions: subscriptions.collect(), ..wire::Connect::default() }
}

fn history<'a>(topic: &'a str, query: &'a HistoryQuery) -> wire::History<'a> {
    let since = query
        .since
        .as_ref()
        .map(|position| wire::Position { offset: position.offset, epoch: position.epoch.as_str().into() });
    let limit = query.limit.map_or(-1, |limit| i32::try_from(limit).unwrap_or(i32::MAX));
    wire::History { channel: topic.into(), limit, since, reverse: query.reverse }
}

/// A server-side subscription that is to be recovered.
fn recovering<'a>(channel: &'a str, position: &'a Position) -> wire::Subscribe<'a> {
    wire::Subscribe {
        channel: channel.into(),
        recover: true,
        epoch: position.epoch.as_str().into(),
        offset: position.offset,
        ..wire::Subscribe::default()
    }
}

/// A payload as a command carries it: in JSON as a value, in protobuf as its bytes.
fn data(encoding: Encoding, payload: &Payload) -> Cow<'_, [u8]> {
    match (encoding, payload) {
        (Encoding::Json, Payload::Text(text)) => serde_json::to_vec(text).unwrap_or_default().into(),
        _ => payload.as_bytes().into(),
    }
}

fn payload(encoding: Encoding, data: &[u8]) -> Payload {
    match encoding {
        Encoding::Protobuf => Payload::Bytes(Bytes::copy_from_slice(data)),
        Encoding::Json | Encoding::Events | Encoding::Lines => {
            let value = str::from_utf8(data).ok().filter(|text| !text.is_empty());
            let value = value.and_then(|text| RawValue::from_string(text.to_owned()).ok());
            Payload::Json(value.unwrap_or_else(|| RawValue::NULL.to_owned()))
        }
    }
}

/// Turns received messages into inputs of the session.
#[derive(Clone, Copy)]
struct Reader(Encoding);

impl Reader {
    fn message(self, publication: received::Publication<'_>, snapshot: bool) -> Sent {
        let message = Message {
            offset: publication.offset,
            key: (!publication.key.is_empty()).then(|| publication.key.into_owned()),
            skipped: 0,
            snapshot,
            data: payload(self.0, publication.data),
        };
        Sent { message, is_delta: publication.delta }
    }

    fn messages(self, publications: Vec<received::Publication<'_>>, snapshot: bool) -> Vec<Sent> {
        publications.into_iter().map(|publication| self.message(publication, snapshot)).collect()
    }

    fn start(self, subscription: received::Subscription<'_>) -> Start {
        let snapshot = !subscription.was_recovering;
        Start {
            expires_in_s: subscription.expires_in_s(),
            deltas: subscription.delta,
            recovered: subscription.was_recovering.then_some(subscription.recovered),
            replayed: Some(self.messages(subscription.publications, snapshot)),
            position: Position { epoch: subscription.epoch.into_owned(), offset: subscription.offset },
            count: None,
            client: None,
        }
    }

    fn answer(self, reply: Reply<'_>) -> Option<Answer> {
        Some(match reply {
            Reply::Error(failure) => Answer::Refused(refusal(failure)),
            Reply::Connect(connected) => {
                let expires_in_s = connected.expires_in_s();
                let subscriptions = connected.subscriptions.into_iter();
                let begun = subscriptions.map(|(channel, begun)| (channel.into_owned(), self.start(begun)));
                Answer::Connected { begun: begun.collect(), expires_in_s }
            }
            Reply::Subscribe(subscription) => Answer::Subscribed(self.start(subscription)),
            Reply::Unsubscribe => Answer::Unsubscribed,
            Reply::Publish => Answer::Published(None),
            Reply::Presence(members) => {
                let members: Vec<Member> = members.into_values().map(member).collect();
                Answer::Members(Members { count: members.len() as u64, members, next: None })
            }
            Reply::History(history) => Answer::History(History {
                // A history is always whole.
                messages: self
                    .messages(history.publications, false)
                    .into_iter()
                    .map(|sent| sent.message)
                    .collect(),
                position: Position { epoch: history.epoch.into_owned(), offset: history.offset },
            }),
            Reply::Rpc(data) => Answer::Called(payload(self.0, data)),
            Reply::Refresh(lifetime) | Reply::SubRefresh(lifetime) => {
                Answer::Authenticated(lifetime.expires_in_s())
            }
            _ => return None,
        })
    }

    fn push(self, push: received::Push<'_>) -> Option<Incoming> {
        let event = match push.event {
            PushEvent::Refresh(lifetime) => return Some(Incoming::Lifetime(lifetime.expires_in_s())),
            PushEvent::Subscribe(subscription) => TopicEvent::Subscribed(self.start(subscription)),
            PushEvent::Publication(publication) => TopicEvent::Message(self.message(publication, false)),
            PushEvent::Join(info) => TopicEvent::Join(member(info)),
            PushEvent::Leave(info) => TopicEvent::Leave(member(info)),
            PushEvent::Unsubscribe(ended) => {
                let resubscribes = ended.code >= RESUBSCRIBES_FROM;
                let refusal = Refusal {
                    code: ended.code.to_string(),
                    message: ended.reason.into_owned(),
                    temporary: resubscribes,
                };
                TopicEvent::Unsubscribed { resubscribes, refusal }
            }
            _ => return None,
        };
        Some(Incoming::Event(push.channel.into_owned(), event))
    }

    fn incoming(self, received: ServerMessage<'_>) -> Option<Incoming> {
        match received {
            ServerMessage::Ping => Some(Incoming::Ping),
            ServerMessage::Reply(0, Reply::Error(failure)) => Some(Incoming::Complaint(refusal(failure))),
            ServerMessage::Reply(id, reply) => Some(Incoming::Answer(id, self.answer(reply)?)),
            ServerMessage::Push(push) => self.push(push),
            _ => None,
        }
    }
}

fn member(info: received::Info<'_>) -> Member {
    Member { client: info.client.into_owned(), user: info.user.into_owned() }
}

fn refusal(failure: received::Failure<'_>) -> Refusal {
    let known = wire::ErrorCode::ALL.into_iter().find(|known| known.code() == failure.code);
    // Servers that do not tell it exist.
    let temporary = failure.temporary || known.is_some_and(wire::ErrorCode::is_temporary);
    Refusal { code: failure.code.to_string(), message: failure.message.into_owned(), temporary }
}

pub(super) fn decode(encoding: Encoding, frame: &Frame) -> Result<Vec<Incoming>, Malformed> {
    let reader = Reader(encoding);
    let messages = received::decode(encoding, frame.as_bytes());
    messages
        .map(|received| received.map(|received| reader.incoming(received)))
        .filter_map(Result::transpose)
        .collect()
}
