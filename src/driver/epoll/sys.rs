//! The system calls of the epoll driver, each behind a safe signature or with the duty of its caller named.
//!
//! Nothing here decides anything: results come back as the kernel gave them, `EINTR` excepted, which is
//! retried where the call neither waited nor moved a byte.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How long a wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Only look.
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
    /// Whether `epoll_pwait2` (Linux 5.11) answered `ENOSYS` or was denied: then waits are in milliseconds.
    coarse: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Poller { fd: unsafe { OwnedFd::from_raw_fd(fd) }, coarse: false })
    }

    pub(super) fn add(&self, fd: RawFd, interest: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, data)
    }

    /// Changes the interest. The kernel looks at the present state again, so an edge that came before is
    /// reported and none is lost.
    pub(super) fn modify(&self, fd: RawFd, interest: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, data)
    }

    pub(super) fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: RawFd, interest: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: data };
        // SAFETY: `event` is a valid epoll_event for the length of the call; the kernel keeps a copy.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })?;
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

/// Receives up to `bytes` to `address` without waiting. `Ok(0)` is the peer's FIN.
///
/// # Safety
/// `address` must be writable for `bytes` bytes to which no reference exists.
pub(super) unsafe fn receive(fd: BorrowedFd<'_>, address: *mut u8, bytes: usize) -> io::Result<usize> {
    loop {
        // SAFETY: the caller vouches for the memory; the descriptor is open while borrowed.
        let count = unsafe { libc::recv(fd.as_raw_fd(), address.cast(), bytes, libc::MSG_DONTWAIT) };
        match count_or_error(count) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends what the kernel takes at once, without a signal when the peer is gone. Where the end of the stream follows at once,
/// as `last` says, both may go in one segment.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8], last: bool) -> io::Result<usize> {
    let flags = sending(last);
    loop {
        // SAFETY: `bytes` is readable for its length; the descriptor is open while borrowed.
        let count = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        match count_or_error(count) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The same for several pieces, in order, as one call.
pub(super) fn send_pieces(fd: BorrowedFd<'_>, pieces: &[io::IoSlice<'_>], last: bool) -> io::Result<usize> {
    let flags = sending(last);
    loop {
        // SAFETY: an all-zero msghdr is valid: no name, no control data, no pieces.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of an iovec, and sending does not write through it.
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len() as _;
        // SAFETY: the message names `pieces.len()` readable slices that outlive the call.
        let count = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) };
        match count_or_error(count) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn sending(last: bool) -> libc::c_int {
    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if last { libc::MSG_MORE } else { 0 }
}

/// Takes a connection from a listener, non-blocking and not inherited by children.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers say that the peer's address is not wanted.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
    })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends FIN. A connection that is gone already is none of the caller's concern.
pub(super) fn shutdown_write(fd: BorrowedFd<'_>) {
    // SAFETY: shutdown takes no pointers; the descriptor is open while borrowed.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Makes a listener's accepts return at once when nobody is there.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: these fcntl commands take and return integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Leaves the choice of a local port to `connect`, so that many connections can share a port towards
/// different peers (`IP_BIND_ADDRESS_NO_PORT`; it serves IPv6 sockets, too).
pub(super) fn bind_without_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a readable int of the size given.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// What became of a connection attempt: the pending error of the socket, taken.
pub(super) fn socket_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are valid for the sizes told and live through the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &mut bytes,
        )
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn count_or_error(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
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
