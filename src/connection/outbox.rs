//! What leaves a connection, in order, while it cannot leave straight from the receive region.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::buffer::{Buffer, Pool};
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use crate::protocol::mask;

use super::CONTROL_FRAME_BYTES_MAX;

/// A data buffer grows up to this by doubling; longer frames get a buffer of their own size.
const GROWN_BYTES_MAX: usize = 64 * 1024;

/// The node's byte budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Frames waiting to be sent. Each buffer holds whole frames, so that control frames may go between any two.
///
/// Order: control frames, then data first in first out. In the middle of a run the in-place replies (the
/// *block*) are one element of that order: `after` counts the buffers that were queued behind it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    control: Option<Buffer>,
    first: Option<Buffer>,
    /// Kept, once it was needed, until the connection is [idle](Outbox::shrink): a busy one allocates nothing.
    #[expect(clippy::box_collection, reason = "an idle connection pays 8 bytes for it, not 32")]
    rest: Option<Box<VecDeque<Buffer>>>,
    bytes: u32,
    /// Bytes of an unfinished send that the driver resumes; none when there is no such send.
    unsent: Option<NonZeroU32>,
    after: u16,
    queued_pongs: u16,
    /// The last buffer takes no further frames: the block comes behind it.
    sealed: bool,
    /// The first data buffer goes on with a frame whose header has left, or is the response to the request: nothing may
    /// come before it.
    torn: bool,
    /// So did the buffer that was popped last.
    popped_torn: bool,
}

impl Outbox {
    /// Bytes that have not left, those of an unfinished send included.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes + self.unsent_bytes()
    }

    /// Bytes of the node's budget that are taken by what is queued.
    pub(super) fn held_bytes(&self) -> u64 {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        let buffers = self.control.iter().chain(&self.first).chain(rest);
        buffers.map(|buffer| buffer.accounted_bytes() as u64).sum()
    }

    /// Whether a send is unfinished.
    pub(super) fn is_blocked(&self) -> bool {
        self.unsent.is_some()
    }

    /// The last send was short by `unsent` bytes and goes on by itself.
    pub(super) fn block(&mut self, unsent: u32) {
        self.unsent = Some(NonZeroU32::new(unsent).unwrap_or(NonZeroU32::MIN));
    }

    /// Of the unfinished send, `bytes` were taken back; it stays unfinished.
    pub(super) fn take_back(&mut self, bytes: u32) {
        self.unsent = self
            .unsent
            .map(|unsent| NonZeroU32::new(unsent.get().saturating_sub(bytes)).unwrap_or(NonZeroU32::MIN));
    }

    /// Bytes of an unfinished send.
    pub(super) fn unsent_bytes(&self) -> u32 {
        self.unsent.map_or(0, NonZeroU32::get)
    }

    /// All of it has been taken.
    pub(super) fn unblock(&mut self) {
        self.unsent = None;
    }

    /// Whether nothing is queued and no send is unfinished.
    pub(super) fn is_clear(&self) -> bool {
        self.bytes == 0 && self.unsent.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Nothing was queued behind the block (or there is none), so the block may grow.
    pub(super) fn block_may_grow(&self) -> bool {
        self.after == 0
    }

    /// The in-place block begins here: what is queued so far goes before it, what comes later behind.
    pub(super) fn begin_block(&mut self) {
        self.sealed = true;
    }

    /// The block has been sent or copied; frames queue as usual again.
    pub(super) fn end_block(&mut self) {
        self.sealed = false;
        self.after = 0;
    }

    /// Queues one frame, masked when the header has a key.
    pub(super) fn frame(
        &mut self,
        pool: &mut Pool,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), OutOfMemory> {
        debug_assert_eq!(header.payload_bytes, payload.len() as u64);
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(header, &mut head);
        let buffer = self.room(pool, head_bytes + payload.len())?;
        buffer.append(&head[..head_bytes]);
        match header.mask {
            Some(key) => mask::append(buffer.vec(), payload, key),
            None => buffer.append(payload),
        }
        self.bytes += (head_bytes + payload.len()) as u32;
        Ok(())
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
        // Nothing is appended to a buffer that was handed in whole: its room was sized for what it holds.
    }

    /// Queues the response to the request, which is the first thing to leave: nothing overtakes it, even if it is popped
    /// and not taken.
    pub(super) fn push_first(&mut self, head: Buffer) {
        debug_assert!(self.is_empty(), "nothing was sent before");
        self.push(head);
        self.torn = true;
    }

    /// Queues a control frame in front of all data.
    pub(super) fn control(
        &mut self,
        pool: &mut Pool,
        opcode: Opcode,
        key: Option<[u8; 4]>,
        payload: &[u8],
        pongs_max: u32,
    ) -> Result<(), OutOfMemory> {
        debug_assert!(opcode.is_control());
        if opcode == Opcode::Pong {
            if u32::from(self.queued_pongs) >= pongs_max {
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
        {
            let mut larger = pool.get(buffer.len() + encoded.len()).ok_or(OutOfMemory)?;
            larger.append(buffer.as_slice());
            pool.put(std::mem::replace(buffer, larger));
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

    /// Puts the block's bytes where they belong in the order, by copying them. `head` goes in front of them
    /// and stays with them: it is the header of a frame that the block starts in the middle of.
    pub(super) fn insert_block(
        &mut self,
        pool: &mut Pool,
        head: &[u8],
        block: &[u8],
    ) -> Result<(), OutOfMemory> {
        let after = usize::from(self.after);
        self.end_block();
        if after == 0 {
            let buffer = self.room(pool, head.len() + block.len())?;
            buffer.append(head);
            buffer.append(block);
            self.bytes += (head.len() + block.len()) as u32;
            return Ok(());
        }
        let mut buffer = pool.get(head.len() + block.len()).ok_or(OutOfMemory)?;
        buffer.append(head);
        buffer.append(block);
        self.bytes += buffer.len() as u32;
        let queue = self.rest.get_or_insert_default();
        if let Some(first) = self.first.take() {
            queue.push_front(first);
        }
        let at = queue.len() - after;
        queue.insert(at, buffer);
        self.first = queue.pop_front();
        Ok(())
    }

    /// Keeps the rest of a frame whose header has left, in front of everything.
    pub(super) fn insert_torn(&mut self, pool: &mut Pool, rest: &[u8]) -> Result<(), OutOfMemory> {
        self.end_block();
        let mut buffer = pool.get(rest.len()).ok_or(OutOfMemory)?;
        buffer.append(rest);
        self.unpop(buffer);
        self.torn = true;
        Ok(())
    }

    /// The next buffer to send that goes before the block.
    pub(super) fn pop(&mut self) -> Option<Buffer> {
        self.popped_torn = std::mem::take(&mut self.torn);
        let control = if self.popped_torn { None } else { self.control.take() };
        let buffer = if let Some(control) = control {
            self.queued_pongs = 0;
            control
        } else if self.data_buffers() > usize::from(self.after) {
            let first = self.first.take()?;
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
            first
        } else {
            return None;
        };
        self.bytes -= buffer.len() as u32;
        Some(buffer)
    }

    fn data_buffers(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Undoes a [`pop`](Outbox::pop): the driver did not take the buffer.
    pub(super) fn unpop(&mut self, buffer: Buffer) {
        self.torn = std::mem::take(&mut self.popped_torn);
        self.bytes += buffer.len() as u32;
        if let Some(first) = self.first.replace(buffer) {
            self.rest.get_or_insert_default().push_front(first);
        }
    }

    /// Gives up the memory of a queue that is empty: for a connection that has become idle.
    pub(super) fn shrink(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
    }

    /// Drops all that is queued and says how many bytes that was.
    pub(super) fn clear(&mut self, pool: &mut Pool) -> u32 {
        let dropped = self.bytes;
        self.after = 0;
        while let Some(buffer) = self.pop() {
            pool.put(buffer);
        }
        self.end_block();
        dropped
    }

    /// A buffer at the end of the data that has room for `bytes`.
    fn room(&mut self, pool: &mut Pool, bytes: usize) -> Result<&mut Buffer, OutOfMemory> {
        // What overtakes data would have to wait for all that is put behind a buffer that nothing overtakes.
        let closed = self.sealed || (self.torn && self.data_buffers() == 1);
        match self.last().filter(|_| !closed) {
            Some(last) if last.room() >= bytes => {}
            // Moving to a larger buffer keeps a batch in one piece: one send, and no list of buffers.
            Some(last) if last.len() + bytes <= GROWN_BYTES_MAX => {
                let mut larger = pool.get((last.len() + bytes).max(2 * last.len())).ok_or(OutOfMemory)?;
                larger.append(last.as_slice());
                pool.put(std::mem::replace(last, larger));
            }
            _ => {
                let buffer = pool.get(bytes).ok_or(OutOfMemory)?;
                self.push_back(buffer);
            }
        }
        self.last().ok_or(OutOfMemory)
    }

    fn push_back(&mut self, buffer: Buffer) {
        if self.sealed {
            // The first buffer behind the block opens a tail of its own; later frames may join it.
            self.after += 1;
            self.sealed = false;
        } else if self.after > 0 {
            self.after += 1;
        }
        match &mut self.first {
            None => self.first = Some(buffer),
            Some(_) => self.rest.get_or_insert_default().push_back(buffer),
        }
    }

    fn last(&mut self) -> Option<&mut Buffer> {
        match &mut self.rest {
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
