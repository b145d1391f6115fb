//! Changes of the rate of a running load, which all threads follow from the same time on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use echoring_proto::limits::{MILLISECOND, Nanos};

/// From the decision to change the rate to the change, so that every thread knows of it in time: twice the maximum
/// sleep of a thread.
pub(super) const NOTICE: Nanos = 100 * MILLISECOND;

/// A change of the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateChange {
    /// From when on.
    pub(super) at: Nanos,
    /// Messages per second, or per period of the rate.
    pub(super) rate: u64,
}

/// The changes of a run, in order. The first thread adds to them; the others look at their number in each tick.
#[derive(Debug, Default)]
pub(super) struct RateChanges {
    count: AtomicUsize,
    all: Mutex<Vec<RateChange>>,
}

impl RateChanges {
    /// Adds a change, which is later than the others.
    pub(super) fn add(&self, change: RateChange) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(change);
        self.count.store(all.len(), Ordering::Release);
    }

    /// The times and rates of all changes.
    pub(super) fn all(&self) -> Vec<(Nanos, u64)> {
        self.read(0).iter().map(|change| (change.at, change.rate)).collect()
    }

    /// The changes behind the first `known`; nothing in nearly all ticks.
    #[inline]
    pub(super) fn since(&self, known: usize) -> Option<Vec<RateChange>> {
        (self.count.load(Ordering::Acquire) > known).then(|| self.read(known))
    }

    #[cold]
    fn read(&self, known: usize) -> Vec<RateChange> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)[known..].to_vec()
    }
}
