//! One end of permessage-deflate (RFC 7692): messages of a client that compresses become plain for a server behind
//! it that is not asked to, and the other way round.
//!
//! Compressed messages are taken whole, as everywhere here, and are therefore bounded. Plain ones towards the client
//! are compressed when they came in one frame and are long enough to be worth it; fragments pass as they are.
//!
//! Never: a message that is longer than the limit, compressed or not.

#![forbid(unsafe_code)]

use crate::limits::COMPRESSION_THRESHOLD_BYTES;
use crate::protocol::deflate::{Agreement, Deflater, Inflater};
use crate::protocol::frame::Header;
use crate::protocol::{Offence, Opcode, Role, mask};

/// What becomes of messages in one direction.
pub(super) enum Recoder {
    /// From the client: compressed ones are inflated.
    Inflate(Box<Inflating>),
    /// To the client: those worth it are deflated.
    Deflate(Box<Deflating>),
}

/// A direction that is inflated.
pub(super) struct Inflating {
    inflater: Inflater,
    message_bytes_max: u64,
    /// Opcode of the compressed message that is being collected.
    collecting: Option<Opcode>,
    /// Its payload so far; a plain message's payload while it passes.
    payload: Vec<u8>,
    inflated: Vec<u8>,
}

/// A direction that is deflated.
pub(super) struct Deflating {
    /// Where the agreement leaves a window that can be deflated in.
    deflater: Option<Deflater>,
    deflated: Vec<u8>,
    plain: Vec<u8>,
}

impl Recoder {
    /// The direction from the client, of an agreement with it.
    pub(super) fn from_client(agreement: &Agreement, message_bytes_max: u64) -> Recoder {
        Recoder::Inflate(Box::new(Inflating {
            inflater: Inflater::new(agreement.inbound(Role::Server)),
            message_bytes_max,
            collecting: None,
            payload: Vec::new(),
            inflated: Vec::new(),
        }))
    }

    /// The direction to the client.
    pub(super) fn to_client(agreement: &Agreement, level: u8) -> Recoder {
        let direction = agreement.outbound(Role::Server);
        Recoder::Deflate(Box::new(Deflating {
            deflater: direction.deflates().then(|| Deflater::new(direction, level)),
            deflated: Vec::new(),
            plain: Vec::new(),
        }))
    }

    /// Whether frames may arrive compressed.
    pub(super) fn takes_compressed(&self) -> bool {
        matches!(self, Recoder::Inflate(_))
    }

    /// Takes a data frame as it arrived and gives what is to be passed on, payload not masked; `key` masks it where
    /// it is a client's.
    ///
    /// # Errors
    /// [`Offence::MessageTooBig`] and [`Offence::BadCompression`], of compressed messages.
    pub(super) fn take(
        &mut self,
        header: &Header,
        payload: &[u8],
        key: Option<[u8; 4]>,
    ) -> Result<Option<(Header, &[u8])>, Offence> {
        match self {
            Recoder::Inflate(inflating) => inflating.take(header, payload, key),
            Recoder::Deflate(deflating) => Ok(Some(deflating.take(header, payload, key))),
        }
    }
}

impl Inflating {
    fn take(
        &mut self,
        header: &Header,
        payload: &[u8],
        key: Option<[u8; 4]>,
    ) -> Result<Option<(Header, &[u8])>, Offence> {
        if header.compressed {
            self.collecting = Some(header.opcode);
        }
        let start = self.payload.len();
        if self.collecting.is_some() && (start + payload.len()) as u64 > self.message_bytes_max {
            // DEFLATE makes nothing longer by more than a few bytes: what is too long compressed is too long.
            return Err(Offence::MessageTooBig);
        }
        self.payload.extend_from_slice(payload);
        if let Some(key) = header.mask {
            mask::apply(&mut self.payload[start..], key);
        }
        let Some(opcode) = self.collecting else {
            std::mem::swap(&mut self.inflated, &mut self.payload);
            self.payload.clear();
            let header = Header { mask: key, ..*header };
            return Ok(Some((header, &self.inflated)));
        };
        if !header.fin {
            return Ok(None);
        }
        let bytes_max = usize::try_from(self.message_bytes_max).unwrap_or(usize::MAX);
        let bytes = self.inflater.inflate(&self.payload, &mut self.inflated, bytes_max)?;
        self.collecting = None;
        self.payload.clear();
        Ok(Some((Header::new(opcode, true, key, bytes), &self.inflated[..bytes])))
    }
}

impl Deflating {
    fn take(&mut self, header: &Header, payload: &[u8], key: Option<[u8; 4]>) -> (Header, &[u8]) {
        let whole = header.fin && header.opcode != Opcode::Continuation;
        if let Some(deflater) = &mut self.deflater
            && whole
            && payload.len() >= COMPRESSION_THRESHOLD_BYTES as usize
        {
            let bytes = deflater.deflate(payload, &mut self.deflated);
            let header = Header { compressed: true, ..Header::new(header.opcode, true, key, bytes) };
            return (header, &self.deflated[..bytes]);
        }
        self.plain.clear();
        self.plain.extend_from_slice(payload);
        (Header { mask: key, ..*header }, &self.plain)
    }
}
