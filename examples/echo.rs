//! Sends each message back unchanged, text as text and binary as binary, and prints it.
//!
//! ```text
//! cargo run --example echo                 # ws://localhost:8002/wshandler
//! ```

mod support;

use std::error::Error;

use echoring::{Listener, Upgrader};
use support::{arguments, listen, only, until_signal};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Echoes on /wshandler.", ["ADDRESS"], ["localhost:8002"]);
    until_signal(async {
        let (listener, shown) = listen(&address).await?;
        println!("Starting websocket server at {shown}");
        serve(listener).await
    })
    .await
}

/// Echoes to all clients, for as long as there is a listener.
pub async fn serve(listener: Listener) -> Result<(), Box<dyn Error>> {
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        tokio::spawn(async move {
            if let Err(error) = echo(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn echo(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut conn = upgrader.accept_tcp_with(stream, only("/wshandler")).await?;
    loop {
        let message = match conn.read().await {
            Ok(message) => message,
            // A goodbye, which has been answered already, is the normal end. Every other error is worth a line in the log.
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        println!("receive msg: {}", String::from_utf8_lossy(message.as_bytes()));
        // The message knows its type, so it goes back with it.
        conn.write(message).await?;
    }
}
