//! The order and the times in which a paced drain closes connections.

use std::collections::VecDeque;

use crate::driver::Token;
use echoring_proto::connection::Entropy;
use echoring_proto::limits::Nanos;

/// Connections that are closed one by one. Until its turn a connection is served as before.
#[derive(Debug)]
pub(super) struct Farewells {
    pub(super) queue: VecDeque<Token>,
    /// When the interval of the next close begins. The close falls at a random time in it.
    pub(super) interval_at: Nanos,
    pub(super) interval: Nanos,
    pub(super) next_at: Nanos,
    /// When the remaining connections are closed together.
    pub(super) paced_until: Nanos,
    /// When the remaining connections are cut.
    pub(super) until: Nanos,
}

impl Farewells {
    /// Chooses the time of the next close within the next interval.
    pub(super) fn schedule(&mut self, entropy: &mut Entropy) {
        self.next_at = self.interval_at + entropy.below(self.interval);
        self.interval_at += self.interval;
    }
}
