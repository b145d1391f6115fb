//! SSE2, AVX2 and AVX-512 vectors.

use std::arch::x86_64::*;

use super::vector::{Vector, run};

/// [`run`] on SSE2 vectors.
///
/// # Safety
/// As for [`run`]; the processor supports SSE2.
#[target_feature(enable = "sse2")]
pub(super) unsafe fn run_sse2(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    // SAFETY: the caller fulfils the contract of `run`, including support for SSE2.
    unsafe { run::<__m128i>(src, dst, len, key) }
}

/// [`run`] on AVX2 vectors.
///
/// # Safety
/// As for [`run`]; the processor supports AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run_avx2(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    // SAFETY: the caller fulfils the contract of `run`, including support for AVX2.
    unsafe { run::<__m256i>(src, dst, len, key) }
}

/// [`run`] on AVX-512F vectors.
///
/// # Safety
/// As for [`run`]; the processor supports AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run_avx512(src: *const u8, dst: *mut u8, len: usize, key: u32) -> bool {
    // SAFETY: the caller fulfils the contract of `run`, including support for AVX-512F.
    unsafe { run::<__m512i>(src, dst, len, key) }
}

/// Implements [`Vector`] for register types, given their bytes and their instructions.
macro_rules! registers {
    ($($register:ident, $bytes:literal, $splat:ident, $load:ident, $store:ident, $xor:ident;)*) => {$(
        // SAFETY: `load` and `store` access exactly one whole register.
        unsafe impl Vector for $register {
            const BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn splat(word: u32) -> $register {
                // SAFETY: the caller guarantees that the processor supports the instructions.
                unsafe { $splat(word as i32) }
            }

            #[inline(always)]
            unsafe fn load(src: *const u8) -> $register {
                // SAFETY: the caller guarantees the instructions and `BYTES` readable bytes.
                unsafe { $load(src.cast()) }
            }

            #[inline(always)]
            unsafe fn store(self, dst: *mut u8) {
                // SAFETY: the caller guarantees the instructions and `BYTES` writable bytes.
                unsafe { $store(dst.cast(), self) }
            }

            #[inline(always)]
            unsafe fn xor(self, other: $register) -> $register {
                // SAFETY: the caller guarantees that the processor supports the instructions.
                unsafe { $xor(self, other) }
            }
        }
    )*};
}

registers! {
    __m128i, 16, _mm_set1_epi32, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128;
    __m256i, 32, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_xor_si256;
    __m512i, 64, _mm512_set1_epi32, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_xor_si512;
}
