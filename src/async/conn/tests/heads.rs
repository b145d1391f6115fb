//! The heads of the handshake that a connection keeps, and its addresses.

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{Acceptance, Upgrader};

const REQUEST: &[u8] =
    b"GET /rooms/7?name=ada&name=b%20c HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Cookie: id=7\r\nX-Latin: gr\xfcn\r\n\r\n";

async fn accepted(upgrader: Upgrader) -> Conn<DuplexStream> {
    let (near, mut far) = duplex(4096);
    far.write_all(REQUEST).await.expect("sent");
    upgrader.accept(near).await.expect("a connection")
}

fn check(request: Option<&http::Request<()>>) {
    let request = request.expect("it was kept");
    assert_eq!(request.method(), "GET");
    assert_eq!((request.uri().path(), request.uri().query()), ("/rooms/7", Some("name=ada&name=b%20c")));
    assert_eq!(request.headers()["cookie"], "id=7");
    assert_eq!(request.headers()["x-latin"].as_bytes(), b"gr\xfcn");
}

#[tokio::test]
async fn a_request_is_kept_only_if_that_was_asked_for() {
    let conn = accepted(Upgrader::new()).await;
    assert!(conn.request().is_none() && conn.response().is_none());

    let conn = accepted(Upgrader::new().keep_request(true)).await;
    check(conn.request());
    assert!(conn.response().is_none());
    let (reader, writer) = conn.split();
    check(reader.request());
    check(writer.request());
    check(reader.reunite(writer).expect("one connection").request());
}

#[tokio::test]
async fn a_request_is_kept_whoever_decides_about_it() {
    let upgrader = Upgrader::new().keep_request(true);
    let (near, mut far) = duplex(4096);
    far.write_all(REQUEST).await.expect("sent");
    let pending = upgrader.receive(near).await.expect("a request");
    check(pending.accept().await.expect("a connection").request());

    let mut request =
        http::Request::builder().uri("/rooms/7?name=ada&name=b%20c").header("x-latin", &b"gr\xfcn"[..]);
    for (name, value) in [
        ("host", "a.example"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("cookie", "id=7"),
    ] {
        request = request.header(name, value);
    }
    let request = request.body(()).expect("a request");
    let (response, negotiated) = upgrader.negotiate(&request).expect("accepted");
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (stream, mut far) = duplex(4096);
    let local = "192.0.2.1:80".parse().ok();
    let mut conn = negotiated.with_addresses(local, None).open(stream);
    check(conn.request());
    assert_eq!((conn.local_addr(), conn.peer_addr()), (local, None));
    conn.write("hello").await.expect("sent");
    assert_eq!(frame_of(&mut far).await.1, b"hello");
    let (plain, _) = Upgrader::new().negotiate(&request).expect("accepted");
    assert_eq!(plain.status(), 101);
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_response_is_kept_only_if_that_was_asked_for() {
    for keeps in [false, true] {
        let (near, far) = duplex(4096);
        let upgrader = Upgrader::new().response_header("X-Server", "this");
        let dialer = crate::Dialer::new().keep_response(keeps);
        let (server, client) = tokio::join!(upgrader.accept(near), dialer.dial_over("ws://localhost/", far));
        let (_server, client) = (server.expect("accepted"), client.expect("dialled"));
        assert!(client.request().is_none());
        let kept =
            client.response().map(|response| (response.status().as_u16(), &response.headers()["x-server"]));
        assert_eq!(kept.is_some(), keeps);
        if let Some((status, name)) = kept {
            assert_eq!((status, name.as_bytes()), (101, &b"this"[..]));
            let (reader, writer) = client.split();
            assert!(reader.response().is_some() && writer.response().is_some());
        }
    }
}

#[cfg(feature = "client")]
#[tokio::test]
async fn both_ends_over_tcp_know_their_addresses() {
    async fn accept(way: usize, stream: TcpStream) -> Conn<TcpStream> {
        let upgrader = Upgrader::new();
        match way {
            0 => upgrader.accept_tcp(stream).await,
            1 => upgrader.accept_tcp_with(stream, |_| Acceptance::new()).await,
            _ => upgrader.receive_tcp(stream).await.expect("a request").accept().await,
        }
        .expect("a connection")
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    for way in 0..3 {
        let url = format!("ws://{address}/");
        let accepting = async { accept(way, listener.accept().await.expect("a stream").0).await };
        let (server, client) = tokio::join!(accepting, crate::dial(&url));
        let client = client.expect("a connection");
        assert_eq!((server.local_addr(), client.peer_addr()), (Some(address), Some(address)));
        assert!(server.peer_addr().is_some());
        assert_eq!(server.peer_addr(), client.local_addr());
        let (reader, writer) = server.split();
        assert_eq!((reader.peer_addr(), writer.peer_addr()), (client.local_addr(), client.local_addr()));
    }
}

/// On tokio-uring's runtime, if io_uring is allowed.
#[cfg(all(feature = "client", feature = "uring", target_os = "linux", not(target_env = "musl")))]
#[test]
fn both_ends_over_tokio_uring_know_their_addresses() {
    if let Err(error) = crate::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        eprintln!("io_uring is denied here ({error}): nothing to test");
        return;
    }
    tokio_uring::start(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let url = format!("ws://{address}/");
        let upgrader = Upgrader::new();
        let accepting = async { upgrader.accept_uring(listener.accept().await.expect("a stream").0).await };
        let dialer = crate::Dialer::new();
        let (server, client) = tokio::join!(accepting, dialer.dial_uring(&url));
        let (mut server, mut client) = (server.expect("accepted"), client.expect("dialled"));
        assert_eq!((server.local_addr(), client.peer_addr()), (Some(address), Some(address)));
        assert!(server.peer_addr().is_some());
        assert_eq!(server.peer_addr(), client.local_addr());
        client.write("hello").await.expect("sent");
        assert_eq!(server.read().await.expect("a message"), "hello".into());
    });
}
