//! The streams of durable topics, in JetStream.
//!
//! Topics of one pattern share a stream. A message of the stream is a batch of publications to one topic:
//!
//! ```text
//! subject: PREFIX.durable.STREAM.TOPIC
//! message: version u8 │ node u64 │ number u64 │ epoch u64 │ offset of the first u64 │ publications
//! ```
//!
//! Messages of other programs at a topic's subject are skipped, and logged once.
//!
//! A batch is stored only if the last message of its subject is the one that the writer names (`Nats-Expected-Last-Subject-Sequence`).
//! Offsets of a subject grow with the sequence numbers of the stream, so a position is found by a binary search.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::{NodeId, Position, StoredBatch, StreamAnswer, StreamHead, StreamRequest, WriteId, entries};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{ContextBuilder, CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, Message};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::StreamExt as _;

use tokio::time::timeout;

use crate::nats::clients::{connect_for, subject_of};
use crate::nats::error::BackboneError;
use crate::nats::limits::{
    STREAM_ANSWER_TIMEOUT, STREAM_CONSUMER_AGE, STREAM_FOREIGN_TOLD_MAX, STREAM_LOAD_AGE, STREAM_LOAD_BYTES,
    STREAM_LOAD_PUBLICATIONS, STREAM_PAGE_BYTES, STREAM_PLACES_MAX, STREAM_READ_MESSAGES, STREAM_TIMEOUT,
    SUBSCRIPTION_CAPACITY,
};
use crate::nats::options::NatsOptions;

const VERSION: u8 = 1;
/// First bytes of batches of nodes that are newer than this one. Text does not begin with them.
const LATER_VERSIONS: RangeInclusive<u8> = 2..=8;
/// Bytes of a batch before its publications.
const HEAD_BYTES: usize = 33;

/// How a stream keeps messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Identifies the stream in the cluster.
    pub id: u64,
    /// Maximum publications of a topic.
    pub messages: u32,
    /// Maximum bytes of all.
    pub bytes: u64,
    /// Maximum age.
    pub age: Duration,
    /// Servers that keep the stream.
    pub replicas: u32,
}

/// The streams.
#[derive(Debug)]
pub struct Streams {
    context: Context,
    prefix: Box<str>,
    /// Those that are as they should be.
    ready: Mutex<BTreeMap<u64, (StreamSettings, Stream<()>)>>,
    /// Where readers have stopped: the epoch and offset that a batch reaches, and its sequence number.
    places: Mutex<BTreeMap<Box<str>, (Position, u64)>>,
    /// The last failure. It is logged once.
    failure: Mutex<Option<String>>,
    /// The subjects and sequence numbers of messages that no node has written.
    foreign: Mutex<BTreeSet<(Box<str>, u64)>>,
}

/// A topic in its stream.
struct TopicStream {
    stream: Stream<()>,
    subject: String,
}

impl TopicStream {
    /// The sequence number of the stream's oldest message.
    async fn oldest(&self) -> Result<u64, Failure> {
        Ok(self.stream.get_info().await.map_err(failed)?.state.first_sequence)
    }
}

/// A batch as a stream has it.
struct Stored {
    sequence: u64,
    batch: StoredBatch,
    at: SystemTime,
}

/// The messages that are read of a topic, from the oldest.
#[derive(Clone, Copy)]
struct Range {
    /// Publications behind this position.
    after: Position,
    /// Not older than this.
    since: Option<SystemTime>,
    bytes_max: usize,
}

impl Range {
    fn has(&self, stored: &Stored) -> bool {
        let position = last_position(&stored.batch);
        let is_behind = position.epoch == self.after.epoch && position.offset > self.after.offset;
        is_behind && self.since.is_none_or(|since| stored.at >= since)
    }
}

/// Why a request was not answered.
struct Failure {
    reason: Box<dyn fmt::Display + Send>,
    /// There is no stream.
    is_unusable: bool,
}

impl Streams {
    /// The streams of a cluster, over a connection of their own: their bulk reads would delay others. Keeps trying if
    /// no server can be reached.
    ///
    /// # Errors
    /// If the options are wrong.
    pub async fn open(options: &NatsOptions, name: &str) -> Result<Streams, BackboneError> {
        let client = connect_for(options, name, "streams", SUBSCRIPTION_CAPACITY).await?;
        Ok(Streams {
            context: ContextBuilder::new().timeout(STREAM_TIMEOUT).build(client),
            prefix: options.prefix.as_str().into(),
            ready: Mutex::default(),
            places: Mutex::default(),
            failure: Mutex::default(),
            foreign: Mutex::default(),
        })
    }

    /// Carries out a request of a topic's owner.
    pub async fn handle(
        &self,
        topic: &str,
        settings: &StreamSettings,
        request: &StreamRequest,
    ) -> StreamAnswer {
        let answer = async {
            match request {
                StreamRequest::Load(after) => self.load(topic, settings, *after).await,
                StreamRequest::Append(behind, batch) => self.append(topic, settings, *behind, batch).await,
            }
        };
        self.answer(topic, settings, answer).await
    }

    /// The publications of a topic behind a position, for a page of its history.
    pub async fn page(&self, topic: &str, settings: &StreamSettings, after: Position) -> StreamAnswer {
        let range = Range { after, since: None, bytes_max: STREAM_PAGE_BYTES };
        self.answer(topic, settings, self.read_from_head(topic, settings, |_| range)).await
    }

    /// Messages of streams that no node has written, among those read so far.
    pub fn foreign_messages(&self) -> u64 {
        locked(&self.foreign).len() as u64
    }

    /// Waits for a request, but not for long: messages that were lost on their way would be waited for for ever.
    async fn answer(
        &self,
        topic: &str,
        settings: &StreamSettings,
        answer: impl Future<Output = Result<StreamAnswer, Failure>>,
    ) -> StreamAnswer {
        let answer = timeout(STREAM_ANSWER_TIMEOUT, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(failed("no answer in time")));
        let mut failure = locked(&self.failure);
        match answer {
            Ok(answer) => {
                *failure = None;
                answer
            }
            Err(error) => {
                let is_unusable = error.is_unusable;
                let error = error.reason.to_string();
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(topic, %error, "the stream of a durable topic cannot be used; trying again");
                    *failure = Some(error);
                }
                // The stream may have been deleted.
                locked(&self.ready).remove(&settings.id);
                if is_unusable { StreamAnswer::Unusable } else { StreamAnswer::Failed }
            }
        }
    }

    async fn load(
        &self,
        topic: &str,
        settings: &StreamSettings,
        after: Option<Position>,
    ) -> Result<StreamAnswer, Failure> {
        let since = SystemTime::now().checked_sub(STREAM_LOAD_AGE);
        self.read_from_head(topic, settings, |head| {
            let lately = head.offset.saturating_sub(STREAM_LOAD_PUBLICATIONS);
            let after = after.filter(|after| after.epoch == head.epoch);
            Range {
                after: after.unwrap_or(Position { offset: lately, ..head }),
                since: since.filter(|_| after.is_none()),
                bytes_max: STREAM_LOAD_BYTES,
            }
        })
        .await
    }

    async fn append(
        &self,
        topic: &str,
        settings: &StreamSettings,
        behind: u64,
        batch: &StoredBatch,
    ) -> Result<StreamAnswer, Failure> {
        // It was there when the topic was loaded.
        self.stream(settings).await?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, behind.to_string());
        let subject = self.subject(topic, settings);
        let acknowledged = self.context.publish_with_headers(subject, headers, write(batch)).await;
        match acknowledged.map_err(failed)?.await {
            Ok(acknowledged) => Ok(StreamAnswer::Stored(acknowledged.sequence)),
            // Another node was first.
            Err(error) if is_late(&error) => Ok(StreamAnswer::Failed),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads a range of a topic that depends on its last batch.
    async fn read_from_head(
        &self,
        topic: &str,
        settings: &StreamSettings,
        range: impl FnOnce(Position) -> Range,
    ) -> Result<StreamAnswer, Failure> {
        let (stream, subject) = (self.stream(settings).await?, self.subject(topic, settings));
        let topic = TopicStream { stream, subject };
        let message = match topic.stream.get_last_raw_message_by_subject(&topic.subject).await {
            Ok(message) => message,
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                return Ok(StreamAnswer::Loaded(StreamHead::default(), Vec::new()));
            }
            Err(error) => return Err(failed(error)),
        };
        let sequence = message.sequence;
        let last = match self.stored(&message)? {
            Some(last) => Some(last),
            None => self.last_before(&topic, sequence).await?,
        };
        let Some(last) = last else {
            return Ok(StreamAnswer::Loaded(StreamHead { sequence, position: None }, Vec::new()));
        };
        let reached = last_position(&last.batch);
        let range = range(reached);
        let batches = if !range.has(&last) {
            Vec::new()
        } else if last.batch.first.offset <= range.after.offset + 1 {
            vec![last.batch]
        } else {
            let first = self.locate(&topic, &range, last.sequence).await?;
            self.read(topic, first, &range, last.sequence).await?
        };
        Ok(StreamAnswer::Loaded(StreamHead { sequence, position: Some(reached) }, batches))
    }

    /// The last batch before the message with this sequence number; that message, and those between the two, are
    /// another program's.
    async fn last_before(&self, topic: &TopicStream, sequence: u64) -> Result<Option<Stored>, Failure> {
        let oldest = topic.oldest().await?;
        let (mut end, mut step) = (sequence, STREAM_READ_MESSAGES as u64);
        while end > oldest {
            let first = end.saturating_sub(step).max(oldest);
            let mut last = None;
            let keep = |stored| {
                last = Some(stored);
                true
            };
            self.scan(topic, first..=end - 1, keep).await?;
            if last.is_some() {
                return Ok(last);
            }
            (end, step) = (first, 2 * step);
        }
        Ok(None)
    }

    /// The sequence number from which on batches are of a range. The one with the number `last` is.
    async fn locate(&self, topic: &TopicStream, range: &Range, last: u64) -> Result<u64, Failure> {
        let place = locked(&self.places).get(&*topic.subject).copied();
        if let Some((position, sequence)) = place
            && position == range.after
        {
            return Ok(sequence + 1);
        }
        let (mut low, mut high, mut first) = (topic.oldest().await?, last, last);
        while low < high {
            let middle = low + (high - low) / 2;
            let next = self.next(topic, middle).await?;
            if range.has(&next) {
                (first, high) = (next.sequence, middle);
            } else {
                low = next.sequence + 1;
            }
        }
        Ok(first)
    }

    /// The first batch from a sequence number on. It exists, unless it has expired meanwhile, or the asked server does
    /// not have it yet.
    async fn next(&self, topic: &TopicStream, mut from: u64) -> Result<Stored, Failure> {
        let TopicStream { stream, subject } = topic;
        loop {
            let message = stream.direct_get_next_for_subject(subject, Some(from)).await.map_err(failed)?;
            match self.stored(&message)? {
                Some(stored) => return Ok(stored),
                None => from = message.sequence + 1,
            }
        }
    }

    /// Reads the batches of a topic from one sequence number to that of its last batch, as far as the range has room.
    async fn read(
        &self,
        topic: TopicStream,
        first: u64,
        range: &Range,
        last: u64,
    ) -> Result<Vec<StoredBatch>, Failure> {
        let (mut batches, mut bytes, mut reached) = (Vec::new(), 0, None);
        let keep = |Stored { sequence, batch, .. }| {
            bytes += batch.entries.len();
            reached = Some((last_position(&batch), sequence));
            batches.push(batch);
            bytes < range.bytes_max
        };
        self.scan(&topic, first..=last, keep).await?;
        let Some(reached) = reached.filter(|(_, sequence)| *sequence == last || bytes >= range.bytes_max)
        else {
            // The reader would take the missing messages for lost.
            return Err(failed("the stream has not delivered all its messages"));
        };
        let mut places = locked(&self.places);
        if places.len() >= STREAM_PLACES_MAX {
            places.clear();
        }
        places.insert(topic.subject.into(), reached);
        Ok(batches)
    }

    /// Passes the batches of a topic in a range of sequence numbers to `keep`, until it returns false.
    async fn scan(
        &self,
        TopicStream { stream, subject }: &TopicStream,
        range: RangeInclusive<u64>,
        mut keep: impl FnMut(Stored) -> bool,
    ) -> Result<(), Failure> {
        let consumer = ConsumerConfig {
            filter_subject: subject.clone(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *range.start() },
            ack_policy: AckPolicy::None,
            inactive_threshold: STREAM_CONSUMER_AGE,
            memory_storage: true,
            num_replicas: 1,
            ..ConsumerConfig::default()
        };
        let consumer = stream.create_consumer(consumer).await.map_err(failed)?;
        'reading: loop {
            let fetch = consumer.fetch().max_messages(STREAM_READ_MESSAGES);
            let mut messages = fetch.messages().await.map_err(failed)?;
            let mut is_empty = true;
            while let Some(message) = messages.next().await {
                is_empty = false;
                let message = message.map_err(failed)?;
                let sequence = message.info().map_err(failed)?.stream_sequence;
                let is_in_range = sequence <= *range.end();
                let wants_more = is_in_range && self.delivered(&message)?.is_none_or(&mut keep);
                if !wants_more || sequence == *range.end() {
                    break 'reading;
                }
            }
            if is_empty {
                break;
            }
        }
        // Otherwise the server deletes it a little later.
        let _ = stream.delete_consumer(&consumer.cached_info().name).await;
        Ok(())
    }

    /// The stream, which is created, or changed if its settings are others.
    async fn stream(&self, settings: &StreamSettings) -> Result<Stream<()>, Failure> {
        let ready = locked(&self.ready).get(&settings.id).cloned();
        if let Some((_, stream)) = ready.filter(|(known, _)| known == settings) {
            return Ok(stream);
        }
        let StreamSettings { id, messages, bytes, age, replicas } = *settings;
        let name = stream_name(&self.prefix, id);
        let config = Config {
            name: name.clone(),
            description: Some("durable topics of echoring".to_owned()),
            subjects: vec![format!("{}.durable.{id:016x}.>", self.prefix)],
            max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            // Each message has a publication at least.
            max_messages_per_subject: messages.into(),
            max_age: age,
            duplicate_window: age.min(Duration::from_secs(120)),
            num_replicas: replicas as usize,
            allow_direct: true,
            ..Config::default()
        };
        self.context.create_or_update_stream(config).await.map_err(no_stream)?;
        let stream = self.context.get_stream_no_info(&name).await.map_err(failed)?;
        let mut ready = locked(&self.ready);
        ready.insert(id, (*settings, stream.clone()));
        Ok(stream)
    }

    fn subject(&self, topic: &str, settings: &StreamSettings) -> String {
        format!("{}.durable.{:016x}.{}", self.prefix, settings.id, subject_of(topic))
    }

    fn stored(&self, message: &StreamMessage) -> Result<Option<Stored>, Failure> {
        let (sequence, at) = (message.sequence, message.time.into());
        let batch = self.batch(&message.subject, sequence, &message.payload)?;
        Ok(batch.map(|batch| Stored { sequence, batch, at }))
    }

    fn delivered(&self, message: &Message) -> Result<Option<Stored>, Failure> {
        let info = message.info().map_err(failed)?;
        let (sequence, at) = (info.stream_sequence, info.published.into());
        let batch = self.batch(&message.subject, sequence, &message.payload)?;
        Ok(batch.map(|batch| Stored { sequence, batch, at }))
    }

    /// The batch of a message; `None` if the message is another program's.
    fn batch(&self, subject: &str, sequence: u64, payload: &[u8]) -> Result<Option<StoredBatch>, Failure> {
        let batch = read(payload);
        if batch.is_some() {
            return Ok(batch);
        }
        if is_of_later_version(payload) {
            return Err(failed(format!("message {sequence} of the stream was written by a newer version")));
        }
        let mut foreign = locked(&self.foreign);
        if foreign.len() < STREAM_FOREIGN_TOLD_MAX && foreign.insert((subject.into(), sequence)) {
            tracing::warn!(
                subject,
                sequence,
                "skipped a message that no node wrote in the stream of durable topics; allow only nodes to publish \
                 there"
            );
        }
        Ok(None)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl fmt::Display + Send + 'static) -> Failure {
    Failure { reason: Box::new(error), is_unusable: false }
}

/// Why there is no stream: JetStream is not there, or refuses it, for lack of room for example; or it did not answer.
fn no_stream(error: CreateStreamError) -> Failure {
    let is_unusable = matches!(
        error.kind(),
        CreateStreamErrorKind::JetStreamUnavailable | CreateStreamErrorKind::JetStream(_)
    );
    Failure { is_unusable, ..failed(error) }
}

fn is_late(error: &async_nats::jetstream::context::PublishError) -> bool {
    use async_nats::jetstream::context::PublishErrorKind;
    matches!(error.kind(), PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId)
}

/// A name that JetStream allows, for streams of nodes with this prefix.
fn stream_name(prefix: &str, id: u64) -> String {
    let mut name = String::new();
    for byte in prefix.bytes() {
        match byte {
            b'-' | b'_' => name.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            _ => name.push_str(&format!("={byte:02x}")),
        }
    }
    format!("{name}-durable-{id:016x}")
}

/// The position of the last publication of a batch.
fn last_position(batch: &StoredBatch) -> Position {
    let publications = entries(&batch.entries).count() as u64;
    Position { offset: batch.first.offset + publications.saturating_sub(1), ..batch.first }
}

fn write(batch: &StoredBatch) -> Bytes {
    let StoredBatch { write: WriteId { node, number }, first, entries } = batch;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + entries.len());
    bytes.put_u8(VERSION);
    for number in [node.0, *number, first.epoch, first.offset] {
        bytes.put_u64_le(number);
    }
    bytes.put_slice(entries);
    bytes.into()
}

/// Reads a batch. `None` if it is not well formed, or of another version.
fn read(mut bytes: &[u8]) -> Option<StoredBatch> {
    let bytes = &mut bytes;
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let node = NodeId(bytes.try_get_u64_le().ok()?);
    let number = bytes.try_get_u64_le().ok()?;
    let first = Position { epoch: bytes.try_get_u64_le().ok()?, offset: bytes.try_get_u64_le().ok()? };
    let batch = StoredBatch { write: WriteId { node, number }, first, entries: bytes.to_vec() };
    (first.epoch != 0 && first.offset != 0 && entries(&batch.entries).next().is_some()).then_some(batch)
}

/// Whether a node that is newer than this one has written a message. It may be a batch, so nothing can be stored behind it.
fn is_of_later_version(bytes: &[u8]) -> bool {
    bytes.len() > HEAD_BYTES && LATER_VERSIONS.contains(&bytes[0])
}

#[cfg(test)]
mod tests {
    use crate::append_entry;

    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let mut list = Vec::new();
        append_entry(&mut list, b"one");
        append_entry(&mut list, b"two");
        let first = Position { epoch: 5, offset: 7 };
        let batch = StoredBatch { write: WriteId { node: NodeId(3), number: 4 }, first, entries: list };
        let bytes = super::write(&batch);
        assert_eq!(read(&bytes), Some(batch.clone()));
        assert_eq!(last_position(&batch), Position { offset: 8, ..first });
        for end in 0..37 {
            assert_eq!(read(&bytes[..end]), None, "{end}");
        }
        for other in [&b"something else that is long enough for one"[..], b"", b"{\"topic\":\"t\"}", b"\x02"]
        {
            assert!(read(other).is_none() && !is_of_later_version(other), "{other:?}");
        }
        let mut later = bytes.to_vec();
        later[0] = VERSION + 1;
        assert!(read(&later).is_none() && is_of_later_version(&later));
    }

    #[test]
    fn a_stream_has_a_name_without_what_jetstream_does_not_allow() {
        assert_eq!(stream_name("echoring", 0xab), "echoring-durable-00000000000000ab");
        assert_eq!(stream_name("a.b_c-d/", 1), "a=2eb_c-d=2f-durable-0000000000000001");
    }
}
