//! The runtimes of tokio that threads of this program run on.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// A runtime for one thread, with everything that tokio drives.
///
/// # Errors
/// When descriptors or memory are used up.
pub(crate) fn local_runtime() -> io::Result<Runtime> {
    // Where a program has tokio's signals built in, tokio panics for want of their two descriptors. So there have to be as
    // many as it takes in all: those two, an epoll instance with a duplicate, and what wakes it.
    drop([UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?]);
    Builder::new_current_thread().enable_all().build()
}
