//! Socket calls that both real drivers make.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{iovec, msghdr};

use super::addresses::TcpInfo;
use echoring_proto::limits::Nanos;

/// The header of a message of these pieces.
pub(super) fn message(pieces: *const iovec, count: usize) -> msghdr {
    // SAFETY: zeroes are a valid msghdr: no name, no vectors, no control data. (It has padding on some
    // platforms, so it cannot be written out field by field.)
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.cast_mut();
    header.msg_iovlen = count as _;
    header
}

/// Sets an option whose value is an integer.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: u32) -> io::Result<()> {
    let bytes = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the option's value is a readable integer of the size given; the descriptor is open while borrowed.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The first bytes of `struct tcp_info` (linux/tcp.h), up to its field `tcpi_rcv_ooopack`. Older kernels fill less.
const TCP_INFO_BYTES: usize = 228;
/// The offset of `tcpi_rtt`, the smoothed round trip in microseconds.
const RTT: usize = 68;
/// The offset of `tcpi_total_retrans`.
const TOTAL_RETRANS: usize = 100;
/// The offset of `tcpi_data_segs_out`.
const DATA_SEGS_OUT: usize = 156;
/// The offset of `tcpi_rcv_ooopack`.
const RCV_OOOPACK: usize = 224;

/// `TCP_INFO` of a TCP connection. `None` for other sockets.
pub(super) fn tcp_info(fd: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut info = [0_u8; TCP_INFO_BYTES];
    let mut bytes = TCP_INFO_BYTES as libc::socklen_t;
    // SAFETY: the option's value is a writable array of the size given, which the kernel does not exceed; the descriptor is open while
    // borrowed.
    let result = unsafe {
        let value = info.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut bytes)
    };
    // What an older kernel does not tell stays 0.
    let field = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    (result == 0).then(|| TcpInfo {
        round_trip: Nanos::from(field(RTT)) * 1_000,
        segments_sent: field(DATA_SEGS_OUT),
        segments_retransmitted: field(TOTAL_RETRANS),
        segments_out_of_order: field(RCV_OOOPACK),
    })
}

/// The segments that a connection has sent again; 0 of other sockets.
pub(super) fn retransmissions(fd: BorrowedFd<'_>) -> u64 {
    tcp_info(fd).map_or(0, |info| info.segments_retransmitted.into())
}

/// Leaves the choice of a local port to `connect`, so that many connections can share a port towards different peers
/// (`IP_BIND_ADDRESS_NO_PORT`; it serves IPv6 sockets, too).
pub(super) fn bind_without_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Sends FIN. A peer that is gone already needs none.
pub(super) fn shutdown_write(fd: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
}
