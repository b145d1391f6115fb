//! What a [`Handler`](super::Handler) can do with its connection.
//!
//! Never: another connection's.

use std::fmt;
use std::time::Duration;

use super::alarms::Alarms;
use super::handler::Busy;
use super::service::Service;
use crate::connection::Kind;
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, Nanos};
use crate::protocol::CloseCode;
use crate::shard::Link;

/// One connection, lent to its handler for the length of a call. What is sent leaves with the shard's turn.
pub struct Remote<'a> {
    pub(super) link: Link<'a, Service>,
    pub(super) seat: u32,
    pub(super) alarms: &'a mut Alarms,
    /// A send was refused.
    pub(super) starved: &'a mut bool,
    /// Bytes that the handler keeps, as it says.
    pub(super) reserved_bytes: &'a mut usize,
}

impl fmt::Debug for Remote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("queued_bytes", &self.queued_bytes()).finish_non_exhaustive()
    }
}

impl Remote<'_> {
    /// The time of this turn, on the clock of [`wake_at`](Remote::wake_at).
    pub fn now(&self) -> Nanos {
        self.link.now()
    }

    /// The number of the shard, from 0.
    pub fn shard(&self) -> usize {
        self.link.mailboxes.shard()
    }

    /// Whether messages may be sent: neither side has begun to close.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// Bytes queued to the peer, those of an unfinished send included.
    pub fn queued_bytes(&self) -> u32 {
        self.link.queued_bytes()
    }

    /// Whether nothing is queued and no send is unfinished.
    pub fn is_writable(&self) -> bool {
        self.link.is_writable()
    }

    /// Queues a text message.
    ///
    /// # Errors
    /// [`Busy`], and nothing queued, when more than the queue's bound (`--queue-bytes`) is queued already, or the
    /// connection is closing. One message always fits an empty queue.
    pub fn send_text(&mut self, text: &str) -> Result<(), Busy> {
        let sent = self.link.send(Kind::Text, text.as_bytes());
        self.judge(sent)
    }

    /// Queues a binary message.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send_binary(&mut self, payload: &[u8]) -> Result<(), Busy> {
        let sent = self.link.send(Kind::Binary, payload);
        self.judge(sent)
    }

    /// Queues a copy of a message; [`Disposition::Echo`](super::Disposition::Echo) needs none.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send(&mut self, message: super::Message<'_>) -> Result<(), Busy> {
        let sent = self.link.send(message.kind, message.payload);
        self.judge(sent)
    }

    /// Queues a message in `parts` frames of about the same size, some of them empty when there are not enough bytes
    /// (RFC 6455, 5.4), and uncompressed.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send_in_parts(&mut self, message: super::Message<'_>, parts: usize) -> Result<(), Busy> {
        let parts = parts.max(1);
        let bytes = message.payload.len();
        for part in 0..parts {
            // Neither product overflows: messages have less than 2^32 bytes, and nobody asks for so many parts.
            let piece = &message.payload[bytes * part / parts..bytes * (part + 1) / parts];
            let sent = self.link.send_fragment(message.kind, part == 0, part + 1 == parts, piece);
            self.judge(sent)?;
        }
        Ok(())
    }

    /// Queues a ping with the first 125 bytes of `payload` (RFC 6455, 5.5.2), in front of queued messages. The server
    /// pings silent peers by itself; this is for measuring.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), Busy> {
        let sent = self.link.ping(&payload[..payload.len().min(CONTROL_PAYLOAD_BYTES_MAX)]);
        self.judge(sent)
    }

    fn judge(&mut self, sent: bool) -> Result<(), Busy> {
        if sent {
            return Ok(());
        }
        *self.starved |= self.link.is_open();
        Err(Busy)
    }

    /// Starts the closing handshake (RFC 6455, 7.1.2), behind what is queued.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.link.close(code, reason);
    }

    /// Closes in front of what is queued, which is dropped: for a peer that does not keep up. Returns the bytes dropped.
    pub fn close_at_once(&mut self, code: CloseCode, reason: &str) -> u32 {
        self.link.close_at_once(code, reason)
    }

    /// Ends the stream without a Close frame, behind what is queued: the peer sees 1006. For tests.
    pub fn hang_up(&mut self) {
        self.link.hang_up();
    }

    /// Reads no further messages from the peer, or reads on. Messages that were received already still come, up to
    /// [`RECEIVE_CREDIT_BYTES`](crate::limits::RECEIVE_CREDIT_BYTES) of them. TCP then holds the peer up.
    pub fn hold_up(&mut self, held_up: bool) {
        self.link.hold_up(held_up);
    }

    /// Asks for [`Handler::timer`](super::Handler::timer) at a time of [`now`](Remote::now)'s clock, never earlier and
    /// late by no more than the shard's turn. There is one such time: a new one replaces the last.
    pub fn wake_at(&mut self, at: Nanos) {
        self.alarms.set(self.seat, at);
    }

    /// The same, so long after now.
    pub fn wake_after(&mut self, time: Duration) {
        let nanos = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX);
        self.wake_at(self.now().saturating_add(nanos));
    }

    /// Takes the wish to be woken back.
    pub fn sleep(&mut self) {
        self.alarms.clear(self.seat);
    }

    /// Accounts for `bytes` that the handler keeps, in the node's memory budget. They are given back when the handler
    /// is gone, or by [`release`](Remote::release). False, and nothing accounted, when the budget is spent.
    #[must_use]
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let reserved = self.link.pool().charge(bytes);
        *self.reserved_bytes += if reserved { bytes } else { 0 };
        reserved
    }

    /// Gives back what [`reserve`](Remote::reserve) accounted, and no more than that.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(*self.reserved_bytes);
        *self.reserved_bytes -= bytes;
        self.link.pool().discharge(bytes);
    }
}
