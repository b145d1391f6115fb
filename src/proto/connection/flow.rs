//! Flow control: when reading from the peer pauses, and which received bytes wait meanwhile.
//!
//! Never: more deferred bytes than the receive credit that was granted before reading paused.

use super::{Connection, ConnectionConfig, SpanCursor};
use crate::buffer::Buffer;
use crate::limits::{DEFERRED_BYTES_MAX, INFLATED_BYTES_PER_TICK, Nanos, RECEIVE_CREDIT_BYTES};

/// Who keeps the peer from sending.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The driver was told to pause receiving.
    reads_paused: bool,
    /// The application wants no messages for now.
    backpressured: bool,
    /// The peer was too fast, and has to wait.
    throttled: bool,
    /// Messages wait that are sent before the peer's next one is read.
    yields: bool,
}

impl Flow {
    /// Whether we want no messages, however much room there is.
    pub(super) fn is_held(&self) -> bool {
        self.backpressured || self.throttled || self.yields
    }

    pub(super) fn is_paused(&self) -> bool {
        self.reads_paused || self.is_held()
    }

    pub(super) fn reads_paused(&self) -> bool {
        self.reads_paused
    }

    /// From now on the peer is read from for the sake of its Close frame.
    pub(super) fn end_backpressure(&mut self) {
        (self.backpressured, self.throttled, self.yields) = (false, false, false);
    }
}

impl Connection {
    /// Whether reading should pause or resume now. It pauses when more than [`ConnectionConfig::queue_bytes`] are queued,
    /// and resumes at half of that. While the node `is_short` of memory, it pauses as soon as the peer does not read.
    #[inline]
    pub fn pause_wanted(&mut self, config: &ConnectionConfig, is_short: bool) -> Option<bool> {
        let queued = self.queued_bytes();
        let mark = config.queue_bytes;
        let paused = self.flow.reads_paused;
        let full = if paused { queued > mark / 2 } else { queued > mark } || (is_short && self.is_blocked());
        let held = self.flow.is_held() || self.is_deciding() || self.reader.has_deferred();
        if !full && !held && !paused {
            return None;
        }
        let wanted = held || (full && !config.reads_when_full);
        (wanted != paused).then(|| {
            self.flow.reads_paused = wanted;
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
        let is_held = self.flow.backpressured || self.flow.throttled;
        let may = self.flow.reads_paused && !is_held && !self.is_deciding() && has_room;
        if may {
            self.flow.reads_paused = false;
        }
        may
    }

    /// Asks for no more messages, or for more again. Those on the way still arrive, see `Driver::pause`. Does nothing while
    /// the connection is closing, since the peer's Close frame must be read.
    pub fn set_backpressured(&mut self, backpressured: bool, now: Nanos) {
        if self.flow.backpressured && !backpressured {
            self.resume_liveness(now);
        }
        self.flow.backpressured = backpressured && !self.is_closing();
    }

    /// The same for a peer that was faster than it may be, beside what the application asks for.
    pub fn set_throttled(&mut self, throttled: bool, now: Nanos) {
        if self.flow.throttled && !throttled {
            self.resume_liveness(now);
        }
        self.flow.throttled = throttled && !self.is_closing();
    }

    /// The peer's next message waits, unless all of it has arrived, until this is called with `false`: other messages go before it.
    /// What arrives meanwhile is kept, at most the receive credit.
    pub fn set_yields(&mut self, yields: bool, now: Nanos) {
        if self.flow.yields && !yields {
            self.resume_liveness(now);
        }
        self.flow.yields = yields && !self.is_closing();
    }

    /// The peer is read again, so its silence counts from now on.
    fn resume_liveness(&mut self, now: Nanos) {
        self.liveness.restart(now);
        self.deadline_moved = true;
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
    /// rest of a span waits when its messages have become enough for one turn, or more than the peer takes. A span that
    /// arrives on a stalled connection waits whole: bytes that were on the way when reading paused arrive a few at a
    /// time, and each of them could complete another message.
    pub(super) fn must_defer(&self, cursor: &SpanCursor, config: &ConnectionConfig) -> bool {
        (self.codec.is_some() || self.flow.yields)
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
