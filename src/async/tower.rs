//! A service for hyper and tower that upgrades the requests it gets.
//!
//! Never: the handshake, which is the [`Upgrader`]'s, or routes beyond one decision per request.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::{Acceptance, Conn, Decision, RequestHead, UpgradeError, Upgraded, Upgrader};

/// A service that opens a WebSocket for each request, or refuses it with the response that the [`Upgrader`] has for it.
/// It is a `tower_service::Service` and a [`hyper::service::Service`] for requests with any body, so it is served by
/// every server of hyper 1.x, by axum's `route_service`, and behind tower's layers. HTTP/1.1 only; the server must
/// support upgrades (hyper: `with_upgrades`).
///
/// `handler` runs with each connection in a task of its own, on tokio's runtime.
///
/// ```no_run
/// use echoring::tower::UpgradeService;
/// use echoring::{Acceptance, HttpResponse, TokioStream, Upgrader};
/// use hyper::server::conn::http1;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let service = UpgradeService::new(Upgrader::new(), |mut conn| async move {
///     while let Ok(message) = conn.read().await {
///         if conn.write(message).await.is_err() {
///             return;
///         }
///     }
/// })
/// .decide(|request| match request.path() {
///     "/ws" => Acceptance::new().into(),
///     _ => HttpResponse::new(404, "no such path\n").into(),
/// });
/// let listener = TcpListener::bind("127.0.0.1:9001").await?;
/// loop {
///     let (stream, peer) = listener.accept().await?;
///     let service = service.clone().with_addresses(stream.local_addr().ok(), Some(peer));
///     let serving = http1::Builder::new().serve_connection(TokioStream(stream), service).with_upgrades();
///     tokio::spawn(serving);
/// }
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct UpgradeService<H> {
    upgrader: Upgrader,
    handler: H,
    decide: Option<Arc<Decide>>,
    on_failed: Arc<OnFailed>,
    addresses: (Option<SocketAddr>, Option<SocketAddr>),
}

type Decide = dyn Fn(&RequestHead<'_>) -> Decision + Send + Sync;
type OnFailed = dyn Fn(UpgradeError) + Send + Sync;

impl<H> UpgradeService<H> {
    /// A service that upgrades with `upgrader`, and calls `handler` with each connection.
    pub fn new<F>(upgrader: Upgrader, handler: H) -> UpgradeService<H>
    where
        H: FnOnce(Conn<Upgraded>) -> F + Clone,
        F: Future<Output = ()> + Send + 'static,
    {
        UpgradeService {
            upgrader,
            handler,
            decide: None,
            on_failed: Arc::new(|error| tracing::debug!(%error, "a connection was not handed over")),
            addresses: (None, None),
        }
    }

    /// Calls `decide` for each request, before it is accepted. It is called for requests that are not upgrades, too, so
    /// that it can respond to them; without it they get 426.
    pub fn decide(
        self,
        decide: impl Fn(&RequestHead<'_>) -> Decision + Send + Sync + 'static,
    ) -> UpgradeService<H> {
        UpgradeService { decide: Some(Arc::new(decide)), ..self }
    }

    /// Calls `callback` if a connection is not handed over after the response, for example because the client is gone. By
    /// default that is logged at the level `debug`.
    pub fn on_failed_upgrade(
        self,
        callback: impl Fn(UpgradeError) + Send + Sync + 'static,
    ) -> UpgradeService<H> {
        UpgradeService { on_failed: Arc::new(callback), ..self }
    }

    /// The addresses that [`Conn::local_addr`] and [`Conn::peer_addr`] return: for a clone of the service that serves one
    /// TCP connection.
    pub fn with_addresses(self, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> UpgradeService<H> {
        UpgradeService { addresses: (local, peer), ..self }
    }

    fn respond<B, F>(&self, mut request: http::Request<B>) -> http::Response<ResponseBody>
    where
        H: FnOnce(Conn<Upgraded>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let decide = |head: &RequestHead<'_>| match &self.decide {
            Some(decide) => decide(head),
            None => Acceptance::new().into(),
        };
        let (response, upgrading) = match self.upgrader.upgrade_with(&mut request, decide) {
            Ok(upgrade) => upgrade,
            Err(refused) => return refused.into_response(),
        };
        let (local, peer) = self.addresses;
        let upgrading = upgrading.with_addresses(local, peer);
        let (handler, on_failed) = (self.handler.clone(), Arc::clone(&self.on_failed));
        tokio::spawn(async move {
            match upgrading.await {
                Ok(conn) => handler(conn).await,
                Err(error) => on_failed(error),
            }
        });
        response.map(|()| ResponseBody(Bytes::new()))
    }
}

impl<H, F, B> tower_service::Service<http::Request<B>> for UpgradeService<H>
where
    H: FnOnce(Conn<Upgraded>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<ResponseBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        ready(Ok(self.respond(request)))
    }
}

impl<H, F, B> hyper::service::Service<http::Request<B>> for UpgradeService<H>
where
    H: FnOnce(Conn<Upgraded>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<ResponseBody>, Infallible>>;

    fn call(&self, request: http::Request<B>) -> Self::Future {
        ready(Ok(self.respond(request)))
    }
}

impl<H> fmt::Debug for UpgradeService<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeService").field("upgrader", &self.upgrader).finish_non_exhaustive()
    }
}

/// The body of a response of an [`UpgradeService`]: empty, or the text of a refusal.
///
/// ```
/// use echoring::tower::ResponseBody;
///
/// let body = ResponseBody::from("not found\n".to_owned());
/// # drop(body);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseBody(Bytes);

impl From<String> for ResponseBody {
    fn from(text: String) -> ResponseBody {
        ResponseBody(text.into())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
