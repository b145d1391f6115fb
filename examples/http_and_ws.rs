//! One port for HTTP and WebSocket: a plain request of `/ws` gets `hello`, an upgrade of it an echo, as text.
//!
//! ```text
//! cargo run --example http_and_ws          # http://localhost:7777/ws and ws://localhost:7777/ws
//! ```

mod support;

use std::error::Error;

use echoring::CloseCode;
use echoring::{Acceptance, Decision, HttpResponse, RequestHead, UpgradeError, Upgrader};
use support::{arguments, listen, until_signal};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Answers HTTP, and echoes as text, on /ws.", ["ADDRESS"], ["localhost:7777"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on http://{shown}/ws and ws://{shown}/ws");
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        tokio::spawn(async move {
            if let Err(error) = echo_as_text(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// The decision about a request. In a server with more pages, hyper or axum read the requests, and the upgrader
/// upgrades theirs; see the example `adopt_axum`.
fn route(asked: &RequestHead<'_>) -> Decision {
    match (asked.path(), asked.is_upgrade()) {
        ("/ws", true) => Acceptance::new().into(),
        ("/ws", false) => HttpResponse::new(200, "hello").into(),
        _ => HttpResponse::new(404, "404 page not found\n").into(),
    }
}

async fn echo_as_text(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut conn = match upgrader.accept_tcp_with(stream, route).await {
        Ok(conn) => conn,
        // HTTP was answered: all is done.
        Err(UpgradeError::NotUpgraded(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    loop {
        let message = match conn.read().await {
            Ok(message) => message,
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A text frame has to be UTF-8 (RFC 6455, 5.6), and bytes need not be: what cannot be sent back as text is
        // data that this endpoint does not take, 1003. A `&str` is UTF-8 by its type, so the mistake of sending
        // anything else does not compile.
        match std::str::from_utf8(message.as_bytes()) {
            Ok(text) => conn.write_text(text).await?,
            Err(_) => {
                conn.close(CloseCode::UNSUPPORTED, "not UTF-8").await?;
                return Ok(());
            }
        }
    }
}
