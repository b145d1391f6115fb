//! An axum server that answers each message with `pong`, as text or binary as the message was.
//!
//! ```text
//! cargo run --example pong_axum            # ws://localhost:8080/ws
//! ```

mod support;

use std::error::Error;

use axum::Router;
use axum::response::Response;
use axum::routing::any;
use echoring::axum::WebSocketUpgrade;
use echoring::{Conn, MessageKind, Upgraded, Upgrader};
use support::{arguments, bind, serve_all, until_signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Answers pong on /ws.", ["ADDRESS"], ["localhost:8080"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listeners, shown) = bind(address).await?;
    println!("listening on ws://{shown}/ws");
    let router = Router::new().route("/ws", any(ws));
    serve_all(listeners, |listener| axum::serve(listener, router.clone()).into_future()).await?;
    Ok(())
}

async fn ws(upgrade: WebSocketUpgrade) -> Response {
    upgrade.configure(Upgrader::allow_any_origin).on_upgrade(|conn| async {
        if let Err(error) = pong(conn).await {
            eprintln!("{error}");
        }
    })
}

async fn pong(mut conn: Conn<Upgraded>) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        let message = match conn.read().await {
            Ok(message) => message,
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        println!("{:?} {}", message.kind(), String::from_utf8_lossy(message.as_bytes()));
        match message.kind() {
            MessageKind::Text => conn.write_text("pong").await?,
            MessageKind::Binary => conn.write_binary(b"pong").await?,
        }
    }
}
