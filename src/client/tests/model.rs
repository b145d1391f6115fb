//! The session with a model of a server in both protocols: messages are published, connections are lost, epochs change,
//! subscribers lag, and readers are slow. Each offset must be delivered or reported as missed, once and in order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::{Notify, mpsc};

use super::session::{TOPIC, TestSession};
use super::world::{Reader, World, steps};
use crate::command::Command;
use crate::limits::{QUEUE_EVENTS_MIN, SERVER_SUBSCRIPTIONS_MAX};
use crate::protocol::Protocol;
use crate::session::ServerSide;
use crate::token::Credentials;
use crate::{Ended, Event, GapReason, Missed, Position, Subscription};

/// What only the model does.
#[derive(Clone, Copy, Debug)]
enum Special {
    /// The server ends the subscription, because the client lagged.
    EndSlow,
    /// A live subscriber loses messages, and is told so, or by `echoring.v1.json`'s heartbeat only.
    Drop(u8),
    /// The server sends the offset that it has reached.
    Heartbeat,
}

/// Who subscribes, and in which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Echoring,
    Centrifuge,
    /// The server makes the subscription, in Centrifuge's protocol.
    ServerSide,
}

const MODES: [Mode; 3] = [Mode::Echoring, Mode::Centrifuge, Mode::ServerSide];

impl Mode {
    fn protocol(self) -> Protocol {
        match self {
            Mode::Echoring => Protocol::Echoring,
            Mode::Centrifuge | Mode::ServerSide => Protocol::Centrifuge,
        }
    }
}

/// A server with one topic and one client.
struct Model {
    protocol: Protocol,
    mode: Mode,
    epoch: u32,
    offset: u64,
    /// Messages after this offset are kept.
    kept_after: u64,
    keeps: u64,
    /// The offset up to which the subscriber was sent everything, while there is one.
    cursor: Option<u64>,
    sent: Vec<String>,
}

impl Model {
    fn epoch(&self) -> String {
        format!("{:x}", self.epoch)
    }

    fn publish(&mut self) {
        self.offset += 1;
        self.kept_after = self.kept_after.max(self.offset.saturating_sub(self.keeps));
        if self.cursor.is_some() {
            self.send_message(self.offset);
            self.cursor = Some(self.offset);
        }
    }

    fn send_message(&mut self, offset: u64) {
        self.sent.push(match self.protocol {
            Protocol::Echoring => {
                format!(r#"{{"type":"message","topic":"{TOPIC}","offset":{offset},"data":{offset}}}"#)
            }
            Protocol::Centrifuge | Protocol::CentrifugeProtobuf => {
                format!(r#"{{"push":{{"channel":"{TOPIC}","pub":{{"data":{offset},"offset":{offset}}}}}}}"#)
            }
        });
    }

    fn handle(&mut self, text: &str) {
        let request: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let id = request["id"].as_u64().expect("a number");
        match self.protocol {
            Protocol::Echoring => match request["type"].as_str().expect("a type") {
                "subscribe" => self.subscribe_v1(id, &request["position"]),
                "unsubscribe" if self.cursor.take().is_some() => {
                    self.sent.push(format!(r#"{{"type":"unsubscribed","id":{id},"topic":"{TOPIC}"}}"#));
                }
                "unsubscribe" => self.sent.push(format!(
                    r#"{{"type":"error","id":{id},"code":"not-subscribed","message":"not subscribed"}}"#
                )),
                other => panic!("{other}"),
            },
            Protocol::Centrifuge | Protocol::CentrifugeProtobuf => {
                if !request["connect"].is_null() && self.mode == Mode::ServerSide {
                    let begun = self.begin_centrifuge(&request["connect"]["subs"][TOPIC]);
                    self.sent.push(format!(
                        r#"{{"id":{id},"connect":{{"client":"c","subs":{{"{TOPIC}":{begun}}}}}}}"#
                    ));
                } else if !request["connect"].is_null() {
                    self.sent.push(format!(r#"{{"id":{id},"connect":{{"client":"c"}}}}"#));
                } else if !request["subscribe"].is_null() {
                    self.subscribe_centrifuge(id, &request["subscribe"]);
                } else {
                    assert_eq!(request["unsubscribe"]["channel"], TOPIC);
                    self.cursor = None;
                    self.sent.push(format!(r#"{{"id":{id},"unsubscribe":{{}}}}"#));
                }
            }
        }
    }

    fn subscribe_v1(&mut self, id: u64, position: &serde_json::Value) {
        let wanted = position["offset"]
            .as_u64()
            .filter(|offset| *offset <= self.offset && position["epoch"].as_str() == Some(&self.epoch()));
        let recovered = match (position.is_null(), wanted) {
            (true, _) => String::new(),
            (false, wanted) => {
                format!(r#","recovered":{}"#, wanted.is_some_and(|offset| offset >= self.kept_after))
            }
        };
        let begin = wanted.unwrap_or(self.offset);
        let epoch = self.epoch();
        self.sent.push(format!(
            r#"{{"type":"subscribed","id":{id},"topic":"{TOPIC}","epoch":"{epoch}","offset":{begin}{recovered}}}"#
        ));
        let mut cursor = begin;
        if cursor < self.kept_after {
            let (from, to) = (cursor + 1, self.kept_after);
            self.sent.push(format!(
                r#"{{"type":"gap","topic":"{TOPIC}","from":{from},"to":{to},"reason":"history"}}"#
            ));
            cursor = to;
        }
        (cursor + 1..=self.offset).for_each(|offset| self.send_message(offset));
        self.cursor = Some(self.offset);
    }

    fn subscribe_centrifuge(&mut self, id: u64, subscribe: &serde_json::Value) {
        let begun = self.begin_centrifuge(subscribe);
        self.sent.push(format!(r#"{{"id":{id},"subscribe":{begun}}}"#));
    }

    fn begin_centrifuge(&mut self, subscribe: &serde_json::Value) -> String {
        let recovers = subscribe["recover"].as_bool().unwrap_or_default();
        let begin = subscribe["offset"].as_u64().unwrap_or_default();
        let known = recovers && subscribe["epoch"] == self.epoch() && begin <= self.offset;
        let recovered = known && begin >= self.kept_after;
        // What is kept comes along in either case.
        let first = if known { begin.max(self.kept_after) } else { self.offset };
        let publications: Vec<String> = (first + 1..=self.offset)
            .map(|offset| format!(r#"{{"data":{offset},"offset":{offset}}}"#))
            .collect();
        let (publications, epoch, offset) = (publications.join(","), self.epoch(), self.offset);
        self.cursor = Some(self.offset);
        format!(
            r#"{{"epoch":"{epoch}","offset":{offset},"publications":[{publications}],"recovered":{recovered},"was_recovering":{recovers}}}"#
        )
    }

    /// The server subscribes the client that is connected.
    fn push_subscription(&mut self) {
        let begun = self.begin_centrifuge(&serde_json::Value::Null);
        self.sent.push(format!(r#"{{"push":{{"channel":"{TOPIC}","subscribe":{begun}}}}}"#));
    }

    fn end_slow(&mut self) {
        if self.cursor.take().is_none() {
            return;
        }
        self.sent.push(match self.protocol {
            Protocol::Echoring => {
                let (epoch, offset) = (self.epoch(), self.offset);
                format!(
                    r#"{{"type":"unsubscribed","topic":"{TOPIC}","epoch":"{epoch}","offset":{offset},"reason":"slow"}}"#
                )
            }
            Protocol::Centrifuge | Protocol::CentrifugeProtobuf => {
                format!(r#"{{"push":{{"channel":"{TOPIC}","unsubscribe":{{"code":2500,"reason":"slow"}}}}}}"#)
            }
        });
    }

    /// Messages are published that the subscriber is not sent.
    fn drop(&mut self, messages: u8) {
        let from = self.offset + 1;
        self.offset += u64::from(messages);
        self.kept_after = self.kept_after.max(self.offset.saturating_sub(self.keeps));
        if messages == 0 || self.cursor.is_none() {
            return;
        }
        self.cursor = Some(self.offset);
        if self.protocol == Protocol::Echoring {
            let to = self.offset;
            self.sent.push(format!(
                r#"{{"type":"gap","topic":"{TOPIC}","from":{from},"to":{to},"reason":"slow"}}"#
            ));
        }
    }

    fn heartbeat(&mut self) {
        if self.protocol == Protocol::Echoring && self.cursor.is_some() {
            let offset = self.offset;
            self.sent.push(format!(r#"{{"type":"heartbeat","topic":"{TOPIC}","offset":{offset}}}"#));
        }
    }
}

/// The model, and a client with a subscription.
struct Modelled {
    model: Model,
    client: TestSession,
    /// What the server made.
    offered: Arc<Mutex<Vec<Subscription>>>,
    subscription: Option<Subscription>,
    /// Keeps the client alive.
    _commands: mpsc::Sender<Command>,
    reader: Reader,
    longest_queue: usize,
}

impl Modelled {
    fn new(mode: Mode, keeps: u64, capacity: usize) -> Modelled {
        let protocol = mode.protocol();
        let (commands, _) = mpsc::channel(1);
        let offered: Arc<Mutex<Vec<Subscription>>> = Arc::default();
        let made = Arc::clone(&offered);
        let offer = Box::new(move |subscription| made.lock().expect("no panic").push(subscription));
        let (handle, wake) = (commands.downgrade(), Arc::new(Notify::new()));
        let server_side = ServerSide { offer, commands: handle, wake, queue_events: capacity };
        let mut client = TestSession::with(protocol, capacity, Credentials::default(), Some(server_side));
        if mode != Mode::ServerSide {
            client.subscribe(false, None);
        }
        client.session.handle_open(client.now);
        let sent = Vec::new();
        let model = Model { protocol, mode, epoch: 1, offset: 0, kept_after: 0, keeps, cursor: None, sent };
        let (reader, subscription, longest_queue) = (Reader::default(), None, 0);
        Modelled { model, client, offered, subscription, _commands: commands, reader, longest_queue }
    }

    /// Takes the subscription that the server has made.
    fn accept(&mut self) {
        for subscription in self.offered.lock().expect("no panic").drain(..) {
            self.client.queue = Arc::clone(subscription.queue());
            self.subscription = Some(subscription);
        }
    }

    fn events(&self) -> Vec<Event> {
        self.client.events().collect()
    }
}

impl World for Modelled {
    type Special = Special;

    const PAUSE: Duration = Duration::from_secs(60);

    fn publish(&mut self, messages: u8) {
        (0..messages).for_each(|_| self.model.publish());
    }

    fn send(&mut self) {
        while let Some(text) = self.client.sent() {
            self.model.handle(&text);
        }
    }

    fn receive(&mut self, messages: usize) {
        let messages = messages.min(self.model.sent.len());
        for text in self.model.sent.drain(..messages) {
            self.client.receive(text).expect("a message of the protocol");
            self.longest_queue = self.longest_queue.max(self.client.queue.len());
        }
    }

    fn read(&mut self, events: usize) -> Result<(), TestCaseError> {
        self.accept();
        self.client.read(&mut self.reader, events)
    }

    fn reconnect(&mut self) {
        self.model.sent.clear();
        self.model.cursor = None;
        self.client.reconnect();
    }

    fn restart(&mut self) {
        (self.model.offset, self.model.kept_after) = (0, 0);
        self.model.epoch += 1;
        self.reconnect();
    }

    fn wait(&mut self, time: Duration) {
        self.client.wait(time);
    }

    fn run_special(&mut self, step: Special) {
        match step {
            // A server-side subscription has no way back but another connection.
            Special::EndSlow if self.model.mode == Mode::ServerSide => self.reconnect(),
            Special::EndSlow => self.model.end_slow(),
            Special::Drop(messages) => self.model.drop(messages),
            Special::Heartbeat => self.model.heartbeat(),
        }
    }
}

fn specials() -> impl Strategy<Value = Special> {
    prop_oneof![Just(Special::EndSlow), (1..5_u8).prop_map(Special::Drop), Just(Special::Heartbeat)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_message_is_delivered_or_reported_once_and_in_order(
        steps in steps(specials()),
        keeps in 0..20_u64,
        capacity in 1..12_usize,
        mode in prop::sample::select(&MODES[..]),
    ) {
        let mut world = Modelled::new(mode, keeps, capacity);
        world.run_all(steps)?;
        let end = Position { epoch: world.model.epoch(), offset: world.model.offset };
        prop_assert_eq!(world.reader.position.as_ref(), Some(&end));
        // A queue holds its capacity, and what comes in one message of the server: an answer with the kept messages.
        // An event may be preceded by a gap.
        let answer = if mode == Mode::Echoring { 0 } else { keeps as usize + 2 };
        let most = capacity.max(QUEUE_EVENTS_MIN) + 2 + answer;
        prop_assert!(world.longest_queue <= most, "{} of {}", world.longest_queue, most);
    }
}

#[test]
fn a_history_that_is_too_short_is_a_gap_with_its_exact_count() {
    for mode in MODES {
        let mut world = Modelled::new(mode, 10, 100);
        world.settle().expect("in order");
        world.publish(1);
        world.settle().expect("in order");
        world.client.session.handle_lost();
        world.model.cursor = None;
        world.publish(30);
        world.client.session.handle_open(world.client.now);
        world.settle().expect("in order");
        assert_eq!((world.reader.messages, world.reader.missed), (11, 20), "{mode:?}");
    }
}

#[test]
fn a_server_side_subscription_that_is_read_too_slowly_has_gaps_with_exact_counts() {
    let mut world = Modelled::new(Mode::ServerSide, 100, 4);
    world.settle().expect("in order");
    world.publish(1);
    world.settle().expect("in order");
    // Four wait, and six are dropped.
    world.publish(10);
    world.receive(usize::MAX);
    assert_eq!(world.longest_queue, 4);
    world.settle().expect("in order");
    assert_eq!((world.reader.messages, world.reader.missed), (5, 6));
    assert!(world.client.session.first_outgoing().is_none(), "nothing is paused at the server");
}

#[test]
fn a_server_side_subscription_ends_when_the_server_says_so_and_may_be_made_again() {
    let mut world = Modelled::new(Mode::ServerSide, 10, 10);
    world.settle().expect("in order");
    world.model.sent.push(format!(
        r#"{{"push":{{"channel":"{TOPIC}","unsubscribe":{{"code":2000,"reason":"server unsubscribe"}}}}}}"#
    ));
    world.receive(1);
    let events = world.events();
    let [Event::Ended(Ended::Refused(refusal))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(refusal.code, "2000");
    // It is another one, with a handle of its own.
    world.model.push_subscription();
    world.reader = Reader::default();
    world.receive(1);
    world.publish(1);
    world.settle().expect("in order");
    assert_eq!(world.reader.messages, 1);
    // A new connection without it.
    world.model.mode = Mode::Centrifuge;
    world.reconnect();
    world.send();
    world.receive(1);
    let events = world.events();
    let [Event::Ended(Ended::Refused(_))] = &events[..] else { panic!("{events:?}") };
}

#[test]
fn a_server_side_subscription_that_is_dropped_is_ended_at_the_server() {
    let mut world = Modelled::new(Mode::ServerSide, 10, 10);
    world.settle().expect("in order");
    world.subscription = None;
    world.client.session.handle_wake(world.client.now);
    world.send();
    assert_eq!(world.model.cursor, None);
    world.receive(usize::MAX);
    // Made again by the next connection.
    world.reader = Reader::default();
    world.reconnect();
    world.settle().expect("in order");
    world.publish(1);
    world.settle().expect("in order");
    assert_eq!(world.reader.messages, 1);
}

#[test]
fn server_side_subscriptions_are_bounded() {
    let mut world = Modelled::new(Mode::ServerSide, 10, 10);
    for number in 0..SERVER_SUBSCRIPTIONS_MAX + 10 {
        world.model.sent.push(format!(r#"{{"push":{{"channel":"{number}","subscribe":{{}}}}}}"#));
    }
    world.receive(usize::MAX);
    assert_eq!(world.offered.lock().expect("no panic").len(), SERVER_SUBSCRIPTIONS_MAX);
}

#[test]
fn messages_without_positions_that_are_lost_are_a_gap_of_unknown_extent() {
    let mut world = Modelled::new(Mode::ServerSide, 10, 4);
    world.model.mode = Mode::Centrifuge;
    world.settle().expect("in order");
    let message = format!(r#"{{"push":{{"channel":"{TOPIC}","pub":{{"data":1}}}}}}"#);
    let begun = format!(r#"{{"push":{{"channel":"{TOPIC}","subscribe":{{}}}}}}"#);
    world.model.sent.push(begun);
    world.model.sent.extend(vec![message; 5]);
    world.receive(usize::MAX);
    world.accept();
    let events = world.events();
    assert!(matches!(
        &events[..],
        [Event::Subscribed(_), Event::Message(_), Event::Message(_), Event::Message(_)]
    ));
    world.client.session.handle_wake(world.client.now);
    let events = world.events();
    let [Event::Gap(gap)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((gap.missed, &gap.reason), (Missed::Unknown, &GapReason::Slow));
    // And while there is no connection.
    world.client.reconnect();
    let id = world.client.command()["id"].clone();
    world.model.sent.push(format!(r#"{{"id":{id},"connect":{{"subs":{{"{TOPIC}":{{}}}}}}}}"#));
    world.receive(usize::MAX);
    let events = world.events();
    let [Event::Subscribed(_), Event::Gap(gap)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((gap.missed, &gap.reason), (Missed::Unknown, &GapReason::History));
}
