//! Receive memory: one mapping that received bytes land in, common to all drivers.

use std::io;
use std::ptr::NonNull;

use super::Span;

/// Makes the kernel serve later page faults of this process with small pages, although the allocator asks for huge
/// ones. Tables of connections grow by touching memory; steps of 2 MiB would hide the cost of a connection.
pub fn small_pages_only() {
    // SAFETY: this control takes plain numbers and changes only how later page faults are served.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, 0, 0, 0) };
}

/// A page-aligned private mapping. The first receives take its page faults: a shard without traffic has no memory there.
///
/// The kernel writes into it only during a system call of the driver's own thread: the ring is set up with
/// `DEFER_TASKRUN`, and sends that outlive a call never point into it. A driver holds no slice of it during such a call.
#[derive(Debug)]
pub(super) struct Regions {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; `Regions` is its only owner.
unsafe impl Send for Regions {}

impl Regions {
    /// Maps `bytes` (a multiple of the page size, below 4 GiB).
    pub(super) fn new(bytes: usize) -> io::Result<Regions> {
        assert!(bytes > 0 && u32::try_from(bytes).is_ok());
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Regions { base: NonNull::new(base.cast()).expect("a mapping is not null"), bytes })
    }

    /// Bytes of the whole memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of a span, for the kernel.
    ///
    /// # Panics
    /// When the span leaves the memory.
    #[inline]
    pub(super) fn address(&self, span: Span) -> *mut u8 {
        let (offset, bytes) = (span.offset as usize, span.bytes as usize);
        assert!(offset + bytes <= self.bytes, "a span lies within the receive memory");
        // SAFETY: `offset` is within the mapping or one past its end, by the assertion.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The bytes of a span, to read.
    ///
    /// # Panics
    /// When the span leaves the memory.
    pub(super) fn slice(&self, span: Span) -> &[u8] {
        // SAFETY: `address` checks the bounds. The mapping starts as zeros, so that every byte is initialised. `&self`
        // excludes `slice_mut`, and the kernel writes only during system calls, over which no slice is held.
        unsafe { std::slice::from_raw_parts(self.address(span), span.bytes as usize) }
    }

    /// The bytes of a span, to read and write.
    ///
    /// # Panics
    /// When the span leaves the memory.
    #[inline]
    pub(super) fn slice_mut(&mut self, span: Span) -> &mut [u8] {
        // SAFETY: as in `slice`; `&mut self` excludes every other slice of the memory.
        unsafe { std::slice::from_raw_parts_mut(self.address(span), span.bytes as usize) }
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and length. The driver drops its ring,
        // and with it every operation that could still write here, before its regions.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
