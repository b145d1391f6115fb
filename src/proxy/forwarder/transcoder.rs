//! The proxy as one end of permessage-deflate (RFC 7692): it decompresses a client's messages for an upstream that does
//! not compress, and compresses the upstream's messages for the client.
//!
//! Compressed messages are collected whole and are therefore bounded. Uncompressed messages to the client are
//! compressed if they arrived in one frame and are long enough; fragments pass unchanged.
//!
//! Never: a message above the size limit, compressed or not.

#![forbid(unsafe_code)]

use echoring_proto::deflate::{Agreement, Deflater, Inflater};
use echoring_proto::frame::Header;
use echoring_proto::limits::COMPRESSION_THRESHOLD_BYTES;
use echoring_proto::{Opcode, ProtocolError, Role, mask};

/// Converts the messages of one direction.
pub(crate) enum Transcoder {
    /// From the client: compressed messages are decompressed.
    Inflate(Box<InflateTranscoder>),
    /// To the client: messages are compressed if that is worthwhile.
    Deflate(Box<DeflateTranscoder>),
}

/// A direction in which messages are decompressed.
pub(crate) struct InflateTranscoder {
    inflater: Inflater,
    max_message: u64,
    /// Opcode of the compressed message that is being collected.
    collecting: Option<Opcode>,
    /// Payload collected so far; for an uncompressed frame, its payload.
    payload: Vec<u8>,
    inflated: Vec<u8>,
}

/// A direction in which messages are compressed.
pub(crate) struct DeflateTranscoder {
    /// `None` if the negotiated window is too small to deflate with.
    deflater: Option<Deflater>,
    deflated: Vec<u8>,
    plain: Vec<u8>,
}

impl Transcoder {
    /// The direction from the client.
    pub(crate) fn from_client(agreement: &Agreement, max_message: u64) -> Transcoder {
        Transcoder::Inflate(Box::new(InflateTranscoder {
            inflater: Inflater::new(agreement.inbound(Role::Server)),
            max_message,
            collecting: None,
            payload: Vec::new(),
            inflated: Vec::new(),
        }))
    }

    /// The direction to the client.
    pub(crate) fn to_client(agreement: &Agreement, level: u8) -> Transcoder {
        let direction = agreement.outbound(Role::Server);
        Transcoder::Deflate(Box::new(DeflateTranscoder {
            deflater: direction.deflates().then(|| Deflater::new(direction, level)),
            deflated: Vec::new(),
            plain: Vec::new(),
        }))
    }

    /// Whether compressed frames may arrive.
    pub(crate) fn accepts_compressed(&self) -> bool {
        matches!(self, Transcoder::Inflate(_))
    }

    /// Takes a data frame as it arrived. Returns the frame to be forwarded, its payload not masked yet; `key` is its
    /// masking key if it goes to an upstream.
    ///
    /// # Errors
    /// [`ProtocolError::MessageTooBig`] and [`ProtocolError::BadCompression`] for compressed messages.
    pub(crate) fn take(
        &mut self,
        header: &Header,
        payload: &[u8],
        key: Option<[u8; 4]>,
    ) -> Result<Option<(Header, &[u8])>, ProtocolError> {
        match self {
            Transcoder::Inflate(inflate) => inflate.take(header, payload, key),
            Transcoder::Deflate(deflate) => Ok(Some(deflate.take(header, payload, key))),
        }
    }
}

impl InflateTranscoder {
    fn take(
        &mut self,
        header: &Header,
        payload: &[u8],
        key: Option<[u8; 4]>,
    ) -> Result<Option<(Header, &[u8])>, ProtocolError> {
        if header.compressed {
            self.collecting = Some(header.opcode);
        }
        let start = self.payload.len();
        if self.collecting.is_some() && (start + payload.len()) as u64 > self.max_message {
            // DEFLATE expands data by a few bytes at most, so a compressed payload above the limit is too big.
            return Err(ProtocolError::MessageTooBig);
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
        let bytes_max = usize::try_from(self.max_message).unwrap_or(usize::MAX);
        let bytes = self.inflater.inflate(&self.payload, &mut self.inflated, bytes_max)?;
        self.collecting = None;
        self.payload.clear();
        Ok(Some((Header::new(opcode, true, key, bytes), &self.inflated[..bytes])))
    }
}

impl DeflateTranscoder {
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
