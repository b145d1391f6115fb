//! Socket calls that both real drivers make.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, SockRef};

/// Whether a stream socket is a TCP socket.
pub(super) fn is_tcp(socket: &impl AsFd) -> bool {
    SockRef::from(socket).domain().is_ok_and(|domain| matches!(domain, Domain::IPV4 | Domain::IPV6))
}

/// Leaves the choice of a local port to `connect`, so that many connections can share a port towards different peers
/// (`IP_BIND_ADDRESS_NO_PORT`; it serves IPv6 sockets, too).
pub(super) fn bind_without_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a readable int of the size given; the descriptor is open while borrowed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends FIN. A peer that is gone already needs none.
pub(super) fn shutdown_write(fd: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
}
