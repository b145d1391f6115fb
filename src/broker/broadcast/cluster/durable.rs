//! The streams of durable topics: the requests of the owner tables to them, and pages of history that are no longer in
//! memory.

use std::collections::BTreeMap;

use echoring_cluster::{StoredBatch, StreamAnswer, entries};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::{Driver, Token};
use echoring_topics::{Durable, OwnedTopicId, Page, Position, Replay, TopicId, append_message};

use super::ClusterShard;
use super::entry::Entry;
use crate::broadcast::Broadcast;
use crate::broadcast::sequencer::{PAGE_BYTES, PageAnswer};
use crate::broadcast::topic_read::HistoryRead;
use crate::cluster_mail::{StreamCommand, StreamQuery, StreamSender};
use crate::peer::Context;

/// A shard's requests to streams.
#[derive(Debug)]
pub(super) struct Streams {
    sender: StreamSender,
    pages: BTreeMap<u64, PageRequest>,
    pages_asked: u64,
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

/// A page that is read from a stream.
#[derive(Debug)]
pub(in crate::broadcast) struct PageRequest {
    pub(in crate::broadcast) reader: PageReader,
    pub(in crate::broadcast) owned: OwnedTopicId,
    pub(in crate::broadcast) from: Replay,
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

    /// Takes the request of a page whose answer has come.
    pub(super) fn take(&mut self, number: u64) -> Option<PageRequest> {
        self.pages.remove(&number)
    }
}

impl Broadcast {
    /// Sends the streams the requests that the tick has left for them.
    pub(super) fn ask_streams(&mut self, shard: usize, cluster: &mut ClusterShard) {
        let ClusterShard { table, streams, .. } = cluster;
        while let Some((topic, number, request)) = table.poll_stream_request() {
            let durable = self.sequencer.topics.durable(&topic);
            let query = StreamQuery::Owner(request);
            streams.sender.ask(StreamCommand { topic, durable, query, shard, number });
        }
        for request in self.sequencer.queue.pages.drain(..) {
            streams.pages_asked += 1;
            let number = streams.pages_asked;
            let StreamRange { topic, durable, after } = request.stream.clone();
            let query = StreamQuery::Page(after);
            streams.sender.ask(StreamCommand { topic, durable, query, shard, number });
            streams.pages.insert(number, request);
        }
    }

    /// Answers the reader of a page. Messages that the stream does not have are missing; if it cannot be read, that is
    /// unknown.
    pub(super) fn answer_page<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        request: PageRequest,
        answer: StreamAnswer,
    ) {
        let PageRequest { reader, owned, from, stream: StreamRange { topic, after, .. } } = request;
        if matches!(answer, StreamAnswer::Failed | StreamAnswer::Unusable) {
            return match reader {
                PageReader::Connection(reader, until) => self.read_later(cx, reader, owned, from, until),
                PageReader::Operator(history) => history.fail(cx.shard()),
            };
        }
        let (page, bytes) = self.stream_page(&topic, from, after, answer).unwrap_or_else(|| {
            let now = cx.now();
            self.sequencer.history(owned, from, now, cx.pool())
        });
        match reader {
            PageReader::Connection(reader, _) => self.answer_reader(cx, reader, from, page, &bytes),
            PageReader::Operator(history) => self.operator_page(cx, owned, *history, page.ok(), &bytes),
        }
    }

    /// The page that begins behind `after` in the batches of a stream; `None` if they have nothing for it.
    fn stream_page(
        &self,
        topic: &str,
        from: Replay,
        after: Position,
        answer: StreamAnswer,
    ) -> Option<PageAnswer> {
        let StreamAnswer::Loaded(_, batches) = answer else { return None };
        let head = self.sequencer.topics.position(topic).filter(|head| head.epoch == after.epoch)?;
        let mut page = Page {
            head,
            after: match from {
                Replay::After(after) | Replay::Latest(after) => after,
                Replay::Newcomer => after.offset,
            },
            conflated: false,
            first: 0,
            messages: 0,
            complete: false,
        };
        let mut bytes = Vec::new();
        let messages = batches.iter().filter(|batch| batch.first.epoch == after.epoch).flat_map(offsets);
        for (offset, entry) in messages {
            let next = page.first + u64::from(page.messages);
            let is_next = page.messages == 0 || offset == next;
            // What is behind the head comes from the owner.
            if offset <= after.offset || offset > head.offset {
                continue;
            }
            let publication = Entry::read(entry).filter(|_| is_next).map(|entry| entry.publication);
            let Some(publication) = publication else { break };
            if page.messages > 0 && bytes.len() + entry.len() > PAGE_BYTES {
                break;
            }
            if page.messages == 0 {
                page.first = offset;
            }
            append_message(&mut bytes, offset, &publication);
            page.messages += 1;
        }
        (page.messages > 0).then_some((Ok(page), bytes))
    }
}

/// The publications of a batch, with their offsets.
fn offsets(batch: &StoredBatch) -> impl Iterator<Item = (u64, &[u8])> {
    (batch.first.offset..).zip(entries(&batch.entries))
}
