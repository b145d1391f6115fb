//! What all nodes and clients must agree on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use echoring_cluster::NodeId;
use echoring_topics::{ClientId, Position};

/// A publication: its publisher, the publisher's number for it, and its idempotency key, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub publisher: u32,
    pub number: u32,
    pub key: u32,
}

impl Entry {
    /// Whether it is the same publication, perhaps sent again.
    pub fn is_same(self, other: Entry) -> bool {
        match self.key {
            0 => self == other,
            key => key == other.key,
        }
    }

    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.publisher.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.key.to_le_bytes());
        bytes
    }

    pub fn read(bytes: &[u8]) -> Entry {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Entry { publisher: number(0), number: number(4), key: number(8) }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// What each position is, of each topic.
    messages: BTreeMap<(String, Position), Entry>,
    published: BTreeSet<Entry>,
    /// The idempotency keys that have been used in each epoch of each topic, and that nodes must know.
    keys: BTreeSet<(String, u64, u32)>,
    /// The latest number of each publisher in each epoch of each topic.
    latest: BTreeMap<(String, u64, u32), u32>,
    /// All messages as they were ordered in time: their topic, their epoch and the node.
    history: Vec<(String, u64, NodeId)>,
    /// The epochs of each topic that each node has had.
    seen: BTreeMap<(NodeId, String), BTreeSet<u64>>,
    /// Those that each node has ordered, or was told of by one that had: it must tell others that they have had messages.
    told: BTreeMap<(NodeId, String), BTreeSet<u64>>,
    /// Nodes that have taken what they knew with them, and the epochs of the topics that they had.
    dead: BTreeSet<NodeId>,
    dead_epochs: BTreeSet<u64>,
    /// The clients that are there, of each topic with presence.
    members: BTreeMap<String, BTreeSet<ClientId>>,
    /// How often subscribers were told that one had left which was there.
    false_leaves: u64,
}

/// Shared by all nodes and clients of a world.
#[derive(Clone, Debug, Default)]
pub struct Truth(Rc<RefCell<Known>>);

impl Truth {
    /// An owner gave a message its position.
    pub fn order(&self, node: NodeId, topic: &str, position: Position, entry: Entry) {
        let Known { messages, published, keys, latest, history, .. } = &mut *self.0.borrow_mut();
        history.push((topic.into(), position.epoch, node));
        let before = messages.insert((topic.into(), position), entry);
        assert_eq!(before, None, "{topic} has two messages at {position}: the other is {entry:?}");
        assert!(published.insert(entry), "{entry:?} was published twice");
        let is_new = entry.key == 0 || keys.insert((topic.into(), position.epoch, entry.key));
        assert!(is_new, "{entry:?} was published twice in epoch {}", position.epoch);
        let latest = latest.entry((topic.into(), position.epoch, entry.publisher)).or_default();
        assert!(
            *latest < entry.number,
            "{topic} at {position}: {entry:?} was ordered after number {latest} of its publisher"
        );
        *latest = entry.number;
    }

    /// The stream of a durable topic has a message, which a node takes. Returns whether the message is known already.
    pub fn take_stored(&self, node: NodeId, topic: &str, position: Position, entry: Entry) {
        let known = self.0.borrow().messages.get(&(topic.into(), position)).copied();
        if let Some(known) = known {
            assert_eq!(known, entry, "{topic} has two messages at {position}");
            return;
        }
        let has_other = self
            .0
            .borrow()
            .messages
            .keys()
            .any(|(name, other)| name == topic && other.epoch != position.epoch);
        assert!(!has_other, "{topic} is durable and has messages in two epochs");
        self.order(node, topic, position, entry);
    }

    /// The number of messages of a topic.
    pub fn messages(&self, topic: &str) -> u64 {
        self.0.borrow().messages.keys().filter(|(name, _)| name == topic).count() as u64
    }

    /// A node forgets a topic, and its idempotency keys.
    pub fn forget_keys(&self, topic: &str, epoch: u64) {
        self.0.borrow_mut().keys.retain(|(name, other, _)| name != topic || *other != epoch);
    }

    /// The message at a position.
    pub fn at(&self, topic: &str, position: Position) -> Entry {
        *self.0.borrow().messages.get(&(topic.into(), position)).expect("a message that was ordered")
    }

    /// A client subscribes to a topic from now on, or no longer.
    pub fn set_member(&self, topic: &str, client: ClientId, is_there: bool) {
        let members = &mut self.0.borrow_mut().members;
        let of_topic = members.entry(topic.into()).or_default();
        if is_there {
            of_topic.insert(client)
        } else {
            of_topic.remove(&client)
        };
    }

    /// Subscribers are told that a client has joined or left.
    pub fn tell_member(&self, topic: &str, client: ClientId, has_joined: bool) {
        let Known { members, false_leaves, .. } = &mut *self.0.borrow_mut();
        let is_there = members.get(topic).is_some_and(|members| members.contains(&client));
        *false_leaves += u64::from(!has_joined && is_there);
    }

    pub fn members(&self, topic: &str) -> BTreeSet<ClientId> {
        self.0.borrow().members.get(topic).cloned().unwrap_or_default()
    }

    pub fn false_leaves(&self) -> u64 {
        self.0.borrow().false_leaves
    }

    /// A time: messages that are ordered from now on come after it.
    pub fn now(&self) -> usize {
        self.0.borrow().history.len()
    }

    /// A node has been killed. Nobody knows any more what it has ordered and not passed on, nor what was passed on to it.
    pub fn kill(&self, node: NodeId) {
        let Known { seen, told, dead, dead_epochs, .. } = &mut *self.0.borrow_mut();
        dead.insert(node);
        let of_node = seen.iter().chain(&*told).filter(|((other, _), _)| *other == node);
        dead_epochs.extend(of_node.flat_map(|(_, epochs)| epochs));
    }

    /// A node has a topic in an epoch.
    pub fn see(&self, node: NodeId, topic: &str, epoch: u64) {
        self.0.borrow_mut().seen.entry((node, topic.into())).or_default().insert(epoch);
    }

    /// A node orders a topic in an epoch.
    pub fn own(&self, node: NodeId, topic: &str, epoch: u64) {
        self.0.borrow_mut().told.entry((node, topic.into())).or_default().insert(epoch);
    }

    /// A node is given a topic by another, or told of it: from now on it is the one that must tell others.
    pub fn tell(&self, from: NodeId, to: NodeId, topic: &str) {
        let told = &mut self.0.borrow_mut().told;
        let epochs = told.get(&(from, topic.into())).cloned().unwrap_or_default();
        told.entry((to, topic.into())).or_default().extend(epochs);
    }

    /// Whether a topic has had messages in other epochs than `epoch` since a time.
    pub fn has_others_since(&self, topic: &str, epoch: u64, since: usize) -> bool {
        let Known { history, dead, dead_epochs, .. } = &*self.0.borrow();
        let is_other = |(name, other, node): &(String, u64, NodeId)| {
            let is_lost = dead.contains(node) || dead_epochs.contains(other);
            name == topic && *other != epoch && !is_lost
        };
        history[since..].iter().any(is_other)
    }

    pub fn is_published(&self, entry: Entry) -> bool {
        self.0.borrow().published.contains(&entry)
    }
}
