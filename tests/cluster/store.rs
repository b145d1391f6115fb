//! Topics of one node, as simple as they can be, with subscribers that check what they get.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use echoring_cluster::{Decision, History, IdempotencyKey, NodeId, Outcome, TopicStore, append_entry};
use echoring_proto::random::SplitMix64;
use echoring_topics::{ClientId, Position, append_member};

use super::truth::{Entry, Truth};

/// What a subscriber was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub messages: u64,
    /// Messages that it was told it missed.
    pub missed: u64,
    /// Changes of epochs, after which nobody knows what it missed.
    pub resets: u64,
}

/// A client that subscribes to one topic, and keeps its position wherever it goes.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub topic: String,
    /// The member that it is at its node.
    pub client: ClientId,
    pub position: Option<Position>,
    pub told: Told,
    /// When it was told its epoch.
    pub since: usize,
    truth: Truth,
}

impl Subscriber {
    pub fn new(topic: &str, truth: Truth) -> Subscriber {
        Subscriber {
            topic: topic.into(),
            client: ClientId::default(),
            position: None,
            told: Told::default(),
            since: 0,
            truth,
        }
    }

    /// Gets a message. It may have it already, from another node.
    fn message(&mut self, position: Position, entry: Entry) {
        let own = self.position.expect("a subscriber has a position");
        assert_eq!(own.epoch, position.epoch, "{}: a message of another epoch", self.topic);
        assert_eq!(self.truth.at(&self.topic, position), entry, "{} at {position}", self.topic);
        if position.offset <= own.offset {
            return;
        }
        assert_eq!(
            position.offset,
            own.offset + 1,
            "{}: a message is missing and nobody says so",
            self.topic
        );
        self.position = Some(position);
        self.told.messages += 1;
    }

    fn missed(&mut self, to: u64) {
        let own = self.position.as_mut().expect("a subscriber has a position");
        self.told.missed += to.saturating_sub(own.offset);
        own.offset = own.offset.max(to);
    }

    fn reset(&mut self, head: Position) {
        self.told.resets += u64::from(self.position.is_some());
        self.position = Some(head);
        self.since = self.truth.now();
    }
}

/// Every second topic is.
pub fn is_durable(topic: &str) -> bool {
    topic.ends_with(['1', '3', '5', '7', '9'])
}

#[derive(Debug, Default)]
pub struct Topic {
    pub position: Position,
    history: VecDeque<(u64, Entry)>,
    keys: BTreeMap<u32, u64>,
    /// Messages up to here are no news for present subscribers.
    history_until: u64,
    pub subscribers: Vec<Subscriber>,
    /// The member list, and the number that is told.
    pub members: BTreeSet<ClientId>,
    pub count: u64,
}

#[derive(Debug)]
pub struct Store {
    pub topics: BTreeMap<String, Topic>,
    remembered: BTreeMap<String, Position>,
    epochs: SplitMix64,
    truth: Truth,
    history_max: usize,
    /// Topics that were begun here since the world last looked.
    pub begun: Vec<String>,
    node: NodeId,
}

impl Store {
    pub fn new(node: NodeId, truth: Truth, history_max: usize) -> Store {
        let epochs = SplitMix64::new(node.0);
        Store {
            topics: BTreeMap::new(),
            remembered: BTreeMap::new(),
            epochs,
            truth,
            history_max,
            begun: Vec::new(),
            node,
        }
    }

    fn epoch(&mut self) -> u64 {
        self.epochs.next_u64() >> 16 | 1
    }

    fn topic(&mut self, name: &str) -> &mut Topic {
        self.topics.get_mut(name).expect("a topic that the store has")
    }

    /// A subscriber joins at its position, if it has one.
    pub fn attach(&mut self, mut subscriber: Subscriber) {
        let topic = self.topic(&subscriber.topic.clone());
        let head = topic.position;
        match subscriber.position {
            Some(own) if own.epoch == head.epoch => {
                let first = topic.history.front().map_or(head.offset + 1, |(offset, _)| *offset);
                subscriber.missed(first - 1);
                for (offset, entry) in &topic.history {
                    subscriber.message(Position { offset: *offset, ..head }, *entry);
                }
            }
            _ => subscriber.reset(head),
        }
        topic.subscribers.push(subscriber);
    }

    /// All subscribers of a topic leave.
    pub fn detach_all(&mut self, name: &str) -> Vec<Subscriber> {
        self.topics.get_mut(name).map(|topic| std::mem::take(&mut topic.subscribers)).unwrap_or_default()
    }

    /// Forgets an owned topic that nobody uses, and remembers its position.
    pub fn forget(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.truth.forget_keys(name, topic.position.epoch);
            self.remembered.insert(name.into(), topic.position);
        }
    }

    fn push(&mut self, name: &str, offset: u64, entry: Entry) {
        let history_max = self.history_max;
        let topic = self.topic(name);
        topic.position.offset = offset;
        topic.history.push_back((offset, entry));
        while topic.history.len() > history_max {
            topic.history.pop_front();
        }
        let position = topic.position;
        if offset > topic.history_until {
            topic.subscribers.iter_mut().for_each(|subscriber| subscriber.message(position, entry));
        }
    }

    fn restart(&mut self, name: &str, start: Position, head: u64) {
        // If the node is killed, it may have had the last copy of the epoch's messages.
        self.truth.see(self.node, name, start.epoch);
        let topic = self.topics.entry(name.into()).or_default();
        topic.position = start;
        topic.history.clear();
        topic.keys.clear();
        topic.history_until = head;
        let told = Position { offset: head, ..start };
        topic.subscribers.iter_mut().for_each(|subscriber| subscriber.reset(told));
    }
}

impl TopicStore for Store {
    fn position(&self, topic: &str) -> Option<Position> {
        self.topics.get(topic).map(|topic| topic.position)
    }

    fn begin(&mut self, topic: &str) -> Result<Position, u8> {
        let fresh = Position { epoch: self.epoch(), offset: 0 };
        // What was followed is another node's.
        let start = match self.topics.contains_key(topic) {
            true => fresh,
            false => self.remembered.remove(topic).unwrap_or(fresh),
        };
        self.truth.own(self.node, topic, start.epoch);
        self.restart(topic, start, start.offset);
        self.begun.push(topic.into());
        Ok(start)
    }

    fn has_local_epochs(&self, topic: &str) -> bool {
        topic.ends_with('2')
    }

    fn begin_local(&mut self, topic: &str) -> bool {
        let start = Position { epoch: self.epoch() + 1, offset: 0 };
        self.remembered.remove(topic);
        self.truth.own(self.node, topic, start.epoch);
        self.restart(topic, start, 0);
        true
    }

    fn renew(&mut self, topic: &str) -> Position {
        let start = Position { epoch: self.epoch(), offset: 0 };
        self.truth.own(self.node, topic, start.epoch);
        self.restart(topic, start, 0);
        start
    }

    fn append(&mut self, topic: &str, entry: &[u8]) -> Outcome {
        let entry = Entry::read(entry);
        let Position { epoch, offset } = self.topic(topic).position;
        if let Some(known) = self.topic(topic).keys.get(&entry.key) {
            return Outcome::Accepted(Position { epoch, offset: *known });
        }
        let offset = offset + 1;
        if entry.key != 0 {
            self.topic(topic).keys.insert(entry.key, offset);
        }
        self.truth.order(self.node, topic, Position { epoch, offset }, entry);
        self.push(topic, offset, entry);
        Outcome::Accepted(Position { epoch, offset })
    }

    fn is_durable(&self, topic: &str) -> bool {
        is_durable(topic)
    }

    fn decide(&mut self, topic: &str, entry: &[u8]) -> Decision {
        let Entry { key, .. } = Entry::read(entry);
        let Topic { position, keys, .. } = self.topic(topic);
        match keys.get(&key) {
            Some(offset) => Decision::Again(Position { offset: *offset, ..*position }),
            None => {
                let key = IdempotencyKey { key: key.into(), digest: key.into(), reused: 0 };
                Decision::Store((key.key != 0).then_some(key))
            }
        }
    }

    fn append_stored(&mut self, topic: &str, offset: u64, entry: &[u8]) {
        let entry = Entry::read(entry);
        let Position { epoch, offset: reached } = self.topic(topic).position;
        if entry.key != 0 {
            self.topic(topic).keys.insert(entry.key, offset);
        }
        self.truth.take_stored(self.node, topic, Position { epoch, offset }, entry);
        if offset > reached {
            assert_eq!(offset, reached + 1);
            self.push(topic, offset, entry);
        }
    }

    fn follow(&mut self, topic: &str, start: Position, head: u64) {
        self.remembered.remove(topic);
        self.restart(topic, start, head);
    }

    fn deliver(&mut self, topic: &str, offset: u64, entry: &[u8]) {
        assert_eq!(offset, self.topic(topic).position.offset + 1);
        self.push(topic, offset, Entry::read(entry));
    }

    fn skip(&mut self, name: &str, offset: u64) {
        let topic = self.topic(name);
        topic.position.offset = offset;
        topic.history.clear();
        topic.subscribers.iter_mut().for_each(|subscriber| subscriber.missed(offset));
    }

    fn oldest(&self, topic: &str) -> u64 {
        let Some(topic) = self.topics.get(topic) else { return 1 };
        topic.history.front().map_or(topic.position.offset + 1, |(offset, _)| *offset)
    }

    fn read(&mut self, topic: &str, after: u64, bytes_max: usize, list: &mut Vec<u8>) -> History {
        let mut read = History { first: 0, messages: 0 };
        for (offset, entry) in self.topic(topic).history.iter().filter(|(offset, _)| *offset > after) {
            if read.messages == 0 {
                read.first = *offset;
            } else if list.len() >= bytes_max {
                break;
            }
            append_entry(list, &entry.to_bytes());
            read.messages += 1;
        }
        read
    }

    fn export_latest(&mut self, _: &str, _: &mut Vec<u8>) {}

    fn export_rest(&mut self, topic: &str, bytes: &mut Vec<u8>) {
        for (key, offset) in &self.topic(topic).keys {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
    }

    fn import_rest(&mut self, topic: &str, bytes: &[u8]) {
        for known in bytes.chunks_exact(12) {
            let key = u32::from_le_bytes(known[..4].try_into().expect("four bytes"));
            let offset = u64::from_le_bytes(known[4..].try_into().expect("eight bytes"));
            self.topic(topic).keys.insert(key, offset);
        }
    }

    fn has_presence(&self, topic: &str) -> bool {
        // One without, as most topics are.
        topic != "topic.1"
    }

    fn change_member(
        &mut self,
        name: &str,
        client: ClientId,
        joined: Option<&str>,
        count: u64,
        _: bool,
    ) -> bool {
        let truth = self.truth.clone();
        let topic = self.topic(name);
        let has_changed = match joined {
            Some(subject) => {
                assert_eq!(subject, subject_of(client), "{name}: {client:?}");
                topic.members.insert(client)
            }
            None => topic.members.remove(&client),
        };
        if has_changed {
            topic.count = count;
            if !topic.subscribers.is_empty() {
                truth.tell_member(name, client, joined.is_some());
            }
        }
        has_changed
    }

    fn count_members(&mut self, topic: &str, count: u64) {
        self.topic(topic).count = count;
    }

    fn read_members(
        &self,
        topic: &str,
        after: Option<ClientId>,
        bytes_max: usize,
        page: &mut Vec<u8>,
    ) -> Option<ClientId> {
        // Pages are short, so that lists have several.
        let most = 2;
        assert!(bytes_max > most * (size_of::<ClientId>() + 20));
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.topics[topic].members.range((first, Bound::Unbounded)).peekable();
        let mut last = None;
        for client in rest.by_ref().take(most) {
            append_member(page, *client, &subject_of(*client));
            last = Some(*client);
        }
        last.filter(|_| rest.peek().is_some())
    }

    fn hold(&mut self, _: &str, _: bool) {
        // The world has it forget only topics that are of no use.
    }

    fn remove(&mut self, topic: &str) {
        let removed = self.topics.remove(topic);
        let subscribers = removed.map_or(0, |topic| topic.subscribers.len());
        assert_eq!(subscribers, 0, "{topic} has subscribers");
    }

    fn take_remembered(&mut self, moves: &mut dyn FnMut(&str) -> bool) -> Option<(Box<str>, Position)> {
        let name = self.remembered.keys().find(|name| moves(name)).cloned()?;
        self.remembered.remove(&name).map(|position| (name.into(), position))
    }
}

/// The subject of a client's credentials. Some have none.
pub fn subject_of(client: ClientId) -> String {
    if client.number.is_multiple_of(3) { String::new() } else { format!("subject-{}", client.number) }
}
