//! The features of the running kernel, found by trial.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode};

use super::entries::File;
use super::receive::{BufferRing, GROUP};
use crate::driver::regions::Regions;
use crate::driver::{Features, Span, clock};
use echoring_proto::limits::{MILLISECOND, RING_REFUSAL_MAX};

/// All features that this driver can use.
pub(super) const KNOWN: Features = Features::INCREMENTAL
    .with(Features::RECEIVE_TOTAL)
    .with(Features::NO_SQARRAY)
    .with(Features::FD_INSTALL)
    .with(Features::NO_IOWAIT)
    .with(Features::REGISTERED_RING)
    .with(Features::DIRECT)
    .with(Features::SKIP_SUCCESS)
    .with(Features::ABSOLUTE_TIMEOUT)
    .with(Features::RESTRICTED)
    .with(Features::SOCKET_OPTIONS);

/// A builder with the flags that the driver cannot do without (Linux 6.1).
pub(super) fn builder(features: Features) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all();
    if features.has(Features::NO_SQARRAY) {
        builder.setup_no_sqarray();
    }
    builder
}

/// The features of the running kernel. Asked once per process.
///
/// # Errors
/// Why there can be no ring here: `PermissionDenied` where io_uring is denied, `Unsupported` where the
/// kernel is older than 6.1.
pub(super) fn probe() -> io::Result<Features> {
    static FOUND: OnceLock<Features> = OnceLock::new();
    if let Some(&found) = FOUND.get() {
        return Ok(found);
    }
    let found = probe_kernel()?;
    Ok(*FOUND.get_or_init(|| found))
}

fn probe_kernel() -> io::Result<Features> {
    // These are tried where they are used; every 6.1 has them.
    let mut found = Features::REGISTERED_RING
        .with(Features::DIRECT)
        .with(Features::RESTRICTED)
        .with(Features::NO_SQARRAY);
    let mut ring = match builder(found).build(8) {
        Ok(ring) => ring,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            found = found.less(Features::NO_SQARRAY);
            builder(found).build(8).map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOSYS) => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the kernel's io_uring is older than Linux 6.1",
                ),
                _ => error,
            })?
        }
        Err(error) => return Err(error),
    };
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations)?;
    let parameters = ring.params();
    for (is_there, feature) in [
        (parameters.is_feature_skip_cqe_on_success(), Features::SKIP_SUCCESS),
        (parameters.is_feature_no_iowait(), Features::NO_IOWAIT),
        // Both came with 6.12, and only one of them has a feature bit. The kernel takes the time for one outside of the
        // process's time namespace (seen with 6.18).
        (parameters.is_feature_min_timeout() && !clock::is_shifted(), Features::ABSOLUTE_TIMEOUT),
        (operations.is_supported(opcode::FixedFdInstall::CODE), Features::FD_INSTALL),
    ] {
        if is_there {
            found = found.with(feature);
        }
    }
    if sets_option(&mut ring)? {
        found = found.with(Features::SOCKET_OPTIONS);
    }
    probe_receive(ring, found)
}

/// Whether the ring can set an option of a socket. The operation is older than this use of it.
fn sets_option(ring: &mut IoUring) -> io::Result<bool> {
    let (socket, _) = UnixStream::pair()?;
    let value = 1;
    let entry = File::descriptor(socket.as_fd()).set_option(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &value);
    // SAFETY: the socket is open, and the value stays, until the entry is consumed.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    wait_for_one(ring)?;
    Ok(ring.completion().all(|cqe| cqe.result() == 0))
}

/// Buffers are provided incrementally if the kernel takes the flag. Totals have no flag: older kernels
/// refuse the field, so a receive with a total is tried on a real socket.
fn probe_receive(mut ring: IoUring, mut found: Features) -> io::Result<Features> {
    const CAP: u32 = 16;
    const BUFFERS: u16 = 4;
    let memory = Regions::new(usize::from(BUFFERS) * CAP as usize)?;
    // SAFETY: table and memory stay until the one operation of the ring is over, or for ever (see below).
    let register = |incremental| unsafe { BufferRing::register(&ring, BUFFERS, incremental) };
    let mut buffers = match register(true) {
        Ok(buffers) => {
            found = found.with(Features::INCREMENTAL);
            buffers
        }
        Err(_) => register(false)?,
    };
    for id in 0..BUFFERS {
        let span = Span { offset: u32::from(id) * CAP, bytes: CAP };
        // SAFETY: as above; the buffers lie beside one another.
        unsafe { buffers.provide(id, &memory, span) };
    }
    buffers.publish();
    match takes_total(&mut ring, CAP) {
        Ok(true) => found = found.with(Features::RECEIVE_TOTAL),
        Ok(false) => {}
        Err(error) => {
            // The receive may still be armed, and the kernel ends a closed ring in its own time.
            std::mem::forget((buffers, memory));
            return Err(error);
        }
    }
    Ok(found)
}

/// Whether a receive that may take `2 * cap` bytes in all ends after that number. When this returns `Ok`, the receive
/// is over.
fn takes_total(ring: &mut IoUring, cap: u32) -> io::Result<bool> {
    let (mut near, far) = UnixStream::pair()?;
    near.write_all(&vec![0; 3 * cap as usize])?;
    let entry = File::descriptor(far.as_fd()).receive(GROUP, cap, Some(2 * cap));
    // SAFETY: the caller keeps the buffers until the receive is over. The socket is open until it is consumed.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    wait_for_one(ring)?;
    let completions: Vec<_> =
        ring.completion().map(|cqe| (cqe.result(), cqueue::more(cqe.flags()))).collect();
    let mut armed = completions.last().is_some_and(|&(_, more)| more);
    drop(near);
    while armed {
        wait_for_one(ring)?;
        armed = ring.completion().fold(armed, |_, cqe| cqueue::more(cqe.flags()));
    }
    Ok(completions[..] == [(cap as i32, true), (cap as i32, false)])
}

/// Submits, and waits for a completion. A temporary lack of memory says nothing about the kernel's features.
fn wait_for_one(ring: &IoUring) -> io::Result<()> {
    let asked = clock::now();
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => return Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOMEM | libc::EBUSY | libc::EINTR)
                    if clock::now() - asked < RING_REFUSAL_MAX =>
                {
                    std::thread::sleep(Duration::from_nanos(MILLISECOND));
                }
                _ => return Err(error),
            },
        }
    }
}
