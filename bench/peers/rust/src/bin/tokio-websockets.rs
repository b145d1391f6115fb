//! tokio-websockets, as its own example shows it.

use futures_util::{SinkExt, StreamExt};
use peers::{MESSAGE_BYTES, Outcome, serve};
use tokio_websockets::{Config, Limits, ServerBuilder};

fn main() -> Outcome {
    serve(|stream| {
        tokio::task::unconstrained(async {
            let (_request, mut socket) = ServerBuilder::new()
                .config(Config::default().frame_size(usize::MAX))
                .limits(Limits::default().max_payload_len(Some(MESSAGE_BYTES)))
                .accept(stream)
                .await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
            Ok(())
        })
    })
}
