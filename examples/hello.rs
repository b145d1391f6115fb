//! The smallest server: sends `Hello, World!` to each client, and closes.
//!
//! ```text
//! cargo run --example hello                # ws://localhost:8181/ws
//! ```

mod support;

use std::error::Error;

use echoring::CloseCode;
use echoring::Upgrader;
use support::{arguments, listen, only, until_signal};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Says hello on /ws and closes.", ["ADDRESS"], [":8181"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on ws://{shown}/ws");
    // Pages of any origin may connect. Without this line: only those that this very host served.
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        // A task is to Rust what a goroutine is to Go: cheap, one for each connection. What it owns is released
        // when it ends, however it ends, so there is no `defer conn.Close()` to forget.
        tokio::spawn(async move {
            if let Err(error) = greet(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn greet(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut conn = upgrader.accept_tcp_with(stream, only("/ws")).await?;
    conn.write_text("Hello, World!").await?;
    // The whole closing handshake: our Close frame, and the peer's in answer. Dropping `conn` instead would just end
    // the stream, which the peer would see as 1006.
    conn.close(CloseCode::NORMAL, "").await?;
    Ok(())
}
