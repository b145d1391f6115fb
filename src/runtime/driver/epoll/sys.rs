//! The system calls of the epoll driver, each behind a safe signature.
//!
//! Nothing here makes decisions: results are returned as the kernel gave them, except `EINTR`, which is retried if the
//! call neither waited nor moved a byte.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::retry_on_intr;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};

use crate::driver::kernel_times::ArrivalControl;
use crate::driver::sockets::message;
use crate::driver::stamps::{Asked, LOOKING, Look, ask_for_time};

/// How long a wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Poll without waiting.
    Now,
    /// At most this long, never less unless there is an event.
    After(Duration),
    /// Until there is an event.
    Never,
}

/// An epoll instance and its way of waiting.
#[derive(Debug)]
pub(super) struct Poller {
    fd: OwnedFd,
    /// Whether `epoll_pwait2` (Linux 5.11) returned `ENOSYS` or was denied: then waits are in milliseconds.
    coarse: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller { fd: epoll::create(epoll::CreateFlags::CLOEXEC)?, coarse: false })
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, interest: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, data)
    }

    /// Changes the interest. The kernel checks the current state again, so an earlier edge is reported and none is
    /// lost.
    pub(super) fn modify(&self, fd: BorrowedFd<'_>, interest: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, data)
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, interest: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: data };
        // SAFETY: `event` is a valid epoll_event for the length of the call; the kernel keeps a copy.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Waits and returns how many of `events` were filled. A signal ends the wait with none.
    pub(super) fn wait(&mut self, events: &mut [libc::epoll_event], timeout: Timeout) -> io::Result<usize> {
        let result = match timeout {
            Timeout::Now => self.wait_ms(events, 0),
            Timeout::Never => self.wait_ms(events, -1),
            Timeout::After(time) if self.coarse => self.wait_ms(events, milliseconds_up(time)),
            Timeout::After(time) => match self.wait_exactly(events, time) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.coarse = true;
                    self.wait_ms(events, milliseconds_up(time))
                }
                result => result,
            },
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    fn wait_ms(&self, events: &mut [libc::epoll_event], milliseconds: i32) -> io::Result<usize> {
        // SAFETY: the kernel writes at most `events.len()` entries into `events`, which outlives the call.
        let count = check(unsafe {
            let length = events.len() as i32;
            libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), length, milliseconds)
        })?;
        Ok(count as usize)
    }

    fn wait_exactly(&self, events: &mut [libc::epoll_event], time: Duration) -> io::Result<usize> {
        let time = libc::timespec {
            tv_sec: i32::try_from(time.as_secs()).unwrap_or(i32::MAX).into(),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: as in `wait_ms`; `time` is a valid timespec for the length of the call and the signal
        // mask is null, which leaves it alone. Called by number, since older C libraries lack the wrapper.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                &raw const time,
                std::ptr::null::<libc::sigset_t>(),
                size_of::<u64>(),
            )
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }
}

/// Whole milliseconds, rounded up: a deadline is never early.
fn milliseconds_up(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// Receives into `memory` without waiting. `Ok(0)` is the peer's FIN.
pub(super) fn receive(fd: BorrowedFd<'_>, memory: &mut [u8]) -> io::Result<usize> {
    let (_, bytes) = retry_on_intr(|| net::recv(fd, &mut *memory, RecvFlags::DONTWAIT))?;
    Ok(bytes)
}

/// The same with control messages.
pub(super) fn receive_stamped(fd: BorrowedFd<'_>, memory: &mut [u8]) -> io::Result<(usize, ArrivalControl)> {
    let mut control = ArrivalControl::default();
    let piece = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    let mut header = message(&raw const piece, 1);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the memory and the room for control messages are writable and outlive the call.
    let bytes = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    Ok((bytes, control))
}

/// Sends as much as the kernel accepts at once, without a signal if the peer has disconnected. If the end of the stream
/// follows at once, as `last` says, both may share one segment.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8], last: bool) -> io::Result<usize> {
    Ok(retry_on_intr(|| net::send(fd, bytes, sending(last)))?)
}

/// The same for several pieces, in order, as one call.
pub(super) fn send_pieces(fd: BorrowedFd<'_>, pieces: &[io::IoSlice<'_>], last: bool) -> io::Result<usize> {
    let send = || net::sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), sending(last));
    Ok(retry_on_intr(send)?)
}

/// The same, and asks for times of the last byte.
pub(super) fn send_stamped(
    fd: BorrowedFd<'_>,
    pieces: &[io::IoSlice<'_>],
    last: bool,
    asked: Asked,
) -> io::Result<usize> {
    let mut header = message(pieces.as_ptr().cast(), pieces.len());
    ask_for_time(&mut header, asked);
    // SAFETY: an IoSlice has the layout of an iovec, and the pieces and the control message outlive the call.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, sending(last).bits() as i32) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Looks at the error queue. False if there is nothing.
pub(super) fn look(fd: BorrowedFd<'_>, look: &mut Look) -> bool {
    // SAFETY: the header's control buffer belongs to `look`, and outlives the call.
    unsafe { libc::recvmsg(fd.as_raw_fd(), look.begin(), LOOKING) >= 0 }
}

fn sending(last: bool) -> SendFlags {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if last { flags | SendFlags::MORE } else { flags }
}

/// Accepts a connection from a listener, non-blocking and not inherited by children.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// Takes the pending error of a socket: the result of a connection attempt.
pub(super) fn socket_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(net::sockopt::socket_error(fd)??)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_milliseconds_is_never_early() {
        assert_eq!(milliseconds_up(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds_up(Duration::from_millis(7)), 7);
        assert_eq!(milliseconds_up(Duration::from_micros(7_001)), 8);
        assert_eq!(milliseconds_up(Duration::from_secs(1 << 40)), i32::MAX);
    }
}
