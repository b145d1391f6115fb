//! Push mode: a listening connection.

use echoring_proto::limits::Nanos;

/// A listening connection.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// When its latest message arrived; 0 before the first.
    pub(super) heard_at: Nanos,
    /// Messages that arrived.
    pub(super) received: u64,
    /// Payload bytes of an incomplete message.
    pub(super) bytes: usize,
    /// A message that was created after the measured time has arrived, so no earlier one is in flight.
    pub(super) is_past_end: bool,
}
