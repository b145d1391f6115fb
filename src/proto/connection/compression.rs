//! Compression settings (RFC 7692), and the codecs that the connections of a shard share.
//!
//! A message is inflated when its last byte has arrived, and deflated as a whole. Therefore a connection without
//! context takeover owns no codec. A connection with it owns its inbound window and an outbound deflater. Both are
//! charged to the budget of the node: the window at negotiation, the deflater at its first use. When the budget is
//! spent, there is no context takeover: a server may always decline it, and a sender need not use it.
//!
//! Never: the format of frames or of offers.

use crate::buffer::{Budget, Lease};
use crate::deflate::{Agreement, Deflater, Direction, Inflater, Preferences, Window};
use crate::limits::{SHARED_CONTEXT_THRESHOLD_BYTES, SPARE_CONTEXTS_MAX};
use crate::{ProtocolError, Role};

/// Compression settings of a connection.
///
/// ```
/// use echoring_proto::connection::Compression;
///
/// let fastest = Compression::default().level(1).threshold_bytes(256);
/// assert_eq!(fastest.preferences, Compression::default().preferences);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Compression {
    /// The parameters that a client offers, and the most that a server accepts.
    pub preferences: Preferences,
    /// Compression level, from 1 (fastest) to 9 (smallest).
    pub level: u8,
    /// Size in bytes below which a message is sent uncompressed.
    pub threshold_bytes: u32,
    /// Whether a server keeps one context per topic for all its subscribers, instead of one per connection. A connection that
    /// agrees on context takeover then owns no deflater: its own messages are compressed from an empty window.
    pub shared: bool,
}

impl Default for Compression {
    /// No context takeover in either direction: compression without memory per connection.
    fn default() -> Compression {
        let direction = Direction { context_takeover: false, window_bits: 15 };
        Compression {
            preferences: Preferences { server: direction, client: direction },
            level: crate::limits::COMPRESSION_LEVEL_DEFAULT,
            threshold_bytes: crate::limits::COMPRESSION_THRESHOLD_BYTES,
            shared: false,
        }
    }
}

impl Compression {
    /// Sets the parameters that a client offers, and the most that a server accepts.
    #[must_use]
    pub fn preferences(self, preferences: Preferences) -> Compression {
        Compression { preferences, ..self }
    }

    /// Sets the compression level, from 1 (fastest) to 9 (smallest).
    #[must_use]
    pub fn level(self, level: u8) -> Compression {
        Compression { level, ..self }
    }

    /// Sets the size in bytes below which a message is sent uncompressed.
    #[must_use]
    pub fn threshold_bytes(self, threshold_bytes: u32) -> Compression {
        Compression { threshold_bytes, ..self }
    }

    /// Sets whether a server keeps one context per topic for all its subscribers, instead of one per connection.
    #[must_use]
    pub fn shared(self, shared: bool) -> Compression {
        Compression { shared, ..self }
    }
}

/// The window of a connection that takes messages deflated for many, see
/// [`Connection::share_window`](super::Connection::share_window).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedWindow {
    /// log2 of its size in bytes, 9 to 15.
    pub bits: u8,
    /// Whether the peer keeps it from message to message, and the server keeps a context per topic.
    pub has_context: bool,
}

crate::summed! {
    /// Statistics of the codecs of a shard.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct Compressed {
        /// Messages inflated.
        pub messages_in: u64,
        /// Compressed bytes of these messages.
        pub bytes_in: u64,
        /// Inflated bytes of these messages.
        pub bytes_in_inflated: u64,
        /// Messages deflated. A broadcast message counts once.
        pub messages_out: u64,
        /// Deflated bytes of these messages.
        pub bytes_out: u64,
        /// Uncompressed bytes of these messages.
        pub bytes_out_plain: u64,
        /// Bytes of windows and deflaters that connections own.
        pub context_bytes: u64,
        /// Windows and deflaters that were declined because the budget was spent.
        pub declined: u64,
    }
}

/// The codecs of a shard: those that all connections share, and spare deflaters for connections with context takeover.
#[derive(Debug)]
pub struct Codecs {
    compression: Option<Compression>,
    /// For all messages, with or without context takeover.
    inflater: Option<Inflater>,
    /// For all messages without context takeover, indexed by the bits of the window, from 9.
    deflaters: [Option<Deflater>; 7],
    spare_deflaters: Vec<(Direction, Box<Deflater>)>,
    /// Bytes of the contexts that connections own or have reserved, and of the spare deflaters.
    lease: Lease,
    inflated: Vec<u8>,
    deflated: Vec<u8>,
    done: Compressed,
}

impl Codecs {
    /// The node's budget of bytes for contexts.
    pub fn budget(&self) -> &Budget {
        self.lease.budget()
    }

    /// Codecs for connections with the settings `compression`. `lease` covers the bytes of contexts.
    pub fn new(compression: Option<Compression>, lease: Lease) -> Codecs {
        Codecs {
            compression,
            inflater: None,
            deflaters: Default::default(),
            spare_deflaters: Vec::new(),
            lease,
            inflated: Vec::new(),
            deflated: Vec::new(),
            done: Compressed::default(),
        }
    }

    /// The statistics so far.
    pub fn done(&self) -> Compressed {
        Compressed { context_bytes: self.lease.used(), ..self.done }
    }

    /// The parameters that a client offers, and the most that a server accepts.
    pub fn preferences(&self) -> Option<&Preferences> {
        self.compression.as_ref().map(|compression| &compression.preferences)
    }

    /// Whether topics have contexts, and connections none.
    pub(super) fn shares_contexts(&self) -> bool {
        self.compression.is_some_and(|compression| compression.shared)
    }

    /// The compression settings.
    pub fn compression(&self) -> Option<&Compression> {
        self.compression.as_ref()
    }

    /// Changes the compression level. All shared deflaters are recreated.
    pub(super) fn set_level(&mut self, level: u8) {
        if let Some(compression) = &mut self.compression {
            compression.level = level;
        }
        self.deflaters = Default::default();
        for (direction, _) in self.spare_deflaters.drain(..) {
            self.lease.give(Deflater::memory_bytes(direction) as u64);
        }
    }

    /// Deflates a message with an empty window of `window_bits`, for all connections whose window is at least as large.
    /// `None` when the message is below the threshold or does not shrink.
    pub fn deflate_for_all(&mut self, window_bits: u8, payload: &[u8]) -> Option<&[u8]> {
        let compression = self.compression_of(payload)?;
        let bytes = self.deflate_alone(compression, window_bits, payload);
        if bytes >= payload.len() {
            return None;
        }
        self.record_deflated(payload.len(), bytes);
        Some(&self.deflated[..bytes])
    }

    /// The same for connections that are to have the messages of a topic in their windows: a message that does not shrink is
    /// deflated too, because [`deflate_in_context`](Codecs::deflate_in_context) deflates it.
    pub fn deflate_for_joining(&mut self, window_bits: u8, payload: &[u8]) -> Option<&[u8]> {
        let compression = self.compression.filter(|_| payload.len() >= SHARED_CONTEXT_THRESHOLD_BYTES)?;
        let bytes = self.deflate_alone(compression, window_bits, payload);
        self.record_deflated(payload.len(), bytes);
        Some(&self.deflated[..bytes])
    }

    /// Deflates a message with the context of a topic, for all connections that have the messages in it. `None` when the message
    /// is below [the threshold](SHARED_CONTEXT_THRESHOLD_BYTES); the context is then unchanged.
    pub fn deflate_in_context(&mut self, context: &mut Deflater, payload: &[u8]) -> Option<&[u8]> {
        (payload.len() >= SHARED_CONTEXT_THRESHOLD_BYTES).then(|| self.deflate_with(context, payload))
    }

    /// A deflater for the context of a topic; `None` without compression.
    pub fn new_context(&self, window_bits: u8) -> Option<Box<Deflater>> {
        let Compression { level, .. } = self.compression?;
        Some(Box::new(Deflater::new(Direction { context_takeover: true, window_bits }, level)))
    }

    fn deflate_alone(&mut self, compression: Compression, window_bits: u8, payload: &[u8]) -> usize {
        let direction = Direction { context_takeover: false, window_bits };
        let deflater = self.deflaters[usize::from(window_bits.clamp(9, 15) - 9)]
            .get_or_insert_with(|| Deflater::new(direction, compression.level));
        deflater.deflate(payload, &mut self.deflated)
    }

    /// The compression settings, if the message is at or above the threshold.
    pub(super) fn compression_of(&self, payload: &[u8]) -> Option<Compression> {
        self.compression.filter(|compression| payload.len() >= compression.threshold_bytes as usize)
    }

    fn record_deflated(&mut self, before: usize, after: usize) {
        self.done.messages_out += 1;
        self.done.bytes_out_plain += before as u64;
        self.done.bytes_out += after as u64;
    }

    /// Deflates a message with the deflater of a connection.
    pub(super) fn deflate_with(&mut self, deflater: &mut Deflater, payload: &[u8]) -> &[u8] {
        let bytes = deflater.deflate(payload, &mut self.deflated);
        self.record_deflated(payload.len(), bytes);
        &self.deflated[..bytes]
    }

    /// Inflates a message. With context takeover, `window` is that of the connection.
    pub(super) fn inflate(
        &mut self,
        window: Option<&mut Window>,
        payload: &[u8],
        bytes_max: usize,
    ) -> Result<&[u8], ProtocolError> {
        // The largest window, so that the inflater serves every peer.
        let inflater = self
            .inflater
            .get_or_insert_with(|| Inflater::new(Direction { context_takeover: false, window_bits: 15 }));
        let bytes = match window {
            None => inflater.inflate(payload, &mut self.inflated, bytes_max),
            Some(window) => inflater.inflate_after(window, payload, &mut self.inflated, bytes_max),
        }?;
        self.done.messages_in += 1;
        self.done.bytes_in += payload.len() as u64;
        self.done.bytes_in_inflated += bytes as u64;
        Ok(&self.inflated[..bytes])
    }

    pub(super) fn take_deflater(&mut self, direction: Direction, level: u8) -> Option<Box<Deflater>> {
        if let Some(index) = self.spare_deflaters.iter().position(|(spare, _)| *spare == direction) {
            return Some(self.spare_deflaters.swap_remove(index).1);
        }
        if self.lease.take(Deflater::memory_bytes(direction) as u64) {
            return Some(Box::new(Deflater::new(direction, level)));
        }
        self.done.declined += 1;
        None
    }

    /// Charges the inbound window of `agreement`. When the budget is spent, returns the agreement without context
    /// takeover.
    pub(super) fn reserve_window(&mut self, agreement: Agreement, role: Role) -> Agreement {
        let inbound = agreement.inbound(role);
        if !inbound.context_takeover || self.lease.take(Window::memory_bytes(inbound.window_bits) as u64) {
            return agreement;
        }
        self.done.declined += 1;
        agreement.without_context_takeover()
    }

    /// Releases a reserved window.
    pub(super) fn release_window(&mut self, direction: Direction) {
        self.lease.give(Window::memory_bytes(direction.window_bits) as u64);
    }

    /// Releases the bytes of a deflater.
    pub(super) fn release_deflater(&mut self, direction: Direction) {
        self.lease.give(Deflater::memory_bytes(direction) as u64);
    }

    pub(super) fn put_deflater(&mut self, direction: Direction, mut deflater: Box<Deflater>) {
        if self.spare_deflaters.len() < SPARE_CONTEXTS_MAX {
            deflater.reset();
            self.spare_deflaters.push((direction, deflater));
        } else {
            self.lease.give(Deflater::memory_bytes(direction) as u64);
        }
    }
}

/// The maximum compressed size in bytes of a message of `max_message`. Incompressible data grows by five bytes
/// per stored block, and per flush of a sender that compresses while it writes.
pub(super) fn compressed_bytes_max(max_message: u64) -> u64 {
    max_message + max_message / 8 + 1024
}
