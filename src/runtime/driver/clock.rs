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
