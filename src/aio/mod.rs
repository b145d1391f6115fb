//! Asynchronous I/O on top of other people's runtimes: tokio-uring where io_uring is allowed, plain tokio
//! where it is not.
//!
//! Here are connections for asynchronous code, the two ends of opening them, [`Upgrader`] and [`Dialer`], and the
//! adapters that let them and hyper speak over either. Nothing here
//! is on a shard's data path, and no type of tokio-uring leaves this floor except inside these adapters.

#![forbid(unsafe_code)]

mod conn;
#[cfg(feature = "client")]
mod dialer;
mod handshake;
mod listener;
#[cfg(feature = "client")]
mod proxy;
#[cfg(feature = "client")]
pub mod reconnect;
#[cfg(all(feature = "cli", not(target_env = "musl")))]
mod ring_file;
#[cfg(feature = "server")]
mod runtime;
#[cfg(feature = "client")]
mod stream;
mod tokio_stream;
mod upgrader;
#[cfg(not(target_env = "musl"))]
mod uring_stream;

use std::io;
use std::time::{Duration, Instant};

use crate::limits::{RESUBMIT_INTERVAL, RING_REFUSAL_MAX};

pub use crate::connection::{CloseFrame, Kind};
pub use conn::{
    BufferPool, Conn, Control, ControlReply, Error, Heartbeat, Message, MessageReader, MessageWriter, Opened,
    PreparedMessage, Pump, Reader, Sender, Settings, Transport, TrySendError, Writer,
};
#[cfg(feature = "cli")]
pub(crate) use dialer::connect_to;
#[cfg(feature = "client")]
pub use dialer::{ClientTls, DialError, Dialer, Jar, Response, Stage, dial};
#[cfg(feature = "cli")]
pub(crate) use handshake::seed as system_seed;
pub use listener::{Incoming, Listener};
#[cfg(feature = "client")]
pub use proxy::{BadProxy, Proxy, ProxyError};
#[cfg(feature = "client")]
pub use reconnect::Reconnecting;
#[cfg(feature = "cli")]
pub(crate) use ring_file::RingFile;
#[cfg(feature = "server")]
pub(crate) use runtime::local_runtime;
#[cfg(feature = "client")]
pub use stream::{ClientStream, MaybeTls};
pub use tokio_stream::TokioStream;
pub use upgrader::{
    Acceptance, Answer, Asked, Decision, Received, Refused, UpgradeError, Upgraded, Upgrader, Upgrading,
};
#[cfg(not(target_env = "musl"))]
pub use uring_stream::UringStream;

/// Where there is no tokio-uring, files are written without a ring.
#[cfg(all(feature = "cli", target_env = "musl"))]
mod ring_file {
    use std::{fs, io};

    /// There is none.
    #[derive(Debug)]
    pub(crate) enum RingFile {}

    impl RingFile {
        /// Gives `file` back.
        pub(crate) fn new(file: fs::File) -> Result<RingFile, (io::Error, fs::File)> {
            Err((io::ErrorKind::Unsupported.into(), file))
        }
    }

    impl io::Write for RingFile {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            match *self {}
        }

        fn flush(&mut self) -> io::Result<()> {
            match *self {}
        }
    }
}

/// Whether this process may use io_uring at all: sets a small ring up, registers with it and enters it.
///
/// tokio-uring panics, or dies later, where one of the three is denied, so this is asked first.
///
/// # Errors
/// What the kernel said: `PermissionDenied` under a seccomp filter or the `io_uring_disabled` sysctl,
/// `Unsupported` where the kernel has none.
pub fn ring_allowed() -> io::Result<()> {
    let ring = io_uring::IoUring::new(2)?;
    ring.submitter().register_probe(&mut io_uring::Probe::new())?;
    let asked = Instant::now();
    loop {
        match ring.submitter().submit_and_wait(0) {
            Ok(_) => return Ok(()),
            // Short of memory for the moment, which is no denial.
            Err(error) if is_passing(&error) && asked.elapsed() < Duration::from_nanos(RING_REFUSAL_MAX) => {
                std::thread::sleep(Duration::from_nanos(RESUBMIT_INTERVAL));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the kernel may take what it refused a little later: it had no memory for a request, was interrupted, or has
/// completions that nobody has taken.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EBUSY | libc::EINTR))
}
