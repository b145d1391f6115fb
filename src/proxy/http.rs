//! The HTTP side of the proxy: it forwards requests to an upstream and responses back, and streams their bodies. A
//! successful WebSocket upgrade continues as a [`relay`](super::relay).
//!
//! hyper reads and writes both sides. A client connection has one request under way at a time; each request has its own
//! connection to an upstream. Never: a whole body in memory.

#![forbid(unsafe_code)]

pub(crate) mod headers;
pub(crate) mod request_framing;
pub(crate) mod response_guard;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use self::headers::Client;
use self::request_framing::MalformedBody;
use self::response_guard::{GuardedBody, ResponseGuard, guarded};
use super::forwarder::{Activity, ConnectionTap, Format, discard};
use super::relay::{Peer, RelayOptions, relay};
use super::transport::{ClientStream, Transport};
use super::upstream::{ConnectError, Pick};
use super::{Compression, Context, Live};
use crate::forwarder::transcoder::Transcoder;
use crate::recording::{Event, Open, Side};
use echoring_async::TokioStream;
use echoring_proto::deflate::{self, Agreement};
use echoring_proto::limits::{
    CLOSE_TIMEOUT, DISCARD_BYTES_MAX, HANDSHAKE_TIMEOUT, HEAD_BYTES_DEFAULT, HEADERS_MAX,
};

type Body = Either<GuardedBody, Full<Bytes>>;

/// A client's connection while it speaks HTTP.
struct ClientConnection {
    context: Rc<Context>,
    /// What the current request uses.
    live: RefCell<Arc<Live>>,
    /// `live` is another one.
    reloaded: Notify,
    peer: SocketAddr,
    secure: bool,
    /// Whether the body of the current request is malformed.
    malformed_body: MalformedBody,
    /// Set by a 101 response: the relay that follows.
    upgraded: RefCell<Option<Upgraded>>,
}

/// The upstream side of an accepted WebSocket.
struct Upgraded {
    upstream: Peer<Transport>,
    /// How frames pass from the client, and from the upstream.
    formats: (Format, Format),
    open: Open,
    /// Counts the connection towards its upstream's load.
    pick: Pick,
}

/// Serves one client until it disconnects or the proxy shuts down.
pub(super) async fn serve(context: Rc<Context>, stream: Transport, peer: SocketAddr, secure: bool) {
    let activity = Activity::now(&context.counters);
    let malformed_body = MalformedBody::default();
    let client_stream = ClientStream::new(stream, activity.clone(), &malformed_body);
    let client_connection = Rc::new(ClientConnection {
        live: RefCell::new(context.live()),
        reloaded: Notify::new(),
        context,
        peer,
        secure,
        malformed_body,
        upgraded: RefCell::new(None),
    });
    let service = {
        let client_connection = Rc::clone(&client_connection);
        service_fn(move |request| {
            let client_connection = Rc::clone(&client_connection);
            Box::pin(async move { Ok::<_, Infallible>(client_connection.counted_answer(request).await) })
        })
    };
    let mut connection = server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_DEFAULT)
        .max_headers(HEADERS_MAX)
        // A client that has sent FIN still reads what it has asked for.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_nanos(HANDSHAKE_TIMEOUT))
        .serve_connection(TokioStream(client_stream), service);
    let mut draining = false;
    let served = loop {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            () = client_connection.context.drained(), if !draining => {
                Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
            () = client_connection.reloaded.notified() => {}
            () = super::relay::idle(&activity, client_connection.live().config.settings.idle_timeout) => return,
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a client's connection failed");
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.0.into_inner();
    let upgraded = client_connection.upgraded.borrow_mut().take();
    match upgraded {
        Some(upgraded) => {
            let client = Peer { stream, read_ahead: parts.read_buf.into() };
            client_connection.relay(client, upgraded).await;
        }
        None => {
            // The response may still be in flight; closing with unread bytes would reset the connection.
            let end = async {
                if stream.shutdown().await.is_ok() {
                    discard(&mut stream, DISCARD_BYTES_MAX as usize).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_nanos(CLOSE_TIMEOUT), end).await;
        }
    }
}

/// Passes the client's offers of extensions on, or accepts one where the proxy terminates compression, and returns the
/// agreement.
fn take_offers(headers: &mut HeaderMap, compression: &Compression) -> Option<Agreement> {
    let offers: Vec<HeaderValue> = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().cloned().collect();
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.iter().map(HeaderValue::as_bytes);
    match compression {
        Compression::Pass => {
            if let Some(offers) = headers::deflate_offers(offers) {
                headers.insert(SEC_WEBSOCKET_EXTENSIONS, offers);
            }
            None
        }
        Compression::Off => None,
        Compression::Terminate { preferences, .. } => deflate::agree(offers, preferences),
    }
}

/// How frames pass from the client and from the upstream: through the proxy's agreement with the client, or as they are.
fn formats(
    agreement: Option<&Agreement>,
    compression: &Compression,
    is_compressed: bool,
) -> (Format, Format) {
    match (agreement, compression) {
        (Some(agreement), Compression::Terminate { level, max_message, .. }) => (
            Format::Transcoded(Box::new(Transcoder::from_client(agreement, *max_message))),
            Format::Transcoded(Box::new(Transcoder::to_client(agreement, *level))),
        ),
        _ => (
            Format::Passthrough { compression: is_compressed },
            Format::Passthrough { compression: is_compressed },
        ),
    }
}

impl ClientConnection {
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }

    async fn counted_answer(&self, request: Request<Incoming>) -> Response<Body> {
        let response = self.answer(request).await;
        let class = usize::from(response.status().as_u16() / 100 - 1);
        self.context.counters.responses[class.min(4)].fetch_add(1, Relaxed);
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let live = self.context.live();
        if !Arc::ptr_eq(&self.live.replace(Arc::clone(&live)), &live) {
            self.reloaded.notify_one();
        }
        if request.method() == Method::CONNECT {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not supported");
            return refusal_response(refusal);
        }
        let upgrades = headers::is_websocket_upgrade(&request);
        // Requests that cannot be forwarded never reach an upstream.
        let passed = match headers::validate_host_and_path(&request) {
            _ if !headers::has_plain_body(request.headers()) => {
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "a transfer coding other than chunked"))
            }
            Ok(host) if upgrades => self.upgrade(request, host).await,
            Ok(host) => self.forward_unchanged(request, host).await,
            Err(why) => Err(Refusal::new(StatusCode::BAD_REQUEST, why)),
        };
        let mut response = passed.unwrap_or_else(|refusal| {
            let status = refusal.status.as_u16();
            // 501 is for what the client has sent.
            if refusal.status.is_server_error() && refusal.status != StatusCode::NOT_IMPLEMENTED {
                tracing::warn!(client = %self.peer, status, "{}", refusal.text);
            } else {
                tracing::debug!(client = %self.peer, status, "{}", refusal.text);
            }
            let mut response = refusal_response(refusal);
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                let seconds = live.config.settings.health_interval.as_secs().max(1);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        });
        // A proxy's response carries its own version, not the upstream's (RFC 9110, 2.5).
        *response.version_mut() = Version::HTTP_11;
        if upgrades && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // The bytes behind a refused upgrade request may be frames, which are not parsed as a request.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Forwards an ordinary request.
    async fn forward_unchanged(
        &self,
        request: Request<Incoming>,
        host: HeaderValue,
    ) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        let (pick, stream) = self.connect().await?;
        headers::remove_hop_by_hop(&mut parts.headers);
        self.rewrite_request(&mut parts, &pick, &host)?;
        let (mut sender, connection) = client_builder()
            .handshake(TokioStream(stream))
            .await
            .map_err(|error| connection_failed(&pick, &error))?;
        let upstream = pick.0.to_string();
        let (guard, driven) = guarded(connection);
        spawn_local(async move {
            if let Some(Err(error)) = driven.await {
                tracing::debug!(%error, "a connection to {} failed", pick.0);
            }
            drop(pick);
        });
        let answered = sender.send_request(Request::from_parts(parts, body));
        let response = self.with_response_timeout(&upstream, answered).await?;
        let (parts, body) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::bad_gateway("the upstream switched protocols without being asked"));
        }
        forwarded_response(parts, body, guard)
    }

    /// Forwards a request for a WebSocket. A response other than 101 is forwarded like any other.
    async fn upgrade(
        &self,
        request: Request<Incoming>,
        host: HeaderValue,
    ) -> Result<Response<Body>, Refusal> {
        let live = self.live();
        let settings = &live.config.settings;
        if !request.body().is_end_stream() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a WebSocket upgrade must not have a body"));
        }
        // Dropping the empty body lets hyper read on behind the head.
        let (mut parts, _) = request.into_parts();
        parts.headers.remove(CONTENT_LENGTH);
        let (pick, stream) = self.connect().await?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        headers::remove_hop_by_hop(&mut parts.headers);
        headers::add_upgrade(&mut parts.headers);
        let agreement = take_offers(&mut parts.headers, &settings.compression);
        self.rewrite_request(&mut parts, &pick, &host)?;
        let (mut sender, connection) = client_builder()
            .handshake::<_, Full<Bytes>>(TokioStream(stream))
            .await
            .map_err(|error| connection_failed(&pick, &error))?;
        let (guard, driven) = guarded(connection.without_shutdown());
        let driver = spawn_local(driven);
        let upstream = pick.0.to_string();
        let answered = sender.send_request(Request::from_parts(parts, Full::default()));
        let response = self.with_response_timeout(&upstream, answered).await?;
        let (mut parts, body) = response.into_parts();
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            return forwarded_response(parts, body, guard);
        }
        let extensions = negotiated_extensions(&parts.headers, &settings.compression)
            .map_err(|why| Refusal::bad_gateway(format!("{upstream} {why}")))?;
        headers::remove_hop_by_hop(&mut parts.headers);
        headers::add_upgrade(&mut parts.headers);
        let formats = formats(agreement.as_ref(), &settings.compression, extensions.is_some());
        if let Some(agreement) = agreement {
            parts.headers.insert(SEC_WEBSOCKET_EXTENSIONS, extensions_value(&agreement));
        }
        let open = Open {
            path,
            peer: self.peer.to_string(),
            upstream: upstream.clone(),
            subprotocol: text(&parts.headers, "sec-websocket-protocol"),
            extensions,
        };
        let (stream, read_ahead) =
            reclaimed_stream(driver).await.map_err(|error| connection_failed(&pick, &error))?;
        *self.upgraded.borrow_mut() =
            Some(Upgraded { upstream: Peer { stream, read_ahead }, formats, open, pick });
        Ok(Response::from_parts(parts, Either::Right(Full::default())))
    }

    /// Relays the frames of a WebSocket until it is closed.
    async fn relay(&self, client: Peer<Transport>, upgraded: Upgraded) {
        let Upgraded { upstream, formats: (from_client, from_upstream), open, pick } = upgraded;
        let tap = self
            .context
            .tap
            .as_ref()
            .map(|tap| Rc::new(ConnectionTap { tap: tap.clone(), conn: tap.open() }));
        if let Some(tap) = &tap {
            tap.record(open.path.len(), Side::Client, Event::Open(open.clone())).await;
        }
        let options = RelayOptions {
            from_client,
            from_upstream,
            tap: tap.clone(),
            keys: self.context.keys.clone(),
            idle_timeout: self.live().config.settings.idle_timeout,
            activity: Activity::now(&self.context.counters),
        };
        let ended = relay(client, upstream, options, self.context.drained()).await;
        if let Some(tap) = &tap {
            tap.record(0, ended.by.unwrap_or(Side::Upstream), Event::End { code: ended.code.0 }).await;
        }
        tracing::debug!(client = %self.peer, upstream = %pick.0, path = open.path, code = ended.code.0, by = ?ended.by,
            "a WebSocket was closed");
    }

    /// Connects to an upstream; if it cannot be reached, the next one is tried. A reload meanwhile may have removed it.
    async fn connect(&self) -> Result<(Pick, Transport), Refusal> {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let live = self.context.live();
            let Some(pick) = live.upstreams.pick(&tried) else { break };
            match pick.0.connect(live.connector(), live.config.settings.connect_timeout).await {
                Ok(stream) => {
                    pick.0.set_down(false, &"");
                    return Ok((pick, stream));
                }
                Err(error) => {
                    pick.0.set_down(true, &error);
                    let status = match error {
                        ConnectError::Failed(_) => StatusCode::BAD_GATEWAY,
                        ConnectError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
                    };
                    last = Some(Refusal::new(status, format!("cannot reach {}: {error}", pick.0)));
                    tried.push(Arc::clone(&pick.0));
                }
            }
        }
        Err(last.unwrap_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no upstream is healthy")))
    }

    /// Rewrites a request for the chosen upstream: target, `Host` and forwarding fields.
    fn rewrite_request(
        &self,
        parts: &mut http::request::Parts,
        pick: &Pick,
        host: &HeaderValue,
    ) -> Result<(), Refusal> {
        let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = match path {
            // OPTIONS for the server as a whole (RFC 9110, 9.3.7).
            "*" => Uri::from_static("*"),
            path => pick.0.target(path).parse().map_err(|_| bad("malformed request target"))?,
        };
        parts.version = Version::HTTP_11;
        let live = self.live();
        let settings = &live.config.settings;
        let upstream_host = HeaderValue::from_str(&pick.0.authority())
            .map_err(|_| Refusal::bad_gateway("the upstream's host is malformed"))?;
        let client = Client { address: self.peer.ip(), secure: self.secure };
        headers::set_forwarding_fields(
            &mut parts.headers,
            client,
            host,
            &upstream_host,
            settings.host,
            settings.forwarded,
        );
        Ok(())
    }

    /// Waits for a response's head, within the response timeout.
    async fn with_response_timeout(
        &self,
        upstream: &str,
        answered: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Response<Incoming>, Refusal> {
        let timeout = self.live().config.settings.response_timeout;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) if self.malformed_body.get() => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, "malformed chunked body"))
            }
            Ok(Err(error)) => {
                Err(Refusal::bad_gateway(format!("{upstream} sent no valid response: {error}")))
            }
            Err(_) => {
                let text = format!("{upstream} sent no response within {timeout:?}");
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text))
            }
        }
    }
}

/// An upstream's response, for the client.
fn forwarded_response(
    mut parts: http::response::Parts,
    body: Incoming,
    guard: ResponseGuard,
) -> Result<Response<Body>, Refusal> {
    if !headers::has_plain_body(&parts.headers) {
        let text = "the upstream's response has a transfer coding other than chunked";
        return Err(Refusal::bad_gateway(text));
    }
    headers::remove_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, Either::Left(GuardedBody { body, _guard: guard })))
}

fn client_builder() -> client::conn::http1::Builder {
    let mut builder = client::conn::http1::Builder::new();
    builder.max_headers(HEADERS_MAX);
    builder
}

/// The stream of a connection whose 101 was read, and the bytes that were read behind it.
async fn reclaimed_stream(
    driver: JoinHandle<Option<hyper::Result<client::conn::http1::Parts<TokioStream<Transport>>>>>,
) -> Result<(Transport, BytesMut), String> {
    let ended = driver.await.map_err(|error| error.to_string())?;
    let parts = ended.ok_or("the request was given up")?.map_err(|error| error.to_string())?;
    Ok((parts.io.0, parts.read_buf.into()))
}

/// The extensions in an upstream's 101 response, or why the response is invalid.
fn negotiated_extensions(
    headers: &HeaderMap,
    compression: &Compression,
) -> Result<Option<String>, &'static str> {
    if !headers::accepts_websocket(headers) {
        return Err("answered 101 without a WebSocket upgrade");
    }
    let Some(extensions) = text(headers, "sec-websocket-extensions").filter(|value| !value.trim().is_empty())
    else {
        return Ok(None);
    };
    let known = headers::deflate_offers([extensions.as_bytes()].into_iter());
    // Exactly one element.
    let alone = known.is_some_and(|known| known.as_bytes() == extensions.trim().as_bytes());
    if *compression == Compression::Pass && alone && !extensions.contains(',') {
        Ok(Some(extensions))
    } else {
        Err("chose an extension that was not offered")
    }
}

fn extensions_value(agreement: &Agreement) -> HeaderValue {
    let mut value = Vec::new();
    deflate::write_response(&mut value, agreement);
    // Tokens, digits and semicolons always form a valid header value.
    HeaderValue::from_bytes(&value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A request that is not forwarded, and the response to it.
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into() }
    }

    fn bad_gateway(text: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_GATEWAY, text)
    }
}

fn connection_failed(pick: &Pick, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::bad_gateway(format!("{} closed the connection: {error}", pick.0))
}

/// The client's response: the kind of failure, without names and addresses of upstreams.
fn refusal_response(refusal: Refusal) -> Response<Body> {
    let line = match refusal.status {
        StatusCode::BAD_GATEWAY => "the upstream server cannot be reached, or closed the connection\n",
        StatusCode::GATEWAY_TIMEOUT => "the upstream server did not respond in time\n",
        StatusCode::SERVICE_UNAVAILABLE => "no upstream server is healthy; try again later\n",
        StatusCode::METHOD_NOT_ALLOWED => "this method is not supported\n",
        StatusCode::NOT_IMPLEMENTED => "the only transfer coding that is supported is chunked\n",
        _ => "malformed request\n",
    };
    let mut response = Response::new(Either::Right(Full::from(line)));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}
