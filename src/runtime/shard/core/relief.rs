//! Partial sends, and the memory of connections that may be closed for lack of memory.

use crate::driver::Token;
use echoring_proto::limits::Nanos;

#[derive(Debug)]
pub(super) struct UnfinishedSend {
    pub(super) token: Token,
    /// Unsent bytes at the last check.
    pub(super) unsent_bytes: usize,
    /// Since when they have not decreased.
    pub(super) since: Nanos,
    pub(super) look_at: Nanos,
}

/// Connections that were closed for lack of memory.
#[derive(Debug, Default)]
pub(super) struct MemoryRelief {
    /// Connections whose memory has not been returned yet, with its bytes.
    pub(super) coming: Vec<(Token, u64)>,
    pub(super) coming_bytes: u64,
    /// Their total number.
    pub(super) count: u64,
    /// When connections are next scanned for those that hold more than their share, unless less memory is free earlier.
    pub(super) look_at: Nanos,
    pub(super) look_below_bytes: u64,
    /// The last scan found none on this shard.
    pub(super) found_none: bool,
    /// When the other shards are asked again.
    pub(super) call_at: Nanos,
}

/// Memory of a connection that may be closed to free memory.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionMemory {
    /// The connection.
    pub token: Token,
    /// Bytes of the node's budget, including those of a partial send.
    pub held_bytes: u64,
    /// Its peer does not read as fast as it is sent to.
    pub is_blocked: bool,
}
