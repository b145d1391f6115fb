//! One format of one topic on one shard: a log of the frames encoded so, and the cursors of those who take it.

use bytes::Bytes;

use super::log::{Log, LogPosition, Origin};
use crate::buffer::Pool;
use crate::limits::Nanos;

/// How the messages of a topic are encoded for a subscriber. Each format that is in use has a log of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As published.
    Plain,
    /// Compressed where that makes a message shorter, each from an empty window (RFC 7692, 7.2.3.1): legal
    /// whatever was agreed on about keeping windows, and the same bytes for all who agreed on this one.
    Deflated {
        /// log2 of the window in bytes, 9 to 15.
        window_bits: u8,
    },
}

/// Names a subscriber within its topic while it is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberId {
    pub(super) format: Format,
    /// Within its channel.
    pub(super) index: u32,
}

/// A message on its way into the logs of its topic.
pub trait Encode {
    /// The message as one frame, given as header and payload: the same bytes for all subscribers of `format`. Where
    /// compression does not make it shorter that is the plain frame. Asked at most once for each format.
    fn frame(&mut self, format: Format) -> [&[u8]; 2];
}

/// Where a topic's frames go. Implemented over the shard; `K` names a connection.
pub trait Sink<K> {
    /// Whether a send would be taken now.
    fn is_writable(&self, key: K) -> bool;
    /// Sends encoded frames. Gives them back when they are not taken.
    ///
    /// # Errors
    /// The frames, when the connection does not take them now.
    fn send(&mut self, key: K, frames: Bytes, count: u32) -> Result<(), Bytes>;
    /// The subscriber fell behind its bound and is dropped from the topic.
    fn fell_behind(&mut self, key: K);
    /// Where logs without readers go back to.
    fn pool(&mut self) -> &mut Pool;
}

/// What all channels of a shard have together.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) subscriptions: usize,
    /// Of them, those that have not got everything.
    pub(super) laggards: usize,
}

/// One subscriber: a cursor.
#[derive(Debug)]
struct Member<K> {
    key: K,
    cursor: LogPosition,
    /// Frames of this origin are not sent back; 0 for all are sent.
    skip: Origin,
    /// The end of the latest frame of `skip`: while it lies before the cursor there is nothing to skip.
    own_end: LogPosition,
    /// Since when the cursor has not been at the end; 0 when it is.
    behind_since: Nanos,
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
    pub(super) format: Format,
    log: Log,
    /// Holes are reused.
    members: Vec<Option<Member<K>>>,
    free: Vec<u32>,
    count: usize,
    behind: usize,
    /// A message was lost for want of memory: all members have missed it and are dropped when next offered to.
    failed: bool,
}

impl<K: Copy + Eq> Channel<K> {
    pub(super) fn new(format: Format, log_bytes_max: usize) -> Channel<K> {
        Channel {
            format,
            log: Log::new(log_bytes_max),
            members: Vec::new(),
            free: Vec::new(),
            count: 0,
            behind: 0,
            failed: false,
        }
    }

    pub(super) fn is_deserted(&self) -> bool {
        self.count == 0
    }

    pub(super) fn has_laggards(&self) -> bool {
        self.behind > 0
    }

    /// Adds a member that is sent what is appended from now on.
    pub(super) fn subscribe(&mut self, key: K, skip: Origin, sums: &mut Sums) -> u32 {
        // Frames of this turn that were appended before now are not for it.
        let cursor = self.log.appended();
        let member = Member { key, cursor, skip, own_end: 0, behind_since: 0 };
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

    pub(super) fn remove(&mut self, index: u32, sums: &mut Sums) {
        let Some(member) = self.members.get_mut(index as usize).and_then(Option::take) else { return };
        let behind = usize::from(member.behind_since != 0);
        self.behind -= behind;
        self.count -= 1;
        self.free.push(index);
        sums.laggards -= behind;
        sums.subscriptions -= 1;
    }

    /// Appends a message; `own` is the subscriber that published it, of this channel or another.
    #[inline]
    pub(super) fn append(
        &mut self,
        pool: &mut Pool,
        origin: Origin,
        own: Option<MemberId>,
        message: &mut impl Encode,
    ) {
        if self.failed {
            return;
        }
        let Ok(end) = self.log.append(pool, origin, message.frame(self.format)) else {
            self.failed = true;
            return;
        };
        if let Some(own) = own
            && own.format == self.format
            && let Some(Some(member)) = self.members.get_mut(own.index as usize)
            && member.skip == origin
        {
            member.own_end = end;
        }
    }

    /// Makes readable what was appended.
    pub(super) fn publish(&mut self, pool: &mut Pool) {
        self.log.publish(pool);
    }

    /// Offers the log to every member.
    pub(super) fn deliver(&mut self, now: Nanos, lag: Nanos, sums: &mut Sums, sink: &mut impl Sink<K>) {
        let mut index = 0;
        while let Some(stopped) = self.send_latest(index, sink) {
            index = match stopped {
                Stopped::Offer(index) => {
                    self.offer(index, now, lag, sums, sink);
                    index
                }
                Stopped::Refused(index) => {
                    self.settle(index, now, lag, sums, sink);
                    index
                }
            } + 1;
        }
    }

    /// Sends the latest piece to the members from `first` on, up to one that needs something else: those that keep
    /// up, nearly all, lack just that.
    fn send_latest(&mut self, first: u32, sink: &mut impl Sink<K>) -> Option<Stopped> {
        let latest = self.log.latest().filter(|_| !self.failed);
        let end = self.log.end();
        for (index, member) in (first..).zip(self.members.get_mut(first as usize..)?) {
            let Some(member) = member else { continue };
            let Some((start, bytes, frames)) = latest else { return Some(Stopped::Offer(index)) };
            let keeps_up = member.cursor == start && member.behind_since == 0 && member.own_end <= start;
            if !keeps_up || !sink.is_writable(member.key) {
                return Some(Stopped::Offer(index));
            }
            if sink.send(member.key, bytes.clone(), frames).is_err() {
                return Some(Stopped::Refused(index));
            }
            member.cursor = end;
        }
        None
    }

    /// Offers one member what lies behind its cursor, and drops it when it is past its bound.
    pub(super) fn offer(
        &mut self,
        index: u32,
        now: Nanos,
        lag: Nanos,
        sums: &mut Sums,
        sink: &mut impl Sink<K>,
    ) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        let end = self.log.end();
        if self.failed {
            sink.fell_behind(member.key);
            return self.remove(index, sums);
        }
        if member.cursor >= end {
            return;
        }
        if sink.is_writable(member.key) && member.cursor >= self.log.start() {
            let nothing_own = member.own_end <= member.cursor;
            match self.log.latest() {
                Some((start, bytes, frames)) if nothing_own && member.cursor == start => {
                    if sink.send(member.key, bytes.clone(), frames).is_ok() {
                        member.cursor = end;
                    }
                }
                _ => {
                    let skip = (!nothing_own).then_some(member.skip);
                    for stretch in self.log.read(member.cursor, skip) {
                        if sink.send(member.key, stretch.bytes, stretch.frames).is_err() {
                            break;
                        }
                        member.cursor = stretch.end;
                    }
                    // Own frames at the end are behind the last stretch.
                    if self.log.read(member.cursor, skip).next().is_none() {
                        member.cursor = end;
                    }
                }
            }
        }
        self.settle(index, now, lag, sums, sink);
    }

    /// Sees how far behind a member is after it was offered something.
    fn settle(&mut self, index: u32, now: Nanos, lag: Nanos, sums: &mut Sums, sink: &mut impl Sink<K>) {
        let Some(Some(member)) = self.members.get_mut(index as usize) else { return };
        let was_behind = member.behind_since != 0;
        let is_behind = member.cursor != self.log.end();
        if is_behind != was_behind {
            member.behind_since = if is_behind { now.max(1) } else { 0 };
            let (less, more) = (usize::from(was_behind), usize::from(is_behind));
            self.behind = self.behind + more - less;
            sums.laggards = sums.laggards + more - less;
        }
        let lost = member.cursor < self.log.start();
        let late = is_behind && member.behind_since + lag < now;
        if lost || late {
            sink.fell_behind(member.key);
            self.remove(index, sums);
        }
    }

    /// Gives the memory back; the members are forgotten.
    pub(super) fn release(mut self, pool: &mut Pool, sums: &mut Sums) {
        sums.subscriptions -= self.count;
        sums.laggards -= self.behind;
        self.log.release(pool);
    }
}
