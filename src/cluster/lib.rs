//! A cluster of nodes: which nodes are there, which of them owns a topic, and how the others follow it. Only the module `nats`, which a
//! feature of this name enables, has I/O.
//!
//! Packets, heartbeats and the time are arguments; packets to be sent are results. Whatever carries them may lose them (a
//! connection to the backbone that breaks) or deliver them again (a client that repeats its writes to a broken
//! connection), may deliver them late, and may cut the nodes in two. Otherwise it must not reorder packets of one node to another.
//!
//! ```text
//! heartbeats ──> Cluster: members, views, links ──View, Open, Settle, Message, Reset──> Topics of each shard
//!                   ^                                                                        │
//!                   └────────────────────────────── messages to other nodes ─────────────────┘
//! ```
//!
//! [`Cluster`] belongs to the thread that speaks to the backbone. [`OwnerTable`] belongs to a shard, for the topics that the
//! shard owns or follows; it keeps no messages but those that wait, and uses the shard's topics through [`TopicStore`]. [`Tables`] are
//! the tables of all shards, as the thread that speaks to the backbone sees them. An *owner* is here the owner node of a topic.
//!
//! Why one topic never has two owners except across a partition, and what its subscribers are told then, is the subject of
//! `docs/explanation/cluster.md`.
#![forbid(unsafe_code)]

mod cluster;
mod heartbeat;
pub mod limits;
mod link;
mod message;
#[cfg(feature = "nats")]
pub mod nats;
mod outgoing;
mod owner_table;
mod store;
mod stream;
mod tables;
mod view;

pub use echoring_topics::Position;

pub use cluster::{Cluster, ClusterConfig, Destination, Event, Phase, PlainCluster, Settle};
pub use heartbeat::{Digests, Heartbeat};
pub use link::LinkFigures;
pub use message::{MemberChange, MembersPage, Message, Outcome, Transfer, append_entry, entries};
pub use outgoing::{Full, Ticket};
pub use owner_table::{OwnerTable, Peers, Shard};
pub use store::{Decision, History, IdempotencyKey, TopicStore};
pub use stream::{StoredBatch, StreamAnswer, StreamHead, StreamRequest, WriteId};
pub use tables::{Tables, Traffic};
pub use view::{NodeId, View};

#[cfg(test)]
mod tests;
