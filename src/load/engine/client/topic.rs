//! A connection to a topic: the publishers' messages as it receives them, and the messages that it publishes.

use std::collections::VecDeque;

use crate::engine::shared::Shared;
use crate::measure::Times;
use crate::measure::fan_out::FanOutTracker;
use crate::measure::order::OrderChecker;
use crate::measure::track::{REPLACED_MAX, REPLY_TIME, Replaced, Stream, StreamArrival};
use crate::plan::payload::Id;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// A message is given up after this multiple of its average delivery time.
const GIVE_UP_FACTOR: Nanos = 10;
/// But not before this time.
const GIVE_UP_MIN: Nanos = 100 * MILLISECOND;
/// Weight of a message in the moving average: one in this many.
const SMOOTHING: Nanos = 8;

/// A connection to a topic.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) topic: u32,
    /// Subscribers of the topic when the load began; where connections come and go, when the latest message was published.
    pub(super) audience: u32,
    /// The messages of each publisher, by its position in the topic.
    pub(super) streams: Vec<Stream>,
    /// Compares the order across publishers with that of other subscribers.
    pub(super) order: OrderChecker,
    pub(super) part: Part,
    /// The latest messages whose place another took, with the positions of their publishers.
    pub(super) replaced: Vec<(usize, Replaced)>,
}

/// The role of a connection in its topic. Received messages are always checked; those of subscribers are also timed,
/// and count as missing.
#[derive(Debug)]
pub(super) enum Part {
    /// It sends, and receives the messages of the topic's other publishers.
    Publishes(Publishing),
    /// It receives.
    Subscribes,
    /// It receives until the measured time begins, and then reads little or nothing until the end.
    Slow {
        /// When it may read again; only with a rate.
        on_at: Nanos,
    },
}

impl Broadcast {
    /// The state of a publisher.
    #[inline]
    pub(super) fn publishing(&mut self) -> Option<&mut Publishing> {
        match &mut self.part {
            Part::Publishes(publishing) => Some(publishing),
            Part::Subscribes | Part::Slow { .. } => None,
        }
    }

    /// Whether messages must reach it.
    #[inline]
    pub(super) fn subscribes(&self) -> bool {
        matches!(self.part, Part::Subscribes)
    }

    /// Whether it only receives.
    #[inline]
    pub(super) fn receives(&self) -> bool {
        !matches!(self.part, Part::Publishes(_))
    }

    /// Whether it is sent the messages of its topic. Where a protocol is declared, publishers need not subscribe.
    #[inline]
    pub(super) fn is_sent_messages(&self, is_declared: bool) -> bool {
        !is_declared || self.receives()
    }

    /// A message was published; `waited_for` says whether its delivery makes room for another.
    pub(super) fn published(&mut self, now: Nanos, waited_for: bool) {
        if let Some(publishing) = self.publishing() {
            if waited_for {
                publishing.in_flight_messages.push_back((publishing.next, now));
            }
            publishing.next += 1;
        }
    }

    /// Gives up messages that have not reached all subscribers in time.
    pub(super) fn give_up(&mut self, number: u32, fan_out: &FanOutTracker, now: Nanos) -> GivenUp {
        let mut given_up = GivenUp::default();
        let Some(publishing) = self.publishing() else { return given_up };
        let give_up_after = publishing.give_up_after();
        publishing.in_flight_messages.retain(|&(sequence, sent)| {
            let age = now.saturating_sub(sent);
            if age >= give_up_after {
                given_up.messages += 1;
                let is_silent = age >= REPLY_TIME && !fan_out.has_reached_some(number, sequence);
                given_up.silent += usize::from(is_silent);
            }
            age < give_up_after
        });
        publishing.given_up = publishing.given_up.saturating_add(u32::from(given_up.messages > 0));
        given_up
    }

    /// The publishers of the topic without connection `number`, with their positions.
    pub(super) fn others(&self, number: u32, topics: u32) -> impl Iterator<Item = (u32, usize)> + use<> {
        let topic = self.topic;
        (0..self.streams.len())
            .map(move |position| (topic + position as u32 * topics, position))
            .filter(move |&(publisher, _)| publisher != number)
    }

    /// A message that could not be identified takes the place of one that then does not count as lost too, unless it arrives: of
    /// the one that it names, or else of the next message of the publisher that it names, or of the only publisher. Returns
    /// another that is over now.
    #[cold]
    pub(super) fn replace(
        &mut self,
        claimed: Option<Id>,
        is_published: bool,
        shared: &Shared,
        now: Nanos,
    ) -> Option<Replaced> {
        let topics = shared.load.topics;
        let position = match claimed {
            Some(claimed) => (claimed.connection / topics) as usize,
            None if self.streams.len() == 1 => 0,
            None => return None,
        };
        let publisher = self.topic + position as u32 * topics;
        let stream = &mut self.streams[position];
        let named = claimed.filter(|_| is_published).map(|claimed| claimed.sequence);
        let sequence = named.unwrap_or(stream.expected());
        let known = |sequence| shared.fan_out.as_ref().and_then(|fan_out| fan_out.times(publisher, sequence));
        let times = match known(sequence) {
            Some(times) => times,
            // A message that was not published has no place.
            None if shared.segment.has(publisher) => return None,
            None => Times::default(),
        };
        let due = stream.expected();
        if stream.arrived(sequence, || known(due).unwrap_or(times)) == StreamArrival::Again {
            return None;
        }
        self.replaced.push((position, Replaced { sequence, times, at: now }));
        (self.replaced.len() > REPLACED_MAX).then(|| self.replaced.remove(0).1)
    }

    /// If another message had taken this one's place: whether it arrived after a later one of its publisher.
    #[cold]
    pub(super) fn restored(&mut self, position: usize, sequence: u64) -> Option<StreamArrival> {
        let is = |(from, replaced): &(usize, Replaced)| (*from, replaced.sequence) == (position, sequence);
        let at = self.replaced.iter().position(is)?;
        self.replaced.remove(at);
        let mut expected = self.streams[position].expected();
        while self.replaced.iter().any(|(from, it)| *from == position && it.sequence + 1 == expected) {
            expected -= 1;
        }
        Some(if expected > sequence + 1 { StreamArrival::Late } else { StreamArrival::InOrder })
    }
}

/// A publisher's messages.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    pub(super) next: u64,
    /// Messages in flight that have not reached all subscribers, with their send times; closed loop only.
    in_flight_messages: VecDeque<(u64, Nanos)>,
    /// Moving average of the time until a message has reached all subscribers; 0 before the first has.
    reach_time: Nanos,
    /// How often messages were given up since the last one that reached all subscribers.
    given_up: u32,
}

impl Publishing {
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight_messages.len() as u64
    }

    /// A message has reached all subscribers.
    pub(super) fn reached(&mut self, sequence: u64, now: Nanos) {
        let Some(at) = self.in_flight_messages.iter().position(|(number, _)| *number == sequence) else {
            return;
        };
        let Some((_, sent)) = self.in_flight_messages.remove(at) else { return };
        let took = now.saturating_sub(sent).max(1);
        self.given_up = 0;
        self.reach_time = match self.reach_time {
            0 => took,
            before => before - before / SMOOTHING + took / SMOOTHING,
        };
    }

    /// How long a message is awaited: doubled after each message that was given up. If a message was given up too
    /// early, its replacement exceeds the depth.
    fn give_up_after(&self) -> Nanos {
        let first = match self.reach_time {
            0 => SECOND,
            time => (GIVE_UP_FACTOR * time).max(GIVE_UP_MIN),
        };
        first.saturating_mul(1 << self.given_up.min(16)).min(REPLY_TIME)
    }
}

/// The messages that a publisher gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// How many.
    pub(super) messages: usize,
    /// Those that no subscriber received within [`REPLY_TIME`].
    pub(super) silent: usize,
}
