//! The raw broadcast routes: every message of a subscriber goes to all other subscribers of its topic, on all
//! shards, in the order that the topic's home gives.
//!
//! ```text
//! publisher's shard --Publish--> home shard --Deliver--> each shard with subscribers --> its log --> sockets
//!        (request lane: may wait)       (forward lane: always taken)
//! ```
//!
//! Between shards a message is a plain frame, and each shard compresses it for its own subscribers, once for each
//! size of window.
//!
//! A full mailbox loses nothing: what cannot be posted is held, and its publisher is read no further. A home
//! takes requests only while every forward lane has room for a whole message, and forwards are always taken,
//! so two shards that flood each other both move.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::buffer::{Buffer, Pool};
use crate::connection::{Codecs, Kind};
use crate::driver::{Driver, Token};
use crate::hub::{
    Bounds, Encode, Format, HomeId, Homes, MemberId, Origin, Position, Publication, Refused, Sink, TopicId,
    Topics, home_shard,
};
use crate::limits::{MILLISECOND, Nanos, SECOND, TOPICS_MAX};
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use crate::protocol::handshake::Refusal;
use crate::protocol::{CloseCode, Role};
use crate::shard::{Context, Full, Lane, Link, Means};
use crate::stats::{Snapshot, TopicReport};

use super::chat::Mail;
use super::service::{Peer, Service};

/// How often subscribers that got nothing new are looked at for lagging too long.
const LAG_CHECK: Nanos = SECOND;
/// How soon what found no room in a mailbox is tried again.
const RETRY: Nanos = MILLISECOND;

const TOO_MANY_TOPICS: Refusal = Refusal {
    status: 503,
    reason: "too many topics",
    headers: "Retry-After: 5\r\n",
    cure: "use fewer topics, or add a node",
};
const BUSY: Refusal = Refusal {
    status: 503,
    reason: "the topic's home is busy",
    headers: "Retry-After: 1\r\n",
    cure: "try again; if it stays, add shards or publish less",
};

/// A connection on a broadcast route.
#[derive(Debug)]
pub struct Subscriber {
    topic: TopicId,
    /// None while the home has not answered, and after falling behind.
    member: Option<MemberId>,
    echo_own: bool,
    /// Messages of it that wait for room in a mailbox.
    held: u16,
}

/// What shards send one another about topics. The bytes beside it are a topic's name or an encoded frame.
#[derive(Debug)]
pub enum Message {
    /// Forward the topic named by the bytes to me; I call it `local`.
    Subscribe {
        /// The asking shard's name for it.
        local: TopicId,
    },
    /// The answer: what was published before is history, what comes after this in the lane is live.
    Subscribed {
        /// The asking shard's name for the topic.
        local: TopicId,
        /// The home's name for it.
        home: HomeId,
    },
    /// Forward no more.
    Unsubscribe {
        /// The home's name for the topic.
        home: HomeId,
        /// The asking shard's name for it.
        local: TopicId,
    },
    /// Give the frame in the bytes its place in the order.
    Publish {
        /// The home's name for the topic.
        home: HomeId,
        /// Who sent the frame.
        publisher: Publisher,
    },
    /// About the chat room.
    Chat(Mail),
    /// The frame in the bytes is next in the topic's order.
    Deliver {
        /// The receiving shard's name for the topic.
        local: TopicId,
        /// Who sent the frame.
        publisher: Publisher,
    },
}

/// Who published a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    shard: u16,
    token: Token,
    member: MemberId,
}

impl Publisher {
    fn origin(self) -> Origin {
        origin(usize::from(self.shard), self.token)
    }
}

fn origin(shard: usize, token: Token) -> Origin {
    // Shards below 2^8, generations below 2^24; the set bit keeps it from being 0, which is nobody.
    (shard as u64) << 56 | u64::from(token.generation) << 32 | (u64::from(token.index) + 1)
}

/// What a shard knows of a topic that it subscribed to.
#[derive(Debug)]
struct Relay {
    topic: TopicId,
    home_shard: usize,
    /// Known once the home has answered.
    home: Option<HomeId>,
    /// Requests whose 101 waits for that, and the subprotocols that it will name.
    waiting: Vec<(Token, Option<&'static str>)>,
}

/// A message that found no room.
#[derive(Debug)]
struct Held {
    topic: TopicId,
    publisher: Publisher,
    frame: Buffer,
}

/// The broadcast side of one shard.
#[derive(Debug)]
pub struct Broadcast {
    topics: Topics<Token>,
    homes: Homes,
    /// By the index of the local topic.
    relays: Vec<Option<Relay>>,
    held: VecDeque<Held>,
    /// Topics left while their home's mailbox was full.
    farewells: VecDeque<(usize, HomeId, TopicId)>,
    frame_bytes_max: usize,
    check_at: Nanos,
    now: Nanos,
    fallen: Vec<Token>,
}

type Answer = crate::shard::Answer<Peer>;

impl Broadcast {
    pub(super) fn new(bounds: Bounds, frame_bytes_max: usize) -> Broadcast {
        Broadcast {
            topics: Topics::new(bounds),
            homes: Homes::new(),
            relays: Vec::new(),
            held: VecDeque::new(),
            farewells: VecDeque::new(),
            frame_bytes_max,
            check_at: 0,
            now: 0,
            fallen: Vec::new(),
        }
    }

    /// A connection asks for a topic. Its 101 leaves when it is subscribed on every shard that matters.
    pub(super) fn subscribe<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        name: &str,
        echo_own: bool,
        subprotocol: Option<&'static str>,
    ) -> Answer {
        let (shard, shards) = (cx.shard(), cx.shards());
        let topic = match self.topics.find(name) {
            Some(topic) => topic,
            None if self.topics.len() >= TOPICS_MAX => return Answer::Refuse(TOO_MANY_TOPICS),
            None => {
                let topic = self.topics.create(name);
                let home_shard = home_shard(name, shards);
                let home = (home_shard == shard).then(|| self.homes.subscribe(name, shard, topic).0);
                if home.is_none()
                    && cx.post(
                        home_shard,
                        Lane::Request,
                        Message::Subscribe { local: topic },
                        &[name.as_bytes()],
                    ) == Err(Full)
                {
                    self.topics.remove(topic, cx.pool());
                    return Answer::Refuse(BUSY);
                }
                self.set_relay(Relay { topic, home_shard, home, waiting: Vec::new() });
                topic
            }
        };
        let mut subscriber = Subscriber { topic, member: None, echo_own, held: 0 };
        if self.relay(topic).is_some_and(|relay| relay.home.is_some()) {
            subscriber.member = self.join(cx, token, topic, echo_own);
            Answer::Upgrade { peer: Peer::Subscriber(subscriber), subprotocol, whole: true }
        } else {
            if let Some(relay) = self.relay_mut(topic) {
                relay.waiting.push((token, subprotocol));
            }
            Answer::Later { peer: Peer::Subscriber(subscriber) }
        }
    }

    fn join<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        topic: TopicId,
        echo_own: bool,
    ) -> Option<MemberId> {
        let skip = if echo_own { 0 } else { origin(cx.shard(), token) };
        let format = match cx.share_window(token) {
            Some(window_bits) => Format::Deflated { window_bits },
            None => Format::Plain,
        };
        self.topics.subscribe(topic, token, format, skip)
    }

    /// A subscriber sent a whole message.
    pub(super) fn publish(&mut self, link: &mut Link<'_, Service>, kind: Kind, payload: &[u8]) {
        let shard = link.mailboxes.shard();
        let token = link.token;
        let Peer::Subscriber(subscriber) = &mut *link.peer else { return };
        // Who fell behind is being closed; what it still sends is not taken.
        let Some(member) = subscriber.member else { return };
        let topic = subscriber.topic;
        let publisher = Publisher { shard: shard as u16, token, member };
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let header =
            Header { opcode, fin: true, compressed: false, mask: None, payload_bytes: payload.len() as u64 };
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(&header, &mut head);
        let parts = [&head[..head_bytes], payload];
        if subscriber.held == 0
            && self.held.is_empty()
            && self.order(&mut link.means(), topic, publisher, parts).is_ok()
        {
            return;
        }
        self.hold(link, topic, publisher, parts);
    }

    fn hold(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        publisher: Publisher,
        parts: [&[u8]; 2],
    ) {
        link.note_mailbox_full();
        let Some(mut frame) = link.pool().get(parts[0].len() + parts[1].len()) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        parts.iter().for_each(|part| frame.append(part));
        if let Peer::Subscriber(subscriber) = &mut *link.peer {
            subscriber.held = subscriber.held.saturating_add(1);
        }
        link.hold_up(true);
        self.held.push_back(Held { topic, publisher, frame });
    }

    /// Brings a message to its topic's home, which may be here.
    fn order(
        &mut self,
        means: &mut Means<'_, Message>,
        topic: TopicId,
        publisher: Publisher,
        parts: [&[u8]; 2],
    ) -> Result<(), Full> {
        let Some(&Relay { home_shard, home: Some(home), .. }) = self.relay(topic) else { return Ok(()) };
        if home_shard != means.mailboxes.shard() {
            let message = Message::Publish { home, publisher };
            return means.mailboxes.post(home_shard, Lane::Request, message, &parts);
        }
        if !means.mailboxes.all_have_room(Lane::Forward, parts[0].len() + parts[1].len()) {
            return Err(Full);
        }
        self.fan_out(means, home, publisher, parts);
        Ok(())
    }

    /// The home's part: the message gets its offset and goes to every shard that subscribed. The caller has
    /// seen to it that the forward lanes have room.
    #[inline]
    fn fan_out(
        &mut self,
        means: &mut Means<'_, Message>,
        home: HomeId,
        publisher: Publisher,
        parts: [&[u8]; 2],
    ) {
        let Broadcast { homes, topics, .. } = self;
        let Some((_offset, shards)) = homes.publish(home) else { return };
        for &(shard, local) in shards {
            if shard == means.mailboxes.shard() {
                append(topics, means, local, publisher, parts);
            } else {
                let message = Message::Deliver { local, publisher };
                let posted = means.mailboxes.post(shard, Lane::Forward, message, &parts);
                debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
            }
        }
    }

    /// Whether a request may be taken: it may cause one message to every other shard.
    pub(super) fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        cx.all_have_room(Lane::Forward, self.frame_bytes_max)
    }

    /// Somebody beside the connections publishes to a topic whose home is here.
    pub(super) fn publish_outside<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        topic: &str,
        publication: Publication<'_>,
    ) -> Result<Position, Refused> {
        let _ = (cx, topic, publication);
        Err(Refused::Busy)
    }

    /// What is known here of all topics.
    pub(super) fn topic_reports(&mut self, now: Nanos) -> Vec<TopicReport> {
        let _ = now;
        Vec::new()
    }

    /// What is known here of the topic `name`.
    pub(super) fn topic_report(&mut self, now: Nanos, name: &str) -> Option<TopicReport> {
        let _ = (now, name);
        None
    }

    pub(super) fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        from: usize,
        message: Message,
        payload: &[u8],
    ) {
        match message {
            Message::Subscribe { local } => {
                let Ok(name) = std::str::from_utf8(payload) else { return };
                let (home, _offset) = self.homes.subscribe(name, from, local);
                let posted = cx.post(from, Lane::Forward, Message::Subscribed { local, home }, &[]);
                debug_assert!(posted.is_ok(), "requests are taken only when there is room to answer");
            }
            Message::Subscribed { local, home } => self.subscribed(cx, local, home),
            Message::Unsubscribe { home, local } => self.homes.unsubscribe(home, from, local),
            // The room's own.
            Message::Chat(_) => {}
            Message::Publish { home, publisher } => {
                self.fan_out(&mut cx.means(), home, publisher, [payload, &[]]);
            }
            Message::Deliver { local, publisher } => {
                append(&mut self.topics, &mut cx.means(), local, publisher, [payload, &[]]);
            }
        }
    }

    fn subscribed<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, local: TopicId, home: HomeId) {
        let Some(relay) = self.relay_mut(local) else { return };
        relay.home = Some(home);
        for (token, subprotocol) in std::mem::take(&mut relay.waiting) {
            let Some(Peer::Subscriber(subscriber)) = cx.peer(token) else { continue };
            let echo_own = subscriber.echo_own;
            let member = self.join(cx, token, local, echo_own);
            if let Some(Peer::Subscriber(subscriber)) = cx.peer(token) {
                subscriber.member = member;
            }
            cx.accept(token, subprotocol, true);
        }
        self.leave_if_deserted(cx, local);
    }

    /// A connection that was subscribed, or waited to be, is gone.
    pub(super) fn closed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        subscriber: Subscriber,
    ) {
        match subscriber.member {
            Some(member) => {
                self.topics.unsubscribe(subscriber.topic, member, cx.pool());
            }
            None => {
                if let Some(relay) = self.relay_mut(subscriber.topic) {
                    relay.waiting.retain(|(waiting, _)| *waiting != token);
                }
            }
        }
        self.leave_if_deserted(cx, subscriber.topic);
    }

    fn leave_if_deserted<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, topic: TopicId) {
        if !self.topics.is_deserted(topic) || self.held.iter().any(|held| held.topic == topic) {
            return;
        }
        let Some(&Relay { home_shard, home: Some(home), ref waiting, .. }) = self.relay(topic) else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        self.relays[topic.index as usize] = None;
        self.topics.remove(topic, cx.pool());
        if home_shard == cx.shard() {
            self.homes.unsubscribe(home, home_shard, topic);
        } else {
            self.farewells.push_back((home_shard, home, topic));
            self.say_farewells(cx);
        }
    }

    fn say_farewells<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(&(shard, home, local)) = self.farewells.front() {
            if cx.post(shard, Lane::Request, Message::Unsubscribe { home, local }, &[]).is_err() {
                break;
            }
            self.farewells.pop_front();
        }
    }

    /// A subscriber takes bytes again.
    pub(super) fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        if let Some(Peer::Subscriber(Subscriber { topic, member: Some(member), .. })) = cx.peer(token) {
            let (topic, member) = (*topic, *member);
            let now = cx.now();
            self.topics.catch_up(topic, member, now, &mut Sockets { cx, fallen: &mut self.fallen });
            self.drop_fallen(cx);
        }
    }

    pub(super) fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.now = cx.now();
        if !self.held.is_empty() {
            self.post_held(cx);
        }
        if !self.farewells.is_empty() {
            self.say_farewells(cx);
        }
        let now = self.now;
        if self.topics.is_dirty() {
            self.topics.publish(cx.pool());
            self.topics.deliver(now, &mut Sockets { cx, fallen: &mut self.fallen });
        }
        if self.check_at <= now {
            self.check_at = now + LAG_CHECK;
            self.topics.drop_laggards(now, &mut Sockets { cx, fallen: &mut self.fallen });
        }
        self.drop_fallen(cx);
    }

    fn post_held<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(held) = self.held.pop_front() {
            let Held { topic, publisher, frame } = held;
            if self.order(&mut cx.means(), topic, publisher, [frame.as_slice(), &[]]).is_err() {
                self.held.push_front(Held { topic, publisher, frame });
                return;
            }
            cx.pool().put(frame);
            if let Some(mut link) = cx.link(publisher.token)
                && let Peer::Subscriber(subscriber) = &mut *link.peer
            {
                subscriber.held = subscriber.held.saturating_sub(1);
                if subscriber.held == 0 {
                    link.hold_up(false);
                }
            }
            self.leave_if_deserted(cx, topic);
        }
    }

    fn drop_fallen<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(token) = self.fallen.pop() {
            if let Some(mut link) = cx.link(token) {
                if let Peer::Subscriber(subscriber) = &mut *link.peer {
                    subscriber.member = None;
                }
                link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
            }
        }
    }

    /// When [`turn_ended`](Broadcast::turn_ended) has something to do without an event.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if !self.held.is_empty() || !self.farewells.is_empty() {
            Some(self.now + RETRY)
        } else if self.topics.has_laggards() {
            Some(self.check_at)
        } else {
            None
        }
    }

    pub(super) fn describe(&self, snapshot: &mut Snapshot) {
        snapshot.topics = self.topics.len() as u64;
        snapshot.subscriptions = self.topics.subscriptions() as u64;
    }

    fn relay(&self, topic: TopicId) -> Option<&Relay> {
        self.relays.get(topic.index as usize)?.as_ref().filter(|relay| relay.topic == topic)
    }

    fn relay_mut(&mut self, topic: TopicId) -> Option<&mut Relay> {
        self.relays.get_mut(topic.index as usize)?.as_mut().filter(|relay| relay.topic == topic)
    }

    fn set_relay(&mut self, relay: Relay) {
        let index = relay.topic.index as usize;
        if index >= self.relays.len() {
            self.relays.resize_with(index + 1, || None);
        }
        self.relays[index] = Some(relay);
    }
}

#[inline]
fn append(
    topics: &mut Topics<Token>,
    means: &mut Means<'_, Message>,
    topic: TopicId,
    publisher: Publisher,
    parts: [&[u8]; 2],
) {
    let own = (usize::from(publisher.shard) == means.mailboxes.shard()).then_some(publisher.member);
    let mut frames = Frames { plain: parts, head: [0; HEADER_BYTES_MAX], codecs: means.codecs };
    topics.append(topic, means.pool, publisher.origin(), own, &mut frames);
}

/// A published message in all formats.
struct Frames<'a> {
    /// The plain frame: its header and its payload, or both in the first part.
    plain: [&'a [u8]; 2],
    /// Of the latest compressed one.
    head: [u8; HEADER_BYTES_MAX],
    codecs: &'a mut Codecs,
}

impl Encode for Frames<'_> {
    #[inline]
    fn frame(&mut self, format: Format) -> [&[u8]; 2] {
        match format {
            Format::Plain => self.plain,
            Format::Deflated { window_bits } => self.deflated(window_bits),
        }
    }
}

impl Frames<'_> {
    #[inline(never)]
    fn deflated(&mut self, window_bits: u8) -> [&[u8]; 2] {
        let [first, rest] = self.plain;
        let Ok(Some((header, header_bytes))) = frame::decode(first, Role::Client, false) else {
            debug_assert!(false, "we encoded it");
            return self.plain;
        };
        // One that came from another shard lies in one piece.
        let payload = if rest.is_empty() { &first[header_bytes..] } else { rest };
        match self.codecs.deflate_for_all(window_bits, payload) {
            Some(payload) => {
                let header = Header { compressed: true, payload_bytes: payload.len() as u64, ..header };
                let head_bytes = frame::encode(&header, &mut self.head);
                [&self.head[..head_bytes], payload]
            }
            None => self.plain,
        }
    }
}

/// A shard's connections as the hub sees them.
struct Sockets<'a, 'b, D: Driver> {
    cx: &'a mut Context<'b, D, Service>,
    fallen: &'a mut Vec<Token>,
}

impl<D: Driver> Sink<Token> for Sockets<'_, '_, D> {
    #[inline]
    fn is_writable(&self, token: Token) -> bool {
        self.cx.is_writable(token)
    }

    #[inline]
    fn send(&mut self, token: Token, frames: Bytes, count: u32) -> Result<(), Bytes> {
        self.cx.share(token, frames, u64::from(count))
    }

    fn fell_behind(&mut self, token: Token) {
        self.fallen.push(token);
    }

    fn pool(&mut self) -> &mut Pool {
        self.cx.pool()
    }
}
