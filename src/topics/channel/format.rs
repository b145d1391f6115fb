//! The formats of a topic's messages, and what encodes a message in one of them.

use echoring_proto::connection::Codecs;
use echoring_proto::deflate::Deflater;

use super::log::Parts;
use crate::message::Publication;

/// How messages are encoded for subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Raw: the messages as they were published, without gap events.
    Raw,
    /// The same for subscribers whose program, not whose peer, is notified of gaps.
    RawWithGaps,
    /// By a codec, which also encodes gap events and heartbeats.
    WithEvents {
        /// The codec.
        codec: CodecId,
        /// Whether subscribers are notified of joins and leaves.
        presence: bool,
    },
    /// By a codec without gap events and heartbeats. A subscriber that misses messages is removed, and recovers
    /// when it subscribes again.
    Resuming {
        /// The codec.
        codec: CodecId,
        /// Whether subscribers are notified of joins and leaves.
        presence: bool,
        /// Whether messages may be deltas.
        deltas: Deltas,
        /// Whether subscribers have filters. They get no deltas, and no messages that refer to earlier ones.
        filtered: bool,
    },
}

/// A codec of the caller, by a number that the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodecId(pub u8);

/// Whether the messages of a format may be deltas from the ones before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Deltas {
    /// They are not.
    #[default]
    Off,
    /// They are not yet: subscribers begin here, without the previous message. A subscriber that has been sent a
    /// message continues in the format with [`On`](Deltas::On).
    Beginning,
    /// They may be: every subscriber has been sent the previous message.
    On,
}

impl Encoding {
    /// Whether subscribers get presence events, where their topic has them.
    pub(crate) fn has_presence(self) -> bool {
        matches!(
            self,
            Encoding::WithEvents { presence: true, .. } | Encoding::Resuming { presence: true, .. }
        )
    }

    /// Whether subscribers get gap events and heartbeats as frames.
    pub(crate) fn has_events(self) -> bool {
        matches!(self, Encoding::WithEvents { .. })
    }

    /// Whether subscribers can be notified of a gap.
    pub(crate) fn has_gaps(self) -> bool {
        self.has_events() || self == Encoding::RawWithGaps
    }

    /// Whether subscribers have filters.
    pub(crate) fn is_filtered(self) -> bool {
        matches!(self, Encoding::Resuming { filtered: true, .. })
    }

    /// Whether messages may be deltas.
    pub fn deltas(self) -> Deltas {
        if let Encoding::Resuming { deltas, .. } = self { deltas } else { Deltas::Off }
    }

    /// The encoding in which a subscriber continues that has been sent a message; `None` if that is this one.
    pub(crate) fn with_deltas(self) -> Option<Encoding> {
        let Encoding::Resuming { codec, presence, deltas: Deltas::Beginning, filtered } = self else {
            return None;
        };
        Some(Encoding::Resuming { codec, presence, deltas: Deltas::On, filtered })
    }
}

/// How the messages of a topic are encoded for a subscriber. Each format in use has its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// The encoding.
    pub dialect: Encoding,
    /// The compression.
    pub compression: Compression,
}

/// How the messages of a format are compressed. `bits` is log2 of the window in bytes, 9 to 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// They are not.
    #[default]
    Off,
    /// If that makes them shorter, each with an empty window (RFC 7692, 7.2.3.1): allowed with every context takeover
    /// parameter, and the same bytes for all subscribers with this window.
    Single {
        /// Of the window.
        bits: u8,
    },
    /// Each with an empty window, even if that makes it longer. Its subscribers continue in
    /// [`Shared`](Compression::Shared) when they have the latest messages in their windows.
    Joining {
        /// Of the window.
        bits: u8,
    },
    /// With the window of the messages before them, which all subscribers have.
    Shared {
        /// Of the window.
        bits: u8,
    },
}

impl Compression {
    /// log2 of the window in bytes; `None` without compression.
    pub fn bits(self) -> Option<u8> {
        match self {
            Compression::Off => None,
            Compression::Single { bits } | Compression::Joining { bits } | Compression::Shared { bits } => {
                Some(bits)
            }
        }
    }

    /// Compresses a message, with the context of the format if it has one. `None` if it is sent uncompressed.
    pub fn deflate<'a>(
        self,
        codecs: &'a mut Codecs,
        context: Option<&mut Deflater>,
        message: &[u8],
    ) -> Option<&'a [u8]> {
        match (self, context) {
            (Compression::Off, _) => None,
            (Compression::Joining { bits }, _) => codecs.deflate_for_joining(bits, message),
            (Compression::Shared { .. }, Some(context)) => codecs.deflate_in_context(context, message),
            (Compression::Single { bits } | Compression::Shared { bits }, _) => {
                codecs.deflate_for_all(bits, message)
            }
        }
    }
}

/// A message or an event to be appended to the logs of its topic.
pub trait Encode {
    /// Encodes one frame of the topic `topic`, in parts: the same bytes for all subscribers of `format`. If compression
    /// does not make it shorter, it is the uncompressed frame. Called at most once per format, unless memory is short.
    fn frame(&mut self, topic: &str, format: Format, base: Base<'_>) -> Parts<'_>;

    /// A compressor with a window of 2^`bits` bytes that continues from message to message; `None` if there is none.
    fn new_context(&mut self, bits: u8) -> Option<Box<Deflater>> {
        let _ = bits;
        None
    }
}

/// Earlier messages that all subscribers of a format have received. The next message may refer to them.
#[derive(Debug, Default)]
pub struct Base<'a> {
    /// The previous message, without its key; there is none for formats without deltas.
    pub previous: Option<Publication<'a>>,
    /// The compressor that has compressed the messages before; `None` if each message is compressed by itself.
    pub context: Option<&'a mut Deflater>,
}
