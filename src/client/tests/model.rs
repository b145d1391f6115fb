//! The session with a model of a server in both protocols: messages are published, connections are lost, epochs change,
//! subscribers lag, and readers are slow. Each offset must be delivered or reported as missed, once and in order.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::command::Command;
use crate::limits::{QUEUE_EVENTS_MIN, SERVER_SUBSCRIPTIONS_MAX};
use crate::protocol::Protocol;
use crate::queue::Queue;
use crate::session::{ServerSide, Session, Token};
use crate::{Ended, Event, GapReason, Missed, Payload, Position, Subscription};

const TOPIC: &str = "prices";

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// So many messages are published.
    Publish(u8),
    /// The server has handled what the client sent.
    Serve,
    /// The client gets what the server sent: so many messages of the connection.
    Deliver(u8),
    /// The reader takes so many events.
    Read(u8),
    /// The connection is lost, with what is on its way, and a new one is open.
    Reconnect,
    /// The server forgets the topic.
    Restart,
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

/// Checks that what the reader is told has no hole and no repetition.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) position: Option<Position>,
    messages: u64,
    pub(super) missed: u64,
    unknown: u64,
    /// A subscription with another position was announced, and an unknown gap must follow.
    jump: Option<Position>,
}

impl Reader {
    pub(super) fn handle(&mut self, event: Event<Payload>) -> Result<(), TestCaseError> {
        match event {
            Event::Subscribed(subscribed) => match &self.position {
                Some(position) if *position != subscribed.position => self.jump = Some(subscribed.position),
                _ => self.position = Some(subscribed.position),
            },
            Event::Gap(gap) => match gap.missed {
                Missed::Unknown => {
                    prop_assert_eq!(gap.reason, GapReason::Epoch);
                    prop_assert!(self.jump.is_some(), "an unknown gap without a jump");
                    self.position = self.jump.take();
                    self.unknown += 1;
                }
                Missed::Range { from, to } => {
                    self.advance(from, to)?;
                    self.missed += to - from + 1;
                }
            },
            Event::Message(message) => {
                prop_assert_eq!(message.data.parse::<u64>().ok(), Some(message.offset));
                self.advance(message.offset, message.offset)?;
                self.messages += 1;
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    }

    fn advance(&mut self, from: u64, to: u64) -> Result<(), TestCaseError> {
        prop_assert!(self.jump.is_none(), "a jump that nobody was told of");
        let position = self.position.as_mut().expect("a subscription first");
        prop_assert_eq!(from, position.offset + 1);
        prop_assert!(to >= from);
        position.offset = to;
        Ok(())
    }
}

/// A session, its server, and the reader of its subscription.
struct World {
    model: Model,
    session: Session,
    /// `None` until the server has made the subscription.
    queue: Option<Arc<Queue>>,
    /// What the server made.
    offered: Arc<Mutex<Vec<Subscription>>>,
    subscription: Option<Subscription>,
    /// Keeps the client alive.
    _commands: mpsc::Sender<Command>,
    reader: Reader,
    now: Instant,
    longest_queue: usize,
}

impl World {
    fn new(mode: Mode, keeps: u64, capacity: usize) -> World {
        let now = Instant::now();
        let protocol = mode.protocol();
        let wake = Arc::new(Notify::new());
        let (commands, _) = mpsc::channel(1);
        let offered: Arc<Mutex<Vec<Subscription>>> = Arc::default();
        let made = Arc::clone(&offered);
        let offer = Box::new(move |subscription| made.lock().expect("no panic").push(subscription));
        let server_side = ServerSide::new(offer, commands.downgrade(), Arc::clone(&wake), capacity);
        let mut session = Session::new(protocol, Token::default(), Some(server_side));
        let mut queue = None;
        if mode != Mode::ServerSide {
            let own = Queue::new(capacity, wake);
            let (answer, _) = oneshot::channel();
            let command = Command::Subscribe {
                topic: TOPIC.into(),
                position: None,
                presence: false,
                deltas: false,
                token: None,
                queue: Arc::clone(&own),
                answer,
            };
            session.handle_command(command, now);
            queue = Some(own);
        }
        session.handle_open(now);
        let sent = Vec::new();
        let model = Model { protocol, mode, epoch: 1, offset: 0, kept_after: 0, keeps, cursor: None, sent };
        let (reader, subscription, longest_queue) = (Reader::default(), None, 0);
        World {
            model,
            session,
            queue,
            offered,
            subscription,
            _commands: commands,
            reader,
            now,
            longest_queue,
        }
    }

    /// Takes the subscription that the server has made.
    fn accept(&mut self) {
        for subscription in self.offered.lock().expect("no panic").drain(..) {
            self.queue = Some(Arc::clone(subscription.queue()));
            self.subscription = Some(subscription);
        }
    }

    fn events(&self) -> impl Iterator<Item = Event<Payload>> + use<> {
        let queue = self.queue.clone();
        std::iter::from_fn(move || queue.as_ref()?.pop().map(|(event, _)| event))
    }

    fn serve(&mut self) {
        while let Some(message) = self.session.first_outgoing() {
            let text = message.as_text().expect("a text").to_owned();
            self.session.take_outgoing();
            self.model.handle(&text);
        }
    }

    fn deliver(&mut self, messages: usize) {
        let messages = messages.min(self.model.sent.len());
        for text in self.model.sent.drain(..messages) {
            self.session.handle_message(&text.into(), self.now).expect("a message of the protocol");
            let queued = self.queue.as_ref().map_or(0, |queue| queue.len());
            self.longest_queue = self.longest_queue.max(queued);
        }
    }

    fn read(&mut self, events: usize) -> Result<(), TestCaseError> {
        self.accept();
        for event in self.events().take(events) {
            self.reader.handle(event)?;
        }
        self.session.handle_wake(self.now);
        Ok(())
    }

    fn reconnect(&mut self) {
        self.session.handle_lost();
        self.model.sent.clear();
        self.model.cursor = None;
        self.session.handle_open(self.now);
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Publish(messages) => (0..messages).for_each(|_| self.model.publish()),
            Op::Serve => self.serve(),
            Op::Deliver(messages) => self.deliver(messages.into()),
            Op::Read(events) => self.read(events.into())?,
            Op::Reconnect => self.reconnect(),
            Op::Restart => {
                (self.model.offset, self.model.kept_after) = (0, 0);
                self.model.epoch += 1;
                self.reconnect();
            }
            // A server-side subscription has no way back but another connection.
            Op::EndSlow if self.model.mode == Mode::ServerSide => self.reconnect(),
            Op::EndSlow => self.model.end_slow(),
            Op::Drop(messages) => self.model.drop(messages),
            Op::Heartbeat => self.model.heartbeat(),
        }
        Ok(())
    }

    /// Everything that is on its way arrives, and is read.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..50 {
            self.now += std::time::Duration::from_secs(60);
            self.session.handle_timeout(self.now);
            self.serve();
            self.deliver(usize::MAX);
            self.read(usize::MAX)?;
        }
        Ok(())
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1..5_u8).prop_map(Op::Publish),
        4 => Just(Op::Serve),
        4 => (1..8_u8).prop_map(Op::Deliver),
        4 => (1..8_u8).prop_map(Op::Read),
        1 => Just(Op::Reconnect),
        1 => Just(Op::Restart),
        1 => Just(Op::EndSlow),
        1 => (1..5_u8).prop_map(Op::Drop),
        1 => Just(Op::Heartbeat),
    ];
    prop::collection::vec(op, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_message_is_delivered_or_reported_once_and_in_order(
        ops in ops(),
        keeps in 0..20_u64,
        capacity in 1..12_usize,
        mode in prop::sample::select(&MODES[..]),
    ) {
        let mut world = World::new(mode, keeps, capacity);
        for op in ops {
            world.run(op)?;
        }
        world.settle()?;
        // One last message shows that the subscription is live, and what was missed at the tail.
        world.model.publish();
        world.settle()?;
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
        let mut world = World::new(mode, 10, 100);
        world.settle().expect("in order");
        world.model.publish();
        world.settle().expect("in order");
        world.session.handle_lost();
        world.model.cursor = None;
        (0..30).for_each(|_| world.model.publish());
        world.session.handle_open(world.now);
        world.settle().expect("in order");
        assert_eq!((world.reader.messages, world.reader.missed), (11, 20), "{mode:?}");
    }
}

#[test]
fn a_server_side_subscription_that_is_read_too_slowly_has_gaps_with_exact_counts() {
    let mut world = World::new(Mode::ServerSide, 100, 4);
    world.settle().expect("in order");
    world.model.publish();
    world.settle().expect("in order");
    // Four wait, and six are dropped.
    (0..10).for_each(|_| world.model.publish());
    world.deliver(usize::MAX);
    assert_eq!(world.longest_queue, 4);
    world.settle().expect("in order");
    assert_eq!((world.reader.messages, world.reader.missed), (5, 6));
    assert!(world.session.first_outgoing().is_none(), "nothing is paused at the server");
}

#[test]
fn a_server_side_subscription_ends_when_the_server_says_so_and_may_be_made_again() {
    let mut world = World::new(Mode::ServerSide, 10, 10);
    world.settle().expect("in order");
    world.model.sent.push(format!(
        r#"{{"push":{{"channel":"{TOPIC}","unsubscribe":{{"code":2000,"reason":"server unsubscribe"}}}}}}"#
    ));
    world.deliver(1);
    let events: Vec<Event> = world.events().collect();
    let [Event::Ended(Ended::Refused(refusal))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(refusal.code, "2000");
    // It is another one, with a handle of its own.
    world.model.push_subscription();
    world.reader = Reader::default();
    world.deliver(1);
    world.model.publish();
    world.settle().expect("in order");
    assert_eq!(world.reader.messages, 1);
    // A new connection without it.
    world.model.mode = Mode::Centrifuge;
    world.reconnect();
    world.serve();
    world.deliver(1);
    let events: Vec<Event> = world.events().collect();
    let [Event::Ended(Ended::Refused(_))] = &events[..] else { panic!("{events:?}") };
}

#[test]
fn a_server_side_subscription_that_is_dropped_is_ended_at_the_server() {
    let mut world = World::new(Mode::ServerSide, 10, 10);
    world.settle().expect("in order");
    world.subscription = None;
    world.session.handle_wake(world.now);
    world.serve();
    assert_eq!(world.model.cursor, None);
    world.deliver(usize::MAX);
    // Made again by the next connection.
    (world.queue, world.reader) = (None, Reader::default());
    world.reconnect();
    world.settle().expect("in order");
    world.model.publish();
    world.settle().expect("in order");
    assert_eq!(world.reader.messages, 1);
}

#[test]
fn server_side_subscriptions_are_bounded() {
    let mut world = World::new(Mode::ServerSide, 10, 10);
    for number in 0..SERVER_SUBSCRIPTIONS_MAX + 10 {
        world.model.sent.push(format!(r#"{{"push":{{"channel":"{number}","subscribe":{{}}}}}}"#));
    }
    world.deliver(usize::MAX);
    assert_eq!(world.offered.lock().expect("no panic").len(), SERVER_SUBSCRIPTIONS_MAX);
}

#[test]
fn messages_without_positions_that_are_lost_are_a_gap_of_unknown_extent() {
    let mut world = World::new(Mode::ServerSide, 10, 4);
    world.model.mode = Mode::Centrifuge;
    world.settle().expect("in order");
    let message = format!(r#"{{"push":{{"channel":"{TOPIC}","pub":{{"data":1}}}}}}"#);
    let begun = format!(r#"{{"push":{{"channel":"{TOPIC}","subscribe":{{}}}}}}"#);
    world.model.sent.push(begun);
    world.model.sent.extend(vec![message; 5]);
    world.deliver(usize::MAX);
    world.accept();
    let events: Vec<Event> = world.events().collect();
    assert!(matches!(
        &events[..],
        [Event::Subscribed(_), Event::Message(_), Event::Message(_), Event::Message(_)]
    ));
    world.session.handle_wake(world.now);
    let events: Vec<Event> = world.events().collect();
    let [Event::Gap(gap)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((gap.missed, &gap.reason), (Missed::Unknown, &GapReason::Slow));
    // And while there is no connection.
    world.session.handle_lost();
    world.session.handle_open(world.now);
    let id = connect_id(&world);
    world.model.sent.push(format!(r#"{{"id":{id},"connect":{{"subs":{{"{TOPIC}":{{}}}}}}}}"#));
    world.deliver(usize::MAX);
    let events: Vec<Event> = world.events().collect();
    let [Event::Subscribed(_), Event::Gap(gap)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((gap.missed, &gap.reason), (Missed::Unknown, &GapReason::History));
}

fn connect_id(world: &World) -> u64 {
    let message = world.session.first_outgoing().expect("a connect command");
    let command: serde_json::Value = serde_json::from_str(message.as_text().expect("a text")).expect("JSON");
    command["id"].as_u64().expect("a number")
}
