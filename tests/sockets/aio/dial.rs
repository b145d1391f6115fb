//! `Dialer`: the requests that it sends, and its results for each answer.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_async::{DialError, Dialer, Jar, Message, Settings, Stage, Upgrader, dial, ring_allowed};
use echoring_proto::CloseCode;
use echoring_proto::Url;
use echoring_proto::connection::Compression;
use echoring_proto::handshake::{BadField, BadHandshake};
use echoring_proto::url::BadUrl;

use tokio::io::AsyncWriteExt as _;

use super::head::read_head;
use super::ports;
use super::support::{PATIENCE, canned_server, dialer, echo_server, tungstenite_server, url};

#[tokio::test]
async fn what_was_set_is_asked_and_tungstenite_agrees() {
    let (address, server) = tungstenite_server(|request, response| {
        let said = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(request.uri().path_and_query().expect("a path").as_str(), "/chat?room=1");
        assert_eq!(said("authorization"), Some("Bearer secret"));
        assert_eq!(said("origin"), Some("https://page.example"));
        assert_eq!(said("host"), Some("virtual.example"));
        assert_eq!(said("sec-websocket-protocol"), Some("chat, superchat"));
        assert_eq!(said("sec-websocket-version"), Some("13"));
        response.headers_mut().insert("sec-websocket-protocol", "superchat".parse().expect("a value"));
        response.headers_mut().insert("x-served-by", "tungstenite".parse().expect("a value"));
    });
    let dialer = dialer()
        .header("Authorization", "Bearer secret")
        .origin("https://page.example")
        .host("virtual.example")
        .subprotocols(["chat", "superchat"]);
    let (mut conn, response) =
        dialer.dial_with_response(&format!("ws://{address}/chat?room=1")).await.expect("a connection");
    assert_eq!(conn.subprotocol(), Some("superchat"));
    assert_eq!(conn.peer_addr(), Some(address));
    assert!(conn.local_addr().is_some());
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-served-by"], "tungstenite");
    for message in [Message::from("hello"), Message::from(vec![0, 159, 146, 150])] {
        conn.write(message.clone()).await.expect("written");
        assert_eq!(conn.read().await.expect("the echo"), message);
    }
    drop(conn);
    server.join().expect("no assertion failed");
}

#[tokio::test]
async fn names_are_resolved_and_the_default_dialer_dials() {
    let (address, _server) = echo_server(Upgrader::new()).await;
    let mut conn = dial(&format!("ws://localhost:{}/", address.port())).await.expect("a connection");
    conn.write("hello").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("hello"));
}

#[tokio::test]
async fn a_stream_of_the_programs_own_is_used_and_compression_agreed_on() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let compression = Compression::default();
    let upgrader = Upgrader::new().compression(compression);
    let dialer = Dialer::new().compression(compression);
    let (server, client) = tokio::join!(upgrader.accept(near), dialer.dial_over("ws://a/", far));
    let (mut server, mut client) = (server.expect("opened"), client.expect("opened"));
    let text = "all work and no play ".repeat(500);
    client.write(text.as_str()).await.expect("written");
    assert_eq!(server.read().await.expect("a message"), Message::from(text));
}

#[tokio::test]
async fn the_most_that_a_message_may_have_is_kept() {
    let (address, _server) = echo_server(Upgrader::new().max_message(100_000)).await;
    let dialer = dialer().settings(Settings::default().max_message(70_000));
    let mut conn = dialer.dial(&url(address)).await.expect("a connection");
    conn.write(vec![7; 70_000]).await.expect("written");
    assert_eq!(conn.read().await.expect("the echo").len(), 70_000);
    conn.write(vec![7; 70_001]).await.expect("written");
    conn.read().await.expect_err("too long");
}

#[tokio::test]
async fn a_refusal_comes_with_the_servers_response() {
    let long = "x".repeat(5_000);
    /// Response, whether the server closes after it, the expected error, and the body that the error keeps.
    type Case<'a> = (String, bool, BadHandshake, Option<&'a str>);
    let cases: [Case<'_>; 9] = [
        (
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 9\r\n\r\nno token\nmore".into(),
            false,
            BadHandshake::Status(401),
            Some("no token\n"),
        ),
        (format!("HTTP/1.1 500 Oops\r\n\r\n{long}"), false, BadHandshake::Status(500), Some(&long[..1024])),
        ("HTTP/1.1 403 No\r\n\r\nshort".into(), true, BadHandshake::Status(403), Some("short")),
        (
            "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".into(),
            false,
            BadHandshake::Status(403),
            Some("abcde"),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), false, BadHandshake::Status(200), Some("")),
        (
            "HTTP/1.1 101 Odd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n".into(),
            false,
            BadHandshake::WrongAccept,
            Some(""),
        ),
        ("HTTP/1.1 101 Odd\r\n\r\n".into(), false, BadHandshake::MissingUpgrade, Some("")),
        ("SSH-2.0-OpenSSH_9.2\r\n".into(), false, BadHandshake::Malformed, None),
        (format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), false, BadHandshake::HeadTooBig, None),
    ];
    for (sent, ends, expected, body) in cases {
        let (address, _server) = canned_server(sent.clone().into_bytes(), ends).await;
        let error = dialer().dial(&url(address)).await.expect_err("no WebSocket");
        let DialError::BadHandshake { why, response } = &error else { panic!("{error:?}") };
        assert_eq!(*why, expected, "{sent:.60}");
        let kept = response.as_ref().map(|response| response.body().as_ref());
        assert_eq!(kept, body.map(str::as_bytes), "{sent:.60}");
        if expected == BadHandshake::Status(401) {
            assert_eq!(error.response().expect("a response").headers()["www-authenticate"], "Bearer");
            assert_eq!(error.to_string(), "the server answered 401 Unauthorized instead of 101: no token");
            assert!(!error.is_temporary());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_not_waited_for_long() {
    for (status, kept) in [(403, "begun"), (204, "")] {
        let (near, mut far) = tokio::io::duplex(1 << 12);
        let before = tokio::time::Instant::now();
        let dialer = Dialer::new().handshake_timeout(None);
        let answering = async {
            read_head(&mut far).await;
            let answer = format!("HTTP/1.1 {status} No\r\n\r\nbegun");
            far.write_all(answer.as_bytes()).await.expect("written");
            far
        };
        let (refused, _open) = tokio::join!(dialer.dial_over("ws://a/", near), answering);
        let error = refused.expect_err("no WebSocket");
        assert_eq!(error.response().expect("a response").body(), kept);
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    }
}

#[tokio::test]
async fn a_redirect_is_reported_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let response =
            format!("HTTP/1.1 {status} Go\r\nLocation: wss://b.example/x\r\nContent-Length: 0\r\n\r\n");
        let (address, _server) = canned_server(response.into_bytes(), false).await;
        match dialer().dial(&url(address)).await.expect_err("elsewhere") {
            DialError::Redirect { status: told, location, response } => {
                assert_eq!((told, &*location), (status, "wss://b.example/x"));
                assert_eq!(response.status(), status);
            }
            other => panic!("{other:?}"),
        }
    }
    let (address, _server) = canned_server(b"HTTP/1.1 302 Nowhere\r\n\r\n".to_vec(), true).await;
    let error = dialer().dial(&url(address)).await.expect_err("nowhere");
    assert!(matches!(error, DialError::BadHandshake { why: BadHandshake::Status(302), .. }), "{error:?}");
}

#[tokio::test]
async fn each_way_to_fail_has_its_name() {
    let error = dialer().dial("http://localhost/").await.expect_err("no WebSocket's");
    assert!(matches!(error, DialError::BadUrl(BadUrl::Scheme)));

    let [refusing] = ports::free();
    match dialer().dial(&url(refusing)).await.expect_err("nobody listens") {
        DialError::Connect(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }

    let error = dialer().dial("ws://name.invalid/").await.expect_err("no such name");
    assert!(matches!(error, DialError::Resolve(_)), "{error:?}");

    let (address, _server) = canned_server(Vec::new(), true).await;
    let error = dialer().dial(&url(address)).await.expect_err("nothing said");
    assert!(matches!(error, DialError::Closed), "{error:?}");

    let (address, _server) = canned_server(b"HTTP/1.1 101 Switch".to_vec(), false).await;
    let impatient = dialer().handshake_timeout(Duration::from_millis(50));
    let error = impatient.dial(&url(address)).await.expect_err("half an answer");
    assert!(matches!(error, DialError::Timeout(Stage::Upgrade)), "{error:?}");

    let cases = [
        (dialer().header("X", "a\r\nEvil: 1"), "X", BadField::Value),
        (dialer().header("Sec-WebSocket-Key", "mine"), "Sec-WebSocket-Key", BadField::Reserved),
        (dialer().header("a b", ""), "a b", BadField::Name),
        (dialer().origin("null\r\n"), "Origin", BadField::Value),
        (dialer().host("a\r\nb"), "Host", BadField::Value),
        (dialer().subprotocols(["a b"]), "Sec-WebSocket-Protocol", BadField::Subprotocols),
        (dialer().subprotocols(["a", "b", "a"]), "Sec-WebSocket-Protocol", BadField::Subprotocols),
    ];
    for (dialer, expected, reason) in cases {
        match dialer.dial(&url(refusing)).await.expect_err("a bad field") {
            DialError::BadField { name, why } => assert_eq!((&*name, why), (expected, reason)),
            other => panic!("{other:?}"),
        }
    }
}

/// Records the cookies that it is given, and always returns the same ones.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Jar for Notes {
    fn cookies(&self, url: &Url) -> Option<String> {
        (url.path != "/none").then(|| "id=7; theme=dark".to_owned())
    }

    fn store(&self, url: &Url, set_cookie: &str) {
        self.0.lock().expect("unpoisoned").push(format!("{} {set_cookie}", url.path));
    }
}

#[tokio::test]
async fn cookies_are_asked_of_the_jar_and_told_to_it() {
    let jar = Arc::new(Notes::default());
    let dialer = dialer().cookies(Arc::clone(&jar) as Arc<dyn Jar>);
    for (path, cookie) in [("/a", Some("id=7; theme=dark")), ("/none", None)] {
        let (address, server) = tungstenite_server(move |request, response| {
            assert_eq!(request.headers().get("cookie").map(|value| value.to_str().expect("text")), cookie);
            response.headers_mut().append("set-cookie", "id=8; Path=/".parse().expect("a value"));
            response.headers_mut().append("set-cookie", "x=y".parse().expect("a value"));
        });
        drop(dialer.dial(&format!("ws://{address}{path}")).await.expect("a connection"));
        server.join().expect("no assertion failed");
    }
    // A refusal may set cookies too.
    let refusal = b"HTTP/1.1 401 No\r\nSet-Cookie: login=1\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (address, mut server) = canned_server(refusal, true).await;
    dialer.dial(&format!("ws://{address}/c")).await.expect_err("refused");
    let request = server.join_next().await.expect("a server").expect("its request");
    assert!(request.contains("\r\nCookie: id=7; theme=dark\r\n"), "{request}");
    let told = ["/a id=8; Path=/", "/a x=y", "/none id=8; Path=/", "/none x=y", "/c login=1"];
    assert_eq!(*jar.0.lock().expect("unpoisoned"), told);
}

#[test]
fn a_dial_on_the_ring_speaks_with_tungstenite() {
    if let Err(error) = ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        eprintln!("io_uring is denied here ({error}): nothing to test");
        return;
    }
    let (address, server) = tungstenite_server(|_, _| {});
    tokio_uring::start(async {
        let mut conn = dialer().dial_uring(&url(address)).await.expect("a connection");
        conn.write("through the ring").await.expect("written");
        let read = tokio::time::timeout(PATIENCE, conn.read()).await.expect("in time");
        assert_eq!(read.expect("the echo"), Message::from("through the ring"));
    });
    server.join().expect("the server ends");
}

/// The longest times are times, and no panic.
#[tokio::test]
async fn a_time_has_no_maximum() {
    use echoring_async::{Heartbeat, Listener};

    const LONGEST: Duration = Duration::MAX;
    let heartbeat = || Heartbeat::every(LONGEST).timeout(LONGEST);
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    let upgrader = Upgrader::new().handshake_timeout(LONGEST).write_timeout(LONGEST).heartbeat(heartbeat());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut conn = upgrader.accept_tcp(stream).await.expect("an upgrade");
        let message = conn.read().await.expect("a message");
        conn.write(message).await.expect("written");
        conn.read().await.expect_err("closed");
    });
    let dialer = Dialer::new().connect_timeout(LONGEST).handshake_timeout(LONGEST).write_timeout(LONGEST);
    let mut conn = dialer.heartbeat(heartbeat()).dial(&url).await.expect("a connection");
    conn.write("hello").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("hello"));
    conn.close(CloseCode::NORMAL, "").await.expect("closed");
    serving.await.expect("no panic");
}
