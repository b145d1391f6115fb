//! tokio-tungstenite, optimised: replies are fed while messages are available, and flushed once.

use futures_util::{FutureExt, SinkExt, StreamExt};
use peers::{MESSAGE_BYTES, Outcome, serve};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

fn main() -> Outcome {
    serve(|stream| async {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let mut socket = accept_async_with_config(stream, Some(config)).await?;
        while let Some(first) = socket.next().await {
            let mut next = Some(first);
            while let Some(message) = next {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.feed(message).await?;
                }
                // What has come already, without waiting for more.
                next = socket.next().now_or_never().flatten();
            }
            socket.flush().await?;
        }
        Ok(())
    })
}
