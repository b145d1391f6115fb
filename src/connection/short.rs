//! The shortest path: short messages of a connection that only echoes, answered where they lie.
//!
//! Never: a message that is not whole in its run, or is of any other kind than nearly all are; those are the
//! business of `reading`, which also judges what was found wanting here.

use super::{Connection, Run};
use crate::protocol::{Role, frame, mask, utf8};

/// Payload bytes of the messages that [`echo_lone`] answers, at most.
pub const LONE_BYTES_MAX: usize = mask::INLINE_BYTES_MAX;
/// Where the replies of [`echo_lone`] begin: the key is in front of the payload, and a reply has none.
pub const LONE_REPLY_START: usize = frame::SHORT_MASKED_HEADER_BYTES - frame::SHORT_HEADER_BYTES;

/// Answers a run that is one message of at most [`LONE_BYTES_MAX`] bytes with that message, where it lies: from
/// [`LONE_REPLY_START`] to the run's end. False when it is anything else, and nothing was done. Asked only while
/// the connection is [plain](Connection::is_plain) and messages of that length are allowed.
#[inline(always)]
pub fn echo_lone(bytes: &mut [u8]) -> bool {
    let payload_bytes = bytes.len().wrapping_sub(frame::SHORT_MASKED_HEADER_BYTES);
    if payload_bytes > LONE_BYTES_MAX {
        return false;
    }
    let Some((head, payload)) = bytes.split_first_chunk_mut() else { return false };
    let Some((text, key)) = frame::decode_lone_masked(head, payload.len()) else { return false };
    let seen = mask::apply_and_see(payload, key);
    if text && mask::has_high_bits(seen) && !is_text(head, payload) {
        return false;
    }
    [head[LONE_REPLY_START], head[LONE_REPLY_START + 1]] = [head[0], payload_bytes as u8];
    true
}

/// Whether the unmasked payload of `head` is UTF-8. If not it is masked again, to be judged by `poll`.
#[cold]
#[inline(never)]
fn is_text(head: &[u8; frame::SHORT_MASKED_HEADER_BYTES], payload: &mut [u8]) -> bool {
    let valid = utf8::is_valid(payload);
    if !valid {
        mask::apply(payload, [head[2], head[3], head[4], head[5]]);
    }
    valid
}

/// Answers the short messages at the front of a run with themselves, where they lie: those that nearly all are,
/// unfragmented, of at most 125 bytes, wholly in the run, and valid. Returns how many; what stopped it is left
/// to [`poll`](Connection::poll). Asked only while the connection is [plain](Connection::is_plain).
pub fn echo_short(run: &mut Run, bytes: &mut [u8], bytes_max: u64) -> u64 {
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
        let ascii = mask::shift_and_see(bytes, from, to, payload_bytes, key);
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
    run.read = read;
    run.block = start..end;
    echoed
}

/// Restores the text frame that lay at `at` to the end of `bytes` and whose payload was moved to `to`: it will
/// be judged again, and punished, by `poll`. (What it was moved over has been answered.)
#[cold]
#[inline(never)]
pub(super) fn put_back(bytes: &mut [u8], at: usize, to: usize, key: [u8; 4]) {
    let from = at + frame::SHORT_MASKED_HEADER_BYTES;
    let payload_bytes = bytes.len() - from;
    bytes.copy_within(to..to + payload_bytes, from);
    mask::apply(&mut bytes[from..], key);
    bytes[at..from].copy_from_slice(&frame::short_masked_header(true, payload_bytes, key));
}

impl Connection {
    /// Whether [`echo_lone`] and [`echo_short`] may answer: this is a server, a message is to begin,
    /// replies may leave from where they lie, and nothing else is to be done.
    pub fn is_plain(&self) -> bool {
        self.role == Role::Server
            && self.is_between_messages()
            && self.outbox.block_may_grow()
            && !self.needs_attention()
    }

    /// A run that [`echo_short`] began goes on in [`poll`](Connection::poll).
    pub fn go_on(&mut self, run: &Run) {
        if !run.block.is_empty() {
            self.outbox.begin_block();
        }
    }
}
