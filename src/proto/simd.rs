//! Vector kernels for masking long payloads: one algorithm, [`run`], over the trait [`vector::Vector`], instantiated
//! per instruction set.
//!
//! A [`Kernel`] exists only for instruction sets that the processor supports, and its methods check their ranges.
//! Therefore they are safe. This is the only module of the crate that may use `unsafe`. So [`Text`] is here, too: its bytes
//! were validated, by vector instructions, before it takes them for a `str`.
//!
//! Never: operations other than XOR and moves on memory of the caller; text that was not validated.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod text;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use text::{PayloadBuffer, Text};
use vector::run;

/// An instruction set that this processor supports.
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
    /// 64-bit words. Runs on every processor, and is the reference in the tests of the other kernels.
    #[allow(dead_code, reason = "unused on processors with a vector kernel")]
    pub(super) fn scalar() -> Kernel {
        Kernel(Isa::Scalar)
    }

    /// SSE2, which every x86-64 processor has.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn sse2() -> Kernel {
        Kernel(Isa::Sse2)
    }

    /// AVX2, where supported.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx2() -> Option<Kernel> {
        is_x86_feature_detected!("avx2").then_some(Kernel(Isa::Avx2))
    }

    /// AVX-512, where supported and faster: processors with VBMI2 (Ice Lake, Zen 4 and later) do not lower their
    /// clock for 512-bit integer instructions.
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

    /// The fastest kernel for masking in place. Detection costs a load and a test, because the standard library
    /// caches the features of the processor.
    #[inline]
    pub(super) fn in_place() -> Kernel {
        #[cfg(target_arch = "x86_64")]
        return Kernel::avx512().unwrap_or_else(Kernel::shifting);
        #[cfg(not(target_arch = "x86_64"))]
        return Kernel::shifting();
    }

    /// The fastest kernel for masking while moving. Loads and stores cannot both be aligned then, and an unaligned
    /// 64-byte access always crosses a cache line. AVX-512 is 10 to 20 % slower than AVX2 here (measured on Zen 5).
    /// In place it is as fast as AVX2 and executes half the instructions.
    #[inline]
    pub(super) fn shifting() -> Kernel {
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
        // SAFETY: the assertion above guarantees that both ranges lie within `bytes`, which is borrowed mutably,
        // and that the target begins at or before the source.
        unsafe { self.run(start.add(from), start.add(to), len, u32::from_le_bytes(key)) }
    }

    /// Appends `src`, masked, to `out`.
    pub(super) fn append(self, out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
        out.reserve(src.len());
        let len = out.len() + src.len();
        let target = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `reserve` made at least `src.len()` bytes at `target` writable. They are disjoint from `src`,
        // because `out` is borrowed mutably. `run` initialises all of them before `set_len`.
        unsafe {
            self.run(src.as_ptr(), target, src.len(), u32::from_le_bytes(key));
            out.set_len(len);
        }
    }

    /// # Safety
    /// As for [`run`].
    #[inline]
    unsafe fn run(self, src: *const u8, dst: *mut u8, len: usize, key: u32) {
        // SAFETY: the caller fulfils the contract of `run`. Each `run` returns false for a `len` below the size of
        // its vector. A `Kernel` exists only for an instruction set that the processor supports.
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
