//! sockudo-ws by its high-level stream, as its own example shows it.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use peers::{MESSAGE_BYTES, Outcome, serve};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{Config, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> Outcome {
    serve(|mut stream| async {
        upgrade(&mut stream).await?;
        let config = Config::builder().max_payload_length(MESSAGE_BYTES).build();
        let mut socket = WebSocketStream::server(stream, config);
        while let Some(message) = socket.next().await {
            match message? {
                answer @ (Message::Text(_) | Message::Binary(_)) => socket.send(answer).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok(())
    })
}

/// Reads the request and answers it.
async fn upgrade(stream: &mut TcpStream) -> Outcome {
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("it ended within its request".into());
        }
        if let Some((request, _)) = parse_request(&head)? {
            let response = build_response(&generate_accept_key(request.key), None, None);
            stream.write_all(&response).await?;
            return Ok(());
        }
    }
}
