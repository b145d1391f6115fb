//! The topics of a node of the tests: kept in memory, and reported to the test.

use std::collections::{BTreeMap, VecDeque};

use echoring_cluster::{Decision, History, NodeId, Outcome, TopicStore, append_entry};
use echoring_proto::random::SplitMix64;
use echoring_topics::{ClientId, Position};

/// Messages that a topic keeps.
const HISTORY_MAX: usize = 100_000;

/// A message that a node has, in the order in which the node got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: String,
    pub position: Position,
    pub entry: Vec<u8>,
}

#[derive(Debug, Default)]
struct Topic {
    position: Position,
    history: VecDeque<(u64, Vec<u8>)>,
}

#[derive(Debug)]
pub struct Store {
    topics: BTreeMap<String, Topic>,
    epochs: SplitMix64,
    /// What no test has been told yet.
    pub delivered: Vec<Delivered>,
}

impl Store {
    pub fn new(node: NodeId) -> Store {
        Store { topics: BTreeMap::new(), epochs: SplitMix64::new(node.0), delivered: Vec::new() }
    }

    fn topic(&mut self, name: &str) -> &mut Topic {
        self.topics.get_mut(name).expect("a topic that the store has")
    }

    fn restart(&mut self, name: &str, position: Position) {
        self.topics.insert(name.into(), Topic { position, history: VecDeque::new() });
    }

    fn push(&mut self, name: &str, offset: u64, entry: &[u8]) {
        let topic = self.topic(name);
        topic.position.offset = offset;
        topic.history.push_back((offset, entry.to_vec()));
        if topic.history.len() > HISTORY_MAX {
            topic.history.pop_front();
        }
        let position = topic.position;
        self.delivered.push(Delivered { topic: name.into(), position, entry: entry.to_vec() });
    }
}

impl TopicStore for Store {
    fn position(&self, topic: &str) -> Option<Position> {
        self.topics.get(topic).map(|topic| topic.position)
    }

    fn has_local_epochs(&self, _: &str) -> bool {
        false
    }

    fn begin_local(&mut self, _: &str) -> bool {
        false
    }

    fn is_durable(&self, _: &str) -> bool {
        false
    }

    fn decide(&mut self, _: &str, _: &[u8]) -> Decision {
        unreachable!("no topic is durable here")
    }

    fn append_stored(&mut self, _: &str, _: u64, _: &[u8]) {
        unreachable!("no topic is durable here")
    }

    fn begin(&mut self, topic: &str) -> Result<Position, u8> {
        let start = Position { epoch: self.epochs.next_u64() >> 16 | 1, offset: 0 };
        self.restart(topic, start);
        Ok(start)
    }

    fn renew(&mut self, topic: &str) -> Position {
        let start = Position { epoch: self.epochs.next_u64() >> 16 | 1, offset: 0 };
        self.restart(topic, start);
        start
    }

    fn append(&mut self, topic: &str, entry: &[u8]) -> Outcome {
        let Position { epoch, offset } = self.topic(topic).position;
        self.push(topic, offset + 1, entry);
        Outcome::Accepted(Position { epoch, offset: offset + 1 })
    }

    fn follow(&mut self, topic: &str, start: Position, _head: u64) {
        self.restart(topic, start);
    }

    fn deliver(&mut self, topic: &str, offset: u64, entry: &[u8]) {
        assert_eq!(offset, self.topic(topic).position.offset + 1, "a message is missing and nobody says so");
        self.push(topic, offset, entry);
    }

    fn skip(&mut self, topic: &str, offset: u64) {
        let topic = self.topic(topic);
        topic.position.offset = offset;
        topic.history.clear();
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
            append_entry(list, entry);
            read.messages += 1;
        }
        read
    }

    fn export_latest(&mut self, _topic: &str, _bytes: &mut Vec<u8>) {}

    fn export_rest(&mut self, _topic: &str, _bytes: &mut Vec<u8>) {}

    fn import_rest(&mut self, _topic: &str, _bytes: &[u8]) {}

    fn has_presence(&self, _: &str) -> bool {
        false
    }

    fn change_member(&mut self, topic: &str, _: ClientId, _: Option<&str>, _: u64, _: bool) -> bool {
        panic!("{topic} has no members");
    }

    fn count_members(&mut self, topic: &str, _: u64) {
        panic!("{topic} has no members");
    }

    fn read_members(&self, topic: &str, _: Option<ClientId>, _: usize, _: &mut Vec<u8>) -> Option<ClientId> {
        panic!("{topic} has no members");
    }

    fn hold(&mut self, _topic: &str, _is_held: bool) {}

    fn remove(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    fn take_remembered(&mut self, _moves: &mut dyn FnMut(&str) -> bool) -> Option<(Box<str>, Position)> {
        None
    }
}
