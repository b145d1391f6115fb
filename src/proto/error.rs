//! The protocol errors of a peer after the handshake, and the close code of each. This is the only place that
//! maps errors to close codes. A refused handshake is a [`handshake::Refusal`](crate::handshake::Refusal).
//!
//! Never: a variant for a bug in this crate; bugs are assertions.

#![forbid(unsafe_code)]

use std::fmt;

use super::CloseCode;

/// A protocol error of a peer. The text of [`Display`](fmt::Display) fits into the reason of a Close frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 is set and no negotiated extension defines it (RFC 6455, 5.2; RFC 7692, 6).
    ReservedBits,
    /// Opcode 3–7 or 11–15 (RFC 6455, 5.2).
    UnknownOpcode,
    /// A control frame without FIN (RFC 6455, 5.5).
    FragmentedControl,
    /// A control frame with a payload length above 125 bytes (RFC 6455, 5.5).
    OversizedControl,
    /// A payload length that is not minimally encoded (RFC 6455, 5.2).
    NotMinimalLength,
    /// A 64-bit length with its most significant bit set (RFC 6455, 5.2).
    LengthTopBit,
    /// An unmasked frame from a client (RFC 6455, 5.1).
    NotMasked,
    /// A masked frame from a server (RFC 6455, 5.1).
    Masked,
    /// A continuation frame without a preceding fragment (RFC 6455, 5.4).
    StrayContinuation,
    /// A new message before the final fragment of the previous one (RFC 6455, 5.4).
    InterleavedData,
    /// A text message that is not UTF-8 (RFC 6455, 8.1).
    InvalidUtf8,
    /// A message above the size limit, detected from the header or while inflating.
    MessageTooBig,
    /// A compressed message that is invalid or truncated DEFLATE data (RFC 7692, 7.2.2).
    BadCompression,
    /// A Close frame with a payload of one byte (RFC 6455, 5.5.1).
    BadClosePayload,
    /// A close code that must not be sent (RFC 6455, 7.4).
    BadCloseCode,
    /// A close reason that is not UTF-8 (RFC 6455, 5.5.1).
    BadCloseReason,
    /// More pings than [`PINGS_PER_SECOND_MAX`](crate::limits::PINGS_PER_SECOND_MAX).
    PingFlood,
    /// A message that makes less than its [least progress](crate::connection::MessageProgress).
    SlowMessage,
    /// More than [`EVENT_STREAM_INPUT_BYTES_MAX`](crate::limits::EVENT_STREAM_INPUT_BYTES_MAX) from the client of an event
    /// stream.
    EventStreamInput,
}

impl ProtocolError {
    /// All errors, for counters and tests.
    pub const ALL: [ProtocolError; 19] = [
        ProtocolError::ReservedBits,
        ProtocolError::UnknownOpcode,
        ProtocolError::FragmentedControl,
        ProtocolError::OversizedControl,
        ProtocolError::NotMinimalLength,
        ProtocolError::LengthTopBit,
        ProtocolError::NotMasked,
        ProtocolError::Masked,
        ProtocolError::StrayContinuation,
        ProtocolError::InterleavedData,
        ProtocolError::InvalidUtf8,
        ProtocolError::MessageTooBig,
        ProtocolError::BadCompression,
        ProtocolError::BadClosePayload,
        ProtocolError::BadCloseCode,
        ProtocolError::BadCloseReason,
        ProtocolError::PingFlood,
        ProtocolError::SlowMessage,
        ProtocolError::EventStreamInput,
    ];

    /// The status code of the Close frame sent to the peer (RFC 6455, 7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            ProtocolError::ReservedBits
            | ProtocolError::UnknownOpcode
            | ProtocolError::FragmentedControl
            | ProtocolError::OversizedControl
            | ProtocolError::NotMinimalLength
            | ProtocolError::LengthTopBit
            | ProtocolError::NotMasked
            | ProtocolError::Masked
            | ProtocolError::StrayContinuation
            | ProtocolError::InterleavedData
            | ProtocolError::BadClosePayload
            | ProtocolError::BadCloseCode => CloseCode::PROTOCOL,
            // RFC 7692 defines no code for invalid compressed data. RFC 6455 defines 1007 for data that is not
            // consistent with the type of the message, and RSV1 is part of that type. The frames are valid.
            ProtocolError::InvalidUtf8 | ProtocolError::BadCloseReason | ProtocolError::BadCompression => {
                CloseCode::INVALID_PAYLOAD
            }
            ProtocolError::MessageTooBig => CloseCode::TOO_BIG,
            ProtocolError::PingFlood | ProtocolError::SlowMessage | ProtocolError::EventStreamInput => {
                CloseCode::POLICY
            }
        }
    }

    /// The text of [`Display`](fmt::Display), at most 123 bytes of ASCII.
    pub const fn text(self) -> &'static str {
        match self {
            ProtocolError::ReservedBits => "reserved bit set",
            ProtocolError::UnknownOpcode => "unknown opcode",
            ProtocolError::FragmentedControl => "fragmented control frame",
            ProtocolError::OversizedControl => "control frame longer than 125 bytes",
            ProtocolError::NotMinimalLength => "length is not minimally encoded",
            ProtocolError::LengthTopBit => "length of 2^63 or more",
            ProtocolError::NotMasked => "frame is not masked",
            ProtocolError::Masked => "frame is masked",
            ProtocolError::StrayContinuation => "continuation frame without a message",
            ProtocolError::InterleavedData => "new message inside a fragmented message",
            ProtocolError::InvalidUtf8 => "text is not UTF-8",
            ProtocolError::MessageTooBig => "message too big",
            ProtocolError::BadCompression => "compressed data is invalid",
            ProtocolError::BadClosePayload => "close payload has only one byte",
            ProtocolError::BadCloseCode => "close code must not be sent",
            ProtocolError::BadCloseReason => "close reason is not UTF-8",
            ProtocolError::PingFlood => "too many pings",
            ProtocolError::SlowMessage => "message arrived too slowly",
            ProtocolError::EventStreamInput => "an event stream takes no input",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ProtocolError {}

crate::error_debug!(
    enum ProtocolError {
        ReservedBits,
        UnknownOpcode,
        FragmentedControl,
        OversizedControl,
        NotMinimalLength,
        LengthTopBit,
        NotMasked,
        Masked,
        StrayContinuation,
        InterleavedData,
        InvalidUtf8,
        MessageTooBig,
        BadCompression,
        BadClosePayload,
        BadCloseCode,
        BadCloseReason,
        PingFlood,
        SlowMessage,
        EventStreamInput,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_sendable_close_code_and_a_text_that_fits_a_close_frame() {
        for error in ProtocolError::ALL {
            assert!(error.close_code().may_be_sent(), "{error:?}");
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() <= 123 && text.is_ascii(), "{error:?}");
        }
    }
}
