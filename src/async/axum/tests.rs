//! The extractor in axum's router, behind axum's server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::any;
use axum::{Extension, Router};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::Message;

type Failures = mpsc::UnboundedSender<String>;

async fn echo(State(failures): State<Failures>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .protocols(["chat"])
        .max_message_size(10)
        .on_failed_upgrade(move |error| drop(failures.send(error.to_string())))
        .on_upgrade(|mut conn| async move {
            let greeting = format!("{:?} {}", conn.subprotocol(), conn.peer_addr().is_some());
            let _ = conn.write(greeting).await;
            while let Ok(message) = conn.read().await {
                let _ = conn.write(message).await;
            }
        })
}

async fn serve(upgrader: Option<Upgrader>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (failures, failed) = mpsc::unbounded_channel();
    let router = Router::new().route("/ws", any(echo)).with_state(failures);
    let router = match upgrader {
        Some(upgrader) => router.layer(Extension(upgrader)),
        None => router,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (address, failed)
}

/// The status line of the response to a request with these fields.
async fn status(address: SocketAddr, method: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("{method} /ws HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    response.lines().next().unwrap_or_default().to_owned()
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_handler_gets_the_connection_with_its_protocol_and_limits() {
    let (address, _failed) = serve(None).await;
    let dialer = crate::Dialer::new().subprotocols(["chat"]);
    let mut conn = dialer.dial(&format!("ws://{address}/ws")).await.expect("a connection");
    assert_eq!(conn.read().await.expect("a greeting"), Message::from("Some(\"chat\") true"));
    conn.write("hello").await.expect("sent");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("hello"));
    conn.write("more than ten").await.expect("sent");
    let error = conn.read().await.expect_err("too long");
    assert_eq!(error.close_code(), Some(echoring_proto::CloseCode::TOO_BIG));
}

#[tokio::test]
async fn requests_that_are_no_upgrades_are_rejected_and_foreign_origins_refused() {
    let (address, _failed) = serve(None).await;
    let upgrade = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                   Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let foreign = format!("{upgrade}Origin: https://other.example\r\n");
    let table = [
        ("GET", String::new(), "426"),
        ("POST", upgrade.to_owned(), "405"),
        ("GET", upgrade.replace("13", "12"), "426"),
        ("GET", foreign.clone(), "403"),
    ];
    for (method, fields, expected) in table {
        let status = status(address, method, &fields).await;
        assert_eq!(status.split(' ').nth(1), Some(expected), "{method} {fields}: {status}");
    }
    // The upgrader of the router's layer decides.
    let (address, _failed) = serve(Some(Upgrader::new().allow_any_origin())).await;
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{foreign}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.expect("a response");
    assert_eq!(&begin, b"HTTP/1.1 101");
}

#[tokio::test]
async fn a_connection_that_is_not_handed_over_is_reported() {
    let told = Arc::new(Mutex::new(None));
    let request = Request::builder()
        .uri("/ws")
        .header("Host", "a")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
        .body(())
        .expect("a request");
    // No server is behind it.
    let (mut parts, ()) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.expect("an upgrade");
    let (done, failed) = tokio::sync::oneshot::channel();
    let hear = Arc::clone(&told);
    let response = upgrade
        .on_failed_upgrade(move |error| {
            *hear.lock().expect("no panic") = Some(error.to_string());
            let _ = done.send(());
        })
        .on_upgrade(|_| async { panic!("there is no connection") });
    assert_eq!(response.status(), 101);
    failed.await.expect("the callback is called");
    assert!(told.lock().expect("no panic").is_some());
}

/// Decides by what the client offers, as a handler does that has asked a database or another server.
async fn choose(upgrade: WebSocketUpgrade) -> Response {
    let newest = upgrade.subprotocols().filter(|name| name.starts_with('v')).max().map(str::to_owned);
    match newest {
        None => {
            let mut refusal = HttpResponse::new(403, "only v1 and later\n");
            refusal.set_header("X-Path", upgrade.request().uri().path()).expect("a field");
            upgrade.refuse(refusal)
        }
        Some(newest) => {
            let acceptance = Acceptance::new().subprotocol(newest.as_str()).header("X-Chosen", "yes");
            upgrade.read_buffer_size(64).write_buffer_size(16).accept_with(acceptance).on_upgrade(
                |mut conn| async move {
                    let chosen = conn.subprotocol().unwrap_or_default().to_owned();
                    let _ = conn.write(chosen).await;
                },
            )
        }
    }
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_handler_chooses_the_subprotocol_or_refuses() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let upgrader = Upgrader::new().on_refusal(move |asked, answer| {
        let path = asked.map(|asked| asked.path().to_owned());
        see.lock().expect("no panic").push((path, answer.status()));
    });
    let router = Router::new().route("/choose", any(choose)).layer(Extension(upgrader));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let url = format!("ws://{}/choose", listener.local_addr().expect("its address"));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let dialer = crate::Dialer::new().subprotocols(["v1", "chat", "v3", "v2"]);
    let (mut conn, response) = dialer.dial_with_response(&url).await.expect("a connection");
    assert_eq!(
        (conn.subprotocol(), &response.headers()["x-chosen"]),
        (Some("v3"), &"yes".parse().expect("text"))
    );
    assert_eq!(conn.read().await.expect("a greeting"), Message::from("v3"));

    let error = crate::Dialer::new().subprotocols(["chat"]).dial(&url).await.expect_err("refused");
    let refusal = HttpResponse::from(&error);
    assert_eq!((refusal.status(), refusal.body()), (403, "only v1 and later\n"));
    assert!(refusal.headers().any(|field| field == ("x-path", "/choose")));
    assert_eq!(*seen.lock().expect("no panic"), [(Some("/choose".to_owned()), 403)]);
}
