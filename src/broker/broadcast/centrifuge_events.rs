//! Events in Centrifuge's client protocol.

use echoring_auth::Denied;
use echoring_topics::{Profile, Publication, Tags, entries, members};
use echoring_wire::centrifuge::{
    Body, Encoding, ErrorCode, PresenceStats, RefreshResult, SubscribeResult, Subscribed, Texts,
    UnsubscribeCode, push, reply,
};
use echoring_wire::v1::ProtocolError;

use super::deltas::{Written, payload};
use super::described::{Described, app_payload};
use super::events::{MembersEvent, PresenceChange, SessionEvent, SubscribedEvent, TopicEvent};
use crate::limits::EXPIRY_NOTICE;
use echoring_proto::limits::SECOND;

/// The version that connect and refresh replies name.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Appends an event. The protocol has no event for a gap, nor for credentials that expire soon: the client subscribes again
/// from its position, and knows when to refresh.
pub(super) fn write(encoding: Encoding, event: &SessionEvent<'_>, out: &mut Vec<u8>) {
    match event {
        SessionEvent::Subscribed(event) => write_subscribed(encoding, event, out),
        SessionEvent::Unsubscribed { id, .. } => reply::unsubscribe(encoding, out, number(*id)),
        SessionEvent::Dropped { topic, .. } | SessionEvent::Interrupted { topic, .. } => {
            push::unsubscribe(encoding, out, topic, UnsubscribeCode::InsufficientState);
        }
        SessionEvent::Withdrawn { topic, may_return, .. } => {
            let code = if *may_return { UnsubscribeCode::InsufficientState } else { UnsubscribeCode::Server };
            push::unsubscribe(encoding, out, topic, code);
        }
        SessionEvent::Published { id, .. } => reply::publish(encoding, out, number(Some(*id))),
        SessionEvent::Members(event) => write_members(encoding, event, out),
        SessionEvent::Authenticated { id, client, expires_in_s, .. } => {
            let client = client.to_string();
            let expires_in_s = expires_in_s.map(refresh_in_s);
            let result = RefreshResult { client: &client, version: VERSION, expires_in_s };
            reply::refresh(encoding, out, number(*id), &result);
        }
        SessionEvent::Error(error) => reply::error(encoding, out, number(error.id), code_of(error)),
        SessionEvent::Gap { .. } | SessionEvent::TokenExpires(_) | SessionEvent::Pong { .. } => {}
    }
}

/// Appends an event for all sessions of a topic. The protocol has no heartbeats of a topic.
pub(super) fn write_topic_event(encoding: Encoding, event: &TopicEvent<'_>, topic: &str, out: &mut Vec<u8>) {
    let TopicEvent::Presence(&PresenceChange { client, profile, joined, .. }) = *event else { return };
    let client = Described::new(client, profile);
    let info = client.info();
    if joined { push::join(encoding, out, topic, &info) } else { push::leave(encoding, out, topic, &info) }
}

/// The message `offset` as a push with this data, in one part: a JSON value may lose its line feeds, which end a push. The previous
/// content of `out` is discarded.
#[inline]
pub(super) fn message_parts<'a>(
    encoding: Encoding,
    out: &'a mut Vec<u8>,
    topic: &str,
    (offset, message): (u64, &Publication<'_>),
    body: Body<'_>,
) -> [&'a [u8]; 3] {
    out.clear();
    let author = Described::author(message);
    let published = publication(offset, message, author.as_ref());
    push::publication(encoding, out, topic, &echoring_wire::centrifuge::Publication { body, ..published });
    [out, &[], &[]]
}

/// A message with its offset and its author.
pub(super) fn publication<'a>(
    offset: u64,
    message: &Publication<'a>,
    author: Option<&'a Described<'_>>,
) -> echoring_wire::centrifuge::Publication<'a> {
    let (body, tags) = (plain(message), Texts::new(message.tags.texts(), Tags::take));
    let info = author.map(Described::info);
    echoring_wire::centrifuge::Publication { body, offset, info, key: message.key, tags }
}

/// The data of a message for subscriptions without delta compression.
pub(super) fn plain<'a>(message: &Publication<'a>) -> Body<'a> {
    Body::Plain(payload(message))
}

/// The number of a request on the wire: its decoder has taken it from there.
pub(super) fn number(id: Option<u64>) -> u32 {
    id.and_then(|id| u32::try_from(id).ok()).unwrap_or_default()
}

/// Seconds after which a client presents a fresh token, for credentials with this lifetime: the protocol's clients do
/// not return before they are told to.
pub(super) fn refresh_in_s(expires_in_s: u64) -> u32 {
    let notice_s = (EXPIRY_NOTICE / SECOND).min(expires_in_s / 2);
    u32::try_from(expires_in_s - notice_s).unwrap_or(u32::MAX).max(1)
}

fn write_subscribed(encoding: Encoding, event: &SubscribedEvent<'_>, out: &mut Vec<u8>) {
    let SubscribedEvent {
        id,
        topic,
        position,
        recovered,
        recoverable,
        is_server_side,
        deltas,
        expires_in_s,
        data,
        messages,
        ..
    } = *event;
    let epoch = format!("{:x}", position.epoch);
    if is_server_side {
        let data = data.map(app_payload);
        let (offset, positioned) = (position.offset, true);
        let subscribed = Subscribed { recoverable, epoch: &epoch, offset, positioned, data };
        return push::subscribe(encoding, out, topic, &subscribed);
    }
    let written = if deltas { Written::new(encoding, messages) } else { Written::default() };
    let authors: Vec<_> = entries(messages).map(|(_, message)| Described::author(&message)).collect();
    let publications: Vec<_> = entries(messages)
        .zip(&authors)
        .enumerate()
        .map(|(index, ((offset, message), author))| {
            let body = written.body(index).unwrap_or(plain(&message));
            echoring_wire::centrifuge::Publication { body, ..publication(offset, &message, author.as_ref()) }
        })
        .collect();
    let result = SubscribeResult {
        recoverable,
        epoch: &epoch,
        publications: &publications,
        recovered: recovered == Some(true),
        offset: position.offset,
        positioned: true,
        was_recovering: recovered.is_some(),
        delta: deltas,
        data: data.map(app_payload),
        expires_in_s: expires_in_s.map(refresh_in_s),
    };
    reply::subscribe(encoding, out, number(id), &result);
}

fn write_members(encoding: Encoding, event: &MembersEvent<'_>, out: &mut Vec<u8>) {
    let id = number(event.id);
    if event.members.next.is_some() || event.members.unlisted > 0 {
        // The protocol has no pages: a part would look like the whole.
        return reply::error(encoding, out, id, ErrorCode::LimitExceeded);
    }
    let described = members(event.clients).map(|(client, profile)| Described::new(client, Profile(profile)));
    let clients: Vec<_> = described.collect();
    if event.stats {
        let mut users: Vec<&str> = clients.iter().map(|client| client.user).collect();
        users.sort_unstable();
        users.dedup();
        let stats = PresenceStats { clients: clients.len() as u32, users: users.len() as u32 };
        return reply::presence_stats(encoding, out, id, stats);
    }
    reply::presence(encoding, out, id, clients.iter().map(|client| (&*client.client, client.info())));
}

/// The protocol's code for a token that is not accepted; `None` for one that is wrong.
pub(super) fn code_of_denied(denied: Denied) -> Option<ErrorCode> {
    match denied {
        Denied::Expired => Some(ErrorCode::TokenExpired),
        Denied::Busy | Denied::Unavailable => Some(ErrorCode::Internal),
        Denied::Forbidden => Some(ErrorCode::PermissionDenied),
        Denied::TooMany => Some(ErrorCode::LimitExceeded),
        _ => None,
    }
}

/// The protocol's code for an error.
pub(super) fn code_of(error: &ProtocolError) -> ErrorCode {
    match &*error.code {
        "forbidden" | "not-subscribed" => ErrorCode::PermissionDenied,
        "already-subscribed" => ErrorCode::AlreadySubscribed,
        "no-presence" => ErrorCode::NotAvailable,
        "rate-limited" => ErrorCode::TooManyRequests,
        "behind" | "busy" | "out-of-memory" | "draining" | "no-storage" => ErrorCode::Internal,
        "too-large"
        | "too-many-keys"
        | "too-many-subscriptions"
        | "too-many-topics"
        | "too-many-topics-per-connection"
        | "too-many-topics-per-identity" => ErrorCode::LimitExceeded,
        _ => ErrorCode::BadRequest,
    }
}
