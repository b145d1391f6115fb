//! The reference model of clients of topics: their requests and publications, and whether what they receive is a legal
//! history. A session uses `echoring.v1.json`; raw subscribers receive the messages unchanged.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use serde_json::{Value, json};

use super::client::{self, Client, Item, MessageKind};
use super::world::World;

pub const SUBPROTOCOL: &str = "echoring.v1.json";

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Json(String),
    Text(String),
    Binary(Vec<u8>),
}

/// A message in its topic's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub said: Said,
}

/// The truth about a topic: what its witness received, from offset 1.
#[derive(Clone, Debug, Default)]
pub struct ControlMessage {
    pub epoch: String,
    pub entries: Vec<Entry>,
}

/// All topics, by name.
pub type Orders = BTreeMap<String, ControlMessage>;

impl Said {
    /// A message that identifies its publisher and number.
    pub fn random(random: &mut Random, client: usize, number: usize, pad_bytes_max: usize) -> Said {
        let pad = ["x", "ß", "\\", "水"][random.below(4)].repeat(random.below(pad_bytes_max / 4));
        let body = format!("<{client}:{number}:{pad}>");
        match random.below(5) {
            0 => Said::Json(Value::from(body).to_string()),
            1 => Said::Json(json!({"a": [null, body]}).to_string()),
            2 => Said::Json(json!([1, body, {}]).to_string()),
            3 => Said::Text(body),
            _ => Said::Binary(body.into_bytes()),
        }
    }

    /// The message on a raw route.
    pub fn raw(&self) -> (MessageKind, &[u8]) {
        match self {
            Said::Json(text) | Said::Text(text) => (MessageKind::Text, text.as_bytes()),
            Said::Binary(bytes) => (MessageKind::Binary, bytes),
        }
    }

    /// Its publisher and number.
    pub fn author(&self) -> (usize, usize) {
        let bytes = self.raw().1;
        let start = bytes.iter().position(|byte| *byte == b'<').expect("a message has a body");
        let mut numbers = bytes[start + 1..].split(|byte| *byte == b':').map(|digits| {
            let text = std::str::from_utf8(digits).expect("digits");
            text.parse::<usize>().expect("a message says whose it is")
        });
        (numbers.next().expect("a client"), numbers.next().expect("a number"))
    }

    fn of_notice(notice: &Value) -> Said {
        if let Some(data) = notice.get("data") {
            Said::Json(data.to_string())
        } else if let Some(text) = notice.get("text") {
            Said::Text(text.as_str().expect("a text").into())
        } else {
            Said::Binary(STANDARD.decode(text(notice, "base64")).expect("base64"))
        }
    }
}

/// A position in a topic, as a client requests it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub epoch: String,
    pub offset: u64,
}

/// A request of a session; its number is its index.
#[derive(Clone, Debug)]
pub enum Request {
    Subscribe { topic: String, from: Option<Place> },
    Unsubscribe { topic: String },
    Members { topic: String },
    Publish { topic: String, key: String, number: usize },
}

/// A client with the subprotocol.
#[derive(Debug)]
pub struct Session {
    pub client: usize,
    pub requests: Vec<Request>,
    /// Its publications, refused or not.
    pub published: Vec<Entry>,
}

impl Session {
    pub fn open(world: &World<Service>) -> Session {
        Session::open_offering(world, "")
    }

    /// One that offers extensions.
    pub fn open_offering(world: &World<Service>, offer: &str) -> Session {
        let client = world.connect("/broadcast", offer, SUBPROTOCOL);
        Session { client, requests: Vec::new(), published: Vec::new() }
    }

    pub fn subscribe(
        &mut self,
        world: &World<Service>,
        random: &mut Random,
        topic: &str,
        from: Option<Place>,
    ) {
        let mut asked = json!({"type": "subscribe", "id": self.requests.len(), "topic": topic});
        if let Some(Place { epoch, offset }) = &from {
            asked["position"] = json!({"epoch": epoch, "offset": offset});
        }
        self.ask(world, random, &asked, Request::Subscribe { topic: topic.into(), from });
    }

    pub fn unsubscribe(&mut self, world: &World<Service>, random: &mut Random, topic: &str) {
        let asked = json!({"type": "unsubscribe", "id": self.requests.len(), "topic": topic});
        self.ask(world, random, &asked, Request::Unsubscribe { topic: topic.into() });
    }

    /// Requests the first members, up to a maximum.
    pub fn members(&mut self, world: &World<Service>, random: &mut Random, topic: &str, limit: usize) {
        let asked = json!({"type": "presence", "id": self.requests.len(), "topic": topic, "limit": limit});
        self.ask(world, random, &asked, Request::Members { topic: topic.into() });
    }

    /// Publishes a message of a session, with a key unless it is empty. Returns its approximate bytes per subscriber.
    pub fn publish(
        &mut self,
        world: &World<Service>,
        random: &mut Random,
        topic: &str,
        key: &str,
        pad_bytes_max: usize,
    ) -> usize {
        let number = self.published.len();
        let said = loop {
            match Said::random(random, self.client, number, pad_bytes_max) {
                Said::Binary(_) => {}
                said => break said,
            }
        };
        let mut asked = json!({"type": "publish", "id": self.requests.len(), "topic": topic});
        match &said {
            Said::Json(data) => asked["data"] = serde_json::from_str(data).expect("JSON"),
            Said::Text(text) => asked["text"] = text.as_str().into(),
            Said::Binary(_) => unreachable!(),
        }
        if !key.is_empty() {
            asked["key"] = key.into();
        }
        let bytes = asked.to_string().len() + 32;
        self.published.push(Entry { key: key.into(), said });
        self.ask(world, random, &asked, Request::Publish { topic: topic.into(), key: key.into(), number });
        bytes
    }

    fn ask(&mut self, world: &World<Service>, random: &mut Random, asked: &Value, request: Request) {
        let mut script = Vec::new();
        client::message(random, MessageKind::Text, asked.to_string().as_bytes(), &mut script, |_, _| {});
        world.clients.borrow_mut()[self.client].script.extend(script);
        self.requests.push(request);
    }
}

pub fn text<'a>(notice: &'a Value, field: &str) -> &'a str {
    notice[field].as_str().unwrap_or_else(|| panic!("{notice} has no {field}"))
}

pub fn number(notice: &Value, field: &str) -> u64 {
    notice[field].as_u64().unwrap_or_else(|| panic!("{notice} has no {field}"))
}

/// All events that a session received, and its close code.
pub fn notices(client: &Client) -> (Vec<Value>, Option<u16>) {
    let mut code = None;
    let notice = |item: &Item| match item {
        Item::Message(MessageKind::Text, text) => Some(serde_json::from_slice(text).expect("JSON")),
        Item::Close(said) => {
            code = Some(*said);
            None
        }
        other => panic!("{other:.40?} in a session"),
    };
    (client.heard.iter().filter_map(notice).collect(), code)
}

/// The order of each topic that the witness subscribed to before anything was published. It misses nothing.
pub fn witnessed(client: &Client) -> Orders {
    let (notices, code) = notices(client);
    assert!(matches!(code, None | Some(1001)), "the witness keeps up");
    let mut orders = Orders::new();
    for notice in notices {
        match text(&notice, "type") {
            "subscribed" => {
                let order = ControlMessage { epoch: text(&notice, "epoch").into(), entries: Vec::new() };
                assert_eq!(number(&notice, "offset"), 0, "the witness is the first");
                orders.insert(text(&notice, "topic").into(), order);
            }
            "message" => {
                let order = orders.get_mut(text(&notice, "topic")).expect("subscribed to");
                order.entries.push(entry(&notice));
                let offset = number(&notice, "offset");
                assert_eq!(offset, order.entries.len() as u64, "one after another: {notice}");
            }
            "heartbeat" => {
                let order = &orders[text(&notice, "topic")];
                assert_eq!(number(&notice, "offset"), order.entries.len() as u64);
            }
            "presence" | "published" | "members" => {}
            _ => panic!("{notice} to the witness"),
        }
    }
    orders
}

fn entry(notice: &Value) -> Entry {
    let key = notice.get("key").map_or("", |key| key.as_str().expect("a key is text"));
    assert!(notice.get("key").is_none() || !key.is_empty());
    Entry { key: key.into(), said: Said::of_notice(notice) }
}

/// A session's view of a topic that it is subscribed to.
#[derive(Debug)]
pub struct View {
    /// The offset that it must receive next.
    pub next: u64,
    /// The offset of its subscription or of its requested position.
    pub after: u64,
    /// Offset of the latest message of each key.
    pub latest: BTreeMap<String, u64>,
    /// Messages that were reported to it as missed.
    pub gaps: u64,
    pub skipped: u64,
    recovers: bool,
    /// It was told that not everything follows: the gap is reported first.
    lacks: bool,
}

/// The results of a session's requests.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its subscriptions at the end, by topic.
    pub live: BTreeMap<String, View>,
    /// Offsets of its messages, by number.
    pub placed: BTreeMap<usize, u64>,
    /// Publications that were refused.
    pub refused: u64,
    pub gaps: u64,
    /// Of these, refusals because it was a slow consumer.
    pub gaps_slow: u64,
    pub skipped: u64,
    pub heartbeats: u64,
    /// Messages that came from history or live.
    pub messages: u64,
    pub code: Option<u16>,
    /// Subscriptions that the server ended.
    pub dropped: u64,
    /// Subscriptions from positions that could not be served.
    pub not_recovered: u64,
    /// Codes of errors.
    pub errors: BTreeMap<String, u64>,
    /// The last count of each topic with presence.
    pub counts: BTreeMap<String, u64>,
    /// Its own name in each topic with presence.
    pub names: BTreeMap<String, String>,
    /// The members by topic, since the latest complete list.
    pub members: BTreeMap<String, BTreeSet<String>>,
    /// How often it was told that it missed presence events.
    pub stale: u64,
    /// Messages from the history when it subscribed.
    pub snapshots: u64,
    answered: BTreeSet<usize>,
    turns: Turns,
}

/// The latest publication to each topic that was answered.
#[derive(Debug, Default)]
pub struct Turns(BTreeMap<String, usize>);

impl Turns {
    /// The answer to a request. Publications to one topic are answered in turn.
    pub fn answer(&mut self, requests: &[Request], id: usize) {
        if let Request::Publish { topic, .. } = &requests[id] {
            let before = self.0.insert(topic.clone(), id);
            assert!(before.is_none_or(|before| before < id), "{id} of {topic} is answered after {before:?}");
        }
    }
}

impl Heard {
    /// Reads everything that a session received. Panics unless it is a legal history of its requests and of `orders`.
    pub fn read(session: &Session, client: &Client, orders: &Orders) -> Heard {
        let mut heard = Heard::default();
        let (notices, code) = notices(client);
        heard.code = code;
        for notice in &notices {
            heard.notice(session, orders, notice);
        }
        heard
    }

    fn notice(&mut self, session: &Session, orders: &Orders, notice: &Value) {
        let kind = text(notice, "type");
        if kind == "unsubscribed" && notice.get("reason").is_some() {
            return self.dropped(orders, notice);
        }
        if let "subscribed" | "unsubscribed" | "published" | "error" = kind {
            return self.answer(session, orders, notice);
        }
        if kind == "members" && notice.get("id").is_some() {
            return self.answer(session, orders, notice);
        }
        let topic = text(notice, "topic");
        let view = self.live.get_mut(topic).unwrap_or_else(|| panic!("{notice} although not subscribed"));
        match kind {
            "message" => {
                let offset = number(notice, "offset");
                let skipped = notice.get("skipped").map_or(0, |skipped| skipped.as_u64().expect("a number"));
                assert!(notice.get("skipped").is_none() || skipped > 0);
                assert_eq!(offset, view.next + skipped, "nothing is left out, or comes twice: {notice}");
                assert!(!view.lacks, "nothing is missing before {notice}");
                let entry = entry(notice);
                assert_eq!(
                    Some(&entry),
                    orders[topic].entries.get(offset as usize - 1),
                    "as it was published"
                );
                view.latest.insert(entry.key, offset);
                view.next = offset + 1;
                if notice.get("snapshot").is_some() {
                    assert_eq!(notice["snapshot"], true);
                    self.snapshots += 1;
                } else {
                    // For what stood between messages that are kept it was not there.
                    view.skipped += skipped;
                    self.skipped += skipped;
                }
                self.messages += 1;
            }
            "gap" => {
                let (from, to) = (number(notice, "from"), number(notice, "to"));
                assert_eq!(from, view.next, "a gap begins where something is missing: {notice}");
                assert!(to >= from && to <= orders[topic].entries.len() as u64, "{notice}");
                match text(notice, "reason") {
                    "history" => assert!(view.recovers, "only who comes back misses history: {notice}"),
                    "slow" => self.gaps_slow += to + 1 - from,
                    reason => panic!("{reason} although there is memory"),
                }
                view.lacks = false;
                view.next = to + 1;
                view.gaps += to + 1 - from;
                self.gaps += to + 1 - from;
            }
            "heartbeat" => {
                assert_eq!(number(notice, "offset") + 1, view.next, "everything up to it was sent: {notice}");
                self.heartbeats += 1;
            }
            "presence" => {
                let event = text(notice, "event");
                if event == "stale" {
                    self.stale += 1;
                    return;
                }
                self.counts.insert(topic.into(), number(notice, "count"));
                let client = text(notice, "client");
                match (self.members.get_mut(topic), event) {
                    (Some(members), "join") => drop(members.insert(client.into())),
                    (Some(members), _) => drop(members.remove(client)),
                    (None, _) => {}
                }
            }
            "members" => {
                // The server sends them by itself where events were missed.
                self.counts.insert(topic.into(), number(notice, "count"));
                self.told_members(notice);
            }
            _ => panic!("{notice} is no notice"),
        }
    }

    /// The server ended a subscription, and only this one.
    fn dropped(&mut self, orders: &Orders, notice: &Value) {
        let topic = text(notice, "topic");
        assert_eq!(text(notice, "reason"), "slow");
        assert_eq!(text(notice, "epoch"), orders[topic].epoch);
        let view = self.live.remove(topic).expect("subscribed");
        assert_eq!(number(notice, "offset") + 1, view.next, "what it has: {notice}");
        self.counts.remove(topic);
        self.dropped += 1;
        self.members.remove(topic);
    }

    fn told_members(&mut self, notice: &Value) {
        let topic = text(notice, "topic");
        if notice.get("after").is_none() {
            self.members.remove(topic);
        }
        let members = self.members.entry(topic.into()).or_default();
        for client in notice["clients"].as_array().expect("a list") {
            members.insert(client.as_str().expect("a name").into());
        }
        assert!(notice.get("next").is_some() || members.len() as u64 <= number(notice, "count"));
    }

    fn answer(&mut self, session: &Session, orders: &Orders, notice: &Value) {
        let id = number(notice, "id") as usize;
        assert!(self.answered.insert(id), "one answer for each request: {notice}");
        self.turns.answer(&session.requests, id);
        let kind = text(notice, "type");
        match (&session.requests[id], kind) {
            (Request::Subscribe { topic, from }, "subscribed") => {
                assert_eq!(text(notice, "topic"), topic);
                assert_eq!(text(notice, "epoch"), orders[topic].epoch, "one epoch");
                let offset = number(notice, "offset");
                let recovered = notice.get("recovered").map(|recovered| recovered.as_bool().expect("a word"));
                assert_eq!(recovered.is_some(), from.is_some(), "{notice}");
                let last = orders[topic].entries.len() as u64;
                let is_known = |from: &Place| from.epoch == orders[topic].epoch && from.offset <= last;
                match from {
                    Some(from) if is_known(from) => {
                        assert_eq!(offset, from.offset, "from where it asked: {notice}");
                    }
                    Some(_) => assert!(recovered == Some(false) && offset <= last, "{notice}"),
                    None => {}
                }
                let recovers = from.as_ref().is_some_and(is_known);
                self.not_recovered += u64::from(recovered == Some(false));
                let view = View {
                    next: offset + 1,
                    after: offset,
                    latest: BTreeMap::new(),
                    gaps: 0,
                    skipped: 0,
                    recovers: recovers || notice.get("snapshot").is_some(),
                    lacks: recovers && recovered == Some(false),
                };
                if notice.get("client").is_some() {
                    self.names.insert(topic.clone(), text(notice, "client").into());
                    // Nothing is told of its coming if it has left in the same moment.
                    self.counts.insert(topic.clone(), number(notice, "count"));
                }
                assert!(self.live.insert(topic.clone(), view).is_none(), "subscribed once: {notice}");
            }
            (Request::Unsubscribe { topic }, "unsubscribed") => {
                assert_eq!(text(notice, "topic"), topic);
                self.live.remove(topic);
                self.counts.remove(topic);
                self.members.remove(topic);
            }
            (Request::Publish { topic, number: message, .. }, "published") => {
                assert_eq!(text(notice, "topic"), topic, "{notice}");
                assert_eq!(text(notice, "epoch"), orders[topic].epoch, "{notice}");
                let offset = number(notice, "offset");
                let placed = &orders[topic].entries[offset as usize - 1];
                assert_eq!(*placed, session.published[*message], "its message has that place");
                self.placed.insert(*message, offset);
            }
            (Request::Members { topic }, "members") => {
                assert_eq!(text(notice, "topic"), topic, "{notice}");
                let clients = notice["clients"].as_array().expect("a list").len() as u64;
                if self.live.contains_key(topic) && clients == number(notice, "count") {
                    self.told_members(notice);
                }
            }
            (request, "error") => {
                let code = text(notice, "code");
                match (request, code) {
                    (Request::Subscribe { .. }, "already-subscribed" | "not-subscribed") => {}
                    (Request::Unsubscribe { topic }, "not-subscribed") => {
                        assert!(!self.live.contains_key(topic), "{notice}");
                    }
                    (Request::Members { .. }, "not-subscribed" | "no-presence" | "busy") => {}
                    (Request::Publish { key, .. }, "no-key") => assert!(key.is_empty()),
                    _ => panic!("{notice} to {request:?}"),
                }
                self.refused += u64::from(matches!(request, Request::Publish { .. }));
                *self.errors.entry(code.into()).or_default() += 1;
            }
            (request, _) => panic!("{notice} to {request:?}"),
        }
    }

    /// Requests without an answer, except for subscriptions that ended before they began.
    pub fn unanswered(&self, session: &Session) -> Vec<usize> {
        let left_later = |at: usize, topic: &str| {
            session.requests[at..]
                .iter()
                .any(|request| matches!(request, Request::Unsubscribe { topic: left } if left == topic))
        };
        (0..session.requests.len())
            .filter(|at| !self.answered.contains(at))
            .filter(|at| match &session.requests[*at] {
                Request::Subscribe { topic, .. } => !left_later(*at, topic),
                _ => true,
            })
            .collect()
    }
}

/// What a raw subscriber received of an order: one contiguous range, without its own messages unless it receives those.
/// Returns the number of messages.
pub fn check_raw(
    client: &Client,
    number: usize,
    hears_itself: bool,
    order: &ControlMessage,
    from_start: bool,
) -> usize {
    let expected: Vec<(MessageKind, &[u8])> = order
        .entries
        .iter()
        .filter(|entry| hears_itself || entry.said.author().0 != number)
        .map(|entry| entry.said.raw())
        .collect();
    let heard: Vec<(MessageKind, &[u8])> = client
        .heard
        .iter()
        .filter_map(|item| match item {
            Item::Message(kind, payload) => Some((*kind, payload.as_slice())),
            Item::Close(_) => None,
            other => panic!("{other:.40?} on a raw route"),
        })
        .collect();
    let stays = !client.decoder.closed && client.end.is_none();
    if from_start {
        assert!(expected.starts_with(&heard), "one order for all");
        assert!(!stays || expected.len() == heard.len(), "{} of {} arrived", heard.len(), expected.len());
    } else {
        let fits = heard.is_empty() || expected.windows(heard.len()).any(|part| part == heard);
        assert!(fits && (!stays || expected.ends_with(&heard)), "one stretch of the order");
    }
    heard.len()
}
