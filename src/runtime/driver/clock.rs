//! The monotonic clock that the real drivers share.

use echoring_proto::limits::Nanos;

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for every driver of the process, so that times of different
/// shards compare. Read once per tick by the shard.
pub fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a writable timespec, and CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as Nanos * 1_000_000_000 + time.tv_nsec as Nanos
}

/// Whether this process is in a time namespace whose clock differs from the host's (time_namespaces(7)).
pub(super) fn is_shifted() -> bool {
    std::fs::read_to_string("/proc/self/timens_offsets").is_ok_and(|offsets| is_monotonic_shifted(&offsets))
}

fn is_monotonic_shifted(offsets: &str) -> bool {
    let line = offsets.lines().map(str::split_whitespace).find_map(|mut words| {
        let clock = words.next()?;
        // Older kernels name clocks by their numbers.
        ["monotonic", "1"].contains(&clock).then_some(words)
    });
    line.is_some_and(|mut parts| parts.any(|part| part != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_shifted_if_its_offset_is_not_zero() {
        assert!(!is_monotonic_shifted("monotonic           0         0\nboottime            0         0\n"));
        assert!(!is_monotonic_shifted("monotonic 0 0\nboottime 5 0\n"));
        assert!(is_monotonic_shifted("monotonic    3000000         0\nboottime            0         0\n"));
        assert!(is_monotonic_shifted("1 0 -7\n") && !is_monotonic_shifted(""));
    }
}
