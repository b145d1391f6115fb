//! Where the admin address listens: TCP, or a Unix socket.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use echoring_async::limits::LISTEN_BACKLOG;
use echoring_runtime::listening::retry_busy;
use echoring_server::machinery::{self, open_admin_tcp, remove_stale};
use echoring_server::{InheritedListener, ListenAddress};

/// Opens the admin address. The file of a Unix socket gets the permissions `mode`, belongs to `user`, the later user of
/// the process, and is removed when the server ends.
///
/// # Errors
/// If another process listens there, or the file cannot be made.
pub fn open_admin(address: &ListenAddress, mode: u32, user: u32) -> io::Result<InheritedListener> {
    match address {
        ListenAddress::Tcp(address) => InheritedListener::new(vec![open_admin_tcp(*address)?.into()]),
        ListenAddress::Unix(path) => retry_busy(|| open_unix(path, mode, user)),
    }
}

fn open_unix(path: &Path, mode: u32, user: u32) -> io::Result<InheritedListener> {
    remove_stale(path)?;
    // The file gets the socket's permissions without those of the umask: it never has more than it should.
    let socket = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    socket.set_permissions(Permissions::from_mode(mode))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if user != rustix::process::geteuid().as_raw() {
        chown(path, Some(user), None)?;
    }
    socket.listen(LISTEN_BACKLOG)?;
    Ok(machinery::remove_file(InheritedListener::new(vec![socket.into()])?))
}

/// The users that may connect to an admin address, without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Processes of this machine.
    Local,
    /// Everyone who reaches the address.
    Network,
    /// A Unix socket, by its permissions.
    File {
        /// Whether other users than its owner and root may connect.
        is_shared: bool,
    },
}

impl Reach {
    pub(crate) fn of(address: &ListenAddress) -> Reach {
        match address {
            ListenAddress::Tcp(address) if address.ip().to_canonical().is_loopback() => Reach::Local,
            ListenAddress::Tcp(_) => Reach::Network,
            ListenAddress::Unix(path) => {
                // Connecting needs the permission to write.
                let is_shared = fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o022 != 0);
                Reach::File { is_shared }
            }
        }
    }
}

/// The other end of an admin connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminPeer {
    Tcp(SocketAddr),
    /// The user of the process that connected; `None` if the kernel cannot tell.
    Unix(Option<u32>),
}

impl fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminPeer::Tcp(address) => address.fmt(f),
            AdminPeer::Unix(Some(user)) => write!(f, "user {user}"),
            AdminPeer::Unix(None) => f.write_str("unknown user"),
        }
    }
}

/// A listening admin socket on the control thread.
#[derive(Debug)]
pub(crate) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The stream of an accepted connection.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

pub(crate) type AdminStream = Box<dyn ByteStream>;

impl AdminSocket {
    /// Must be called within a runtime.
    pub(crate) fn new(listener: &InheritedListener) -> io::Result<AdminSocket> {
        let none = || io::Error::from(io::ErrorKind::InvalidInput);
        let socket = Socket::from(machinery::sockets(listener).first().ok_or_else(none)?.try_clone()?);
        socket.set_nonblocking(true)?;
        Ok(match listener.address() {
            ListenAddress::Tcp(_) => AdminSocket::Tcp(TcpListener::from_std(socket.into())?),
            ListenAddress::Unix(_) => {
                AdminSocket::Unix(UnixListener::from_std(OwnedFd::from(socket).into())?)
            }
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(AdminStream, AdminPeer)> {
        match self {
            AdminSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), AdminPeer::Tcp(address)))
            }
            AdminSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Box::new(stream), AdminPeer::Unix(user)))
            }
        }
    }
}
