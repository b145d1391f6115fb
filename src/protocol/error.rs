//! What a peer can do wrong once it speaks WebSocket, and the one place that says which close code each
//! offence gets. Refused handshakes are [`handshake::Refusal`](super::handshake::Refusal)s.
//!
//! Never: a variant for a mistake of our own; those are assertions.

#![forbid(unsafe_code)]

use std::fmt;

use super::CloseCode;

/// One offence of a peer. [`Display`](fmt::Display) gives a text that fits a Close frame's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Offence {
    /// RSV1, RSV2 or RSV3 without an extension that gave it a meaning (RFC 6455, 5.2; RFC 7692, 6).
    ReservedBits,
    /// Opcode 3–7 or 11–15 (RFC 6455, 5.2).
    UnknownOpcode,
    /// A control frame without FIN (RFC 6455, 5.5).
    FragmentedControl,
    /// A control frame that declares more than 125 bytes (RFC 6455, 5.5).
    OversizedControl,
    /// A length that would have fitted a shorter form (RFC 6455, 5.2).
    NotMinimalLength,
    /// A 64-bit length with its most significant bit set (RFC 6455, 5.2).
    LengthTopBit,
    /// A client's frame without a mask (RFC 6455, 5.1).
    NotMasked,
    /// A server's frame with a mask (RFC 6455, 5.1).
    Masked,
    /// A continuation frame while no message is under way (RFC 6455, 5.4).
    StrayContinuation,
    /// A new data frame before the last message's final fragment (RFC 6455, 5.4).
    InterleavedData,
    /// A text message that is not UTF-8 (RFC 6455, 8.1).
    InvalidUtf8,
    /// A message past the limit; known from the header alone, or while inflating.
    MessageTooBig,
    /// A compressed message that is not DEFLATE, or not all of it (RFC 7692, 7.2.2).
    BadCompression,
    /// A Close frame with one byte of payload (RFC 6455, 5.5.1).
    BadClosePayload,
    /// A close code that must not be sent (RFC 6455, 7.4).
    BadCloseCode,
    /// A close reason that is not UTF-8 (RFC 6455, 5.5.1).
    BadCloseReason,
    /// More pings than [`PINGS_PER_SECOND_MAX`](crate::limits::PINGS_PER_SECOND_MAX).
    PingFlood,
    /// A message not finished within [`MESSAGE_TIMEOUT`](crate::limits::MESSAGE_TIMEOUT).
    MessageTimeout,
}

impl Offence {
    /// Every offence, for counters and tests.
    pub const ALL: [Offence; 18] = [
        Offence::ReservedBits,
        Offence::UnknownOpcode,
        Offence::FragmentedControl,
        Offence::OversizedControl,
        Offence::NotMinimalLength,
        Offence::LengthTopBit,
        Offence::NotMasked,
        Offence::Masked,
        Offence::StrayContinuation,
        Offence::InterleavedData,
        Offence::InvalidUtf8,
        Offence::MessageTooBig,
        Offence::BadCompression,
        Offence::BadClosePayload,
        Offence::BadCloseCode,
        Offence::BadCloseReason,
        Offence::PingFlood,
        Offence::MessageTimeout,
    ];

    /// The code that the peer is told (RFC 6455, 7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Offence::ReservedBits
            | Offence::UnknownOpcode
            | Offence::FragmentedControl
            | Offence::OversizedControl
            | Offence::NotMinimalLength
            | Offence::LengthTopBit
            | Offence::NotMasked
            | Offence::Masked
            | Offence::StrayContinuation
            | Offence::InterleavedData
            | Offence::BadClosePayload
            | Offence::BadCloseCode => CloseCode::PROTOCOL,
            // RFC 7692 names no code for bad compressed data. RFC 6455 has 1007 for data that is not what the
            // message's type promised, and RSV1 is part of that promise; the frames themselves are in order.
            Offence::InvalidUtf8 | Offence::BadCloseReason | Offence::BadCompression => {
                CloseCode::INVALID_PAYLOAD
            }
            Offence::MessageTooBig => CloseCode::TOO_BIG,
            Offence::PingFlood | Offence::MessageTimeout => CloseCode::POLICY,
        }
    }

    /// The text of [`Display`](fmt::Display), at most 123 bytes of ASCII.
    pub const fn text(self) -> &'static str {
        match self {
            Offence::ReservedBits => "reserved bit set",
            Offence::UnknownOpcode => "unknown opcode",
            Offence::FragmentedControl => "fragmented control frame",
            Offence::OversizedControl => "control frame longer than 125 bytes",
            Offence::NotMinimalLength => "length not in its shortest form",
            Offence::LengthTopBit => "length of 2^63 or more",
            Offence::NotMasked => "frame not masked",
            Offence::Masked => "frame masked",
            Offence::StrayContinuation => "continuation of nothing",
            Offence::InterleavedData => "new message inside a fragmented one",
            Offence::InvalidUtf8 => "text is not UTF-8",
            Offence::MessageTooBig => "message too big",
            Offence::BadCompression => "message does not inflate",
            Offence::BadClosePayload => "close payload of one byte",
            Offence::BadCloseCode => "close code must not be sent",
            Offence::BadCloseReason => "close reason is not UTF-8",
            Offence::PingFlood => "too many pings",
            Offence::MessageTimeout => "message took too long",
        }
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Offence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offence_has_a_code_that_may_be_sent_and_a_text_that_fits() {
        for offence in Offence::ALL {
            assert!(offence.close_code().may_be_sent(), "{offence:?}");
            let text = offence.to_string();
            assert!(!text.is_empty() && text.len() <= 123 && text.is_ascii(), "{offence:?}");
        }
    }
}
