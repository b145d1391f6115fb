//! The events of webhooks, and their form in JSON.

use echoring_proto::AddressKey;
use serde::Serialize;

use super::queue::Origin;
use crate::calls::load::Source;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebhookKind {
    /// The first subscriber of a topic at this node has come.
    TopicOccupied,
    /// The last subscriber of a topic at this node has gone.
    TopicVacated,
    /// A client has joined a topic with presence.
    MemberJoined,
    /// A client has left a topic with presence.
    MemberLeft,
    /// A WebSocket or an event stream has begun.
    ConnectionOpened,
    /// It has ended.
    ConnectionClosed,
    /// Messages that were kept for subscribers that return are gone.
    HistoryLost,
    /// Another node of the cluster is taken for dead.
    NodeLost,
    /// It was cut off, and has returned.
    NodeReturned,
}

impl WebhookKind {
    /// All kinds, by the names that configurations and events have.
    pub const ALL: [(&str, WebhookKind); 9] = [
        ("topic_occupied", WebhookKind::TopicOccupied),
        ("topic_vacated", WebhookKind::TopicVacated),
        ("member_joined", WebhookKind::MemberJoined),
        ("member_left", WebhookKind::MemberLeft),
        ("connection_opened", WebhookKind::ConnectionOpened),
        ("connection_closed", WebhookKind::ConnectionClosed),
        ("history_lost", WebhookKind::HistoryLost),
        ("node_lost", WebhookKind::NodeLost),
        ("node_returned", WebhookKind::NodeReturned),
    ];
}

/// Some kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookKinds(u16);

impl WebhookKinds {
    /// Those of connections.
    pub const CONNECTIONS: WebhookKinds =
        WebhookKinds(1 << WebhookKind::ConnectionOpened as u16 | 1 << WebhookKind::ConnectionClosed as u16);
    /// Those of nodes.
    pub const NODES: WebhookKinds =
        WebhookKinds(1 << WebhookKind::NodeLost as u16 | 1 << WebhookKind::NodeReturned as u16);
    /// Those of topics.
    pub const TOPICS: WebhookKinds = WebhookKinds(!(WebhookKinds::CONNECTIONS.0 | WebhookKinds::NODES.0));

    /// These and one more.
    #[must_use]
    pub fn with(self, kind: WebhookKind) -> WebhookKinds {
        WebhookKinds(self.0 | 1 << kind as u16)
    }

    /// Those of both.
    #[must_use]
    pub fn union(self, others: WebhookKinds) -> WebhookKinds {
        WebhookKinds(self.0 | others.0)
    }

    /// Whether one of them is among `others`.
    pub fn overlap(self, others: WebhookKinds) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a kind is among them.
    pub fn has(self, kind: WebhookKind) -> bool {
        self.overlap(WebhookKinds::default().with(kind))
    }
}

/// An event. Its form in JSON is documented and only grows.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WebhookEvent<'a> {
    /// See [`WebhookKind::TopicOccupied`].
    TopicOccupied {
        /// The topic.
        topic: &'a str,
    },
    /// See [`WebhookKind::TopicVacated`].
    TopicVacated {
        /// The topic.
        topic: &'a str,
    },
    /// See [`WebhookKind::MemberJoined`].
    MemberJoined(WebhookMember<'a>),
    /// See [`WebhookKind::MemberLeft`].
    MemberLeft(WebhookMember<'a>),
    /// See [`WebhookKind::ConnectionOpened`].
    ConnectionOpened(WebhookConnection<'a>),
    /// See [`WebhookKind::ConnectionClosed`].
    ConnectionClosed {
        /// The connection.
        #[serde(flatten)]
        connection: WebhookConnection<'a>,
        /// The close code, as in the access log.
        code: u16,
        /// The cause, as in the access log and in `echoring_connections_closed_total`.
        reason: &'a str,
    },
    /// See [`WebhookKind::HistoryLost`].
    HistoryLost {
        /// The topic; `None` for all topics whose messages were in memory only.
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a str>,
        /// Why.
        reason: &'a str,
    },
    /// See [`WebhookKind::NodeLost`].
    NodeLost {
        /// Its name.
        peer: &'a str,
    },
    /// See [`WebhookKind::NodeReturned`].
    NodeReturned {
        /// Its name.
        peer: &'a str,
    },
}

/// A member of a topic.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WebhookMember<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The id of the client, as subscribers see it.
    pub client: &'a str,
    /// The subject of its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<&'a str>,
}

/// A connection.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WebhookConnection<'a> {
    /// Its id when it was opened. It stays the same when the connection moves.
    pub connection: &'a str,
    /// The id of its client.
    pub client: &'a str,
    /// The path of its request, without the query.
    pub path: &'a str,
    /// The subject of its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<&'a str>,
}

impl<'a> WebhookEvent<'a> {
    /// The kind.
    pub fn kind(&self) -> WebhookKind {
        match self {
            WebhookEvent::TopicOccupied { .. } => WebhookKind::TopicOccupied,
            WebhookEvent::TopicVacated { .. } => WebhookKind::TopicVacated,
            WebhookEvent::MemberJoined(_) => WebhookKind::MemberJoined,
            WebhookEvent::MemberLeft(_) => WebhookKind::MemberLeft,
            WebhookEvent::ConnectionOpened(_) => WebhookKind::ConnectionOpened,
            WebhookEvent::ConnectionClosed { .. } => WebhookKind::ConnectionClosed,
            WebhookEvent::HistoryLost { .. } => WebhookKind::HistoryLost,
            WebhookEvent::NodeLost { .. } => WebhookKind::NodeLost,
            WebhookEvent::NodeReturned { .. } => WebhookKind::NodeReturned,
        }
    }

    /// Whose load it is, if it is not about a topic: that of the client's address.
    pub(super) fn origin(&self, address: Option<AddressKey>) -> Origin {
        let is_end = match self {
            WebhookEvent::TopicOccupied { .. }
            | WebhookEvent::MemberJoined(_)
            | WebhookEvent::ConnectionOpened(_) => false,
            WebhookEvent::TopicVacated { .. }
            | WebhookEvent::MemberLeft(_)
            | WebhookEvent::ConnectionClosed { .. }
            | WebhookEvent::HistoryLost { .. }
            | WebhookEvent::NodeLost { .. }
            | WebhookEvent::NodeReturned { .. } => true,
        };
        let topic = self.topic().map(Box::from);
        let source = if self.path().is_some() { Source::from(address) } else { Source::Topics };
        Origin { source, topic, is_end }
    }

    /// The topic that it is about.
    pub(super) fn topic(&self) -> Option<&'a str> {
        match *self {
            WebhookEvent::TopicOccupied { topic } | WebhookEvent::TopicVacated { topic } => Some(topic),
            WebhookEvent::MemberJoined(member) | WebhookEvent::MemberLeft(member) => Some(member.topic),
            WebhookEvent::HistoryLost { topic, .. } => topic,
            WebhookEvent::ConnectionOpened(_)
            | WebhookEvent::ConnectionClosed { .. }
            | WebhookEvent::NodeLost { .. }
            | WebhookEvent::NodeReturned { .. } => None,
        }
    }

    /// The path of the connection that it is about.
    pub(super) fn path(&self) -> Option<&'a str> {
        match *self {
            WebhookEvent::ConnectionOpened(connection)
            | WebhookEvent::ConnectionClosed { connection, .. } => Some(connection.path),
            _ => None,
        }
    }

    /// The event in JSON.
    pub(super) fn to_json(self, id: &str, time_ms: u64) -> Vec<u8> {
        #[derive(Serialize)]
        struct Told<'a> {
            id: &'a str,
            time_ms: u64,
            #[serde(flatten)]
            event: WebhookEvent<'a>,
        }
        // Text and numbers always have a JSON form.
        serde_json::to_vec(&Told { id, time_ms, event: self }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_have_their_documented_form() {
        let member = WebhookMember { topic: "a", client: "9c", identity: Some("alice") };
        let connection =
            WebhookConnection { connection: "0-1-2", client: "9d", path: "/echo", identity: None };
        let events = [
            (WebhookEvent::TopicOccupied { topic: "a" }, json!({"topic": "a"})),
            (WebhookEvent::TopicVacated { topic: "a" }, json!({"topic": "a"})),
            (WebhookEvent::MemberJoined(member), json!({"topic": "a", "client": "9c", "identity": "alice"})),
            (WebhookEvent::MemberLeft(member), json!({"topic": "a", "client": "9c", "identity": "alice"})),
            (
                WebhookEvent::ConnectionOpened(connection),
                json!({"connection": "0-1-2", "client": "9d", "path": "/echo"}),
            ),
            (
                WebhookEvent::ConnectionClosed { connection, code: 1000, reason: "peer" },
                json!({"connection": "0-1-2", "client": "9d", "path": "/echo", "code": 1000, "reason": "peer"}),
            ),
            (WebhookEvent::HistoryLost { topic: None, reason: "restart" }, json!({"reason": "restart"})),
            (WebhookEvent::NodeLost { peer: "b" }, json!({"peer": "b"})),
            (WebhookEvent::NodeReturned { peer: "b" }, json!({"peer": "b"})),
        ];
        for ((event, mut expected), (name, kind)) in events.into_iter().zip(WebhookKind::ALL) {
            let told: Value = serde_json::from_slice(&event.to_json("i-1", 5)).expect("JSON");
            for (key, value) in [("id", json!("i-1")), ("time_ms", json!(5)), ("type", json!(name))] {
                expected[key] = value;
            }
            assert_eq!((told, event.kind()), (expected, kind));
            let is_of_connection = event.path().is_some();
            let is_of_node = matches!(kind, WebhookKind::NodeLost | WebhookKind::NodeReturned);
            let is_of_topic = !is_of_connection && !is_of_node;
            assert_eq!(WebhookKinds::CONNECTIONS.has(kind), is_of_connection);
            assert_eq!(WebhookKinds::NODES.has(kind), is_of_node);
            assert_eq!(WebhookKinds::TOPICS.has(kind), is_of_topic);
            assert_eq!(event.topic().is_some(), is_of_topic && kind != WebhookKind::HistoryLost);
        }
    }
}
