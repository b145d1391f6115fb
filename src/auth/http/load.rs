//! Bounds on what waits for a service, in number and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What waits for a service.
#[derive(Debug)]
pub(crate) struct Load {
    count: AtomicUsize,
    count_max: usize,
    bytes: AtomicUsize,
    bytes_max: usize,
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
pub(crate) struct Counted {
    load: Arc<Load>,
    bytes: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.count.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Load {
    pub(crate) fn of_at_most(count_max: usize, bytes_max: usize) -> Arc<Load> {
        Arc::new(Load { count: AtomicUsize::new(0), count_max, bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Counts something with these bytes.
    pub(crate) fn take(self: &Arc<Load>, bytes: usize) -> Result<Counted, Full> {
        if bytes > self.bytes_max {
            return Err(Full::TooLarge);
        }
        let count_before = self.count.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let counted = Counted { load: Arc::clone(self), bytes };
        let fits = count_before < self.count_max && bytes_before + bytes <= self.bytes_max;
        fits.then_some(counted).ok_or(Full::Busy)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
