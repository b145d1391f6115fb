//! The messages between a node and the stream of a durable topic.
//!
//! A stream keeps the batches of a durable topic in one order, and stores a batch only behind the one that its writer names. So two
//! nodes that both believe to own the topic cannot give one position to two messages: one of them is told that it was late.

use echoring_topics::Position;

use crate::view::NodeId;

/// Identifies a batch that a node stores. If its outcome is unknown, it is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId {
    /// The node.
    pub node: NodeId,
    /// Counts the batches that the node stores.
    pub number: u64,
}

/// Publications that are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Who stored them.
    pub write: WriteId,
    /// The position of the first.
    pub first: Position,
    /// A list; see [`entries`](crate::entries). It is not empty.
    pub entries: Vec<u8>,
}

/// The end of a topic in its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamHead {
    /// The sequence number that the stream has given the topic's last message; 0 for none. That message may be another program's,
    /// which is no batch.
    pub sequence: u64,
    /// The position of the last publication of the last batch, if there is any.
    pub position: Option<Position>,
}

/// A request of the node that owns a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    /// Read the topic's last batch, and the batches behind this position; without a position, those that were stored lately.
    Load(Option<Position>),
    /// Store a batch behind the one with this sequence number; 0 for none.
    Append(u64, StoredBatch),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAnswer {
    /// The end of the topic, and batches up to it, the oldest first. They may lack some of those asked for.
    Loaded(StreamHead, Vec<StoredBatch>),
    /// The batch is stored, with this sequence number.
    Stored(u64),
    /// It is unknown whether anything was stored.
    Failed,
    /// There is no such stream, and none can be made: the backbone stores nothing, or has no room. Nothing was sent to it.
    Unusable,
}
