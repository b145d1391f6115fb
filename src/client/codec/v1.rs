//! `echoring.v1.json`: the requests and the events of the session as the protocol has them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use echoring_wire::v1::{self as wire, Command, Digits, Event, PresenceChange, Subjects, Value};
use serde::de::Error as _;

use super::{Answer, Incoming, Request, Sent, Start, TopicEvent};
use crate::limits::MEMBERS_PER_PAGE;
use crate::{Gap, GapReason, Member, Members, Message, Missed, Payload, Position, Publication, Refusal};

pub(super) fn encode(id: u32, request: &Request) -> String {
    let id = Some(id.into());
    let command = match request {
        Request::Subscribe { topic, position, .. } => {
            let position = position.as_ref().map(|Position { epoch, offset }| wire::Position {
                epoch: epoch.as_str().into(),
                offset: *offset,
            });
            Command::Subscribe { id, topic: topic.into(), position }
        }
        Request::Unsubscribe { topic } => Command::Unsubscribe { id, topic: topic.into() },
        Request::Presence { topic, after } => {
            let (topic, after) = (topic.into(), after.as_deref().map(Digits::from));
            Command::Presence { id, topic, after, limit: MEMBERS_PER_PAGE as usize }
        }
        Request::Authenticate { token } => Command::Authenticate { id, token: token.into() },
        Request::Publish { topic, publication } => publish(id, topic, publication),
        // `Protocol::supports` and `Protocol::connects` leave these out.
        Request::Connect { .. }
        | Request::History { .. }
        | Request::RefreshSubscription { .. }
        | Request::Rpc { .. }
        | Request::Send { .. }
        | Request::Pong => return String::new(),
    };
    command.encode()
}

fn publish<'a>(id: Option<u64>, topic: &'a str, publication: &'a Publication) -> Command<'a> {
    let Publication { payload, key, idempotency_key } = publication;
    let value = match payload {
        Payload::Json(value) => Value::Json(value),
        Payload::Text(text) => Value::Text(text.into()),
        // `Protocol::supports` leaves bytes out.
        Payload::Bytes(_) => Value::Text(Cow::default()),
    };
    let (key, idempotency_key) = (key.as_deref().map(Cow::from), idempotency_key.as_deref().map(Cow::from));
    Command::Publish { id, topic: topic.into(), key, idempotency_key, value }
}

pub(super) fn decode(text: &str) -> Result<Option<Incoming>, serde_json::Error> {
    let Some(event) = Event::read(text)? else { return Ok(None) };
    let (id, answer) = match event {
        Event::Error(error) if error.id.is_none() => return Ok(Some(Incoming::Complaint(refusal(error)))),
        Event::Error(error) if error.code == "uncertain" => (error.id, Answer::Uncertain),
        Event::Error(error) => (error.id, Answer::Refused(refusal(error))),
        Event::Subscribed(begun) => (begun.id, Answer::Subscribed(start(begun))),
        Event::Unsubscribed(ended) if ended.id.is_some() => (ended.id, Answer::Unsubscribed),
        Event::Published(published) => {
            let position = published.epoch.zip(published.offset);
            (published.id, Answer::Published(position.map(|(epoch, offset)| position_of(epoch, offset))))
        }
        // `token_expires` says when a fresh one is needed.
        Event::Authenticated(authenticated) => (authenticated.id, Answer::Authenticated(None)),
        Event::Members(page) => (page.id, Answer::Members(members(page))),
        Event::TokenExpires(_) => return Ok(Some(Incoming::TokenExpires)),
        event => return Ok(topic_event(event)),
    };
    // Without an id, it answers nothing.
    let id = id.map(u32::try_from).transpose().map_err(serde_json::Error::custom)?;
    Ok(id.map(|id| Incoming::Answer(id, answer)))
}

fn topic_event(event: Event<'_>) -> Option<Incoming> {
    let (topic, event) = match event {
        Event::Message(message) => {
            let payload = if let Some(value) = message.data {
                Payload::Json(value.to_owned())
            } else if let Some(text) = message.text {
                Payload::Text(text.into_owned())
            } else {
                Payload::Bytes(message.base64?.into_owned().into())
            };
            let sent = Message {
                offset: message.offset,
                data: payload,
                key: message.key.map(Cow::into_owned),
                skipped: message.skipped,
                snapshot: message.snapshot,
            };
            (message.topic, TopicEvent::Message(Sent { message: sent, is_delta: false }))
        }
        Event::Gap(wire::Gap { topic, from, to, reason }) => {
            let reason = GapReason::from(&*reason);
            (topic, TopicEvent::Gap(Gap { missed: Missed::Range { from, to }, reason }))
        }
        Event::Heartbeat(heartbeat) => (heartbeat.topic, TopicEvent::Heartbeat(heartbeat.offset)),
        Event::Presence(presence) => {
            let member = Member {
                client: presence.client.as_ref().map(Digits::to_string).unwrap_or_default(),
                user: presence.subject.unwrap_or_default().into_owned(),
            };
            let event = match presence.event {
                PresenceChange::Join => TopicEvent::Join(member),
                PresenceChange::Leave => TopicEvent::Leave(member),
                PresenceChange::Stale => TopicEvent::PresenceStale,
            };
            (presence.topic, event)
        }
        Event::Unsubscribed(ended) => {
            let code = ended.reason.unwrap_or_default().into_owned();
            let resubscribes = code != wire::Unsubscribed::FORBIDDEN;
            let refusal = Refusal { code, message: String::new(), temporary: false };
            (ended.topic, TopicEvent::Unsubscribed { resubscribes, refusal })
        }
        _ => return None,
    };
    Some(Incoming::Event(topic.into_owned(), event))
}

fn position_of(epoch: Digits<'_>, offset: u64) -> Position {
    Position { epoch: epoch.to_string(), offset }
}

fn start(begun: wire::Subscribed<'_>) -> Start {
    Start {
        position: position_of(begun.epoch, begun.offset),
        recovered: begun.recovered,
        replayed: None,
        count: begun.count,
        client: begun.client.as_ref().map(Digits::to_string),
        expires_in_s: None,
        deltas: false,
    }
}

fn members(page: wire::MembersPage<'_>) -> Members {
    let Subjects(subjects) = page.subjects;
    let mut subjects: BTreeMap<String, Cow<'_, str>> =
        subjects.into_iter().map(|(client, subject)| (client.to_string(), subject)).collect();
    let member = |client: Digits<'_>| {
        let client = client.to_string();
        Member { user: subjects.remove(&client).unwrap_or_default().into_owned(), client }
    };
    Members {
        members: page.clients.into_iter().map(member).collect(),
        count: page.count,
        next: page.next.as_ref().map(Digits::to_string),
    }
}

fn refusal(error: wire::ErrorEvent<'_>) -> Refusal {
    let temporary = wire::is_temporary(&error.code);
    Refusal { code: error.code.into_owned(), message: error.message.into_owned(), temporary }
}
