//! The HTTP side of the proxy: requests pass to a server and responses back, bodies as streams; an upgrade to a
//! WebSocket ends in a [`relay`](super::relay).
//!
//! hyper reads and writes both sides. Each client's connection has one request under way at a time, and each request
//! a connection of its own to a server. Never: a body in memory.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use tokio::io::AsyncWriteExt as _;
use tokio::task::{JoinHandle, spawn_local};

use super::framing::Broken;
use super::headers::{self, Client};
use super::pump::{Activity, Format, Log, discard};
use super::recode::Recoder;
use super::relay::{Peer, Plan, relay};
use super::timer::TokioTimer;
use super::transport::{Transport, Watched};
use super::upstream::{ConnectError, Pick};
use super::{Compression, Context};
use crate::aio::TokioStream;
use crate::limits::{CLOSE_TIMEOUT, DISCARD_BYTES_MAX, HANDSHAKE_TIMEOUT, HEAD_BYTES_MAX, HEADERS_MAX};
use crate::protocol::deflate::{self, Agreement};
use crate::recording::{Event, Open, Side};

type Body = Either<Incoming, Full<Bytes>>;

/// A client's connection while it speaks HTTP.
struct Front {
    context: Rc<Context>,
    peer: SocketAddr,
    secure: bool,
    /// Whether the body of its request is none.
    broken: Broken,
    /// What a 101 on its way to the client leads to.
    upgraded: RefCell<Option<Upgraded>>,
}

/// The server's side of a WebSocket that has been granted.
struct Upgraded {
    upstream: Peer<Transport>,
    compression: Agreed,
    open: Open,
    /// Counts the connection for its server.
    pick: Pick,
}

/// What was agreed about compression, and between whom.
enum Agreed {
    /// Between the client and the server, or not at all.
    EndToEnd(bool),
    /// Between the client and the proxy.
    Here(Agreement),
}

/// Serves one client until it leaves, or the proxy ends.
pub(super) async fn serve(context: Rc<Context>, stream: Transport, peer: SocketAddr, secure: bool) {
    let activity = Activity::now();
    let broken = Broken::default();
    let watched = Watched::new(stream, activity.clone(), &broken);
    let front = Rc::new(Front { context, peer, secure, broken, upgraded: RefCell::new(None) });
    let service = {
        let front = Rc::clone(&front);
        service_fn(move |request| {
            let front = Rc::clone(&front);
            Box::pin(async move { Ok::<_, Infallible>(front.answer(request).await) })
        })
    };
    let mut connection = server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .timer(TokioTimer)
        .header_read_timeout(Duration::from_nanos(HANDSHAKE_TIMEOUT))
        .serve_connection(TokioStream(watched), service);
    let mut draining = false;
    let served = loop {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            () = front.context.drained(), if !draining => {
                Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
            () = super::relay::idle(&activity, front.context.settings.idle_timeout) => return,
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a client's connection failed");
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.0.into_inner();
    let upgraded = front.upgraded.borrow_mut().take();
    match upgraded {
        Some(upgraded) => {
            let client = Peer { stream, early: parts.read_buf.into() };
            front.relay(client, upgraded).await;
        }
        None => {
            // What was written may still be on its way, a refusal above all; unread bytes would reset it.
            let end = async {
                if stream.shutdown().await.is_ok() {
                    discard(&mut stream, DISCARD_BYTES_MAX as usize).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_nanos(CLOSE_TIMEOUT), end).await;
        }
    }
}

impl Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let settings = &self.context.settings;
        if request.method() == Method::CONNECT {
            return refusal(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT does not pass here"));
        }
        let upgrades = headers::asks_for_websocket(&request);
        // No server hears of what cannot be passed on.
        let passed = match headers::judge(&request) {
            Ok(host) if upgrades => self.upgrade(request, host).await,
            Ok(host) => self.pass(request, host).await,
            Err(why) => Err(Refused::new(StatusCode::BAD_REQUEST, why)),
        };
        let mut response = passed.unwrap_or_else(|refused| {
            let status = refused.status.as_u16();
            if refused.status.is_server_error() {
                tracing::warn!(client = %self.peer, status, "{}", refused.text);
            } else {
                tracing::debug!(client = %self.peer, status, "{}", refused.text);
            }
            let mut response = refusal(refused);
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                let seconds = settings.retry_after().as_secs().max(1);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        });
        // The server's is not the client's (RFC 9110, 2.5).
        *response.version_mut() = Version::HTTP_11;
        if upgrades && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // What the client sent behind its request was taken for frames, and not judged.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// An ordinary request.
    async fn pass(&self, request: Request<Incoming>, host: HeaderValue) -> Result<Response<Body>, Refused> {
        let (mut parts, body) = request.into_parts();
        let (pick, stream) = self.connect().await?;
        headers::remove_hop_by_hop(&mut parts.headers);
        self.readdress(&mut parts, &pick, &host)?;
        let (mut sender, connection) =
            client_builder().handshake(TokioStream(stream)).await.map_err(|error| lost(&pick, &error))?;
        let upstream = pick.0.to_string();
        spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to {} failed", pick.0);
            }
            drop(pick);
        });
        let answered = sender.send_request(Request::from_parts(parts, body));
        let response = self.in_time(&upstream, answered).await?;
        let (mut parts, body) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refused::new(StatusCode::BAD_GATEWAY, "the upstream switched protocols unasked"));
        }
        headers::remove_hop_by_hop(&mut parts.headers);
        Ok(Response::from_parts(parts, Either::Left(body)))
    }

    /// A request for a WebSocket. What is not granted is passed on like any other response.
    async fn upgrade(
        &self,
        request: Request<Incoming>,
        host: HeaderValue,
    ) -> Result<Response<Body>, Refused> {
        let settings = &self.context.settings;
        if !request.body().is_end_stream() {
            return Err(Refused::new(StatusCode::BAD_REQUEST, "a WebSocket upgrade has no body"));
        }
        // Dropping the body, which is empty, lets hyper read on behind the head.
        let (mut parts, _) = request.into_parts();
        parts.headers.remove(CONTENT_LENGTH);
        let (pick, stream) = self.connect().await?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        headers::remove_hop_by_hop(&mut parts.headers);
        headers::add_upgrade(&mut parts.headers);
        let offers: Vec<HeaderValue> =
            parts.headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().cloned().collect();
        parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        let offers = offers.iter().map(HeaderValue::as_bytes);
        let mut here = None;
        match &settings.compression {
            Compression::Pass => {
                if let Some(offers) = headers::deflate_offers(offers) {
                    parts.headers.insert(SEC_WEBSOCKET_EXTENSIONS, offers);
                }
            }
            Compression::Off => {}
            Compression::Here { preferences, .. } => here = deflate::agree(offers, preferences),
        }
        self.readdress(&mut parts, &pick, &host)?;
        let (mut sender, connection) = client_builder()
            .handshake::<_, Full<Bytes>>(TokioStream(stream))
            .await
            .map_err(|error| lost(&pick, &error))?;
        let driver = spawn_local(connection.without_shutdown());
        let upstream = pick.0.to_string();
        let answered = sender.send_request(Request::from_parts(parts, Full::default()));
        let response = self.in_time(&upstream, answered).await?;
        let (mut parts, body) = response.into_parts();
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            headers::remove_hop_by_hop(&mut parts.headers);
            return Ok(Response::from_parts(parts, Either::Left(body)));
        }
        let extensions = granted(&parts.headers, &settings.compression)
            .map_err(|why| Refused::new(StatusCode::BAD_GATEWAY, format!("{upstream} {why}")))?;
        headers::remove_hop_by_hop(&mut parts.headers);
        headers::add_upgrade(&mut parts.headers);
        let compression = match here {
            Some(agreement) => {
                parts.headers.insert(SEC_WEBSOCKET_EXTENSIONS, response_of(&agreement));
                Agreed::Here(agreement)
            }
            None => Agreed::EndToEnd(extensions.is_some()),
        };
        let open = Open {
            path,
            peer: self.peer.to_string(),
            upstream: upstream.clone(),
            subprotocol: text(&parts.headers, "sec-websocket-protocol"),
            extensions,
        };
        let (stream, early) = taken_back(driver).await.map_err(|error| lost(&pick, &error))?;
        *self.upgraded.borrow_mut() =
            Some(Upgraded { upstream: Peer { stream, early }, compression, open, pick });
        Ok(Response::from_parts(parts, Either::Right(Full::default())))
    }

    /// Relays the frames of a WebSocket until it is over.
    async fn relay(&self, client: Peer<Transport>, upgraded: Upgraded) {
        let Upgraded { upstream, compression, open, pick } = upgraded;
        let settings = &self.context.settings;
        let (from_client, from_upstream) = match (&compression, &settings.compression) {
            (Agreed::Here(agreement), Compression::Here { level, message_bytes_max, .. }) => (
                Format::Recoded(Box::new(Recoder::from_client(agreement, *message_bytes_max))),
                Format::Recoded(Box::new(Recoder::to_client(agreement, *level))),
            ),
            (Agreed::EndToEnd(compression), _) => {
                let compression = *compression;
                (Format::AsTheyAre { compression }, Format::AsTheyAre { compression })
            }
            (Agreed::Here(_), _) => return,
        };
        let log = self.context.tap.as_ref().map(|tap| Rc::new(Log { tap: tap.clone(), conn: tap.open() }));
        if let Some(log) = &log
            && let Ok(room) = log.tap.room(open.path.len()).await
        {
            room.put(log.conn, Side::Client, Event::Open(open.clone()));
        }
        let plan = Plan {
            from_client,
            from_upstream,
            log: log.clone(),
            keys: self.context.keys.clone(),
            idle_timeout: settings.idle_timeout,
        };
        let ended = relay(client, upstream, plan, self.context.drained()).await;
        if let Some(log) = &log
            && let Ok(room) = log.tap.room(0).await
        {
            room.put(log.conn, ended.by.unwrap_or(Side::Upstream), Event::End { code: ended.code.0 });
        }
        tracing::debug!(client = %self.peer, upstream = %pick.0, path = open.path, code = ended.code.0, by = ?ended.by,
            "a WebSocket is over");
    }

    /// A connection to one of the servers: the next is tried when one cannot be reached.
    async fn connect(&self) -> Result<(Pick, Transport), Refused> {
        let context = &self.context;
        let mut tried = Vec::new();
        let mut last = None;
        while let Some(pick) = context.upstreams.pick(&tried) {
            let timeout = context.settings.connect_timeout;
            match pick.0.connect(context.tls.as_ref(), timeout).await {
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
                    last = Some(Refused::new(status, format!("cannot reach {}: {error}", pick.0)));
                    tried.push(Arc::clone(&pick.0));
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "no upstream is healthy; it is checked again soon")
        }))
    }

    /// Makes a request one to the server picked: target, `Host`, and what tells of the client.
    fn readdress(
        &self,
        parts: &mut http::request::Parts,
        pick: &Pick,
        host: &HeaderValue,
    ) -> Result<(), Refused> {
        let bad = |text: &str| Refused::new(StatusCode::BAD_REQUEST, text);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = match path {
            // OPTIONS of the server as a whole (RFC 9110, 9.3.7).
            "*" => Uri::from_static("*"),
            path => pick.0.target(path).parse().map_err(|_| bad("malformed request target"))?,
        };
        parts.version = Version::HTTP_11;
        let settings = &self.context.settings;
        let upstream_host = HeaderValue::from_str(&pick.0.authority())
            .map_err(|_| Refused::new(StatusCode::BAD_GATEWAY, "the upstream's host is malformed"))?;
        let client = Client { address: self.peer.ip(), secure: self.secure };
        headers::tell_of_client(
            &mut parts.headers,
            client,
            host,
            &upstream_host,
            settings.host,
            settings.forwarded,
        );
        Ok(())
    }

    /// A response's head, which must come in time.
    async fn in_time(
        &self,
        upstream: &str,
        answered: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Response<Incoming>, Refused> {
        let timeout = self.context.settings.response_timeout;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) if self.broken.get() => {
                Err(Refused::new(StatusCode::BAD_REQUEST, "the body is not chunked as it says"))
            }
            Ok(Err(error)) => {
                Err(Refused::new(StatusCode::BAD_GATEWAY, format!("{upstream} did not answer: {error}")))
            }
            Err(_) => Err(Refused::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("{upstream} did not answer within {timeout:?}"),
            )),
        }
    }
}

fn client_builder() -> client::conn::http1::Builder {
    let mut builder = client::conn::http1::Builder::new();
    builder.max_headers(HEADERS_MAX);
    builder
}

/// The stream of a connection whose 101 has been read, and what was read behind it.
async fn taken_back(
    driver: JoinHandle<hyper::Result<client::conn::http1::Parts<TokioStream<Transport>>>>,
) -> Result<(Transport, BytesMut), String> {
    let parts = driver.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok((parts.io.0, parts.read_buf.into()))
}

/// The extensions that a server's 101 names, or what is wrong with it.
fn granted(headers: &HeaderMap, compression: &Compression) -> Result<Option<String>, &'static str> {
    if !headers::grants_websocket(headers) {
        return Err("answered 101, but not for a WebSocket");
    }
    let Some(extensions) = text(headers, "sec-websocket-extensions").filter(|value| !value.trim().is_empty())
    else {
        return Ok(None);
    };
    let known = headers::deflate_offers([extensions.as_bytes()].into_iter());
    // One element, and nothing beside it.
    let alone = known.is_some_and(|known| known.as_bytes() == extensions.trim().as_bytes());
    if *compression == Compression::Pass && alone && !extensions.contains(',') {
        Ok(Some(extensions))
    } else {
        Err("chose an extension nobody offered")
    }
}

fn response_of(agreement: &Agreement) -> HeaderValue {
    let mut value = Vec::new();
    deflate::write_response(&mut value, agreement);
    // Tokens, digits and semicolons: always a value.
    HeaderValue::from_bytes(&value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A request that comes to nothing, and what the client is told.
struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused { status, text: text.into() }
    }
}

fn lost(pick: &Pick, error: &dyn std::fmt::Display) -> Refused {
    Refused::new(StatusCode::BAD_GATEWAY, format!("{} was lost: {error}", pick.0))
}

/// What the client is told: the kind of failure, not the names and addresses behind the proxy.
fn refusal(refused: Refused) -> Response<Body> {
    let line = match refused.status {
        StatusCode::BAD_GATEWAY => {
            "the server behind this proxy cannot be reached, or broke the connection\n"
        }
        StatusCode::GATEWAY_TIMEOUT => "the server behind this proxy did not answer in time\n",
        StatusCode::SERVICE_UNAVAILABLE => "no server behind this proxy is healthy; try again later\n",
        StatusCode::METHOD_NOT_ALLOWED => "this method does not pass\n",
        _ => "malformed request\n",
    };
    let mut response = Response::new(Either::Right(Full::from(line)));
    *response.status_mut() = refused.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}
