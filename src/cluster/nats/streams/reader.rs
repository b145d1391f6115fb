//! Reads the batches of a topic one after the other, through one consumer for as long as that takes.

use std::collections::VecDeque;
use std::time::Instant;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{Failure, Stored, Streams, TopicStream, failed, last_position};
use crate::nats::limits::{
    STREAM_ANSWER_TIMEOUT, STREAM_CONSUMER_AGE, STREAM_FETCH_BYTES, STREAM_READ_MESSAGES, STREAM_STEP_DELAY,
    STREAM_TIMEOUT,
};
use crate::{Position, StoredBatch};

/// A reader of the batches of a topic from a sequence number on.
#[derive(Debug)]
pub(super) struct Reader {
    topic: TopicStream,
    after: Position,
    consumer: Option<Consumer<ConsumerConfig>>,
    /// Messages that the consumer has delivered, and those that it had for later.
    delivered: u64,
    pending: u64,
    /// The sequence number of the next message.
    next: u64,
    /// The bytes of a message, to choose how many are fetched.
    message_bytes: usize,
    batches: VecDeque<Stored>,
    /// Bytes of their publications.
    bytes: usize,
    used_at: Instant,
}

impl Reader {
    /// A reader of the batches behind `after`, whose first message has the sequence number `next` at least. Messages have about
    /// `message_bytes`.
    pub(super) fn new(topic: TopicStream, after: Position, next: u64, message_bytes: usize) -> Reader {
        Reader {
            topic,
            after,
            consumer: None,
            delivered: 0,
            pending: 0,
            next,
            message_bytes,
            batches: VecDeque::new(),
            bytes: 0,
            used_at: Instant::now(),
        }
    }

    /// Whether its consumer is there, and not about to be deleted by the server.
    pub(super) fn is_fresh(&self) -> bool {
        self.used_at.elapsed() < STREAM_CONSUMER_AGE / 2
    }

    /// The position behind which its batches begin.
    pub(super) fn after(&self) -> Position {
        self.after
    }

    /// Whether it has, or reads next, what is behind a position of this subject.
    pub(super) fn continues(&self, subject: &str, after: Position) -> bool {
        let reached = self.batches.back().map_or(self.after, |last| last_position(&last.batch));
        let is_within = (self.after.offset..=reached.offset).contains(&after.offset);
        self.topic.subject == subject
            && self.after.epoch == after.epoch
            && reached.epoch == after.epoch
            && is_within
    }

    /// About `bytes_max` bytes of the batches behind a position that it [continues](Reader::continues).
    pub(super) async fn page(
        &mut self,
        streams: &Streams,
        after: Position,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, Failure> {
        self.used_at = Instant::now();
        while let Some(first) = self.batches.front()
            && last_position(&first.batch).offset <= after.offset
            && let Some(first) = self.batches.pop_front()
        {
            self.bytes -= first.batch.entries.len();
            self.after = last_position(&first.batch);
        }
        let mut is_at_end = self.pending == 0 && !self.batches.is_empty();
        while self.bytes < bytes_max && !is_at_end {
            is_at_end = !self.fetch(streams).await? || self.pending == 0;
        }
        if self.pending == 0 {
            self.end().await;
        }
        let mut bytes = 0;
        let page = self.batches.iter().take_while(|stored| {
            let has_room = bytes < bytes_max;
            bytes += stored.batch.entries.len();
            has_room
        });
        Ok(page.map(|stored| stored.batch.clone()).collect())
    }

    /// All batches up to the one with the sequence number `last`, as far as they have no more than `bytes_max` bytes. If the stream fails
    /// meanwhile, goes on behind what it has, unless nothing comes for [`STREAM_ANSWER_TIMEOUT`].
    pub(super) async fn read_to(
        mut self,
        streams: &Streams,
        last: u64,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, Failure> {
        let mut advanced_at = Instant::now();
        while self.next <= last && self.bytes < bytes_max {
            let next = self.next;
            match self.fetch(streams).await {
                // The owner would take the missing messages for lost.
                Ok(false) => return Err(failed("the stream has not delivered all its messages")),
                Err(failure) if self.next == next && advanced_at.elapsed() >= STREAM_ANSWER_TIMEOUT => {
                    return Err(failure);
                }
                Err(_) => sleep(STREAM_STEP_DELAY).await,
                Ok(true) => {}
            }
            if self.next > next {
                advanced_at = Instant::now();
            }
        }
        self.end().await;
        Ok(self
            .batches
            .into_iter()
            .take_while(|stored| stored.sequence <= last)
            .map(|stored| stored.batch)
            .collect())
    }

    /// The last batch in front of the sequence number `end`.
    pub(super) async fn last_before(
        mut self,
        streams: &Streams,
        end: u64,
    ) -> Result<Option<Stored>, Failure> {
        let mut last = None;
        while self.next < end && self.fetch(streams).await? {
            last = self.batches.drain(..).rfind(|stored| stored.sequence < end).or(last);
        }
        self.end().await;
        Ok(last)
    }

    /// Fetches more messages. False if there were none.
    async fn fetch(&mut self, streams: &Streams) -> Result<bool, Failure> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.begin().await?,
        };
        let count = (STREAM_FETCH_BYTES / self.message_bytes.max(1)).clamp(1, STREAM_READ_MESSAGES);
        let mut messages = in_time(consumer.fetch().max_messages(count).messages()).await?.map_err(failed)?;
        let (mut fetched, mut bytes) = (0, 0);
        while let Some(message) = in_time(messages.next()).await? {
            let message = message.map_err(failed)?;
            bytes += message.payload.len();
            self.take(streams, &message)?;
            fetched += 1;
        }
        if fetched == 0 && self.pending > 0 {
            return Err(failed(LOST));
        }
        self.message_bytes = bytes.checked_div(fetched).unwrap_or(self.message_bytes);
        // Of a consumer that has failed, nobody knows what it has delivered.
        self.consumer = Some(consumer);
        Ok(fetched > 0)
    }

    fn take(&mut self, streams: &Streams, message: &Message) -> Result<(), Failure> {
        let info = message.info().map_err(failed)?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(failed(LOST));
        }
        let sequence = info.stream_sequence;
        (self.delivered, self.pending) = (info.consumer_sequence, info.pending);
        let batch = streams.batch(&message.subject, sequence, &message.payload)?;
        self.next = sequence + 1;
        if let Some(batch) = batch {
            self.bytes += batch.entries.len();
            self.batches.push_back(Stored { sequence, batch, at: info.published.into() });
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<Consumer<ConsumerConfig>, Failure> {
        let consumer = ConsumerConfig {
            filter_subject: self.topic.subject.clone(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ack_policy: AckPolicy::None,
            inactive_threshold: STREAM_CONSUMER_AGE,
            memory_storage: true,
            num_replicas: 1,
            ..ConsumerConfig::default()
        };
        let consumer = self.topic.stream.create_consumer(consumer).await.map_err(failed)?;
        (self.delivered, self.pending) = (0, consumer.cached_info().num_pending);
        Ok(consumer)
    }

    /// Deletes the consumer. Otherwise the server does that a little later.
    async fn end(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            let _ = self.topic.stream.delete_consumer(&consumer.cached_info().name).await;
        }
    }
}

/// Why a fetch has failed.
const LOST: &str = "messages of the stream were lost on their way";

/// Waits for a step, but not for long: messages that were lost on their way would be waited for for ever.
async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(STREAM_TIMEOUT, step).await.map_err(|_| failed("no answer in time"))
}
