//! Centrifuge's client protocol in JSON: commands and replies are lines of JSON.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Incoming, Request, Start, TopicEvent};
use crate::payload::present;
use crate::{History, Member, Members, Message, Payload, Position, Refusal};

/// From this code on, a client whose subscription the server ended subscribes again.
const RESUBSCRIBES_FROM: u32 = 2_500;

#[derive(Default, Serialize)]
struct Command<'a> {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Connect<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribe: Option<Subscribe<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<Channel<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish: Option<Publish<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence: Option<Channel<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryCommand<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<Connect<'a>>,
}

#[derive(Serialize)]
struct Connect<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
}

#[derive(Serialize)]
struct Channel<'a> {
    channel: &'a str,
}

#[derive(Serialize)]
struct Subscribe<'a> {
    channel: &'a str,
    recover: bool,
    #[serde(flatten)]
    position: Option<&'a Position>,
    positioned: bool,
    recoverable: bool,
    join_leave: bool,
}

#[derive(Serialize)]
struct Publish<'a> {
    channel: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

#[derive(Serialize)]
struct HistoryCommand<'a> {
    channel: &'a str,
    /// -1 for no limit.
    limit: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a Position>,
    reverse: bool,
}

pub(super) fn encode(id: u32, request: &Request<'_>) -> String {
    let none = Command { id, ..Command::default() };
    let command = match *request {
        Request::Pong => return "{}".to_owned(),
        Request::Connect { token } => Command { connect: Some(Connect { token }), ..none },
        Request::Authenticate { token } => Command { refresh: Some(Connect { token }), ..none },
        Request::Unsubscribe { topic } => Command { unsubscribe: Some(Channel { channel: topic }), ..none },
        Request::Presence { topic, .. } => Command { presence: Some(Channel { channel: topic }), ..none },
        Request::Subscribe { topic, position, presence } => {
            let recover = position.is_some();
            let subscribe = Subscribe {
                channel: topic,
                recover,
                position,
                positioned: true,
                recoverable: true,
                join_leave: presence,
            };
            Command { subscribe: Some(subscribe), ..none }
        }
        Request::Publish { topic, publication } => {
            let data = match &publication.payload {
                Payload::Json(value) => Data::Json(value),
                Payload::Text(text) => Data::Text(text),
                // `Protocol::supports` leaves bytes out.
                Payload::Bytes(_) => Data::Text(""),
            };
            Command { publish: Some(Publish { channel: topic, data }), ..none }
        }
        Request::History { topic, query } => {
            let limit = query.limit.map_or(-1, i64::from);
            let history =
                HistoryCommand { channel: topic, limit, since: query.since.as_ref(), reverse: query.reverse };
            Command { history: Some(history), ..none }
        }
    };
    let line = serde_json::to_string(&command).unwrap_or_default();
    // Line feeds separate commands. In a JSON text they only stand between tokens.
    if line.contains('\n') { line.replace('\n', " ") } else { line }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    id: u32,
    error: Option<ErrorReply>,
    push: Option<Push>,
    connect: Option<IgnoredAny>,
    subscribe: Option<Subscribed>,
    unsubscribe: Option<IgnoredAny>,
    publish: Option<IgnoredAny>,
    presence: Option<Presence>,
    history: Option<Subscribed>,
    refresh: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorReply {
    code: u32,
    message: String,
    temporary: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Push {
    channel: String,
    r#pub: Option<Pub>,
    join: Option<JoinOrLeave>,
    leave: Option<JoinOrLeave>,
    unsubscribe: Option<Unsubscribe>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pub {
    #[serde(deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    offset: u64,
    key: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JoinOrLeave {
    info: Info,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    client: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Unsubscribe {
    code: u32,
    reason: String,
}

/// The result of a subscription, or of a history command.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Subscribed {
    epoch: String,
    offset: u64,
    publications: Vec<Pub>,
    recovered: bool,
    was_recovering: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Presence {
    presence: BTreeMap<String, Info>,
}

impl Pub {
    fn into_message(self, snapshot: bool) -> Message<Payload> {
        let null = || RawValue::NULL.to_owned();
        Message {
            offset: self.offset,
            key: (!self.key.is_empty()).then_some(self.key),
            skipped: 0,
            snapshot,
            data: Payload::Json(self.data.unwrap_or_else(null)),
        }
    }
}

impl From<Info> for Member {
    fn from(info: Info) -> Member {
        Member { client: info.client, user: info.user }
    }
}

impl Subscribed {
    fn into_start(self) -> Start {
        let snapshot = !self.was_recovering;
        let replayed = self.publications.into_iter().map(|publication| publication.into_message(snapshot));
        Start {
            position: Position { epoch: self.epoch, offset: self.offset },
            recovered: self.was_recovering.then_some(self.recovered),
            replayed: Some(replayed.collect()),
            count: None,
            client: None,
        }
    }

    fn into_history(self) -> History {
        let messages = self.publications.into_iter().map(|publication| publication.into_message(false));
        History {
            position: Position { epoch: self.epoch, offset: self.offset },
            messages: messages.collect(),
        }
    }
}

impl Push {
    fn into_event(self) -> Option<Incoming> {
        let event = if let Some(publication) = self.r#pub {
            TopicEvent::Message(publication.into_message(false))
        } else if let Some(join) = self.join {
            TopicEvent::Join(join.info.into())
        } else if let Some(leave) = self.leave {
            TopicEvent::Leave(leave.info.into())
        } else if let Some(Unsubscribe { code, reason }) = self.unsubscribe {
            let resubscribes = code >= RESUBSCRIBES_FROM;
            let refusal = Refusal { code: code.to_string(), message: reason, temporary: resubscribes };
            TopicEvent::Unsubscribed { resubscribes, refusal }
        } else {
            return None;
        };
        Some(Incoming::Event(self.channel, event))
    }
}

impl Reply {
    fn into_incoming(self) -> Option<Incoming> {
        if self.id == 0 {
            return match (self.push, self.error) {
                (Some(push), _) => push.into_event(),
                (None, Some(error)) => Some(Incoming::Complaint(error.into())),
                (None, None) => Some(Incoming::Ping),
            };
        }
        let done = |answer: Answer| move |_: IgnoredAny| answer;
        let answer = None
            .or(self.error.map(|error| Answer::Refused(error.into())))
            .or(self.connect.map(done(Answer::Connected)))
            .or(self.subscribe.map(|subscribed| Answer::Subscribed(subscribed.into_start())))
            .or(self.unsubscribe.map(done(Answer::Unsubscribed)))
            .or(self.publish.map(done(Answer::Published(None))))
            .or(self.presence.map(|presence| Answer::Members(presence.into())))
            .or(self.history.map(|history| Answer::History(history.into_history())))
            .or(self.refresh.map(done(Answer::Authenticated)))?;
        Some(Incoming::Answer(self.id, answer))
    }
}

impl From<ErrorReply> for Refusal {
    fn from(error: ErrorReply) -> Refusal {
        let temporary = error.temporary || matches!(error.code, 100 | 111);
        Refusal { code: error.code.to_string(), message: error.message, temporary }
    }
}

impl From<Presence> for Members {
    fn from(presence: Presence) -> Members {
        let members: Vec<Member> = presence.presence.into_values().map(Member::from).collect();
        Members { count: members.len() as u64, members, next: None }
    }
}

pub(super) fn decode(text: &str) -> Result<Vec<Incoming>, serde_json::Error> {
    let lines = text.lines().filter(|line| !line.is_empty());
    let replies = lines.map(|line| serde_json::from_str::<Reply>(line).map(Reply::into_incoming));
    replies.filter_map(Result::transpose).collect()
}
