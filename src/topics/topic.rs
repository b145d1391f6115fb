//! The topics of one shard: for each, one channel per format that subscribers use.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accounts::{Deliveries, PatternCounts, TopicReport};
use super::channel::{Append, Audience, Channel, ChannelContext, Mover, Sums};
use super::message::{Publication, Tags};
use super::settings::{Rules, SlowConsumerPolicy, TopicSettings};
use crate::channel::format::{Compression, Deltas, Encode, Encoding, Format};
use crate::channel::keyed::Keyed;
use crate::channel::log::Origin;
use crate::channel::previous::Previous;
use crate::channel::sink::{Sink, SubscriberId};
use crate::channel::tag_filter::TagFilter;
use crate::collections::by_pattern::{ByPattern, PatternNumber};
use crate::collections::by_size::BySize;
use crate::collections::retained::Retained;
use crate::collections::slab::Slab;
use crate::collections::slot_map::SlotMap;
use crate::owner::owned_topics::OwnedTopics;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

/// Identifies a topic on its shard. The generation distinguishes reuses of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    /// Index in the shard's table.
    pub index: u32,
    /// Generation: counts the reuses of `index`.
    pub generation: u32,
}

echoring_proto::plain!(for TopicId { index, generation });

impl TopicId {
    fn from_key((index, generation): (u32, u32)) -> TopicId {
        TopicId { index, generation }
    }

    fn key(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

/// A message with its offset, to be appended to the logs of its topic.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedMessage<'a> {
    /// The message.
    pub publication: &'a Publication<'a>,
    /// Its offset in the topic.
    pub offset: u64,
    /// The connection that published it; 0 for the operator.
    pub origin: Origin,
    /// The publishing subscriber, if it is on this shard.
    pub publisher: Option<SubscriberId>,
    /// When a shard of this node received it.
    pub received_at: Nanos,
}

/// The memory for appends.
#[derive(Debug)]
pub struct LogMemory<'a> {
    /// The shard's buffers.
    pub pool: &'a mut Pool,
    /// Their histories are evicted when the pool is exhausted.
    pub owned: &'a mut OwnedTopics,
}

impl LogMemory<'_> {
    /// Evicts the largest history. False if there is none.
    fn shed(&mut self) -> bool {
        self.owned.shed(self.pool)
    }
}

#[derive(Debug, Default)]
struct Topic {
    state: TopicState,
    /// One for each format that has subscribers.
    channels: Vec<u32>,
    /// Offset of the latest message on this shard.
    offset: u64,
    /// Whether it is listed as having frames that were not offered yet.
    dirty: bool,
    /// Messages of this tick.
    fresh: u32,
    /// Messages that were not delivered yet, and when the oldest of them was received.
    undelivered: u32,
    undelivered_since: Nanos,
    pace: Pace,
    /// When subscribers last got something, or were checked.
    spoke_at: Nanos,
}

/// The parts of a topic that its channels need.
#[derive(Debug, Default)]
struct TopicState {
    name: Box<str>,
    settings: TopicSettings,
    /// The latest message of each key, for topics that conflate.
    keyed: Keyed,
    /// The latest message, if a format may have deltas from it.
    previous: Previous,
    deliveries: Deliveries,
    /// The place of its counts on the shard.
    pattern: PatternNumber,
}

impl TopicState {
    #[inline]
    fn context<'a>(&'a mut self, sums: &'a mut Sums, now: Nanos) -> ChannelContext<'a> {
        let TopicState { name, settings, keyed, previous, deliveries, pattern } = self;
        ChannelContext { topic: name, settings, keyed, previous, sums, pattern: *pattern, deliveries, now }
    }
}

/// The channels of a shard by number.
type Channels<K> = Slab<Channel<K>>;

/// Frees the logs of unused formats of a topic, and the messages that are kept for the last of them.
fn release_deserted<K: Copy + Eq>(
    all: &mut Channels<K>,
    Topic { state, channels, .. }: &mut Topic,
    sums: &mut Sums,
    pool: &mut Pool,
) {
    channels.retain(|&number| {
        if all.get(number).is_some_and(|channel| channel.count() > 0) {
            return true;
        }
        if let Some(mut channel) = all.remove(number) {
            channel.release(pool, &mut state.context(sums, 0));
        }
        false
    });
    if channels.is_empty() {
        state.keyed.release(pool);
    }
    let has_deltas = |number: &u32| all.get(*number).is_some_and(Channel::has_deltas);
    if state.previous.is_wanted() && !channels.iter().any(has_deltas) {
        state.previous.release(pool);
    }
}

/// How long messages wait for others.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Increases while ticks bring more than one message each, and decreases otherwise.
    window: Nanos,
    /// When the waiting messages are delivered; 0 if none wait.
    until: Nanos,
}

impl Pace {
    /// Whether a topic with `fresh` messages of this tick must be delivered now.
    fn is_due(&mut self, now: Nanos, coalesce: Nanos, fresh: u32) -> bool {
        if coalesce == 0 {
            return true;
        }
        if fresh > 1 {
            self.window = (2 * self.window).clamp(coalesce / 8, coalesce);
        } else if self.until == 0 {
            self.window = if self.window > coalesce / 8 { self.window / 2 } else { 0 };
        }
        if self.until == 0 {
            self.until = now + self.window;
        }
        if now < self.until {
            return false;
        }
        self.until = 0;
        true
    }
}

/// All topics of a shard that have subscribers on it.
#[derive(Debug)]
pub struct Topics<K> {
    by_name: BTreeMap<Box<str>, TopicId>,
    table: SlotMap<Topic>,
    channels: Channels<K>,
    /// Log bytes of each channel that only slow consumers still need.
    backlogs: BySize,
    /// Topics with frames that were not offered yet.
    dirty: Vec<TopicId>,
    spare: Vec<TopicId>,
    /// Those of the dirty topics that wait for more messages.
    waiting: usize,
    /// When the waiting topics are due.
    due_at: Option<Nanos>,
    /// Whether messages no longer wait for others.
    hurries: bool,
    rules: Rules,
    sums: Sums,
    /// Delivery counts of topics that no longer have subscribers on this shard.
    left: Retained<Deliveries>,
}

impl<K: Copy + Eq> Topics<K> {
    /// No topics. `rules` are the settings of future topics.
    pub fn new(rules: Rules) -> Topics<K> {
        Topics {
            by_name: BTreeMap::new(),
            table: SlotMap::default(),
            channels: Slab::default(),
            backlogs: BySize::default(),
            dirty: Vec::new(),
            spare: Vec::new(),
            waiting: 0,
            due_at: None,
            hurries: false,
            sums: Sums { subscriptions: 0, laggards: 0, contexts: 0, by_pattern: ByPattern::new(&rules) },
            rules,
            left: Retained::default(),
        }
    }

    /// Number of topics.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Number of subscribers of all topics.
    pub fn subscriptions(&self) -> usize {
        self.sums.subscriptions
    }

    /// Number of compression contexts of all topics.
    pub fn contexts(&self) -> usize {
        self.sums.contexts
    }

    /// The settings of the topic `name`, whether it exists or not.
    pub fn settings_of(&self, name: &str) -> &TopicSettings {
        let known = self.find(name).and_then(|id| self.settings(id));
        known.unwrap_or_else(|| self.rules.of(name))
    }

    /// The topic of this name, if it exists.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// A topic's name.
    pub fn name(&self, id: TopicId) -> Option<&str> {
        self.table.get(id.key()).map(|topic| &*topic.state.name)
    }

    /// The settings of a topic.
    pub fn settings(&self, id: TopicId) -> Option<&TopicSettings> {
        self.table.get(id.key()).map(|topic| &topic.state.settings)
    }

    /// Uses other settings from now on. Existing topics keep `slow`, `lag_bytes` and `presence`.
    pub fn configure(&mut self, rules: Rules) {
        self.sums.by_pattern.configure(&rules);
        for (_, Topic { state, channels, .. }) in self.table.iter_mut() {
            state.settings = rules.of(&state.name).renewing(&state.settings);
            state.pattern = ByPattern::number_of(&rules, &state.name);
            let subscribers =
                channels.iter().filter_map(|number| self.channels.get(*number)).map(Channel::count);
            self.sums.by_pattern.of(state.pattern).subscribers += subscribers.sum::<usize>() as u64;
        }
        self.rules = rules;
    }

    /// The offset that a topic has reached on this shard.
    pub fn offset(&self, id: TopicId) -> u64 {
        self.table.get(id.key()).map_or(0, |topic| topic.offset)
    }

    /// Adds a topic without subscribers.
    pub fn create(&mut self, name: &str, now: Nanos, pool: &mut Pool) -> TopicId {
        let state = TopicState {
            name: name.into(),
            settings: *self.rules.of(name),
            deliveries: self.left.take(name, pool).unwrap_or_default(),
            pattern: ByPattern::number_of(&self.rules, name),
            ..TopicState::default()
        };
        let id = TopicId::from_key(self.table.insert(Topic { state, spoke_at: now, ..Topic::default() }));
        self.by_name.insert(name.into(), id);
        id
    }

    /// Sets the offset of a topic before it has subscribers.
    pub fn begin_at(&mut self, id: TopicId, offset: u64) {
        if let Some(topic) = self.table.get_mut(id.key()) {
            debug_assert!(topic.channels.is_empty());
            topic.offset = offset;
        }
    }

    /// Removes a topic with its subscribers and returns its memory; its delivery counts are kept for a while.
    pub fn remove(&mut self, id: TopicId, now: Nanos, pool: &mut Pool) {
        let Some(Topic { mut state, channels, .. }) = self.table.remove(id.key()) else { return };
        self.by_name.remove(&state.name);
        for number in channels {
            if let Some(mut gone) = self.channels.remove(number) {
                self.backlogs.set(number, 0);
                gone.release(pool, &mut state.context(&mut self.sums, 0));
            }
        }
        state.keyed.release(pool);
        state.previous.release(pool);
        if state.deliveries != Deliveries::default() {
            self.left.put(&state.name, state.deliveries, now, pool);
        }
    }

    /// Delivery counts of a topic that no longer has subscribers on this shard.
    pub fn left(&self, name: &str) -> Option<TopicReport> {
        self.left.get(name).map(|deliveries| report_of_left(name, deliveries))
    }

    /// The same for all such topics.
    pub fn all_left(&self) -> impl Iterator<Item = TopicReport> {
        self.left.iter().map(|(name, deliveries)| report_of_left(name, deliveries))
    }

    /// Removes expired counts.
    pub fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        self.left.expire(now, pool);
    }

    /// Adds a subscriber that gets everything that is appended from now on, encoded as `format`, except for the origin
    /// `skip`. The first subscriber of a format creates its log.
    ///
    /// In the format [`Compression::Shared`], nothing compressed may be sent to the subscriber but the frames of this topic. It
    /// begins in [`Compression::Joining`] if there are messages that it has not been sent.
    pub fn subscribe(&mut self, id: TopicId, key: K, format: Format, skip: Origin) -> Option<SubscriberId> {
        let compression = match format.compression {
            Compression::Shared { bits } => self.entry(id, format.dialect, bits),
            stays => stays,
        };
        let follows = matches!(format.compression, Compression::Shared { .. });
        self.add(id, key, Format { compression, ..format }, skip, follows)
    }

    /// Sets the filter of a subscriber, which has just subscribed in a format whose subscribers have filters.
    pub fn set_filter(&mut self, subscriber: SubscriberId, filter: Arc<TagFilter>) {
        if let Some(channel) = self.channels.get_mut(subscriber.channel) {
            channel.set_filter(subscriber.index, filter);
        }
    }

    /// The number of the channel of a topic with this format.
    fn number_of(&self, id: TopicId, format: Format) -> Option<u32> {
        let channels = &self.table.get(id.key())?.channels;
        let has_format =
            |number: &u32| self.channels.get(*number).is_some_and(|channel| channel.format == format);
        channels.iter().copied().find(has_format)
    }

    /// Bytes that the context of a format has consumed; 0 if it may have subscribers that have no message of it.
    fn consumed_bytes(&self, id: TopicId, dialect: Encoding, bits: u8) -> u64 {
        let number = self.number_of(id, Format { dialect, compression: Compression::Shared { bits } });
        number.and_then(|number| self.channels.get(number)).map_or(0, Channel::consumed_bytes)
    }

    /// How messages are compressed first for a subscriber that is to have a context.
    fn entry(&self, id: TopicId, dialect: Encoding, bits: u8) -> Compression {
        match self.consumed_bytes(id, dialect, bits) {
            0 => Compression::Shared { bits },
            _ => Compression::Joining { bits },
        }
    }

    fn add(
        &mut self,
        id: TopicId,
        key: K,
        format: Format,
        skip: Origin,
        follows: bool,
    ) -> Option<SubscriberId> {
        let known = self.number_of(id, format);
        let topic = self.table.get_mut(id.key())?;
        let channels = &mut self.channels;
        let channel = known.unwrap_or_else(|| {
            let (settings, offset) = (&topic.state.settings, topic.offset);
            let number = channels.insert(|number| Channel::new(number, id.index, format, settings, offset));
            // Nearly every topic has one format, and there may be many topics.
            topic.channels.reserve_exact(1);
            topic.channels.push(number);
            number
        });
        if format.dialect.deltas() != Deltas::Off {
            topic.state.previous.want();
        }
        let context = &mut topic.state.context(&mut self.sums, 0);
        let index = self.channels.get_mut(channel)?.subscribe(key, skip, follows, context);
        Some(SubscriberId { channel, index })
    }

    /// Removes a subscriber. The last one of a format frees its log.
    pub fn unsubscribe(&mut self, subscriber: SubscriberId, pool: &mut Pool) {
        let Topics { channels, table, sums, .. } = self;
        let Some(channel) = channels.get_mut(subscriber.channel) else { return };
        let Some((_, topic)) = table.at_mut(channel.topic) else { return };
        channel.remove(subscriber.index, &mut topic.state.context(sums, 0));
        release_deserted(channels, topic, sums, pool);
    }

    /// Lists the subscribers of a topic.
    pub fn subscribers(&self, id: TopicId) -> Vec<(K, SubscriberId)> {
        let channels = self.table.get(id.key()).map(|topic| &topic.channels[..]).unwrap_or_default();
        let channels = channels.iter().filter_map(|number| Some((*number, self.channels.get(*number)?)));
        channels
            .flat_map(|(channel, known)| {
                known.keys().map(move |(index, key)| (key, SubscriberId { channel, index }))
            })
            .collect()
    }

    /// Whether a topic has no subscribers on this shard.
    pub fn is_deserted(&self, id: TopicId) -> bool {
        self.table.get(id.key()).is_some_and(|topic| topic.channels.is_empty())
    }

    /// Appends a message to the logs of its topic; `frames` encodes it once for each format.
    #[inline]
    pub fn append(
        &mut self,
        id: TopicId,
        memory: &mut LogMemory<'_>,
        message: &AcceptedMessage<'_>,
        frames: &mut impl Encode,
    ) {
        let AcceptedMessage { publication, offset, origin, publisher, received_at } = *message;
        let publisher = publisher.and_then(|publisher| self.continuing(id, publisher, origin));
        let Some(topic) = self.table.get_mut(id.key()) else { return };
        topic.offset = offset;
        topic.fresh += 1;
        topic.undelivered_since = match topic.undelivered {
            0 => received_at,
            _ => topic.undelivered_since.min(received_at),
        };
        topic.undelivered += 1;
        let state = &mut topic.state;
        if state.settings.slow == SlowConsumerPolicy::Conflate
            && !topic.channels.is_empty()
            && !publication.key.is_empty()
        {
            // Without memory the key keeps its older message: slow consumers get that, and are told how many they
            // missed.
            while !state.keyed.keep(memory.pool, offset, received_at, publication) && memory.shed() {}
        }
        let (audience, tags) = (Audience::All, publication.tags);
        self.append_to(id, memory, &Append { offset, origin, publisher, audience, tags }, frames);
        if let Some(topic) = self.table.get_mut(id.key())
            && topic.state.previous.is_wanted()
        {
            topic.state.previous.keep(memory.pool, publication);
        }
    }

    /// The subscriber of a topic that has published as `publisher`. It may have continued under another id since.
    #[inline]
    fn continuing(&self, id: TopicId, publisher: SubscriberId, origin: Origin) -> Option<SubscriberId> {
        let channel = self.channels.get(publisher.channel);
        let is_it = channel
            .is_some_and(|channel| channel.topic == id.index && channel.skips(publisher.index, origin));
        if is_it { Some(publisher) } else { self.find_skipping(id, origin) }
    }

    #[cold]
    #[inline(never)]
    fn find_skipping(&self, id: TopicId, origin: Origin) -> Option<SubscriberId> {
        self.table.get(id.key())?.channels.iter().find_map(|&channel| {
            let index = self.channels.get(channel)?.find_skipping(origin)?;
            Some(SubscriberId { channel, index })
        })
    }

    /// Appends an event for the subscribers whose protocol has heartbeats.
    pub fn append_notice(&mut self, id: TopicId, memory: &mut LogMemory<'_>, notice: &mut impl Encode) {
        self.append_event(id, memory, Audience::Events, notice);
    }

    fn append_event(
        &mut self,
        id: TopicId,
        memory: &mut LogMemory<'_>,
        audience: Audience,
        event: &mut impl Encode,
    ) {
        let offset = self.offset(id);
        let tags = Tags::NONE;
        self.append_to(id, memory, &Append { offset, origin: 0, publisher: None, audience, tags }, event);
    }

    /// Appends a presence event. Subscribers that miss it are notified.
    pub fn append_presence(&mut self, id: TopicId, memory: &mut LogMemory<'_>, notice: &mut impl Encode) {
        self.append_event(id, memory, Audience::Presence, notice);
        let Some(topic) = self.table.get(id.key()) else { return };
        for &number in &topic.channels {
            if let Some(channel) = self.channels.get_mut(number)
                && channel.format.dialect.has_presence()
            {
                channel.note_presence();
            }
        }
    }

    #[inline]
    fn append_to(
        &mut self,
        id: TopicId,
        memory: &mut LogMemory<'_>,
        append: &Append<'_>,
        frames: &mut impl Encode,
    ) {
        let Some(topic) = self.table.get_mut(id.key()) else { return };
        let mut starved = false;
        for &number in &topic.channels {
            let Some(channel) = self.channels.get_mut(number) else { continue };
            if channel.takes(append) {
                let context = &mut topic.state.context(&mut self.sums, 0);
                starved |= !channel.append(memory.pool, append, frames, context);
            }
        }
        if !topic.dirty {
            topic.dirty = true;
            self.dirty.push(id);
        }
        if starved {
            self.append_starved(id, memory, append, frames);
        }
    }

    /// Appends to the channels that had no memory for a frame, evicting as much as possible.
    #[cold]
    #[inline(never)]
    fn append_starved(
        &mut self,
        id: TopicId,
        memory: &mut LogMemory<'_>,
        append: &Append<'_>,
        frames: &mut impl Encode,
    ) {
        let channels = self.table.get(id.key()).map(|topic| topic.channels.clone()).unwrap_or_default();
        for number in channels {
            while let Some((channel, mut context)) = self.channel(number, 0) {
                // Unless it has the frame, or does not need it.
                let is_done = channel.has(append) || !channel.takes(append);
                if is_done || channel.append(memory.pool, append, frames, &mut context) {
                    break;
                }
                if self.shed_optional(memory.pool) || memory.shed() || self.shed(memory.pool) {
                    continue;
                }
                if let Some((channel, mut context)) = self.channel(number, 0) {
                    warn_starved(context.topic, channel.backlog_bytes());
                    channel.lose(memory.pool, append, &mut context);
                }
                break;
            }
        }
    }

    /// A channel, and what it uses of its topic.
    fn channel(&mut self, number: u32, now: Nanos) -> Option<(&mut Channel<K>, ChannelContext<'_>)> {
        let channel = self.channels.get_mut(number)?;
        let (_, topic) = self.table.at_mut(channel.topic)?;
        Some((channel, topic.state.context(&mut self.sums, now)))
    }

    /// Frees all optional memory: compression contexts, and the messages that deltas begin from. False if there is none.
    pub fn shed_optional(&mut self, pool: &mut Pool) -> bool {
        if pool.optional_bytes() == 0 {
            return false;
        }
        let Topics { table, channels, sums, .. } = self;
        channels.iter_mut(0).for_each(|(_, channel)| channel.end_context(pool, sums));
        table.iter_mut().for_each(|(_, topic)| topic.state.previous.shed(pool));
        true
    }

    /// Frees the frames that only slow consumers still need, in one of the logs where they are most. False if there are none.
    pub fn shed(&mut self, pool: &mut Pool) -> bool {
        let Some(number) = self.backlogs.largest() else { return false };
        self.backlogs.set(number, 0);
        let Some(channel) = self.channels.get_mut(number) else { return true };
        let index = channel.topic;
        let Some((generation, topic)) = self.table.at_mut(index) else { return true };
        if channel.has_laggards() {
            warn_starved(&topic.state.name, channel.backlog_bytes());
        }
        channel.shed(pool, &mut topic.state.context(&mut self.sums, 0));
        if !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(TopicId { index, generation });
        }
        true
    }

    /// Whether there are frames that were not offered yet.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Offers every subscriber the appended frames, unless they may wait for more.
    pub fn deliver(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.spare));
        self.due_at = None;
        for id in dirty.drain(..) {
            let Some(topic) = self.table.get_mut(id.key()) else { continue };
            let fresh = std::mem::take(&mut topic.fresh);
            if !self.hurries && !topic.pace.is_due(now, topic.state.settings.coalesce, fresh) {
                let until = topic.pace.until;
                self.due_at = Some(self.due_at.map_or(until, |due| due.min(until)));
                self.dirty.push(id);
                continue;
            }
            topic.dirty = false;
            topic.spoke_at = now;
            let messages = std::mem::take(&mut topic.undelivered);
            let since = if messages > 0 { topic.undelivered_since } else { now };
            if messages > 0 {
                sink.delivered(since, messages);
            }
            self.deliver_topic(id, since, now, sink);
        }
        self.spare = dirty;
        self.waiting = self.dirty.len();
    }

    /// Whether something was appended since the last [`deliver`](Topics::deliver).
    pub fn has_fresh(&self) -> bool {
        self.dirty.len() > self.waiting
    }

    /// Offers every subscriber of a topic the appended frames, the oldest of which was received at `since`.
    #[inline]
    fn deliver_topic(&mut self, id: TopicId, since: Nanos, now: Nanos, sink: &mut impl Sink<K>) {
        let Some(topic) = self.table.get_mut(id.key()) else { return };
        let (mut deserted, mut may_move) = (false, false);
        for &number in &topic.channels {
            let Some(channel) = self.channels.get_mut(number) else { continue };
            channel.deliver(since, &mut topic.state.context(&mut self.sums, now), sink);
            self.backlogs.set(number, channel.backlog_bytes());
            deserted |= channel.count() == 0;
            may_move |= channel.may_have_movers();
        }
        if may_move {
            deserted |= self.move_subscribers(id, now, sink);
        }
        if deserted && let Some(topic) = self.table.get_mut(id.key()) {
            release_deserted(&mut self.channels, topic, &mut self.sums, sink.pool());
        }
    }

    /// Moves the subscribers that have been sent everything to the channels that they belong in: where messages may be deltas from
    /// the latest one, or refer to earlier ones, or may not. Whether a channel has none left.
    #[cold]
    #[inline(never)]
    fn move_subscribers(&mut self, id: TopicId, now: Nanos, sink: &mut impl Sink<K>) -> bool {
        let numbers = self.table.get(id.key()).map(|topic| topic.channels.clone()).unwrap_or_default();
        let mut deserted = false;
        for number in numbers {
            let Some(channel) = self.channels.get(number).filter(|channel| channel.may_have_movers()) else {
                continue;
            };
            let Format { dialect, compression } = channel.format;
            let consumed_bytes = match compression {
                Compression::Joining { bits } => self.consumed_bytes(id, dialect, bits),
                Compression::Off | Compression::Single { .. } | Compression::Shared { .. } => 0,
            };
            if let Some(channel) = self.channels.get_mut(number) {
                channel.note_consumed(consumed_bytes);
            }
            let mut from = 0;
            while let Some(mover) =
                self.channels.get(number).and_then(|channel| channel.next_mover(from, consumed_bytes == 0))
            {
                from = mover.index + 1;
                if let Some(to) = self.relocate(id, number, &mover, now) {
                    sink.changed_id(mover.key, SubscriberId { channel: number, index: mover.index }, to);
                }
            }
            deserted |= self.channels.get(number).is_some_and(|channel| channel.count() == 0);
        }
        deserted
    }

    /// Moves a subscriber from the channel `number` to the one that it belongs in.
    fn relocate(&mut self, id: TopicId, number: u32, mover: &Mover<K>, now: Nanos) -> Option<SubscriberId> {
        let Mover { index, key, skip, follows, has_message, is_settled } = *mover;
        let (channel, mut context) = self.channel(number, now)?;
        let format = channel.format;
        channel.remove(index, &mut context);
        let deltas = format.dialect.with_deltas().filter(|_| has_message);
        // A delta is from the message before it, which everybody must have been sent.
        let skip = if deltas.is_some() { 0 } else { skip };
        let dialect = deltas.unwrap_or(format.dialect);
        let compression = match format.compression {
            Compression::Off => Compression::Off,
            joining @ Compression::Joining { bits } if follows && deltas.is_none() => {
                if is_settled {
                    Compression::Shared { bits }
                } else {
                    joining
                }
            }
            Compression::Single { bits } | Compression::Joining { bits } | Compression::Shared { bits } => {
                if follows {
                    self.entry(id, dialect, bits)
                } else {
                    Compression::Single { bits }
                }
            }
        };
        self.add(id, key, Format { dialect, compression }, skip, follows)
    }

    /// Sends a subscriber no more messages that refer to earlier ones, so that other compressed messages may be sent to its
    /// connection. `None` if that is not possible now, because it has not been sent everything; otherwise its id from now on.
    pub fn leave_context(
        &mut self,
        subscriber: SubscriberId,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<SubscriberId> {
        let SubscriberId { channel: number, index } = subscriber;
        let channel = self.channels.get_mut(number)?;
        if !matches!(channel.format.compression, Compression::Joining { .. } | Compression::Shared { .. }) {
            channel.set_follows(index, false);
            return Some(subscriber);
        }
        channel.as_mover(index, false)?;
        channel.set_follows(index, false);
        let (_, to) = self.relocate_at(subscriber, now, pool)?;
        Some(to)
    }

    /// Only the frames of this topic are compressed for this subscriber from now on: it may have messages that refer to earlier
    /// ones, from the next delivery on at which it has been sent everything.
    pub fn rejoin_context(&mut self, subscriber: SubscriberId) {
        if let Some(channel) = self.channels.get_mut(subscriber.channel)
            && channel.format.compression != Compression::Off
        {
            channel.set_follows(subscriber.index, true);
        }
    }

    /// Moves one subscriber, if it has been sent everything and belongs in another channel.
    fn relocate_at(
        &mut self,
        subscriber: SubscriberId,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<(K, SubscriberId)> {
        let SubscriberId { channel: number, index } = subscriber;
        let channel = self.channels.get(number)?;
        let (generation, _) = self.table.at(channel.topic)?;
        let id = TopicId { index: channel.topic, generation };
        let mover = channel.mover(index, false)?;
        let to = self.relocate(id, number, &mover, now);
        self.release_if_deserted(number, pool);
        Some((mover.key, to?))
    }

    fn release_if_deserted(&mut self, number: u32, pool: &mut Pool) {
        let Topics { channels, table, sums, .. } = self;
        if let Some(channel) = channels.get(number)
            && channel.count() == 0
            && let Some((_, topic)) = table.at_mut(channel.topic)
        {
            release_deserted(channels, topic, sums, pool);
        }
    }

    /// When [`deliver`](Topics::deliver) must deliver waiting messages.
    pub fn due_at(&self) -> Option<Nanos> {
        self.due_at
    }

    /// A subscriber's partial send is complete, or it may be writable again: it is offered the messages that it lacks.
    pub fn catch_up(&mut self, subscriber: SubscriberId, now: Nanos, sink: &mut impl Sink<K>) {
        let Some((channel, mut context)) = self.channel(subscriber.channel, now) else { return };
        channel.finished(subscriber.index, &mut context);
        channel.offer(subscriber.index, &mut context, sink);
        // It may have skipped messages, and must not be sent the next one of this channel.
        if channel.may_have_movers()
            && let Some((key, to)) = self.relocate_at(subscriber, now, sink.pool())
        {
            sink.changed_id(key, subscriber, to);
        }
        self.release_if_deserted(subscriber.channel, sink.pool());
    }

    /// The offset up to which everything was sent to a subscriber or reported as lost, and whether that is everything.
    pub fn reached(&self, subscriber: SubscriberId) -> Option<(u64, bool)> {
        self.channels.get(subscriber.channel)?.reached(subscriber.index)
    }

    /// The offset that a subscriber has reached, if it has been sent everything and nothing of it was taken back. It may then continue
    /// elsewhere behind this offset.
    pub fn settled(&self, subscriber: SubscriberId) -> Option<u64> {
        self.channels.get(subscriber.channel)?.settled(subscriber.index)
    }

    /// Bytes of the log that a subscriber has not been sent.
    pub fn lag_bytes(&self, subscriber: SubscriberId) -> Option<u64> {
        self.channels.get(subscriber.channel)?.lag_bytes(subscriber.index)
    }

    /// From now on no message waits for others.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Takes back whole frames from the send to `key` with `tag`, of which the kernel has not accepted the last
    /// `unsent` bytes; `all` tells that nothing before them is unsent. Returns the bytes and the number of messages
    /// taken back: they must not be sent, because they will be offered again.
    pub fn take_back(&mut self, tag: u64, key: K, unsent: usize, all: bool, now: Nanos) -> (usize, u32) {
        let SubscriberId { channel, index } = SubscriberId::from_tag(tag);
        let Some((channel, mut context)) = self.channel(channel, now) else { return (0, 0) };
        channel.take_back(index, key, unsent, all, &mut context)
    }

    /// When the message was received that `behind` messages follow in what a subscriber was sent with `tag`, and the name of its
    /// topic. `None` if it is not known any more.
    pub fn received_at(&self, tag: u64, key: K, behind: u32) -> Option<(Nanos, &str)> {
        let SubscriberId { channel, index } = SubscriberId::from_tag(tag);
        let channel = self.channels.get(channel)?;
        let (_, topic) = self.table.at(channel.topic)?;
        Some((channel.received_at(index, key, behind)?, &topic.state.name))
    }

    /// The pattern that decides about a topic.
    pub fn pattern(&self, name: &str) -> &str {
        self.rules.pattern(name)
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Adds this shard's counts by pattern to `report`.
    pub fn add_patterns(&self, report: &mut BTreeMap<Box<str>, PatternCounts>) {
        self.sums.by_pattern.add_to(report);
    }

    /// Removes subscribers that have lagged for too long although nothing new was appended.
    pub fn drop_laggards(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        if !self.has_laggards() {
            return;
        }
        for index in 0..self.table.len() {
            let Some((generation, topic)) = self.table.at(index) else { continue };
            let id = TopicId { index, generation };
            let lags = |number: &u32| self.channels.get(*number).is_some_and(Channel::has_laggards);
            // A topic that waits for more messages is delivered when it is due.
            if !topic.dirty && topic.channels.iter().any(lags) {
                self.deliver_topic(id, now, now, sink);
            }
        }
    }

    /// Whether some subscriber lags.
    pub fn has_laggards(&self) -> bool {
        self.sums.laggards > 0
    }

    /// Lists the topics whose subscribers must be sent a heartbeat, because nothing was sent for this long. They then
    /// count as delivered. Silent topics keep no compression context.
    pub fn silent(&mut self, now: Nanos, silent: &mut Vec<TopicId>, pool: &mut Pool) {
        let Topics { table, channels, sums, .. } = self;
        for (key, topic) in table.iter_mut() {
            if topic.dirty || topic.spoke_at + topic.state.settings.heartbeat > now {
                continue;
            }
            let mut hears = false;
            for &number in &topic.channels {
                let Some(channel) = channels.get_mut(number) else { continue };
                hears |= channel.format.dialect.has_events();
                channel.end_context(pool, sums);
            }
            if hears {
                topic.spoke_at = now;
                silent.push(TopicId::from_key(key));
            }
        }
    }

    /// Delivery counts of this shard's subscribers.
    pub fn deliveries(&self) -> Deliveries {
        let mut deliveries = self.sums.by_pattern.total().deliveries;
        self.channels.iter(0).for_each(|(_, channel)| channel.complete(&mut deliveries));
        deliveries
    }

    /// The report of a topic on this shard.
    pub fn report(&self, id: TopicId) -> Option<TopicReport> {
        self.table.get(id.key()).map(|topic| self.report_of(topic))
    }

    /// The reports of all topics.
    pub fn reports(&self) -> impl Iterator<Item = TopicReport> {
        self.table.values().map(|topic| self.report_of(topic))
    }

    fn report_of(&self, topic: &Topic) -> TopicReport {
        let channels = || topic.channels.iter().filter_map(|number| self.channels.get(*number));
        let mut deliveries = topic.state.deliveries;
        channels().for_each(|channel| channel.complete(&mut deliveries));
        TopicReport {
            name: topic.state.name.to_string(),
            owner: None,
            subscribers: channels().map(|channel| channel.count() as u64).sum(),
            deliveries,
            log_bytes: channels().map(|channel| channel.log.charged_bytes() as u64).sum(),
            ..TopicReport::default()
        }
    }
}

/// Logs that subscribers of a topic lose messages of this size.
fn warn_starved(topic: &str, bytes: usize) {
    tracing::warn!(topic, bytes, "the memory budget is exhausted; slow consumers of a topic lose messages");
}

fn report_of_left(name: &str, deliveries: &Deliveries) -> TopicReport {
    TopicReport { name: name.to_owned(), deliveries: *deliveries, ..TopicReport::default() }
}
