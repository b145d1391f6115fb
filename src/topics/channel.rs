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
use self::sink::{Gap, GapReason, MemberId, Sink};
use super::accounts::Deliveries;
use super::settings::{SlowConsumerPolicy, TopicSettings};
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

/// Sums over all channels of a shard.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) subscriptions: usize,
    /// Members that have not been sent everything.
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
    pub(super) publisher: Option<MemberId>,
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
    /// The members that are notified of joins and leaves.
    Presence,
}

/// One subscriber: a cursor.
#[derive(Debug)]
struct Member<K> {
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

/// Why the latest piece was not sent to a member.
enum Stopped {
    /// It needs more than the latest piece.
    Offer(u32),
    /// It is writable, but did not accept it.
    Refused(u32),
}

#[derive(Debug)]
pub(super) struct Channel<K> {
    /// Number of the format in its topic.
    pub(super) topic: u32,
    /// Number of the channel on its shard.
    id: u32,
    pub(super) format: Format,
    pub(super) log: Log,
    /// Freed indices are reused.
    members: Vec<Option<Member<K>>>,
    free: Vec<u32>,
    count: usize,
    behind: usize,
    /// Frames before it were lost for lack of memory, up to the message `lost_offset`.
    lost_before: Sequence,
    lost_offset: u64,
    /// The latest presence event: a member that skips frames before it may have missed one.
    presence: Option<Sequence>,
}

impl<K: Copy + Eq> Channel<K> {
    /// A channel of a topic that has reached `offset`.
    pub(super) fn new(id: u32, topic: u32, format: Format, log_bytes_max: usize, offset: u64) -> Channel<K> {
        Channel {
            topic,
            id,
            format,
            log: Log::new(log_bytes_max, offset),
            members: Vec::new(),
            free: Vec::new(),
            count: 0,
            behind: 0,
            lost_before: 0,
            lost_offset: 0,
            presence: None,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
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

    /// Adds a member that is sent everything that is appended from now on.
    pub(super) fn subscribe(&mut self, key: K, skip: Origin, sums: &mut Sums) -> u32 {
        // Frames that were appended earlier in this tick are not for it.
        let cursor = self.log.appended();
        let has = self.log.offset_before(cursor);
        let member =
            Member { key, since: cursor, cursor, skip, own_end: 0, has, in_flight: 0, own: 0, behind: false };
        self.count += 1;
        sums.subscriptions += 1;
        match self.free.pop() {
            Some(index) => {
                self.members[index as usize] = Some(member);
                index
            }
            None => {
                self.members.push(Some(member));
                (self.members.len() - 1) as u32
            }
        }
    }

    /// Removes a member; its unsent messages count as dropped.
    pub(super) fn remove(&mut self, index: u32, context: &mut ChannelContext<'_>) {
        let Some(member) = self.members.get_mut(index as usize).and_then(Option::take) else { return };
        let gone = self.gone(context.settings).saturating_sub(self.counted(&member, context.settings));
        let missed = self.queued(&member, context.settings) + u64::from(member.in_flight) - gone;
        context.count(|deliveries| {
            deliveries.dropped_oldest += gone;
            deliveries.dropped_disconnect += missed;
        });
        let behind = usize::from(member.behind);
        self.behind -= behind;
        self.count -= 1;
        self.free.push(index);
        context.sums.laggards -= behind;
        context.sums.subscriptions -= 1;
    }

    /// Messages due to a member and not sent, including those that are not readable yet.
    fn queued(&self, member: &Member<K>, settings: &TopicSettings) -> u64 {
        let owed = self.log.offset_before(self.log.appended()).saturating_sub(self.counted(member, settings));
        owed.saturating_sub(u64::from(member.own))
    }

    /// The offset up to which everything was counted for a member, possibly as lost. On a conflated topic the latest
    /// messages may still be sent, so there nothing counts as lost before it is reported.
    fn counted(&self, member: &Member<K>, settings: &TopicSettings) -> u64 {
        if self.policy(settings) == SlowConsumerPolicy::Conflate { member.has } else { self.lost_to(member) }
    }

    /// The offset up to which a member has everything, or has lost it for lack of memory.
    fn lost_to(&self, member: &Member<K>) -> u64 {
        if member.cursor < self.lost_before { member.has.max(self.lost_offset) } else { member.has }
    }

    /// The offset up to which messages have left the log, for subscribers that can be notified of a gap.
    fn gone(&self, settings: &TopicSettings) -> u64 {
        match self.policy(settings) {
            SlowConsumerPolicy::DropOldest => self.log.offset_before(self.log.start()),
            // The latest message of each key is owed, and is kept.
            SlowConsumerPolicy::Disconnect | SlowConsumerPolicy::Conflate => 0,
        }
    }

    /// The indices and keys of all members.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, K)> {
        let members = (0..).zip(&self.members);
        members.filter_map(|(index, member)| member.as_ref().map(|member| (index, member.key)))
    }

    /// Completes `deliveries` with the figures that follow from the cursors: the messages due to all members, partial
    /// sends included, and those that have left the log and will be reported when the members read on.
    pub(super) fn complete(&self, settings: &TopicSettings, deliveries: &mut Deliveries) {
        let gone = self.gone(settings);
        for member in self.members.iter().flatten() {
            let dropped = gone.saturating_sub(self.counted(member, settings));
            deliveries.queued += self.queued(member, settings) + u64::from(member.in_flight) - dropped;
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
        let mut offered = (offset - before) * self.count as u64;
        if let Some(publisher) = publisher
            && publisher.channel == self.id
            && let Some(Some(member)) = self.members.get_mut(publisher.index as usize)
            && member.skip == origin
        {
            member.own_end = self.log.appended();
            member.own += 1;
            offered -= 1;
        }
        context.count(|deliveries| deliveries.offered += offered);
        true
    }

    /// The latest frame is a presence event.
    pub(super) fn note_presence(&mut self) {
        self.presence = self.log.appended().checked_sub(1);
    }

    /// Drops a message for lack of memory, together with everything that members have not been sent. They are notified
    /// or disconnected at the next offer.
    #[cold]
    pub(super) fn lose(&mut self, pool: &mut Pool, append: &Append, context: &mut ChannelContext<'_>) {
        let Append { offset, publisher, .. } = *append;
        let messages = offset - self.log.offset_before(self.log.appended());
        for index in 0..self.members.len() as u32 {
            let Some(member) = &self.members[index as usize] else { continue };
            let id = MemberId { channel: self.id, index };
            let is_own = publisher == Some(id) && member.skip != 0;
            let lost = if is_own { 0 } else { messages };
            let conflates = self.policy(context.settings) == SlowConsumerPolicy::Conflate;
            let dropped = if conflates { 0 } else { self.queued(member, context.settings) + lost };
            context.count(|deliveries| {
                deliveries.offered += lost;
                deliveries.dropped_memory += dropped;
            });
            let Some(member) = &mut self.members[index as usize] else { continue };
            (member.own, member.own_end) = (0, 0);
            self.set_behind(index, true, context.sums);
        }
        self.log.forget_all(offset, pool);
        (self.lost_before, self.lost_offset) = (self.log.start(), offset);
        if context.settings.has_presence() && self.format.dialect.has_presence() {
            self.presence = self.log.start().checked_sub(1);
        }
    }

    /// Makes the appended frames readable and offers them to every member; then evicts the frames beyond the log's
    /// bound, with the members that still need them and cannot be notified.
    pub(super) fn deliver(&mut self, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        self.log.publish(context.now);
        self.offer_all(context, sink);
        self.log.evict(sink.pool());
        if self.behind > 0 {
            for index in 0..self.members.len() as u32 {
                self.settle(index, context, sink);
            }
        }
    }

    fn offer_all(&mut self, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let mut index = 0;
        while let Some(stopped) = self.send_latest(index, context, sink) {
            index = match stopped {
                Stopped::Offer(index) => {
                    self.offer(index, context, sink);
                    index
                }
                Stopped::Refused(index) => {
                    self.settle(index, context, sink);
                    index
                }
            } + 1;
        }
    }

    /// Sends the latest piece to the members from `first` on, up to one that needs something else. Nearly all members
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
        for (index, member) in (first..).zip(self.members.get_mut(first as usize..)?) {
            let Some(member) = member else { continue };
            let keeps_up = !member.behind
                && latest
                    .is_some_and(|latest| member.cursor == latest.first && member.own_end <= latest.first);
            let (Some(latest), true) = (latest, keeps_up && sink.is_writable(member.key)) else {
                stopped = Some(Stopped::Offer(index));
                break;
            };
            let tag = MemberId { channel: self.id, index }.tag();
            if sink.send(member.key, latest.bytes.clone(), latest.messages, tag).is_err() {
                stopped = Some(Stopped::Refused(index));
                break;
            }
            member.cursor = latest.end;
            member.has = end_offset;
            sent += u64::from(latest.messages);
        }
        context.count(|deliveries| deliveries.sent += sent);
        stopped
    }

    /// Offers one member the frames behind its cursor. A member above its lag bound skips frames, or is removed.
    pub(super) fn offer(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let Some(Some(member)) = self.members.get(index as usize) else { return };
        if member.cursor >= self.log.end() && !member.behind {
            return;
        }
        if member.cursor < self.log.end() && sink.is_writable(member.key) {
            match self.policy(context.settings) {
                SlowConsumerPolicy::Disconnect => {}
                SlowConsumerPolicy::DropOldest => self.drop_oldest(index, context, sink),
                SlowConsumerPolicy::Conflate => self.conflate(index, context, sink),
            }
            self.send_log(index, context, sink);
        }
        self.settle(index, context, sink);
    }

    /// The policy for members above their lag bound. Members that cannot be notified of a gap are removed.
    fn policy(&self, settings: &TopicSettings) -> SlowConsumerPolicy {
        if self.format.dialect.has_gaps() { settings.slow } else { SlowConsumerPolicy::Disconnect }
    }

    /// The oldest frame that may still be sent to a member.
    fn floor(&self, context: &ChannelContext<'_>) -> Sequence {
        let young = self.log.first_since(context.now.saturating_sub(context.settings.lag));
        self.log.start().max(young)
    }

    fn drop_oldest(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let floor = self.floor(context);
        let Some(member) = self.past(index, floor) else { return };
        let (has, counted, lost) = (member.has, self.counted(member, context.settings), self.lost_to(member));
        if !self.tell_stale(index, member, context, sink) {
            return;
        }
        let to = self.log.offset_before(floor);
        if to > has {
            let reason = if lost > has { GapReason::Memory } else { GapReason::SlowConsumerPolicy };
            if !sink.tell_gap(member.key, context.topic, Gap { from: has + 1, to, reason }) {
                return;
            }
        }
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            (member.has, member.cursor) = (to, floor);
        }
        // Lost for lack of memory, as far as that was not counted before.
        let starved = lost.min(to).saturating_sub(counted);
        context.count(|deliveries| {
            deliveries.dropped_memory += starved;
            deliveries.dropped_oldest += to - counted.min(to) - starved;
        });
    }

    /// Notifies a member that it may miss presence events among the frames that it skips. False if that is not accepted
    /// now. It may be notified twice if the gap report is not accepted at once; later events may repeat the missed
    /// ones.
    fn tell_stale(
        &self,
        index: u32,
        member: &Member<K>,
        context: &ChannelContext<'_>,
        sink: &mut impl Sink<K>,
    ) -> bool {
        let missed = self.presence.is_some_and(|latest| member.cursor <= latest);
        !missed || sink.tell_stale(member.key, MemberId { channel: self.id, index }, context.topic)
    }

    /// The member, if its cursor is before `floor`.
    fn past(&self, index: u32, floor: Sequence) -> Option<&Member<K>> {
        self.members.get(index as usize)?.as_ref().filter(|member| member.cursor < floor)
    }

    fn conflate(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let floor = self.floor(context);
        let Some(member) = self.past(index, floor) else { return };
        let (has, lost) = (member.has, self.lost_to(member));
        if context.keyed.after(has).next().is_none() {
            // There was no memory for them.
            return self.drop_oldest(index, context, sink);
        }
        if !self.tell_stale(index, member, context, sink) {
            return;
        }
        let Some((reached, sent)) = sink.send_latest(member.key, context.topic, context.keyed, has) else {
            return;
        };
        // The messages that replace the missed ones may be in the log too, or behind every other cursor.
        let start = self.log.start();
        let cursor =
            if reached < self.log.offset_before(start) { start - 1 } else { self.log.behind_offset(reached) };
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            (member.has, member.cursor) = (reached, cursor);
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
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        if member.cursor < self.log.start() || !sink.is_writable(member.key) {
            return;
        }
        let tag = MemberId { channel: self.id, index }.tag();
        let skip = (member.own_end > member.cursor).then_some(member.skip);
        let mut sent = 0;
        for stretch in self.log.read(member.cursor, skip) {
            if sink.send(member.key, stretch.bytes, stretch.messages, tag).is_err() {
                break;
            }
            sent += u64::from(stretch.messages);
            member.cursor = stretch.end;
            member.has = self.log.offset_before(stretch.end);
        }
        // Own frames at the end are behind the last range.
        if skip.is_some() && self.log.read(member.cursor, skip).next().is_none() {
            member.cursor = self.log.end();
            member.has = self.log.end_offset();
        }
        self.recount_own(index);
        context.count(|deliveries| deliveries.sent += sent);
    }

    /// Counts the member's own messages behind its cursor, all of which are still in the log.
    fn recount_own(&mut self, index: u32) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        if member.own_end <= member.cursor {
            member.own = 0;
            return;
        }
        let ahead = member.cursor..self.log.appended();
        let is_own = |at: &Sequence| self.log.frame(*at).is_some_and(|(_, origin)| origin == member.skip);
        member.own = ahead.filter(is_own).count() as u32;
    }

    /// The next member from the index `from` on that has been sent everything, at least one message.
    pub(super) fn next_up_to_date(&self, from: u32) -> Option<(u32, K)> {
        let is_up_to_date = |member: &Member<K>| {
            member.cursor == self.log.appended()
                && !member.behind
                && member.in_flight == 0
                && self.log.end_offset() > self.log.offset_before(member.since)
        };
        let mut members = (from..).zip(self.members.get(from as usize..)?);
        members.find_map(|(index, member)| {
            let member = member.as_ref().filter(|member| is_up_to_date(member))?;
            Some((index, member.key))
        })
    }

    /// Updates whether a member has been sent everything.
    fn set_behind(&mut self, index: u32, is_behind: bool, sums: &mut Sums) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        if std::mem::replace(&mut member.behind, is_behind) != is_behind {
            let (less, more) = (usize::from(!is_behind), usize::from(is_behind));
            self.behind = self.behind + more - less;
            sums.laggards = sums.laggards + more - less;
        }
    }

    /// Checks a member's lag after an offer, and removes it if it exceeds its bound and cannot be notified.
    fn settle(&mut self, index: u32, context: &mut ChannelContext<'_>, sink: &mut impl Sink<K>) {
        let policy = self.policy(context.settings);
        let Some(Some(member)) = self.members.get(index as usize) else { return };
        let (key, cursor, reached) = (member.key, member.cursor, member.has);
        let reason =
            if self.lost_to(member) > reached { GapReason::Memory } else { GapReason::SlowConsumerPolicy };
        let is_behind = cursor != self.log.end();
        self.set_behind(index, is_behind, context.sums);
        if policy != SlowConsumerPolicy::Disconnect || !is_behind {
            return;
        }
        let lost = cursor < self.log.start();
        let since = self.log.readable_since(cursor);
        let late = since.is_some_and(|since| since.saturating_add(context.settings.lag) < context.now);
        if lost || late {
            sink.fell_behind(key, MemberId { channel: self.id, index }, reached, reason);
            self.remove(index, context);
        }
    }

    /// Takes back whole frames from a member's last send, of which the kernel has not accepted the last `unsent` bytes;
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
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return (0, 0) };
        if member.key != key {
            return (0, 0);
        }
        let is_own = |origin| member.skip != 0 && origin == member.skip;
        let (mut left, mut at, mut cursor) = (unsent, member.cursor, member.cursor);
        let (mut messages, mut in_flight) = (0, 0);
        while at > member.since
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
        if cursor != member.cursor {
            member.cursor = cursor;
            member.has = self.log.offset_before(cursor);
        }
        member.in_flight += in_flight as u32;
        if cursor != self.log.end() {
            self.set_behind(index, true, context.sums);
        }
        self.recount_own(index);
        context.count(|deliveries| deliveries.sent -= messages + in_flight);
        (unsent - left, messages as u32)
    }

    /// The offset up to which everything was sent to a member or reported as lost, and whether that is everything.
    /// `None` if there is no such member.
    pub(super) fn reached(&self, index: u32) -> Option<(u64, bool)> {
        let member = self.members.get(index as usize)?.as_ref()?;
        Some((member.has, member.cursor == self.log.appended()))
    }

    /// Bytes of the log behind a member's cursor, frames of its own included.
    pub(super) fn lag_bytes(&self, index: u32) -> Option<u64> {
        let member = self.members.get(index as usize)?.as_ref()?;
        Some(self.log.bytes_from(member.cursor))
    }

    /// A member's partial send is complete.
    pub(super) fn finished(&mut self, index: u32, context: &mut ChannelContext<'_>) {
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            let sent = u64::from(std::mem::take(&mut member.in_flight));
            context.count(|deliveries| deliveries.sent += sent);
        }
    }

    /// Drops frames that only slow consumers still need, for lack of memory. They are notified or disconnected at the
    /// next offer.
    pub(super) fn shed(&mut self, pool: &mut Pool, context: &mut ChannelContext<'_>) {
        let evicted_to = self.gone(context.settings);
        self.log.forget_before(self.log.end(), pool);
        let (start, to) = (self.log.start(), self.log.offset_before(self.log.start()));
        // On a conflated topic nothing counts as lost before it is reported.
        let conflates = self.policy(context.settings) == SlowConsumerPolicy::Conflate;
        for index in 0..self.members.len() as u32 {
            let Some(member) = self.past(index, start) else { continue };
            let (counted, own) = (self.counted(member, context.settings), member.own);
            self.recount_own(index);
            if conflates {
                continue;
            }
            let left = self.members[index as usize].as_ref().map_or(0, |member| member.own);
            let evicted = evicted_to.saturating_sub(counted);
            let starved = to.saturating_sub(counted + evicted + u64::from(own - left));
            context.count(|deliveries| {
                deliveries.dropped_oldest += evicted;
                deliveries.dropped_memory += starved;
            });
        }
        (self.lost_before, self.lost_offset) = (start, to);
    }

    /// Returns the memory; the members are removed.
    pub(super) fn release(&mut self, pool: &mut Pool, context: &mut ChannelContext<'_>) {
        for index in 0..self.members.len() as u32 {
            self.remove(index, context);
        }
        self.log.release(pool);
    }
}
