//! The masking pass, written once over a trait of vectors.

use std::ptr;

/// What [`run`] asks of a vector register. `BYTES` is a power of two and at least 4.
///
/// # Safety
/// An implementation's `load` and `store` touch exactly `BYTES` bytes.
pub(super) unsafe trait Vector: Copy {
    /// Bytes in the vector.
    const BYTES: usize;

    /// The little-endian `word` repeated.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn splat(word: u32) -> Self;

    /// # Safety
    /// The processor has the instructions, and `BYTES` bytes at `src` may be read. No alignment is asked.
    unsafe fn load(src: *const u8) -> Self;

    /// # Safety
    /// The processor has the instructions, and `BYTES` bytes at `dst` may be written. No alignment is asked.
    unsafe fn store(self, dst: *mut u8);

    /// # Safety
    /// The processor has the instructions.
    unsafe fn xor(self, other: Self) -> Self;
}

/// Copies `len` bytes from `src` to `dst`, each XORed with `key`'s byte of its position; false, and nothing
/// done, when `len` is less than one vector.
///
/// ```text
/// dst  |head....|
///           |aligned|aligned|aligned|aligned|
///                                     |....tail|
/// ```
///
/// Head and tail are loaded before the first store and stored after the last, so they may overlap what the
/// aligned middle writes: with `src == dst` the middle would else mask some bytes twice. Every store in the
/// middle is aligned, since a store that crosses a cache line costs two.
///
/// # Safety
/// `len` bytes at `src` may be read and `len` bytes at `dst` written. Either the two do not overlap, or
/// `dst <= src`: the pass runs forward and stores nothing at or behind what it has not loaded. The processor
/// has `V`'s instructions.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    if len < V::BYTES {
        return false;
    }
    let tail_at = len - V::BYTES;
    // SAFETY: every access is to `BYTES` bytes at an offset of at most `tail_at`, hence within `len`: the
    // wide loop runs while four vectors fit, the narrow one while `at` is below `tail_at`.
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

/// [`run`] byte by byte, for lengths below a vector.
///
/// # Safety
/// As for [`run`].
pub(super) unsafe fn run_bytes(src: *const u8, dst: *mut u8, len: usize, key: u32) {
    let key = key.to_le_bytes();
    for at in 0..len {
        // SAFETY: `at` is below `len`, and a byte is read before anything at or behind it is written.
        unsafe { *dst.add(at) = *src.add(at) ^ key[at & 3] };
    }
}

#[inline(always)]
const fn rotate(key: u32, by: usize) -> u32 {
    key.rotate_right(8 * (by as u32 & 3))
}

// SAFETY: a `u64` is read and written whole.
unsafe impl Vector for u64 {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn splat(word: u32) -> u64 {
        // To the little-endian bytes of `word`, twice, on machines of either order.
        (u64::from(word) << 32 | u64::from(word)).to_le()
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> u64 {
        // SAFETY: the caller lets us read 8 bytes.
        unsafe { ptr::read_unaligned(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller lets us write 8 bytes.
        unsafe { ptr::write_unaligned(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: u64) -> u64 {
        self ^ other
    }
}
