//! Where a successor and its predecessor meet.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::net::sockopt::socket_peercred;

use crate::node::listen_address::ListenAddress;
use crate::node::listeners::remove_stale;
use echoring_runtime::listening::retry_busy;

/// Maximum bytes of a line.
const LINE_BYTES_MAX: u64 = 256;
/// Bytes of a name in the abstract namespace.
const NAME_BYTES_MAX: usize = 107;

/// The events of a server that waits for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A successor is about to take over. This server must accept nothing when the call returns: later connections are
    /// the successor's.
    Leaving,
    /// It did not take over; this server continues.
    Staying,
    /// A successor has taken over. This server must listen nowhere when the call returns, and drains.
    TakenOver,
    /// The server can no longer be taken over, for this reason.
    Broken(&'a str),
}

/// A Unix socket at which a server waits for its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeetingPoint {
    /// In the abstract namespace, which belongs to the network namespace as ports do.
    Abstract(Vec<u8>),
    /// A file, for network namespaces of their own.
    File(PathBuf),
}

impl fmt::Display for MeetingPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeetingPoint::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            MeetingPoint::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl MeetingPoint {
    /// The meeting point of the server that listens on `address`; none for port 0.
    pub fn of(address: &ListenAddress) -> Option<MeetingPoint> {
        let mut name = b"echoring/takeover/".to_vec();
        match address {
            ListenAddress::Tcp(address) if address.port() == 0 => return None,
            ListenAddress::Tcp(address) => name.extend_from_slice(address.to_string().as_bytes()),
            ListenAddress::Unix(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let bytes = path.as_os_str().as_bytes();
                // The end of a long path tells sockets apart; which addresses the other has shows later.
                name.extend_from_slice(b"unix:");
                name.extend_from_slice(&bytes[bytes.len().saturating_sub(NAME_BYTES_MAX - name.len())..]);
            }
        }
        Some(MeetingPoint::Abstract(name))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            MeetingPoint::Abstract(name) => SocketAddr::from_abstract_name(name),
            MeetingPoint::File(path) => SocketAddr::from_pathname(path),
        }
    }

    /// Connects to the server that waits here. `None` without a server of `user` or of root.
    pub(super) fn connect(&self, user: u32) -> io::Result<Option<UnixStream>> {
        match UnixStream::connect_addr(&self.address()?) {
            Ok(stream) => Ok(is_trusted(&stream, user)?.then_some(stream)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits here for successors. A predecessor leaves its place a moment after it was taken over.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        retry_busy(|| {
            if let MeetingPoint::File(path) = self {
                remove_stale(path)?;
            }
            let listener = UnixListener::bind_addr(&self.address()?)?;
            if let MeetingPoint::File(path) = self {
                // Who may connect is checked as well.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            }
            Ok(listener)
        })
    }
}

/// Whether the peer belongs to `user` or to root. Any user may take a name in the abstract namespace.
pub(super) fn is_trusted(stream: &UnixStream, user: u32) -> io::Result<bool> {
    let peer = socket_peercred(stream.as_fd())?.uid;
    Ok(peer.is_root() || peer.as_raw() == user)
}

pub(super) fn send_line(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

/// Reads a line and nothing behind it. Data without an end in time is not a line.
pub(super) fn line(stream: &UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    // Byte by byte: frames may follow the line.
    BufReader::with_capacity(1, stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
