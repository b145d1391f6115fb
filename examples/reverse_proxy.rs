//! Forwards HTTP to another server, and WebSockets too: after the 101 a connection is just bytes.
//!
//! ```text
//! cargo run --example echo                 # the server behind it, in another terminal
//! cargo run --example reverse_proxy        # ws://localhost:8082/wshandler reaches it
//! ```
//!
//! `echoring proxy` is the complete version: deadlines, several upstreams, close codes, recordings.

mod support;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use echoring::TokioStream;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, TE, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use support::{arguments, listen, until_signal};
use tokio::net::TcpStream;

/// The upstream's response, or a substitute.
type Answer = Response<Either<Incoming, Full<Bytes>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let about = "Passes HTTP and WebSockets on.";
    let names = ["ADDRESS", "UPSTREAM"];
    let [address, upstream] = arguments(about, names, ["127.0.0.1:8082", "127.0.0.1:8002"]);
    until_signal(serve(&address, upstream.into())).await
}

async fn serve(address: &str, upstream: Arc<str>) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on {shown}, passing on to {upstream}");
    loop {
        let (stream, peer) = listener.accept().await?;
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move {
            let service = service_fn(|request| pass_on_or_502(request, peer, &upstream));
            let http = hyper::server::conn::http1::Builder::new();
            if let Err(error) = http.serve_connection(TokioStream(stream), service).with_upgrades().await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn pass_on_or_502(
    request: Request<Incoming>,
    peer: SocketAddr,
    upstream: &str,
) -> Result<Answer, Infallible> {
    Ok(pass_on(request, peer, upstream).await.unwrap_or_else(|error| {
        eprintln!("{upstream}: {error}");
        let mut answer =
            Response::new(Either::Right(Full::from("the server behind this one is not there\n")));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    }))
}

async fn pass_on(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    upstream: &str,
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioStream(stream)).await?;
    tokio::spawn(connection.with_upgrades());

    // `Host` stays what the client sent: the server compares it with the origin of a page.
    let near = hyper::upgrade::on(&mut request);
    remove_hop_by_hop(request.headers_mut());
    request.headers_mut().append("x-forwarded-for", HeaderValue::from_str(&peer.ip().to_string())?);
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        tokio::spawn(tunnel(near, hyper::upgrade::on(&mut response)));
    }
    remove_hop_by_hop(response.headers_mut());
    Ok(response.map(Either::Left))
}

/// Removes the hop-by-hop fields (RFC 9110, 7.6.1), unless they negotiate an upgrade.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let upgrade = headers.remove(UPGRADE).filter(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    for name in [CONNECTION.as_str(), "keep-alive", "proxy-connection", TE.as_str()] {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Copies bytes in both directions until one side ends. A slow side backpressures the other, so memory stays bounded.
async fn tunnel(near: OnUpgrade, far: OnUpgrade) {
    if let (Ok(near), Ok(far)) = tokio::join!(near, far) {
        // An error is that one of them is gone, of which the other hears when both are dropped here.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
    }
}
