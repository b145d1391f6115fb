//! The shard's subscriptions to topics, at their owners.

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{OwnedTopicId, Subscribed, TopicId};

/// The shard's subscription to a topic.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) topic: TopicId,
    pub(super) owner_shard: usize,
    /// The topic on its owner; `None` until the owner has answered.
    pub(super) owned: Option<OwnedTopicId>,
    pub(super) epoch: u64,
    /// Subscribers on all shards, of a topic with presence.
    pub(super) present: u64,
    /// Connections that wait for the owner.
    pub(super) waiting: Vec<Waiting>,
}

/// A connection that waits for the owner of a topic.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    /// A raw request whose 101 is pending, and the subprotocol that the 101 will name.
    Raw(Token, Option<&'static str>),
    /// A request for an event stream that is not answered yet, and header lines of the answer.
    EventStream(Token, Box<str>),
    /// A session, and the time at which it subscribed.
    Session(Token, Nanos),
}

/// A topic of another shard that this shard has left. Until the owner confirms, mail about it may still arrive, and
/// acknowledges publications.
#[derive(Debug)]
struct Left {
    topic: TopicId,
    name: Box<str>,
    epoch: u64,
}

/// All subscriptions of a shard.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// By the index of the topic.
    by_topic: Vec<Option<Subscription>>,
    left: Vec<Left>,
    /// Topics of other shards whose owner has not answered.
    pub(super) awaiting_owner: usize,
}

impl Waiting {
    pub(super) fn token(&self) -> Token {
        match self {
            Waiting::Raw(token, _) | Waiting::EventStream(token, _) | Waiting::Session(token, _) => *token,
        }
    }

    fn is_overdue(&self, timeout_of: impl FnOnce(Token) -> Nanos, now: Nanos) -> bool {
        matches!(self, Waiting::Session(token, since) if *since + timeout_of(*token) <= now)
    }
}

impl Subscription {
    pub(super) fn new(topic: TopicId, owner_shard: usize) -> Subscription {
        Subscription { topic, owner_shard, owned: None, epoch: 0, present: 0, waiting: Vec::new() }
    }

    /// Records the owner's answer.
    pub(super) fn confirm(&mut self, answer: Subscribed) {
        self.owned = Some(answer.id);
        self.epoch = answer.position.epoch;
        self.present = answer.present;
    }
}

impl Subscriptions {
    pub(super) fn get(&self, topic: TopicId) -> Option<&Subscription> {
        self.by_topic.get(topic.index as usize)?.as_ref().filter(|known| known.topic == topic)
    }

    pub(super) fn get_mut(&mut self, topic: TopicId) -> Option<&mut Subscription> {
        self.by_topic.get_mut(topic.index as usize)?.as_mut().filter(|known| known.topic == topic)
    }

    /// The owner shard of a topic, and its name for the topic, once the owner has answered.
    pub(super) fn owner_shard(&self, topic: TopicId) -> Option<(usize, OwnedTopicId)> {
        let subscription = self.get(topic)?;
        Some((subscription.owner_shard, subscription.owned?))
    }

    pub(super) fn epoch(&self, topic: TopicId) -> Option<u64> {
        self.get(topic).map(|subscription| subscription.epoch)
    }

    pub(super) fn insert(&mut self, subscription: Subscription) {
        self.awaiting_owner += usize::from(subscription.owned.is_none());
        let index = subscription.topic.index as usize;
        if index >= self.by_topic.len() {
            self.by_topic.resize_with(index + 1, || None);
        }
        self.by_topic[index] = Some(subscription);
    }

    pub(super) fn remove(&mut self, topic: TopicId) -> Option<Subscription> {
        self.get(topic)?;
        self.by_topic[topic.index as usize].take()
    }

    /// The owner of a topic has answered.
    pub(super) fn note_answer(&mut self) {
        // A successor may answer what nobody asked.
        self.awaiting_owner = self.awaiting_owner.saturating_sub(1);
    }

    /// Records that a topic of another shard was left.
    pub(super) fn note_left(&mut self, topic: TopicId, name: &str, epoch: u64) {
        self.left.push(Left { topic, name: name.into(), epoch });
    }

    /// The owner confirmed that it forwards nothing more of a topic that was left.
    pub(super) fn forget_left(&mut self, topic: TopicId) {
        self.left.retain(|left| left.topic != topic);
    }

    /// The name and epoch of a topic that was left.
    pub(super) fn left(&self, topic: TopicId) -> Option<(&str, u64)> {
        let left = self.left.iter().find(|left| left.topic == topic)?;
        Some((&left.name, left.epoch))
    }

    /// Nobody confirms any more.
    pub(super) fn forget_all_left(&mut self) {
        self.left.clear();
    }

    /// The topics, and whether their owners have answered.
    pub(super) fn topics(&self) -> Vec<(TopicId, bool)> {
        let known = self.by_topic.iter().flatten();
        known.map(|subscription| (subscription.topic, subscription.owned.is_some())).collect()
    }

    /// Keeps the shard from leaving a topic while a session waits for messages of its history, or for another answer.
    pub(super) fn keep_for(&mut self, topic: TopicId, token: Token, now: Nanos) {
        if let Some(subscription) = self.get_mut(topic) {
            subscription.waiting.push(Waiting::Session(token, now));
        }
    }

    /// Removes a connection from those that wait for the owner of a topic.
    pub(super) fn stop_waiting(&mut self, topic: TopicId, token: Token) {
        if let Some(subscription) = self.get_mut(topic) {
            subscription.waiting.retain(|waiting| waiting.token() != token);
        }
    }

    /// Removes the sessions that have waited for an owner for longer than theirs may.
    pub(super) fn take_overdue(
        &mut self,
        now: Nanos,
        mut timeout_of: impl FnMut(Token) -> Nanos,
    ) -> Vec<(TopicId, Token)> {
        if self.awaiting_owner == 0 {
            return Vec::new();
        }
        let unanswered = self.by_topic.iter_mut().flatten().filter(|known| known.owned.is_none());
        unanswered
            .flat_map(|Subscription { topic, waiting, .. }| {
                let overdue = waiting.extract_if(.., |waiting| waiting.is_overdue(&mut timeout_of, now));
                overdue.map(|waiting| (*topic, waiting.token())).collect::<Vec<_>>()
            })
            .collect()
    }
}
