//! The TCP of a shard's connections, as a sample: after each snapshot, some connections are looked at in turn.
//!
//! So the figures of one snapshot are those that were found since the one before, and without readers nothing is looked at.

use crate::driver::Token;
use echoring_proto::limits::Nanos;

/// The place of the next sample, and the looks that are under way.
#[derive(Debug, Default)]
pub(super) struct TcpSamples {
    pub(super) next: u32,
    /// No look begins before.
    pub(super) due: Nanos,
    pub(super) waiting: Vec<Token>,
}
