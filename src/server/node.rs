//! A node: its configuration, its start with one thread per shard, its handle, and its end.

pub(crate) mod backends;
pub(crate) mod builder;
pub(crate) mod config;
pub(crate) mod handle;
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod join_error;
pub(crate) mod listen_address;
pub(crate) mod listeners;
pub(crate) mod orders;
pub(crate) mod peak;
pub(crate) mod randomness;
pub(crate) mod ranges;
pub(crate) mod rebalance;
pub(crate) mod reconfigure;
pub(crate) mod server;
pub(crate) mod shard_thread;
pub(crate) mod topic_options;
pub(crate) mod upkeep;
pub(crate) mod watchdog;
