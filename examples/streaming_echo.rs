//! Sends back messages of any length while they are still arriving, with one buffer of memory.
//!
//! ```text
//! cargo run --example streaming_echo       # ws://localhost:8002/wshandler
//! ```

mod support;

use std::error::Error;

use echoring::Upgrader;
use support::{arguments, listen, only, until_signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// 2 GiB, the maximum. A message that needs no memory needs no lower limit.
const MESSAGE_BYTES_MAX: u64 = 1 << 31;
const BUFFER_BYTES: usize = 64 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let about = "Echoes messages of any length on /wshandler.";
    let [address] = arguments(about, ["ADDRESS"], ["localhost:8002"]);
    until_signal(serve(&address)).await
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("Starting websocket server at {shown}");
    let upgrader = Upgrader::new().allow_any_origin().max_message(MESSAGE_BYTES_MAX);
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        tokio::spawn(async move {
            if let Err(error) = echo(&upgrader, stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn echo(upgrader: &Upgrader, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut reader, mut writer) = upgrader.accept_tcp_with(stream, only("/wshandler")).await?.split();
    let mut bytes = vec![0; BUFFER_BYTES];
    loop {
        let mut from = match reader.next_reader().await {
            Ok(from) => from,
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut to = writer.next_writer(from.kind());
        // `tokio::io::copy` would flush whenever nothing is there to read, and each flush ends a fragment: a long message
        // would go back in thousands, more than some clients take. Without one they grow with the message.
        loop {
            match from.read(&mut bytes).await? {
                0 => break,
                read => to.write_all(&bytes[..read]).await?,
            }
        }
        // Go's `w.Close()`: the frame that ends the message. A writer that is dropped without it leaves half a
        // message behind, after which nothing but closing is possible; an error above does just that.
        to.finish().await?;
    }
}
