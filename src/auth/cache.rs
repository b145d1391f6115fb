//! Decisions that are remembered for a while, by the digests of what was decided about.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::secret::Digest;

/// A bounded map whose entries expire. When it is full, the oldest entry goes.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    entries: BTreeMap<Digest, (Instant, T)>,
    /// Digests in the order of their insertion, each at most once.
    order: VecDeque<Digest>,
    entries_max: usize,
    ttl: Duration,
}

impl<T: Clone> Cache<T> {
    /// A cache that keeps entries for `ttl`; zero keeps none.
    pub(crate) fn new(ttl: Duration, entries_max: usize) -> Cache<T> {
        Cache { entries: BTreeMap::new(), order: VecDeque::new(), entries_max, ttl }
    }

    pub(crate) fn get(&self, key: &Digest, now: Instant) -> Option<T> {
        self.entries.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.clone())
    }

    pub(crate) fn insert(&mut self, key: Digest, value: T, now: Instant) {
        if self.ttl.is_zero() || self.entries_max == 0 {
            return;
        }
        if self.entries.insert(key, (now + self.ttl, value)).is_some() {
            self.order.retain(|other| *other != key);
        }
        self.order.push_back(key);
        while self.order.len() > self.entries_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        // All entries live equally long, so the expired ones are in front.
        while let Some(oldest) = self.order.front()
            && self.entries.get(oldest).is_none_or(|(until, _)| *until <= now)
        {
            self.entries.remove(oldest);
            self.order.pop_front();
        }
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
        let mut cache = Cache::new(10 * SECOND, 3);
        for number in 0..4 {
            cache.insert(key(number), number, start);
        }
        assert_eq!(
            [0, 1, 2, 3].map(|number| cache.get(&key(number), start)),
            [None, Some(1), Some(2), Some(3)]
        );
        let later = start + 10 * SECOND;
        assert_eq!(cache.get(&key(3), later), None);
        cache.insert(key(9), 9, later);
        assert_eq!((cache.get(&key(9), later), cache.len()), (Some(9), (1, 1)));
    }

    #[test]
    fn an_entry_that_is_decided_again_lives_on() {
        let start = Instant::now();
        let mut cache = Cache::new(10 * SECOND, 2);
        cache.insert(key(1), 1, start);
        cache.insert(key(2), 2, start + SECOND);
        cache.insert(key(1), 3, start + 5 * SECOND);
        cache.insert(key(3), 4, start + 6 * SECOND);
        assert_eq!(cache.get(&key(1), start + 12 * SECOND), Some(3));
        assert_eq!((cache.get(&key(2), start + 7 * SECOND), cache.len()), (None, (2, 2)));
    }

    #[test]
    fn without_a_time_to_live_nothing_is_kept() {
        let mut cache = Cache::new(Duration::ZERO, 3);
        cache.insert(key(1), 1, Instant::now());
        assert_eq!(cache.len(), (0, 0));
    }
}
