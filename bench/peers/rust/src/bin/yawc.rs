//! yawc, with UTF-8 validation; replies to messages that arrived together are sent together. With `--compress`, compression is
//! negotiated.

use futures_util::{FutureExt, SinkExt, StreamExt};
use peers::{MESSAGE_BYTES, Outcome, has_flag, serve_http};
use yawc::{CompressionLevel, OpCode, Options, UpgradeFut, WebSocket};

fn main() -> Outcome {
    serve_http(|mut request| async move {
        let options = Options::default().with_utf8().with_limits(MESSAGE_BYTES, 2 * MESSAGE_BYTES);
        let options = match has_flag("--compress") {
            true => options.with_compression_level(CompressionLevel::default()),
            false => options.without_compression(),
        };
        let (response, upgraded) = WebSocket::upgrade_with_options(&mut request, options)?;
        tokio::spawn(echo(upgraded));
        Ok::<_, yawc::WebSocketError>(response)
    })
}

async fn echo(upgraded: UpgradeFut) -> Outcome {
    let mut socket = upgraded.await?;
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) {
                socket.feed(frame).await?;
            }
            next = socket.next().now_or_never().flatten();
        }
        socket.flush().await?;
    }
    Ok(())
}
