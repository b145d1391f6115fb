//! Close codes and the payload of a Close frame (RFC 6455, sections 5.5.1 and 7.4).
//!
//! Never: deciding when a connection closes. `connection` decides that.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use super::ProtocolError;
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, REASON_BYTES_MAX};

/// The status code of a Close frame, or a reserved code that is never sent.
///
/// ```
/// # use echoring_proto as echoring;
/// use echoring::CloseCode;
///
/// /// An application's code, from 4000 to 4999.
/// const BANNED: CloseCode = CloseCode(4000);
///
/// assert!(BANNED.may_be_sent());
/// assert!(!CloseCode::ABNORMAL.may_be_sent());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

crate::plain!(for CloseCode(code));

/// Declares the codes that have a constant: each with its number, and with its name for operators.
macro_rules! codes {
    ($($(#[$of:meta])* $CODE:ident = $code:literal $name:literal;)*) => {
        impl CloseCode {
            $($(#[$of])* pub const $CODE: CloseCode = CloseCode($code);)*

            /// All of them: the constant, the code, and the name for operators.
            #[doc(hidden)]
            pub const NAMED: [(&'static str, CloseCode, &'static str); [$($code),*].len()] =
                [$((stringify!($CODE), CloseCode::$CODE, $name)),*];
        }
    };
}

codes! {
    /// The purpose of the connection is fulfilled.
    NORMAL = 1000 "normal";
    /// The server shuts down, or the user leaves the page.
    GOING_AWAY = 1001 "going away";
    /// The peer violated the protocol.
    PROTOCOL = 1002 "protocol error";
    /// A message of a type that the endpoint does not accept.
    UNSUPPORTED = 1003 "unsupported data";
    /// Never sent: the Close frame carried no code.
    NO_STATUS = 1005 "no code";
    /// Never sent: the connection ended without a Close frame.
    ABNORMAL = 1006 "no Close frame";
    /// Text that is not UTF-8.
    INVALID_PAYLOAD = 1007 "invalid text";
    /// The peer violated a policy of the endpoint.
    POLICY = 1008 "policy";
    /// A message above the size limit.
    TOO_BIG = 1009 "too big";
    /// An error inside the server.
    INTERNAL = 1011 "internal error";
    /// The server restarts. The client may reconnect to the same address at once.
    SERVICE_RESTART = 1012 "service restart";
    /// The server is overloaded. The client may retry later.
    TRY_AGAIN_LATER = 1013 "try again later";
    /// A proxy has lost the server behind it, or received bytes that are not WebSocket.
    BAD_GATEWAY = 1014 "bad gateway";
    /// The credentials of the client have expired, or were withdrawn. The client may reconnect with new ones.
    CREDENTIALS_ENDED = 4001 "credentials ended";
    /// The client has lost the right that the connection needs.
    FORBIDDEN = 4003 "no longer allowed";
    /// A subscriber lagged behind the oldest message in the log of its topic.
    SLOW_CONSUMER = 4008 "slow consumer";
    /// A message of the peer arrived too slowly. The client may reconnect.
    SLOW_MESSAGE = 4009 "slow message";
    /// An operator closed the connection. The client may reconnect.
    CLOSED_BY_OPERATOR = 4010 "closed by an operator";
}

impl CloseCode {
    /// Whether a Close frame may carry the code, in either direction (RFC 6455, 7.4.1 and 7.4.2). Codes 1012,
    /// 1013 and 1014 were registered later.
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Whether a server that closes with this code expects the client to return: 1001, 1012, 1013, 4008 to 4010, and 3000 to 3499, after
    /// which clients of Centrifuge's protocol return.
    pub(crate) const fn invites_return(self) -> bool {
        matches!(self.0, 1001 | 1012 | 1013 | 3000..=3499 | 4008..=4010)
    }

    /// Whether an endpoint closes with this code because of its peer, which would be closed again: 1002, 1003, 1007 to 1010, and 4000
    /// to 4999 except 4008 to 4010. A peer whose credentials have ended (4001) may return with others.
    ///
    /// ```
    /// # use echoring_proto as echoring;
    /// use echoring::CloseCode;
    ///
    /// assert!(CloseCode::POLICY.is_final() && CloseCode::CREDENTIALS_ENDED.is_final());
    /// assert!(!CloseCode::SLOW_MESSAGE.is_final());
    /// ```
    pub const fn is_final(self) -> bool {
        matches!(self.0, 1002 | 1003 | 1007..=1010 | 4000..=4999) && !self.invites_return()
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The payload of a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// [`CloseCode::NO_STATUS`] when the payload was empty.
    pub code: CloseCode,
    /// At most 123 bytes; empty when the frame has no reason.
    pub reason: &'a str,
}

/// What comes before and behind the milliseconds in a reason that tells a client when to return.
const RETRY_AFTER: (&str, &str) = ("retry after ", " ms");

/// How long the server asks a client to wait before it connects again: N ms, if the reason ends with `retry after N ms`. RFC 6455
/// leaves the meaning of reasons to applications (7.1.6).
///
/// ```
/// use std::time::Duration;
///
/// use echoring_proto::close::retry_after;
///
/// assert_eq!(retry_after("server is going away; retry after 1500 ms"), Some(Duration::from_millis(1_500)));
/// assert_eq!(retry_after("server is going away"), None);
/// ```
pub fn retry_after(reason: &str) -> Option<Duration> {
    let (before, behind) = RETRY_AFTER;
    let (_, digits) = reason.strip_suffix(behind)?.rsplit_once(before)?;
    let milliseconds = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(Duration::from_millis(milliseconds))
}

/// The reason with that end. Only the reason itself is truncated to fit into a Close frame.
pub(crate) fn with_retry_after(reason: &str, milliseconds: u64) -> String {
    let (before, behind) = RETRY_AFTER;
    let end = format!("; {before}{milliseconds}{behind}");
    let reason = &reason[..floor_char_boundary(reason, REASON_BYTES_MAX - end.len())];
    format!("{reason}{end}")
}

/// Parses the unmasked payload of a Close frame.
///
/// # Errors
/// - [`ProtocolError::BadClosePayload`] when the payload is a single byte.
/// - [`ProtocolError::BadCloseCode`] when the code must not be sent.
/// - [`ProtocolError::BadCloseReason`] when the reason is not UTF-8.
pub fn parse(payload: &[u8]) -> Result<Close<'_>, ProtocolError> {
    let (code, reason) = match payload {
        [] => return Ok(Close { code: CloseCode::NO_STATUS, reason: "" }),
        [_] => return Err(ProtocolError::BadClosePayload),
        [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
    };
    if !code.may_be_sent() {
        return Err(ProtocolError::BadCloseCode);
    }
    let reason = str::from_utf8(reason).map_err(|_| ProtocolError::BadCloseReason)?;
    Ok(Close { code, reason })
}

/// Writes the payload of a Close frame to the start of `out` and returns its length.
///
/// A code that must not be sent, such as [`CloseCode::NO_STATUS`], is written as an empty payload. A reason
/// above 123 bytes is truncated at a character boundary.
pub fn write(out: &mut [u8; CONTROL_PAYLOAD_BYTES_MAX], code: CloseCode, reason: &str) -> usize {
    if !code.may_be_sent() {
        return 0;
    }
    let reason = &reason.as_bytes()[..floor_char_boundary(reason, REASON_BYTES_MAX)];
    out[..2].copy_from_slice(&code.0.to_be_bytes());
    out[2..2 + reason.len()].copy_from_slice(reason);
    2 + reason.len()
}

/// The length of the longest prefix of at most `bytes_max` bytes that ends at a character boundary.
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
    fn a_reason_may_say_when_to_return() {
        for (reason, expected) in [
            ("retry after 0 ms", Some(0)),
            ("a; retry after 20 ms", Some(20)),
            ("retry after 7 ms; retry after 30 ms", Some(30)),
            ("retry after 30 ms.", None),
            ("retry after  ms", None),
            ("retry after +3 ms", None),
            ("retry after 18446744073709551616 ms", None),
        ] {
            assert_eq!(retry_after(reason), expected.map(Duration::from_millis), "{reason}");
        }
        for long in ["server is going away".to_owned(), "ü".repeat(70)] {
            let with = with_retry_after(&long, 3_600_000);
            assert!(
                with.len() <= REASON_BYTES_MAX && retry_after(&with) == Some(Duration::from_secs(3_600)),
                "{with}"
            );
        }
    }

    #[test]
    fn payloads_are_parsed_as_rfc_6455_says() {
        let ok = |code: u16, reason| Ok(Close { code: CloseCode(code), reason });
        let cases: [(&[u8], Result<Close<'_>, ProtocolError>); 8] = [
            (b"", ok(1005, "")),
            (b"\x03", Err(ProtocolError::BadClosePayload)),
            (b"\x03\xe8", ok(1000, "")),
            (b"\x03\xe9bye", ok(1001, "bye")),
            (b"\x0f\xa8slow", ok(4008, "slow")),
            (b"\x03\xed", Err(ProtocolError::BadCloseCode)),
            (b"\x03\xe8\xce\xba\xe1", Err(ProtocolError::BadCloseReason)),
            (b"\xff\xff", Err(ProtocolError::BadCloseCode)),
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
    fn a_written_payload_parses_to_the_same_code_and_reason() {
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
    fn codes_that_must_not_be_sent_are_written_as_an_empty_payload() {
        let mut out = [0; 125];
        for code in [CloseCode::NO_STATUS, CloseCode::ABNORMAL, CloseCode(1015), CloseCode(0)] {
            assert_eq!(write(&mut out, code, "reason"), 0);
        }
    }
}
