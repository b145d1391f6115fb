//! A node of a cluster on NATS: it carries the packets and heartbeats of a [`Cluster`](crate::Cluster) over core NATS, and
//! tells it when the connection breaks. It knows nothing of topics: those are the [`Tables`](crate::Tables).
//!
//! ```text
//!            ┌─────────── a thread with one tokio runtime ──────────┐
//! NATS <───> │ async-nats ──heartbeats, packets──> Inbox ──> Cluster │ ──events──> Tables <──> shards
//!            │            <──────packets──────── Outbox <──────────  │
//!            └──────────────────────────────────────────────────────┘
//! ```
//!
//! | subject | carries |
//! |---|---|
//! | `PREFIX.heartbeat` | the heartbeats of all nodes |
//! | `PREFIX.node.ID` | packets for one node; its id as 16 hexadecimal digits |
//!
//! [`Streams`] are those of durable topics, in JetStream.
//!
//! [`exchange()`] carries messages of any length between programs that are not nodes.
//!
//! [`NatsClients`] lets other programs publish to topics and receive their messages, and nodes ask each other for reports.
//!
//! Core NATS delivers at most once. The links of the cluster send again what a broken connection loses and what is
//! dropped here at a bound.

mod clients;
mod connection;
mod error;
mod exchange;
mod inbox;
mod limits;
mod options;
mod replies;
mod runner;
mod streams;
mod tls;

pub use clients::{
    ClientPublication, ClientRequest, ClientSender, ControlRequest, NO_RESPONDERS, NatsClients,
};
pub use error::{BackboneError, OptionsError};
pub use exchange::{ExchangeMessage, ExchangeSender, exchange};
pub use options::{Credentials, NatsOptions, Tls};
pub use runner::{run, spawn};
pub use streams::{StreamSettings, Streams};
