//! Idempotency keys of a topic: they identify a retried publication.
//!
//! Never: an unbounded number of keys, or a key that is kept longer than [`IDEMPOTENCY_WINDOW`].

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use crate::limits::{IDEMPOTENCY_KEYS_PER_TOPIC_MAX, IDEMPOTENCY_WINDOW};
use crate::message::Publication;
use echoring_proto::buffer::{Pool, allocated_bytes};
use echoring_proto::limits::Nanos;

/// Bytes per key besides its text: twice its entries in the map and in the queue, which may be half empty, and its
/// entry among all keys of the shard.
const ENTRY_BYTES: usize = 2 * (size_of::<(Arc<str>, Known)>() + size_of::<(Nanos, Arc<str>)>()) + 48;

/// Bytes of the reference counts before a key.
const SHARED_BYTES: usize = 2 * size_of::<usize>();

/// The publication of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) offset: u64,
    /// Of the publication.
    pub(crate) digest: u64,
    pub(crate) at: Nanos,
}

/// A hash of the publication: the same key with another message is an error, not a retry.
pub(crate) fn digest(seed: u64, publication: &Publication<'_>) -> u64 {
    // A client that tries again may have another connection: its author is another.
    let Publication { key, payload, tags, .. } = publication;
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    hasher.write_u8(publication.head());
    hasher.write_usize(key.len());
    hasher.write(key.as_bytes());
    hasher.write(tags.as_bytes());
    hasher.write(payload);
    hasher.finish()
}

/// Keys in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    known: BTreeMap<Arc<str>, Known>,
    order: VecDeque<(Nanos, Arc<str>)>,
}

fn bytes_of(key: &str) -> usize {
    allocated_bytes(SHARED_BYTES + key.len()) + ENTRY_BYTES
}

impl Keys {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The publication of the key, unless its window has ended.
    pub(crate) fn find(&self, key: &str, now: Nanos) -> Option<Known> {
        self.known.get(key).copied().filter(|known| now < known.at + IDEMPOTENCY_WINDOW)
    }

    /// The keys in the order of their arrival, without the first `skipped`.
    pub(crate) fn from(&self, skipped: usize) -> impl Iterator<Item = (&str, Known)> {
        let order = self.order.iter().skip(skipped);
        order.filter_map(|(_, key)| Some((&**key, *self.known.get(key)?)))
    }

    /// Stores a key, evicting the oldest if there are too many. False, with nothing stored, if there is no memory for
    /// it.
    pub(crate) fn keep(&mut self, key: &str, known: Known, pool: &mut Pool) -> bool {
        // A key that has expired and was not looked up since.
        if self.known.contains_key(key) {
            self.forget_until(known.at.saturating_sub(IDEMPOTENCY_WINDOW), pool);
        }
        while self.order.len() >= IDEMPOTENCY_KEYS_PER_TOPIC_MAX {
            self.forget_oldest(pool);
        }
        if !pool.charge_retained(bytes_of(key)) {
            return false;
        }
        let key: Arc<str> = key.into();
        self.known.insert(Arc::clone(&key), known);
        self.order.push_back((known.at, key));
        true
    }

    /// Removes the key that was stored last.
    pub(crate) fn forget_latest(&mut self, pool: &mut Pool) {
        if let Some((_, key)) = self.order.pop_back() {
            self.forget(&key, pool);
        }
    }

    /// Removes keys that arrived at `until` or earlier.
    pub(crate) fn forget_until(&mut self, until: Nanos, pool: &mut Pool) {
        while self.order.front().is_some_and(|(at, _)| *at <= until) {
            self.forget_oldest(pool);
        }
    }

    /// Removes the oldest key if it arrived at `until` or earlier.
    pub(crate) fn forget_one_until(&mut self, until: Nanos, pool: &mut Pool) {
        if self.order.front().is_some_and(|(at, _)| *at <= until) {
            self.forget_oldest(pool);
        }
    }

    fn forget_oldest(&mut self, pool: &mut Pool) {
        if let Some((_, key)) = self.order.pop_front() {
            self.forget(&key, pool);
        }
    }

    fn forget(&mut self, key: &str, pool: &mut Pool) {
        self.known.remove(key);
        pool.discharge_history(bytes_of(key));
    }

    /// Removes everything and returns the memory.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.forget_until(Nanos::MAX, pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::buffer::Budget;

    #[test]
    fn a_key_is_known_for_its_window_and_no_longer() {
        let (mut pool, mut keys) = (Pool::standalone(), Keys::default());
        assert!(keys.keep("a", Known { offset: 1, digest: 7, at: 10 }, &mut pool));
        let known = keys.find("a", 10 + IDEMPOTENCY_WINDOW - 1).expect("known");
        assert_eq!((known.offset, known.digest), (1, 7));
        assert_eq!(keys.find("b", 10), None);
        assert_eq!(keys.find("a", 10 + IDEMPOTENCY_WINDOW), None);
        assert!(keys.keep("a", Known { offset: 2, digest: 8, at: 10 + IDEMPOTENCY_WINDOW }, &mut pool));
        assert_eq!(keys.find("a", 10 + IDEMPOTENCY_WINDOW).map(|known| known.offset), Some(2));
        keys.release(&mut pool);
        assert!(keys.is_empty());
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn past_the_bound_the_oldest_are_forgotten() {
        let (mut pool, mut keys) = (Pool::standalone(), Keys::default());
        for at in 0..IDEMPOTENCY_KEYS_PER_TOPIC_MAX as u64 + 10 {
            assert!(keys.keep(&at.to_string(), Known { offset: at, digest: 0, at }, &mut pool));
        }
        let known = |key: u64| keys.find(&key.to_string(), 20_000).is_some();
        assert!(!known(0) && !known(9) && known(10) && known(IDEMPOTENCY_KEYS_PER_TOPIC_MAX as u64 + 9));
        let used = pool.used_bytes();
        keys.forget_latest(&mut pool);
        assert!(pool.used_bytes() < used);
        keys.release(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn without_memory_nothing_is_remembered() {
        let (mut pool, mut keys) = (Pool::new(Budget::new(100)), Keys::default());
        assert!(!keys.keep("a", Known { offset: 1, digest: 7, at: 10 }, &mut pool));
        assert!(keys.is_empty() && keys.find("a", 10).is_none());
    }

    #[test]
    fn another_message_has_another_digest() {
        use crate::Content;
        let of = |content, key, payload: &[u8]| digest(1, &Publication::new(content, key, payload));
        let one = of(Content::Json, "k", b"1");
        assert_eq!(one, of(Content::Json, "k", b"1"));
        for other in
            [of(Content::Text, "k", b"1"), of(Content::Json, "k1", b""), of(Content::Json, "k", b"2")]
        {
            assert_ne!(one, other);
        }
    }
}
