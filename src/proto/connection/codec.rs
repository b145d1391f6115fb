//! Compresses and decompresses the messages of one connection, as both ends agreed (RFC 7692).

use std::borrow::Cow;

use super::reader::ReadError;
use super::{Codecs, Env, OutOfMemory, SharedWindow};
use crate::Role;
use crate::buffer::Buffer;
use crate::deflate::{Agreement, Deflater, Direction, Window};
use crate::frame::HEADER_BYTES_MAX;

/// A connection's agreement on compression, and the contexts that it owns.
#[derive(Debug)]
pub(super) struct MessageCodec {
    agreement: Agreement,
    role: Role,
    /// The window of received messages, if it is kept from message to message. It grows with the first messages.
    window: Option<Window>,
    outbound: Outbound,
}

/// Who deflates the connection's own messages.
#[derive(Debug)]
enum Outbound {
    /// None: no deflater has a window of 8 bits.
    Plain,
    /// None: the peer's window must have nothing but the messages of a topic.
    Topic,
    /// The shard's deflaters, each message from an empty window.
    Shared,
    /// The connection's own, made with the first message if the budget has room.
    Own(Option<Box<Deflater>>),
}

impl MessageCodec {
    /// A codec for `agreement`, whose window is reserved in the budget. When that is spent, an agreement that the peer
    /// does not know yet loses context takeover, if the server may `decline` it: a peer relies on what it knows.
    ///
    /// # Errors
    /// When the budget is spent and takeover cannot be declined.
    pub(super) fn new(
        agreement: Agreement,
        role: Role,
        may_decline: bool,
        codecs: &mut Codecs,
    ) -> Result<MessageCodec, OutOfMemory> {
        let reserved = codecs.reserve_window(agreement, role);
        if reserved != agreement && !may_decline {
            return Err(OutOfMemory);
        }
        let (inbound, outbound) = (reserved.inbound(role), reserved.outbound(role));
        Ok(MessageCodec {
            agreement: reserved,
            role,
            window: inbound.context_takeover.then(|| Window::new(inbound.window_bits)),
            outbound: match outbound {
                direction if !direction.deflates() => Outbound::Plain,
                Direction { context_takeover: true, .. } if !codecs.shares_contexts() => Outbound::Own(None),
                _ => Outbound::Shared,
            },
        })
    }

    pub(super) fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    fn outbound_direction(&self) -> Direction {
        self.agreement.outbound(self.role)
    }

    /// Whether it owns, or was reserved, memory that outlives a message.
    pub(super) fn keeps_context(&self) -> bool {
        self.window.is_some() || matches!(self.outbound, Outbound::Own(_))
    }

    /// Discards the deflater, so that the next message refers to no earlier one.
    pub(super) fn restart(&mut self, codecs: &mut Codecs) {
        let direction = self.outbound_direction();
        if let Outbound::Own(deflater) = &mut self.outbound
            && deflater.take().is_some()
        {
            codecs.release_deflater(direction);
        }
    }

    /// From now on each message is deflated from an empty window, by the shard's deflaters. Returns that window; `None` when the
    /// peer takes plain messages only.
    pub(super) fn share_window(&mut self, codecs: &mut Codecs) -> Option<SharedWindow> {
        let direction = self.outbound_direction();
        match &mut self.outbound {
            Outbound::Plain => return None,
            Outbound::Shared => {}
            Outbound::Topic => self.outbound = Outbound::Shared,
            Outbound::Own(deflater) => {
                if let Some(deflater) = deflater.take() {
                    codecs.put_deflater(direction, deflater);
                }
                self.outbound = Outbound::Shared;
            }
        }
        let has_context = direction.context_takeover && codecs.shares_contexts();
        Some(SharedWindow { bits: direction.window_bits, has_context })
    }

    /// From now on no message of the connection itself is deflated.
    pub(super) fn leave_window_to_topic(&mut self) {
        if let Outbound::Shared = self.outbound {
            self.outbound = Outbound::Topic;
        }
    }

    /// Deflates a message. `None` when it is sent plain, because it is short or does not shrink.
    pub(super) fn deflate<'a>(&mut self, payload: &[u8], codecs: &'a mut Codecs) -> Option<&'a [u8]> {
        let level = codecs.compression_of(payload)?.level;
        let direction = self.outbound_direction();
        match &mut self.outbound {
            Outbound::Plain | Outbound::Topic => None,
            Outbound::Shared => codecs.deflate_for_all(direction.window_bits, payload),
            Outbound::Own(deflater) => {
                if deflater.is_none() {
                    *deflater = codecs.take_deflater(direction, level);
                }
                match deflater {
                    Some(deflater) => Some(codecs.deflate_with(deflater, payload)),
                    None => codecs.deflate_for_all(direction.window_bits, payload),
                }
            }
        }
    }

    /// Inflates a message into a buffer that has room for a header in front.
    pub(super) fn inflate(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<Buffer, ReadError> {
        let bytes_max = usize::try_from(env.config.max_message).unwrap_or(usize::MAX);
        let inflated = env.codecs.inflate(self.window.as_mut(), payload, bytes_max)?;
        let mut buffer = env.pool.get(HEADER_BYTES_MAX + inflated.len()).ok_or(OutOfMemory)?;
        buffer.reserve_front(HEADER_BYTES_MAX);
        buffer.append(inflated);
        Ok(buffer)
    }

    /// The window of received messages, if it is kept.
    pub(super) fn window(&self) -> Option<Cow<'static, [u8]>> {
        self.window.as_ref().map(|window| Cow::Owned(window.halves().concat()))
    }

    /// Fills the window of received messages. False if the agreement has no such window.
    pub(super) fn set_window(&mut self, bytes: Option<&[u8]>) -> bool {
        let bytes_max = self.agreement.inbound(self.role).window_bytes();
        match (&mut self.window, bytes) {
            (Some(window), Some(bytes)) if bytes.len() <= bytes_max => window.append(bytes, None),
            (None, None) => {}
            _ => return false,
        }
        true
    }

    /// Returns its contexts.
    pub(super) fn release(self, codecs: &mut Codecs) {
        if self.window.is_some() {
            codecs.release_window(self.agreement.inbound(self.role));
        }
        let direction = self.outbound_direction();
        if let Outbound::Own(Some(deflater)) = self.outbound {
            codecs.put_deflater(direction, deflater);
        }
    }
}
