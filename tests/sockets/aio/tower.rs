//! The service for hyper and tower: behind hyper's server, and in axum's router.

use std::net::SocketAddr;

use axum::Router;
use echoring_async::tower::UpgradeService;
use echoring_async::{
    Acceptance, Conn, Decision, HttpResponse, RequestHead, TokioStream, Upgraded, Upgrader,
};
use hyper::server::conn::http1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::support::{dialer, echo, serve_each};

const UPGRADE: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                       Upgrade: websocket\r\nConnection: Upgrade\r\n";

/// Says what it knows of its connection, and echoes then.
async fn greet(mut conn: Conn<Upgraded>) {
    let path = conn.request().map(|request| request.uri().to_string());
    let _ = conn.write(format!("{path:?} {}", conn.peer_addr().is_some())).await;
    echo(conn).await;
}

fn decide(request: &RequestHead<'_>) -> Decision {
    match request.path() {
        "/ws" => Acceptance::new().into(),
        path => HttpResponse::new(404, format!("no {path}\n")).into(),
    }
}

/// hyper's server with the service, until the set is dropped.
async fn hyper_server() -> (SocketAddr, JoinSet<()>) {
    let service = UpgradeService::new(Upgrader::new().keep_request(true), greet).decide(decide);
    serve_each(move |stream| {
        let service = service.clone().with_addresses(stream.local_addr().ok(), stream.peer_addr().ok());
        let serving = http1::Builder::new().serve_connection(TokioStream(stream), service);
        async move { drop(serving.with_upgrades().await) }
    })
    .await
}

/// axum's server with the service in its router, until the set is dropped.
async fn axum_server() -> (SocketAddr, JoinSet<()>) {
    let service = UpgradeService::new(Upgrader::new().keep_request(true), greet);
    let router = Router::new().route_service("/ws", service);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.expect("a listener that works") });
    (address, server)
}

/// The whole response to a request.
async fn response(address: SocketAddr, line: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("shut down");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    response
}

#[tokio::test]
async fn hyper_and_axum_serve_it() {
    for (name, (address, _server)) in [("hyper", hyper_server().await), ("axum", axum_server().await)] {
        let mut conn = dialer().dial(&format!("ws://{address}/ws?a=b")).await.expect("a connection");
        let told = format!("{:?} {}", Some("/ws?a=b"), name == "hyper");
        assert_eq!(conn.read().await.expect("a greeting"), told.into());
        conn.write("hello").await.expect("sent");
        assert_eq!(conn.read().await.expect("the echo"), "hello".into());
    }
}

#[tokio::test]
async fn requests_that_open_nothing_get_a_response_with_a_body() {
    let (address, _server) = hyper_server().await;
    let foreign = format!("{UPGRADE}Origin: https://other.example\r\n");
    let table = [
        ("GET /ws", "", "426", "WebSocket"),
        ("GET /other", UPGRADE, "404", "no /other"),
        ("GET /other", "", "404", "no /other"),
        ("GET /ws", &foreign, "403", "origin"),
        ("POST /ws", UPGRADE, "405", ""),
    ];
    for (line, fields, status, text) in table {
        let response = response(address, line, fields).await;
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {response}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{line}: {response}");
        assert!(!body.is_empty() && body.contains(text), "{line}: {response}");
    }
}
