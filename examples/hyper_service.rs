//! A server of hyper that upgrades on `/ws` by a service, and says hello on `/`. The greeting of a connection is taken from its
//! request.
//!
//! ```text
//! cargo run --example hyper_service        # ws://localhost:3000/ws?name=ada
//! ```

mod support;

use std::error::Error;

use echoring::tower::UpgradeService;
use echoring::{Acceptance, Conn, Decision, HttpResponse, RequestHead, TokioStream, Upgraded, Upgrader};
use hyper::server::conn::http1;
use support::{arguments, listen, until_signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Greets and echoes on /ws, behind hyper.", ["ADDRESS"], ["localhost:3000"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on ws://{shown}/ws");
    let upgrader = Upgrader::new().allow_any_origin().keep_request(true);
    let service = UpgradeService::new(upgrader, |conn| async {
        if let Err(error) = greet_and_echo(conn).await {
            eprintln!("{error}");
        }
    })
    .decide(decide);
    loop {
        let (stream, peer) = listener.accept().await?;
        let service = service.clone().with_addresses(stream.local_addr().ok(), Some(peer));
        let serving = http1::Builder::new().serve_connection(TokioStream(stream), service);
        tokio::spawn(serving.with_upgrades());
    }
}

fn decide(request: &RequestHead<'_>) -> Decision {
    match request.path() {
        "/ws" => Acceptance::new().into(),
        "/" => HttpResponse::new(200, "hello\n").into(),
        _ => HttpResponse::new(404, "no such path\n").into(),
    }
}

async fn greet_and_echo(mut conn: Conn<Upgraded>) -> Result<(), echoring::Error> {
    let query = conn.request().and_then(|request| request.uri().query()).unwrap_or_default();
    let name = query.strip_prefix("name=").unwrap_or("you").to_owned();
    conn.write(format!("hello, {name}")).await?;
    loop {
        match conn.read().await {
            Ok(message) => conn.feed(message).await?,
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
