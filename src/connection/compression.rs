//! Compression of messages (RFC 7692): what a connection agreed on, and the codecs that a shard's connections
//! share.
//!
//! A message is inflated when its last byte is there, and deflated as a whole: so a connection that keeps no
//! window from message to message owns no codec at all. One that does owns its window inbound and a whole deflater
//! outbound, taken from a lease on the node's budget when it is agreed on (inbound) or first needed (outbound).
//! Without room in the budget the window is not kept, which a server may always say and a sender always do.
//!
//! Never: the format of frames or of offers; those are the protocol's.

use super::reading::Stop;
use super::{Connection, Env, Kind, OutOfMemory};
use crate::buffer::{Buffer, Lease};
use crate::limits::SPARE_CONTEXTS_MAX;
use crate::protocol::deflate::{Agreement, Deflater, Direction, Inflater, Preferences, Window};
use crate::protocol::frame::{HEADER_BYTES_MAX, Header};
use crate::protocol::{Offence, Role};

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Compression {
    /// What is offered, or accepted at most.
    pub preferences: Preferences,
    /// Effort, from 1 (fast) to 9 (small).
    pub level: u8,
    /// Bytes of a message below which it is sent plain.
    pub threshold_bytes: u32,
}

impl Default for Compression {
    /// No window is kept in either direction: compression without memory per connection.
    fn default() -> Compression {
        let direction = Direction { takeover: false, window_bits: 15 };
        Compression {
            preferences: Preferences { server: direction, client: direction },
            level: crate::limits::COMPRESSION_LEVEL_DEFAULT,
            threshold_bytes: crate::limits::COMPRESSION_THRESHOLD_BYTES,
        }
    }
}

/// What the codecs of a shard did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Messages inflated.
    pub messages_in: u64,
    /// Their bytes as they came.
    pub bytes_in: u64,
    /// Their bytes inflated.
    pub bytes_in_inflated: u64,
    /// Messages deflated, those of a broadcast once for all that got them.
    pub messages_out: u64,
    /// Their bytes before.
    pub bytes_out_plain: u64,
    /// Their bytes as they left.
    pub bytes_out: u64,
    /// Bytes of contexts that connections own.
    pub context_bytes: u64,
    /// Windows that were not kept for want of room in the budget.
    pub declined: u64,
}

/// The codecs of a shard: those that all connections share, and spare ones of those that connections own.
#[derive(Debug)]
pub struct Codecs {
    compression: Option<Compression>,
    /// For all messages, whoever keeps the window.
    inflater: Option<Inflater>,
    /// For all messages that do not refer to earlier ones, by the window's bits from 9 on.
    deflaters: [Option<Deflater>; 7],
    spare_deflaters: Vec<(Direction, Box<Deflater>)>,
    /// Bytes of the contexts that connections own, or were promised, and of the spare ones.
    lease: Lease,
    inflated: Vec<u8>,
    deflated: Vec<u8>,
    done: Compressed,
}

impl Codecs {
    /// Codecs for connections that are configured with `compression`; `lease` is of bytes.
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

    /// What has been done so far.
    pub fn done(&self) -> Compressed {
        Compressed { context_bytes: self.lease.used(), ..self.done }
    }

    /// What a client offers and a server accepts.
    pub fn preferences(&self) -> Option<&Preferences> {
        self.compression.as_ref().map(|compression| &compression.preferences)
    }

    /// How messages are compressed.
    pub fn compression(&self) -> Option<&Compression> {
        self.compression.as_ref()
    }

    /// Compresses with another effort from now on: all deflaters are made anew.
    fn set_level(&mut self, level: u8) {
        if let Some(compression) = &mut self.compression {
            compression.level = level;
        }
        self.deflaters = Default::default();
        for (direction, _) in self.spare_deflaters.drain(..) {
            self.lease.give(Deflater::memory_bytes(direction) as u64);
        }
    }

    /// Deflates a message from an empty window of `window_bits`, so that every connection that agreed on at least
    /// that window can be sent it. `None` when it is not worth it.
    pub fn deflate_for_all(&mut self, window_bits: u8, payload: &[u8]) -> Option<&[u8]> {
        let compression = self.compression_of(payload)?;
        let direction = Direction { takeover: false, window_bits };
        let deflater = self.deflaters[usize::from(window_bits.clamp(9, 15) - 9)]
            .get_or_insert_with(|| Deflater::new(direction, compression.level));
        let bytes = deflater.deflate(payload, &mut self.deflated);
        if bytes >= payload.len() {
            return None;
        }
        self.note_deflated(payload.len(), bytes);
        Some(&self.deflated[..bytes])
    }

    /// How a message is compressed, when it is long enough for that.
    fn compression_of(&self, payload: &[u8]) -> Option<Compression> {
        self.compression.filter(|compression| payload.len() >= compression.threshold_bytes as usize)
    }

    fn note_deflated(&mut self, before: usize, after: usize) {
        self.done.messages_out += 1;
        self.done.bytes_out_plain += before as u64;
        self.done.bytes_out += after as u64;
    }

    fn deflate(&mut self, session: &mut Session, payload: &[u8]) -> Option<&[u8]> {
        let compression = self.compression_of(payload)?;
        let direction = session.outbound_direction();
        match &mut session.outbound {
            Outbound::Plain => None,
            Outbound::Own(deflater) => {
                if deflater.is_none() {
                    *deflater = self.take_deflater(direction, compression.level);
                }
                let Some(deflater) = deflater else {
                    return self.deflate_for_all(direction.window_bits, payload);
                };
                let bytes = deflater.deflate(payload, &mut self.deflated);
                self.note_deflated(payload.len(), bytes);
                Some(&self.deflated[..bytes])
            }
            Outbound::Shared => self.deflate_for_all(direction.window_bits, payload),
        }
    }

    fn inflate(&mut self, session: &mut Session, payload: &[u8], bytes_max: usize) -> Result<&[u8], Offence> {
        // Whatever window the peer may use, this one is as large.
        let inflater = self
            .inflater
            .get_or_insert_with(|| Inflater::new(Direction { takeover: false, window_bits: 15 }));
        let bytes = match &mut session.inbound {
            Inbound::Shared => inflater.inflate(payload, &mut self.inflated, bytes_max),
            Inbound::Own(window) => inflater.inflate_after(window, payload, &mut self.inflated, bytes_max),
        }?;
        self.done.messages_in += 1;
        self.done.bytes_in += payload.len() as u64;
        self.done.bytes_in_inflated += bytes as u64;
        Ok(&self.inflated[..bytes])
    }

    fn take_deflater(&mut self, direction: Direction, level: u8) -> Option<Box<Deflater>> {
        if let Some(index) = self.spare_deflaters.iter().position(|(spare, _)| *spare == direction) {
            return Some(self.spare_deflaters.swap_remove(index).1);
        }
        if self.lease.take(Deflater::memory_bytes(direction) as u64) {
            return Some(Box::new(Deflater::new(direction, level)));
        }
        self.done.declined += 1;
        None
    }

    /// What a connection may keep of what was agreed.
    fn promise(&mut self, agreement: Agreement, role: Role) -> Agreement {
        let inbound = agreement.inbound(role);
        if !inbound.takeover || self.lease.take(Window::memory_bytes(inbound.window_bits) as u64) {
            return agreement;
        }
        self.done.declined += 1;
        agreement.without_takeover()
    }

    fn release(&mut self, session: Session) {
        let (inbound, outbound) = (session.inbound_direction(), session.outbound_direction());
        if let Inbound::Own(_) = session.inbound {
            self.lease.give(Window::memory_bytes(inbound.window_bits) as u64);
        }
        if let Outbound::Own(Some(deflater)) = session.outbound {
            self.put_deflater(outbound, deflater);
        }
    }

    fn put_deflater(&mut self, direction: Direction, mut deflater: Box<Deflater>) {
        if self.spare_deflaters.len() < SPARE_CONTEXTS_MAX {
            deflater.reset();
            self.spare_deflaters.push((direction, deflater));
        } else {
            self.lease.give(Deflater::memory_bytes(direction) as u64);
        }
    }
}

/// Bytes that a message of at most `message_bytes_max` may have when compressed: what does not shrink grows, by
/// five bytes for each stored block and for each flush of a sender that compresses as it writes.
pub(super) fn compressed_bytes_max(message_bytes_max: u64) -> u64 {
    message_bytes_max + message_bytes_max / 8 + 1024
}

/// What the shard's inflater is shown before a message.
#[derive(Debug)]
enum Inbound {
    /// Nothing: no message refers to an earlier one.
    Shared,
    /// The connection's own window, promised at the handshake. It grows with the first messages.
    Own(Window),
}

/// Who deflates.
#[derive(Debug)]
enum Outbound {
    /// Nobody: no raw deflate with a window of 8 bits can be made.
    Plain,
    /// The shard's deflaters, each message from an empty window.
    Shared,
    /// The connection's own, made with the first message if the budget has room.
    Own(Option<Box<Deflater>>),
}

/// What a connection agreed on, and the contexts it owns for that.
#[derive(Debug)]
pub(super) struct Session {
    agreement: Agreement,
    role: Role,
    inbound: Inbound,
    outbound: Outbound,
}

impl Session {
    fn new(agreement: Agreement, role: Role) -> Session {
        let (inbound, outbound) = (agreement.inbound(role), agreement.outbound(role));
        Session {
            agreement,
            role,
            inbound: if inbound.takeover {
                Inbound::Own(Window::new(inbound.window_bits))
            } else {
                Inbound::Shared
            },
            outbound: match outbound {
                direction if !direction.deflates() => Outbound::Plain,
                Direction { takeover: true, .. } => Outbound::Own(None),
                _ => Outbound::Shared,
            },
        }
    }

    fn inbound_direction(&self) -> Direction {
        self.agreement.inbound(self.role)
    }

    fn outbound_direction(&self) -> Direction {
        self.agreement.outbound(self.role)
    }

    /// Whether it owns, or was promised, what outlives a message.
    pub(super) fn keeps_context(&self) -> bool {
        matches!(self.inbound, Inbound::Own(_)) || matches!(self.outbound, Outbound::Own(_))
    }
}

impl Connection {
    /// Both ends will compress messages as agreed. A server gives up on keeping windows when the node's budget for
    /// them is spent; a client cannot, for the server relies on it.
    ///
    /// # Errors
    /// In the client role, when that budget is spent.
    pub fn agree(&mut self, agreement: Agreement, env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let promised = env.codecs.promise(agreement, self.role);
        if promised != agreement && self.role == Role::Client {
            return Err(OutOfMemory);
        }
        self.session = Some(Box::new(Session::new(promised, self.role)));
        Ok(())
    }

    /// Takes an agreement up that the peer has been told already, so that nothing of it can be declined any more.
    ///
    /// # Errors
    /// When the budget for the windows that it keeps is spent.
    pub(super) fn keep_agreement(
        &mut self,
        agreement: Agreement,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        if env.codecs.promise(agreement, self.role) != agreement {
            return Err(OutOfMemory);
        }
        self.session = Some(Box::new(Session::new(agreement, self.role)));
        Ok(())
    }

    /// Compresses with another effort from now on, from 1 (fast) to 9 (small). The next message refers to no earlier
    /// one.
    pub fn set_compression_level(&mut self, level: u8, codecs: &mut Codecs) {
        codecs.set_level(level);
        if let Some(session) = &mut self.session {
            let direction = session.outbound_direction();
            if let Outbound::Own(deflater) = &mut session.outbound
                && deflater.take().is_some()
            {
                codecs.lease.give(Deflater::memory_bytes(direction) as u64);
            }
        }
    }

    /// What both ends agreed on.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.session.as_ref().map(|session| &session.agreement)
    }

    /// From now on every message to the peer is deflated from an empty window, if at all, so that messages
    /// deflated for many may be sent as well. Returns that window's bits; `None` when the peer takes plain messages
    /// only.
    pub fn share_window(&mut self, codecs: &mut Codecs) -> Option<u8> {
        let session = self.session.as_mut()?;
        let direction = session.outbound_direction();
        match &mut session.outbound {
            Outbound::Plain => return None,
            Outbound::Shared => {}
            Outbound::Own(deflater) => {
                if let Some(deflater) = deflater.take() {
                    codecs.put_deflater(direction, deflater);
                }
                session.outbound = Outbound::Shared;
            }
        }
        Some(direction.window_bits)
    }

    /// Queues a message as one frame, compressed when that was agreed on and makes it shorter.
    pub(super) fn send_message(
        &mut self,
        kind: Kind,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        let header = Header::new(kind.opcode(), true, key, payload.len());
        if let Some(session) = &mut self.session
            && let Some(compressed) = env.codecs.deflate(session, payload)
        {
            let payload_bytes = compressed.len() as u64;
            let header = Header { compressed: true, payload_bytes, ..header };
            return self.outbox.frame(env.pool, &header, compressed);
        }
        self.outbox.frame(env.pool, &header, payload)
    }

    /// Inflates a message into a buffer with room for a header in front.
    pub(super) fn inflate(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<Buffer, Stop> {
        let bytes_max = usize::try_from(env.config.message_bytes_max).unwrap_or(usize::MAX);
        let inflated = match &mut self.session {
            Some(session) => env.codecs.inflate(session, payload, bytes_max)?,
            None => payload,
        };
        let mut buffer = env.pool.get(HEADER_BYTES_MAX + inflated.len()).ok_or(OutOfMemory)?;
        buffer.reserve_front(HEADER_BYTES_MAX);
        buffer.append(inflated);
        Ok(buffer)
    }

    pub(super) fn release_session(&mut self, codecs: &mut Codecs) {
        if let Some(session) = self.session.take() {
            codecs.release(*session);
        }
    }
}
