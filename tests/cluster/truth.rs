//! What all nodes and clients must agree on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use echoring_topics::Position;

/// A publication: its publisher, the publisher's number for it, and its idempotency key, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub publisher: u32,
    pub number: u32,
    pub key: u32,
}

impl Entry {
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
    /// The latest number of each publisher in each epoch of each topic.
    latest: BTreeMap<(String, u64, u32), u32>,
}

/// Shared by all nodes and clients of a world.
#[derive(Clone, Debug, Default)]
pub struct Truth(Rc<RefCell<Known>>);

impl Truth {
    /// An owner gave a message its position.
    pub fn order(&self, topic: &str, position: Position, entry: Entry) {
        let Known { messages, published, latest } = &mut *self.0.borrow_mut();
        let before = messages.insert((topic.into(), position), entry);
        assert_eq!(before, None, "{topic} has two messages at {position}: the other is {entry:?}");
        assert!(published.insert(entry), "{entry:?} was published twice");
        let latest = latest.entry((topic.into(), position.epoch, entry.publisher)).or_default();
        assert!(*latest < entry.number, "{entry:?} was ordered after number {latest} of its publisher");
        *latest = entry.number;
    }

    /// The message at a position.
    pub fn at(&self, topic: &str, position: Position) -> Entry {
        *self.0.borrow().messages.get(&(topic.into(), position)).expect("a message that was ordered")
    }

    pub fn is_published(&self, entry: Entry) -> bool {
        self.0.borrow().published.contains(&entry)
    }
}
