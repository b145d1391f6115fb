//! The bytes that the transport gets next: a buffer of encoded frames, or a long message where it lies.

use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

use echoring_proto::buffer::Buffer;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};

/// Number of pieces, at most: a buffer, a header and a payload.
const PIECES_MAX: usize = 3;

/// Encoded frames, and behind them a header and a payload that are not copied. For each, the rest that the transport
/// has not accepted.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    buffer: Option<Buffer>,
    head: [u8; HEADER_BYTES_MAX],
    head_start: u8,
    head_end: u8,
    payload: Bytes,
    /// The transport has accepted a part.
    begun: bool,
}

impl Outgoing {
    /// Encoded frames.
    pub(super) fn buffer(buffer: Buffer) -> Outgoing {
        Outgoing { buffer: Some(buffer), ..Outgoing::default() }
    }

    /// A frame behind `before`.
    pub(super) fn frame(before: Option<Buffer>, header: &Header, payload: Bytes) -> Outgoing {
        let mut head = [0; HEADER_BYTES_MAX];
        let head_end = frame::encode(header, &mut head) as u8;
        Outgoing { buffer: before, head, head_start: 0, head_end, payload, begun: false }
    }

    /// Bytes that the transport has not accepted.
    pub(super) fn len(&self) -> usize {
        let buffer = self.buffer.as_ref().map_or(0, Buffer::len);
        buffer + self.head().len() + self.payload.len()
    }

    /// The only piece, if there is one.
    pub(super) fn single(&self) -> Option<&[u8]> {
        match &self.buffer {
            Some(buffer) if self.payload.is_empty() && self.head().is_empty() => Some(buffer.as_slice()),
            None if self.head().is_empty() => Some(&self.payload),
            _ => None,
        }
    }

    /// All pieces. Some may be empty.
    pub(super) fn pieces(&self) -> [IoSlice<'_>; PIECES_MAX] {
        let buffer = self.buffer.as_ref().map_or(&[][..], Buffer::as_slice);
        [IoSlice::new(buffer), IoSlice::new(self.head()), IoSlice::new(&self.payload)]
    }

    /// The transport has accepted `bytes` more.
    pub(super) fn skip(&mut self, mut bytes: usize) {
        self.begun = true;
        if let Some(buffer) = &mut self.buffer {
            let here = bytes.min(buffer.len());
            buffer.skip(here);
            bytes -= here;
        }
        let here = bytes.min(self.head().len());
        self.head_start += here as u8;
        self.payload.advance(bytes - here);
    }

    /// Whether the transport has accepted a part.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// The buffer, to be returned to its pool.
    pub(super) fn into_buffer(self) -> Option<Buffer> {
        self.buffer
    }

    fn head(&self) -> &[u8] {
        &self.head[usize::from(self.head_start)..usize::from(self.head_end)]
    }
}
