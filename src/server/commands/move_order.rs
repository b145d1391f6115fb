//! Orders to move connections to other shards.

use std::sync::mpsc;

use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Destination;

/// An order to move connections away.
#[derive(Debug)]
pub struct MoveOrder {
    /// Where they go on.
    pub to: Destination,
    /// How many at most.
    pub most: usize,
    /// Only those that neither send nor are sent anything now.
    pub only_idle: bool,
    /// Time limit.
    pub within: Nanos,
    /// Gets the number of the shard, and how many connections have left it.
    pub done: mpsc::SyncSender<(usize, usize)>,
}
