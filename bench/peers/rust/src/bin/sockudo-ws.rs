//! sockudo-ws by its high-level stream, as its own example shows it. With `--compress`, compression is negotiated, with a
//! compressor for each connection.

use bytes::BytesMut;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use peers::{MESSAGE_BYTES, Outcome, has_flag, serve};
use sockudo_ws::deflate::negotiate_server_deflate;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{CompressedWebSocketStream, Compression, Config, Error, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> Outcome {
    let mode = if has_flag("--compress") { Compression::Dedicated } else { Compression::Disabled };
    serve(move |stream| serve_one(stream, mode))
}

/// Reads the request, answers it, and echoes.
async fn serve_one(mut stream: TcpStream, mode: Compression) -> Outcome {
    let config = Config::builder().max_payload_length(MESSAGE_BYTES).compression(mode).build();
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("it ended within its request".into());
        }
        let Some((request, _)) = parse_request(&head)? else { continue };
        let policy = mode.to_deflate_config();
        let agreed = policy.zip(request.extensions).and_then(|(policy, offers)| negotiate_server_deflate(offers, &policy));
        let extensions = agreed.as_ref().map(|agreed| agreed.to_response_header());
        let response = build_response(&generate_accept_key(request.key), None, extensions.as_deref());
        stream.write_all(&response).await?;
        return match agreed {
            Some(agreed) => echo(CompressedWebSocketStream::server(stream, config, agreed.config)).await,
            None => echo(WebSocketStream::server(stream, config)).await,
        };
    }
}

async fn echo(
    mut socket: impl Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
) -> Outcome {
    while let Some(message) = socket.next().await {
        match message? {
            answer @ (Message::Text(_) | Message::Binary(_)) => socket.send(answer).await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}
