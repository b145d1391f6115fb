//! Whether this process may use io_uring.

use std::io;
use std::time::{Duration, Instant};

use crate::limits::RESUBMIT_INTERVAL;
use echoring_proto::limits::RING_REFUSAL_MAX;

/// Checks whether this process may use io_uring: creates a small ring, registers with it and enters it.
///
/// tokio-uring panics, or fails later, if one of the three is denied, so this is checked first.
///
/// ```
/// match echoring::ring_allowed() {
///     Ok(()) => println!("tokio-uring works here"),
///     Err(error) => println!("tokio it is: {error}"),
/// }
/// ```
///
/// # Errors
/// The kernel's error: `PermissionDenied` under a seccomp filter or the `io_uring_disabled` sysctl, `Unsupported` if
/// the kernel has no io_uring.
pub fn ring_allowed() -> io::Result<()> {
    let ring = io_uring::IoUring::new(2)?;
    ring.submitter().register_probe(&mut io_uring::Probe::new())?;
    let asked = Instant::now();
    loop {
        match ring.submitter().submit_and_wait(0) {
            Ok(_) => return Ok(()),
            // A temporary shortage is not a denial.
            Err(error)
                if is_temporary(&error) && asked.elapsed() < Duration::from_nanos(RING_REFUSAL_MAX) =>
            {
                std::thread::sleep(Duration::from_nanos(RESUBMIT_INTERVAL));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the kernel may accept the request a little later: it had no memory, was interrupted, or has completions to
/// be reaped.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EBUSY | libc::EINTR))
}
