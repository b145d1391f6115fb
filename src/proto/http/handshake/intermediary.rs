//! Which fields an intermediary passes on (RFC 9110, section 7.6), for every proxy of this project.
//!
//! Never: the fields that an intermediary writes for its own handshake.

#![forbid(unsafe_code)]

use super::list;

/// Fields that are for the next recipient only, besides those that `Connection` lists (RFC 9110, 7.6.1 and 11.7). `Keep-Alive` and
/// `Proxy-Connection` are older than the rule that a sender lists them.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that tell a server about its client, besides `X-Forwarded-*`.
const CLIENT_FIELDS: [&str; 4] = ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip"];

/// The value that an intermediary adds to `Via` (RFC 9110, 7.6.3).
pub const VIA: &str = "1.1 echoring";

/// Whether a field called `name`, ignoring case, never passes an intermediary.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The names of the fields that must not pass: the standard ones, and those that the values of `Connection` list. A message need not
/// have them, and a listed name may be no field name at all.
pub fn hop_by_hop_fields<'a>(connection: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a str> {
    HOP_BY_HOP.into_iter().chain(connection.flat_map(list).filter_map(|name| str::from_utf8(name).ok()))
}

/// Whether the values of `Transfer-Encoding` name no other coding than chunked, once (RFC 9112, 6.1): the only one that
/// HTTP servers and clients here undo. A body in another coding must not pass without its name.
pub fn is_only_chunked<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut seen = false;
    values.all(|value| {
        list(value)
            .all(|coding| coding.eq_ignore_ascii_case(b"chunked") && !std::mem::replace(&mut seen, true))
    })
}

/// Whether a field called `name` tells a server about its client, so that only a trusted proxy may send it: `Forwarded` (RFC 7239),
/// `X-Forwarded-*` and their kin. Case is ignored, and `_` counts as `-`: CGI-like programs cannot tell them apart.
pub fn identifies_client(name: &str) -> bool {
    let starts_with = |prefix: &str| {
        let mut bytes = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
        prefix.bytes().all(|expected| bytes.next() == Some(expected))
    };
    starts_with("x-forwarded-")
        || CLIENT_FIELDS.iter().any(|field| name.len() == field.len() && starts_with(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_one_connection_are_the_standard_and_the_listed_ones() {
        let values: [&[u8]; 3] = [b"keep-alive, X-Secret", b" ,x-other,\xff", b""];
        let names: Vec<&str> = hop_by_hop_fields(values.into_iter()).collect();
        assert_eq!(names[..HOP_BY_HOP.len()], HOP_BY_HOP);
        assert_eq!(names[HOP_BY_HOP.len()..], ["keep-alive", "X-Secret", "x-other"]);
        for (name, expected) in
            [("TE", true), ("Proxy-Authorization", true), ("cookie", false), ("connection2", false)]
        {
            assert_eq!(is_hop_by_hop(name), expected, "{name}");
        }
    }

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        for (values, expected) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked ,"], true),
            (&["", " , chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked, gzip"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["chunked;a=b"], false),
            (&["identity"], false),
        ] {
            assert_eq!(is_only_chunked(values.iter().map(|value| value.as_bytes())), expected, "{values:?}");
        }
    }

    #[test]
    fn clients_are_identified_by_fields_of_any_spelling() {
        for name in [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded_Port",
            "FORWARDED",
            "x_real-ip",
            "True-Client-IP",
        ] {
            assert!(identifies_client(name), "{name}");
        }
        for name in ["x-forwarded", "forwarded-by", "x-real-ip2", "x-real-i", "cookie", ""] {
            assert!(!identifies_client(name), "{name}");
        }
    }
}
