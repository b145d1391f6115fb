//! `echoring`: a WebSocket echo and broadcast server for Linux on io_uring, and the load generator that
//! proves its numbers.
//!
//! Programs find here
//!
//! - [`aio`]: connections for asynchronous code, on tokio and on tokio-uring: [`aio::Dialer`] and [`aio::Upgrader`] open
//!   them, [`aio::Conn`] is one;
//! - [`server`]: handlers for very many connections, on threads of their own: [`server::Server::builder`];
//! - [`protocol`] and [`connection`]: RFC 6455 and RFC 7692 without I/O.
//!
//! ```no_run
//! # async fn talk() -> Result<(), Box<dyn std::error::Error>> {
//! let mut conn = echoring::aio::dial("ws://127.0.0.1:9001/echo").await?;
//! conn.write_text("hello").await?;
//! assert_eq!(conn.read().await?, "hello".into());
//! # Ok(())
//! # }
//! ```
//!
//! `docs/from-gorilla.md` has each call of Go's `gorilla/websocket` beside its counterpart. Features, all on by default:
//! `tls`, `compress`, `client`, `server`, `load`, and `cli` for the program; `cluster` is reserved.
//!
//! The floors, lowest first; a module imports only from those above it in this list (see ARCHITECTURE.md):
//! `limits`, `tls`, `protocol`, `buffer`, `connection`, `hub`, `stats`, `logging`, `recording`, `driver`, `shard`, `aio`,
//! `server`, `load`, `control`, `proxy`, `connect`, `cli`.

pub mod limits;

#[cfg(feature = "tls")]
pub mod tls;

pub mod protocol;

pub mod buffer;

pub mod connection;

#[cfg(any(feature = "server", feature = "load"))]
pub mod hub;

#[cfg(any(feature = "server", feature = "load"))]
pub mod stats;

#[cfg(feature = "cli")]
pub mod logging;

#[cfg(feature = "cli")]
pub mod recording;

#[cfg(any(feature = "server", feature = "load"))]
pub mod driver;

#[cfg(any(feature = "server", feature = "load"))]
pub mod shard;

pub mod aio;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "load")]
pub mod load;

#[cfg(feature = "server")]
pub mod control;

#[cfg(feature = "cli")]
pub mod proxy;

#[cfg(feature = "cli")]
pub mod connect;

#[cfg(feature = "cli")]
pub mod cli;

// Its code is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-gorilla.md")]
mod from_gorilla {}
