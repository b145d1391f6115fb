//! Commands of a session that wait until fewer of its requests are open: the rest of the frame that filled it, and the
//! frames that were on the way when reading paused.

use std::collections::VecDeque;

use crate::limits::CENTRIFUGE_HELD_BYTES_MAX;

/// Frames that wait, in order.
#[derive(Debug, Default)]
pub(super) struct HeldCommands {
    frames: VecDeque<HeldFrame>,
    /// Bytes of the commands.
    frame_bytes: usize,
}

/// The remaining part of a frame.
#[derive(Debug)]
pub(super) struct HeldFrame {
    frame: Box<[u8]>,
    /// Where the first command that was not read begins.
    begin: usize,
    /// Commands that may follow.
    left: usize,
}

impl HeldCommands {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether another frame of this size may be held. One frame always may.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.frames.is_empty() || self.frame_bytes + bytes <= CENTRIFUGE_HELD_BYTES_MAX
    }

    /// Holds a frame with up to `left` commands. It is charged as [`charge_of`] its bytes.
    pub(super) fn hold(&mut self, frame: &[u8], left: usize) {
        self.frame_bytes += frame.len();
        self.frames.push_back(HeldFrame { frame: frame.into(), begin: 0, left });
    }

    /// Takes the first frame. It stays charged.
    pub(super) fn pop(&mut self) -> Option<HeldFrame> {
        let held = self.frames.pop_front()?;
        self.frame_bytes -= held.frame.len();
        Some(held)
    }

    /// Puts the first frame back, with its remaining part.
    pub(super) fn put_back(&mut self, held: HeldFrame) {
        self.frame_bytes += held.frame.len();
        self.frames.push_front(held);
    }

    /// Bytes that are charged.
    pub(super) fn charged_bytes(&self) -> usize {
        self.frames.iter().map(HeldFrame::charged_bytes).sum()
    }
}

impl HeldFrame {
    /// The commands, and how many of them there may be.
    pub(super) fn unread(&self) -> (&[u8], usize) {
        (&self.frame[self.begin..], self.left)
    }

    /// The commands up to the last `bytes` were read; up to `left` may follow.
    pub(super) fn advance(&mut self, bytes: usize, left: usize) {
        (self.begin, self.left) = (self.frame.len() - bytes, left);
    }

    pub(super) fn charged_bytes(&self) -> usize {
        charge_of(self.frame.len())
    }
}

/// The charge for a frame of this size: an entry costs memory besides its bytes.
pub(super) fn charge_of(bytes: usize) -> usize {
    bytes + size_of::<HeldFrame>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_in_order_and_what_waits_is_bounded() {
        let mut held = HeldCommands::default();
        assert!(held.has_room(10 * CENTRIFUGE_HELD_BYTES_MAX), "one message always may wait");
        held.hold(b"one two", 9);
        assert!(
            held.has_room(CENTRIFUGE_HELD_BYTES_MAX - 7) && !held.has_room(CENTRIFUGE_HELD_BYTES_MAX - 6)
        );
        held.hold(b"three", 5);
        assert_eq!(held.charged_bytes(), charge_of(7) + charge_of(5));
        let mut first = held.pop().expect("a frame");
        assert_eq!(first.unread(), (&b"one two"[..], 9));
        first.advance(3, 8);
        held.put_back(first);
        assert_eq!(held.pop().map(|first| first.unread() == (&b"two"[..], 8)), Some(true));
        assert_eq!(held.pop().map(|next| next.unread() == (&b"three"[..], 5)), Some(true));
        assert!(held.is_empty() && held.charged_bytes() == 0 && held.frame_bytes == 0);
    }
}
