//! Errors of listening: temporarily busy ports, and exhausted descriptors.
#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use crate::limits::{BUSY_PORT_PAUSE, BUSY_PORT_TIMEOUT};

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

/// The remedy for an exhausted descriptor limit; `None` for other errors.
pub fn descriptors_hint(error: &io::Error) -> Option<&'static str> {
    let is_limit = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    is_limit.then_some("raise the descriptor limit (ulimit -n, LimitNOFILE=)")
}
