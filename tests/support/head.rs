//! Heads of requests and responses on asynchronous streams.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads a complete head and no byte after it.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("text")
}
