//! The interface of this crate to a shard's topics.

use echoring_topics::{ClientId, Position};

use crate::message::Outcome;

/// Messages that a store has read from a topic's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The offset of the first.
    pub first: u64,
    /// Their number. 0 if none of the requested ones is kept.
    pub messages: u64,
}

/// An idempotency key of a durable topic's publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Identifies the key.
    pub key: u64,
    /// Identifies the content that is published with it.
    pub digest: u64,
    /// The number of the reason why another publication with the key is refused.
    pub reused: u8,
}

/// A store's decision about a publication to a durable topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is refused, for the store's reason of this number.
    Refused(u8),
    /// It was accepted before, at this position.
    Again(Position),
    /// It may be stored.
    Store(Option<IdempotencyKey>),
}

/// The topics of a shard. Those that it owns and those that it follows are kept alike: with a position, a history, and the
/// subscribers of this node, to whom the store delivers.
///
/// An entry is a message as the store encodes it, with all that its subscribers get.
pub trait TopicStore {
    /// The position of a topic that this node owns or follows, or has followed and still keeps.
    fn position(&self, topic: &str) -> Option<Position>;

    /// Begins a topic that this node owns: with the position that it remembers from owning it, or in a new epoch.
    /// Subscribers of a followed epoch are notified of the change.
    ///
    /// # Errors
    /// The number of the reason for which there can be no such topic.
    fn begin(&mut self, topic: &str) -> Result<Position, u8>;

    /// Whether this node may order a topic of another in an epoch of its own while the backbone is away.
    fn has_local_epochs(&self, topic: &str) -> bool;

    /// Begins such an epoch. Subscribers are notified of the change. False if there can be no such topic.
    fn begin_local(&mut self, topic: &str) -> bool;

    /// Gives an owned topic a new epoch without messages, because two nodes have owned it. Subscribers are notified.
    fn renew(&mut self, topic: &str) -> Position;

    /// Decides about a publication to an owned topic, and delivers it.
    fn append(&mut self, topic: &str, entry: &[u8]) -> Outcome;

    /// Whether publications to a topic are accepted once a stream has stored them.
    fn is_durable(&self, topic: &str) -> bool;

    /// Decides about a publication to an owned durable topic. Nothing is delivered.
    fn decide(&mut self, topic: &str, entry: &[u8]) -> Decision;

    /// Takes the next message of an owned durable topic, which its stream has stored, and delivers it. Of a message that the topic has
    /// already, only the idempotency key is of use.
    fn append_stored(&mut self, topic: &str, offset: u64, entry: &[u8]);

    /// Begins to follow a topic after `start`, in another epoch than before or for the first time. Messages up to `head` are
    /// history: only later ones are delivered to present subscribers, who are notified of the new epoch.
    fn follow(&mut self, topic: &str, start: Position, head: u64);

    /// Takes the next message of a followed topic.
    fn deliver(&mut self, topic: &str, offset: u64, entry: &[u8]);

    /// The messages of a followed topic up to `offset` are missing.
    fn skip(&mut self, topic: &str, offset: u64);

    /// The offset of the oldest stored message; the next offset if there is none.
    fn oldest(&self, topic: &str) -> u64;

    /// Appends messages after the offset `after` to a list, at least one and about `bytes_max` bytes. Messages older
    /// than the stored ones are left out.
    fn read(&mut self, topic: &str, after: u64, bytes_max: usize, list: &mut Vec<u8>) -> History;

    /// Appends further data that a follower keeps besides a position and messages, such as the latest message of each
    /// key.
    fn export_latest(&mut self, topic: &str, bytes: &mut Vec<u8>);

    /// The same, and the other data that move with a topic to its next owner, such as idempotency keys.
    fn export_rest(&mut self, topic: &str, bytes: &mut Vec<u8>);

    /// Imports the export of another node's store.
    fn import_rest(&mut self, topic: &str, bytes: &[u8]);

    /// Whether the topic has a member list.
    fn has_presence(&self, topic: &str) -> bool;

    /// A client has joined the topic, at any node, with the subject of its credentials, or has left it; `count` remain.
    /// Subscribers of this node are notified. `is_owner` tells whether this node owns the topic, which tells others of the change:
    /// it may own it only later in the same tick. False, and nothing done, if the list shows that already, or if it has no room.
    fn change_member(
        &mut self,
        topic: &str,
        client: ClientId,
        joined: Option<&str>,
        count: u64,
        is_owner: bool,
    ) -> bool;

    /// The number of members at all nodes, whether they are listed or not.
    fn count_members(&mut self, topic: &str, count: u64);

    /// Appends the members after `after`, in their order, about `bytes_max` bytes of them. Returns the last one if there are more.
    fn read_members(
        &self,
        topic: &str,
        after: Option<ClientId>,
        bytes_max: usize,
        page: &mut Vec<u8>,
    ) -> Option<ClientId>;

    /// Whether the topic is of use to others than this node's subscribers, so that it stays when those have left. Nothing happens if
    /// there is no such topic.
    fn hold(&mut self, topic: &str, is_held: bool);

    /// Forgets a topic, with its position. It has no subscribers on this node.
    fn remove(&mut self, topic: &str);

    /// Takes the position of a topic that this node owned and has forgotten, of one for which `moves` is true.
    fn take_remembered(&mut self, moves: &mut dyn FnMut(&str) -> bool) -> Option<(Box<str>, Position)>;
}
