//! Listening sockets: one per shard where the kernel can share a port, one for all where it cannot.

mod inherited;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use inherited::InheritedListener;

use crate::limits::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};
use crate::node::config::{ServerConfig, StartError, StartErrorKind};
use crate::node::listen_address::ListenAddress;
use echoring_async::limits::LISTEN_BACKLOG;
use echoring_runtime::listening::{descriptors_hint, retry_busy};

/// Listening sockets by shard, and their actual addresses.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) by_shard: Vec<Vec<OwnedFd>>,
    pub(crate) addresses: Vec<ListenAddress>,
    /// Socket files to remove when the server ends.
    pub(crate) files: Vec<PathBuf>,
    /// Sockets of shards that are bound and do not listen yet.
    pub(crate) later: Vec<Socket>,
    /// The same sockets, for a successor.
    pub(crate) kept: Vec<InheritedListener>,
}

pub(crate) fn open(config: &ServerConfig, shards: usize) -> Result<Listeners, StartError> {
    let mut listeners =
        Listeners { by_shard: (0..shards).map(|_| Vec::new()).collect(), ..Listeners::default() };
    if config.listen.is_empty() && config.inherited.is_empty() {
        let hint = "name an address, such as 127.0.0.1:0";
        return Err(StartError::new(StartErrorKind::NoListener, "no listen address", hint));
    }
    for inherited in &config.inherited {
        inherited.distribute(config.keeps_listeners, &mut listeners).map_err(|error| {
            let problem = format!("an inherited listener is unusable: {error}");
            StartError::new(StartErrorKind::Inherited(error.kind()), problem, "pass a listening socket")
        })?;
    }
    let has =
        |address: &ListenAddress| config.inherited.iter().any(|inherited| inherited.address() == address);
    for address in config.listen.iter().filter(|address| !has(address)) {
        let opened = match address {
            ListenAddress::Tcp(address) => retry_busy(|| open_tcp(config, *address, &mut listeners)),
            ListenAddress::Unix(path) => retry_busy(|| open_unix(config, path, &mut listeners)),
        };
        opened.map_err(|error| cannot_listen(address, &error))?;
    }
    Ok(listeners)
}

/// The error for a socket that cannot listen although it is bound.
pub(crate) fn cannot_share(error: io::Error) -> StartError {
    let line = format!("a further socket of a shared port cannot listen: {error}");
    StartError::new(StartErrorKind::Listen(error.kind()), line, hint_of_listening(error.kind()))
}

fn cannot_listen(address: &ListenAddress, error: &io::Error) -> StartError {
    let problem = format!("cannot listen on {address}: {error}");
    if let Some(hint) = descriptors_hint(error) {
        return StartError::new(StartErrorKind::Descriptors, problem, hint);
    }
    let hint = match (error.kind(), address) {
        (io::ErrorKind::PermissionDenied, ListenAddress::Unix(_)) => {
            "choose a directory that this user may write to, or change its owner or mode"
        }
        _ => hint_of_listening(error.kind()),
    };
    StartError::new(StartErrorKind::Listen(error.kind()), problem, hint)
}

fn hint_of_listening(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop the process that listens there, or choose another address",
        io::ErrorKind::AddrNotAvailable => "use an address of this host, or 0.0.0.0 for all addresses",
        io::ErrorKind::PermissionDenied => "use a port above 1023, or grant CAP_NET_BIND_SERVICE",
        io::ErrorKind::NotFound => "create the directory of the socket first",
        _ => "choose another address",
    }
}

/// Whether the kernel has the congestion control. Checked before anything is bound, so that the error names the real problem.
pub(crate) fn check_congestion(config: &ServerConfig) -> Result<(), StartError> {
    let Some(name) = &config.congestion else { return Ok(()) };
    let set = |socket: Socket| socket.set_tcp_congestion(name.as_bytes());
    let checked = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).and_then(set);
    checked.map_err(|error| no_congestion(name, &error))
}

fn no_congestion(name: &str, error: &io::Error) -> StartError {
    let list = |file| std::fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let allowed = list("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
            format!("without CAP_NET_ADMIN the choices are: {allowed}")
        }
        _ => format!("this kernel has: {}", list("/proc/sys/net/ipv4/tcp_available_congestion_control")),
    };
    let kind = StartErrorKind::Congestion(error.kind());
    StartError::new(kind, format!("no congestion control {name:?}: {error}"), hint)
}

fn open_tcp(config: &ServerConfig, address: SocketAddr, listeners: &mut Listeners) -> io::Result<()> {
    let only_v6 = is_only_v6(address, &config.listen);
    if address.port() != 0 {
        // With SO_REUSEPORT the kernel would share the port with another process silently.
        drop(bind_tcp(address, only_v6, false)?);
    }
    let mut address = address;
    let mut sockets = Vec::with_capacity(listeners.by_shard.len());
    for _ in &listeners.by_shard {
        let socket = bind_tcp(address, only_v6, true)?;
        // Accepted connections inherit these options from their listener.
        socket.set_tcp_nodelay(true)?;
        if let Some(name) = &config.congestion {
            socket.set_tcp_congestion(name.as_bytes())?;
        }
        if !config.autotune_sockets {
            socket.set_send_buffer_size(SOCKET_SEND_BYTES)?;
            socket.set_recv_buffer_size(SOCKET_RECEIVE_BYTES)?;
        }
        if let Some(bound) = socket.local_addr()?.as_socket() {
            address = bound;
        }
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.listen(LISTEN_BACKLOG)?;
    }
    if config.keeps_listeners {
        listeners.kept.push(InheritedListener::new(clones(&sockets)?)?);
    }
    // Only after success: a port in use is tried again.
    for (shard, socket) in listeners.by_shard.iter_mut().zip(sockets) {
        shard.push(socket.into());
    }
    listeners.addresses.push(ListenAddress::Tcp(address));
    Ok(())
}

fn clones(sockets: &[Socket]) -> io::Result<Vec<OwnedFd>> {
    sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
}

/// The admin address on TCP.
pub fn open_admin_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    retry_busy(|| {
        let socket = bind_tcp(address, false, false)?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(socket.into())
    })
}

/// `[::]` accepts IPv4 too, as with other servers, unless there is an IPv4 listener on the same port.
fn is_only_v6(address: SocketAddr, listen: &[ListenAddress]) -> bool {
    let is_v4_at_port = |other: &ListenAddress| matches!(other, ListenAddress::Tcp(other) if other.is_ipv4() && other.port() == address.port());
    !address.ip().is_unspecified() || (address.port() != 0 && listen.iter().any(is_v4_at_port))
}

fn bind_tcp(address: SocketAddr, only_v6: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&SockAddr::from(address))?;
    if !shared {
        // Only listening shows whether another process listens.
        socket.listen(1)?;
    }
    Ok(socket)
}

fn open_unix(config: &ServerConfig, path: &Path, listeners: &mut Listeners) -> io::Result<()> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(LISTEN_BACKLOG)?;
    if config.keeps_listeners {
        let kept = InheritedListener::new(clones(std::slice::from_ref(&socket))?)?;
        listeners.kept.push(kept.remove_file());
    }
    for shard in &mut listeners.by_shard {
        shard.push(socket.try_clone()?.into());
    }
    listeners.files.push(path.to_owned());
    listeners.addresses.push(ListenAddress::Unix(path.to_owned()));
    Ok(())
}

/// A socket that nothing listens on is left over from a process that has ended.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() || std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(congestion: &str) -> ServerConfig {
        let address = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        ServerConfig {
            listen: vec![address],
            congestion: Some(congestion.to_owned()),
            ..ServerConfig::default()
        }
    }

    #[test]
    fn accepted_connections_have_the_congestion_control_of_their_listener() {
        // Every kernel has it, and every user may set it.
        let Listeners { mut by_shard, addresses, .. } = open(&config("reno"), 1).expect("opens");
        let ListenAddress::Tcp(address) = addresses[0] else { panic!("a TCP address was asked for") };
        let _client = std::net::TcpStream::connect(address).expect("connects");
        let listener = TcpListener::from(by_shard.remove(0).remove(0));
        let (accepted, _) = listener.accept().expect("accepts");
        let name = socket2::SockRef::from(&accepted).tcp_congestion().expect("has one");
        assert!(name.starts_with(b"reno\0"), "{name:?}");
    }

    #[test]
    fn every_address_of_ipv6_takes_ipv4_too_unless_that_is_listened_on_as_well() {
        let tcp = |address: &str| ListenAddress::Tcp(address.parse().expect("an address"));
        let is_only = |address: &str, listen: &[ListenAddress]| {
            is_only_v6(address.parse().expect("an address"), listen)
        };
        assert!(!is_only("[::]:80", &[tcp("[::]:80"), tcp("127.0.0.1:81")]));
        assert!(!is_only("[::]:0", &[tcp("[::]:0"), tcp("0.0.0.0:0")]));
        assert!(is_only("[::]:80", &[tcp("[::]:80"), tcp("0.0.0.0:80")]));
        assert!(is_only("[::1]:80", &[tcp("[::1]:80")]));
        let config = ServerConfig { listen: vec![tcp("[::]:0")], ..ServerConfig::default() };
        // Without IPv6 there is nothing to test.
        let Ok(listeners) = open(&config, 2) else { return };
        let ListenAddress::Tcp(address) = listeners.addresses[0] else {
            panic!("a TCP address was asked for")
        };
        for host in ["127.0.0.1", "::1"] {
            let host: std::net::IpAddr = host.parse().expect("an address");
            std::net::TcpStream::connect((host, address.port())).expect("connects");
        }
    }

    #[test]
    fn a_socket_file_that_may_not_be_made_is_cured_by_a_folder_and_no_port() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let unix = cannot_listen(&ListenAddress::Unix("/run/x.sock".into()), &denied);
        assert!(unix.hint.contains("directory"), "{unix}");
        let tcp = cannot_listen(&ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 80))), &denied);
        assert!(tcp.hint.contains("1023"), "{tcp}");
    }

    #[test]
    fn want_of_descriptors_is_cured_by_their_limit_and_no_other_address() {
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        for address in [ListenAddress::Unix("x".into()), ListenAddress::Tcp(([127, 0, 0, 1], 80).into())] {
            let error = cannot_listen(&address, &error);
            assert!(error.hint.contains("descriptor limit"), "{error}");
        }
    }

    #[test]
    fn what_becomes_free_while_it_is_tried_is_taken() {
        let mut stranger = Some(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let address = stranger.as_ref().and_then(|stranger| stranger.local_addr().ok()).expect("bound");
        let config = ServerConfig { listen: vec![ListenAddress::Tcp(address)], ..ServerConfig::default() };
        let (mut tries, mut listeners) =
            (0, Listeners { by_shard: vec![Vec::new()], ..Listeners::default() });
        let opened = retry_busy(|| {
            tries += 1;
            if tries == 3 {
                drop(stranger.take());
            }
            open_tcp(&config, address, &mut listeners)
        });
        opened.expect("it is free");
        assert_eq!((tries, &listeners.addresses[..]), (3, &[ListenAddress::Tcp(address)][..]));
        // Other errors are returned at once.
        let mut tries = 0;
        let denied = retry_busy(|| -> io::Result<()> {
            tries += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((denied.expect_err("denied").kind(), tries), (io::ErrorKind::PermissionDenied, 1));
    }

    #[test]
    fn a_congestion_control_that_is_not_to_be_had_is_told_with_those_that_are() {
        let Err(error) = check_congestion(&config("no-such-one")) else { panic!("the kernel has it") };
        assert_eq!(error.kind(), StartErrorKind::Congestion(io::ErrorKind::NotFound));
        assert!(error.hint.contains("reno"), "{error}");
    }
}
