//! The topics of one shard: for each, a channel per format that subscribers take.

use std::collections::BTreeMap;

use super::accounts::{Deliveries, TopicReport};
use super::by_size::BySize;
use super::channel::{Channel, Dialect, Encode, Format, MemberId, Sink, Sums, Surroundings};
use super::home::Homes;
use super::keyed::Keyed;
use super::log::Origin;
use super::message::Publication;
use super::remembered::Remembered;
use super::settings::{Rules, Settings, Slow};
use crate::buffer::Pool;
use crate::limits::Nanos;

/// Names a topic on its shard. Generations tell reuses of an index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    /// Position in the shard's table.
    pub index: u32,
    /// Counts the reuses of `index`.
    pub generation: u32,
}

#[derive(Debug)]
struct Topic {
    name: Box<str>,
    settings: Settings,
    /// One for each format that has subscribers.
    channels: Vec<u32>,
    /// Of the latest message here.
    offset: u64,
    /// The latest message of each key, where that is what slow subscribers get.
    keyed: Keyed,
    deliveries: Deliveries,
    /// Listed as having frames that nobody was offered yet.
    dirty: bool,
    /// Messages of this turn.
    fresh: u32,
    pace: Pace,
    /// When subscribers last heard something of it, or were seen to be there.
    spoke_at: Nanos,
}

/// How long messages wait for others.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Grows while turns bring more than one message each, and shrinks otherwise.
    window: Nanos,
    /// When what waits is delivered; 0 while nothing waits.
    until: Nanos,
}

impl Pace {
    /// Whether a topic with `fresh` messages of this turn is to be delivered now.
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

/// All topics of a shard that have subscribers here.
#[derive(Debug)]
pub struct Topics<K> {
    by_name: BTreeMap<Box<str>, TopicId>,
    table: Vec<(u32, Option<Topic>)>,
    free: Vec<u32>,
    channels: Vec<Option<Channel<K>>>,
    free_channels: Vec<u32>,
    /// What of the channels' logs only those who lag still need.
    backlogs: BySize,
    /// Topics with frames that nobody was offered yet.
    dirty: Vec<TopicId>,
    spare: Vec<TopicId>,
    /// Of the dirty ones, those that wait for more.
    waiting: usize,
    /// When those of them that wait for more are due.
    due_at: Option<Nanos>,
    /// No message waits for others any more.
    hurries: bool,
    rules: Rules,
    sums: Sums,
    /// What became of messages of topics that have no subscribers here any more.
    left: Remembered<Deliveries>,
}

/// Around one topic. Built where fields must stay borrowed beside it.
macro_rules! around {
    ($topics:expr, $topic:expr, $now:expr) => {
        &mut Surroundings {
            topic: &$topic.name,
            settings: &$topic.settings,
            keyed: &$topic.keyed,
            sums: &mut $topics.sums,
            deliveries: &mut $topic.deliveries,
            now: $now,
        }
    };
}

impl<K: Copy + Eq> Topics<K> {
    /// No topics. `rules` say what will hold for them.
    pub fn new(rules: Rules) -> Topics<K> {
        Topics {
            by_name: BTreeMap::new(),
            table: Vec::new(),
            free: Vec::new(),
            channels: Vec::new(),
            free_channels: Vec::new(),
            backlogs: BySize::default(),
            dirty: Vec::new(),
            spare: Vec::new(),
            waiting: 0,
            due_at: None,
            hurries: false,
            rules,
            sums: Sums::default(),
            left: Remembered::default(),
        }
    }

    /// How many topics there are here.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many subscribers all topics have here.
    pub fn subscriptions(&self) -> usize {
        self.sums.subscriptions
    }

    /// What holds for the topic `name`, here or not.
    pub fn settings_of(&self, name: &str) -> &Settings {
        self.rules.of(name)
    }

    /// The topic of this name, if it is known here.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// A topic's name.
    pub fn name(&self, id: TopicId) -> Option<&str> {
        get(&self.table, id).map(|topic| &*topic.name)
    }

    /// What holds for a topic.
    pub fn settings(&self, id: TopicId) -> Option<&Settings> {
        get(&self.table, id).map(|topic| &topic.settings)
    }

    /// The offset that a topic has reached here.
    pub fn offset(&self, id: TopicId) -> u64 {
        get(&self.table, id).map_or(0, |topic| topic.offset)
    }

    /// Makes a topic without subscribers.
    pub fn create(&mut self, name: &str, now: Nanos, pool: &mut Pool) -> TopicId {
        let topic = Topic {
            name: name.into(),
            settings: *self.rules.of(name),
            channels: Vec::new(),
            offset: 0,
            keyed: Keyed::default(),
            deliveries: self.left.take(name, pool).unwrap_or_default(),
            dirty: false,
            fresh: 0,
            pace: Pace::default(),
            spoke_at: now,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push((0, None));
            (self.table.len() - 1) as u32
        });
        let entry = &mut self.table[index as usize];
        entry.1 = Some(topic);
        let id = TopicId { index, generation: entry.0 };
        self.by_name.insert(name.into(), id);
        id
    }

    /// The offset that a topic has reached before it has subscribers here.
    pub fn begin_at(&mut self, id: TopicId, offset: u64) {
        if let Some(topic) = get_mut(&mut self.table, id) {
            debug_assert!(topic.channels.is_empty());
            topic.offset = offset;
        }
    }

    /// Forgets a topic and gives its memory back. Its subscribers are forgotten with it; what became of its messages is
    /// kept for a while.
    pub fn remove(&mut self, id: TopicId, now: Nanos, pool: &mut Pool) {
        if get(&self.table, id).is_none() {
            return;
        }
        let entry = &mut self.table[id.index as usize];
        let Some(mut topic) = entry.1.take() else { return };
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(id.index);
        self.by_name.remove(&topic.name);
        for channel in std::mem::take(&mut topic.channels) {
            if let Some(mut gone) = self.channels[channel as usize].take() {
                self.backlogs.set(channel, 0);
                gone.release(pool, around!(self, topic, 0));
                self.free_channels.push(channel);
            }
        }
        topic.keyed.release(pool);
        if topic.deliveries != Deliveries::default() {
            self.left.put(&topic.name, topic.deliveries, now, pool);
        }
    }

    /// What became of messages of a topic that has no subscribers here any more.
    pub fn left(&self, name: &str) -> Option<TopicReport> {
        self.left.get(name).map(|deliveries| report_of_left(name, deliveries))
    }

    /// The same of all such topics.
    pub fn all_left(&self) -> impl Iterator<Item = TopicReport> {
        self.left.iter().map(|(name, deliveries)| report_of_left(name, deliveries))
    }

    /// Forgets what is not worth keeping any longer.
    pub fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        self.left.expire(now, pool);
    }

    /// Adds a subscriber that is sent all that is appended from now on, encoded as `format`, less what has the
    /// origin `skip`. The first of a format brings a log into being.
    pub fn subscribe(&mut self, id: TopicId, key: K, format: Format, skip: Origin) -> Option<MemberId> {
        let topic = get_mut(&mut self.table, id)?;
        let channels = &mut self.channels;
        let known =
            topic.channels.iter().copied().find(|channel| {
                channels[*channel as usize].as_ref().is_some_and(|known| known.format == format)
            });
        let channel = known.unwrap_or_else(|| {
            let number = self.free_channels.pop().unwrap_or_else(|| {
                channels.push(None);
                (channels.len() - 1) as u32
            });
            let Settings { lag_bytes, .. } = topic.settings;
            channels[number as usize] = Some(Channel::new(number, id.index, format, lag_bytes, topic.offset));
            // Nearly every topic has one format, and there may be many topics.
            topic.channels.reserve_exact(1);
            topic.channels.push(number);
            number
        });
        let index = self.channels[channel as usize].as_mut()?.subscribe(key, skip, &mut self.sums);
        Some(MemberId { channel, index })
    }

    /// Removes a subscriber. The last of a format leaves no log behind.
    pub fn unsubscribe(&mut self, member: MemberId, pool: &mut Pool) {
        let Some(Some(channel)) = self.channels.get_mut(member.channel as usize) else { return };
        let Some(topic) = self.table[channel.topic as usize].1.as_mut() else { return };
        channel.remove(member.index, around!(self, topic, 0));
        release_deserted(&mut self.channels, &mut self.free_channels, topic, &mut self.sums, pool);
    }

    /// Whether a topic has no subscribers here.
    pub fn is_deserted(&self, id: TopicId) -> bool {
        get(&self.table, id).is_some_and(|topic| topic.channels.is_empty())
    }

    /// Appends the message `offset` of a topic; `own` is the subscriber here that published it. `homes` make room when
    /// there is no memory left.
    #[expect(clippy::too_many_arguments, reason = "a message, its place, and who makes room")]
    #[inline]
    pub fn append(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        homes: &mut Homes,
        origin: Origin,
        own: Option<MemberId>,
        offset: u64,
        publication: &Publication<'_>,
        message: &mut impl Encode,
    ) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        topic.offset = offset;
        topic.fresh += 1;
        if topic.settings.slow == Slow::Conflate && !topic.channels.is_empty() && !publication.key.is_empty()
        {
            // Without memory the key has what it had before: who lags gets that, and is told of what it skipped.
            while !topic.keyed.keep(pool, offset, publication) && homes.shed(pool) {}
        }
        self.append_to(id, pool, homes, origin, own, offset, |_| true, message);
    }

    /// Appends a notice for those subscribers whose protocol has words for it.
    pub fn append_notice(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        homes: &mut Homes,
        notice: &mut impl Encode,
    ) {
        let offset = self.offset(id);
        self.append_to(id, pool, homes, 0, None, offset, |format| format.dialect != Dialect::Raw, notice);
    }

    /// The same about who came or went: those who miss it are told that they did.
    pub fn append_presence(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        homes: &mut Homes,
        notice: &mut impl Encode,
    ) {
        self.append_notice(id, pool, homes, notice);
        let Some(topic) = get(&self.table, id) else { return };
        for &number in &topic.channels {
            if let Some(channel) = &mut self.channels[number as usize]
                && channel.format.dialect != Dialect::Raw
            {
                channel.note_presence();
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a message, its place, and who makes room")]
    #[inline]
    fn append_to(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        homes: &mut Homes,
        origin: Origin,
        own: Option<MemberId>,
        offset: u64,
        takes: impl Fn(Format) -> bool,
        message: &mut impl Encode,
    ) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        let mut starved = false;
        for &number in &topic.channels {
            let Some(channel) = &mut self.channels[number as usize] else { continue };
            if takes(channel.format) {
                starved |= !channel.append(pool, origin, offset, own, message, around!(self, topic, 0));
            }
        }
        if !topic.dirty {
            topic.dirty = true;
            self.dirty.push(id);
        }
        if starved {
            self.append_starved(id, pool, homes, origin, own, offset, takes, message);
        }
    }

    /// Appends to those channels that had no memory for it, whatever has to give way.
    #[expect(clippy::too_many_arguments, reason = "a message, its place, and who makes room")]
    #[cold]
    #[inline(never)]
    fn append_starved(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        homes: &mut Homes,
        origin: Origin,
        own: Option<MemberId>,
        offset: u64,
        takes: impl Fn(Format) -> bool,
        message: &mut impl Encode,
    ) {
        let channels = get(&self.table, id).map(|topic| topic.channels.clone()).unwrap_or_default();
        for number in channels {
            loop {
                let Some(topic) = get_mut(&mut self.table, id) else { return };
                let Some(channel) = &mut self.channels[number as usize] else { break };
                let has_it = channel.log.offset_before(channel.log.appended()) >= offset;
                if has_it || !takes(channel.format) {
                    break;
                }
                let around = around!(self, topic, 0);
                if channel.append(pool, origin, offset, own, message, around) {
                    break;
                }
                if !homes.shed(pool) && !self.shed(pool) {
                    let Some(topic) = get_mut(&mut self.table, id) else { return };
                    let Some(channel) = &mut self.channels[number as usize] else { break };
                    channel.lose(pool, offset, own, around!(self, topic, 0));
                    break;
                }
            }
        }
    }

    /// Gives back the memory of what only laggards still need, of one of the logs where that is most. False when there
    /// is nothing to give back.
    pub fn shed(&mut self, pool: &mut Pool) -> bool {
        let Some(number) = self.backlogs.largest() else { return false };
        self.backlogs.set(number, 0);
        let Some(Some(channel)) = self.channels.get_mut(number as usize) else { return true };
        if channel.has_laggards() {
            tracing::warn!(
                bytes = channel.backlog_bytes(),
                "the memory budget is spent; a topic's laggards miss messages"
            );
        }
        channel.shed(pool);
        let index = channel.topic;
        let (generation, topic) = &mut self.table[index as usize];
        if let Some(topic) = topic
            && !std::mem::replace(&mut topic.dirty, true)
        {
            self.dirty.push(TopicId { index, generation: *generation });
        }
        true
    }

    /// Whether there are frames that nobody was offered yet.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Offers every subscriber what was appended, unless it may wait for more.
    pub fn deliver(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.spare));
        self.due_at = None;
        for id in dirty.drain(..) {
            let Some(topic) = get_mut(&mut self.table, id) else { continue };
            let fresh = std::mem::take(&mut topic.fresh);
            if !self.hurries && !topic.pace.is_due(now, topic.settings.coalesce, fresh) {
                let until = topic.pace.until;
                self.due_at = Some(self.due_at.map_or(until, |due| due.min(until)));
                self.dirty.push(id);
                continue;
            }
            topic.dirty = false;
            topic.spoke_at = now;
            self.deliver_topic(id, now, sink);
        }
        self.spare = dirty;
        self.waiting = self.dirty.len();
    }

    /// Whether something was appended behind the last [`deliver`](Topics::deliver).
    pub fn has_fresh(&self) -> bool {
        self.dirty.len() > self.waiting
    }

    #[inline]
    fn deliver_topic(&mut self, id: TopicId, now: Nanos, sink: &mut impl Sink<K>) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        let mut deserted = false;
        for &number in &topic.channels {
            let Some(channel) = &mut self.channels[number as usize] else { continue };
            channel.deliver(around!(self, topic, now), sink);
            self.backlogs.set(number, channel.backlog_bytes());
            deserted |= channel.count() == 0;
        }
        if deserted {
            release_deserted(&mut self.channels, &mut self.free_channels, topic, &mut self.sums, sink.pool());
        }
    }

    /// When [`deliver`](Topics::deliver) has something to do for which messages wait.
    pub fn due_at(&self) -> Option<Nanos> {
        self.due_at
    }

    /// A subscriber's unfinished send is over, or there may be room for it again: it is offered what it has not got.
    pub fn catch_up(&mut self, member: MemberId, now: Nanos, sink: &mut impl Sink<K>) {
        let Some(Some(channel)) = self.channels.get_mut(member.channel as usize) else { return };
        let Some(topic) = self.table[channel.topic as usize].1.as_mut() else { return };
        channel.finished(member.index, around!(self, topic, now));
        channel.offer(member.index, around!(self, topic, now), sink);
        if channel.count() == 0 {
            release_deserted(&mut self.channels, &mut self.free_channels, topic, &mut self.sums, sink.pool());
        }
    }

    /// Up to which offset a subscriber was sent everything, or told that it was not, and whether that is all there is.
    pub fn reached(&self, member: MemberId) -> Option<(u64, bool)> {
        self.channels.get(member.channel as usize)?.as_ref()?.reached(member.index)
    }

    /// From now on no message waits for others.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Of what was sent to `key` with `tag`, `unsent` bytes at the end have not been taken by the kernel; `all` says
    /// that nothing before them is unsent. Returns the bytes of whole frames at their end, and how many messages those
    /// are: they must not be sent, because they will be offered again.
    pub fn take_back(&mut self, tag: u64, key: K, unsent: usize, all: bool, now: Nanos) -> (usize, u32) {
        let MemberId { channel, index } = MemberId::from_tag(tag);
        let Some(Some(channel)) = self.channels.get_mut(channel as usize) else { return (0, 0) };
        let Some(topic) = self.table[channel.topic as usize].1.as_mut() else { return (0, 0) };
        channel.take_back(index, key, unsent, all, around!(self, topic, now))
    }

    /// Drops subscribers that have lagged too long although nothing new was appended.
    pub fn drop_laggards(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        if !self.has_laggards() {
            return;
        }
        for index in 0..self.table.len() {
            let (generation, Some(topic)) = &self.table[index] else { continue };
            let id = TopicId { index: index as u32, generation: *generation };
            let lags =
                |number: &u32| self.channels[*number as usize].as_ref().is_some_and(Channel::has_laggards);
            // What waits for more is delivered when it is due.
            if !topic.dirty && topic.channels.iter().any(lags) {
                self.deliver_topic(id, now, sink);
            }
        }
    }

    /// Whether some subscriber lags.
    pub fn has_laggards(&self) -> bool {
        self.sums.laggards > 0
    }

    /// Lists the topics whose subscribers are to be told that nothing was lost, because they have heard nothing for so
    /// long. They count as having been told.
    pub fn silent(&mut self, now: Nanos, silent: &mut Vec<TopicId>) {
        for (index, (generation, topic)) in self.table.iter_mut().enumerate() {
            let Some(topic) = topic else { continue };
            if topic.dirty || topic.spoke_at + topic.settings.heartbeat > now {
                continue;
            }
            let told = |number: &u32| {
                self.channels[*number as usize]
                    .as_ref()
                    .is_some_and(|channel| channel.format.dialect != Dialect::Raw)
            };
            if topic.channels.iter().any(told) {
                topic.spoke_at = now;
                silent.push(TopicId { index: index as u32, generation: *generation });
            }
        }
    }

    /// What became of messages for subscribers here.
    pub fn deliveries(&self) -> Deliveries {
        let mut deliveries = self.sums.deliveries;
        for channel in self.channels.iter().flatten() {
            if let Some(topic) = &self.table[channel.topic as usize].1 {
                channel.complete(&topic.settings, &mut deliveries);
            }
        }
        deliveries
    }

    /// What is known of a topic here.
    pub fn report(&self, id: TopicId) -> Option<TopicReport> {
        get(&self.table, id).map(|topic| self.report_of(topic))
    }

    /// What is known of all topics.
    pub fn reports(&self) -> impl Iterator<Item = TopicReport> {
        self.table.iter().filter_map(|(_, topic)| topic.as_ref()).map(|topic| self.report_of(topic))
    }

    fn report_of(&self, topic: &Topic) -> TopicReport {
        let channels = || topic.channels.iter().filter_map(|number| self.channels[*number as usize].as_ref());
        let mut deliveries = topic.deliveries;
        channels().for_each(|channel| channel.complete(&topic.settings, &mut deliveries));
        TopicReport {
            name: topic.name.to_string(),
            home: None,
            subscribers: channels().map(|channel| channel.count() as u64).sum(),
            deliveries,
            log_bytes: channels().map(|channel| channel.log.charged_bytes() as u64).sum(),
        }
    }
}

fn report_of_left(name: &str, deliveries: &Deliveries) -> TopicReport {
    TopicReport { name: name.to_owned(), deliveries: *deliveries, ..TopicReport::default() }
}

fn get(table: &[(u32, Option<Topic>)], id: TopicId) -> Option<&Topic> {
    let (generation, topic) = table.get(id.index as usize)?;
    topic.as_ref().filter(|_| *generation == id.generation)
}

fn get_mut(table: &mut [(u32, Option<Topic>)], id: TopicId) -> Option<&mut Topic> {
    let (generation, topic) = table.get_mut(id.index as usize)?;
    topic.as_mut().filter(|_| *generation == id.generation)
}

/// Gives back the logs of formats that nobody takes any more, and the keys' messages with the last of them.
fn release_deserted<K: Copy + Eq>(
    channels: &mut [Option<Channel<K>>],
    free: &mut Vec<u32>,
    topic: &mut Topic,
    sums: &mut Sums,
    pool: &mut Pool,
) {
    let is_deserted =
        |number: u32| channels[number as usize].as_ref().is_none_or(|channel| channel.count() == 0);
    let deserted: Vec<u32> = topic.channels.iter().copied().filter(|number| is_deserted(*number)).collect();
    for number in deserted {
        topic.channels.retain(|kept| *kept != number);
        if let Some(mut channel) = channels[number as usize].take() {
            let around = &mut Surroundings {
                topic: &topic.name,
                settings: &topic.settings,
                keyed: &topic.keyed,
                sums,
                deliveries: &mut topic.deliveries,
                now: 0,
            };
            channel.release(pool, around);
            free.push(number);
        }
    }
    if topic.channels.is_empty() {
        topic.keyed.release(pool);
    }
}
