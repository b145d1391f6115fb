//! The state of a shard's topics as records, for the owner shards of a process that takes over.
//!
//! A `Topic` is followed by the records of its history, its keys and its members. Records arrive from another process: whatever is not well formed is refused, and costs
//! no more memory than its bytes.

use std::ops::Range;

use super::idempotency::Known;
use super::owned_topics::{ImportedTopic, OwnedTopicId, OwnedTopics};
use super::replay::{ENTRY_BYTES, KEPT_BYTES, Page, Replay, entries, is_members, members};
use crate::client::ClientId;
use crate::limits::{IDEMPOTENCY_WINDOW, KEY_BYTES_MAX, TRANSFER_PARTS_MAX};
use crate::message::{Position, Version, is_topic_name};
use crate::topic::TopicId;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_proto::{Plain as _, plain};

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
            ImportError::TooManyTopics => "it has more topics than `max_topics` of this one allows",
            ImportError::OutOfMemory => "its state exceeds `memory_budget` of this one",
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

/// A topic, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a>(Content<'a>);

plain!(for Record<'a>(content));

plain! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Content<'a> {
        /// A topic without its messages.
        Topic(TopicRecord<'a>),
        History(&'a [u8]),
        /// The latest message of each key.
        Latest(&'a [u8]),
        Key(KeyRecord<'a>),
        Members(&'a [u8]),
        /// The position of a topic that no longer exists.
        Forgotten { position: Position, name: &'a str },
        /// The offset since which the latest message of each key is kept.
        KeyedSince(u64),
        /// What a topic is to other nodes of a cluster, which their owner table writes and reads.
        OfNode { name: &'a str, state: &'a [u8] },
        /// The version of the latest publication.
        Version(&'a [u8]),
    } where |content| {
        let position = match content {
            Content::Topic(TopicRecord { position, .. }) | Content::Forgotten { position, .. } => Some(position),
            _ => None,
        };
        content.topic().is_none_or(is_topic_name) && position.is_none_or(is_countable)
    }
}

plain! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct TopicRecord<'a> {
        old: OwnedTopicId,
        position: Position,
        keyed_since: u64,
        /// The shards of the other process that subscribe, with their ids of the topic.
        shards: Vec<(u16, TopicId)>,
        name: &'a str,
    }
}

plain! {
    /// An idempotency key, of a client or of the operator.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct KeyRecord<'a> {
        by_client: bool,
        offset: u64,
        digest: u64,
        age: Nanos,
        key: &'a str where |key| (1..=KEY_BYTES_MAX).contains(&key.len()),
    }
}

/// Whether it has an epoch that a topic may have, and an offset that can be counted on from.
fn is_countable(position: &Position) -> bool {
    (1..1 << 48).contains(&position.epoch) && position.offset < 1 << 53
}

impl<'a> Content<'a> {
    /// The name of the topic that begins here; `None` for a piece of the topic before.
    fn topic(&self) -> Option<&'a str> {
        match *self {
            Content::Topic(TopicRecord { name, .. })
            | Content::Forgotten { name, .. }
            | Content::OfNode { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl<'a> Record<'a> {
    /// What a topic is to other nodes. It comes behind the records of all topics.
    pub fn of_node(name: &'a str, state: &'a [u8]) -> Record<'a> {
        Record(Content::OfNode { name, state })
    }

    /// The name of the topic that begins with this record; `None` for a record of the topic before.
    pub fn topic(&self) -> Option<&'a str> {
        self.0.topic()
    }

    /// The name of a topic, and what it is to other nodes, if this is a record of [`of_node`](Record::of_node).
    pub fn to_nodes(&self) -> Option<(&'a str, &'a [u8])> {
        if let Content::OfNode { name, state } = self.0 { Some((name, state)) } else { None }
    }
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
            Content::KeyedSince(owned.keyed_since).put(&mut bytes);
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
        Content::Forgotten { position, name }.put(bytes);
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
                let page = self.history(id, Replay::Continued(after), bytes_max, now, pool);
                let next = page.map(|page| append_page(bytes, Content::History, &page));
                next.map(|reached| reached.map_or(Part::Latest(0), Part::History))
            }
            Part::Latest(after) => {
                let page = self.owned(id).map(|owned| owned.latest(after, bytes_max));
                let next = page.map(|page| append_page(bytes, Content::Latest, &page));
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
        let topic = TopicRecord {
            old: id,
            position: Position { epoch: owned.epoch, offset: owned.offset },
            keyed_since: owned.keyed_since,
            shards: owned.shards.iter().map(|(shard, local)| (*shard as u16, *local)).collect(),
            name: &owned.name,
        };
        Content::Topic(topic).put(bytes);
        let part = Part::History(owned.oldest_kept() - 1);
        self.export_version(id, bytes);
        Some(part)
    }

    fn export_version(&self, id: OwnedTopicId, bytes: &mut Vec<u8>) {
        append_some(bytes, Content::Version, self.owned(id).map_or(&[], |owned| &owned.version));
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
            let Known { offset, digest, at } = known;
            Content::Key(KeyRecord { by_client, offset, digest, age: now.saturating_sub(at), key })
                .put(bytes);
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
        append_some(bytes, Content::Members, &page);
        members.next.map(|next| Part::Members(Some(next)))
    }
}

/// Appends a record, unless it is empty.
fn append_some<'a>(bytes: &mut Vec<u8>, content: impl FnOnce(&'a [u8]) -> Content<'a>, body: &'a [u8]) {
    if !body.is_empty() {
        content(body).put(bytes);
    }
}

/// Appends a page of messages. Returns the offset that was reached, if more messages follow.
fn append_page<'a>(
    bytes: &mut Vec<u8>,
    content: impl FnOnce(&'a [u8]) -> Content<'a>,
    (told, page): &'a (Page, Vec<u8>),
) -> Option<u64> {
    append_some(bytes, content, page);
    entries(page).last().map(|(offset, _)| offset).filter(|_| !told.complete)
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
        match record.0 {
            Content::Topic(TopicRecord { old, position, keyed_since, shards: subscribed, name }) => {
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
            Content::Forgotten { position, name } => {
                self.topic = None;
                topics.import_forgotten(name, position, now, pool);
                Ok(None)
            }
            part => self.import_part(topics, &part, now, pool).map(|()| None),
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
            match Content::take(&mut bytes).ok_or(ImportError::Malformed)? {
                Content::KeyedSince(since) => topics.import_keyed_since(id, since)?,
                part @ (Content::Latest(_) | Content::Key(_) | Content::Version(_)) => {
                    importer.import_part(topics, &part, now, pool)?;
                }
                _ => return Err(ImportError::Malformed),
            }
        }
        Ok(())
    }

    /// Imports a part of the topic before.
    fn import_part(
        &mut self,
        topics: &mut OwnedTopics,
        part: &Content<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        let id = self.topic.ok_or(ImportError::Malformed)?;
        match *part {
            Content::History(page) if are_whole(page) => {
                entries(page).try_for_each(|(offset, publication)| {
                    topics.import_message(id, offset, &publication, now, pool)
                })
            }
            Content::Latest(page) if are_whole(page) => entries(page)
                .try_for_each(|(offset, publication)| topics.import_latest(id, offset, &publication, pool)),
            Content::Key(KeyRecord { by_client, offset, digest, age, key }) => {
                let at = now.saturating_sub(age.min(IDEMPOTENCY_WINDOW));
                topics.import_key(id, by_client, key, Known { offset, digest, at }, pool)
            }
            Content::Version(version) => {
                let version = Version::split(version).filter(|(_, rest)| rest.is_empty());
                let (version, _) = version.ok_or(ImportError::Malformed)?;
                topics.import_version(id, version);
                Ok(())
            }
            Content::Members(page) if is_members(page) => {
                topics.import_members(id, members(page), self.node, pool);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IDEMPOTENCY_KEYS_PER_TOPIC_MAX;
    use crate::owner::owned_topics::Accepted;
    use crate::tests::submitted;
    use crate::{
        Creator, HistoryBounds, Keeping, Publication, Refused, Rules, SlowConsumerPolicy, Submission, Tags,
        TopicSettings,
    };
    use echoring_proto::buffer::{Budget, Lease};
    use echoring_proto::limits::SECOND;

    const NOW: Nanos = 1_000 * SECOND;
    const LOCAL: TopicId = TopicId { index: 7, generation: 3 };

    fn topics(seed: u64, slow: SlowConsumerPolicy, max_topics: u64) -> OwnedTopics {
        let settings = TopicSettings { slow, ..TopicSettings::default() };
        let lease = Lease::new(Budget::new(max_topics), 1);
        OwnedTopics::new(Rules::new(Vec::new(), settings), lease, seed).with_digest_seed(9)
    }

    fn text<'a>(key: &'a str, payload: &'a str) -> Publication<'a> {
        Publication::new(crate::Content::Text, key, payload.as_bytes())
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
        let omitted =
            Publication { keeping: Keeping::Omitted, ..Publication::new(crate::Content::Binary, "", b"") };
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
        let topic = |epoch: u64, offset: u64, shard: u16, name: &str| {
            let topic = TopicRecord {
                old: OwnedTopicId { index: 0, generation: 0 },
                position: Position { epoch, offset },
                keyed_since: 0,
                shards: vec![(shard, LOCAL)],
                name,
            };
            Content::Topic(topic).encode()
        };
        let good = topic(1, 5, 2, "t");
        for bytes in [
            vec![9],
            Content::History(&[]).encode(),
            topic(0, 5, 2, "t"),
            topic(1 << 48, 5, 2, "t"),
            topic(1, 1 << 53, 2, "t"),
            topic(1, 5, 3, "t"),
            topic(1, 5, 2, ""),
            topic(1, 5, 2, "a\nb"),
            [&good[..], &good].concat(),
            [&good[..], &Content::History(&[1]).encode()].concat(),
            [
                &good[..],
                &Content::History(&[&2_u32.to_le_bytes()[..], &6_u64.to_le_bytes(), &[0, 0]].concat())
                    .encode(),
            ]
            .concat(),
            [&good[..], &[3, 2]].concat(),
            [&good[..], &Content::Members(&[1]).encode()].concat(),
        ] {
            let (mut pool, mut importer) = (Pool::standalone(), Importer::default());
            let mut topics = topics(1, SlowConsumerPolicy::DropOldest, 10);
            let mut records = &bytes[..];
            let mut imported = Ok(None);
            while !records.is_empty() && imported.is_ok() {
                let record = Record::take(&mut records).ok_or(ImportError::Malformed);
                imported =
                    record.and_then(|record| importer.import(&mut topics, record, 10..13, NOW, &mut pool));
            }
            assert_eq!(imported, Err(ImportError::Malformed), "{bytes:?}");
        }
        for end in 0..good.len() {
            assert!(Record::take(&mut &good[..end]).is_none());
        }
    }
}
