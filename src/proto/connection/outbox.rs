//! Frames that wait to be sent, in order, because they cannot be sent from the receive region.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::num::NonZeroU32;

use super::restoring::buffer_of;
use crate::buffer::{Buffer, Pool};
use crate::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, QUEUED_PONGS_MAX};
use crate::mask;

/// Bytes of the largest control frame: two of header, four of key, 125 of payload.
pub(super) const CONTROL_FRAME_BYTES_MAX: usize = 6 + CONTROL_PAYLOAD_BYTES_MAX;

/// A data buffer grows up to this by doubling; longer frames get a buffer of their own size.
const GROWN_BYTES_MAX: usize = 64 * 1024;

/// The node's byte budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Frames that wait to be sent. Each buffer holds whole frames, so that control frames may go between any two.
///
/// Order: control frames, then data first in first out. While a span is read, the replies in it are one element of that
/// order: `behind_replies` counts the buffers that were queued behind them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    control: Option<Buffer>,
    first: Option<Buffer>,
    /// Kept, once it was needed, until the connection is [idle](Outbox::shrink), so that a busy one allocates nothing.
    #[expect(clippy::box_collection, reason = "an idle connection pays 8 bytes for it, not 32")]
    more: Option<Box<VecDeque<Buffer>>>,
    bytes: u32,
    /// Bytes of an unfinished send that the driver continues; none without such a send.
    unsent: Option<NonZeroU32>,
    behind_replies: u16,
    queued_pongs: u16,
    /// The last buffer takes no further frames, because the replies in the span come behind it.
    at_replies: bool,
    /// Nothing may go before the first data buffer: it continues a frame whose header was sent, or is the response to the
    /// request.
    pinned: bool,
    /// The same held for the buffer that was popped last.
    popped_pinned: bool,
}

crate::plain! {
    /// What moves of it.
    pub(super) struct PlainOutbox<'a> {
        queued_pongs: u16 where |pongs| u32::from(*pongs) <= QUEUED_PONGS_MAX,
        control: Option<&'a [u8]>,
        pinned: Option<&'a [u8]>,
        rest: Cow<'a, [u8]>,
    }
}

impl Outbox {
    /// Bytes that were not sent, those of an unfinished send included.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes + self.unsent_bytes()
    }

    /// Bytes of the node's budget that the queue takes.
    pub(super) fn held_bytes(&self) -> u64 {
        let more = self.more.iter().flat_map(|more| more.iter());
        let buffers = self.control.iter().chain(&self.first).chain(more);
        buffers.map(|buffer| buffer.accounted_bytes() as u64).sum()
    }

    /// Whether a send is unfinished.
    pub(super) fn is_blocked(&self) -> bool {
        self.unsent.is_some()
    }

    /// The last send was short by `unsent` bytes, and the driver continues it.
    pub(super) fn block(&mut self, unsent: u32) {
        self.unsent = Some(NonZeroU32::new(unsent).unwrap_or(NonZeroU32::MIN));
    }

    /// Of the unfinished send, `bytes` were cancelled; it stays unfinished.
    pub(super) fn cancel(&mut self, bytes: u32) {
        self.unsent = self
            .unsent
            .map(|unsent| NonZeroU32::new(unsent.get().saturating_sub(bytes)).unwrap_or(NonZeroU32::MIN));
    }

    /// Bytes of an unfinished send.
    pub(super) fn unsent_bytes(&self) -> u32 {
        self.unsent.map_or(0, NonZeroU32::get)
    }

    /// The kernel has taken all of it.
    pub(super) fn unblock(&mut self) {
        self.unsent = None;
    }

    /// Whether nothing is queued and no send is unfinished.
    pub(super) fn is_flushed(&self) -> bool {
        self.bytes == 0 && self.unsent.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether replies in the span may grow: nothing was queued behind them.
    pub(super) fn replies_may_grow(&self) -> bool {
        self.behind_replies == 0
    }

    /// Replies in the span begin: earlier queued frames go before them, later ones after them.
    pub(super) fn begin_replies(&mut self) {
        self.at_replies = true;
    }

    /// The replies in the span were sent or copied; frames queue as usual again.
    pub(super) fn end_replies(&mut self) {
        self.at_replies = false;
        self.behind_replies = 0;
    }

    /// Queues one frame, masked when the header has a key.
    pub(super) fn frame(
        &mut self,
        pool: &mut Pool,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), OutOfMemory> {
        self.frame_inline(pool, header, payload)
    }

    /// The same, inlined into the caller: for callers that send most of the messages.
    #[inline(always)]
    pub(super) fn frame_inline(
        &mut self,
        pool: &mut Pool,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), OutOfMemory> {
        debug_assert_eq!(header.payload_bytes, payload.len() as u64);
        let Some(head) = frame::encode_short(header) else { return self.long_frame(pool, header, payload) };
        let bytes = head.len() + payload.len();
        let buffer = self.room_for_frame(pool, bytes)?;
        buffer.append(&head);
        buffer.append(payload);
        self.bytes += bytes as u32;
        Ok(())
    }

    /// The same for a header of more than two bytes.
    #[inline(never)]
    fn long_frame(&mut self, pool: &mut Pool, header: &Header, payload: &[u8]) -> Result<(), OutOfMemory> {
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(header, &mut head);
        let bytes = head_bytes + payload.len();
        let buffer = self.room_for_frame(pool, bytes)?;
        buffer.append(&head[..head_bytes]);
        match header.mask {
            Some(key) => mask::append(buffer.vec(), payload, key),
            None => buffer.append(payload),
        }
        self.bytes += bytes as u32;
        Ok(())
    }

    /// The last data buffer, with room for a frame of `bytes`.
    #[inline]
    fn room_for_frame(&mut self, pool: &mut Pool, bytes: usize) -> Result<&mut Buffer, OutOfMemory> {
        if self.at_replies {
            return self.room(pool, bytes);
        }
        // The first frame after all were sent, as nearly always.
        if self.first.is_none() && self.behind_replies == 0 {
            return Ok(self.first.insert(pool.get(bytes).ok_or(OutOfMemory)?));
        }
        // Another one behind it.
        let fits = self.first.as_ref().is_some_and(|first| first.room() >= bytes);
        if fits && self.more.is_none() && !self.pinned {
            return self.first.as_mut().ok_or(OutOfMemory);
        }
        self.room(pool, bytes)
    }

    /// Queues bytes that are encoded already.
    pub(super) fn raw(&mut self, pool: &mut Pool, bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.room(pool, bytes.len())?.append(bytes);
        self.bytes += bytes.len() as u32;
        Ok(())
    }

    /// Queues a buffer as it is.
    pub(super) fn push(&mut self, buffer: Buffer) {
        self.bytes += buffer.len() as u32;
        self.push_back(buffer);
    }

    /// Queues the response to the request, which is sent first: nothing overtakes it, even when it is popped and put back.
    pub(super) fn push_first(&mut self, head: Buffer) {
        debug_assert!(self.is_empty(), "nothing was sent before");
        self.push(head);
        self.pinned = true;
    }

    /// Queues a control frame in front of all data.
    pub(super) fn control(
        &mut self,
        pool: &mut Pool,
        opcode: Opcode,
        key: Option<[u8; 4]>,
        payload: &[u8],
    ) -> Result<(), OutOfMemory> {
        debug_assert!(opcode.is_control());
        if opcode == Opcode::Pong {
            if u32::from(self.queued_pongs) >= QUEUED_PONGS_MAX {
                // Only the latest ping is owed an answer (RFC 6455, 5.5.3).
                if let Some(buffer) = self.control.take() {
                    self.bytes -= buffer.len() as u32;
                    pool.put(buffer);
                }
                self.queued_pongs = 0;
            }
            self.queued_pongs += 1;
        }
        let mut encoded = [0; CONTROL_FRAME_BYTES_MAX];
        let encoded = encode_control(&mut encoded, opcode, key, payload);
        if let Some(buffer) = &mut self.control
            && buffer.room() < encoded.len()
            && !pool.grow(buffer, buffer.len() + encoded.len())
        {
            return Err(OutOfMemory);
        }
        if self.control.is_none() {
            self.control = Some(pool.get(encoded.len()).ok_or(OutOfMemory)?);
        }
        if let Some(buffer) = &mut self.control {
            buffer.append(encoded);
            self.bytes += encoded.len() as u32;
        }
        Ok(())
    }

    /// Copies the replies of a span to their position in the order. `header` is that of the first reply, when it does not
    /// lie in the span.
    pub(super) fn insert_replies(
        &mut self,
        pool: &mut Pool,
        header: &[u8],
        replies: &[u8],
    ) -> Result<(), OutOfMemory> {
        let behind = usize::from(self.behind_replies);
        self.end_replies();
        if behind == 0 {
            let buffer = self.room(pool, header.len() + replies.len())?;
            buffer.append(header);
            buffer.append(replies);
            self.bytes += (header.len() + replies.len()) as u32;
            return Ok(());
        }
        let mut buffer = pool.get(header.len() + replies.len()).ok_or(OutOfMemory)?;
        buffer.append(header);
        buffer.append(replies);
        self.bytes += buffer.len() as u32;
        let queue = self.more.get_or_insert_default();
        if let Some(first) = self.first.take() {
            queue.push_front(first);
        }
        let at = queue.len() - behind;
        queue.insert(at, buffer);
        self.first = queue.pop_front();
        Ok(())
    }

    /// Queues the rest of a frame whose header was sent, in front of everything.
    pub(super) fn insert_frame_rest(&mut self, pool: &mut Pool, rest: &[u8]) -> Result<(), OutOfMemory> {
        self.end_replies();
        let mut buffer = pool.get(rest.len()).ok_or(OutOfMemory)?;
        buffer.append(rest);
        self.push_front(buffer);
        self.pinned = true;
        Ok(())
    }

    /// The next buffer to send that goes before the replies in the span.
    pub(super) fn pop(&mut self) -> Option<Buffer> {
        self.popped_pinned = std::mem::take(&mut self.pinned);
        let control = if self.popped_pinned { None } else { self.control.take() };
        let buffer = if let Some(control) = control {
            self.queued_pongs = 0;
            control
        } else if self.data_buffers() > usize::from(self.behind_replies) {
            let first = self.first.take()?;
            self.first = self.more.as_mut().and_then(|rest| rest.pop_front());
            first
        } else {
            return None;
        };
        self.bytes -= buffer.len() as u32;
        Some(buffer)
    }

    fn data_buffers(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |rest| rest.len())
    }

    /// Undoes a [`pop`](Outbox::pop), because the driver did not take the buffer.
    pub(super) fn push_front(&mut self, buffer: Buffer) {
        self.pinned = std::mem::take(&mut self.popped_pinned);
        self.bytes += buffer.len() as u32;
        if let Some(first) = self.first.replace(buffer) {
            self.more.get_or_insert_default().push_front(first);
        }
    }

    /// Frees the memory of an empty queue, when the connection has become idle.
    pub(super) fn shrink(&mut self) {
        if self.more.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.more = None;
        }
    }

    /// Drops the queued messages, except for data that nothing may overtake: the rest of a frame whose header was sent,
    /// or the response to the request. Returns how many bytes were dropped.
    pub(super) fn drop_messages(&mut self, pool: &mut Pool) -> u32 {
        if !self.pinned {
            return self.clear(pool);
        }
        let kept = self.pop();
        let dropped = self.clear(pool);
        if let Some(kept) = kept {
            self.popped_pinned = true;
            self.push_front(kept);
        }
        dropped
    }

    /// Drops all that is queued. Returns how many bytes that was.
    pub(super) fn clear(&mut self, pool: &mut Pool) -> u32 {
        let dropped = self.bytes;
        self.behind_replies = 0;
        while let Some(buffer) = self.pop() {
            pool.put(buffer);
        }
        self.end_replies();
        dropped
    }

    /// The last data buffer, with room for `bytes`.
    fn room(&mut self, pool: &mut Pool, bytes: usize) -> Result<&mut Buffer, OutOfMemory> {
        // Control frames, which overtake data, would have to wait for all that is appended to a pinned buffer.
        let closed = self.at_replies || (self.pinned && self.data_buffers() == 1);
        match self.last().filter(|_| !closed) {
            Some(last) if last.room() >= bytes => {}
            // Moving to a larger buffer keeps a batch contiguous: one send, and no list of buffers.
            Some(last) if last.len() + bytes <= GROWN_BYTES_MAX => {
                if !pool.grow(last, (last.len() + bytes).max(2 * last.len())) {
                    return Err(OutOfMemory);
                }
            }
            _ => {
                let buffer = pool.get(bytes).ok_or(OutOfMemory)?;
                self.push_back(buffer);
            }
        }
        self.last().ok_or(OutOfMemory)
    }

    /// Between spans, and without an unfinished send.
    pub(super) fn plain(&self) -> PlainOutbox<'_> {
        let more = self.more.iter().flat_map(|more| more.iter());
        let mut data = self.first.iter().chain(more).map(Buffer::as_slice);
        PlainOutbox {
            queued_pongs: self.queued_pongs,
            control: self.control.as_ref().map(Buffer::as_slice),
            pinned: if self.pinned { data.next() } else { None },
            rest: Cow::Owned(data.collect::<Vec<_>>().concat()),
        }
    }

    /// On an error the buffers are where `clear` finds them.
    pub(super) fn restore(&mut self, plain: &PlainOutbox<'_>, pool: &mut Pool) -> Result<(), OutOfMemory> {
        self.queued_pongs = plain.queued_pongs;
        if let Some(control) = plain.control {
            self.control = Some(buffer_of(control, 0, pool).ok_or(OutOfMemory)?);
            self.bytes = control.len() as u32;
        }
        if let Some(first) = plain.pinned {
            self.push_front(buffer_of(first, 0, pool).ok_or(OutOfMemory)?);
            self.pinned = true;
        }
        if !plain.rest.is_empty() {
            self.push(buffer_of(&plain.rest, 0, pool).ok_or(OutOfMemory)?);
        }
        Ok(())
    }

    fn push_back(&mut self, buffer: Buffer) {
        if self.at_replies {
            // The first buffer behind the replies begins a queue of its own; later frames may be appended to it.
            self.behind_replies += 1;
            self.at_replies = false;
        } else if self.behind_replies > 0 {
            self.behind_replies += 1;
        }
        match &mut self.first {
            None => self.first = Some(buffer),
            Some(_) => self.more.get_or_insert_default().push_back(buffer),
        }
    }

    fn last(&mut self) -> Option<&mut Buffer> {
        match &mut self.more {
            Some(rest) if !rest.is_empty() => rest.back_mut(),
            _ => self.first.as_mut(),
        }
    }
}

/// Writes a control frame into `out`.
pub(super) fn encode_control<'a>(
    out: &'a mut [u8; CONTROL_FRAME_BYTES_MAX],
    opcode: Opcode,
    key: Option<[u8; 4]>,
    payload: &[u8],
) -> &'a [u8] {
    let head_bytes = frame::encode(&Header::new(opcode, true, key, payload.len()), out);
    let end = head_bytes + payload.len();
    out[head_bytes..end].copy_from_slice(payload);
    if let Some(key) = key {
        mask::apply(&mut out[head_bytes..end], key);
    }
    &out[..end]
}
