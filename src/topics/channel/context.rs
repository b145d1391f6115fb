//! The compression context of a topic's messages, one for all subscribers of a format (RFC 7692, 7.2.3.2).
//!
//! A receiver's window holds the latest bytes that it has decompressed, however they were compressed. So two subscribers that
//! received the same latest messages of a topic can be sent the same frames, which refer to these messages:
//!
//! ```text
//!              the latest 2^bits bytes received            a message skipped
//!   Joining ──────────────────────────────────▶ Shared ─────────────────────▶ Joining
//!      ▲                                            │
//!      └──────── the only subscription ── Single ◀──┘ another subscription, or a message of its own that it is not sent
//! ```
//!
//! - *Joining*: each message is compressed by itself, whether that makes it shorter or not.
//! - *Shared*: by one compressor, which continues from message to message.
//! - *Single*: each message by itself, where that makes it shorter. Nothing is known of the window.
//!
//! Never: a frame that refers to bytes that one of its readers has not been sent.

use std::fmt;

use echoring_proto::buffer::Pool;
use echoring_proto::deflate::{Deflater, Direction};

use super::log::Sequence;

/// The compressor of a format in [`Compression::Shared`](super::format::Compression::Shared). Without one, each message is
/// compressed by itself.
#[derive(Default)]
pub(crate) struct Context {
    deflater: Option<Box<Deflater>>,
    charged_bytes: usize,
    /// Frames before this one are in no context of frames from this one on.
    since: Sequence,
}

/// Where a subscriber of a context continues that skips frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// In front of this frame.
    At(Sequence),
    /// Behind the latest frame, and outside the context.
    Outside,
}

impl Context {
    /// Whether messages are compressed with what was sent before.
    pub(crate) fn is_live(&self) -> bool {
        self.deflater.is_some()
    }

    /// Bytes of messages that the next one may refer to, and of those before them.
    pub(crate) fn consumed_bytes(&self) -> u64 {
        self.deflater.as_ref().map_or(0, |deflater| deflater.consumed_bytes())
    }

    /// The frame from which on none refers to an earlier one.
    pub(crate) fn since(&self) -> Sequence {
        self.since
    }

    pub(crate) fn deflater(&mut self) -> Option<&mut Deflater> {
        self.deflater.as_deref_mut()
    }

    /// Starts a context with an empty window, in front of the frame `at`. False if there is no memory for it.
    pub(crate) fn start(
        &mut self,
        pool: &mut Pool,
        bits: u8,
        at: Sequence,
        deflater: impl FnOnce() -> Option<Box<Deflater>>,
    ) -> bool {
        let bytes = Deflater::memory_bytes(Direction { context_takeover: true, window_bits: bits });
        if !pool.charge_optional(bytes) {
            return false;
        }
        self.deflater = deflater();
        if self.deflater.is_none() {
            pool.discharge_optional(bytes);
            return false;
        }
        (self.charged_bytes, self.since) = (bytes, at);
        true
    }

    /// Empties the window in front of the frame `at`: no frame from there on refers to one before it.
    pub(crate) fn restart(&mut self, at: Sequence) {
        if let Some(deflater) = &mut self.deflater {
            deflater.reset();
            self.since = at;
        }
    }

    /// Ends the context in front of the frame `at`. Whether there was one.
    pub(crate) fn end(&mut self, pool: &mut Pool, at: Sequence) -> bool {
        let was_live = self.deflater.take().is_some();
        if was_live {
            pool.discharge_optional(std::mem::take(&mut self.charged_bytes));
            self.since = at;
        }
        was_live
    }

    /// Where a subscriber continues that skips the frames before `floor`, which is at least its cursor.
    pub(crate) fn resumption(&self, floor: Sequence) -> Resumption {
        match self.deflater {
            _ if self.since >= floor => Resumption::At(self.since),
            None => Resumption::At(floor),
            Some(_) => Resumption::Outside,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("is_live", &self.is_live()).field("since", &self.since).finish()
    }
}

/// Which subscribers of a format in [`Compression::Joining`](super::format::Compression::Joining) have the whole window of the
/// context that they join.
#[derive(Debug, Default)]
pub(crate) struct WholeWindows {
    /// A frame, and the bytes that the context had consumed in front of it; `None` before the first delivery.
    mark: Option<(Sequence, u64)>,
    /// Subscribers since this frame have the whole window.
    settled: Option<Sequence>,
}

impl WholeWindows {
    /// In front of the frame `at`, the context has consumed `consumed_bytes`. Its window has `window_bytes`.
    pub(crate) fn note(&mut self, at: Sequence, consumed_bytes: u64, window_bytes: u64) {
        match self.mark {
            Some((marked, before)) if consumed_bytes >= before => {
                if consumed_bytes - before < window_bytes {
                    return;
                }
                self.settled = Some(marked);
            }
            // There is none, or the context was restarted.
            _ => {}
        }
        self.mark = Some((at, consumed_bytes));
    }

    /// Whether a subscriber that missed nothing since a frame has the whole window.
    pub(crate) fn is_settled(&self, since: Sequence) -> bool {
        self.settled.is_some_and(|settled| since <= settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_settled_when_a_whole_window_was_sent_since_it_joined() {
        let mut whole_windows = WholeWindows::default();
        whole_windows.note(20, 600, 512);
        assert!(!whole_windows.is_settled(0), "it was sent none of them");
        whole_windows.note(30, 1_111, 512);
        assert!(!whole_windows.is_settled(20), "511 bytes");
        whole_windows.note(40, 1_112, 512);
        assert!(whole_windows.is_settled(20) && !whole_windows.is_settled(21));
        // The context restarts. Settled subscribers stay settled; newer ones need a whole window from here on.
        whole_windows.note(50, 0, 512);
        whole_windows.note(60, 511, 512);
        assert!(whole_windows.is_settled(20) && !whole_windows.is_settled(50));
        whole_windows.note(70, 512, 512);
        assert!(whole_windows.is_settled(50) && !whole_windows.is_settled(51));
    }

    #[test]
    fn who_skips_frames_continues_where_the_window_was_empty() {
        let (mut pool, mut context) = (Pool::standalone(), Context::default());
        let deflater =
            || Some(Box::new(Deflater::new(Direction { context_takeover: true, window_bits: 9 }, 1)));
        assert_eq!(context.resumption(7), Resumption::At(7));
        assert!(context.start(&mut pool, 9, 5, deflater));
        assert_eq!([4, 5, 6].map(|floor| context.resumption(floor)), {
            [Resumption::At(5), Resumption::At(5), Resumption::Outside]
        });
        context.restart(8);
        assert_eq!(context.resumption(6), Resumption::At(8));
        assert!(pool.used_bytes() > 0 && context.end(&mut pool, 9) && !context.end(&mut pool, 10));
        assert_eq!([8, 9, 10].map(|floor| context.resumption(floor)), {
            [Resumption::At(9), Resumption::At(9), Resumption::At(10)]
        });
        assert_eq!(pool.used_bytes(), 0);
    }
}
