//! Compares every kernel with the definition of masking, at every alignment and length.

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn kernels() -> Vec<Kernel> {
    let mut kernels = vec![Kernel::scalar(), Kernel::in_place(), Kernel::shifting()];
    #[cfg(target_arch = "x86_64")]
    kernels.extend([Some(Kernel::sse2()), Kernel::avx2(), Kernel::avx512()].into_iter().flatten());
    #[cfg(target_arch = "aarch64")]
    kernels.extend(Kernel::neon());
    kernels
}

/// Bytes that differ from the next byte and from the byte one vector later.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 64 * 13) as u8).collect()
}

/// Masking as RFC 6455, 5.3, defines it.
fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]).collect()
}

/// Shifts, then checks the target range and that no byte outside it changed.
fn check(kernel: Kernel, size: usize, from: usize, to: usize, len: usize) {
    let before = bytes(size);
    let mut after = before.clone();
    kernel.shift(&mut after, from, to, len, KEY);
    let mut expected = before.clone();
    expected[to..to + len].copy_from_slice(&masked(&before[from..from + len]));
    assert!(after == expected, "{kernel:?} from {from} to {to}, {len} bytes");
}

#[test]
fn every_offset_and_length_is_masked_in_place() {
    for kernel in kernels() {
        for from in 0..64 {
            for len in 0..=300 {
                check(kernel, 400, from, from, len);
            }
        }
    }
}

#[test]
fn every_offset_and_length_is_masked_while_moving_by_any_distance() {
    for kernel in kernels() {
        for by in (0..=16).chain([28, 31, 32, 33, 60, 63, 64, 65, 100, 256, 300]) {
            for to in (0..64).step_by(if by == 4 { 1 } else { 7 }) {
                for len in 0..=300 {
                    check(kernel, 700, to + by, to, len);
                }
            }
        }
    }
}

#[test]
fn every_offset_and_length_is_masked_while_appending() {
    let all = bytes(400);
    for kernel in kernels() {
        for from in 0..64 {
            for len in 0..=300 {
                // Source and target take all alignments, in different orders.
                let before = from * 37 % 64;
                let mut out = vec![0xaa; before];
                kernel.append(&mut out, &all[from..from + len], KEY);
                assert!(out[..before].iter().all(|&byte| byte == 0xaa));
                assert!(
                    out[before..] == masked(&all[from..from + len]),
                    "{kernel:?} from {from}, {len} bytes"
                );
            }
        }
    }
}

#[test]
fn large_payloads_are_masked() {
    for kernel in kernels() {
        for len in [4096, 65_535, 65_536, 1 << 20] {
            check(kernel, len + 14, 14, 4, len);
        }
    }
}

#[test]
fn appending_within_the_capacity_does_not_move_the_vector() {
    let mut out = Vec::with_capacity(1024);
    let at = out.as_ptr();
    Kernel::shifting().append(&mut out, &[1; 1000], KEY);
    assert_eq!((out.as_ptr(), out.len()), (at, 1000));
}

#[test]
#[should_panic(expected = "to <= from")]
fn a_shift_out_of_bounds_panics() {
    Kernel::shifting().shift(&mut [0; 100], 50, 0, 51, KEY);
}
