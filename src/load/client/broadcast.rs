//! What arrives on a connection to a topic, and how far its publisher's messages are.

use super::connection::{Broadcast, Flow, Part, State};
use super::{Client, Message, REPLY_TIME};
use crate::connection::Chunk;
use crate::limits::Nanos;
use crate::load::payload::Id;
use crate::load::track::{Place, Times};
use crate::shard::{Lane, Link};

/// A publisher's messages.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    pub(super) next: u64,
    /// Messages that everybody has.
    reached: u64,
    /// Messages that are not waited for any longer.
    waived: u64,
    /// When one was last sent or last reached everybody.
    moved_at: Nanos,
}

impl Publishing {
    pub(super) fn in_flight(&self) -> u64 {
        self.next.saturating_sub(self.reached + self.waived)
    }
}

impl Broadcast {
    pub(super) fn published(&mut self, now: Nanos) {
        if let Some(publishing) = self.publishing() {
            publishing.next += 1;
            publishing.moved_at = now;
        }
    }

    /// Waits no longer for messages that have not reached everybody in [`REPLY_TIME`]. Whether there were any.
    pub(super) fn give_up(&mut self, now: Nanos) -> bool {
        let Some(publishing) = self.publishing() else { return false };
        let silent = publishing.in_flight() > 0 && publishing.moved_at + REPLY_TIME <= now;
        if silent {
            publishing.waived = publishing.next - publishing.reached.min(publishing.next);
        }
        silent
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
        let Some(id) = claimed.filter(whole) else {
            tally.integrity.corrupted += 1;
            broadcast.blame(claimed, load.topics);
            broadcast.walk.stumbled();
            return;
        };
        let from = (id.connection / load.topics) as usize;
        let due = broadcast.streams[from].expected();
        let place = broadcast.streams[from].arrived(id.sequence);
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
        let times = Times { intended: id.intended, sent: id.sent };
        match place {
            // Those before it have not come, as far as is known.
            Place::InOrder if id.sequence > due => tally.missing.add(times, (id.sequence - due) as u32),
            Place::Late => tally.missing.take_back(times),
            Place::InOrder | Place::Again => {}
        }
        tally.arrived(now, id.intended, id.sent, chunk.payload.len());
        let Some(board) = &shared.board else { return };
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
            self.tell_publisher(link, id.connection, now);
        }
    }

    /// Everybody has a message: its publisher may send another.
    fn tell_publisher(&mut self, link: &mut Link<'_, Client>, publisher: u32, now: Nanos) {
        let (owner, _) = self.shared.owner(publisher);
        if owner == self.thread {
            self.reached(publisher, now);
        } else if !self.unposted.is_empty()
            || link.mailboxes.post(owner, Lane::Forward, Message::Reached(publisher), &[]).is_err()
        {
            self.unposted.push_back(publisher);
        }
    }

    /// A message of one of this thread's publishers has reached everybody.
    pub(super) fn reached(&mut self, publisher: u32, now: Nanos) {
        let (_, position) = self.shared.owner(publisher);
        if let Flow::Broadcast(broadcast) = &mut self.connections[position].flow
            && let Some(publishing) = broadcast.publishing()
        {
            publishing.reached += 1;
            publishing.moved_at = now;
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

    /// Whether a connection has everything that was published for it, or later things.
    pub(super) fn has_all(&self, number: u32, broadcast: &Broadcast) -> bool {
        let Some(board) = &self.shared.board else { return true };
        if let Part::Slow { .. } = broadcast.part {
            return true;
        }
        broadcast
            .others(number, self.shared.load.topics)
            .all(|(publisher, position)| broadcast.streams[position].expected() >= board.published(publisher))
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
    /// next of the publisher that it names, or of the only one there is.
    #[cold]
    fn blame(&mut self, claimed: Option<Id>, topics: u32) {
        let position = match claimed {
            Some(claimed) => (claimed.connection / topics) as usize,
            None if self.streams.len() == 1 => 0,
            None => return,
        };
        let stream = &mut self.streams[position];
        stream.arrived(stream.expected());
    }
}
