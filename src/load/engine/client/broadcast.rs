//! Broadcast mode: deliveries on the connections to a topic.

use super::connection::{Flow, State};
use super::topic::{Broadcast, Part};
use super::{Client, Link, WorkerMessage};
use crate::engine::shared::Shared;
use crate::measure::tally::ReceivedMessage;
use crate::measure::track::{Replaced, StreamArrival};
use crate::measure::{MessageName, SampleOutcome, Tally, Times};
use crate::plan::payload::Id;
use echoring_proto::connection::Chunk;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Lane;

/// The delivery of a message was damaged, since nothing else has arrived: it has its age from then.
fn settle_replaced(tally: &mut Tally, connection: u32, Replaced { times, at, .. }: Replaced) {
    tally.damaged(at, MessageName::unnumbered(connection), times, SampleOutcome::Corrupted);
}

/// Messages of a publisher of another generator that may be under way: a damaged sequence is likely to be further ahead.
const UNKNOWN_MAX: u64 = 64 * 1024;

/// A message of the topic, whole, at one of its connections.
struct Delivery {
    id: Id,
    subscriber: u32,
    payload_bytes: usize,
    now: Nanos,
}

impl Broadcast {
    /// The name that a payload has, if it can be that of a message to this connection.
    #[inline]
    fn claimed(&self, shared: &Shared, subscriber: u32, payload: &[u8]) -> Option<Id> {
        let load = &shared.load;
        shared.payloads.identify(payload).filter(|claimed| {
            claimed.connection < load.publishers
                && claimed.connection != subscriber
                && load.topic(claimed.connection) == self.topic
        })
    }

    /// Whether there is such a message: one that was never published has a damaged name. The progress of another
    /// generator's publishers is not known exactly.
    #[inline]
    fn is_published(&self, shared: &Shared, claimed: &Id) -> bool {
        let own = shared.segment.has(claimed.connection);
        let unknown = if own { 0 } else { UNKNOWN_MAX };
        let fan_out = shared.fan_out.as_ref();
        claimed.sequence <= self.streams[(claimed.connection / shared.load.topics) as usize].expected()
            || fan_out
                .is_none_or(|fan_out| claimed.sequence < fan_out.published(claimed.connection) + unknown)
    }

    /// A message arrived that none was published as.
    #[cold]
    fn damaged(
        &mut self,
        shared: &Shared,
        tally: &mut Tally,
        subscriber: u32,
        claimed: Option<Id>,
        now: Nanos,
    ) {
        tally.integrity.corrupted += 1;
        let is_published = claimed.as_ref().is_some_and(|claimed| self.is_published(shared, claimed));
        if let Some(over) = self.replace(claimed, is_published, shared, now)
            && self.subscribes()
        {
            settle_replaced(tally, subscriber, over);
        }
        self.order.unidentified();
    }

    /// Records a message. Reports whether it has now reached all subscribers.
    #[inline]
    fn delivered(&mut self, shared: &Shared, tally: &mut Tally, delivery: &Delivery) -> bool {
        let &Delivery { id, subscriber, payload_bytes, now } = delivery;
        let fan_out = shared.fan_out.as_ref();
        let from = (id.connection / shared.load.topics) as usize;
        let due = self.streams[from].expected();
        let times =
            Times { intended: shared.read_time(id.intended, now), sent: shared.read_time(id.sent, now) };
        let sender = shared.sender(id.connection);
        let name = MessageName {
            connection: subscriber,
            publisher: Some(id.connection),
            sequence: Some(id.sequence),
        };
        let message = ReceivedMessage { name, times, payload_bytes, outcome: SampleOutcome::Ok };
        let first_missed = || fan_out.and_then(|fan_out| fan_out.times(id.connection, due)).unwrap_or(times);
        let mut place = self.streams[from].arrived(id.sequence, first_missed);
        if place == StreamArrival::Again {
            place = self.restored(from, id.sequence).unwrap_or(place);
        }
        match place {
            StreamArrival::InOrder => {}
            StreamArrival::Late => tally.integrity.reordered += 1,
            StreamArrival::Recovered => {
                tally.arrived_from(sender, now, message);
                return false;
            }
            StreamArrival::Again => {
                tally.integrity.duplicated += 1;
                return false;
            }
        }
        if !self.subscribes() {
            return false;
        }
        if id.sequence > due
            && let Some((times, forgotten)) = self.streams[from].forget_excess()
        {
            let copies = u32::try_from(forgotten).unwrap_or(u32::MAX);
            tally.missing(MessageName { sequence: None, ..name }, times, copies, SampleOutcome::Lost);
        }
        tally.arrived_from(sender, now, message);
        let Some(fan_out) = fan_out else { return false };
        if !shared.segment.has(id.connection) {
            fan_out.observe(id.connection, id.sequence, times);
        }
        let at = fan_out.arrived(id.connection, id.sequence);
        // The messages of one publisher are ordered by their sequence alone.
        if self.streams.len() > 1 && place == StreamArrival::InOrder {
            let name = (id.connection, id.sequence);
            self.order.arrived(fan_out, name, (&mut self.streams[from], due), &mut tally.fan_out.order);
        }
        if tally.window.contains(times.intended) {
            tally.fan_out.reached(at, now.saturating_sub(times.intended));
        }
        at.last
    }
}

impl Client {
    /// A message of the topic arrived. Its header names its publisher, sequence and times.
    #[inline]
    pub(super) fn delivery_arrived(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        let has_kind = chunk.kind == self.shared.payloads.kind();
        self.payload_delivered(link, position, chunk.payload, has_kind);
    }

    /// The payload of a message of the topic arrived; `has_kind` says whether its WebSocket message had the type of the payload.
    #[inline]
    pub(super) fn payload_delivered(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        payload: &[u8],
        has_kind: bool,
    ) {
        let now = link.now();
        let Client { shared, connections, tally, slow, .. } = self;
        let connection = &mut connections[position];
        let Flow::Broadcast(broadcast) = &mut connection.flow else { return };
        if !broadcast.is_sent_messages(!self.protocols.is_empty()) {
            return;
        }
        if let Part::Slow { on_at } = &mut broadcast.part {
            slow.took(link, on_at, shared.load.trickle, payload.len(), tally);
        }
        let number = connection.number;
        let claimed = broadcast.claimed(shared, number, payload);
        let whole = |claimed: &Id| {
            broadcast.is_published(shared, claimed)
                && (!shared.load.verify || (has_kind && shared.payloads.matches(claimed, payload)))
        };
        let Some(id) = claimed.filter(whole) else {
            return broadcast.damaged(shared, tally, number, claimed, now);
        };
        let delivery = Delivery { id, subscriber: number, payload_bytes: payload.len(), now };
        let has_reached_all = broadcast.delivered(shared, tally, &delivery);
        if has_reached_all && shared.load.pace.depth().is_some() {
            self.notify_publisher(link, (id.connection, id.sequence), now);
        }
    }

    /// All subscribers have received a message: its publisher may send another.
    fn notify_publisher(&mut self, link: &mut Link<'_>, (publisher, sequence): (u32, u64), now: Nanos) {
        let (owner, _) = self.shared.owner(publisher);
        if owner == self.thread {
            self.reached(publisher, sequence, now);
        } else if !self.backlog.unposted.is_empty()
            || link
                .mailboxes
                .post(owner, Lane::Forward, WorkerMessage::Reached(publisher, sequence), &[])
                .is_err()
        {
            self.backlog.unposted.push_back((publisher, sequence));
        }
    }

    /// A message of a publisher of this thread has reached all subscribers.
    pub(super) fn reached(&mut self, publisher: u32, sequence: u64, now: Nanos) {
        let (_, position) = self.shared.owner(publisher);
        if let Flow::Broadcast(broadcast) = &mut self.connections[position].flow
            && let Some(publishing) = broadcast.publishing()
        {
            publishing.reached(sequence, now);
            self.backlog.ready.push(position as u32);
        }
    }

    /// Stores the number of subscribers of each publisher's topic.
    pub(super) fn store_audiences(&mut self) {
        let Client { shared, connections, .. } = self;
        for connection in connections {
            if let Flow::Broadcast(broadcast) = &mut connection.flow {
                broadcast.audience = shared.audience(broadcast.topic);
            }
        }
    }

    /// Whether a connection has received all messages that were published to it.
    pub(super) fn has_all(&self, number: u32, broadcast: &Broadcast) -> bool {
        let Some(fan_out) = &self.shared.fan_out else { return true };
        if matches!(broadcast.part, Part::Slow { .. })
            || !broadcast.is_sent_messages(!self.protocols.is_empty())
        {
            return true;
        }
        broadcast.others(number, self.shared.load.topics).all(|(publisher, position)| {
            broadcast.streams[position].missing(fan_out.published(publisher)) == 0
        })
    }

    /// Counts the messages that a connection sent, received and missed. Missed messages get their age at `until`.
    pub(super) fn settle_broadcast(&mut self, position: usize, until: Nanos) {
        let Client { shared, connections, tally, protocols, .. } = self;
        let connection = &connections[position];
        let (Flow::Broadcast(broadcast), Some(fan_out)) = (&connection.flow, &shared.fan_out) else { return };
        if let Part::Slow { .. } = broadcast.part {
            return;
        }
        for (_, replaced) in broadcast.replaced.iter().filter(|_| broadcast.subscribes()) {
            settle_replaced(tally, connection.number, *replaced);
        }
        let others = broadcast.others(connection.number, shared.load.topics);
        for (publisher, at) in others.filter(|_| broadcast.is_sent_messages(!protocols.is_empty())) {
            let stream = &broadcast.streams[at];
            let name =
                MessageName { connection: connection.number, publisher: Some(publisher), sequence: None };
            // A connection that ended early misses nothing after its end.
            let lost = match connection.state {
                State::Open | State::Retiring => stream.missing(fan_out.published(publisher)),
                _ => stream.skipped(),
            };
            tally.integrity.lost += lost;
            if broadcast.subscribes() {
                if shared.load.churn.is_some() {
                    tally.fan_out.deliveries_due += stream.received + lost;
                }
                for (times, copies) in stream.missed() {
                    tally.record_lost(until, name, times, copies);
                }
            }
            if broadcast.subscribes() && stream.expected() < fan_out.published(publisher) {
                tally.fan_out.order.missed_the_last(broadcast.topic, stream);
                if matches!(connection.state, State::Open | State::Retiring) {
                    fan_out.behind(publisher, stream.expected(), |times, copies| {
                        tally.record_lost(until, name, times, copies);
                    });
                }
            }
            tally.fan_out.gaps += stream.gaps;
            if broadcast.subscribes() {
                tally.fan_out.deliveries += stream.received;
            }
        }
        if let Part::Publishes(publishing) = &broadcast.part {
            let (next, audience) = (publishing.next, u64::from(broadcast.audience));
            // Where connections come and go, subscribers tell what they were owed.
            if !shared.load.churn.is_some() {
                tally.fan_out.deliveries_due += next * audience;
            }
            self.settle_unsent(position, next, audience, until);
        }
    }
}
