//! One format of one topic on one shard: a log of its encoded frames, and the cursors of its subscribers.

pub(crate) mod context;
mod filtered;
pub(crate) mod format;
pub(crate) mod keyed;
pub(crate) mod log;
pub(crate) mod previous;
pub(crate) mod sink;
pub(crate) mod tag_filter;

use self::context::{Context, Resumption, WholeWindows};
use self::filtered::Filtered;
use self::format::{Base, Compression, Deltas, Encode, Format};
use self::keyed::Keyed;
use self::log::{Log, Origin, Sequence};
use self::previous::Previous;
use self::sink::{Gap, GapReason, SentLatest, Sink, SubscriberId};
use self::tag_filter::TagFilter;
use super::accounts::{Deliveries, PatternCounts};
use super::settings::{SlowConsumerPolicy, TopicSettings};
use crate::collections::by_pattern::{ByPattern, PatternNumber};
use crate::collections::slab::Slab;
use crate::limits::CONTEXT_SUBSCRIBERS_MIN;
use crate::message::Tags;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use std::sync::Arc;

/// Sums over all channels of a shard.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) subscriptions: usize,
    /// Subscribers that have not been sent everything.
    pub(super) laggards: usize,
    /// Channels with a compressor of their own.
    pub(super) contexts: usize,
    /// `queued` is not maintained here: it follows from the cursors.
    pub(super) by_pattern: ByPattern,
}

/// The parts of its topic and its shard that a channel uses.
#[derive(Debug)]
pub(super) struct ChannelContext<'a> {
    pub(super) topic: &'a str,
    pub(super) settings: &'a TopicSettings,
    pub(super) keyed: &'a Keyed,
    pub(super) previous: &'a Previous,
    pub(super) sums: &'a mut Sums,
    pub(super) pattern: PatternNumber,
    /// The topic's delivery counts.
    pub(super) deliveries: &'a mut Deliveries,
    pub(super) now: Nanos,
}

impl ChannelContext<'_> {
    /// Adds to the counts of the topic and of its pattern on the shard.
    #[inline]
    fn count(&mut self, count: impl Fn(&mut Deliveries)) {
        count(self.deliveries);
        count(&mut self.pattern().deliveries);
    }

    /// Counts messages that were sent, and the bytes of their frames.
    #[inline]
    fn count_sent(&mut self, messages: u64, bytes: u64) {
        self.deliveries.send(messages);
        let pattern = self.pattern();
        pattern.deliveries.send(messages);
        pattern.delivered_bytes = pattern.delivered_bytes.wrapping_add(bytes);
    }

    /// The counts of the topic's pattern.
    #[inline]
    fn pattern(&mut self) -> &mut PatternCounts {
        self.sums.by_pattern.of(self.pattern)
    }
}

/// A frame to append: its offset and its publisher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append<'a> {
    /// The topic's offset with this frame; an event leaves it unchanged.
    pub(super) offset: u64,
    /// The publishing connection; 0 for none.
    pub(super) origin: Origin,
    /// The publishing subscriber, if it is on this shard.
    pub(super) publisher: Option<SubscriberId>,
    /// Whose channels get it.
    pub(super) audience: Audience,
    /// The tags of a message.
    pub(super) tags: Tags<'a>,
}

/// The subscribers that a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// All: it is a message.
    All,
    /// Those whose protocol has gap events and heartbeats.
    Events,
    /// The subscribers that are notified of joins and leaves.
    Presence,
}

/// One subscriber: a cursor.
#[derive(Debug)]
struct Subscriber<K> {
    key: K,
    /// Start of the subscription, or the end of the last gap: earlier frames belong to an earlier subscription of the connection, if
    /// any.
    since: Sequence,
    cursor: Sequence,
    /// Frames of this origin are not sent back; 0 sends all.
    skip: Origin,
    /// The end of the latest frame of `skip`: if it is before the cursor, nothing is skipped.
    own_end: Sequence,
    /// The offset up to which everything was sent or reported as lost, except for own messages.
    has: u64,
    /// Messages of the partial send, which counts as sent once it is complete.
    in_flight: u32,
    /// Own messages behind the cursor, which are not delivered.
    own: u32,
    behind: bool,
    /// Whether it may have messages that refer to earlier ones.
    follows: bool,
    /// Whether it has skipped messages to which the next ones may refer.
    skipped: bool,
}

/// A subscriber that continues in another channel of its topic. It has been sent everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mover<K> {
    pub(super) index: u32,
    pub(super) key: K,
    pub(super) skip: Origin,
    pub(super) follows: bool,
    /// Whether it has been sent a message.
    pub(super) has_message: bool,
    /// Whether it has the whole window of the context that it joins.
    pub(super) is_settled: bool,
}

/// A subscriber that was not sent the latest piece.
struct Stopped {
    index: u32,
    /// It is writable, but did not accept it. Otherwise it needs more than the latest piece.
    is_refused: bool,
}

#[derive(Debug)]
pub(super) struct Channel<K> {
    /// Number of the format in its topic.
    pub(super) topic: u32,
    /// Number of the channel on its shard.
    id: u32,
    pub(super) format: Format,
    pub(super) log: Log,
    /// Towards subscribers above their lag bound. Those that cannot be notified of a gap are removed.
    policy: SlowConsumerPolicy,
    subscribers: Slab<Subscriber<K>>,
    behind: usize,
    /// Frames before it were lost for lack of memory, up to the message `lost_offset`.
    lost_before: Sequence,
    lost_offset: u64,
    /// The latest presence event: a subscriber that skips frames before it may have missed one.
    presence: Option<Sequence>,
    /// Of a format whose messages refer to earlier ones.
    context: Context,
    /// Of a format whose subscribers are to join a context.
    whole_windows: WholeWindows,
    /// Subscribers that belong in another channel, in formats that subscribers may stay in.
    movers: usize,
    /// Of a format whose subscribers have filters.
    filtered: Option<Box<Filtered>>,
}

impl<K: Copy + Eq> Channel<K> {
    /// A channel of a topic that has reached `offset`.
    pub(super) fn new(
        id: u32,
        topic: u32,
        format: Format,
        settings: &TopicSettings,
        offset: u64,
    ) -> Channel<K> {
        let has_gaps = format.dialect.has_gaps();
        Channel {
            topic,
            id,
            format,
            log: Log::new(settings.lag_bytes, offset),
            // A topic that exists keeps its policy.
            policy: if has_gaps { settings.slow } else { SlowConsumerPolicy::Disconnect },
            subscribers: Slab::default(),
            behind: 0,
            lost_before: 0,
            lost_offset: 0,
            presence: None,
            context: Context::default(),
            whole_windows: WholeWindows::default(),
            movers: 0,
            filtered: format.dialect.is_filtered().then(Box::default),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether its messages are deltas, or will be for its subscribers.
    pub(super) fn has_deltas(&self) -> bool {
        self.format.dialect.deltas() != Deltas::Off
    }

    /// Bytes of the log that only slow consumers still need.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.log.latest().map_or(0, |latest| self.log.bytes() - latest.bytes.len())
    }

    pub(super) fn has_laggards(&self) -> bool {
        self.behind > 0
    }

    /// Adds a subscriber that is sent everything that is appended from now on.
    pub(super) fn subscribe(
        &mut self,
        key: K,
        skip: Origin,
        follows: bool,
        context: &mut ChannelContext<'_>,
    ) -> u32 {
        // Frames that were appended earlier in this tick are not for it.
        let cursor = self.log.appended();
        let has = self.log.offset_before(cursor);
        let subscriber = Subscriber {
            key,
            since: cursor,
            cursor,
            skip,
            own_end: 0,
            has,
            in_flight: 0,
            own: 0,
            behind: false,
            follows: follows && self.filtered.is_none(),
            skipped: false,
        };
        context.sums.subscriptions += 1;
        context.pattern().subscribers += 1;
        self.movers += usize::from(self.is_mover(&subscriber));
        self.subscribers.insert(|_| subscriber)
    }

    /// Sets the filter of a subscriber, in a format whose subscribers have filters.
    pub(super) fn set_filter(&mut self, index: u32, filter: Arc<TagFilter>) {
        if let Some(filtered) = &mut self.filtered {
            filtered.set(index, filter);
        }
    }

    /// Removes a subscriber; its unsent messages count as dropped.
    pub(super) fn remove(&mut self, index: u32, context: &mut ChannelContext<'_>) {
        let Some(subscriber) = self.subscribers.remove(index) else { return };
        if let Some(filtered) = &mut self.filtered {
            filtered.remove(index);
        }
        let gone = self.gone_from(&subscriber);
        let missed = self.queued(&subscriber) + u64::from(subscriber.in_flight) - gone;
        context.count(|deliveries| {
            deliveries.dropped_oldest += gone;
            deliveries.dropped_disconnect += missed;
        });
        let behind = usize::from(subscriber.behind);
        self.movers -= usize::from(self.is_mover(&subscriber));
        self.behind -= behind;
        context.sums.laggards -= behind;
        context.sums.subscriptions -= 1;
        context.pattern().subscribers -= 1;
    }

    /// Messages due to a subscriber and not sent, including those that are not readable yet.
    fn queued(&self, subscriber: &Subscriber<K>) -> u64 {
        let owed = self.log.offset_before(self.log.appended()).saturating_sub(self.counted(subscriber));
        owed.saturating_sub(u64::from(subscriber.own))
    }

    /// The offset up to which everything was counted for a subscriber, possibly as lost. On a conflated topic the latest
    /// messages may still be sent, so there nothing counts as lost before it is reported.
    fn counted(&self, subscriber: &Subscriber<K>) -> u64 {
        if self.policy == SlowConsumerPolicy::Conflate { subscriber.has } else { self.lost_to(subscriber) }
    }

    /// The offset up to which a subscriber has everything, or has lost it for lack of memory.
    fn lost_to(&self, subscriber: &Subscriber<K>) -> u64 {
        if subscriber.cursor < self.lost_before {
            subscriber.has.max(self.lost_offset)
        } else {
            subscriber.has
        }
    }

    /// The offset up to which messages have left the log, for subscribers that can be notified of a gap.
    fn gone(&self) -> u64 {
        match self.policy {
            SlowConsumerPolicy::DropOldest => self.log.offset_before(self.log.start()),
            // The latest message of each key is owed, and is kept.
            SlowConsumerPolicy::Disconnect | SlowConsumerPolicy::Conflate => 0,
        }
    }

    /// Messages due to a subscriber that have left the log and were not counted as lost.
    fn gone_from(&self, subscriber: &Subscriber<K>) -> u64 {
        let gone = self.gone().saturating_sub(self.counted(subscriber));
        if gone == 0 { 0 } else { gone - u64::from(subscriber.own - self.own_in_log(subscriber)).min(gone) }
    }

    /// The indices and keys of all subscribers.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, K)> {
        self.subscribers.iter(0).map(|(index, subscriber)| (index, subscriber.key))
    }

    /// Completes `deliveries` with the figures that follow from the cursors: the messages due to all subscribers, partial
    /// sends included, and those that have left the log and will be reported when the subscribers read on.
    pub(super) fn complete(&self, deliveries: &mut Deliveries) {
        for (_, subscriber) in self.subscribers.iter(0) {
            let dropped = self.gone_from(subscriber);
            deliveries.queued += self.queued(subscriber) + u64::from(subscriber.in_flight) - dropped;
            deliveries.dropped_oldest += dropped;
        }
    }

    /// Whether the channel's subscribers get this frame.
    #[inline]
    pub(super) fn takes(&self, append: &Append<'_>) -> bool {
        match append.audience {
            Audience::All => true,
            Audience::Events => self.format.dialect.has_events(),
            Audience::Presence => self.format.dialect.has_presence(),
        }
    }

    /// Whether the log has reached a frame's offset.
    pub(super) fn has(&self, append: &Append<'_>) -> bool {
        self.log.offset_before(self.log.appended()) >= append.offset
    }

    /// Appends a message or an event. False, with nothing appended, if there is no memory for it.
    #[inline]
    pub(super) fn append(
        &mut self,
        pool: &mut Pool,
        append: &Append<'_>,
        message: &mut impl Encode,
        context: &mut ChannelContext<'_>,
    ) -> bool {
        let Append { offset, origin, publisher, audience, tags } = *append;
        let (at, start) = (self.log.appended(), self.log.start());
        let filtered = self.filtered.as_mut().filter(|_| audience == Audience::All);
        if filtered.is_some_and(|filtered| !filtered.note(pool, at, tags, start)) {
            return false;
        }
        let before = self.log.offset_before(self.log.appended());
        let follows = self.format.dialect.deltas() == Deltas::On;
        let previous = if follows { context.previous.get() } else { None };
        if let Compression::Shared { bits } = self.format.compression {
            self.start_context(bits, pool, append, message, context);
        }
        let base = Base { previous, context: self.context.deflater() };
        let parts = message.frame(context.topic, self.format, base);
        if self.log.append(pool, origin, offset, &parts).is_err() {
            // The compressor has it, and no subscriber.
            self.context.restart(self.log.appended());
            if let Some(filtered) = self.filtered.as_mut().filter(|_| audience == Audience::All) {
                filtered.forget_latest(pool);
            }
            return false;
        }
        let mut offered = (offset - before) * self.count() as u64;
        if let Some(publisher) = publisher
            && publisher.channel == self.id
            && let Some(subscriber) = self.subscribers.get_mut(publisher.index)
            && subscriber.skip == origin
        {
            subscriber.own_end = self.log.appended();
            subscriber.own += 1;
            offered -= 1;
            // It is not sent this message. Those behind it must not refer to it.
            self.context.restart(self.log.appended());
            self.set_follows(publisher.index, false);
        }
        context.count(|deliveries| deliveries.offered += offered);
        true
    }

    /// Starts the context of a format that has none, if it has enough subscribers and there is memory for it.
    #[inline]
    fn start_context(
        &mut self,
        bits: u8,
        pool: &mut Pool,
        append: &Append<'_>,
        message: &mut impl Encode,
        context: &mut ChannelContext<'_>,
    ) {
        let is_due = !self.context.is_live()
            && append.audience == Audience::All
            && self.count() >= CONTEXT_SUBSCRIBERS_MIN
            // Its subscribers leave it after one message.
            && self.format.dialect.deltas() != Deltas::Beginning;
        if is_due && self.context.start(pool, bits, self.log.appended(), || message.new_context(bits)) {
            context.sums.contexts += 1;
        }
    }

    /// Returns the memory of the compressor, if there is one. From now on each message is compressed by itself.
    pub(super) fn end_context(&mut self, pool: &mut Pool, sums: &mut Sums) {
        sums.contexts -= usize::from(self.context.end(pool, self.log.appended()));
    }

    /// Bytes that the context has consumed; 0 if a subscriber that has no message of it may be sent the next one.
    pub(super) fn consumed_bytes(&self) -> u64 {
        self.context.consumed_bytes()
    }

    /// The context that the subscribers are to join has consumed this many bytes.
    pub(super) fn note_consumed(&mut self, bytes: u64) {
        let window_bytes = self.format.compression.bits().map_or(0, |bits| 1 << bits);
        self.whole_windows.note(self.log.appended(), bytes, window_bytes);
    }

    /// Whether a subscriber belongs in another channel.
    fn is_mover(&self, subscriber: &Subscriber<K>) -> bool {
        match self.format.compression {
            Compression::Off | Compression::Joining { .. } => false,
            Compression::Single { .. } => subscriber.follows,
            Compression::Shared { .. } => !subscriber.follows || subscriber.skipped,
        }
    }

    /// Changes a subscriber, and counts it if it belongs in another channel now.
    fn change(&mut self, index: u32, change: impl FnOnce(&mut Subscriber<K>)) {
        let is_mover = |channel: &Self| {
            channel.subscribers.get(index).is_some_and(|subscriber| channel.is_mover(subscriber))
        };
        self.movers -= usize::from(is_mover(self));
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            change(subscriber);
        }
        self.movers += usize::from(is_mover(self));
    }

    /// Whether a subscriber may have messages that refer to earlier ones.
    pub(super) fn set_follows(&mut self, index: u32, follows: bool) {
        let follows = follows && self.filtered.is_none();
        self.change(index, |subscriber| subscriber.follows = follows);
    }

    /// Whether subscribers may have to continue in another channel.
    #[inline]
    pub(super) fn may_have_movers(&self) -> bool {
        self.movers > 0
            || matches!(self.format.compression, Compression::Joining { .. })
            || self.format.dialect.deltas() == Deltas::Beginning
    }

    /// The next subscriber from the index `from` on that continues in another channel. `all` tells that no subscriber lacks
    /// anything of the context that it joins.
    pub(super) fn next_mover(&self, from: u32, all: bool) -> Option<Mover<K>> {
        self.subscribers.iter(from).find_map(|(index, _)| self.mover(index, all))
    }

    /// The subscriber, if it continues in another channel.
    pub(super) fn mover(&self, index: u32, all: bool) -> Option<Mover<K>> {
        self.as_mover(index, all).filter(|mover| self.is_leaving(mover))
    }

    fn is_leaving(&self, mover: &Mover<K>) -> bool {
        let begins = self.format.dialect.deltas() == Deltas::Beginning && mover.has_message;
        let joins = matches!(self.format.compression, Compression::Joining { .. })
            && (mover.is_settled || !mover.follows);
        let subscriber = self.subscribers.get(mover.index);
        begins || joins || subscriber.is_some_and(|subscriber| self.is_mover(subscriber))
    }

    /// A subscriber, if it has been sent everything, so that it may continue in another channel.
    pub(super) fn as_mover(&self, index: u32, all: bool) -> Option<Mover<K>> {
        let subscriber = self.subscribers.get(index)?;
        let Subscriber { key, skip, follows, since, .. } = *subscriber;
        let is_up_to_date =
            subscriber.cursor == self.log.appended() && !subscriber.behind && subscriber.in_flight == 0;
        is_up_to_date.then(|| Mover {
            index,
            key,
            skip,
            follows,
            has_message: self.log.end_offset() > self.log.offset_before(since),
            is_settled: all || self.whole_windows.is_settled(since),
        })
    }

    /// The offset that a subscriber has reached, if it has been sent everything.
    pub(super) fn settled(&self, index: u32) -> Option<u64> {
        self.as_mover(index, false)?;
        Some(self.log.end_offset())
    }

    /// Whether a subscriber is the one that does not want the messages of `origin`.
    pub(super) fn skips(&self, index: u32, origin: Origin) -> bool {
        self.subscribers.get(index).is_some_and(|subscriber| subscriber.skip == origin)
    }

    /// The subscriber that does not want the messages of `origin`.
    pub(super) fn find_skipping(&self, origin: Origin) -> Option<u32> {
        self.subscribers.iter(0).find(|(_, subscriber)| subscriber.skip == origin).map(|(index, _)| index)
    }

    /// The latest frame is a presence event.
    pub(super) fn note_presence(&mut self) {
        self.presence = self.log.appended().checked_sub(1);
    }

    /// Drops a message for lack of memory, together with everything that subscribers have not been sent. They are notified
    /// or disconnected at the next offer.
    #[cold]
    pub(super) fn lose(&mut self, pool: &mut Pool, append: &Append<'_>, context: &mut ChannelContext<'_>) {
        let Append { offset, publisher, .. } = *append;
        let messages = offset - self.log.offset_before(self.log.appended());
        for index in self.subscribers.indices() {
            let Some(subscriber) = self.subscribers.get(index) else { continue };
            let id = SubscriberId { channel: self.id, index };
            let is_own = publisher == Some(id) && subscriber.skip != 0;
            let lost = if is_own { 0 } else { messages };
            let conflates = self.policy == SlowConsumerPolicy::Conflate;
            let dropped = if conflates { 0 } else { self.queued(subscriber) + lost };
            // Which messages are its own is forgotten, and the latest ones of their keys may be sent to it.
            let own = if conflates { u64::from(subscriber.own) } else { 0 };
            context.count(|deliveries| {
                deliveries.offered += lost + own;
                deliveries.dropped_memory += dropped;
            });
            let Some(subscriber) = self.subscribers.get_mut(index) else { continue };
            (subscriber.own, subscriber.own_end) = (0, 0);
            self.set_behind(index, true, context.sums);
        }
        self.log.forget_all(offset, pool);
        self.context.restart(self.log.start());
        (self.lost_before, self.lost_offset) = (self.log.start(), offset);
        if context.settings.has_presence() && self.format.dialect.has_presence() {
            self.presence = self.log.start().checked_sub(1);
        }
    }

    /// Makes the appended frames, the oldest of which was received at `since`, readable and offers them to every subscriber;
    /// then evicts the frames beyond the log's bound, with the subscribers that still need them and cannot be notified.
    pub(super) fn deliver(
        &mut self,
        since: Nanos,
        context: &mut ChannelContext<'_>,
        sink: &mut impl Sink<K>,
    ) {
        self.log.publish(since);
        self.offer_all(context, sink);
        self.log.evict(sink.pool());
        if self.behind > 0 {
            for index in self.subscribers.indices() {
                self.settle(index, context, sink);
            }
        }
    }

    fn offer_all(&mut self, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        if self.filtered.is_some() {
            return self.subscribers.indices().for_each(|index| self.offer(index, context, sink));
        }
        let mut index = 0;
        while let Some(stopped) = self.send_latest(index, context, sink) {
            index = stopped.index + 1;
            match stopped.is_refused {
                false => self.offer(stopped.index, context, sink),
                true => self.settle(stopped.index, context, sink),
            }
        }
    }

    /// Sends the latest piece to the subscribers from `first` on, up to one that needs something else. Nearly all subscribers
    /// keep up and need only that piece.
    fn send_latest(
        &mut self,
        first: u32,
        context: &mut ChannelContext<'_>,
        sink: &mut impl Sink<K>,
    ) -> Option<Stopped> {
        let latest = self.log.latest();
        let end_offset = self.log.end_offset();
        let mut sent_to = 0;
        let mut stopped = None;
        for (index, subscriber) in self.subscribers.iter_mut(first) {
            let keeps_up = !subscriber.behind
                && latest.is_some_and(|latest| {
                    subscriber.cursor == latest.first && subscriber.own_end <= latest.first
                });
            let (Some(latest), true) = (latest, keeps_up && sink.is_writable(subscriber.key)) else {
                stopped = Some(Stopped { index, is_refused: false });
                break;
            };
            let tag = SubscriberId { channel: self.id, index }.tag();
            if sink.send(subscriber.key, latest.bytes.clone(), latest.messages, tag).is_err() {
                stopped = Some(Stopped { index, is_refused: true });
                break;
            }
            subscriber.cursor = latest.end;
            subscriber.has = end_offset;
            sent_to += 1;
        }
        if let Some(latest) = latest {
            context.count_sent(sent_to * u64::from(latest.messages), sent_to * latest.bytes.len() as u64);
        }
        stopped
    }

    /// Offers one subscriber the frames behind its cursor. A subscriber above its lag bound skips frames, or is removed.
    pub(super) fn offer(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Some(subscriber) = self.subscribers.get(index) else { return };
        if subscriber.cursor >= self.log.end() && !subscriber.behind {
            return;
        }
        if subscriber.cursor < self.log.end() && sink.is_writable(subscriber.key) {
            match self.policy {
                SlowConsumerPolicy::Disconnect => {}
                SlowConsumerPolicy::DropOldest => self.drop_oldest(index, context, sink),
                SlowConsumerPolicy::Conflate => self.conflate(index, context, sink),
            }
            self.send_log(index, context, sink);
        }
        self.settle(index, context, sink);
    }

    /// The oldest frame that may still be sent to a subscriber.
    fn floor(&self, context: &ChannelContext<'_>) -> Sequence {
        let young = self.log.first_since(context.now.saturating_sub(context.settings.lag));
        self.log.start().max(young)
    }

    fn drop_oldest(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Some(subscriber) = self.subscribers.get(index) else { return };
        let floor = if subscriber.skipped { self.log.end() } else { self.floor(context) };
        if subscriber.cursor >= floor {
            return;
        }
        let (floor, skipped) = match self.context.resumption(floor) {
            Resumption::At(at) if at <= self.log.end() => (at, false),
            Resumption::Outside if self.log.appended() == self.log.end() => (self.log.end(), true),
            // When the frames of this tick are readable.
            Resumption::At(_) | Resumption::Outside => return,
        };
        let Some(subscriber) = self.past(index, floor) else { return };
        let (has, counted, lost) = (subscriber.has, self.counted(subscriber), self.lost_to(subscriber));
        let own = subscriber.own;
        if !self.tell_stale(index, subscriber, context, sink) {
            return;
        }
        let to = self.log.offset_before(floor);
        if to > has {
            let reason = if lost > has { GapReason::Memory } else { GapReason::Slow };
            if !sink.tell_gap(subscriber.key, context.topic, Gap { from: has + 1, to, reason }) {
                return;
            }
        }
        self.change(index, |subscriber| {
            (subscriber.has, subscriber.cursor, subscriber.since) = (to, floor, floor);
            subscriber.skipped = skipped;
        });
        let own = self.recount_own(index, own);
        // Lost for lack of memory, as far as that was not counted before.
        let starved = lost.min(to).saturating_sub(counted);
        context.count(|deliveries| {
            deliveries.dropped_memory += starved;
            deliveries.dropped_oldest += (to - counted.min(to) - starved).saturating_sub(own);
        });
    }

    /// Notifies a subscriber that it may miss presence events among the frames that it skips. False if that is not accepted
    /// now. It may be notified twice if the gap report is not accepted at once; later events may repeat the missed
    /// ones.
    fn tell_stale(
        &self,
        index: u32,
        subscriber: &Subscriber<K>,
        context: &ChannelContext<'_>,
        sink: &mut impl Sink<K>,
    ) -> bool {
        let missed = self.presence.is_some_and(|latest| subscriber.cursor <= latest);
        !missed || sink.tell_stale(subscriber.key, SubscriberId { channel: self.id, index }, context.topic)
    }

    /// The subscriber, if its cursor is before `floor`.
    fn past(&self, index: u32, floor: Sequence) -> Option<&Subscriber<K>> {
        self.subscribers.get(index).filter(|subscriber| subscriber.cursor < floor)
    }

    fn conflate(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let floor = self.floor(context);
        let Some(subscriber) = self.subscribers.get(index) else { return };
        if subscriber.cursor >= floor && !subscriber.skipped {
            return;
        }
        // Its latest messages may be among this tick's frames, and it must not be sent those.
        let is_context = self.context.is_live() || self.context.since() > self.log.end();
        if is_context && self.log.appended() != self.log.end() {
            return;
        }
        let (has, lost, own) = (subscriber.has, self.lost_to(subscriber), subscriber.own);
        if context.keyed.after(has).next().is_none() {
            // There was no memory for them.
            return self.drop_oldest(index, context, sink);
        }
        if !self.tell_stale(index, subscriber, context, sink) {
            return;
        }
        let Some(SentLatest { reached, messages: sent, bytes }) =
            sink.send_latest(subscriber.key, context.topic, context.keyed, has)
        else {
            return;
        };
        // The messages that replace the missed ones may be in the log too, or behind every other cursor.
        let start = self.log.start();
        let cursor =
            if reached < self.log.offset_before(start) { start - 1 } else { self.log.behind_offset(reached) };
        let skipped = self.context.is_live() || cursor < self.context.since();
        self.change(index, |subscriber| {
            (subscriber.has, subscriber.cursor, subscriber.since) = (reached, cursor, cursor);
            subscriber.skipped = skipped;
        });
        // Its own messages are among the latest ones of their keys, too.
        let own = self.recount_own(index, own);
        let missed = (reached - has) - u64::from(sent);
        // Later messages of their keys replace them, and yet they are missed for lack of memory only.
        let starved = missed.min(lost.min(reached).saturating_sub(has));
        context.count(|deliveries| {
            deliveries.offered += own;
            deliveries.dropped_memory += starved;
            deliveries.dropped_conflated += missed - starved;
        });
        context.count_sent(u64::from(sent), bytes as u64);
    }

    /// Sends the frames behind a subscriber's cursor that pass its filter.
    fn send_filtered(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Channel { log, subscribers, filtered, id, .. } = self;
        let (Some(filtered), Some(subscriber)) = (filtered, subscribers.get_mut(index)) else { return };
        let (from, has) = (subscriber.cursor, subscriber.has);
        if from < log.start() || !sink.is_writable(subscriber.key) {
            return;
        }
        let tag = SubscriberId { channel: *id, index }.tag();
        let (mut sent, mut sent_bytes) = (0, 0);
        let mut reached = log.end();
        for stretch in log.read_except(from, true, |at| !filtered.passes(index, at)) {
            let bytes = stretch.bytes.len() as u64;
            if sink.send(subscriber.key, stretch.bytes, stretch.messages, tag).is_err() {
                reached = stretch.first;
                break;
            }
            sent_bytes += bytes;
            sent += u64::from(stretch.messages);
        }
        (subscriber.cursor, subscriber.has) = (reached, log.offset_before(reached));
        let passed_over = subscriber.has - has - sent;
        context.count(|deliveries| deliveries.filtered = deliveries.filtered.wrapping_add(passed_over));
        context.count_sent(sent, sent_bytes);
    }

    fn send_log(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        if self.filtered.is_some() {
            return self.send_filtered(index, context, sink);
        }
        let Some(subscriber) = self.subscribers.get_mut(index) else { return };
        if subscriber.cursor < self.log.start() || subscriber.skipped || !sink.is_writable(subscriber.key) {
            return;
        }
        let tag = SubscriberId { channel: self.id, index }.tag();
        let skip = (subscriber.own_end > subscriber.cursor).then_some(subscriber.skip);
        let (mut sent, mut sent_bytes) = (0, 0);
        for stretch in self.log.read(subscriber.cursor, skip) {
            let bytes = stretch.bytes.len() as u64;
            if sink.send(subscriber.key, stretch.bytes, stretch.messages, tag).is_err() {
                break;
            }
            sent_bytes += bytes;
            sent += u64::from(stretch.messages);
            subscriber.cursor = stretch.end;
            subscriber.has = self.log.offset_before(stretch.end);
        }
        // Own frames at the end are behind the last range. A conflated message may be of this tick's frames, which are behind the end.
        let is_done = subscriber.cursor >= self.log.end();
        if skip.is_some() && !is_done && self.log.read(subscriber.cursor, skip).next().is_none() {
            subscriber.cursor = self.log.end();
            subscriber.has = self.log.end_offset();
        }
        self.recount_own(index, 0);
        context.count_sent(sent, sent_bytes);
    }

    /// Counts the subscriber's own messages behind its cursor, all of which are still in the log. There were `before`; returns how many
    /// of them are not behind it any more.
    fn recount_own(&mut self, index: u32, before: u32) -> u64 {
        let own = self.subscribers.get(index).map_or(0, |subscriber| self.own_in_log(subscriber));
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            subscriber.own = own;
        }
        u64::from(before.saturating_sub(own))
    }

    /// The subscriber's own messages behind its cursor that are still in the log.
    fn own_in_log(&self, subscriber: &Subscriber<K>) -> u32 {
        if subscriber.own_end <= subscriber.cursor {
            return 0;
        }
        let ahead = subscriber.cursor.max(self.log.start())..self.log.appended();
        let is_own = |at: &Sequence| self.log.frame(*at).is_some_and(|(_, origin)| origin == subscriber.skip);
        ahead.filter(is_own).count() as u32
    }

    /// Updates whether a subscriber has been sent everything.
    fn set_behind(&mut self, index: u32, is_behind: bool, sums: &mut Sums) {
        let Some(subscriber) = self.subscribers.get_mut(index) else { return };
        if std::mem::replace(&mut subscriber.behind, is_behind) != is_behind {
            let (less, more) = (usize::from(!is_behind), usize::from(is_behind));
            self.behind = self.behind + more - less;
            sums.laggards = sums.laggards + more - less;
        }
    }

    /// Checks a subscriber's lag after an offer, and removes it if it exceeds its bound and cannot be notified.
    fn settle(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Some(subscriber) = self.subscribers.get(index) else { return };
        let (key, cursor, reached) = (subscriber.key, subscriber.cursor, subscriber.has);
        let reason = if self.lost_to(subscriber) > reached { GapReason::Memory } else { GapReason::Slow };
        let is_behind = cursor != self.log.end();
        self.set_behind(index, is_behind, context.sums);
        if self.policy != SlowConsumerPolicy::Disconnect || !is_behind {
            return;
        }
        let lost = cursor < self.log.start();
        let since = self.log.readable_since(cursor);
        let late = since.is_some_and(|since| since.saturating_add(context.settings.lag) < context.now);
        if lost || late {
            sink.fell_behind(key, SubscriberId { channel: self.id, index }, reached, reason);
            self.remove(index, context);
        }
    }

    /// Takes back whole frames from a subscriber's last send, of which the kernel has not accepted the last `unsent` bytes;
    /// `all` tells that nothing before them is unsent either, so that one frame must stay. Returns the bytes and the
    /// number of messages taken back, which are behind the cursor again.
    pub(super) fn take_back(
        &mut self,
        index: u32,
        key: K,
        unsent: usize,
        all: bool,
        context: &mut ChannelContext<'_>,
    ) -> (usize, u32) {
        let Some(subscriber) = self.subscribers.get_mut(index) else { return (0, 0) };
        if subscriber.key != key {
            return (0, 0);
        }
        let is_own = |origin| subscriber.skip != 0 && origin == subscriber.skip;
        let (mut left, mut at, mut cursor) = (unsent, subscriber.cursor, subscriber.cursor);
        let (mut messages, mut in_flight) = (0, 0);
        // Messages that the filter has passed over behind the one that is looked at, and behind the cursor.
        let (mut over, mut passed_over) = (0, 0);
        let passes = |at| self.filtered.as_ref().is_none_or(|filtered| filtered.passes(index, at));
        while at > subscriber.since
            && left > 0
            && let Some((bytes, origin)) = self.log.frame(at - 1)
        {
            let message = self.log.offset_before(at) - self.log.offset_before(at - 1);
            at -= 1;
            if is_own(origin) {
                continue;
            }
            if !passes(at) {
                over += message;
                continue;
            }
            if bytes > left || (all && bytes == left) {
                // The kernel has sent a part of it, or is about to.
                in_flight = message;
                break;
            }
            left -= bytes;
            messages += message;
            cursor = at;
            passed_over += std::mem::take(&mut over);
        }
        // A cursor that stays may have fallen off the log since, where nothing says its offset.
        if cursor != subscriber.cursor {
            subscriber.cursor = cursor;
            subscriber.has = self.log.offset_before(cursor);
        }
        subscriber.in_flight += in_flight as u32;
        if cursor != self.log.end() {
            self.set_behind(index, true, context.sums);
        }
        self.recount_own(index, 0);
        context.count(|deliveries| {
            deliveries.unsend(messages + in_flight);
            deliveries.filtered = deliveries.filtered.wrapping_sub(passed_over);
        });
        context.pattern().unsend_bytes((unsent - left) as u64);
        (unsent - left, messages as u32)
    }

    /// When the message was received that `behind` messages follow in what a subscriber was sent.
    pub(super) fn received_at(&self, index: u32, key: K, behind: u32) -> Option<Nanos> {
        let subscriber = self.subscribers.get(index).filter(|subscriber| subscriber.key == key)?;
        self.log.received_at(subscriber.has.saturating_sub(u64::from(behind)))
    }

    /// The offset up to which everything was sent to a subscriber or reported as lost, and whether that is everything.
    /// `None` if there is no such subscriber.
    pub(super) fn reached(&self, index: u32) -> Option<(u64, bool)> {
        let subscriber = self.subscribers.get(index)?;
        Some((subscriber.has, subscriber.cursor == self.log.appended()))
    }

    /// Bytes of the log behind a subscriber's cursor, frames of its own included.
    pub(super) fn lag_bytes(&self, index: u32) -> Option<u64> {
        let subscriber = self.subscribers.get(index)?;
        Some(self.log.bytes_from(subscriber.cursor))
    }

    /// A subscriber's partial send is complete.
    pub(super) fn finished(&mut self, index: u32, context: &mut ChannelContext<'_>) {
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            let sent = u64::from(std::mem::take(&mut subscriber.in_flight));
            context.count(|deliveries| deliveries.send(sent));
        }
    }

    /// Drops frames that only slow consumers still need, for lack of memory. They are notified or disconnected at the
    /// next offer.
    pub(super) fn shed(&mut self, pool: &mut Pool, context: &mut ChannelContext<'_>) {
        let evicted_to = self.gone();
        self.log.forget_before(self.log.end(), pool);
        let (start, to) = (self.log.start(), self.log.offset_before(self.log.start()));
        // On a conflated topic nothing counts as lost before it is reported.
        let conflates = self.policy == SlowConsumerPolicy::Conflate;
        for index in self.subscribers.indices() {
            let Some(subscriber) = self.past(index, start) else { continue };
            let (counted, own) = (self.counted(subscriber), subscriber.own);
            if conflates {
                continue;
            }
            let own = self.recount_own(index, own);
            let gone = to.saturating_sub(counted + own);
            let evicted = evicted_to.saturating_sub(counted).min(gone);
            let starved = gone - evicted;
            context.count(|deliveries| {
                deliveries.dropped_oldest += evicted;
                deliveries.dropped_memory += starved;
            });
        }
        (self.lost_before, self.lost_offset) = (start, to);
    }

    /// Returns the memory; the subscribers are removed.
    pub(super) fn release(&mut self, pool: &mut Pool, context: &mut ChannelContext<'_>) {
        for index in self.subscribers.indices() {
            self.remove(index, context);
        }
        self.end_context(pool, context.sums);
        if let Some(filtered) = &mut self.filtered {
            filtered.release(pool);
        }
        self.log.release(pool);
    }
}
