//! What arrives on a connection to a topic, and how far its publisher's messages are.

use std::collections::VecDeque;

use super::connection::{Broadcast, Flow, Part, State};
use super::{Client, Message};
use crate::connection::Chunk;
use crate::limits::{MILLISECOND, Nanos, SECOND};
use crate::load::board::Board;
use crate::load::payload::Id;
use crate::load::track::{Place, REPLY_TIME, Times};
use crate::shard::{Lane, Link};

/// A message is waited for so many times as long as messages take on average.
const PATIENCE: Nanos = 10;
/// And for so long at least.
const PATIENCE_MIN: Nanos = 100 * MILLISECOND;
/// The weight of a message in the average is one in so many.
const SMOOTHING: Nanos = 8;

/// A publisher's messages.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    pub(super) next: u64,
    /// Messages that have not reached everybody and are waited for, with when they were sent; closed loop only.
    on_their_way: VecDeque<(u64, Nanos)>,
    /// How long messages take to reach everybody, on average of late; 0 before one has.
    reach_time: Nanos,
    /// How often messages were given up since one has reached everybody.
    given_up: u32,
}

impl Publishing {
    pub(super) fn in_flight(&self) -> u64 {
        self.on_their_way.len() as u64
    }

    /// A message has reached everybody.
    fn reached(&mut self, sequence: u64, now: Nanos) {
        let Some(at) = self.on_their_way.iter().position(|(number, _)| *number == sequence) else { return };
        let Some((_, sent)) = self.on_their_way.remove(at) else { return };
        let took = now.saturating_sub(sent).max(1);
        self.given_up = 0;
        self.reach_time = match self.reach_time {
            0 => took,
            before => before - before / SMOOTHING + took / SMOOTHING,
        };
    }

    /// How long a message is waited for: twice as long each time that this was too short, or in vain. Another that is sent
    /// then is one more under way than the depth says, should the message come after all.
    fn patience(&self) -> Nanos {
        let first = match self.reach_time {
            0 => SECOND,
            time => (PATIENCE * time).max(PATIENCE_MIN),
        };
        first.saturating_mul(1 << self.given_up.min(16)).min(REPLY_TIME)
    }
}

/// What a publisher does not wait for any longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// How many there are.
    pub(super) messages: usize,
    /// Of those, messages that nobody got in [`REPLY_TIME`].
    pub(super) silent: usize,
}

impl Broadcast {
    /// A message is published; `waited_for`: whether its arrival makes room for another.
    pub(super) fn published(&mut self, now: Nanos, waited_for: bool) {
        if let Some(publishing) = self.publishing() {
            if waited_for {
                publishing.on_their_way.push_back((publishing.next, now));
            }
            publishing.next += 1;
        }
    }

    /// Waits no longer for messages that have not reached everybody in their time.
    pub(super) fn give_up(&mut self, number: u32, board: &Board, now: Nanos) -> GivenUp {
        let mut given_up = GivenUp::default();
        let Some(publishing) = self.publishing() else { return given_up };
        let patience = publishing.patience();
        publishing.on_their_way.retain(|&(sequence, sent)| {
            let age = now.saturating_sub(sent);
            if age >= patience {
                given_up.messages += 1;
                let is_silent = age >= REPLY_TIME && !board.has_reached_some(number, sequence);
                given_up.silent += usize::from(is_silent);
            }
            age < patience
        });
        publishing.given_up = publishing.given_up.saturating_add(u32::from(given_up.messages > 0));
        given_up
    }
}

impl Client {
    /// A topic's message arrived: it says whose it is and when it left.
    #[inline]
    pub(super) fn delivery_arrived(
        &mut self,
        link: &mut Link<'_, Client>,
        position: usize,
        chunk: &Chunk<'_>,
    ) {
        let now = link.now();
        let Client { shared, connections, tally, slow, .. } = self;
        let connection = &mut connections[position];
        let Flow::Broadcast(broadcast) = &mut connection.flow else { return };
        let (payloads, load) = (&shared.payloads, &shared.load);
        if let Part::Slow { on_at } = &mut broadcast.part {
            slow.took(link, on_at, load.trickle, chunk.payload.len(), tally);
        }
        let claimed = payloads.identify(chunk.payload).filter(|claimed| {
            claimed.connection < load.publishers
                && claimed.connection != connection.number
                && load.topic(claimed.connection) == broadcast.topic
        });
        let whole = |claimed: &Id| {
            !load.verify || (chunk.kind == payloads.kind() && payloads.matches(claimed, chunk.payload))
        };
        let board = shared.board.as_ref();
        let Some(id) = claimed.filter(whole) else {
            tally.integrity.corrupted += 1;
            if let Some(times) = broadcast.blame(claimed, load.topics, board)
                && broadcast.subscribes()
            {
                tally.damaged(now, times);
            }
            broadcast.walk.stumbled();
            return;
        };
        let from = (id.connection / load.topics) as usize;
        let due = broadcast.streams[from].expected();
        let times = Times { intended: id.intended, sent: id.sent };
        let first_missed = || board.and_then(|board| board.times(id.connection, due)).unwrap_or(times);
        let place = broadcast.streams[from].arrived(id.sequence, first_missed);
        match place {
            Place::InOrder => {}
            Place::Late => tally.integrity.reordered += 1,
            Place::Again => {
                tally.integrity.duplicated += 1;
                return;
            }
        }
        if !broadcast.subscribes() {
            return;
        }
        if id.sequence > due
            && let Some((times, forgotten)) = broadcast.streams[from].forget_excess()
        {
            tally.missing.add(times, u32::try_from(forgotten).unwrap_or(u32::MAX));
        }
        tally.arrived(now, id.intended, id.sent, chunk.payload.len());
        let Some(board) = board else { return };
        let at = board.arrived(id.connection, id.sequence);
        // One publisher's messages have no other order than their own.
        if broadcast.streams.len() > 1 && place == Place::InOrder {
            let Broadcast { streams, walk, .. } = &mut **broadcast;
            let name = (id.connection, id.sequence);
            walk.arrived(board, name, (&mut streams[from], due), &mut tally.order);
        }
        if tally.window.contains(id.intended) {
            let latency = now.saturating_sub(id.intended);
            for (reached, histogram) in
                [(at.first, &mut tally.first), (at.median, &mut tally.median), (at.last, &mut tally.last)]
            {
                if reached {
                    histogram.saturating_record(latency);
                }
            }
        }
        if at.last && load.pace.depth().is_some() {
            self.tell_publisher(link, (id.connection, id.sequence), now);
        }
    }

    /// Everybody has a message: its publisher may send another.
    fn tell_publisher(&mut self, link: &mut Link<'_, Client>, (publisher, sequence): (u32, u64), now: Nanos) {
        let (owner, _) = self.shared.owner(publisher);
        if owner == self.thread {
            self.reached(publisher, sequence, now);
        } else if !self.unposted.is_empty()
            || link.mailboxes.post(owner, Lane::Forward, Message::Reached(publisher, sequence), &[]).is_err()
        {
            self.unposted.push_back((publisher, sequence));
        }
    }

    /// A message of one of this thread's publishers has reached everybody.
    pub(super) fn reached(&mut self, publisher: u32, sequence: u64, now: Nanos) {
        let (_, position) = self.shared.owner(publisher);
        if let Flow::Broadcast(broadcast) = &mut self.connections[position].flow
            && let Some(publishing) = broadcast.publishing()
        {
            publishing.reached(sequence, now);
            self.ready.push(position as u32);
        }
    }

    /// Remembers how many each publisher's messages are for.
    pub(super) fn note_audiences(&mut self) {
        let Some(board) = &self.shared.board else { return };
        for connection in &mut self.connections {
            if let Flow::Broadcast(broadcast) = &mut connection.flow {
                broadcast.audience = board.subscribers(broadcast.topic);
            }
        }
    }

    /// Whether a connection has everything that was published for it.
    pub(super) fn has_all(&self, number: u32, broadcast: &Broadcast) -> bool {
        let Some(board) = &self.shared.board else { return true };
        if let Part::Slow { .. } = broadcast.part {
            return true;
        }
        broadcast
            .others(number, self.shared.load.topics)
            .all(|(publisher, position)| broadcast.streams[position].missing(board.published(publisher)) == 0)
    }

    /// Counts what a connection sent, got and missed, and times what it missed as old as it is at `until`.
    pub(super) fn settle_broadcast(&mut self, position: usize, until: Nanos) {
        let Client { shared, connections, tally, .. } = self;
        let connection = &connections[position];
        let (Flow::Broadcast(broadcast), Some(board)) = (&connection.flow, &shared.board) else { return };
        if let Part::Slow { .. } = broadcast.part {
            return;
        }
        for (publisher, at) in broadcast.others(connection.number, shared.load.topics) {
            let stream = &broadcast.streams[at];
            // One that was told the end of its connection was told of what it misses from there on.
            tally.integrity.lost += match connection.state {
                State::Open => stream.missing(board.published(publisher)),
                _ => stream.skipped(),
            };
            if broadcast.subscribes() {
                for (times, copies) in stream.missed() {
                    tally.never_came(until, times, copies);
                }
            }
            if broadcast.subscribes() && stream.expected() < board.published(publisher) {
                tally.order.missed_the_last(broadcast.topic, stream);
                if connection.state == State::Open {
                    board.behind(publisher, stream.expected(), |times, copies| {
                        tally.never_came(until, times, copies);
                    });
                }
            }
            tally.gaps += stream.gaps();
            if broadcast.subscribes() {
                tally.deliveries += stream.received();
            }
        }
        if let Part::Publishes(publishing) = &broadcast.part {
            let (next, audience) = (publishing.next, u64::from(broadcast.audience));
            tally.deliveries_due += next * audience;
            self.settle_unsent(position, next, audience, until);
        }
    }
}

impl Broadcast {
    /// The publishers of the topic without connection `number`: their numbers and positions.
    fn others(&self, number: u32, topics: u32) -> impl Iterator<Item = (u32, usize)> + use<> {
        let topic = self.topic;
        (0..self.streams.len())
            .map(move |position| (topic + position as u32 * topics, position))
            .filter(move |&(publisher, _)| publisher != number)
    }

    /// A damaged message came in place of one that is then not lost besides, where it can be told which: the
    /// next of the publisher that it names, or of the only one there is. Gives when that was due and sent, where it is known.
    #[cold]
    fn blame(&mut self, claimed: Option<Id>, topics: u32, board: Option<&Board>) -> Option<Times> {
        let position = match claimed {
            Some(claimed) => (claimed.connection / topics) as usize,
            None if self.streams.len() == 1 => 0,
            None => return None,
        };
        let publisher = self.topic + position as u32 * topics;
        let stream = &mut self.streams[position];
        let (sequence, mut times) = (stream.expected(), None);
        if let Some(board) = board {
            times = board.times(publisher, sequence);
        }
        // It is the next one: there is no gap in front of it.
        stream.arrived(sequence, Times::default);
        times
    }
}
