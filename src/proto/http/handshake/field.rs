//! Validation of the header fields that an application adds to a handshake.
//!
//! Never: the fields of a peer.

#![forbid(unsafe_code)]

use super::{is_subprotocol, is_token};

/// Fields that only the handshake writes, and fields that describe a body, which a handshake does not have. A second
/// or contradicting field would break the handshake (RFC 6455, 4.1 and 4.2.2; RFC 9112, 6).
const RESERVED: [&str; 11] = [
    "Connection",
    "Content-Length",
    "Host",
    "Origin",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "Transfer-Encoding",
    "Upgrade",
];

/// Checks that an application may add the field to a handshake, in either role.
///
/// # Errors
/// The reason why it may not.
pub fn check_field(name: &str, value: &str) -> Result<(), BadField> {
    if !is_token(name.as_bytes()) {
        return Err(BadField::Name);
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(BadField::Reserved);
    }
    // Tabs are white space inside values; bytes beyond ASCII are opaque (RFC 9110, 5.5).
    if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
        return Err(BadField::Value);
    }
    Ok(())
}

/// Checks the subprotocols that an end offers or supports: tokens, each named once (RFC 6455, 4.1).
///
/// # Errors
/// [`BadField::Subprotocols`].
pub fn check_subprotocols(names: &[String]) -> Result<(), BadField> {
    let is_new = |(at, name): (usize, &String)| !names[..at].contains(name);
    match names.iter().all(|name| is_subprotocol(name)) && names.iter().enumerate().all(is_new) {
        true => Ok(()),
        false => Err(BadField::Subprotocols),
    }
}

crate::error_enum! {
    /// The reason why an application may not add a field to a handshake.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum BadField {
        /// The name is not a token (RFC 9110, 5.1).
        Name = "the name is not a token";
        /// The value contains a control character, such as a line break (RFC 9110, 5.5).
        Value = "the value contains a control character";
        /// The handshake writes this field itself.
        Reserved = "the handshake writes this field itself";
        /// The value does not have the form of this field.
        Malformed = "the value does not have the form of this field";
        /// The client has not offered this subprotocol (RFC 6455, 4.2.2).
        NotOffered = "the client has not offered this subprotocol";
        /// A subprotocol is not a token, or is named twice (RFC 6455, 4.1).
        Subprotocols = "a subprotocol is not a token, or is named twice";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols_are_tokens_that_differ() {
        for (names, expected) in [
            (&[][..], Ok(())),
            (&["chat.v2", "chat.v1", "CHAT.V2"], Ok(())),
            (&["a", "b", "a"], Err(BadField::Subprotocols)),
            (&["a b"], Err(BadField::Subprotocols)),
            (&["a", ""], Err(BadField::Subprotocols)),
            (&["a,b"], Err(BadField::Subprotocols)),
        ] {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(check_subprotocols(&names), expected, "{names:?}");
        }
    }

    #[test]
    fn fields_are_checked_by_name_and_value() {
        let cases = [
            ("X-Token", "secret", Ok(())),
            ("Cookie", "a=b; c=\"d\"", Ok(())),
            ("Authorization", "Basic dTpw", Ok(())),
            ("X", "", Ok(())),
            ("X", "tab\tinside", Ok(())),
            ("X", "gr\u{fc}n", Ok(())),
            ("", "v", Err(BadField::Name)),
            ("X Y", "v", Err(BadField::Name)),
            ("X:", "v", Err(BadField::Name)),
            ("X\r\nEvil", "v", Err(BadField::Name)),
            ("X", "a\r\nEvil: 1", Err(BadField::Value)),
            ("X", "a\nb", Err(BadField::Value)),
            ("X", "a\0", Err(BadField::Value)),
            ("X", "\u{7f}", Err(BadField::Value)),
            ("sec-websocket-KEY", "v", Err(BadField::Reserved)),
            ("Upgrade", "h2c", Err(BadField::Reserved)),
            ("content-length", "5", Err(BadField::Reserved)),
        ];
        for (name, value, expected) in cases {
            assert_eq!(check_field(name, value), expected, "{name:?}: {value:?}");
        }
    }
}
