//! Sends a binary `ping` every two seconds and prints what comes back.
//!
//! ```text
//! cargo run --example pong_axum            # the server, in another terminal
//! cargo run --example ping_client          # connects to ws://localhost:8080/ws
//! ```

mod support;

use std::error::Error;
use std::time::Duration;

use echoring::dial;
use support::{arguments, until_signal};
use tokio::time::interval;

const EVERY: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [url] = arguments("Sends pings and prints the answers.", ["URL"], ["ws://localhost:8080/ws"]);
    until_signal(ping(&url)).await
}

async fn ping(url: &str) -> Result<(), Box<dyn Error>> {
    let mut conn = dial(url).await?;
    let mut ticks = interval(EVERY);
    loop {
        // One task does both. `read` may be given up in the middle of a message, when the tick comes first: what
        // has arrived is kept for the next call.
        tokio::select! {
            message = conn.read() => {
                println!("client receive message: {}", String::from_utf8_lossy(message?.as_bytes()));
            }
            // The first is at once.
            _ = ticks.tick() => conn.write_binary(b"ping").await?,
        }
    }
}
