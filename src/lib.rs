//! WebSockets for programs on Linux: connections for asynchronous code, and servers for very many of them on io_uring.
//!
//! Begin with [how to write programs](guides::embed): connections, rooms, state and login, publishing threads, axum and
//! hyper; then [clients](guides::clients) and [tests of handlers]. Coming from [gorilla/websocket](guides::from_gorilla),
//! [tokio-tungstenite](guides::from_tokio_tungstenite), [fastwebsockets](guides::from_fastwebsockets), [axum](guides::from_axum),
//! [ws](guides::from_ws) or [uWebSockets](guides::from_uwebsockets): both programs side by side, call by call.
//!
//! **Client**: a [`Conn`] reads and writes messages. [`Dialer`] has the settings, and [reconnects]. A [`client`]
//! subscribes to topics, resumes after each loss, and reports what it missed.
//!
//! ```no_run
//! # async fn talk() -> Result<(), Box<dyn std::error::Error>> {
//! let mut conn = echoring::dial("wss://echo.example/").await?;
//! conn.write("hello").await?;
//! assert_eq!(conn.read().await?, "hello".into());
//!
//! let mut news = echoring::client::Client::v1("wss://live.example/broadcast").connect().subscribe::<String>("news").await?;
//! while let Some(message) = news.next_message().await {
//!     println!("{}", message.data);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Server**: a task for each connection, on tokio. An [`Upgrader`] has the settings, and [`axum`] an extractor.
//!
//! ```no_run
//! # use echoring::{Listener, Upgrader};
//! # async fn serve() -> std::io::Result<()> {
//! let mut incoming = Listener::bind("127.0.0.1:9001").await?.incoming(&Upgrader::new());
//! loop {
//!     let mut conn = incoming.next().await?;
//!     // An echo. Replies to messages that arrived together leave together.
//!     tokio::spawn(async move {
//!         while let Ok(message) = conn.read().await && conn.feed(message).await.is_ok() {}
//!     });
//! }
//! # }
//! ```
//!
//! **Broadcast**: a [`Handler`] for each of very many connections. Members of a room share its log. **Embed**: a [`Server`] of such
//! handlers, with threads of its own. **Test**: a [`TestServer`] runs it without sockets and without waiting.
//!
//! ```no_run
//! use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
//!
//! struct Member;
//!
//! impl Handler for Member {
//!     fn open(&mut self, remote: &mut Remote) -> Result {
//!         Ok(remote.subscribe("room")?)
//!     }
//!     fn message(&mut self, remote: &mut Remote, text: Message) -> Result<Disposition> {
//!         remote.publish("room", text)?;
//!         Ok(Disposition::Done)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let builder = Server::builder().listen(([127, 0, 0, 1], 9001)).handle("/room", || Member);
//! builder.start()?.join()?;
//! # Ok(())
//! # }
//! # fn test(builder: echoring::server::Builder) -> Result<(), echoring::testing::TestResponse> {
//!
//! let server = echoring::testing::TestServer::new(builder);
//! let (ann, bob) = (server.connect("/room")?, server.connect("/room")?);
//! ann.send_text("hello");
//! assert_eq!(bob.take_texts(), ["hello"]);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Remote`] is the connection, for its handler: it sends, subscribes, publishes and sets timers. Other threads and
//! tasks publish with a [`Handle`], and reach one connection with a [`RemoteSender`].
//! The [module] lists routes, extractors, topics and errors.
//!
//! # Features
//!
//! - `axum`: [`axum::WebSocketUpgrade`], an extractor for axum's handlers;
//! - `client` (default): [`Dialer`], with `wss:` and proxies, and the [`client`] of topics;
//! - `compress` (default): permessage-deflate (RFC 7692);
//! - `native-roots` (default), `platform-verifier`, `webpki-roots`: whose certificates `wss:` trusts, see [`tls::Trust`];
//! - `server`: [`Server`] and [`Handler`], for Linux only;
//! - `testing`: [`testing`], handlers without sockets for tests of programs, for Linux only;
//! - `tower`: [`tower::UpgradeService`], a service for hyper and tower;
//! - `uring`: [`UringStream`], connections on tokio-uring's runtime, for Linux only.
//!
// Links to items of a feature that is not enabled lead to the list of features: of two definitions, the first counts.
#![cfg_attr(
    not(feature = "axum"),
    doc = "[`axum`]: crate#features\n[`axum::WebSocketUpgrade`]: crate#features"
)]
#![cfg_attr(
    not(feature = "client"),
    doc = "[`Dialer`]: crate#features\n[reconnects]: crate#features\n[`client`]: crate#features\n[`tls::Trust`]: crate#features"
)]
#![cfg_attr(
    not(feature = "server"),
    doc = "[`Handler`]: crate#features\n[`Server`]: crate#features\n[`Remote`]: crate#features\n[`Handle`]: crate#features\n[`RemoteSender`]: crate#features\n[module]: crate#features"
)]
#![cfg_attr(
    not(feature = "testing"),
    doc = "[tests of handlers]: crate#features\n[`TestServer`]: crate#features\n[`testing`]: crate#features"
)]
#![cfg_attr(not(feature = "tower"), doc = "[`tower::UpgradeService`]: crate#features")]
#![cfg_attr(not(feature = "uring"), doc = "[`UringStream`]: crate#features")]
//!
//! [reconnects]: Dialer::reconnecting
//! [`Remote`]: server::Remote
//! [`Handle`]: server::Handle::publish
//! [`RemoteSender`]: server::RemoteSender
//! [module]: server
//! [tests of handlers]: guides::testing
//! [`TestServer`]: testing::TestServer
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

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
#[cfg(all(feature = "tower", not(target_family = "wasm")))]
#[doc(inline)]
pub use echoring_async::tower;
#[cfg(not(target_family = "wasm"))]
#[doc(inline)]
pub use echoring_async::{
    Acceptance, BufferPool, CloseFrame, Conn, Control, ControlReply, Decision, Error, Heartbeat,
    HttpResponse, Incoming, Listener, Message, MessageKind, MessageReader, MessageWriter, Negotiated, Opened,
    PendingUpgrade, PreparedMessage, Reader, Refused, RequestHead, ReuniteError, SendTask, Sender, Settings,
    StreamRef, Text, Transport, TrySendError, UpgradeError, Upgrader, Writer,
};
#[cfg(all(feature = "client", not(target_family = "wasm")))]
#[doc(inline)]
pub use echoring_async::{
    BadProxy, ClientStream, ClientTls, DialError, Dialer, Jar, MaybeTls, Proxy, ProxyError, Reconnecting,
    Response, SocksError, Stage, dial, reconnect, tls,
};
#[cfg(all(feature = "hyper", not(target_family = "wasm")))]
#[doc(inline)]
pub use echoring_async::{TokioStream, Upgraded, Upgrading};
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
#[doc(inline)]
pub use echoring_async::{UringStream, ring_allowed};
#[doc(inline)]
pub use echoring_proto::connection::Compression;
#[doc(inline)]
pub use echoring_proto::handshake::OriginPolicy;
#[doc(inline)]
pub use echoring_proto::{CloseCode, Role, Url};
// What is in fields and signatures of these, so that a program can name it.
#[doc(no_inline)]
pub use echoring_proto::deflate::{Agreement, Direction, Preferences};
#[doc(no_inline)]
pub use echoring_proto::handshake::{BadField, BadHandshake, SubprotocolPreference};
#[doc(no_inline)]
pub use echoring_proto::tunnel::{ProxyKind, ProxyServer, SocksRefusal, TunnelError};
#[doc(no_inline)]
pub use echoring_proto::url::BadUrl;
#[doc(no_inline)]
pub use echoring_proto::{Opcode, ProtocolError};
#[cfg(all(feature = "server", target_os = "linux"))]
#[doc(inline)]
pub use server::{Handler, Server};

/// A client of topics: typed subscriptions that resume by position and report gaps, and acknowledged publications, in
/// `echoring.v1.json` and in Centrifuge's client protocol.
#[cfg(all(feature = "client", not(target_family = "wasm")))]
pub mod client {
    #[doc(inline)]
    pub use echoring_client::{
        Builder, Client, ClientError, Ended, Event, FromPayload, Gap, GapReason, History, HistoryQuery,
        Member, Members, Message, Missed, Payload, Position, PositionError, Protocol, Publication, Published,
        Refusal, RequestError, State, SubscribeError, SubscribeOptions, Subscribed, Subscription,
        TokenSource, Unauthorized,
    };
}

/// Servers for very many connections: a [`Handler`] for each, on one event loop per CPU.
///
/// - [`Server::builder`] makes a [`Builder`](server::Builder): addresses, routes, topics, limits, TLS, authentication.
/// - A [`Route`](server::Route) has a function that makes the handler of a request. Its arguments are extractors: [`Path`](server::Path),
///   [`Query`](server::Query), [`Header`](server::Header), [`Cookies`](server::Cookies), [`Identity`](server::Identity),
///   [`State`](server::State), [`ShardState`](server::ShardState), [`Extension`](server::Extension), and types of yours
///   ([`FromRequest`](server::FromRequest)). A [`Response`](server::Response) refuses.
/// - A handler's calls get a [`Remote`](server::Remote), and return a [`Result`](server::Result). An error of any type closes the
///   connection, see [`Failure`](server::Failure).
/// - Topics: [`Remote::subscribe`](server::Remote::subscribe) and [`publish`](server::Remote::publish) in handlers,
///   [`Handle::publish`](server::Handle::publish) and [`publish_async`](server::Handle::publish_async) from other threads and tasks.
///   [`TopicOptions`](server::TopicOptions) sets what slow subscribers get and what is kept; a [`Position`](server::Position) resumes.
/// - One connection, from other threads and tasks: [`Remote::sender`](server::Remote::sender).
/// - The end: [`Server::shutdown`](server::Server::shutdown), [`Handle::drain_within`](server::Handle::drain_within), and
///   [`Handler::draining`] for a last message.
/// - Figures of shards and topics: [`Handle::snapshots`](server::Handle::snapshots) and [`Handle::topics`](server::Handle::topics), whose
///   parts are in [`report`](server::report).
/// - The admin address, with metrics and health: [`Control`](server::Control).
///
/// ```no_run
/// use echoring::server::{AdminTokens, Control, ListenAddress, Reloading, Server, Token, open_admin};
///
/// fn serve_admin(server: &Server) -> Result<Control, Box<dyn std::error::Error>> {
///     let listener = open_admin(&ListenAddress::Tcp(([127, 0, 0, 1], 9002).into()), 0o600, 0)?;
///     let tokens = AdminTokens { write: Some(Token::read("admin.token".as_ref())?), read: None };
///     Ok(Control::start(listener, server, tokens, Reloading::default())?)
/// }
/// ```
#[cfg(all(feature = "server", target_os = "linux"))]
pub mod server {
    // What is in fields and signatures of the items below, so that a program can name it.
    #[doc(no_inline)]
    pub use echoring_admin::{
        AdminTokens, Program, ProgramMetric, Reload, ReloadCounters, Reloaded, Reloading, open_admin,
    };
    #[doc(no_inline)]
    pub use echoring_proto::connection::TlsFault;
    #[doc(no_inline)]
    pub use echoring_proto::handshake::{Refusal, Request, SubprotocolPreference, Upgrade};
    #[doc(no_inline)]
    pub use echoring_proto::limits::Nanos;
    #[doc(no_inline)]
    pub use echoring_server::{
        DriverDescription, DriverFeatures, Extractors, HubReport, InheritedListener, PacedDrain, Rebalanced,
        RequestAnd, Right, Rights, TopicReport, report, with_secrets,
    };

    #[doc(inline)]
    pub use echoring_admin::{Control, Token, TokenError};
    #[doc(inline)]
    pub use echoring_server::{
        AnswerRequest, AuthHook, AuthLoadError, AuthMethod, AuthSettings, Authenticator, Block, Blocked,
        Builder, Busy, Cause, CertificateSubject, Chunk, Closed, Compression, ConnectionTimes, Content,
        Cookies, Disposition, DrainAction, DrainNotice, DriverChoice, Extension, Failure, FromRequest,
        GapReason, Handle, Handler, Header, HeaderField, Identity, IntoHandler, IntoResponse, JoinError,
        Jwks, JwksSource, ListenAddress, MakeHandler, Message, MessageKind, Migrate, OnShard, Opening,
        OptionalFromRequest, OrderError, OutgoingMessage, OwnedPublication, Path, PendingBatch,
        PendingPublish, Position, PositionError, PublishError, PublishOutcome, Published, Query, Refused,
        Remote, RemoteSender, RequestContext, Requirements, Response, Result, Route, SendError,
        SendUntilRoom, Server, ShardState, Snapshot, StartError, StartErrorKind, State, SubscribeError,
        SubscribeOptions, SubscriptionEnd, SubscriptionEvent, ThawContext, TopicMessage, TopicName,
        TopicNameError, TopicOptions,
    };
}

/// Runs the handlers of a server without sockets, threads and waiting, for the tests of programs.
///
/// A [`TestServer`](testing::TestServer) takes the [`Builder`](server::Builder) of the program, and its clients connect, send, and
/// look at what they got. [The guide](guides::testing) continues from there: time, slow peers, publications, failures,
/// the order of events.
#[cfg(all(feature = "testing", target_os = "linux"))]
pub mod testing {
    #[doc(inline)]
    pub use echoring_server::testing::{
        HandlerFailure, TestClient, TestMessage, TestPublication, TestRequest, TestResponse, TestServer,
    };
}

/// The guides of the book, whose programs are compiled with the tests of the documentation.
///
/// Figures and the operation of servers are in the book itself, which `scripts/docs` builds from the repository's
/// folder `docs`.
#[cfg(any(doc, doctest))]
pub mod guides {
    /// How to write servers and clients with this crate.
    ///
    /// [`/broadcast`]: crate::guides
    /// [`echoring proxy`]: crate::guides
    /// [Examples]: crate::guides
    /// [axum]: crate::guides::from_axum
    /// [clients]: crate::guides::clients
    /// [fastwebsockets]: crate::guides::from_fastwebsockets
    /// [frameworks]: crate::Upgrader::negotiate
    /// [gorilla/websocket]: crate::guides::from_gorilla
    /// [Moving connections]: crate::guides
    /// [test endpoints]: crate::guides
    /// [tokio-tungstenite]: crate::guides::from_tokio_tungstenite
    /// [uWebSockets]: crate::guides::from_uwebsockets
    /// [ws]: crate::guides::from_ws
    #[cfg_attr(not(feature = "server"), doc = "[HTTP hook]: crate#features\n[authenticated]: crate#features")]
    #[cfg_attr(not(feature = "testing"), doc = "[Test handlers]: crate#features")]
    ///
    /// [HTTP hook]: crate::server::AuthHook
    /// [authenticated]: crate::server::Authenticator
    /// [Test handlers]: crate::testing
    #[doc = include_str!("../docs/guide/embed.md")]
    pub mod embed {}

    /// How to write clients that survive a server restart: for topics, and for any WebSocket.
    ///
    /// [Centrifuge's protocol]: crate::guides
    /// [`/broadcast`]: crate::guides
    /// [takeover]: crate::guides
    #[cfg_attr(not(feature = "server"), doc = "[expiry]: crate#features")]
    ///
    /// [expiry]: crate::server::Authenticator
    #[doc = include_str!("../docs/guide/clients.md")]
    pub mod clients {}

    /// How to test handlers: time, slow clients, publications and failures.
    ///
    /// [Embed the library]: crate::guides::embed
    /// [Measure a server]: crate::guides
    #[cfg(all(feature = "testing", target_os = "linux"))]
    #[doc = include_str!("../docs/guide/testing.md")]
    pub mod testing {}

    /// For programs with `axum::extract::ws`.
    ///
    /// [rooms]: crate::guides::embed#rooms
    #[doc = include_str!("../docs/guide/from-axum.md")]
    pub mod from_axum {}

    /// For programs with the crate `fastwebsockets`.
    ///
    /// [axum]: crate::guides::from_axum
    /// [hyper]: crate::guides::embed#inside-axum-or-hyper
    #[doc = include_str!("../docs/guide/from-fastwebsockets.md")]
    pub mod from_fastwebsockets {}

    /// For programs with Go's `gorilla/websocket`.
    ///
    /// [behind nginx]: crate::guides
    #[doc = include_str!("../docs/guide/from-gorilla.md")]
    pub mod from_gorilla {}

    /// For programs with the crate `tokio-tungstenite`.
    ///
    /// [axum]: crate::guides::from_axum
    /// [hyper]: crate::guides::embed#inside-axum-or-hyper
    /// [peers]: crate::guides
    /// [proxy]: crate::guides::embed#a-proxy-that-rewrites
    #[doc = include_str!("../docs/guide/from-tokio-tungstenite.md")]
    pub mod from_tokio_tungstenite {}

    /// For programs with the C++ library uWebSockets.
    #[doc = include_str!("../docs/guide/from-uwebsockets.md")]
    pub mod from_uwebsockets {}

    /// For programs with Node's package `ws`.
    ///
    /// [embed]: crate::guides::embed#inside-axum-or-hyper
    /// [proxy]: crate::guides::embed#a-proxy-that-rewrites
    #[doc = include_str!("../docs/guide/from-ws.md")]
    pub mod from_ws {}
}

// Its programs are compiled with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
