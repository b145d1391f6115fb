//! Asynchronous WebSocket connections on tokio, or on tokio-uring where io_uring is allowed.
//!
//! The crate contains connections ([`Conn`]), the two ways to open them ([`Upgrader`] and [`Dialer`]), and adapters for
//! hyper. None of this runs on a shard's data path. Types of tokio-uring are exposed by these adapters only.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
#[cfg(feature = "axum")]
pub mod axum;
mod conn;
#[cfg(feature = "client")]
mod dialer;
#[cfg(all(test, feature = "client"))]
mod error_texts_tests;
mod handshake;
pub mod limits;
mod listener;
#[cfg(feature = "client")]
pub mod reconnect;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tower")]
pub mod tower;
mod transport;
mod upgrader;

pub use accept::accept;
pub use conn::{
    BufferPool, Conn, Control, ControlReply, Error, Heartbeat, Message, MessageReader, MessageWriter, Opened,
    PreparedMessage, Reader, ReuniteError, SendTask, Sender, Settings, StreamRef, Transport, TrySendError,
    Writer,
};
pub use echoring_proto::Text;
pub use echoring_proto::connection::{CloseFrame, MessageKind};

#[cfg(feature = "client")]
pub use dialer::proxy::{BadProxy, Proxy, ProxyError, SocksError};
#[cfg(feature = "client")]
pub use dialer::{ClientTls, DialError, Dialer, Jar, Response, Stage, connect_to, connect_to_any, dial};
pub use listener::{Incoming, Listener};
#[cfg(feature = "client")]
pub use reconnect::Reconnecting;
#[cfg(all(feature = "uring", target_os = "linux"))]
pub use transport::ring::ring_allowed;
#[cfg(unix)]
pub use transport::runtime::local_runtime;
#[cfg(feature = "client")]
pub use transport::stream::{ClientStream, MaybeTls};
#[cfg(feature = "hyper")]
pub use transport::tokio_stream::TokioStream;
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
pub use transport::uring_stream::UringStream;
pub use upgrader::{
    Acceptance, Decision, HttpResponse, Negotiated, PendingUpgrade, Refused, RequestHead, UpgradeError,
    Upgrader,
};
#[cfg(feature = "hyper")]
pub use upgrader::{Upgraded, Upgrading};
