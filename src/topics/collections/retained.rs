//! Values that are kept by name for a while after their owners are gone, within a bound: the oldest are evicted first.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limits::{REMEMBERED_AGE, REMEMBERED_BYTES_MAX};
use echoring_proto::buffer::{Pool, allocated_bytes};
use echoring_proto::limits::Nanos;

/// Values by name. Each is charged to the budget of the node.
#[derive(Debug)]
pub(crate) struct Retained<T> {
    by_name: BTreeMap<Arc<str>, (u64, T)>,
    /// Names in the order of their arrival.
    in_order: BTreeMap<u64, (Arc<str>, Nanos)>,
    next: u64,
    bytes: usize,
}

impl<T> Default for Retained<T> {
    fn default() -> Retained<T> {
        Retained { by_name: BTreeMap::new(), in_order: BTreeMap::new(), next: 0, bytes: 0 }
    }
}

impl<T> Retained<T> {
    /// Bytes of an entry: its name with a reference count, and twice its entries in two tables, which may be half
    /// empty.
    fn bytes_of(name: &str) -> usize {
        let shared_bytes = 2 * size_of::<usize>();
        let entry_bytes = size_of::<(Arc<str>, (u64, T))>() + size_of::<(u64, (Arc<str>, Nanos))>();
        allocated_bytes(shared_bytes + name.len()) + 2 * entry_bytes
    }

    /// Stores `value` under `name`, replacing the previous value. Older entries are evicted to make room.
    pub(crate) fn put(&mut self, name: &str, value: T, now: Nanos, pool: &mut Pool) {
        self.take(name, pool);
        let bytes = Self::bytes_of(name);
        while self.bytes + bytes > REMEMBERED_BYTES_MAX || !pool.charge(bytes) {
            if !self.take_oldest(pool) {
                return;
            }
        }
        let name: Arc<str> = name.into();
        self.bytes += bytes;
        self.in_order.insert(self.next, (Arc::clone(&name), now));
        self.by_name.insert(name, (self.next, value));
        self.next += 1;
    }

    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.by_name.get(name).map(|(_, value)| value)
    }

    /// Removes and returns the value of `name`.
    pub(crate) fn take(&mut self, name: &str, pool: &mut Pool) -> Option<T> {
        let (number, value) = self.by_name.remove(name)?;
        self.in_order.remove(&number);
        let bytes = Self::bytes_of(name);
        self.bytes -= bytes;
        pool.discharge(bytes);
        Some(value)
    }

    /// Removes the oldest entry. False if there is none.
    fn take_oldest(&mut self, pool: &mut Pool) -> bool {
        let oldest = self.in_order.first_key_value().map(|(_, (name, _))| Arc::clone(name));
        oldest.is_some_and(|name| self.take(&name, pool).is_some())
    }

    /// Removes expired entries.
    pub(crate) fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        let is_over = |since: Nanos| since.saturating_add(REMEMBERED_AGE) <= now;
        while self.in_order.first_key_value().is_some_and(|(_, (_, since))| is_over(*since)) {
            self.take_oldest(pool);
        }
    }

    /// Removes all entries.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        while self.take_oldest(pool) {}
    }

    /// All values with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.by_name.iter().map(|(name, (_, value))| (&**name, value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_time_and_charged() {
        let mut pool = Pool::standalone();
        let mut kept = Retained::default();
        let most = REMEMBERED_BYTES_MAX / Retained::<usize>::bytes_of("000000");
        for number in 0..most + 10 {
            kept.put(&format!("{number:06}"), number, 1, &mut pool);
        }
        assert!(kept.get("000009").is_none() && kept.get("000010") == Some(&10));
        assert_eq!(pool.used_bytes() as usize, kept.bytes);
        assert!(kept.bytes <= REMEMBERED_BYTES_MAX);
        // Repeatedly stored under one name, it is one entry.
        for number in 0..3 * most {
            kept.put("same", number, 2, &mut pool);
        }
        assert!(kept.get("000012").is_some() && kept.iter().count() == most);
        assert_eq!(kept.take("same", &mut pool), Some(3 * most - 1));
        kept.expire(REMEMBERED_AGE, &mut pool);
        assert!(!kept.is_empty());
        kept.expire(REMEMBERED_AGE + 1, &mut pool);
        assert!(kept.is_empty() && kept.in_order.is_empty());
        assert_eq!((pool.used_bytes(), kept.bytes), (0, 0));
    }

    #[test]
    fn without_memory_the_oldest_make_room() {
        let mut pool = Pool::standalone();
        let mut kept = Retained::default();
        kept.put("old", 1, 0, &mut pool);
        while pool.charge(1 << 20) {}
        while pool.charge(1) {}
        kept.put("new", 2, 0, &mut pool);
        assert_eq!((kept.get("old"), kept.get("new")), (None, Some(&2)));
        kept.put("much longer than the others", 3, 0, &mut pool);
        assert!(kept.is_empty(), "the memory does not suffice even after all evictions");
    }
}
