//! Requests of shards to the streams of durable topics.
//!
//! Of a topic that the node owns, one request is on its way at a time; it stores at most a few batches of publications. Of other
//! requests, a connection has one for each topic.

use echoring_cluster::{StreamAnswer, StreamRequest};
use echoring_topics::Durable;
use tokio::sync::mpsc;

use crate::node_mail::ClusterEvent;

/// A request to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamQuery {
    /// By the owner of the topic.
    Owner(StreamRequest),
    /// Publications after this position, for a client. The answer is [`StreamAnswer::Loaded`], and says nothing about the head.
    Page(echoring_topics::Position),
}

/// A request to the stream of a durable topic.
#[derive(Debug)]
pub struct StreamCommand {
    /// The topic.
    pub topic: Box<str>,
    /// Its stream.
    pub durable: Durable,
    /// The request.
    pub query: StreamQuery,
    pub(crate) shard: usize,
    pub(crate) number: u64,
}

/// To the thread that asks the streams.
#[derive(Clone, Debug)]
pub struct StreamSender(pub mpsc::UnboundedSender<StreamCommand>);

impl StreamSender {
    pub(crate) fn ask(&self, command: StreamCommand) {
        // Fails only if the thread has ended: then the server ends, too.
        let _ = self.0.send(command);
    }
}

impl StreamCommand {
    /// The requesting shard, and its answer.
    pub fn answer(self, answer: StreamAnswer) -> (usize, ClusterEvent) {
        let StreamCommand { topic, query, shard, number, .. } = self;
        let event = match query {
            StreamQuery::Owner(_) => ClusterEvent::Stream { topic, number, answer },
            StreamQuery::Page(_) => ClusterEvent::StreamPage { number, answer },
        };
        (shard, event)
    }
}
