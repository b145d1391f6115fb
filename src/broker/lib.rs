//! Topics across the shards of a node: who subscribes, who orders messages, and what each subscriber is sent.
//!
//! [`Broadcast`](broadcast::Broadcast) is a shard's part of it, and [`ShardMail`](broadcast::shard_mail::ShardMail) what the shards tell
//! each other. [`Gate`](gate::Gate) knows the clients of a shard, and [`node_mail`] is what shards and the cluster's thread tell each
//! other.
//!
//! Never: a route, a flag, a handler of a program, or a thread of its own. Its connections and mailboxes are those of the shard.
#![forbid(unsafe_code)]

pub mod broadcast;
pub mod gate;
pub mod limits;
pub mod node_mail;
pub mod observer;
pub mod peer;
pub mod publications;
pub mod subscription;
pub mod timers;
pub mod v1;
