//! The HTTP/1.1 server of the admin address, with hyper on plain tokio.
//!
//! Connections that are kept for further requests, an absolute deadline for each request, bodies that are read on demand only, and
//! at most [`ADMIN_CONNECTIONS_MAX`](crate::limits::ADMIN_CONNECTIONS_MAX) connections. Paths and access rules are elsewhere.

mod connection_slots;
pub(crate) mod lines;
pub(crate) mod socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use crate::limits::{
    ADMIN_BODIES_BYTES_MAX, ADMIN_BODY_TIMEOUT, ADMIN_DISCARD_BYTES_MAX, ADMIN_LINGER, ADMIN_STOP_TIMEOUT,
    ADMIN_TIMEOUT,
};
use connection_slots::{ConnectionSlot, ConnectionSlots};
use echoring_async::TokioStream;
use echoring_proto::handshake::is_only_chunked;
use echoring_proto::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};
use echoring_server::InheritedListener;
use socket::{AdminPeer, AdminSocket, AdminStream};

/// The body of a request, from any source.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// Header fields besides those of every response.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
    /// Time that its answer is delayed.
    pub(super) delay: Duration,
    /// The body instead, line by line. The connection ends with it.
    pub(super) lines: Option<mpsc::Receiver<Bytes>>,
}

impl Reply {
    pub(super) fn empty(status: StatusCode) -> Reply {
        Reply {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
            lines: None,
        }
    }

    pub(super) fn text(status: StatusCode, line: &str) -> Reply {
        Reply { body: format!("{line}\n").into_bytes(), ..Reply::empty(status) }
    }

    /// A JSON response; a line break is appended.
    pub(super) fn json(status: StatusCode, json: serde_json::Result<Vec<u8>>) -> Reply {
        match json {
            Ok(mut body) => {
                body.push(b'\n');
                Reply { content_type: "application/json", body, ..Reply::empty(status) }
            }
            Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// The answer to a request with another method than the path has.
    pub(super) fn wrong_method(methods: &[&str]) -> Reply {
        let allowed = methods.join(", ");
        let line = format!("method not allowed; use {allowed}");
        let mut reply = Reply::text(StatusCode::METHOD_NOT_ALLOWED, &line);
        reply.headers.extend(HeaderValue::try_from(allowed).map(|allowed| (ALLOW, allowed)));
        reply
    }

    /// A temporary refusal.
    pub(super) fn busy(message: &str) -> Reply {
        let mut reply = Reply::problem(StatusCode::TOO_MANY_REQUESTS, "busy", message);
        reply.headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
        reply
    }

    fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.extend(self.headers);
        response
    }

    /// An error response: a code for programs and a line for people.
    pub(super) fn problem(status: StatusCode, code: &str, message: &str) -> Reply {
        Reply::json(status, serde_json::to_vec(&json!({"error": {"code": code, "message": message}})))
    }
}

/// The body of a response.
enum ReplyBody {
    Whole(Full<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            ReplyBody::Whole(body) => Pin::new(body).poll_frame(cx),
            ReplyBody::Lines(lines) => lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ReplyBody::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Whole(body) => body.size_hint(),
            ReplyBody::Lines(_) => SizeHint::default(),
        }
    }
}

/// Answers requests.
pub(super) trait Answer: 'static {
    /// Whether a request is answered however many others are in progress. Its answer must be immediate.
    fn is_urgent(&self, request: &Request<RequestBody>) -> bool;

    /// Answers a request of the peer in its extensions, if the peer has the rights.
    async fn answer(&self, request: &mut Request<RequestBody>) -> Reply;

    /// Answers a request that did not come through the admin address, from a client with the rights.
    async fn answer_passed_on(&self, request: &mut Request<RequestBody>) -> Reply;
}

/// A request that came by another way than the admin address.
#[derive(Debug)]
pub(super) struct PassedOn {
    pub(super) request: Request<Bytes>,
    pub(super) reply: oneshot::Sender<Response<Bytes>>,
}

impl PassedOn {
    /// Answers it in its own task.
    fn serve<A: Answer>(self, answer: &Rc<A>) {
        let answer = Rc::clone(answer);
        spawn_local(async move {
            let PassedOn { request, reply } = self;
            let mut request =
                request.map(|body| RequestBody::new(Full::new(body).map_err(|never| match never {})));
            let answered =
                timeout(Duration::from_nanos(ADMIN_TIMEOUT), answer.answer_passed_on(&mut request));
            if let Ok(answered) = answered.await {
                // Nobody may wait any more.
                let _ = reply.send(answered.into_response());
            }
        });
    }
}

/// Why a body is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It is longer than allowed.
    TooLong,
    /// The bodies of other requests use all the memory.
    NoRoom,
    /// It did not arrive in time.
    TooLate,
    /// It ended too early, or is not HTTP.
    Broken,
}

/// A body. Its bytes are charged until it is dropped.
#[derive(Debug)]
pub(super) struct ChargedBody {
    pub(super) bytes: Vec<u8>,
    counted: u64,
    room: Rc<Cell<u64>>,
}

impl ChargedBody {
    /// Keeps the first `at` bytes, and returns the others, with their part of the charge.
    fn split_off(&mut self, at: usize) -> ChargedBody {
        let bytes = self.bytes.split_off(at);
        let counted = bytes.len() as u64;
        self.counted -= counted;
        ChargedBody { bytes, counted, room: Rc::clone(&self.room) }
    }
}

impl Drop for ChargedBody {
    fn drop(&mut self) {
        self.room.set(self.room.get() - self.counted);
    }
}

/// Bounds the bytes of all bodies.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies(Rc<Cell<u64>>);

impl Bodies {
    /// Reads a body of at most `bytes_max`. If no other body is held, its length is not charged against the bound.
    pub(super) async fn read(
        &self,
        body: &mut RequestBody,
        bytes_max: u64,
    ) -> Result<ChargedBody, BodyError> {
        if body.size_hint().lower() > bytes_max {
            return Err(BodyError::TooLong);
        }
        let reading = self.read_frames(body, bytes_max);
        match timeout(Duration::from_nanos(ADMIN_BODY_TIMEOUT), reading).await {
            Ok(read) => read,
            Err(_) => Err(BodyError::TooLate),
        }
    }

    async fn read_frames(&self, body: &mut RequestBody, bytes_max: u64) -> Result<ChargedBody, BodyError> {
        let mut held = self.empty();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Broken)?;
            // Other frames are trailers.
            let Ok(more) = frame.into_data() else { continue };
            if held.counted + more.len() as u64 > bytes_max {
                return Err(BodyError::TooLong);
            }
            self.hold(&mut held, &more)?;
        }
        Ok(held)
    }

    fn empty(&self) -> ChargedBody {
        ChargedBody { bytes: Vec::new(), counted: 0, room: Rc::clone(&self.0) }
    }

    /// Appends further bytes of a body, if there is room for them.
    fn hold(&self, held: &mut ChargedBody, more: &[u8]) -> Result<(), BodyError> {
        let (length, all) = (held.counted + more.len() as u64, self.0.get() + more.len() as u64);
        if all > ADMIN_BODIES_BYTES_MAX && all > length {
            return Err(BodyError::NoRoom);
        }
        self.0.set(all);
        held.counted = length;
        held.bytes.extend_from_slice(more);
        Ok(())
    }
}

/// The treatment of connections by the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accept them.
    Serving,
    /// Answer the existing ones, once each. Others wait in the listener's queue.
    Paused,
    /// The same, with the listener closed, and end with the last of them.
    Left,
    /// End. Requests in progress are answered, for [`ADMIN_STOP_TIMEOUT`] at most.
    Stopped,
}

/// An order to the thread.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) phase: Phase,
    /// Dropped when the order is carried out, or when the thread has ended.
    pub(super) done: std::sync::mpsc::Sender<()>,
}

/// Orders and requests of other threads.
#[derive(Debug)]
pub(super) struct ControlInlet {
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) passed_on: mpsc::UnboundedReceiver<PassedOn>,
}

/// A listener and its runtime, with all the descriptors they need: a thread with them works even if the process has
/// none left.
pub(super) struct AdminListener {
    runtime: Runtime,
    listener: AdminSocket,
}

impl AdminListener {
    /// # Errors
    /// If the runtime cannot be set up.
    pub(super) fn new(listener: &InheritedListener) -> io::Result<AdminListener> {
        let runtime = echoring_async::local_runtime()?;
        let entered = runtime.enter();
        let listener = AdminSocket::new(listener)?;
        drop(entered);
        Ok(AdminListener { runtime, listener })
    }

    /// Serves on this thread, as ordered.
    pub(super) fn serve<A: Answer>(self, answer: &Rc<A>, inlet: ControlInlet) {
        let ControlInlet { mut orders, mut passed_on } = inlet;
        let AdminListener { runtime, listener } = self;
        LocalSet::new().block_on(&runtime, async {
            let slots = ConnectionSlots::default();
            let mut listener = Some(listener);
            let mut phase = Phase::Serving;
            // A connection that waits for a slot. No other is accepted meanwhile.
            let mut accepted = None;
            while phase != Phase::Stopped {
                let is_waiting = accepted.is_some();
                tokio::select! {
                    order = orders.recv() => {
                        // Without anybody to order, it is over.
                        let (ordered, done) =
                            order.map_or((Phase::Stopped, None), |order| (order.phase, Some(order.done)));
                        phase = ordered;
                        slots.set_closing(phase != Phase::Serving);
                        if matches!(phase, Phase::Left | Phase::Stopped) {
                            listener = None;
                        }
                        if phase == Phase::Stopped {
                            let _ = timeout(Duration::from_nanos(ADMIN_STOP_TIMEOUT), slots.answered()).await;
                        }
                        drop(done);
                    }
                    connection = accept(listener.as_ref()), if phase == Phase::Serving && !is_waiting => {
                        accepted = Some(connection);
                    }
                    slot = slots.take(), if is_waiting => if let Some((stream, peer)) = accepted.take() {
                        serve_connection(stream, peer, answer, slot);
                    },
                    Some(passed_on) = passed_on.recv() => passed_on.serve(answer),
                    () = slots.emptied(), if phase == Phase::Left && !is_waiting => return,
                }
            }
        });
    }
}

async fn accept(listener: Option<&AdminSocket>) -> (AdminStream, AdminPeer) {
    match listener {
        Some(listener) => echoring_async::accept("admin", async || listener.accept().await).await,
        None => std::future::pending().await,
    }
}

/// Serves the requests on `stream` in their own task.
fn serve_connection<A: Answer>(stream: AdminStream, peer: AdminPeer, answer: &Rc<A>, slot: ConnectionSlot) {
    let answer = Rc::clone(answer);
    spawn_local(async move {
        let slot = Rc::new(slot);
        tokio::select! {
            served = serve_requests(stream, peer, answer, &slot) => if let Err(error) = served {
                tracing::debug!(%error, "an admin request failed");
            },
            cause = slot.lost() => tracing::debug!(cause, "an admin connection is closed"),
        }
    });
}

async fn serve_requests<A: Answer>(
    stream: AdminStream,
    peer: AdminPeer,
    answer: Rc<A>,
    slot: &Rc<ConnectionSlot>,
) -> hyper::Result<()> {
    let unread = Rc::new(Cell::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(|body| RequestBody::new(body.map_err(Into::into)));
        request.extensions_mut().insert(peer);
        Box::pin(respond(request, Rc::clone(&answer), Rc::clone(slot), Rc::clone(&unread)))
    });
    let mut connection = http1::Builder::new()
        // A client that has sent FIN still reads what it has asked for.
        .half_close(true)
        .max_buf_size(HEAD_BYTES_DEFAULT)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioStream(WatchedStream { stream, slot: Rc::clone(slot) }), service);
    let served = (&mut connection).await;
    if served.is_err() || unread.get() {
        slot.discarding();
        discard(connection.into_parts().io.0.stream).await;
    }
    served
}

/// The stream of a connection. It notifies the connection's slot when everything was sent.
struct WatchedStream<S> {
    stream: S,
    slot: Rc<ConnectionSlot>,
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.slot.sent();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Discards bytes behind a response. A socket that is closed with unread bytes sends a reset, which may overtake the
/// response.
async fn discard<S: AsyncRead + Unpin>(stream: S) {
    let mut rest = stream.take(ADMIN_DISCARD_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let discarding = tokio::io::copy(&mut rest, &mut nowhere);
    // A peer that sends more, or for longer, is cut off.
    let _ = timeout(Duration::from_nanos(ADMIN_LINGER), discarding).await;
}

/// Whether a request violates RFC 9112, 3.2: an HTTP/1.1 request has exactly one Host field. hyper does not check that.
fn misses_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    second.is_some() || (first.is_none() && request.version() >= Version::HTTP_11)
}

async fn respond<A: Answer>(
    mut request: Request<RequestBody>,
    answer: Rc<A>,
    slot: Rc<ConnectionSlot>,
    unread: Rc<Cell<bool>>,
) -> Result<Response<ReplyBody>, Infallible> {
    let may_begin = slot.begin(answer.is_urgent(&request));
    let codings = request.headers().get_all(TRANSFER_ENCODING).into_iter().map(HeaderValue::as_bytes);
    let mut reply = if misses_host(&request) {
        Reply::text(StatusCode::BAD_REQUEST, "a request of HTTP/1.1 has one Host field")
    } else if !is_only_chunked(codings) {
        Reply::text(StatusCode::NOT_IMPLEMENTED, "the only transfer coding is chunked")
    } else if may_begin {
        answer.answer(&mut request).await
    } else {
        Reply::busy("too many concurrent requests")
    };
    if !reply.delay.is_zero() {
        slot.delay();
        tokio::time::sleep(reply.delay).await;
    }
    unread.set(!request.body().is_end_stream());
    let lines = reply.lines.take();
    let is_kept = match lines {
        Some(_) => slot.streaming(),
        None => slot.sending() && !unread.get(),
    };
    let mut response = reply.into_response().map(|whole| match lines {
        Some(lines) => ReplyBody::Lines(lines),
        None => ReplyBody::Whole(Full::new(whole)),
    });
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !is_kept {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::limits::ADMIN_CONNECTIONS_MAX;

    /// Answers with the path or, to POST, with the body.
    struct Mirror {
        bodies: Bodies,
    }

    const BODY_BYTES_MAX: u64 = 100_000;

    impl Answer for Mirror {
        fn is_urgent(&self, request: &Request<RequestBody>) -> bool {
            request.uri().path() == "/urgent"
        }

        async fn answer_passed_on(&self, request: &mut Request<RequestBody>) -> Reply {
            self.answer(request).await
        }

        async fn answer(&self, request: &mut Request<RequestBody>) -> Reply {
            let path = request.uri().path().to_owned();
            if request.method() != hyper::Method::POST {
                return Reply::text(StatusCode::OK, &path);
            }
            if path == "/unwanted" {
                return Reply::empty(StatusCode::FORBIDDEN);
            }
            if path == "/slow" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if path == "/never" {
                std::future::pending::<()>().await;
            }
            match self.bodies.read(request.body_mut(), BODY_BYTES_MAX).await {
                Ok(held) => Reply { body: held.bytes.clone(), ..Reply::empty(StatusCode::OK) },
                Err(error) => Reply::text(StatusCode::BAD_REQUEST, &format!("{error:?}")),
            }
        }
    }

    /// Orders to a thread that serves.
    struct Orders(mpsc::UnboundedSender<Order>, mpsc::UnboundedSender<PassedOn>);

    impl Orders {
        fn send(&self, phase: Phase) {
            let (done, carried_out) = std::sync::mpsc::channel();
            self.0.send(Order { phase, done }).expect("still serving");
            assert!(carried_out.recv().is_err(), "nothing is sent");
        }
    }

    /// Serves, and passes the address and the orders to `test`.
    fn serving_on_orders(test: impl FnOnce(SocketAddr, Orders)) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (orders, received) = mpsc::unbounded_channel();
        let (others, passed_on) = mpsc::unbounded_channel();
        let listener = InheritedListener::new(vec![listener.into()]).expect("it listens");
        let listening = AdminListener::new(&listener).expect("a runtime");
        drop(listener);
        let server = thread::spawn(move || {
            let answer = Rc::new(Mirror { bodies: Bodies::default() });
            listening.serve(&answer, ControlInlet { orders: received, passed_on });
        });
        test(address, Orders(orders, others));
        server.join().expect("no panic");
    }

    /// Serves until `test` returns.
    fn serving(test: impl FnOnce(SocketAddr)) {
        serving_on_orders(|address, orders| {
            test(address);
            orders.send(Phase::Stopped);
        });
    }

    #[test]
    fn requests_that_come_by_another_way_are_answered_too() {
        serving_on_orders(|_, orders| {
            let (reply, answer) = oneshot::channel();
            let request = Request::post("/").body(Bytes::from_static(b"hello")).expect("a request");
            assert!(orders.1.send(PassedOn { request, reply }).is_ok());
            let response = answer.blocking_recv().expect("an answer");
            assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"hello"[..]));
            orders.send(Phase::Stopped);
        });
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    /// A connection with half of a request, which has been read.
    fn half(address: SocketAddr) -> TcpStream {
        let mut stream = connect(address);
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            .expect("sent");
        let mut line = [0; 25];
        stream.read_exact(&mut line).expect("it asks for the body");
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    }

    fn finish(mut stream: TcpStream) -> String {
        stream.write_all(b"ok").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response, and no reset");
        response
    }

    #[test]
    fn what_was_accepted_is_answered_after_the_listener_is_left() {
        serving_on_orders(|address, orders| {
            let begun = half(address);
            orders.send(Phase::Left);
            assert!(TcpStream::connect(address).is_err(), "nobody listens");
            assert!(finish(begun).ends_with("\r\n\r\nok"));
            // The thread ends by itself, while somebody could still order.
            let ended = std::time::Instant::now() + Duration::from_secs(30);
            while !orders.0.is_closed() {
                assert!(std::time::Instant::now() < ended, "it does not end");
                thread::yield_now();
            }
        });
    }

    #[test]
    fn requests_in_progress_are_answered_when_it_stops() {
        serving_on_orders(|address, orders| {
            let (begun, silent) = (half(address), connect(address));
            let (done, carried_out) = std::sync::mpsc::channel();
            orders.0.send(Order { phase: Phase::Stopped, done }).expect("still serving");
            assert!(finish(begun).ends_with("\r\n\r\nok"));
            assert!(carried_out.recv().is_err(), "nothing is sent");
            assert!(TcpStream::connect(address).is_err(), "nobody listens");
            drop(silent);
        });
    }

    #[test]
    fn connections_wait_while_it_is_paused() {
        serving_on_orders(|address, orders| {
            let begun = half(address);
            orders.send(Phase::Paused);
            let mut waiting = connect(address);
            waiting.write_all(b"GET /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
            assert!(finish(begun).ends_with("\r\n\r\nok"));
            waiting.set_nonblocking(true).expect("nonblocking");
            assert_eq!(waiting.read(&mut [0]).expect_err("no answer").kind(), io::ErrorKind::WouldBlock);
            waiting.set_nonblocking(false).expect("blocking");
            orders.send(Phase::Serving);
            let mut response = String::new();
            waiting.read_to_string(&mut response).expect("a response");
            assert!(response.ends_with("\r\n\r\n/later\n"), "{response}");
            orders.send(Phase::Stopped);
        });
    }

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(request).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut response = Vec::new();
        // A response to a request that was not read to its end may be followed by a reset.
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    #[test]
    fn a_client_that_has_sent_fin_is_answered() {
        serving(|address| {
            for _ in 0..20 {
                let response = exchange(address, b"GET /stats?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
                assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
                assert!(response.ends_with("\r\n\r\n/stats\n"), "{response}");
                // It takes a while.
                let response = exchange(address, &post("/slow", 5, b"hello"));
                assert!(response.ends_with("\r\n\r\nhello"), "{response}");
            }
        });
    }

    /// Reads one response, whose length is declared: its head and its body.
    fn read_response(stream: &mut TcpStream) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        stream.read_exact(&mut body).expect("the body");
        (head, String::from_utf8(body).expect("text"))
    }

    #[test]
    fn a_connection_is_kept_for_further_requests_until_its_client_or_the_server_ends_it() {
        serving_on_orders(|address, orders| {
            let (mut kept, mut idle) = (connect(address), connect(address));
            for index in 0..3 {
                let body = format!("message {index}");
                kept.write_all(&post("/", body.len() as u64, body.as_bytes())).expect("sent");
                let (head, read) = read_response(&mut kept);
                assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection: close"), "{head}");
                assert_eq!(read, body);
                idle.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
                assert_eq!(read_response(&mut idle).1, "/a\n");
            }
            // A successor has the address from now on: each is answered once more, or closed soon.
            orders.send(Phase::Left);
            kept.write_all(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            let (head, read) = read_response(&mut kept);
            assert!(head.contains("connection: close"), "{head}");
            assert_eq!(read, "/b\n");
            assert_eq!(kept.read(&mut [0]).expect("the end"), 0);
            assert_eq!(idle.read(&mut [0]).expect("the end"), 0);
        });
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        serving(|address| {
            let mut stream = connect(address);
            let mut sender = stream.try_clone().expect("a second handle");
            // More than any buffer holds: they are answered while others are sent.
            let requests = 3_000;
            let sending = thread::spawn(move || {
                for number in 0..requests {
                    let body = format!("{number:x<200}");
                    let path = if number % 100 == 0 { "/slow" } else { "/" };
                    sender.write_all(&post(path, body.len() as u64, body.as_bytes())).expect("sent");
                    sender
                        .write_all(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
                        .expect("sent");
                }
            });
            for number in 0..requests {
                let (head, body) = read_response(&mut stream);
                assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection: close"), "{head}");
                assert_eq!(body, format!("{number:x<200}"));
                assert_eq!(read_response(&mut stream).1, format!("/{number}\n"));
            }
            sending.join().expect("all are sent");
        });
    }

    #[test]
    fn behind_a_request_without_an_answer_little_is_read() {
        const SOCKET_BYTES: usize = 32 * 1024;
        serving(|address| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_send_buffer_size(SOCKET_BYTES).expect("a size");
            socket.connect(&address.into()).expect("connected");
            // Without progress for that long, the server does not read.
            socket.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            let mut stream = TcpStream::from(socket);
            stream.write_all(&post("/never", 0, b"")).expect("sent");
            let request = post("/", 1_000, &[b'x'; 1_000]);
            let most = 64 * 1024 * 1024;
            let mut sent = 0;
            let stalled = loop {
                match stream.write(&request) {
                    Ok(bytes) => sent += bytes,
                    Err(error) => break error,
                }
                assert!(sent < most, "the server reads on");
            };
            assert_eq!(stalled.kind(), io::ErrorKind::WouldBlock, "{sent} bytes were taken");
        });
    }

    #[test]
    fn a_connection_whose_body_was_not_read_is_closed() {
        serving(|address| {
            let mut stream = connect(address);
            stream.write_all(&post("/unwanted", 10, b"")).expect("sent");
            let (head, _) = read_response(&mut stream);
            assert!(head.starts_with("http/1.1 403 ") && head.contains("connection: close"), "{head}");
        });
    }

    #[test]
    fn a_body_in_an_unknown_coding_is_not_taken_as_it_came() {
        serving(|address| {
            for codings in ["gzip, chunked", "chunked, chunked"] {
                let request = format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {codings}\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                );
                let response = exchange(address, request.as_bytes());
                assert!(response.starts_with("HTTP/1.1 501 "), "{codings}: {response}");
            }
        });
    }

    #[test]
    fn kept_connections_make_room() {
        serving(|address| {
            let mut kept: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX).map(|_| connect(address)).collect();
            for stream in &mut kept {
                stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
                assert_eq!(read_response(stream).1, "/a\n");
            }
            let response = exchange(address, b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert_eq!(kept[0].read(&mut [0]).expect("the end"), 0, "it has waited longest");
        });
    }

    #[test]
    fn oversized_heads_and_what_is_no_http_are_refused() {
        serving(|address| {
            let mut long = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
            long.resize(long.len() + HEAD_BYTES_DEFAULT, b'x');
            let long = exchange(address, &long);
            assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
            let garbage = exchange(address, b"\x16\x03\x01\r\n\r\n");
            assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        });
    }

    #[test]
    fn a_request_of_http_1_1_has_one_host() {
        serving(|address| {
            for (request, status) in [
                ("GET / HTTP/1.1\r\n\r\n", "400"),
                ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
                ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
                ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "400"),
                ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "200"),
                ("GET / HTTP/1.0\r\n\r\n", "200"),
            ] {
                let response = exchange(address, request.as_bytes());
                assert_eq!(response.split(' ').nth(1), Some(status), "{request:?}: {response}");
            }
        });
    }

    fn post(path: &str, length: u64, body: &[u8]) -> Vec<u8> {
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        request
    }

    #[test]
    fn a_body_is_read_to_its_end_and_no_further_than_its_bound() {
        serving(|address| {
            let body = vec![b'x'; BODY_BYTES_MAX as usize];
            let whole = exchange(address, &post("/", BODY_BYTES_MAX, &body));
            assert!(whole.starts_with("HTTP/1.1 200 OK\r\n"), "{whole:.100}");
            assert_eq!(whole.split("\r\n\r\n").nth(1).map(str::len), Some(body.len()));
            let long = exchange(address, &post("/", BODY_BYTES_MAX + 1, b""));
            assert!(long.ends_with("\r\n\r\nTooLong\n"), "{long}");
            let mut chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for _ in 0..11 {
                chunked.extend_from_slice(b"2710\r\n");
                chunked.resize(chunked.len() + 10_000, b'x');
                chunked.extend_from_slice(b"\r\n");
            }
            chunked.extend_from_slice(b"0\r\n\r\n");
            let long = exchange(address, &chunked);
            assert!(long.ends_with("\r\n\r\nTooLong\n"), "{long}");
        });
    }

    #[test]
    fn a_body_that_ends_too_early_is_none() {
        serving(|address| {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.write_all(&post("/", 10, b"half")).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("half closed");
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("a response");
            assert!(response.ends_with("\r\n\r\nBroken\n"), "{response}");
        });
    }

    #[test]
    fn who_sends_a_body_that_nobody_wants_gets_to_see_why() {
        serving(|address| {
            let mut stream = TcpStream::connect(address).expect("connected");
            let body = vec![0; ADMIN_DISCARD_BYTES_MAX as usize / 2];
            stream.write_all(&post("/unwanted", body.len() as u64, &body)).expect("all of it is taken");
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("no reset");
            assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
        });
    }

    #[test]
    fn connections_without_a_request_keep_nobody_out() {
        serving(|address| {
            let idle: Vec<TcpStream> = (0..3 * ADMIN_CONNECTIONS_MAX)
                .map(|_| TcpStream::connect(address).expect("connected"))
                .collect();
            let response = exchange(address, b"GET /urgent HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            drop(idle);
        });
    }

    #[test]
    fn requests_whose_bodies_do_not_come_leave_room_for_urgent_ones() {
        serving(|address| {
            let slow: Vec<TcpStream> = (0..2 * ADMIN_CONNECTIONS_MAX)
                .map(|_| {
                    let mut stream = TcpStream::connect(address).expect("connected");
                    stream.write_all(&post("/", 10, b"half")).expect("sent");
                    stream
                })
                .collect();
            let response = exchange(address, b"GET /urgent HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            drop(slow);
        });
    }
}
