//! Server events: each is one JSON object in a text message, appended to a buffer.
//!
//! A published JSON value is written byte for byte as it was published.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::protocol_error::ProtocolError;
use echoring_topics::{ClientId, Content, GapReason, Members, Position};

/// A subscription has begun: messages after `position` follow, those up to `snapshot` from the history. If the client
/// asked for an earlier position, `recovered` tells whether all messages after it follow. On a topic with presence,
/// `presence` has the number of subscribers, including this one, and the client's own id.
pub fn subscribed(
    out: &mut Vec<u8>,
    id: Option<u64>,
    topic: &str,
    position: Position,
    recovered: Option<bool>,
    snapshot: Option<u64>,
    presence: Option<(u64, ClientId)>,
) {
    placed(out, "subscribed", id, topic, position);
    if let Some(recovered) = recovered {
        put(out, format_args!(r#","recovered":{recovered}"#));
    }
    if let Some(snapshot) = snapshot {
        put(out, format_args!(r#","snapshot":{snapshot}"#));
    }
    if let Some((count, client)) = presence {
        put(out, format_args!(r#","count":{count},"client":"{client:x}""#));
    }
    out.push(b'}');
}

/// A subscription has ended: no more messages of the topic follow.
pub fn unsubscribed(out: &mut Vec<u8>, id: Option<u64>, topic: &str) {
    begin(out, "unsubscribed", id);
    named(out, topic);
    out.push(b'}');
}

/// The server ended a subscription: the client has everything up to `position`, and lost messages after it for `reason`.
pub fn dropped(out: &mut Vec<u8>, topic: &str, position: Position, reason: GapReason) {
    placed(out, "unsubscribed", None, topic, position);
    put(out, format_args!(r#","reason":"{}"}}"#, reason.word()));
}

/// The server ended a subscription, because the client may no longer subscribe: it has everything up to `position`.
pub fn withdrawn(out: &mut Vec<u8>, topic: &str, position: Position) {
    placed(out, "unsubscribed", None, topic, position);
    out.extend_from_slice(br#","reason":"forbidden"}"#);
}

/// The server ended a subscription, because the topic continues in another epoch, or behind missing messages: the
/// client has everything up to `position`.
pub fn moved(out: &mut Vec<u8>, topic: &str, position: Position) {
    placed(out, "unsubscribed", None, topic, position);
    out.extend_from_slice(br#","reason":"moved"}"#);
}

/// The session has new credentials of its client, with their lifetime in seconds, if they expire.
pub fn authenticated(out: &mut Vec<u8>, id: Option<u64>, subject: &str, expires_in_s: Option<u64>) {
    begin(out, "authenticated", id);
    out.extend_from_slice(br#","subject":"#);
    string(out, subject);
    if let Some(seconds) = expires_in_s {
        put(out, format_args!(r#","expires_in":{seconds}"#));
    }
    out.push(b'}');
}

/// The credentials of the session expire after this number of seconds. The connection is then closed, unless fresh ones
/// come before.
pub fn token_expires(out: &mut Vec<u8>, seconds: u64) {
    begin(out, "token_expires", None);
    put(out, format_args!(r#","expires_in":{seconds}}}"#));
}

/// A publication was accepted at this position.
pub fn published(out: &mut Vec<u8>, id: Option<u64>, topic: &str, position: Position) {
    placed(out, "published", id, topic, position);
    out.push(b'}');
}

/// This subscriber lost the messages `from` to `to`, both included.
pub fn gap(out: &mut Vec<u8>, topic: &str, from: u64, to: u64, reason: GapReason) {
    begin(out, "gap", None);
    named(out, topic);
    put(out, format_args!(r#","from":{from},"to":{to},"reason":"{}"}}"#, reason.word()));
}

/// A subscriber `joined`, otherwise left; there are `count` subscribers now. `subject` is that of its credentials; empty for
/// none.
pub fn presence(out: &mut Vec<u8>, topic: &str, joined: bool, client: ClientId, subject: &str, count: u64) {
    begin(out, "presence", None);
    named(out, topic);
    let event = if joined { "join" } else { "leave" };
    put(out, format_args!(r#","event":"{event}","client":"{client:x}""#));
    if !subject.is_empty() {
        out.extend_from_slice(br#","subject":"#);
        string(out, subject);
    }
    put(out, format_args!(r#","count":{count}}}"#));
}

/// The subscriber missed presence events, so its list of members is stale.
pub fn presence_stale(out: &mut Vec<u8>, topic: &str) {
    begin(out, "presence", None);
    named(out, topic);
    out.extend_from_slice(br#","event":"stale"}"#);
}

/// A page of the member list: those after `after`, or the first ones. Each client comes with the subject of its credentials, which
/// is empty for none.
pub fn members<'a>(
    out: &mut Vec<u8>,
    id: Option<u64>,
    topic: &str,
    after: Option<ClientId>,
    page: Members,
    clients: impl Iterator<Item = (ClientId, &'a str)> + Clone,
) {
    let Members { count, next, unlisted } = page;
    begin(out, "members", id);
    named(out, topic);
    if let Some(after) = after {
        put(out, format_args!(r#","after":"{after:x}""#));
    }
    put(out, format_args!(r#","count":{count},"clients":["#));
    for (at, (client, _)) in clients.clone().enumerate() {
        put(out, format_args!(r#"{}"{client:x}""#, if at > 0 { "," } else { "" }));
    }
    out.push(b']');
    let mut known = clients.filter(|(_, subject)| !subject.is_empty()).peekable();
    if known.peek().is_some() {
        out.extend_from_slice(br#","subjects":{"#);
        for (at, (client, subject)) in known.enumerate() {
            put(out, format_args!(r#"{}"{client:x}":"#, if at > 0 { "," } else { "" }));
            string(out, subject);
        }
        out.push(b'}');
    }
    if let Some(next) = next {
        put(out, format_args!(r#","next":"{next:x}""#));
    }
    if unlisted > 0 {
        put(out, format_args!(r#","unlisted":{unlisted}"#));
    }
    out.push(b'}');
}

/// Everything up to `offset` was sent, so nothing was lost.
pub fn heartbeat(out: &mut Vec<u8>, topic: &str, offset: u64) {
    begin(out, "heartbeat", None);
    named(out, topic);
    put(out, format_args!(r#","offset":{offset}}}"#));
}

/// A request was rejected or refused.
pub fn error(out: &mut Vec<u8>, problem: &ProtocolError) {
    let ProtocolError { id, code, field, message } = problem;
    begin(out, "error", *id);
    put(out, format_args!(r#","code":"{code}""#));
    if !field.is_empty() {
        put(out, format_args!(r#","field":"{field}""#));
    }
    out.extend_from_slice(br#","message":"#);
    string(out, message);
    out.push(b'}');
}

/// A message event in three parts: before the value, the value, and behind it. A JSON value is not copied; text and binary
/// payloads are written to the first part. `key` is empty for none; `skipped` messages before this one were conflated. The
/// previous content of `head` is discarded.
pub fn message_parts<'a>(
    head: &'a mut Vec<u8>,
    topic: &str,
    offset: u64,
    key: &str,
    skipped: u64,
    content: Content,
    payload: &'a [u8],
) -> [&'a [u8]; 3] {
    head.clear();
    begin(head, "message", None);
    named(head, topic);
    head.extend_from_slice(br#","offset":"#);
    number(head, offset);
    if !key.is_empty() {
        head.extend_from_slice(br#","key":"#);
        string(head, key);
    }
    if skipped > 0 {
        head.extend_from_slice(br#","skipped":"#);
        number(head, skipped);
    }
    let value = match (content, std::str::from_utf8(payload)) {
        (Content::Json, _) => {
            head.extend_from_slice(br#","data":"#);
            payload
        }
        (Content::Text, Ok(text)) => {
            head.extend_from_slice(br#","text":"#);
            string(head, text);
            &[]
        }
        // Text was validated as UTF-8; should it ever not be, base64 keeps the event well-formed.
        (Content::Binary | Content::Text, _) => {
            head.extend_from_slice(br#","base64":""#);
            base64(head, payload);
            head.push(b'"');
            &[]
        }
    };
    [head, value, b"}"]
}

/// The last part of a message event that is a part of a snapshot.
pub(crate) const SNAPSHOT_END: &[u8] = br#","snapshot":true}"#;

/// Marks the message event at the end of `out` as a part of a snapshot.
pub fn mark_snapshot(out: &mut Vec<u8>) {
    let brace = out.pop();
    debug_assert_eq!(brace, Some(b'}'));
    out.extend_from_slice(SNAPSHOT_END);
}

fn begin(out: &mut Vec<u8>, kind: &str, id: Option<u64>) {
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    if let Some(id) = id {
        out.extend_from_slice(br#","id":"#);
        number(out, id);
    }
}

fn named(out: &mut Vec<u8>, topic: &str) {
    out.extend_from_slice(br#","topic":"#);
    string(out, topic);
}

fn at(out: &mut Vec<u8>, Position { epoch, offset }: Position) {
    put(out, format_args!(r#","epoch":"{epoch:x}","offset":{offset}"#));
}

fn placed(out: &mut Vec<u8>, kind: &str, id: Option<u64>, topic: &str, position: Position) {
    begin(out, kind, id);
    named(out, topic);
    at(out, position);
}

/// Writing numbers and strings to a vector does not fail.
fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(arguments);
    debug_assert!(written.is_ok());
}

fn number(out: &mut Vec<u8>, number: u64) {
    let written = serde_json::to_writer(out, &number);
    debug_assert!(written.is_ok());
}

fn string(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

/// Appends bytes as base64.
pub(crate) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    // Four characters for every three bytes or part of them.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written.ok(), Some(out.len() - start));
}
