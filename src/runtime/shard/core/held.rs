//! Input that is kept until a connection may be read: its client is unknown, its TLS handshake waits, or it is paused.

use echoring_proto::buffer::Buffer;

/// The input of a connection in the meantime.
#[derive(Debug, Default)]
pub(in crate::shard) struct HeldInput {
    pub(in crate::shard) bytes: Option<Buffer>,
    /// It has sent FIN.
    pub(in crate::shard) ended: bool,
}
