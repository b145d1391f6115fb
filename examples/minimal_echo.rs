//! Receives a string and sends it back, until the first error. It uses io_uring (through tokio-uring) if that is
//! allowed, and tokio's epoll otherwise.
//!
//! ```text
//! cargo run --example minimal_echo         # ws://localhost:5000/echo
//! ```

mod support;

use std::error::Error;

use echoring::CloseCode;
use echoring::{Conn, Transport, Upgrader, UringStream, ring_allowed};
use support::{arguments, listen, only, until_signal};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

fn main() -> Result<(), Box<dyn Error>> {
    let [address] = arguments("Echoes strings on /echo, over io_uring.", ["ADDRESS"], [":5000"]);
    match ring_allowed() {
        Ok(()) => tokio_uring::start(until_signal(serve(&address, true))),
        // Docker's default seccomp profile denies io_uring, for one.
        Err(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, until_signal(serve(&address, false)))
        }
    }
}

async fn serve(address: &str, over_ring: bool) -> Result<(), Box<dyn Error>> {
    let (listener, shown) = listen(address).await?;
    println!("listening on ws://{shown}/echo, {}", if over_ring { "io_uring" } else { "epoll" });
    let upgrader = Upgrader::new().allow_any_origin();
    loop {
        let (stream, peer) = listener.accept().await?;
        let upgrader = upgrader.clone();
        // A ring belongs to one thread, and so do the streams on it: their tasks stay on this thread.
        spawn_local(async move {
            if let Err(error) = open_and_echo(&upgrader, stream, over_ring).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn open_and_echo(
    upgrader: &Upgrader,
    stream: TcpStream,
    over_ring: bool,
) -> Result<(), Box<dyn Error>> {
    if !over_ring {
        return echo(upgrader.accept_tcp_with(stream, only("/echo")).await?).await;
    }
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    // The ring does the waiting. With this flag left on it would say `WouldBlock` instead.
    stream.set_nonblocking(false)?;
    let stream = UringStream::new(tokio_uring::net::TcpStream::from_std(stream));
    echo(upgrader.accept_with(stream, only("/echo")).await?).await
}

/// The same connection over either stream; [`Transport`] is any stream with tokio's traits.
async fn echo<S: Transport>(mut conn: Conn<S>) -> Result<(), Box<dyn Error>> {
    loop {
        let message = match conn.read().await {
            Ok(message) => message,
            Err(error) if error.is_clean() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Ok(string) = std::str::from_utf8(message.as_bytes()) else {
            conn.close(CloseCode::UNSUPPORTED, "not a string").await?;
            return Ok(());
        };
        conn.write_text(string).await?;
    }
}
