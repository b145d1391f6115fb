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

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::{NodeId, Position, StoredBatch, StreamAnswer, StreamHead, StreamRequest, WriteId, entries};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::time::timeout;

use crate::nats::clients::{connect_for, subject_of};
use crate::nats::error::BackboneError;
use crate::nats::limits::{
    STREAM_ANSWER_TIMEOUT, STREAM_FOREIGN_TOLD_MAX, STREAM_LOAD_AGE, STREAM_LOAD_BYTES,
    STREAM_LOAD_PUBLICATIONS, STREAM_PAGE_BYTES, STREAM_READ_MESSAGES, STREAM_READERS_KEPT_MAX,
    STREAM_TIMEOUT, SUBSCRIPTION_CAPACITY,
};
use crate::nats::options::NatsOptions;
use reader::Reader;

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
    /// Readers whose clients may want the next page, in the order of their last use.
    readers: Mutex<Vec<Reader>>,
    /// The last failure. It is logged once.
    failure: Mutex<Option<String>>,
    /// The subjects and sequence numbers of messages that no node has written.
    foreign: Mutex<BTreeSet<(Box<str>, u64)>>,
}

/// A topic in its stream.
#[derive(Clone, Debug)]
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
#[derive(Debug)]
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
}

/// What a range of a topic has.
enum Found {
    /// No more than these batches.
    All(Vec<StoredBatch>),
    /// What this reader reads, up to the batch with this sequence number.
    From(Box<Reader>, u64),
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
            readers: Mutex::default(),
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
        let answer = match request {
            // Each step has a bound. Their number has none: a load that advances is not begun again.
            StreamRequest::Load(after) => self.load(topic, settings, *after).await,
            StreamRequest::Append(behind, batch) => {
                in_time(self.append(topic, settings, *behind, batch)).await
            }
        };
        self.note(topic, settings, answer)
    }

    /// The publications of a topic behind a position, for a page of its history. The answer says nothing about the topic's head.
    pub async fn page(&self, topic: &str, settings: &StreamSettings, after: Position) -> StreamAnswer {
        let page = in_time(self.read_page(topic, settings, after)).await;
        let answer = page.map(|batches| StreamAnswer::Loaded(StreamHead::default(), batches));
        self.note(topic, settings, answer)
    }

    /// Messages of streams that no node has written, among those read so far.
    pub fn foreign_messages(&self) -> u64 {
        locked(&self.foreign).len() as u64
    }

    /// Logs failures.
    fn note(
        &self,
        topic: &str,
        settings: &StreamSettings,
        answer: Result<StreamAnswer, Failure>,
    ) -> StreamAnswer {
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
        let range = |head: Position| {
            let lately = head.offset.saturating_sub(STREAM_LOAD_PUBLICATIONS);
            let after = after.filter(|after| after.epoch == head.epoch);
            Range {
                after: after.unwrap_or(Position { offset: lately, ..head }),
                since: since.filter(|_| after.is_none()),
            }
        };
        let (head, found) = self.find(topic, settings, range).await?;
        let batches = match found {
            Found::All(batches) => batches,
            Found::From(reader, last) => reader.read_to(self, last, STREAM_LOAD_BYTES).await?,
        };
        Ok(StreamAnswer::Loaded(head, batches))
    }

    async fn read_page(
        &self,
        topic: &str,
        settings: &StreamSettings,
        after: Position,
    ) -> Result<Vec<StoredBatch>, Failure> {
        let subject = self.subject(topic, settings);
        let mut reader = match self.take_reader(&subject, after) {
            Some(reader) => reader,
            None => match self.find(topic, settings, |_| Range { after, since: None }).await?.1 {
                Found::All(batches) => return Ok(batches),
                Found::From(reader, _) => *reader,
            },
        };
        let page = reader.page(self, after, STREAM_PAGE_BYTES).await?;
        self.keep_reader(reader);
        Ok(page)
    }

    /// The reader of the page before. Of several, the one that is nearest.
    fn take_reader(&self, subject: &str, after: Position) -> Option<Reader> {
        let mut readers = locked(&self.readers);
        readers.retain(Reader::is_fresh);
        let fitting = readers.iter().enumerate().filter(|(_, reader)| reader.continues(subject, after));
        let (index, _) = fitting.max_by_key(|(_, reader)| reader.after().offset)?;
        Some(readers.remove(index))
    }

    fn keep_reader(&self, reader: Reader) {
        let mut readers = locked(&self.readers);
        if readers.len() >= STREAM_READERS_KEPT_MAX {
            // The server deletes its consumer.
            readers.remove(0);
        }
        readers.push(reader);
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

    /// The head of a topic, and what a range that depends on it has.
    async fn find(
        &self,
        topic: &str,
        settings: &StreamSettings,
        range: impl FnOnce(Position) -> Range,
    ) -> Result<(StreamHead, Found), Failure> {
        let nothing = |head| Ok((head, Found::All(Vec::new())));
        let (stream, subject) = (self.stream(settings).await?, self.subject(topic, settings));
        let topic = TopicStream { stream, subject };
        let message = match topic.stream.get_last_raw_message_by_subject(&topic.subject).await {
            Ok(message) => message,
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                return nothing(StreamHead::default());
            }
            Err(error) => return Err(failed(error)),
        };
        let sequence = message.sequence;
        let last = match self.stored(&message)? {
            Some(last) => Some(last),
            None => self.last_before(&topic, sequence).await?,
        };
        let Some(last) = last else { return nothing(StreamHead { sequence, position: None }) };
        let reached = last_position(&last.batch);
        let (head, range) = (StreamHead { sequence, position: Some(reached) }, range(reached));
        if !range.has(&last) {
            return nothing(head);
        }
        if last.batch.first.offset <= range.after.offset + 1 {
            return Ok((head, Found::All(vec![last.batch])));
        }
        let first = self.locate(&topic, &range, last.sequence).await?;
        let reader = Reader::new(topic, range.after, first, message.payload.len());
        Ok((head, Found::From(Box::new(reader), last.sequence)))
    }

    /// The last batch before the message with this sequence number; that message, and those between the two, are
    /// another program's.
    async fn last_before(&self, topic: &TopicStream, sequence: u64) -> Result<Option<Stored>, Failure> {
        let oldest = topic.oldest().await?;
        let (mut end, mut step) = (sequence, STREAM_READ_MESSAGES as u64);
        while end > oldest {
            let first = end.saturating_sub(step).max(oldest);
            let reader = Reader::new(topic.clone(), Position::default(), first, 0);
            let last = reader.last_before(self, end).await?;
            if last.is_some() {
                return Ok(last);
            }
            (end, step) = (first, 2 * step);
        }
        Ok(None)
    }

    /// The sequence number from which on batches are of a range. The one with the number `last` is.
    async fn locate(&self, topic: &TopicStream, range: &Range, last: u64) -> Result<u64, Failure> {
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

/// Waits for a request, but not for long: messages that were lost on their way would be waited for for ever.
async fn in_time<T>(request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(STREAM_ANSWER_TIMEOUT, request).await.unwrap_or_else(|_| Err(failed("no answer in time")))
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
