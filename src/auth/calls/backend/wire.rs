//! The requests to back ends and their answers, as JSON. Their form is documented and only grows.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::CONTROL_PAYLOAD_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::settings::ConnectFacts;
use crate::identity::{Identity, Method};

/// An instruction of a back end for a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum BackendAction {
    /// Send a message to it.
    Send(MessageKind, Vec<u8>),
    /// Subscribe it to a topic.
    Subscribe(String),
    /// End its subscription to a topic.
    Unsubscribe(String),
    /// Publish a message to a topic.
    Publish(String, MessageKind, Vec<u8>),
    /// Close it.
    Close(CloseCode, String),
}

// Messages are the application's.
impl std::fmt::Debug for BackendAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendAction::Send(..) => "Send",
            BackendAction::Subscribe(_) => "Subscribe",
            BackendAction::Unsubscribe(_) => "Unsubscribe",
            BackendAction::Publish(..) => "Publish",
            BackendAction::Close(..) => "Close",
        })
    }
}

impl BackendAction {
    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        let own = match self {
            BackendAction::Send(_, payload) => payload.capacity(),
            BackendAction::Subscribe(topic) | BackendAction::Unsubscribe(topic) => topic.capacity(),
            BackendAction::Publish(topic, _, payload) => topic.capacity() + payload.capacity(),
            BackendAction::Close(_, reason) => reason.capacity(),
        };
        size_of::<BackendAction>() + own
    }
}

/// A back end's answer: its instructions, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendAnswer {
    /// Instructions.
    pub actions: VecDeque<BackendAction>,
    /// The client, which an answer about a new connection may name.
    pub identity: Option<Arc<Identity>>,
}

/// The parts that all events have.
pub(super) struct Head<'a> {
    pub(super) node: &'a str,
    pub(super) connection: &'a str,
    pub(super) identity: Option<&'a str>,
    pub(super) path: &'a str,
}

#[derive(Serialize)]
struct Body<'a, T> {
    event: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    connection: &'a str,
    identity: Option<&'a str>,
    path: &'a str,
    #[serde(flatten)]
    of_event: T,
}

#[derive(Serialize)]
struct Connect<'a> {
    query: &'a str,
    address: Option<String>,
    headers: Vec<(&'a str, std::borrow::Cow<'a, str>)>,
    rights: Option<Rights<'a>>,
}

#[derive(Serialize)]
struct Rights<'a> {
    subscribe: Vec<&'a str>,
    publish: Vec<&'a str>,
    presence: Vec<&'a str>,
    history: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    Text(&'a str),
    Base64(String),
}

#[derive(Serialize)]
struct Messages<'a> {
    messages: Vec<Content<'a>>,
}

#[derive(Serialize)]
struct Disconnect<'a> {
    code: u16,
    reason: &'a str,
}

impl Head<'_> {
    fn body(&self, event: &'static str, of_event: impl Serialize) -> Vec<u8> {
        let Head { node, connection, identity, path } = *self;
        // Text and numbers always have a JSON form.
        serde_json::to_vec(&Body { event, node, connection, identity, path, of_event }).unwrap_or_default()
    }

    /// The body about a new connection.
    pub(super) fn connect(&self, facts: &ConnectFacts, client: Option<&Identity>) -> Vec<u8> {
        let target = &facts.head.target;
        let fields = facts.head.fields.iter();
        self.body(
            "connect",
            Connect {
                query: target.split_once('?').map_or("", |(_, query)| query),
                address: facts.address.map(|address| address.to_string()),
                headers: fields.map(|(name, value)| (&**name, String::from_utf8_lossy(value))).collect(),
                rights: client.map(rights),
            },
        )
    }

    /// The body with messages; with one alone as a part of the event unless `is_list`.
    pub(super) fn messages<'m>(
        &self,
        messages: impl Iterator<Item = (MessageKind, &'m [u8])>,
        is_list: bool,
    ) -> Vec<u8> {
        let mut messages: Vec<Content<'_>> = messages.map(|(kind, payload)| content(kind, payload)).collect();
        match messages.pop() {
            Some(message) if !is_list => self.body("message", message),
            last => {
                messages.extend(last);
                self.body("message", Messages { messages })
            }
        }
    }

    /// The body about a connection that has ended.
    pub(super) fn disconnect(&self, code: CloseCode, reason: &str) -> Vec<u8> {
        self.body("disconnect", Disconnect { code: code.0, reason })
    }
}

fn rights(client: &Identity) -> Rights<'_> {
    let rights = client.rights();
    Rights {
        subscribe: rights.subscribe.texts().collect(),
        publish: rights.publish.texts().collect(),
        presence: rights.presence.as_ref().unwrap_or(&rights.subscribe).texts().collect(),
        history: rights.history.as_ref().unwrap_or(&rights.subscribe).texts().collect(),
    }
}

fn content(kind: MessageKind, payload: &[u8]) -> Content<'_> {
    match (kind, str::from_utf8(payload)) {
        (MessageKind::Text, Ok(text)) => Content::Text(text),
        _ => Content::Base64(STANDARD.encode(payload)),
    }
}

/// Bytes of a message in JSON, at most.
pub(super) fn encoded_bytes(kind: MessageKind, payload: &[u8]) -> usize {
    let escaped = |byte: &u8| match byte {
        ..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    match kind {
        MessageKind::Text => payload.iter().map(escaped).sum(),
        MessageKind::Binary => payload.len().div_ceil(3) * 4,
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    identity: Option<String>,
    unsubscribe: Vec<String>,
    subscribe: Vec<String>,
    messages: Vec<Payload>,
    publish: Vec<Publication>,
    close: Option<Close>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Payload {
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publication {
    topic: String,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    code: u16,
    #[serde(default)]
    reason: String,
}

/// Reads an answer. An empty one has no instructions.
pub(super) fn answer(body: &[u8]) -> Result<BackendAnswer, String> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(BackendAnswer::default());
    }
    if !body.starts_with(b"{") {
        // A list would be read as the members of an object without their names.
        return Err("expected an object".to_owned());
    }
    let Answer { identity, unsubscribe, subscribe, messages, publish, close } =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let named = |subject: String| Identity::authenticated(&subject, Method::ConnectHook, None).ok_or(subject);
    let identity =
        identity.map(named).transpose().map_err(|_| "the identity is empty or too long".to_owned())?;
    let mut actions: VecDeque<BackendAction> =
        unsubscribe.into_iter().map(BackendAction::Unsubscribe).collect();
    actions.extend(subscribe.into_iter().map(BackendAction::Subscribe));
    for Payload { text, base64 } in messages {
        let (kind, payload) = payload(text, base64)?;
        actions.push_back(BackendAction::Send(kind, payload));
    }
    for Publication { topic, text, base64 } in publish {
        let (kind, payload) = payload(text, base64)?;
        actions.push_back(BackendAction::Publish(topic, kind, payload));
    }
    if let Some(Close { code, reason }) = close {
        if !CloseCode(code).may_be_sent() || reason.len() > CONTROL_PAYLOAD_BYTES_MAX - 2 {
            return Err("the close code must not be sent, or its reason is longer than 123 bytes".to_owned());
        }
        actions.push_back(BackendAction::Close(CloseCode(code), reason));
    }
    Ok(BackendAnswer { actions, identity: identity.map(Arc::new) })
}

fn payload(text: Option<String>, base64: Option<String>) -> Result<(MessageKind, Vec<u8>), String> {
    match (text, base64) {
        (Some(text), None) => Ok((MessageKind::Text, text.into_bytes())),
        (None, Some(encoded)) => {
            let payload = STANDARD.decode(encoded).map_err(|_| "base64 is malformed".to_owned())?;
            Ok((MessageKind::Binary, payload))
        }
        _ => Err("a message has either text or base64".to_owned()),
    }
}
