//! Requests of this node's control thread to those of other nodes.

use bytes::Bytes;
use tokio::sync::oneshot;

/// The answer of a node: the status, and the body; or the reason why there is none.
pub type PeerAnswer = Result<(u16, Vec<u8>), &'static str>;

/// A request to another node.
#[derive(Debug)]
pub struct PeerQuery {
    /// The id of the run of the node.
    pub node: String,
    /// The method and the path, with a space between them.
    pub line: String,
    /// The type of the body; empty for none.
    pub content_type: &'static str,
    /// The body; may be empty.
    pub body: Bytes,
    /// Gets the answer.
    pub reply: oneshot::Sender<PeerAnswer>,
}
