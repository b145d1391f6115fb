//! An actix-web server whose `/ws` this library upgrades, and whose `/` is actix's own.
//!
//! actix hands over no stream. So the connection reads what arrives as the request's payload, and what it writes is the body of
//! the 101 response.
//!
//! ```text
//! cargo run --bin actix -- 127.0.0.1:9001
//! ```

use std::io;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use echoring::{Conn, Transport, Upgrader};
use futures_util::TryStreamExt as _;
use tokio_util::io::{ReaderStream, StreamReader};

/// Bytes that wait for actix to send them.
const BODY_BYTES: usize = 64 << 10;

#[actix_web::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let app = || App::new().route("/ws", web::get().to(ws)).route("/", web::get().to(async || "hello\n"));
    let server = HttpServer::new(app).workers(1).bind(address)?;
    println!("listening on ws://{}/ws", server.addrs()[0]);
    server.run().await
}

async fn ws(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    // actix has the types of http 0.2, and this library those of http 1.
    let mut head = http::Request::builder().method(request.method().as_str()).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        head = head.header(name.as_str(), value.as_bytes());
    }
    let Ok(head) = head.body(()) else { return HttpResponse::BadRequest().finish() };
    let (response, negotiated) = match Upgrader::new().negotiate(&head) {
        Ok(upgrade) => upgrade,
        Err(refused) => return refusal(refused.into_response()),
    };
    let received = StreamReader::new(payload.map_err(io::Error::other));
    let (sent, body) = tokio::io::duplex(BODY_BYTES);
    let conn = negotiated.with_addresses(None, request.peer_addr()).open(tokio::io::join(received, sent));
    actix_web::rt::spawn(echo(conn));
    let mut answer = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
    answer.upgrade("websocket");
    for (name, value) in response.headers() {
        // actix writes the other two itself.
        if name.as_str().starts_with("sec-websocket") {
            answer.insert_header((name.as_str(), value.as_bytes()));
        }
    }
    answer.streaming(ReaderStream::new(body))
}

fn refusal(response: http::Response<String>) -> HttpResponse {
    let mut answer =
        HttpResponse::build(StatusCode::from_u16(response.status().as_u16()).unwrap_or_default());
    for (name, value) in response.headers() {
        answer.append_header((name.as_str(), value.as_bytes()));
    }
    answer.body(response.into_body())
}

async fn echo<S: Transport>(mut conn: Conn<S>) {
    while let Ok(message) = conn.read().await {
        if conn.write(message).await.is_err() {
            return;
        }
    }
}
