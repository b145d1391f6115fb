//! Vector kernels for masking long payloads: one algorithm ([`run`]) over a [`Vector`] trait, instantiated
//! per instruction set.
//!
//! A [`Kernel`] can only be had when the processor has its instructions; its methods are safe because of
//! that and because they check their ranges. This is the only part of `protocol` that may use `unsafe`.
//!
//! Never: anything but XOR and moves on memory that the caller handed in.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use vector::run;

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Kernel {
    /// 64-bit words. Works everywhere, and is what the others are compared with.
    #[allow(dead_code, reason = "the only kernel on processors without one of their own")]
    pub(super) fn scalar() -> Kernel {
        Kernel(Isa::Scalar)
    }

    /// SSE2, which every x86-64 processor has.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn sse2() -> Kernel {
        Kernel(Isa::Sse2)
    }

    /// AVX2, where present.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx2() -> Option<Kernel> {
        is_x86_feature_detected!("avx2").then_some(Kernel(Isa::Avx2))
    }

    /// AVX-512, where present and worth it: VBMI2 came with the first generations that do not lower their
    /// clock for 512-bit integer work (Ice Lake, Zen 4).
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx512() -> Option<Kernel> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vbmi2"))
            .then_some(Kernel(Isa::Avx512))
    }

    /// NEON, which every aarch64 processor that runs Linux has.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn neon() -> Option<Kernel> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Kernel(Isa::Neon))
    }

    /// The fastest kernel for bytes that stay where they are. Detection is a load and a test: the standard
    /// library caches what the processor said in a static.
    #[inline]
    pub(super) fn in_place() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        return Kernel::avx512().unwrap_or_else(Kernel::moving);
        #[cfg(not(target_arch = "x86_64"))]
        return Kernel::moving();
    }

    /// The fastest kernel for bytes that move. Loads and stores cannot both be aligned then, and a 64-byte
    /// access off its alignment always crosses a cache line: AVX-512 is 10 to 20 % slower than AVX2 here,
    /// and no faster than it in place (measured on Zen 5), where it spends half the instructions.
    #[inline]
    pub(super) fn moving() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        return Kernel::avx2().unwrap_or_else(Kernel::sse2);
        #[cfg(target_arch = "aarch64")]
        return Kernel::neon().unwrap_or_else(Kernel::scalar);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return Kernel::scalar();
    }

    /// Masks `bytes[from..from + len]` while moving it to `bytes[to..]`.
    ///
    /// # Panics
    /// When `to > from` or the source is not within `bytes`.
    pub(super) fn shift(self, bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
        assert!(to <= from && from <= bytes.len() && len <= bytes.len() - from);
        let start = bytes.as_mut_ptr();
        // SAFETY: both ranges lie within `bytes`, which is borrowed mutably and whole, by the assertion
        // above; the target begins at or before the source.
        unsafe { self.run(start.add(from), start.add(to), len, u32::from_le_bytes(key)) }
    }

    /// Appends `src`, masked, to `out`.
    pub(super) fn append(self, out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
        out.reserve(src.len());
        let len = out.len() + src.len();
        let target = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `reserve` made at least `src.len()` bytes behind `target` ours to write, and they are
        // disjoint from `src`, because `out` is borrowed mutably. `run` writes all of them before `set_len`
        // declares them initialised.
        unsafe {
            self.run(src.as_ptr(), target, src.len(), u32::from_le_bytes(key));
            out.set_len(len);
        }
    }

    /// # Safety
    /// As for [`run`], less its lower bound on `len`.
    #[inline]
    unsafe fn run(self, src: *const u8, dst: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller keeps the contract of `run`; each `run` refuses a `len` below its vector's, and
        // a `Kernel` of an instruction set exists only where the processor has it.
        unsafe {
            let done = match self.0 {
                Isa::Scalar => run::<u64>(src, dst, len, key),
                #[cfg(target_arch = "x86_64")]
                Isa::Sse2 => x86_64::run_sse2(src, dst, len, key),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86_64::run_avx2(src, dst, len, key),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86_64::run_avx512(src, dst, len, key),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => aarch64::run_neon(src, dst, len, key),
            };
            if !done {
                vector::run_bytes(src, dst, len, key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
