//! The parts of a shard that a connection borrows.

use super::{Codecs, ConnectionConfig, Entropy};
use crate::buffer::Pool;
use crate::limits::Nanos;

/// The parts of a shard that a connection borrows during a call.
#[derive(Debug)]
pub struct Env<'a> {
    /// Buffers.
    pub pool: &'a mut Pool,
    /// Compressors and decompressors.
    pub codecs: &'a mut Codecs,
    /// Settings of all connections.
    pub config: &'a ConnectionConfig,
    /// The time of this turn.
    pub now: Nanos,
    /// Masking keys.
    pub entropy: &'a mut Entropy,
}
