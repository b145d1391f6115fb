//! Requests of this node's control thread to those of other nodes.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The answer of a node: the status, and the body; or the reason why there is none.
pub type PeerAnswer = Result<(u16, Vec<u8>), &'static str>;

/// A request to another node.
#[derive(Debug)]
pub struct PeerQuery {
    /// The id of the run of the node.
    pub node: String,
    /// The method and the path, with a space between them.
    pub line: String,
    /// The body; may be empty.
    pub body: Bytes,
    /// Gets the answer.
    pub reply: oneshot::Sender<PeerAnswer>,
}

/// To the carrier of requests to other nodes.
#[derive(Clone, Debug)]
pub(crate) struct QuerySender(pub(crate) mpsc::UnboundedSender<PeerQuery>);

impl QuerySender {
    pub(crate) async fn ask(&self, node: String, line: String, body: Bytes) -> PeerAnswer {
        let (reply, answer) = oneshot::channel();
        // Fails only if nobody carries requests; then the answer fails too.
        let _ = self.0.send(PeerQuery { node, line, body, reply });
        answer.await.unwrap_or(Err("this node has no connection for requests"))
    }
}
