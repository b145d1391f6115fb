//! The topics of a shard, whose subscribers are numbers, and the owned topics beside them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    AcceptedMessage, Base, CodecId, Compression, Content, DEFAULT_PATTERN, Deltas, Encode, Encoding, Format,
    Gap, GapReason, HistoryBounds, Keyed, LogMemory, Origin, OwnedTopics, Parts, PatternCounts, Publication,
    Rules, SentLatest, Sink, SlowConsumerPolicy, Submission, SubscriberId, Tags, TopicId, TopicSettings,
    Topics,
};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::Codecs;
use echoring_proto::deflate::Deflater;
use echoring_proto::limits::Nanos;

/// A send that the kernel has not taken all of: what is unsent of its pieces, with their tags.
type Unfinished = Vec<(u64, Vec<u8>)>;

/// Subscribers by number. Those in `stuck` are not writable; those in `refusing` seem to be, and refuse each send.
pub(super) struct Peers {
    pub(super) got: BTreeMap<u32, Vec<u8>>,
    pub(super) unfinished: BTreeMap<u32, Unfinished>,
    /// Subscribers with a partial send that is not reported yet.
    pub(super) fresh: Vec<u32>,
    /// Bytes of a subscriber's next send that the kernel takes, once.
    pub(super) short: BTreeMap<u32, usize>,
    pub(super) stuck: Vec<u32>,
    pub(super) refusing: Vec<u32>,
    pub(super) refusals: usize,
    pub(super) fell: Vec<u32>,
    pub(super) moved: Vec<(u32, SubscriberId, SubscriberId)>,
    pub(super) pool: Pool,
}

impl Sink<u32> for Peers {
    fn is_writable(&self, key: u32) -> bool {
        // A partial send is reported in the next tick.
        let blocked = self.unfinished.contains_key(&key) && !self.fresh.contains(&key);
        !self.stuck.contains(&key) && !blocked
    }
    fn send(&mut self, key: u32, frames: Bytes, _: u32, tag: u64) -> Result<(), Bytes> {
        if self.refusing.contains(&key) {
            self.refusals += 1;
            return Err(frames);
        }
        if let Some(unfinished) = self.unfinished.get_mut(&key) {
            // It leaves with the earlier sends of this tick.
            unfinished.push((tag, frames.to_vec()));
            return Ok(());
        }
        let got = self.got.entry(key).or_default();
        match self.short.remove(&key).filter(|taken| *taken < frames.len()) {
            Some(taken) => {
                got.extend_from_slice(&frames[..taken]);
                self.unfinished.insert(key, vec![(tag, frames[taken..].to_vec())]);
                self.fresh.push(key);
            }
            None => got.extend_from_slice(&frames),
        }
        Ok(())
    }
    fn tell_gap(&mut self, key: u32, topic: &str, Gap { from, to, reason }: Gap) -> bool {
        let text = format!("<{topic}:{from}-{to} {reason:?}>");
        self.got.entry(key).or_default().extend_from_slice(text.as_bytes());
        true
    }
    fn tell_stale(&mut self, key: u32, _: SubscriberId, topic: &str) -> bool {
        self.got.entry(key).or_default().extend_from_slice(format!("<{topic}:stale>").as_bytes());
        true
    }
    fn send_latest(&mut self, key: u32, _: &str, latest: &Keyed, after: u64) -> Option<SentLatest> {
        let got = self.got.entry(key).or_default();
        let (mut reached, mut messages, before) = (after, 0, got.len());
        // Two at a time, so that some are left.
        for (offset, publication) in latest.after(after).take(2) {
            let text = format!("[{} +{}]", publication.key, offset - reached - 1);
            got.extend_from_slice(text.as_bytes());
            got.extend_from_slice(publication.payload);
            (reached, messages) = (offset, messages + 1);
        }
        Some(SentLatest { reached, messages, bytes: got.len() - before })
    }
    fn fell_behind(&mut self, key: u32, _: SubscriberId, _: u64, _: GapReason) {
        self.fell.push(key);
    }
    fn changed_id(&mut self, key: u32, from: SubscriberId, to: SubscriberId) {
        self.moved.push((key, from, to));
    }
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }
}

/// A message whose frame in a compressed format is the window's bits and its last byte, or what `codecs` make of it.
struct Message<'a> {
    codecs: Option<&'a mut Codecs>,
    /// Whether it is an event, which is never compressed.
    is_plain: bool,
    plain: &'a [u8],
    header: [u8; 1],
    asked: Vec<Format>,
    /// In front of its bytes in a format with deltas: the previous message, or that there is none.
    delta: Vec<u8>,
}

impl Message<'_> {
    fn new(plain: &[u8]) -> Message<'_> {
        Message { codecs: None, is_plain: false, plain, header: [0], asked: Vec::new(), delta: Vec::new() }
    }

    /// `Z` or `P`, the number of bytes, and the deflated or plain message.
    fn deflated(&mut self, compression: Compression, base: Base<'_>) -> Vec<u8> {
        let (plain, Some(codecs)) = (self.plain, self.codecs.as_deref_mut()) else { return Vec::new() };
        let deflated = compression.deflate(codecs, base.context, plain);
        deflated.map_or_else(|| framed(b'P', plain), |deflated| framed(b'Z', deflated))
    }
}

pub(super) fn framed(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

impl Encode for Message<'_> {
    fn frame(&mut self, _: &str, format: Format, base: Base<'_>) -> Parts<'_> {
        self.asked.push(format);
        if self.is_plain {
            return [self.plain, b"", b"", b""];
        }
        if self.codecs.is_some() {
            self.delta = self.deflated(format.compression, base);
            return [&self.delta, b"", b"", b""];
        }
        if format.dialect.deltas() != Deltas::Off {
            self.delta =
                base.previous.map_or(b"!".to_vec(), |previous| [b"<", previous.payload, b">"].concat());
            return [&self.delta, self.plain, b"", b""];
        }
        match format.compression.bits() {
            None => [self.plain, b"", b"", b""],
            Some(window_bits) => {
                self.header = [window_bits];
                [&self.header, &self.plain[self.plain.len() - 1..], b"", b""]
            }
        }
    }

    fn new_context(&mut self, bits: u8) -> Option<Box<Deflater>> {
        self.codecs.as_ref()?.new_context(bits)
    }
}

const LAG: Nanos = 1_000;
pub(super) const CODEC: CodecId = CodecId(0);
pub(super) const PLAIN: Format = Format { dialect: Encoding::Raw, compression: Compression::Off };
pub(super) const SMALL: Format =
    Format { dialect: Encoding::Raw, compression: Compression::Single { bits: 9 } };
pub(super) const LARGE: Format =
    Format { dialect: Encoding::Raw, compression: Compression::Single { bits: 15 } };
/// Of subscribers that get gap events and notices.
pub(super) const WITH_EVENTS: Format =
    Format { dialect: Encoding::WithEvents { codec: CODEC, presence: true }, compression: Compression::Off };

/// Of subscribers that are removed when they miss messages, and recover.
pub(super) const RESUMING: Format = Format {
    dialect: Encoding::Resuming { codec: CODEC, presence: true, deltas: Deltas::Off, filtered: false },
    compression: Compression::Off,
};

pub(super) fn settings(slow: SlowConsumerPolicy) -> TopicSettings {
    let history = HistoryBounds { messages: 4, bytes: 1_000, age: 500 };
    TopicSettings { slow, lag_bytes: 100, lag: LAG, history, ..TopicSettings::default() }
}

pub(super) fn owned(rules: &Rules) -> OwnedTopics {
    OwnedTopics::new(rules.clone(), Lease::new(Budget::new(2), 1), 7)
}

pub(super) fn owned_topics(slow: SlowConsumerPolicy) -> (OwnedTopics, Pool) {
    (owned(&Rules::new(Vec::new(), settings(slow))), Pool::standalone())
}

pub(super) fn json(payload: &[u8]) -> Publication<'_> {
    Publication::new(Content::Json, "", payload)
}

/// A publication with an idempotency key.
pub(crate) fn submitted<'a>(
    publication: Publication<'a>,
    idempotency_key: &'a str,
    by_client: bool,
) -> Submission<'a> {
    Submission { publication, idempotency_key, by_client, version: crate::Version::NONE }
}

pub(super) const LOCAL: TopicId = TopicId { index: 3, generation: 0 };

/// The topics of a shard, one of which is `id`, and their subscribers.
pub(super) struct World {
    pub(super) topics: Topics<u32>,
    pub(super) owned: OwnedTopics,
    pub(super) peers: Peers,
    pub(super) id: TopicId,
    pub(super) offset: u64,
    /// When messages are received.
    pub(super) now: Nanos,
    /// With which messages are compressed.
    pub(super) codecs: Option<Codecs>,
    /// The tags of messages.
    pub(super) tags: Box<[u8]>,
}

impl World {
    pub(super) fn new() -> World {
        World::with(Pool::standalone(), settings(SlowConsumerPolicy::Disconnect))
    }

    pub(super) fn slow(slow: SlowConsumerPolicy) -> World {
        World::with(Pool::standalone(), settings(slow))
    }

    pub(super) fn with(mut pool: Pool, settings: TopicSettings) -> World {
        let rules = Rules::new(Vec::new(), settings);
        let owned = owned(&rules);
        let mut topics = Topics::new(rules);
        let id = topics.create("t", 0, &mut pool);
        let peers = Peers {
            got: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            fresh: Vec::new(),
            short: BTreeMap::new(),
            stuck: Vec::new(),
            refusing: Vec::new(),
            refusals: 0,
            fell: Vec::new(),
            moved: Vec::new(),
            pool,
        };
        World { topics, owned, peers, id, offset: 0, now: 0, codecs: None, tags: Box::default() }
    }

    /// Subscribes `key`, which is not sent messages with the origin `key`.
    pub(super) fn subscribe(&mut self, key: u32, format: Format) -> SubscriberId {
        self.topics.subscribe(self.id, key, format, key.into()).expect("the topic is there")
    }

    pub(super) fn unsubscribe(&mut self, member: SubscriberId) {
        self.topics.unsubscribe(member, &mut self.peers.pool);
    }

    /// Returns the formats that were encoded.
    pub(super) fn append(&mut self, origin: Origin, own: Option<SubscriberId>, frame: &[u8]) -> Vec<Format> {
        self.append_keyed(origin, own, "", frame)
    }

    pub(super) fn append_keyed(
        &mut self,
        origin: Origin,
        own: Option<SubscriberId>,
        key: &str,
        frame: &[u8],
    ) -> Vec<Format> {
        let mut message = Message::new(frame);
        self.offset += 1;
        let tags = self.tags.clone();
        let publication =
            Publication { tags: Tags::new(&tags), ..Publication::new(Content::Text, key, frame) };
        let World { topics, owned, peers, id, offset, now, codecs, .. } = self;
        message.codecs = codecs.as_mut();
        let accepted = AcceptedMessage {
            publication: &publication,
            offset: *offset,
            origin,
            publisher: own,
            received_at: *now,
        };
        let memory = &mut LogMemory { pool: &mut peers.pool, owned };
        topics.append(*id, memory, &accepted, &mut message);
        let asked = message.asked;
        self.check();
        asked
    }

    /// Appends a frame that is not a message.
    pub(super) fn append_notice(&mut self, frame: &[u8]) {
        let World { topics, owned, peers, id, codecs, .. } = self;
        let memory = &mut LogMemory { pool: &mut peers.pool, owned };
        let mut notice = Message { is_plain: codecs.is_some(), ..Message::new(frame) };
        topics.append_notice(*id, memory, &mut notice);
    }

    /// Appends an event of a member that joins or leaves.
    pub(super) fn append_presence(&mut self, frame: &[u8]) {
        let World { topics, owned, peers, id, .. } = self;
        let memory = &mut LogMemory { pool: &mut peers.pool, owned };
        topics.append_presence(*id, memory, &mut Message::new(frame));
    }

    pub(super) fn deliver(&mut self, now: Nanos) {
        self.topics.deliver(now, &mut self.peers);
        self.blocked(now);
        self.check();
    }

    /// Takes back the whole frames of partial sends, as a shard does.
    pub(super) fn blocked(&mut self, now: Nanos) {
        for key in std::mem::take(&mut self.peers.fresh) {
            let Some(unfinished) = self.peers.unfinished.get_mut(&key) else { continue };
            while let Some((tag, bytes)) = unfinished.pop() {
                let (back, _) = self.topics.take_back(tag, key, bytes.len(), unfinished.is_empty(), now);
                if back < bytes.len() {
                    unfinished.push((tag, bytes[..bytes.len() - back].to_vec()));
                    break;
                }
                assert!(!unfinished.is_empty(), "something stays");
            }
        }
    }

    /// The kernel takes the rest of what was sent to `key`.
    pub(super) fn finish(&mut self, key: u32, member: SubscriberId, now: Nanos) {
        for (_, bytes) in self.peers.unfinished.remove(&key).unwrap_or_default() {
            self.peers.got.entry(key).or_default().extend_from_slice(&bytes);
        }
        self.catch_up(member, now);
    }

    pub(super) fn catch_up(&mut self, member: SubscriberId, now: Nanos) {
        self.topics.catch_up(member, now, &mut self.peers);
        self.blocked(now);
        self.check();
    }

    /// The counts of the only pattern.
    pub(super) fn pattern(&self) -> PatternCounts {
        let mut patterns = BTreeMap::new();
        self.topics.add_patterns(&mut patterns);
        patterns[DEFAULT_PATTERN]
    }

    pub(super) fn check(&self) {
        let deliveries = self.topics.deliveries();
        assert!(deliveries.add_up(), "{deliveries:?}");
        // A log's evictions that no subscriber was told of yet are in no count.
        let counted = self.pattern().deliveries;
        assert_eq!((counted.offered, counted.sent), (deliveries.offered, deliveries.sent));
        assert_eq!(self.pattern().subscribers, self.topics.subscriptions() as u64);
        if let Some(report) = self.topics.report(self.id) {
            assert!(report.deliveries.add_up(), "{report:?}");
        }
    }

    /// Publishes a message of none of the subscribers.
    pub(super) fn publish(&mut self, frame: &[u8], now: Nanos) -> Vec<Format> {
        self.now = now;
        let formats = self.append(99, None, frame);
        self.deliver(now);
        formats
    }

    pub(super) fn publish_keyed(&mut self, key: &str, frame: &[u8], now: Nanos) {
        self.now = now;
        self.append_keyed(99, None, key, frame);
        self.deliver(now);
    }

    pub(super) fn got(&self, key: u32) -> &[u8] {
        self.peers.got.get(&key).map_or(b"", Vec::as_slice)
    }

    pub(super) fn unsent(&self, key: u32) -> Vec<u8> {
        self.peers.unfinished[&key].iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    pub(super) fn text_of(&self, key: u32) -> String {
        String::from_utf8_lossy(self.got(key)).into_owned()
    }
}
