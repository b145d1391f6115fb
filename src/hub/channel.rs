//! One format of one topic on one shard: a log of the frames encoded so, and the cursors of those who take it.

use bytes::Bytes;

use super::accounts::Deliveries;
use super::keyed::Keyed;
use super::log::{Log, Origin, Parts, Sequence};
use super::settings::{Settings, Slow};
use crate::buffer::Pool;
use crate::limits::Nanos;

/// In what words subscribers are told of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Messages as they were published, and nothing else: there are no words for a gap.
    Raw,
    /// Those of a protocol adapter, which has words for notices.
    Adapter(u8),
}

/// How the messages of a topic are encoded for a subscriber. Each format that is in use has a log of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// In what words.
    pub dialect: Dialect,
    /// log2 of the window in bytes, 9 to 15, where messages are compressed if that makes them shorter, each from an
    /// empty window (RFC 7692, 7.2.3.1): legal whatever was agreed on about keeping windows, and the same bytes for
    /// all who agreed on this one.
    pub window_bits: Option<u8>,
}

/// Names a subscriber while it is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberId {
    /// Of its shard.
    pub(super) channel: u32,
    /// Within its channel.
    pub(super) index: u32,
}

impl MemberId {
    /// It as a number that travels with what is sent to it.
    pub fn tag(self) -> u64 {
        u64::from(self.channel) << 32 | u64::from(self.index)
    }

    /// The member of this number.
    pub fn from_tag(tag: u64) -> MemberId {
        MemberId { channel: (tag >> 32) as u32, index: tag as u32 }
    }
}

/// A message, or a notice, on its way into the logs of its topic.
pub trait Encode {
    /// It as one frame of the topic `topic`, in parts: the same bytes for all subscribers of `format`. Where compression
    /// does not make it shorter that is the plain frame. Asked at most once for each format.
    fn frame(&mut self, topic: &str, format: Format) -> Parts<'_>;
}

/// What a subscriber missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first message.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// It was too slow, or there was no memory for them.
    pub reason: GapReason,
}

/// Why a subscriber missed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// It lagged further than it may.
    Slow,
    /// It came back later than messages are kept.
    History,
    /// There was no memory for them.
    Memory,
    /// The server ended before they could be sent.
    Drain,
}

impl GapReason {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            GapReason::Slow => "slow",
            GapReason::History => "history",
            GapReason::Memory => "memory",
            GapReason::Drain => "drain",
        }
    }
}

/// Where a topic's frames go. Implemented over the shard; `K` names a connection.
pub trait Sink<K> {
    /// Whether a send would be taken now.
    fn is_writable(&self, key: K) -> bool;
    /// Sends encoded frames, `messages` messages. Gives them back when they are not taken. `tag` comes back with what of
    /// it could not be sent, see [`Topics::take_back`](super::Topics::take_back).
    ///
    /// # Errors
    /// The frames, when the connection does not take them now.
    fn send(&mut self, key: K, frames: Bytes, messages: u32, tag: u64) -> Result<(), Bytes>;
    /// Tells of a gap, in order with what is sent. False when that is not taken now.
    fn tell_gap(&mut self, key: K, topic: &str, gap: Gap) -> bool;
    /// Tells that notices of who came and went were missed, in order with what is sent. False when that is not taken now.
    fn tell_stale(&mut self, key: K, member: MemberId, topic: &str) -> bool;
    /// Sends the latest of some keys, each of which replaces others, in order with what is sent. Returns the offset of
    /// the last one and how many they were, `None` when nothing is taken now. Not all need be taken.
    fn send_latest(&mut self, key: K, topic: &str, latest: &Keyed, after: u64) -> Option<(u64, u32)>;
    /// The subscriber fell behind its bound and is dropped from the topic. It was sent everything up to the offset
    /// `reached`, and is not told here that there is more.
    fn fell_behind(&mut self, key: K, member: MemberId, reached: u64, reason: GapReason);
    /// Where logs without readers go back to.
    fn pool(&mut self) -> &mut Pool;
}

/// What all channels of a shard have together.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) subscriptions: usize,
    /// Of them, those that have not got everything.
    pub(super) laggards: usize,
    /// `queued` is not kept here: it follows from the cursors.
    pub(super) deliveries: Deliveries,
}

/// What a channel's work needs of its topic and its shard.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) topic: &'a str,
    pub(super) settings: &'a Settings,
    pub(super) keyed: &'a Keyed,
    pub(super) sums: &'a mut Sums,
    /// The topic's own.
    pub(super) deliveries: &'a mut Deliveries,
    pub(super) now: Nanos,
}

impl Surroundings<'_> {
    /// Counts for the topic and for the shard.
    #[inline]
    fn count(&mut self, count: impl Fn(&mut Deliveries)) {
        count(self.deliveries);
        count(&mut self.sums.deliveries);
    }
}

/// One subscriber: a cursor.
#[derive(Debug)]
struct Member<K> {
    key: K,
    /// Where it began: what lies before was sent to its connection under another subscription, if at all.
    since: Sequence,
    cursor: Sequence,
    /// Frames of this origin are not sent back; 0 for all are sent.
    skip: Origin,
    /// Behind the latest frame of `skip`: while it lies before the cursor there is nothing to skip.
    own_end: Sequence,
    /// The offset that it has everything up to, or was told that it has not, own messages aside.
    has: u64,
    /// Messages of its unfinished send, which are not sent until that is over.
    in_flight: u32,
    /// Its own messages behind its cursor, which it is not owed.
    own: u32,
    behind: bool,
}

/// Why a member was not just sent the latest piece.
enum Stopped {
    /// It is to be offered whatever it lacks.
    Offer(u32),
    /// It is writable, but did not take it.
    Refused(u32),
}

#[derive(Debug)]
pub(super) struct Channel<K> {
    /// Of the topic's table.
    pub(super) topic: u32,
    /// Of the shard.
    id: u32,
    pub(super) format: Format,
    pub(super) log: Log,
    /// Holes are reused.
    members: Vec<Option<Member<K>>>,
    free: Vec<u32>,
    count: usize,
    behind: usize,
    /// What lies before it was lost for want of memory, up to the message `lost_offset`.
    lost_before: Sequence,
    lost_offset: u64,
    /// The latest notice of who came or went: who is sent nothing before it any more may have missed one.
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

    /// Bytes of the log that only those who lag still need.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.log.latest().map_or(0, |latest| self.log.bytes() - latest.bytes.len())
    }

    pub(super) fn has_laggards(&self) -> bool {
        self.behind > 0
    }

    /// Adds a member that is sent what is appended from now on.
    pub(super) fn subscribe(&mut self, key: K, skip: Origin, sums: &mut Sums) -> u32 {
        // Frames of this turn that were appended before now are not for it.
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

    /// Removes a member; what it has not got is dropped.
    pub(super) fn remove(&mut self, index: u32, around: &mut Surroundings<'_>) {
        let Some(member) = self.members.get_mut(index as usize).and_then(Option::take) else { return };
        let gone = self.gone(around.settings).saturating_sub(self.counted(&member, around.settings));
        let missed = self.queued(&member, around.settings) + u64::from(member.in_flight) - gone;
        around.count(|deliveries| {
            deliveries.dropped_oldest += gone;
            deliveries.dropped_disconnect += missed;
        });
        let behind = usize::from(member.behind);
        self.behind -= behind;
        self.count -= 1;
        self.free.push(index);
        around.sums.laggards -= behind;
        around.sums.subscriptions -= 1;
    }

    /// Messages that a member is owed and that were not handed on, those that nobody can read yet included.
    fn queued(&self, member: &Member<K>, settings: &Settings) -> u64 {
        let owed = self.log.offset_before(self.log.appended()).saturating_sub(self.counted(member, settings));
        owed.saturating_sub(u64::from(member.own))
    }

    /// The offset up to which everything was counted for a member, if only as lost. Of keys the latest may get there all
    /// the same, so there nothing counts as lost before it is told.
    fn counted(&self, member: &Member<K>, settings: &Settings) -> u64 {
        if self.policy(settings) == Slow::Conflate { member.has } else { self.lost_to(member) }
    }

    /// The offset up to which a member has everything, or there was no memory for it.
    fn lost_to(&self, member: &Member<K>) -> u64 {
        if member.cursor < self.lost_before { member.has.max(self.lost_offset) } else { member.has }
    }

    /// Up to which offset messages are in no log any more, and lost to those who can be told so.
    fn gone(&self, settings: &Settings) -> u64 {
        match self.policy(settings) {
            Slow::DropOldest => self.log.offset_before(self.log.start()),
            // What is owed of keys is their latest, which is kept.
            Slow::Disconnect | Slow::Conflate => 0,
        }
    }

    /// Completes `deliveries` by what follows from the cursors: what all members are owed, unfinished sends included,
    /// and what of that is in no log any more, of which those who can be told hear when they read on.
    pub(super) fn complete(&self, settings: &Settings, deliveries: &mut Deliveries) {
        let gone = self.gone(settings);
        for member in self.members.iter().flatten() {
            let dropped = gone.saturating_sub(self.counted(member, settings));
            deliveries.queued += self.queued(member, settings) + u64::from(member.in_flight) - dropped;
            deliveries.dropped_oldest += dropped;
        }
    }

    /// Appends a message with which the topic reaches `offset`, or a notice; `own` is the subscriber that published it, of
    /// this channel or another. False when there is no memory for it: nothing was appended.
    #[inline]
    pub(super) fn append(
        &mut self,
        pool: &mut Pool,
        origin: Origin,
        offset: u64,
        own: Option<MemberId>,
        message: &mut impl Encode,
        around: &mut Surroundings<'_>,
    ) -> bool {
        let before = self.log.offset_before(self.log.appended());
        let parts = message.frame(around.topic, self.format);
        if self.log.append(pool, origin, offset, &parts).is_err() {
            return false;
        }
        let mut offered = (offset - before) * self.count as u64;
        if let Some(own) = own
            && own.channel == self.id
            && let Some(Some(member)) = self.members.get_mut(own.index as usize)
            && member.skip == origin
        {
            member.own_end = self.log.appended();
            member.own += 1;
            offered -= 1;
        }
        around.count(|deliveries| deliveries.offered += offered);
        true
    }

    /// The latest frame tells who came or went.
    pub(super) fn note_presence(&mut self) {
        self.presence = self.log.appended().checked_sub(1);
    }

    /// There is no memory for the message with which the topic reaches `offset`: it is lost to all members, with
    /// whatever they have not got. They are told, or dropped, when next offered to.
    #[cold]
    pub(super) fn lose(
        &mut self,
        pool: &mut Pool,
        offset: u64,
        own: Option<MemberId>,
        around: &mut Surroundings<'_>,
    ) {
        let messages = offset - self.log.offset_before(self.log.appended());
        for index in 0..self.members.len() as u32 {
            let Some(member) = &self.members[index as usize] else { continue };
            let is_own =
                own.is_some_and(|own| own.channel == self.id && own.index == index && member.skip != 0);
            let lost = if is_own { 0 } else { messages };
            let conflates = self.policy(around.settings) == Slow::Conflate;
            let dropped = if conflates { 0 } else { self.queued(member, around.settings) + lost };
            around.count(|deliveries| {
                deliveries.offered += lost;
                deliveries.dropped_memory += dropped;
            });
            let Some(member) = &mut self.members[index as usize] else { continue };
            (member.own, member.own_end) = (0, 0);
            self.set_behind(index, true, around.sums);
        }
        self.log.forget_all(offset, pool);
        (self.lost_before, self.lost_offset) = (self.log.start(), offset);
        if around.settings.presence {
            self.presence = self.log.start().checked_sub(1);
        }
    }

    /// Makes readable what was appended and offers it to every member; then what is past the log's bound goes, with
    /// those who still need it and cannot be told.
    pub(super) fn deliver(&mut self, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        self.log.publish(around.now);
        self.offer_all(around, sink);
        self.log.evict(sink.pool());
        if self.behind > 0 {
            for index in 0..self.members.len() as u32 {
                self.settle(index, around, sink);
            }
        }
    }

    fn offer_all(&mut self, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        let mut index = 0;
        while let Some(stopped) = self.send_latest(index, around, sink) {
            index = match stopped {
                Stopped::Offer(index) => {
                    self.offer(index, around, sink);
                    index
                }
                Stopped::Refused(index) => {
                    self.settle(index, around, sink);
                    index
                }
            } + 1;
        }
    }

    /// Sends the latest piece to the members from `first` on, up to one that needs something else: those that keep
    /// up, nearly all, lack just that.
    fn send_latest(
        &mut self,
        first: u32,
        around: &mut Surroundings<'_>,
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
        around.count(|deliveries| deliveries.sent += sent);
        stopped
    }

    /// Offers one member what lies behind its cursor. One that lags further than it may misses what it may not have any
    /// more, or is dropped.
    pub(super) fn offer(&mut self, index: u32, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        let Some(Some(member)) = self.members.get(index as usize) else { return };
        if member.cursor >= self.log.end() && !member.behind {
            return;
        }
        if member.cursor < self.log.end() && sink.is_writable(member.key) {
            match self.policy(around.settings) {
                Slow::Disconnect => {}
                Slow::DropOldest => self.drop_oldest(index, around, sink),
                Slow::Conflate => self.conflate(index, around, sink),
            }
            self.send_log(index, around, sink);
        }
        self.settle(index, around, sink);
    }

    /// What happens to members past their bound: who cannot be told of a gap is disconnected.
    fn policy(&self, settings: &Settings) -> Slow {
        match self.format.dialect {
            Dialect::Raw => Slow::Disconnect,
            Dialect::Adapter(_) => settings.slow,
        }
    }

    /// The oldest frame that a member may still be sent.
    fn floor(&self, around: &Surroundings<'_>) -> Sequence {
        let young = self.log.first_since(around.now.saturating_sub(around.settings.lag));
        self.log.start().max(young)
    }

    fn drop_oldest(&mut self, index: u32, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        let floor = self.floor(around);
        let Some(member) = self.past(index, floor) else { return };
        let (has, counted, lost) = (member.has, self.counted(member, around.settings), self.lost_to(member));
        if !self.tell_stale(index, member, around, sink) {
            return;
        }
        let to = self.log.offset_before(floor);
        if to > has {
            let reason = if lost > has { GapReason::Memory } else { GapReason::Slow };
            if !sink.tell_gap(member.key, around.topic, Gap { from: has + 1, to, reason }) {
                return;
            }
        }
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            (member.has, member.cursor) = (to, floor);
        }
        // For want of memory, as far as that was not counted before.
        let starved = lost.min(to).saturating_sub(counted);
        around.count(|deliveries| {
            deliveries.dropped_memory += starved;
            deliveries.dropped_oldest += to - counted.min(to) - starved;
        });
    }

    /// Tells a member that is about to miss frames when notices of who came or went may be among them. False when that is
    /// not taken now. What comes after it may repeat what it missed, and it may be told twice, when it could not be told of a
    /// gap right away.
    fn tell_stale(
        &self,
        index: u32,
        member: &Member<K>,
        around: &Surroundings<'_>,
        sink: &mut impl Sink<K>,
    ) -> bool {
        let missed = self.presence.is_some_and(|latest| member.cursor <= latest);
        !missed || sink.tell_stale(member.key, MemberId { channel: self.id, index }, around.topic)
    }

    /// The member, when its cursor is before `floor`.
    fn past(&self, index: u32, floor: Sequence) -> Option<&Member<K>> {
        self.members.get(index as usize)?.as_ref().filter(|member| member.cursor < floor)
    }

    fn conflate(&mut self, index: u32, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        let floor = self.floor(around);
        let Some(member) = self.past(index, floor) else { return };
        let has = member.has;
        if around.keyed.after(has).next().is_none() {
            // There was no memory for them.
            return self.drop_oldest(index, around, sink);
        }
        if !self.tell_stale(index, member, around, sink) {
            return;
        }
        let Some((reached, sent)) = sink.send_latest(member.key, around.topic, around.keyed, has) else {
            return;
        };
        // What replaces the missed ones may lie in the log too, or behind what all others have got.
        let start = self.log.start();
        let cursor =
            if reached < self.log.offset_before(start) { start - 1 } else { self.log.behind_offset(reached) };
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            (member.has, member.cursor) = (reached, cursor);
        }
        let missed = (reached - has) - u64::from(sent);
        around.count(|deliveries| {
            deliveries.sent += u64::from(sent);
            deliveries.dropped_conflated += missed;
        });
    }

    fn send_log(&mut self, index: u32, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
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
        // Own frames at the end are behind the last stretch.
        if skip.is_some() && self.log.read(member.cursor, skip).next().is_none() {
            member.cursor = self.log.end();
            member.has = self.log.end_offset();
        }
        self.recount_own(index);
        around.count(|deliveries| deliveries.sent += sent);
    }

    /// Counts the member's own messages behind its cursor, all of which are kept.
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

    /// Notes whether a member has got everything.
    fn set_behind(&mut self, index: u32, is_behind: bool, sums: &mut Sums) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        if std::mem::replace(&mut member.behind, is_behind) != is_behind {
            let (less, more) = (usize::from(!is_behind), usize::from(is_behind));
            self.behind = self.behind + more - less;
            sums.laggards = sums.laggards + more - less;
        }
    }

    /// Sees how far behind a member is after it was offered something, and drops it when it is past its bound and
    /// cannot be told.
    fn settle(&mut self, index: u32, around: &mut Surroundings<'_>, sink: &mut impl Sink<K>) {
        let policy = self.policy(around.settings);
        let Some(Some(member)) = self.members.get(index as usize) else { return };
        let (key, cursor, reached) = (member.key, member.cursor, member.has);
        let reason = if self.lost_to(member) > reached { GapReason::Memory } else { GapReason::Slow };
        let is_behind = cursor != self.log.end();
        self.set_behind(index, is_behind, around.sums);
        if policy != Slow::Disconnect || !is_behind {
            return;
        }
        let lost = cursor < self.log.start();
        let since = self.log.readable_since(cursor);
        let late = since.is_some_and(|since| since.saturating_add(around.settings.lag) < around.now);
        if lost || late {
            sink.fell_behind(key, MemberId { channel: self.id, index }, reached, reason);
            self.remove(index, around);
        }
    }

    /// Of what was sent to a member last, `unsent` bytes at the end have not been taken by the kernel. Takes back the
    /// whole frames among them; `all` says that nothing before them is unsent either, so that one must stay. Returns
    /// their bytes and how many messages they are: they lie behind the cursor again.
    pub(super) fn take_back(
        &mut self,
        index: u32,
        key: K,
        unsent: usize,
        all: bool,
        around: &mut Surroundings<'_>,
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
                // The kernel is in the middle of it, or about to begin.
                in_flight = message;
                break;
            }
            left -= bytes;
            messages += message;
            cursor = at;
        }
        member.cursor = cursor;
        member.has = self.log.offset_before(cursor);
        member.in_flight += in_flight as u32;
        if cursor != self.log.end() {
            self.set_behind(index, true, around.sums);
        }
        self.recount_own(index);
        around.count(|deliveries| deliveries.sent -= messages + in_flight);
        (unsent - left, messages as u32)
    }

    /// Up to which offset a member was sent everything, or told that it was not, and whether that is all there is. `None`
    /// when there is no such member.
    pub(super) fn reached(&self, index: u32) -> Option<(u64, bool)> {
        let member = self.members.get(index as usize)?.as_ref()?;
        Some((member.has, member.cursor == self.log.appended()))
    }

    /// The unfinished send of a member is over.
    pub(super) fn finished(&mut self, index: u32, around: &mut Surroundings<'_>) {
        if let Some(Some(member)) = self.members.get_mut(index as usize) {
            let sent = u64::from(std::mem::take(&mut member.in_flight));
            around.count(|deliveries| deliveries.sent += sent);
        }
    }

    /// Forgets what only those who lag still need.
    pub(super) fn shed(&mut self, pool: &mut Pool) {
        self.log.forget_before(self.log.end(), pool);
    }

    /// Gives the memory back; the members are forgotten.
    pub(super) fn release(&mut self, pool: &mut Pool, around: &mut Surroundings<'_>) {
        for index in 0..self.members.len() as u32 {
            self.remove(index, around);
        }
        self.log.release(pool);
    }
}
