//! One format of one topic on one shard: a log of its encoded frames, and the cursors of its subscribers.

pub(crate) mod format;
pub(crate) mod keyed;
pub(crate) mod log;
pub(crate) mod previous;
pub(crate) mod sink;

use self::format::{Deltas, Encode, Format};
use self::keyed::Keyed;
use self::log::{Log, Origin, Sequence};
use self::previous::Previous;
use self::sink::{Gap, GapReason, Sink, SubscriberId};
use super::accounts::Deliveries;
use super::settings::{SlowConsumerPolicy, TopicSettings};
use crate::collections::slab::Slab;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

/// Sums over all channels of a shard.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) subscriptions: usize,
    /// Subscribers that have not been sent everything.
    pub(super) laggards: usize,
    /// `queued` is not maintained here: it follows from the cursors.
    pub(super) deliveries: Deliveries,
}

/// The parts of its topic and its shard that a channel uses.
#[derive(Debug)]
pub(super) struct ChannelContext<'a> {
    pub(super) topic: &'a str,
    pub(super) settings: &'a TopicSettings,
    pub(super) keyed: &'a Keyed,
    pub(super) previous: &'a Previous,
    pub(super) sums: &'a mut Sums,
    /// The topic's delivery counts.
    pub(super) deliveries: &'a mut Deliveries,
    pub(super) now: Nanos,
}

impl ChannelContext<'_> {
    /// Adds to the counts of the topic and of the shard.
    #[inline]
    fn count(&mut self, count: impl Fn(&mut Deliveries)) {
        count(self.deliveries);
        count(&mut self.sums.deliveries);
    }
}

/// A frame to append: its offset and its publisher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    /// The topic's offset with this frame; an event leaves it unchanged.
    pub(super) offset: u64,
    /// The publishing connection; 0 for none.
    pub(super) origin: Origin,
    /// The publishing subscriber, if it is on this shard.
    pub(super) publisher: Option<SubscriberId>,
    /// Whose channels get it.
    pub(super) audience: Audience,
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
    /// Start of the subscription: earlier frames belong to an earlier subscription of the connection, if any.
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
    pub(super) fn subscribe(&mut self, key: K, skip: Origin, sums: &mut Sums) -> u32 {
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
        };
        sums.subscriptions += 1;
        self.subscribers.insert(|_| subscriber)
    }

    /// Removes a subscriber; its unsent messages count as dropped.
    pub(super) fn remove(&mut self, index: u32, context: &mut ChannelContext<'_>) {
        let Some(subscriber) = self.subscribers.remove(index) else { return };
        let gone = self.gone().saturating_sub(self.counted(&subscriber));
        let missed = self.queued(&subscriber) + u64::from(subscriber.in_flight) - gone;
        context.count(|deliveries| {
            deliveries.dropped_oldest += gone;
            deliveries.dropped_disconnect += missed;
        });
        let behind = usize::from(subscriber.behind);
        self.behind -= behind;
        context.sums.laggards -= behind;
        context.sums.subscriptions -= 1;
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

    /// The indices and keys of all subscribers.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, K)> {
        self.subscribers.iter(0).map(|(index, subscriber)| (index, subscriber.key))
    }

    /// Completes `deliveries` with the figures that follow from the cursors: the messages due to all subscribers, partial
    /// sends included, and those that have left the log and will be reported when the subscribers read on.
    pub(super) fn complete(&self, deliveries: &mut Deliveries) {
        let gone = self.gone();
        for (_, subscriber) in self.subscribers.iter(0) {
            let dropped = gone.saturating_sub(self.counted(subscriber));
            deliveries.queued += self.queued(subscriber) + u64::from(subscriber.in_flight) - dropped;
            deliveries.dropped_oldest += dropped;
        }
    }

    /// Whether the channel's subscribers get this frame.
    #[inline]
    pub(super) fn takes(&self, append: &Append) -> bool {
        match append.audience {
            Audience::All => true,
            Audience::Events => self.format.dialect.has_events(),
            Audience::Presence => self.format.dialect.has_presence(),
        }
    }

    /// Whether the log has reached a frame's offset.
    pub(super) fn has(&self, append: &Append) -> bool {
        self.log.offset_before(self.log.appended()) >= append.offset
    }

    /// Appends a message or an event. False, with nothing appended, if there is no memory for it.
    #[inline]
    pub(super) fn append(
        &mut self,
        pool: &mut Pool,
        append: &Append,
        message: &mut impl Encode,
        context: &mut ChannelContext<'_>,
    ) -> bool {
        let Append { offset, origin, publisher, .. } = *append;
        let before = self.log.offset_before(self.log.appended());
        let follows = self.format.dialect.deltas() == Deltas::Following;
        let previous = if follows { context.previous.get() } else { None };
        let parts = message.frame(context.topic, self.format, previous);
        if self.log.append(pool, origin, offset, &parts).is_err() {
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
        }
        context.count(|deliveries| deliveries.offered += offered);
        true
    }

    /// The latest frame is a presence event.
    pub(super) fn note_presence(&mut self) {
        self.presence = self.log.appended().checked_sub(1);
    }

    /// Drops a message for lack of memory, together with everything that subscribers have not been sent. They are notified
    /// or disconnected at the next offer.
    #[cold]
    pub(super) fn lose(&mut self, pool: &mut Pool, append: &Append, context: &mut ChannelContext<'_>) {
        let Append { offset, publisher, .. } = *append;
        let messages = offset - self.log.offset_before(self.log.appended());
        for index in self.subscribers.indices() {
            let Some(subscriber) = self.subscribers.get(index) else { continue };
            let id = SubscriberId { channel: self.id, index };
            let is_own = publisher == Some(id) && subscriber.skip != 0;
            let lost = if is_own { 0 } else { messages };
            let conflates = self.policy == SlowConsumerPolicy::Conflate;
            let dropped = if conflates { 0 } else { self.queued(subscriber) + lost };
            context.count(|deliveries| {
                deliveries.offered += lost;
                deliveries.dropped_memory += dropped;
            });
            let Some(subscriber) = self.subscribers.get_mut(index) else { continue };
            (subscriber.own, subscriber.own_end) = (0, 0);
            self.set_behind(index, true, context.sums);
        }
        self.log.forget_all(offset, pool);
        (self.lost_before, self.lost_offset) = (self.log.start(), offset);
        if context.settings.has_presence() && self.format.dialect.has_presence() {
            self.presence = self.log.start().checked_sub(1);
        }
    }

    /// Makes the appended frames readable and offers them to every subscriber; then evicts the frames beyond the log's
    /// bound, with the subscribers that still need them and cannot be notified.
    pub(super) fn deliver(&mut self, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        self.log.publish(context.now);
        self.offer_all(context, sink);
        self.log.evict(sink.pool());
        if self.behind > 0 {
            for index in self.subscribers.indices() {
                self.settle(index, context, sink);
            }
        }
    }

    fn offer_all(&mut self, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
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
        let mut sent = 0;
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
            sent += u64::from(latest.messages);
        }
        context.count(|deliveries| deliveries.sent += sent);
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
        let floor = self.floor(context);
        let Some(subscriber) = self.past(index, floor) else { return };
        let (has, counted, lost) = (subscriber.has, self.counted(subscriber), self.lost_to(subscriber));
        if !self.tell_stale(index, subscriber, context, sink) {
            return;
        }
        let to = self.log.offset_before(floor);
        if to > has {
            let reason = if lost > has { GapReason::Memory } else { GapReason::SlowConsumerPolicy };
            if !sink.tell_gap(subscriber.key, context.topic, Gap { from: has + 1, to, reason }) {
                return;
            }
        }
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            (subscriber.has, subscriber.cursor) = (to, floor);
        }
        // Lost for lack of memory, as far as that was not counted before.
        let starved = lost.min(to).saturating_sub(counted);
        context.count(|deliveries| {
            deliveries.dropped_memory += starved;
            deliveries.dropped_oldest += to - counted.min(to) - starved;
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
        let Some(subscriber) = self.past(index, floor) else { return };
        let (has, lost) = (subscriber.has, self.lost_to(subscriber));
        if context.keyed.after(has).next().is_none() {
            // There was no memory for them.
            return self.drop_oldest(index, context, sink);
        }
        if !self.tell_stale(index, subscriber, context, sink) {
            return;
        }
        let Some((reached, sent)) = sink.send_latest(subscriber.key, context.topic, context.keyed, has)
        else {
            return;
        };
        // The messages that replace the missed ones may be in the log too, or behind every other cursor.
        let start = self.log.start();
        let cursor =
            if reached < self.log.offset_before(start) { start - 1 } else { self.log.behind_offset(reached) };
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            (subscriber.has, subscriber.cursor) = (reached, cursor);
        }
        let missed = (reached - has) - u64::from(sent);
        // Later messages of their keys replace them, and yet they are missed for lack of memory only.
        let starved = missed.min(lost.min(reached).saturating_sub(has));
        context.count(|deliveries| {
            deliveries.sent += u64::from(sent);
            deliveries.dropped_memory += starved;
            deliveries.dropped_conflated += missed - starved;
        });
    }

    fn send_log(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Some(subscriber) = self.subscribers.get_mut(index) else { return };
        if subscriber.cursor < self.log.start() || !sink.is_writable(subscriber.key) {
            return;
        }
        let tag = SubscriberId { channel: self.id, index }.tag();
        let skip = (subscriber.own_end > subscriber.cursor).then_some(subscriber.skip);
        let mut sent = 0;
        for stretch in self.log.read(subscriber.cursor, skip) {
            if sink.send(subscriber.key, stretch.bytes, stretch.messages, tag).is_err() {
                break;
            }
            sent += u64::from(stretch.messages);
            subscriber.cursor = stretch.end;
            subscriber.has = self.log.offset_before(stretch.end);
        }
        // Own frames at the end are behind the last range.
        if skip.is_some() && self.log.read(subscriber.cursor, skip).next().is_none() {
            subscriber.cursor = self.log.end();
            subscriber.has = self.log.end_offset();
        }
        self.recount_own(index);
        context.count(|deliveries| deliveries.sent += sent);
    }

    /// Counts the subscriber's own messages behind its cursor, all of which are still in the log.
    fn recount_own(&mut self, index: u32) {
        let Some(subscriber) = self.subscribers.get_mut(index) else { return };
        if subscriber.own_end <= subscriber.cursor {
            subscriber.own = 0;
            return;
        }
        let ahead = subscriber.cursor..self.log.appended();
        let is_own = |at: &Sequence| self.log.frame(*at).is_some_and(|(_, origin)| origin == subscriber.skip);
        subscriber.own = ahead.filter(is_own).count() as u32;
    }

    /// The next subscriber from the index `from` on that has been sent everything, at least one message.
    pub(super) fn next_up_to_date(&self, from: u32) -> Option<(u32, K)> {
        let is_up_to_date = |subscriber: &Subscriber<K>| {
            subscriber.cursor == self.log.appended()
                && !subscriber.behind
                && subscriber.in_flight == 0
                && self.log.end_offset() > self.log.offset_before(subscriber.since)
        };
        let found = self.subscribers.iter(from).find(|(_, subscriber)| is_up_to_date(subscriber));
        found.map(|(index, subscriber)| (index, subscriber.key))
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
        let reason = if self.lost_to(subscriber) > reached {
            GapReason::Memory
        } else {
            GapReason::SlowConsumerPolicy
        };
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
        while at > subscriber.since
            && left > 0
            && let Some((bytes, origin)) = self.log.frame(at - 1)
        {
            let message = self.log.offset_before(at) - self.log.offset_before(at - 1);
            at -= 1;
            if is_own(origin) {
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
        self.recount_own(index);
        context.count(|deliveries| deliveries.sent -= messages + in_flight);
        (unsent - left, messages as u32)
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
            context.count(|deliveries| deliveries.sent += sent);
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
            self.recount_own(index);
            if conflates {
                continue;
            }
            let left = self.subscribers.get(index).map_or(0, |subscriber| subscriber.own);
            let evicted = evicted_to.saturating_sub(counted);
            let starved = to.saturating_sub(counted + evicted + u64::from(own - left));
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
        self.log.release(pool);
    }
}
