//! The server: shards with the built-in routes and those of the embedding program.
//!
//! [`Server::builder`] configures a server. [`Builder::start`] opens the listeners, starts one thread per shard, and returns
//! when all of them accept. [`Handle`] controls a running server: snapshots and the drain are messages to the shards. A
//! program's own code is a [`Handler`] for each connection.
//!
//! The crate never installs signal handlers or changes other state of the process.
#![forbid(unsafe_code)]

mod auth;
mod blocking;
pub(crate) mod broadcast;
mod builder;
mod cluster;
mod commands;
mod config;
mod connections;
pub mod control;
mod drain_notice;
mod endpoints;
#[cfg(test)]
mod error_texts;
mod extract;
mod factory;
mod failure;
mod handle;
mod handler;
mod handler_drain;
mod handler_link;
mod handler_slots;
pub mod handover;
mod host;
mod join_error;
pub mod limits;
mod listeners;
mod message;
mod middleware;
mod observer;
mod on_close;
mod outside;
mod pages;
mod panics;
mod pattern;
mod peak;
mod peer;
mod publications;
mod quotas;
mod randomness;
mod reconfigure;
mod remote;
mod request_context;
mod response;
mod route;
mod sender;
mod server;
mod service;
mod shard_thread;
mod states;
mod stored_publication;
mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod timers;
mod topic_name;
mod topic_options;
pub mod v1;
mod watchdog;

pub use auth::{AppAnswered, AuthCommand, AuthCounters, AuthFigures, KeySetFigures};
pub use broadcast::BroadcastSettings;
pub use broadcast::shard_mail::ShardMail;
pub use builder::Builder;
pub use cluster::{
    ClusterCommand, ClusterEvent, ClusterIdentity, ClusterNode, ClusterStatus, ClusterTables, LinkState,
    MemberStatus, PeerAnswer, PeerQuery, RelayBatch, RelayedMessage, StreamCommand, StreamQuery,
};
pub use commands::{PendingBatch, PendingPublish, PublishRequest, ShardCommand};
pub use config::{
    Compression, DriverChoice, ListenAddress, RefusalFn, RefusalHook, ServerConfig, StartError,
    StartErrorKind,
};
pub use connections::ConnectionScan;
pub use drain_notice::{DrainAction, DrainNotice};
pub use echoring_auth::{
    Authenticator, CertificateSubject, Hook as AuthHook, Identity, Jwks, JwksSource,
    LoadError as AuthLoadError, Method as AuthMethod, Right, Rights, Settings as AuthSettings,
};
pub use echoring_proto::connection::{Cause, Chunk, Closed, MessageKind};
pub use echoring_runtime::driver::{Description as DriverDescription, Features as DriverFeatures};
pub use echoring_runtime::shard::Disposition;
pub use echoring_topics::{
    Content, GapReason, HubReport, Position, PositionError, Refused, Relay, TopicReport,
};
pub use extract::{
    Cookies, Extension, FromRequest, Header, HeaderField, OptionalFromRequest, Path, Query, ShardState, State,
};
pub use factory::{AnswerRequest, Extractors, IntoHandler, IntoResponse, MakeHandler, RequestAnd};
pub use failure::{Busy, Failure, Result};
pub use handle::{Handle, PacedDrain, Snapshot};
pub use handler::Handler;
pub use host::Resolved;
pub use join_error::JoinError;
pub use listeners::InheritedListener;
pub use message::Message;
pub use peak::{HostMemory, MemoryPart, MemoryPeak};
pub use peer::{HandlerPeer, Peer, class::NAMES as CLASS_NAMES};
pub use publications::{OwnedPublication, PublishError, Published};
pub use reconfigure::NeedsRestart;
pub use remote::Remote;
pub use request_context::{Opening, RequestContext};
pub use response::Response;
pub use route::{Route, Routes};
pub use sender::{OutgoingMessage, RemoteSender, SendError, SendUntilRoom, SenderMail};
pub use server::{Bound, ClusterCommands, ClusterOutlets, Server};
pub use service::Service;
pub use states::Requirements;
pub use subscription::{
    PublishOutcome, SubscribeError, SubscribeOptions, SubscriptionEnd, SubscriptionEvent, TopicMessage,
};
pub use topic_name::{TopicName, TopicNameError};
pub use topic_options::TopicOptions;

/// What the snapshots of shards and the reports of topics consist of.
pub mod report {
    pub use echoring_proto::connection::Compressed;
    pub use echoring_runtime::stats::{
        BudgetFigures, Counters, DriverWork, Durations, End, Ledger, Snapshot, Traffic,
    };
    pub use echoring_topics::{Deliveries, OwnerReport, Passed, Publications};
}
