//! The parts of a shard that every call to a connection borrows.

use echoring_proto::buffer::Pool;
use echoring_proto::connection::{Codecs, ConnectionConfig, Entropy, Env};
use echoring_proto::limits::Nanos;

/// Owns the parts that an [`Env`] borrows, so that the rest of the shard can be borrowed beside it.
#[derive(Debug)]
pub(in crate::shard) struct ConnectionEnv {
    pub(in crate::shard) pool: Pool,
    pub(in crate::shard) codecs: Codecs,
    pub(in crate::shard) config: ConnectionConfig,
    pub(in crate::shard) entropy: Entropy,
    /// The time of this tick.
    pub(in crate::shard) now: Nanos,
}

impl ConnectionEnv {
    /// Lends the parts for the length of a call.
    #[inline(always)]
    pub(in crate::shard) fn lend(&mut self) -> Env<'_> {
        let ConnectionEnv { pool, codecs, config, entropy, now } = self;
        Env { pool, codecs, config, now: *now, entropy }
    }
}
