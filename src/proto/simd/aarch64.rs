//! NEON vectors.

use std::arch::aarch64::*;

use super::vector::{Vector, run};

/// [`run`] on NEON vectors.
///
/// # Safety
/// As for [`run`]; the processor supports NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run_neon(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    // SAFETY: the caller fulfils the contract of `run`, including support for NEON.
    unsafe { run::<uint8x16_t>(src, dst, len, key) }
}

// SAFETY: `load` and `store` access exactly one whole register.
unsafe impl Vector for uint8x16_t {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn splat(word: u32) -> uint8x16_t {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { vreinterpretq_u8_u32(vdupq_n_u32(word.to_le())) }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> uint8x16_t {
        // SAFETY: the caller guarantees the instructions and 16 readable bytes.
        unsafe { vld1q_u8(src) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller guarantees the instructions and 16 writable bytes.
        unsafe { vst1q_u8(dst, self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: uint8x16_t) -> uint8x16_t {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { veorq_u8(self, other) }
    }
}
