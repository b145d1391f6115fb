//! Bounds on what waits for a service, in number and in bytes, of which each source has a share.
//!
//! A source may take [`SHARE_OF_FREE`] times as much as it leaves free: three quarters if it is alone, three sevenths each if there
//! are two. Whatever some sources send, something is left for the others, and a source that has nothing in it needs no share.
//!
//! Whoever causes many events keeps its [`Share`]: to take room then costs a few atomic additions, neither a lock nor an allocation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use echoring_proto::AddressKey;

use super::lock;
use crate::limits::SHARE_OF_FREE;

/// Who causes load.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The clients of an address.
    Address(AddressKey),
    /// All clients without an address, as at a Unix socket, and all whose address is unknown.
    NoAddress,
    /// A name: a user, whether there is such a user or not, or a topic.
    Name(Box<str>),
    /// All topics.
    Topics,
}

impl From<Option<AddressKey>> for Source {
    fn from(address: Option<AddressKey>) -> Source {
        address.map_or(Source::NoAddress, Source::Address)
    }
}

impl From<Option<SocketAddr>> for Source {
    fn from(address: Option<SocketAddr>) -> Source {
        Source::from(address.map(|address| AddressKey::of(address.ip())))
    }
}

/// What waits for a service.
#[derive(Debug)]
pub struct Load {
    count_max: usize,
    /// The most of one source, besides its share.
    count_of_source_max: usize,
    bytes_max: AtomicUsize,
    used: Used,
    /// Those that are in use.
    shares: Mutex<BTreeMap<Source, Weak<Share>>>,
}

/// The part of one source.
#[derive(Debug)]
pub struct Share {
    load: Arc<Load>,
    source: Source,
    used: Used,
}

#[derive(Debug, Default)]
struct Used {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// Why something may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There is no room now.
    Busy,
    /// It has more bytes than may wait.
    TooLarge,
}

/// Counts something that waits until it is dropped.
#[derive(Debug)]
pub struct Counted {
    share: Arc<Share>,
    bytes: usize,
}

impl Used {
    /// Adds one thing with these bytes. Returns what there was before.
    fn add(&self, bytes: usize) -> (usize, usize) {
        (self.count.fetch_add(1, Relaxed), self.bytes.fetch_add(bytes, Relaxed))
    }

    fn remove(&self, bytes: usize) {
        self.count.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

/// Whether a source that has `own` of the `used` parts of `most` may take so many more.
fn has_share(own: usize, used: usize, more: usize, most: usize) -> bool {
    let Some(free) = most.checked_sub(used.saturating_add(more)) else { return false };
    own == 0 || own.saturating_add(more) <= free.saturating_mul(SHARE_OF_FREE)
}

impl Load {
    /// Room for so many things and bytes.
    pub fn of_at_most(count_max: usize, bytes_max: usize) -> Arc<Load> {
        Load::with_most_of_source(count_max, bytes_max, usize::MAX)
    }

    /// The same, with at most so many things of one source.
    pub(crate) fn with_most_of_source(
        count_max: usize,
        bytes_max: usize,
        count_of_source_max: usize,
    ) -> Arc<Load> {
        let bytes_max = AtomicUsize::new(bytes_max);
        Arc::new(Load {
            count_max,
            count_of_source_max,
            bytes_max,
            used: Used::default(),
            shares: Mutex::default(),
        })
    }

    /// The share of a source, for as long as it is used.
    pub fn share(self: &Arc<Load>, source: Source) -> Arc<Share> {
        let mut shares = self.shares();
        if let Some(share) = shares.get(&source).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share { load: Arc::clone(self), source: source.clone(), used: Used::default() });
        shares.insert(source, Arc::downgrade(&share));
        share
    }

    /// Counts something of a source with these bytes.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn take(self: &Arc<Load>, source: Source, bytes: usize) -> Result<Counted, Full> {
        self.share(source).take(bytes)
    }

    pub(crate) fn count(&self) -> usize {
        self.used.count.load(Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() >= self.count_max
    }

    pub(crate) fn bytes(&self) -> usize {
        self.used.bytes.load(Relaxed)
    }

    pub(crate) fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Relaxed);
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<Source, Weak<Share>>> {
        lock(&self.shares)
    }
}

impl Share {
    /// Counts something with these bytes.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn take(self: &Arc<Share>, bytes: usize) -> Result<Counted, Full> {
        let Load { count_max, count_of_source_max, bytes_max, used, .. } = &*self.load;
        let bytes_max = bytes_max.load(Relaxed);
        if bytes > bytes_max {
            return Err(Full::TooLarge);
        }
        let (own_count, own_bytes) = self.used.add(bytes);
        let (count, bytes_before) = used.add(bytes);
        let counted = Counted { share: Arc::clone(self), bytes };
        let fits = own_count < *count_of_source_max
            && has_share(own_count, count, 1, *count_max)
            && has_share(own_bytes, bytes_before, bytes, bytes_max);
        fits.then_some(counted).ok_or(Full::Busy)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.load.shares();
        // Another one may be in use in its place.
        if shares.get(&self.source).is_some_and(|share| share.strong_count() == 0) {
            shares.remove(&self.source);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.share.used.remove(self.bytes);
        self.share.load.used.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Source {
        Source::from(Some(SocketAddr::new(text.parse().expect("an address"), 7)))
    }

    /// Takes as much as there is for this source.
    fn taken(load: &Arc<Load>, source: &Source, bytes: usize) -> Vec<Counted> {
        std::iter::from_fn(|| load.take(source.clone(), bytes).ok()).collect()
    }

    #[test]
    fn sources_are_addresses_networks_and_names() {
        let known = [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (one, other, are_same) in known {
            assert_eq!(address(one) == address(other), are_same, "{one} {other}");
        }
        assert_eq!(Source::from(None::<SocketAddr>), Source::NoAddress);
        assert_ne!(Source::Name("192.0.2.1".into()), address("192.0.2.1"));
    }

    #[test]
    fn each_source_leaves_room_for_the_next() {
        for (count_max, bytes_max, bytes) in [(1_000, usize::MAX, 1), (usize::MAX, 1_000, 1)] {
            let load = Load::of_at_most(count_max, bytes_max);
            let all: Vec<Source> =
                ["192.0.2.1", "192.0.2.2", "2001:db8::1"].into_iter().map(address).collect();
            let mut kept = Vec::new();
            for source in all.into_iter().chain([Source::NoAddress, Source::Name("a".into())]) {
                kept.push(taken(&load, &source, bytes));
            }
            let counts: Vec<usize> = kept.iter().map(Vec::len).collect();
            assert_eq!(counts[0], 750, "three quarters");
            assert!(counts.is_sorted_by(|one, next| one > next) && counts[4] > 0, "{counts:?}");
            assert!(load.take(address("192.0.2.1"), bytes).is_err());
            assert!(load.take(address("192.0.2.9"), bytes).is_ok(), "who has nothing needs no share");
            kept.clear();
            assert_eq!((load.bytes(), load.shares().len()), (0, 0), "what is not used is forgotten");
        }
    }

    #[test]
    fn sources_that_take_at_the_same_time_get_the_same() {
        for sources in 1..8_usize {
            let load = Load::of_at_most(usize::MAX, 10_000);
            let mut kept: Vec<Vec<Counted>> = (0..sources).map(|_| Vec::new()).collect();
            loop {
                let before: usize = kept.iter().map(Vec::len).sum();
                for (number, of_source) in kept.iter_mut().enumerate() {
                    of_source.extend(load.take(Source::Name(number.to_string().into()), 10));
                }
                if kept.iter().map(Vec::len).sum::<usize>() == before {
                    break;
                }
            }
            let expected = 1_000 * SHARE_OF_FREE / (1 + sources * SHARE_OF_FREE);
            let counts: Vec<usize> = kept.iter().map(Vec::len).collect();
            assert!(counts.iter().all(|count| count.abs_diff(expected) <= 1), "{counts:?} {expected}");
        }
    }

    #[test]
    fn one_thing_may_be_as_large_as_the_whole_and_none_may_be_larger() {
        let load = Load::of_at_most(usize::MAX, 100);
        assert_eq!(load.take(Source::NoAddress, 101).map(drop), Err(Full::TooLarge));
        let all = load.take(Source::NoAddress, 100).expect("room");
        assert_eq!(load.take(address("192.0.2.1"), 1).map(drop), Err(Full::Busy));
        drop(all);
        load.set_bytes_max(50);
        assert_eq!(load.take(Source::NoAddress, 51).map(drop), Err(Full::TooLarge));
    }

    #[test]
    fn a_source_may_have_a_bound_of_its_own() {
        let load = Load::with_most_of_source(64, usize::MAX, 8);
        let kept: Vec<Counted> = (0..9).map_while(|_| load.take(address("192.0.2.1"), 0).ok()).collect();
        assert_eq!(kept.len(), 8);
        assert!(load.take(address("192.0.2.2"), 0).is_ok());
    }

    #[test]
    fn a_share_is_that_of_its_source_as_long_as_anybody_has_it() {
        let load = Load::of_at_most(usize::MAX, 100);
        let share = load.share(Source::NoAddress);
        assert!(Arc::ptr_eq(&share, &load.share(Source::NoAddress)));
        let counted = share.take(60).expect("room");
        drop(share);
        assert_eq!(load.take(Source::NoAddress, 30).map(drop), Err(Full::Busy), "its bytes still count");
        drop(counted);
        assert!(load.take(Source::NoAddress, 30).is_ok());
        assert!(load.shares().is_empty());
    }
}
