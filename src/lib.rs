//! WebSockets for programs on Linux: connections for asynchronous code, and servers for very many of them on io_uring.
//!
//! - [`Dialer`] and [`Upgrader`] open connections on tokio and on tokio-uring, and a [`Conn`] is one.
//! - [`Server`] runs a [`Handler`] for each of very many connections, on threads of its own (feature `server`).
//!
//! ```no_run
//! # async fn talk() -> Result<(), Box<dyn std::error::Error>> {
//! let mut conn = echoring::dial("ws://127.0.0.1:9001/echo").await?;
//! conn.write_text("hello").await?;
//! assert_eq!(conn.read().await?, "hello".into());
//! # Ok(())
//! # }
//! ```
//!
//! An echo server. Messages that were fed are sent once nothing more is to be read, so the answers to messages that arrived
//! together are sent together:
//!
//! ```no_run
//! use echoring::{Error, Listener, Upgrader};
//!
//! # async fn serve() -> std::io::Result<()> {
//! let mut incoming = Listener::bind("127.0.0.1:9001").await?.incoming(&Upgrader::new());
//! loop {
//!     let mut conn = incoming.next().await?;
//!     tokio::spawn(async move {
//!         loop {
//!             let message = conn.read().await?;
//!             conn.feed(message).await?;
//!         }
//!         # #[allow(unreachable_code)]
//!         Ok::<(), Error>(())
//!     });
//! }
//! # }
//! ```
//!
//! The guide `docs/guide/from-gorilla.md` shows each call of Go's `gorilla/websocket` beside its counterpart here.
//!
//! # Features
//!
//! - `axum`: [`axum::WebSocketUpgrade`], an extractor for axum's handlers;
//! - `client` (default): [`Dialer`], with `wss:` and proxies, and the [`client`] of topics;
//! - `compress` (default): permessage-deflate (RFC 7692);
//! - `server`: [`Server`] and [`Handler`], for Linux only;
//! - `uring`: [`UringStream`], connections on tokio-uring's runtime, for Linux only.
#![forbid(unsafe_code)]

#[cfg(target_family = "wasm")]
compile_error!(
    "the crate echoring needs sockets, which WebAssembly has not; its protocol is the crate echoring-proto"
);
#[cfg(all(feature = "server", not(target_os = "linux")))]
compile_error!("the feature `server` of echoring is for Linux: its shards run on io_uring or epoll");
#[cfg(all(feature = "uring", not(target_os = "linux")))]
compile_error!("the feature `uring` of echoring is for Linux: tokio-uring runs on io_uring");

#[cfg(all(feature = "axum", not(target_family = "wasm")))]
#[doc(inline)]
pub use echoring_async::axum;
#[cfg(not(target_family = "wasm"))]
#[doc(inline)]
pub use echoring_async::{
    Acceptance, BufferPool, CloseFrame, Conn, Control, ControlReply, Decision, Error, Heartbeat,
    HttpResponse, Incoming, Listener, Message, MessageKind, MessageReader, MessageWriter, Opened,
    PendingUpgrade, PreparedMessage, Reader, Refused, RequestHead, ReuniteError, SendTask, Sender, Settings,
    StreamRef, Text, TokioStream, Transport, TrySendError, UpgradeError, Upgraded, Upgrader, Upgrading,
    Writer,
};
#[cfg(all(feature = "client", not(target_family = "wasm")))]
#[doc(inline)]
pub use echoring_async::{
    BadProxy, ClientStream, ClientTls, DialError, Dialer, Jar, MaybeTls, Proxy, ProxyError, Reconnecting,
    Response, SocksError, Stage, dial, reconnect, tls,
};
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
#[doc(inline)]
pub use echoring_async::{UringStream, ring_allowed};
#[doc(inline)]
pub use echoring_proto::connection::Compression;
#[doc(inline)]
pub use echoring_proto::handshake::OriginPolicy;
#[doc(inline)]
pub use echoring_proto::{CloseCode, Role, Url};
#[cfg(all(feature = "server", target_os = "linux"))]
#[doc(inline)]
pub use server::{Handler, Server};

/// A client of topics: typed subscriptions that resume by position and report gaps, and acknowledged publications, in
/// `echoring.v1.json` and in Centrifuge's client protocol.
#[cfg(all(feature = "client", not(target_family = "wasm")))]
pub mod client {
    #[doc(inline)]
    pub use echoring_client::{
        Builder, Client, ClientError, ClientTask, Ended, Event, FromPayload, Gap, GapReason, History,
        HistoryQuery, Member, Members, Message, Missed, Payload, Position, Protocol, Publication, Published,
        Refusal, RequestError, SubscribeError, SubscribeOptions, Subscribed, Subscription,
    };
}

/// Servers for very many connections: a [`Handler`] for each, on one event loop per CPU.
#[cfg(all(feature = "server", target_os = "linux"))]
pub mod server {
    #[doc(inline)]
    pub use echoring_server::control::{Control, Token, TokenError};
    #[doc(inline)]
    pub use echoring_server::{
        AnswerRequest, AuthHook, AuthLoadError, AuthMethod, AuthSettings, Authenticator, Builder, Busy,
        Cause, CertificateSubject, Chunk, Closed, Compression, Content, Cookies, Disposition, DrainAction,
        DrainNotice, DriverChoice, Extension, Failure, FromRequest, GapReason, Handle, Handler, Header,
        HeaderField, Identity, IntoHandler, IntoResponse, Jwks, JwksSource, ListenAddress, MakeHandler,
        Message, MessageKind, Opening, OptionalFromRequest, OutgoingMessage, OwnedPublication, Path,
        PendingPublish, Position, PublishError, PublishOutcome, Published, Query, RefusalFn, RefusalHook,
        Refused, Remote, RemoteSender, RequestContext, Requirements, Response, Route, Routes, SendError,
        SendUntilRoom, Server, ServerConfig, ShardState, Snapshot, StartError, StartErrorKind, State,
        SubscribeError, SubscribeOptions, SubscriptionEnd, SubscriptionEvent, TopicMessage,
    };
}

// Its code is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/from-gorilla.md")]
mod from_gorilla {}
