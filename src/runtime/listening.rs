//! Errors of listening: temporarily busy ports, and exhausted descriptors; and the table of descriptors.
#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use crate::limits::{BUSY_PORT_PAUSE, BUSY_PORT_TIMEOUT, DESCRIPTORS_RESERVED_MAX};

/// Opens a socket on a port that a process which has just exited may still hold: retries for `BUSY_PORT_TIMEOUT`
/// while it is in use.
///
/// # Errors
/// The last error of `open`.
pub fn retry_busy<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let given_up = Instant::now() + Duration::from_nanos(BUSY_PORT_TIMEOUT);
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < given_up => {
                std::thread::sleep(Duration::from_nanos(BUSY_PORT_PAUSE));
            }
            opened => return opened,
        }
    }
}

/// Has the kernel make room in the process's table of descriptors for so many at once. The table doubles whenever it is full, and in a
/// process with several threads that waits until all CPUs have seen it (`synchronize_rcu`): for seconds on a busy host, in the thread
/// that accepts or adopts a connection. Nothing happens if the limit is lower, and for descriptors beyond
/// [`DESCRIPTORS_RESERVED_MAX`].
pub fn reserve_descriptors(count: u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let highest = count.min(DESCRIPTORS_RESERVED_MAX).min(limit).saturating_sub(1);
    if let (Ok(highest), Ok(any)) = (i32::try_from(highest), rustix::event::eventfd(0, EventfdFlags::CLOEXEC))
    {
        // Without room, the table grows as before.
        let _ = rustix::io::fcntl_dupfd_cloexec(&any, highest);
    }
}

/// The remedy for an exhausted descriptor limit; `None` for other errors.
pub fn descriptors_hint(error: &io::Error) -> Option<&'static str> {
    let is_limit = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    is_limit.then_some("raise the descriptor limit (ulimit -n, LimitNOFILE=)")
}
