//! What the echo servers of Rust's libraries share: one thread, a task for each connection, and the line that says where
//! they listen.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// A message may have so many bytes, with every peer.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Serves each connection by a task of `handle`, until the process ends. A connection's errors end that connection.
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

/// The same where the library leaves HTTP to hyper.
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

/// Listens on a port of the kernel's choice, with a backlog that ten thousand who come at once need, and tells where.
pub fn listen() -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 4096;
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening ws://{} driver=tokio shards=1 pid={}", listener.local_addr()?, std::process::id());
    Ok(listener)
}
