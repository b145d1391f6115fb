//! The replies to commands, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::command::Form;
use super::error::ApiError;
use echoring_auth::{AppData, Info};
use echoring_topics::{ClientId, Position, Profile};
use echoring_wire::centrifuge::{Encoding, ErrorCode, Payload};

/// The reply to a command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    Result(Outcome),
    Error(ApiError),
}

/// The result of a command.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    Published {
        offset: u64,
        epoch: String,
    },
    Broadcast {
        responses: Vec<Response>,
    },
    History {
        publications: Vec<StoredPublication>,
        offset: u64,
        epoch: String,
    },
    Presence {
        presence: BTreeMap<String, Client>,
    },
    PresenceStats {
        num_clients: usize,
        num_users: usize,
    },
    Channels(ChannelList),
    Info(NodeList),
    /// The command succeeded, without another result.
    Done {},
}

/// A message of a topic's history.
#[derive(Debug, Serialize)]
pub(super) struct StoredPublication {
    pub(super) data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<Client>,
    pub(super) offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: BTreeMap<String, String>,
}

/// A subscriber with presence.
#[derive(Debug, Serialize)]
pub(super) struct Client {
    pub(super) client: String,
    pub(super) user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<Box<RawValue>>,
}

impl Client {
    /// The description of a client for others.
    pub(super) fn new(id: ClientId, profile: Profile<'_>) -> Result<Client, ApiError> {
        let json = |line: &str| {
            let Some(data) = Info::data_of(line) else { return Ok(None) };
            let data = match &data {
                AppData::Json(value) => Payload::Json(value),
                AppData::Bytes(bytes) => Payload::of_bytes(bytes),
            };
            let mut text = Vec::new();
            data.write(Encoding::Json, &mut text);
            serde_json::from_slice(&text).map(Some).map_err(|_| ErrorCode::Internal)
        };
        let (conn_info, chan_info) = (json(profile.connection())?, json(profile.channel())?);
        Ok(Client { client: id.to_string(), user: profile.subject().to_owned(), conn_info, chan_info })
    }
}

/// Topics with subscribers, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ChannelList {
    pub(super) channels: BTreeMap<String, Channel>,
}

/// A topic with subscribers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Channel {
    pub(super) num_clients: u64,
}

/// The nodes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct NodeList {
    pub(super) nodes: Vec<Node>,
}

/// A node. It does not count its users.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) num_clients: u64,
    pub(super) num_subs: u64,
    pub(super) num_channels: u64,
    /// In seconds.
    pub(super) uptime: u64,
}

impl From<Result<Outcome, ApiError>> for Response {
    fn from(result: Result<Outcome, ApiError>) -> Response {
        result.map_or_else(Response::Error, Response::Result)
    }
}

impl From<Position> for Outcome {
    fn from(position: Position) -> Outcome {
        Outcome::Published { offset: position.offset, epoch: format!("{:x}", position.epoch) }
    }
}

/// The replies of a request, in the form of the request.
#[derive(Debug)]
pub(super) struct Replies<'a> {
    form: Form<'a>,
    body: Vec<u8>,
    count: usize,
}

impl<'a> Replies<'a> {
    pub(super) fn new(form: Form<'a>) -> Replies<'a> {
        let body = if form == Form::Batch { br#"{"replies":["#.to_vec() } else { Vec::new() };
        Replies { form, body, count: 0 }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Appends the reply to a command.
    pub(super) fn push(&mut self, id: u32, method: &str, response: &Response) -> serde_json::Result<()> {
        let between: &[u8] = match self.form {
            _ if self.count == 0 => b"",
            Form::Batch => b",",
            Form::Single(_) | Form::Stream => b"\n",
        };
        self.body.extend_from_slice(between);
        self.count += 1;
        match (self.form, response) {
            (Form::Batch, Response::Result(outcome)) => {
                serde_json::to_writer(&mut self.body, &BTreeMap::from([(method, outcome)]))
            }
            (Form::Batch, Response::Error(error)) => {
                serde_json::to_writer(&mut self.body, &BTreeMap::from([("error", error)]))
            }
            (Form::Single(_) | Form::Stream, _) => {
                let id = Some(id).filter(|id| *id != 0);
                serde_json::to_writer(&mut self.body, &StreamReply { id, response })
            }
        }
    }

    /// The body of the answer.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.form == Form::Batch {
            self.body.extend_from_slice(b"]}");
        }
        self.body
    }
}

/// A reply beside others. It repeats the number of its command.
#[derive(Serialize)]
struct StreamReply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(flatten)]
    response: &'a Response,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(form: Form<'_>, responses: Vec<(u32, &str, Response)>) -> String {
        let mut replies = Replies::new(form);
        for (id, method, response) in responses {
            replies.push(id, method, &response).expect("plain data");
        }
        String::from_utf8(replies.finish()).expect("JSON")
    }

    #[test]
    fn replies_have_the_form_of_their_request() {
        let published = || Response::Result(Position { epoch: 0x1f3a, offset: 7 }.into());
        let failed = || Response::Error(ErrorCode::MethodNotFound.into());
        let data = RawValue::from_string("[1e400]".to_owned()).expect("JSON");
        let history = Outcome::History {
            publications: vec![StoredPublication { data, info: None, offset: 1, tags: BTreeMap::new() }],
            offset: 2,
            epoch: "a".to_owned(),
        };
        let broadcast = Outcome::Broadcast { responses: vec![published(), failed()] };
        for (form, responses, expected) in [
            (
                Form::Single("publish"),
                vec![(0, "publish", published())],
                r#"{"result":{"offset":7,"epoch":"1f3a"}}"#,
            ),
            (
                Form::Stream,
                vec![(3, "publish", published()), (0, "x", failed())],
                "{\"id\":3,\"result\":{\"offset\":7,\"epoch\":\"1f3a\"}}\n{\"error\":{\"code\":104,\"message\":\"method not found\"}}",
            ),
            (
                Form::Batch,
                vec![(0, "publish", published()), (0, "x", failed())],
                r#"{"replies":[{"publish":{"offset":7,"epoch":"1f3a"}},{"error":{"code":104,"message":"method not found"}}]}"#,
            ),
            (
                Form::Single("history"),
                vec![(0, "history", Response::Result(history))],
                r#"{"result":{"publications":[{"data":[1e400],"offset":1}],"offset":2,"epoch":"a"}}"#,
            ),
            (
                Form::Single("broadcast"),
                vec![(0, "broadcast", Response::Result(broadcast))],
                r#"{"result":{"responses":[{"result":{"offset":7,"epoch":"1f3a"}},{"error":{"code":104,"message":"method not found"}}]}}"#,
            ),
            (
                Form::Single("disconnect"),
                vec![(0, "disconnect", Response::Result(Outcome::Done {}))],
                r#"{"result":{}}"#,
            ),
        ] {
            assert_eq!(body(form, responses), expected);
        }
    }
}
