//! Orders to follow a client or a topic for a time, and the way of the events to the operator.

use bytes::Bytes;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use tokio::sync::mpsc;

/// What an operator follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTarget {
    /// A connection of the shard.
    Connection(Token),
    /// All connections of a subject.
    Identity(Box<str>),
    /// A topic.
    Topic(Box<str>),
}

/// An order to a shard. It ends with its time, or when nobody takes the events any more.
#[derive(Clone, Debug)]
pub struct WatchOrder {
    /// What is followed.
    pub target: WatchTarget,
    /// For how long.
    pub time: Nanos,
    /// Takes lines of JSON. A line for which there is no room is dropped and counted.
    pub events: mpsc::Sender<Bytes>,
}
