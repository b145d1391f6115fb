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

use echoring::{
    Acceptance, CloseCode, DialError, Dialer, Error, HttpResponse, Message, PendingUpgrade, Reader,
    Transport, Upgrader, Writer,
};
use support::{arguments, listen, until_signal};
use tokio::net::TcpStream;

type AnyError = Box<dyn std::error::Error + Send + Sync>;
/// The fields of the client's request that the server gets, besides the origin.
const PASSED: [&str; 2] = ["authorization", "cookie"];

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
            if let Err(error) = connect(stream, &rewriting).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// Opens the connection to the server first, so that its refusal is the client's.
async fn connect(stream: TcpStream, rewriting: &Rewriting) -> Result<(), AnyError> {
    // Whose pages may connect is for the server to decide: it gets the origin.
    let client = Upgrader::new().allow_any_origin().receive(stream).await?;
    let path = client.request().uri().path_and_query().map_or("/", |path| path.as_str());
    let server = match dialer(&client)?.dial(&format!("{}{path}", rewriting.upstream)).await {
        Ok(server) => server,
        Err(error) => {
            client.decide(refusal(&error)).await?;
            return Err(error.into());
        }
    };
    let accepted = Acceptance::new();
    let accepted = server.subprotocol().map_or(accepted.clone(), |name| accepted.subprotocol(name));
    let (client_reads, client_writes) = client.decide(accepted).await?.split();
    let (server_reads, server_writes) = server.split();
    let rewrite = |message: Message| match message.as_text() {
        Some(text) => Message::from(text.replace(&rewriting.word, &rewriting.replacement)),
        None => message,
    };
    tokio::select! {
        ended = pump(client_reads, server_writes, |message| message) => ended,
        ended = pump(server_reads, client_writes, rewrite) => ended,
    }
}

fn dialer(client: &PendingUpgrade<TcpStream>) -> Result<Dialer, AnyError> {
    let fields = client.request().headers();
    let mut dialer = Dialer::new().header("X-Forwarded-For", client.get_ref().peer_addr()?.ip().to_string());
    for (name, value) in PASSED.iter().filter_map(|name| Some((*name, fields.get(*name)?))) {
        dialer = dialer.header(name, value.to_str()?);
    }
    if let Some(origin) = fields.get("origin") {
        dialer = dialer.origin(origin.to_str()?);
    }
    let offered = fields.get("sec-websocket-protocol").and_then(|offered| offered.to_str().ok());
    Ok(dialer.subprotocols(offered.into_iter().flat_map(|names| names.split(',')).map(str::trim)))
}

fn refusal(error: &DialError) -> HttpResponse {
    match error.response().map(|response| (response.status(), response.body())) {
        Some((status, body)) => HttpResponse::new(status.as_u16(), String::from_utf8_lossy(body)),
        None => HttpResponse::new(502, "the server behind this one is not there\n"),
    }
}

/// Passes messages on in one direction, and the reason of the end. A side that does not read makes the other one wait.
async fn pump<F: Transport, T: Transport>(
    mut from: Reader<F>,
    mut to: Writer<T>,
    change: impl Fn(Message) -> Message,
) -> Result<(), AnyError> {
    let error = loop {
        match from.read().await {
            Ok(message) => to.write(change(message)).await?,
            Err(error) => break error,
        }
    };
    match error {
        Error::Closed(frame) => to.close(frame.code, &frame.reason).await?,
        _ => to.close(CloseCode::GOING_AWAY, "the other side is gone").await?,
    };
    Ok(())
}
