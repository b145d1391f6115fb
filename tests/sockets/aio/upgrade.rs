//! `Upgrader`: on raw streams, and on requests of hyper and axum.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::{any, get};
use echoring_async::{
    Acceptance, Decision, Dialer, HttpResponse, Listener, Message, RequestHead, UpgradeError, Upgrader,
};
use echoring_proto::connection::Compression;
use echoring_proto::handshake::{BadField, OriginPolicy, SubprotocolPreference};
use echoring_proto::limits::HEAD_BYTES_DEFAULT;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tungstenite::client::IntoClientRequest as _;

use super::head::read_head;
use super::patient::Patient;
use super::support::{PATIENCE, dialer, echo, echo_server, serve_each, url};

const GOOD: &[&str] = &[
    "Host: a.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn request(line: &str, more: &[&str]) -> Vec<u8> {
    let fields: Vec<&str> = GOOD.iter().chain(more).copied().collect();
    format!("{line} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n")).into_bytes()
}

/// The result of `upgrader` for the request `sent`, and its answer.
async fn outcome(
    upgrader: &Upgrader,
    sent: &[u8],
    decide: impl FnOnce(&RequestHead<'_>) -> Decision,
) -> (Result<Option<String>, UpgradeError>, String) {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    far.write_all(sent).await.expect("written");
    far.shutdown().await.expect("shut down");
    let accepted = upgrader.accept_with(near, decide).await;
    let subprotocol = accepted.map(|conn| conn.subprotocol().map(str::to_owned));
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.expect("an answer");
    (subprotocol, answer)
}

fn yes(_: &RequestHead<'_>) -> Decision {
    Acceptance::new().into()
}

fn status(refused: Result<Option<String>, UpgradeError>) -> u16 {
    match refused.expect_err("no connection") {
        UpgradeError::NotUpgraded(answer) => answer.status(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tungstenite_is_upgraded_with_a_subprotocol_and_a_field_of_ours() {
    let upgrader = Upgrader::new()
        .subprotocols(["v2", "v1"])
        .response_header("Set-Cookie", "id=7")
        .read_buffer_bytes(0)
        .write_buffer_bytes(0);
    let (address, _server) = echo_server(upgrader).await;
    let client = tokio::task::spawn_blocking(move || {
        let mut request = url(address).into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "v1, v2".parse().expect("a value"));
        request.headers_mut().insert("origin", format!("http://{address}").parse().expect("a value"));
        let stream = std::net::TcpStream::connect(address).expect("a stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut socket, response) = tungstenite::client(request, Patient(stream)).expect("a connection");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v2");
        assert_eq!(response.headers()["set-cookie"], "id=7");
        for message in [tungstenite::Message::text("hello"), tungstenite::Message::binary(vec![0; 60_000])] {
            socket.send(message.clone()).expect("sent");
            assert_eq!(socket.read().expect("the echo"), message);
        }
        socket.close(None).expect("closing");
        while socket.read().is_ok() {}
    });
    client.await.expect("no assertion failed");
}

#[tokio::test]
async fn requests_that_open_nothing_are_answered() {
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_DEFAULT));
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("no upgrade", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 426),
        ("a method", request("POST /", &[]), 405),
        ("an origin", request("GET /", &["Origin: http://evil.example"]), 403),
        (
            "a version",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec(),
            426,
        ),
        ("HTTP/1.0", format!("GET / HTTP/1.0\r\n{}\r\n\r\n", GOOD.join("\r\n")).into_bytes(), 505),
        ("HTTP/1.0 without an upgrade", b"GET / HTTP/1.0\r\n\r\n".to_vec(), 426),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("a long head", long.into_bytes(), 431),
    ];
    for (what, sent, expected) in cases {
        let (refused, answer) = outcome(&Upgrader::new(), &sent, yes).await;
        assert_eq!(status(refused), expected, "{what}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{what}: {answer}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{what}: {answer}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{what}: {answer}");
    }
    let (refused, _) = outcome(&Upgrader::new(), b"GET / HT", yes).await;
    assert!(matches!(refused, Err(UpgradeError::Gone)));
}

#[tokio::test]
async fn the_request_is_shown_and_the_decision_kept() {
    let sent = request(
        "GET /rooms/7?token=x&flag",
        &["Origin: http://a.example", "Sec-WebSocket-Protocol: v1, v2", "X-One: 1", "Cookie: id=7"],
    );
    let upgrader = Upgrader::new().subprotocols(["v1"]).response_header("Server", "echoring");
    let (accepted, answer) = outcome(&upgrader, &sent, |asked| {
        assert!(asked.is_upgrade());
        assert_eq!((asked.method(), asked.path(), asked.query()), ("GET", "/rooms/7", "token=x&flag"));
        assert_eq!((asked.query_value("token"), asked.query_value("flag")), (Some("x"), Some("")));
        assert_eq!((asked.host(), asked.origin()), ("a.example", Some("http://a.example")));
        assert_eq!(asked.header("cookie"), Some("id=7"));
        assert!(asked.subprotocols().eq(["v1", "v2"]));
        assert_eq!(asked.headers().filter(|(name, _)| *name == "X-One").count(), 1);
        Acceptance::new().subprotocol("v2").header("Set-Cookie", "id=8").into()
    })
    .await;
    assert_eq!(accepted.expect("a connection").as_deref(), Some("v2"));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for line in ["Sec-WebSocket-Protocol: v2", "Server: echoring", "Set-Cookie: id=8"] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
    }

    let (accepted, _) = outcome(&upgrader, &sent, |_| Acceptance::new().subprotocol(None).into()).await;
    assert_eq!(accepted.expect("a connection"), None);
    let client_first =
        upgrader.clone().subprotocols(["v2", "v1"]).subprotocol_preference(SubprotocolPreference::Client);
    let (accepted, _) = outcome(&client_first, &sent, yes).await;
    assert_eq!(accepted.expect("a connection").as_deref(), Some("v1"));

    let (refused, answer) = outcome(&upgrader, &sent, |_| HttpResponse::new(401, "no token\n").into()).await;
    assert_eq!(status(refused), 401);
    assert!(answer.ends_with("\r\n\r\nno token\n"), "{answer}");

    let plain = b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let (refused, answer) = outcome(&upgrader, plain, |asked| {
        assert!(!asked.is_upgrade() && asked.subprotocols().next().is_none());
        HttpResponse::new(200, "ok\n").into()
    })
    .await;
    assert_eq!(status(refused), 200);
    assert!(answer.contains("\r\nContent-Length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_decision_may_take_its_time() {
    let upgrader = Upgrader::new().subprotocols(["v1", "v2"]);
    let sent = request("GET /rooms/7?x=1", &["Sec-WebSocket-Protocol: v1, v2", "X-Token: secret"]);
    let receive = async |sent: &[u8]| {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(sent).await.expect("written");
        (upgrader.receive(near).await, far)
    };

    // With a frame directly after it: "hi", masked with zeros.
    let (received, mut far) = receive(&[&sent[..], b"\x81\x82\0\0\0\0hi"].concat()).await;
    let received = received.expect("a request");
    assert!(received.is_upgrade());
    assert_eq!(received.request().uri(), "/rooms/7?x=1");
    assert_eq!(received.request().headers()["x-token"], "secret");
    assert!(received.subprotocols().eq(["v1", "v2"]));
    assert_eq!(received.path_and_query(), "/rooms/7?x=1");
    tokio::task::yield_now().await;
    let mut conn = received.accept_with(Acceptance::new().subprotocol("v2")).await.expect("a connection");
    assert_eq!(conn.subprotocol(), Some("v2"));
    assert_eq!(conn.read().await.expect("a message"), Message::from("hi"));
    assert!(read_head(&mut far).await.starts_with("HTTP/1.1 101 "));

    let (received, mut far) = receive(&sent).await;
    let refused = tokio::spawn(received.expect("a request").refuse(HttpResponse::new(401, "no\n")));
    assert!(read_head(&mut far).await.starts_with("HTTP/1.1 401 "));
    drop(far);
    assert!(
        matches!(refused.await.expect("no panic"), UpgradeError::NotUpgraded(answer) if answer.status() == 401)
    );

    let (received, _far) = receive(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let received = received.expect("a request");
    assert!(!received.is_upgrade() && received.subprotocols().next().is_none());
    drop(_far);
    assert!(
        matches!(received.accept().await, Err(UpgradeError::NotUpgraded(answer)) if answer.status() == 426)
    );

    // A request that is invalid by itself does not reach the program's decision.
    let (near, mut far) = tokio::io::duplex(1 << 16);
    far.write_all(&request("GET /", &["Origin: http://evil"])).await.expect("written");
    far.shutdown().await.expect("shut down");
    assert!(
        matches!(upgrader.receive(near).await, Err(UpgradeError::NotUpgraded(answer)) if answer.status() == 403)
    );
}

#[tokio::test]
async fn mistakes_of_the_program_are_told_to_it_and_not_to_the_client() {
    let not_offered = |_: &RequestHead<'_>| Acceptance::new().subprotocol("v9").into();
    let (refused, answer) = outcome(&Upgrader::new(), &request("GET /", &[]), not_offered).await;
    assert!(
        matches!(refused, Err(UpgradeError::BadField { name, why: BadField::NotOffered }) if name == "Sec-WebSocket-Protocol")
    );
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");

    let cases = [("X", "a\r\nEvil: 1", BadField::Value), ("Upgrade", "h2c", BadField::Reserved)];
    for (name, value, expected) in cases {
        let upgrader = Upgrader::new().response_header(name, value);
        assert!(matches!(upgrader.check(), Err(UpgradeError::BadField { why, .. }) if why == expected));
        let (refused, answer) = outcome(&upgrader, &request("GET /", &[]), yes).await;
        assert!(matches!(refused, Err(UpgradeError::BadField { why, .. }) if why == expected));
        assert!(answer.starts_with("HTTP/1.1 500 ") && !answer.contains("Evil"), "{answer}");

        let decide = |_: &RequestHead<'_>| Acceptance::new().header(name, value).into();
        let (refused, _) = outcome(&Upgrader::new(), &request("GET /", &[]), decide).await;
        assert!(matches!(refused, Err(UpgradeError::BadField { why, .. }) if why == expected));
    }
    for names in [&["v1", "v 2"][..], &["v1", "v2", "v1"], &[""]] {
        let upgrader = Upgrader::new().subprotocols(names.iter().copied());
        let expected = |error| matches!(error, UpgradeError::BadField { why: BadField::Subprotocols, .. });
        assert!(expected(upgrader.check().expect_err("a mistake")), "{names:?}");
        let (refused, answer) = outcome(&upgrader, &request("GET /", &[]), yes).await;
        assert!(expected(refused.expect_err("a mistake")) && answer.starts_with("HTTP/1.1 500 "), "{answer}");
    }
    let good = Upgrader::new().response_header("X", "y").subprotocols(["v2", "v1"]);
    good.check().expect("all is well");
}

#[tokio::test]
async fn origins_are_judged_by_policy_or_by_the_program() {
    let foreign = request("GET /", &["Origin: https://page.example"]);
    let list = OriginPolicy::List(vec!["https://page.example".into()]);
    let by_token = |asked: &RequestHead<'_>| asked.header("x-token") == Some("1");
    let cases: [(Upgrader, &[u8], bool); 6] = [
        (Upgrader::new(), &foreign, false),
        (Upgrader::new().allow_any_origin(), &foreign, true),
        (Upgrader::new().origins(list), &foreign, true),
        (Upgrader::new().check_origin(by_token), &foreign, false),
        (Upgrader::new().check_origin(by_token), &request("GET /", &["X-Token: 1"]), true),
        (Upgrader::new().check_origin(by_token), &request("GET /", &[]), false),
    ];
    for (at, (upgrader, sent, allowed)) in cases.into_iter().enumerate() {
        let (outcome, _) = outcome(&upgrader, sent, yes).await;
        match allowed {
            true => drop(outcome.unwrap_or_else(|error| panic!("case {at}: {error}"))),
            false => assert_eq!(status(outcome), 403, "case {at}"),
        }
    }
}

#[tokio::test]
async fn a_hook_sees_refusals_and_may_dress_them() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let upgrader = Upgrader::new().on_refusal(move |asked, answer| {
        let path = asked.map(|asked| asked.path().to_owned());
        noted.lock().expect("unpoisoned").push((path, answer.status(), answer.reason().to_owned()));
        answer.set_status(418);
        answer.set_body("{}");
        answer.set_header("Content-Type", "application/json").expect("a field");
        answer.set_header("X-Why", "because").expect("a field");
    });
    let (refused, answer) = outcome(&upgrader, &request("GET /a", &["Origin: http://evil"]), yes).await;
    assert_eq!(status(refused), 418);
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\nX-Why: because\r\n"), "{answer}");
    let _ = outcome(&upgrader, b"nonsense\r\n\r\n", yes).await;
    let (accepted, _) = outcome(&upgrader, &request("GET /b", &[]), yes).await;
    accepted.expect("no refusal");
    let expected = [
        (Some("/a".to_owned()), 403, "origin not allowed".to_owned()),
        (None, 400, "malformed HTTP request".to_owned()),
    ];
    assert_eq!(*seen.lock().expect("unpoisoned"), expected);
}

#[tokio::test]
async fn frames_that_come_with_the_request_are_read() {
    let (near, mut far) = tokio::io::duplex(1 << 12);
    let mut sent = request("GET /", &[]);
    // "hi", masked with zeros.
    sent.extend_from_slice(b"\x81\x82\0\0\0\0hi");
    far.write_all(&sent).await.expect("written");
    let mut conn = Upgrader::new().accept(near).await.expect("a connection");
    assert_eq!(conn.read().await.expect("a message"), Message::from("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_told_so_and_cut() {
    async fn slow(sent: &[u8], timeout: Duration) -> (UpgradeError, Duration, DuplexStream) {
        let (near, mut far) = tokio::io::duplex(1 << 12);
        far.write_all(sent).await.expect("written");
        let before = tokio::time::Instant::now();
        let refused = Upgrader::new().handshake_timeout(timeout).accept(near).await;
        (refused.expect_err("too slow"), before.elapsed(), far)
    }
    let (error, took, mut far) = slow(b"GET / HTTP/1.1\r\n", Duration::from_secs(3)).await;
    assert!(matches!(error, UpgradeError::Timeout), "{error:?}");
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // A refused request has its answer; a timeout while lingering sends no second one.
    let (error, _, mut far) = slow(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Duration::from_millis(1)).await;
    assert!(matches!(error, UpgradeError::NotUpgraded(_)), "{error:?}");
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.expect("an answer");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_silent_client_holds_nobody_up() {
    let (address, _server) = echo_server(Upgrader::new().handshake_timeout(None)).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.expect("a stream"));
    }
    let mut conn = dialer().dial(&url(address)).await.expect("a connection");
    conn.write("hello").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("hello"));
    assert_eq!(conn.peer_addr(), Some(address));
}

#[tokio::test]
async fn a_listener_hands_out_streams_for_a_program_to_upgrade() {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let dialler = dialer();
    let dialled = url(address);
    let (client, server) = tokio::join!(dialler.dial(&dialled), async {
        let (stream, peer) = listener.accept().await.expect("a client");
        (Upgrader::new().accept_tcp(stream).await.expect("a connection"), peer)
    });
    let (server, peer) = server;
    assert_eq!(server.peer_addr(), Some(peer));
    assert_eq!(server.local_addr(), Some(address));
    assert_eq!(client.expect("a connection").local_addr(), Some(peer));
    let taken = Listener::bind(address).await.expect_err("in use");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}

/// A hyper server that answers plain requests with `hello`.
async fn hyper_server(upgrader: Upgrader) -> (SocketAddr, JoinSet<()>) {
    async fn serve(
        upgrader: Upgrader,
        mut request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        if request.uri().path() == "/hello" {
            return Ok(hyper::Response::new(Full::from("hello")));
        }
        let decide = |asked: &RequestHead<'_>| -> Decision {
            match asked.query_value("token") {
                Some("wrong") => HttpResponse::new(401, "wrong token").into(),
                _ => Acceptance::new().into(),
            }
        };
        Ok(match upgrader.upgrade_with(&mut request, decide) {
            Ok((response, upgrading)) => {
                tokio::spawn(async move { echo(upgrading.await.expect("handed over")).await });
                response.map(|()| Full::default())
            }
            Err(refused) => refused.into_response(),
        })
    }
    serve_each(move |stream| {
        let upgrader = upgrader.clone();
        async move {
            let service = service_fn(move |request| serve(upgrader.clone(), request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = serving.with_upgrades().await;
        }
    })
    .await
}

async fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a stream");
    stream.write_all(request).await.expect("written");
    read_head(&mut stream).await
}

#[tokio::test]
async fn requests_of_hypers_are_upgraded_beside_plain_ones() {
    let upgrader = Upgrader::new()
        .subprotocols(["chat"])
        .compression(Compression::default())
        .response_header("Set-Cookie", "id=7");
    let (address, _server) = hyper_server(upgrader).await;
    let dialer = dialer().subprotocols(["chat"]).compression(Compression::default());
    let (mut conn, response) = dialer.dial_with_response(&url(address)).await.expect("a connection");
    assert_eq!(conn.subprotocol(), Some("chat"));
    assert_eq!(response.headers()["set-cookie"], "id=7");
    assert!(response.headers().contains_key("sec-websocket-extensions"));
    let long = Message::from("to and fro ".repeat(5_000));
    conn.write(long.clone()).await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), long);

    let host = "Host: a\r\n";
    let plain = say(address, format!("GET /hello HTTP/1.1\r\n{host}\r\n").as_bytes()).await;
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\n"), "{plain}");
    let no_upgrade = say(address, format!("GET / HTTP/1.1\r\n{host}\r\n").as_bytes()).await;
    assert!(no_upgrade.starts_with("HTTP/1.1 426 "), "{no_upgrade}");
    let foreign = say(address, &request("GET /", &["Origin: http://evil"])).await;
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
    let wrong = say(address, &request("GET /?token=wrong", &[])).await;
    assert!(wrong.starts_with("HTTP/1.1 401 "), "{wrong}");
    let old = say(address, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 505 "), "{old}");
    let good = say(address, &request("GET http://a.example/x", &[])).await;
    assert!(good.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{good}");
}

#[tokio::test]
async fn frames_that_hyper_read_with_the_request_are_not_lost() {
    let (address, _server) = hyper_server(Upgrader::new()).await;
    let mut stream = TcpStream::connect(address).await.expect("a stream");
    let mut sent = request("GET /", &[]);
    sent.extend_from_slice(b"\x81\x82\0\0\0\0hi");
    stream.write_all(&sent).await.expect("written");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.expect("the echo");
    assert_eq!(&echoed, b"\x81\x02hi");
}

#[tokio::test]
async fn requests_of_axums_are_upgraded_beside_its_other_routes() {
    async fn ws(State(upgrader): State<Upgrader>, mut request: Request) -> axum::response::Response {
        match upgrader.upgrade(&mut request) {
            Ok((response, upgrading)) => {
                tokio::spawn(async move { echo(upgrading.await.expect("handed over")).await });
                response.map(|()| Body::empty())
            }
            Err(refused) => refused.into_response(),
        }
    }
    let app = Router::new()
        .route("/ws", any(ws))
        .route("/", get(|| async { "hello" }))
        .with_state(Upgrader::new().subprotocols(["chat"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.expect("serving") });

    let dialer = dialer().subprotocols(["other", "chat"]);
    let mut conn = dialer.dial(&format!("ws://{address}/ws?x=1")).await.expect("a connection");
    assert_eq!(conn.subprotocol(), Some("chat"));
    conn.write("hello").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("hello"));
    let error = dialer.dial(&format!("ws://{address}/")).await.expect_err("another route");
    let body = error.response().expect("a response").body().clone();
    assert_eq!(body, Bytes::from("hello"));
    let error = Dialer::new().dial(&format!("ws://{address}/nowhere")).await.expect_err("no route");
    assert_eq!(error.response().expect("a response").status(), 404);
}
