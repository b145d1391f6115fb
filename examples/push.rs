//! Pushes `heart beat` every three seconds, the first at once, and echoes on the same connection.
//!
//! ```text
//! cargo run --example push                 # ws://localhost:8002/wshandler
//! ```

mod support;

use std::error::Error;
use std::time::Duration;

use echoring::{Reader, Sender, Transport, Upgrader};
use support::{arguments, listen, only, until_signal};
use tokio::net::TcpStream;
use tokio::time::interval;

const EVERY: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let about = "Echoes and pushes on /wshandler.";
    let [address] = arguments(about, ["ADDRESS"], ["localhost:8002"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("Starting websocket server at {shown}");
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        tokio::spawn(async move {
            if let Err(error) = push_and_echo(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// Go starts a goroutine for the heartbeat beside that of the echo; here three futures run in one task. The first to
/// end drops the others, so none is left behind: a heartbeat cannot outlive its connection.
async fn push_and_echo(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let conn = upgrader.accept_tcp_with(stream, only("/wshandler")).await?;
    // In Go, two goroutines that write to one connection are a mistake that only a crash tells. Here there is one
    // `Writer`, which cannot be cloned. It becomes a queue of 16 messages with any number of senders.
    let (mut reader, writer) = conn.split();
    let (sender, send_task) = writer.into_sender(16);
    let ended = tokio::select! {
        ended = send_task => ended,
        ended = beat(&sender) => ended,
        ended = echo(&mut reader, &sender) => ended,
    };
    match ended {
        Err(error) if !error.is_clean() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Until writing fails. A connection can send heartbeats by itself, the first after the interval: see `Heartbeat`.
async fn beat(sender: &Sender) -> Result<(), echoring::Error> {
    let mut ticks = interval(EVERY);
    loop {
        // The first tick is at once.
        ticks.tick().await;
        sender.send("heart beat").await?;
    }
}

async fn echo<S: Transport>(reader: &mut Reader<S>, sender: &Sender) -> Result<(), echoring::Error> {
    loop {
        let message = reader.read().await?;
        println!("receive msg: {}", String::from_utf8_lossy(message.as_bytes()));
        sender.send(message).await?;
    }
}
