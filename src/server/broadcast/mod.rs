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

mod encode;
mod mail;
mod session;
mod sockets;

use std::collections::VecDeque;

use crate::buffer::{Buffer, Lease};
use crate::connection::Kind;
use crate::driver::{Driver, Token};
use crate::hub::{
    Content, Dialect, Format, HomeId, Homes, MemberId, Position, Publication, Refused, Rules, TopicId,
    Topics, home_shard,
};
use crate::limits::{KEY_BYTES_MAX, MILLISECOND, Nanos, SECOND, TOPIC_BYTES_MAX};
use crate::protocol::CloseCode;
use crate::protocol::handshake::Refusal;
use crate::shard::{Context, Full, Lane, Link, Mailboxes, Means};
use crate::stats::{Passed, Snapshot, TopicReport};

use super::service::{Peer, Service};
use super::v1::notice;
use encode::{Frames, Scratch, Told};
pub use mail::{Message, Publisher};
use mail::{Wish, origin};
pub use session::Session;
use sockets::Sockets;

/// How often subscribers that got nothing new are looked at for lagging too long.
const CHECK: Nanos = SECOND;
/// How soon what found no room in a mailbox is tried again.
const RETRY: Nanos = MILLISECOND;
/// Requests to other shards that wait for room, beyond which sessions are told to come back.
const CHORES_MAX: usize = 1_024;
/// What a message takes in a mailbox beside its payload, at most.
pub(super) const MAIL_OVERHEAD_BYTES: usize = TOPIC_BYTES_MAX + KEY_BYTES_MAX + 16;
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
    Session(Token),
}

impl Waiting {
    fn token(&self) -> Token {
        match *self {
            Waiting::Raw(token, _) | Waiting::Session(token) => token,
        }
    }
}

/// A message that found no room. Its buffer has the topic's name, the key and the payload.
#[derive(Debug)]
struct Held {
    publisher: Publisher,
    content: Content,
    name_bytes: usize,
    key_bytes: usize,
    buffer: Buffer,
}

/// A request to another shard that found no room. It has no bytes beside it.
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
}

/// The broadcast side of one shard.
#[derive(Debug)]
pub struct Broadcast {
    topics: Topics<Token>,
    homes: Homes,
    /// By the index of the local topic.
    subscriptions: Vec<Option<Subscription>>,
    left: Vec<Left>,
    held: VecDeque<Held>,
    chores: VecDeque<Chore>,
    subscriptions_max: u32,
    message_bytes_max: usize,
    sessions: usize,
    passed: Passed,
    check_at: Nanos,
    now: Nanos,
    fallen: Vec<(Token, MemberId)>,
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
        let Settings { rules, topics, subscriptions_max, message_bytes_max, seed } = settings;
        Broadcast {
            topics: Topics::new(rules.clone()),
            homes: Homes::new(rules, topics, seed),
            subscriptions: Vec::new(),
            left: Vec::new(),
            held: VecDeque::new(),
            chores: VecDeque::new(),
            subscriptions_max,
            message_bytes_max: message_bytes_max as usize,
            sessions: 0,
            passed: Passed::default(),
            check_at: 0,
            now: 0,
            fallen: Vec::new(),
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

    // ---- subscribing ----

    /// A connection asks for the raw route of a topic. Its 101 leaves when it is subscribed on every shard that matters.
    pub(super) fn subscribe<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        name: &str,
        echo_own: bool,
        subprotocol: Option<&'static str>,
    ) -> Answer {
        let now = cx.now();
        let topic = match self.topic_for(&mut cx.means(), name, now) {
            Ok(topic) => topic,
            Err(refused) => return Answer::Refuse(refusal(refused)),
        };
        let mut subscriber = Subscriber { topic, member: None, echo_own, held: 0 };
        let Some(subscription) = self.relay_mut(topic) else { return Answer::Refuse(BUSY) };
        if subscription.home.is_none() {
            subscription.waiting.push(Waiting::Raw(token, subprotocol));
            return Answer::Later { peer: Peer::Subscriber(subscriber) };
        }
        subscriber.member = self.join(cx, token, topic, echo_own);
        Answer::Upgrade { peer: Peer::Subscriber(subscriber), subprotocol, whole: true }
    }

    /// Opens a session.
    pub(super) fn open_session(&mut self, subprotocol: &'static str) -> Answer {
        self.sessions += 1;
        Answer::Upgrade { peer: Peer::Session(Box::default()), subprotocol: Some(subprotocol), whole: true }
    }

    /// The topic `name`, subscribed to for this shard, or about to be.
    fn topic_for(
        &mut self,
        means: &mut Means<'_, Message>,
        name: &str,
        now: Nanos,
    ) -> Result<TopicId, Refused> {
        if let Some(topic) = self.topics.find(name) {
            return Ok(topic);
        }
        if self.chores.len() >= CHORES_MAX {
            return Err(Refused::Busy);
        }
        let (shard, shards) = (means.mailboxes.shard(), means.mailboxes.shards());
        let home_shard = home_shard(name, shards);
        let topic = self.topics.create(name, now);
        let mut subscription =
            Subscription { topic, home_shard, home: None, epoch: 0, present: 0, waiting: Vec::new() };
        if home_shard == shard {
            let answer = self.homes.subscribe(name, shard, topic, means.pool).inspect_err(|_| {
                self.topics.remove(topic, means.pool);
            })?;
            subscription.learn(answer);
            self.topics.begin_at(topic, answer.position.offset);
        } else {
            let message = Message::Subscribe { local: topic };
            if means.mailboxes.post(home_shard, Lane::Request, message, &[name.as_bytes()]).is_err() {
                self.topics.remove(topic, means.pool);
                return Err(Refused::Busy);
            }
        }
        let index = topic.index as usize;
        if index >= self.subscriptions.len() {
            self.subscriptions.resize_with(index + 1, || None);
        }
        self.subscriptions[index] = Some(subscription);
        Ok(topic)
    }

    fn join<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        topic: TopicId,
        echo_own: bool,
    ) -> Option<MemberId> {
        let skip = if echo_own { 0 } else { origin(cx.shard(), token) };
        let format = Format { dialect: Dialect::Raw, window_bits: cx.share_window(token) };
        self.topics.subscribe(topic, token, format, skip)
    }

    fn subscribed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        local: TopicId,
        answer: Result<crate::hub::Subscribed, Refused>,
    ) {
        let Some(subscription) = self.relay_mut(local) else { return };
        // Each of them keeps the topic from being left until it is let in, whatever becomes of those before it.
        let waiting = subscription.waiting.clone();
        match answer {
            Ok(answer) => {
                subscription.learn(answer);
                self.topics.begin_at(local, answer.position.offset);
                waiting.into_iter().for_each(|waiting| self.let_in(cx, local, &waiting));
                self.leave_if_deserted(&mut cx.means(), local);
            }
            Err(refused) => {
                for waiting in waiting {
                    match waiting {
                        Waiting::Raw(token, _) => cx.refuse(token, &refusal(refused)),
                        Waiting::Session(token) => {
                            if let Some(mut link) = cx.link(token) {
                                self.unavailable(&mut link, local, refused);
                            }
                        }
                    }
                }
                self.subscriptions[local.index as usize] = None;
                self.topics.remove(local, cx.pool());
            }
        }
    }

    fn let_in<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, topic: TopicId, waiting: &Waiting) {
        match *waiting {
            Waiting::Raw(token, subprotocol) => {
                self.wait_no_more(topic, token);
                let Some(Peer::Subscriber(subscriber)) = cx.peer(token) else { return };
                let echo_own = subscriber.echo_own;
                let member = self.join(cx, token, topic, echo_own);
                if let Some(Peer::Subscriber(subscriber)) = cx.peer(token) {
                    subscriber.member = member;
                }
                cx.accept(token, subprotocol, true);
            }
            Waiting::Session(token) => {
                if let Some(mut link) = cx.link(token) {
                    self.begin(&mut link, topic);
                }
            }
        }
    }

    /// A connection of a topic, or of several, is gone.
    pub(super) fn closed<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token, peer: Peer) {
        match peer {
            Peer::Subscriber(subscriber) => {
                match subscriber.member {
                    Some(member) => self.topics.unsubscribe(member, cx.pool()),
                    None => {
                        if let Some(subscription) = self.relay_mut(subscriber.topic) {
                            subscription.waiting.retain(|waiting| waiting.token() != token);
                        }
                    }
                }
                self.leave_if_deserted(&mut cx.means(), subscriber.topic);
            }
            Peer::Session(session) => {
                self.sessions -= 1;
                self.session_closed(&mut cx.means(), token, &session);
            }
            _ => {}
        }
    }

    fn leave_if_deserted(&mut self, means: &mut Means<'_, Message>, topic: TopicId) {
        if !self.topics.is_deserted(topic) {
            return;
        }
        let Some(&Subscription { home_shard, home: Some(home), ref waiting, .. }) = self.relay(topic) else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        let is_here = home_shard == means.mailboxes.shard();
        let left = self.subscriptions[topic.index as usize].take();
        if let Some(Subscription { epoch, .. }) = left
            && !is_here
        {
            let name = self.topics.name(topic).unwrap_or_default().into();
            self.left.push(Left { topic, name, epoch });
        }
        self.topics.remove(topic, means.pool);
        if is_here {
            self.homes.unsubscribe(home, home_shard, topic, self.now, means.pool);
        } else {
            let message = Message::Unsubscribe { home, local: topic };
            self.chores.push_back(Chore { shard: home_shard, message });
            self.do_chores(means.mailboxes);
        }
    }

    // ---- publishing ----

    /// A raw subscriber sent a whole message.
    pub(super) fn relay_message(&mut self, link: &mut Link<'_, Service>, kind: Kind, payload: &[u8]) {
        let Peer::Subscriber(subscriber) = &mut *link.peer else { return };
        // Who fell behind is being closed; what it still sends is not taken.
        let Some(member) = subscriber.member else { return };
        let topic = subscriber.topic;
        let publisher = Publisher {
            shard: link.mailboxes.shard() as u16,
            token: link.token,
            member: Some(member),
            wish: Wish::Nothing,
        };
        let content = match kind {
            Kind::Text => Content::Text,
            Kind::Binary => Content::Binary,
        };
        let name = self.name_of(topic);
        if self.topics.settings(topic).is_some_and(|settings| settings.refuses_raw()) {
            self.homes.note_refused();
            link.close(
                CloseCode::POLICY,
                "messages of this topic need a key, or come from its operator only",
            );
        } else {
            self.publish(link, &name, publisher, Publication { content, key: "", payload });
        }
        self.name = name;
    }

    /// A connection here sent a message for a topic.
    fn publish(
        &mut self,
        link: &mut Link<'_, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
    ) {
        let now = link.now();
        if self.held.is_empty() {
            match self.order(&mut link.means(), now, name, publisher, publication) {
                Ok(Some(verdict)) => return self.published(link, name, &publisher, verdict),
                Ok(None) => return,
                Err(Full) => {}
            }
        }
        self.hold(link, name, publisher, publication);
    }

    #[cold]
    fn hold(
        &mut self,
        link: &mut Link<'_, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
    ) {
        link.note_mailbox_full();
        let Publication { content, key, payload } = publication;
        let Some(mut buffer) = link.pool().get(name.len() + key.len() + payload.len()) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        [name.as_bytes(), key.as_bytes(), payload].iter().for_each(|part| buffer.append(part));
        match &mut *link.peer {
            Peer::Subscriber(Subscriber { held, .. }) => *held = held.saturating_add(1),
            Peer::Session(session) => session.held = session.held.saturating_add(1),
            _ => {}
        }
        link.hold_up(true);
        let (name_bytes, key_bytes) = (name.len(), key.len());
        self.held.push_back(Held { publisher, content, name_bytes, key_bytes, buffer });
    }

    /// Brings a message to its topic's home, which may be here: then the verdict is known at once.
    #[inline]
    fn order(
        &mut self,
        means: &mut Means<'_, Message>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
    ) -> Result<Option<Result<Position, Refused>>, Full> {
        let home_shard = home_shard(name, means.mailboxes.shards());
        if home_shard == means.mailboxes.shard() {
            let bytes = publication.payload.len() + publication.key.len();
            if !means.mailboxes.all_have_room(Lane::Forward, bytes) {
                return Err(Full);
            }
            return Ok(Some(self.judge(means, now, name, publisher, publication)));
        }
        let Publication { content, key, payload } = publication;
        let message =
            Message::Publish { publisher, content, name_bytes: name.len() as u8, key_bytes: key.len() as u8 };
        let bytes = [name.as_bytes(), key.as_bytes(), payload];
        means.mailboxes.post(home_shard, Lane::Request, message, &bytes)?;
        self.passed.publications_out += 1;
        Ok(None)
    }

    /// The home's part: the message gets its offset and goes to every shard that subscribed. The caller has
    /// seen to it that the forward lanes have room.
    fn judge(
        &mut self,
        means: &mut Means<'_, Message>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
    ) -> Result<Position, Refused> {
        let Broadcast { homes, topics, scratch, passed, .. } = self;
        let home = match homes.find_or_create(name, now, means.pool) {
            Ok(home) => home,
            Err(refused) => {
                homes.note_refused();
                return Err(refused);
            }
        };
        let by_client = publisher != OPERATOR;
        let (position, shards) = homes.publish(home, &publication, by_client, now, means.pool)?;
        let Publication { content, key, payload } = publication;
        let mut here = None;
        for &(shard, local) in shards {
            if shard == means.mailboxes.shard() {
                here = Some(local);
                continue;
            }
            let (offset, key_bytes) = (position.offset, key.len() as u8);
            let message = Message::Deliver { local, publisher, offset, content, key_bytes };
            let posted = means.mailboxes.post(shard, Lane::Forward, message, &[key.as_bytes(), payload]);
            debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
            passed.messages_out += 1;
        }
        if let Some(local) = here {
            append(topics, homes, scratch, means, local, publisher, position.offset, publication);
        }
        Ok(position)
    }

    /// The operator publishes to a topic that has its home here.
    ///
    /// # Errors
    /// Why it does not take the message.
    pub(super) fn publish_outside<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        name: &str,
        publication: Publication<'_>,
    ) -> Result<Position, Refused> {
        if publication.payload.len() > self.message_bytes_max {
            self.homes.note_refused();
            return Err(Refused::TooLarge);
        }
        if !self.takes_requests(cx) {
            return Err(Refused::Busy);
        }
        let now = cx.now();
        self.judge(&mut cx.means(), now, name, OPERATOR, publication)
    }

    // ---- between shards ----

    /// Whether a request may be taken: it may cause one message to every other shard.
    pub(super) fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        cx.all_have_room(Lane::Forward, self.message_bytes_max + MAIL_OVERHEAD_BYTES)
    }

    /// About as many bytes of history as go with one message to another shard.
    fn page_bytes_max(&self) -> usize {
        PAGE_BYTES.min(self.message_bytes_max)
    }

    pub(super) fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        from: usize,
        message: Message,
        bytes: &[u8],
    ) {
        match message {
            Message::Subscribe { local } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                let answer = self.homes.subscribe(name, from, local, cx.pool());
                answer_with(cx, from, Message::Subscribed { local, answer }, &[]);
            }
            Message::Subscribed { local, answer } => self.subscribed(cx, local, answer),
            Message::Unsubscribe { home, local } => {
                let now = cx.now();
                self.homes.unsubscribe(home, from, local, now, cx.pool());
                answer_with(cx, from, Message::Unsubscribed { local }, &[]);
            }
            Message::Unsubscribed { local } => self.left.retain(|left| left.topic != local),
            Message::Publish { publisher, content, name_bytes, key_bytes } => {
                let Some((name, rest)) = split_text(bytes, name_bytes) else { return };
                let Some((key, payload)) = split_text(rest, key_bytes) else { return };
                self.publish_for_shard(cx, name, publisher, Publication { content, key, payload });
            }
            Message::Published { publisher, verdict } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                if let Some(mut link) = cx.link(publisher.token) {
                    self.published(&mut link, name, &publisher, verdict);
                }
            }
            Message::Deliver { local, publisher, offset, content, key_bytes } => {
                self.passed.messages_in += 1;
                let Some((key, payload)) = split_text(bytes, key_bytes) else { return };
                self.deliver(cx, local, publisher, offset, Publication { content, key, payload });
            }
            Message::Recall { home, local, token, after } => {
                let mut page = std::mem::take(&mut self.page);
                page.clear();
                let (now, bytes_max) = (cx.now(), self.page_bytes_max());
                let told = self.homes.history(home, after, bytes_max, now, cx.pool(), &mut page);
                answer_with(cx, from, Message::Recalled { local, token, after, page: told }, &[&page]);
                self.page = page;
            }
            Message::Recalled { local, token, after, page } => {
                if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                    self.recalled(&mut link, local, after, page, bytes);
                }
            }
            Message::Presence { home, client, joined } => {
                self.spread_presence(&mut cx.means(), home, client, joined);
            }
            Message::Present { local, client, joined, count } => {
                self.present(&mut cx.means(), local, client, joined, count);
            }
            // The room's own.
            Message::Chat(_) => {}
        }
    }

    /// A message came from another shard to its topic's home.
    fn publish_for_shard<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
    ) {
        self.passed.publications_in += 1;
        let now = cx.now();
        let verdict = self.judge(&mut cx.means(), now, name, publisher, publication);
        let wanted = match publisher.wish {
            Wish::Nothing => false,
            Wish::Refusal => verdict.is_err(),
            // Where the message goes, it is the answer.
            Wish::Answer(_) => {
                verdict.is_err() || !self.homes.forwards_to(name, usize::from(publisher.shard))
            }
        };
        if wanted {
            let message = Message::Published { publisher, verdict };
            answer_with(cx, usize::from(publisher.shard), message, &[name.as_bytes()]);
        }
    }

    /// The next message of a topic that has subscribers here.
    #[inline]
    fn deliver<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        topic: TopicId,
        publisher: Publisher,
        offset: u64,
        publication: Publication<'_>,
    ) {
        let Broadcast { homes, topics, scratch, .. } = self;
        append(topics, homes, scratch, &mut cx.means(), topic, publisher, offset, publication);
        if let Wish::Answer(_) = publisher.wish
            && usize::from(publisher.shard) == cx.shard()
        {
            let mut name = self.name_of(topic);
            let epoch = match (self.relay(topic), self.left.iter().find(|left| left.topic == topic)) {
                (Some(subscription), _) => subscription.epoch,
                (None, Some(left)) => {
                    name.push_str(&left.name);
                    left.epoch
                }
                (None, None) => return self.name = name,
            };
            if let Some(mut link) = cx.link(publisher.token) {
                self.published(&mut link, &name, &publisher, Ok(Position { epoch, offset }));
            }
            self.name = name;
        }
    }

    // ---- presence ----

    /// Tells a topic's home that somebody came or went, where that is told.
    fn tell_presence(&mut self, means: &mut Means<'_, Message>, topic: TopicId, client: u64, joined: bool) {
        if !self.topics.settings(topic).is_some_and(|settings| settings.presence) {
            return;
        }
        let Some(&Subscription { home_shard, home: Some(home), .. }) = self.relay(topic) else { return };
        let message = Message::Presence { home, client, joined };
        self.chores.push_back(Chore { shard: home_shard, message });
        self.do_chores_with(means);
    }

    fn spread_presence(&mut self, means: &mut Means<'_, Message>, home: HomeId, client: u64, joined: bool) {
        let Some((count, shards)) = self.homes.presence(home, joined) else { return };
        let mut here = None;
        for &(shard, local) in shards {
            if shard == means.mailboxes.shard() {
                here = Some(local);
                continue;
            }
            let message = Message::Present { local, client, joined, count };
            let posted = means.mailboxes.post(shard, Lane::Forward, message, &[]);
            debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
        }
        if let Some(local) = here {
            self.present(means, local, client, joined, count);
        }
    }

    fn present(
        &mut self,
        means: &mut Means<'_, Message>,
        topic: TopicId,
        client: u64,
        joined: bool,
        count: u64,
    ) {
        if let Some(subscription) = self.relay_mut(topic) {
            subscription.present = count;
        }
        let Broadcast { homes, topics, scratch, .. } = self;
        let say = |words: &mut Vec<u8>, name: &str| notice::presence(words, name, joined, client, count);
        topics.append_notice(topic, means.pool, homes, &mut Told { scratch, say });
    }

    // ---- the end of a turn ----

    /// A connection's send was short: the whole frames at its end are taken back.
    pub(super) fn blocked<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        let now = cx.now();
        while let Some((tag, unsent)) = cx.unsent_shared(token) {
            let all = cx.unsent_bytes(token) as usize == unsent;
            let (bytes, messages) = self.topics.take_back(tag, token, unsent, all, now);
            if bytes > 0 {
                let taken = cx.take_back(token, bytes, u64::from(messages));
                debug_assert!(taken, "one frame stays");
            }
            if bytes < unsent {
                break;
            }
        }
    }

    /// A subscriber takes bytes again.
    pub(super) fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        let now = cx.now();
        match cx.peer(token) {
            Some(&mut Peer::Subscriber(Subscriber { member: Some(member), .. })) => {
                self.topics.catch_up(member, now, &mut Sockets { cx, fallen: &mut self.fallen });
            }
            Some(Peer::Session(session)) => {
                let mut members = std::mem::take(&mut self.members);
                members.extend(session.members());
                for member in members.drain(..) {
                    self.topics.catch_up(member, now, &mut Sockets { cx, fallen: &mut self.fallen });
                }
                self.members = members;
                if let Some(mut link) = cx.link(token) {
                    self.recall_next(&mut link);
                }
            }
            _ => return,
        }
        self.drop_fallen(cx);
    }

    pub(super) fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.now = cx.now();
        if !self.chores.is_empty() {
            self.do_chores_with(&mut cx.means());
        }
        let now = self.now;
        let checks = self.check_at <= now;
        if checks && self.sessions > 0 {
            self.tell_silent(cx);
        }
        if self.topics.is_dirty() {
            self.topics.deliver(now, &mut Sockets { cx, fallen: &mut self.fallen });
        }
        if checks {
            self.check_at = now + CHECK;
            self.topics.drop_laggards(now, &mut Sockets { cx, fallen: &mut self.fallen });
            self.homes.expire(now, cx.pool());
        }
        self.drop_fallen(cx);
        // What is said here leaves with the turn. Before it were gone the topics' messages would find the way barred, and
        // no event would say that it has become clear: so they come first, and new ones in the next turn.
        if !self.held.is_empty() {
            self.post_held(cx);
        }
        for token in std::mem::take(&mut self.recalling) {
            if let Some(mut link) = cx.link(token) {
                self.recall_next(&mut link);
            }
        }
    }

    /// Those who have heard nothing for long are told that nothing was lost.
    fn tell_silent<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        let mut silent = std::mem::take(&mut self.silent);
        self.topics.silent(self.now, &mut silent);
        for topic in silent.drain(..) {
            let offset = self.topics.offset(topic);
            let Broadcast { homes, topics, scratch, .. } = self;
            let say = |words: &mut Vec<u8>, name: &str| notice::heartbeat(words, name, offset);
            topics.append_notice(topic, cx.pool(), homes, &mut Told { scratch, say });
        }
        self.silent = silent;
    }

    fn post_held<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(held) = self.held.pop_front() {
            let Held { publisher, content, name_bytes, key_bytes, ref buffer } = held;
            let (name, rest) = buffer.as_slice().split_at(name_bytes);
            let (key, payload) = rest.split_at(key_bytes);
            let (Ok(name), Ok(key)) = (std::str::from_utf8(name), std::str::from_utf8(key)) else { continue };
            let now = self.now;
            let publication = Publication { content, key, payload };
            let ordered = self.order(&mut cx.means(), now, name, publisher, publication);
            let Ok(verdict) = ordered else { return self.held.push_front(held) };
            if let Some(mut link) = cx.link(publisher.token) {
                let left = match &mut *link.peer {
                    Peer::Subscriber(Subscriber { held, .. }) => Some(held),
                    Peer::Session(session) => Some(&mut session.held),
                    _ => None,
                };
                if let Some(left) = left {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        link.hold_up(false);
                    }
                }
                if let Some(verdict) = verdict {
                    self.published(&mut link, name, &publisher, verdict);
                }
            }
            cx.pool().put(held.buffer);
        }
    }

    /// Posts what waits for room, to other shards.
    fn do_chores(&mut self, mailboxes: &mut Mailboxes<Message>) {
        while let Some(Chore { shard, message }) = self.chores.front() {
            let to_others = *shard != mailboxes.shard();
            if !to_others || mailboxes.post(*shard, Lane::Request, message.clone(), &[]).is_err() {
                return;
            }
            self.chores.pop_front();
        }
    }

    /// The same, and does what is to be done here.
    fn do_chores_with(&mut self, means: &mut Means<'_, Message>) {
        loop {
            self.do_chores(means.mailboxes);
            match self.chores.front() {
                Some(&Chore { shard, message: Message::Presence { home, client, joined } })
                    if shard == means.mailboxes.shard()
                        && means.mailboxes.all_have_room(Lane::Forward, 0) =>
                {
                    self.chores.pop_front();
                    self.spread_presence(means, home, client, joined);
                }
                _ => return,
            }
        }
    }

    fn drop_fallen<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some((token, gone)) = self.fallen.pop() {
            if let Some(mut link) = cx.link(token) {
                let left = match &mut *link.peer {
                    Peer::Subscriber(subscriber) => {
                        subscriber.member = None;
                        None
                    }
                    Peer::Session(session) => session.forget(gone),
                    _ => None,
                };
                link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
                if let Some(topic) = left {
                    self.left(&mut link.means(), token, topic);
                }
            }
        }
    }

    /// When [`turn_ended`](Broadcast::turn_ended) has something to do without an event.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if !self.recalling.is_empty() || self.topics.has_fresh() {
            return Some(0);
        }
        if !self.held.is_empty() || !self.chores.is_empty() {
            return Some(self.now + RETRY);
        }
        let looks = self.topics.has_laggards() || self.homes.has_idle() || self.sessions > 0;
        let check = looks.then_some(self.check_at);
        match (self.topics.due_at(), check) {
            (Some(due), Some(check)) => Some(due.min(check)),
            (due, check) => due.or(check),
        }
    }

    // ---- what is known ----

    pub(super) fn describe(&self, snapshot: &mut Snapshot) {
        snapshot.topics = self.topics.len() as u64;
        snapshot.subscriptions = self.topics.subscriptions() as u64;
        snapshot.publications = self.homes.publications();
        snapshot.deliveries = self.topics.deliveries();
        snapshot.passed = self.passed;
    }

    /// What is known of all topics that have their home or subscribers here.
    pub(super) fn topic_reports(&self, now: Nanos) -> Vec<TopicReport> {
        let mut reports: Vec<TopicReport> = self.topics.reports().collect();
        for report in &mut reports {
            report.home = self.homes.report(&report.name, now);
        }
        let homes = self.homes.reports(now).filter(|(name, _)| self.topics.find(name).is_none());
        reports.extend(homes.map(|(name, home)| TopicReport {
            name: name.to_owned(),
            home: Some(home),
            ..TopicReport::default()
        }));
        reports
    }

    /// What is known of one topic.
    pub(super) fn topic_report(&self, now: Nanos, name: &str) -> Option<TopicReport> {
        let home = self.homes.report(name, now);
        match self.topics.find(name).and_then(|topic| self.topics.report(topic)) {
            Some(report) => Some(TopicReport { home, ..report }),
            None => home.map(|home| TopicReport {
                name: name.to_owned(),
                home: Some(home),
                ..TopicReport::default()
            }),
        }
    }

    /// A topic's name, to be put back after use.
    fn name_of(&mut self, topic: TopicId) -> String {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name.push_str(self.topics.name(topic).unwrap_or_default());
        name
    }

    fn relay(&self, topic: TopicId) -> Option<&Subscription> {
        self.subscriptions.get(topic.index as usize)?.as_ref().filter(|known| known.topic == topic)
    }

    fn relay_mut(&mut self, topic: TopicId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(topic.index as usize)?.as_mut().filter(|known| known.topic == topic)
    }
}

impl Subscription {
    fn learn(&mut self, answer: crate::hub::Subscribed) {
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
};

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
