//! `echoring.v1.json`: one JSON object per message.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::{Answer, Incoming, Request, Sent, Start, TopicEvent};
use crate::limits::MEMBERS_PER_PAGE;
use crate::payload::present;
use crate::{Gap, GapReason, Member, Members, Message, Missed, Payload, Position, Refusal};

pub(crate) const SUBPROTOCOL: &str = "echoring.v1.json";

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'a str,
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(flatten)]
    fields: Fields<'a>,
}

#[derive(Default, Serialize)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<&'a Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

pub(super) fn encode(id: u32, request: &Request<'_>) -> String {
    let none = Fields::default();
    let (name, topic, fields) = match *request {
        Request::Subscribe { topic, position, .. } => ("subscribe", Some(topic), Fields { position, ..none }),
        Request::Unsubscribe { topic } => ("unsubscribe", Some(topic), none),
        Request::Presence { topic, after } => {
            ("presence", Some(topic), Fields { after, limit: Some(MEMBERS_PER_PAGE), ..none })
        }
        Request::Authenticate { token } => ("authenticate", None, Fields { token: Some(token), ..none }),
        Request::Publish { topic, publication } => {
            let key = publication.key.as_deref();
            let idempotency_key = publication.idempotency_key.as_deref();
            let text = match &publication.payload {
                Payload::Text(text) => Some(text.as_str()),
                _ => None,
            };
            ("publish", Some(topic), Fields { key, idempotency_key, text, ..none })
        }
        // `Protocol::supports` and `Protocol::connects` leave these out.
        Request::Connect { .. }
        | Request::History { .. }
        | Request::RefreshSubscription { .. }
        | Request::Rpc { .. }
        | Request::Send { .. }
        | Request::Pong => return String::new(),
    };
    // Strings and numbers can always be serialised.
    let mut line = serde_json::to_string(&Line { r#type: name, id, topic, fields }).unwrap_or_default();
    if let Request::Publish { publication, .. } = request
        && let Payload::Json(value) = &publication.payload
    {
        line.truncate(line.len().saturating_sub(1));
        line.push_str(r#","data":"#);
        line.push_str(value.get());
        line.push('}');
    }
    line
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    r#type: String,
    id: Option<u32>,
    topic: String,
    epoch: Option<String>,
    offset: Option<u64>,
    recovered: Option<bool>,
    count: Option<u64>,
    client: Option<String>,
    key: Option<String>,
    skipped: u64,
    /// A number in `subscribed`, a flag in `message`.
    snapshot: Option<Snapshot>,
    #[serde(deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    reason: Option<String>,
    event: String,
    subject: Option<String>,
    clients: Vec<String>,
    subjects: BTreeMap<String, String>,
    next: Option<String>,
    code: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Snapshot {
    Flag(bool),
    #[expect(dead_code, reason = "messages up to it carry the flag")]
    Offset(u64),
}

impl Event {
    fn position(&mut self) -> Option<Position> {
        Some(Position { epoch: self.epoch.take()?, offset: self.offset? })
    }

    fn refusal(&mut self) -> Refusal {
        let temporary = matches!(
            &*self.code,
            "behind" | "busy" | "draining" | "no-storage" | "out-of-memory" | "rate-limited" | "unreachable"
        );
        Refusal {
            code: std::mem::take(&mut self.code),
            message: std::mem::take(&mut self.message),
            temporary,
        }
    }

    fn payload(&mut self) -> Option<Payload> {
        let value = self.data.take().map(Payload::Json);
        let text = self.text.take().map(Payload::Text);
        value.or(text).or_else(|| Payload::from_base64(self.base64.as_deref()?))
    }

    fn member(&mut self) -> Member {
        Member {
            client: self.client.take().unwrap_or_default(),
            user: self.subject.take().unwrap_or_default(),
        }
    }

    fn into_event(mut self) -> Option<TopicEvent> {
        Some(match (&*self.r#type, &*self.event) {
            ("message", _) => {
                let message = Message {
                    offset: self.offset?,
                    data: self.payload()?,
                    key: self.key,
                    skipped: self.skipped,
                    snapshot: matches!(self.snapshot, Some(Snapshot::Flag(true))),
                };
                TopicEvent::Message(Sent { message, is_delta: false })
            }
            ("gap", _) => TopicEvent::Gap(Gap {
                missed: Missed::Range { from: self.from?, to: self.to? },
                reason: GapReason::from(&*self.reason?),
            }),
            ("heartbeat", _) => TopicEvent::Heartbeat(self.offset?),
            ("presence", "join") => TopicEvent::Join(self.member()),
            ("presence", "leave") => TopicEvent::Leave(self.member()),
            ("presence", "stale") => TopicEvent::PresenceStale,
            ("unsubscribed", _) => {
                let reason = self.reason.take().unwrap_or_default();
                TopicEvent::Unsubscribed {
                    resubscribes: reason != "forbidden",
                    refusal: Refusal { code: reason, message: String::new(), temporary: false },
                }
            }
            _ => return None,
        })
    }

    fn into_answer(mut self) -> Option<Answer> {
        Some(match &*self.r#type {
            "subscribed" => Answer::Subscribed(Start {
                position: self.position()?,
                recovered: self.recovered,
                replayed: None,
                count: self.count,
                client: self.client,
                expires_in_s: None,
                deltas: false,
            }),
            "unsubscribed" => Answer::Unsubscribed,
            "published" => Answer::Published(self.position()),
            // `token_expires` says when a fresh one is needed.
            "authenticated" => Answer::Authenticated(None),
            "members" => {
                let member = |client: String| Member {
                    user: self.subjects.remove(&client).unwrap_or_default(),
                    client,
                };
                let members = std::mem::take(&mut self.clients).into_iter().map(member).collect();
                Answer::Members(Members { count: self.count.unwrap_or_default(), members, next: self.next })
            }
            "error" if self.code == "uncertain" => Answer::Uncertain,
            "error" => Answer::Refused(self.refusal()),
            _ => return None,
        })
    }
}

pub(super) fn decode(text: &str) -> Result<Option<Incoming>, serde_json::Error> {
    let mut event: Event = serde_json::from_str(text)?;
    if let Some(id) = event.id {
        return Ok(event.into_answer().map(|answer| Incoming::Answer(id, answer)));
    }
    if event.r#type == "error" {
        return Ok(Some(Incoming::Complaint(event.refusal())));
    }
    if event.r#type == "token_expires" {
        return Ok(Some(Incoming::TokenExpires));
    }
    let topic = std::mem::take(&mut event.topic);
    Ok(event.into_event().map(|event| Incoming::Event(topic, event)))
}
