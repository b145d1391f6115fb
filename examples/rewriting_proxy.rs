//! A proxy that rewrites: it passes on the request with other header fields, and the server's texts with another word.
//!
//! ```text
//! cargo run --example echo                 # the server behind it, in another terminal
//! cargo run --example rewriting_proxy      # ws://localhost:8083/wshandler reaches it
//! ```
//!
//! Each side has a handshake and compression of its own. `reverse_proxy` passes on bytes.

mod support;

use std::sync::Arc;

use echoring::{Acceptance, Dialer, HttpResponse, Message, Upgrader};
use support::{arguments, listen, until_signal};
use tokio::net::TcpStream;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The server behind the proxy, and what is rewritten.
struct Rewriting {
    upstream: String,
    word: String,
    replacement: String,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let names = ["ADDRESS", "UPSTREAM", "WORD", "REPLACEMENT"];
    let defaults = ["localhost:8083", "ws://localhost:8002", "secret", "[removed]"];
    let [address, upstream, word, replacement] = arguments("Replaces a word.", names, defaults);
    until_signal(serve(&address, Rewriting { upstream, word, replacement })).await
}

async fn serve(address: &str, rewriting: Rewriting) -> Result<(), AnyError> {
    let (listener, shown) = listen(address).await?;
    println!("listening on {shown}, passing on to {}", rewriting.upstream);
    let rewriting = Arc::new(rewriting);
    loop {
        let (stream, peer) = listener.accept().await?;
        let rewriting = Arc::clone(&rewriting);
        tokio::spawn(async move {
            if let Err(error) = proxy(stream, &rewriting).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// Opens the connection to the server first, so that its refusal is the client's.
async fn proxy(stream: TcpStream, rewriting: &Rewriting) -> Result<(), AnyError> {
    // Whose pages may connect is for the server to decide: it gets the origin.
    let client = Upgrader::new().allow_any_origin().receive_tcp(stream).await?;
    if !client.is_upgrade() {
        return Err(client.refuse(HttpResponse::new(426, "this is for WebSockets\n")).await.into());
    }
    let url = format!("{}{}", rewriting.upstream, client.path_and_query());
    let dialer = Dialer::new().forwarding(client.request(), client.peer_addr());
    let (server, response) = match dialer.dial_with_response(&url).await {
        Ok(dialled) => dialled,
        Err(error) => {
            client.refuse(&error).await;
            return Err(error.into());
        }
    };
    let client = client.accept_with(Acceptance::forwarding(&response)).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let rewrite = |message: Message| match message.as_text() {
        Some(text) => text.replace(&rewriting.word, &rewriting.replacement).into(),
        None => message,
    };
    tokio::join!(
        from_client.forward_to(&mut to_server, |message| message),
        from_server.forward_to(&mut to_client, rewrite),
    );
    Ok(())
}
