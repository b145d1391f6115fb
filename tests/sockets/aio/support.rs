//! Peers for the tests: tungstenite in both roles on threads, and servers that send a given response.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use echoring_async::{Conn, Dialer, Listener, Upgrader};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::head::read_head;

/// Longer than any test here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn url(address: SocketAddr) -> String {
    format!("ws://{address}/")
}

/// A dialer whose timeout fails a test instead of letting it hang.
pub fn dialer() -> Dialer {
    Dialer::new().handshake_timeout(PATIENCE)
}

/// Echoes every message until the connection ends.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut conn: Conn<S>) {
    while let Ok(message) = conn.read().await {
        if conn.write(message).await.is_err() {
            return;
        }
    }
}

/// An echo server on this library, until the returned set is dropped.
pub async fn echo_server(upgrader: Upgrader) -> (SocketAddr, JoinSet<()>) {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut incoming = listener.incoming(&upgrader);
        let mut echoes = JoinSet::new();
        loop {
            echoes.spawn(echo(incoming.next().await.expect("a listener that works")));
        }
    });
    (address, server)
}

/// tungstenite as an echo server for one connection. `answer` gets the request and may change the answer.
pub fn tungstenite_server(
    answer: impl FnOnce(&Request, &mut Response) + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        #[expect(clippy::result_large_err, reason = "tungstenite's type")]
        let answer = |request: &Request, mut response| -> Result<Response, ErrorResponse> {
            answer(request, &mut response);
            Ok(response)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream, answer) else { return };
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                return;
            }
        }
    });
    (address, server)
}

/// A server for one connection that reads a request and answers with `response`. Then it closes, or reads until the client
/// closes.
pub async fn canned_server(response: Vec<u8>, ends: bool) -> (SocketAddr, JoinSet<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let request = read_head(&mut stream).await;
        stream.write_all(&response).await.expect("written");
        if ends {
            stream.shutdown().await.expect("shut down");
        }
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
        request
    });
    (address, server)
}

/// A server that calls `serve` with the stream of each client, until the returned set is dropped.
pub async fn serve_each<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            clients.spawn(serve(stream));
        }
    });
    (address, server)
}
