//! The admin address: a small HTTP/1.1 server by hyper, over tokio-uring or plain tokio.
//!
//! One request per connection, no bodies, an absolute deadline, and at most
//! [`ADMIN_CONNECTIONS_MAX`] connections: an operator needs no more, and an attacker gets no more. What a
//! path means is not known here.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::aio::{TokioStream, UringStream};
use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_TIMEOUT, HEAD_BYTES_MAX, HEADERS_MAX};

/// What is said to a request whose method and path are in order.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn text(status: StatusCode, line: &str) -> Reply {
        Reply { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n").into_bytes() }
    }
}

/// Answers a GET (or HEAD) of a path.
pub(super) type Answer = dyn Fn(&str) -> Pin<Box<dyn Future<Output = Reply>>>;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `listener` on a tokio-uring runtime of this thread until `stopped` resolves.
///
/// # Errors
/// When the ring could not be set up, before anything was accepted: plain tokio will do then.
pub(super) fn serve_on_ring(
    listener: &TcpListener,
    answer: &Rc<Answer>,
    stopped: &mut oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(128))?;
    let listener = tokio_uring::net::TcpListener::from_std(listener.try_clone()?);
    runtime.block_on(async {
        let limit = Limit::new();
        loop {
            let (permit, accepted) = tokio::select! {
                accepted = limit.next(|| listener.accept()) => accepted,
                _ = &mut *stopped => return,
            };
            match accepted {
                Ok((stream, _)) => serve_connection(TokioStream(UringStream::new(stream)), answer, permit),
                Err(error) => accept_failed(&error).await,
            }
        }
    });
    Ok(())
}

/// The same on a plain tokio runtime of this thread.
///
/// # Errors
/// When the runtime could not be set up.
pub(super) fn serve_on_tokio(
    listener: TcpListener,
    answer: &Rc<Answer>,
    stopped: &mut oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    listener.set_nonblocking(true)?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let limit = Limit::new();
        loop {
            let (permit, accepted) = tokio::select! {
                accepted = limit.next(|| listener.accept()) => accepted,
                _ = &mut *stopped => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => serve_connection(TokioStream(stream), answer, permit),
                Err(error) => accept_failed(&error).await,
            }
        }
    })
}

/// Bounds the connections at once.
struct Limit(Arc<Semaphore>);

impl Limit {
    fn new() -> Limit {
        Limit(Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)))
    }

    /// Accepts a connection once there is room for it.
    async fn next<T, A: Future<Output = T>>(
        &self,
        accept: impl FnOnce() -> A,
    ) -> (Option<OwnedSemaphorePermit>, T) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.0).acquire_owned().await.ok();
        (permit, accept().await)
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "the admin address could not accept a connection; trying again");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

/// Serves one request on `stream`, as a task of its own.
fn serve_connection<S>(stream: S, answer: &Rc<Answer>, permit: Option<OwnedSemaphorePermit>)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let answer = Rc::clone(answer);
    spawn_local(async move {
        let service = service_fn(|request: Request<Incoming>| respond(request, Rc::clone(&answer)));
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(stream, service);
        match tokio::time::timeout(Duration::from_nanos(ADMIN_TIMEOUT), connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin request failed"),
            Err(_) => tracing::debug!("an admin request took too long"),
        }
        drop(permit);
    });
}

async fn respond(
    request: Request<Incoming>,
    answer: Rc<Answer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let known_method = matches!(*request.method(), Method::GET | Method::HEAD);
    let reply = if !known_method {
        Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are understood here")
    } else if !request.body().is_end_stream() {
        Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "a request here has no body")
    } else {
        answer(request.uri().path()).await
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !known_method {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use super::*;

    /// Serves on both runtimes in turn, and gives the address to `test`.
    fn on_each_runtime(test: impl Fn(SocketAddr)) {
        for ring in [true, false] {
            if ring && let Err(error) = crate::aio::ring_allowed() {
                assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
                continue;
            }
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let address = listener.local_addr().expect("its address");
            let (stop, mut stopped) = oneshot::channel();
            let server = thread::spawn(move || {
                let answer: Rc<Answer> = Rc::new(|path: &str| {
                    let path = path.to_owned();
                    Box::pin(async move { Reply::text(StatusCode::OK, &path) })
                });
                if ring {
                    serve_on_ring(&listener, &answer, &mut stopped)
                } else {
                    serve_on_tokio(listener, &answer, &mut stopped)
                }
            });
            test(address);
            stop.send(()).expect("still serving");
            server.join().expect("no panic").expect("served");
        }
    }

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(request).expect("sent");
        let mut response = Vec::new();
        // A response to a request that was not read to its end may be followed by a reset.
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    #[test]
    fn a_get_is_answered_and_the_connection_closed() {
        on_each_runtime(|address| {
            let response = exchange(address, b"GET /stats?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.ends_with("\r\n\r\n/stats\n"), "{response}");
        });
    }

    #[test]
    fn other_methods_bodies_and_oversized_heads_are_refused() {
        on_each_runtime(|address| {
            let post = exchange(address, b"POST /stats HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
            assert!(post.contains("allow: GET, HEAD\r\n"), "{post}");
            let body = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
            assert!(body.starts_with("HTTP/1.1 413 "), "{body}");
            let mut long = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
            long.resize(long.len() + HEAD_BYTES_MAX, b'x');
            let long = exchange(address, &long);
            assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
            let garbage = exchange(address, b"\x16\x03\x01\r\n\r\n");
            assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        });
    }

    #[test]
    fn connections_beyond_the_limit_wait_and_are_served_when_others_leave() {
        on_each_runtime(|address| {
            let idle: Vec<TcpStream> =
                (0..ADMIN_CONNECTIONS_MAX).map(|_| TcpStream::connect(address).expect("connected")).collect();
            let waiting = thread::spawn(move || exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            drop(idle);
            let response = waiting.join().expect("no panic");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        });
    }
}
