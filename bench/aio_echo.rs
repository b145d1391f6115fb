//! The echo server of `aio` over tokio that `scripts/compare-peers` measures beside those of other asynchronous
//! libraries: one thread, one task per connection; replies to messages that arrived together are sent together.
//!
//! ```text
//! aio_echo        # prints `listening ws://127.0.0.1:PORT …`, and serves every path
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use echoring_async::{Conn, Upgrader};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Maximum message size, as with every peer.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Enough for ten thousand simultaneous connects.
const BACKLOG: u32 = 4096;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(BACKLOG)?;
        println!(
            "listening ws://{} driver=tokio shards=1 pid={}",
            listener.local_addr()?,
            std::process::id()
        );
        let upgrader = Upgrader::new().allow_any_origin().message_bytes_max(MESSAGE_BYTES_MAX);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(upgrader.clone(), stream));
        }
    })
}

/// A connection's errors end that connection.
async fn serve(upgrader: Upgrader, stream: TcpStream) -> Outcome {
    echo(upgrader.accept_tcp(stream).await?).await
}

async fn echo(mut conn: Conn<TcpStream>) -> Outcome {
    // What is fed leaves before the next read of the socket.
    while let Some(message) = conn.next().await {
        conn.feed(message?).await?;
    }
    Ok(())
}
