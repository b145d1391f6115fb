//! Receive memory: one mapping that received bytes land in, common to all drivers.

use std::io;
use std::ptr::NonNull;

use super::Span;

/// Has the kernel serve this process's later page faults with small pages, whoever asks for huge ones (the
/// allocator does). Tables of connections grow by touching memory, and in steps of 2 MiB nobody knows what a
/// connection costs.
pub fn small_pages_only() {
    // SAFETY: this control takes plain numbers and changes only how later page faults are served.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, 0, 0, 0) };
}

/// A page-aligned private mapping, touched when it is made so that no receive takes a page fault.
///
/// The kernel (or a driver acting as it) writes into parts of it that no [`Span`] names yet; the shard reads
/// and writes only through spans that a turn reported. The two never overlap: that is the driver's duty.
#[derive(Debug)]
pub(super) struct Regions {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; `Regions` is its only owner.
unsafe impl Send for Regions {}

impl Regions {
    /// Maps and touches `bytes` (a multiple of the page size, below 4 GiB).
    pub(super) fn new(bytes: usize) -> io::Result<Regions> {
        assert!(bytes > 0 && u32::try_from(bytes).is_ok());
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
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

    /// Address of the byte at `offset`, for the kernel.
    pub(super) fn address(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.bytes);
        // SAFETY: `offset` is within the mapping or one past its end.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The bytes of a span that a turn reported.
    ///
    /// # Panics
    /// When the span leaves the memory.
    pub(super) fn slice(&mut self, span: Span) -> &mut [u8] {
        let (offset, bytes) = (span.offset as usize, span.bytes as usize);
        assert!(offset + bytes <= self.bytes, "a span lies within the receive memory");
        // SAFETY: in bounds by the assertion; initialised, since the mapping starts as zeros; not aliased,
        // since `&mut self` is held for the slice's life and the kernel writes only where no span points.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), bytes) }
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and length. The driver drops its ring,
        // and with it every operation that could still write here, before its regions.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
