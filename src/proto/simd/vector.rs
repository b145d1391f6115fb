//! The masking pass, generic over a trait for vector registers.

use std::ptr;

/// The operations of a vector register that [`run`] needs. `BYTES` is a power of two and at least 4.
///
/// # Safety
/// `load` and `store` of an implementation access exactly `BYTES` bytes.
pub(super) unsafe trait Vector: Copy {
    /// Bytes in the vector.
    const BYTES: usize;

    /// The little-endian `word` repeated.
    ///
    /// # Safety
    /// The processor supports the instructions.
    unsafe fn splat(word: u32) -> Self;

    /// # Safety
    /// The processor supports the instructions, and `BYTES` bytes at `src` are readable. `src` may be unaligned.
    unsafe fn load(src: *const u8) -> Self;

    /// # Safety
    /// The processor supports the instructions, and `BYTES` bytes at `dst` are writable. `dst` may be unaligned.
    unsafe fn store(self, dst: *mut u8);

    /// # Safety
    /// The processor supports the instructions.
    unsafe fn xor(self, other: Self) -> Self;
}

/// Copies `len` bytes from `src` to `dst`, each XORed with the byte of `key` for its position. Returns false, without
/// writing, when `len` is less than one vector.
///
/// ```text
/// dst  |head....|
///           |aligned|aligned|aligned|aligned|
///                                     |....tail|
/// ```
///
/// Head and tail are loaded before the first store and stored after the last, so they may overlap the aligned middle.
/// Otherwise the middle would mask some bytes twice when `src == dst`. Every store of the middle is aligned, because
/// a store across a cache line costs two.
///
/// # Safety
/// `len` bytes at `src` are readable and `len` bytes at `dst` are writable. Either the ranges do not overlap, or
/// `dst <= src`: the pass runs forward and never overwrites bytes that it has not loaded. The processor supports the
/// instructions of `V`.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    if len < V::BYTES {
        return false;
    }
    let tail_at = len - V::BYTES;
    // SAFETY: every access has `BYTES` bytes at an offset of at most `tail_at`, and therefore lies within `len`. The
    // wide loop runs while four vectors fit, the narrow loop while `at` is below `tail_at`.
    unsafe {
        let head = V::load(src).xor(V::splat(key));
        let tail = V::load(src.add(tail_at)).xor(V::splat(rotate(key, tail_at)));

        let mut at = V::BYTES - (dst.addr() & (V::BYTES - 1));
        let middle_key = V::splat(rotate(key, at));
        while at + 4 * V::BYTES <= len {
            let a = V::load(src.add(at)).xor(middle_key);
            let b = V::load(src.add(at + V::BYTES)).xor(middle_key);
            let c = V::load(src.add(at + 2 * V::BYTES)).xor(middle_key);
            let d = V::load(src.add(at + 3 * V::BYTES)).xor(middle_key);
            a.store(dst.add(at));
            b.store(dst.add(at + V::BYTES));
            c.store(dst.add(at + 2 * V::BYTES));
            d.store(dst.add(at + 3 * V::BYTES));
            at += 4 * V::BYTES;
        }
        while at < tail_at {
            V::load(src.add(at)).xor(middle_key).store(dst.add(at));
            at += V::BYTES;
        }

        head.store(dst);
        tail.store(dst.add(tail_at));
    }
    true
}

/// [`run`] byte by byte, for lengths below one vector.
///
/// # Safety
/// As for [`run`].
pub(super) unsafe fn run_bytes(src: *const u8, dst: *mut u8, len: usize, key: u32) {
    let key = key.to_le_bytes();
    for at in 0..len {
        // SAFETY: `at` is below `len`, and each byte is read before it or a later byte is written.
        unsafe { *dst.add(at) = *src.add(at) ^ key[at & 3] };
    }
}

#[inline(always)]
const fn rotate(key: u32, by: usize) -> u32 {
    key.rotate_right(8 * (by as u32 & 3))
}

// SAFETY: `load` and `store` access exactly one whole `u64`.
unsafe impl Vector for u64 {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn splat(word: u32) -> u64 {
        // `to_le` yields the little-endian bytes of `word` twice, on machines of either byte order.
        (u64::from(word) << 32 | u64::from(word)).to_le()
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> u64 {
        // SAFETY: the caller guarantees 8 readable bytes.
        unsafe { ptr::read_unaligned(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller guarantees 8 writable bytes.
        unsafe { ptr::write_unaligned(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: u64) -> u64 {
        self ^ other
    }
}
