//! One direction pair of reliable, ordered messages between two nodes, over packets that may be lost or late.
//!
//! ```text
//! packet:  version │ from │ to │ session │ their session │ sequence │ transmission │ acknowledged │ seen │ messages …
//! ```
//!
//! A *session* lasts from one loss of state to the next. Each side numbers its own, ascending; a packet that names an older
//! session of either side is late, and ignored. When the other side begins a new session, earlier messages may be lost:
//! the link begins anew as well, and says so.
//!
//! Within a session the packets with messages have a *sequence*, in which the other side takes them. Each *transmission* of one has
//! a number of its own too, as packets of QUIC have (RFC 9002), and both sides repeat the latest number that they have *seen*. Packets do not
//! overtake one another, so a packet was lost if a later transmission has been seen and the packet was not acknowledged. The link then
//! goes back to it: a loss is repaired in a round trip, however busy the link is. It goes back once per round trip,
//! because retransmissions have later numbers.
//!
//! A packet with nothing behind it that could show its loss is sent again by a timer (RFC 6298). The timer starts when the first packet that is not
//! acknowledged is sent, and again when an acknowledgement makes progress. **Further sends do not postpone it.**
//!
//! A node with a new connection has lost the packets in flight in either direction. It sends again at once, and so does
//! the other side, as it sees [`EVERYTHING`].

mod plain;
mod round_trip;

use std::collections::VecDeque;

use echoring_proto::Plain as _;
use echoring_proto::limits::Nanos;

use crate::heartbeat::VERSION;
use crate::limits::{LINK_BYTES_MAX, PACKET_BYTES_MAX, RETRANSMIT_AFTER_MAX};
use crate::message::append_entry;
use crate::view::NodeId;
pub(crate) use plain::PlainLink;
use round_trip::RoundTrip;

/// The number that a node with a new connection has seen: nothing that was sent before will arrive.
const EVERYTHING: u64 = u64::MAX;

/// A packet as it was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    session: u64,
    their_session: u64,
    /// 0 without messages, and so is `transmission`.
    sequence: u64,
    transmission: u64,
    acknowledged: u64,
    seen: u64,
    messages: &'a [u8],
}

echoring_proto::plain!(for Packet<'a> {
    from, to, session, their_session, sequence, transmission, acknowledged, seen, messages
});

impl<'a> Packet<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Packet<'a>> {
        Packet::take(&mut bytes.strip_prefix(&[VERSION])?)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(VERSION);
        self.put(bytes);
    }
}

/// What a packet delivers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery<'a> {
    /// The next messages, as a list.
    Messages(&'a [u8]),
    /// Nothing new.
    Nothing,
    /// The other side has lost its state, and this side starts over. Messages sent before may be lost.
    Reset,
}

/// How the link to another node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFigures {
    /// Bytes of messages that the other node has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Time since the oldest of them was first sent; 0 if there are none.
    pub unacknowledged_age: Nanos,
    /// Packets retransmitted since the node appeared.
    pub retransmissions: u64,
    /// Restarts of the link since then.
    pub resets: u64,
    /// The estimated round trip. `None` before the first acknowledgement.
    pub round_trip: Option<Nanos>,
}

/// The messages of a packet that is not acknowledged.
#[derive(Debug)]
struct Unacknowledged {
    messages: Vec<u8>,
    first_sent_at: Nanos,
    sent_at: Nanos,
    /// The number of its latest transmission.
    transmission: u64,
}

/// The link to one other node.
#[derive(Debug, Default)]
pub(crate) struct Link {
    session: u64,
    /// The other side's session.
    theirs: Option<u64>,
    /// Whether the other side knows this session. Messages are sent only then.
    is_known: bool,
    /// Messages that are in no packet yet.
    staged: VecDeque<Vec<u8>>,
    staged_bytes: usize,
    /// Since when messages wait for the other side to know this session.
    waiting_since: Option<Nanos>,
    /// The packets that are not acknowledged; the first has the sequence `first`.
    unacknowledged: VecDeque<Unacknowledged>,
    unacknowledged_bytes: usize,
    first: u64,
    /// How many of them have been sent since the link last went back.
    sent: usize,
    /// The latest transmission.
    transmission: u64,
    /// When the timer started: the first of the packets was sent then, or acknowledgements made progress.
    timer_from: Nanos,
    /// How often it has gone off since.
    timeouts: u32,
    round_trip: RoundTrip,
    /// The next sequence of the other side.
    expected: u64,
    /// The latest transmission of the other side that has arrived.
    seen: u64,
    /// Nothing that the other side has sent is still on its way, and it does not know that yet.
    has_new_connection: bool,
    owes_acknowledgement: bool,
    /// When the session is announced again.
    announce_at: Nanos,
    retransmissions: u64,
    resets: u64,
}

impl Link {
    pub(crate) fn new(session: u64) -> Link {
        Link { session, first: 1, expected: 1, ..Link::default() }
    }

    /// Sends a message after all before it.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        self.staged_bytes += message.len();
        self.staged.push_back(message);
    }

    /// Whether deliveries may be pushed. Messages that must not be lost are pushed anyway, bounded by what the protocol
    /// allows to be in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.staged_bytes + self.unacknowledged_bytes < LINK_BYTES_MAX
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.unacknowledged.is_empty()
    }

    pub(crate) fn figures(&self, now: Nanos) -> LinkFigures {
        let oldest = self.unacknowledged.front().map(|packet| packet.first_sent_at);
        LinkFigures {
            unacknowledged_bytes: (self.staged_bytes + self.unacknowledged_bytes) as u64,
            unacknowledged_age: oldest.or(self.waiting_since).map_or(0, |since| now.saturating_sub(since)),
            retransmissions: self.retransmissions,
            resets: self.resets,
            round_trip: self.round_trip.smoothed(),
        }
    }

    /// The connection is new. Packets in flight in either direction may be lost.
    pub(crate) fn send_again(&mut self, now: Nanos) {
        (self.sent, self.timeouts) = (0, 0);
        (self.has_new_connection, self.owes_acknowledgement) = (true, true);
        self.announce_at = now;
    }

    /// Takes a packet. `sessions` counts this node's sessions.
    pub(crate) fn handle<'a>(&mut self, packet: &Packet<'a>, sessions: &mut u64, now: Nanos) -> Delivery<'a> {
        if self.theirs.is_some_and(|theirs| packet.session < theirs) {
            return Delivery::Nothing;
        }
        if self.theirs != Some(packet.session) {
            let has_begun = self.first > 1 || !self.unacknowledged.is_empty() || self.expected > 1;
            let is_reset = self.theirs.is_some() && has_begun;
            if is_reset {
                *sessions += 1;
                // The path is the same, and its figures stay.
                let Link { round_trip, retransmissions, resets, .. } = *self;
                *self = Link { round_trip, retransmissions, resets: resets + 1, ..Link::new(*sessions) };
            }
            self.theirs = Some(packet.session);
            self.is_known = false;
            self.announce_at = now;
            if is_reset {
                return Delivery::Reset;
            }
        }
        if packet.their_session != self.session {
            // It does not know this session, or did not when it sent the packet.
            self.announce_at = now;
            return Delivery::Nothing;
        }
        if !self.is_known {
            self.is_known = true;
            self.owes_acknowledgement = true;
        }
        self.acknowledge(packet, now);
        if packet.sequence == 0 {
            return Delivery::Nothing;
        }
        self.owes_acknowledgement = true;
        self.seen = self.seen.max(packet.transmission);
        if packet.sequence != self.expected {
            return Delivery::Nothing;
        }
        self.expected += 1;
        Delivery::Messages(packet.messages)
    }

    fn acknowledge(&mut self, packet: &Packet<'_>, now: Nanos) {
        while self.first <= packet.acknowledged
            && let Some(acknowledged) = self.unacknowledged.pop_front()
        {
            if acknowledged.transmission == packet.seen {
                self.round_trip.measure(now.saturating_sub(acknowledged.sent_at));
            }
            self.unacknowledged_bytes -= acknowledged.messages.len();
            self.first += 1;
            self.sent = self.sent.saturating_sub(1);
            (self.timer_from, self.timeouts) = (now, 0);
        }
        if self.unacknowledged.front().is_some_and(|oldest| oldest.transmission <= packet.seen) {
            self.sent = 0;
        }
    }

    /// Writes the next packet to `bytes`, if there is one to send.
    pub(crate) fn poll(&mut self, from: NodeId, to: NodeId, now: Nanos, bytes: &mut Vec<u8>) -> bool {
        let (session, their_session) = (self.session, self.theirs.unwrap_or(0));
        let acknowledged = self.expected - 1;
        let seen = if self.has_new_connection { EVERYTHING } else { self.seen };
        let (sequence, transmission, messages) = (0, 0, &[][..]);
        let mut packet =
            Packet { from, to, session, their_session, sequence, transmission, acknowledged, seen, messages };
        if !self.is_known {
            if !self.staged.is_empty() {
                self.waiting_since.get_or_insert(now);
            }
            if now < self.announce_at {
                return false;
            }
            self.announce_at = now + RETRANSMIT_AFTER_MAX;
            packet.write(bytes);
            return true;
        }
        if self.sent == self.unacknowledged.len() {
            self.fill(now);
        }
        if let Some(index) = self.next(now) {
            self.transmission += 1;
            let sent = &mut self.unacknowledged[index];
            self.retransmissions += u64::from(sent.transmission > 0);
            (sent.transmission, sent.sent_at) = (self.transmission, now);
            (packet.sequence, packet.transmission) = (self.first + index as u64, self.transmission);
            packet.messages = &sent.messages;
        } else if !self.owes_acknowledgement {
            return false;
        }
        packet.write(bytes);
        (self.owes_acknowledgement, self.has_new_connection) = (false, false);
        true
    }

    /// The packet that is sent now.
    fn next(&mut self, now: Nanos) -> Option<usize> {
        if self.timer().is_some_and(|at| now >= at) {
            (self.timer_from, self.timeouts) = (now, self.timeouts + 1);
            return Some(0);
        }
        if self.sent == self.unacknowledged.len() {
            return None;
        }
        if self.sent == 0 {
            self.timer_from = now;
        }
        self.sent += 1;
        Some(self.sent - 1)
    }

    /// When the oldest packet is sent again, although nothing shows that it was lost.
    fn timer(&self) -> Option<Nanos> {
        (self.sent > 0).then(|| self.timer_from + self.round_trip.timeout(self.timeouts))
    }

    /// Makes a packet of the first messages that are in none.
    fn fill(&mut self, now: Nanos) {
        if self.unacknowledged_bytes >= LINK_BYTES_MAX {
            return;
        }
        self.waiting_since = None;
        let mut messages = Vec::new();
        while let Some(message) = self.staged.front()
            && (messages.is_empty() || messages.len() + message.len() < PACKET_BYTES_MAX)
        {
            append_entry(&mut messages, message);
            self.staged_bytes -= message.len();
            self.staged.pop_front();
        }
        if !messages.is_empty() {
            self.unacknowledged_bytes += messages.len();
            let packet = Unacknowledged { messages, first_sent_at: now, sent_at: now, transmission: 0 };
            self.unacknowledged.push_back(packet);
        }
    }

    /// When [`poll`](Link::poll) may have a packet although nothing was pushed or received.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        if self.is_known { self.timer() } else { Some(self.announce_at) }
    }
}
