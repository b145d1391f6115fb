//! Connections of a shard that reach their server through a proxy: HTTP CONNECT and SOCKS5, plain and with TLS, and
//! proxies that refuse, talk nonsense, or are silent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::{certificate, echo_client};
use echoring_async::tls::{ServerTls, server_config};
use echoring_proto::connection::{Cause, ConnectionConfig, Seed, TlsFault};
use echoring_proto::handshake::{BadHandshake, Dial};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_proto::tunnel::{ProxyKind, ProxyServer, SocksRefusal, Tunnel, TunnelError};
use echoring_runtime::driver::epoll::Epoll;
use echoring_runtime::driver::uring::Uring;
use echoring_runtime::driver::{Driver, Options, RemoteAddress};
use echoring_runtime::shard::{Allowance, Mailboxes, Route, Shard, ShardConfig};
use echoring_server::{Disposition, Handler, ListenAddress, Message, Remote, Result, Server};
use socket2::{Domain, SockAddr, Socket, Type};

use certificate::{certificate, localhost, trusting};
use echo_client::{EchoClient, MESSAGE};

/// Longer than anything takes that a test waits for, so that a hang fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// The server's name in requests to proxies, which resolve it themselves.
const SERVER: &str = "server.example";

/// How the connection of an [`EchoClient`] went.
#[derive(Debug, PartialEq)]
struct Outcome {
    echo: Vec<u8>,
    cause: Cause,
}

impl Outcome {
    fn echoed() -> Outcome {
        Outcome { echo: MESSAGE.to_vec(), cause: Cause::Local }
    }

    fn failed(cause: Cause) -> Outcome {
        Outcome { echo: Vec::new(), cause }
    }

    fn refused(error: TunnelError) -> Outcome {
        Outcome::failed(Cause::Tunnel(error))
    }
}

fn run(driver: Driver, route: &Route, handshake_timeout: Nanos) -> Outcome {
    let dial = Dial {
        host: SERVER.to_owned(),
        path: "/echo".to_owned(),
        origin: None,
        subprotocols: Vec::new(),
        headers: Vec::new(),
    };
    let connection = ConnectionConfig { dial: Some(dial), handshake_timeout, ..ConnectionConfig::default() };
    let config = ShardConfig { connection, connections: 4, security: Default::default(), seed: Seed::System };
    let client = EchoClient::new(vec![route.clone()]);
    let mailboxes = Mailboxes::connect(1, 0).remove(0);
    let mut shard = Shard::new(driver, client, config, Allowance::standalone(4), mailboxes);
    while !shard.application().is_over() {
        shard.tick(None).expect("the driver works");
    }
    let connection = shard.application().connections.remove(0);
    let cause = connection.closed.expect("the connection has ended").cause;
    assert_eq!(shard.ended_by(cause.name()), 1);
    Outcome { echo: connection.echo, cause }
}

/// The outcome of a connection on one of the drivers; `None` without io_uring.
fn run_on(uring: bool, route: &Route, timeout: Nanos) -> Option<Outcome> {
    let options = Options { connections: 4, ..Options::default() };
    match uring {
        true => Uring::new(&options).ok().map(|driver| run(Driver::Uring(driver), route, timeout)),
        false => Some(run(Driver::Epoll(Epoll::new(&options).expect("epoll")), route, timeout)),
    }
}

/// The outcome of connections through the proxy that `proxy` starts, which is the same on both drivers.
fn outcome(scheme: &str, tls: bool, timeout: Nanos, mut proxy: impl FnMut() -> Proxy) -> Outcome {
    let mut connect = |uring: bool| {
        let Proxy { address, thread } = proxy();
        let server = ProxyServer::parse_any(&format!("{scheme}{address}"), ProxyKind::Http).expect("a proxy");
        let tunnel = Tunnel::new(&server, SERVER, 80).expect("encodable");
        let route = Route {
            address: address.into(),
            security: tls.then(|| (trusting(), localhost())),
            tunnel: Some(Arc::new(tunnel)),
        };
        let outcome = run_on(uring, &route, timeout);
        match outcome {
            Some(_) => thread.join().expect("the proxy does not panic"),
            // Nobody connects.
            None => eprintln!("not tested, io_uring is not available here"),
        }
        outcome
    };
    let by_epoll = connect(false).expect("epoll is always available");
    if let Some(by_uring) = connect(true) {
        assert_eq!(by_uring, by_epoll);
    }
    by_epoll
}

/// A proxy for one connection.
struct Proxy {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

/// The proxy's behaviour after its last response.
#[derive(Clone, Copy)]
enum After {
    /// It carries bytes between the client and a server at this address.
    Relay(SocketAddr),
    /// It waits until the client ends the connection.
    Wait,
    /// It ends the connection.
    End,
}

/// A request that the proxy expects, and its response.
type Exchange = (Vec<u8>, Vec<u8>);

/// A proxy that responds in pieces of `piece_bytes`.
fn scripted(exchanges: Vec<Exchange>, piece_bytes: usize, after: After) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let thread = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.set_nodelay(true).expect("a socket");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        for (request, response) in exchanges {
            let mut heard = vec![0; request.len()];
            client.read_exact(&mut heard).expect("a request");
            assert_eq!(heard.escape_ascii().to_string(), request.escape_ascii().to_string());
            for piece in response.chunks(piece_bytes) {
                client.write_all(piece).expect("the client listens");
                if piece_bytes == 1 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        match after {
            After::Relay(server) => relay(client, server),
            After::Wait => {
                let mut rest = Vec::new();
                let ended = client.read_to_end(&mut rest);
                assert!(
                    ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
                );
                assert_eq!(rest, b"", "nothing follows before the tunnel is established");
            }
            After::End => {}
        }
    });
    Proxy { address, thread }
}

fn relay(client: TcpStream, server: SocketAddr) {
    let server = TcpStream::connect(server).expect("the server listens");
    server.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let one_way = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Either side may reset the connection once it has what it wants.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    let clone = |stream: &TcpStream| stream.try_clone().expect("descriptors are free");
    let up = one_way(clone(&client), clone(&server));
    let down = one_way(server, client);
    up.join().and(down.join()).expect("copying does not panic");
}

fn connect_request(authorization: &str) -> Vec<u8> {
    format!("CONNECT {SERVER}:80 HTTP/1.1\r\nHost: {SERVER}:80\r\n{authorization}\r\n").into_bytes()
}

fn http(response: &[u8]) -> Vec<Exchange> {
    vec![(connect_request(""), response.to_vec())]
}

fn socks5_connect() -> Vec<u8> {
    [b"\x05\x01\x00\x03", &[SERVER.len() as u8][..], SERVER.as_bytes(), &[0, 80]].concat()
}

fn socks5(reply: &[u8]) -> Vec<Exchange> {
    vec![(b"\x05\x01\x00".to_vec(), b"\x05\x00".to_vec()), (socks5_connect(), reply.to_vec())]
}

const OK: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const SUCCEEDED: &[u8] = b"\x05\x00\x00\x01\x7f\0\0\x01\0\x50";

/// What the server does.
struct Echo;

impl Handler for Echo {
    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }
}

/// Runs `test` with the address of a server that echoes.
fn with_server(tls: bool, test: impl FnOnce(SocketAddr)) {
    let mut builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/echo", || Echo);
    if tls {
        let files = certificate();
        builder =
            builder.tls(server_config(&ServerTls::new(&files.cert, &files.key)).expect("a configuration"));
    }
    let server = builder.start().expect("the server starts");
    let [ListenAddress::Tcp(address)] = *server.addresses() else { panic!("{:?}", server.addresses()) };
    test(address);
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_message_is_echoed_through_either_kind_of_proxy_with_and_without_tls() {
    for tls in [false, true] {
        with_server(tls, |server| {
            for piece_bytes in [1, usize::MAX] {
                let through_http = outcome("http://", tls, 30 * SECOND, || {
                    scripted(http(OK), piece_bytes, After::Relay(server))
                });
                assert_eq!(through_http, Outcome::echoed(), "tls: {tls}, {piece_bytes}");
                let through_socks5 = outcome("socks5://", tls, 30 * SECOND, || {
                    scripted(socks5(SUCCEEDED), piece_bytes, After::Relay(server))
                });
                assert_eq!(through_socks5, Outcome::echoed(), "tls: {tls}, {piece_bytes}");
            }
        });
    }
}

#[test]
fn user_names_and_passwords_are_sent() {
    with_server(false, |server| {
        let with_basic = outcome("http://u:p@", false, 30 * SECOND, || {
            let request = connect_request("Proxy-Authorization: Basic dTpw\r\n");
            scripted(vec![(request, OK.to_vec())], usize::MAX, After::Relay(server))
        });
        assert_eq!(with_basic, Outcome::echoed());
        let with_password = outcome("socks5://u:p@", false, 30 * SECOND, || {
            let exchanges = vec![
                (b"\x05\x02\x00\x02".to_vec(), b"\x05\x02".to_vec()),
                (b"\x01\x01u\x01p".to_vec(), b"\x01\x00".to_vec()),
                (socks5_connect(), SUCCEEDED.to_vec()),
            ];
            scripted(exchanges, usize::MAX, After::Relay(server))
        });
        assert_eq!(with_password, Outcome::echoed());
    });
}

#[test]
fn a_refusal_ends_the_connection_with_the_proxys_reason() {
    for tls in [false, true] {
        let refused = |scheme, exchanges: &dyn Fn() -> Vec<Exchange>| {
            outcome(scheme, tls, 30 * SECOND, || scripted(exchanges(), usize::MAX, After::Wait))
        };
        let cases = [
            (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], TunnelError::Status(407)),
            (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!", TunnelError::Status(502)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", TunnelError::Http(BadHandshake::Malformed)),
            (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n", TunnelError::UnexpectedBytes),
        ];
        for (response, error) in cases {
            assert_eq!(refused("http://", &|| http(response)), Outcome::refused(error), "tls: {tls}");
        }
        let cases = [
            (&b"\x05\x05\x00\x01\0\0\0\0\0\0"[..], TunnelError::Socks(SocksRefusal::Refused(5))),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", TunnelError::Socks(SocksRefusal::Malformed)),
            (b"\x05\x00\x00\x01\x7f\0\0\x01\0\x50\x00", TunnelError::UnexpectedBytes),
        ];
        for (reply, error) in cases {
            assert_eq!(refused("socks5://", &|| socks5(reply)), Outcome::refused(error), "tls: {tls}");
        }
        let unwilling = || vec![(b"\x05\x01\x00".to_vec(), b"\x05\xff".to_vec())];
        let error = TunnelError::Socks(SocksRefusal::NoAcceptableMethod);
        assert_eq!(refused("socks5://", &unwilling), Outcome::refused(error));
    }
}

#[test]
fn a_silent_proxy_is_given_up_after_the_handshake_timeout() {
    let timed_out = Outcome::failed(Cause::HandshakeTimeout);
    for (scheme, exchanges) in
        [("http://", vec![]), ("http://", http(b"HTTP/1.1 200 OK\r\n")), ("socks5://", socks5(b"\x05\x00"))]
    {
        // The proxy has received the first request only.
        let request = match exchanges.is_empty() {
            true => vec![(connect_request(""), Vec::new())],
            false => exchanges,
        };
        let silent =
            outcome(scheme, true, 200 * MILLISECOND, || scripted(request.clone(), usize::MAX, After::Wait));
        assert_eq!(silent, timed_out, "{scheme}");
    }
}

#[test]
fn a_transport_that_is_never_connected_is_given_up_after_the_handshake_timeout() {
    let path = std::env::temp_dir().join(format!("echoring-tunnels-{}.sock", std::process::id()));
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    listener.bind(&SockAddr::unix(&path).expect("a short path")).expect("a free path");
    listener.listen(0).expect("a listener");
    let _full = UnixStream::connect(&path).expect("there is room for one");
    for uring in [false, true] {
        for tls in [false, true] {
            let security = tls.then(|| (trusting(), localhost()));
            let route = Route { security, address: RemoteAddress::Unix(path.clone()), tunnel: None };
            if let Some(outcome) = run_on(uring, &route, 200 * MILLISECOND) {
                assert_eq!(outcome, Outcome::failed(Cause::HandshakeTimeout), "{uring} {tls}");
            }
        }
    }
    std::fs::remove_file(path).expect("the socket's file");
}

#[test]
fn a_proxy_that_ends_the_connection_is_an_end_in_the_handshake() {
    for tls in [false, true] {
        for exchanges in [http(b""), http(b"HTTP/1.1 200"), socks5(b"\x05\x00")] {
            let scheme = if exchanges.len() == 1 { "http://" } else { "socks5://" };
            let ended =
                outcome(scheme, tls, 30 * SECOND, || scripted(exchanges.clone(), 1 << 10, After::End));
            assert_eq!(ended, Outcome::failed(Cause::Gone), "{scheme}");
        }
    }
}

#[test]
fn the_certificate_is_verified_behind_the_proxy() {
    with_server(false, |server| {
        let plain =
            outcome("http://", true, 30 * SECOND, || scripted(http(OK), usize::MAX, After::Relay(server)));
        assert!(matches!(plain.cause, Cause::Tls(TlsFault::Handshake, _)), "{plain:?}");
    });
}
