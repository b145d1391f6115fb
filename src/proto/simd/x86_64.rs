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

// SAFETY: `load` and `store` access exactly one whole register.
unsafe impl Vector for __m128i {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn splat(word: u32) -> __m128i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> __m128i {
        // SAFETY: the caller guarantees the instructions and 16 readable bytes.
        unsafe { _mm_loadu_si128(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller guarantees the instructions and 16 writable bytes.
        unsafe { _mm_storeu_si128(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: __m128i) -> __m128i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm_xor_si128(self, other) }
    }
}

// SAFETY: `load` and `store` access exactly one whole register.
unsafe impl Vector for __m256i {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn splat(word: u32) -> __m256i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm256_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> __m256i {
        // SAFETY: the caller guarantees the instructions and 32 readable bytes.
        unsafe { _mm256_loadu_si256(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller guarantees the instructions and 32 writable bytes.
        unsafe { _mm256_storeu_si256(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: __m256i) -> __m256i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm256_xor_si256(self, other) }
    }
}

// SAFETY: `load` and `store` access exactly one whole register.
unsafe impl Vector for __m512i {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn splat(word: u32) -> __m512i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm512_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> __m512i {
        // SAFETY: the caller guarantees the instructions and 64 readable bytes.
        unsafe { _mm512_loadu_si512(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller guarantees the instructions and 64 writable bytes.
        unsafe { _mm512_storeu_si512(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: __m512i) -> __m512i {
        // SAFETY: the caller guarantees that the processor supports the instructions.
        unsafe { _mm512_xor_si512(self, other) }
    }
}
