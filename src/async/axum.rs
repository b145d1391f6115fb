//! An extractor for axum, in the manner of its own `WebSocketUpgrade`.
//!
//! Never: the handshake, which is the [`Upgrader`]'s.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::response::Response;
use http::Request;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;

use crate::upgrader::offered;
use crate::{Acceptance, Conn, Heartbeat, HttpResponse, Refused, UpgradeError, Upgraded, Upgrader};
use echoring_proto::connection::Compression;

/// Extracts a WebSocket upgrade from a request, for a handler that responds with
/// [`on_upgrade`](WebSocketUpgrade::on_upgrade). A request that is none is rejected before the handler runs, with the
/// response that the [`Upgrader`] has for it.
///
/// Settings are those of the [`Upgrader`] in the request's extensions, which axum's layer `Extension` adds for whole
/// routers, or the defaults: pages of the same host only, messages of up to 64 KiB, no compression. HTTP/1.1 only.
///
/// ```no_run
/// use axum::{Extension, Router, response::Response, routing::any};
/// use echoring::Upgrader;
/// use echoring::axum::WebSocketUpgrade;
///
/// async fn ws(upgrade: WebSocketUpgrade) -> Response {
///     upgrade.protocols(["chat"]).max_message_size(1 << 20).on_upgrade(|mut conn| async move {
///         while let Ok(message) = conn.read().await {
///             if conn.write(message).await.is_err() {
///                 return;
///             }
///         }
///     })
/// }
///
/// let upgrader = Upgrader::new().allow_any_origin();
/// let app: Router = Router::new().route("/ws", any(ws)).layer(Extension(upgrader));
/// # drop(app);
/// ```
#[must_use = "a response comes from `on_upgrade`"]
pub struct WebSocketUpgrade {
    request: Request<()>,
    upgrader: Upgrader,
    acceptance: Acceptance,
    addresses: (Option<SocketAddr>, Option<SocketAddr>),
    on_failed: Box<dyn FnOnce(UpgradeError) + Send>,
}

impl WebSocketUpgrade {
    /// The request.
    pub fn request(&self) -> &Request<()> {
        &self.request
    }

    /// The offered subprotocols in order of preference (RFC 6455, 4.2.1).
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        offered(&self.request)
    }

    /// Changes the settings of this upgrade.
    pub fn configure(self, change: impl FnOnce(Upgrader) -> Upgrader) -> WebSocketUpgrade {
        WebSocketUpgrade { upgrader: change(self.upgrader), ..self }
    }

    /// The subprotocols that the server knows, the preferred one first. [`Conn::subprotocol`] has the selected one.
    pub fn protocols<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.subprotocols(names))
    }

    /// Maximum size of a received message in bytes, 64 KiB by default.
    pub fn max_message_size(self, bytes: u64) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.max_message(bytes))
    }

    /// Maximum number of bytes per read, 4,096 by default. It does not limit the message size.
    pub fn read_buffer_size(self, bytes: usize) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.read_buffer_bytes(bytes))
    }

    /// Bytes of messages that wait to be sent together, and size of the fragments of a streamed message; 4,096 by default.
    pub fn write_buffer_size(self, bytes: usize) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.write_buffer_bytes(bytes))
    }

    /// Accepts permessage-deflate (RFC 7692).
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.compression(compression))
    }

    /// Time limit for the client to read what it is sent; past it the connection ends. See
    /// [`Settings::write_timeout`](crate::Settings::write_timeout).
    pub fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.write_timeout(timeout))
    }

    /// Sends heartbeats.
    pub fn heartbeat(self, heartbeat: impl Into<Option<Heartbeat>>) -> WebSocketUpgrade {
        self.configure(|upgrader| upgrader.heartbeat(heartbeat))
    }

    /// The addresses that [`Conn::local_addr`] and [`Conn::peer_addr`] return. By default that of the peer is axum's
    /// `ConnectInfo<SocketAddr>`, which a router has that is served by `into_make_service_with_connect_info::<SocketAddr>()`, and the
    /// local one is `None`. Behind a proxy, both are those of the connection from the proxy.
    pub fn with_addresses(self, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> WebSocketUpgrade {
        WebSocketUpgrade { addresses: (local, peer), ..self }
    }

    /// Calls `callback` if the connection is not handed over after the response, for example because the client is gone.
    /// By default that is logged at the level `debug`.
    pub fn on_failed_upgrade(self, callback: impl FnOnce(UpgradeError) + Send + 'static) -> WebSocketUpgrade {
        WebSocketUpgrade { on_failed: Box::new(callback), ..self }
    }

    /// Selects the subprotocol of this connection, instead of by [`protocols`](WebSocketUpgrade::protocols), and adds header fields to
    /// the 101.
    pub fn accept_with(self, acceptance: Acceptance) -> WebSocketUpgrade {
        WebSocketUpgrade { acceptance, ..self }
    }

    /// A response other than the 101, for requests that the handler refuses, or that the server behind a proxy refused:
    /// `refuse(&error)` with a [`DialError`](crate::DialError). [`Upgrader::on_refusal`] sees it if its status is 400 or higher.
    ///
    /// ```
    /// use axum::response::Response;
    /// use echoring::axum::WebSocketUpgrade;
    /// use echoring::{Acceptance, Dialer};
    ///
    /// /// A proxy. Its upgrader allows any origin: the server decides.
    /// async fn proxy(upgrade: WebSocketUpgrade) -> Response {
    ///     let dialer = Dialer::new().forwarding(upgrade.request(), None);
    ///     let (server, response) = match dialer.dial_with_response("wss://server.example/chat").await {
    ///         Ok(dialled) => dialled,
    ///         Err(error) => return upgrade.refuse(&error),
    ///     };
    ///     upgrade.accept_with(Acceptance::forwarding(&response)).on_upgrade(|client| async move {
    ///         let (mut from_client, mut to_client) = client.split();
    ///         let (mut from_server, mut to_server) = server.split();
    ///         tokio::join!(
    ///             from_client.forward_to(&mut to_server, |message| message),
    ///             from_server.forward_to(&mut to_client, |message| message),
    ///         );
    ///     })
    /// }
    /// ```
    #[must_use = "the response must be returned from the handler"]
    pub fn refuse(self, response: impl Into<HttpResponse>) -> Response {
        self.upgrader.refused_with(&self.request, response.into()).into_response()
    }

    /// The response: the 101, after which `callback` runs with the connection in a task of its own, or the refusal, for
    /// example of a foreign origin.
    #[must_use = "the response must be returned from the handler"]
    pub fn on_upgrade<F>(mut self, callback: impl FnOnce(Conn<Upgraded>) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let acceptance = self.acceptance;
        let (response, upgrading) = match self.upgrader.upgrade_with(&mut self.request, |_| acceptance) {
            Ok(upgrade) => upgrade,
            Err(refused) => return refused.into_response(),
        };
        let (local, peer) = self.addresses;
        let on_failed = self.on_failed;
        tokio::spawn(async move {
            match upgrading.with_addresses(local, peer).await {
                Ok(conn) => callback(conn).await,
                Err(error) => on_failed(error),
            }
        });
        response.map(|()| Body::empty())
    }

    /// The data about the request before a handler runs.
    fn of(parts: &mut Parts) -> Result<WebSocketUpgrade, Refused> {
        let upgrader = parts.extensions.get::<Upgrader>().cloned().unwrap_or_default();
        let mut request = Request::new(());
        request.method_mut().clone_from(&parts.method);
        request.uri_mut().clone_from(&parts.uri);
        request.headers_mut().clone_from(&parts.headers);
        *request.version_mut() = parts.version;
        // Without the connection, and without what the handler may still change.
        upgrader.clone().allow_any_origin().refuses(&request)?;
        if let Some(connection) = parts.extensions.remove::<OnUpgrade>() {
            request.extensions_mut().insert(connection);
        }
        let on_failed = Box::new(|error| tracing::debug!(%error, "a connection was not handed over"));
        let acceptance = Acceptance::new();
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        Ok(WebSocketUpgrade { request, upgrader, acceptance, addresses: (None, peer), on_failed })
    }
}

impl<S: Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<WebSocketUpgrade, Response> {
        WebSocketUpgrade::of(parts).map_err(Refused::into_response)
    }
}

impl fmt::Debug for WebSocketUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketUpgrade").field("uri", self.request.uri()).finish_non_exhaustive()
    }
}
