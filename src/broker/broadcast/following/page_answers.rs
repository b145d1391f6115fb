//! Answers to the readers of pages that are not in memory, or that this node has not reached.
//!
//! Clients whose position this node has not reached have received messages from another node that are still on their way to this
//! one. They wait for these messages, because nothing is lost. If they wait for too long, they are told to try again,
//! or another node: a lower position in the same epoch would let them receive twice what they have.
//!
//! Pages of a stream that could not be read wait here, too, until they are read again: a reported gap would be wrong.

use echoring_cluster::limits::STREAM_RETRY_DELAY;
use echoring_cluster::{StreamAnswer, entries};
use echoring_proto::limits::Nanos;
use echoring_topics::{Page, Position, Refused, Replay, append_message};

use super::Following;
use super::entry::StreamEntry;
use super::stream_pages::{ConnectionReader, PageAhead, PageReader, PageRequest, StreamRange, WantedPage};
use crate::broadcast::Broadcast;
use crate::broadcast::sequencer::{PAGE_BYTES, PageAnswer};
use crate::limits::CLUSTER_BEHIND_MAX;
use crate::node_mail::{StreamCommand, StreamQuery};
use crate::peer::Context;

impl Broadcast {
    /// Answers the readers whose position this node has reached, and those that have waited long enough.
    pub(super) fn answer_reached(&mut self, cx: &mut Context<'_>) {
        let now = self.now;
        for page in std::mem::take(&mut self.sequencer.queue.ahead) {
            let PageAhead { reader, wanted, look_at, until } = page;
            let is_behind = self.sequencer.is_behind(wanted);
            let waits_for_stream = look_at < until;
            if now < look_at && (is_behind || waits_for_stream) {
                self.sequencer.queue.ahead.push(page);
                continue;
            }
            let read = match is_behind {
                true => Some((Err(Refused::Behind), Vec::new())),
                // Otherwise its stream is read first.
                false => self.sequencer.read_history(reader, wanted, until, now, cx.pool()),
            };
            if let Some((page, bytes)) = read {
                self.answer_reader(cx, reader, wanted.from, page, &bytes);
            }
        }
    }

    /// The stream that a page is in could not be read. It is read again a little later, unless its reader has waited long enough.
    pub(super) fn read_later(
        &mut self,
        cx: &mut Context<'_>,
        reader: ConnectionReader,
        wanted: WantedPage,
        until: Nanos,
    ) {
        let look_at = self.now + STREAM_RETRY_DELAY;
        if look_at >= until || self.sequencer.queue.ahead.len() >= CLUSTER_BEHIND_MAX {
            return self.answer_reader(cx, reader, wanted.from, Err(Refused::Behind), &[]);
        }
        self.sequencer.queue.ahead.push(PageAhead { reader, wanted, look_at, until });
    }

    /// Sends the streams the requests that the tick has left for them.
    pub(super) fn ask_streams(&mut self, shard: usize, following: &mut Following) {
        let Following { table, streams, .. } = following;
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
    pub(super) fn answer_page(&mut self, cx: &mut Context<'_>, request: PageRequest, answer: StreamAnswer) {
        let PageRequest { reader, wanted, stream: StreamRange { topic, after, .. } } = request;
        if matches!(answer, StreamAnswer::Failed | StreamAnswer::Unusable) {
            return match reader {
                PageReader::Connection(reader, until) => self.read_later(cx, reader, wanted, until),
                PageReader::Operator(history) => history.fail(cx.shard()),
            };
        }
        let (page, bytes) = self.stream_page(&topic, wanted.from, after, answer).unwrap_or_else(|| {
            let now = cx.now();
            self.sequencer.history(wanted, now, cx.pool())
        });
        match reader {
            PageReader::Connection(reader, _) => self.answer_reader(cx, reader, wanted.from, page, &bytes),
            PageReader::Operator(history) => {
                if let Some(more) = history.add(cx.shard(), page.ok(), &bytes) {
                    self.read_pages(cx, wanted.owned, more);
                }
            }
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
            after: from.after().unwrap_or(after.offset),
            conflated: false,
            first: 0,
            messages: 0,
            complete: false,
        };
        let mut bytes = Vec::new();
        let messages = batches
            .iter()
            .filter(|batch| batch.first.epoch == after.epoch)
            .flat_map(|batch| (batch.first.offset..).zip(entries(&batch.entries)));
        for (offset, entry) in messages {
            let next = page.first + u64::from(page.messages);
            let is_next = page.messages == 0 || offset == next;
            // What is behind the head comes from the owner.
            if offset <= after.offset || offset > head.offset {
                continue;
            }
            let publication =
                StreamEntry::read(entry).filter(|_| is_next).map(|entry| entry.message.publication);
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
