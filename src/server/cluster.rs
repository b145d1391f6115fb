//! A node of a cluster: its part for those who control the server, and the tables of its shards as the cluster's thread sees them.
//!
//! The shards and that thread exchange the messages of [`node_mail`](echoring_broker::node_mail).

mod disagreements;
mod node;
mod peer_query;
mod status;
mod tables;

pub use node::ClusterNode;
pub use peer_query::{PeerAnswer, PeerQuery};
pub use status::{ClusterStatus, NodeStatus};
pub use tables::ClusterTables;
