//! The latest message of each key of a topic, for slow consumers of a conflated topic.

use std::collections::BTreeMap;

use crate::message::{Keeping, Publication};
use echoring_proto::buffer::{Pool, allocated_bytes};
use echoring_proto::limits::Nanos;

/// No entry.
const NONE: u32 = u32::MAX;

/// The latest message of each key, in the order of their offsets. A message of a known key replaces the previous one
/// and uses its memory.
#[derive(Debug)]
pub struct Keyed {
    by_key: BTreeMap<Box<str>, u32>,
    entries: Vec<KeyEntry>,
    /// Indices of the oldest message and of the latest.
    oldest: u32,
    newest: u32,
    charged_bytes: usize,
}

#[derive(Debug)]
struct KeyEntry {
    key: Box<str>,
    offset: u64,
    received_at: Nanos,
    /// The head and the body of the message.
    head: u8,
    body: Vec<u8>,
    older: u32,
    newer: u32,
}

impl Default for Keyed {
    fn default() -> Keyed {
        Keyed { by_key: BTreeMap::new(), entries: Vec::new(), oldest: NONE, newest: NONE, charged_bytes: 0 }
    }
}

impl Keyed {
    /// Stores the message `offset`, the latest of all, which was received at `received_at`. False if there is no memory for it: its key then keeps its
    /// previous message, if any.
    pub fn keep(
        &mut self,
        pool: &mut Pool,
        offset: u64,
        received_at: Nanos,
        publication: &Publication<'_>,
    ) -> bool {
        // The latest message of its key is there, whether the history has it or not.
        let publication = Publication { keeping: Keeping::Kept, ..*publication };
        let (head, key, parts) = (publication.head(), publication.key, publication.body());
        let length = publication.bytes() - key.len();
        let known = self.by_key.get(key).copied();
        let has = known.map_or(0, |at| self.entries[at as usize].body.capacity());
        let more = match known {
            // The list of entries doubles, and the tree has nodes that are not full.
            None => 2 * (allocated_bytes(key.len()) + size_of::<KeyEntry>()) + allocated_bytes(length),
            Some(_) if length > has => allocated_bytes(length) - allocated_bytes(has),
            Some(_) => 0,
        };
        if more > 0 && !pool.charge_retained(more) {
            return false;
        }
        self.charged_bytes += more;
        let at = match known {
            Some(at) => {
                self.unlink(at);
                at
            }
            None => {
                let at = self.entries.len() as u32;
                let (body, key) = (Vec::new(), Box::from(key));
                let (older, newer) = (NONE, NONE);
                self.entries.push(KeyEntry { key, offset, received_at, head, body, older, newer });
                self.by_key.insert(self.entries[at as usize].key.clone(), at);
                at
            }
        };
        let newest = std::mem::replace(&mut self.newest, at);
        let entry = &mut self.entries[at as usize];
        (entry.offset, entry.received_at, entry.head) = (offset, received_at, head);
        if entry.body.capacity() < length {
            // Replaces the smaller one.
            entry.body = Vec::new();
            entry.body.reserve_exact(allocated_bytes(length));
        }
        entry.body.clear();
        parts.iter().for_each(|part| entry.body.extend_from_slice(part));
        (entry.older, entry.newer) = (newest, NONE);
        match self.entries.get_mut(newest as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
        true
    }

    /// The offset of the latest message; 0 if there is none.
    pub(crate) fn newest_offset(&self) -> u64 {
        self.entries.get(self.newest as usize).map_or(0, |entry| entry.offset)
    }

    /// When the message `offset`, one of the latest of their keys, was received.
    pub fn received_at(&self, offset: u64) -> Nanos {
        self.entries.iter().find(|entry| entry.offset == offset).map_or(0, |entry| entry.received_at)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the key exists.
    pub fn contains(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    fn unlink(&mut self, at: u32) {
        let KeyEntry { older, newer, .. } = self.entries[at as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    /// The latest messages of their keys after `offset`, in order.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = (u64, Publication<'_>)> {
        let mut first = NONE;
        let mut at = self.newest;
        while let Some(entry) = self.entries.get(at as usize).filter(|entry| entry.offset > offset) {
            first = at;
            at = entry.older;
        }
        let mut next = first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.newer;
            let KeyEntry { key, head, body, offset, .. } = entry;
            Some((*offset, Publication::read(*head, key, body)?))
        })
    }

    /// Removes everything and returns the memory.
    pub fn release(&mut self, pool: &mut Pool) {
        pool.discharge_history(self.charged_bytes);
        *self = Keyed::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientId, Profile};
    use crate::message::{Author, Content, Tags};

    fn keep(keyed: &mut Keyed, pool: &mut Pool, offset: u64, key: &str, payload: &[u8]) -> bool {
        keyed.keep(pool, offset, 0, &Publication::new(Content::Text, key, payload))
    }

    fn after(keyed: &Keyed, offset: u64) -> Vec<(u64, String)> {
        keyed
            .after(offset)
            .map(|(offset, publication)| {
                let payload = String::from_utf8_lossy(publication.payload);
                (offset, format!("{}={payload}", publication.key))
            })
            .collect()
    }

    #[test]
    fn of_each_key_there_is_the_latest_in_the_order_of_offsets() {
        let (mut pool, mut keyed) = (Pool::standalone(), Keyed::default());
        for (offset, key) in [(1, "a"), (2, "b"), (3, "c"), (5, "b"), (6, "a"), (9, "d"), (10, "d")] {
            assert!(keep(&mut keyed, &mut pool, offset, key, offset.to_string().as_bytes()));
        }
        let all = [(3, "c=3"), (5, "b=5"), (6, "a=6"), (10, "d=10")].map(|(at, said)| (at, said.to_owned()));
        for offset in 0..12 {
            let expected: Vec<_> = all.iter().filter(|(at, _)| *at > offset).cloned().collect();
            assert_eq!(after(&keyed, offset), expected, "behind {offset}");
        }
        keyed.release(&mut pool);
        assert_eq!((after(&keyed, 0).len(), pool.used_bytes()), (0, 0));
    }

    #[test]
    fn the_latest_message_keeps_its_author_and_its_tags() {
        let (mut pool, mut keyed) = (Pool::standalone(), Keyed::default());
        let author = Author::encode(ClientId::local(7), Profile("alice"));
        let tags = Tags::encode([("a", "b")].into_iter()).expect("short");
        let plain = Publication::new(Content::Text, "a", b"payload");
        let named = Publication { author: Author::new(&author), ..plain };
        let tagged = Publication { tags: Tags::new(&tags), ..plain };
        let both = Publication { tags: Tags::new(&tags), ..named };
        for (offset, publication) in (1..).zip([both, tagged, named, plain, both]) {
            assert!(keyed.keep(&mut pool, offset, 0, &publication));
            assert_eq!(keyed.after(0).collect::<Vec<_>>(), [(offset, publication)]);
        }
        // A snapshot has the latest message of each key, also one that the history skips.
        let skipped = Publication { keeping: Keeping::Skipped, ..tagged };
        assert!(keyed.keep(&mut pool, 9, 0, &skipped));
        assert_eq!(keyed.after(0).collect::<Vec<_>>(), [(9, tagged)]);
    }

    #[test]
    fn memory_grows_with_keys_and_not_with_messages() {
        let (mut pool, mut keyed) = (Pool::standalone(), Keyed::default());
        for offset in 1..10 {
            keep(&mut keyed, &mut pool, offset, &format!("k{}", offset % 3), &[0; 100]);
        }
        let used = pool.used_bytes();
        for offset in 10..1_000 {
            keep(&mut keyed, &mut pool, offset, &format!("k{}", offset % 3), &[0; 90]);
        }
        assert_eq!(pool.used_bytes(), used);
    }

    #[test]
    fn without_memory_what_was_known_stays() {
        let (mut pool, mut keyed) = (Pool::new(echoring_proto::buffer::Budget::new(1_000)), Keyed::default());
        assert!(keep(&mut keyed, &mut pool, 1, "a", b"old"));
        assert!(!keep(&mut keyed, &mut pool, 2, "a", &[b'x'; 2_000]));
        assert!(!keep(&mut keyed, &mut pool, 3, "b", &[b'x'; 2_000]));
        assert_eq!(after(&keyed, 0), [(1, "a=old".to_owned())]);
    }
}
