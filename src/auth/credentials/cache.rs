//! Cached decisions, keyed by digests of their inputs.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::credentials::secret::Digest;

/// A bounded map whose entries expire. When it is full, the oldest entry goes.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    entries: BTreeMap<Digest, Remembered<T>>,
    /// Digests in the order of their insertion, each at most once.
    order: VecDeque<Digest>,
    entries_max: usize,
    /// Bytes that the values hold.
    bytes: usize,
    bytes_max: usize,
    ttl: Duration,
}

#[derive(Debug)]
struct Remembered<T> {
    until: Instant,
    value: T,
    bytes: usize,
}

impl<T: Clone> Cache<T> {
    /// A cache that keeps entries for `ttl`; zero keeps none.
    pub(crate) fn new(ttl: Duration, entries_max: usize, bytes_max: usize) -> Cache<T> {
        Cache { entries: BTreeMap::new(), order: VecDeque::new(), entries_max, bytes: 0, bytes_max, ttl }
    }

    pub(crate) fn get(&self, key: &Digest, now: Instant) -> Option<T> {
        self.entries.get(key).filter(|known| known.until > now).map(|known| known.value.clone())
    }

    /// Remembers a value that holds `bytes`.
    pub(crate) fn insert(&mut self, key: Digest, value: T, bytes: usize, now: Instant) {
        if self.ttl.is_zero() || self.entries_max == 0 {
            return;
        }
        if self.remove(&key) {
            self.order.retain(|other| *other != key);
        }
        self.bytes += bytes;
        self.entries.insert(key, Remembered { until: now + self.ttl, value, bytes });
        self.order.push_back(key);
        while (self.order.len() > self.entries_max || self.bytes > self.bytes_max)
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(&oldest);
        }
        // All entries live equally long, so the expired ones are in front.
        while let Some(oldest) = self.order.front()
            && self.entries.get(oldest).is_none_or(|known| known.until <= now)
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Digest) -> bool {
        let removed = self.entries.remove(key);
        self.bytes -= removed.as_ref().map_or(0, |known| known.bytes);
        removed.is_some()
    }

    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u8) -> Digest {
        [number; 32]
    }

    #[test]
    fn entries_expire_and_their_number_is_bounded() {
        let start = Instant::now();
        let mut cache = Cache::new(10 * SECOND, 3, 100);
        for number in 0..4 {
            cache.insert(key(number), number, 1, start);
        }
        assert_eq!(
            [0, 1, 2, 3].map(|number| cache.get(&key(number), start)),
            [None, Some(1), Some(2), Some(3)]
        );
        let later = start + 10 * SECOND;
        assert_eq!(cache.get(&key(3), later), None);
        cache.insert(key(9), 9, 1, later);
        assert_eq!((cache.get(&key(9), later), cache.len()), (Some(9), (1, 1)));
    }

    #[test]
    fn an_entry_that_is_decided_again_lives_on() {
        let start = Instant::now();
        let mut cache = Cache::new(10 * SECOND, 2, 100);
        cache.insert(key(1), 1, 1, start);
        cache.insert(key(2), 2, 1, start + SECOND);
        cache.insert(key(1), 3, 1, start + 5 * SECOND);
        cache.insert(key(3), 4, 1, start + 6 * SECOND);
        assert_eq!(cache.get(&key(1), start + 12 * SECOND), Some(3));
        assert_eq!((cache.get(&key(2), start + 7 * SECOND), cache.len()), (None, (2, 2)));
    }

    #[test]
    fn without_a_time_to_live_nothing_is_kept() {
        let mut cache = Cache::new(Duration::ZERO, 3, 100);
        cache.insert(key(1), 1, 1, Instant::now());
        assert_eq!(cache.len(), (0, 0));
    }

    #[test]
    fn what_the_values_hold_is_bounded_too() {
        let (mut cache, now) = (Cache::new(10 * SECOND, 9, 100), Instant::now());
        for number in 1..=3 {
            cache.insert(key(number), number, 40, now);
        }
        assert_eq!([1, 2, 3].map(|number| cache.get(&key(number), now)), [None, Some(2), Some(3)]);
        cache.insert(key(3), 4, 60, now);
        assert_eq!((cache.len(), cache.bytes), ((2, 2), 100));
        cache.insert(key(5), 5, 101, now);
        assert_eq!((cache.len(), cache.bytes), ((0, 0), 0), "more than all may hold");
    }
}
