//! The system's allocator, with a count of each thread's allocations and bytes, and of all allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static TOTAL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Times that this thread has asked for memory.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Times that all threads together have asked for memory.
pub fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Bytes that this thread has asked for, less those that it gave back: a negative number where others' are given back.
pub fn held_bytes() -> i64 {
    HELD_BYTES.get()
}

/// The most bytes that this thread held since [`restart_peak`].
pub fn peak_bytes() -> i64 {
    PEAK_BYTES.get()
}

/// Begins to look for the most bytes from what is held now.
pub fn restart_peak() {
    PEAK_BYTES.set(HELD_BYTES.get());
}

// A thread that ends may allocate after its counters are gone; nobody asks for them any more.

fn count() {
    TOTAL.fetch_add(1, Ordering::Relaxed);
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

fn hold(bytes: i64) {
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size() as i64);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-(layout.size() as i64));
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        hold(bytes as i64 - layout.size() as i64);
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
