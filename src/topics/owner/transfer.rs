//! The state of a shard's topics as records, for the owner shards of a process that takes over.
//!
//! A record is its type, its length, and its body; numbers are little-endian. A `Topic` is followed by the records of its
//! history, its keys and its members. Records arrive from another process: whatever is not well formed is refused, and costs
//! no more memory than its bytes.

use std::ops::Range;

use bytes::{Buf as _, BufMut as _};

use super::idempotency::Known;
use super::owned_topics::{ImportedTopic, OwnedTopicId, OwnedTopics};
use super::replay::{ENTRY_BYTES, KEPT_BYTES, Page, Replay, entries, is_members, members};
use crate::client::ClientId;
use crate::limits::{IDEMPOTENCY_WINDOW, KEY_BYTES_MAX, TRANSFER_PARTS_MAX};
use crate::message::{Position, Version, is_topic_name};
use crate::topic::TopicId;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

const TOPIC: u8 = 1;
const HISTORY: u8 = 2;
const LATEST: u8 = 3;
const KEY: u8 = 4;
const MEMBERS: u8 = 5;
const FORGOTTEN: u8 = 6;
/// The offset since which the latest message of each key is kept.
const KEYED_SINCE: u8 = 7;
/// What a topic is to other nodes of a cluster, which their owner table writes and reads.
const OF_NODE: u8 = 8;
/// The version of the latest publication.
const VERSION: u8 = 9;
/// Bytes before a record's body: its type and its length.
const HEAD_BYTES: usize = 1 + 4;

/// A record that is not well formed, or that no topic can be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ImportError {
    /// The bytes are not a record of this version.
    Malformed,
    /// There are more topics with subscribers than this process allows.
    TooManyTopics,
    /// The memory budget of this process does not suffice.
    OutOfMemory,
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ImportError::Malformed => "its state is malformed",
            ImportError::TooManyTopics => "it has more topics than `topics_max` of this one allows",
            ImportError::OutOfMemory => "its state exceeds `memory_budget_bytes` of this one",
        })
    }
}

impl std::error::Error for ImportError {}

echoring_proto::error_debug!(
    enum ImportError {
        Malformed,
        TooManyTopics,
        OutOfMemory,
    }
);

/// A record, or a piece of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    kind: u8,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the first record of `bytes`. `None` if there is no whole one.
    pub fn take(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [kind, length @ ..] = *head;
        let (body, rest) = rest.split_at_checked(u32::from_le_bytes(length) as usize)?;
        *bytes = rest;
        Some(Record { kind, body })
    }

    /// The name of the topic that begins with this record; `None` for a record of the topic before.
    pub fn topic(&self) -> Option<&'a str> {
        let name = match self.kind {
            TOPIC => TopicRecord::read(self.body)?.name,
            FORGOTTEN => forgotten(self.body)?.0,
            OF_NODE => of_node(self.body)?.0,
            _ => return None,
        };
        is_topic_name(name).then_some(name)
    }

    /// The name of a topic, and what it is to other nodes, if this is a record of [`append_of_node`].
    pub fn of_node(&self) -> Option<(&'a str, &'a [u8])> {
        of_node(self.body).filter(|(name, _)| self.kind == OF_NODE && is_topic_name(name))
    }

    /// Whether the record belongs to the topic before it.
    pub fn continues(&self) -> bool {
        !matches!(self.kind, TOPIC | FORGOTTEN | OF_NODE)
    }

    /// Appends the record.
    pub fn append(&self, bytes: &mut Vec<u8>) {
        append(bytes, self.kind, |bytes| bytes.extend_from_slice(self.body));
    }
}

/// Appends a record of what a topic is to other nodes. It comes behind those of all topics.
pub fn append_of_node(bytes: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    append(bytes, OF_NODE, |bytes| {
        bytes.put_u8(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
        write(bytes);
    });
}

fn append(bytes: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.put_u8(kind);
    let at = bytes.len();
    bytes.put_u32_le(0);
    write(bytes);
    let length = (bytes.len() - at - 4) as u32;
    bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// A topic without its messages.
#[derive(Debug)]
struct TopicRecord<'a> {
    old: OwnedTopicId,
    position: Position,
    keyed_since: u64,
    /// The shards of the other process that subscribe, with their ids of the topic.
    shards: Vec<(u16, TopicId)>,
    name: &'a str,
}

impl<'a> TopicRecord<'a> {
    fn read(mut body: &'a [u8]) -> Option<TopicRecord<'a>> {
        let body = &mut body;
        let old =
            OwnedTopicId { index: body.try_get_u32_le().ok()?, generation: body.try_get_u32_le().ok()? };
        let position = position(body)?;
        let keyed_since = body.try_get_u64_le().ok()?;
        let count = body.try_get_u16_le().ok()?;
        let mut shards = Vec::new();
        for _ in 0..count {
            let shard = body.try_get_u16_le().ok()?;
            let (index, generation) = (body.try_get_u32_le().ok()?, body.try_get_u32_le().ok()?);
            shards.push((shard, TopicId { index, generation }));
        }
        Some(TopicRecord { old, position, keyed_since, shards, name: std::str::from_utf8(body).ok()? })
    }
}

/// The name and the position of a topic that no longer exists.
fn forgotten(mut body: &[u8]) -> Option<(&str, Position)> {
    let position = position(&mut body)?;
    Some((std::str::from_utf8(body).ok()?, position))
}

fn of_node(mut body: &[u8]) -> Option<(&str, &[u8])> {
    let name_bytes = body.try_get_u8().ok()?;
    let (name, rest) = body.split_at_checked(name_bytes.into())?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

/// An epoch that a topic may have, and an offset that can be counted on from.
fn position(body: &mut &[u8]) -> Option<Position> {
    let (epoch, offset) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    ((1..1 << 48).contains(&epoch) && offset < 1 << 53).then_some(Position { epoch, offset })
}

/// The output of [`OwnedTopics::export_state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exported {
    /// The latest message of each key.
    Latest,
    /// The idempotency keys too.
    LatestAndKeys,
}

/// How far an export is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCursor {
    /// Index of the topic, then of the forgotten position.
    index: usize,
    part: Part,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Topic,
    /// Messages of the history after this offset.
    History(u64),
    /// The latest messages of keys after this offset.
    Latest(u64),
    /// Idempotency keys from this one on, of clients or of the operator.
    Keys(bool, usize),
    /// Members after this one.
    Members(Option<ClientId>),
    Forgotten,
}

impl OwnedTopics {
    /// Appends records to `bytes` until there are about `bytes_max`, from `cursor` on. Returns the cursor of the rest; `None`
    /// at the end. Nothing may be published meanwhile.
    pub fn export(
        &mut self,
        cursor: ExportCursor,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
        bytes: &mut Vec<u8>,
    ) -> Option<ExportCursor> {
        let mut cursor = cursor;
        while bytes.len() < bytes_max {
            cursor = match cursor.part {
                Part::Forgotten => self.export_forgotten(cursor, bytes)?,
                _ => self.export_part(cursor, bytes_max, now, pool, bytes),
            };
        }
        Some(cursor)
    }

    /// The records of a topic besides its position and its messages, until there are about `bytes_max`.
    pub fn export_state(
        &mut self,
        id: OwnedTopicId,
        exported: Exported,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut cursor = ExportCursor { index: id.index as usize, part: Part::Latest(0) };
        let is_exported = |part| match part {
            Part::Latest(_) => true,
            Part::Keys(..) => exported == Exported::LatestAndKeys,
            _ => false,
        };
        if let Some(owned) = self.owned(id).filter(|owned| !owned.keyed.is_empty()) {
            append(&mut bytes, KEYED_SINCE, |bytes| bytes.put_u64_le(owned.keyed_since));
        }
        while bytes.len() < bytes_max && is_exported(cursor.part) {
            cursor = self.export_part(cursor, bytes_max, now, pool, &mut bytes);
        }
        if exported == Exported::LatestAndKeys {
            self.export_version(id, &mut bytes);
        }
        bytes
    }

    fn export_forgotten(&self, cursor: ExportCursor, bytes: &mut Vec<u8>) -> Option<ExportCursor> {
        let (name, position) = self.forgotten_position(cursor.index)?;
        append(bytes, FORGOTTEN, |bytes| {
            bytes.put_u64_le(position.epoch);
            bytes.put_u64_le(position.offset);
            bytes.extend_from_slice(name.as_bytes());
        });
        Some(ExportCursor { index: cursor.index + 1, ..cursor })
    }

    fn export_part(
        &mut self,
        cursor: ExportCursor,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
        bytes: &mut Vec<u8>,
    ) -> ExportCursor {
        let ExportCursor { index, part } = cursor;
        let next_topic = ExportCursor { index: index + 1, part: Part::Topic };
        if index >= self.slots() {
            return ExportCursor { index: 0, part: Part::Forgotten };
        }
        let Some(id) = self.id_at(index) else { return next_topic };
        let next = match part {
            Part::Topic => self.export_topic(id, bytes),
            Part::History(after) => {
                let page = self.history(id, Replay::After(after), bytes_max, now, pool);
                let next = page.map(|page| append_page(bytes, HISTORY, page));
                next.map(|reached| reached.map_or(Part::Latest(0), Part::History))
            }
            Part::Latest(after) => {
                let page = self.owned(id).map(|owned| owned.latest(after, bytes_max));
                let next = page.map(|page| append_page(bytes, LATEST, page));
                next.map(|reached| reached.map_or(Part::Keys(false, 0), Part::Latest))
            }
            Part::Keys(by_client, from) => self.export_keys(id, by_client, from, now, bytes),
            Part::Members(after) => self.export_members(id, after, bytes),
            Part::Forgotten => None,
        };
        next.map_or(next_topic, |part| ExportCursor { index, part })
    }

    fn export_topic(&mut self, id: OwnedTopicId, bytes: &mut Vec<u8>) -> Option<Part> {
        let owned = self.owned(id)?;
        append(bytes, TOPIC, |bytes| {
            bytes.put_u32_le(id.index);
            bytes.put_u32_le(id.generation);
            bytes.put_u64_le(owned.epoch);
            bytes.put_u64_le(owned.offset);
            bytes.put_u64_le(owned.keyed_since);
            bytes.put_u16_le(owned.shards.len() as u16);
            for (shard, local) in &owned.shards {
                bytes.put_u16_le(*shard as u16);
                bytes.put_u32_le(local.index);
                bytes.put_u32_le(local.generation);
            }
            bytes.extend_from_slice(owned.name.as_bytes());
        });
        let part = Part::History(owned.oldest_kept() - 1);
        self.export_version(id, bytes);
        Some(part)
    }

    fn export_version(&self, id: OwnedTopicId, bytes: &mut Vec<u8>) {
        append_some(bytes, VERSION, self.owned(id).map_or(&[], |owned| &owned.version));
    }

    fn export_keys(
        &mut self,
        id: OwnedTopicId,
        by_client: bool,
        from: usize,
        now: Nanos,
        bytes: &mut Vec<u8>,
    ) -> Option<Part> {
        let keys = self.owned(id)?.idempotent.as_ref().map(|keys| &keys[usize::from(by_client)]);
        let mut written = 0;
        for (key, known) in keys.into_iter().flat_map(|keys| keys.from(from)).take(TRANSFER_PARTS_MAX) {
            append(bytes, KEY, |bytes| {
                bytes.put_u8(u8::from(by_client));
                bytes.put_u64_le(known.offset);
                bytes.put_u64_le(known.digest);
                bytes.put_u64_le(now.saturating_sub(known.at));
                bytes.extend_from_slice(key.as_bytes());
            });
            written += 1;
        }
        match (written == TRANSFER_PARTS_MAX, by_client) {
            (true, _) => Some(Part::Keys(by_client, from + written)),
            (false, false) => Some(Part::Keys(true, 0)),
            (false, true) => Some(Part::Members(None)),
        }
    }

    fn export_members(
        &mut self,
        id: OwnedTopicId,
        after: Option<ClientId>,
        bytes: &mut Vec<u8>,
    ) -> Option<Part> {
        let mut page = Vec::new();
        let members = self.members(id, after, TRANSFER_PARTS_MAX, usize::MAX, &mut page)?;
        append_some(bytes, MEMBERS, &page);
        members.next.map(|next| Part::Members(Some(next)))
    }
}

/// Appends a record, unless it is empty.
fn append_some(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    if !body.is_empty() {
        Record { kind, body }.append(bytes);
    }
}

/// Appends a page of messages. Returns the offset that was reached, if more messages follow.
fn append_page(bytes: &mut Vec<u8>, kind: u8, (told, page): (Page, Vec<u8>)) -> Option<u64> {
    append_some(bytes, kind, &page);
    entries(&page).last().map(|(offset, _)| offset).filter(|_| !told.complete)
}

/// Imports records into the topics of a shard.
#[derive(Debug, Default)]
pub struct Importer {
    topic: Option<OwnedTopicId>,
    /// The node whose clients the other process has, in their ids.
    node: u64,
}

impl Importer {
    /// For a process that continues this node of a cluster.
    pub fn of_node(node: u64) -> Importer {
        Importer { node, ..Importer::default() }
    }

    /// Imports one record. The shards of the other process get the numbers `shards`.
    /// Returns the old id of a topic, which has its new id from now on.
    ///
    /// # Errors
    /// The topics are as far as they were imported; they must not be used.
    pub fn import(
        &mut self,
        topics: &mut OwnedTopics,
        record: Record<'_>,
        shards: Range<usize>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<Option<(OwnedTopicId, OwnedTopicId)>, ImportError> {
        let body = record.body;
        match record.kind {
            TOPIC => {
                let topic = TopicRecord::read(body).filter(|_| record.topic().is_some());
                let TopicRecord { old, position, keyed_since, shards: subscribed, name } =
                    topic.ok_or(ImportError::Malformed)?;
                let numbered = |(shard, local)| {
                    let shard = shards.start + usize::from(shard);
                    shards.contains(&shard).then_some((shard, local))
                };
                let shards: Option<Vec<_>> = subscribed.into_iter().map(numbered).collect();
                let shards =
                    shards.filter(|_| keyed_since <= position.offset).ok_or(ImportError::Malformed)?;
                let start = ImportedTopic { position, keyed_since, shards };
                let id = topics.import_topic(name, start, now, pool)?;
                self.topic = Some(id);
                Ok(Some((old, id)))
            }
            FORGOTTEN => {
                self.topic = None;
                let forgotten = forgotten(body).filter(|_| record.topic().is_some());
                let (name, position) = forgotten.ok_or(ImportError::Malformed)?;
                topics.import_forgotten(name, position, now, pool);
                Ok(None)
            }
            _ => self.import_part(topics, record, now, pool).map(|()| None),
        }
    }

    /// Imports records of [`export_state`](OwnedTopics::export_state) into a topic that has its messages.
    ///
    /// # Errors
    /// The topic is as far as it was imported.
    pub fn import_state(
        topics: &mut OwnedTopics,
        id: OwnedTopicId,
        mut bytes: &[u8],
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        let mut importer = Importer { topic: Some(id), ..Importer::default() };
        while !bytes.is_empty() {
            let record = Record::take(&mut bytes).ok_or(ImportError::Malformed)?;
            match (record.kind, record.body.try_into()) {
                (KEYED_SINCE, Ok(since)) => topics.import_keyed_since(id, u64::from_le_bytes(since))?,
                (LATEST | KEY | VERSION, _) => importer.import_part(topics, record, now, pool)?,
                _ => return Err(ImportError::Malformed),
            }
        }
        Ok(())
    }

    /// Imports a part of the topic before.
    fn import_part(
        &mut self,
        topics: &mut OwnedTopics,
        record: Record<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        let id = self.topic.ok_or(ImportError::Malformed)?;
        let body = record.body;
        match record.kind {
            HISTORY | LATEST if !are_whole(body) => Err(ImportError::Malformed),
            HISTORY => entries(body).try_for_each(|(offset, publication)| {
                topics.import_message(id, offset, &publication, now, pool)
            }),
            LATEST => entries(body)
                .try_for_each(|(offset, publication)| topics.import_latest(id, offset, &publication, pool)),
            KEY => {
                let (by_client, key, known) = key(body, now).ok_or(ImportError::Malformed)?;
                topics.import_key(id, by_client, key, known, pool)
            }
            VERSION => {
                let version = Version::split(body).filter(|(_, rest)| rest.is_empty());
                let (version, _) = version.ok_or(ImportError::Malformed)?;
                topics.import_version(id, version);
                Ok(())
            }
            MEMBERS if is_members(body) => {
                topics.import_members(id, members(body), self.node, pool);
                Ok(())
            }
            _ => Err(ImportError::Malformed),
        }
    }
}

/// Whether the bytes are entries and nothing else.
fn are_whole(body: &[u8]) -> bool {
    let bytes = entries(body).map(|(_, publication)| ENTRY_BYTES + KEPT_BYTES + publication.bytes());
    bytes.sum::<usize>() == body.len()
}

fn key(mut body: &[u8], now: Nanos) -> Option<(bool, &str, Known)> {
    let by_client = match body.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (offset, digest) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    let age = body.try_get_u64_le().ok()?;
    let key = std::str::from_utf8(body).ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))?;
    let at = now.saturating_sub(age.min(IDEMPOTENCY_WINDOW));
    Some((by_client, key, Known { offset, digest, at }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IDEMPOTENCY_KEYS_PER_TOPIC_MAX;
    use crate::owner::owned_topics::Accepted;
    use crate::tests::submitted;
    use crate::{
        Content, Creator, HistoryBounds, Keeping, Publication, Refused, Rules, SlowConsumerPolicy,
        Submission, Tags, TopicSettings,
    };
    use echoring_proto::buffer::{Budget, Lease};
    use echoring_proto::limits::SECOND;

    const NOW: Nanos = 1_000 * SECOND;
    const LOCAL: TopicId = TopicId { index: 7, generation: 3 };

    fn topics(seed: u64, slow: SlowConsumerPolicy, topics_max: u64) -> OwnedTopics {
        let settings = TopicSettings { slow, ..TopicSettings::default() };
        let lease = Lease::new(Budget::new(topics_max), 1);
        OwnedTopics::new(Rules::new(Vec::new(), settings), lease, seed).with_digest_seed(9)
    }

    fn text<'a>(key: &'a str, payload: &'a str) -> Publication<'a> {
        Publication::new(Content::Text, key, payload.as_bytes())
    }

    /// Exports in blocks of about this size, and imports each into the new topics.
    fn transfer(
        from: &mut OwnedTopics,
        to: &mut OwnedTopics,
        block_bytes: usize,
        pool: &mut Pool,
    ) -> Result<Vec<(OwnedTopicId, OwnedTopicId)>, ImportError> {
        let (mut cursor, mut importer, mut moved) =
            (Some(ExportCursor::default()), Importer::default(), Vec::new());
        while let Some(next) = cursor {
            let mut block = Vec::new();
            cursor = from.export(next, block_bytes, NOW, pool, &mut block);
            let mut records = &block[..];
            while !records.is_empty() {
                let record = Record::take(&mut records).expect("a record");
                moved.extend(importer.import(to, record, 10..13, NOW + SECOND, pool)?);
            }
        }
        to.finish_import(NOW + SECOND, pool);
        Ok(moved)
    }

    fn history(
        topics: &mut OwnedTopics,
        id: OwnedTopicId,
        pool: &mut Pool,
    ) -> (Position, Vec<(u64, String)>) {
        let (page, bytes) = topics.history(id, Replay::After(0), 1 << 20, NOW, pool).expect("known");
        let texts = entries(&bytes).map(|(offset, publication)| {
            (offset, format!("{}={}", publication.key, String::from_utf8_lossy(publication.payload)))
        });
        (page.head, texts.collect())
    }

    #[test]
    fn a_topic_goes_on_where_it_was() {
        for block_bytes in [1, 1_000, 1 << 20] {
            let mut pool = Pool::standalone();
            let mut from = topics(1, SlowConsumerPolicy::DropOldest, 100);
            let subscribed = from.subscribe("t", Creator::NOBODY, 2, LOCAL, &mut pool).expect("room");
            let idle = from.find_or_create("idle", Creator::NOBODY, NOW, &mut pool).expect("room");
            for number in 0..150 {
                let (key, payload) = (format!("k{number}"), number.to_string());
                let published = from.publish_once(
                    subscribed.id,
                    &submitted(text("", &payload), &key, true),
                    NOW,
                    &mut pool,
                );
                assert!(matches!(published, Ok(Accepted::New(..))));
            }
            from.presence(subscribed.id, ClientId::local(5), Some("ü@example"));
            let mut to = topics(2, SlowConsumerPolicy::DropOldest, 100);
            let moved = transfer(&mut from, &mut to, block_bytes, &mut pool).expect("well formed");
            let find = |old| moved.iter().find(|(from, _)| *from == old).expect("moved").1;
            let id = find(subscribed.id);
            assert_eq!(history(&mut to, id, &mut pool), history(&mut from, subscribed.id, &mut pool));
            assert_eq!(history(&mut to, find(idle), &mut pool).0, history(&mut from, idle, &mut pool).0);
            let mut page = Vec::new();
            assert_eq!(to.members(id, None, 10, 1_000, &mut page).expect("known").count, 1);
            assert_eq!(members(&page).collect::<Vec<_>>(), [(ClientId::local(5), "ü@example")]);
            // A retry is known, another message with its key is refused, and the next one gets the next offset.
            let again = to.publish_once(id, &submitted(text("", "7"), "k7", true), NOW + SECOND, &mut pool);
            assert!(matches!(again, Ok(Accepted::Again(Position { offset: 8, .. }))), "{again:?}");
            let reused = to.publish_once(id, &submitted(text("", "8"), "k7", true), NOW + SECOND, &mut pool);
            assert_eq!(reused, Err(Refused::KeyReused));
            let (position, shards) =
                to.publish(id, &text("", "next"), true, NOW + SECOND, &mut pool).expect("accepted");
            assert_eq!((position.offset, shards), (151, &[(12, LOCAL)][..]));
            to.forget_shards(10, NOW);
            assert_eq!(to.publish(id, &text("", "x"), true, NOW, &mut pool).expect("accepted").1, &[]);
            to.release_all(&mut pool);
            from.release_all(&mut pool);
            assert_eq!(pool.used_bytes(), 0);
        }
    }

    #[test]
    fn tags_marks_and_the_latest_version_move_too() {
        let tags = Tags::encode([("a", "1")].into_iter()).expect("short");
        let versions = [3, 4].map(|number| Version::encode(number, "e").expect("short"));
        let version = |at: usize| Version::new(&versions[at]);
        let tagged = Publication { tags: Tags::new(&tags), ..text("", "x") };
        let published = |topics: &mut OwnedTopics, id, publication, version, pool: &mut Pool| {
            let submission = Submission { version, ..submitted(publication, "", false) };
            matches!(topics.publish_once(id, &submission, NOW, pool), Ok(Accepted::New(..)))
        };
        let mut pool = Pool::standalone();
        let mut from = topics(1, SlowConsumerPolicy::DropOldest, 10);
        let id = from.find_or_create("t", Creator::NOBODY, NOW, &mut pool).expect("room");
        assert!(published(&mut from, id, tagged, version(0), &mut pool));
        let skipped = Publication { keeping: Keeping::Skipped, ..tagged };
        assert!(published(&mut from, id, skipped, Version::NONE, &mut pool));
        let state = from.export_state(id, Exported::LatestAndKeys, usize::MAX, NOW, &mut pool);
        let mut to = topics(2, SlowConsumerPolicy::DropOldest, 10);
        let id = transfer(&mut from, &mut to, 1, &mut pool).expect("well formed")[0].1;
        let (_, page) = to.history(id, Replay::After(0), 1 << 20, NOW, &mut pool).expect("known");
        let all: Vec<_> = entries(&page).map(|(_, message)| message).collect();
        let omitted = Publication { keeping: Keeping::Omitted, ..Publication::new(Content::Binary, "", b"") };
        assert_eq!(all, [tagged, omitted]);
        assert!(!published(&mut to, id, tagged, version(0), &mut pool), "an old version");
        assert!(published(&mut to, id, tagged, version(1), &mut pool));
        to.restart("t", None, NOW, &mut pool).expect("room");
        Importer::import_state(&mut to, id, &state, NOW, &mut pool).expect("well formed");
        assert!(!published(&mut to, id, tagged, version(0), &mut pool), "an old version");
    }

    #[test]
    fn the_latest_messages_of_keys_and_forgotten_positions_move_too() {
        let mut pool = Pool::standalone();
        let mut from = topics(1, SlowConsumerPolicy::Conflate, 2);
        let id = from.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).expect("room").id;
        for number in 0..300 {
            let key = format!("k{}", number % 200);
            from.publish(id, &text(&key, &number.to_string()), true, NOW, &mut pool).expect("accepted");
        }
        // The second one is forgotten for the third.
        let forgotten = from.find_or_create("forgotten", Creator::NOBODY, NOW, &mut pool).expect("room");
        from.publish(forgotten, &text("k", "1"), true, NOW, &mut pool).expect("accepted");
        let position = history(&mut from, forgotten, &mut pool).0;
        from.find_or_create("third", Creator::NOBODY, NOW, &mut pool).expect("room");
        let mut to = topics(2, SlowConsumerPolicy::Conflate, 10);
        let moved = transfer(&mut from, &mut to, 500, &mut pool).expect("well formed");
        let [before, after] = [(&mut from, id), (&mut to, moved[0].1)].map(|(topics, id)| {
            let page = topics.history(id, Replay::Newcomer, 1 << 20, NOW, &mut pool).expect("known");
            assert_eq!((page.0.messages, page.0.conflated), (200, true));
            page.1
        });
        assert_eq!(before, after);
        let again = to.find_or_create("forgotten", Creator::NOBODY, NOW, &mut pool).expect("room");
        assert_eq!(history(&mut to, again, &mut pool).0, position);
    }

    #[test]
    fn the_state_of_one_topic_moves_beside_its_messages() {
        for exported in [Exported::Latest, Exported::LatestAndKeys] {
            let mut pool = Pool::standalone();
            let mut from = topics(1, SlowConsumerPolicy::Conflate, 2);
            let id = from.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).expect("room").id;
            for number in 0..6 {
                let key = format!("k{}", number % 3);
                let number = number.to_string();
                from.publish_once(id, &submitted(text(&key, &number), &number, true), NOW, &mut pool)
                    .expect("accepted");
            }
            let head = from.position("t").expect("it exists");
            let bytes = from.export_state(id, exported, usize::MAX, NOW, &mut pool);
            let mut to = topics(2, SlowConsumerPolicy::Conflate, 2);
            to.restart("t", Some(head), NOW, &mut pool).expect("room");
            let id = to.find("t").expect("it exists");
            Importer::import_state(&mut to, id, &bytes, NOW, &mut pool).expect("well formed");
            let (told, _) = to.history(id, Replay::Newcomer, 1 << 20, NOW, &mut pool).expect("known");
            assert_eq!((told.head, told.messages, told.conflated), (head, 3, true));
            let again = to.publish_once(id, &submitted(text("k0", "3"), "3", true), NOW, &mut pool);
            let is_known = matches!(again, Ok(Accepted::Again(Position { offset: 4, .. })));
            assert_eq!(is_known, exported == Exported::LatestAndKeys, "{again:?}");
            for end in 0..bytes.len() {
                to.restart("t", Some(head), NOW, &mut pool).expect("room");
                // Whatever was cut off, nothing else happens.
                let _ = Importer::import_state(&mut to, id, &bytes[..end], NOW, &mut pool);
            }
        }
    }

    #[test]
    fn topics_that_other_nodes_follow_are_not_forgotten_in_a_takeover() {
        let mut pool = Pool::standalone();
        let mut from = topics(1, SlowConsumerPolicy::DropOldest, 10);
        for name in ["held", "idle"] {
            from.find_or_create(name, Creator::NOBODY, NOW, &mut pool).expect("room");
        }
        from.subscribe("left", Creator::NOBODY, 2, LOCAL, &mut pool).expect("room");
        let (mut block, mut importer) = (Vec::new(), Importer::default());
        from.export(ExportCursor::default(), usize::MAX, NOW, &mut pool, &mut block);
        let history = HistoryBounds { messages: 0, ..HistoryBounds::default() };
        let settings = TopicSettings { history, ..TopicSettings::default() };
        let mut to = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(10), 1), 2);
        let mut records = &block[..];
        while let Some(record) = Record::take(&mut records) {
            importer.import(&mut to, record, 10..13, NOW, &mut pool).expect("well formed");
            to.expire(NOW + 100 * SECOND, &mut pool);
        }
        let known = |to: &OwnedTopics| ["held", "left", "idle"].map(|name| to.find(name).is_some());
        assert_eq!(known(&to), [true; 3]);
        ["held", "left"].iter().for_each(|name| to.hold(name, true, NOW));
        to.finish_import(NOW + 200 * SECOND, &mut pool);
        to.forget_shards(10, NOW + 201 * SECOND);
        to.expire(NOW + 300 * SECOND, &mut pool);
        assert_eq!(known(&to), [true, true, false]);
    }

    #[test]
    fn what_there_is_no_room_for_is_an_error() {
        let mut pool = Pool::standalone();
        let mut from = topics(1, SlowConsumerPolicy::DropOldest, 10);
        for name in ["a", "b", "c"] {
            from.subscribe(name, Creator::NOBODY, 0, LOCAL, &mut pool).expect("room");
        }
        let mut to = topics(2, SlowConsumerPolicy::DropOldest, 2);
        assert_eq!(transfer(&mut from, &mut to, 1_000, &mut pool), Err(ImportError::TooManyTopics));
    }

    #[test]
    fn more_keys_than_a_block_holds_move_in_order() {
        let mut pool = Pool::standalone();
        let mut from = topics(1, SlowConsumerPolicy::DropOldest, 10);
        let id = from.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).expect("room").id;
        let count = IDEMPOTENCY_KEYS_PER_TOPIC_MAX.min(3 * TRANSFER_PARTS_MAX + 1);
        for number in 0..count {
            let at = NOW - (count - number) as u64;
            from.publish_once(id, &submitted(text("", "x"), &number.to_string(), false), at, &mut pool)
                .expect("accepted");
        }
        let mut to = topics(2, SlowConsumerPolicy::DropOldest, 10);
        let moved = transfer(&mut from, &mut to, 1_000, &mut pool).expect("well formed");
        for number in [0, 1, TRANSFER_PARTS_MAX, count - 1] {
            let key = number.to_string();
            let again = to.publish_once(moved[0].1, &submitted(text("", "x"), &key, false), NOW, &mut pool);
            assert!(
                matches!(again, Ok(Accepted::Again(Position { offset, .. })) if offset == number as u64 + 1)
            );
        }
    }

    #[test]
    fn records_that_are_not_well_formed_are_refused() {
        let record = |kind: u8, body: &[u8]| {
            let mut bytes = Vec::new();
            append(&mut bytes, kind, |bytes| bytes.extend_from_slice(body));
            bytes
        };
        let topic = |epoch: u64, offset: u64, shard: u16, name: &str| {
            let mut body = vec![0; 8];
            body.put_u64_le(epoch);
            body.put_u64_le(offset);
            body.put_u64_le(0);
            body.put_u16_le(1);
            body.put_u16_le(shard);
            body.put_slice(&[0; 8]);
            body.put_slice(name.as_bytes());
            record(TOPIC, &body)
        };
        let good = topic(1, 5, 2, "t");
        for bytes in [
            record(0, &[]),
            record(HISTORY, &[]),
            topic(0, 5, 2, "t"),
            topic(1 << 48, 5, 2, "t"),
            topic(1, 1 << 53, 2, "t"),
            topic(1, 5, 3, "t"),
            topic(1, 5, 2, ""),
            topic(1, 5, 2, "a\nb"),
            [&good[..], &good].concat(),
            [&good[..], &record(HISTORY, &[1])].concat(),
            [
                &good[..],
                &record(HISTORY, &[&2_u32.to_le_bytes()[..], &6_u64.to_le_bytes(), &[0, 0]].concat()),
            ]
            .concat(),
            [&good[..], &record(KEY, &[2])].concat(),
            [&good[..], &record(MEMBERS, &[1])].concat(),
        ] {
            let (mut pool, mut importer) = (Pool::standalone(), Importer::default());
            let mut topics = topics(1, SlowConsumerPolicy::DropOldest, 10);
            let mut records = &bytes[..];
            let mut imported = Ok(None);
            while let Some(record) = Record::take(&mut records).filter(|_| imported.is_ok()) {
                imported = importer.import(&mut topics, record, 10..13, NOW, &mut pool);
            }
            assert_eq!(imported, Err(ImportError::Malformed), "{bytes:?}");
        }
        for end in 0..good.len() {
            assert!(Record::take(&mut &good[..end]).is_none());
        }
    }
}
