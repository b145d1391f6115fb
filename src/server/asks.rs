//! What other threads ask about a running server's topics: to publish to them, and to tell about them.
//!
//! An ask goes straight to the shards that it concerns and is answered between two of their turns. Never: a shard that
//! waits for whoever asked, or asks that pile up past [`OUTSIDE_MESSAGES_MAX`] and [`OUTSIDE_BYTES_MAX`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::driver::Driver;
use crate::hub::{Content, Position, Publication, Refused, home_shard};
use crate::limits::{
    KEY_BYTES_MAX, Nanos, OUTSIDE_BYTES_MAX, OUTSIDE_MESSAGES_MAX, SNAPSHOT_TIMEOUT, TOPIC_BYTES_MAX,
};
use crate::shard::{Context, Order, Remote};
use crate::stats::TopicReport;

use super::broadcast::Broadcast;
use super::service::Service;

/// A message for a topic, on its way there from another thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPublication {
    /// What the bytes are. Of [`Content::Json`] and [`Content::Text`] they have to be: nobody looks again.
    pub content: Content,
    /// What the message is the latest state of: at most [`KEY_BYTES_MAX`]; empty when it has no key.
    pub key: Box<str>,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl OwnedPublication {
    fn as_publication(&self) -> Publication<'_> {
        Publication { content: self.content, key: &self.key, payload: &self.payload }
    }

    /// Bytes that it takes while it waits.
    fn bytes(&self) -> u64 {
        (size_of::<OwnedPublication>() + self.key.len() + self.payload.len()) as u64
    }
}

/// Why nothing of what was to be published was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic's name is empty, or longer than [`TOPIC_BYTES_MAX`].
    BadTopic,
    /// The key of the message at this place is longer than [`KEY_BYTES_MAX`].
    BadKey(usize),
    /// More messages at once than [`OUTSIDE_MESSAGES_MAX`].
    TooMany,
    /// Too much waits for topics' homes already, or this one's did not come to it in time; try again soon.
    Busy,
    /// The server has ended.
    Ended,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::BadTopic => write!(f, "a topic's name has 1 to {TOPIC_BYTES_MAX} bytes"),
            PublishError::BadKey(_) => write!(f, "a key has at most {KEY_BYTES_MAX} bytes"),
            PublishError::TooMany => write!(f, "at most {OUTSIDE_MESSAGES_MAX} messages at once"),
            PublishError::Busy => f.write_str("too many messages wait for their topics already"),
            PublishError::Ended => f.write_str("the server has ended"),
        }
    }
}

impl std::error::Error for PublishError {}

/// What became of each message: its position, or why it has none.
pub type Published = Vec<Result<Position, Refused>>;

/// What a shard is asked. It is dropped unanswered when the shard ends.
#[derive(Debug)]
pub enum Ask {
    /// Publish to a topic whose home is there.
    Publish(Publish),
    /// Tell about all topics.
    Topics(mpsc::SyncSender<(usize, Vec<TopicReport>)>),
    /// Tell about the topic of this name, if it is known.
    Topic(Box<str>, mpsc::SyncSender<(usize, Option<TopicReport>)>),
}

/// Messages for a topic, in order.
#[derive(Debug)]
pub struct Publish {
    topic: Box<str>,
    messages: Vec<OwnedPublication>,
    reply: mpsc::SyncSender<Published>,
    claim: Claim,
    /// What the messages take of the node's bound, until they are dropped.
    _charge: Charge,
}

impl Ask {
    /// Does what is asked. The answer goes to whoever still waits for it.
    pub(super) fn answer<D: Driver>(self, broadcast: &mut Broadcast, cx: &mut Context<'_, D, Service>) {
        let (shard, now) = (cx.shard(), cx.now());
        match self {
            Ask::Publish(publish) => publish.answer(broadcast, cx),
            Ask::Topics(reply) => {
                let _ = reply.try_send((shard, broadcast.topic_reports(now)));
            }
            Ask::Topic(name, reply) => {
                let _ = reply.try_send((shard, broadcast.topic_report(now, &name)));
            }
        }
    }
}

impl Publish {
    fn answer<D: Driver>(self, broadcast: &mut Broadcast, cx: &mut Context<'_, D, Service>) {
        if !self.claim.take() {
            return;
        }
        // Behind one that may be taken a little later no other is: the publisher can go on from there, in order.
        let mut hindered = None;
        let publish = |message: &OwnedPublication| {
            if let Some(refused) = hindered {
                return Err(refused);
            }
            let published = broadcast.publish_outside(cx, &self.topic, message.as_publication());
            hindered = published.err().filter(|refused| refused.is_passing());
            published
        };
        let published = self.messages.iter().map(publish).collect();
        // The claim was ours, so that somebody waits, unless the thread has ended.
        let _ = self.reply.try_send(published);
    }
}

/// Asks the shards of a server, from any thread, and keeps what waits there within its bound.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    remotes: Arc<[Remote<Ask>]>,
    outside: Arc<Outside>,
}

impl Asking {
    pub(super) fn new(remotes: Arc<[Remote<Ask>]>) -> Asking {
        Asking { remotes, outside: Arc::default() }
    }

    /// Publishes, and blocks for the answer of the topic's home: `timeout` at most.
    pub(super) fn publish(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        timeout: Nanos,
    ) -> Result<Published, PublishError> {
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
            return Err(PublishError::BadTopic);
        }
        if messages.len() as u64 > OUTSIDE_MESSAGES_MAX {
            return Err(PublishError::TooMany);
        }
        if let Some(at) = messages.iter().position(|message| message.key.len() > KEY_BYTES_MAX) {
            return Err(PublishError::BadKey(at));
        }
        if messages.is_empty() {
            return Ok(Published::new());
        }
        let charge = self.outside.charge(&messages).ok_or(PublishError::Busy)?;
        let (reply, answer) = mpsc::sync_channel(1);
        let claim = Claim::default();
        let publish = Publish { topic: topic.into(), messages, reply, claim: claim.clone(), _charge: charge };
        let home = &self.remotes[home_shard(topic, self.remotes.len())];
        if !home.order(Order::Ask(Ask::Publish(publish))) {
            return Err(PublishError::Ended);
        }
        match answer.recv_timeout(Duration::from_nanos(timeout)) {
            Ok(published) => Ok(published),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(PublishError::Ended),
            // Nothing of it will be published: to try again makes no duplicates.
            Err(mpsc::RecvTimeoutError::Timeout) if claim.take() => Err(PublishError::Busy),
            // The shard is at it, and shards do not wait for anything.
            Err(mpsc::RecvTimeoutError::Timeout) => answer.recv().map_err(|_| PublishError::Ended),
        }
    }

    /// Every shard's topics, in the order of their numbers; without those that do not answer in time.
    pub(super) fn topics(&self) -> Vec<(usize, Vec<TopicReport>)> {
        self.ask_all(Ask::Topics)
    }

    /// The same about one topic.
    pub(super) fn topic(&self, name: &str) -> Vec<(usize, Option<TopicReport>)> {
        self.ask_all(|reply| Ask::Topic(name.into(), reply))
    }

    fn ask_all<T>(&self, ask: impl Fn(mpsc::SyncSender<(usize, T)>) -> Ask) -> Vec<(usize, T)> {
        let (sender, receiver) = mpsc::sync_channel(self.remotes.len());
        let asked =
            self.remotes.iter().filter(|remote| remote.order(Order::Ask(ask(sender.clone())))).count();
        drop(sender);
        let mut answers: Vec<(usize, T)> = (0..asked)
            .map_while(|_| receiver.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT)).ok())
            .collect();
        answers.sort_by_key(|(shard, _)| *shard);
        answers
    }
}

/// Who takes it first has it: the shard, which then publishes, or the publisher, who then no longer waits.
#[derive(Clone, Debug, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// What waits for topics' homes on the whole node.
#[derive(Debug, Default)]
struct Outside {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Outside {
    /// Makes room for `messages`, if there is some. A message longer than the bound has it when nothing else waits.
    fn charge(self: &Arc<Outside>, messages: &[OwnedPublication]) -> Option<Charge> {
        // Each is given back when it is dropped, whatever becomes of the other.
        let mut charge = Charge { outside: Arc::clone(self), messages: 0, bytes: 0 };
        let count = messages.len() as u64;
        add(&self.messages, count, |sum, _| sum <= OUTSIDE_MESSAGES_MAX)?;
        charge.messages = count;
        let bytes = messages.iter().map(OwnedPublication::bytes).sum();
        add(&self.bytes, bytes, |sum, before| sum <= OUTSIDE_BYTES_MAX || before == 0)?;
        charge.bytes = bytes;
        Some(charge)
    }
}

/// Adds `more` where the sum, and what was there before, are as they may be.
fn add(to: &AtomicU64, more: u64, may_be: impl Fn(u64, u64) -> bool) -> Option<()> {
    to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
        before.checked_add(more).filter(|sum| may_be(*sum, before))
    })
    .ok()
    .map(|_| ())
}

/// A part of [`Outside`], given back when it is dropped.
#[derive(Debug)]
struct Charge {
    outside: Arc<Outside>,
    messages: u64,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.outside.messages.fetch_sub(self.messages, Ordering::Relaxed);
        self.outside.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
