//! Flow control: when reading from the peer pauses, and which received bytes wait meanwhile.
//!
//! Never: more deferred bytes than the receive credit that was granted before reading paused.

use super::{Connection, ConnectionConfig, SpanCursor};
use crate::buffer::Buffer;
use crate::limits::{DEFERRED_BYTES_MAX, INFLATED_BYTES_PER_TICK, Nanos, RECEIVE_CREDIT_BYTES};

/// The causes that keep the peer from sending: a bit for each, because every idle connection pays for it.
#[derive(Debug, Default)]
pub(super) struct Flow(u8);

impl Flow {
    /// The driver was asked to pause receiving.
    const READS_PAUSED: u8 = 1;
    /// The application wants no messages for now.
    const BACKPRESSURED: u8 = 2;
    /// The peer exceeded its rate, and must wait.
    const THROTTLED: u8 = 4;
    /// Messages wait that are sent before the peer's next one is read.
    const YIELDS: u8 = 8;

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    fn set(&mut self, bit: u8, is_set: bool) {
        self.0 = if is_set { self.0 | bit } else { self.0 & !bit };
    }

    /// Whether we want no messages, even if there is room.
    pub(super) fn is_held(&self) -> bool {
        self.has(Flow::BACKPRESSURED | Flow::THROTTLED | Flow::YIELDS)
    }

    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.0 != 0
    }

    pub(super) fn reads_paused(&self) -> bool {
        self.has(Flow::READS_PAUSED)
    }

    /// From now on reads go on, because the Close frame of the peer must arrive.
    pub(super) fn end_backpressure(&mut self) {
        self.0 &= Flow::READS_PAUSED;
    }
}

impl Connection {
    /// Whether reading should pause or resume now. It pauses when more than [`ConnectionConfig::queue_bytes`] are queued,
    /// and resumes at half of that. While the node `is_short` of memory, it pauses as soon as the peer does not read.
    #[inline]
    pub fn pause_wanted(&mut self, config: &ConnectionConfig, is_short: bool) -> Option<bool> {
        let queued = self.queued_bytes();
        let mark = config.queue_bytes;
        let paused = self.flow.reads_paused();
        let full = if paused { queued > mark / 2 } else { queued > mark } || (is_short && self.is_blocked());
        let held = self.flow.is_held() || self.is_deciding() || self.reader.has_deferred();
        if !full && !held && !paused {
            return None;
        }
        let wanted = held || (full && !config.reads_when_full);
        (wanted != paused).then(|| {
            self.flow.set(Flow::READS_PAUSED, wanted);
            wanted
        })
    }

    /// Whether reading, which is paused because the peer takes nothing, continues for one receive. Asked when its sends
    /// have made no progress for a while.
    ///
    /// Linux 6.17 and later drop a segment that reaches beyond a socket's receive window together with the acknowledgement
    /// in it, unless the receive queue is empty. That window can shrink to nothing, because many short segments take more
    /// memory than the socket may use. A peer that begins to read again is then not heard until something is read here.
    pub fn wants_one_more(&mut self, config: &ConnectionConfig) -> bool {
        let has_room = self.queued_bytes() <= config.queue_bytes.saturating_add(RECEIVE_CREDIT_BYTES)
            && self.reader.deferred_bytes() <= DEFERRED_BYTES_MAX - RECEIVE_CREDIT_BYTES as usize;
        let is_held = self.flow.has(Flow::BACKPRESSURED | Flow::THROTTLED);
        let may = self.flow.reads_paused() && !is_held && !self.is_deciding() && has_room;
        if may {
            self.flow.set(Flow::READS_PAUSED, false);
        }
        may
    }

    /// Stops or resumes asking for messages. Those on the way still arrive, see `Driver::pause`. Does nothing while
    /// the connection is closing, since the peer's Close frame must be read.
    pub fn set_backpressured(&mut self, backpressured: bool, now: Nanos) {
        self.hold(Flow::BACKPRESSURED, backpressured, now);
    }

    /// The same for a peer that exceeded its rate, in addition to the application's own requests.
    pub fn set_throttled(&mut self, throttled: bool, now: Nanos) {
        self.hold(Flow::THROTTLED, throttled, now);
    }

    /// The peer's next message waits, unless all of it has arrived, until this is called with `false`: other messages go before it.
    /// Bytes that arrive meanwhile are kept, at most the receive credit.
    pub fn set_yields(&mut self, yields: bool, now: Nanos) {
        self.hold(Flow::YIELDS, yields, now);
    }

    fn hold(&mut self, bit: u8, is_held: bool, now: Nanos) {
        if self.flow.has(bit) && !is_held {
            // The peer is read again, so its silence counts from now on.
            self.liveness.restart(now);
            self.deadline_changed = true;
        }
        self.flow.set(bit, is_held && !self.is_closing());
    }

    /// The driver was asked to receive again: from now on, the rest of an unfinished message is awaited.
    pub fn note_resumed(&mut self, now: Nanos) {
        self.reader.restart_clock(now);
    }

    /// Whether reading is, or is about to be, paused.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.flow.is_paused()
    }

    /// Whether bytes that the peer sent may be unread.
    pub(super) fn is_reading_paused(&self) -> bool {
        self.flow.is_paused() || self.reader.has_deferred()
    }

    /// Whether frames that begin now have to wait. Compressed messages multiply: few bytes can become much to answer. The
    /// rest of a span waits once its messages fill one turn, or exceed what the peer accepts. A span that
    /// arrives on a stalled connection waits whole: bytes that were on the way when reading paused arrive a few at a
    /// time, and each of them could complete another message.
    pub(super) fn must_defer(&self, cursor: &SpanCursor, config: &ConnectionConfig) -> bool {
        (self.codec.is_some() || self.flow.has(Flow::YIELDS))
            && self.reader.may_defer(cursor)
            && (cursor.inflated_bytes >= INFLATED_BYTES_PER_TICK || self.is_stalled(config))
    }

    /// Whether deferred bytes have to wait longer.
    fn is_stalled(&self, config: &ConnectionConfig) -> bool {
        let is_full = self.queued_bytes() > config.queue_bytes && !config.reads_when_full;
        self.is_deciding() || self.flow.is_held() || is_full
    }

    /// Whether received bytes wait to be read.
    pub fn has_deferred(&self) -> bool {
        self.reader.has_deferred()
    }

    /// Received bytes that had to wait and can be read now, as a span of their own.
    pub fn take_deferred(&mut self, config: &ConnectionConfig) -> Option<Buffer> {
        if self.is_stalled(config) { None } else { self.reader.take_deferred() }
    }
}
