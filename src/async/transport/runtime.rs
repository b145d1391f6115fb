//! The tokio runtimes of this program's threads.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// A current-thread runtime with all of tokio's drivers.
///
/// # Errors
/// If descriptors or memory are exhausted.
pub fn local_runtime() -> io::Result<Runtime> {
    // tokio panics if it cannot open the two descriptors of its signal driver. So check that there are as many
    // descriptors as it needs in all: those two, an epoll instance and its duplicate, and its waker.
    drop([UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?]);
    Builder::new_current_thread().enable_all().build()
}
