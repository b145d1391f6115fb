//! The fastest path: short messages of a connection that only echoes, answered where they lie.
//!
//! Never: a message that is fragmented, masked wrongly, too long or invalid, or that continues in the next span. The reader
//! takes those, and decides which of them are errors.

use std::ops::Range;

use super::{Connection, MessageKind, SpanCursor};
use crate::{Role, frame, mask, utf8};

/// Payload bytes of the messages that [`echo_single`] answers, at most.
pub const SINGLE_FRAME_BYTES_MAX: usize = mask::INLINE_BYTES_MAX;
/// Where the replies of [`echo_single`] begin: the key is in front of the payload, and a reply has none.
pub const SINGLE_REPLY_START: usize = frame::SHORT_MASKED_HEADER_BYTES - frame::SHORT_HEADER_BYTES;

/// Answers a span that is one message of at most [`SINGLE_FRAME_BYTES_MAX`] bytes with that message, where it lies: from
/// [`SINGLE_REPLY_START`] to the span's end. False for any other span; nothing was done then. Called only where
/// [`may_echo_in_place`](Connection::may_echo_in_place) allows it, and messages of that length are allowed.
#[inline(always)]
pub fn echo_single(bytes: &mut [u8]) -> bool {
    let payload_bytes = bytes.len().wrapping_sub(frame::SHORT_MASKED_HEADER_BYTES);
    if mask::TWO_WORDS.contains(&payload_bytes) { echo_single_inline(bytes) } else { echo_single_any(bytes) }
}

// Out of line, so that the path of the most common lengths has registers enough.
#[inline(never)]
fn echo_single_any(bytes: &mut [u8]) -> bool {
    echo_single_inline(bytes)
}

#[inline(always)]
fn echo_single_inline(bytes: &mut [u8]) -> bool {
    let Some((head, payload)) = bytes.split_first_chunk_mut() else { return false };
    if payload.len() > SINGLE_FRAME_BYTES_MAX {
        return false;
    }
    let Some((text, key)) = frame::decode_single_masked(head, payload.len()) else { return false };
    let seen = mask::apply_and_or(payload, key);
    if text && mask::has_high_bits(seen) && !is_text(head, payload) {
        return false;
    }
    [head[SINGLE_REPLY_START], head[SINGLE_REPLY_START + 1]] = [head[0], payload.len() as u8];
    true
}

/// Whether the unmasked payload of `head` is UTF-8. If not, it is masked again, and left to `poll`.
#[cold]
#[inline(never)]
fn is_text(head: &[u8; frame::SHORT_MASKED_HEADER_BYTES], payload: &mut [u8]) -> bool {
    let valid = utf8::is_valid(payload);
    if !valid {
        mask::apply(payload, [head[2], head[3], head[4], head[5]]);
    }
    valid
}

/// Answers the short messages at the front of a span with themselves, where they lie: messages that are unfragmented, of at
/// most 125 bytes, entirely in the span, and valid. Returns how many; the rest of the span is left to
/// [`poll`](Connection::poll). Called only where [`may_echo_in_place`](Connection::may_echo_in_place) allows it.
pub fn echo_short(cursor: &mut SpanCursor, bytes: &mut [u8], bytes_max: u64) -> u64 {
    let (mut read, mut start, mut end) = (0, 0, 0);
    let mut echoed = 0;
    while let Some((text, payload_bytes, key)) = bytes.get(read..).and_then(frame::decode_short_masked) {
        let from = read + frame::SHORT_MASKED_HEADER_BYTES;
        let next = from + payload_bytes;
        if next > bytes.len() || payload_bytes as u64 > bytes_max {
            break;
        }
        // The first reply's payload stays where it is: there is room for a header in front.
        let to = if echoed == 0 { from } else { end + frame::SHORT_HEADER_BYTES };
        let ascii = mask::shift_and_check_ascii(bytes, from, to, payload_bytes, key);
        if text && !ascii && !utf8::is_valid(&bytes[to..to + payload_bytes]) {
            put_back(&mut bytes[..next], read, to, key);
            break;
        }
        let head = to - frame::SHORT_HEADER_BYTES;
        if echoed == 0 {
            start = head;
        }
        bytes[head..to].copy_from_slice(&frame::short_header(text, payload_bytes));
        end = to + payload_bytes;
        read = next;
        echoed += 1;
    }
    cursor.read = read;
    cursor.replies = start..end;
    echoed
}

/// Restores the text frame that lay between `at` and the end of `bytes`, and whose payload was moved to `to`: `poll` reads it
/// again and reports the error. (The bytes that it was moved over have been answered.)
#[cold]
#[inline(never)]
fn put_back(bytes: &mut [u8], at: usize, to: usize, key: [u8; 4]) {
    let from = at + frame::SHORT_MASKED_HEADER_BYTES;
    let payload_bytes = bytes.len() - from;
    bytes.copy_within(to..to + payload_bytes, from);
    mask::apply(&mut bytes[from..], key);
    bytes[at..from].copy_from_slice(&frame::short_masked_header(true, payload_bytes, key));
}

impl Connection {
    /// Whether [`echo_single`] and [`echo_short`] may answer: this is a server, a message is to begin, replies may leave from
    /// where they lie, and nothing else is pending.
    pub fn may_echo_in_place(&self) -> bool {
        self.role() == Role::Server
            && self.is_between_messages()
            && self.outbox.replies_may_grow()
            && !self.needs_attention()
    }

    /// A span that [`echo_short`] began continues in [`poll`](Connection::poll).
    pub fn resume_span(&mut self, cursor: &SpanCursor) {
        if !cursor.replies.is_empty() {
            self.outbox.begin_replies();
        }
    }

    /// The next message of the span, when it is unfragmented, of at most 125 bytes, entirely in the span, valid, and this is
    /// a server. Anything else is left to [`poll`](Connection::poll). Called only while
    /// [`is_between_messages`](Connection::is_between_messages).
    #[inline(always)]
    pub fn next_short(
        &self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        bytes_max: u64,
    ) -> Option<(MessageKind, Range<usize>)> {
        let rest = bytes.get(cursor.read..)?;
        let (text, payload_bytes, key) = frame::decode_short_masked(rest)?;
        let from = cursor.read + frame::SHORT_MASKED_HEADER_BYTES;
        let end = from + payload_bytes;
        if end > bytes.len() || payload_bytes as u64 > bytes_max || self.role() == Role::Client {
            return None;
        }
        let kind = if text { MessageKind::Text } else { MessageKind::Binary };
        if cursor.replies.is_empty() {
            mask::apply(&mut bytes[from..end], key);
            if text && !utf8::is_valid(&bytes[from..end]) {
                mask::apply(&mut bytes[from..end], key);
                return None;
            }
            cursor.read = end;
            return Some((kind, from..end));
        }
        if !self.outbox.replies_may_grow() {
            return None;
        }
        let to = cursor.replies.end + frame::SHORT_HEADER_BYTES;
        mask::shift(bytes, from, to, payload_bytes, key);
        let at = to..to + payload_bytes;
        if text && !utf8::is_valid(&bytes[at.clone()]) {
            put_back(&mut bytes[..end], cursor.read, to, key);
            return None;
        }
        cursor.read = end;
        Some((kind, at))
    }
}
