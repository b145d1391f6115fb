//! Broadcast on one shard: the raw routes, where every message of a subscriber goes to all other subscribers of its
//! topic, and the sessions that speak `echoring.v1.json`; on all shards, in the order that the topic's home gives.
//!
//! ```text
//! publisher's shard --Publish--> home shard --Deliver--> each shard with subscribers --> its log --> sockets
//!        (request lane: may wait)       (forward lane: always taken)
//! ```
//!
//! Between shards a message is what was published, and each shard encodes it for its own subscribers, once for each
//! dialect and size of window.
//!
//! A full mailbox loses nothing: what cannot be posted is held, and its publisher is read no further. A home
//! takes requests only while every forward lane has room for a whole message, and forwards are always taken,
//! so two shards that flood each other both move.

mod draining;
mod encode;
mod mail;
mod posting;
mod publishing;
mod reports;
mod requests;
mod roster;
mod session;
mod sockets;
mod subscribing;
mod turn;

use std::collections::VecDeque;

use crate::buffer::{Buffer, Lease};
use crate::driver::{Driver, Token};
use crate::hub::{
    Content, HomeId, Homes, MemberId, Placement, Publication, Refused, Rules, Subscribed, TopicId, Topics,
};
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, MILLISECOND, Nanos, SECOND, TOPIC_BYTES_MAX};
use crate::protocol::handshake::Refusal;
use crate::shard::{Context, Lane, Means};
use crate::stats::Passed;

use super::service::{Peer, Service};
use draining::Drain;
use encode::{Frames, Scratch};
use mail::Wish;
pub use mail::{Message, Publisher};
pub use session::Session;
use sockets::Fallen;

/// How often subscribers that got nothing new are looked at for lagging too long.
const CHECK: Nanos = SECOND;
/// How soon what found no room in a mailbox is tried again.
const RETRY: Nanos = MILLISECOND;
/// What a message takes in a mailbox beside its payload, at most.
pub(super) const MAIL_OVERHEAD_BYTES: usize =
    TOPIC_BYTES_MAX + KEY_BYTES_MAX + IDEMPOTENCY_KEY_BYTES_MAX + 16;
/// Bytes of history that are passed on at once, unless one message is longer.
const PAGE_BYTES: usize = 32 * 1024;

const TOO_MANY_TOPICS: Refusal = Refusal {
    status: 503,
    reason: "too many topics",
    headers: "Retry-After: 5\r\n",
    cure: "use fewer topics, raise --max-topics, or add a node",
};
const BUSY: Refusal = Refusal {
    status: 503,
    reason: "the topic's home is busy",
    headers: "Retry-After: 1\r\n",
    cure: "try again; if it stays, add shards or publish less",
};

/// A connection on a raw route.
#[derive(Debug)]
pub struct Subscriber {
    topic: TopicId,
    /// None while the home has not answered, and after falling behind.
    member: Option<MemberId>,
    echo_own: bool,
    /// Messages of it that wait for room in a mailbox.
    held: u16,
}

/// What a shard knows of a topic that it subscribed to.
#[derive(Debug)]
struct Subscription {
    topic: TopicId,
    home_shard: usize,
    /// Known once the home has answered.
    home: Option<HomeId>,
    epoch: u64,
    /// Subscribers on all shards whose presence is told.
    present: u64,
    /// Who waits for the home's answer.
    waiting: Vec<Waiting>,
}

/// A topic of another shard that was left, until that shard says that nothing of it follows: what comes until then answers
/// those who published it.
#[derive(Debug)]
struct Left {
    topic: TopicId,
    name: Box<str>,
    epoch: u64,
}

#[derive(Clone, Debug)]
enum Waiting {
    /// A request whose 101 waits, and the subprotocol that it will name.
    Raw(Token, Option<&'static str>),
    /// A session, and since when it waits.
    Session(Token, Nanos),
}

impl Waiting {
    fn token(&self) -> Token {
        match *self {
            Waiting::Raw(token, _) | Waiting::Session(token, _) => token,
        }
    }
}

/// A message that found no room. Its buffer has the topic's name, the key, the idempotency key and the payload.
#[derive(Debug)]
struct Held {
    publisher: Publisher,
    content: Content,
    name_bytes: usize,
    key_bytes: usize,
    idempotency_bytes: usize,
    buffer: Buffer,
}

/// A request to another shard that found no room. The only bytes beside it are the name of a topic to subscribe to, which is
/// known here until the answer comes.
#[derive(Debug)]
struct Chore {
    shard: usize,
    message: Message,
}

/// What the broadcast of a shard is told before it starts.
#[derive(Debug)]
pub struct Settings {
    /// What holds for topics.
    pub rules: Rules,
    /// Counts the node's topics.
    pub topics: Lease,
    /// Topics that one connection may subscribe to.
    pub subscriptions_max: u32,
    /// Bytes of a message, at most.
    pub message_bytes_max: u64,
    /// Makes epochs differ from those of other lives.
    pub seed: u64,
    /// Where topics have their homes: the same on all shards.
    pub placement: Placement,
}

/// The broadcast side of one shard.
#[derive(Debug)]
pub struct Broadcast {
    topics: Topics<Token>,
    homes: Homes,
    placement: Placement,
    /// By the index of the local topic.
    subscriptions: Vec<Option<Subscription>>,
    left: Vec<Left>,
    held: VecDeque<Held>,
    chores: VecDeque<Chore>,
    /// Shards to which there is no room, kept for its memory.
    full: Vec<usize>,
    /// Topics of other shards of which the home has not been heard.
    asking: usize,
    subscriptions_max: u32,
    message_bytes_max: usize,
    sessions: usize,
    passed: Passed,
    drain: Drain,
    check_at: Nanos,
    now: Nanos,
    fallen: Vec<Fallen>,
    /// Sessions that missed who came and went.
    stale: Vec<(Token, MemberId)>,
    /// Sessions that are told who is there, page by page.
    rostering: Vec<Token>,
    /// Sessions that get what they missed, page by page.
    recalling: Vec<Token>,
    silent: Vec<TopicId>,
    members: Vec<MemberId>,
    scratch: Scratch,
    /// A topic's name while it is borrowed otherwise.
    name: String,
    words: Vec<u8>,
    said: Vec<u8>,
    page: Vec<u8>,
}

type Answer = crate::shard::Answer<Peer>;

impl Broadcast {
    pub(super) fn new(settings: Settings) -> Broadcast {
        let Settings { rules, topics, subscriptions_max, message_bytes_max, seed, placement } = settings;
        Broadcast {
            topics: Topics::new(rules.clone()),
            homes: Homes::new(rules, topics, seed),
            placement,
            subscriptions: Vec::new(),
            left: Vec::new(),
            held: VecDeque::new(),
            chores: VecDeque::new(),
            full: Vec::new(),
            asking: 0,
            subscriptions_max,
            message_bytes_max: message_bytes_max as usize,
            sessions: 0,
            passed: Passed::default(),
            drain: Drain::default(),
            check_at: 0,
            now: 0,
            fallen: Vec::new(),
            stale: Vec::new(),
            rostering: Vec::new(),
            recalling: Vec::new(),
            silent: Vec::new(),
            members: Vec::new(),
            scratch: Scratch::default(),
            name: String::new(),
            words: Vec::new(),
            said: Vec::new(),
            page: Vec::new(),
        }
    }

    /// A topic's name, to be put back after use.
    fn name_of(&mut self, topic: TopicId) -> String {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name.push_str(self.topics.name(topic).unwrap_or_default());
        name
    }

    fn subscription(&self, topic: TopicId) -> Option<&Subscription> {
        self.subscriptions.get(topic.index as usize)?.as_ref().filter(|known| known.topic == topic)
    }

    fn subscription_mut(&mut self, topic: TopicId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(topic.index as usize)?.as_mut().filter(|known| known.topic == topic)
    }
}

impl Subscription {
    fn learn(&mut self, answer: Subscribed) {
        self.home = Some(answer.home);
        self.epoch = answer.position.epoch;
        self.present = answer.present;
    }
}

/// Who publishes from outside.
const OPERATOR: Publisher = Publisher {
    shard: u16::MAX,
    token: Token { index: u32::MAX, generation: 0 },
    member: None,
    wish: Wish::Nothing,
    request: 0,
};

/// How many messages of a connection wait for room in a mailbox.
fn held_of(peer: &mut Peer) -> Option<&mut u16> {
    match peer {
        Peer::Subscriber(subscriber) => Some(&mut subscriber.held),
        Peer::Session(session) => Some(&mut session.held),
        _ => None,
    }
}

fn refusal(refused: Refused) -> Refusal {
    if refused.is_passing() { BUSY } else { TOO_MANY_TOPICS }
}

fn split_text(bytes: &[u8], text_bytes: u8) -> Option<(&str, &[u8])> {
    let (text, rest) = bytes.split_at_checked(usize::from(text_bytes))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Posts the answer to a request that was taken, which is done only while there is room.
fn answer_with<D: Driver>(cx: &mut Context<'_, D, Service>, to: usize, message: Message, bytes: &[&[u8]]) {
    let posted = cx.post(to, Lane::Forward, message, bytes);
    debug_assert!(posted.is_ok(), "requests are taken only when there is room to answer");
}

#[expect(clippy::too_many_arguments, reason = "a message, its place, and what encodes it")]
#[inline]
fn append(
    topics: &mut Topics<Token>,
    homes: &mut Homes,
    scratch: &mut Scratch,
    means: &mut Means<'_, Message>,
    topic: TopicId,
    publisher: Publisher,
    offset: u64,
    publication: Publication<'_>,
) {
    let own = publisher.member.filter(|_| usize::from(publisher.shard) == means.mailboxes.shard());
    let mut frames = Frames { publication, offset, scratch, codecs: means.codecs };
    topics.append(topic, means.pool, homes, publisher.origin(), own, offset, &publication, &mut frames);
}
