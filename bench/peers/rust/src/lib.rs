//! The common part of the echo servers of Rust libraries: one thread, one task per connection, and the line that
//! reports the address.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Maximum message size, as with every peer.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Whether this program was started with `flag`.
pub fn has_flag(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}

/// Serves each connection in a task of `handle`, until the process ends. A connection's errors end only that
/// connection.
pub fn serve<F>(handle: impl Fn(TcpStream) -> F) -> Outcome
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(handle(stream));
        }
    })
}

/// The same for libraries that use hyper for HTTP.
pub fn serve_http<F, E>(answer: impl Fn(Request<Incoming>) -> F + Copy + Send + 'static) -> Outcome
where
    F: Future<Output = Result<Response<Empty<Bytes>>, E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    serve(move |stream| async move {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        connection.with_upgrades().await?;
        Ok(())
    })
}

/// Listens on a free port, with a backlog for ten thousand simultaneous connects, and reports the address.
pub fn listen() -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 4096;
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening ws://{} driver=tokio shards=1 pid={}", listener.local_addr()?, std::process::id());
    Ok(listener)
}
