//! One direction pair of reliable, ordered messages between two nodes, over packets that may be lost or late.
//!
//! ```text
//! packet:  version │ from │ to │ session │ their session │ sequence │ acknowledged │ messages …
//! ```
//!
//! A *session* lasts from one loss of state to the next. Each side numbers its own, ascending; a packet that names an older
//! session of either side is late, and ignored. Within a session packets are numbered, acknowledged, and sent again from the first that is
//! missing. When the other side begins a session anew, what was sent before may be lost: the link begins anew as well, and says so.

use std::collections::VecDeque;

use bytes::BufMut as _;
use echoring_proto::limits::Nanos;

use crate::heartbeat::VERSION;
use crate::limits::{LINK_BYTES_MAX, PACKET_BYTES_MAX, RETRANSMIT_AFTER};
use crate::view::NodeId;
use crate::wire::{append_entry, take_u8, take_u64};

/// A packet as it was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    session: u64,
    their_session: u64,
    /// 0 without messages.
    sequence: u64,
    acknowledged: u64,
    messages: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(crate) fn read(mut bytes: &'a [u8]) -> Option<Packet<'a>> {
        let rest = &mut bytes;
        if take_u8(rest)? != VERSION {
            return None;
        }
        Some(Packet {
            from: NodeId(take_u64(rest)?),
            to: NodeId(take_u64(rest)?),
            session: take_u64(rest)?,
            their_session: take_u64(rest)?,
            sequence: take_u64(rest)?,
            acknowledged: take_u64(rest)?,
            messages: rest,
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.put_u8(VERSION);
        for number in
            [self.from.0, self.to.0, self.session, self.their_session, self.sequence, self.acknowledged]
        {
            bytes.put_u64_le(number);
        }
        bytes.extend_from_slice(self.messages);
    }
}

/// What a packet was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// The next messages, as a list.
    Messages(&'a [u8]),
    /// Nothing new.
    Nothing,
    /// The other side has lost its state, and this side begins anew. What was sent may be lost.
    Reset,
}

/// The link to one other node.
#[derive(Debug)]
pub(crate) struct Link {
    session: u64,
    /// The other side's session.
    theirs: Option<u64>,
    /// Whether the other side knows this session. Only then are messages sent.
    is_known: bool,
    /// Messages that are in no packet yet.
    staged: VecDeque<Vec<u8>>,
    staged_bytes: usize,
    /// The messages of packets that are not acknowledged; the first has the sequence `first`.
    unacknowledged: VecDeque<Vec<u8>>,
    unacknowledged_bytes: usize,
    first: u64,
    /// How many of them have been sent since the link last went back.
    sent: usize,
    /// Latest time at which something was sent or acknowledged.
    progress_at: Nanos,
    /// The next sequence of the other side.
    expected: u64,
    owes_acknowledgement: bool,
    /// When the session is announced again.
    announce_at: Nanos,
}

impl Link {
    pub(crate) fn new(session: u64) -> Link {
        Link {
            session,
            theirs: None,
            is_known: false,
            staged: VecDeque::new(),
            staged_bytes: 0,
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            first: 1,
            sent: 0,
            progress_at: 0,
            expected: 1,
            owes_acknowledgement: false,
            announce_at: 0,
        }
    }

    /// Sends a message after all before it.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        self.staged_bytes += message.len();
        self.staged.push_back(message);
    }

    /// Whether deliveries may be pushed. What must not be lost is pushed anyway, and is bounded by what the protocol allows to be
    /// on its way.
    pub(crate) fn has_room(&self) -> bool {
        self.staged_bytes + self.unacknowledged_bytes < LINK_BYTES_MAX
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.unacknowledged.is_empty()
    }

    /// Packets may have been lost.
    pub(crate) fn send_again(&mut self, now: Nanos) {
        self.sent = 0;
        self.announce_at = now;
    }

    /// Takes a packet. `sessions` counts this node's sessions.
    pub(crate) fn handle<'a>(&mut self, packet: &Packet<'a>, sessions: &mut u64, now: Nanos) -> Received<'a> {
        if self.theirs.is_some_and(|theirs| packet.session < theirs) {
            return Received::Nothing;
        }
        if self.theirs != Some(packet.session) {
            let has_begun = self.first > 1 || !self.unacknowledged.is_empty() || self.expected > 1;
            let is_reset = self.theirs.is_some() && has_begun;
            if is_reset {
                *sessions += 1;
                *self = Link::new(*sessions);
            }
            self.theirs = Some(packet.session);
            self.is_known = false;
            self.announce_at = now;
            if is_reset {
                return Received::Reset;
            }
        }
        if packet.their_session != self.session {
            // It does not know this session, or did not when it sent the packet.
            self.announce_at = now;
            return Received::Nothing;
        }
        if !self.is_known {
            self.is_known = true;
            self.owes_acknowledgement = true;
        }
        self.acknowledge(packet.acknowledged, now);
        if packet.sequence == 0 {
            return Received::Nothing;
        }
        self.owes_acknowledgement = true;
        if packet.sequence != self.expected {
            return Received::Nothing;
        }
        self.expected += 1;
        Received::Messages(packet.messages)
    }

    fn acknowledge(&mut self, sequence: u64, now: Nanos) {
        while self.first <= sequence
            && let Some(messages) = self.unacknowledged.pop_front()
        {
            self.unacknowledged_bytes -= messages.len();
            self.first += 1;
            self.sent = self.sent.saturating_sub(1);
            self.progress_at = now;
        }
    }

    /// Writes the next packet to `bytes`, if there is one to send.
    pub(crate) fn poll(&mut self, from: NodeId, to: NodeId, now: Nanos, bytes: &mut Vec<u8>) -> bool {
        let (session, their_session) = (self.session, self.theirs.unwrap_or(0));
        let acknowledged = self.expected - 1;
        let empty = Packet { from, to, session, their_session, sequence: 0, acknowledged, messages: &[] };
        if !self.is_known {
            if now < self.announce_at {
                return false;
            }
            self.announce_at = now + RETRANSMIT_AFTER;
            empty.write(bytes);
            return true;
        }
        if self.sent == self.unacknowledged.len() {
            self.fill();
        }
        if self.sent > 0 && now >= self.progress_at + RETRANSMIT_AFTER {
            self.sent = 0;
        }
        if let Some(messages) = self.unacknowledged.get(self.sent) {
            Packet { sequence: self.first + self.sent as u64, messages, ..empty }.write(bytes);
            self.sent += 1;
            self.progress_at = now;
        } else if self.owes_acknowledgement {
            empty.write(bytes);
        } else {
            return false;
        }
        self.owes_acknowledgement = false;
        true
    }

    /// Makes a packet of the first messages that are in none.
    fn fill(&mut self) {
        if self.unacknowledged_bytes >= LINK_BYTES_MAX {
            return;
        }
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
            self.unacknowledged.push_back(messages);
        }
    }

    /// When [`poll`](Link::poll) may have a packet although nothing was pushed or received.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        if !self.is_known {
            return Some(self.announce_at);
        }
        (self.sent > 0).then(|| self.progress_at + RETRANSMIT_AFTER)
    }
}
