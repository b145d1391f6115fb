//! The message that is being received.

use bytes::{Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::message::Message;
use crate::limits::SHARED_REGION_FACTOR;
use echoring_proto::connection::{ChunkFlags, MessageKind};
use echoring_proto::{PayloadBuffer, ProtocolError};

/// The message that is being received, except for the part that a [`MessageReader`](super::MessageReader) has read. It
/// survives a cancelled read; the next one continues it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// `None` between messages.
    kind: Option<MessageKind>,
    /// The part that has arrived.
    payload: PayloadBuffer,
    /// Size of the memory that the payload is a part of.
    region_bytes: usize,
    /// The whole message, once its last byte has arrived.
    whole: Option<Message>,
    /// Number of bytes that a message reader has read of the payload.
    taken: usize,
    /// The rest is discarded.
    skipped: bool,
}

impl Incoming {
    /// Takes a message that has arrived as one piece.
    #[inline]
    pub(super) fn append_whole(&mut self, kind: MessageKind, bytes: Bytes) -> Result<(), ProtocolError> {
        self.whole = Some(Message::received(kind, bytes)?);
        self.kind = Some(kind);
        Ok(())
    }

    /// Takes a message that was decompressed.
    pub(super) fn append_inflated(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), ProtocolError> {
        self.skipped = false;
        self.append_whole(kind, Bytes::copy_from_slice(payload))
    }

    /// Appends a part of a message, which lies in a region of `region_bytes`.
    pub(super) fn append_part(
        &mut self,
        flags: ChunkFlags,
        piece: BytesMut,
        region_bytes: usize,
    ) -> Result<(), ProtocolError> {
        if self.payload.as_slice().is_empty() {
            self.region_bytes = region_bytes;
        }
        match flags.kind {
            MessageKind::Text => self.payload.push_text(piece)?,
            MessageKind::Binary => self.payload.push(piece),
        }
        if self.skipped {
            // A character may be cut; the rest of the text is validated nevertheless.
            self.clear_payload(flags.kind);
        }
        let whole = if flags.last { Some(self.finish(flags.kind)?) } else { None };
        if self.skipped {
            self.skipped = !flags.last;
            return Ok(());
        }
        (self.kind, self.whole) = (Some(flags.kind), whole);
        Ok(())
    }

    fn finish(&mut self, kind: MessageKind) -> Result<Message, ProtocolError> {
        self.compact_if_small();
        let payload = std::mem::take(&mut self.payload);
        Ok(match kind {
            MessageKind::Text => Message::Text(payload.into_text()?),
            MessageKind::Binary => Message::Binary(payload.into_bytes()),
        })
    }

    fn clear_payload(&mut self, kind: MessageKind) {
        match kind {
            MessageKind::Text => self.payload.clear_valid(),
            MessageKind::Binary => self.payload.clear(),
        }
    }

    /// Whether the message is complete.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// The message, once it is complete.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Message> {
        let whole = self.whole.take()?;
        (self.kind, self.taken) = (None, 0);
        Some(whole)
    }

    /// The type of the current message.
    pub(super) fn kind(&self) -> Option<MessageKind> {
        self.kind
    }

    /// Copies bytes of the message to `out`, none at its end. `None` if more bytes must be received first.
    pub(super) fn copy_to(&mut self, out: &mut ReadBuf<'_>) -> Option<()> {
        let present = match (&self.whole, self.kind) {
            (Some(whole), _) => whole.as_bytes(),
            (None, Some(MessageKind::Text)) => self.payload.valid_slice(),
            (None, _) => self.payload.as_slice(),
        };
        let rest = &present[self.taken..];
        if rest.is_empty() {
            return self.whole.as_ref().map(|_| ());
        }
        let given = rest.len().min(out.remaining());
        out.put_slice(&rest[..given]);
        self.taken += given;
        if self.taken == present.len()
            && self.whole.is_none()
            && let Some(kind) = self.kind
        {
            self.clear_payload(kind);
            self.taken = 0;
        }
        Some(())
    }

    /// Discards the rest of the message.
    pub(super) fn skip(&mut self) {
        let rest_comes = self.kind.is_some() && self.whole.is_none();
        self.skipped |= rest_comes;
        if let Some(kind) = self.kind {
            self.clear_payload(kind);
        }
        (self.kind, self.whole, self.taken) = (None, None, 0);
    }

    /// Bytes of an unfinished message that are kept until the rest arrives.
    #[inline]
    pub(super) fn kept_bytes(&self) -> usize {
        if self.skipped { 0 } else { self.payload.as_slice().len() }
    }

    /// Moves the payload to memory of its own if it is a small part of its region. Returns whether it was.
    pub(super) fn compact_if_small(&mut self) -> bool {
        let bytes = self.payload.as_slice().len();
        if may_share(bytes, self.region_bytes) {
            return false;
        }
        self.payload.compact();
        self.region_bytes = bytes;
        true
    }

    /// Whether `room` lies right behind the payload.
    pub(super) fn lies_before(&self, room: &BytesMut) -> bool {
        self.payload.as_slice().as_ptr_range().end == room.as_ptr()
    }

    /// Takes back the room behind the payload, if it is that.
    pub(super) fn join_room(&mut self, room: BytesMut) {
        self.payload.join_room(room);
    }

    /// Makes room for `additional` bytes right behind the payload, and returns it. `room` is the memory behind the
    /// payload.
    pub(super) fn grow_room(&mut self, room: BytesMut, additional: usize) -> BytesMut {
        self.payload.join_room(room);
        self.payload.reserve(additional);
        let room = self.payload.split_room();
        self.region_bytes = self.payload.as_slice().len() + room.capacity();
        room
    }

    /// Bytes of memory held for the message.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.payload.capacity() + self.whole.as_ref().map_or(0, Message::len)
    }
}

/// Whether a message of `bytes` may keep the region of `region_bytes` alive in which it was received.
#[inline]
pub(super) fn may_share(bytes: usize, region_bytes: usize) -> bool {
    bytes.saturating_mul(SHARED_REGION_FACTOR) >= region_bytes
}
