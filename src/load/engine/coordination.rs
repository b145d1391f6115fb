//! A run that several generators share: the messages from and to each of them.
//!
//! All times between generators are those of a *common clock*, that of the coordinator. A generator knows how far the
//! common clock is ahead of its own; messages carry times of the common clock, so that a subscriber of one generator can time what a
//! publisher of another sent.
//!
//! Never: a lock per message.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::plan::Segment;
use echoring_proto::limits::Nanos;

/// The part of one generator in a run that several share.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its connections.
    pub segment: Segment,
    /// The messages from and to it; `None` if it is alone.
    pub coordination: Option<Arc<Coordination>>,
}

impl Part {
    /// A run of one generator.
    pub(crate) fn whole() -> Part {
        Part { segment: Segment::WHOLE, coordination: None }
    }
}

/// The messages of one generator to the others, and back. Each of its values is sent once, except for the clock.
#[derive(Debug, Default)]
pub struct Coordination {
    ahead: AtomicI64,
    /// Subscribers of each topic, of all generators.
    audiences: OnceLock<Vec<u32>>,
    published: OnceLock<Vec<u64>>,
    is_concluded: AtomicBool,
    settled: OnceLock<Vec<u32>>,
    own_published: OnceLock<Vec<u64>>,
    /// Start of the load, by this generator's clock; 0 before it is known.
    start_at: AtomicU64,
}

impl Coordination {
    // ---- what a generator tells ----

    /// The open subscribers of each topic, once all of its connections are open or have failed.
    pub fn settled(&self) -> Option<&[u32]> {
        self.settled.get().map(Vec::as_slice)
    }

    /// The messages of each publisher, 0 for those of other generators, once it sends nothing more.
    pub fn own_published(&self) -> Option<&[u64]> {
        self.own_published.get().map(Vec::as_slice)
    }

    pub(super) fn settle(&self, subscribers: Vec<u32>) {
        let _ = self.settled.set(subscribers);
    }

    pub(super) fn stopped_sending(&self, published: Vec<u64>) {
        let _ = self.own_published.set(published);
    }

    // ---- what it is told ----

    /// The common clock is this many nanoseconds ahead of the generator's. It is sent again as clocks drift.
    pub fn set_ahead(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// The load begins at `start` of the common clock. `audiences` are the subscribers of each topic, of all generators.
    pub fn begin(&self, start: Nanos, audiences: Vec<u32>) {
        if self.audiences.set(audiences).is_ok() {
            self.start_at.store(start.wrapping_add_signed(-self.ahead()).max(1), Ordering::Release);
        }
    }

    /// The messages of each publisher, of all generators, once none of them sends anything more.
    pub fn conclude(&self, published: Vec<u64>) {
        let _ = self.published.set(published);
    }

    /// The run has lost its coordinator: anything that has not begun begins at `now` of the generator's own clock, and
    /// no other generator sends. The caller ends the run.
    pub fn abandon(&self, now: Nanos) {
        if self.audiences.set(Vec::new()).is_ok() {
            self.start_at.store(now.max(1), Ordering::Release);
        }
        self.conclude(Vec::new());
    }

    /// How far the common clock is ahead.
    #[inline]
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    pub(super) fn start(&self) -> Option<Nanos> {
        Some(self.start_at.load(Ordering::Acquire)).filter(|at| *at > 0)
    }

    pub(super) fn audience(&self, topic: u32) -> Option<u32> {
        self.audiences.get()?.get(topic as usize).copied()
    }

    /// Whether all generators have stopped sending. `conclude` is called before that with the messages of each
    /// publisher; by two threads at once, perhaps twice.
    pub(super) fn is_concluded(&self, conclude: impl FnOnce(&[u64])) -> bool {
        if self.is_concluded.load(Ordering::Acquire) {
            return true;
        }
        let Some(published) = self.published.get() else { return false };
        conclude(published);
        self.is_concluded.store(true, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_told_are_those_of_the_common_clock() {
        let coordination = Coordination::default();
        coordination.set_ahead(-500);
        assert_eq!((coordination.start(), coordination.audience(0)), (None, None));
        coordination.begin(10_000, vec![7]);
        assert_eq!((coordination.start(), coordination.audience(0)), (Some(10_500), Some(7)));
        // A drift does not move what has begun.
        coordination.set_ahead(-400);
        coordination.begin(20_000, vec![8]);
        assert_eq!((coordination.start(), coordination.ahead()), (Some(10_500), -400));
    }

    #[test]
    fn a_run_that_is_abandoned_begins_at_once_by_the_own_clock() {
        for ahead in [-3_000_000_000_000_000, 0, 5_000] {
            let coordination = Coordination::default();
            coordination.set_ahead(ahead);
            coordination.abandon(10_000);
            assert_eq!((coordination.start(), coordination.audience(0)), (Some(10_000), None));
            assert!(coordination.is_concluded(|published| assert!(published.is_empty())));
        }
        let begun = Coordination::default();
        begun.begin(10_000, vec![7]);
        begun.conclude(vec![3]);
        begun.abandon(20_000);
        assert_eq!((begun.start(), begun.audience(0)), (Some(10_000), Some(7)));
        assert!(begun.is_concluded(|published| assert_eq!(published, [3])));
    }

    #[test]
    fn what_was_published_is_known_before_the_end_is() {
        let coordination = Coordination::default();
        assert!(!coordination.is_concluded(|_| panic!("it is not known")));
        coordination.conclude(vec![3, 4]);
        let mut found = Vec::new();
        assert!(coordination.is_concluded(|published| found.extend_from_slice(published)));
        assert_eq!(found, [3, 4]);
        assert!(coordination.is_concluded(|_| panic!("it was told")));
    }
}
