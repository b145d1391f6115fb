//! fastwebsockets, as in its own example: a reply is written as soon as its message has arrived.

use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError};
use peers::{MESSAGE_BYTES, Outcome, serve_http};

fn main() -> Outcome {
    serve_http(|mut request| async move {
        let (response, upgraded) = upgrade(&mut request)?;
        tokio::spawn(tokio::task::unconstrained(echo(upgraded)));
        Ok::<_, WebSocketError>(response)
    })
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_max_message_size(MESSAGE_BYTES);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
