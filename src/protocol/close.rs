//! Close codes and the payload of a Close frame (RFC 6455, sections 5.5.1 and 7.4).
//!
//! Never: deciding when a connection closes; that is the connection's.

#![forbid(unsafe_code)]

use std::fmt;

use super::Offence;
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, REASON_BYTES_MAX};

/// The status code of a Close frame, or one of the codes that stand for its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The server drains, or the page is left.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL: CloseCode = CloseCode(1002);
    /// A kind of message that is not taken.
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// Never sent: the Close frame carried no code.
    pub const NO_STATUS: CloseCode = CloseCode(1005);
    /// Never sent: the connection ended without a Close frame.
    pub const ABNORMAL: CloseCode = CloseCode(1006);
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    /// A rule of the operator's was broken.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A message longer than the limit.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// A fault on our side.
    pub const INTERNAL: CloseCode = CloseCode(1011);
    /// The server is replaced by another one: come back at once, to the same address.
    pub const SERVICE_RESTART: CloseCode = CloseCode(1012);
    /// Overloaded; come back later.
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);
    /// A subscriber fell off its topic's log.
    pub const SLOW_CONSUMER: CloseCode = CloseCode(4008);

    /// Whether the code may stand in a Close frame, in either direction (RFC 6455, 7.4.1 and 7.4.2, and the
    /// codes registered since: 1012, 1013, 1014).
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a Close frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// [`CloseCode::NO_STATUS`] when the frame was empty.
    pub code: CloseCode,
    /// At most 123 bytes; empty when none was given.
    pub reason: &'a str,
}

/// Reads the unmasked payload of a Close frame.
///
/// # Errors
/// [`Offence::BadClosePayload`] for a single byte, [`Offence::BadCloseCode`], [`Offence::BadCloseReason`].
pub fn parse(payload: &[u8]) -> Result<Close<'_>, Offence> {
    let (code, reason) = match payload {
        [] => return Ok(Close { code: CloseCode::NO_STATUS, reason: "" }),
        [_] => return Err(Offence::BadClosePayload),
        [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
    };
    if !code.may_be_sent() {
        return Err(Offence::BadCloseCode);
    }
    let reason = str::from_utf8(reason).map_err(|_| Offence::BadCloseReason)?;
    Ok(Close { code, reason })
}

/// Writes the payload of a Close frame to the start of `out` and returns its length.
///
/// A code that must not be sent ([`CloseCode::NO_STATUS`] and its like) yields the empty payload, which says
/// the same. A reason longer than 123 bytes is cut at a character's border.
pub fn write(out: &mut [u8; CONTROL_PAYLOAD_BYTES_MAX], code: CloseCode, reason: &str) -> usize {
    if !code.may_be_sent() {
        return 0;
    }
    let reason = &reason.as_bytes()[..floor_char_boundary(reason, REASON_BYTES_MAX)];
    out[..2].copy_from_slice(&code.0.to_be_bytes());
    out[2..2 + reason.len()].copy_from_slice(reason);
    2 + reason.len()
}

/// The longest prefix of at most `bytes_max` bytes that ends between two characters.
fn floor_char_boundary(text: &str, bytes_max: usize) -> usize {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_as_the_standard_says() {
        let ok = |code: u16, reason| Ok(Close { code: CloseCode(code), reason });
        let cases: [(&[u8], Result<Close<'_>, Offence>); 8] = [
            (b"", ok(1005, "")),
            (b"\x03", Err(Offence::BadClosePayload)),
            (b"\x03\xe8", ok(1000, "")),
            (b"\x03\xe9bye", ok(1001, "bye")),
            (b"\x0f\xa8slow", ok(4008, "slow")),
            (b"\x03\xed", Err(Offence::BadCloseCode)),
            (b"\x03\xe8\xce\xba\xe1", Err(Offence::BadCloseReason)),
            (b"\xff\xff", Err(Offence::BadCloseCode)),
        ];
        for (payload, expected) in cases {
            assert_eq!(parse(payload), expected, "{payload:?}");
        }
    }

    #[test]
    fn exactly_the_registered_and_private_codes_may_be_sent() {
        for code in 0..=u16::MAX {
            let reserved = [1004, 1005, 1006, 1015].contains(&code);
            let expected = ((1000..=1014).contains(&code) && !reserved) || (3000..=4999).contains(&code);
            assert_eq!(CloseCode(code).may_be_sent(), expected, "{code}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut out = [0; 125];
        let bytes = write(&mut out, CloseCode::POLICY, "zu viele Pings, Grüße");
        let close = parse(&out[..bytes]).unwrap();
        assert_eq!(close, Close { code: CloseCode::POLICY, reason: "zu viele Pings, Grüße" });
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        for start in 0..4 {
            let reason = "x".repeat(start) + &"🦀".repeat(40);
            let mut out = [0; 125];
            let bytes = write(&mut out, CloseCode::NORMAL, &reason);
            let close = parse(&out[..bytes]).unwrap();
            assert!(reason.starts_with(close.reason));
            assert!((120..=123).contains(&close.reason.len()));
        }
    }

    #[test]
    fn codes_that_stand_for_absence_are_sent_as_an_empty_payload() {
        let mut out = [0; 125];
        for code in [CloseCode::NO_STATUS, CloseCode::ABNORMAL, CloseCode(1015), CloseCode(0)] {
            assert_eq!(write(&mut out, code, "reason"), 0);
        }
    }
}
