//! Commands of an operator to a whole node, as plain data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::PASSED_ORDER_TIMEOUT;
use echoring_auth::{Block, Blocked};
use echoring_broker::limits::SNAPSHOT_TIMEOUT;
use echoring_broker::publications::OnShard;

/// A command for all shards of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    /// Block clients, and close their connections.
    Block(Block),
    /// End a block.
    Unblock(Blocked),
    /// The program around the server carries it out, once in each process.
    Program(ProgramOrder),
}

/// A command to the program around a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramOrder {
    /// Read the configuration again.
    Reload,
    /// Use this filter of the log.
    LogLevel(String),
}

echoring_proto::plain! {
    for enum NodeOrder { Block(block), Unblock(who), Program(order) }
    for enum ProgramOrder { Reload, LogLevel(filter) }
}

/// Carries out the commands to the program that a successor passes on.
pub struct CarryOut(pub(crate) Box<dyn Fn(ProgramOrder) -> Result<(), String> + Send + Sync>);

impl CarryOut {
    /// Calls this function, whose error is the reason in words.
    pub fn new(carry_out: impl Fn(ProgramOrder) -> Result<(), String> + Send + Sync + 'static) -> CarryOut {
        CarryOut(Box::new(carry_out))
    }
}

impl fmt::Debug for CarryOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CarryOut")
    }
}

/// Why a command has not reached all shards of a node. It may be repeated.
///
/// ```
/// use echoring::server::OrderError;
///
/// fn is_in_effect_here(error: &OrderError) -> bool {
///     matches!(error, OrderError::Previous(_) | OrderError::OnShard(_))
/// }
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// Nothing has changed: 10,000 other blocks have not ended.
    #[error("too many blocks have not ended")]
    TooManyBlocks,
    /// Nothing has changed: another server has taken over, or is about to.
    #[error("another server takes over; send the command to that one")]
    TakenOver,
    /// The shards of this server carry it out, but the previous server, which drains, does not, for this reason.
    #[error("{0}")]
    Previous(String),
    /// The shards of this server carry it out. The previous server is not waited for on the thread of a shard.
    #[error(transparent)]
    OnShard(#[from] OnShard),
}

echoring_proto::error_debug!(
    enum OrderError {
        TooManyBlocks,
        TakenOver,
        Previous(reason),
        OnShard(error),
    }
);

/// Connections and subscriptions of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCount {
    /// Open connections.
    pub connections: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
}

echoring_proto::plain!(for ClientCount { connections, subscriptions });

impl NodeOrder {
    /// How long the previous server has for it.
    pub(crate) fn patience(&self) -> Duration {
        match self {
            NodeOrder::Block(_) | NodeOrder::Unblock(_) => Duration::from_nanos(SNAPSHOT_TIMEOUT),
            NodeOrder::Program(_) => PASSED_ORDER_TIMEOUT,
        }
    }
}
