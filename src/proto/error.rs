//! The protocol errors of a peer after the handshake, and the close code of each. This is the only place that
//! maps errors to close codes. A refused handshake is a [`handshake::Refusal`](crate::handshake::Refusal).
//!
//! Never: a variant for a bug in this crate; bugs are assertions.

#![forbid(unsafe_code)]

use super::CloseCode;

crate::error_enum! {
    /// A protocol error of a peer. The text of [`Display`](std::fmt::Display) fits into the reason of a Close frame.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum ProtocolError: text {
        /// RSV1, RSV2 or RSV3 is set and no negotiated extension defines it (RFC 6455, 5.2; RFC 7692, 6).
        ReservedBits = "reserved bit set";
        /// Opcode 3–7 or 11–15 (RFC 6455, 5.2).
        UnknownOpcode = "unknown opcode";
        /// A control frame without FIN (RFC 6455, 5.5).
        FragmentedControl = "fragmented control frame";
        /// A control frame with a payload length above 125 bytes (RFC 6455, 5.5).
        OversizedControl = "control frame longer than 125 bytes";
        /// A payload length that is not minimally encoded (RFC 6455, 5.2).
        NotMinimalLength = "length is not minimally encoded";
        /// A 64-bit length with its most significant bit set (RFC 6455, 5.2).
        LengthTopBit = "length of 2^63 or more";
        /// An unmasked frame from a client (RFC 6455, 5.1).
        NotMasked = "frame is not masked";
        /// A masked frame from a server (RFC 6455, 5.1).
        Masked = "frame is masked";
        /// A continuation frame without a preceding fragment (RFC 6455, 5.4).
        StrayContinuation = "continuation frame without a message";
        /// A new message before the final fragment of the previous one (RFC 6455, 5.4).
        InterleavedData = "new message inside a fragmented message";
        /// A text message that is not UTF-8 (RFC 6455, 8.1).
        InvalidUtf8 = "text is not UTF-8";
        /// A message above the size limit, detected from the header or while inflating.
        MessageTooBig = "message too big";
        /// A compressed message that is invalid or truncated DEFLATE data (RFC 7692, 7.2.2).
        BadCompression = "compressed data is invalid";
        /// A Close frame with a payload of one byte (RFC 6455, 5.5.1).
        BadClosePayload = "close payload has only one byte";
        /// A close code that must not be sent (RFC 6455, 7.4).
        BadCloseCode = "close code must not be sent";
        /// A close reason that is not UTF-8 (RFC 6455, 5.5.1).
        BadCloseReason = "close reason is not UTF-8";
        /// More pings than [`PINGS_PER_SECOND_MAX`](crate::limits::PINGS_PER_SECOND_MAX).
        PingFlood = "too many pings";
        /// A message that makes less than its [least progress](crate::connection::MessageProgress).
        SlowMessage = "message arrived too slowly";
        /// More than [`EVENT_STREAM_INPUT_BYTES_MAX`](crate::limits::EVENT_STREAM_INPUT_BYTES_MAX) from the client of an event
        /// stream.
        EventStreamInput = "an event stream takes no input";
    }
}

impl ProtocolError {
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
            ProtocolError::PingFlood | ProtocolError::EventStreamInput => CloseCode::POLICY,
            // The network of the peer may be the reason, so it may return.
            ProtocolError::SlowMessage => CloseCode::SLOW_MESSAGE,
        }
    }
}

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
