//! The report of the program's allocator.

use std::sync::OnceLock;

/// Figures of the process's allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorFigures {
    /// Bytes of address space that it has reserved.
    pub reserved_bytes: u64,
    /// Bytes that it has committed.
    pub committed_bytes: u64,
    /// The most that were ever committed.
    pub committed_peak_bytes: u64,
    /// Pages in use.
    pub pages: u64,
    /// Calls of `mmap`.
    pub mmap_calls: u64,
}

/// A process has one allocator, and the program knows which.
static ALLOCATOR: OnceLock<fn() -> Option<AllocatorFigures>> = OnceLock::new();

/// Sets the function that asks the program's allocator. Only the first call has an effect.
pub fn set_allocator(figures: fn() -> Option<AllocatorFigures>) {
    // The first one stays.
    let _ = ALLOCATOR.set(figures);
}

/// The figures now; none if no allocator was set, or it cannot tell.
pub(super) fn figures() -> Option<AllocatorFigures> {
    ALLOCATOR.get().and_then(|figures| figures())
}
