//! The server: shards with the built-in routes and those of the embedding program.
//!
//! [`Server::builder`] configures a server. [`Builder::start`] opens the listeners, starts one thread per shard, and returns
//! when all of them accept. [`Handle`] controls a running server: snapshots and the drain are messages to the shards. A
//! program's own code is a [`Handler`] for each connection.
//!
//! The crate never installs signal handlers or changes other state of the process.
#![forbid(unsafe_code)]

mod auth;
mod cluster;
mod commands;
mod endpoints;
mod handlers;
pub mod handover;
pub mod limits;
#[doc(hidden)]
pub mod machinery;
mod node;
mod pages;
mod processes;
mod routes;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cluster::{ClusterNode, ClusterStatus, ClusterTables, NodeStatus, PeerAnswer, PeerQuery};
pub use commands::connections::ConnectionScan;
pub use commands::move_order::{MoveOrder, StayReason, Staying};
pub use commands::node_order::OrderError;
pub use commands::{PendingBatch, PendingPublish, PublishRequest, ShardCommand};
pub use echoring_auth::{
    Authenticator, Block, Blocked, CertificateSubject, Hook as AuthHook, Identity, Jwks, JwksSource,
    LoadError as AuthLoadError, Method as AuthMethod, Right, Rights, Settings as AuthSettings,
};
pub use echoring_broker::broadcast::BroadcastSettings;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
pub use echoring_broker::gate::{AppAnswered, AuthCommand, AuthCounters, AuthFigures, KeySetFigures};
pub use echoring_broker::node_mail::{
    ClusterCommand, ClusterEvent, ClusterIdentity, LinkState, RelayBatch, RelayedMessage, StreamCommand,
    StreamQuery,
};
pub use echoring_broker::peer::{HandlerPeer, Peer, class::NAMES as CLASS_NAMES};
pub use echoring_broker::publications::{OnShard, OwnedPublication, PublishError, Published};
pub use echoring_broker::subscription::{SubscribeError, SubscribeOptions, SubscriptionEnd, TopicMessage};
pub use echoring_proto::connection::{Cause, Chunk, Closed, MessageKind};
pub use echoring_runtime::driver::{Description as DriverDescription, Features as DriverFeatures};
pub use echoring_runtime::shard::{Disposition, with_secrets};
pub use echoring_topics::{
    Content, GapReason, HubReport, Position, PositionError, Refused, Relay, TopicReport,
};
pub use handlers::drain_notice::{DrainAction, DrainNotice};
pub use handlers::failure::{Busy, Failure, Result};
pub use handlers::handler::Handler;
pub use handlers::message::Message;
pub use handlers::migrate::{Migrate, ThawContext};
pub use handlers::remote::Remote;
pub use handlers::sender::{OutgoingMessage, RemoteSender, SendError, SendUntilRoom, SenderMail};
pub use handlers::subscription::{PublishOutcome, SubscriptionEvent};
pub use node::backends::Backends;
pub use node::builder::Builder;
pub use node::config::{
    Compression, DriverChoice, KnownClients, RefusalFn, RefusalHook, ServerConfig, StartError, StartErrorKind,
};
pub use node::handle::{Handle, PacedDrain, Snapshot};
pub use node::host::{Resolved, connections_on_rings};
pub use node::join_error::JoinError;
pub use node::listen_address::ListenAddress;
pub use node::listeners::InheritedListener;
pub use node::peak::{HostMemory, MemoryPart, MemoryPeak};
pub use node::rebalance::Rebalanced;
pub use node::reconfigure::NeedsRestart;
pub use node::server::{Bound, ClusterCommands, ClusterOutlets, Server};
pub use node::topic_options::TopicOptions;
pub use routes::extract::{
    Cookies, Extension, FromRequest, Header, HeaderField, OptionalFromRequest, Path, Query, ShardState, State,
};
pub use routes::factory::{AnswerRequest, Extractors, IntoHandler, IntoResponse, MakeHandler, RequestAnd};
pub use routes::request_context::{Opening, RequestContext};
pub use routes::response::Response;
pub use routes::route::{Route, Routes};
pub use routes::states::Requirements;
pub use routes::times::ConnectionTimes;
pub use routes::topic_name::{TopicName, TopicNameError};
pub use service::Service;

/// The parts of shards' snapshots and topics' reports.
pub mod report {
    pub use echoring_proto::connection::Compressed;
    pub use echoring_runtime::stats::{
        BudgetFigures, Counters, DeliveryAge, DeliveryAges, DriverWork, Durations, End, Ledger, Snapshot,
        Traffic,
    };
    pub use echoring_topics::{Deliveries, OwnerReport, Passed, PatternCounts, Publications};
}
