//! When a message was due, and when it was sent.

use echoring_proto::limits::Nanos;

/// When a message was due and when it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When it was due.
    pub intended: Nanos,
    /// When it was handed to the connection.
    pub sent: Nanos,
}
