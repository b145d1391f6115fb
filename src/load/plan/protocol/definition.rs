//! The entries of a protocol file, as data.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A protocol file, without its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Definition {
    /// One line for people.
    pub(crate) description: String,
    /// The path of the URL, if that has none.
    pub(crate) path: Option<String>,
    /// Offered in the upgrade.
    pub(crate) subprotocols: Vec<String>,
    /// Type of the WebSocket messages that are sent.
    pub(crate) kind: Kind,
    /// How a WebSocket message contains several messages.
    pub(crate) split: Option<String>,
    /// Whether answers come in the order of the requests.
    pub(crate) order: AnswerOrder,
    /// How requests are numbered.
    pub(crate) id: Ids,
    /// Messages after the upgrade, in order.
    pub(crate) open: Vec<Step>,
    pub(crate) request: Vec<Request>,
    /// What a session consists of; otherwise each request once.
    pub(crate) session: Option<Session>,
    pub(crate) answer: Vec<Answer>,
    /// Answers to the application's heartbeats.
    pub(crate) reply: Vec<Reply>,
    /// Messages that are expected and not counted.
    pub(crate) ignore: Vec<Ignore>,
    /// The client's own heartbeats.
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) topics: Option<Topics>,
    pub(crate) push: Option<Push>,
    /// Messages before the Close frame, in order.
    pub(crate) close: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    #[default]
    Text,
    Binary,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AnswerOrder {
    /// An answer after that of a later request is reordered.
    #[default]
    Sent,
    Any,
}

/// The ids of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ids {
    /// The id of the first request.
    pub(crate) first: u64,
    /// After this many they repeat, for ids of a fixed width.
    pub(crate) count: Option<u64>,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { first: 1, count: None }
    }
}

/// A message, and the condition for the next step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) send: Option<String>,
    #[serde(rename = "await")]
    pub(crate) awaits: Conditions,
    /// Default 5 s.
    pub(crate) timeout: Option<String>,
    /// Values of the awaited message, for later templates.
    pub(crate) capture: BTreeMap<String, Extract>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) name: String,
    #[serde(default = "one")]
    pub(crate) weight: u32,
    pub(crate) send: String,
    /// Conditions of a right answer to this request, besides those of the answer.
    #[serde(default)]
    pub(crate) expect: Conditions,
    /// Pause after the answer, in a closed loop: `10ms`, `10ms..50ms` or `exp:20ms`.
    pub(crate) think: Option<String>,
}

/// The conversation of a session: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Session {
    /// Names of requests, in order.
    pub(crate) requests: Vec<String>,
    /// How many requests are drawn by their weights: `5` or `5..20`.
    pub(crate) count: Option<String>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) when: Conditions,
    /// The request's id. Without it, answers belong to requests in order.
    #[serde(rename = "match")]
    pub(crate) id: Option<Extract>,
    /// Compared with the payload of the request.
    pub(crate) payload: Option<Extract>,
    /// The answer is the request again.
    pub(crate) same: bool,
    /// Conditions of a right answer.
    pub(crate) expect: Conditions,
    /// The answer is an error if all of them hold.
    pub(crate) error: Conditions,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    pub(crate) when: Conditions,
    pub(crate) send: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ignore {
    pub(crate) when: Conditions,
    /// Values for the steps of `topics.resume`.
    #[serde(default)]
    pub(crate) capture: BTreeMap<String, Extract>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heartbeat {
    pub(crate) every: String,
    pub(crate) send: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topics {
    /// Steps of a subscriber after those of `open`.
    pub(crate) subscribe: Vec<Step>,
    /// The same of a subscriber that comes back; without any it subscribes as before.
    #[serde(default)]
    pub(crate) resume: Vec<Step>,
    /// Whether publishers have to subscribe too.
    #[serde(default)]
    pub(crate) publishers_subscribe: bool,
    /// Template of a publication, with a payload.
    pub(crate) publish: String,
    pub(crate) delivery: Vec<Delivery>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Delivery {
    pub(crate) when: Conditions,
    pub(crate) payload: Option<Extract>,
    /// Values for the steps of `topics.resume`.
    pub(crate) capture: BTreeMap<String, Extract>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Push {
    pub(crate) when: Conditions,
    /// The time at which the server made the message.
    pub(crate) time: Option<Extract>,
    /// Unit of the time: `ns`, `us`, `ms` (the default) or `s`.
    pub(crate) unit: Option<String>,
}

/// Conditions, all of which must hold: one table, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Conditions(pub(crate) Vec<Condition>);

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Conditions, D::Error> {
        deserializer.deserialize_any(ConditionsVisitor)
    }
}

/// An untagged enum would not report which key is unknown.
struct ConditionsVisitor;

impl<'de> Visitor<'de> for ConditionsVisitor {
    type Value = Conditions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a condition such as { json = \"/type\", equals = \"ack\" }, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Conditions, A::Error> {
        let condition = Condition::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Conditions(vec![condition]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Conditions, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Conditions)
    }
}

/// A value of a message, and a test. Without a test the value must exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Condition {
    // serde cannot flatten a table and deny unknown keys.
    pub(crate) json: Option<String>,
    pub(crate) regex: Option<String>,
    pub(crate) at: Option<usize>,
    pub(crate) bytes: Option<usize>,
    pub(crate) number: Option<String>,
    pub(crate) equals: Option<Text>,
    pub(crate) one_of: Option<Vec<Text>>,
    pub(crate) matches: Option<String>,
    pub(crate) exists: Option<bool>,
}

impl Condition {
    pub(crate) fn extract(&self) -> Extract {
        let Condition { json, regex, at, bytes, number, .. } = self;
        Extract { json: json.clone(), regex: regex.clone(), at: *at, bytes: *bytes, number: number.clone() }
    }
}

/// A value of a message: a JSON pointer, the first group of a regular expression, bytes or a number at an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Extract {
    /// RFC 6901.
    pub(crate) json: Option<String>,
    pub(crate) regex: Option<String>,
    pub(crate) at: Option<usize>,
    /// This number of bytes at `at`; without it all from there on.
    pub(crate) bytes: Option<usize>,
    /// A big-endian number at `at`: `u8`, `u16`, `u32` or `u64`.
    pub(crate) number: Option<String>,
}

/// A string, number or boolean, compared by its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    String(String),
    Integer(i64),
    Boolean(bool),
}

impl Text {
    pub(crate) fn text(&self) -> String {
        match self {
            Text::String(text) => text.clone(),
            Text::Integer(number) => number.to_string(),
            Text::Boolean(is_true) => is_true.to_string(),
        }
    }
}

impl Definition {
    /// Connections send `message`, and get it back.
    pub(super) fn of_message(message: &str, binary: bool) -> Definition {
        let request =
            Request { name: "message".to_owned(), weight: 1, send: message.to_owned(), ..Request::default() };
        Definition {
            kind: if binary { Kind::Binary } else { Kind::Text },
            request: vec![request],
            answer: vec![Answer { same: true, ..Answer::default() }],
            ..Definition::default()
        }
    }
}
