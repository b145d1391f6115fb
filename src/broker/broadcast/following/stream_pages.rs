//! Pages of history that are read from the streams of durable topics, or wait for what this node has not reached.

use std::collections::BTreeMap;

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{Durable, OwnedTopicId, Position, Replay, TopicId};

use crate::broadcast::topic_read::HistoryRead;
use crate::node_mail::StreamSender;

/// A shard's requests to streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) sender: StreamSender,
    pub(super) pages: BTreeMap<u64, PageRequest>,
    pub(super) pages_asked: u64,
}

/// The reader of a page of history.
#[derive(Debug)]
pub(in crate::broadcast) enum PageReader {
    /// A connection, which waits until this time.
    Connection(ConnectionReader, Nanos),
    /// An operator.
    Operator(Box<HistoryRead>),
}

/// A connection that reads a page of history, and its shard.
#[derive(Clone, Copy, Debug)]
pub(in crate::broadcast) struct ConnectionReader {
    pub(in crate::broadcast) shard: usize,
    /// The topic on that shard.
    pub(in crate::broadcast) local: TopicId,
    pub(in crate::broadcast) token: Token,
}

/// A page of the history of an owned topic, and where it begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::broadcast) struct WantedPage {
    pub(in crate::broadcast) owned: OwnedTopicId,
    pub(in crate::broadcast) from: Replay,
}

/// A page of history that begins behind a position that this node has not reached, or whose stream could not be read.
#[derive(Clone, Copy, Debug)]
pub(in crate::broadcast) struct PageAhead {
    pub(in crate::broadcast) reader: ConnectionReader,
    pub(in crate::broadcast) wanted: WantedPage,
    /// When it is checked, if the position is not reached earlier.
    pub(in crate::broadcast) look_at: Nanos,
    /// When its reader has waited long enough.
    pub(in crate::broadcast) until: Nanos,
}

/// A page that is read from a stream.
#[derive(Debug)]
pub(in crate::broadcast) struct PageRequest {
    pub(in crate::broadcast) reader: PageReader,
    pub(in crate::broadcast) wanted: WantedPage,
    pub(in crate::broadcast) stream: StreamRange,
}

/// The request to read from a stream.
#[derive(Clone, Debug)]
pub(in crate::broadcast) struct StreamRange {
    pub(in crate::broadcast) topic: Box<str>,
    pub(in crate::broadcast) durable: Durable,
    /// The position behind which it begins.
    pub(in crate::broadcast) after: Position,
}

impl Streams {
    pub(super) fn new(sender: StreamSender) -> Streams {
        Streams { sender, pages: BTreeMap::new(), pages_asked: 0 }
    }
}
