//! The configuration of a shard, and its part of the node's budgets.

use super::tls::Security;
use crate::limits::COMPRESSION_BYTES_DEFAULT;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection;
use echoring_proto::limits::COMPRESSION_LEASE_BYTES;

/// How a shard is set up.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Configuration of every connection.
    pub connection: connection::ConnectionConfig,
    /// Connections that the driver has room for.
    pub connections: u32,
    /// TLS configuration of the connections.
    pub security: Security,
    /// Seeds masking keys and nonces: [`System`](connection::Seed::System) in production.
    pub seed: connection::Seed,
}

/// A shard's part of the node's budgets.
#[derive(Debug)]
pub struct Allowance {
    /// Buffers and logs.
    pub pool: Pool,
    /// Connections.
    pub connections: Lease,
    /// Bytes of compression windows.
    pub contexts: Lease,
}

impl Allowance {
    /// For a single shard: the node's whole budget, and a number of connections.
    pub fn standalone(connections: u64) -> Allowance {
        Allowance {
            pool: Pool::standalone(),
            connections: Lease::new(Budget::new(connections), connections),
            contexts: Lease::new(Budget::new(COMPRESSION_BYTES_DEFAULT), COMPRESSION_LEASE_BYTES),
        }
    }
}
