//! A small HTTP server by hyper on its own thread: it serves a run's metrics.
//!
//! The threads that make the load do not know of it.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{Semaphore, oneshot};

use crate::Failure;
use echoring_admin::limits::ADMIN_TIMEOUT;
use echoring_async::TokioStream;
use echoring_proto::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// Connections at once: a program makes one, a person another.
const CONNECTIONS_MAX: usize = 8;
/// How long answers that are under way at the end may take.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);

/// Answers requests.
pub(super) type Handler = Arc<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

/// A server that ends when it is dropped.
#[derive(Debug)]
pub(super) struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on `address`, on a thread with this name.
    ///
    /// # Errors
    /// When that is impossible.
    pub(super) fn start(name: &'static str, address: SocketAddr, handler: Handler) -> io::Result<HttpServer> {
        let listener = echoring_runtime::listening::retry_busy(|| TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = echoring_async::local_runtime()?;
        let (stop, stopped) = oneshot::channel();
        let serving = move || runtime.block_on(serve(name, listener, handler, stopped));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(serving)?;
        Ok(HttpServer { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The failure to listen on the address of a flag.
    pub(super) fn refused(flag: &str, address: SocketAddr, error: &io::Error) -> Failure {
        let hint = "name a free port, such as 127.0.0.1:0";
        Failure::Environment(format!("{flag}: cannot listen on {address}: {error}; {hint}"))
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, or when what it was answering has left.
            let _ = thread.join();
        }
    }
}

async fn serve(
    name: &'static str,
    listener: TcpListener,
    handler: Handler,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "the {name} of this run cannot be reached"),
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let ((stream, _), permit) = tokio::select! {
            accepted = async {
                // The semaphore is never closed, so there is always a permit in the end.
                let permit = room.clone().acquire_owned().await.ok();
                (echoring_async::accept(name, async || listener.accept().await).await, permit)
            } => accepted,
            _ = &mut stopped => break,
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .keep_alive(false)
                // A client that has sent FIN still reads what it has asked for.
                .half_close(true)
                .max_buf_size(HEAD_BYTES_DEFAULT)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioStream(stream), service);
            // A request that is too slow, or not HTTP, gets no answer.
            let _ = tokio::time::timeout(Duration::from_nanos(ADMIN_TIMEOUT), connection).await;
            drop(permit);
        });
    }
    // Once all permits are free, no request is being answered. A client that reads too slowly is cut off.
    drop(listener);
    let all = room.acquire_many(CONNECTIONS_MAX as u32);
    let _ = tokio::time::timeout(LAST_ANSWERS_TIME, all).await;
}

/// An answer with a body.
pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in words.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

/// The answer to another method than `allowed`.
pub(super) fn wrong_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
