//! The position in a received span, and the replies that are written into it.

use std::ops::Range;

use crate::frame::{self, HEADER_BYTES_MAX};
use crate::mask;

/// The position up to which a received span has been read, and the replies written into it. It holds positions only:
/// the bytes are an argument of each call.
#[derive(Clone, Debug, Default)]
pub struct SpanCursor {
    pub(super) read: usize,
    /// Decompressed size of the messages read so far.
    pub(super) inflated_bytes: usize,
    pub(super) replies: Range<usize>,
    /// Header of the first reply, when it did not fit in front of the payload in the span.
    pub(super) header: [u8; HEADER_BYTES_MAX],
    pub(super) header_bytes: u8,
}

impl SpanCursor {
    /// A cursor at the first byte.
    pub fn new() -> SpanCursor {
        SpanCursor::default()
    }

    /// The cursor of a span of `bytes` bytes that has been read, and answered by `replies`.
    pub fn at_end(bytes: usize, replies: Range<usize>) -> SpanCursor {
        SpanCursor { read: bytes, replies, ..SpanCursor::default() }
    }

    /// Bytes read so far.
    #[inline]
    pub fn position(&self) -> usize {
        self.read
    }

    /// Header of the first reply when it does not lie in the span; otherwise empty.
    #[inline]
    pub fn detached_header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_bytes)]
    }

    /// The replies in the span.
    #[inline]
    pub fn replies(&self) -> Range<usize> {
        self.replies.clone()
    }

    /// Unmasks a payload and moves it behind the replies, leaving room for the reply's header, in one pass. The payload of
    /// the first reply stays where it is: a masked header was in front of it, which is longer than the reply's.
    /// `appends` tells whether a reply may be appended to the replies.
    #[inline]
    pub(super) fn unmask(
        &self,
        bytes: &mut [u8],
        from: usize,
        payload_bytes: usize,
        key: [u8; 4],
        appends: bool,
    ) -> Range<usize> {
        if self.replies.is_empty() || !appends {
            let at = from..from + payload_bytes;
            mask::apply(&mut bytes[at.clone()], key);
            return at;
        }
        let to = self.replies.end + frame::header_bytes(payload_bytes as u64, false);
        mask::shift(bytes, from, to, payload_bytes, key);
        to..to + payload_bytes
    }
}
